"""What ``status`` says beyond the queues: what a workspace lacks, what is near its end, what goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbml_magics.config import spool_limit_bytes
from dbml_magics.core.tracking.ends import stopped
from dbml_magics.core.tracking.holders import is_held
from dbml_magics.hints import say
from dbml_magics.rendering import listing, size

if TYPE_CHECKING:
    from dbml_magics.core.tracking.engine import Engine

__all__ = ["lacks", "notes", "stopped_holders"]

_NEAR = 0.8  # of a limit
_NAMED = 3


def lacks(engine: Engine, role: str) -> tuple[str, ...]:
    """Return what a workspace cannot do and what is done instead, a line each; asks nobody."""
    applier, limits = engine.applier(role), engine.workspaces[role].limits
    found = []
    if not applier.has_logged_models:
        found.append("has no logged models: their files are artifacts of their run, their ids in its tag")
    if applier.lacks("outputs"):
        found.append("takes no outputs of runs: the models that a run made are named in its tag")
    if applier.lacks("inputs"):
        found.append("takes no inputs of runs: a run's data sets are not there")
    if limits.artifacts_once:
        found.append("takes a file once: another content of that name goes beside it")
    return tuple(found)


def stopped_holders(engine: Engine) -> dict[str, int]:
    """Return the process that delivers to each workspace for which something waits, and does not move."""
    waiting = [role for role in engine.link.used if engine.waiting(role)[0]]
    found = {role: engine.couriers[role].stopped_holder() for role in waiting}
    return {role: pid for role, pid in found.items() if pid is not None}


def notes(engine: Engine) -> list[str]:
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
    most, used = spool_limit_bytes(), engine.journal.spool_bytes()
    if most and used >= _NEAR * most:
        found.append(
            f"files that wait take {size(used)} of the {size(most)} that the spool may have: "
            f"{say('%dbml sync')} makes room; DBML_SPOOL_LIMIT is the limit"
        )
    return found
