"""What the commands for endpoints return: deployments, their logs, and predictions."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dbml_magics.common.hints import Remedy, say
from dbml_magics.results.base import Result
from dbml_magics.results.html import Html, code, details, html_table, link, panel, rows_table, safe
from dbml_magics.results.text import count, duration, nearby, text_table

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = [
    "Check",
    "DeployResult",
    "Deployment",
    "Endpoint",
    "EndpointsResult",
    "InvokeResult",
    "LogsResult",
    "UndeployResult",
]

_CELL = 100  # characters of an error in a table's cell; all of it stands below
_SIGNS = {True: "✓", None: "!", False: "✗"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before anything was created."""

    what: str
    said: str
    fine: bool | None = True  # None: it works, but somebody should know
    remedies: tuple[tuple[str, str], ...] = ()  # (command, what it does), where it does not work

    def line(self) -> str:
        """Return it in one line, the sign in front in words' company."""
        return f"{_SIGNS[self.fine]} {self.what}: {self.said}"


@dataclass(frozen=True)
class Deployment:
    """One model under an endpoint."""

    name: str
    model: str  # "wine/1", "m-…", "run 4f1c… model"
    state: str  # creating, updating, ready, restarting, failed
    traffic: int = 0  # percent of the endpoint's requests
    size: str = ""  # "Standard_DS3_v2", "212 MB"
    count: int = 1  # instances
    created: int = 0
    error: str | None = None
    cause: str | None = None  # what its log points to
    log: tuple[str, ...] = ()  # the last lines that it wrote before it failed
    coming: str | None = None  # the model that takes this one's place as soon as it is ready
    requests: int | None = None  # answered so far, where the target says
    registered: tuple[str, str] | None = None  # (name, version) in Azure ML's registry, at its targets

    def words(self) -> str:
        """Return its state in words."""
        said = self.state
        if self.coming is not None and self.state == "updating":
            said += f" to {self.coming}"
        if self.error:
            said += f": {self.error if len(self.error) <= _CELL else self.error[:_CELL].rstrip() + '…'}"
        return said

    def failure(self) -> list[str]:
        """Return what there is to know of its failure: the likely cause, the end of its log."""
        if not self.error:
            return []
        lines = [f"{self.name} failed: {self.error}"]
        lines += [f"  likely cause: {self.cause}"] if self.cause else []
        return lines + (
            ["  the last lines of its log:", *(f"    {line[:200]}" for line in self.log)] if self.log else []
        )

    def holds(self) -> str:
        """Return what it leaves running."""
        if not self.size:
            return count(self.count, "instance")
        memory = " memory" if re.fullmatch(r"[\d.,]+ [kMG]?B", self.size) else ""  # of this machine
        return f"{self.count} × {self.size}{memory}"


