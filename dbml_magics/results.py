"""What commands return: frozen values with a text form and an HTML form.

Each is usable as a Python value (``runs = %dbml runs``); showing them is the display hook's and
``display.py``'s. Times are milliseconds since the epoch, durations seconds. Both forms say the same with the
same words.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from dbml_magics.foreign_text import one_line, visible
from dbml_magics.hints import process, say, to_train
from dbml_magics.redaction import redacted
from dbml_magics.rendering import (
    Html,
    Line,
    clock,
    code,
    count,
    curve_svg,
    curves_svg,
    details,
    duration,
    from_here,
    html_table,
    link,
    listing,
    number,
    panel,
    rows_table,
    safe,
    sparkline,
    sparklines,
    text_table,
    when,
)

__all__ = [
    "CompareResult",
    "ComparedMetric",
    "ComparedParam",
    "Curve",
    "DeadLetter",
    "DeadLetters",
    "Destination",
    "DiscardResult",
    "ExperimentResult",
    "HelpText",
    "LinkStatus",
    "MetricSummary",
    "ModelVersion",
    "ModelsResult",
    "RegisterResult",
    "Result",
    "RetryResult",
    "RunRow",
    "RunsResult",
    "SyncResult",
    "TrackSummary",
    "UiPage",
    "UiResult",
    "UnlinkResult",
]


class Result:
    """What a command returns: a value with a text form and an HTML form.

    Its fields are what workspaces and users say, character by character; in both forms a control character
    in any of them is shown as its escape (:mod:`dbml_magics.foreign_text`), a name cannot begin a line, and a
    secret that a server or a log repeats is not shown.
    """

    as_it_is: ClassVar[frozenset[str]] = frozenset()
    """Fields whose lines are our own, or whose values show themselves."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("text", "html"):
            if name in cls.__dict__:
                setattr(cls, name, _made_visible(cls.__dict__[name]))

    def text(self) -> str:
        """Return the text form."""
        raise NotImplementedError

    def html(self) -> str | None:
        """Return the HTML form, or None when the text says it all."""
        return None

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str | None:
        return self.html()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        for number_, line in enumerate(self.text().splitlines() if not cycle else ["…"]):
            if number_:
                printer.break_()
            printer.text(line)


