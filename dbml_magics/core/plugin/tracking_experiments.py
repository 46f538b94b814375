"""The tracking store's methods for experiments."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from mlflow.entities import Experiment, ExperimentTag, LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.delivery.containers import MOVES_CONTENTS
from dbml_magics.core.delivery.writers.experiments import own_tags
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.naming import check_experiment_name, workspace_path
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.link import Link
from dbml_magics.core.mlflow_private import validate_experiment_name, validate_experiment_tag
from dbml_magics.core.model.ids import provisional
from dbml_magics.core.model.operations import ChangeExperiment, CreateExperiment
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.model.sendable import refuse_bad_text, required
from dbml_magics.core.plugin.asked import ask_primary
from dbml_magics.core.plugin.experiment_reader import ExperimentSearch
from dbml_magics.core.plugin.filters import by_path
from dbml_magics.core.plugin.tracking_family import MethodFamily
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import BadName

_RACE_S = 30.0  # from a caller's question whether an experiment exists to the same caller's creation of it


class ExperimentMethods(MethodFamily):
    """Experiments: the primary names and changes them, the journal carries both to the mirror."""

    def __init__(self, engine: Engine, link: Link) -> None:
        super().__init__(engine, link)
        self._missed: dict[str, float] = {}
        """Names that no experiment had -> when the last caller asked for them."""

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: list[ExperimentTag] | None = None
    ) -> str:
        """Have the primary name an experiment, or name it provisionally; journal it for the mirror."""
        name = self._checked_name(name)
        values = {t.key: t.value for t in tags or []}
        for key, value in values.items():
            validate_experiment_tag(key, value)
        refuse_bad_text("tag", values)
        tried: list[bool] = []

        def ask(primary: Side) -> str:
            own_name, found = primary.experiments.find(name)
            if found is not None and tried:  # the first answer was lost
                return str(found.experiment_id)
            tried.append(True)
            return primary.experiments.create(own_name, name, values, artifact_location)

        missed = self._missed.pop(name, float("-inf"))
        try:
            with deferred():
                return self._begin_experiment(name, values, ask)
        except MlflowException as error:
            taken = not isinstance(error, Unavailable) and error.error_code == "RESOURCE_ALREADY_EXISTS"
            if not taken or time.monotonic() - missed > _RACE_S:
                raise
            # Several workers begin with the same set_experiment, and one of them was first: after this error
            # MLflow would leave the others in the default experiment.
            found = self.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != LifecycleStage.ACTIVE:
                raise
            return str(found.experiment_id)

    def _begin_experiment(self, name: str, tags: dict[str, str], ask: Callable[[Side], str]) -> str:
        engine = self.engine
        try:
            experiment_id = engine.asking.ask_primary(ask)
            engine.state.set_identity(engine.link.primary, "experiment", experiment_id, experiment_id)
        except Unavailable:
            if engine.state.experiments.named(name) is not None:
                raise MlflowException(
                    f"Experiment '{name}' already exists.", error_code=RESOURCE_ALREADY_EXISTS
                ) from None
            experiment_id = provisional()
        engine.state.experiments.remember(experiment_id, name, tags)
        engine.recorder.write_all(LINK_QUEUE, [CreateExperiment(experiment_id, name, tags)], lasting=True)
        return experiment_id

    def _checked_name(self, name: str) -> str:
        validate_experiment_name(name)
        refuse_bad_text("the experiment's name", name)
        try:
            return check_experiment_name(name)
        except BadName as error:
            raise MlflowException(error.message, INVALID_PARAMETER_VALUE) from error

    def get_experiment(self, experiment_id: str) -> Experiment:
        """Return an experiment under the id and name that the user knows."""
        self._experiments.wait_for_writes("get_experiment")
        return self._experiments.get(str(experiment_id))

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        """Return an experiment by the user's name for it, or None."""
        experiment_name = workspace_path(experiment_name)
        self._experiments.wait_for_writes("get_experiment_by_name")
        found = self._experiments.named(experiment_name)
        if found is None:
            self._missed[experiment_name] = time.monotonic()
        return found

    def search_experiments(
        self,
        view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = 1000,
        filter_string: str | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Experiment]:
        """Search experiments at the primary, or at the mirror."""
        self._experiments.wait_for_writes("search_experiments")
        return self._experiments.search(
            ExperimentSearch(view_type, max_results, by_path(filter_string), order_by, page_token)
        )

    # --- changes

    def set_experiment_tag(self, experiment_id: str, tag: ExperimentTag) -> None:
        """Set an experiment's tag."""
        validate_experiment_tag(tag.key, tag.value)
        refuse_bad_text("tag", {tag.key: str(tag.value)})
        self._change_experiment(ChangeExperiment("tag", str(experiment_id), key=tag.key, value=tag.value))

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Delete an experiment's tag."""
        self._change_experiment(ChangeExperiment("untag", str(experiment_id), key=key))

    def rename_experiment(self, experiment_id: str, new_name: str) -> None:
        """Rename an experiment."""
        new_name = self._checked_name(new_name)
        found = self.get_experiment(experiment_id)
        self._change_experiment(ChangeExperiment("rename", str(experiment_id), name=new_name))
        self.engine.state.experiments.retire_name(str(experiment_id), found.name)
        self.engine.state.experiments.remember(str(experiment_id), new_name, own_tags(found))

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment and its runs."""
        self._change_experiment(ChangeExperiment("delete", str(experiment_id)))

    def restore_experiment(self, experiment_id: str) -> None:
        """Restore an experiment and its runs."""
        self._change_experiment(ChangeExperiment("restore", str(experiment_id)))

    def _change_experiment(self, change: ChangeExperiment) -> None:
        """Have the primary change an experiment, behind its contents; journal it for the mirror."""
        required("experiment_id", change.id)
        behind = [
            LINK_QUEUE,
            *(self.engine.experiments.contents_of(change.id) if change.do in MOVES_CONTENTS else ()),
        ]

        def ask(primary: Side, again: bool) -> None:
            primary.experiments.change(change, again)

        asked = ask_primary(self.engine, "change of an experiment", behind, ask)
        if self.engine.link.primary in asked.to:
            with suppress(Unavailable):  # nobody can say whether there is such an experiment
                self.get_experiment(change.id)
        if change.do in ("delete", "restore"):
            self.engine.experiments.note_stage(change.id, deleted=change.do == "delete")
        self.engine.recorder.write(LINK_QUEUE, replace(change, to=asked.to, tried=asked.tried))
        self._after_write(LINK_QUEUE)
