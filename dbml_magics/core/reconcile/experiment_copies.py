"""The target's experiments for what is copied there: found or made, and deleted again as the source's are."""

from __future__ import annotations

import threading
from functools import partial

from mlflow.exceptions import MlflowException

from dbml_magics.core.reconcile.experiments import contested, experiment_tags
from dbml_magics.core.reconcile.pairs import ExperimentPair
from dbml_magics.core.reconcile.repairing import Repairing


class ExperimentCopies:
    """Copies of the source's experiments; one is made at a time."""

    def __init__(self, repairing: Repairing) -> None:
        self.repairing, self.survey, self.state = repairing, repairing.survey, repairing.state
        self.source, self.target = repairing.source, repairing.target
        self._making = threading.Lock()

    def at_target(self, experiment_id: str) -> str:
        """Return the target's experiment for one of the source, made if need be."""
        number = self.survey.readers.index(self.source)
        pair = self.survey.pair_of(experiment_id, number)
        other, origin = pair.at(1 - number), pair.at(number)
        assert origin is not None
        deleted = origin.lifecycle_stage == "deleted"
        if other is not None:
            if deleted and other.lifecycle_stage == "deleted":
                self._end_later(str(other.experiment_id))
            return str(other.experiment_id)
        with self._making:
            known = self.survey.made(1 - number, pair)
            if known is not None:
                return known
            self._refuse_contested(pair)
            tags = experiment_tags(origin)
            made = str(self.repairing.write(lambda: self.target.side.experiments.make(pair.name, tags)))
            own = {self.source.role: experiment_id, self.target.role: made}
            first = self.survey.first
            visible = first.side.experiments.visible(own[first.role])
            self.state.repairs.note_made(self.target.role, origin.experiment_id, origin.creation_time, made)
            self.state.set_identity(
                self.survey.second.role, "experiment", visible, own[self.survey.second.role]
            )
            self.repairing.engine.state.experiments.remember(visible, pair.name, tags)
            if deleted:
                self._end_later(made)
            return made

    def _end_later(self, own: str) -> None:
        self.state.repairs.note_restored_experiment(self.target.role, own)

    def delete_restored(self) -> None:
        """Delete the target's experiments that are active only for what was copied into them."""
        repairs, store = self.state.repairs, self.target.workspace
        for own in repairs.restored_experiments(self.target.role):
            if self.target.ask(partial(store.get_experiment, own)).lifecycle_stage != "deleted":
                self.repairing.write(partial(store.delete_experiment, own))
            repairs.forget_restored_experiment(self.target.role, own)

    def _refuse_contested(self, pair: ExperimentPair) -> None:
        """Refuse to mix runs into another experiment of a name, where one workspace lost the user's own."""
        target, source = self.target.side.experiments, self.source.side.experiments
        _, there = self.target.side.experiments.find(pair.name)
        if there is None:
            return
        if pair.lost == self.target.role or source.lost(target.seen(there) or ""):
            raise MlflowException.invalid_parameter_value(contested(self.target.role, pair.name))
