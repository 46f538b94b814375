"""A clock that a test moves on."""

from __future__ import annotations

from dbml_magics.core.clock import Waitable
from dbml_magics.core.giving_way import giving_way


class FakeClock:
    """Stands still until it is told to move, or somebody sleeps."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return 1_700_000_000.0 + self.now

    def monotonic(self) -> float:
        """Return the seconds since the clock was made, and some more."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on by so many seconds."""
        with giving_way():
            self.now += seconds

    def wait(self, event: Waitable, seconds: float) -> bool:
        """Move on by so many seconds, unless the event has come."""
        if event.wait(0):
            return True
        self.now += seconds
        return event.wait(0)
