"""What the families of the tracking store's methods share: the engine, and common steps of writes."""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from dbml_magics.core.link import Link
from dbml_magics.core.mlflow_private import validate_run_id
from dbml_magics.core.model.sendable import required
from dbml_magics.core.plugin.experiment_reader import ExperimentReader
from dbml_magics.core.plugin.model_reader import ModelReader
from dbml_magics.core.run_view import RunView
from dbml_magics.core.runtime.engine import Engine


class MethodFamily:
    """A part of the tracking store: the methods that concern one kind of entity."""

    def __init__(self, engine: Engine, link: Link) -> None:
        super().__init__()
        self.engine = engine
        self._live = engine.live.queues  # at hand, as each log call looks into it
        self.uri = link.uri
        self.sync = link.mode == "sync"
        self._experiments = ExperimentReader(engine)
        self._models = ModelReader(engine, self._experiments)

    def _writable(self, run_id: str) -> RunView:
        """Return the view of a run that is to be written to. Raises MLflow's refusal of a deleted one."""
        live = self._live.get(run_id)
        if live is None or live.view.run is None:
            live = self.engine.live.open_run(run_id)
        run = live.view.run
        assert run is not None
        if run.deleted:
            self.engine.live.refresh(live)  # another process may have restored it
        if run.deleted:
            raise MlflowException(
                f"The run {run_id} must be in the 'active' state. Current state is deleted.",
                INVALID_PARAMETER_VALUE,
            )
        return run

    def _after_write(self, queue: str) -> None:
        """In sync mode, wait for the primary's answer and raise its refusal."""
        if self.sync:
            self.engine.waiting.wait_for_primary(queue)


def check_run_id(run_id: str) -> None:
    """Raise MLflow's refusal of a text that is no run's id."""
    required("run_id", run_id)
    validate_run_id(run_id)
