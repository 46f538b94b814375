"""The ids of one workspace's runs and logged models, and those that the user knows them by.

A run or model that has an id at the workspace is translated by what the state remembers, or by the tag that
it carries there. One that has none yet is made or adopted by the writers that :class:`Makers` names.
:mod:`~.experiments` translates experiments, :mod:`~.versions` model versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.utils.uri import append_to_uri_path

from dbml_magics.common.log_records import logger
from dbml_magics.core.delivery.writers.emulated_models import EmulatedModels
from dbml_magics.core.delivery.writers.ports import Topology
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, classify_error, is_missing
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.model.sendable import is_text
from dbml_magics.core.outbox.state import Identity, State

_log = logger(__name__)

RUN_TAG = "dbml_run_id"
MODEL_TAG = "dbml_model_id"
RUN_ID_TAGS = ("mlflow.parentRunId", "mlflow.rootRunId")
_MODEL_ID = re.compile(r"(?!\.{1,2}$)[\w.~-]+")


def is_model_id(text: str) -> bool:
    """Tell whether a text can be a logged model's id: a part of a request's path that stays as it is."""
    return _MODEL_ID.fullmatch(text) is not None


def no_such_run(run: str) -> MlflowException:
    """Return MLflow's error for a run that is not there."""
    return MlflowException(f"Run '{run}' not found", RESOURCE_DOES_NOT_EXIST)


def no_such_model(model: str) -> MlflowException:
    """Return MLflow's error for a logged model that is not there."""
    return MlflowException(f"Logged model with ID '{model}' not found.", RESOURCE_DOES_NOT_EXIST)


def _make_no_run(run: str) -> Identity:
    raise no_such_run(run)


def _make_no_model(model: str) -> Identity:
    raise no_such_model(model)


@dataclass(frozen=True)
class Makers:
    """What gives the workspace a run or a logged model that it lacks, and returns its id there."""

    run: Callable[[str], Identity] = _make_no_run
    model: Callable[[str], Identity] = _make_no_model


