"""Mending what differs in experiments, from the source to the target."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import partial

from mlflow.entities import Experiment

from dbml_magics.core.destinations.naming import EXPERIMENT_TAG
from dbml_magics.core.reconcile.experiments import (
    back,
    differences_of,
    experiments_in_scope,
    lost_differences,
    name_by_rule,
    note_alike,
    place_of,
)
from dbml_magics.core.reconcile.fixes import Fix, Outcomes, unread
from dbml_magics.core.reconcile.mending import Mending
from dbml_magics.core.reconcile.pairs import ExperimentPair
from dbml_magics.core.reconcile.sides import Side
from dbml_magics.results.reconcile import Difference


class ExperimentMender:
    """Mends experiments that both workspaces have."""

    def __init__(self, mender: Mending) -> None:
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
                note_alike(mender.merge_base, first, second, found)
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
            lambda side, value: side.workspace.set_experiment_tag(ids[side], name, value),
            lambda side: side.workspace.delete_experiment_tag(ids[side], name),
        )

    def _plan_lost(self, pair: ExperimentPair) -> Fix:
        mender = self.mender
        if pair.lost == mender.target.role:
            return Fix(f"made in {pair.lost} again with the first of its runs that is copied")
        return Fix(back(pair.lost, pair.name, mender.target.role))

    def _stage(self, ours: Experiment, theirs: Experiment) -> Fix:
        mender, store, own = self.mender, self.mender.target.workspace, theirs.experiment_id
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
        names = mender.merge_base.names(place_of(first))
        back = not mender.one_way and names is not None and names[0 if mender.forwards else 1] == ours.name
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
        name = name_by_rule(other, model)
        if name == model.name and experiment.name.startswith("/") and not name.startswith("/"):
            name = posixpath.join(posixpath.dirname(experiment.name), name)  # it stays in its folder
        own_name, taken = side.applier.find_experiment(name)
        if taken is not None and str(taken.experiment_id) != str(experiment.experiment_id):
            return Fix(f"{side.role} has another experiment {own_name}")

        def rename() -> None:
            side.ask(lambda: side.workspace.rename_experiment(experiment.experiment_id, own_name))
            for each, own in ((side, experiment), (other, model)):
                if each.applier.workspace.capabilities.names_experiments_itself:
                    tag = EXPERIMENT_TAG, each.applier._whose(name)
                    each.ask(partial(each.workspace.set_experiment_tag, own.experiment_id, *tag))
            self._remember(side, experiment, name)

        return Fix(self.mender.said(back, difference), rename)

    def _remember(self, side: Side, experiment: Experiment, name: str) -> None:
        """Let the link call the experiment by its new name from now on."""
        engine, own = self.mender.engine, str(experiment.experiment_id)
        visible = engine.state.visible(side.role, "experiment", own) or own
        known = engine.state.experiments.facts(visible)
        if known is not None:
            engine.remember_experiment(visible, name, known.tags)
