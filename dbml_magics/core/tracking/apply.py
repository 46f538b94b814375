"""Applying the journal's writes at one workspace: translated to its ids, and once.

A write that may have arrived before (its sender died, its answer was lost) comes with ``doubt``: the
workspace is asked what it has before anything is sent. Metrics append, so they are compared with the history;
creations carry the id that the user saw in a tag, and are searched by it.
"""

from __future__ import annotations

import json
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from mlflow.entities import (
    DatasetInput,
    Experiment,
    LifecycleStage,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    Run,
    RunStatus,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.utils.uri import append_to_uri_path

from dbml_magics.common.log_records import logger
from dbml_magics.core.destinations.errors import (
    MissingEndpoint,
    Unavailable,
    already_exists,
    classify_error,
    clean,
    is_missing,
)
from dbml_magics.core.destinations.limits import Limits, names_a_limit
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG, told_apart
from dbml_magics.core.destinations.protocol import Destination, Point
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.mlflow_private import metric_points
from dbml_magics.core.model.operations import (
    BATCHED,
    ChangeExperiment,
    ChangeRegistry,
    CopyFiles,
    CreateExperiment,
    CreateModel,
    CreateRun,
    DamagedLine,
    DeleteModel,
    DeleteModelTag,
    DeleteRun,
    DeleteTag,
    FinalizeModel,
    Item,
    LogArtifact,
    LogInputs,
    LogMetric,
    LogModelParams,
    LogOutputs,
    LogParam,
    Malformed,
    ModelChange,
    ModelFacts,
    Operation,
    RegisterVersion,
    RestoreRun,
    RetryDeadLetter,
    SetModelTags,
    SetTag,
    Unknown,
    UpdateRun,
)
from dbml_magics.core.model.sendable import is_text, refuse_taken_place
from dbml_magics.core.outbox.state import Identity
from dbml_magics.core.paging import Pages, entries, files_below, standing
from dbml_magics.core.tracking import model_emulation
from dbml_magics.core.tracking.acknowledged import Acknowledged, Missing
from dbml_magics.core.tracking.attached import complete_adopted
from dbml_magics.core.tracking.experiments import Experiments
from dbml_magics.core.tracking.overflow import Overflow
from dbml_magics.core.tracking.registrations import Registrations
from dbml_magics.core.tracking.view import Mark, dataset_from, mark

if TYPE_CHECKING:
    from dbml_magics.core.tracking.engine import Engine

_log = logger(__name__)

RUN_TAG = "dbml_run_id"
MODEL_TAG = "dbml_model_id"
_MODEL_ID = re.compile(r"(?!\.{1,2}$)[\w.~-]+")
RUN_ID_TAGS = ("mlflow.parentRunId", "mlflow.rootRunId")
MODEL_VERSIONS_TAG = "mlflow.modelVersions"
_PRIMARY_S = 10.0  # how long a mirror's worker waits for the primary's answer: it has its own work

_OTHERS_S = 60.0  # how long a run is left to the process that began it on another machine
_ISOLATED_TRIES = 3  # times that a write is tried alone, each after another that went through
_ISOLATED_PAUSE_S = 0.3
_UNSENDABLE = (UnicodeError, OverflowError, RecursionError)  # of a request that could not be made
_MANY = 8  # items failing alone, none of the others arriving: the service's trouble, not the items'


@dataclass
class Batch:
    """What one log-batch will carry, or a part of it."""

    metrics: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)

    def halves(self) -> tuple[Batch, Batch]:
        """Split by kind where there are several, else in the middle."""
        kinds = [bool(self.metrics), bool(self.params), bool(self.tags)]
        if sum(kinds) > 1:
            if self.metrics:
                return Batch(metrics=self.metrics), Batch(params=self.params, tags=self.tags)
            return Batch(params=self.params), Batch(tags=self.tags)
        if self.metrics:
            middle = len(self.metrics) // 2
            return Batch(metrics=self.metrics[:middle]), Batch(metrics=self.metrics[middle:])
        items = list((self.params or self.tags).items())
        first, second = dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])
        if self.params:
            return Batch(params=first), Batch(params=second)
        return Batch(tags=first), Batch(tags=second)

    def one(self) -> Item:
        """Return a batch of one as a write, for the dead letters."""
        if self.metrics:
            return LogMetric(*self.metrics[0])
        kind, items = (LogParam, self.params) if self.params else (SetTag, self.tags)
        return kind(*next(iter(items.items())))


Rejected = list[tuple[Item, str]]


