"""The two sides of a link on destinations in memory, without an engine, a worker or a thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dbml_magics.core.delivery.writers.ports import Queues
from dbml_magics.core.delivery.writers.side import LinkParts, Side
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.model.operations import CreateRun, Operation
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State
from tests.infra.clock import FakeClock
from tests.infra.memory_destination import MemoryDestination

__all__ = ["ROLES", "Sides"]

ROLES = "databricks", "azureml"


@dataclass(frozen=True)
class _Topology:
    key: str
    tracked: tuple[str, ...]
    registries: tuple[str, ...]

    @property
    def primary(self) -> str:
        return self.tracked[0]


@dataclass
class _Queues:
    """Queues of which a test says what is in them."""

    written: list[tuple[str, Operation]] = field(default_factory=list)
    creations: dict[str, CreateRun] = field(default_factory=dict)
    waiting: set[tuple[str, str]] = field(default_factory=set)
    files: dict[str, ArtifactRepository] = field(default_factory=dict)

    def calls(self) -> Queues:
        return Queues(
            write=lambda queue, op: self.written.append((queue, op)),
            creation_of=self.creations.get,
            queue_view=lambda _: None,
            is_waiting=lambda role, queue: (role, queue) in self.waiting,
            left=lambda role, queue, goal: goal if (role, queue) in self.waiting else {},
            files_of=self._files_of,
        )

    def _files_of(self, owner: str) -> ArtifactRepository:
        if owner not in self.files:
            raise MlflowException(f"no files of {owner}", RESOURCE_DOES_NOT_EXIST)
        return self.files[owner]


@dataclass
class _Turns:
    """A worker of which a test says what it has to leave alone."""

    has_lease: bool = True
    unsettled: Exception | None = None

    def let_settle(self) -> None:
        if self.unsettled is not None:
            raise self.unsettled


class Sides:
    """A link's sides by role, and what they were made of."""

    def __init__(
        self,
        folder: Path,
        there: Mapping[str, MemoryDestination],
        *,
        tracked: tuple[str, ...] = ROLES,
        registries: tuple[str, ...] = ROLES,
    ) -> None:
        self.there = there
        self.clock, self.queues = FakeClock(), _Queues()
        self.turns = {role: _Turns() for role in there}
        self.health = {role: Health(self.clock) for role in there}
        self.state = State(folder / "state.db")
        self.journal = Journal(folder / "journal")
        self._parts = LinkParts(
            _Topology("link", tracked, registries),
            there,
            self.health,
            self.state,
            self.journal,
            self.queues.calls(),
            self.clock,
            lambda role: self.of[role].reader,
        )
        self.of: dict[str, Side] = {}
        self.start_again()

    def start_again(self) -> None:
        """Make the sides anew, as another process does that finds what this one left."""
        self.of = {role: Side(role, self._parts, self.turns[role]) for role in self.there}

    def close(self) -> None:
        """Close what is open."""
        self.journal.close()
        self.state.close()
