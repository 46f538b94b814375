"""Locks that are open in a forked child, whichever thread of the parent held them."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

__all__ = ["ForkLock"]

_made: weakref.WeakSet[ForkLock] = weakref.WeakSet()


class ForkLock:
    """A reentrant lock for ``with``; a forked child has it anew, since who held it is not there."""

    def __init__(self) -> None:
        self.reopen()
        _made.add(self)

    def reopen(self) -> None:
        """Let nobody hold it."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def _after_fork() -> None:
    for lock in list(_made):
        lock.reopen()


os.register_at_fork(after_in_child=_after_fork)
