"""What hangs on a run beside its params, tags, points and files: its datasets, the models it took and made.

Read from a run as one workspace tells it; :mod:`~.lineage` completes it at another one. Logged models are
named by the ids that the user knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mlflow.entities import DatasetInput, LoggedModel, Metric, Run

from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.run_view import Mark, mark


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


@dataclass(frozen=True)
class FoundModel:
    """A logged model as a workspace tells it, under the ids that the user knows."""

    facts: ModelFacts
    status: str
    points: frozenset[Scored]