@dataclass
class Ids:
    """Translates the ids of runs and logged models between the user and one workspace."""

    role: str
    topology: Topology
    destination: Destination
    state: State
    emulated: EmulatedModels
    makers: Makers = field(default_factory=Makers)

    @property
    def is_primary(self) -> bool:
        """Tell whether it is this workspace that names runs."""
        return self.role == self.topology.primary

    @property
    def is_tracked(self) -> bool:
        """Tell whether runs go to this workspace at all."""
        return self.role in self.topology.tracked

    def shown(self, kind: str, own: str) -> str:
        """Return the id that the user knows of a ``run`` or ``model``, as far as the state remembers it."""
        return self.state.visible(self.role, kind, own) or own

    # --- runs

    def run_at(self, run: str) -> str:
        """Return this workspace's id of a run, making or adopting the run if it is not there yet."""
        return self.run_identity(run).actual

    def run_identity(self, run: str) -> Identity:
        """Return this workspace's id and artifact URI of a run, as :meth:`run_at`."""
        known = self.state.identity(self.role, "run", run)
        if known is None:
            return self.makers.run(run)
        return known if "artifacts" in known.extra else self._placed("run", run, known)

    def has_run(self, run: str) -> bool:
        """Tell whether the workspace is known to have a run."""
        return self.state.identity(self.role, "run", run) is not None

    def known_run(self, run: str) -> str:
        """Return this workspace's id of a run without making one there. Raises MLflow's "not found"."""
        known = self.state.identity(self.role, "run", run)
        if known is not None:
            return known.actual
        if self.is_primary:
            return run
        raise no_such_run(run)

    def began_at(self, run: str) -> str:
        """Return the role of the workspace that has a run which began without the link."""
        return self.state.creations.began_at(run) or self.topology.primary

    def own_run(self, run: str) -> Run:
        """Return a run that began here: under the user's id, or one that carries it in its tag."""
        try:
            return self.destination.get_run(run)
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                raise
            if (found := self.run_by_tag(run)) is None:
                raise
            return found

    def run_by_tag(self, run: str) -> Run | None:
        """Return the run of a provisional id that the link's state, which was lost, would translate."""
        if not is_text(run) or "'" in run:
            return None
        experiments = [each.experiment_id for each in self.destination.search_experiments(ViewType.ALL)]
        return self.find_run(experiments, run)

    def find_run(self, experiment_ids: list[str], run: str) -> Run | None:
        """Return the run that carries the user's id in its tag, whatever its life-cycle stage."""
        found = self.destination.search_runs(experiment_ids, f"tags.`{RUN_TAG}` = '{run}'", ViewType.ALL, 2)
        return found[0] if found else None

    def remember_run(self, run: str, found: Run) -> Identity:
        """Remember what this workspace calls a run."""
        info = found.info
        return self.state.set_identity(
            self.role, "run", run, info.run_id, artifacts=info.artifact_uri, start=info.start_time
        )

    def visible_run(self, own: str) -> str | None:
        """Return the id that the user knows of a run by this workspace's own; None where it is gone."""
        known = self.state.visible(self.role, "run", own)
        if known is not None:
            return known
        try:
            found = self.destination.get_run(own)
        except MlflowException as error:
            if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                raise
            return None
        if RUN_TAG not in found.data.tags:
            self.state.creations.note_began_at(own, self.role)
            self.remember_run(own, found)
        return str(found.data.tags.get(RUN_TAG, own))

    def own_tags(self, tags: dict[str, str]) -> dict[str, str]:
        """Return run tags with the ids in them as this workspace knows them."""
        found = dict(tags)
        for key in RUN_ID_TAGS:
            if found.get(key):
                try:
                    found[key] = self.run_at(found[key])
                except MlflowException as error:
                    if isinstance(error, Unavailable):
                        raise
                    _log.debug("no run %s at %s for tag %s", found[key], self.role, key)
        return found

    # --- logged models

    def model_at(self, model: str) -> Identity:
        """Return this workspace's id and files' place of a logged model, making it if it is not there yet."""
        known = self.state.identity(self.role, "model", model)
        if known is None:
            return self.makers.model(model)
        return known if "artifacts" in known.extra else self._placed("model", model, known)

    def has_model(self, model: str) -> bool:
        """Tell whether the workspace is known to have a logged model."""
        return self.state.identity(self.role, "model", model) is not None

    def known_model(self, model: str) -> str:
        """Return this workspace's id of a logged model without making one. Raises MLflow's "not found"."""
        known = self.state.identity(self.role, "model", model)
        if known is not None:
            return known.actual
        if self.is_primary and is_model_id(str(model)):
            return model
        raise no_such_model(model)

    def find_model(self, model: str) -> Identity:
        """Return the id and place of a logged model that somebody made here, at the service or kept by us."""
        emulated = self.emulated
        if not emulated.keeps(model):
            try:
                return self.remember_model(model, self._known_or_lost(model))
            except MissingEndpoint as error:
                if emulated.learned.look_for_logged_models():
                    raise no_such_model(model) from error
            except MlflowException as error:
                if isinstance(error, Unavailable) or not is_missing(error) or not emulated.may_keep():
                    raise
        emulated.facts(model)
        return self.model_at(model)

    def _known_or_lost(self, model: str) -> LoggedModel:
        """Return a logged model that the state names, or would name if it were not lost.

        Raises MLflow's "not found".
        """
        own = self.known_model(model)
        try:
            return self.logged_model(own)
        except MissingEndpoint:
            raise
        except MlflowException as error:
            if own != model or not is_missing(error) or (lost := self.lost_model(model)) is None:
                raise
            return lost

    def lost_model(self, model: str) -> LoggedModel | None:
        """Return the logged model that carries the user's id in its tag."""
        if not is_model_id(model):
            return None
        experiments = [each.experiment_id for each in self.destination.search_experiments()]
        found = self.destination.search_logged_models(experiments, f"tags.`{MODEL_TAG}` = '{model}'", 1)
        return found[0] if found else None

    def logged_model(self, own: str) -> LoggedModel:
        """Return a logged model by the service's own id. Raises MLflow's "not found" for what is no id, too.

        A run may name any text as a model; in a request's path it would ask for something else.
        """
        if not is_model_id(own):
            raise no_such_model(own)
        return self.destination.get_logged_model(own)

    def visible_model(self, own: str) -> str:
        """Return the id that the user knows of a logged model by this workspace's own."""
        known = self.state.visible(self.role, "model", own)
        if known is None and not self.is_primary:
            try:
                known = self.logged_model(own).tags.get(MODEL_TAG)
            except MlflowException as error:
                if isinstance(classify_error(error), Unavailable) or not is_missing(error):
                    raise
        return known or own

    def remember_model(self, model: str, found: LoggedModel) -> Identity:
        """Remember what this workspace calls a logged model."""
        return self.state.set_identity(
            self.role,
            "model",
            model,
            found.model_id,
            artifacts=found.artifact_location,
            run=found.source_run_id,
        )

    def native_models(self, models: Iterable[str]) -> dict[str, str]:
        """Return the service's own ids of those logged models that it has itself -> the user's."""
        if not self.emulated.learned.has_logged_models:
            return {}
        found: dict[str, str] = {}
        for model in models:
            try:
                found[self.model_at(model).actual] = model
            except MlflowException as error:
                if isinstance(error, Unavailable) or not is_missing(error):
                    raise
                found[model] = model  # a server takes the id of a model that it does not have
        return {own: model for own, model in found.items() if not self.emulated.keeps(model)}

    def _placed(self, kind: str, visible: str, known: Identity) -> Identity:
        """Ask where the files of a run or model are: another machine's word for that is not taken."""
        if kind == "run":
            return self.remember_run(visible, self.destination.get_run(known.actual))
        if not known.extra.get("path"):
            return self.remember_model(visible, self.destination.get_logged_model(known.actual))
        run = self.destination.get_run(known.extra["run"])
        place = append_to_uri_path(run.info.artifact_uri, known.extra["path"])
        extra = {**known.extra, "artifacts": place}
        return self.state.set_identity(self.role, kind, visible, known.actual, **extra)