def _made_visible(form: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """Return a form of a result that is made of fields without control characters."""

    @functools.wraps(form)
    def shown(result: Result) -> str | None:
        made = form(_cleaned(result, result.as_it_is))
        return None if made is None else visible(redacted(made))

    return shown


def _cleaned(value: Any, but: frozenset[str] = frozenset()) -> Any:
    """Return a value with the texts in it made visible; the same one where there is nothing to do."""
    if isinstance(value, str):
        return value if isinstance(value, Html) else one_line(value)
    if isinstance(value, (tuple, list)):
        if value and isinstance(value[0], (float, int)):
            return value  # a curve
        items = [_cleaned(item) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same or type(value) not in (tuple, list) else type(value)(items)
    if isinstance(value, Mapping):
        pairs = {_cleaned(key): _cleaned(item) for key, item in value.items()}
        same = all(key in pairs and pairs[key] is item for key, item in value.items())
        return value if same else pairs
    if is_dataclass(value) and not isinstance(value, type):
        found = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in but}
        made = {name: new for name, old in found.items() if (new := _cleaned(old)) is not old}
        if made:
            value = copy.copy(value)
            for name, new in made.items():
                object.__setattr__(value, name, new)
    return value


@dataclass(frozen=True, repr=False)
class HelpText(Result):
    """What ``--help`` and ``%dbml help`` show."""

    as_it_is: ClassVar[frozenset[str]] = frozenset({"content"})

    content: str

    def text(self) -> str:
        """Return the help as it is."""
        return self.content


@dataclass(frozen=True)
class Destination:
    """One workspace of the link, and how far delivery to it has come."""

    name: str  # databricks or azureml: its role
    kind: str  # databricks, azureml or mlflow
    uri: str  # masked: never a user name or password
    place: str  # for people: "local  .dbml/azureml", "http://host:5000"
    pending: int = 0  # writes on their way
    lag_seconds: float = 0.0  # age of the oldest write on its way
    last_error: str | None = None  # why delivery waits; None when the last attempt was fine
    since: int | None = None  # when that began
    away: bool = False  # known to be unreachable
    dead: int = 0  # writes that the workspace refused for good
    tracked: bool = True  # runs go there; False for a workspace that is only a registry
    delivered: int = 0  # writes delivered since the link was made by this process
    held: int = 0  # files that the workspace does not take now, tried again by themselves
    held_why: str = ""  # why it does not take the newest of them
    page: str | None = None  # its own page, in a browser
    rate: float = 0.0  # writes a second that this process has delivered in the last minute
    lacks: tuple[str, ...] = ()  # what it cannot do, and what is done instead

    def _waiting_for(self, why: str) -> str:
        if self.last_error or self.away:
            return f"waiting: {why}, trying again"
        return "on its way" if self.pending == 1 else "on their way"

    def _why(self) -> str:
        """Return what is wrong with the workspace, and since when."""
        why = self.last_error or "workspace not reachable"
        return why if self.since is None else f"{why} since {clock(self.since)}"

    def state(self) -> str:
        """Return how far delivery is, in words."""
        writes, why = count(self.pending, "write"), self._why()
        if self.pending:
            said = f"{writes} {self._waiting_for(why)}"
        else:
            said = f"{why}, trying again" if self.away else "up to date"
        if self.pending and self.lag_seconds >= 1:
            said += f", the oldest {duration(self.lag_seconds)} old"
        if self.pending and self.rate:
            said += f", {number(self.rate) if self.rate < 10 else f'{self.rate:,.0f}'} a second go out"
        if self.held:
            said += f"; {self._not_taken()}"
        if self.dead:
            said += f"; {count(self.dead, 'write')} refused for good"
        return said

    def _not_taken(self) -> str:
        why = f" ({self.held_why})" if self.held_why else ""
        return f"{count(self.held, 'file')} not taken now, tried again later{why}"

    def first_state(self) -> str:
        """Return the state of a workspace that was linked just now."""
        return self.state() if self.pending or self.away or self.dead or self.held else "ready"

    def outcome(self) -> str:
        """Return what became of a run's writes, with a sign in front that says it too."""
        if self.pending:
            why = self.last_error or "workspace not reachable"
            said = f"… {count(self.pending, 'write')} {self._waiting_for(why)}"
        elif self.dead:
            return f"✗ {count(self.dead, 'write')} refused, the rest delivered"
        elif self.held:
            return f"… {self._not_taken()}; the rest delivered"
        else:
            return "✓ delivered"
        return said + (f", ✗ {count(self.dead, 'write')} refused" if self.dead else "")


@dataclass(frozen=True, repr=False)
class LinkStatus(Result):
    """Where tracking goes, what is still on its way, how far behind."""

    uri: str
    track: str  # both, databricks or azureml
    registry: str  # databricks, azureml or both
    mode: str  # journal or sync
    destinations: tuple[Destination, ...]
    folder: str  # the folder that the link belongs to
    experiment: str | None = None
    notes: tuple[str, ...] = ()  # one line each: provisional versions' final numbers, older links' leftovers
    fresh: bool = False  # made by this very command: shown as "Linked: …"
    get_workspace: Callable[[], Any] | None = field(default=None, compare=False)

    @property
    def workspace(self) -> Any:
        """Return the linked Azure ML workspace as azureml-core's own object, asked for when it is needed.

        Raises BadLink where the link has none, NotPermitted or WorkspaceUnreachable.
        """
        if self.get_workspace is None:
            raise AttributeError("this status is not of a link of this process")
        return self.get_workspace()

    def _headline(self) -> str:
        where = "both" if self.track == "both" else f"{self.track} only"
        registry = "databricks and azureml" if self.registry == "both" else self.registry
        start = "Linked: tracking" if self.fresh else "Tracking"
        return f"{start} to {where}, models registered in {registry}"

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for d in self.destinations:
            state = d.first_state() if self.fresh else d.state()
            rows.append((d.name, d.place, state if d.tracked else f"{state}, models only"))
        return rows

    def _pages(self) -> str:
        return ", ".join(f"{d.name} {d.page}" for d in self.destinations if d.page and d.page != d.place)

    def _facts(self) -> list[str]:
        facts = [f"experiment  {self.experiment}"] if self.experiment else []
        if self.mode == "sync":
            facts.append("mode        sync: each write waits for the primary workspace's answer")
        if not self.fresh:
            facts += [f"{d.name} {lack}" for d in self.destinations for lack in d.lacks]
        return facts

    def _next(self) -> str:
        if self.fresh:
            return to_train()
        hints = []
        if any(d.pending for d in self.destinations):
            hints.append(f"{say('%dbml sync')} waits until everything is delivered")
        if any(d.dead or d.held for d in self.destinations):
            hints.append(f"{say('%dbml sync --dead list')} shows what was refused, and why")
        return " · ".join(hints)

    def text(self) -> str:
        """Return the headline, a line for each workspace, and what to do next."""
        rows = self._rows()
        names = max((len(name) for name, _, _ in rows), default=0)
        places = max((len(place) for _, place, _ in rows), default=0)
        lines = [self._headline()]
        lines += [f"  {name.ljust(names)}  {place.ljust(places)}   {state}" for name, place, state in rows]
        opened = [f"open        {self._pages()}"] if self._pages() else []
        lines += [f"  {line}" for line in (*self._facts(), *opened, *self.notes)]
        return "\n".join([*lines, *filter(None, [self._next()])])

    def html(self) -> str:
        """Return the same as a table of workspaces."""
        pages = [link(d.place, d.page) if d.page else d.place for d in self.destinations]
        rows = [(name, page, state) for (name, _, state), page in zip(self._rows(), pages, strict=True)]
        table = html_table(self._headline(), ("workspace", "place", "state"), rows)
        return panel(table, *self._facts(), *self.notes, self._next())


@dataclass(frozen=True, repr=False)
class UnlinkResult(Result):
    """What unlinking restored, and what is still undelivered."""

    tracking_uri: str  # restored
    registry_uri: str  # restored
    undelivered: Mapping[str, int]  # workspace -> writes that wait in the journal

    def text(self) -> str:
        """Return what MLflow tracks to again, and what still waits."""
        lines = [f"Unlinked: MLflow tracks to {from_here(self.tracking_uri)} again"]
        waiting = [(name, amount) for name, amount in self.undelivered.items() if amount]
        width = max((len(name) for name, _ in waiting), default=0)
        lines += [f"  {name.ljust(width)}  … {count(amount, 'write')} waiting" for name, amount in waiting]
        if waiting:
            lines.append(
                f"  nothing is lost: this {process()} goes on delivering them; "
                f"{say('%dbml link --again')} takes the link up again"
            )
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class ExperimentResult(Result):
    """The experiment that runs go to, under each workspace's own name."""

    name: str
    experiment_id: str
    names: Mapping[str, str]  # workspace -> its name there
    created: bool
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> its page there

    def _headline(self) -> str:
        return f"Experiment {self.name}" + (", new" if self.created else "")

    def text(self) -> str:
        """Return the experiment's name at each workspace."""
        width = max((len(workspace) for workspace in self.names), default=0)
        lines = [f"  {workspace.ljust(width)}  {name}" for workspace, name in self.names.items()]
        return "\n".join([self._headline(), *lines, *_opened(self.links)])

    def html(self) -> str:
        """Return the same as a table."""
        rows = [
            (workspace, link(name, self.links[workspace]) if workspace in self.links else name)
            for workspace, name in self.names.items()
        ]
        return panel(html_table(self._headline(), ("workspace", "name there"), rows))


@dataclass(frozen=True)
class MetricSummary:
    """A metric's last value and a thinned curve of it."""

    key: str
    last: float
    count: int
    curve: tuple[float, ...] = ()


@dataclass(frozen=True, repr=False)
class RunRow(Result):
    """One run."""

    run_id: str
    name: str
    experiment: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    undelivered: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> the run's page, where there is one

    @property
    def seconds(self) -> float | None:
        """Return the run's duration in seconds, or None while it runs."""
        return None if self.end_time is None else (self.end_time - self.start_time) / 1000

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            ("run", self.run_id),
            ("started", when(self.start_time)),
            ("params", ", ".join(f"{key} {_short(value)}" for key, value in self.params.items())),
            ("metrics", ", ".join(f"{key} {number(value)}" for key, value in self.metrics.items())),
            (
                "waiting",
                ", ".join(f"{name} {count(n, 'write')}" for name, n in self.undelivered.items() if n),
            ),
        ]
        return [row for row in rows if row[1]]

    def text(self) -> str:
        """Return the run with all that it logged."""
        head = _run_head(self.name, self.status, self.seconds)
        return "\n".join([head, *_labelled(self._rows()), *_opened(self.links)])

    def html(self) -> str:
        """Return the same as a table."""
        rows: list[tuple[str, str]] = [*self._rows(), *([("open", _links(self.links))] if self.links else [])]
        return panel(rows_table(_run_head(self.name, self.status, self.seconds), rows))


