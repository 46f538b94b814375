"""Writes that a server may refuse for what it alone knows: the primary is asked, the others get a copy.

A taken name, a deleted experiment, a model that is gone: such writes are rare, and their refusal is for the
user to see at the call. They are journaled without an answer only while the primary is away, or has not yet
what was written before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore

from dbml_magics.common.config import identity_budget_seconds
from dbml_magics.common.hints import Remedy, say
from dbml_magics.common.log_records import logger
from dbml_magics.core.destinations.errors import Unavailable

if TYPE_CHECKING:
    from dbml_magics.core.delivery.writers.side import Side
    from dbml_magics.core.runtime.engine import Engine

_log = logger(__name__)
T = TypeVar("T")
_TWICE = 2


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What came of asking: the answer, if there was one, and who has yet to get the write."""

    value: T | None
    to: list[str]
    tried: bool
    """The request may have been carried out although no answer came."""


def ask_primary(
    engine: Engine, what: str, behind: Iterable[str], question: Callable[[Side, bool], T]
) -> Answer[T]:
    """Ask the primary for a write that comes after what the queues ``behind`` hold. Raises its refusal.

    ``question`` gets the primary and whether the same was asked before, its answer lost.
    """
    role, everyone, tried = engine.link.primary, list(engine.link.tracked), list[bool]()

    def once() -> T:
        again = bool(tried)
        tried.append(True)
        return question(engine.primary, again)

    if has_arrived(engine, role, behind):
        try:
            return Answer(ask(engine, role, what, once), everyone[1:], False)
        except Unavailable:
            pass
    _say_unanswered(engine, role, what)
    return Answer(None, everyone, bool(tried))


def ask(engine: Engine, role: str, what: str, question: Callable[[], T]) -> T:
    """Ask a workspace for a write, within the outage's budget. Raises Unavailable, or its refusal.

    A 500 with MLflow's own error, given twice by a workspace that answers otherwise, is a refusal: servers
    answer so what their authors did not foresee.
    """
    failures = 0

    def once() -> T | MlflowException:
        nonlocal failures
        try:
            return question()
        except Unavailable as error:
            failures += error.said is not None
            if error.said is None or failures < _TWICE or not engine.workers[role].answers():
                raise
            return error.said

    answer = engine.health[role].ask(once, what=what)
    if isinstance(answer, MlflowException):
        raise answer
    return answer


def has_arrived(engine: Engine, role: str, queues: Iterable[str]) -> bool:
    """Wait for queues to arrive at a workspace, within the budget and while they move."""
    until, health = time.monotonic() + identity_budget_seconds(), engine.health[role]
    waited = [queue for queue in queues if engine.backlog.is_waiting(role, queue)]
    if not waited or health.away:
        return not health.away
    scheduler = engine.workers[role].scheduler

    def over() -> bool:
        late = time.monotonic() > until
        return health.away or late or any(scheduler.in_trouble(queue) for queue in waited)

    return engine.waiting.wait(role, waited, give_up=over) and not health.away


def store_of(engine: Engine, side: Side) -> AbstractStore:
    """Return MLflow's own tracking store of a workspace."""
    return engine.workspaces[side.role].tracking


def is_run_on_its_way(engine: Engine, run_id: str | None) -> bool:
    """Tell whether a run has yet to be made at the primary, which only its delivery worker does."""
    if not run_id or engine.state.identity(engine.link.primary, "run", run_id) is not None:
        return False
    return engine.live.creation_of(run_id) is not None


def _say_unanswered(engine: Engine, role: str, what: str) -> None:
    """Warn once per outage that a write goes to the primary later, whatever it will say to it."""
    line = engine.health[role]
    why = f"{role} is away" if line.away else f"what was written before is still on its way to {role}"
    if engine.waiting.warns_once(f"unanswered/{role}/{line.back_at}"):
        _log.warning(
            "dbml_magics: %s: the %s is kept and goes there later; if it is refused then, %s says so",
            why,
            what,
            say(Remedy("status")),
        )
