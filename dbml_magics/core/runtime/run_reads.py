"""One run as the user sees it: from its view while it lives here or is on its way, else from a workspace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from mlflow.entities import LoggedModelOutput, Run, RunOutputs
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.emulated_models import MODELS_TAG, in_tag
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG
from dbml_magics.core.link import Link
from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.outbox.state import State
from dbml_magics.core.run_view import TERMINAL, RunView
from dbml_magics.core.runtime.asking import SECOND_ASK_S, Asking
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.live import LiveQueue, LiveQueues
from dbml_magics.core.runtime.visible_ids import VisibleIds


class RunReads:
    """Reads runs of one link; ``side`` gives the one of a role."""

    def __init__(
        self,
        link: Link,
        state: State,
        health: Mapping[str, Health],
        live: LiveQueues,
        backlog: Backlog,
        ids: VisibleIds,
        asking: Asking[Side],
        side: Callable[[str], Side],
    ) -> None:
        self._link = link
        self._state = state
        self._health = health
        self._live = live
        self._backlog = backlog
        self._ids = ids
        self._asking = asking
        self._side = side

    def get_run(self, run_id: str) -> Run:
        """Return a run: from its view while it lives here or is on its way, else from the primary."""
        live = self._live.current(run_id)
        if live is not None:
            with live.lock:
                if live.view.run is None and self._backlog.is_waiting(self._link.primary, run_id):
                    self._live.open_run(run_id)
                if self._reads_from_view(live):
                    assert live.view.run is not None
                    return live.view.run.run()
        try:
            found = self._asking.read(lambda side: self._run_at(side, run_id))
        except Unavailable:
            # log_metric(run_id=…) asks for the run first, and must not fail because nobody answers.
            if live is None or live.view.run is None:
                raise
            with live.lock:
                return live.view.run.run()
        if live is not None and live.view.run is not None and live.view.run.status in TERMINAL:
            self._live.queues.pop(run_id, None)
        return found

    def view_of(self, run_id: str) -> RunView | None:
        """Return the run's view where the run is read from it, else None."""
        live = self._live.current(run_id)
        return live.view.run if live is not None and self._reads_from_view(live) else None

    def _reads_from_view(self, live: LiveQueue) -> bool:
        """Tell whether the view says more than the primary: of a run that lives here, or is on its way.

        A run that began elsewhere may be written to elsewhere too.
        """
        run = live.view.run
        if run is None:
            return False
        if live.view.created and run.status not in TERMINAL:
            return True
        return self._backlog.is_waiting(self._link.primary, live.view.queue)

    def base_of(self, run_id: str) -> RunView:
        """Return what a run was before the writes that are in the journal. Raises MLflow's "not found"."""
        artifact_uri = self._ids.artifact_uri("run", run_id)
        try:
            run = self._asking.read(lambda side: self._run_at(side, run_id))
        except Unavailable:
            known = self._state.run(run_id)
            if known is None:
                # Nobody can say whether it exists; a write must not fail for that.
                return RunView(run_id, "", artifact_uri, "", int(time.time() * 1000))
            view = RunView(run_id, known["experiment"], artifact_uri, known["user"], known["start"])
            view.tags = {"mlflow.runName": known["name"]}
            return view
        if self._state.run(run_id) is None:
            self._state.experiments.note_queue(run_id, run.info.experiment_id)
        return RunView.from_run(run, artifact_uri)

    # --- at a workspace

    def _run_at(self, side: Side, run_id: str) -> Run:
        try:
            found = side.destination.get_run(side.ids.known_run(run_id))
        except MlflowException as error:
            if side.role != self._link.primary or not is_missing(error):
                raise
            if (elsewhere := self._begun_at_mirror(run_id)) is not None:
                return elsewhere
            if (named := side.ids.run_by_tag(run_id)) is None:
                raise
            side.ids.remember_run(run_id, named)
            found = named
        return self.translate_run(found, run_id, side.role)

    def _begun_at_mirror(self, run_id: str) -> Run | None:
        """Return a run that was begun at the mirror without the link (an Azure ML job's), or None.

        It keeps its id; the primary gets a copy once something is logged to it.
        """
        for role in self._link.tracked[1:]:
            side, health = self._side(role), self._health[role]
            if health.away or self._state.visible(role, "run", run_id) not in (None, run_id):
                continue
            try:
                found = health.ask(partial(side.destination.get_run, run_id), SECOND_ASK_S)
                if RUN_TAG in found.data.tags and found.data.tags[RUN_TAG] != run_id:
                    continue
                experiment = self._experiment_begun_at(side, found.info.experiment_id)
            except MlflowException:
                continue
            if self._state.identity(role, "run", run_id) is None:
                self._state.creations.note_began_at(run_id, role)
                side.ids.remember_run(run_id, found)
            found = self.translate_run(found, run_id, role)
            with_fields(found.info, experiment_id=experiment)
            return found
        return None

    def _experiment_begun_at(self, side: Side, actual: str) -> str:
        """Return the user's id of an experiment of the mirror's, which is made at the primary if need be."""
        known = self._state.visible(side.role, "experiment", actual)
        if known is not None:
            return known
        there = side.destination.get_experiment(actual)
        name = there.tags.get(EXPERIMENT_TAG, there.name)
        visible = self._state.experiments.named(name)
        if visible is None:
            visible = self._asking.ask_primary(lambda primary: primary.experiments.make(name, {}))
            self._state.experiments.remember(visible, name, {})
        self._state.set_identity(side.role, "experiment", visible, actual)
        return visible

    def translate_run(self, run: Run, run_id: str | None = None, role: str | None = None) -> Run:
        """Return a workspace's run under the ids that the user knows, its files behind the link."""
        ids = self._ids
        visible = run_id or ids.visible("run", run.info.run_id, role)
        with_fields(
            run.info,
            run_id=visible,
            experiment_id=ids.experiment(run.info.experiment_id, role),
            artifact_uri=ids.artifact_uri("run", visible),
        )
        parent = run.data.tags.get("mlflow.parentRunId")
        if parent:
            run.data.tags["mlflow.parentRunId"] = ids.visible("run", parent, role)
        for outputs in (run.outputs.model_outputs if run.outputs else []) or []:
            with_fields(outputs, model_id=ids.visible("model", outputs.model_id, role))
        for inputs in (run.inputs.model_inputs if run.inputs else []) or []:
            with_fields(inputs, model_id=ids.visible("model", inputs.model_id, role))
        # What the workspaces keep for us says nothing that the run itself does not say here.
        run.data.tags.pop(RUN_TAG, None)
        kept = run.data.tags.pop(MODELS_TAG, None)
        if kept:
            _add_outputs(run, [ids.visible("model", model, role) for model in in_tag(kept)])
        return run


def _add_outputs(run: Run, models: list[str]) -> None:
    have = {o.model_id for o in run.outputs.model_outputs} if run.outputs else set()
    outputs = list(run.outputs.model_outputs) if run.outputs else []
    added = [LoggedModelOutput(model, 0) for model in models if model not in have]
    with_fields(run, outputs=RunOutputs(outputs + added))
