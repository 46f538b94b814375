"""How far delivery is, and what ``status`` says beyond the queues."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dbml_magics.common.config import data_home_note, spool_limit_bytes
from dbml_magics.common.hints import Remedy, say
from dbml_magics.core import remembered_links, workspace_uri
from dbml_magics.core.runtime.holders import is_held
from dbml_magics.core.runtime.shutdown import stopped
from dbml_magics.results.delivery import Requests, RequestsResult
from dbml_magics.results.link import Destination
from dbml_magics.results.text import listing, size

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["destination", "notes", "requests", "stopped_holders", "tracking_elsewhere"]

_NEAR = 0.8  # of a limit
_NAMED = 3


def destination(engine: Engine, role: str, queue: str | None = None) -> Destination:
    """Return how far delivery to one workspace has come (for one run only, when ``queue`` is given)."""
    from dbml_magics.core import ui  # which needs what Windows lacks

    workspace, line = engine.workspaces[role], engine.health[role]
    if queue is None:
        pending, lag = engine.backlog.waiting(role)
        letters = engine.state.dead_numbers(role)
    else:
        cursors = {file: offset for file, (offset, _) in engine.state.cursors(role, queue).items()}
        pending, oldest = engine.journal.count_waiting(queue, cursors)
        lag = max(0.0, time.time() - oldest / 1e9) if oldest else 0.0
        letters = engine.state.dead_numbers(role, queue)
    waiting = letters & set(engine.workers[role].held.numbers()) if letters else set()
    held = len(waiting)
    since = line.since if line.reason else engine.workers[role].trouble_since
    return Destination(
        name=role,
        kind=workspace.kind,
        uri=workspace_uri.masked(workspace.uri),
        place=workspace.place,
        pending=pending,
        lag_seconds=lag,
        last_error=line.reason or engine.workers[role].scheduler.trouble,
        since=None if since is None else int(since * 1000),
        away=line.away,
        dead=len(letters) - held,
        held=held,
        held_why=_cause_of(engine, role, max(waiting)) if waiting else "",
        tracked=role in engine.link.tracked,
        delivered=engine.workers[role].delivered,
        page=ui.address(workspace.spec),
        rate=engine.workers[role].rate,
        lacks=_lacks(engine, role),
    )


def _cause_of(engine: Engine, role: str, number: int) -> str:
    return next((cause for n, _, _, _, cause, _ in engine.state.dead(role) if n == number), "")


def requests(engine: Engine) -> RequestsResult:
    """Return what this process has asked of the workspaces of a link, by kind, the most first."""
    tallies = {role: engine.workspaces[role].limiter.traffic.tallies() for role in engine.link.used}
    return RequestsResult(
        tuple(
            Requests(role, call, each.requests, each.seconds, each.failed)
            for role, calls in tallies.items()
            for call, each in sorted(calls.items(), key=lambda item: (-item[1].requests, item[0]))
        )
    )


def tracking_elsewhere(engine: Engine) -> str | None:
    """Return where MLflow tracks to when somebody has set its URI after the link, else None."""
    import mlflow

    uri = str(mlflow.get_tracking_uri())
    return None if uri.partition("?")[0] == engine.link.uri.partition("?")[0] else workspace_uri.masked(uri)


def notes(engine: Engine, *, fresh: bool) -> list[str]:
    """Return a line about each thing to know about a link; ``fresh`` for one that was made now."""
    from dbml_magics.core import ui
    from dbml_magics.core.endpoints import service
    from dbml_magics.core.outbox.model_versions import Registered
    from dbml_magics.core.runtime import handoff

    moved = data_home_note()
    notes = [moved] if moved else []
    repaired = engine.state.link_notes.repaired()
    notes += [repaired] if repaired else []
    if engine.link.newer_home is not None:
        notes.append(
            f"a newer dbml-magics has written {engine.link.newer_home}: what waits there is left to it "
            "(pip install --upgrade dbml-magics)"
        )
    for role in engine.link.used if fresh else ():
        if not engine.health[role].away:  # what it knows of itself may have to be asked for
            notes += engine.workspaces[role].notes()
    elsewhere = tracking_elsewhere(engine)
    if elsewhere is not None:
        notes.append(
            f"MLflow itself tracks to {elsewhere} now: "
            f"{say(Remedy('link', again=True))} brings it back to the link"
        )
    for facts in engine.state.model_versions.provisionals():
        answer = engine.state.model_versions.answer(facts["key"], facts["to"][0])
        if answer is None:
            notes.append(
                f"{facts['name']} has a provisional version: it gets its number when {facts['to'][0]} answers"
            )
        # News to who saw version 0, to nobody else.
        elif isinstance(answer, Registered) and facts["at"] >= engine.began:
            notes.append(
                f"{facts['name']} version 0 (provisional) is version {answer.version} in {facts['to'][0]}"
            )
    for role in engine.link.tracked:
        side = engine.side(role)
        notes += filter(None, [side.runs.about_ids()])
        notes += [*side.overflow.files.summary(), *side.overflow.near()]
    for leftover in remembered_links.leftovers(engine.link):
        notes.append(leftover)
    notes += [] if fresh else _deliveries(engine)
    notes += handoff.mentioned(engine.link)
    running = ui.note(engine.link)
    return [*notes, *([running] if running else []), *service.notes(engine)]


def _lacks(engine: Engine, role: str) -> tuple[str, ...]:
    """Return what a workspace cannot do and what is done instead, a line each; asks nobody."""
    learned = engine.side(role).learned
    found = []
    if not learned.has_logged_models:
        found.append("has no logged models: their files are artifacts of their run, their ids in its tag")
    if learned.lacks("outputs"):
        found.append("takes no outputs of runs: the models that a run made are named in its tag")
    if learned.lacks("inputs"):
        found.append("takes no inputs of runs: a run's data sets are not there")
    if learned.limits.artifacts_once:
        found.append("takes a file once: another content of that name goes beside it")
    return tuple(found)


def stopped_holders(engine: Engine) -> dict[str, int]:
    """Return the process that delivers to each workspace for which something waits, and does not move."""
    waiting = [role for role in engine.link.used if engine.backlog.waiting(role)[0]]
    found = {role: engine.workers[role].stopped_holder() for role in waiting}
    return {role: pid for role, pid in found.items() if pid is not None}


def _deliveries(engine: Engine) -> list[str]:
    """Return a line about each stopped holder, the runs that go on, and a spool that is nearly full."""
    found = [
        f"{stopped(pid, role)}: `kill -CONT {pid}` in a terminal lets it go on; once it has ended, "
        "another process delivers"
        for role, pid in stopped_holders(engine).items()
    ]
    live = [
        str(info.get("name") or run[:8])
        for run, info in engine.state.recent_runs(200)
        if info.get("ended") is False and is_held(engine.journal, run)
    ]
    if live:
        found.append(f"running     {listing(live, _NAMED)}")
    most, used = spool_limit_bytes(), engine.journal.spool.size()
    if most and used >= _NEAR * most:
        found.append(
            f"files that wait take {size(used)} of the {size(most)} that the spool may have: "
            f"{say(Remedy('sync'))} makes room; DBML_SPOOL_LIMIT is the limit"
        )
    return found
