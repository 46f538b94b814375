"""A destination's calls through MLflow's own two stores; :mod:`.protocol` documents each call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from mlflow.entities import (
    DatasetInput,
    Experiment,
    ExperimentTag,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.destinations.protocol import Point, Registry, Tracking
from dbml_magics.core.mlflow_private import with_fields

if TYPE_CHECKING:
    from mlflow.store.model_registry.abstract_store import AbstractStore as RegistryStore
    from mlflow.store.tracking.abstract_store import AbstractStore as TrackingStore

T = TypeVar("T")
V = TypeVar("V")
_LOGGED_MODEL = re.compile(r"models:/(m-[^/]+)")


class MlflowCalls(Tracking, Registry):
    """The calls of a destination that has MLflow's two stores."""

    @property
    def tracking(self) -> TrackingStore:
        """Return the destination's own tracking store."""
        raise NotImplementedError

    @property
    def registry(self) -> RegistryStore:
        """Return the destination's own registry store."""
        raise NotImplementedError

    # --- experiments

    def create_experiment(self, name: str, tags: Mapping[str, str], artifacts: str | None = None) -> str:
        return str(self.tracking.create_experiment(name, artifacts, _entities(ExperimentTag, tags)))

    def get_experiment(self, experiment_id: str) -> Experiment:
        return self.tracking.get_experiment(experiment_id)

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        return self.tracking.get_experiment_by_name(name)

    def search_experiments(
        self, view: int = ViewType.ACTIVE_ONLY, most: int = 1000, page_token: str | None = None
    ) -> PagedList[Experiment]:
        return self.tracking.search_experiments(view, max_results=most, page_token=page_token)

    def rename_experiment(self, experiment_id: str, name: str) -> None:
        self.tracking.rename_experiment(experiment_id, name)

    def delete_experiment(self, experiment_id: str) -> None:
        self.tracking.delete_experiment(experiment_id)

    def restore_experiment(self, experiment_id: str) -> None:
        self.tracking.restore_experiment(experiment_id)

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        self.tracking.set_experiment_tag(experiment_id, ExperimentTag(key, value))

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        self.tracking.delete_experiment_tag(experiment_id, key)

    # --- runs

    def create_run(
        self, experiment_id: str, user: str, start: int, tags: Mapping[str, str], name: str | None
    ) -> Run:
        return self.tracking.create_run(experiment_id, user, start, _entities(RunTag, tags), name)

    def make_run_as(self, run_id: str, experiment_id: str, start: int, tags: dict[str, str]) -> Run | None:
        del run_id, experiment_id, start, tags
        return None

    def get_run(self, run_id: str) -> Run:
        return self.tracking.get_run(run_id)

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        where: str,
        view: int = ViewType.ACTIVE_ONLY,
        most: int = 1000,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Run]:
        return self.tracking.search_runs(list(experiment_ids), where, view, most, order_by, page_token)

    def log_batch(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        send_batch = getattr(self.tracking, "send_batch", None)
        if send_batch is None:
            self.tracking.log_batch(
                run_id,
                metrics=[_metric(*point) for point in points],
                params=[_param(k, v) for k, v in params.items()],
                tags=_entities(RunTag, tags),
            )
            return
        body: dict[str, object] = {"run_id": run_id}
        if points:
            body["metrics"] = [_wire(*point) for point in points]
        if params:
            body["params"] = [{"key": k, "value": v} for k, v in params.items()]
        if tags:
            body["tags"] = [{"key": k, "value": v} for k, v in tags.items()]
        send_batch(body)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.tracking.set_tag(run_id, RunTag(key, value))

    def delete_tag(self, run_id: str, key: str) -> None:
        self.tracking.delete_tag(run_id, key)

    def update_run_info(self, run_id: str, status: int | None, end: int | None, name: str | None) -> None:
        self.tracking.update_run_info(run_id, status, end, name)

    def delete_run(self, run_id: str) -> None:
        self.tracking.delete_run(run_id)

    def restore_run(self, run_id: str) -> None:
        self.tracking.restore_run(run_id)

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput], models: Sequence[str]) -> None:
        inputs = [LoggedModelInput(model) for model in models]
        self.tracking.log_inputs(run_id, datasets=list(datasets) or None, models=inputs or None)

    def log_outputs(self, run_id: str, models: Mapping[str, int]) -> None:
        self.tracking.log_outputs(run_id, _entities(LoggedModelOutput, models))

    def get_metric_history(
        self, run_id: str, key: str, most: int | None = None, page_token: str | None = None
    ) -> PagedList[Metric]:
        return self.tracking.get_metric_history(run_id, key, max_results=most, page_token=page_token)

    def record_logged_model(self, run_id: str, model: Model) -> None:
        self.tracking.record_logged_model(run_id, model)

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
        return self.tracking.create_logged_model(
            experiment_id=experiment_id,
            name=name,
            source_run_id=run_id,
            tags=_entities(LoggedModelTag, tags),
            params=_entities(LoggedModelParameter, params),
            model_type=kind,
        )

    def get_logged_model(self, model_id: str) -> LoggedModel:
        return self.tracking.get_logged_model(model_id)

    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        where: str | None = None,
        most: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[LoggedModel]:
        return self.tracking.search_logged_models(
            list(experiment_ids), where, max_results=most, page_token=page_token
        )

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> None:
        self.tracking.finalize_logged_model(model_id, status)

    def set_logged_model_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        self.tracking.set_logged_model_tags(model_id, _entities(LoggedModelTag, tags))

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        self.tracking.delete_logged_model_tag(model_id, key)

    def log_logged_model_params(self, model_id: str, params: Mapping[str, str]) -> None:
        self.tracking.log_logged_model_params(model_id, _entities(LoggedModelParameter, params))

    def delete_logged_model(self, model_id: str) -> None:
        self.tracking.delete_logged_model(model_id)

    # --- registered models

    def create_registered_model(
        self, name: str, tags: Mapping[str, str], description: str | None = None
    ) -> RegisteredModel:
        return self.registry.create_registered_model(name, _entities(RegisteredModelTag, tags), description)

    def get_registered_model(self, name: str) -> RegisteredModel:
        return self.registry.get_registered_model(name)

    def search_registered_models(
        self, most: int = 100, page_token: str | None = None
    ) -> PagedList[RegisteredModel]:
        return self.registry.search_registered_models(max_results=most, page_token=page_token)

    def update_registered_model(self, name: str, description: str | None) -> RegisteredModel:
        return self.registry.update_registered_model(name, description)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        return self.registry.rename_registered_model(name, new_name)

    def delete_registered_model(self, name: str) -> None:
        self.registry.delete_registered_model(name)

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.registry.set_registered_model_tag(name, RegisteredModelTag(key, value))

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        self.registry.delete_registered_model_tag(name, key)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.registry.set_registered_model_alias(name, alias, version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self.registry.delete_registered_model_alias(name, alias)

    # --- their versions

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
        def create(model_id: str | None) -> ModelVersion:
            entities = _entities(ModelVersionTag, tags)
            return self.registry.create_model_version(
                name, source, run_id, entities, run_link, description, model_id=model_id
            )

        try:
            return create(model_id)
        except MlflowException as error:
            of_model = _LOGGED_MODEL.fullmatch(source)
            if model_id or of_model is None or "model_id request parameter" not in str(error):
                raise
            # MLflow's servers since 3.17 take a logged model as a source by both names alone.
            return create(of_model[1])

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        return self.registry.get_model_version(name, version)

    def search_model_versions(
        self, where: str, most: int = 1000, page_token: str | None = None
    ) -> PagedList[ModelVersion]:
        return self.registry.search_model_versions(where, max_results=most, page_token=page_token)

    def update_model_version(self, name: str, version: str, description: str | None) -> ModelVersion:
        return self.registry.update_model_version(name, version, description)

    def delete_model_version(self, name: str, version: str) -> None:
        self.registry.delete_model_version(name, version)

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.registry.set_model_version_tag(name, version, ModelVersionTag(key, value))

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        self.registry.delete_model_version_tag(name, version, key)

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        return self.registry.transition_model_version_stage(name, version, stage, archive_existing_versions)


def _entities(entity: Callable[[str, V], T], items: Mapping[str, V]) -> list[T]:
    return [entity(key, value) for key, value in items.items()]


def _param(key: str, value: str) -> Param:
    """Make MLflow's entity without its constructor, which looks into a PySpark being imported."""
    return with_fields(Param.__new__(Param), key=key, value=value)


def _metric(
    key: str, value: float, time: int, step: int, extra: Sequence[str | None] | None = None
) -> Metric:
    model_id, name, digest = extra or (None, None, None)
    return Metric(key, value, time, step, model_id=model_id, dataset_name=name, dataset_digest=digest)


def _wire(
    key: str, value: float, time: int, step: int, extra: Sequence[str | None] | None = None
) -> dict[str, object]:
    shown: str | float = value
    if value - value != 0:  # as protobuf's JSON has it
        shown = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    wire: dict[str, object] = {"key": key, "value": shown, "timestamp": time, "step": step}
    if extra is not None:
        names = "model_id", "dataset_name", "dataset_digest"
        wire |= {name: part for name, part in zip(names, extra, strict=True) if part is not None}
    return wire
