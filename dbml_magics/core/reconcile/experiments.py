"""Experiments that both workspaces have: what differs, how it is mended."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow.entities import Experiment, ExperimentTag

from dbml_magics.core.reconcile.agreed import Agreed
from dbml_magics.core.reconcile.compare import Comparer
from dbml_magics.core.reconcile.fixes import Fix, Outcomes, unread
from dbml_magics.core.reconcile.pairs import ExperimentPair
from dbml_magics.core.reconcile.sides import Side
from dbml_magics.core.reconcile.survey import Survey
from dbml_magics.core.tracking.engine import NOTE_TAG
from dbml_magics.core.workspaces.naming import EXPERIMENT_TAG
from dbml_magics.differences import ABSENT, LOST, Difference
from dbml_magics.hints import say

if TYPE_CHECKING:
    from dbml_magics.core.reconcile.mender import Mender


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
        note_agreed(Agreed(survey.engine.state), first, second, found)
        yield from found


def differences_of(
    survey: Survey, comparer: Comparer, pair: ExperimentPair, first: Experiment, second: Experiment
) -> Iterator[Difference]:
    """Yield the stage, the name (beyond what naming rules make of it), the note and the tags that differ."""
    told = partial(comparer.difference, "", pair.name, "experiment")
    if first.lifecycle_stage != second.lifecycle_stage:
        yield told("stage", first.lifecycle_stage, second.lifecycle_stage)
    if not named_alike(survey.first, first, survey.second, second):
        yield told("name", first.name, second.name)
    ours, theirs = experiment_tags(first), experiment_tags(second)
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield told(f"tag {key}", ours.get(key, ABSENT), theirs.get(key, ABSENT))


def note_agreed(agreed: Agreed, first: Experiment, second: Experiment, found: list[Difference]) -> None:
    """Remember what two experiments say alike; each has a name of its own."""
    place = place_of(first)
    ours: dict[str, str | None] = {f"tag {k}": v for k, v in experiment_tags(first).items()}
    agreed.note_facts(place, ours, {f"tag {k}": v for k, v in experiment_tags(second).items()})
    if not any(d.key == "name" for d in found):
        agreed.note(f"{place}/names", [first.name, second.name])


def place_of(first: Experiment) -> str:
    """Return where what is agreed of an experiment stands, by the primary's id of it."""
    return f"experiment/{first.experiment_id}"


def experiment_tags(experiment: Experiment) -> dict[str, str]:
    """Return an experiment's own tags and its note."""
    return {
        k: v
        for k, v in experiment.tags.items()
        if k == NOTE_TAG or not k.startswith(("mlflow.", "dbml_", "azureml."))
    }


def named_alike(first: Side, one: Experiment, second: Side, other: Experiment) -> bool:
    """Tell whether each workspace's naming rule makes one name of the other."""
    if one.name == other.name:
        return True
    a, b = _said(first, one), _said(second, other)
    return a == b or other.name in _forms(second, a) or one.name in _forms(first, b)


def _said(side: Side, experiment: Experiment) -> str:
    """Return what the user calls an experiment, unless it was renamed behind the link's back since."""
    tag = experiment.tags.get(EXPERIMENT_TAG)
    return tag if tag and experiment.name in _forms(side, tag) else str(experiment.name)


def _forms(side: Side, name: str) -> set[str]:
    return side.applier.experiments.forms(name)


def lost_differences(survey: Survey, comparer: Comparer) -> Iterator[tuple[ExperimentPair, Difference]]:
    """Yield the experiments in scope that one workspace had once, and has no more by what is remembered."""
    if survey.scope.run is None:
        for pair in survey.experiments():
            if pair.lost:
                there = f"{pair.instead!r} has its id" if pair.instead else ABSENT
                first = pair.lost == survey.first.role
                told = (there, pair.name) if first else (pair.name, there)
                yield pair, comparer.difference("", pair.name, LOST, "experiment", *told)


def contested(role: str, name: str) -> str:
    """Return why nothing is put into an experiment of the name of one that a workspace lost."""
    word = say(f"%dbml experiment {shlex.quote(name)}")
    return f"{role} has another experiment {name!r} than it had: {word} says that it is yours"


def back(role: str, name: str, other: str) -> str:
    """Return why nothing is done about an experiment that a workspace lost, and what a person may do."""
    scope = f"--experiment {shlex.quote(name)}"
    return (
        f"{role} had it and has it no more, so nothing is done to the one in {other}: "
        f"{say(f'%dbml sync --repair {scope} --from {other}')} makes it in {role} again, with its runs"
    )


