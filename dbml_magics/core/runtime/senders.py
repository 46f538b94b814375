"""A delivery worker, as those see it who write to the journal or wait for what they wrote."""

from __future__ import annotations

from typing import Protocol


class Sender(Protocol):
    """Sends the queues that it is notified of."""

    def notify(self, queue: str) -> None:
        """Tell that a queue has a new write (called on the path of every log call)."""

    def notify_soon(self, queue: str) -> None:
        """Tell that a queue has a new write that others wait to see."""

    def hurry(self) -> None:
        """Tell that somebody waits: send at once instead of gathering."""

    def wait_for_arrival(self, seconds: float) -> None:
        """Wait until something has arrived, at most so long."""

    def halt(self) -> None:
        """Have the thread send nothing more."""

    def come_to_rest(self, until: float) -> bool:
        """Wait for the halted thread's end until then (monotonic); True when the lease is ours."""
