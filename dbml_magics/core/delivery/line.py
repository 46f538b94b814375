"""The queues that wait for their turn in a round: what this process logs now goes first, and not alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

_SHARE = 4  # of so many turns one is for a queue that nobody logs to now, where there is one


class Line:
    """Two lines of queues, each in the order in which they came."""

    def __init__(self) -> None:
        self._live: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._turns = 0

    def __contains__(self, queue: str) -> bool:
        return queue in self._live or queue in self._others

    def __iter__(self) -> Iterator[str]:
        return chain(self._live, self._others)

    def __bool__(self) -> bool:
        return bool(self._live or self._others)

    def is_live(self, queue: str) -> bool:
        """Tell whether a queue stands among those that this process logs to now."""
        return queue in self._live

    def add(self, queue: str, *, live: bool) -> None:
        """Let a queue stand in line, behind the others; one that is logged to now leaves the other line."""
        if live:
            self._others.pop(queue, None)
            self._live[queue] = None
        elif queue not in self._live:
            self._others[queue] = None

    def remove(self, queue: str) -> None:
        """Have a queue leave."""
        self._live.pop(queue, None)
        self._others.pop(queue, None)

    def clear(self) -> None:
        """Have all leave."""
        self._live.clear()
        self._others.clear()
        self._turns = 0

    def take(self, may_go: Callable[[str], bool]) -> tuple[str, bool] | None:
        """Take the next queue that may go, and tell whether it is logged to now; None where there is none."""
        self._turns += 1
        lines = [self._live, self._others]
        for line in reversed(lines) if self._turns % _SHARE == 0 else lines:
            for queue in line:
                if may_go(queue):
                    del line[queue]
                    return queue, line is self._live
        return None
