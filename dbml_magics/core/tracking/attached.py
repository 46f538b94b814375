"""What hangs on a run beside its params, tags, points and files: its datasets, the models it took and made.

Read from a run as one workspace tells it, and completed at another one: a repair and the adopting of a run
that began without the link both go through this. Logged models are named by the ids that the user knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow.entities import DatasetInput, LoggedModel, Metric, Run

from dbml_magics.core.tracking.view import Mark, mark

if TYPE_CHECKING:
    from dbml_magics.core.tracking.apply import Applier, Point


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


def facts_of(found: LoggedModel, key: str, experiment: str, run: str | None) -> dict[str, Any]:
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
