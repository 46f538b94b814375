"""The time, as delivery sees it: of this machine, or of a test that moves it on by itself."""

from __future__ import annotations

import time
from typing import Protocol

from dbml_magics.core.giving_way import giving_way


class Waitable(Protocol):
    """Something that can be waited for."""

    def wait(self, timeout: float) -> bool:
        """Wait at most so many seconds; returns whether it has come."""


class Clock(Protocol):
    """Tells the time and lets it pass."""

    def time(self) -> float:
        """Return the seconds since the epoch."""

    def monotonic(self) -> float:
        """Return the seconds since some moment; never set back."""

    def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""

    def wait(self, event: Waitable, seconds: float) -> bool:
        """Wait for an event, at most so many seconds; returns whether it has come."""


class SystemClock:
    """The machine's own."""

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return the seconds since this machine began, or the like."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Return after so many seconds, in which others of this thread's lane work."""
        with giving_way():
            time.sleep(seconds)

    def wait(self, event: Waitable, seconds: float) -> bool:
        """Wait for an event, at most so many seconds; returns whether it has come."""
        return event.wait(seconds)


SYSTEM: Clock = SystemClock()
