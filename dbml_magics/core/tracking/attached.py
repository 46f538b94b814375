"""What hangs on a run beside its params, tags, points and files: its datasets, the models it took and made.

Read from a run as one workspace tells it, and completed at another one: a repair and the adopting of a run
that began without the link both go through this. Logged models are named by the ids that the user knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mlflow.entities import DatasetInput, LoggedModel, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.model.operations import ModelFacts
from dbml_magics.core.paging import entries
from dbml_magics.core.tracking import model_emulation
from dbml_magics.core.tracking.view import Mark, mark

if TYPE_CHECKING:
    from dbml_magics.core.destinations.protocol import Point
    from dbml_magics.core.tracking.apply import Applier


@dataclass(frozen=True)
class Attached:
    """What hangs on a run."""

    datasets: dict[str, DatasetInput] = field(default_factory=dict)  # by name and digest
    inputs: tuple[str, ...] = ()
    outputs: dict[str, int] = field(default_factory=dict)  # -> step

    def __bool__(self) -> bool:
        return bool(self.datasets or self.inputs or self.outputs)

    def without(self, there: Attached) -> Attached:
        """Return what of this is not there."""
        return Attached(
            {k: v for k, v in self.datasets.items() if k not in there.datasets},
            tuple(model for model in self.inputs if model not in there.inputs),
            {model: step for model, step in self.outputs.items() if model not in there.outputs},
        )


def attached(run: Run, known: Callable[[str], str]) -> Attached:
    """Return what hangs on a run; ``known`` gives the user's id of a model by the workspace's own."""
    datasets = run.inputs.dataset_inputs if run.inputs else []
    inputs = (run.inputs.model_inputs if run.inputs else None) or []
    outputs = (run.outputs.model_outputs if run.outputs else None) or []
    return Attached(
        {dataset_key(each): each for each in datasets},
        tuple(known(each.model_id) for each in inputs),
        {known(each.model_id): each.step for each in outputs},
    )


def dataset_key(given: DatasetInput) -> str:
    """Return what tells a dataset from the others of an experiment."""
    return f"{given.dataset.name} {given.dataset.digest}"


def attach(applier: Applier, run: str, run_id: str, lacking: Attached) -> None:
    """Give a workspace's run what it lacks, as far as the service has a place for it.

    The models must be there already: one that the workspace does not know would be made without its files.
    """
    applier.log_inputs(run_id, list(lacking.datasets.values()), list(applier._native(lacking.inputs)))
    native = applier._native(lacking.outputs)
    applier.log_outputs(run, run_id, {actual: lacking.outputs[model] for actual, model in native.items()})


def attach_output(applier: Applier, run: str, run_id: str, model: str) -> None:
    """Let a run name a logged model that it made, at the step that it has where the run began."""
    here = attached(applier.workspace.get_run(run_id), applier.visible_model)
    if model not in here.outputs:
        with applier._asking(applier.engine.began_at(run)) as other:
            there = attached(other.workspace.get_run(other.run_at(run)), other.visible_model)
        attach(applier, run, run_id, Attached(outputs={model: there.outputs.get(model, 0)}))


@dataclass(frozen=True)
class Scored:
    """A point of a metric as a logged model has it."""

    run: str  # in which it was logged; empty where the service does not say
    key: str
    dataset: str
    digest: str
    mark: Mark

    @property
    def place(self) -> tuple[str, str, str]:
        """Return which of the model's metrics it is a point of."""
        return self.key, self.dataset, self.digest

    def point(self, model: str) -> Point:
        """Return it as it is sent."""
        step, time, value = self.mark
        extra = (model, self.dataset or None, self.digest or None)
        return (self.key, float(value), time, step, extra)


def scored(metrics: Iterable[Metric] | None, known: Callable[[str], str]) -> frozenset[Scored]:
    """Return a logged model's points; ``known`` gives the user's id of a run by the workspace's own."""
    return frozenset(
        Scored(
            known(m.run_id) if m.run_id else "",
            m.key,
            m.dataset_name or "",
            m.dataset_digest or "",
            mark(m.value, m.timestamp, m.step),
        )
        for m in metrics or []
    )


def points_by_run(points: Iterable[Scored], model: str, run: str) -> dict[str, list[Point]]:
    """Return a model's points as they are sent, by the run that each was logged in, else ``run``."""
    found: dict[str, list[Point]] = {}
    for each in sorted(points, key=lambda each: each.mark[:2]):
        found.setdefault(each.run or run, []).append(each.point(model))
    return found


