"""Where a worker's turns are carried out: several at a time, of which one works while the others wait.

Writers keep what they know between requests. So of all threads that deliver to one workspace one works at a
time, and gives way while it waits: for an answer, for a pause to pass, for what another one does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Protocol

from dbml_magics.core.delivery.events import TurnOver
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.giving_way import current, in_lane

__all__ = ["Lanes", "Threads", "lanes_to"]

_MOST = 8
"""Of the ten requests that a process has under way at a workspace two are left to whoever reads."""

_IDLE_S = 5.0  # how long a thread waits for another turn


class Lanes(Protocol):
    """Where turns are carried out."""

    @property
    def most(self) -> int:
        """Return how many turns go on at a time."""

    @property
    def busy(self) -> bool:
        """Tell whether a turn has begun whose end nobody has asked for yet."""

    @property
    def is_mine(self) -> bool:
        """Tell whether this thread works here now."""

    def begin(self, turn: Callable[[], TurnOver]) -> None:
        """Begin a turn."""

    def next_over(self, seconds: float) -> TurnOver | None:
        """Wait for a turn to be over, at most so long; returns what it came to, or None."""

    def working(self) -> AbstractContextManager[None]:
        """Keep others from working during a block."""


class Threads:
    """Lanes that are threads, which end once there has been nothing to do for a while."""

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self._name = name
        self._monitor = threading.Lock()
        self._counting = threading.Lock()
        self._threads = self._under_way = 0
        self._begun: SimpleQueue[Callable[[], TurnOver]] = SimpleQueue()
        self._over: SimpleQueue[TurnOver | BaseException] = SimpleQueue()

    @property
    def busy(self) -> bool:
        """Tell whether a turn has begun whose end nobody has asked for yet."""
        return self._under_way > 0

    @property
    def is_mine(self) -> bool:
        """Tell whether this thread works here now."""
        return current() is self

    def begin(self, turn: Callable[[], TurnOver]) -> None:
        """Begin a turn: in a thread of its own, where others may go on beside it."""
        self._under_way += 1
        if self.most == 1:
            self._take(turn)
            return
        with self._counting:
            self._begun.put(turn)
            if self._threads >= self._under_way:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:  # the interpreter is ending, or this machine has no more threads to give
            with self._counting:
                self._threads -= 1
            with suppress(Empty):  # else another thread has taken it
                self._take(self._begun.get_nowait())

    def _run(self) -> None:
        while True:
            try:
                turn = self._begun.get(timeout=_IDLE_S)
            except Empty:
                with self._counting:  # a turn that begins now finds this thread, or begins another one
                    if self._begun.empty():
                        self._threads -= 1
                        return
            else:
                self._take(turn)

    def _take(self, turn: Callable[[], TurnOver]) -> None:
        try:
            with self.working():
                over: TurnOver | BaseException = turn()
        except BaseException as error:  # of the thread that waits for it
            over = error
        self._over.put(over)

    def next_over(self, seconds: float) -> TurnOver | None:
        """Wait for a turn to be over, at most so long; returns what it came to, or None."""
        try:
            over = self._over.get(timeout=max(0.0, seconds))
        except Empty:
            return None
        self._under_way -= 1
        if isinstance(over, BaseException):
            raise over
        return over

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep others from working during a block."""
        if self.is_mine:
            yield
            return
        with self._monitor, in_lane(self):
            yield

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Let others work during a block that waits for an answer."""
        self._monitor.release()
        try:
            with in_lane(None):
                yield
        finally:
            self._monitor.acquire()

    def acquire(self, lock: threading.Lock, seconds: float) -> bool:
        """Let others work until a lock is taken, at most so long; tells whether it is."""
        with self.giving_way():
            return lock.acquire(timeout=seconds)


def lanes_to(destination: Destination, name: str) -> Lanes:
    """Return the lanes to a workspace: one where a database here answers, which takes one at a time."""
    return Threads(_MOST if destination.capabilities.answers_by_rest else 1, name)