class ExperimentMender:
    """Mends experiments that both workspaces have."""

    def __init__(self, mender: Mender) -> None:
        self.mender = mender
        self.survey = mender.survey

    def all(self) -> Iterator[Outcomes]:
        """Mend the experiments in scope; what one workspace lost is left to a person."""
        mender = self.mender
        for pair, difference in lost_differences(self.survey, mender.comparer):
            yield [(difference, mender.mended(partial(self._plan_lost, pair)))]
        for pair, first, second in experiments_in_scope(self.survey):
            try:
                found = list(differences_of(self.survey, mender.comparer, pair, first, second))
            except Exception as error:
                yield unread(self.survey.unread("", pair.name, error))
                continue
            outcomes = [(d, mender.mended(partial(self._plan, d, first, second))) for d in found]
            if not mender.rehearse:
                note_agreed(mender.agreed, first, second, found)
            if outcomes:
                yield outcomes

    def _plan(self, difference: Difference, first: Experiment, second: Experiment) -> Fix:
        mender = self.mender
        ours, theirs = (first, second) if mender.forwards else (second, first)
        if difference.key == "stage":
            return self._stage(ours, theirs)
        if difference.key == "name":
            return self._name(difference, first, ours, theirs)
        name = difference.key.removeprefix("tag ")
        ids = {mender.source: ours.experiment_id, mender.target: theirs.experiment_id}
        return mender.fact(
            place_of(first),
            difference,
            (ours.tags.get(name), theirs.tags.get(name)),
            lambda side, value: side.store.set_experiment_tag(ids[side], ExperimentTag(name, value)),
            lambda side: side.store.delete_experiment_tag(ids[side], name),
        )

    def _plan_lost(self, pair: ExperimentPair) -> Fix:
        mender = self.mender
        if pair.lost == mender.target.role:
            return Fix(f"made in {pair.lost} again with the first of its runs that is copied")
        return Fix(back(pair.lost, pair.name, mender.target.role))

    def _stage(self, ours: Experiment, theirs: Experiment) -> Fix:
        mender, store, own = self.mender, self.mender.target.store, theirs.experiment_id
        role = mender.target.role
        if ours.lifecycle_stage == "active":
            return Fix(f"restored in {role}", lambda: mender.write(lambda: store.restore_experiment(own)))
        return Fix.deletion(
            role,
            f"deleted in {mender.source.role}",
            lambda: mender.write(lambda: store.delete_experiment(own)),
            too=True,
        )

    def _name(self, difference: Difference, first: Experiment, ours: Experiment, theirs: Experiment) -> Fix:
        mender = self.mender
        agreed = mender.agreed.of(f"{place_of(first)}/names")
        back = not mender.one_way and agreed is not None and agreed[0 if mender.forwards else 1] == ours.name
        if back:
            return self._renamed(difference, mender.source, ours, mender.target, theirs, back=True)
        return self._renamed(difference, mender.target, theirs, mender.source, ours, back=False)

    def _renamed(
        self,
        difference: Difference,
        side: Side,
        experiment: Experiment,
        other: Side,
        model: Experiment,
        *,
        back: bool,
    ) -> Fix:
        """Plan to give an experiment of one side the other one's name, by the side's own rule."""
        name = _said(other, model)
        if name == model.name and experiment.name.startswith("/") and not name.startswith("/"):
            name = posixpath.join(posixpath.dirname(experiment.name), name)  # it stays in its folder
        own_name, taken = side.applier.find_experiment(name)
        if taken is not None and str(taken.experiment_id) != str(experiment.experiment_id):
            return Fix(f"{side.role} has another experiment {own_name}")

        def rename() -> None:
            side.ask(lambda: side.store.rename_experiment(experiment.experiment_id, own_name))
            for each, own in ((side, experiment), (other, model)):
                if each.applier.workspace.names_experiments_itself:
                    tag = ExperimentTag(EXPERIMENT_TAG, each.applier._whose(name))
                    each.ask(partial(_tag, each, own, tag))
            self._remember(side, experiment, name)

        return Fix(self.mender.said(back, difference), rename)

    def _remember(self, side: Side, experiment: Experiment, name: str) -> None:
        """Let the link call the experiment by its new name from now on."""
        engine, own = self.mender.engine, str(experiment.experiment_id)
        visible = engine.state.visible(side.role, "experiment", own) or own
        known: Any = engine.state.answer(f"experiment/{visible}")
        if known is not None:
            engine.remember_experiment(visible, name, known["tags"])


def _tag(side: Side, experiment: Experiment, tag: ExperimentTag) -> None:
    side.store.set_experiment_tag(experiment.experiment_id, tag)
