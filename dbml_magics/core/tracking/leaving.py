"""What the end of a process needs of each of the links that the process has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # whoever asks for nothing but a link's status imports no MLflow
    from dbml_magics.core.delivery.writers.side import Side
    from dbml_magics.core.destinations.health import Health
    from dbml_magics.core.link import Link
    from dbml_magics.core.outbox.state import State
    from dbml_magics.core.tracking.journal import Journal


class LinkHere(Protocol):
    """One link in this process."""

    link: Link
    journal: Journal
    state: State

    @property
    def health(self) -> Mapping[str, Health]:
        """Return how each workspace is."""

    def side(self, role: str) -> Side:
        """Return one workspace's ids and writers."""

    def is_waiting(self, role: str, queue: str) -> bool:
        """Tell whether anything of a queue is still on its way to a workspace."""

    def waiting(self, role: str) -> tuple[int, float]:
        """Return how many writes wait for a workspace, and the oldest one's age in seconds."""

    def wait(self, role: str, queues: Iterable[str] | None = None, timeout: float | None = None) -> bool:
        """Wait until what is journaled now has arrived at a workspace; False when the time is up."""

    def rest(self, seconds: float) -> bool:
        """Have the workers send nothing more; False when another process delivers to a workspace."""

    def open_runs(self, resumed: Iterable[str] = ()) -> list[str]:
        """Return the runs that this process began or ``resumed``, and that have not ended."""

    def end_run(self, run_id: str, status: str) -> None:
        """End a run that this process began, now."""
