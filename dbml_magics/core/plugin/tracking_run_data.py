"""The tracking store's methods for what a run logs: metrics, params, tags, inputs and outputs."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from mlflow.entities import DatasetInput, LoggedModelInput, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_MODELS, MLFLOW_RUN_NAME
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from dbml_magics.common import environment
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.link import Link
from dbml_magics.core.mlflow_private import (
    raw_point,
    validate_batch_log_data,
    validate_batch_log_limits,
    validate_dataset_inputs,
    validate_metric,
    validate_param,
    validate_param_keys_unique,
    validate_tag,
)
from dbml_magics.core.model.operations import DeleteTag, LogBatch, LogInputs, LogOutputs, LogParam, SetTag
from dbml_magics.core.model.sendable import LEAST, MOST, refuse_bad_text, required, whole_number
from dbml_magics.core.plugin.model_points import LoggedPoint, placed
from dbml_magics.core.plugin.tracking_family import MethodFamily, check_run_id
from dbml_magics.core.run_view import QueueView, RunView, dataset_to, tags_of
from dbml_magics.core.runtime.engine import Engine

if TYPE_CHECKING:
    from mlflow.models import Model


class RunDataMethods(MethodFamily):
    """What a run logs: checked here as a server checks it, then journaled for all workspaces."""

    def __init__(self, engine: Engine, link: Link) -> None:
        super().__init__(engine, link)
        self._known_models: set[str] = set()

    def log_metric(self, run_id: str, metric: Metric) -> None:
        """Journal one point."""
        key, value, timestamp, step = given = raw_point(metric)
        live = self._live.get(run_id)
        if live is None or not _is_plain(given, live.keys):
            check_run_id(run_id)
            validate_metric(key, value, timestamp, step)
            refuse_bad_text("a metric's key", key)
            value, step = float(value), whole_number(f"the step of metric '{key}'", step)
            timestamp = whole_number(f"the timestamp of metric '{key}'", timestamp)
        self._writable(run_id)
        extra = None
        if metric.model_id is not None or metric.dataset_name is not None:
            extra = (metric.model_id, metric.dataset_name, metric.dataset_digest)
        if metric.model_id:
            self._know_model(run_id, metric.model_id)
            live = self.engine.live.begin_queue(run_id)
            with live.lock:
                for point in self._placed(live.view, [[key, value, timestamp, step, extra]]):
                    self.engine.recorder.log_metric(run_id, *point)
        else:
            self.engine.recorder.log_metric(run_id, key, value, timestamp, step, extra)
        if self.sync:
            self.engine.waiting.wait_for_primary(run_id)

    def _know_model(self, run_id: str, model_id: str) -> None:
        """Check once that there is a model that a run's metrics name. Raises MLflow's "not found"."""
        if model_id not in self._known_models:
            if self.engine.state.model(model_id) is None:
                with suppress(Unavailable):  # nobody can say whether there is such a model
                    self._models.get(model_id, allow_deleted=True)
            self._known_models.add(model_id)
        self.engine.models.note_named(run_id, model_id)

    def _placed(self, view: QueueView, points: list[LoggedPoint]) -> list[LoggedPoint]:
        """Return points as they are to be logged. Raises MLflow's refusal of a model's second point."""

        def keeps_one(model_id: str) -> bool:
            primary = self.engine.primary
            return primary.destination.kind == "mlflow" and not primary.emulated.keeps(model_id)

        return points if view.run is None else placed(view.run, points, keeps_one)

    def log_param(self, run_id: str, param: Param) -> None:
        """Journal one param. Raises MLflow's error for a changed value."""
        key, value = param.key, str(param.value)
        validate_param(key, "")  # the journal holds its value whole, however much the workspaces take
        run = self._writable(run_id)
        _refuse_changed_params(run, {key: value})
        if key not in run.params:
            self.engine.recorder.write(run_id, LogParam(key, value))
            self._after_write(run_id)

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        """Journal one tag."""
        validate_tag(tag.key, "")
        self._writable(run_id)
        if not _is_empty_name(tag):
            self.engine.recorder.write(run_id, SetTag(tag.key, str(tag.value)))
            self._after_write(run_id)

    def log_batch(self, run_id: str, metrics: list[Metric], params: list[Param], tags: list[RunTag]) -> None:
        """Journal metrics, params and tags, checked as a server would check them."""
        live = self._live.get(run_id)
        known = live.keys if live is not None else {}
        points = (
            [_point(m) for m in metrics] if all(_is_plain(raw_point(m), known) for m in metrics) else None
        )
        if points is None or params or tags:
            check_run_id(run_id)
            named = [Param(p.key, "") for p in params], [RunTag(t.key, "") for t in tags]
            validate_batch_log_data(list(metrics), *named)
            validate_param_keys_unique(params)
            points = [_point(m) for m in metrics]
        validate_batch_log_limits(metrics, params, tags)
        run = self._writable(run_id)
        param_values = {p.key: str(p.value) for p in params}
        tag_values = tags_of(tag for tag in tags if not _is_empty_name(tag))
        refuse_bad_text("param", param_values)
        refuse_bad_text("tag", tag_values)
        _refuse_changed_params(run, param_values)
        models = {point[4][0] for point in points if len(point) > 4 and point[4][0]}
        for model_id in models:
            self._know_model(run_id, model_id)
        live = self.engine.live.begin_queue(run_id)
        with live.lock if models else nullcontext():
            if models:
                points = self._placed(live.view, points)
            if points or param_values or tag_values:
                self.engine.recorder.write(run_id, LogBatch(points, param_values, tag_values))
        if points or param_values or tag_values:
            for point in points:
                self.engine.live.know_key(run_id, point[0])
            self._after_write(run_id)

    def delete_tag(self, run_id: str, key: str) -> None:
        """Journal the removal of a tag. Raises MLflow's error when the run has none of that name."""
        run = self._writable(run_id)
        required("key", key)
        if key not in run.tags and not self._has_tag_by_now(run_id, key):
            raise MlflowException(
                f"No tag with name: {key} in run with id {run_id}", error_code=RESOURCE_DOES_NOT_EXIST
            )
        self.engine.recorder.write(run_id, DeleteTag(key))
        self._after_write(run_id)

    def _has_tag_by_now(self, run_id: str, key: str) -> bool:
        """Tell whether another process gave a run a tag; True while nobody can say."""
        try:
            return key in self.engine.runs.get_run(run_id).data.tags
        except Unavailable:
            return True

    # --- MLflow's asynchronous calls: the journal is asynchronous already

    def log_metric_async(self, run_id: str, metric: Metric) -> RunOperations:
        """Journal one point."""
        self.log_metric(run_id, metric)
        return _done()

    def log_param_async(self, run_id: str, param: Param) -> RunOperations:
        """Journal one param."""
        self.log_param(run_id, param)
        return _done()

    def set_tag_async(self, run_id: str, tag: RunTag) -> RunOperations:
        """Journal one tag."""
        self.set_tag(run_id, tag)
        return _done()

    def log_batch_async(
        self, run_id: str, metrics: list[Metric], params: list[Param], tags: list[RunTag]
    ) -> RunOperations:
        """Journal a batch."""
        self.log_batch(run_id, metrics, params, tags)
        return _done()

    def flush_async_logging(self) -> None:
        """Wait for the primary, as MLflow's own flush does; at the end of a Spark task for both workspaces.

        A Spark worker ends without its exit handlers, and its machine may end with it.
        """
        engine = self.engine
        roles = engine.link.used if environment.in_spark_task() else (engine.link.primary,)
        engine.waiting.wait_for_everything(role for role in roles if not engine.health[role].away)

    def end_async_logging(self) -> None:
        """Do nothing: the journal holds every write."""

    def shut_down_async_logging(self) -> None:
        """Do nothing: the journal holds every write."""

    # --- inputs and outputs

    def log_inputs(
        self,
        run_id: str,
        datasets: list[DatasetInput] | None = None,
        models: list[LoggedModelInput] | None = None,
    ) -> None:
        """Journal a run's inputs."""
        check_run_id(run_id)
        for each in datasets or []:
            validate_dataset_inputs([each])
            twice = [key for key, n in Counter(tag.key for tag in each.tags).items() if n > 1]
            if twice:
                raise MlflowException(
                    f"The input tag '{twice[0]}' is given twice for the dataset '{each.dataset.name}'.",
                    BAD_REQUEST,
                )
        self._writable(run_id)
        model_ids = [m.model_id or "" for m in models or []]  # as None stands in a request
        inputs = LogInputs([dataset_to(d) for d in datasets or []], model_ids)
        refuse_bad_text("input", inputs.fields())
        for model_id in model_ids:
            self.engine.models.note_named(run_id, model_id)
        self.engine.recorder.write(run_id, inputs)
        self._after_write(run_id)

    def log_outputs(self, run_id: str, models: list[LoggedModelOutput]) -> None:
        """Journal a run's outputs. Raises MLflow's refusal of a model that is one already."""
        steps = [(m.model_id or "", whole_number("the step of an output", m.step)) for m in models]
        refuse_bad_text("output", [model_id for model_id, _ in steps])
        if not steps:
            raise MlflowException("Missing value for required parameter 'models'.", INVALID_PARAMETER_VALUE)
        known, outputs = self._writable(run_id).outputs, dict[str, int]()
        for model_id, step in steps:
            if model_id in known or model_id in outputs:
                raise MlflowException(
                    f"Logged model {model_id} is an output of run {run_id} already.", BAD_REQUEST
                )
            outputs[model_id] = step
        for model_id in outputs:
            self.engine.models.note_named(run_id, model_id)
        self.engine.recorder.write(run_id, LogOutputs(outputs))
        self._after_write(run_id)

    def record_logged_model(self, run_id: str, mlflow_model: Model) -> None:
        """Journal MLflow 2's model history, which is a tag."""
        run = self._writable(run_id)
        history = json.loads(run.tags.get(MLFLOW_LOGGED_MODELS, "[]"))
        history.append(mlflow_model.get_tags_dict())
        self.set_tag(run_id, RunTag(MLFLOW_LOGGED_MODELS, json.dumps(history)))


