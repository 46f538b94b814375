"""Repair differences in experiments, from the source to the target."""

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
from dbml_magics.core.reconcile.pairs import ExperimentPair
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.core.reconcile.repairing import Repairing
from dbml_magics.results.reconcile import Difference


class ExperimentRepairer:
    """Mends experiments that both workspaces have."""

    def __init__(self, repairer: Repairing) -> None:
        self.repairer = repairer
        self.survey = repairer.survey

    def all(self) -> Iterator[Outcomes]:
        """Mend the experiments in scope; what one workspace lost is left to a person."""
        repairer = self.repairer
        for pair, difference in lost_differences(self.survey, repairer.comparer):
            yield [(difference, repairer.mended(partial(self._plan_lost, pair)))]
        for pair, first, second in experiments_in_scope(self.survey):
            try:
                found = list(differences_of(self.survey, repairer.comparer, pair, first, second))
            except Exception as error:
                yield unread(self.survey.unread("", pair.name, error))
                continue
            outcomes = [(d, repairer.mended(partial(self._plan, d, first, second))) for d in found]
            if not repairer.dry_run:
                note_alike(repairer.merge_base, first, second, found)
            if outcomes:
                yield outcomes

    def _plan(self, difference: Difference, first: Experiment, second: Experiment) -> Fix:
        repairer = self.repairer
        ours, theirs = (first, second) if repairer.forwards else (second, first)
        if difference.key == "stage":
            return self._stage(ours, theirs)
        if difference.key == "name":
            return self._name(difference, first, ours, theirs)
        name = difference.key.removeprefix("tag ")
        ids = {repairer.source: ours.experiment_id, repairer.target: theirs.experiment_id}
        return repairer.fact(
            place_of(first),
            difference,
            (ours.tags.get(name), theirs.tags.get(name)),
            lambda reader, value: reader.workspace.set_experiment_tag(ids[reader], name, value),
            lambda reader: reader.workspace.delete_experiment_tag(ids[reader], name),
        )

    def _plan_lost(self, pair: ExperimentPair) -> Fix:
        repairer = self.repairer
        if pair.lost == repairer.target.role:
            return Fix(f"made in {pair.lost} again with the first of its runs that is copied")
        return Fix(back(pair.lost, pair.name, repairer.target.role))

    def _stage(self, ours: Experiment, theirs: Experiment) -> Fix:
        repairer, store, own = self.repairer, self.repairer.target.workspace, theirs.experiment_id
        role = repairer.target.role
        if ours.lifecycle_stage == "active":
            return Fix(f"restored in {role}", lambda: repairer.write(lambda: store.restore_experiment(own)))
        return Fix.deletion(
            role,
            f"deleted in {repairer.source.role}",
            lambda: repairer.write(lambda: store.delete_experiment(own)),
            too=True,
        )

    def _name(self, difference: Difference, first: Experiment, ours: Experiment, theirs: Experiment) -> Fix:
        repairer = self.repairer
        names = repairer.merge_base.names(place_of(first))
        back = (
            not repairer.one_way and names is not None and names[0 if repairer.forwards else 1] == ours.name
        )
        if back:
            return self._renamed(difference, repairer.source, ours, repairer.target, theirs, back=True)
        return self._renamed(difference, repairer.target, theirs, repairer.source, ours, back=False)

    def _renamed(
        self,
        difference: Difference,
        reader: WorkspaceReader,
        experiment: Experiment,
        other: WorkspaceReader,
        model: Experiment,
        *,
        back: bool,
    ) -> Fix:
        """Plan to give an experiment of one side the other one's name, by the side's own rule."""
        name = name_by_rule(other, model)
        if name == model.name and experiment.name.startswith("/") and not name.startswith("/"):
            name = posixpath.join(posixpath.dirname(experiment.name), name)  # it stays in its folder
        own_name, taken = reader.side.experiments.find(name)
        if taken is not None and str(taken.experiment_id) != str(experiment.experiment_id):
            return Fix(f"{reader.role} has another experiment {own_name}")

        def rename() -> None:
            reader.ask(lambda: reader.workspace.rename_experiment(experiment.experiment_id, own_name))
            for each, own in ((reader, experiment), (other, model)):
                if each.side.destination.capabilities.names_experiments_itself:
                    tag = EXPERIMENT_TAG, each.side.experiments.full_name(name)
                    each.ask(partial(each.workspace.set_experiment_tag, own.experiment_id, *tag))
            self._remember(reader, experiment, name)

        return Fix(self.repairer.said(back, difference), rename)

    def _remember(self, reader: WorkspaceReader, experiment: Experiment, name: str) -> None:
        """Let the link call the experiment by its new name from now on."""
        engine, own = self.repairer.engine, str(experiment.experiment_id)
        visible = engine.state.visible(reader.role, "experiment", own) or own
        known = engine.state.experiments.facts(visible)
        if known is not None:
            engine.state.experiments.remember(visible, name, known.tags)
