"""The local view of a run: what its journal says, so that a live run is read without asking anybody.

A view is a fold over the queue's writes; this process's own are folded as they are made, other processes' are
read from their files when somebody asks.
"""

from __future__ import annotations

import math
import posixpath
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
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
)

from dbml_magics.core.mlflow_private import metric_points, own_tags
from dbml_magics.core.model.facts import DatasetFacts, ModelFacts
from dbml_magics.core.model.operations import (
    BATCHED,
    DAMAGED,
    CreateModel,
    CreateRun,
    DeleteModel,
    DeleteModelTag,
    DeleteRun,
    DeleteTag,
    FinalizeModel,
    LogArtifact,
    LogBatch,
    LogInputs,
    LogMetric,
    LogModelParams,
    LogOutputs,
    LogParam,
    ModelChange,
    Operation,
    Point,
    RestoreRun,
    SetModelTags,
    SetTag,
    UpdateRun,
    point_of,
)
from dbml_magics.core.outbox.lines import Entry

_NAME_TAG = "mlflow.runName"
_CURVES, _CURVE_POINTS = 4, 12  # what is kept of a run once its journal is gone: some 300 bytes
_MAX_FLOAT = 1.7976931348623157e308  # what MLflow's SQL stores keep for infinity

Extra = tuple[str | None, ...]
"""What a point says of a logged model: (model, dataset name, dataset digest)."""
IsLatest = Callable[..., bool]
"""Tells whether no later write to what these words name was folded before this one, and notes this one."""

TERMINAL = frozenset({"FINISHED", "FAILED", "KILLED"})


class Series:
    """One metric's history, 24 bytes a point."""

    __slots__ = ("extras", "last", "steps", "times", "values")

    def __init__(self) -> None:
        self.values = array("d")
        self.times = array("q")
        self.steps = array("q")
        self.extras: dict[tuple[int, int], list[tuple[float, Extra]]] = {}  # (time, step) -> value and extra
        self.last = -1

    def add(self, value: float, time: int, step: int, extra: Extra | None = None) -> None:
        """Add one point, unless it is there, and keep track of the latest: by step, then time, then value."""
        values, times, steps = self.values, self.times, self.steps
        position = len(steps)  # a point is there once its step is
        if len(values) != position:  # an interrupt came before that
            del values[position:], times[position:]
        if extra is not None:
            # log_model logs a run's points once more, for the model; to the run they are the same points.
            points = self.extras.setdefault((time, step), [])
            if not any(_same(value, there) and extra == own for there, own in points):
                points.append((value, extra))
            known = self._find(value, time, step)
            position = position if known is None else known
        elif position and steps[-1] == step and times[-1] == time and _same(values[-1], value):
            position -= 1
        if position == len(steps):
            values.append(value)
            times.append(time)
            steps.append(step)
        last = self.last
        if last < 0:
            self.last = position
            return
        last_step = steps[last]
        if step == last_step and (time, as_kept(value)) <= (times[last], as_kept(values[last])):
            return
        if step >= last_step:
            self.last = position

    def __len__(self) -> int:
        return len(self.steps)

    def curve(self) -> list[float]:
        """Return the finite ones of a few values, evenly spread, in the order of their steps."""
        last = len(self) - 1
        if last < 1:
            return []
        spread = {round(place * last / (_CURVE_POINTS - 1)) for place in range(_CURVE_POINTS)}
        places = sorted(spread, key=lambda place: (self.steps[place], self.times[place], place))
        values = [self.values[place] for place in places]
        return [float(f"{value:.4g}") for value in values if math.isfinite(value)]

    def ends_with(self, points: list[tuple[float, int, int]]) -> bool:
        """Tell whether these (value, time, step) are the newest points."""
        start = len(self) - len(points)
        return start >= 0 and all(
            self.steps[place] == step and self.times[place] == time and _same(self.values[place], value)
            for place, (value, time, step) in enumerate(points, start)
        )

    def _find(self, value: float, time: int, step: int) -> int | None:
        last = self.last
        for position in range(len(self) - 1, -1, -1):
            if self.steps[position] == step and self.times[position] == time:
                if _same(self.values[position], value):
                    return position
            elif last >= 0 and (step, time) > (self.steps[last], self.times[last]):
                return None  # it is newer than all others
        return None

    def metric(self, key: str, position: int) -> Metric:
        """Return one point as a server tells it: not for which run or model it was logged."""
        return Metric(key, self.values[position], self.times[position], self.steps[position])


