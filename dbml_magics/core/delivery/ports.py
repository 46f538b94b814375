"""What delivery needs of the link whose writes it delivers."""

from __future__ import annotations

import random
from typing import Protocol

from dbml_magics.core.clock import Clock
from dbml_magics.core.delivery.writers.side import LinkParts
from dbml_magics.core.model.operations import Operation
from dbml_magics.core.outbox.state import State
from dbml_magics.core.tracking.journal import Entry, Journal


class Runtime(Protocol):
    """One link in one process."""

    journal: Journal
    state: State
    clock: Clock
    chance: random.Random
    parts: LinkParts
    """What the writers of every workspace get of the link."""
    retired: bool
    """Nobody is linked any more: threads end once everything is delivered."""

    def write(self, queue: str, op: Operation) -> None:
        """Journal one write."""

    def begin_delivery(self, role: str) -> None:
        """Put in doubt what this process has not written itself and delivers from now on."""

    def is_waiting(self, role: str, queue: str) -> bool:
        """Tell whether anything of a queue is still on its way to a workspace."""

    def waiting(self, role: str) -> tuple[int, float]:
        """Return how many writes wait for a workspace, and the oldest one's age in seconds."""

    def release_spool(self, queue: str, entry: Entry) -> None:
        """Delete the copy that a write has in the spool, once every workspace is beyond it."""

    def release_copy(self, queue: str, spool: str) -> None:
        """Delete an artifact's copy that a dead letter needed, unless it is on its way elsewhere."""

    def tidy(self, queue: str) -> None:
        """Delete a queue's files once they are delivered everywhere and the run needs them no more."""

    def close_if_left(self) -> None:
        """Close a retired link's files once nothing is in flight."""

    def experiments_in(self, queue: str) -> set[str | None]:
        """Return the experiments of a queue: its run's, and those of the models that began in it."""

    def contents_of(self, experiment_id: str, role: str | None = None) -> list[str]:
        """Return the queues of an experiment's runs and models of which something is on its way."""

    def queues_naming(self, model_id: str) -> list[str]:
        """Return the queues that may hold writes to a logged model."""
