"""Which queue goes before which: the one that a write comes after is delivered, then the write's own again.

All of it is forgotten when a round begins. It never goes in a circle: of two queues that wait for each other,
the second one goes on without the first, or waits for a later round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Precedence:
    """The order between the queues of one round."""

    def __init__(self) -> None:
        self._ahead: dict[str, str] = {}  # queue -> the one that its next write lets go first
        self._gone: dict[str, set[str]] = {}  # queue -> those that have gone before that write
        self._failed: set[str] = set()  # by a failure of their own: they get no other turn in the round

    def begin_round(self, left_alone: Iterable[str] = ()) -> None:
        """Forget what the last round was about, but for the failures of queues that are left alone."""
        self._ahead.clear()
        self._gone.clear()
        self._failed.intersection_update(left_alone)

    def may_go(self, other: str, before: str) -> bool:
        """Tell whether another queue can still be delivered before a queue's next write.

        Not one that went before it as far as it could, nor one that failed in this round, nor one that waits
        for the queue, itself or by way of others.
        """
        if not other or other in self._gone.get(before, ()) or other in self._failed:
            return False
        waits: str | None = other
        while waits is not None and waits != before:
            waits = self._ahead.get(waits)
        return waits is None

    def waits(self, queue: str, is_on_its_way: Callable[[str], bool]) -> bool:
        """Tell whether a queue's next write lets another one go first that has yet to go in this round."""
        ahead = self._ahead.get(queue)
        return ahead is not None and is_on_its_way(ahead)

    def let_go(self, other: str, before: str) -> None:
        """Note that a queue waits until another one has gone as far as it can."""
        self._ahead[before] = other

    def went(self, queue: str) -> None:
        """Note that a queue went as far as it can for now: nobody waits for more of it."""
        for other in [other for other, ahead in self._ahead.items() if ahead == queue]:
            del self._ahead[other]
            self._gone.setdefault(other, set()).add(queue)

    def stopped(self, queue: str, *, failed: bool) -> None:
        """Note that a queue's next write is not carried out; what comes before it does so again next time."""
        if failed:
            self._failed.add(queue)
        self._forget(queue)
        self.went(queue)

    def moved(self, queue: str) -> None:
        """Note that a queue's next write is another one, and that others may have waited for the last."""
        self._forget(queue)
        for other in [other for other, ahead in self._ahead.items() if ahead == queue]:
            del self._ahead[other]

    def _forget(self, queue: str) -> None:
        self._ahead.pop(queue, None)
        self._gone.pop(queue, None)