class Applier:
    """Applies writes at one workspace."""

    def __init__(self, engine: Engine, role: str) -> None:
        self.engine = engine
        self.role = role
        self.workspace: Destination = engine.workspaces[role]
        self.state = engine.state
        self.limits = self.workspace.limits
        self.experiments = Experiments(self)
        self.registrations = Registrations(self)
        self.overflow = Overflow(self)
        self._repositories: dict[str, ArtifactRepository] = {}
        self._adopting: set[str] = set()
        self._awaited: dict[str, float] = {}  # run that another process shall make here -> since when
        self.there: dict[str, dict[str, set[Mark]]] = {}
        """The points that runs have, as found while they were in doubt and sent since."""
        self.acknowledged = Acknowledged()
        self.adopted: set[str] = set()  # runs that were copied just now: what is on its way is in doubt
        self._sent = False  # something of the batch on its way has left this machine

    @property
    def store(self) -> Any:
        """Return the workspace's tracking store."""
        return self.engine.workspaces[self.role].tracking

    @property
    def tracked(self) -> bool:
        """Tell whether runs go to this workspace at all."""
        return self.role in self.engine.link.tracked

    @property
    def has_logged_models(self) -> bool:
        """Tell whether the service has logged models; True until it said otherwise."""
        return not self.lacks("logged-models")

    def note_no_logged_models(self) -> None:
        """Remember that the service answered that it has no logged models."""
        self.note_lack("logged-models")

    def look_for_logged_models(self) -> bool:
        """Settle whether the service lacks logged models or has no call for one id; True where it has them.

        The id stands in the request's path: one that the service reads otherwise gets the same answer.
        """
        try:
            self.workspace.search_logged_models(["0"], most=1)
        except MissingEndpoint:
            self.note_no_logged_models()
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable):
                raise
        return self.has_logged_models

    def note_lack(self, capability: str) -> None:
        """Remember that the service answered that it has no such call, until the next link."""
        self.state.capabilities.note_lack(self.role, capability)

    def lacks(self, capability: str) -> bool:
        """Tell whether the service answered so: ``logged-models``, ``outputs`` or ``inputs`` of runs."""
        return self.state.capabilities.lacks(self.role, capability)

    def reset_capabilities(self) -> None:
        """Forget what the service lacked: it may have learned it since, and is asked at the next use."""
        self.state.capabilities.forget_lacks(self.role)

    def keeps(self, model: str) -> bool:
        """Tell whether we keep a logged model, whatever the service has learned since it was logged."""
        return not self.has_logged_models or model_emulation.is_kept(self, model)

    def apply(self, queue: str, op: Operation, in_doubt: bool) -> None:
        """Apply one write that is no part of a batch. Raises Unavailable, or the workspace's refusal."""
        if isinstance(op, Unknown) or op.kind in _NOT_APPLIED:
            raise MlflowException(
                f"a write of an unknown kind ({op.code!r}): was it made by a newer dbml-magics?"
            )
        of_registry = issubclass(op.kind, (RegisterVersion, ChangeRegistry))
        if not (self.tracked or of_registry) or not op.meant_for(self.role):
            return
        try:
            self._carry_out(queue, op, in_doubt)
        except Exception as error:
            raise classify_error(error) from error

    def _carry_out(self, queue: str, op: Operation, in_doubt: bool) -> None:
        match op:
            case CreateRun():
                self._create_run(queue, op, in_doubt)
            case UpdateRun():
                self._update_run(queue, op)
            case DeleteRun():
                self.workspace.delete_run(self.run_at(queue))
            case RestoreRun():
                self.workspace.restore_run(self.run_at(queue))
            case DeleteTag():
                self._delete_tag(queue, op.key)
            case LogInputs():
                self._inputs(queue, op, in_doubt)
            case LogOutputs():
                self._outputs(queue, op.steps, in_doubt)
            case LogArtifact():
                self._artifact(queue, op)
            case CopyFiles():
                self._copy_files(queue, op.role)
            case CreateModel():
                self.create_model(op.facts, in_doubt)
            case FinalizeModel():
                self.finalize_model(op.model, op.status)
            case SetModelTags() | DeleteModelTag() | LogModelParams() | DeleteModel():
                self.change_known_model(op, in_doubt)
            case CreateExperiment():
                self._create_experiment(op)
            case ChangeExperiment():
                self._change_experiment(op, in_doubt)
            case RegisterVersion():
                self.registrations.version(queue, op.facts, in_doubt)
            case ChangeRegistry():
                self.registrations.write(queue, op.change, in_doubt)
            case Malformed():
                raise ValueError(op.cause)

    # --- batches

    def batch(self, queue: str, batch: Batch, in_doubt: bool, *, in_pieces: bool = False) -> Rejected:
        """Send metrics, params and tags of one run; returns what was refused, with the cause.

        Raises Unavailable.

        ``in_pieces`` is for a batch that fails time and again though the workspace answers: what of it goes
        on failing alone, while the rest and others go through, is returned as refused.
        """
        if not self.tracked:
            return []
        rejected: Rejected = []
        self._sent = False
        try:
            run_id = self.run_at(queue)
            if not in_doubt:
                self.there.pop(run_id, None)
            batch.tags = self.own_tags(batch.tags)
            of_models = [p for p in batch.metrics if _model_of(p)]
            if self._kept_of(of_models):
                batch.metrics = self._without_copies(run_id, batch.metrics)
            fitting = self.overflow.split_by_limits(queue, run_id, batch)
            if in_pieces:
                self._send_in_pieces(queue, run_id, fitting, rejected)
            else:
                self._send(queue, run_id, fitting, in_doubt, rejected)
            kept = self._kept_of(of_models)
            model_emulation.note_metrics(self, [p for p in of_models if p[4][0] in kept])
        except Exception as error:
            classified = classify_error(error)
            if isinstance(classified, Unavailable) and self._sent:
                classified.sent = True  # a part of the batch did arrive
            raise classified from error
        return rejected

    def missing_at_end(self, queue: str) -> Missing:
        """Return what of a run was acknowledged here and is not here; asks once. Raises Unavailable."""
        try:
            found = self.workspace.get_run(self.run_at(queue))
            return self.acknowledged.missing(found, latest_of(found))
        except Exception as error:
            raise classify_error(error) from error

    def absent(self, queue: str, points: list[Point]) -> list[Point]:
        """Return those of a run's points that are not here. Raises Unavailable."""
        try:
            run_id = self.run_at(queue)
            self.there.pop(run_id, None)
            return self._missing_points(run_id, points)
        except Exception as error:
            raise classify_error(error) from error

    def probe(self, queue: str) -> None:
        """Write what is there already: whether writes to a run go through at all. Raises Unavailable."""
        self._send_once(self.run_at(queue), Batch(tags={RUN_TAG: queue}))

    def retry_in_isolation(self, queue: str, attempt: Callable[[], None]) -> Unavailable | None:
        """Try a write that fails, each time after one that goes through; returns how it went on failing.

        Raises Unavailable when the others fail too: it is not this write's fault then.
        """
        failure = None
        for again in range(_ISOLATED_TRIES):
            if again:
                self.engine.clock.sleep(_ISOLATED_PAUSE_S)
            self.probe(queue)
            try:
                attempt()
                return None
            except Exception as error:
                classified = classify_error(error)
                if not isinstance(classified, Unavailable) or not (classified.sent or classified.denied):
                    raise classified from error
                failure = classified
        return failure

    def _send_in_pieces(self, run: str, run_id: str, batch: Batch, rejected: Rejected) -> None:
        self.probe(run)
        parts, alone, arrived = [batch], list[Batch](), 0
        while parts:
            part = parts.pop(0)
            try:
                self._send(run, run_id, part, True, rejected)
                arrived += 1
            except Exception as error:
                classified = classify_error(error)
                if not isinstance(classified, Unavailable) or not (classified.sent or classified.denied):
                    raise classified from error
                if len(part) > 1:
                    parts[:0] = part.halves()
                    continue
                alone.append(part)
                if len(alone) > _MANY and not arrived:  # it is not the items that are at fault
                    raise classified from error
        for part in alone:
            failure = self.retry_in_isolation(run, partial(self._send, run, run_id, part, True, rejected))
            if failure is not None and (not part.metrics or self._missing_points(run_id, part.metrics)):
                rejected.append((part.one(), time_and_again(failure)))

    def make_ready(self, queue: str) -> None:
        """Make sure that the run of a queue is here, before it is asked what of a batch is in doubt."""
        try:
            if self.tracked:
                self.run_at(queue)
        except Exception as error:
            raise classify_error(error) from error

    def _send(self, run: str, run_id: str, batch: Batch, in_doubt: bool, rejected: Rejected) -> None:
        if in_doubt and batch.metrics:
            batch.metrics = self._missing_points(run_id, batch.metrics)
        if not len(batch):
            return
        try:
            self._send_once(run_id, batch)
        except Exception as error:
            self.there.pop(run_id, None)
            refusal = classify_error(error)
            if isinstance(error, _UNSENDABLE):
                refusal = MlflowException.invalid_parameter_value(f"it cannot be sent ({cause_of(error)})")
            if not isinstance(refusal, MlflowException) or isinstance(refusal, Unavailable):
                raise refusal from error
        else:
            marks: dict[str, list[Mark]] = {}
            for point in batch.metrics:
                marks.setdefault(point[0], []).append(mark(*point[1:4]))
            self.acknowledged.batch(run_id, batch, marks)
            for key, there in self.there.get(run_id, {}).items():
                there.update(marks.get(key, ()))
            self.overflow.sent(run, batch)
            return
        said = str(refusal)
        lowered = self.limits.lowered(said, len(batch.metrics)) or (
            self.limits.lowered_body(said, sum(_sizes(batch))) if len(batch) > 1 else None
        )
        if lowered is not None:
            self.limits = lowered
            if batch.metrics:  # a part may be there; asked once for the whole, not for each part
                batch.metrics = self._missing_points(run_id, batch.metrics)
            for part in within(batch, lowered):
                self._send(run, run_id, part, False, rejected)
        elif len(batch) > 1:
            # A refused batch may have been written in part (docs.databricks.com): ask for each half.
            for half in batch.halves():
                # What the first half taught of the run's limits holds for the second.
                self._send(run, run_id, self.overflow.split_by_limits(run, run_id, half), True, rejected)
        elif not batch.metrics or self._missing_points(run_id, batch.metrics):
            # (A NaN that is there already is refused by MLflow's own server: it has arrived.)
            if not names_a_limit(said, refusal.error_code, sum(_sizes(batch))):
                rejected.append((batch.one(), cause_of(refusal)))
            elif self.overflow.learn(run, run_id, batch, said):
                self._send(run, run_id, batch, True, rejected)

    def _send_once(self, run_id: str, batch: Batch) -> None:
        try:
            # In place, without a call for each: of 1,000 points nearly all have nothing to translate.
            points = [p if len(p) == 4 else (*p[:4], self._extra(p)) for p in batch.metrics]
            self.workspace.log_batch(run_id, points, batch.params, batch.tags)
        except Exception as error:
            classified = classify_error(error)
            self._sent = self._sent or not isinstance(classified, Unavailable) or classified.sent
            raise classified from error
        self._sent = True

    def _extra(self, point: Point) -> tuple[str | None, str | None, str | None]:
        if len(point) < 5 or point[4] is None:
            return None, None, None
        model_id, name, digest = point[4]
        if not self.has_logged_models:
            return None, None, None
        actual = self.model_at(model_id).actual if model_id else None
        kept = self.keeps(model_id) if model_id else not self.has_logged_models
        return (None, None, None) if kept else (actual, name, digest)

    def _missing_points(self, run_id: str, points: list[Point]) -> list[Point]:
        of_models, of_run = self._by_model(points)
        missing = [
            point
            for model, some in of_models.items()
            for point in self._missing_at_model(run_id, model, some)
        ]
        # In the order in which they came: a workspace may call the last of them the latest.
        missing += self._missing_at_run(run_id, of_run)
        wanted = {id(point) for point in missing}
        return [point for point in points if id(point) in wanted]

    def _without_copies(self, run_id: str, points: list[Point]) -> list[Point]:
        """Leave out a model's copies of what its run has: without logged models both are the run's.

        ``log_model`` logs the points of its run once more, for the model.
        """
        kept = self._kept_of(points)
        of_run = [p for p in points if _model_of(p) not in kept]
        seen = {(p[0], mark(*p[1:4])) for p in of_run}
        others = {(p[0], mark(*p[1:4])): p for p in points}
        new = [point for key, point in others.items() if key not in seen]
        wanted = {id(point) for point in (*of_run, *self._missing_at_run(run_id, new))}
        return [point for point in points if id(point) in wanted]

    def _kept_of(self, points: list[Point]) -> set[str]:
        """Return which of the models of some points we keep."""
        return {model for model in {_model_of(point) for point in points} if model and self.keeps(model)}

    def _by_model(self, points: list[Point]) -> tuple[dict[str, list[Point]], list[Point]]:
        of_models: dict[str, list[Point]] = {}
        of_run, kept = [], self._kept_of(points)
        for point in points:
            model = _model_of(point)
            # MLflow's own server tells a model's NaN as 0, and refuses one that its run has.
            if model and model not in kept and point[1] == point[1]:
                of_models.setdefault(model, []).append(point)
            else:
                of_run.append(point)
        return of_models, of_run

    def _missing_at_model(self, run_id: str, model: str, points: list[Point]) -> list[Point]:
        # A run's history does not say for which model a point was logged; the model does.
        try:
            told = self.logged_model(self.model_at(model).actual).metrics or []
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                raise
            return points  # there is no such model here: they are refused one by one
        there = {
            (m.key, mark(m.value, m.timestamp, m.step), m.dataset_name or None, m.dataset_digest or None)
            for m in told
            if not m.run_id or m.run_id == run_id
        }
        return [p for p in points if (p[0], mark(*p[1:4]), p[4][1] or None, p[4][2] or None) not in there]

    def _missing_at_run(self, run_id: str, points: list[Point]) -> list[Point]:
        if not points:
            return []
        given: dict[str, set[Mark]] = {}
        for point in points:
            given.setdefault(point[0], set()).add(mark(*point[1:4]))
        there, known = self.there.setdefault(run_id, {}), dict[str, set[Mark]]()
        asked = [key for key in given if key not in there]
        # get_run, for a search lags behind on metrics (azure-sdk-for-python#39198).
        latest = latest_of(self.workspace.get_run(run_id)) if asked else {}
        for key in asked:
            if given[key] == {latest.get(key)}:
                known[key] = given[key]
            elif key not in latest:
                there[key] = set()
            else:  # only a metric that has other points needs a request of its own
                there[key] = {mark(m.value, m.timestamp, m.step) for m in self.history(run_id, key)}
        return [p for p in points if mark(*p[1:4]) not in (known.get(p[0]) or there[p[0]])]

    def history(self, run_id: str, key: str) -> list[Metric]:
        """Return a metric's whole history at this workspace; ``run_id`` is the workspace's own."""
        found: list[Metric] = []
        token, pages = None, Pages()
        while True:
            most = self.limits.history_page
            try:
                page = self.workspace.get_metric_history(run_id, key, most, token)
            except MlflowException as error:
                lowered = self.limits.lowered_page(str(error))
                if isinstance(classify_error(error), Unavailable) or lowered is None:
                    raise
                self.limits = lowered
                continue
            token = pages.follow(getattr(page, "token", None), page)
            found.extend(page)
            if token is None:
                return found

    # --- runs

    def run_at(self, run: str) -> str:
        """Return this workspace's id of a run, making or adopting the run if it is not there yet."""
        return self.run_identity(run).actual

    def run_identity(self, run: str) -> Identity:
        """Return this workspace's id and artifact URI of a run, as :meth:`run_at`."""
        known = self.state.identity(self.role, "run", run)
        if known is not None:
            return known if "artifacts" in known.extra else self._placed("run", run, known)
        creation = self.engine.creation_of(run)
        if creation is not None and self.tracked:
            if (cause := self.state.creations.refusal_of_run(self.role, run)) is not None:
                raise MlflowException.invalid_parameter_value(f"its run could not be made here: {cause}")
            self._create_run(run, creation, True)
            known = self.state.identity(self.role, "run", run)
            assert known is not None
            return known
        if self.role == self.engine.began_at(run):
            return self.remember_run(run, self._own_run(run))
        return self._adopt(run)

    def _own_run(self, run: str) -> Run:
        try:
            return self.workspace.get_run(run)
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                raise
            if (found := self.run_by_tag(run)) is None:
                raise
            return found

    def run_by_tag(self, run: str) -> Run | None:
        """Return the run of a provisional id that the link's state, which was lost, would translate."""
        if not is_text(run) or "'" in run:
            return None
        experiments = [each.experiment_id for each in self.workspace.search_experiments(ViewType.ALL)]
        return self.find_run(experiments, run)

    def remember_run(self, run: str, found: Run) -> Identity:
        """Remember what this workspace calls a run."""
        info = found.info
        self._repositories.pop(f"run:{run}", None)  # a run that was lost there is made anew elsewhere
        return self.state.set_identity(
            self.role, "run", run, info.run_id, artifacts=info.artifact_uri, start=info.start_time
        )

    def visible_run(self, own: str) -> str | None:
        """Return the id that the user knows of a run by this workspace's own; None where it is gone."""
        known = self.state.visible(self.role, "run", own)
        if known is not None:
            return known
        try:
            found = self.workspace.get_run(own)
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                raise
            return None
        if RUN_TAG not in found.data.tags:
            self.state.creations.note_began_at(own, self.role)
            self.remember_run(own, found)
        return str(found.data.tags.get(RUN_TAG, own))

    def _create_run(self, queue: str, op: CreateRun, in_doubt: bool) -> None:
        if self.state.identity(self.role, "run", queue) is not None:
            return
        experiment_id = self.experiment_at(op.experiment)
        told = {**self.own_tags(op.tags), RUN_TAG: queue}
        tags = {key: value for key, value in told.items() if is_text(key) and is_text(value)}
        creations = self.state.creations
        if self._was_tried(queue) or in_doubt:
            found = self._run_under_its_id(queue) or self.find_run([experiment_id], queue)
            if found is not None:
                self._complete_tags(queue, found, tags)
                self.remember_run(queue, found)
                creations.settle_run(self.role, queue)
                return
        creations.begin(self.role, queue)
        user = op.user if is_text(op.user) else ""
        try:
            made = self._make_run(queue, experiment_id, user, op.start, tags)
        except Exception as error:
            classified = classify_error(error)
            if isinstance(classified, Unavailable) and not classified.sent:
                creations.settle(self.role, queue)
            raise classified from error
        self.remember_run(queue, made)
        creations.settle_run(self.role, queue)
        for key in told.keys() - tags.keys():  # a line of the first release: it kept what nobody can be sent
            self.state.reject(self.role, queue, SetTag(key, told[key]).encode(), "this is no Unicode text")

    def _run_under_its_id(self, run: str) -> Run | None:
        """Return the run that this workspace itself named, though the state does not know of it any more."""
        if self.role != self.engine.link.primary and not self.workspace.capabilities.takes_run_ids:
            return None
        try:
            found: Run = self.workspace.get_run(run)
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable):
                raise
            return None
        return found

    def give_up_run(self, run: str, cause: str) -> None:
        """Remember that a run cannot be made here: what is logged to it is put aside with it."""
        self.state.creations.refuse_run(self.role, run, cause)

    def _was_tried(self, visible: str) -> bool:
        """Tell whether a creation was begun before, and its answer not seen; it may be under way yet."""
        tried = self.state.creations.is_begun(self.role, visible)
        if tried:
            self.engine.workers[self.role].let_settle()
        return tried

    def _make_run(self, run: str, experiment_id: str, user: str, start: int, tags: dict[str, str]) -> Run:
        """Make a run with its tags; one that the workspace refuses is put aside, and the run made without."""
        under_its_id = self._make_under_its_id(run, experiment_id, start, tags)
        if under_its_id is not None:
            self.overflow.begin(run, under_its_id.data.tags)
            self._complete_tags(run, under_its_id, tags)
            return under_its_id
        name = tags.get("mlflow.runName")
        fitting, over = self.overflow.split_tags(tags)

        def make(given: dict[str, str]) -> Run:
            return self._in_living_experiment(
                experiment_id,
                lambda: self.workspace.create_run(experiment_id, user, start, given, name),
            )

        few = {key: value for key, value in tags.items() if key in (RUN_TAG, "mlflow.runName")}
        try:
            made, whole = make(fitting), not over
        except Exception as error:
            refused = classify_error(error)
            if isinstance(refused, (Unavailable, MissingEndpoint)) or not isinstance(
                refused, MlflowException
            ):
                raise refused from error
            if few == tags:
                raise
            made, whole = make(few), False
        if self._asks_for_ids and not any(tags.get(key) for key in RUN_ID_TAGS):
            # It makes runs, but none under an id of ours.
            self.state.capabilities.note_takes_run_ids(self.role, False)
        self.overflow.begin(run, made.data.tags)
        if not whole:
            self._complete_tags(run, made, tags)
        return made

    @property
    def _asks_for_ids(self) -> bool:
        takes = self.state.capabilities.takes_run_ids(self.role)
        return self.workspace.capabilities.takes_run_ids and takes is not False

    def _make_under_its_id(
        self, run: str, experiment_id: str, start: int, tags: dict[str, str]
    ) -> Run | None:
        """Make a run under the id that the user saw, or return None where the service names runs itself.

        Doing it twice makes one run: such a creation is never in doubt.
        """
        if not self._asks_for_ids:
            return None
        made = self.workspace.make_run_as(run, experiment_id, start, tags)
        if made is None and self.workspace.get_experiment(experiment_id).lifecycle_stage == "deleted":
            self.workspace.restore_experiment(experiment_id)  # as in _in_living_experiment
            made = self.workspace.make_run_as(run, experiment_id, start, tags)
        if made is not None:
            self.state.capabilities.note_takes_run_ids(self.role, made.info.run_id == run)
        return made

    def about_ids(self) -> str | None:
        """Return under which ids this workspace keeps the runs that another one named, once it is known."""
        taken, primary = self.state.capabilities.takes_run_ids(self.role), self.engine.link.primary
        if taken is None or self.role == primary:
            return None
        if taken:
            return f"a run has one id: {self.role} keeps it under the one that {primary} gave it"
        return f"{self.role} gives each run an id of its own; {primary}'s is in its tag {RUN_TAG}"

    def _complete_tags(self, run: str, made: Run, tags: dict[str, str]) -> None:
        """Give a run that an earlier try made the tags that it lacks."""
        lacking = {key: value for key, value in tags.items() if made.data.tags.get(key) != value}
        self._send_and_reject(run, made.info.run_id, Batch(tags=lacking), False)

    def set_run_tag(self, run: str, run_id: str, key: str, value: str) -> None:
        """Set a tag of ours on a run; a run that has as many as the service takes gives one of its own up."""
        self._send_and_reject(run, run_id, Batch(tags={key: value}), False)

    def _send_and_reject(self, run: str, run_id: str, batch: Batch, in_doubt: bool) -> None:
        rejected: Rejected = []
        for part in within(self.overflow.split_by_limits(run, run_id, batch), self.limits):
            self._send(run, run_id, part, in_doubt, rejected)
        for op, cause in rejected:
            self.state.reject(self.role, run, op.encode(), cause)

    def add_points(self, run: str, points: list[Point]) -> None:
        """Add those of some points of a run, or of its models, that are not here."""
        run_id = self.run_at(run)
        self.there.pop(run_id, None)
        self._send_and_reject(run, run_id, Batch(points), True)

    def _in_living_experiment(self, experiment_id: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except MlflowException as error:
            # Somebody deleted the experiment there: what is logged to it must not be lost.
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "INVALID_STATE"):
                raise
            if self.workspace.get_experiment(experiment_id).lifecycle_stage != "deleted":
                raise
            self.workspace.restore_experiment(experiment_id)
            return make()

    def find_run(self, experiment_ids: list[str], run: str) -> Run | None:
        """Return the run that carries the user's id in its tag, whatever its life-cycle stage."""
        found = self.workspace.search_runs(experiment_ids, f"tags.`{RUN_TAG}` = '{run}'", ViewType.ALL, 2)
        return found[0] if found else None

    def _adopt(self, run: str) -> Identity:
        """Give this workspace a run that began without it, as the primary has it now."""
        if run in self._adopting:
            raise MlflowException(f"run {run} is its own ancestor")
        self._adopting.add(run)
        try:
            began = self.engine.began_at(run)
            with self._asking(began) as other:
                source = other.workspace.get_run(other.run_at(run))
            experiment_id = self.experiment_at(
                self.engine.visible_experiment(source.info.experiment_id, other.role)
            )
            found = self.find_run([experiment_id], run)
            creations = self.state.creations
            if found is None and not creations.is_adopting(self.role, run):
                self._leave_to_its_process(run, source)
            if found is None or creations.is_adopting(self.role, run):
                with self._asking(began) as other:
                    points: list[Point] = [
                        (m.key, m.value, m.timestamp, m.step)
                        for key in source.data.metrics
                        for m in other.history(source.info.run_id, key)
                    ]
                creations.begin_adoption(self.role, run)
                found = self._copy_run(run, source, experiment_id, points, found)
                if self.tracked:  # its files travel as a write does, behind what is on its way
                    self.engine.write(run, CopyFiles(self.role))
            known = self.remember_run(run, found)
            # What was on its way when the run was copied may have been copied with it.
            self.state.mark_sending(self.role, run, self.engine.journal.files(run))
            self.adopted.add(run)
            creations.end_adoption(self.role, run)
            return known
        finally:
            self._adopting.discard(run)

    def _leave_to_its_process(self, run: str, source: Run) -> None:
        """Let the process that began a live run through a link of its own make it here. Raises Unavailable.

        A Spark executor on another machine may write to the run before its driver has delivered it. A process
        that is dead is not waited for longer than that.
        """
        if source.data.tags.get(RUN_TAG) != run or source.info.status != "RUNNING":
            return
        first = self._awaited.setdefault(run, self.engine.clock.monotonic())
        if self.engine.clock.monotonic() - first < _OTHERS_S:
            reason = "the process that began its run has yet to make it there"
            raise Unavailable(reason, sent=False, elsewhere=True)

    def _asking_primary(self) -> AbstractContextManager[Applier]:
        """Ask the primary for what this workspace lacks."""
        return self._asking(self.engine.link.primary)

    @contextmanager
    def _asking(self, role: str) -> Iterator[Applier]:
        """Ask another workspace for what this one lacks; that it is away is then no trouble of this one's."""
        line = self.engine.health[role]
        try:
            if line.away and role != self.role:
                raise Unavailable(line.reason or "not reachable", sent=False)
            with call_timeout(_PRIMARY_S):
                yield self.engine.applier(role)
        except Exception as error:
            classified = classify_error(error)
            if isinstance(classified, Unavailable) and role != self.role:
                raise Unavailable(
                    f"waits for {role}: {classified.reason}", sent=False, elsewhere=True
                ) from error
            raise classified from error

    def _copy_run(
        self, run: str, source: Run, experiment_id: str, points: list[Point], found: Run | None
    ) -> Run:
        """Make a run as ``source`` is, or complete ``found``, which an earlier try began."""
        resumed = found is not None
        tags = {**self.own_tags(dict(source.data.tags)), RUN_TAG: run}
        tags.setdefault("mlflow.runName", source.info.run_name)
        if found is None:
            found = self._make_run(run, experiment_id, source.info.user_id, source.info.start_time, tags)
        else:
            self._complete_tags(run, found, tags)
        run_id = found.info.run_id
        self._send_and_reject(run, run_id, Batch(points, dict(source.data.params)), resumed)
        if source.inputs and source.inputs.dataset_inputs:
            self.log_inputs(run_id, source.inputs.dataset_inputs, [])
        if (
            source.info.status != "RUNNING" or not self.tracked
        ):  # where runs are not tracked, nothing will end it
            ended = source.info.status if source.info.status != "RUNNING" else "FINISHED"
            status = RunStatus.from_string(ended)
            self.workspace.update_run_info(
                run_id, status, source.info.end_time or int(self.engine.clock.time() * 1000), None
            )
        return found

    def own_tags(self, tags: dict[str, str]) -> dict[str, str]:
        """Return run tags with the ids in them as this workspace knows them."""
        found = dict(tags)
        for key in RUN_ID_TAGS:
            if found.get(key):
                try:
                    found[key] = self.run_at(found[key])
                except MlflowException as error:
                    if isinstance(error, Unavailable):
                        raise
                    _log.debug("no run %s at %s for tag %s", found[key], self.role, key)
        return found

    def _delete_tag(self, queue: str, key: str) -> None:
        run_id = self.run_at(queue)
        try:
            self.workspace.delete_tag(run_id, key)
        except MlflowException as error:
            if not is_missing(error):
                raise
        self.acknowledged.untagged(run_id, key)
        self.overflow.untagged(queue, key)

    def _update_run(self, queue: str, op: UpdateRun) -> None:
        status = RunStatus.from_string(op.status) if op.status else None
        run_id = self.run_at(queue)
        self.workspace.update_run_info(run_id, status, op.end, op.name)
        if op.status:
            self.acknowledged.status(run_id, op.status)

    def _inputs(self, queue: str, op: LogInputs, in_doubt: bool) -> None:
        if self.lacks("inputs"):
            return
        run_id = self.run_at(queue)
        datasets = [dataset_from(d) for d in op.datasets]
        models = list(self._native(op.models))
        if in_doubt:
            there = self.workspace.get_run(run_id).inputs
            if there:
                have = {(d.dataset.name, d.dataset.digest) for d in there.dataset_inputs}
                datasets = [d for d in datasets if (d.dataset.name, d.dataset.digest) not in have]
                models = [m for m in models if m not in {i.model_id for i in there.model_inputs}]
        self.log_inputs(run_id, datasets, models)

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput], models: list[str]) -> None:
        """Log a run's inputs; a service that takes none has the rest of the run."""
        if not (datasets or models) or self.lacks("inputs"):
            return
        try:
            self.workspace.log_inputs(run_id, datasets, models)
        except MissingEndpoint:
            self.note_lack("inputs")

    def _native(self, models: Iterable[str]) -> dict[str, str]:
        """Return the service's own ids of those logged models that it has itself -> the user's."""
        if not self.has_logged_models:
            return {}
        found: dict[str, str] = {}
        for model in models:
            try:
                found[self.model_at(model).actual] = model
            except MlflowException as error:
                if isinstance(error, Unavailable) or not is_missing(error):
                    raise
                found[model] = model  # a server takes the id of a model that it does not have
        return {actual: model for actual, model in found.items() if not self.keeps(model)}

    def _outputs(self, queue: str, steps: dict[str, int], in_doubt: bool) -> None:
        if not self.has_logged_models:
            return
        run_id = self.run_at(queue)
        outputs = {actual: steps[model] for actual, model in self._native(steps).items()}
        if in_doubt:
            there = self.workspace.get_run(run_id).outputs
            have = {o.model_id for o in there.model_outputs} if there else set()
            outputs = {m: s for m, s in outputs.items() if m not in have}
        self.log_outputs(queue, run_id, outputs)

    def log_outputs(self, run: str, run_id: str, outputs: dict[str, int]) -> None:
        """Log which models (the service's own ids -> step) a run made, in a tag where it has no such call."""
        if not outputs:
            return
        if not self.lacks("outputs"):
            try:
                self.workspace.log_outputs(run_id, outputs)
                return
            except MissingEndpoint:
                self.note_lack("outputs")
        model_emulation.note_outputs(self, run, run_id, outputs)

    # --- experiments

    def experiment_at(self, experiment: str) -> str:
        """Return this workspace's id of an experiment, making it under its own naming rule if need be."""
        return self.experiments.at(experiment)

    def _make_experiment(self, name: str, tags: dict[str, str]) -> str:
        own_name, found = self.find_experiment(name)
        if found is None:
            try:
                return self.create_experiment(own_name, name, tags)
            except MlflowException as error:
                if not already_exists(error):
                    raise
                found = self.workspace.get_experiment_by_name(own_name)
                assert found is not None
        if found.lifecycle_stage == "deleted":
            self.workspace.restore_experiment(found.experiment_id)
        if self.workspace.capabilities.names_experiments_itself and EXPERIMENT_TAG not in found.tags:
            # It was made without us; from now on it is this name's, and nobody else's of the same last part.
            self.workspace.set_experiment_tag(found.experiment_id, EXPERIMENT_TAG, self._whose(name))
        return str(found.experiment_id)

    def own_experiment(self, name: str) -> str:
        """Return this workspace's id of the experiment that the user calls ``name``, made if need be."""
        return self._make_experiment(name, {})

    def find_experiment(self, name: str) -> tuple[str, Experiment | None]:
        """Return (its name here, the experiment or None) of the experiment that the user calls ``name``."""
        own_name = self.workspace.experiment_name(name)
        found = self.workspace.get_experiment_by_name(own_name)
        if found is None or not self.workspace.capabilities.names_experiments_itself:
            return own_name, found
        tagged, whose = found.tags.get(EXPERIMENT_TAG, name), self._whose(name)
        # Where nothing else is tracked to, a plain name is this workspace's own, whoever made it.
        plain = self.engine.link.tracked == (self.role,) and tagged.rpartition("/")[2] == name
        if tagged not in (name, whose) and not plain:
            own_name = told_apart(whose, own_name)  # two people's "iris"
            found = self.workspace.get_experiment_by_name(own_name)
        return own_name, found

    def _whose(self, name: str) -> str:
        """Return an experiment's name in full: a plain one stands in the user's folder at Databricks."""
        engine = self.engine
        there = next((w for w in engine.workspaces.values() if w.kind == "databricks"), None)
        if there is None or there.role not in engine.link.tracked or name.startswith("/"):
            return name
        known = self.state.experiments.full_name(there.role, name)
        if known is None:  # asked for once: that workspace may be away when it is wanted again
            with self._asking_primary():
                known = there.experiment_name(name)
            self.state.experiments.note_full_name(there.role, name, known)
        return known

    def create_experiment(
        self, own_name: str, name: str, tags: dict[str, str], files: str | None = None
    ) -> str:
        """Make an experiment under ``own_name`` that says what the user calls it; returns its id here."""
        kept = {
            **tags,
            **(
                {EXPERIMENT_TAG: self._whose(name)}
                if self.workspace.capabilities.names_experiments_itself
                else {}
            ),
        }
        return self.workspace.create_experiment(own_name, kept, files)

    def _create_experiment(self, op: CreateExperiment) -> None:
        if op.name is not None and not self.state.experiments.is_known(op.id):  # the state was lost
            self.engine.remember_experiment(op.id, op.name, op.tags or {})
        self.experiment_at(op.id)

    def _change_experiment(self, change: ChangeExperiment, in_doubt: bool) -> None:
        if change.do in ("delete", "restore") and self._is_in_stage(change):
            return
        try:
            self.change_experiment(change, in_doubt or bool(change.tried))
        except MlflowException as error:
            if change.do != "untag" or not is_missing(error):
                raise

    def _is_in_stage(self, change: ChangeExperiment) -> bool:
        found = self.workspace.get_experiment(self.experiment_at(change.id))
        stage = "deleted" if change.do == "delete" else "active"
        return bool(found.lifecycle_stage == stage)

    def change_experiment(self, change: ChangeExperiment, again: bool) -> None:
        """Change an experiment as the user asked; ``again`` where it may have been done before.

        Raises Unavailable, or the workspace's refusal.
        """
        experiment_id, what = self.experiment_at(change.id), change.do
        if what == "tag":
            value = cast(str, change.value)  # the service refuses none
            self.workspace.set_experiment_tag(experiment_id, change.key or "", value)
        elif what == "untag":
            remove = partial(self.workspace.delete_experiment_tag, experiment_id, change.key or "")
            self._remove(remove, again)
        elif what == "rename":
            name = change.name or ""
            own_name, found = self.find_experiment(name)
            there = found if found is not None and str(found.experiment_id) == experiment_id else None
            # A deleted one cannot be renamed: that it has the name shows nothing.
            if not again or there is None or there.lifecycle_stage == LifecycleStage.DELETED:
                self.workspace.rename_experiment(experiment_id, own_name)
            if self.workspace.capabilities.names_experiments_itself:
                self.workspace.set_experiment_tag(experiment_id, EXPERIMENT_TAG, self._whose(name))
        elif again and self._is_in_stage(change):
            return
        elif what == "delete":
            self.workspace.delete_experiment(experiment_id)
        else:
            self.workspace.restore_experiment(experiment_id)

    # --- artifacts

    def _placed(self, kind: str, visible: str, known: Identity) -> Identity:
        """Ask where the files of a run or model are: another machine's word for that is not taken."""
        if kind == "run":
            return self.remember_run(visible, self.workspace.get_run(known.actual))
        if not known.extra.get("path"):
            return self.remember_model(visible, self.workspace.get_logged_model(known.actual))
        run = self.workspace.get_run(known.extra["run"])
        place = append_to_uri_path(run.info.artifact_uri, known.extra["path"])
        extra = {**known.extra, "artifacts": place}
        return self.state.set_identity(self.role, kind, visible, known.actual, **extra)

    def repository(self, owner: str) -> ArtifactRepository:
        """Return this workspace's repository of ``run:<id>`` or ``model:<id>``."""
        found = self._repositories.get(owner)
        if found is None:
            kind, _, name = owner.partition(":")
            uri = (
                self.run_identity(name).extra["artifacts"]
                if kind == "run"
                else self.model_at(name).extra["artifacts"]
            )
            if len(self._repositories) > 64:
                self._repositories.clear()
            found = self._repositories[owner] = self.workspace.artifacts(uri)
        return found

    def _artifact(self, queue: str, op: LogArtifact) -> None:
        with self.engine.journal.lent(op.file, posixpath.basename(op.path), self.role) as lent:
            if lent is None:
                if self._has_file(queue, op):
                    return
                raise MlflowException.invalid_parameter_value(f"the copy of {op.path} is gone from the spool")
            try:
                self.upload(op.owner, op.path, lent)
            except Exception as error:
                classified = classify_error(error)
                if isinstance(classified, Unavailable) and classified.sent and not classified.elsewhere:
                    self._refuse_taken_place(op.owner, op.path)
                raise

    def _has_file(self, queue: str, op: LogArtifact) -> bool:
        """Tell whether a file has arrived whose copy is gone, or another one comes in its place.

        Copies of what has arrived everywhere are deleted; a link whose state was lost delivers it anew.
        """
        view = self.engine.queue_view(queue)
        newest = view.artifacts.get(op.owner, {}).get(op.path) if view is not None else None
        if newest is not None and newest.spool != op.file.get("spool"):
            return True
        there = self.repository(op.owner).list_artifacts(posixpath.dirname(op.path) or None)
        return any((each.path, each.file_size) == (op.path, op.file["size"]) for each in there)

    def _refuse_taken_place(self, owner: str, path: str) -> None:
        """Raise MLflow's refusal of a file that failed where a file is in its way, or a folder in its place.

        MLflow's servers answer that with a 500, as if they were in trouble.
        """
        repository = self.repository(owner)
        refuse_taken_place(path, standing(lambda folder: repository.list_artifacts(folder or None)))

    def _copy_files(self, run: str, to: str) -> None:
        """Copy what a run had before the link: its files, then what else hangs on it."""
        if to == self.role:
            role = self.engine.began_at(run)
            self.copy_missing_files(f"run:{run}", role)
            complete_adopted(self, run, role)

    def copy_missing_files(self, owner: str, role: str) -> None:
        """Copy the files of a run or model from another workspace, one at a time, where they are not here."""
        with self._asking(role) as other:
            source = other.repository(owner)
            found = files_below(lambda folder: source.list_artifacts(folder or None))
            paths = [info.path for info in found]
        for path in paths:
            if self.has_file(owner, path):
                continue
            with tempfile.TemporaryDirectory() as folder:
                with self._asking(other.role):
                    file = Path(source.download_artifacts(path, folder))
                self.upload(owner, path, file)

    def upload(self, owner: str, path: str, file: Path) -> None:
        """Upload one file to ``path`` of a run or model, its MLmodel rewritten to this workspace's ids."""
        folder = posixpath.dirname(path) or None
        repository = self.repository(owner)
        text = self._own_mlmodel(owner, path, file) if file.name == "MLmodel" else None
        if text is not None:
            with tempfile.TemporaryDirectory() as temporary:
                rewritten = Path(temporary, "MLmodel")
                rewritten.write_text(text, encoding="utf-8")
                self._note_beside(owner, path, self.workspace.upload(repository, rewritten, folder))
                model_emulation.note_model_file(self, owner, path, text)
        else:
            self._note_beside(owner, path, self.workspace.upload(repository, file, folder))

    def _note_beside(self, owner: str, path: str, got: str | None) -> None:
        """Remember that a file had to go beside another content of its name: the summary says so."""
        if got is not None:
            self.state.renamed_files.note(owner, self.role, path, got)

    def _own_mlmodel(self, owner: str, path: str, file: Path) -> str | None:
        """Return an MLmodel as this workspace shall have it; None where it stays byte for byte.

        A user's own file may have the name, and be no model of MLflow's.
        """
        try:
            told = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            return None
        if not isinstance(told, dict) or not isinstance(told.get("flavors"), dict):
            return None
        given = dict(told)
        try:
            self._translate_mlmodel(owner, path, told)
        except MlflowException as error:
            if not is_missing(error):
                raise  # else it names a run or model of some other server: it stays as it is
        if told == given:
            return None
        return str(yaml.safe_dump(told, default_flow_style=False, allow_unicode=True, sort_keys=True))

    def _translate_mlmodel(self, owner: str, path: str, told: dict[str, Any]) -> None:
        model_id = told.get("model_id") or (owner.partition(":")[2] if owner.startswith("model:") else None)
        if told.get("run_id"):
            told["run_id"] = self.run_at(str(told["run_id"]))
        if model_id:
            identity = self.model_at(str(model_id))
            for key in ("model_id", "model_uuid"):  # MLflow 3 gives both the same value
                if told.get(key) == model_id:
                    told[key] = identity.actual
            # Where we keep the model it is one of its run's folders, as in MLflow 2.
            told["artifact_path"] = identity.extra.get("path") or identity.extra["artifacts"]
        elif str(told.get("artifact_path", "")).startswith("dbml:"):
            told["artifact_path"] = posixpath.dirname(path)

    def has_file(self, owner: str, path: str) -> bool:
        """Tell whether this workspace has a file."""
        folder = posixpath.dirname(path)
        try:
            return any(f.path == path for f in self.repository(owner).list_artifacts(folder or None))
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable):
                raise
            return False

    def copy_from_primary(self, owner: str, folder: str) -> None:
        """Copy one folder of a run's or model's files from where they are."""
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(self.engine.files_of(owner).download_artifacts(folder, temporary))
            # An MLmodel goes last: whoever finds it finds a whole model.
            for file in sorted(
                (p for p in local.rglob("*") if p.is_file()), key=lambda p: p.name == "MLmodel"
            ):
                self.upload(owner, posixpath.join(folder, file.relative_to(local).as_posix()), file)

    # --- logged models

    def model_at(self, model: str) -> Identity:
        """Return this workspace's id and files' place of a logged model, making it if it is not there yet."""
        known = self.state.identity(self.role, "model", model)
        if known is not None:
            return known if "artifacts" in known.extra else self._placed("model", model, known)
        told = self.engine.model_facts(model)
        if told is None:
            if self.role == self.engine.link.primary:
                return self.find_model(model)
            with self._asking_primary():
                told = self.engine.model_facts_from_primary(model)
        self.create_model(told, True)
        known = self.state.identity(self.role, "model", model)
        assert known is not None
        return known

    def find_model(self, model: str) -> Identity:
        """Return the id and place of a logged model that somebody made here, at the service or kept by us."""
        if not self.keeps(model):
            try:
                found = self.logged_model(self.engine.model_known_at(self, model))
                return self.remember_model(model, found)
            except MissingEndpoint as error:
                if self.look_for_logged_models():
                    raise no_such_model(model) from error
            except MlflowException as error:
                if (
                    isinstance(error, Unavailable)
                    or not is_missing(error)
                    or not model_emulation.may_keep(self)
                ):
                    raise
        model_emulation.get(self, model)
        known = self.state.identity(self.role, "model", model)
        assert known is not None
        return known

    def logged_model(self, own: str) -> LoggedModel:
        """Return a logged model by the service's own id. Raises MLflow's "not found" for what is no id, too.

        A run may name any text as a model; in a request's path it would ask for something else.
        """
        if not is_model_id(own):
            raise no_such_model(own)
        return self.workspace.get_logged_model(own)

    def visible_model(self, own: str) -> str:
        """Return the id that the user knows of a logged model by this workspace's own."""
        known = self.state.visible(self.role, "model", own)
        if known is None and self.role != self.engine.link.primary:
            try:
                known = self.logged_model(own).tags.get(MODEL_TAG)
            except MlflowException as error:
                if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                    raise
        return known or own

    def remember_model(self, model: str, found: LoggedModel) -> Identity:
        """Remember what this workspace calls a logged model."""
        self._repositories.pop(f"model:{model}", None)
        return self.state.set_identity(
            self.role,
            "model",
            model,
            found.model_id,
            artifacts=found.artifact_location,
            run=found.source_run_id,
        )

    def create_model(self, told: ModelFacts, in_doubt: bool) -> None:
        """Create a logged model, at the service or among those that the link keeps there."""
        model = told["id"]
        if self.state.identity(self.role, "model", model) is not None:
            return
        if self.has_logged_models:
            try:
                self._create_native_model(told, in_doubt)
                return
            except MissingEndpoint:
                self.note_no_logged_models()
        model_emulation.create(self, told)

    def _create_native_model(self, told: ModelFacts, in_doubt: bool) -> None:
        model = told["id"]
        experiment_id = self.experiment_at(told["experiment"])
        run_id = self.run_at(run) if (run := told.get("run")) else told.get("foreign_run")
        if self._was_tried(model) or in_doubt:
            for found in self._models_of(experiment_id, told["name"]):
                if model in (found.tags.get(MODEL_TAG), found.model_id):
                    self.remember_model(model, found)
                    self.state.creations.settle(self.role, model)
                    return
        self.state.creations.begin(self.role, model)
        tags = {**(told.get("tags") or {}), MODEL_TAG: model}
        made = self._in_living_experiment(
            experiment_id,
            lambda: self.workspace.create_logged_model(
                experiment_id, told["name"], run_id, tags, told.get("params") or {}, told.get("type")
            ),
        )
        self.remember_model(model, made)
        self.state.creations.settle(self.role, model)

    def _models_of(self, experiment_id: str, name: str) -> Iterable[LoggedModel]:
        return entries(
            lambda token: self.workspace.search_logged_models(
                [experiment_id], f"name = '{name}'", page_token=token
            )
        )

    def finalize_model(self, model: str, status: str) -> None:
        """Set a logged model's final status, at the service or where the link keeps the model."""
        identity = self.model_at(model)
        if self.keeps(model):
            model_emulation.change(self, model, status=status)
        else:
            self.workspace.finalize_logged_model(identity.actual, LoggedModelStatus(status))

    def change_known_model(self, change: ModelChange, in_doubt: bool) -> None:
        """Change a logged model by the user's id, at the service or where the link keeps the model."""
        identity = self.model_at(change.model)
        if isinstance(change, SetModelTags):
            change = replace(change, tags=self.own_model_tags(change.tags))
        if self.keeps(change.model):
            model_emulation.apply_change(self, change)
        else:
            self.change_model(identity.actual, change, in_doubt or not isinstance(change, LogModelParams))

    def own_model_tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return a logged model's tags with its versions under this workspace's own numbers."""
        own = dict(tags)
        versions = own.pop(MODEL_VERSIONS_TAG, None)
        if versions and (numbers := self.registrations.numbers(_versions_in(versions))):
            own[MODEL_VERSIONS_TAG] = json.dumps(numbers)
        return own

    def change_model(self, actual: str, change: ModelChange, again: bool) -> None:
        """Change a logged model of the service's; ``again`` where it may have been done before.

        Raises Unavailable, or the workspace's refusal.
        """
        match change:
            case SetModelTags():
                if change.tags:
                    self.workspace.set_logged_model_tags(actual, change.tags)
            case LogModelParams():
                params = change.params
                if again:
                    there = self.workspace.get_logged_model(actual).params
                    params = {key: value for key, value in params.items() if there.get(key) != value}
                if params:
                    self.workspace.log_logged_model_params(actual, params)
            case DeleteModelTag():
                self._remove(partial(self.workspace.delete_logged_model_tag, actual, change.key), again)
            case DeleteModel():
                self._remove(partial(self.workspace.delete_logged_model, actual), again)

    def _remove(self, remove: Callable[[], None], again: bool) -> None:
        """Remove something; ``again`` where it may be gone already."""
        try:
            remove()
        except MlflowException as error:
            if not again or not is_missing(error):
                raise


def is_model_id(text: str) -> bool:
    """Tell whether a text can be a logged model's id: a part of a request's path that stays as it is."""
    return _MODEL_ID.fullmatch(text) is not None


def no_such_model(model: str) -> MlflowException:
    """Return MLflow's error for a logged model that is not there."""
    return MlflowException(f"Logged model with ID '{model}' not found.", RESOURCE_DOES_NOT_EXIST)


