"""A destination in memory that answers and refuses as the installed MLflow's server, and fails when told to.

    there = MemoryDestination()
    there.fail(LOST)                 the next call is done, and its answer lost
    there.fail(HALF, 3)              of the third call from now, if it is a log-batch, half is done
    there.fail(lambda: Busy("not now", retry_after=1), of="log_batch")
    there.lag = 2                    reads do not show the last two writes
    there.forget(5)                  the last five writes were never made: a backup was restored

Identifiers come from a seed and time from a clock that counts calls, so that a history can be played again.
``tests/core/test_destinations.py`` holds it and a real server to the same answers.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import posixpath
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from mlflow.entities import (
    DatasetInput,
    Experiment,
    ExperimentTag,
    FileInfo,
    LifecycleStage,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.entities.model_registry import (
    ModelVersion,
    ModelVersionTag,
    RegisteredModel,
    RegisteredModelAlias,
    RegisteredModelTag,
)
from mlflow.entities.model_registry.model_version_stages import STAGE_ARCHIVED, get_canonical_stage
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import Model
from mlflow.protos import databricks_pb2 as codes
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils import validation
from mlflow.utils.search_utils import (
    SearchLoggedModelsPaginationToken,
    SearchLoggedModelsUtils,
    SearchModelVersionUtils,
    SearchUtils,
)
from mlflow.utils.uri import append_to_uri_path, is_local_uri

from dbml_magics.core.destinations.errors import Unavailable, WouldRefuse
from dbml_magics.core.destinations.limits import MLFLOW, Limits
from dbml_magics.core.destinations.protocol import Capabilities, Destination, Point
from dbml_magics.core.mlflow_private import validate_model_alias_name, validate_model_alias_name_reserved
from tests.infra.mlflow_version import NEW_ANSWERS

__all__ = ["HALF", "LOST", "UNSENT", "Fault", "MemoryDestination"]

P = ParamSpec("P")
T = TypeVar("T")

_ACTIVE, _DELETED = LifecycleStage.ACTIVE, LifecycleStage.DELETED
_NAME, _HISTORY, _VERSIONS = "mlflow.runName", "mlflow.log-model.history", "mlflow.modelVersions"
_MOST = 1.7976931348623157e308  # what a database holds of an infinity
_ORDER = ["last_updated_timestamp DESC", "name ASC", "version_number DESC"]

Row = tuple[str, int, int, float, bool]  # key, time, step, value as it is stored, whether it is no number


@dataclass(frozen=True)
class Fault:
    """What one call comes to instead of its answer."""

    error: Callable[[], BaseException]
    does: float = 0.0
    """How much of the call is done all the same: nothing, half of a batch, or all."""


LOST = Fault(lambda: Unavailable("not reachable (connection broken)"), does=1.0)
"""The call is done, and its answer is lost."""
HALF = Fault(lambda: Unavailable("not reachable (connection broken)"), does=0.5)
"""Half of a log-batch is done, and its answer is lost."""
UNSENT = Fault(lambda: Unavailable("not reachable (connection refused)", sent=False))
"""The call never arrives."""


@dataclass
class _Experiment:
    id: str
    name: str
    artifacts: str
    created: int
    updated: int
    tags: dict[str, str]
    stage: str = _ACTIVE
    datasets: dict[tuple[str, str], Any] = field(default_factory=dict)

    def entity(self) -> Experiment:
        tags = [ExperimentTag(k, v) for k, v in self.tags.items()]
        return _sent(
            Experiment(self.id, self.name, self.artifacts, self.stage, tags, self.created, self.updated)
        )


@dataclass
class _Run:
    id: str
    experiment: str
    user: str
    start: int
    name: str
    artifacts: str
    tags: dict[str, str]
    status: str = "RUNNING"
    end: int | None = None
    stage: str = _ACTIVE
    params: dict[str, str] = field(default_factory=dict)
    rows: Counter[Row] = field(default_factory=Counter)
    latest: dict[str, Row] = field(default_factory=dict)
    datasets: dict[tuple[str, str], DatasetInput] = field(default_factory=dict)
    models: dict[str, None] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)

    def entity(self) -> Run:
        info = RunInfo(
            run_id=self.id,
            run_name=self.name,
            experiment_id=self.experiment,
            user_id=self.user,
            status=self.status,
            start_time=self.start,
            end_time=self.end,
            lifecycle_stage=self.stage,
            artifact_uri=self.artifacts,
        )
        data = RunData(
            [_metric(row) for row in self.latest.values()],
            [Param(k, v) for k, v in self.params.items()],
            [RunTag(k, v) for k, v in self.tags.items()],
        )
        inputs = RunInputs([*self.datasets.values()], [LoggedModelInput(model) for model in self.models])
        outputs = RunOutputs([LoggedModelOutput(model, step) for model, step in self.outputs.items()])
        return _sent(Run(info, data, inputs, outputs))


@dataclass
class _Model:
    id: str
    experiment: str
    name: str
    artifacts: str
    created: int
    updated: int
    run: str | None
    kind: str | None
    tags: dict[str, str]
    params: dict[str, str]
    status: LoggedModelStatus = LoggedModelStatus.PENDING
    stage: str = _ACTIVE
    metrics: dict[tuple[str, int, int, str], Metric] = field(default_factory=dict)

    def entity(self) -> LoggedModel:
        return _sent(
            LoggedModel(
                self.experiment,
                self.id,
                self.name,
                self.artifacts,
                self.created,
                self.updated,
                self.kind,
                self.run,
                self.status,
                tags=dict(self.tags),
                params=dict(self.params),
                metrics=[*self.metrics.values()],
            )
        )


@dataclass
class _Version:
    number: int
    created: int
    updated: int
    source: str
    run: str
    run_link: str | None
    description: str | None
    tags: dict[str, str]
    stage: str = "None"


@dataclass
class _Registered:
    name: str
    created: int
    updated: int
    description: str | None
    tags: dict[str, str]
    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, _Version] = field(default_factory=dict)
    last: int = 0

    def entity(self) -> RegisteredModel:
        latest: dict[str, _Version] = {}
        for version in self.versions.values():
            if version.stage not in latest or latest[version.stage].number < version.number:
                latest[version.stage] = version
        return _sent(
            RegisteredModel(
                self.name,
                self.created,
                self.updated,
                self.description,
                [self.version(each) for each in latest.values()],
                [RegisteredModelTag(k, v) for k, v in self.tags.items()],
                [RegisteredModelAlias(alias, str(number)) for alias, number in self.aliases.items()],
            )
        )

    def version(self, of: _Version) -> ModelVersion:
        return ModelVersion(
            self.name,
            of.number,
            of.created,
            of.updated,
            of.description,
            None,
            of.stage,
            of.source,
            of.run,
            tags=[ModelVersionTag(k, v) for k, v in of.tags.items()],
            run_link=of.run_link,
            aliases=[alias for alias, number in self.aliases.items() if number == of.number],
        )


@dataclass
class _State:
    """All that the destination holds."""

    experiments: dict[str, _Experiment] = field(default_factory=dict)
    runs: dict[str, _Run] = field(default_factory=dict)
    models: dict[str, _Model] = field(default_factory=dict)
    registered: dict[str, _Registered] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def _sent(entity: Any) -> Any:
    """Return an entity as MLflow's REST client makes it of a server's answer."""
    return type(entity).from_proto(entity.to_proto())


def _metric(row: Row) -> Metric:
    key, time, step, value, is_nan = row
    return Metric(key, math.nan if is_nan else value, time, step)


def _call(
    writes: bool,
) -> Callable[
    [Callable[Concatenate[MemoryDestination, P], T]], Callable[Concatenate[MemoryDestination, P], T]
]:
    """Make a method one call to the destination, which a fault may befall."""

    def made(
        method: Callable[Concatenate[MemoryDestination, P], T],
    ) -> Callable[Concatenate[MemoryDestination, P], T]:
        @functools.wraps(method)
        def call(self: MemoryDestination, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return self.serve(method.__name__, writes, lambda: method(self, *args, **kwargs))

        return call

    return made


_read, _write = _call(writes=False), _call(writes=True)


class MemoryDestination(Destination):
    """An MLflow server of one process's memory.

    ``remembers`` is how many writes can be lagged behind or forgotten. One that ``appends`` keeps a point
    twice that it is sent twice, which MLflow's own databases do not.
    """

    def __init__(
        self,
        role: str = "databricks",
        *,
        seed: int = 0,
        remembers: int = 0,
        appends: bool = False,
        limits: Limits = MLFLOW,
        capabilities: Capabilities = Capabilities(answers_by_rest=True),  # noqa: B008 - it is frozen
    ) -> None:
        self.role = role
        self.kind = "mlflow"
        self.uri = f"memory:/{role}"
        self.limits = limits
        self.lag = 0
        self.calls: list[str] = []
        """The names of the calls that were made, those too that failed."""
        self._capabilities = capabilities
        self._random = random.Random(f"{seed} {role}")
        self._lock = threading.RLock()
        self._faults: list[tuple[Fault, str, int]] = []
        self._done = 1.0  # how much of the call under way is to be done
        self._past: list[_State] = []
        self._remembers = remembers
        self._appends = appends
        self._now = _State()
        self._now.experiments["0"] = _Experiment("0", "Default", f"{self.uri}/0", 0, 0, {})

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # --- what goes wrong

    def fail(self, fault: Fault | Callable[[], BaseException], number: int = 1, *, of: str = "") -> None:
        """Let the call ``number`` from now fail, counting all or those named ``of``; an error stops it."""
        self._faults.append((fault if isinstance(fault, Fault) else Fault(fault), of, number))

    def heal(self) -> None:
        """Answer from now on as it should: no fault is left, and no read lags."""
        self._faults, self.lag = [], 0

    def forget(self, writes: int) -> None:
        """Go back to what was held so many writes ago."""
        assert 0 < writes <= len(self._past), f"{len(self._past)} writes are remembered"
        with self._lock:
            self._now = self._past[-writes]
            del self._past[-writes:]

    def serve(self, name: str, writes: bool, call: Callable[[], T]) -> T:
        """Make one call, as far as its fault lets it."""
        with self._lock:
            self.calls.append(name)
            fault = self._take(name)
            if fault is not None and not fault.does:
                raise fault.error()
            now = self._now
            if writes and self._remembers:
                self._past = [*self._past[1 - self._remembers :], copy.deepcopy(now)]
            if not writes and self.lag and self._past:
                self._now = self._past[-min(self.lag, len(self._past))]
            self._done = fault.does if fault is not None else 1.0
            try:
                answer = call()
            except MlflowException as error:
                raise fault.error() if fault is not None else _over_rest(error) from error
            finally:
                if not writes:
                    self._now = now
            if fault is not None:
                raise fault.error()
            return answer

    def _take(self, name: str) -> Fault | None:
        found = None
        left = []
        for fault, of, number in self._faults:
            number -= of in ("", name)
            if number:
                left.append((fault, of, number))
            else:
                found = found or fault
        self._faults = left
        return found

    def _time(self) -> int:
        return len(self.calls)

    def _hex(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    @_read
    def ping(self) -> None:
        pass

    # --- experiments

    def _experiment(self, experiment_id: str, stages: Iterable[str] = (_ACTIVE, _DELETED)) -> _Experiment:
        if not experiment_id.isdecimal():
            raise _refused(codes.INVALID_PARAMETER_VALUE, f"Invalid experiment ID {experiment_id!r}")
        found = self._now.experiments.get(experiment_id)
        if found is None or found.stage not in stages:
            raise _refused(codes.RESOURCE_DOES_NOT_EXIST, f"No Experiment with id={experiment_id} exists")
        return found

    def _active_experiment(self, experiment_id: str) -> _Experiment:
        found = self._experiment(experiment_id)
        _check_active(found.stage, f"experiment {experiment_id}")
        return found

    def _experiment_named(self, name: str) -> _Experiment | None:
        return next((each for each in self._now.experiments.values() if each.name == name), None)

    @_write
    def create_experiment(self, name: str, tags: Mapping[str, str], artifacts: str | None = None) -> str:
        validation._validate_experiment_name(name)
        for key, value in tags.items():
            validation._validate_experiment_tag(key, value)
        if self._experiment_named(name) is not None:
            raise _refused(codes.RESOURCE_ALREADY_EXISTS, f"Experiment(name={name}) already exists")
        made, now = str(len(self._now.experiments)), self._time()
        place = artifacts or f"{self.uri}/{made}"
        self._now.experiments[made] = _Experiment(made, name, place, now, now, dict(tags))
        return made

    @_read
    def get_experiment(self, experiment_id: str) -> Experiment:
        return self._experiment(experiment_id).entity()

    @_read
    def get_experiment_by_name(self, name: str) -> Experiment | None:
        found = self._experiment_named(name)
        return None if found is None else found.entity()

    @_read
    def search_experiments(
        self, view: int = ViewType.ACTIVE_ONLY, most: int = 1000, page_token: str | None = None
    ) -> PagedList[Experiment]:
        stages = LifecycleStage.view_type_to_stages(view)
        found = [each for each in self._now.experiments.values() if each.stage in stages]
        found.sort(key=lambda each: -each.created)
        return _page([each.entity() for each in found], most, page_token)

    @_write
    def rename_experiment(self, experiment_id: str, name: str) -> None:
        validation._validate_experiment_name(name)
        found = self._experiment(experiment_id)
        if found.stage != _ACTIVE:
            raise _refused(codes.INVALID_STATE, "Cannot rename a non-active experiment.")
        if self._experiment_named(name) not in (None, found):
            raise _refused(codes.BAD_REQUEST, "UNIQUE constraint failed: experiments.name")
        found.name, found.updated = name, self._time()

    @_write
    def delete_experiment(self, experiment_id: str) -> None:
        self._stage(self._experiment(experiment_id, (_ACTIVE,)), _DELETED)

    @_write
    def restore_experiment(self, experiment_id: str) -> None:
        self._stage(self._experiment(experiment_id, (_DELETED,)), _ACTIVE)

    def _stage(self, experiment: _Experiment, stage: str) -> None:
        experiment.stage, experiment.updated = stage, self._time()
        for run in self._now.runs.values():
            if run.experiment == experiment.id:
                run.stage = stage

    @_write
    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        validation._validate_experiment_tag(key, value)
        self._active_experiment(experiment_id).tags[key] = value

    @_write
    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        _delete(self._active_experiment(experiment_id).tags, key, f"experiment with id {experiment_id}")

    # --- runs

    def _run(self, run_id: str) -> _Run:
        found = self._now.runs.get(run_id)
        if found is None:
            raise _refused(codes.RESOURCE_DOES_NOT_EXIST, f"Run with id={run_id} not found")
        return found

    def _active_run(self, run_id: str) -> _Run:
        found = self._run(run_id)
        _check_active(found.stage, f"run {run_id}")
        return found

    @_write
    def create_run(
        self, experiment_id: str, user: str, start: int, tags: Mapping[str, str], name: str | None
    ) -> Run:
        return self._make_run(self._hex(), experiment_id, user, start, tags, name)

    @_write
    def make_run_as(self, run_id: str, experiment_id: str, start: int, tags: dict[str, str]) -> Run | None:
        if not self._capabilities.takes_run_ids:
            return None
        if run_id in self._now.runs:
            return self._run(run_id).entity()
        return self._make_run(run_id, experiment_id, "", start, tags, None)

    def _make_run(
        self,
        run_id: str,
        experiment_id: str,
        user: str,
        start: int,
        tags: Mapping[str, str],
        name: str | None,
    ) -> Run:
        experiment, tagged = self._active_experiment(experiment_id), tags.get(_NAME)
        if name and tagged and name != tagged:
            raise _refused(
                codes.INVALID_PARAMETER_VALUE, "Both 'run_name' and 'mlflow.runName' are specified"
            )
        called = name or tagged or f"run-{run_id[:8]}"
        made = _Run(
            run_id,
            experiment_id,
            user,
            start,
            called,
            append_to_uri_path(experiment.artifacts, run_id, "artifacts"),
            {**tags, _NAME: called},
        )
        self._now.runs[run_id] = made
        return made.entity()

    @_read
    def get_run(self, run_id: str) -> Run:
        return self._run(run_id).entity()

    @_read
    def search_runs(
        self,
        experiment_ids: Sequence[str],
        where: str,
        view: int = ViewType.ACTIVE_ONLY,
        most: int = 1000,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Run]:
        stages = LifecycleStage.view_type_to_stages(view)
        runs = [
            run.entity()
            for run in self._now.runs.values()
            if run.experiment in experiment_ids and run.stage in stages
        ]
        return _page(SearchUtils.sort(SearchUtils.filter(runs, where), order_by), most, page_token)

    @_write
    def log_batch(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        validation._validate_run_id(run_id)
        metrics = [_as_metric(*point) for point in points]
        data = metrics, [Param(k, v) for k, v in params.items()], [RunTag(k, v) for k, v in tags.items()]
        checked = validation._validate_batch_log_data(*data)
        validation._validate_batch_log_limits(*checked)
        run = self._active_run(run_id)
        # A database's transaction each, in this order: what is refused leaves those before it done.
        parts = [(self._log_params, checked[1]), (self._log_points, metrics), (self._set_tags, checked[2])]
        left = math.ceil(self._done * sum(len(items) for _, items in parts))
        for log, items in parts:
            log(run, items[:left])
            left = max(0, left - len(items))

    def _log_params(self, run: _Run, params: Sequence[Param]) -> None:
        given = {param.key: param.value for param in params}
        if any(run.params.get(key, value) != value for key, value in given.items()):
            raise _refused(codes.INVALID_PARAMETER_VALUE, "Changing param values is not allowed.")
        run.params.update(given)

    def _log_points(self, run: _Run, metrics: Sequence[Metric]) -> None:
        seen = {tuple(dict(m).values()): m for m in metrics if m.value == m.value}
        distinct = [m for m in metrics if m.value != m.value or seen[tuple(dict(m).values())] is m]
        rows = [_row(metric) for metric in (metrics if self._appends else distinct)]
        if not self._appends and (run.rows.keys() & set(rows) or len(set(rows)) < len(rows)):
            # No NaN is equal to another, but at newer servers.
            rows = [row for row in rows if (row[4] and not NEW_ANSWERS) or row not in run.rows]
            if run.rows.keys() & set(rows) or len(set(rows)) < len(rows):
                raise _refused(codes.BAD_REQUEST, "UNIQUE constraint failed: metrics.key, metrics.timestamp")
        run.rows.update(rows)
        for row in rows:
            there = run.latest.get(row[0])
            if there is None or (row[2], row[1], row[3]) > (there[2], there[1], there[3]):
                run.latest[row[0]] = row
        self._log_model_points(run, [metric for metric in distinct if metric.model_id is not None])

    def _log_model_points(self, run: _Run, metrics: Sequence[Metric]) -> None:
        new: dict[tuple[str, str, int, int], Metric] = {}
        for metric in metrics:
            value = _row(metric)[3]
            point = Metric(
                metric.key,
                value,
                metric.timestamp,
                metric.step,
                metric.model_id,
                metric.dataset_name,
                metric.dataset_digest,
                run.id,
            )
            place = metric.model_id, metric.key, metric.timestamp, metric.step
            model = self._now.models.get(metric.model_id)
            there = new.get(place) or (model.metrics.get((*place[1:], run.id)) if model is not None else None)
            if model is None or (there is not None and there != point):
                raise _refused(codes.BAD_REQUEST, "constraint failed: logged_model_metrics")
            new[place] = point
        for (model_id, *rest), point in new.items():
            self._now.models[model_id].metrics[(*rest, run.id)] = point  # type: ignore[index]

    def _set_tags(self, run: _Run, tags: Sequence[RunTag]) -> None:
        for tag in tags:
            run.tags[tag.key] = tag.value
            if tag.key == _NAME:
                run.name = tag.value

    @_write
    def set_tag(self, run_id: str, key: str, value: str) -> None:
        tag = validation._validate_tag(key, value)
        self._set_tags(self._active_run(run_id), [tag])

    @_write
    def delete_tag(self, run_id: str, key: str) -> None:
        _delete(self._active_run(run_id).tags, key, f"run with id {run_id}")

    @_write
    def update_run_info(self, run_id: str, status: int | None, end: int | None, name: str | None) -> None:
        run = self._active_run(run_id)
        run.status = run.status if status is None else RunStatus.to_string(status)
        run.end = run.end if end is None else end
        if name:
            run.name = run.tags[_NAME] = name

    @_write
    def delete_run(self, run_id: str) -> None:
        self._run(run_id).stage = _DELETED

    @_write
    def restore_run(self, run_id: str) -> None:
        self._run(run_id).stage = _ACTIVE

    @_write
    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput], models: Sequence[str]) -> None:
        validation._validate_dataset_inputs(list(datasets))
        run = self._active_run(run_id)
        known = self._experiment(run.experiment).datasets
        for each in datasets:
            key = each.dataset.name, each.dataset.digest
            dataset = known.setdefault(key, each.dataset)
            run.datasets.setdefault(key, DatasetInput(dataset, list(each.tags)))
        run.models.update(dict.fromkeys(models))

    @_write
    def log_outputs(self, run_id: str, models: Mapping[str, int]) -> None:
        run = self._active_run(run_id)
        if run.outputs.keys() & models.keys():
            raise _refused(codes.BAD_REQUEST, "UNIQUE constraint failed: inputs")
        run.outputs.update(models)

    @_read
    def get_metric_history(
        self, run_id: str, key: str, most: int | None = None, page_token: str | None = None
    ) -> PagedList[Metric]:
        run = self._now.runs.get(run_id)
        rows = sorted(row for row in run.rows.elements() if row[0] == key) if run is not None else []
        found = [_sent(_metric(row)) for row in rows]
        return _page(found, len(found) if most is None else most, page_token)

    @_write
    def record_logged_model(self, run_id: str, model: Model) -> None:
        tags = self._active_run(run_id).tags
        value = json.dumps([*json.loads(tags.get(_HISTORY, "[]")), model.get_tags_dict()])
        tags[_HISTORY] = validation._validate_tag(_HISTORY, value).value

    # --- logged models

    def _model(self, model_id: str, *, deleted: bool = True) -> _Model:
        found = self._now.models.get(model_id)
        if found is None or (found.stage == _DELETED and not deleted):
            raise _refused(codes.RESOURCE_DOES_NOT_EXIST, f"Logged model with ID '{model_id}' not found.")
        return found

    @_write
    def create_logged_model(
        self,
        experiment_id: str,
        name: str,
        run_id: str | None,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        kind: str | None,
    ) -> LoggedModel:
        validation._validate_logged_model_name(name)
        experiment, made, now = self._active_experiment(experiment_id), f"m-{self._hex()}", self._time()
        place = append_to_uri_path(experiment.artifacts, "models", made, "artifacts")
        model = _Model(made, experiment_id, name, place, now, now, run_id, kind, dict(tags), dict(params))
        self._now.models[made] = model
        return model.entity()

    @_read
    def get_logged_model(self, model_id: str) -> LoggedModel:
        return self._model(model_id, deleted=False).entity()

    @_read
    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        where: str | None = None,
        most: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[LoggedModel]:
        asked, offset = list(experiment_ids), 0
        if page_token:
            token = SearchLoggedModelsPaginationToken.decode(page_token)
            token.validate(asked, where, None)
            offset = token.offset
        models = [
            model.entity()
            for model in self._now.models.values()
            if model.experiment in asked and model.stage == _ACTIVE
        ]
        found = SearchLoggedModelsUtils.sort(
            SearchLoggedModelsUtils.filter_logged_models(models, where), None
        )
        end = offset + (most or 100)
        further = SearchLoggedModelsPaginationToken(asked, where, None, end).encode()
        return PagedList(found[offset:end], further if end < len(found) else None)

    @_write
    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> None:
        model = self._model(model_id)
        model.status, model.updated = status, self._time()

    @_write
    def set_logged_model_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        self._model(model_id).tags.update(tags)

    @_write
    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        _delete(self._model(model_id).tags, key, f"model with ID {model_id!r}")

    @_write
    def log_logged_model_params(self, model_id: str, params: Mapping[str, str]) -> None:
        model = self._model(model_id)
        if model.params.keys() & params.keys():
            raise _refused(codes.BAD_REQUEST, "UNIQUE constraint failed: logged_model_params")
        model.params.update(params)

    @_write
    def delete_logged_model(self, model_id: str) -> None:
        model = self._model(model_id)
        model.stage, model.updated = _DELETED, self._time()

    # --- registered models

    def _registered(self, name: str) -> _Registered:
        validation._validate_model_name(name)
        found = self._now.registered.get(name)
        if found is None:
            raise _refused(codes.RESOURCE_DOES_NOT_EXIST, f"Registered Model with name={name} not found")
        return found

    @_write
    def create_registered_model(
        self, name: str, tags: Mapping[str, str], description: str | None = None
    ) -> RegisteredModel:
        validation._validate_model_name(name)
        for key, value in tags.items():
            validation._validate_registered_model_tag(key, value)
        if name in self._now.registered:
            raise _refused(codes.RESOURCE_ALREADY_EXISTS, f"Registered Model (name={name}) already exists.")
        now = self._time()
        made = self._now.registered[name] = _Registered(name, now, now, description, dict(tags))
        return made.entity()

    @_read
    def get_registered_model(self, name: str) -> RegisteredModel:
        return self._registered(name).entity()

    @_read
    def search_registered_models(
        self, most: int = 100, page_token: str | None = None
    ) -> PagedList[RegisteredModel]:
        found = sorted(self._now.registered.values(), key=lambda model: model.name)
        return _page([model.entity() for model in found], most, page_token)

    @_write
    def update_registered_model(self, name: str, description: str | None) -> RegisteredModel:
        model = self._registered(name)
        model.description, model.updated = description, self._time()
        return model.entity()

    @_write
    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        validation._validate_model_renaming(new_name)
        model = self._registered(name)
        if new_name != name and new_name in self._now.registered:
            raise _refused(
                codes.RESOURCE_ALREADY_EXISTS, f"Registered Model (name={new_name}) already exists."
            )
        del self._now.registered[name]
        self._now.registered[new_name] = model
        model.name, model.updated = new_name, self._time()
        for version in model.versions.values():
            version.updated = model.updated
        return model.entity()

    @_write
    def delete_registered_model(self, name: str) -> None:
        self._registered(name)
        del self._now.registered[name]

    @_write
    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        validation._validate_registered_model_tag(key, value)
        self._registered(name).tags[key] = value

    @_write
    def delete_registered_model_tag(self, name: str, key: str) -> None:
        self._registered(name).tags.pop(key, None)

    @_write
    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        validate_model_alias_name(alias)
        validate_model_alias_name_reserved(alias)
        model, found = self._version(name, version)
        model.aliases[alias] = found.number

    @_write
    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self._registered(name).aliases.pop(alias, None)

    # --- their versions

    def _version(self, name: str, version: str) -> tuple[_Registered, _Version]:
        validation._validate_model_name(name)
        validation._validate_model_version(version)
        model = self._now.registered.get(name)
        found = model.versions.get(int(version)) if model is not None else None
        if model is None or found is None:
            text = f"Model Version (name={name}, version={version}) not found"
            raise _refused(codes.RESOURCE_DOES_NOT_EXIST, text)
        return model, found

    @_write
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
        if is_local_uri(source) or ".." in source.split("/"):
            raise _refused(codes.INVALID_PARAMETER_VALUE, f"Invalid model version source: '{source}'.")
        validation._validate_model_name(name)
        for key, value in tags.items():
            validation._validate_model_version_tag(key, value)
        run_id = run_id or self._run_of(source, model_id)
        model, now = self._registered(name), self._time()
        model.last += 1
        made = _Version(model.last, now, now, source, run_id or "", run_link, description, dict(tags))
        model.versions[made.number], model.updated = made, now
        if model_id:  # which a server looks for when the version is there already
            noted = self._model(model_id, deleted=False).tags
            payload = json.loads(noted.get(_VERSIONS, "[]"))
            noted[_VERSIONS] = json.dumps([*payload, {"name": name, "version": made.number}])
        return _sent(model.version(made))

    def _run_of(self, source: str, model_id: str | None) -> str | None:
        """Return the run of the logged model or version that a new version is made of."""
        if not source.startswith("models:"):
            known = self._now.models.get(model_id or "")
            return known.run if known is not None else None
        named = _parse_model_uri(source)
        try:
            if named.model_id is not None:
                return self._model(named.model_id, deleted=False).run
            self._version(named.name, named.version)
        except MlflowException as error:
            if NEW_ANSWERS and named.model_id is None:
                raise
            raise MlflowException(f"Unable to fetch model from '{source}'. Error: {error}") from error
        return None

    @_read
    def get_model_version(self, name: str, version: str) -> ModelVersion:
        model, found = self._version(name, version)
        return _sent(model.version(found))

    @_read
    def search_model_versions(
        self, where: str, most: int = 1000, page_token: str | None = None
    ) -> PagedList[ModelVersion]:
        versions = [m.version(v) for m in self._now.registered.values() for v in m.versions.values()]
        found = SearchModelVersionUtils.sort(SearchModelVersionUtils.filter(versions, where), _ORDER)
        return _page([_sent(version) for version in found], most, page_token)

    @_write
    def update_model_version(self, name: str, version: str, description: str | None) -> ModelVersion:
        model, found = self._version(name, version)
        found.description, found.updated = description, self._time()
        return _sent(model.version(found))

    @_write
    def delete_model_version(self, name: str, version: str) -> None:
        model, found = self._version(name, version)
        del model.versions[found.number]
        model.updated = self._time()
        if NEW_ANSWERS:
            model.aliases = {alias: to for alias, to in model.aliases.items() if to != found.number}

    @_write
    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        validation._validate_model_version_tag(key, value)
        self._version(name, version)[1].tags[key] = value

    @_write
    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        self._version(name, version)[1].tags.pop(key, None)

    @_write
    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        own = get_canonical_stage(stage)
        model, found = self._version(name, version)
        for each in model.versions.values():
            if archive_existing_versions and each is not found and each.stage == own:
                each.stage, each.updated = STAGE_ARCHIVED, self._time()
        found.stage = own
        found.updated = model.updated = self._time()
        return _sent(model.version(found))

    # --- files

    def artifacts(self, uri: str) -> ArtifactRepository:
        if not uri.startswith(f"{self.uri}/"):
            raise WouldRefuse(f"{self.role} says that the files are at {uri}, which is not its own")
        return MemoryFiles(self, uri)

    def upload(self, repository: ArtifactRepository, file: Path, folder: str | None) -> str | None:
        repository.log_artifact(str(file), folder)
        return None

    @property
    def files(self) -> dict[str, bytes]:
        """The content of each file by its address."""
        return self._now.files

    # --- its own names

    def experiment_name(self, name: str) -> str:
        return name

    def model_name(self, name: str) -> str:
        return name

    def model_name_behind(self, own_name: str) -> str:
        return own_name

    def check_version(
        self, name: str, tags: Mapping[str, str], model: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        pass

    def check_model_tags(self, name: str, tags: Mapping[str, str]) -> None:
        pass


class MemoryFiles(ArtifactRepository):  # type: ignore[misc]
    """The files of one run or logged model of a MemoryDestination."""

    def __init__(self, there: MemoryDestination, uri: str) -> None:
        super().__init__(uri)
        self._there = there

    def _at(self, path: str | None) -> str:
        return posixpath.join(self.artifact_uri, path) if path else str(self.artifact_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        content = Path(local_file).read_bytes()
        place = self._at(posixpath.join(artifact_path or "", Path(local_file).name))
        self._there.serve("log_artifact", True, lambda: self._there.files.update({place: content}))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        for file in sorted(path for path in Path(local_dir).rglob("*") if path.is_file()):
            folder = file.parent.relative_to(local_dir).as_posix()
            self.log_artifact(str(file), posixpath.join(artifact_path or "", folder).removesuffix("."))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        return self._there.serve("list_artifacts", False, lambda: self._listed(path))

    def _listed(self, path: str | None) -> list[FileInfo]:
        root, found = self._at(path) + "/", dict[str, FileInfo]()
        for place, content in self._there.files.items():
            if place.startswith(root):
                name, _, below = place.removeprefix(root).partition("/")
                own = posixpath.join(path or "", name)
                found[own] = FileInfo(own, bool(below), None if below else len(content))
        return [found[each] for each in sorted(found)]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        def read() -> bytes:
            place = self._at(remote_file_path)
            if place not in self._there.files:
                raise _refused(codes.RESOURCE_DOES_NOT_EXIST, f"No such file: {remote_file_path}")
            return self._there.files[place]

        Path(local_path).write_bytes(self._there.serve("download", False, read))


def _refused(code: int, message: str) -> MlflowException:
    return MlflowException(message, code)


def _over_rest(error: MlflowException) -> MlflowException:
    """Return a server's error as it arrives by REST: a refusal, or a 500."""
    if isinstance(error, (Unavailable, RestException, WouldRefuse)):
        return error
    status = error.get_http_status_code()
    if status >= 500:
        said = MlflowException(error.message, codes.INTERNAL_ERROR) if status == 500 else None
        return Unavailable(f"answers {status}: {error.message}", said=said)
    return RestException({"error_code": error.error_code, "message": error.message})


def _check_active(stage: str, what: str) -> None:
    if stage != _ACTIVE:
        text = f"The {what} must be in the 'active' state. Current state is {stage}."
        raise _refused(codes.INVALID_PARAMETER_VALUE, text)


def _delete(tags: dict[str, str], key: str, where: str) -> None:
    if key not in tags:
        raise _refused(codes.RESOURCE_DOES_NOT_EXIST, f"No tag with name: {key} in {where}")
    del tags[key]


def _as_metric(
    key: str, value: float, time: int, step: int, extra: Sequence[str | None] | None = None
) -> Metric:
    model, name, digest = extra or (None, None, None)
    return Metric(key, float(value), time, step, model, name, digest)


def _row(metric: Metric) -> Row:
    value, is_nan = float(metric.value), metric.value != metric.value
    stored = 0.0 if is_nan else min(max(value, -_MOST), _MOST)
    return str(metric.key), int(metric.timestamp), int(metric.step), stored, is_nan


def _page(found: list[Any], most: int, token: str | None) -> PagedList[Any]:
    start = SearchUtils.parse_start_offset_from_page_token(token)
    end = start + most
    return PagedList(found[start:end], SearchUtils.create_page_token(end) if end < len(found) else None)