class ModelView:
    """A logged model as its writes say."""

    def __init__(self, info: ModelFacts) -> None:
        self.info = info
        self.params: dict[str, str] = dict(info.get("params") or {})
        self.tags: dict[str, str] = dict(info.get("tags") or {})
        self.status = "PENDING"
        self.deleted = False

    def fold(self, op: FinalizeModel | ModelChange, is_latest: IsLatest) -> None:
        """Apply one write to the model, where no later one has been folded already."""
        match op:
            case FinalizeModel():
                if is_latest("model", op.model, "status"):
                    self.status = op.status
            case SetModelTags():
                self.tags.update({k: v for k, v in op.tags.items() if is_latest("model", op.model, "tag", k)})
            case DeleteModelTag():
                if is_latest("model", op.model, "tag", op.key):
                    self.tags.pop(op.key, None)
            case LogModelParams():
                params = op.params.items()
                self.params.update({k: v for k, v in params if is_latest("model", op.model, "param", k)})
            case DeleteModel():
                self.deleted = True

    def entity(self, artifact_location: str, metrics: list[Metric]) -> LoggedModel:
        """Return the model as MLflow's entity."""
        return LoggedModel(
            experiment_id=self.info["experiment"],
            model_id=self.info["id"],
            name=self.info["name"],
            artifact_location=artifact_location,
            creation_timestamp=self.info["created"],
            last_updated_timestamp=self.info.get("updated", self.info["created"]),
            model_type=self.info.get("type"),
            source_run_id=self.info.get("run") or self.info.get("foreign_run"),
            status=LoggedModelStatus(self.status),
            tags=dict(self.tags),
            params=dict(self.params),
            metrics=metrics,
        )


