"""Whether a workspace answers: one outage, one budget, one back-off, for all threads of a process."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from dbml_magics.config import IDENTITY_BUDGET_S
from dbml_magics.core.tracking.faults import Away, settle
from dbml_magics.core.workspaces.rest import call_timeout

T = TypeVar("T")
_SHORT_PAUSE_S, _LONG_PAUSE_S, _LONG_OUTAGE_S = 4.0, 15.0, 300.0


class Line:
    """The line to one workspace."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._lock = threading.Lock()
        self._trouble_since: float | None = None
        self._failures = 0
        self.away = False
        self.reason: str | None = None
        self.denied = False
        self._next_try = 0.0

    def after_fork(self) -> None:
        """In a forked child: the lock may have been held by a thread that is not here."""
        self._lock = threading.Lock()

    def fine(self) -> None:
        """Note that the workspace answered."""
        if self._trouble_since is None:
            return
        with self._lock:
            self._trouble_since, self._failures, self.away = None, 0, False
            self.reason, self.denied, self._next_try = None, False, 0.0

    def trouble(self, error: Away) -> None:
        """Note that the workspace did not answer; the second time in a row it counts as away."""
        with self._lock:
            now = time.monotonic()
            if self._trouble_since is None:
                self._trouble_since = now
            self._failures += 1
            self.reason, self.denied = error.reason, error.denied
            if self._failures >= 2 or error.denied:
                self.away = True
            lasting = now - self._trouble_since > _LONG_OUTAGE_S
            most = _LONG_PAUSE_S if lasting else _SHORT_PAUSE_S
            pause = min(0.2 * 2 ** min(self._failures, 10), most) * random.uniform(0.7, 1.3)
            if error.retry_after is not None:
                pause = max(pause, min(error.retry_after, 300.0))
            self._next_try = now + pause

    def pause(self) -> float:
        """Return how many seconds to wait before the next try."""
        return max(0.0, self._next_try - time.monotonic())

    def ask(self, question: Callable[[], T], budget: float = IDENTITY_BUDGET_S) -> T:
        """Ask what only the workspace can name, within the outage's budget (s). Raises Away, or a refusal.

        ``question`` is asked again while the budget lasts, so it must be safe to ask twice.
        """
        if self.away:
            raise Away(self.reason or "not reachable", sent=False)
        while True:
            began = self._trouble_since or time.monotonic()
            left = began + budget - time.monotonic()
            if left <= 0:
                with self._lock:
                    self.away = True
                raise Away(self.reason or "not reachable", sent=False)
            try:
                with call_timeout(left):
                    answer = question()
            except Exception as error:
                settled = settle(error)
                if not isinstance(settled, Away):
                    self.fine()
                    raise settled from error
                self._note_in_budget(settled)
                if settled.denied or time.monotonic() - began + 0.1 > budget:
                    with self._lock:
                        self.away = True
                    raise settled from error
                time.sleep(min(0.3, max(0.05, left - 0.05)))
            else:
                self.fine()
                return answer

    def _note_in_budget(self, error: Away) -> None:
        with self._lock:
            if self._trouble_since is None:
                self._trouble_since = time.monotonic()
            self.reason, self.denied = error.reason, error.denied