@dataclass(frozen=True, repr=False)
class RunsResult(Result):
    """Runs, newest first unless ordered otherwise."""

    rows: tuple[RunRow, ...]
    experiment: str
    note: str = ""  # e.g. how many writes are missing from the answer
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> the experiment's page

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RunRow]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> RunRow:
        return self.rows[index]

    def to_pandas(self) -> Any:
        """Return the runs as a DataFrame, params and metrics as columns ``params.*`` and ``metrics.*``."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "run_id": row.run_id,
                    "name": row.name,
                    "experiment": row.experiment,
                    "status": row.status,
                    "start_time": pd.Timestamp(row.start_time, unit="ms", tz="UTC"),
                    "seconds": row.seconds,
                    **{f"params.{k}": v for k, v in row.params.items()},
                    **{f"metrics.{k}": v for k, v in row.metrics.items()},
                }
                for row in self.rows
            ]
        )

    def _undelivered(self) -> bool:
        return any(any(row.undelivered.values()) for row in self.rows)

    def _headers(self) -> tuple[str, ...]:
        headers = ("run", "name", "status", "started", "took", "metrics", "params")
        return (*headers, "delivery") if self._undelivered() else headers

    def _cells(self, row: RunRow) -> tuple[str, ...]:
        cells = (
            row.run_id[:8],
            row.name,
            row.status,
            when(row.start_time),
            "" if row.seconds is None else duration(row.seconds),
            listing([f"{key} {number(value)}" for key, value in row.metrics.items()], 2),
            listing([f"{key} {_short(value)}" for key, value in row.params.items()], 2),
        )
        waiting = [f"{name} … {count(n, 'write')}" for name, n in row.undelivered.items() if n]
        return (*cells, ", ".join(waiting) or "✓") if self._undelivered() else cells

    def _end(self) -> list[str]:
        end = [self.note] if self.note else []
        if not self.rows:
            return [*end, to_train()]
        return [*end, f"see  {say('%dbml register last NAME')} · {say('%dbml runs --help')}"]

    def text(self) -> str:
        """Return a line for each run."""
        if not self.rows:
            return "\n".join([f"No runs in {self.experiment}", *self._end()])
        table = text_table(self._headers(), [self._cells(row) for row in self.rows])
        end = [*_opened(self.links), *(f"  {line}" for line in self._end())]
        return "\n".join([f"Runs of {self.experiment}", *table, *end])

    def html(self) -> str:
        """Return the same as a table."""
        if not self.rows:
            return panel(f"No runs in {self.experiment}", *self._end())
        headers, cells = list(self._headers()), [list(self._cells(row)) for row in self.rows]
        if any(row.links for row in self.rows):
            headers.append("open")
            cells = [[*each, _links(row.links)] for each, row in zip(cells, self.rows, strict=True)]
        table = html_table(f"Runs of {self.experiment}", headers, cells)
        return panel(table, *self._end())


@dataclass(frozen=True)
class Curve:
    """A metric's points in one run, thinned; a value that is not finite is a gap."""

    steps: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    count: int = 0  # points logged
    odd: int = 0  # those that are NaN or infinite
    axis: str = "step"  # "point" where no steps were given: the steps are the points' places then