@dataclass(frozen=True, repr=False)
class Endpoint(Result):
    """An endpoint and what is deployed under it."""

    name: str
    target: str  # local, aci, aks or online
    state: str  # ready, creating, updating, failed, stopped
    uri: str | None  # where requests go
    auth: str  # key, aml_token, aad_token, none
    deployments: tuple[Deployment, ...] = ()
    created: int = 0
    key_file: str | None = None  # where the key is kept, for a local endpoint
    page: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def traffic(self) -> dict[str, int]:
        """Return each deployment's percent of the requests."""
        return {deployment.name: deployment.traffic for deployment in self.deployments}

    def deployment(self, name: str) -> Deployment | None:
        """Return the deployment of that name."""
        return next((d for d in self.deployments if d.name == name), None)

    def age(self) -> str:
        """Return how long it has been there."""
        return duration(time.time() - self.created / 1000) if self.created else ""

    def summary(self) -> str:
        """Return what it leaves running, in one line for ``status``."""
        held = " + ".join(d.holds() for d in self.deployments) or "nothing deployed"
        models = ", ".join(d.model for d in self.deployments)
        return (
            f"endpoint {self.name} ({self.target}) {self.state}: {models or 'no model'}, {held}, "
            f"{self.age()} old; {say(self.end_line())} ends it"
        )

    def end_line(self) -> Remedy:
        """Return the command that ends it."""
        return Remedy("undeploy", self.name, confirm=None if self.target == "local" else self.name)

    def rows(self) -> list[tuple[str, str]]:
        """Return its facts as labelled rows."""
        auth = "none: anybody who reaches the address may ask" if self.auth == "none" else self.auth
        if self.key_file:
            auth += f" (kept in {nearby(self.key_file)}); invoke adds it by itself"
        rows = [("state", self.state), ("address", self.uri or "none yet"), ("authentication", auth)]
        if self.created:
            rows.append(("age", self.age()))
        if self.page:
            rows.append(("page", self.page))
        return [*rows, *(("note", note) for note in self.notes)]

    def _headers(self) -> tuple[str, ...]:
        return ("deployment", "model", "traffic", "state", "instances", "requests")

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                d.name,
                d.model,
                f"{d.traffic} %",
                d.words(),
                d.holds(),
                "" if d.requests is None else f"{d.requests:,}",
            )
            for d in self.deployments
        ]

    def next_lines(self) -> list[str]:
        """Return the commands that make sense now."""
        lines = [Remedy("logs", self.name), self.end_line()]
        if self.state in ("ready", "updating"):
            lines.insert(0, Remedy("invoke", self.name, "$data"))
        elif self.state in ("creating",):
            lines.insert(0, Remedy("endpoints", self.name))
        return [say(line) for line in lines]

    def text_lines(self) -> list[str]:
        """Return the facts and the deployments as lines."""
        width = max(len(label) for label, _ in self.rows())
        lines = [f"  {label.ljust(width)}  {value}" for label, value in self.rows()]
        lines += text_table(self._headers(), self._cells()) if self.deployments else []
        return lines + [f"  {line}" for each in self.deployments for line in each.failure()]

    def tables(self) -> list[Html]:
        """Return the facts and the deployments as tables."""
        rows = [
            (label, link(value, value) if label in ("address", "page") else value)
            for label, value in self.rows()
        ]
        tables = [rows_table(f"Endpoint {self.name} on {self.target}", rows)]
        if self.deployments:
            tables.append(html_table("Deployments", self._headers(), self._cells()))
        failures = "\n".join(line for each in self.deployments for line in each.failure())
        return [*tables, Html(f"<pre>{safe(failures)}</pre>")] if failures else tables

    def text(self) -> str:
        """Return the endpoint's facts and a line for each deployment."""
        see = " · ".join(self.next_lines())
        return "\n".join([f"Endpoint {self.name} on {self.target}", *self.text_lines(), f"  see  {see}"])

    def html(self) -> str:
        """Return the same as tables."""
        return panel(*self.tables(), _see(self.next_lines()))


@dataclass(frozen=True, repr=False)
class DeployResult(Result):
    """What a deployment led to."""

    endpoint: Endpoint
    deployment: str
    model: str
    seconds: float
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    waited: bool = True  # False after --no-wait
    changed: str = "deployed"  # "deployed", "updated", "traffic" or "nothing"

    @property
    def name(self) -> str:
        """Return the endpoint's name."""
        return self.endpoint.name

    @property
    def uri(self) -> str | None:
        """Return the address that requests go to."""
        return self.endpoint.uri

    def _headline(self) -> str:
        where = f"{self.name} on {self.endpoint.target}"
        if self.changed == "nothing":
            return f"{self.model} is deployed to {where} already: nothing to do"
        if self.changed == "traffic":
            share = self.endpoint.traffic.get(self.deployment, 0)
            return f"Traffic of {where}: {self.deployment} ({self.model}) gets {share} %"
        if not self.waited:
            return f"Deploying {self.model} to {where}: pending; it continues in the background"
        if self.changed == "updated":
            which = where if self.deployment == self.name else f"deployment {self.deployment} of {where}"
            return f"Updated {which} to {self.model} in {duration(self.seconds)}"
        return f"Deployed {self.model} to {where} in {duration(self.seconds)}"

    def _worth_saying(self) -> list[str]:
        return [check.line() for check in self.checks if check.fine is None] + [f"! {n}" for n in self.notes]

    def text(self) -> str:
        """Return what was done, what was checked, and what runs now."""
        fine = ", ".join(check.what for check in self.checks if check.fine)
        lines = [self._headline(), *self.endpoint.text_lines()]
        lines += [f"  checked  {fine}"] if fine else []
        lines += [f"  {line}" for line in self._worth_saying()]
        return "\n".join([*lines, f"  see  {' · '.join(self.endpoint.next_lines())}"])

    def html(self) -> str:
        """Return the same as tables."""
        checked = details("checked", Html("<br>".join(safe(c.line()) for c in self.checks)))
        return panel(
            self._headline(),
            *self.endpoint.tables(),
            *self._worth_saying(),
            checked if self.checks else "",
            _see(self.endpoint.next_lines()),
        )


