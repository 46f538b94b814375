"""MLflow's plugin points: loaded while ``import mlflow`` runs, so nothing here may import mlflow.

Entry points ``mlflow.tracking_store``, ``mlflow.model_registry_store`` and ``mlflow.artifact_repository`` of
scheme ``dbml`` name these three functions.
"""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING

from dbml_magics.core.plugin import job_run  # noqa: F401 - read before MLflow forgets it

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from dbml_magics.core.plugin.registry_store import DbmlRegistryStore
    from dbml_magics.core.plugin.tracking_store import DbmlTrackingStore


def tracking_store(store_uri: str | None = None, **_: object) -> DbmlTrackingStore:
    """Build the tracking store of a ``dbml:`` URI."""
    from dbml_magics.core.plugin.tracking_store import build

    return build(store_uri)


def registry_store(store_uri: str | None = None, **_: object) -> DbmlRegistryStore:
    """Build the model registry store of a ``dbml:`` URI."""
    from dbml_magics.core.plugin.registry_store import build

    return build(store_uri)


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """Build the artifact repository of a ``dbml:`` artifact URI."""
    from dbml_magics.core.plugin.artifacts import build

    return build(artifact_uri, tracking_uri, registry_uri)


def _flush_at_exit() -> None:
    engines = sys.modules.get("dbml_magics.core.runtime.engines")
    if engines is not None:
        engines.flush_all_at_exit()


# Handlers run last in, first out: MLflow registers its own (which ends the active run) after its plugins are
# loaded, so this one runs after the run was ended and delivers that end too.
atexit.register(_flush_at_exit)
