"""Decide which queues of one destination are delivered when: no thread, no clock, no I/O.

What happened is told with the time at which it did, in seconds on the monotonic clock; what follows from it
is asked for with the time that it is.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from dbml_magics.common.config import linger_seconds, longest_pause_seconds
from dbml_magics.core.destinations.errors import Blocked, Busy, Unavailable

__all__ = ["Scheduler"]

_STEADY_TIMES = 10  # how much longer a run is gathered that logs nothing but metrics, params and tags
_ISOLATED_TRIES, _ISOLATED_S = 5, 15.0  # before a write that fails is tried apart from the others
_ISOLATED_PAUSE_S = 4.0  # the longest between these tries
_ALONE_TRIES, _ALONE_S = 8, 60.0  # before it is put aside though nothing of its kind has passed meanwhile
_BLOCKED_S = 0.5  # between two looks whether what a write waits for has arrived
_ELSEWHERE_S, _LONGEST_S = (
    4.0,
    15.0,
)  # the longest between two tries, of what waits for others and of the rest
_RECENT_S = 60.0  # the time over which the rate of delivery is taken
_BUG_TRIES = 12  # some minutes: what fails while a library is being imported passes afterwards


@dataclass
class _Failing:
    """How long the next write of a queue has been failing although the destination answers."""

    since: float
    tries: int = 0
    denied: bool = False  # until somebody gives a right, or opens a firewall


@dataclass
class _Pause:
    """How long a queue is left alone."""

    tries: int = 0
    until: float = 0.0


class Scheduler:
    """What one destination's queues wait for, and which of them is next."""

    def __init__(self, first: str, chance: random.Random | None = None) -> None:
        self._first = first
        self._chance = chance or random.Random()
        self.due: set[str] = set()
        """Queues with writes to deliver; threads that log add to it."""
        self.soon = False
        """Something waits that others look for: a begin, an end, a file, a model."""
        self._steady_since: float | None = None
        self._pass: list[str] = []  # queues of the pass under way
        self._position = 0
        self._more: list[str] = []  # those of them that have more than one part
        self._pauses: dict[str, _Pause] = {}
        self._troubles: dict[str, str] = {}  # queue -> why it does not move
        self._busy: set[str] = set()  # queues whose next write the destination takes later, as it says
        self._failing: dict[str, _Failing] = {}
        self._bugs: dict[str, int] = {}
        self._passed: dict[str, float] = {}  # kind of write -> when the last one went through
        self._recent: deque[tuple[float, int]] = deque()  # when writes arrived, and how many

    # --- gathering

    @property
    def is_steady(self) -> bool:
        """Tell whether nothing but metrics, params and tags has come of late."""
        return self._steady_since is not None

    def unsteady(self) -> None:
        """Note that something else came, or that nothing did: the next write does not wait for others."""
        self._steady_since = None

    def steady(self, now: float) -> None:
        """Note that a round has delivered nothing but metrics, params and tags, and nobody waited for it."""
        if self._steady_since is None:
            self._steady_since = now

    def gathering_seconds(self, began: float, now: float, batch: int) -> float:
        """Return for how long writes are still gathered, ``batch`` of them at most, since ``began``.

        The longer, the longer nothing but metrics, params and tags has come: each batch costs this machine
        and the service some milliseconds, however little is in it.
        """
        shortest = longest = linger_seconds()
        if not self.soon and self._steady_since is not None:
            longest = min(began - self._steady_since, _STEADY_TIMES * shortest)
            if rate := self.rate(now):  # a full batch has nothing to wait for
                longest = min(longest, batch / rate)
        return began + max(shortest, longest) - now

    # --- rounds

    def begin_round(self) -> None:
        """Take what is due into a round: experiments first, then runs, a part of each in turn."""
        self._pass = sorted(self.due, key=lambda queue: (queue != self._first, queue))
        self.due.difference_update(self._pass)
        self._position, self._more = 0, []

    def next(self, now: float) -> str | None:
        """Return the queue whose next part is to be delivered; None at the round's end."""
        while True:
            while self._position < len(self._pass):
                queue = self._pass[self._position]
                self._position += 1
                if self._pauses.get(queue, _Pause()).until <= now:
                    return queue
                self.due.add(queue)
            if not self._more:
                return None
            self._pass, self._position, self._more = self._more, 0, []

    def again(self, queue: str) -> None:
        """Note that another part of a queue is left, for the round's next pass."""
        self._more.append(queue)

    def postpone(self) -> None:
        """End the round before its time: the whole pass is due again."""
        self.due.update(self._pass)
        self._pass, self._position, self._more = [], 0, []

    # --- what came of a delivery

    def delivered(self, queue: str) -> None:
        """Note that a part of a queue was delivered."""
        self._pauses.pop(queue, None)
        self._troubles.pop(queue, None)
        self._busy.discard(queue)

    def stumbled(self, queue: str, now: float) -> None:
        """Note that this machine, or a fault of ours, kept a queue from being delivered."""
        self._pause(queue, now, _LONGEST_S)

    def unavailable(self, queue: str, error: Unavailable, now: float) -> bool:
        """Note that a queue could not be delivered; True where its own write may be the cause.

        Whether the destination answers otherwise has to be asked then; see :meth:`isolate`.
        """
        self._steady_since = None
        if error.elsewhere:
            if isinstance(error, Busy):
                self._busy.add(queue)
                self._troubles[queue] = error.reason
            most = _BLOCKED_S if isinstance(error, Blocked) else _ELSEWHERE_S
            self._pause(queue, now, most, error.retry_after or 0.0)
            return False
        again = queue in self._pauses
        pause = self._pauses.setdefault(queue, _Pause())
        pause.tries, pause.until = pause.tries + 1, 0.0
        return (error.sent or error.denied) and (again or error.retry_after is None)

    def isolate(self, queue: str, error: Unavailable, now: float) -> None:
        """Note that the destination answers: this queue alone has trouble, and no other waits for it."""
        self._troubles[queue] = error.reason
        failing = self._failing.setdefault(queue, _Failing(now))
        failing.tries += 1
        failing.denied = error.denied
        most = _ISOLATED_PAUSE_S if failing.tries <= _ISOLATED_TRIES else _LONGEST_S
        self._pause(queue, now, most, error.retry_after or 0.0)

    def moved(self, queue: str, own: bool) -> None:
        """Note that a queue has come further, by this process's ``own`` writes alone or others' too."""
        self._failing.pop(queue, None)
        if not own:  # whoever waits for them there cannot make this process hurry
            self._steady_since = None

    def passed(self, kind: str, now: float) -> None:
        """Note that a write of a kind went through."""
        self._passed[kind] = now

    def arrived(self, count: int, now: float) -> None:
        """Note that so many writes have arrived."""
        self._recent.append((now, count))
        while self._recent[0][0] < now - _RECENT_S:
            self._recent.popleft()

    def bug(self, write: str) -> bool:
        """Count an error that is none of the destination's; True when its write is to be put aside."""
        self._bugs[write] = self._bugs.get(write, 0) + 1
        return self._bugs[write] >= _BUG_TRIES

    def _pause(self, queue: str, now: float, most: float, least: float = 0.0) -> None:
        """Leave one queue alone for a while, longer each time."""
        pause = self._pauses.setdefault(queue, _Pause())
        pause.tries += 1
        seconds = min(0.1 * 2 ** min(pause.tries, 8), most, longest_pause_seconds())
        pause.until = now + max(seconds * self._chance.uniform(0.7, 1.3), least)

    # --- what is known of a queue

    def paused(self, queue: str) -> tuple[int, float] | None:
        """Return how often a queue was left alone in a row and until when (monotonic); None if it is not."""
        pause = self._pauses.get(queue)
        return None if pause is None else (pause.tries, pause.until)

    def is_isolated(self, queue: str, now: float) -> bool:
        """Tell whether the next write of a queue fails time and again although the destination answers."""
        return self._has_failed(queue, now, _ISOLATED_TRIES, _ISOLATED_S)

    def has_failed_long(self, queue: str, now: float, times: int = 1) -> bool:
        """Tell whether the next write of a queue has failed so long that nothing more is waited for."""
        return self._has_failed(queue, now, times * _ALONE_TRIES, times * _ALONE_S)

    def _has_failed(self, queue: str, now: float, tries: int, seconds: float) -> bool:
        failing = self._failing.get(queue)
        return failing is not None and failing.tries >= tries and now - failing.since >= seconds

    def passes(self, kind: str, queue: str) -> bool:
        """Tell whether a write of a kind went through since a queue's next one began to fail."""
        failing = self._failing.get(queue)
        return failing is not None and self._passed.get(kind, float("-inf")) > failing.since

    def in_trouble(self, queue: str) -> bool:
        """Tell whether a queue does not move although the destination answers."""
        return queue in self._troubles

    def takes_later(self, queue: str, now: float) -> bool:
        """Tell whether a queue's next write has to wait although the destination answers.

        It is busy, as it says itself; or it denies the write; or the write fails time and again.
        """
        failing = self._failing.get(queue)
        denied = failing is not None and failing.denied and failing.tries > 1 and self.in_trouble(queue)
        return queue in self._busy or denied or self.is_isolated(queue, now)

    @property
    def trouble(self) -> str | None:
        """Return why a queue does not move although the destination answers, or None."""
        return next(iter(list(self._troubles.values())), None)

    @property
    def trouble_since(self) -> float | None:
        """Return since when a queue does not move although the destination answers, or None."""
        failing = list(self._failing.items())
        return min((each.since for queue, each in failing if self.in_trouble(queue)), default=None)

    def rate(self, now: float) -> float:
        """Return how many writes a second have arrived of late, since the first of them."""
        recent = [(when, count) for when, count in list(self._recent) if when >= now - _RECENT_S]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(now - recent[0][0], 1.0)
