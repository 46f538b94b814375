"""The link: where tracking goes, how far delivery is, the experiment, each workspace's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dbml_magics.common.hints import Remedy, process, say, to_train
from dbml_magics.results.base import Result
from dbml_magics.results.html import html_table, link, panel
from dbml_magics.results.text import clock, count, duration, from_here, number, opened, text_table

__all__ = ["Destination", "ExperimentResult", "LinkStatus", "UiPage", "UiResult", "UnlinkResult"]


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
            hints.append(f"{say(Remedy('sync'))} waits until everything is delivered")
        if any(d.dead or d.held for d in self.destinations):
            hints.append(f"{say(Remedy('sync', dead='list'))} shows what was refused, and why")
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
    was_linked: bool = True

    def text(self) -> str:
        """Return what MLflow tracks to again, and what still waits."""
        if not self.was_linked:
            return "Nothing was linked"
        lines = [f"Unlinked: MLflow tracks to {from_here(self.tracking_uri)} again"]
        waiting = [(name, amount) for name, amount in self.undelivered.items() if amount]
        width = max((len(name) for name, _ in waiting), default=0)
        lines += [f"  {name.ljust(width)}  … {count(amount, 'write')} waiting" for name, amount in waiting]
        if waiting:
            lines.append(
                f"  nothing is lost: this {process()} keeps delivering them; "
                f"{say(Remedy('link', again=True))} takes the link up again"
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
        return "\n".join([self._headline(), *lines, *opened(self.links)])

    def html(self) -> str:
        """Return the same as a table."""
        rows = [
            (workspace, link(name, self.links[workspace]) if workspace in self.links else name)
            for workspace, name in self.names.items()
        ]
        return panel(html_table(self._headline(), ("workspace", "name there"), rows))


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
