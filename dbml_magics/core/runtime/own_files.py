"""The link's own artifact repositories, as MLflow finds them for user code."""

from __future__ import annotations

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from dbml_magics.core.link import Link
from dbml_magics.core.runtime.visible_ids import VisibleIds


class OwnFiles:
    """Files of runs and logged models at all workspaces of one link."""

    def __init__(self, link: Link, ids: VisibleIds) -> None:
        self._uri = link.uri
        self._ids = ids

    def of(self, owner: str) -> ArtifactRepository:
        """Return the artifact repository of ``run:<id>`` or ``model:<id>``."""
        kind, _, name = owner.partition(":")
        return get_artifact_repository(self._ids.artifact_uri(kind, name), tracking_uri=self._uri)
