"""Runs that began without the link: given to the other workspace, with what hangs on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlflow.entities import LoggedModelStatus, Run, RunStatus
from mlflow.exceptions import MlflowException

from dbml_magics.core.clock import Clock
from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.delivery.writers.attached import Attached, FoundModel, attached, points_by_run
from dbml_magics.core.delivery.writers.experiments import Experiments
from dbml_magics.core.delivery.writers.files import Files
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.lineage import Lineage
from dbml_magics.core.delivery.writers.model_emulation import ModelEmulation
from dbml_magics.core.delivery.writers.models import Models
from dbml_magics.core.delivery.writers.ports import Peers, Queues
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.runs import Runs
from dbml_magics.core.delivery.writers.sender import Sender
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.model.operations import CopyFiles
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import Identity

_OTHERS_S = 60.0  # how long a run is left to the process that began it on another machine


@dataclass(eq=False)
class Adoption(Writer):
    """Gives one workspace the runs that it lacks."""

    experiments: Experiments
    sender: Sender
    runs: Runs
    lineage: Lineage
    models: Models
    emulation: ModelEmulation
    files: Files
    journal: Journal
    queues: Queues
    peers: Peers[Reader]
    clock: Clock
    _adopting: set[str] = field(default_factory=set, init=False)
    _awaited: dict[str, float] = field(default_factory=dict, init=False)
    """A run that another process shall make here -> since when."""
    _doubtful: set[str] = field(default_factory=set, init=False)
    """Runs that were copied just now: what is on its way is in doubt."""

    def bring(self, run: str) -> Identity:
        """Make a run that has no known id here, find it or adopt it, and return its id and artifact URI."""
        with self.alone.doing("run", run):
            return self.state.identity(self.role, "run", run) or self._bring(run)

    def _bring(self, run: str) -> Identity:
        creation = self.queues.creation_of(run)
        if creation is not None and self.ids.is_tracked:
            if (cause := self.state.creations.refusal_of_run(self.role, run)) is not None:
                raise MlflowException.invalid_parameter_value(f"its run could not be made here: {cause}")
            self.runs.create(run, creation, True)
            made = self.state.identity(self.role, "run", run)
            assert made is not None
            return made
        if self.role == self.ids.began_at(run):
            return self.ids.remember_run(run, self.ids.own_run(run))
        return self._adopt(run)

    def settle_doubt(self, run: str) -> bool:
        """Tell whether a run was copied since the last call: its cursors are to be read anew."""
        doubtful = run in self._doubtful
        self._doubtful.discard(run)
        return doubtful

    def _doubt(self, run: str) -> None:
        """Put in doubt what was on its way while a run was copied: it may have been copied with it."""
        self.state.mark_sending(self.role, run, self.journal.files(run))
        self._doubtful.add(run)

    def _adopt(self, run: str) -> Identity:
        """Give this workspace a run that began without it, as the primary has it now."""
        if run in self._adopting:
            raise MlflowException(f"run {run} is its own ancestor")
        self._adopting.add(run)
        try:
            began = self.ids.began_at(run)
            with self.peers.asking(began) as other:
                source = other.run(run)
            experiment_id = self.experiments.at(other.experiments.visible(str(source.info.experiment_id)))
            found = self.ids.find_run([experiment_id], run)
            creations = self.state.creations
            if found is None and not creations.is_adopting(self.role, run):
                self._leave_to_its_process(run, source)
            if found is None or creations.is_adopting(self.role, run):
                with self.peers.asking(began) as other:
                    points: list[Point] = [
                        (m.key, m.value, m.timestamp, m.step)
                        for key in source.data.metrics
                        for m in other.history(source.info.run_id, key)
                    ]
                creations.begin_adoption(self.role, run)
                found = self._copy_run(run, source, experiment_id, points, found)
                if self.ids.is_tracked:  # its files travel as a write does, behind what is on its way
                    self.queues.write(run, CopyFiles(self.role))
            self._doubt(run)  # before its own turn, or another thread's, sees that it is here
            known = self.ids.remember_run(run, found)
            creations.end_adoption(self.role, run)
            return known
        finally:
            self._adopting.discard(run)

    def _leave_to_its_process(self, run: str, source: Run) -> None:
        """Let the process that began a live run through a link of its own make it here. Raises Unavailable.

        A Spark executor on another machine may write to the run before its driver has delivered it. A process
        that is dead is not waited for longer than that.
        """
        if source.data.tags.get(RUN_TAG) != run or source.info.status != "RUNNING":
            return
        first = self._awaited.setdefault(run, self.clock.monotonic())
        if self.clock.monotonic() - first < _OTHERS_S:
            reason = "the process that began its run has yet to make it there"
            raise Unavailable(reason, sent=False, elsewhere=True)

    def _copy_run(
        self, run: str, source: Run, experiment_id: str, points: list[Point], found: Run | None
    ) -> Run:
        """Make a run as ``source`` is, or complete ``found``, which an earlier try began."""
        resumed = found is not None
        tags = {**self.ids.own_tags(dict(source.data.tags)), RUN_TAG: run}
        tags.setdefault("mlflow.runName", source.info.run_name)
        if found is None:
            found = self.runs.make(run, experiment_id, source.info.user_id, source.info.start_time, tags)
        else:
            self.sender.complete_tags(run, found, tags)
        run_id = found.info.run_id
        self.sender.send_or_reject(run, run_id, Batch(points, dict(source.data.params)), resumed)
        if source.inputs and source.inputs.dataset_inputs:
            self.lineage.log_inputs(run_id, source.inputs.dataset_inputs, [])
        if (
            source.info.status != "RUNNING" or not self.ids.is_tracked
        ):  # where runs are not tracked, nothing will end it
            ended = source.info.status if source.info.status != "RUNNING" else "FINISHED"
            status = RunStatus.from_string(ended)
            self.destination.update_run_info(
                run_id, status, source.info.end_time or int(self.clock.time() * 1000), None
            )
        return found

    def complete(self, run: str) -> None:
        """Give an adopted run its files and what hangs on it where it began, deleted if it is so there.

        Raises Unavailable, or the first of the refusals once everything else is done.
        """
        began = self.ids.began_at(run)
        self.files.copy_missing(f"run:{run}", began)
        own = self.ids.run_at(run)
        with self.peers.asking(began) as other:
            source = other.run(run)
            there = attached(source, other.ids.visible_model)
            models = list(other.models_of(source))
        refusals: list[MlflowException] = []
        for model in models:
            try:
                self._carry(began, run, model)
            except MlflowException as error:
                if isinstance(error, Unavailable):
                    raise
                refusals.append(error)
        named = {model.facts["id"] for model in models}
        lacking = there.without(attached(self.destination.get_run(own), self.ids.visible_model))
        wanted = Attached(
            lacking.datasets,
            tuple(model for model in lacking.inputs if model in named),
            {model: step for model, step in lacking.outputs.items() if model in named},
        )
        self.lineage.attach(run, own, wanted)
        self._doubt(run)
        if source.info.lifecycle_stage == "deleted":
            self.destination.delete_run(own)
        if refusals:
            raise refusals[0]

    def _carry(self, began: str, run: str, model: FoundModel) -> None:
        """Make a logged model whole here; what was logged through the link travels by itself."""
        key = model.facts["id"]
        if self.state.model_facts(key) is not None:
            return
        self.models.create(model.facts, True)
        self.files.copy_missing(f"model:{key}", began)
        if model.status != LoggedModelStatus.PENDING.value:
            self.models.finalize(key, model.status)
        for each, points in points_by_run(model.points, key, model.facts["run"] or run).items():
            if self.ids.emulated.keeps(key):
                self.emulation.note_metrics(points)
            # A run that is not here brings its own points when it comes: a base model has those of many.
            elif each == run or self.ids.has_run(each):
                self.sender.add_points(each, points)
