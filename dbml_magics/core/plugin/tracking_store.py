"""The tracking store behind ``dbml:`` URIs: thin, over the engine.

Reads and everything that is not ours (traces, GenAI datasets, scorers, …) are forwarded to the primary's own
store; the forwarders are generated from ``dir(AbstractStore)``, so what MLflow adds is forwarded too. Writes
to runs, experiments and logged models are journaled for all workspaces. ``tests`` compare
``dir(AbstractStore)`` with a reviewed list, so that a new write cannot pass by unseen.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from mlflow.entities import (
    DatasetInput,
    Experiment,
    ExperimentTag,
    LifecycleStage,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
    Metric,
    Param,
    Run,
    RunInfo,
    RunTag,
    Trace,
    TraceInfo,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION, MLFLOW_RUN_NAME
from mlflow.utils.search_utils import SearchExperimentsUtils, SearchUtils
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from dbml_magics.common import environment
from dbml_magics.common.config import identity_budget_seconds
from dbml_magics.core.delivery.containers import MOVES_CONTENTS
from dbml_magics.core.delivery.writers import emulated_models
from dbml_magics.core.delivery.writers.experiments import own_tags
from dbml_magics.core.delivery.writers.ids import MODEL_TAG, RUN_ID_TAGS, RUN_TAG, no_such_model
from dbml_magics.core.delivery.writers.models import MODEL_VERSIONS_TAG
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, classify_error, is_missing
from dbml_magics.core.destinations.limits import names_a_limit
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG, check_experiment_name
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.link import Link, from_uri
from dbml_magics.core.mlflow_private import (
    random_name,
    raw_point,
    validate_batch_log_data,
    validate_batch_log_limits,
    validate_dataset_inputs,
    validate_experiment_name,
    validate_experiment_tag,
    validate_logged_model_name,
    validate_metric,
    validate_param,
    validate_param_keys_unique,
    validate_run_id,
    validate_tag,
    with_fields,
)
from dbml_magics.core.model.operations import (
    ChangeExperiment,
    CreateExperiment,
    CreateModel,
    CreateRun,
    DeleteModel,
    DeleteModelTag,
    DeleteRun,
    DeleteTag,
    FinalizeModel,
    LogBatch,
    LogInputs,
    LogModelParams,
    LogOutputs,
    LogParam,
    ModelChange,
    ModelFacts,
    RestoreRun,
    SetModelTags,
    SetTag,
    SetTagAt,
    UpdateRun,
)
from dbml_magics.core.model.sendable import LEAST, MOST, refuse_bad_text, required, whole_number
from dbml_magics.core.paging import entries
from dbml_magics.core.plugin import job_run
from dbml_magics.core.plugin.asked import Answer, ask_primary
from dbml_magics.core.plugin.filters import own_filter
from dbml_magics.core.plugin.model_points import as_a_server_keeps, each_once, placed
from dbml_magics.core.plugin.not_numbers import compared_metrics, search_models, with_numbers_in
from dbml_magics.core.tracking import shutdown
from dbml_magics.core.tracking.engine import Engine, engine_for
from dbml_magics.core.tracking.holders import is_anothers
from dbml_magics.core.tracking.ids import names_nothing_yet, provisional
from dbml_magics.core.tracking.journal import LINK_QUEUE
from dbml_magics.core.tracking.view import (
    TERMINAL,
    QueueView,
    RunView,
    as_history,
    dataset_to,
    latest_of_each,
    status_name,
    tags_of,
)
from dbml_magics.errors import BadName

_RACE_S = 30.0  # between the question whether an experiment is there, and its creation by who asked


def build(store_uri: str | None) -> DbmlTrackingStore:
    """Build the store of a ``dbml:`` URI."""
    if store_uri is None:
        raise MlflowException("a dbml: store needs its URI", INVALID_PARAMETER_VALUE)
    return DbmlTrackingStore(engine_for(store_uri), from_uri(store_uri))


def _is_others(run: RunView) -> bool:
    """Tell whether somebody else has begun a run that the link has not seen before, and goes on with it.

    A job's own run stays so whatever it says; a run that is over is begun anew by who resumes it.
    """
    return run.status not in TERMINAL or run.run_id in (job_run.JOB_RUN, os.environ.get("AZUREML_RUN_ID"))


def _check_run_id(run_id: str) -> None:
    required("run_id", run_id)
    validate_run_id(run_id)


def _is_empty_name(tag: RunTag) -> bool:
    """Tell whether a tag gives a run an empty name: MLflow's servers pass that over."""
    return tag.key == MLFLOW_RUN_NAME and str(tag.value) == ""


def _now() -> int:
    return int(time.time() * 1000)


def _done() -> RunOperations:
    future: Future[None] = Future()
    future.set_result(None)
    return RunOperations([future])


