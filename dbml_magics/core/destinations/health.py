"""The health of a workspace: one outage, one budget, one back-off, for all threads of a process."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from dbml_magics.common.config import identity_budget_seconds, longest_pause_seconds
from dbml_magics.common.fork_locks import ForkLock
from dbml_magics.core.clock import SYSTEM, Clock
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.interrupts import deferred

T = TypeVar("T")
_SHORT_PAUSE_S, _LONG_OUTAGE_S = 4.0, 300.0
_GIVEN_UP_S = 30.0  # how long a kind of question is not asked once it alone has cost its budget
_ONCE_MORE_S = 1.0  # and how long it may take then


class Health:
    """The circuit breaker of one workspace."""

    def __init__(self, clock: Clock = SYSTEM, chance: random.Random | None = None) -> None:
        self._clock = clock
        self._chance = chance or random.Random()
        self._lock = ForkLock()
        self._trouble_since: float | None = None
        self._failures = 0
        self._failed_at = float("-inf")
        self.away = False
        self.reason: str | None = None
        self.since: float | None = None
        """When the trouble began, in seconds since the epoch."""
        self.denied = False
        self._next_try = 0.0
        self._fine_at = float("-inf")
        self.back_at = float("-inf")
        """When it last answered again after it had not, on the monotonic clock."""
        self._gave_up: dict[str, tuple[float, str]] = {}  # kind of question -> when, why

    def fine(self) -> None:
        """Note that the workspace answered."""
        self._fine_at = self._clock.monotonic()
        if self._trouble_since is None:
            return
        with self._lock:
            self.back_at = self._fine_at
            self._trouble_since, self._failures, self.away = None, 0, False
            self.reason, self.since, self.denied, self._next_try = None, None, False, 0.0

    def trouble(self, error: Unavailable, asked: float | None = None) -> None:
        """Note that the workspace did not answer; the second time in a row it counts as away.

        What was ``asked`` (monotonic) before the last time failed with it, and counts as one.
        """
        with self._lock:
            now = self._clock.monotonic()
            if self._trouble_since is None:
                self._trouble_since, self.since = now, self._clock.time()
            if self._failures and asked is not None and asked < self._failed_at:
                self._next_try = max(self._next_try, now + (error.retry_after or 0.0))
                return
            self._failures, self._failed_at = self._failures + 1, now
            self.reason, self.denied = error.reason, error.denied
            if self._failures >= 2 or error.denied:
                self.away = True
            lasting = now - self._trouble_since > _LONG_OUTAGE_S
            longest = longest_pause_seconds()
            most = longest if lasting else min(longest, _SHORT_PAUSE_S)
            pause = min(0.2 * 2 ** min(self._failures, 10), most) * self._chance.uniform(0.7, 1.3)
            if error.retry_after is not None:
                pause = max(pause, error.retry_after)
            self._next_try = now + pause

    def pause(self) -> float:
        """Return how many seconds to wait before the next try."""
        return max(0.0, self._next_try - self._clock.monotonic())

    def ask(self, question: Callable[[], T], budget: float | None = None, *, what: str | None = None) -> T:
        """Ask what only the workspace can name, within the outage's budget (s).

        Raises Unavailable, or a refusal.

        ``question`` is asked again while the budget lasts, so it must be safe to ask twice. ``what`` is its
        kind: where such questions alone fail, they cost one budget and not one each.
        """
        if budget is None:
            budget = identity_budget_seconds()
        if self.away:
            raise Unavailable(self.reason or "not reachable", sent=False)
        asked = self._clock.monotonic()
        gave_up = self._gave_up.get(what) if what else None
        if gave_up is not None:
            if asked - gave_up[0] < _GIVEN_UP_S:
                raise Unavailable(gave_up[1], sent=False)
            budget = min(budget, _ONCE_MORE_S)
        try:
            answer = self._ask(question, budget, asked)
        except Unavailable as error:
            if what and not self.away:
                self._gave_up[what] = self._clock.monotonic(), error.reason
            raise
        if gave_up is not None:
            self._gave_up.pop(what or "", None)
        return answer

    def _ask(self, question: Callable[[], T], budget: float, asked: float) -> T:
        while True:
            # The outage's budget, and the question's own: what fails here may be this call alone, while the
            # worker hears every now and then that the workspace answers.
            began = min(asked, self._trouble_since or asked)
            left = began + budget - self._clock.monotonic()
            if left <= 0:
                self._note_away(asked)
                raise Unavailable(self.reason or "not reachable", sent=False)
            try:
                # Held back: an interrupt amid a request would leave the connections' pool locked for all.
                with call_timeout(left), deferred():
                    answer = question()
            except Exception as error:
                classified = classify_error(error)
                if not isinstance(classified, Unavailable):
                    self.fine()
                    raise classified from error
                self._note_in_budget(classified)
                pause = 0.3 if classified.retry_after is None else classified.retry_after
                if classified.denied or self._clock.monotonic() - began + max(pause, 0.1) > budget:
                    self._note_away(asked)
                    raise classified from error
                self._clock.sleep(min(pause, max(0.05, left - 0.05)))
            else:
                self.fine()
                return answer

    def _note_away(self, asked: float) -> None:
        """Note that a budget is spent; where others were answered meanwhile, it is this question's alone."""
        with self._lock:
            if self._fine_at < asked:
                self.away = True

    def _note_in_budget(self, error: Unavailable) -> None:
        with self._lock:
            if self._trouble_since is None:
                self._trouble_since, self.since = self._clock.monotonic(), self._clock.time()
            self.reason, self.denied = error.reason, error.denied
