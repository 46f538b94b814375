"""Decide when files that a destination does not take now are tried again: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable

_SHORTEST_S, _LONGEST_S = 15.0, 600.0  # between two tries of one file


class UploadBackoff:
    """When the dead letters of files are tried again: one while none goes through, else all."""

    def __init__(self) -> None:
        self.closed = False
        """No upload has gone through since the last one that was put aside."""
        self._pause_s = _SHORTEST_S
        self._next: dict[int, float] = {}  # number of a dead letter -> when it is tried
        self._loaded = False

    def load(self, numbers: Iterable[int], now: float) -> None:
        """Take over the dead letters that are there, once."""
        if not self._loaded:
            self._loaded = True
            self._next = dict.fromkeys(numbers, now + self._pause_s)

    def add(self, number: int, now: float) -> None:
        """Note a file that was put aside."""
        self._next[number] = now + self._pause_s
        self.closed = True

    def arrived(self, number: int) -> None:
        """Note that a file is put aside no more."""
        self._next.pop(number, None)

    def failed(self, number: int, now: float) -> None:
        """Note another try in vain: the next one comes later."""
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        self._next[number] = now + self._pause_s

    def went_through(self) -> None:
        """Note that an upload went through: all are due."""
        if self.closed:
            self.closed, self._pause_s = False, _SHORTEST_S
            self._next = dict.fromkeys(self._next, 0.0)

    def due(self, now: float) -> list[int]:
        """Return what is to be tried now."""
        due = [number for number, at in self._next.items() if at <= now]
        return due[:1] if self.closed else due

    def under_way(self, number: int, now: float) -> None:
        """Note that a try waits in its queue, and is not to be made again before its outcome."""
        if number in self._next:
            self._next[number] = now + _LONGEST_S
