"""What hangs on a run at one workspace: its datasets, and the logged models that it read and made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.entities import DatasetInput
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.attached import Attached, attached
from dbml_magics.core.delivery.writers.model_emulation import ModelEmulation
from dbml_magics.core.delivery.writers.ports import Peers
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, WouldRefuse, classify_error
from dbml_magics.core.destinations.limits import names_a_limit
from dbml_magics.core.model.operations import LogInputs
from dbml_magics.core.run_view import dataset_from


@dataclass(eq=False)
class Lineage(Writer):
    """Logs inputs and outputs of runs at one workspace."""

    emulation: ModelEmulation
    peers: Peers[Reader]

    def inputs(self, queue: str, op: LogInputs, in_doubt: bool) -> None:
        """Log what a run read."""
        if self.learned.lacks("inputs"):
            return
        run_id = self.ids.run_at(queue)
        datasets = [dataset_from(d) for d in op.datasets]
        models = list(self.ids.native_models(op.models))
        if in_doubt:
            there = self.destination.get_run(run_id).inputs
            if there:
                have = {(d.dataset.name, d.dataset.digest) for d in there.dataset_inputs}
                datasets = [d for d in datasets if (d.dataset.name, d.dataset.digest) not in have]
                models = [m for m in models if m not in {i.model_id for i in there.model_inputs}]
        self.log_inputs(run_id, datasets, models)

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput], models: list[str]) -> None:
        """Log a run's inputs; a service that takes none has the rest of the run."""
        if not (datasets or models) or self.learned.lacks("inputs"):
            return
        try:
            self.destination.log_inputs(run_id, datasets, models)
        except MissingEndpoint:
            self.learned.note_lack("inputs")
        except MlflowException as refused:
            said, most = classify_error(refused), self.learned.limits.run_inputs
            if most is None or isinstance(said, Unavailable) or not names_a_limit(str(said)):
                raise
            self._log_what_fits(run_id, datasets, models, most)

    def _log_what_fits(
        self, run_id: str, datasets: Sequence[DatasetInput], models: list[str], most: int
    ) -> None:
        """Log as many more datasets as a run may have. Raises WouldRefuse for the others."""
        there = self.destination.get_run(run_id).inputs
        have = {(d.dataset.name, d.dataset.digest) for d in (there.dataset_inputs if there else ())}
        new = [d for d in datasets if (d.dataset.name, d.dataset.digest) not in have]
        fitting = new[: max(0, most - len(have))]
        if fitting or models:
            self.destination.log_inputs(run_id, fitting, models)
        if left := len(new) - len(fitting):
            raise WouldRefuse(f"{self.role} takes {most} input datasets a run: {left} of these are left out")

    def outputs(self, queue: str, steps: dict[str, int], in_doubt: bool) -> None:
        """Log which logged models a run made, each with its step."""
        if not self.learned.has_logged_models:
            return
        run_id = self.ids.run_at(queue)
        outputs = {actual: steps[model] for actual, model in self.ids.native_models(steps).items()}
        if in_doubt:
            there = self.destination.get_run(run_id).outputs
            have = {o.model_id for o in there.model_outputs} if there else set()
            outputs = {m: s for m, s in outputs.items() if m not in have}
        self.log_outputs(queue, run_id, outputs)

    def log_outputs(self, run: str, run_id: str, outputs: dict[str, int]) -> None:
        """Log which models (the service's own ids -> step) a run made, in a tag where it has no such call."""
        if not outputs:
            return
        if not self.learned.lacks("outputs"):
            try:
                self.destination.log_outputs(run_id, outputs)
                return
            except MissingEndpoint:
                self.learned.note_lack("outputs")
        self.emulation.note_outputs(run, run_id, outputs)

    def attach(self, run: str, run_id: str, lacking: Attached) -> None:
        """Give a workspace's run what it lacks, as far as the service has a place for it.

        The models must be there already: one that the workspace does not know would be made without files.
        """
        self.log_inputs(run_id, list(lacking.datasets.values()), list(self.ids.native_models(lacking.inputs)))
        native = self.ids.native_models(lacking.outputs)
        self.log_outputs(run, run_id, {actual: lacking.outputs[model] for actual, model in native.items()})

    def attach_output(self, run: str, run_id: str, model: str) -> None:
        """Let a run name a logged model that it made, at the step that it has where the run began."""
        here = attached(self.destination.get_run(run_id), self.ids.visible_model)
        if model not in here.outputs:
            with self.peers.asking(self.ids.began_at(run)) as other:
                there = attached(other.run(run), other.ids.visible_model)
            self.attach(run, run_id, Attached(outputs={model: there.outputs.get(model, 0)}))
