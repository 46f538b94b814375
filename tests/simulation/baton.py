"""Lanes whose threads hand a baton on: one works until it would wait, and chance says which goes on then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from dbml_magics.core.delivery.events import TurnOver
from dbml_magics.core.giving_way import current, in_lane

_SPINS = 10_000  # times that a lane finds taken what it waits for: nobody will ever give it back


class Crash(BaseException):
    """The process ends here."""


class Baton:
    """Lanes of which one moves at a time; the same chance moves them in the same order."""

    def __init__(self, most: int, chance: Random) -> None:
        self.most = most
        self._chance = chance
        self._back = threading.Semaphore(0)
        self._begun: list[_Lane] = []

    @property
    def busy(self) -> bool:
        """Tell whether a turn has begun whose end nobody has asked for yet."""
        return bool(self._begun)

    @property
    def is_mine(self) -> bool:
        """Tell whether this thread works here now."""
        return current() in self._begun

    def begin(self, turn: Callable[[], TurnOver]) -> None:
        """Begin a turn, which moves once chance says so."""
        self._begun.append(_Lane(turn, self._back))

    def next_over(self, seconds: float) -> TurnOver:
        """Let turns go on, a step of one of them at a time, until one is over. Raises what ended it."""
        while True:
            lane = self._chance.choice(self._begun)
            lane.move()
            if lane.error is not None:
                self._end_all()
                raise lane.error
            if lane.over is not None:
                self._begun.remove(lane)
                return lane.over

    def _end_all(self) -> None:
        """End the threads of a process that was killed."""
        for lane in self._begun:
            lane.end()
        self._begun.clear()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Do nothing: nobody else works while somebody does."""
        yield


class _Lane:
    """One turn, in a thread that moves only while it has the baton."""

    def __init__(self, turn: Callable[[], TurnOver], back: threading.Semaphore) -> None:
        self._turn, self._back = turn, back
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_ended = False
        self.over: TurnOver | None = None
        self.error: BaseException | None = None

    def move(self) -> None:
        """Let it go on until it would wait, or is over."""
        if not self._thread.is_alive():
            self._thread.start()
        self._go.release()
        self._back.acquire()

    def end(self) -> None:
        """Have its thread end where it stands."""
        if self._thread.is_alive():
            self._is_ended = True
            self._go.release()
            self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            with in_lane(self):
                self.over = self._turn()
        except BaseException as error:
            self.error = error
        self._back.release()

    def _hand_on(self) -> None:
        if not self._is_ended:
            self._back.release()
            self._go.acquire()
        if self._is_ended:
            raise Crash

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Let others move before a block and after it: a request takes time on both ways."""
        self._hand_on()
        try:
            with in_lane(None):
                yield
        except Exception:
            self._hand_on()
            raise
        self._hand_on()

    def acquire(self, lock: threading.Lock, seconds: float) -> bool:
        """Let others move until a lock is free."""
        for _ in range(_SPINS):
            if lock.acquire(blocking=False):
                return True
            self._hand_on()
        raise AssertionError("two turns wait for each other")
