"""Waiting with a deadline, and a word now and then about what for."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dbml_magics.common.hints import Remedy
from dbml_magics.errors import Refused

__all__ = ["Patience", "every", "lock"]

_SAY_S = 0.2
_LOCK_S = 0.05


class Patience:
    """How long something is waited for."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._began = time.monotonic()

    def waits(self, seconds: float, say: Callable[[], None]) -> bool:
        """Sleep, calling ``say`` a few times a second; False once the time is over."""
        left = self._limit - self.waited
        if left > 0:
            every(min(seconds, left), say)
        return left > 0

    @property
    def waited(self) -> float:
        """Return how long it has been (seconds)."""
        return time.monotonic() - self._began

    @property
    def limit(self) -> str:
        """Return how long it may be, in words."""
        return f"{self._limit / 60:g} minutes"


def every(seconds: float, say: Callable[[], None]) -> None:
    """Sleep, calling ``say`` a few times a second."""
    until = time.monotonic() + seconds
    while True:
        say()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, _SAY_S))


@contextmanager
def lock(path: Path, endpoint: str, limit: float, say: Callable[[], None]) -> Iterator[None]:
    """Hold a file's lock for the length of the block. Raises Refused after ``limit`` seconds."""
    patience = Patience(limit)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)) as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not patience.waits(_LOCK_S, say):
                    raise Refused(
                        f"another process has been changing endpoint {endpoint} for {patience.limit}.",
                        remedies=[(Remedy("endpoints", endpoint), "shows how it is")],
                    ) from None
        yield