@dataclass(frozen=True)
class ComparedParam:
    """A param's value in each run, None where a run lacks it."""

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Tell whether the runs have different values, or not all have one."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class ComparedMetric:
    """A metric's last value in each run, None where a run lacks it."""

    key: str
    last: tuple[float | None, ...]
    curves: tuple[Curve, ...] = ()  # of each run; empty for a metric that is not shown


_LACKING = "—"
_DIFFERS = "≠"


@dataclass(frozen=True, repr=False)
class CompareResult(Result):
    """Runs side by side."""

    runs: tuple[RunRow, ...]
    shown: tuple[str, ...]  # the metrics that are shown; the frame has all
    curves: Mapping[str, tuple[Curve, ...]]  # shown metric -> its curve in each run
    notes: tuple[str, ...] = ()

    @property
    def params(self) -> tuple[ComparedParam, ...]:
        """Return all params, those that differ first."""
        keys = dict.fromkeys(key for run in self.runs for key in run.params)
        found = [ComparedParam(key, tuple(run.params.get(key) for run in self.runs)) for key in keys]
        return tuple(sorted(found, key=lambda param: not param.differs))

    @property
    def differing(self) -> tuple[ComparedParam, ...]:
        """Return the params that differ."""
        return tuple(param for param in self.params if param.differs)

    @property
    def metrics(self) -> tuple[ComparedMetric, ...]:
        """Return all metrics, those that are shown first."""
        keys = dict.fromkeys([*self.shown, *(key for run in self.runs for key in run.metrics)])
        return tuple(
            ComparedMetric(key, tuple(run.metrics.get(key) for run in self.runs), self.curves.get(key, ()))
            for key in keys
        )

    def to_pandas(self) -> Any:
        """Return a row for each run, params and metrics as columns ``params.*`` and ``metrics.*``."""
        return RunsResult(self.runs, "").to_pandas()

    def _experiments(self) -> list[str]:
        return list(dict.fromkeys(run.experiment for run in self.runs))

    def _headline(self) -> str:
        return f"Compared {len(self.runs)} runs of {' and '.join(self._experiments())}"

    def _heads(self) -> list[str]:
        return [f"{place} {_short(run.name, 24)}".rstrip() for place, run in enumerate(self.runs, 1)]

    def _facts(self) -> list[list[str]]:
        facts = [["run", *(run.run_id[:8] for run in self.runs)]]
        if len(self._experiments()) > 1:
            facts.append(["experiment", *(run.experiment for run in self.runs)])
        facts.append(["status", *(run.status for run in self.runs)])
        facts.append(["started", *(when(run.start_time) for run in self.runs)])
        took = ["" if run.seconds is None else duration(run.seconds) for run in self.runs]
        return [*facts, ["took", *(each or _LACKING for each in took)]]

    def _params_line(self) -> str:
        differing = len(self.differing)
        verb = "differs" if differing == 1 else "differ"
        return f"params: {differing} {verb} ({_DIFFERS}), {len(self.params) - differing} equal"

    def _lines(self, metric: ComparedMetric) -> list[Line]:
        return [
            Line(_short(run.name, 24) or run.run_id[:8], curve.steps, curve.values)
            for run, curve in zip(self.runs, metric.curves, strict=True)
        ]

    def _said(self, metric: ComparedMetric) -> list[str]:
        return [_LACKING if value is None else number(value) for value in metric.last]

    def _told(self, metric: ComparedMetric) -> list[str]:
        """Return each run's last value and its curve, the values in a column of their own."""
        said = self._said(metric)
        width = max(len(each) for each in said)
        curves = sparklines(self._lines(metric)) if metric.curves else []
        if not any(curves):
            return said
        return [f"{each.ljust(width)} {curve}" for each, curve in zip(said, curves, strict=True)]

    def _left_out(self) -> list[str]:
        return [metric.key for metric in self.metrics if metric.key not in self.shown]

    def _odd(self) -> list[str]:
        """Return one line for each curve with gaps."""
        return [
            f"{metric.key} of {run.name or run.run_id[:8]}: {count(curve.odd, 'point')} of {curve.count:,} "
            "not finite, left out of the curve"
            for metric in self.metrics
            for run, curve in zip(self.runs, metric.curves, strict=False)
            if curve.odd
        ]

    def _more(self, most: int) -> str:
        left = self._left_out()
        if not left:
            return ""
        ids = " ".join(run.run_id[:8] for run in self.runs)
        line = say(f"%dbml compare {ids} --metric {_quoted(left[0])}")
        return (
            f"{count(len(left), 'metric')} left out ({listing(left, most)}): "
            f"{line} shows one, to_pandas() has all"
        )

    def text(self) -> str:
        """Return aligned columns: the runs' facts, the params that differ, the metrics with their curves."""
        differing = self.differing
        params = [
            [f"{_DIFFERS} {_short(p.key, 32)}", *(_LACKING if v is None else _short(v, 24) for v in p.values)]
            for p in differing[:_MOST_PARAMS]
        ]
        metrics = [[_short(m.key, 34), *self._told(m)] for m in self.metrics if m.key in self.shown]
        facts = self._facts()
        table = text_table(["", *self._heads()], [*facts, *params, *metrics])
        lines = [self._headline(), *table[: len(facts) + 1]]
        if self.params:
            lines.append(self._params_line())
            lines += table[len(facts) + 1 : len(facts) + 1 + len(params)]
            if len(differing) > len(params):
                lines.append(f"  … {len(differing) - len(params)} more differ; to_pandas() has all")
        lines.append(
            "metrics: last values, curves on one scale" if metrics else "metrics: these runs have none"
        )
        lines += table[len(facts) + 1 + len(params) :]
        end = [self._more(3), *self._odd(), *self.notes]
        return "\n".join([*lines, *(f"  {line}" for line in end if line)])

    def html(self) -> str:
        """Return the same as tables, with a picture of each shown metric's curves."""
        heads, differing = self._heads(), self.differing
        equal = [param for param in self.params if not param.differs]
        shown = [metric for metric in self.metrics if metric.key in self.shown]
        left = [(m.key, *self._said(m)) for m in self.metrics if m.key not in self.shown]
        parts: list[str] = [html_table(self._headline(), ["", *heads], self._facts())]
        if self.params:
            parts.append(
                html_table(self._params_line(), ["param", *heads], [_param_cells(p) for p in differing])
            )
        if equal:
            cells = [(param.key, _short(param.values[0] or "", 200)) for param in equal]
            table = html_table("equal params", ["param", "value"], cells)
            parts.append(details(count(len(equal), "equal param"), table))
        if shown:
            caption = "metrics: last values, curves on one scale"
            parts.append(html_table(caption, ["metric", *heads], [(m.key, *self._said(m)) for m in shown]))
        else:
            parts.append("metrics: these runs have none")
        parts += [picture for metric in shown if (picture := self._picture(metric))]
        if left:
            table = html_table("metrics left out", ["metric", *heads], left)
            parts.append(details(self._more(3), table))
        return panel(*parts, *self._odd(), *self.notes)

    def _picture(self, metric: ComparedMetric) -> Html:
        if not metric.curves:
            return Html("")
        axis = next((curve.axis for curve in metric.curves if curve.count), "step")
        drawn = curves_svg(metric.key, axis, self._lines(metric))
        if not drawn:
            return drawn
        caption = f"<figcaption>{safe(metric.key)}</figcaption>"
        return Html(f'<figure style="margin:8px 0">{caption}{drawn}</figure>')