class RunView:
    """A run as its writes say, from its creation or from a base that the primary gave."""

    def __init__(self, run_id: str, experiment_id: str, artifact_uri: str, user: str, start: int) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.artifact_uri = artifact_uri
        self.user = user
        self.start = start
        self.name: str | None = None
        """The run's name once its tag is gone: a server keeps both."""
        self.end: int | None = None
        self.status = "RUNNING"
        self.deleted = False
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.series: dict[str, Series] = {}
        self.from_base: frozenset[str] = frozenset()  # metrics whose earlier points only the primary has
        self.base_latest: dict[str, Metric] = {}
        self.datasets: list[DatasetInput] = []
        self.model_inputs: dict[str, None] = {}
        self.outputs: dict[str, int] = {}
        self._latest: list[Metric] | None = None
        self._stale: set[str] = set()

    @classmethod
    def from_run(cls, run: Run, artifact_uri: str) -> RunView:
        """Begin a view from what the primary says of a run."""
        view = cls(
            run.info.run_id, run.info.experiment_id, artifact_uri, run.info.user_id, run.info.start_time
        )
        view.end = run.info.end_time
        view.status = run.info.status
        view.deleted = run.info.lifecycle_stage == LifecycleStage.DELETED
        view.params = dict(run.data.params)
        view.tags = dict(run.data.tags)
        view.name = run.info.run_name
        view.base_latest = {m.key: m for m in metric_points(run)}
        view.from_base = frozenset(view.base_latest)
        if run.inputs:
            view.datasets = list(run.inputs.dataset_inputs)
            view.model_inputs = {m.model_id: None for m in run.inputs.model_inputs}
        if run.outputs:
            view.outputs = {o.model_id: o.step for o in run.outputs.model_outputs}
        return view

    def add_metric(self, key: str, value: float, time: int, step: int, extra: Extra | None = None) -> None:
        """Add one point."""
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series()
        series.add(value, time, step, extra)
        self._stale.add(key)

    def told_of(self, model: str, key: str, time: int, step: int) -> list[tuple[float, Extra]]:
        """Return what was logged of a model's metric at one step and time: values, as kept, and extras."""
        series = self.series.get(key)
        there = series.extras.get((time, step), ()) if series is not None else ()
        return [(as_kept(value), extra) for value, extra in there if extra[0] == model]

    def time_after(self, key: str, time: int, step: int) -> int:
        """Return a later time, at which a metric most likely has no point of this step."""
        series = self.series.get(key)
        if series is None or series.last < 0 or series.steps[series.last] != step:
            return time + 1
        return max(series.times[series.last], time) + 1

    def lacking(self, points: Sequence[Point]) -> list[Point]:
        """Return those of a batch's points whose folding an interrupt may have kept away."""
        keys: dict[str, list[Point]] = {}
        for point in points:
            keys.setdefault(point[0], []).append(point)
        there: dict[str, int] = {}
        for key, own in keys.items():
            series = self.series.get(key)
            if series is not None and all(len(point) == 4 for point in own):
                plain = [(value, time, step) for _, value, time, step in own]
                there[key] = next((n for n in range(len(own), 0, -1) if series.ends_with(plain[:n])), 0)
        return [point for key, own in keys.items() for point in own[there.get(key, 0) :]]

    def curves(self) -> dict[str, list[float]]:
        """Return a few points of some metrics that this journal has from their first one on.

        They are the first metrics with several values, the system's own left out. It costs the same for any
        number of points.
        """
        found: dict[str, list[float]] = {}
        for key, series in self.series.items():
            if len(found) == _CURVES:
                break
            if key in self.from_base or key.startswith("system/"):
                continue
            if len(curve := series.curve()) > 1:
                found[key] = curve
        return found

    def latest(self, key: str) -> Metric:
        """Return a metric's latest point: by step, then time, then value."""
        series = self.series.get(key)
        base = self.base_latest.get(key)
        if series is None:
            assert base is not None
            return base
        own = series.metric(key, series.last)
        return base if base is not None and _rank(base) >= _rank(own) else own

    def run(self) -> Run:
        """Return the run as MLflow's entity."""
        if self._latest is None or len(self._stale) > 1 or len(self._latest) <= 1:
            self._latest = [as_read(self.latest(k)) for k in dict.fromkeys([*self.base_latest, *self.series])]
        elif self._stale:
            # The usual case: one metric moved since the last read; a run with fifty must not be built anew.
            (key,) = self._stale
            latest = as_read(self.latest(key))
            self._latest = [latest if m.key == key else m for m in self._latest]
            if all(m.key != key for m in self._latest):
                self._latest.append(latest)
        self._stale.clear()
        data = RunData(list(self._latest), [Param(k, v) for k, v in self.params.items()])
        own_tags(data).update(self.tags)
        return Run(self.info(), data, self.inputs(), self.run_outputs())

    def info(self) -> RunInfo:
        """Return the run's info as MLflow's entity."""
        return RunInfo(
            run_id=self.run_id,
            experiment_id=self.experiment_id,
            user_id=self.user,
            status=self.status,
            start_time=self.start,
            end_time=self.end,
            lifecycle_stage=LifecycleStage.DELETED if self.deleted else LifecycleStage.ACTIVE,
            artifact_uri=self.artifact_uri,
            run_name=self.tags.get(_NAME_TAG, self.name),
        )

    def inputs(self) -> RunInputs:
        """Return the run's inputs as MLflow's entity."""
        return RunInputs(list(self.datasets), [LoggedModelInput(m) for m in self.model_inputs])

    def run_outputs(self) -> RunOutputs:
        """Return the run's outputs as MLflow's entity."""
        return RunOutputs([LoggedModelOutput(m, step) for m, step in self.outputs.items()])

    def fold(self, op: Operation, is_latest: IsLatest) -> None:
        """Apply one write of the run's own kind, where no later one has been folded already."""
        match op:
            case LogMetric():
                self.add_metric(op.key, op.value, op.time, op.step, tuple(op.extra) if op.extra else None)
            case LogParam():
                self.params.setdefault(op.key, op.value)
            case SetTag():
                self._set_tag(op.key, op.value, is_latest)
            case LogBatch():
                self._add_batch(op, is_latest)
            case DeleteTag():
                if is_latest("tag", op.key):
                    value = self.tags.pop(op.key, None)
                    if op.key == _NAME_TAG and value is not None:
                        self.name = value
            case UpdateRun():
                self._update(op, is_latest)
            case DeleteRun() | RestoreRun():
                if is_latest("life"):
                    self.deleted = isinstance(op, DeleteRun)
            case LogInputs():
                for given in op.datasets:
                    found = dataset_from(given)
                    if not any(_same_dataset(found, d) for d in self.datasets):
                        self.datasets.append(found)
                self.model_inputs.update(dict.fromkeys(op.models))
            case LogOutputs():
                self.outputs.update(op.steps)

    def _add_batch(self, op: LogBatch, is_latest: IsLatest) -> None:
        for key, value, time, step, *extra in op.points:
            self.add_metric(key, value, time, step, tuple(extra[0]) if extra else None)
        for name, param in op.params.items():
            self.params.setdefault(name, param)
        for name, tag in op.tags.items():
            self._set_tag(name, tag, is_latest)

    def _set_tag(self, key: str, value: str, is_latest: IsLatest) -> None:
        if is_latest("tag", key):
            self.tags[key] = value

    def _update(self, op: UpdateRun, is_latest: IsLatest) -> None:
        if op.status and is_latest("status"):
            self.status, self.end = op.status, op.end
        if op.name:
            self._set_tag(_NAME_TAG, op.name, is_latest)