def within(batch: Batch, limits: Limits) -> Iterator[Batch]:
    """Split what one log call brought (it may be more than one request takes) into requests' sizes."""
    if _fits(batch, limits):
        yield batch
        return
    part, size = Batch(), 0
    sizes = _sizes(batch)
    for kind, items in (("params", batch.params), ("tags", batch.tags), ("metrics", batch.metrics)):
        most = min(getattr(limits, kind), limits.items)
        for item in items.items() if isinstance(items, dict) else items:
            own = next(sizes)
            there = getattr(part, kind)
            if len(part) and (
                len(there) >= most or len(part) >= limits.items or size + own > limits.body_bytes - _ENVELOPE
            ):
                yield part
                part, size = Batch(), 0
                there = getattr(part, kind)
            if isinstance(there, dict):
                there[item[0]] = item[1]
            else:
                there.append(item)
            size += own
    if len(part):
        yield part


def _fits(batch: Batch, limits: Limits) -> bool:
    return (
        len(batch.metrics) <= limits.metrics
        and len(batch.params) <= limits.params
        and len(batch.tags) <= limits.tags
        and len(batch) <= limits.items
        and sum(_sizes(batch)) + _ENVELOPE <= limits.body_bytes
    )


_ENVELOPE = 200  # bytes of a request beside its items
_POINT = 120  # bytes of a point beside its name: two numbers, a value, the fields' names
_EXTRA = 250  # bytes of a point's model and dataset


