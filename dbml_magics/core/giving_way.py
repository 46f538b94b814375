"""Threads that work on what they share one at a time, and let each other work while they wait for an answer.

A thread that belongs to nobody's :class:`Lane` gives way to nobody: here it waits as it would anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Protocol, TypeVar, cast

from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.interrupts import deferred, is_held_back

__all__ = ["Lane", "OneAtATime", "current", "gives_way", "giving_way", "in_lane"]

T = TypeVar("T")
_LONGEST_S = 120.0  # how long what another thread does is waited for, before it is tried later


class Lane(Protocol):
    """What a thread works in that shares what it works on with others."""

    def giving_way(self) -> AbstractContextManager[None]:
        """Let others work during a block that waits for an answer."""

    def acquire(self, lock: threading.Lock, seconds: float) -> bool:
        """Let others work until a lock is taken, at most so long; tells whether it is."""


_lane: ContextVar[Lane | None] = ContextVar("dbml_lane", default=None)


def current() -> Lane | None:
    """Return the lane in which this thread works now; None where it has none, or gives way."""
    return _lane.get()


@contextmanager
def in_lane(lane: Lane | None) -> Iterator[None]:
    """Have this thread work in a lane during a block, or (None) in none."""
    token = _lane.set(lane)
    try:
        yield
    finally:
        _lane.reset(token)


def giving_way() -> AbstractContextManager[None]:
    """Let others work during a block that waits for an answer."""
    lane = _lane.get()
    return nullcontext() if lane is None else lane.giving_way()


class _GivesWay:
    """Something during whose calls others work."""

    def __init__(self, asked: object) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> object:
        found = getattr(self._asked, name)
        return _giving_way_in(found) if callable(found) else found


def _giving_way_in(call: Callable[..., T]) -> Callable[..., T]:
    @wraps(call)
    def given(*args: object, **kwargs: object) -> T:
        with giving_way():
            return call(*args, **kwargs)

    return given


def gives_way(asked: T) -> T:
    """Return something that does what ``asked`` does, and during whose calls others work."""
    return cast(T, _GivesWay(asked))


@dataclass
class _Held:
    """What one thread does that no other may do meanwhile."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    owner: int | None = None
    users: int = 0


class OneAtATime:
    """Lets one thread at a time do what stands under a key: find something, or make it where it is not there.

    The thread itself may begin it again within.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[tuple[str, str], _Held] = {}

    @contextmanager
    def doing(self, kind: str, name: str) -> Iterator[None]:
        """Do it alone. Raises Unavailable where another thread is at it for too long."""
        key, own, taken = (kind, name), threading.get_ident(), False
        with deferred(), self._guard:
            held = self._held.setdefault(key, _Held())
            held.users += 1
        try:
            if held.owner != own:
                with deferred():
                    taken = self._take(held)
                    held.owner = own if taken else held.owner
                if not taken:
                    raise Unavailable(f"waits for another thread with the {kind}", sent=False, elsewhere=True)
            yield
        finally:
            with deferred(), self._guard:
                if taken:
                    held.owner = None
                    held.lock.release()
                held.users -= 1
                if not held.users:
                    del self._held[key]

    @staticmethod
    def _take(held: _Held) -> bool:
        lane = _lane.get()
        if held.lock.acquire(blocking=False):
            return True
        if lane is not None:
            return lane.acquire(held.lock, _LONGEST_S)
        from dbml_magics.core.destinations.rest import timeout_left

        # Whoever calls from outside waits no longer than for an answer, and heeds an interrupt.
        until = time.monotonic() + min(_LONGEST_S, timeout_left())
        while not is_held_back() and (left := until - time.monotonic()) > 0:
            if held.lock.acquire(timeout=min(left, 0.1)):
                return True
        return False
