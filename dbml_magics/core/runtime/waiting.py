"""Waiting until what is journaled has arrived at a workspace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from dbml_magics.common.config import SEARCH_WAIT_S
from dbml_magics.common.hints import Remedy, say
from dbml_magics.common.log_records import logger
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.interrupts import is_held_back
from dbml_magics.core.link import Link
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime.backlog import Backlog, Goal
from dbml_magics.core.runtime.senders import Sender

_log = logger(__name__)

IN_TURN = 3
"""Times that what came while one waited is waited for, too: delivery's own writes follow others."""
PROGRESS_S = 0.25
"""How long one waits before one tells how far delivery is."""
_LOOK_S = 0.25  # between two looks whether to give up


class Waiting:
    """Waits for the deliveries of one link.

    ``overflow_under_way`` gives the runs whose overflow file is being written at the workspace of a role.
    """

    def __init__(
        self,
        link: Link,
        state: State,
        backlog: Backlog,
        health: Mapping[str, Health],
        senders: Mapping[str, Sender],
        overflow_under_way: Callable[[str], Iterable[str]],
    ) -> None:
        self._link = link
        self._state = state
        self._backlog = backlog
        self._health = health
        self._senders = senders
        self._overflow_under_way = overflow_under_way
        self._warned: set[str] = set()
        self._gave_up = float("-inf")  # when a search waited for the primary in vain
        self._refusals_before = 0  # dead letters up to this one are older than the sync mode of this process
        self._refusals_told: dict[str, int] = {}

    def wait(
        self,
        role: str,
        queues: Iterable[str] | None = None,
        timeout: float | None = None,
        goal: Goal | None = None,
        *,
        give_up: Callable[[], bool] | None = None,
    ) -> bool:
        """Wait until what is journaled now has arrived at one workspace; False when the wait ended before.

        See :meth:`wait_at`.
        """
        over = None if give_up is None else lambda _: give_up()
        return not self.wait_at({role: queues}, timeout, goal, give_up=over)

    def wait_at(
        self,
        queues: Mapping[str, Iterable[str] | None],
        timeout: float | None = None,
        goal: Goal | None = None,
        *,
        give_up: Callable[[str], bool] | None = None,
    ) -> dict[str, Goal]:
        """Wait until what is journaled now has arrived at workspaces; returns what is missing at which.

        ``queues`` are those that each role is to get; None are all, and the overflow files of their runs.
        With a ``goal``, what was journaled since is not waited for. ``give_up`` is asked from time to time
        about each role that is behind; the wait ends once it is True of all of them, or the time is up.
        """
        began = time.monotonic()
        until, next_look = (None if timeout is None else began + timeout), began + _LOOK_S
        goals = {role: self._backlog.goal(own) if goal is None else goal for role, own in queues.items()}
        while True:
            goals = {role: self._backlog.left_of(role, each) for role, each in goals.items()}
            missing = {
                role: left
                for role, left in goals.items()
                if left or (queues[role] is None and self._overflow_under_way(role))
            }
            now = time.monotonic()
            if not missing or (until is not None and now >= until):
                return missing
            if give_up is not None and now >= next_look:
                if all(give_up(role) for role in missing):
                    return missing
                next_look = time.monotonic() + _LOOK_S
            for role, left in missing.items():
                for queue in left:
                    self._senders[role].notify(queue)
                self._senders[role].hurry()
            for role in missing:
                self._senders[role].wait_for_arrival(0.05 / len(missing))

    def wait_for_everything(self, roles: Iterable[str], timeout: float | None = None) -> dict[str, Goal]:
        """Wait until what is journaled now has arrived, and what delivery writes in turn.

        What other processes or threads go on logging is not waited for. The wait ends when the time is up, or
        all workspaces that are behind are away; returns what is missing at which.
        """
        until = None if timeout is None else time.monotonic() + timeout
        roles, missing = list(roles), dict[str, Goal]()
        for _ in range(IN_TURN):
            left = None if until is None else until - time.monotonic()
            missing |= self.wait_at(dict.fromkeys(roles), left, give_up=self.is_away)
            roles = [role for role in roles if role not in missing and self._backlog.waiting(role)[0]]
        return missing

    def is_away(self, role: str) -> bool:
        """Tell whether a workspace is away."""
        return self._health[role].away

    # --- reads

    def answering(self) -> str | None:
        """Return the role that answers reads now: the primary, or the mirror while the primary is away."""
        return next((role for role in self._link.tracked if not self._health[role].away), None)

    def wait_for_reads(self, what: str) -> None:
        """Let the primary catch up before a search, and warn once if it does not."""
        role = self.answering()
        behind = [] if role is None else self._backlog.queues(role)
        if role is None or not behind:
            return
        if time.monotonic() - self._gave_up > SEARCH_WAIT_S:  # once for several searches in a row
            if not self._health[role].away and self.wait(role, behind, SEARCH_WAIT_S):
                return
            self._gave_up = time.monotonic()
        count, _ = self._backlog.waiting(role)
        if count and self.warns_once(role):
            _log.warning(
                "%s: %s writes are still on their way to %s and are missing from this answer; "
                "%s waits for them",
                what,
                f"{count:,}",
                role,
                say(Remedy("sync")),
            )

    def warns_once(self, what: str) -> bool:
        """Tell whether a warning has yet to be given, and note that it is."""
        new = what not in self._warned
        self._warned.add(what)
        return new

    # --- sync mode

    def begin_sync_mode(self) -> None:
        """From here on tell of each write that the primary refuses (and of none that it refused before)."""
        self._refusals_before = max(self._refusals_before, self._state.last_dead())

    def wait_for_primary(self, queue: str) -> None:
        """In sync mode: wait for the primary's answer to what was just written, and raise its error."""
        role = self._link.primary

        def over() -> bool:
            if is_held_back():
                return True
            line = self._health[role]
            if line.away:
                raise Unavailable(f"{role}: {line.reason}; the write waits in the journal")
            return False

        self.wait(role, [queue], give_up=over)
        for number, _, _, _, cause, _ in self._state.dead(role, queue):
            if number > self._refusals_told.get(queue, self._refusals_before):
                self._refusals_told[queue] = number
                raise MlflowException(f"{role} refused the write: {cause}", INVALID_PARAMETER_VALUE)

    # --- no delivery

    def rest(self, seconds: float) -> bool:
        """Have the workers send nothing more, with all leases ours; False when another process has one."""
        for sender in self._senders.values():
            sender.halt()
        until = time.monotonic() + seconds
        return all(sender.come_to_rest(until) for sender in self._senders.values())
