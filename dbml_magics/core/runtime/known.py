"""The experiments and logged models of a link, as far as this machine knows them."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import is_missing
from dbml_magics.core.link import Link
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime.asking import Asking
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.live import LiveQueues
from dbml_magics.core.runtime.visible_ids import VisibleIds


class KnownExperiments:
    """Experiments by the ids that the user knows, and the queues of their runs and models."""

    def __init__(
        self,
        link: Link,
        state: State,
        live: LiveQueues,
        backlog: Backlog,
    ) -> None:
        self._link = link
        self._state = state
        self._live = live
        self._backlog = backlog

    def note_stage(self, experiment_id: str, *, deleted: bool) -> None:
        """Note for the runs that live here what a server does to the runs of such an experiment."""
        for live in list(self._live.queues.values()):
            run = live.view.run
            if run is not None and run.experiment_id == experiment_id:
                run.deleted = deleted

    def of_queue(self, queue: str) -> str | None:
        """Return the experiment of a run's or model's queue, as far as this machine knows."""
        live = self._live.queues.get(queue)
        if live is not None and live.view.run is not None and live.view.run.experiment_id:
            return live.view.run.experiment_id
        model = self._state.model(queue)
        known = self._state.run(queue) or (model[1] if model else None) or {}
        found = known.get("experiment") or self._state.experiments.of_queue(queue)
        return str(found) if found else None

    def in_queue(self, queue: str) -> set[str | None]:
        """Return the experiments of a queue: its run's, and those of the models that began in it."""
        return {self.of_queue(queue), *self._state.experiments_of_models(queue)}

    def contents_of(self, experiment_id: str, role: str | None = None) -> list[str]:
        """Return the queues of an experiment's runs and models of which something is on its way."""
        return [
            queue
            for queue in self._backlog.queues(role or self._link.primary)
            if experiment_id in self.in_queue(queue)
        ]


class KnownModels:
    """Logged models by the ids that the user knows, and the queues that name them."""

    def __init__(self, state: State, live: LiveQueues, ids: VisibleIds, asking: Asking[Side]) -> None:
        self._state = state
        self._live = live
        self._ids = ids
        self._asking = asking

    def queues_naming(self, model_id: str) -> list[str]:
        """Return the queues that may hold writes to a logged model: its own, and of runs that name it."""
        others = self._state.model_changes.queues_naming(model_id)
        return list(dict.fromkeys([self.queue_of(model_id), *others]))

    def note_named(self, queue: str, model_id: str) -> None:
        """Remember that a run's writes name a logged model, which may be another run's."""
        live = self._live.begin_queue(queue)
        if model_id not in live.models:
            known = self._state.model(model_id)
            if known is None or known[0] != queue:
                self._state.model_changes.note_named(model_id, queue)
            live.models.add(model_id)

    def queue_of(self, model_id: str) -> str:
        """Return the queue that a logged model's writes travel in: its run's, or its own."""
        known = self._state.model(model_id)
        if known is not None:
            return known[0]
        try:
            role, found = self._asking.answered(
                lambda side: side.destination.get_logged_model(side.ids.known_model(model_id))
            )
            queue = self._ids.run(found.source_run_id) if found.source_run_id else model_id
            self._state.experiments.note_queue(queue, self._ids.experiment(found.experiment_id, role))
        except MlflowException as error:
            queue = model_id
            if is_missing(error):
                return queue
        self._state.remember_model(model_id, queue, {})
        return queue
