"""Copying whole runs and logged models to the target, in as few requests as its limits allow."""

from __future__ import annotations

import posixpath
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from mlflow.entities import LoggedModelStatus, Run, RunStatus
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.delivery.writers.attached import Attached, Scored, facts_of, points_by_run
from dbml_magics.core.delivery.writers.emulated_models import created_as
from dbml_magics.core.delivery.writers.ids import RUN_ID_TAGS, RUN_TAG
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.model.operations import DeleteModelTag, LogModelParams, SetModelTags
from dbml_magics.core.reconcile.carrying import Carrier
from dbml_magics.core.reconcile.compare import metric_words, tags_of, unlike_points
from dbml_magics.core.reconcile.experiment_copies import ExperimentCopies
from dbml_magics.core.reconcile.files import Files, folded, unlike_files
from dbml_magics.core.reconcile.fixes import Fix, Outcomes, unread
from dbml_magics.core.reconcile.readers import Model
from dbml_magics.core.reconcile.repairing import Repairing
from dbml_magics.core.reconcile.verify import models_in_scope
from dbml_magics.core.run_view import Mark
from dbml_magics.results.reconcile import ABSENT, Difference

_PATIENCE_S = 600.0  # for a big run's copy
_MODELS_HELD = 1000  # logged models with all that was listed of them