class DbmlTrackingStore(AbstractStore):  # type: ignore[misc]
    """Two workspaces (or one) as one MLflow tracking store."""

    def __init__(self, engine: Engine, link: Link) -> None:
        super().__init__()
        self.engine = engine
        self.uri = link.uri
        self.sync = link.mode == "sync"
        self._joined: dict[str, bool] = {}
        self._known_models: set[str] = set()

        self._missed: dict[str, float] = {}  # names that no experiment had -> when somebody asked last
        if self.sync:
            engine.begin_sync_mode()

    # --- metrics, params, tags

    def log_metric(self, run_id: str, metric: Metric) -> None:
        """Journal one point."""
        value, step, timestamp = metric.value, metric.step, metric.timestamp
        key = metric.key
        live = self.engine._live.get(run_id)
        if live is None or not _is_plain(metric, live.keys):
            _check_run_id(run_id)
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
            live = self.engine.begin_queue(run_id)
            with live.lock:
                for point in self._placed(live.view, [[key, value, timestamp, step, extra]]):
                    self.engine.log_metric(run_id, *point)
        else:
            self.engine.log_metric(run_id, key, value, timestamp, step, extra)
        if self.sync:
            self.engine.wait_for_primary(run_id)

    def _know_model(self, run_id: str, model_id: str) -> None:
        """Look once whether there is a model that a run's metrics name. Raises MLflow's "not found"."""
        if model_id not in self._known_models:
            if self.engine.state.model(model_id) is None:
                with suppress(Unavailable):  # nobody can say whether there is such a model
                    self.get_logged_model(model_id, allow_deleted=True)
            self._known_models.add(model_id)
        self.engine.note_model_named(run_id, model_id)

    def _placed(self, view: QueueView, points: list[list[Any]]) -> list[list[Any]]:
        """Return points as they are to be logged. Raises MLflow's refusal of a model's second point."""

        def keeps_one(model_id: str) -> bool:
            primary = self.engine.primary
            return primary.destination.kind == "mlflow" and not primary.emulated.keeps(model_id)

        return points if view.run is None else placed(view.run, points, keeps_one)

    def _writable(self, run_id: str) -> RunView:
        live = self.engine._live.get(run_id)
        if live is None or live.view.run is None:
            live = self.engine.open_run(run_id)
        run = live.view.run
        assert run is not None
        if run.deleted:
            self.engine._refresh(live)  # another process may have restored it
        if run.deleted:
            raise MlflowException(
                f"The run {run_id} must be in the 'active' state. Current state is deleted.",
                INVALID_PARAMETER_VALUE,
            )
        return run

    def log_param(self, run_id: str, param: Param) -> None:
        """Journal one param. Raises MLflow's error for a changed value."""
        key, value = param.key, str(param.value)
        validate_param(key, "")  # its value is kept whole, whatever the workspaces take of it
        run = self._writable(run_id)
        self._refuse_changed_params(run, {key: value})
        if key not in run.params:
            self.engine.write(run_id, LogParam(key, value))
            self._after_write(run_id)

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        """Journal one tag."""
        validate_tag(tag.key, "")
        self._writable(run_id)
        if not _is_empty_name(tag):
            self.engine.write(run_id, SetTag(tag.key, str(tag.value)))
            self._after_write(run_id)

    def log_batch(self, run_id: str, metrics: list[Metric], params: list[Param], tags: list[RunTag]) -> None:
        """Journal metrics, params and tags, checked as a server would check them."""
        live = self.engine._live.get(run_id)
        known = live.keys if live is not None else {}
        points = [_point(m) for m in metrics] if all(_is_plain(m, known) for m in metrics) else None
        if points is None or params or tags:
            _check_run_id(run_id)
            named = [Param(p.key, "") for p in params], [RunTag(t.key, "") for t in tags]
            validate_batch_log_data(list(metrics), *named)
            validate_param_keys_unique(params)
            points = [_point(m) for m in metrics]
        validate_batch_log_limits(metrics, params, tags)
        run = self._writable(run_id)
        kept_params = {p.key: str(p.value) for p in params}
        kept_tags = tags_of(tag for tag in tags if not _is_empty_name(tag))
        refuse_bad_text("param", kept_params)
        refuse_bad_text("tag", kept_tags)
        self._refuse_changed_params(run, kept_params)
        models = {point[4][0] for point in points if len(point) > 4 and point[4][0]}
        for model_id in models:
            self._know_model(run_id, model_id)
        live = self.engine.begin_queue(run_id)
        with live.lock if models else nullcontext():
            if models:
                points = self._placed(live.view, points)
            if points or kept_params or kept_tags:
                self.engine.write(run_id, LogBatch(points, kept_params, kept_tags))
        if points or kept_params or kept_tags:
            for point in points:
                self.engine.know_key(run_id, point[0])
            self._after_write(run_id)

    def _refuse_changed_params(self, run: RunView, params: dict[str, str]) -> None:
        for key, value in params.items():
            there = run.params.get(key)
            cut = there is not None and len(there) == MAX_PARAM_VAL_LENGTH and value.startswith(there)
            if there is not None and there != value and not cut:
                raise MlflowException(
                    f"Changing param values is not allowed. Param with key='{key}' was already logged with "
                    f"value='{there}' for run ID='{run.run_id}'. Attempted logging new value '{value}'.",
                    INVALID_PARAMETER_VALUE,
                )

    def _after_write(self, queue: str) -> None:
        if self.sync:
            self.engine.wait_for_primary(queue)

    def log_metric_async(self, run_id: str, metric: Metric) -> RunOperations:
        """Journal one point; the journal is already asynchronous."""
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
        for role in engine.link.used if environment.in_spark_task() else (engine.link.primary,):
            if not engine.health[role].away:
                engine.wait_for_everything(role)

    def end_async_logging(self) -> None:
        """Do nothing: what was logged is in the journal."""

    def shut_down_async_logging(self) -> None:
        """Do nothing: what was logged is in the journal."""

    def delete_tag(self, run_id: str, key: str) -> None:
        """Journal the removal of a tag. Raises MLflow's error when the run has none of that name."""
        run = self._writable(run_id)
        required("key", key)
        if key not in run.tags and not self._has_tag_by_now(run_id, key):
            raise MlflowException(
                f"No tag with name: {key} in run with id {run_id}", error_code=RESOURCE_DOES_NOT_EXIST
            )
        self.engine.write(run_id, DeleteTag(key))
        self._after_write(run_id)

    def _has_tag_by_now(self, run_id: str, key: str) -> bool:
        """Tell whether another process gave a run a tag; True while nobody can say."""
        try:
            return key in self.engine.get_run(run_id).data.tags
        except Unavailable:
            return True

    # --- runs

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: list[RunTag], run_name: str | None
    ) -> Run:
        """Have the primary name a run, or name it provisionally; journal it for the mirror."""
        experiment_id = str(experiment_id)
        required("experiment_id", experiment_id)
        kept = tags_of(tags or [])
        if run_name and kept.get(MLFLOW_RUN_NAME) and kept[MLFLOW_RUN_NAME] != run_name:
            raise MlflowException(
                f"Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
                f"(run_name='{run_name}', mlflow.runName='{kept[MLFLOW_RUN_NAME]}').",
                INVALID_PARAMETER_VALUE,
            )
        for key in kept:
            validate_tag(key, "")
        refuse_bad_text("the run's name", run_name)
        refuse_bad_text("tag", kept)
        refuse_bad_text("the run's user", user_id)
        key = uuid.uuid4().hex
        start_time = whole_number("the run's start time", start_time)
        begun: list[str] = []

        def end() -> None:  # who asked for the run never hears of it: nobody else would end it
            for run_id in begun:
                self._update_run(run_id, UpdateRun("KILLED", _now()))

        with deferred(end):
            run = self._begin_run(experiment_id, user_id, start_time, kept, run_name, key)
            begun.append(run.info.run_id)
        return run

    def _begin_run(
        self,
        experiment_id: str,
        user_id: str,
        start_time: int,
        kept: dict[str, str],
        run_name: str | None,
        key: str,
    ) -> Run:
        engine, primary = self.engine, self.engine.link.primary
        tried: list[bool] = []
        late: dict[str, str] = {}
        try:
            made = self._named_by_primary(experiment_id, user_id, start_time, kept, run_name, key, tried)
        except Unavailable:
            run_id = key
            if tried:  # it may have been made there, its answer lost: look before another one is made
                engine.state.creations.begin(primary, run_id)
            kept[MLFLOW_RUN_NAME] = run_name or kept.get(MLFLOW_RUN_NAME) or random_name()
        else:
            run_id = made.info.run_id
            kept[MLFLOW_RUN_NAME] = made.info.run_name or made.data.tags.get(MLFLOW_RUN_NAME, "")
            engine.primary.ids.remember_run(run_id, made)
            engine.primary.overflow.begin(run_id, made.data.tags)
            _, over = engine.primary.overflow.split_tags(kept)
            # What it was not made with, or not whole.
            late = {k: v for k, v in kept.items() if k not in made.data.tags or k in over}
        engine.begin_queue(run_id)
        own = {} if run_id == key else {RUN_TAG: run_id, **late}
        creation = CreateRun(experiment_id, user_id, start_time, kept)
        tags = [SetTagAt([primary], tag, value) for tag, value in own.items()]
        engine.write_all(run_id, [creation, *tags], lasting=True)
        engine.state.remember_run(
            run_id,
            {
                "experiment": experiment_id,
                "user": user_id,
                "start": start_time,
                "name": kept[MLFLOW_RUN_NAME],
                "parent": kept.get("mlflow.parentRunId"),
                "provisional": run_id == key,
                "ended": False,
            },
        )
        engine.begun.append(run_id)
        return engine.get_run(run_id)

    def _named_by_primary(
        self,
        experiment_id: str,
        user_id: str,
        start: int,
        tags: dict[str, str],
        name: str | None,
        key: str,
        tried: list[bool],
    ) -> Run:
        engine, role = self.engine, self.engine.link.primary
        behind = engine.is_waiting(role, LINK_QUEUE) and not engine.health[role].away
        # What was done to the experiment shall be done there before a run is made in it.
        if behind and not engine.wait(role, [LINK_QUEUE], identity_budget_seconds()):
            raise Unavailable("its experiment is still on its way there", sent=False)
        if any(self._is_on_its_way(tags.get(tag)) for tag in RUN_ID_TAGS):
            raise Unavailable("its parent is still on its way there", sent=False)

        def make(primary: Side, at: str, given: dict[str, str]) -> Run:
            entities = [RunTag(k, v) for k, v in given.items()]
            return self._store_of(primary).create_run(at, user_id, start, entities, name)

        def ask(primary: Side) -> Run:
            at = primary.experiments.at(experiment_id)
            if tried:  # the answer may have been lost: look before making a second one
                found = primary.ids.find_run([at], key)
                if found is not None:
                    return found
            own, _ = primary.overflow.split_tags({**primary.ids.own_tags(tags), RUN_TAG: key})
            tried.append(True)
            try:
                return make(primary, at, own)
            except MlflowException as error:
                few = {k: v for k, v in own.items() if k in (RUN_TAG, MLFLOW_RUN_NAME)}
                if isinstance(classify_error(error), Unavailable) or not names_a_limit(
                    str(error), error.error_code
                ):
                    raise
                return make(primary, at, few)

        return self.engine.ask_primary(ask)

    def _store_of(self, side: Side) -> Any:
        """Return the tracking store of a workspace itself."""
        return self.engine.workspaces[side.role].tracking

    def _is_on_its_way(self, run_id: str | None) -> bool:
        """Tell whether a run has yet to be made at the primary; its worker makes it, and nobody else."""
        engine = self.engine
        if not run_id or engine.state.identity(engine.link.primary, "run", run_id) is not None:
            return False
        return engine.creation_of(run_id) is not None

    def get_run(self, run_id: str) -> Run:
        """Return a run, with what of it is on its way."""
        return self.engine.get_run(run_id)

    def update_run_info(
        self, run_id: str, run_status: Any, end_time: int | None, run_name: str | None
    ) -> RunInfo:
        """Journal a run's new status or name."""
        status = status_name(run_status) if run_status is not None else None
        end_time = None if end_time is None else whole_number("the run's end time", end_time)
        change = UpdateRun(status, end_time, run_name or None)
        if run_name:
            validate_tag(MLFLOW_RUN_NAME, run_name)
            refuse_bad_text("the run's name", run_name)
        with deferred():
            run = self._update_run(run_id, change)
        self._after_write(run_id)
        return run.info()

    def _update_run(self, run_id: str, change: UpdateRun) -> RunView:
        if change.status in TERMINAL and shutdown.is_terminated():
            change = replace(change, status="KILLED")
        run, status = self._writable(run_id), change.status
        known = self.engine.state.run(run_id)
        if known is None:
            known = {
                "experiment": run.experiment_id,
                "user": run.user,
                "start": run.start,
                "name": run.tags.get(MLFLOW_RUN_NAME, ""),
                "provisional": False,
                "ended": False,
                "others": _is_others(run),
            }
            self.engine.state.remember_run(run_id, known)
        joined = self._is_joined(run_id, known)
        if known.get("others") or joined:  # who began it ends it
            # mlflow.start_run() gives its own name beside the status.
            change = UpdateRun(name=None if joined and status is not None else change.name)
        if change.status or change.end or change.name:
            self.engine.write(run_id, change)
        if status is not None and (not joined or known.get("others")):
            self.engine.note_ended(run_id, status in TERMINAL)
        return run

    def _is_joined(self, run_id: str, known: dict[str, Any]) -> bool:
        """Tell whether MLFLOW_RUN_ID names a run that is another's to end; found out as it is joined."""
        if run_id != job_run.JOB_RUN:
            return False
        if run_id not in self._joined:
            self._joined[run_id] = is_anothers(self.engine.journal, run_id, known)
        return self._joined[run_id]

    def delete_run(self, run_id: str) -> None:
        """Have the primary delete a run; journal it for the mirror."""
        self._change_life(run_id, DeleteRun, lambda store, actual: store.delete_run(actual))

    def restore_run(self, run_id: str) -> None:
        """Have the primary restore a run; journal it for the mirror."""
        self._change_life(run_id, RestoreRun, lambda store, actual: store.restore_run(actual))

    def _change_life(
        self, run_id: str, kind: type[DeleteRun | RestoreRun], change: Callable[[Any, str], None]
    ) -> None:
        engine = self.engine
        engine.open_run(run_id)

        def ask(primary: Side, _again: bool) -> None:
            if self._is_on_its_way(run_id) or primary.ids.began_at(run_id) != primary.role:
                raise Unavailable("the run is still on its way there", sent=False)
            change(self._store_of(primary), primary.ids.known_run(run_id))

        asked = ask_primary(engine, "deletion or restoration of a run", [run_id], ask)
        engine.write(run_id, kind(asked.to))
        self._after_write(run_id)

    def log_inputs(
        self,
        run_id: str,
        datasets: list[DatasetInput] | None = None,
        models: list[LoggedModelInput] | None = None,
    ) -> None:
        """Journal a run's inputs."""
        _check_run_id(run_id)
        for each in datasets or []:
            validate_dataset_inputs([each])
            twice = [key for key, n in Counter(tag.key for tag in each.tags).items() if n > 1]
            if twice:
                raise MlflowException(
                    f"The input tag '{twice[0]}' is given twice for the dataset '{each.dataset.name}'.",
                    BAD_REQUEST,
                )
        self._writable(run_id)
        named = [m.model_id or "" for m in models or []]  # as None stands in a request
        inputs = LogInputs([dataset_to(d) for d in datasets or []], named)
        refuse_bad_text("input", inputs.fields())
        for model_id in named:
            self.engine.note_model_named(run_id, model_id)
        self.engine.write(run_id, inputs)
        self._after_write(run_id)

    def log_outputs(self, run_id: str, models: list[LoggedModelOutput]) -> None:
        """Journal a run's outputs. Raises MLflow's refusal of a model that is one already."""
        steps = [(m.model_id or "", whole_number("the step of an output", m.step)) for m in models]
        refuse_bad_text("output", [model_id for model_id, _ in steps])
        if not steps:
            raise MlflowException("Missing value for required parameter 'models'.", INVALID_PARAMETER_VALUE)
        have, outputs = self._writable(run_id).outputs, dict[str, int]()
        for model_id, step in steps:
            if model_id in have or model_id in outputs:
                raise MlflowException(
                    f"Logged model {model_id} is an output of run {run_id} already.", BAD_REQUEST
                )
            outputs[model_id] = step
        for model_id in outputs:
            self.engine.note_model_named(run_id, model_id)
        self.engine.write(run_id, LogOutputs(outputs))
        self._after_write(run_id)

    def record_logged_model(self, run_id: str, mlflow_model: Any) -> None:
        """Journal MLflow 2's model history, which is a tag."""
        run = self._writable(run_id)
        history = json.loads(run.tags.get("mlflow.log-model.history", "[]"))
        history.append(mlflow_model.get_tags_dict())
        self.set_tag(run_id, RunTag("mlflow.log-model.history", json.dumps(history)))

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList:
        """Return a metric's history, with what of it is on its way."""
        required("run_id", run_id)
        view = self.engine.view_of(run_id)
        if view is not None:
            if max_results is not None and max_results < 1:
                raise MlflowException(
                    f"Invalid value {max_results} for parameter 'max_results' supplied. "
                    "It must be a positive integer.",
                    INVALID_PARAMETER_VALUE,
                )
            points = self._history_of(view, metric_key)
            start = SearchUtils.parse_start_offset_from_page_token(page_token)
            end = len(points) if max_results is None else start + max_results
            token = SearchUtils.create_page_token(end) if end < len(points) else None
            return PagedList(points[start:end], token)
        page = self.engine.read(
            lambda a: self._store_of(a).get_metric_history(
                a.ids.known_run(run_id), metric_key, max_results, page_token
            )
        )
        return PagedList(page, getattr(page, "token", None))

    def _history_of(self, view: RunView, key: str) -> list[Metric]:
        series = view.series.get(key)
        own = [] if series is None else [series.metric(key, n) for n in range(len(series))]
        if key not in view.from_base:
            return as_history(own)
        base = self.engine.read(lambda a: a.reader.history(a.ids.known_run(view.run_id), key))
        return as_history([*base, *own])

    def get_metric_history_bulk_interval_from_steps(
        self, run_id: str, metric_key: str, steps: list[int], max_results: int
    ) -> list[Any]:
        """Return the points of some steps."""
        wanted = set(steps)
        points = [m for m in self.get_metric_history(run_id, metric_key) if m.step in wanted]
        from mlflow.entities.metric import MetricWithRunId

        found = [MetricWithRunId(run_id=run_id, metric=m) for m in points]
        return sorted(found, key=lambda m: (m.step, m.timestamp))[:max_results]

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str | None = None,
        run_view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = 1000,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search at the primary once it has caught up, or at the mirror."""
        self.engine.wait_for_reads("search_runs")
        compared = compared_metrics(filter_string)

        def ask(side: Side) -> Any:
            ids = [self._experiment_known_at(side, str(e)) for e in experiment_ids]
            where, there = own_filter(side, filter_string), [i for i in ids if i]

            def page_of(most: int, token: str | None) -> PagedList:
                return self._store_of(side).search_runs(there, where, run_view_type, most, order_by, token)

            page = with_numbers_in(compared, page_of, max_results, page_token)
            runs = [self.engine.translate_run(run, role=side.role) for run in page]
            return PagedList(runs, page.token)

        return self.engine.read(ask)

    def _experiment_known_at(self, side: Side, experiment_id: str) -> str | None:
        known = self.engine.state.identity(side.role, "experiment", experiment_id)
        if known is not None:
            return known.actual or None
        if side.role == self.engine.link.primary:
            return None if names_nothing_yet(experiment_id) else experiment_id
        return None

    # --- experiments

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: list[ExperimentTag] | None = None
    ) -> str:
        """Have the primary name an experiment, or name it provisionally; journal it for the mirror."""
        self._check_name(name)
        kept = {t.key: t.value for t in tags or []}
        for key, value in kept.items():
            validate_experiment_tag(key, value)
        refuse_bad_text("tag", kept)
        tried: list[bool] = []

        def ask(primary: Side) -> str:
            own_name, found = primary.experiments.find(name)
            if found is not None and tried:  # the first answer was lost
                return str(found.experiment_id)
            tried.append(True)
            return primary.experiments.create(own_name, name, kept, artifact_location)

        missed = self._missed.pop(name, float("-inf"))
        try:
            with deferred():
                return self._begin_experiment(name, kept, ask)
        except MlflowException as error:
            taken = not isinstance(error, Unavailable) and error.error_code == "RESOURCE_ALREADY_EXISTS"
            if not taken or time.monotonic() - missed > _RACE_S:
                raise
            # Several workers begin with the same set_experiment, and one of them was first: after this error
            # MLflow would leave the others in the default experiment.
            found = self.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != LifecycleStage.ACTIVE:
                raise
            return str(found.experiment_id)

    def _begin_experiment(self, name: str, kept: dict[str, str], ask: Callable[[Side], str]) -> str:
        engine = self.engine
        try:
            experiment_id = engine.ask_primary(ask)
            engine.state.set_identity(engine.link.primary, "experiment", experiment_id, experiment_id)
        except Unavailable:
            if engine.state.experiments.named(name) is not None:
                raise MlflowException(
                    f"Experiment '{name}' already exists.", error_code=RESOURCE_ALREADY_EXISTS
                ) from None
            experiment_id = provisional()
        engine.state.experiments.remember(experiment_id, name, kept)
        engine.write_all(LINK_QUEUE, [CreateExperiment(experiment_id, name, kept)], lasting=True)
        return experiment_id

    def _check_name(self, name: str) -> None:
        validate_experiment_name(name)
        refuse_bad_text("the experiment's name", name)
        try:
            check_experiment_name(name)
        except BadName as error:
            raise MlflowException(error.message, INVALID_PARAMETER_VALUE) from error

    def get_experiment(self, experiment_id: str) -> Experiment:
        """Return an experiment under the id and name that the user knows."""
        experiment_id = str(experiment_id)
        if self.engine.is_waiting(self.engine.link.primary, LINK_QUEUE):
            self.engine.wait_for_reads("get_experiment")
        try:
            return self.engine.read(lambda a: self._experiment_at(a, experiment_id))
        except (Unavailable, MlflowException) as error:
            known = self.engine.state.experiments.facts(experiment_id)
            if known is None or not (isinstance(error, Unavailable) or is_missing(error)):
                raise
            return _experiment(experiment_id, known.name, known.tags, self._experiment_files(experiment_id))

    def _experiment_at(self, side: Side, experiment_id: str) -> Experiment:
        known = self._experiment_known_at(side, experiment_id)
        found = self._store_of(side).get_experiment(known) if known is not None else None
        there = side.experiments.seen(found) if found is not None else None
        # (When it is seen, its number may turn out to be another one's by now.)
        if found is None or there is None or self._experiment_known_at(side, experiment_id) != known:
            raise MlflowException(f"No Experiment with id={experiment_id} exists", RESOURCE_DOES_NOT_EXIST)
        return self._visible_experiment(side, found, experiment_id)

    def _experiment_files(self, experiment_id: str) -> str:
        return f"dbml://{self.engine.link.key}/experiments/{experiment_id}"

    def _visible_experiment(self, side: Side, found: Experiment, visible: str | None = None) -> Experiment:
        """Return a workspace's experiment under the id and name that the user knows."""
        with_fields(found, name=found.tags.get(EXPERIMENT_TAG, found.name))
        if visible is None:
            visible = side.experiments.seen(found) or self._visible_from_mirror(side, found)
        with_fields(found, experiment_id=visible)
        if side.destination.capabilities.names_experiments_itself and EXPERIMENT_TAG not in found.tags:
            with_fields(found, name=self.engine.state.experiments.name(visible) or found.name)
        return found

    def _visible_from_mirror(self, side: Side, found: Experiment) -> str:
        """Return the user's id of a mirror's experiment; a provisional one where the primary's is not known.

        The mirror's own number would mean another experiment at the primary.
        """
        state, actual = self.engine.state, str(found.experiment_id)
        known = state.visible(side.role, "experiment", actual) or state.experiments.named(found.name)
        visible = known or provisional()
        there = state.identity(side.role, "experiment", visible)
        if there is None or not there.actual:
            state.set_identity(side.role, "experiment", visible, actual)
            self.engine.state.experiments.remember(visible, found.name, own_tags(found))
        return visible

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        """Return an experiment by the user's name for it, or None."""
        if self.engine.is_waiting(self.engine.link.primary, LINK_QUEUE):
            self.engine.wait_for_reads("get_experiment_by_name")
        shown, told = None, False
        try:
            role, shown = self.engine.answered(lambda a: self._experiment_named(a, experiment_name))
            # A mirror that knows of none may just not have it yet.
            told = shown is not None or role == self.engine.link.primary
        except Unavailable:
            pass
        if not told:
            known = self.engine.state.experiments.named(experiment_name)
            if known is not None:
                facts = self.engine.state.experiments.facts(known)
                tags = facts.tags if facts is not None else {}
                return _experiment(known, experiment_name, tags, self._experiment_files(known))
        if shown is None:
            self._missed[experiment_name] = time.monotonic()
            return None
        self.engine.state.experiments.remember(shown.experiment_id, experiment_name, own_tags(shown))
        return shown

    def _experiment_named(self, side: Side, name: str) -> Experiment | None:
        _, found = side.experiments.find(name)
        if found is None:
            return None
        side.experiments.accept(found, name)
        shown = self._visible_experiment(side, found)
        with_fields(shown, name=name)  # an experiment that was made without us carries no name of the user's
        return shown

    def search_experiments(
        self,
        view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = 1000,
        filter_string: str | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search experiments at the primary, or at the mirror."""
        if self.engine.is_waiting(self.engine.link.primary, LINK_QUEUE):
            self.engine.wait_for_reads("search_experiments")

        def ask(side: Side) -> Any:
            if side.destination.capabilities.names_experiments_itself and (filter_string or order_by):
                return self._search_by_own_names(
                    side, view_type, max_results, filter_string, order_by, page_token
                )
            page = self._store_of(side).search_experiments(
                view_type, max_results, filter_string, order_by, page_token
            )
            return PagedList([self._visible_experiment(side, e) for e in page], page.token)

        return self.engine.read(ask)

    def _search_by_own_names(
        self,
        side: Side,
        view_type: int,
        max_results: int,
        where: str | None,
        order_by: list[str] | None,
        page_token: str | None,
    ) -> PagedList:
        """Filter and sort here: the workspace calls its experiments otherwise than the user does."""
        found = [
            self._visible_experiment(side, each)
            for each in entries(
                lambda token: self._store_of(side).search_experiments(view_type, 1000, page_token=token)
            )
        ]
        kept = SearchExperimentsUtils.filter(found, where)
        kept = SearchExperimentsUtils.sort(kept, order_by or ["creation_time DESC", "experiment_id ASC"])
        return PagedList(*SearchExperimentsUtils.paginate(kept, page_token, max_results))

    def _change_experiment(self, change: ChangeExperiment) -> None:
        """Have the primary change an experiment, behind its contents; journal it for the mirror."""
        required("experiment_id", change.id)
        behind = [LINK_QUEUE, *(self.engine.contents_of(change.id) if change.do in MOVES_CONTENTS else ())]

        def ask(primary: Side, again: bool) -> None:
            primary.experiments.change(change, again)

        asked = ask_primary(self.engine, "change of an experiment", behind, ask)
        if self.engine.link.primary in asked.to:
            with suppress(Unavailable):  # nobody can say whether there is such an experiment
                self.get_experiment(change.id)
        if change.do in ("delete", "restore"):
            self.engine.note_experiment_stage(change.id, deleted=change.do == "delete")
        self.engine.write(LINK_QUEUE, replace(change, to=asked.to, tried=asked.tried))
        self._after_write(LINK_QUEUE)

    def set_experiment_tag(self, experiment_id: str, tag: ExperimentTag) -> None:
        """Set an experiment's tag."""
        validate_experiment_tag(tag.key, tag.value)
        refuse_bad_text("tag", {tag.key: str(tag.value)})
        self._change_experiment(ChangeExperiment("tag", str(experiment_id), key=tag.key, value=tag.value))

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Delete an experiment's tag."""
        self._change_experiment(ChangeExperiment("untag", str(experiment_id), key=key))

    def rename_experiment(self, experiment_id: str, new_name: str) -> None:
        """Rename an experiment."""
        self._check_name(new_name)
        found = self.get_experiment(experiment_id)
        self._change_experiment(ChangeExperiment("rename", str(experiment_id), name=new_name))
        self.engine.note_renamed(str(experiment_id), found.name)
        self.engine.state.experiments.remember(str(experiment_id), new_name, own_tags(found))

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment and its runs."""
        self._change_experiment(ChangeExperiment("delete", str(experiment_id)))

    def restore_experiment(self, experiment_id: str) -> None:
        """Restore an experiment and its runs."""
        self._change_experiment(ChangeExperiment("restore", str(experiment_id)))

    # --- logged models

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: list[LoggedModelTag] | None = None,
        params: list[LoggedModelParameter] | None = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        """Have the primary name a logged model, or name it here where it is away or has none."""
        validate_logged_model_name(name or None)
        required("experiment_id", str(experiment_id))
        told: ModelFacts = {
            "id": "",
            "experiment": str(experiment_id),
            "name": name or random_name(),
            "run": source_run_id,
            "type": model_type,
            "params": {p.key: str(p.value) for p in params or []},
            "tags": {t.key: str(t.value) for t in tags or []},
            "created": _now(),
        }
        given = {k: v for k, v in told.items() if k in ("name", "type", "params", "tags")}
        refuse_bad_text("the logged model's", given)
        with deferred():
            model_id = self._begin_model(told)
        return self.get_logged_model(model_id)

    def _begin_model(self, told: ModelFacts) -> str:
        key, source_run_id = "m-" + uuid.uuid4().hex, told["run"]
        if source_run_id:
            try:  # what fails after the primary has named the model would leave it there alone
                self.engine.open_run(source_run_id)
            except MlflowException as error:
                if isinstance(error, Unavailable) or not is_missing(error):
                    raise
                # A server takes any run's id, one of another server's too.
                told["run"], told["foreign_run"], source_run_id = None, source_run_id, None
        made = self._model_named_by_primary(told, key)
        told["id"] = model_id = made.model_id if made is not None else key
        if made is not None:
            self.engine.primary.ids.remember_model(model_id, made)
            told["created"] = made.creation_timestamp
        queue = source_run_id or model_id
        self.engine.state.remember_model(model_id, queue, told)
        self.engine.begin_queue(queue)
        self.engine.write_all(queue, [CreateModel(told)], lasting=True)
        return str(model_id)

    def _model_named_by_primary(self, told: ModelFacts, key: str) -> LoggedModel | None:
        if not self.engine.primary.learned.has_logged_models or self._is_on_its_way(told["run"]):
            return None
        tried: list[bool] = []

        def ask(primary: Side) -> LoggedModel:
            run = told["run"]
            experiment_id = primary.experiments.at(told["experiment"])
            if tried:
                for found in primary.models.named(experiment_id, told["name"]):
                    if found.tags.get(MODEL_TAG) == key:
                        return found
            tried.append(True)
            return self._store_of(primary).create_logged_model(
                experiment_id=experiment_id,
                name=told["name"],
                source_run_id=primary.ids.known_run(run) if run else told.get("foreign_run"),
                tags=[LoggedModelTag(k, v) for k, v in {**told["tags"], MODEL_TAG: key}.items()],
                params=[LoggedModelParameter(k, v) for k, v in told["params"].items()],
                model_type=told["type"],
            )

        try:
            return self.engine.ask_primary(ask)
        except MissingEndpoint:
            self.engine.primary.learned.note_no_logged_models()
        except Unavailable:
            self.engine.state.creations.begin(self.engine.link.primary, key)
        return None

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        """Return a logged model, with what of it is on its way."""
        return self._with_metrics_here(self._logged_model(str(model_id), allow_deleted))

    def _logged_model(self, model_id: str, allow_deleted: bool) -> LoggedModel:
        queue = self.engine.model_queue(model_id)
        on_its_way = [role for role in self.engine.link.tracked if self.engine.is_waiting(role, queue)]
        status = None
        if self.engine.link.primary in on_its_way:
            here = self._model_here(model_id, queue, allow_deleted)
            if here is not None:
                return here
            view = self.engine.queue_view(queue)
            status = view.statuses.get(model_id) if view is not None else None
        try:
            found = self.engine.read(lambda a: self._model_at(a, model_id, allow_deleted))
            if status is not None:
                with_fields(found, status=LoggedModelStatus(status))
            return found
        except MlflowException as error:
            # The mirror may have answered for a primary that is away, and lack what waits for it.
            if not on_its_way or not (isinstance(error, Unavailable) or is_missing(error)):
                raise
            here = self._model_here(model_id, queue, allow_deleted)
            if here is None:
                raise
            return here

    def _with_metrics_here(self, model: LoggedModel) -> LoggedModel:
        """Return a model with what other runs logged for it and is on its way."""
        engine, own = self.engine, self.engine.model_queue(model.model_id)
        for queue in engine.queues_naming(model.model_id):
            if queue == own or not engine.is_waiting(engine.link.primary, queue):
                continue
            view = engine.queue_view(queue)
            if view is not None:
                with_fields(model, metrics=self._points_of(model.model_id, view, model.metrics or []))
        return model

    def _points_of(self, model_id: str, view: QueueView, there: Iterable[Metric] = ()) -> list[Metric]:
        """Return a model's points, with those on their way, as after their delivery."""
        own = view.model_metrics(model_id)
        if self.engine.primary.emulated.keeps(model_id):
            return latest_of_each([*there, *own])
        return each_once([*there, *self._as_kept(model_id, own)])

    def _as_kept(self, model_id: str, points: list[Metric]) -> list[Metric]:
        """Return a model's points as the primary will tell them."""
        primary = self.engine.primary
        plain = primary.destination.kind != "mlflow" or primary.emulated.keeps(model_id)
        return points if plain else as_a_server_keeps(points)

    def _model_here(
        self, model_id: str, queue: str, allow_deleted: bool = False, *, as_kept: bool = True
    ) -> LoggedModel | None:
        """Return a model as the journal tells it; None if it tells nothing. Raises for a deleted one.

        Its points are those that the primary will tell, or (not ``as_kept``) those that were logged.
        """
        view = self.engine.queue_view(queue)
        model = view.models.get(model_id) if view else None
        if view is None or model is None:
            return None
        if model.deleted and not allow_deleted:
            raise no_such_model(model_id)
        metrics = self._points_of(model_id, view) if as_kept else view.model_metrics(model_id)
        found = model.entity(self.engine.artifact_uri("model", model_id), metrics)
        if (
            self.engine.primary.destination.capabilities.answers_by_rest
        ):  # which tells what is not set as an empty text
            with_fields(found, model_type=found.model_type or "", source_run_id=found.source_run_id or "")
            with_fields(found, status_message=found.status_message or "")
        return found

    def _model_at(self, side: Side, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        if not side.emulated.keeps(model_id):
            try:
                actual = side.ids.known_model(model_id)
                if allow_deleted:
                    found = self._store_of(side).get_logged_model(actual, allow_deleted=True)
                    return self._visible_model(side, found)
                return self._visible_model(side, self._store_of(side).get_logged_model(actual), model_id)
            except MissingEndpoint as error:
                if side.learned.look_for_logged_models():
                    raise no_such_model(model_id) from error
            except MlflowException as error:
                if isinstance(error, Unavailable) or not is_missing(error) or not side.emulated.may_keep():
                    raise
        told = side.emulated.facts(model_id)
        if told.get("deleted") and not allow_deleted:
            raise no_such_model(model_id)
        return emulated_models.entity(
            told,
            self.engine.artifact_uri("model", model_id),
            told["experiment"],
            side.ids.shown("run", told["run_at"]) if told.get("run") else None,
        )

    def _visible_model(self, side: Side, found: LoggedModel, model_id: str | None = None) -> LoggedModel:
        found.model_id = model_id or side.ids.shown("model", found.model_id)
        with_fields(found, model_uri=f"models:/{found.model_id}")
        found.experiment_id = side.experiments.visible(str(found.experiment_id))
        found.artifact_location = self.engine.artifact_uri("model", found.model_id)
        if found.source_run_id:
            with_fields(found, source_run_id=side.ids.shown("run", found.source_run_id))
        for metric in found.metrics or []:
            with_fields(metric, model_id=found.model_id)
            with_fields(metric, run_id=metric.run_id and side.ids.shown("run", metric.run_id))
        found.tags.pop(MODEL_TAG, None)  # by which it is found again; nothing to a reader
        return found

    def search_logged_models(
        self,
        experiment_ids: list[str],
        filter_string: str | None = None,
        datasets: list[dict[str, Any]] | None = None,
        max_results: int | None = None,
        order_by: list[dict[str, Any]] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        """Search logged models at the primary once it has caught up; here, where it has none."""
        self.engine.wait_for_reads("search_logged_models")

        def ask(side: Side) -> Any:
            ids = [e for e in (self._experiment_known_at(side, str(e)) for e in experiment_ids) if e]
            kept = side.emulated.of_runs(ids) if side.emulated.may_keep() else []
            own, where = [], own_filter(side, filter_string)
            if side.learned.has_logged_models:
                try:
                    page = self._store_of(side).search_logged_models(
                        ids, where, datasets, max_results, order_by, page_token if not kept else None
                    )
                    if not kept:
                        return PagedList([self._visible_model(side, m) for m in page], page.token)
                    own = [*page]
                    if page.token:  # a page of both is one that is sorted here
                        own += entries(
                            lambda token: self._store_of(side).search_logged_models(
                                ids, where, datasets, max_results, order_by, token or page.token
                            )
                        )
                except MissingEndpoint:
                    side.learned.note_no_logged_models()
                    kept = side.emulated.of_runs(ids)
            models = [self._model_at(side, told["id"]) for told in kept]
            models = [*search_models(models, filter_string, datasets, len(models) or 1, None, None)]
            models += [self._visible_model(side, model) for model in own]
            return search_models(models, None, None, max_results, order_by, page_token)

        # Who waits is looked at before the question: what arrives in between is in the answer.
        on_their_way = {} if page_token else self._models_on_their_way({str(e) for e in experiment_ids})
        try:
            role, found = self.engine.answered(ask)
            waiting = self._models_of(on_their_way.get(role, []))
        except Unavailable:
            waiting = self._models_of(on_their_way.get(self.engine.link.primary, []))
            if not waiting:
                raise
            found = PagedList([], None)
        there = {model.model_id for model in found}
        waiting = [model for model in waiting if model.model_id not in there]
        if not waiting:
            return found
        most = max(len(found) + len(waiting), 1)
        merged = [*found, *search_models(waiting, filter_string, datasets, most, None, None)]
        answer = search_models(merged, None, None, most, order_by, None)
        own = {model.model_id for model in waiting}
        for model in answer:
            if model.model_id in own:  # compared and sorted by what was logged, told as a server tells it
                with_fields(model, metrics=self._as_kept(model.model_id, model.metrics))
        return PagedList(answer, found.token)

    def _models_on_their_way(self, experiment_ids: set[str]) -> dict[str, list[tuple[str, str]]]:
        """Return {role: (id, queue) of the models logged here of which something is on its way there}."""
        known = [
            (m, q) for m, q, told in self.engine.state.models() if told.get("experiment") in experiment_ids
        ]
        return {
            role: [(model_id, queue) for model_id, queue in known if self.engine.is_waiting(role, queue)]
            for role in self.engine.link.tracked
        }

    def _models_of(self, on_their_way: list[tuple[str, str]]) -> list[LoggedModel]:
        found = []
        for model_id, queue in on_their_way:
            try:
                here = self._model_here(model_id, queue, as_kept=False)
                found.append(here or self.get_logged_model(model_id))
            except MlflowException:  # deleted
                continue
        return found

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        """Journal a logged model's final status, behind its files. Raises MLflow's "not found"."""
        queue = self.engine.model_queue(model_id)
        if self._model_here(model_id, queue, allow_deleted=True) is None:
            self.get_logged_model(model_id, allow_deleted=True)
        self.engine.begin_queue(queue)
        self.engine.write(queue, FinalizeModel(model_id, str(LoggedModelStatus(status))))
        self._after_write(queue)
        return self.get_logged_model(model_id, allow_deleted=True)

    def set_logged_model_tags(self, model_id: str, tags: list[LoggedModelTag]) -> None:
        """Set a logged model's tags."""
        self._change_model(SetModelTags(model_id, {t.key: str(t.value) for t in tags}))

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        """Delete a logged model's tag."""
        self._change_model(DeleteModelTag(model_id, key))

    def log_logged_model_params(self, model_id: str, params: list[LoggedModelParameter]) -> None:
        """Log a logged model's params."""
        self._change_model(LogModelParams(model_id, {p.key: str(p.value) for p in params}))

    def delete_logged_model(self, model_id: str) -> None:
        """Delete a logged model, behind what is on its way to it."""
        self._change_model(DeleteModel(model_id))

    def _change_model(self, change: ModelChange) -> None:
        """Have the primary change a logged model; journal it for the mirror. Raises MLflow's refusal."""
        engine, model_id = self.engine, change.model
        primary, queue = engine.primary, engine.model_queue(model_id)
        _, *given = change.fields()
        refuse_bad_text("the logged model's", given)
        # A tag that names versions goes behind their registration, of which it needs the numbers.
        after = isinstance(change, SetModelTags) and MODEL_VERSIONS_TAG in change.tags
        changes = engine.state.model_changes
        behind = [queue] if after or changes.is_unanswered(model_id) else []
        if isinstance(change, DeleteModel):
            behind = engine.queues_naming(model_id)

        def ask(side: Side, again: bool) -> None:
            if side.emulated.keeps(model_id):
                raise Unavailable("the model is kept by the link there", sent=False)
            own: ModelChange = change
            if isinstance(change, SetModelTags):
                own = replace(change, tags=side.models.own_tags(change.tags))
            side.models.change_native(side.ids.known_model(model_id), own, again)

        if primary.emulated.keeps(model_id) or self._is_model_on_its_way(model_id, queue):
            self.get_logged_model(model_id)
            asked = Answer[None](None, list(engine.link.tracked), False)
        else:
            asked = ask_primary(engine, "change of a logged model", behind, ask)
        if primary.role not in asked.to:
            changes.settle(model_id)
        else:
            changes.note_unanswered(model_id)
        engine.begin_queue(queue)
        engine.write(queue, replace(change, to=asked.to))
        self._after_write(queue)

    def _is_model_on_its_way(self, model_id: str, queue: str) -> bool:
        """Tell whether a logged model that was named here has yet to be made at the primary."""
        engine = self.engine
        if engine.state.identity(engine.link.primary, "model", model_id) is not None:
            return False
        return engine.state.model_facts(model_id) is not None and engine.is_waiting(
            engine.link.primary, queue
        )

    # --- what clients call although MLflow's base class lacks it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "get_host_creds":
            raise AttributeError(name)
        found = getattr(self._store_of(self.engine.primary), name)
        if not callable(found):
            return found
        return functools.partial(self._forward, name)

    def _forward(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._as_primary(args), self._as_primary(kwargs)
        return self._from_primary(getattr(self._store_of(self.engine.primary), method)(*args, **kwargs))

    def _from_primary(self, answer: Any) -> Any:
        """Return an answer with the files of the traces in it behind the link.

        MLflow looks for them through the global tracking URI, which is no server's.
        """
        if isinstance(answer, (TraceInfo, Trace)):
            info = answer if isinstance(answer, TraceInfo) else answer.info
            self._name_ids(info, self.engine.visible_experiment, self.engine.visible_run)
            tags = info.tags
            place = tags.get(MLFLOW_ARTIFACT_LOCATION)
            if place and not place.startswith("dbml:"):
                link = self.engine.link
                tags[MLFLOW_ARTIFACT_LOCATION] = (
                    f"dbml://{link.key}/at/{link.primary}/{quote(place, safe='')}"
                )
        elif isinstance(answer, (list, tuple)):
            for each in answer:
                self._from_primary(each)
        return answer

    def _as_primary(self, given: Any) -> Any:
        """Return arguments with the ids in them as the primary knows them: they differ after an outage."""
        if isinstance(given, str):
            kind = "run" if _HEX.fullmatch(given) else "experiment" if names_nothing_yet(given) else None
            known = self.engine.state.identity(self.engine.link.primary, kind, given) if kind else None
            return known.actual if known else given
        if isinstance(given, TraceInfo):
            translated = copy.deepcopy(given)
            self._name_ids(translated, self._as_primary, self._as_primary)
            return translated
        if isinstance(given, (list, tuple)):
            return type(given)([self._as_primary(each) for each in given])
        return {k: self._as_primary(v) for k, v in given.items()} if type(given) is dict else given

    @staticmethod
    def _name_ids(info: TraceInfo, experiment: Callable[[str], str], run: Callable[[str], str]) -> None:
        """Name a trace's experiment and run otherwise, in place."""
        place = info.trace_location.mlflow_experiment
        if place is not None:
            place.experiment_id = experiment(place.experiment_id)
        source = info.trace_metadata.get(TraceMetadataKey.SOURCE_RUN)
        if source:
            info.trace_metadata[TraceMetadataKey.SOURCE_RUN] = run(source)

    def __reduce__(self) -> Any:
        return build, (self.uri,)


_HEX = re.compile(r"\b[0-9a-f]{32}\b")


def _is_plain(metric: Metric, known: dict[str, str]) -> bool:
    """Tell whether a point needs no check: a known key and Python's own numbers."""
    key, value, timestamp, step = raw_point(metric)
    return (
        key in known
        and type(value) is float
        and type(step) is int
        and LEAST <= step <= MOST
        and type(timestamp) is int
        and 0 <= timestamp <= MOST
    )


def _point(metric: Metric) -> list[Any]:
    at = whole_number(f"the timestamp of metric '{metric.key}'", metric.timestamp)
    step = whole_number(f"the step of metric '{metric.key}'", metric.step)
    point = [metric.key, float(metric.value), at, step]
    if metric.model_id is not None or metric.dataset_name is not None:
        point.append([metric.model_id, metric.dataset_name, metric.dataset_digest])
    return point


def _experiment(experiment_id: str, name: str, tags: dict[str, str], files: str) -> Experiment:
    return Experiment(experiment_id, name, files, "active", [ExperimentTag(k, v) for k, v in tags.items()])


def _forwarder(name: str, like: Any) -> Any:
    if isinstance(like, property):
        return property(lambda self: getattr(self._store_of(self.engine.primary), name))
    if inspect.iscoroutinefunction(like):

        async def forward_async(self: DbmlTrackingStore, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = self._as_primary(args), self._as_primary(kwargs)
            return await getattr(self._store_of(self.engine.primary), name)(*args, **kwargs)

        return functools.wraps(like)(forward_async)

    def forward(self: DbmlTrackingStore, *args: Any, **kwargs: Any) -> Any:
        return self._forward(name, *args, **kwargs)

    return functools.wraps(like)(forward)


# MLflow's base class builds these from calls that are ours: forwarded, they would write to the primary alone,
# or miss what is on its way.
_BUILT_FROM_OURS = frozenset({"get_metric_history_bulk_interval", "set_model_versions_tags"})


def _forward_the_rest(cls: type) -> None:
    """Forward to the primary whatever MLflow's base class has and this class does not override."""
    for name in dir(AbstractStore):
        if name.startswith("__") or name in cls.__dict__ or name in _BUILT_FROM_OURS:
            continue
        like = inspect.getattr_static(AbstractStore, name)
        if isinstance(like, staticmethod) or not (callable(like) or isinstance(like, property)):
            continue
        setattr(cls, name, _forwarder(name, like))


_forward_the_rest(DbmlTrackingStore)
DbmlTrackingStore.__abstractmethods__ = frozenset()
