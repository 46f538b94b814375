"""What delivery may ask of a destination, and nothing more: each call once, under the destination's own ids.

A call returns the destination's answer. It raises :class:`~.errors.Unavailable` when the answer is not known,
:class:`~.errors.MissingEndpoint` where the service has no such call, and MLflow's own error for a refusal; an
error of a client's transport goes through :func:`~.errors.settle` first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlflow.entities import DatasetInput, Experiment, LoggedModel, LoggedModelStatus, Metric, Run, ViewType
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.models import Model
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.destinations.limits import Limits

if TYPE_CHECKING:
    from dbml_magics.core.model.mlmodel import MLmodel

__all__ = ["Capabilities", "Destination", "Point", "Registry", "Tracking"]

Point = tuple[Any, ...]
"""Key, value, time, step and perhaps (model, dataset name, dataset digest), plain because there are many."""


@dataclass(frozen=True)
class Capabilities:
    """What a destination does that others do not, declared before anything is asked of it."""

    answers_by_rest: bool = False
    """Answers come over HTTP, where MLflow's messages have no None and versions are text."""
    checks_file_names: bool = True
    """MLflow's own check of paths stands between a file's name and its storage."""
    copies_registered_files: bool = False
    """A registration copies the model's files, and takes as long as they take."""
    names_experiments_itself: bool = False
    """It has a naming rule of its own: ``iris`` for ``/Users/me/folder/iris``."""
    takes_run_ids: bool = False
    """It may be asked to keep a run under an id that the caller chose."""