class ArtifactLocation(NamedTuple):
    """Where the journal keeps a file: as a copy in the spool, or within the line that tells of it."""

    size: int
    spool: str
    """The copy's name; "" where the line holds the content."""
    place: tuple[str, int, int]
    """(journal file, from byte, to byte) of the line, or of the lines that it was written with."""


class QueueView:
    """Everything that one queue's writes say: a run (perhaps), logged models, artifacts on their way."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.run: RunView | None = None
        self.models: dict[str, ModelView] = {}
        self.statuses: dict[str, str] = {}  # of models whose creation is no longer here
        self.artifacts: dict[str, dict[str, ArtifactLocation]] = {}  # owner -> path -> the newest
        self.folders: dict[str, set[str]] = {}  # owner -> the folders that these are in
        self.read_to: dict[str, int] = {}  # other processes' files: folded up to
        self.stamp = 0  # the folder's time at the last look
        self.created = False
        self._written: dict[
            tuple[str, ...], tuple[int, str, int]
        ] = {}  # what was set -> the last write's order

    def fold_line(self, entry: Entry, artifact_uri: str) -> None:
        """Apply the write in a line; a damaged one is passed over, for delivery puts it aside."""
        point = point_of(entry.line) if entry.line is not None else None
        if point is None:
            if (op := entry.operation) is not None:
                self.fold(op, entry.stamp, artifact_uri, (entry.file, entry.start, entry.end))
        elif self.run is not None:
            with suppress(*DAMAGED):
                key, value, time, step, *extra = point
                self.run.add_metric(key, value, time, step, tuple(extra[0]) if extra else None)

    def fold(self, op: Operation, stamp: int, artifact_uri: str, place: tuple[str, int, int]) -> None:
        """Apply one write, whose line is at ``place`` (file, from byte, to byte), perhaps among others."""
        with suppress(*DAMAGED):
            self._fold(op, stamp, artifact_uri, place)

    def _fold(self, op: Operation, stamp: int, artifact_uri: str, place: tuple[str, int, int]) -> None:
        order = stamp, place[0], place[1]

        def is_latest(*what: str) -> bool:
            if order < self._written.get(what, order):
                return False
            self._written[what] = order
            return True

        if self.run is not None and isinstance(op, BATCHED):  # the usual writes
            self.run.fold(op, is_latest)
            return
        match op:
            case CreateRun():
                self._create(op, artifact_uri)
            case LogArtifact():
                self._add_file(op, place, is_latest)
            case CreateModel():
                self.models[op.facts["id"]] = ModelView(op.facts)
            case FinalizeModel() | SetModelTags() | DeleteModelTag() | LogModelParams() | DeleteModel():
                model = self.models.get(op.model)
                if model is not None:
                    model.fold(op, is_latest)
                elif isinstance(op, FinalizeModel) and is_latest("model", op.model, "status"):
                    self.statuses[op.model] = op.status
            case _ if self.run is not None:
                self.run.fold(op, is_latest)

    def _add_file(self, op: LogArtifact, place: tuple[str, int, int], is_latest: IsLatest) -> None:
        above = posixpath.dirname(op.path)
        folders = self.folders.setdefault(op.owner, set())
        while above and above not in folders:
            folders.add(above)
            above = posixpath.dirname(above)
        if is_latest("file", op.owner, op.path):
            held = ArtifactLocation(op.file["size"], op.file.get("spool", ""), place)
            self.artifacts.setdefault(op.owner, {})[op.path] = held

    def _create(self, op: CreateRun, artifact_uri: str) -> None:
        self.created = True
        if self.run is not None:
            return
        run = RunView(self.queue, op.experiment, artifact_uri, op.user, op.start)
        run.tags = dict(op.tags)
        self.run = run

    def model_metrics(self, model_id: str) -> list[Metric]:
        """Return the points that were logged for one model."""
        if self.run is None:
            return []
        return [
            Metric(
                key,
                value,
                time,
                step,
                model_id=model,
                dataset_name=dataset,
                dataset_digest=digest,
                run_id=self.run.run_id,
            )
            for key, series in list(self.run.series.items())
            for (time, step), points in list(series.extras.items())
            for value, (model, dataset, digest) in list(points)
            if model == model_id
        ]


def dataset_to(given: DatasetInput) -> DatasetFacts:
    """Return a dataset input as plain data."""
    return {
        "dataset": {k: v for k, v in dict(given.dataset).items() if v is not None},
        "tags": {t.key: t.value for t in given.tags},
    }


def dataset_from(given: DatasetFacts) -> DatasetInput:
    """Return a dataset input from plain data."""
    kept = {"name": None, "digest": None, "source_type": None, "source": None, **given["dataset"]}
    return DatasetInput(Dataset(**kept), [InputTag(k, v) for k, v in given["tags"].items()])


def _same_dataset(a: DatasetInput, b: DatasetInput) -> bool:
    return (a.dataset.name, a.dataset.digest) == (b.dataset.name, b.dataset.digest)


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


def clamp(value: float) -> float:
    """Return a value as MLflow's SQL stores keep it."""
    return max(-_MAX_FLOAT, min(_MAX_FLOAT, value))


