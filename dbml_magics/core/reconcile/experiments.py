"""Compare the experiments of both workspaces."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mlflow.entities import Experiment

from dbml_magics.common.hints import Remedy, say
from dbml_magics.core.delivery.writers.experiments import name_of
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG
from dbml_magics.core.outbox.merge_base import MergeBase
from dbml_magics.core.reconcile.compare import Comparer
from dbml_magics.core.reconcile.pairs import ExperimentPair
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.core.reconcile.survey import Survey
from dbml_magics.core.runtime.retention import NOTE_TAG
from dbml_magics.results.reconcile import ABSENT, LOST, Difference


def experiments_in_scope(survey: Survey) -> Iterator[tuple[ExperimentPair, Experiment, Experiment]]:
    """Yield the experiments in scope that both workspaces have."""
    if survey.scope.run is None:
        for pair in survey.experiments():
            if pair.first is not None and pair.second is not None:
                yield pair, pair.first, pair.second


def experiment_differences(survey: Survey, comparer: Comparer) -> Iterator[Difference]:
    """Yield what differs between experiments that both workspaces have, and those that one of them lost."""
    yield from (difference for _, difference in lost_differences(survey, comparer))
    for pair, first, second in experiments_in_scope(survey):
        try:
            found = list(differences_of(survey, comparer, pair, first, second))
        except Exception as error:
            yield survey.unread("", pair.name, error)
            continue
        note_alike(survey.engine.state.merge_base, first, second, found)
        yield from found


def differences_of(
    survey: Survey, comparer: Comparer, pair: ExperimentPair, first: Experiment, second: Experiment
) -> Iterator[Difference]:
    """Yield the stage, the name (beyond what naming rules make of it), the note and the tags that differ."""
    make_difference = partial(comparer.difference, "", pair.name, "experiment")
    if first.lifecycle_stage != second.lifecycle_stage:
        yield make_difference("stage", first.lifecycle_stage, second.lifecycle_stage)
    if not named_alike(survey.first, first, survey.second, second):
        yield make_difference("name", first.name, second.name)
    ours, theirs = experiment_tags(first), experiment_tags(second)
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield make_difference(f"tag {key}", ours.get(key, ABSENT), theirs.get(key, ABSENT))


def note_alike(base: MergeBase, first: Experiment, second: Experiment, found: list[Difference]) -> None:
    """Save the equal facts of two experiments as merge base; names are kept per workspace."""
    place = place_of(first)
    ours: dict[str, str | None] = {f"tag {k}": v for k, v in experiment_tags(first).items()}
    base.note_facts(place, ours, {f"tag {k}": v for k, v in experiment_tags(second).items()})
    if not any(d.key == "name" for d in found):
        base.note_names(place, [first.name, second.name])


def place_of(first: Experiment) -> str:
    """Return an experiment's place in the merge base, by the primary's id of it."""
    return f"experiment/{first.experiment_id}"


def experiment_tags(experiment: Experiment) -> dict[str, str]:
    """Return an experiment's own tags and its note."""
    return {
        k: v
        for k, v in experiment.tags.items()
        if k == NOTE_TAG or not k.startswith(("mlflow.", "dbml_", "azureml."))
    }


def named_alike(first: WorkspaceReader, one: Experiment, second: WorkspaceReader, other: Experiment) -> bool:
    """Tell whether each workspace's naming rule makes one name of the other."""
    if one.name == other.name:
        return True
    a, b = name_by_rule(first, one), name_by_rule(second, other)
    return a == b or other.name in _forms(second, a) or one.name in _forms(first, b)


def name_by_rule(reader: WorkspaceReader, experiment: Experiment) -> str:
    """Return what the user calls an experiment, unless it was renamed behind the link's back since."""
    name = name_of(experiment)
    tagged = EXPERIMENT_TAG in experiment.tags
    return name if tagged and experiment.name in _forms(reader, name) else str(experiment.name)


def _forms(reader: WorkspaceReader, name: str) -> set[str]:
    return reader.side.experiments.forms(name)


def lost_differences(survey: Survey, comparer: Comparer) -> Iterator[tuple[ExperimentPair, Difference]]:
    """Yield the experiments in scope that one workspace had once, and has no more by what is remembered."""
    if survey.scope.run is None:
        for pair in survey.experiments():
            if pair.lost:
                there = f"{pair.instead!r} has its id" if pair.instead else ABSENT
                first = pair.lost == survey.first.role
                values = (there, pair.name) if first else (pair.name, there)
                yield pair, comparer.difference("", pair.name, LOST, "experiment", *values)


def contested(role: str, name: str) -> str:
    """Return why nothing is put into an experiment of the name of one that a workspace lost."""
    word = say(Remedy("experiment", name))
    return f"{role} has another experiment {name!r} than it had: {word} says that it is yours"


def back(role: str, name: str, other: str) -> str:
    """Return why an experiment that a workspace lost is not repaired, and the user's options."""
    repair = say(Remedy("sync", repair=True, experiment=name, from_=other))
    return (
        f"{role} had it and has it no more, so nothing is done to the one in {other}: "
        f"{repair} makes it in {role} again, with its runs"
    )