_MOST_PARAMS = 20


def _param_cells(param: ComparedParam) -> list[str]:
    shown = [_LACKING if value is None else _short(value, 200) for value in param.values]
    return [f"{_DIFFERS} {param.key}", *shown]


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w./:-]+", word) else f'"{word}"'


@dataclass(frozen=True, repr=False)
class ModelVersion(Result):
    """A registered version at one workspace; version "0" is provisional: its workspace is away."""

    workspace: str
    name: str
    version: str
    run_id: str | None = None
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    twin: str | None = None  # "<workspace>:<name>/<version>"
    created: int | None = None
    status: str = "READY"
    source: str = ""
    page: str | None = None  # in its workspace, where there is one

    @property
    def label(self) -> str:
        """Return the version in words; its workspace may not have numbered it yet."""
        numbered = f"version {self.version}" if self.version != "0" else "version not numbered yet"
        return f"{self.name} {numbered} ({self.workspace})"

    def text(self) -> str:
        """Return the version with its aliases and its twin."""
        parts = [self.label, *(f"@{alias}" for alias in self.aliases)]
        return "  ".join([*parts, f"twin {self.twin}"] if self.twin else parts)


@dataclass(frozen=True, repr=False)
class RegisterResult(Result):
    """The versions that ``register`` made, the link's first registry first."""

    name: str
    run_id: str | None
    versions: tuple[ModelVersion, ...]
    new_model: bool  # the name was new: this is version 1
    notes: tuple[str, ...] = ()  # why a version has no number yet

    def _headline(self) -> str:
        return f"Registered {self.name}" + (", a new model" if self.new_model else "")

    def _see(self) -> str:
        return say(f"%dbml models {self.name}")

    def text(self) -> str:
        """Return a line for each version that was made."""
        lines = [f"  {line}" for line in _version_lines(self.versions, with_name=False)]
        lines += [f"  {note}" for note in self.notes]
        lines += _opened(_newest_pages(self.versions))
        return "\n".join([self._headline(), *lines, f"  see  {self._see()}"])

    def html(self) -> str:
        """Return the same as a table."""
        table = _version_html(self._headline(), self.versions, with_name=False)
        return panel(table, *self.notes, Html(f"see {code(self._see())}"))


