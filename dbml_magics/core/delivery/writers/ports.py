"""What the writers of a workspace need of the rest of their link."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.model.operations import CreateRun, Operation
from dbml_magics.core.run_view import QueueView

R = TypeVar("R", covariant=True)
_PRIMARY_S = 10.0  # how long a mirror's worker waits for the primary's answer: it has its own work


class Topology(Protocol):
    """Which workspaces a link has, and what each is for."""

    @property
    def key(self) -> str:
        """Return the name of the link in its own URIs."""

    @property
    def primary(self) -> str:
        """Return the role that names runs."""

    @property
    def tracked(self) -> tuple[str, ...]:
        """Return the roles that runs go to, the primary first."""

    @property
    def registries(self) -> tuple[str, ...]:
        """Return the roles that models are registered at, the first registry first."""


@dataclass(frozen=True)
class Queues:
    """The link's queues, as this process knows them: the calls that its components answer to writers."""

    write: Callable[[str, Operation], None]
    """Journals one write to a queue, of any kind, and folds it into the queue's view."""
    creation_of: Callable[[str], CreateRun | None]
    """Returns the write that began a run, if it is in the journal."""
    queue_view: Callable[[str], QueueView | None]
    """Returns a queue's view if it has one or has files to fold."""
    is_waiting: Callable[[str, str], bool]
    """Tells of a role and a queue whether anything of it is still on its way to the workspace."""
    left: Callable[[str, str, dict[str, int]], dict[str, int]]
    """Returns what of a goal in a role's queue is still on its way to the workspace."""
    files_of: Callable[[str], ArtifactRepository]
    """Returns the link's own artifact repository of ``run:<id>`` or ``model:<id>``."""


class Turns(Protocol):
    """The worker in whose turn a workspace's writes are carried out."""

    @property
    def has_lease(self) -> bool:
        """Tell whether this process delivers to the workspace."""

    def let_settle(self) -> None:
        """Leave alone what an earlier process may yet have under way. Raises Unavailable."""


@dataclass(frozen=True)
class Peers(Generic[R]):
    """The link's workspaces, as one of them asks the others for what it lacks."""

    role: str
    health: Mapping[str, Health]
    readers: Callable[[str], R]
    """Returns the reader of any workspace of the link by its role."""

    @contextmanager
    def asking(self, role: str) -> Iterator[R]:
        """Ask a workspace: that another one is away is then no trouble of this one's.

        Raises Unavailable.
        """
        health = self.health[role]
        try:
            if health.away and role != self.role:
                raise Unavailable(health.reason or "not reachable", sent=False)
            with call_timeout(_PRIMARY_S):
                yield self.readers(role)
        except Exception as error:
            classified = classify_error(error)
            if isinstance(classified, Unavailable) and role != self.role:
                raise Unavailable(
                    f"waits for {role}: {classified.reason}", sent=False, elsewhere=True
                ) from error
            raise classified from error