def _sizes(batch: Batch) -> Iterator[int]:
    """Yield how many bytes each param, tag and point of a batch takes at most on the wire, in that order."""
    for items in (batch.params, batch.tags):
        for key, value in items.items():
            yield _width(key) + _width(value) + 30
    widths: dict[str, int] = {}  # a batch has many points of few metrics
    for point in batch.metrics:
        width = widths.get(point[0])
        if width is None:
            width = widths[point[0]] = _width(point[0])
        yield width + (_POINT if len(point) == 4 else _POINT + _EXTRA + len(str(point[4])))


def _width(text: str) -> int:
    if text.isascii() and text.isprintable():
        return len(text) + text.count('"') + text.count("\\")
    return len(json.dumps(text))


def _versions_in(tag: str) -> list[dict[str, Any]]:
    try:
        return [v for v in json.loads(tag) if isinstance(v, dict) and "name" in v and "version" in v]
    except (TypeError, ValueError):
        return []


def _model_of(point: Point) -> str | None:
    """Return the model for which a point was logged, or None: it is the run's alone."""
    return point[4][0] or None if len(point) > 4 and point[4] is not None else None


def latest_of(run: Run) -> dict[str, Mark]:
    """Return the latest point of each metric, as a run's workspace tells it."""
    return {m.key: mark(m.value, m.timestamp, m.step) for m in metric_points(run)}


_NOT_APPLIED = (*BATCHED, RetryDeadLetter, DamagedLine)


def time_and_again(failure: Unavailable, *, alone: bool = True) -> str:
    """Return the cause of a write that goes on failing, ``alone`` where others went through meanwhile."""
    return f"{cause_of(failure)}, time and again" + (", while other writes went through" if alone else "")


def cause_of(error: BaseException) -> str:
    """Return a refusal's cause in one line."""
    text = " ".join(clean(str(error)).split())
    return text if len(text) <= 500 else text[:497] + "…"