@dataclass(frozen=True, repr=False)
class ModelsResult(Result):
    """Registered models (``name`` is None) or one model's versions."""

    name: str | None
    versions: tuple[ModelVersion, ...]  # without a name: the newest version of each model at each workspace
    notes: tuple[str, ...] = ()  # a registry that could not be asked
    loadable: str | None = None  # the URI by which the link loads the newest version

    def _headline(self) -> str:
        if not self.versions:
            return f"No versions of {self.name}" if self.name else "No registered models"
        return f"Versions of {self.name}" if self.name else "Registered models, the newest version of each"

    def _see(self) -> str:
        if not self.versions:
            return say("%dbml register last NAME")
        if self.name is None:
            return say(f"%dbml models {self.versions[0].name}")
        return f'mlflow.pyfunc.load_model("{self.loadable}")' if self.loadable else ""

    def _lines_see(self) -> list[str]:
        return [f"  see  {self._see()}"] if self._see() else []

    def __len__(self) -> int:
        return len(self.versions)

    def __iter__(self) -> Iterator[ModelVersion]:
        return iter(self.versions)

    def __getitem__(self, index: int) -> ModelVersion:
        return self.versions[index]

    def text(self) -> str:
        """Return a line for each version."""
        lines = [f"  {line}" for line in _version_lines(self.versions, with_name=self.name is None)]
        lines += _opened(_newest_pages(self.versions)) if self.name is not None else []
        lines += [f"  {note}" for note in self.notes]
        return "\n".join([self._headline(), *lines, *self._lines_see()])

    def html(self) -> str:
        """Return the same as a table."""
        see = Html(f"see {code(self._see())}") if self._see() else ""
        if not self.versions:
            return panel(self._headline(), *self.notes, see)
        table = _version_html(self._headline(), self.versions, with_name=self.name is None)
        return panel(table, *self.notes, see)


@dataclass(frozen=True, repr=False)
class SyncResult(Result):
    """What ``sync`` delivered, and what remains: what was logged in the meantime."""

    delivered: Mapping[str, int]
    remaining: Mapping[str, int]
    seconds: float
    dead: Mapping[str, int] = field(default_factory=dict)
    taken: int = 0  # packages of other processes' writes that were delivered
    left: tuple[str, ...] = ()  # a line for each package, or write of one, that was not

    def text(self) -> str:
        """Return what was delivered, and what could not be."""
        sent = [f"{name} {count(amount, 'write')}" for name, amount in self.delivered.items() if amount]
        left = [f"{name} {count(amount, 'write')}" for name, amount in self.remaining.items() if amount]
        refused = [f"{name} {count(amount, 'write')}" for name, amount in self.dead.items() if amount]
        if self.taken:
            sent.insert(0, f"{count(self.taken, 'package')} of other processes' writes")
        told = (
            f"Delivered {', '.join(sent)} in {duration(self.seconds)}" if sent else "Nothing was on its way"
        )
        lines = [told + ("" if left else ": every workspace is up to date")]
        lines += [f"  {line}" for line in self.left]
        if left:
            lines.append(f"  still on their way: {', '.join(left)}; {say('%dbml sync')} goes on")
        if refused:
            why = say("%dbml sync --dead list")
            lines.append(f"  ✗ refused for good: {', '.join(refused)}; {why} says why")
        return "\n".join(lines)


@dataclass(frozen=True)
class UiPage:
    """Where a workspace's runs are looked at in a browser."""

    workspace: str
    url: str | None  # None where it is not known
    state: str  # "started", "running already", "its own", "stopped"


@dataclass(frozen=True, repr=False)
class UiResult(Result):
    """The pages of a link's workspaces."""

    pages: tuple[UiPage, ...]
    notes: tuple[str, ...] = ()
    stopped: bool = False  # what was started is ended

    def _headline(self) -> str:
        if self.stopped:
            return "MLflow's UI is stopped" if self.pages else "MLflow's UI was not running: nothing to stop"
        return "MLflow's UI"

    def text(self) -> str:
        """Return a line for each workspace."""
        lines = text_table(("", "", ""), [(p.workspace, p.url or "", p.state) for p in self.pages])[1:]
        return "\n".join([self._headline(), *lines, *(f"  {note}" for note in self.notes)])

    def html(self) -> str:
        """Return the same as a table of links."""
        if not self.pages:
            return panel(self._headline())
        rows = [
            (p.workspace, link(p.url, p.url) if p.url and not self.stopped else p.url or "", p.state)
            for p in self.pages
        ]
        table = html_table(self._headline(), ("workspace", "address", "state"), rows)
        return panel(table, *self.notes)


@dataclass(frozen=True)
class DeadLetter:
    """A write that a workspace refused for good."""

    number: int
    workspace: str
    run_id: str | None  # None for a write of no run: an experiment's, a registry's
    run: str  # its name
    what: str  # "param depth", "metric loss at step 3"
    cause: str
    at: int  # when it was refused
    trying: bool = False  # on its way once more
    held: bool = False  # a file that the workspace does not take now: it is tried again by itself

    @property
    def where(self) -> str:
        """Return the run in words."""
        return f"{_short(self.run, 24)} {(self.run_id or '')[:8]}".strip() or _LACKING


_MOST_LETTERS = 30


def _letter_rows(letters: Iterable[DeadLetter], longest: int) -> list[list[str]]:
    return [
        [
            str(letter.number),
            letter.workspace,
            letter.where,
            _short(letter.what, 60),
            when(letter.at),
            ("on its way once more; was: " if letter.trying else "") + _short(letter.cause, longest),
        ]
        for letter in letters
    ]


_LETTER_HEADERS = ("number", "workspace", "run", "write", "refused", "cause")