@dataclass(frozen=True, repr=False)
class EndpointsResult(Result):
    """The endpoints at every target that could be asked."""

    endpoints: tuple[Endpoint, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self.endpoints)

    def __getitem__(self, index: int) -> Endpoint:
        return self.endpoints[index]

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                e.name,
                e.target,
                e.state,
                ", ".join(f"{d.model} {d.traffic} %" for d in e.deployments),
                " + ".join(d.holds() for d in e.deployments),
                e.age(),
                e.uri or "",
            )
            for e in self.endpoints
        ]

    def _end(self) -> str:
        if not self.endpoints:
            return say(Remedy("deploy", "MODEL", to="local", name="NAME"))
        return say(Remedy("endpoints", self.endpoints[0].name))

    def text(self) -> str:
        """Return a line for each endpoint."""
        if not self.endpoints:
            lines = ["No endpoints"]
        else:
            headers = ("name", "target", "state", "deployed", "instances", "age", "address")
            lines = ["Endpoints", *text_table(headers, self._cells())]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes), f"  see  {self._end()}"])

    def html(self) -> str:
        """Return the same as a table."""
        if not self.endpoints:
            return panel("No endpoints", *self.notes, _see([self._end()]))
        headers = ("name", "target", "state", "deployed", "instances", "age", "address")
        rows = [(*cells[:-1], link(cells[-1], cells[-1])) for cells in self._cells()]
        return panel(html_table("Endpoints", headers, rows), *self.notes, _see([self._end()]))


@dataclass(frozen=True, repr=False)
class LogsResult(Result):
    """The last lines that a deployment has written."""

    endpoint: str
    deployment: str
    lines: tuple[str, ...]
    target: str = "local"
    file: str | None = None  # where all of it is
    cause: str | None = None  # what the lines of a failed deployment point to

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def text(self) -> str:
        """Return the lines under a headline."""
        head = f"Log of {self.endpoint}, deployment {self.deployment} ({self.target})"
        end = [f"  likely cause: {self.cause}"] if self.cause else []
        end += [f"  all of it: {self.file}"] if self.file else []
        return "\n".join([head, *(f"  {line}" for line in self.lines or ("nothing yet",)), *end])


@dataclass(frozen=True, repr=False, eq=False)
class InvokeResult(Result):
    """Predictions, in the shape of what was sent; it can be used as they can."""

    as_it_is: ClassVar[frozenset[str]] = frozenset({"predictions"})

    predictions: Any
    endpoint: str
    deployment: str | None  # the one that was asked for or, where the target says, the one that answered
    rows: int
    seconds: float
    requests: int = 1
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.predictions)

    def __getitem__(self, index: object) -> Any:
        return self.predictions[index]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.asarray(self.predictions, dtype=dtype)

    def _headline(self) -> str:
        other = self.deployment not in (None, self.endpoint)
        by = f", answered by {self.deployment}" if other else ""
        several = f" in {self.requests:,} requests" if self.requests > 1 else ""
        took = f"{self.seconds * 1000:,.0f} ms"
        return f"{count(self.rows, 'prediction')} from {self.endpoint}{by}{several}, {took}"

    def text(self) -> str:
        """Return the headline and the predictions as Python shows them."""
        shown = repr(self.predictions).splitlines()
        lines = shown if len(shown) <= 12 else [*shown[:5], "…", *shown[-5:]]
        below = [*(f"  {line[:400]}" for line in lines), *(f"  ! {n}" for n in self.notes)]
        return "\n".join([self._headline(), *below])

    def html(self) -> str:
        """Return the same; a frame as a table."""
        as_html = getattr(self.predictions, "_repr_html_", None)
        table = as_html() if callable(as_html) else None
        shown = Html(table) if table else Html(f"<pre>{safe(self.text().partition(chr(10))[2])}</pre>")
        return panel(self._headline(), shown, *(self.notes if table else ()))


@dataclass(frozen=True, repr=False)
class UndeployResult(Result):
    """What was ended and taken away."""

    name: str
    target: str
    deployments: tuple[str, ...]
    whole: bool = True  # the endpoint itself too
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return what is gone."""
        if self.whole:
            head = f"Undeployed {self.name} from {self.target}"
            head += f": {', '.join(self.deployments)}" if self.deployments else ""
        else:
            head = f"Undeployed {', '.join(self.deployments)} from {self.name} on {self.target}"
        return "\n".join([head, *(f"  {note}" for note in self.notes)])


def _see(lines: list[str]) -> Html:
    return Html("see " + " · ".join(code(line) for line in lines))
