"""Runs at one workspace: made once under the user's id or one of the service's, changed, deleted."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.acknowledged import Acknowledged
from dbml_magics.core.delivery.writers.experiments import Experiments
from dbml_magics.core.delivery.writers.ids import RUN_ID_TAGS, RUN_TAG
from dbml_magics.core.delivery.writers.once import was_tried
from dbml_magics.core.delivery.writers.overflow import Overflow
from dbml_magics.core.delivery.writers.ports import Turns
from dbml_magics.core.delivery.writers.sender import Sender
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, classify_error, is_missing
from dbml_magics.core.model.operations import CreateRun, SetTag, UpdateRun
from dbml_magics.core.model.sendable import is_text


@dataclass(eq=False)
class Runs(Writer):
    """Makes and changes runs at one workspace."""

    experiments: Experiments
    sender: Sender
    overflow: Overflow
    acknowledged: Acknowledged
    turns: Turns

    def create(self, queue: str, op: CreateRun, in_doubt: bool) -> None:
        """Make a run as it was begun, once."""
        with self.alone.doing("run", queue):
            if not self.ids.has_run(queue):
                self._create(queue, op, in_doubt)

    def _create(self, queue: str, op: CreateRun, in_doubt: bool) -> None:
        experiment_id = self.experiments.at(op.experiment)
        wanted = {**self.ids.own_tags(op.tags), RUN_TAG: queue}
        tags = {key: value for key, value in wanted.items() if is_text(key) and is_text(value)}
        creations = self.state.creations
        if was_tried(creations, self.role, queue, self.turns) or in_doubt:
            found = self._run_under_its_id(queue) or self.ids.find_run([experiment_id], queue)
            if found is not None:
                self.sender.complete_tags(queue, found, tags)
                self.ids.remember_run(queue, found)
                creations.settle_run(self.role, queue)
                return
        creations.begin(self.role, queue)
        user = op.user if is_text(op.user) else ""
        try:
            made = self.make(queue, experiment_id, user, op.start, tags)
        except Exception as error:
            classified = classify_error(error)
            if isinstance(classified, Unavailable) and not classified.sent:
                creations.settle(self.role, queue)
            raise classified from error
        self.ids.remember_run(queue, made)
        creations.settle_run(self.role, queue)
        for key in (
            wanted.keys() - tags.keys()
        ):  # a line of the first release: it kept what nobody can be sent
            self.state.reject(self.role, queue, SetTag(key, wanted[key]).encode(), "this is no Unicode text")

    def _run_under_its_id(self, run: str) -> Run | None:
        """Return the run that this workspace itself named, though the state does not know of it any more."""
        if not self.ids.is_primary and not self.destination.capabilities.takes_run_ids:
            return None
        try:
            return self.destination.get_run(run)
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable):
                raise
            return None

    def give_up(self, run: str, cause: str) -> None:
        """Remember that a run cannot be made here: what is logged to it is put aside with it."""
        self.state.creations.refuse_run(self.role, run, cause)

    def make(self, run: str, experiment_id: str, user: str, start: int, tags: dict[str, str]) -> Run:
        """Make a run with its tags; one that the workspace refuses is put aside, and the run made without."""
        under_its_id = self._make_under_its_id(run, experiment_id, start, tags)
        if under_its_id is not None:
            self.overflow.begin(run, under_its_id.data.tags)
            self.sender.complete_tags(run, under_its_id, tags)
            return under_its_id
        fitting, over = self.overflow.split_tags(tags)
        name = fitting.get("mlflow.runName")

        def make(given: dict[str, str]) -> Run:
            return self.experiments.in_living(
                experiment_id,
                lambda: self.destination.create_run(experiment_id, user, start, given, name),
            )

        few = {key: value for key, value in fitting.items() if key in (RUN_TAG, "mlflow.runName")}
        try:
            made, whole = make(fitting), not over
        except Exception as error:
            refused = classify_error(error)
            if isinstance(refused, (Unavailable, MissingEndpoint)) or not isinstance(
                refused, MlflowException
            ):
                raise refused from error
            if few == fitting:
                raise
            made, whole = make(few), False
        if self.learned.asks_for_ids and not any(tags.get(key) for key in RUN_ID_TAGS):
            # It makes runs, but none under an id of ours.
            self.learned.note_takes_run_ids(False)
        self.overflow.begin(run, made.data.tags)
        if not whole:
            self.sender.complete_tags(run, made, tags)
        return made

    def _make_under_its_id(
        self, run: str, experiment_id: str, start: int, tags: dict[str, str]
    ) -> Run | None:
        """Make a run under the id that the user saw, or return None where the service names runs itself.

        Doing it twice makes one run: such a creation is never in doubt.
        """
        if not self.learned.asks_for_ids:
            return None
        tags, _ = self.overflow.split_tags(tags)
        began = self.experiments.clock.monotonic()
        made = self.destination.make_run_as(run, experiment_id, start, tags)
        if made is None and self.experiments.is_restored(experiment_id, began):  # as in Experiments.in_living
            made = self.destination.make_run_as(run, experiment_id, start, tags)
        if made is not None:
            self.learned.note_takes_run_ids(made.info.run_id == run)
        return made

    def about_ids(self) -> str | None:
        """Return under which ids this workspace keeps the runs that another one named, once it is known."""
        taken, primary = self.learned.takes_run_ids, self.ids.topology.primary
        if taken is None or self.ids.is_primary:
            return None
        if taken:
            return f"a run has one id: {self.role} keeps it under the one that {primary} gave it"
        return f"{self.role} gives each run an id of its own; {primary}'s is in its tag {RUN_TAG}"

    def delete_tag(self, queue: str, key: str) -> None:
        """Delete a tag of a run, which may be gone."""
        run_id = self.ids.run_at(queue)
        try:
            self.destination.delete_tag(run_id, key)
        except MlflowException as error:
            if not is_missing(error):
                raise
        self.acknowledged.untagged(run_id, key)
        self.overflow.untagged(queue, key)

    def update(self, queue: str, op: UpdateRun) -> None:
        """Change a run's status, end and name."""
        status = RunStatus.from_string(op.status) if op.status else None
        run_id = self.ids.run_at(queue)
        self.destination.update_run_info(run_id, status, op.end, self.overflow.fitting_name(queue, op.name))
        if op.status:
            self.acknowledged.status(run_id, op.status)

    def delete(self, queue: str) -> None:
        """Delete a run."""
        self.destination.delete_run(self.ids.run_at(queue))

    def restore(self, queue: str) -> None:
        """Restore a deleted run."""
        self.destination.restore_run(self.ids.run_at(queue))