def facts_of(found: LoggedModel, key: str, experiment: str, run: str | None) -> ModelFacts:
    """Return what a logged model was created with, under the ids that the user knows."""
    return {
        "id": key,
        "experiment": experiment,
        "name": found.name,
        "run": run,
        "type": found.model_type,
        "params": dict(found.params),
        "tags": {k: v for k, v in found.tags.items() if not k.startswith("dbml_")},
        "created": found.creation_timestamp,
    }


# --- runs that began without the link


@dataclass(frozen=True)
class _Model:
    """A logged model as the workspace tells it where its run began."""

    facts: ModelFacts
    status: str
    points: frozenset[Scored]


def complete_adopted(applier: Applier, run: str, role: str) -> None:
    """Give an adopted run what hangs on it at the workspace where it began, deleted if it is so there.

    Raises Unavailable, or the first of the refusals once everything else is done.
    """
    own = applier.run_at(run)
    with applier._asking(role) as other:
        source = other.workspace.get_run(other.run_at(run))
        there = attached(source, other.visible_model)
        models = list(_models_at(other, source))
    refusals: list[MlflowException] = []
    for model in models:
        try:
            _carry(applier, role, run, model)
        except MlflowException as error:
            if isinstance(error, Unavailable):
                raise
            refusals.append(error)
    named = {model.facts["id"] for model in models}
    here = attached(applier.workspace.get_run(own), applier.visible_model)
    lacking = there.without(here)
    wanted = Attached(
        lacking.datasets,
        tuple(model for model in lacking.inputs if model in named),
        {model: step for model, step in lacking.outputs.items() if model in named},
    )
    attach(applier, run, own, wanted)
    # What was on its way meanwhile may have been copied with it.
    applier.state.mark_sending(applier.role, run, applier.engine.journal.files(run))
    applier.adopted.add(run)
    if source.info.lifecycle_stage == "deleted":
        applier.workspace.delete_run(own)
    if refusals:
        raise refusals[0]


def _models_at(other: Applier, source: Run) -> Iterable[_Model]:
    """Yield the logged models that a run took and made, but for those that are deleted."""
    if not other.has_logged_models:
        for key in model_emulation.in_tag(source.data.tags.get(model_emulation.MODELS_TAG, "")):
            told, _ = model_emulation.get(other, key)
            facts = model_emulation.created_as(told)
            yield _Model(facts, told["status"], scored(model_emulation.points(told), str))
        return
    outputs = (source.outputs.model_outputs if source.outputs else None) or []
    inputs = (source.inputs.model_inputs if source.inputs else None) or []
    made = entries(
        lambda token: other.workspace.search_logged_models(
            [source.info.experiment_id], f"source_run_id = '{source.info.run_id}'", page_token=token
        )
    )
    found: dict[str, LoggedModel] = {model.model_id: model for model in made}
    for own in dict.fromkeys(each.model_id for each in (*outputs, *inputs)):
        try:
            found.setdefault(own, other.logged_model(own))
        except MlflowException as error:
            if isinstance(error, Unavailable) or not is_missing(error):
                raise
    engine = other.engine
    runs = partial(engine._visible, "run", role=other.role)
    for own, model in found.items():
        key = other.visible_model(own)
        other.remember_model(key, model)
        run = other.visible_run(model.source_run_id) if model.source_run_id else None
        facts = facts_of(model, key, engine.visible_experiment(model.experiment_id, other.role), run)
        yield _Model(facts, model.status.value, scored(model.metrics, runs))


def _carry(applier: Applier, role: str, run: str, model: _Model) -> None:
    """Make a logged model whole at a workspace; what was logged through the link travels by itself."""
    key = model.facts["id"]
    if applier.engine.model_facts(key) is not None:
        return
    applier.create_model(model.facts, True)
    applier.copy_missing_files(f"model:{key}", role)
    if model.status != LoggedModelStatus.PENDING.value:
        applier.finalize_model(key, model.status)
    for each, points in points_by_run(model.points, key, model.facts["run"] or run).items():
        if applier.keeps(key):
            model_emulation.note_metrics(applier, points)
        # A run that is not here brings its own points when it comes: a base model has those of many.
        elif each == run or applier.state.identity(applier.role, "run", each) is not None:
            applier.add_points(each, points)