class _UnderWay:
    """A run that one thread looks for at the target, and copies there if need be."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.complete = threading.Event()

    def end(self) -> None:
        """Release all waiting threads."""
        self.there.set()
        self.complete.set()


class Copier:
    """Copies to the target; an earlier try's beginning is gone on with."""

    def __init__(self, repairing: Repairing, carrier: Carrier) -> None:
        self.repairing = repairing
        self.carrier = carrier
        self.experiments = ExperimentCopies(repairing)
        self.survey = repairing.survey
        self.state = repairing.state
        self.source = repairing.source
        self.target = repairing.target
        self._taking = threading.Lock()
        self._under_way: dict[str, _UnderWay] = {}  # those that are looked for or copied just now, no others
        self._path = threading.local()
        self._runs: dict[str, str] = {}  # the target's ids of those that were copied, or that others hang on
        self._copied: set[str] = set()  # completely
        self._nowhere: set[str] = set()  # those that others hang on, and that neither workspace has
        # The source's experiment -> run -> models, or the own ids of those that are more than are held.
        self._models: dict[str, dict[str, list[Model | str]]] = {}
        self._held_models = 0
        self._listing = threading.Lock()
        self._making = threading.RLock()  # one logged model at a time: two threads may want the same one

    # --- whole runs

    def copy(self, key: str, source: Run) -> None:
        """Copy a whole run that the target was just found to lack, its parent first."""
        under_way, mine = self._take(key)
        if mine:
            self._copy_alone(key, source)
            return
        if under_way is not None:  # its child's copy began with it
            under_way.complete.wait(_PATIENCE_S)
        if key not in self._copied:
            raise Unavailable(f"the copy of run {key} did not come about")

    def run_at_target(self, key: str) -> str:
        """Return the target's id of a run that another or a model hangs on, copied if need be.

        One thread looks for it, once: the others that need it wait for its word.
        """
        if (known := self._known(key)) is not None:
            return known
        if key in self._above():
            raise MlflowException.invalid_parameter_value(f"run {key} is its own ancestor")
        under_way, mine = self._take(key)
        if mine:
            return self._look_for(key)
        if under_way is not None:
            under_way.there.wait(_PATIENCE_S)
        if (known := self._known(key)) is None:
            raise Unavailable(f"the copy of run {key} did not come about")
        return known

    def _known(self, key: str) -> str | None:
        if key in self._nowhere:
            raise MlflowException.invalid_parameter_value(f"its run {key} is in neither workspace")
        return self._runs.get(key)

    def _above(self) -> list[str]:
        """Return the runs whose copies wait for that of their parent, in this thread."""
        above: list[str] = self._path.__dict__.setdefault("above", [])
        return above

    def _take(self, key: str) -> tuple[_UnderWay | None, bool]:
        """Return who is at work on a run, if it is not copied yet, and whether that is the caller now."""
        with self._taking:
            if key in self._copied:
                return None, False
            if (other := self._under_way.get(key)) is not None:
                return other, False
            mine = self._under_way[key] = _UnderWay()
            return mine, True

    def _release(self, key: str) -> None:
        with self._taking:
            under_way = self._under_way.pop(key, None)
        if under_way is not None:
            under_way.end()

    def _look_for(self, key: str) -> str:
        copying = False
        try:
            origin = self.survey.find(self.source, key)
            found = self.survey.find(self.target, key, origin)
            if found is not None:
                if self.state.identity(self.target.role, "run", key) is None:
                    self.target.side.ids.remember_run(key, found)
                self._runs[key] = str(found.info.run_id)
            elif origin is None:
                self._nowhere.add(key)
            else:
                copying = True
                self._copy_alone(key, origin)
        finally:
            if not copying:
                self._release(key)
        known = self._known(key)
        assert known is not None
        return known

    def _copy_alone(self, key: str, source: Run) -> None:
        """Copy a run that this thread has taken; it is complete when the first of those above it is."""
        above, begun = self._above(), self._path.__dict__.setdefault("begun", [])
        above.append(key)
        begun.append(key)
        try:
            self._copy(key, source)
            if len(above) == 1:
                self._complete()
                self._copied.update(begun)
        except BaseException:
            self._release(key)
            raise
        finally:
            above.pop()
            if not above:
                self._path.copies, self._path.begun = [], []
                for each in begun:
                    self._release(each)

    def _copy(self, key: str, source: Run) -> None:
        side, target = self.target.side, self.target
        experiment_id = self.experiments.at_target(str(source.info.experiment_id))
        self.source.side.ids.remember_run(key, source)
        tags = self._tags_there(key, source)
        repairs, made = self.state.repairs, None
        if repairs.is_begun(target.role, key):  # a copy that was cut short, and perhaps not listed yet
            made = target.ask(lambda: side.ids.find_run([experiment_id], key))
        new = made is None
        if source.info.lifecycle_stage == "deleted":
            self.state.repairs.note_restored_run(target.role, key)
        if made is None:
            repairs.begin_copy(target.role, key)
            user, start = source.info.user_id, source.info.start_time
            made = self.repairing.write(lambda: side.runs.make(key, experiment_id, user, start, tags))
        own = str(made.info.run_id)
        side.ids.remember_run(key, made)
        self._runs[key] = own
        self._under_way[key].there.set()  # others may be nested in it while it is filled
        if not new:
            made = target.get_run(own)
            side.sender.complete_tags(key, made, tags)
        self._mend(partial(self._send_all, key, source, made, new))
        self._mend(partial(self._copy_files, key, source, made, new))
        models = self._models_of(source, key)
        for model in models:
            self._mend(partial(self.copy_model, model))
        self._path.__dict__.setdefault("copies", []).append((key, source, made, new, models))

    def _complete(self) -> None:
        """Add the links between several copied runs once all of them exist, and end the copies."""
        copies, ended = self._path.copies, []
        while copies:  # a model that one of them took may bring its own run
            key, source, made, new, models = copies.pop(0)
            lacking = partial(self.repairing.lacking, source, made, new=new)
            self._mend(lambda: self.attach(key, made, lacking()))  # noqa: B023 - at once
            for model in models:
                self._mend(partial(self.send_scores, model, model.points))
            ended.append((key, source, made))
        # The end comes last: a copy that was cut short is known by its status.
        for key, source, made in ended:
            own, status = made.info.run_id, RunStatus.from_string(source.info.status)
            write, store = self.repairing.write, self.target.workspace
            write(partial(store.update_run_info, own, status, source.info.end_time, None))
            self.state.repairs.end_copy(self.target.role, key)
            if source.info.lifecycle_stage == "deleted":
                write(partial(store.delete_run, own))
                self.state.repairs.forget_restored_run(self.target.role, key)

    # --- deleted runs

    def is_awake(self, key: str) -> bool:
        """Tell whether a deleted run is active at the target only because a repair was cut short."""
        return self.state.repairs.is_restored_run(self.target.role, key)

    @contextmanager
    def awake(self, key: str, run_id: str) -> Iterator[None]:
        """Restore a run of the target's while it is written to, if it is deleted there."""
        if self.target.get_run(run_id).info.lifecycle_stage != "deleted":
            yield
            return
        store, repairs = self.target.workspace, self.state.repairs
        repairs.note_restored_run(self.target.role, key)
        self.repairing.write(lambda: store.restore_run(run_id))
        try:
            yield
        finally:
            self.repairing.write(lambda: store.delete_run(run_id))
            repairs.forget_restored_run(self.target.role, key)

    # --- what hangs on a run

    def attach(self, key: str, target: Run, lacking: Attached) -> None:
        """Attach the source run's datasets and models to the target's run, copying each model first."""
        if not lacking:
            return
        side, run_id = self.target.side, target.info.run_id
        if self.state.identity(self.target.role, "run", key) is None:
            side.ids.remember_run(key, target)
        if not side.learned.has_logged_models:
            lacking = Attached(lacking.datasets)
        for model in dict.fromkeys([*lacking.inputs, *lacking.outputs]):
            self.bring_model(model)
        with self.awake(key, run_id):
            self.repairing.write(partial(side.lineage.attach, key, run_id, lacking))

    def bring_model(self, key: str) -> None:
        """Copy a logged model to the target unless it is known there. Raises MlflowException."""
        if self.state.identity(self.target.role, "model", key) is not None:
            return
        found = self.source.model(self.source.own_model(key))
        if found is None:
            raise MlflowException.invalid_parameter_value(f"{self.source.role} has no logged model {key}")
        known = self.repairing.engine.state.identity
        here = [p for p in found.points if not p.run or known(self.target.role, "run", p.run) is not None]
        # A base model has points of many runs, which nobody asked for: they come when their runs do.
        self._copy_with_scores(found, here)

    def _copy_with_scores(self, model: Model, points: Iterable[Scored]) -> None:
        self.copy_model(model)
        self.send_scores(model, points)

    def _mend(self, do: Callable[[], object]) -> None:
        """Do a part of a copy; the comparison afterwards reports refused writes."""
        self.repairing.mended(lambda: Fix("", do))

    def _tags_there(self, key: str, source: Run) -> dict[str, str]:
        tags = {k: v for k, v in source.data.tags.items() if not k.startswith(("dbml_", "azureml."))}
        for name in RUN_ID_TAGS:
            if tags.get(name):
                tags[name] = parent = self.source.key_of(tags[name])
                self.run_at_target(parent)
        tags.setdefault("mlflow.runName", source.info.run_name)
        return {**self.target.side.ids.own_tags(tags), RUN_TAG: key}

    def _send_all(self, key: str, source: Run, made: Run, new: bool) -> None:
        have = {} if new else made.data.params
        batch = Batch(params={k: v for k, v in source.data.params.items() if k not in have})
        lacking: dict[str, Counter[Mark] | None] = {}
        for name in source.data.metrics:
            if new or name not in made.data.metrics:
                lacking[name] = None
                continue
            points = self.repairing.comparer.points(self.source, source, self.target, made, name)
            if points.only_first:
                lacking[name] = points.only_first
        self.carrier.send_points(key, source, made, lacking, batch)

    def _copy_files(self, key: str, source: Run, made: Run, new: bool) -> None:
        theirs: Files = {}
        if new and self.source.is_without_files(key, source, by_receipt=False):
            return
        if new:
            ours = self.repairing.comparer.files_of(self.source, source)
            self.repairing.comparer.keep_files(self.source, source, ours)
            ours = folded(ours, ()) if self.source.writes_once else ours
        else:
            ours, theirs = self.repairing.files(source, made)
        repository = self.source.side.destination.artifacts(source.info.artifact_uri)
        for path, here, _ in unlike_files(ours, theirs):
            if here is not ABSENT:
                self._mend(partial(self.carrier.put, repository, f"run:{key}", path, ours, theirs))

    # --- logged models

    def models(self) -> Iterator[Outcomes]:
        """Mend the logged models in scope."""
        for key, first, second in models_in_scope(self.survey):
            ours, theirs = (first, second) if self.repairing.forwards else (second, first)
            either = first or second
            assert either is not None
            try:
                found = list(self.repairing.comparer.model(key, first, second))
            except Exception as error:
                yield unread(self.survey.unread(either.run, either.name, error))
                continue
            outcomes: Outcomes = [
                (difference, self.repairing.mended(partial(self._plan_model, difference, ours, theirs)))
                for difference in found
            ]
            if first is not None and second is not None and not self.repairing.dry_run:
                self.repairing.merge_base.note_facts(f"model/{key}", tags_of(first), tags_of(second))
            if outcomes:
                yield outcomes

    def _models_of(self, source: Run, key: str) -> list[Model]:
        """Return a run's logged models; those of its experiment are listed once for all its runs.

        Of many no more than the ids are kept: these are asked for again, one by one.
        """
        experiment_id = str(source.info.experiment_id)
        with self._listing:
            known = self._models.get(experiment_id)
            if known is None:
                known = self._models[experiment_id] = defaultdict(list)
                for model in self.source.models([experiment_id]):
                    if model.native is None or self._held_models < _MODELS_HELD:
                        self._held_models += 1
                        known[model.run].append(model)
                    else:
                        known[model.run].append(model.native.model_id)
        found = [self.source.model(each) if isinstance(each, str) else each for each in known.get(key, [])]
        return [model for model in found if model is not None]

    def _plan_model(self, difference: Difference, ours: Model | None, theirs: Model | None) -> Fix:
        role = self.target.role
        if ours is None:
            return Fix(f"in {role} alone; --from {role} copies it")
        if theirs is None:
            return Fix(f"copied to {role}", partial(self._copy_with_scores, ours, ours.points))
        side, key = self.target.side, ours.key
        _, _, what = difference.key.partition(" ")
        kind, _, name = what.partition(" ")
        said = f"as in {self.source.role}"
        if kind == "file":
            if difference.values.get(self.source.role, ABSENT) is ABSENT:
                return Fix(f"in {role} alone; a model's files are not deleted one by one")
            return Fix(said, lambda: self._put_model_file(key, name))
        if kind == "status":
            status = ours.facts["status"]
            return Fix(
                said,
                lambda: self.repairing.write(lambda: side.models.finalize(key, status)),
            )
        if kind == "tag":
            return self.repairing.fact(
                f"model/{key}",
                Difference(difference.run, difference.name, "model", what, difference.values),
                (ours.facts.get(what), theirs.facts.get(what)),
                lambda reader, value: reader.side.models.change(SetModelTags(key, {name: value}), False),
                lambda reader: reader.side.models.change(DeleteModelTag(key, name), False),
            )
        if kind == "metric":
            place = next((p.place for p in ours.points if metric_words(p.place) == name), None)
            alone = unlike_points(self.source, ours, self.target, theirs)
            lacking = [p for p in alone[0] if p.place == place]
            if not lacking:
                return Fix(f"points in {role} alone, which cannot be taken back")
            return Fix(said, lambda: self.send_scores(ours, lacking))
        if kind == "param" and what in ours.facts and what not in theirs.facts:
            params = {name: ours.facts[what]}
            return Fix(
                said,
                lambda: self.repairing.write(lambda: side.models.change(LogModelParams(key, params), False)),
            )
        return Fix(f"a logged model's {kind} cannot be changed there")

    def _put_model_file(self, key: str, path: str) -> None:
        first, second = self.repairing.comparer.model_files(key)
        ours, theirs = (first, second) if self.repairing.forwards else (second, first)
        self.carrier.put(
            self.source.side.reader.repository(f"model:{key}"), f"model:{key}", path, ours, theirs
        )

    def copy_model(self, model: Model) -> None:
        """Copy a logged model with its files; whoever finds it READY finds it whole."""
        side, key = self.target.side, model.key
        write = self.repairing.write
        facts = self._facts_of(model)
        if model.run:
            self.run_at_target(model.run)
        with self._making:
            write(lambda: side.models.create(facts, True))
        ours = self.source.side.reader.repository(f"model:{key}")
        first, second = self.repairing.comparer.model_files(key)
        files, have = (first, second) if self.repairing.forwards else (second, first)
        for path in sorted(files, key=lambda p: posixpath.basename(p) == "MLmodel"):
            if path not in have:
                self.carrier.put(ours, f"model:{key}", path, files, have)
        if model.facts["status"] != LoggedModelStatus.PENDING.value:
            write(lambda: side.models.finalize(key, model.facts["status"]))

    def send_scores(self, model: Model, lacking: Iterable[Scored]) -> None:
        """Send points of a logged model's metrics, each in the run in which it was logged."""
        side = self.target.side
        for run, points in points_by_run(lacking, model.key, model.run).items():
            if side.emulated.keeps(model.key):
                with self._making:
                    self.repairing.write(partial(side.emulation.note_metrics, points))
                continue
            run_id = self.run_at_target(run)
            with self.awake(run, run_id):
                self.carrier.send(run, run_id, Batch(points))

    def _facts_of(self, model: Model) -> ModelFacts:
        """Return a logged model's creation arguments, under the ids that the user knows."""
        if model.native is None:
            return created_as(self.source.side.emulated.facts(model.key))
        own = str(model.native.experiment_id)
        visible = self.state.visible(self.source.role, "experiment", own)
        if visible is None:
            self.experiments.at_target(own)
            visible = self.state.visible(self.source.role, "experiment", own) or own
        return facts_of(model.native, model.key, visible, model.run or None)