def latest_of_each(metrics: Iterable[Metric]) -> list[Metric]:
    """Return the latest point of each of a logged model's metrics, one for each dataset."""
    found: dict[tuple[str, str | None, str | None], Metric] = {}
    for metric in metrics:
        key = metric.key, metric.dataset_name, metric.dataset_digest
        there = found.get(key)
        order = metric.step, metric.timestamp, metric.value
        if there is None or order >= (there.step, there.timestamp, there.value):
            found[key] = metric
    return list(found.values())


Mark = tuple[int, int, Any]


def mark(value: float, time: int, step: int) -> Mark:
    """Return what makes a point of a metric the same point to a workspace."""
    return (step, time, "nan" if value != value else clamp(value))


def as_kept(value: float) -> float:
    """Return the number by which MLflow's SQL stores order a value: 0 for NaN, which they keep beside it."""
    return 0.0 if value != value else clamp(value)


def _rank(metric: Metric) -> tuple[int, int, float]:
    return metric.step, metric.timestamp, as_kept(metric.value)


def as_read(metric: Metric) -> Metric:
    """Return a point as a server tells it, infinity as the largest float."""
    if metric.value - metric.value == 0 or metric.value != metric.value:
        return metric
    return Metric(metric.key, clamp(metric.value), metric.timestamp, metric.step, run_id=metric.run_id)


def as_history(points: Iterable[Metric]) -> list[Metric]:
    """Return points as a server tells a metric's history: each one once, by time, step and value."""
    unique = {(m.timestamp, m.step, as_kept(m.value), m.value != m.value): m for m in map(as_read, points)}
    return [unique[mark] for mark in sorted(unique)]


def status_name(status: object) -> str:
    """Return a run status as its name, whatever form MLflow gave it in."""
    return status if isinstance(status, str) else str(RunStatus.to_string(status))


def tags_of(tags: Iterable[RunTag]) -> dict[str, str]:
    """Return tags as a dict of strings."""
    return {t.key: str(t.value) for t in tags}
