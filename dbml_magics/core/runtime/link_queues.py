"""The queues of a link, as the writers of a workspace use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dbml_magics.core.model.operations import CreateRun, Operation
from dbml_magics.core.run_view import QueueView


@dataclass(frozen=True)
class LinkQueues:
    """Calls of the components of a link that writers need (the Protocol ``Queues`` describes each)."""

    write: Callable[[str, Operation], None]
    creation_of: Callable[[str], CreateRun | None]
    queue_view: Callable[[str], QueueView | None]
    is_waiting: Callable[[str, str], bool]
    left: Callable[[str, str, dict[str, int]], dict[str, int]]
    files_of: Callable[[str], ArtifactRepository]