def _is_plain(point: tuple[str, float, int, int], known: dict[str, str]) -> bool:
    """Tell whether a point needs no check: a known key and Python's own numbers."""
    key, value, timestamp, step = point
    return (
        key in known
        and type(value) is float
        and type(step) is int
        and LEAST <= step <= MOST
        and type(timestamp) is int
        and 0 <= timestamp <= MOST
    )


def _point(metric: Metric) -> LoggedPoint:
    at = whole_number(f"the timestamp of metric '{metric.key}'", metric.timestamp)
    step = whole_number(f"the step of metric '{metric.key}'", metric.step)
    point = [metric.key, float(metric.value), at, step]
    if metric.model_id is not None or metric.dataset_name is not None:
        point.append([metric.model_id, metric.dataset_name, metric.dataset_digest])
    return point


def _refuse_changed_params(run: RunView, params: dict[str, str]) -> None:
    """Raise MLflow's refusal of another value for a param; a workspace may have cut the value it returns."""
    for key, value in params.items():
        logged = run.params.get(key)
        cut = logged is not None and len(logged) == MAX_PARAM_VAL_LENGTH and value.startswith(logged)
        if logged is not None and logged != value and not cut:
            raise MlflowException(
                f"Changing param values is not allowed. Param with key='{key}' was already logged with "
                f"value='{logged}' for run ID='{run.run_id}'. Attempted logging new value '{value}'.",
                INVALID_PARAMETER_VALUE,
            )


def _is_empty_name(tag: RunTag) -> bool:
    """Tell whether a tag sets an empty run name, which MLflow's servers ignore."""
    return tag.key == MLFLOW_RUN_NAME and str(tag.value) == ""


def _done() -> RunOperations:
    future: Future[None] = Future()
    future.set_result(None)
    return RunOperations([future])
