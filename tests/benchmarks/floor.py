"""A tracking store that does nothing: what an MLflow call costs before any store has done anything."""

from __future__ import annotations

from typing import Any

from mlflow.entities import Experiment, LifecycleStage, Run, RunData, RunInfo, RunStatus
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.tracking.abstract_store import AbstractStore

URI = "floor://nowhere"


class FloorStore(AbstractStore):  # type: ignore[misc]
    """Takes every write and keeps none; one experiment, and runs in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Run] = {}
        self.experiment = Experiment("0", "floor", "floor://nowhere/0", LifecycleStage.ACTIVE)

    def get_experiment(self, experiment_id: str) -> Experiment:
        return self.experiment

    def get_experiment_by_name(self, experiment_name: str) -> Experiment:
        return self.experiment

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: list[Any], run_name: str | None
    ) -> Run:
        run_id = f"{len(self.runs):032x}"
        info = RunInfo(
            run_id=run_id,
            experiment_id="0",
            user_id="bench",
            status=RunStatus.to_string(RunStatus.RUNNING),
            start_time=start_time,
            end_time=None,
            lifecycle_stage=LifecycleStage.ACTIVE,
            artifact_uri=f"floor://nowhere/0/{run_id}/artifacts",
            run_name=run_name or "run",
        )
        self.runs[run_id] = Run(info, RunData(metrics=[], params=[], tags=tags))
        return self.runs[run_id]

    def get_run(self, run_id: str) -> Run:
        return self.runs[run_id]

    def update_run_info(self, run_id: str, *_: Any, **__: Any) -> RunInfo:
        return self.runs[run_id].info

    def log_batch(self, *_: Any, **__: Any) -> None:
        pass

    def log_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log_param(self, *_: Any, **__: Any) -> None:
        pass

    def set_tag(self, *_: Any, **__: Any) -> None:
        pass


# The rest of the store's methods is never called here.
FloorStore.__abstractmethods__ = frozenset()


class FloorArtifacts(ArtifactRepository):  # type: ignore[misc]
    """Takes every file and keeps none."""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        pass

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        pass

    def list_artifacts(self, path: str | None = None) -> list[Any]:
        return []

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        raise FileNotFoundError(remote_file_path)


def use() -> None:
    """Make the floor this process's tracking store and registry."""
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    store = FloorStore()
    _tracking_store_registry.register("floor", lambda *_, **__: store)
    _artifact_repository_registry.register("floor", FloorArtifacts)
    mlflow.set_tracking_uri(URI)
    mlflow.set_registry_uri(URI)