@dataclass(frozen=True, repr=False)
class DeadLetters(Result):
    """The writes that the workspaces refused for good, oldest first."""

    letters: tuple[DeadLetter, ...]
    of_run: str = ""  # the run asked for, as it was given

    def __len__(self) -> int:
        return len(self.letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.letters)

    def __getitem__(self, index: int) -> DeadLetter:
        return self.letters[index]

    def _headline(self) -> str:
        of = f" of run {self.of_run}" if self.of_run else ""
        if not self.letters:
            return f"No write{of} was refused"
        held = sum(letter.held for letter in self.letters)
        refused = len(self.letters) - held
        parts = [f"{count(refused, 'write')}{of} refused for good"] if refused else []
        parts += [f"{count(held, 'file')}{of} not taken now, tried again by itself"] if held == 1 else []
        parts += [f"{count(held, 'file')}{of} not taken now, tried again by themselves"] if held > 1 else []
        return f"{', '.join(parts)}; everything else goes on"

    def _end(self) -> list[str]:
        if not self.letters:
            return []
        only = f" --run {self.of_run}" if self.of_run else ""
        retry = say(f"%dbml sync --dead retry{only}")
        discard = say(f"%dbml sync --dead discard{only} --confirm {len(self.letters)}")
        return [f"{retry} tries them again, {discard} gives them up"]

    def text(self) -> str:
        """Return a line for each refused write."""
        if not self.letters:
            return self._headline()
        lines = text_table(_LETTER_HEADERS, _letter_rows(self.letters[:_MOST_LETTERS], 160))
        more = len(self.letters) - _MOST_LETTERS
        end = [f"… {more:,} more; the result's .letters has all"] if more > 0 else []
        return "\n".join([self._headline(), *lines, *(f"  {line}" for line in (*end, *self._end()))])

    def html(self) -> str:
        """Return the same as a table."""
        if not self.letters:
            return panel(self._headline())
        shown = _letter_rows(self.letters[: 10 * _MOST_LETTERS], 500)
        more = len(self.letters) - len(shown)
        end = [f"… {more:,} more; the result's .letters has all"] if more > 0 else []
        return panel(html_table(self._headline(), _LETTER_HEADERS, shown), *end, *self._end())


@dataclass(frozen=True, repr=False)
class RetryResult(Result):
    """What became of refused writes that were tried again."""

    arrived: Mapping[str, int]  # workspace -> writes
    refused: tuple[DeadLetter, ...]  # again, with the new cause
    waiting: tuple[DeadLetter, ...]
    notes: tuple[str, ...] = ()  # why the rest waits, what cannot be tried again

    def text(self) -> str:
        """Return what arrived, and what was refused again."""
        arrived = sum(self.arrived.values())
        tried = arrived + len(self.refused) + len(self.waiting)
        if not tried:
            return "\n".join(["No write was refused: there is nothing to try again", *self.notes])
        said = [f"{name} {count(amount, 'write')}" for name, amount in self.arrived.items() if amount]
        head = f"Tried {count(tried, 'write')} again: {arrived:,} arrived" + (
            f" ({', '.join(said)})" if said else ""
        )
        lines = [head + (f", {len(self.refused):,} refused again" if self.refused else "")]
        lines[0] += f", {len(self.waiting):,} on the way" if self.waiting else ""
        shown = self.refused[:_MOST_LETTERS]
        lines += [f"  ✗ {row[1]}  {row[2]}  {row[3]}: {row[5]}" for row in _letter_rows(shown, 160)]
        lines += [f"  {note}" for note in self.notes]
        if self.refused:
            lines.append(f"  {say('%dbml sync --dead list')} shows what is refused")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class DiscardResult(Result):
    """The refused writes that were given up."""

    letters: tuple[DeadLetter, ...]

    def text(self) -> str:
        """Return what was given up."""
        if not self.letters:
            return "No write was refused: there is nothing to discard"
        rows = [f"  {row[1]}  {row[2]}  {row[3]}" for row in _letter_rows(self.letters[:_MOST_LETTERS], 80)]
        more = len(self.letters) - len(rows)
        end = [f"  … {more:,} more"] if more > 0 else []
        head = f"Discarded {count(len(self.letters), 'refused write')}, for good"
        return "\n".join([head, *rows, *end])