class Tracking(Protocol):
    """Experiments, runs and logged models."""

    # --- experiments

    def create_experiment(self, name: str, tags: Mapping[str, str], artifacts: str | None = None) -> str:
        """Create an experiment; returns its id."""

    def get_experiment(self, experiment_id: str) -> Experiment:
        """Return an experiment, a deleted one too."""

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """Return the experiment of a name, a deleted one too, or None."""

    def search_experiments(
        self, view: int = ViewType.ACTIVE_ONLY, most: int = 1000, page_token: str | None = None
    ) -> PagedList[Experiment]:
        """Return one page of the experiments, the newest first."""

    def rename_experiment(self, experiment_id: str, name: str) -> None:
        """Rename an active experiment."""

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment with its runs."""

    def restore_experiment(self, experiment_id: str) -> None:
        """Restore a deleted experiment with the runs that were deleted with it."""

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set a tag of an experiment."""

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Delete a tag of an experiment."""

    # --- runs

    def create_run(
        self, experiment_id: str, user: str, start: int, tags: Mapping[str, str], name: str | None
    ) -> Run:
        """Create a run in an active experiment, under an id that the destination chooses."""

    def make_run_as(self, run_id: str, experiment_id: str, start: int, tags: dict[str, str]) -> Run | None:
        """Create a run under ``run_id``, or return None where the destination creates none so."""

    def get_run(self, run_id: str) -> Run:
        """Return a run, a deleted one too."""

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        where: str,
        view: int = ViewType.ACTIVE_ONLY,
        most: int = 1000,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Run]:
        """Return one page of the runs that a filter fits."""

    def log_batch(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Log points, params and tags of a run; what was refused may have been logged in part."""

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run."""

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete a tag of a run."""

    def update_run_info(self, run_id: str, status: int | None, end: int | None, name: str | None) -> None:
        """Change what is given of a run's status, end and name."""

    def delete_run(self, run_id: str) -> None:
        """Delete a run."""

    def restore_run(self, run_id: str) -> None:
        """Restore a deleted run."""

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput], models: Sequence[str]) -> None:
        """Log the datasets and logged models that a run read."""

    def log_outputs(self, run_id: str, models: Mapping[str, int]) -> None:
        """Log the logged models that a run made, with their steps."""

    def get_metric_history(
        self, run_id: str, key: str, most: int | None = None, page_token: str | None = None
    ) -> PagedList[Metric]:
        """Return one page of a metric's points."""

    def record_logged_model(self, run_id: str, model: Model) -> None:
        """Add a model to the run's tag that MLflow 2 reads."""

    # --- logged models

    def create_logged_model(
        self,
        experiment_id: str,
        name: str,
        run_id: str | None,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        kind: str | None,
    ) -> LoggedModel:
        """Create a logged model, under an id that the destination chooses."""

    def get_logged_model(self, model_id: str) -> LoggedModel:
        """Return a logged model that is not deleted."""

    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        where: str | None = None,
        most: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[LoggedModel]:
        """Return one page of the logged models that a filter fits."""

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> None:
        """Set a logged model's status."""

    def set_logged_model_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a logged model."""

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        """Delete a tag of a logged model."""

    def log_logged_model_params(self, model_id: str, params: Mapping[str, str]) -> None:
        """Log params of a logged model, each of which must be new."""

    def delete_logged_model(self, model_id: str) -> None:
        """Delete a logged model."""


class Registry(Protocol):
    """Registered models and their versions."""

    def create_registered_model(
        self, name: str, tags: Mapping[str, str], description: str | None = None
    ) -> RegisteredModel:
        """Create a registered model."""

    def get_registered_model(self, name: str) -> RegisteredModel:
        """Return a registered model."""

    def search_registered_models(
        self, most: int = 100, page_token: str | None = None
    ) -> PagedList[RegisteredModel]:
        """Return one page of the registered models by their names; not all say all that is said of them."""

    def update_registered_model(self, name: str, description: str | None) -> RegisteredModel:
        """Set a registered model's description."""

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a registered model with its versions."""

    def delete_registered_model(self, name: str) -> None:
        """Delete a registered model with its versions."""

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        """Set a tag of a registered model."""

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag of a registered model."""

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias."""

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None,
        tags: Mapping[str, str],
        run_link: str | None,
        description: str | None,
        model_id: str | None,
    ) -> ModelVersion:
        """Register a version, under the next number; it may be pending yet."""

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """Return a version."""

    def search_model_versions(
        self, where: str, most: int = 1000, page_token: str | None = None
    ) -> PagedList[ModelVersion]:
        """Return one page of the versions that a filter fits, the newest first."""

    def update_model_version(self, name: str, version: str, description: str | None) -> ModelVersion:
        """Set a version's description."""

    def delete_model_version(self, name: str, version: str) -> None:
        """Delete a version."""

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete a tag of a version."""

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Set a version's stage."""


class Destination(Tracking, Registry, Protocol):
    """A place that delivery writes to: an MLflow server, a cloud's workspace, a database, or a memory."""

    role: str
    kind: str
    uri: str
    limits: Limits

    @property
    def capabilities(self) -> Capabilities:
        """Return what it does that others do not."""

    def ping(self) -> None:
        """Ask the least that shows whether it answers."""

    # --- files

    def artifacts(self, uri: str) -> ArtifactRepository:
        """Return the repository behind one of its own artifact URIs. Raises WouldRefuse."""

    def upload(self, repository: ArtifactRepository, file: Path, folder: str | None) -> str | None:
        """Upload one file under its own name into ``folder``; returns its path where it got another."""

    # --- its own names, and what it would refuse

    def experiment_name(self, name: str) -> str:
        """Return what it calls the experiment that the user calls ``name``."""

    def model_name(self, name: str) -> str:
        """Return what its pages call the registered model that the link calls ``name``."""

    def model_name_behind(self, own_name: str) -> str:
        """Return what the link calls the registered model that its pages call ``own_name``."""

    def check_version(self, name: str, tags: Mapping[str, str], model: Callable[[], MLmodel | None]) -> None:
        """Raise WouldRefuse for a version that it would not take."""

    def check_model_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Raise WouldRefuse for tags of a registered model or version that it would not take."""