@dataclass(frozen=True, repr=False)
class TrackSummary(Result):
    """What a ``%%track`` cell (or ``dbml.track``) recorded."""

    run_id: str
    name: str
    experiment: str
    status: str
    seconds: float
    params: Mapping[str, str]
    metrics: tuple[MetricSummary, ...]
    artifacts: tuple[str, ...]
    models: tuple[str, ...]  # names of the models logged
    registered: tuple[ModelVersion, ...]
    destinations: tuple[Destination, ...]
    notes: tuple[str, ...] = ()  # overflow, provisional ids, refused writes: one line each
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> the run's page, where there is one
    children: tuple[str, ...] = ()  # names of the runs nested in it
    beside: tuple[str, ...] = ()  # names of the runs that began meanwhile and are not nested in it

    def _rows(self) -> list[tuple[str, str, Html]]:
        """Return label, text and markup of what the run recorded."""
        params = [f"{key} {_short(value)}" for key, value in self.params.items()]
        # Those with a curve were logged by the cell itself; autologging adds many that have none.
        ordered = sorted(self.metrics, key=lambda metric: len(metric.curve) < 2)
        metrics = [f"{m.key} {number(m.last)} {sparkline(m.curve)}".rstrip() for m in ordered]
        drawn = [
            Html(f"{safe(f'{m.key} {number(m.last)}')} {curve_svg(m.curve, m.key)}".rstrip()) for m in ordered
        ]
        models = [version.label for version in self.registered] or list(self.models)
        linked = [link(v.label, v.page) if v.page else safe(v.label) for v in self.registered]
        rows = [
            ("params", listing(params, 2), safe(listing(params, 6))),
            ("metrics", listing(metrics, 4), Html(listing(drawn, 8))),
            ("artifacts", listing(self.artifacts, 4), safe(listing(self.artifacts, 8))),
            ("models", listing(models, 4), Html(listing(linked or [safe(m) for m in models], 8))),
            ("children", self._children(4), safe(self._children(8))),
            ("beside", listing(self.beside, 4), safe(listing(self.beside, 8))),
            ("open", ", ".join(f"{name} {url}" for name, url in self.links.items()), _links(self.links)),
        ]
        return [row for row in rows if row[1]]

    def _waiting(self) -> bool:
        return any(d.pending and (d.last_error or d.away) for d in self.destinations if d.tracked)

    def _children(self, most: int) -> str:
        if not self.children:
            return ""
        return f"{count(len(self.children), 'nested run')}: {listing(self.children, most)}"

    def _see(self) -> list[str]:
        more = [f"%dbml models {version.name}" for version in self.registered[:1]]
        if self.models and not self.registered:
            run = "last" if self.status == "FINISHED" else self.run_id[:8]
            path = f" --path {_quoted(self.models[0])}" if len(self.models) > 1 else ""
            more.append(f"%dbml register {run} NAME{path}")
        return [say(line) for line in ("%dbml runs", "%dbml status", *more)]

    def _outcomes(self) -> list[str]:
        return [f"{d.name} {d.outcome()}" for d in self.destinations if d.tracked]

    def text(self) -> str:
        """Return the run's outcome, what it recorded, and where to see it."""
        head = _run_head(self.name, self.status, self.seconds)
        lines = ["   ".join([head.ljust(32), *self._outcomes()]).rstrip()]
        rows = [(label, shown) for label, shown, _ in self._rows()]
        lines += _labelled(rows if self._waiting() else [*rows, ("see", " · ".join(self._see()))])
        lines += [f"  {note}" for note in self.notes]
        return "\n".join([*lines, f"  {_nothing_lost()}"] if self._waiting() else lines)

    def html(self) -> str:
        """Return the same as a table."""
        head = " · ".join([_run_head(self.name, self.status, self.seconds), *self._outcomes()])
        rows: list[tuple[str, str]] = [(label, drawn) for label, _, drawn in self._rows()]
        if not self._waiting():
            rows.append(("see", Html(" · ".join(code(command) for command in self._see()))))
        return panel(rows_table(head, rows), *self.notes, _nothing_lost() if self._waiting() else "")


def _nothing_lost() -> str:
    return (
        f"nothing is lost: they go out when it answers, from this {process()} or the next; "
        f"{say('%dbml status')} shows how far"
    )


def _links(pages: Mapping[str, str]) -> Html:
    return Html(" · ".join(link(name, url) for name, url in pages.items()))


def _opened(pages: Mapping[str, str]) -> list[str]:
    """Return a line that says where something can be looked at, if anywhere."""
    return [f"  open  {', '.join(f'{name} {url}' for name, url in pages.items())}"] if pages else []


def _newest_pages(versions: Iterable[ModelVersion]) -> dict[str, str]:
    """Return the page of each workspace's newest version; the versions come newest first."""
    pages: dict[str, str] = {}
    for version in versions:
        if version.page is not None:
            pages.setdefault(version.workspace, version.page)
    return pages


def _short(value: str, most: int = 40) -> str:
    value = " ".join(value.split())
    return value if len(value) <= most else value[: most - 1] + "…"


def _run_head(name: str, status: str, seconds: float | None) -> str:
    return f"Run {name}  {status}" + ("" if seconds is None else f" in {duration(seconds)}")


def _labelled(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(label) for label, _ in rows), default=0)
    return [f"  {label.ljust(width)}  {shown}" for label, shown in rows]


def _version_cells(versions: Iterable[ModelVersion], with_name: bool) -> tuple[list[str], list[list[str]]]:
    shown = list(versions)
    twins = any(version.twin for version in shown)
    headers = [*(["model"] if with_name else []), "workspace", "version", "aliases", "run"]
    rows = []
    for version in shown:
        cells = [version.name] if with_name else []
        cells += [version.workspace, version.version if version.version != "0" else "not numbered yet"]
        cells += [", ".join(version.aliases), (version.run_id or "")[:8]]
        rows.append([*cells, version.twin or ""] if twins else cells)
    return ([*headers, "twin"] if twins else headers), rows


def _version_lines(versions: Iterable[ModelVersion], *, with_name: bool) -> list[str]:
    headers, rows = _version_cells(versions, with_name)
    return text_table(headers, rows, indent="") if rows else []


def _version_html(caption: str, versions: Iterable[ModelVersion], *, with_name: bool) -> Html:
    shown = list(versions)
    headers, rows = _version_cells(shown, with_name)
    place = headers.index("version")
    for version, cells in zip(shown, rows, strict=True):
        if version.page is not None:
            cells[place] = link(cells[place], version.page)
    return html_table(caption, headers, rows)
