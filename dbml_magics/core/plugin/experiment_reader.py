"""Experiments as a workspace holds them, shown under the ids and names that the user knows."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities import Experiment, ExperimentTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.search_utils import SearchExperimentsUtils

from dbml_magics.core.delivery.writers.experiments import name_of, own_tags
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.destinations.naming import EXPERIMENT_TAG
from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.model.ids import names_nothing_yet, provisional
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.paging import entries
from dbml_magics.core.plugin.asked import store_of
from dbml_magics.core.runtime.engine import Engine


@dataclass(frozen=True)
class ExperimentSearch:
    """What a search of experiments asks for."""

    view_type: int
    max_results: int
    filter_string: str | None
    order_by: list[str] | None
    page_token: str | None


class ExperimentReader:
    """Reads experiments at the primary, at the mirror or from the notes of this machine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def known_at(self, side: Side, experiment_id: str) -> str | None:
        """Return a workspace's own id of an experiment; None where it has none, or none is known."""
        known = self._engine.state.identity(side.role, "experiment", experiment_id)
        if known is not None:
            return known.actual or None
        if side.role == self._engine.link.primary:
            return None if names_nothing_yet(experiment_id) else experiment_id
        return None

    def searched_at(self, side: Side, experiment_ids: list[str]) -> list[str] | None:
        """Return a workspace's own ids of those experiments that it has; None where it has none of them.

        A search of no experiments is another question: servers refuse it, or search all of them.
        """
        known = [own for own in (self.known_at(side, each) for each in experiment_ids) if own]
        return known if known or not experiment_ids else None

    def wait_for_writes(self, what: str) -> None:
        """Before a read, wait for changes of experiments that are on their way to the primary."""
        if self._engine.backlog.is_waiting(self._engine.link.primary, LINK_QUEUE):
            self._engine.waiting.wait_for_reads(what)

    # --- one experiment

    def get(self, experiment_id: str) -> Experiment:
        """Return an experiment by the id that the user knows. Raises MLflow's "not found"."""
        try:
            return self._engine.asking.read(lambda a: self._at(a, experiment_id))
        except (Unavailable, MlflowException) as error:
            noted = self._engine.state.experiments.facts(experiment_id)
            if noted is None or not (isinstance(error, Unavailable) or is_missing(error)):
                raise
            return self._noted(experiment_id, noted.name, noted.tags)

    def named(self, name: str) -> Experiment | None:
        """Return an experiment by the user's name for it, or None; a noted one while nobody can tell."""
        found, certain = None, False
        try:
            role, found = self._engine.asking.answered(lambda a: self._named_at(a, name))
            # A mirror that has no such experiment may just not have it yet.
            certain = found is not None or role == self._engine.link.primary
        except Unavailable:
            pass
        if not certain:
            known = self._engine.state.experiments.named(name)
            if known is not None:
                facts = self._engine.state.experiments.facts(known)
                return self._noted(known, name, facts.tags if facts is not None else {})
        if found is not None:
            self._engine.state.experiments.remember(found.experiment_id, name, own_tags(found))
        return found

    def _at(self, side: Side, experiment_id: str) -> Experiment:
        known = self.known_at(side, experiment_id)
        found = store_of(self._engine, side).get_experiment(known) if known is not None else None
        seen = side.experiments.seen(found) if found is not None else None
        # (When it is seen, its number may turn out to be another one's by now.)
        if found is None or seen is None or self.known_at(side, experiment_id) != known:
            raise MlflowException(f"No Experiment with id={experiment_id} exists", RESOURCE_DOES_NOT_EXIST)
        return self._visible(side, found, experiment_id)

    def _named_at(self, side: Side, name: str) -> Experiment | None:
        _, found = side.experiments.find(name)
        if found is None:
            return None
        side.experiments.accept(found, name)
        shown = self._visible(side, found)
        with_fields(shown, name=name)  # an experiment that was made without us carries no name of the user's
        return shown

    def _noted(self, experiment_id: str, name: str, tags: dict[str, str]) -> Experiment:
        """Return an experiment from this machine's notes."""
        files = f"dbml://{self._engine.link.key}/experiments/{experiment_id}"
        entities = [ExperimentTag(key, value) for key, value in tags.items()]
        return Experiment(experiment_id, name, files, "active", entities)

    # --- searches

    def search(self, asked: ExperimentSearch) -> PagedList[Experiment]:
        """Return a page of the experiments at the primary, or at the mirror."""

        def ask(side: Side) -> PagedList[Experiment]:
            named_otherwise = side.destination.capabilities.names_experiments_itself
            if named_otherwise and (asked.filter_string or asked.order_by):
                return self._search_by_own_names(side, asked)
            page = store_of(self._engine, side).search_experiments(
                asked.view_type, asked.max_results, asked.filter_string, asked.order_by, asked.page_token
            )
            return PagedList([self._visible(side, each) for each in page], page.token)

        return self._engine.asking.read(ask)

    def _search_by_own_names(self, side: Side, asked: ExperimentSearch) -> PagedList[Experiment]:
        """Filter and sort here: the workspace's names of experiments differ from the user's."""
        store = store_of(self._engine, side)
        found = [
            self._visible(side, each)
            for each in entries(
                lambda token: store.search_experiments(asked.view_type, 1000, page_token=token)
            )
        ]
        order = asked.order_by or ["creation_time DESC", "experiment_id ASC"]
        ordered = SearchExperimentsUtils.sort(
            SearchExperimentsUtils.filter(found, asked.filter_string), order
        )
        return PagedList(*SearchExperimentsUtils.paginate(ordered, asked.page_token, asked.max_results))

    # --- the user's ids and names

    def _visible(self, side: Side, found: Experiment, visible: str | None = None) -> Experiment:
        """Return a workspace's experiment under the id and name that the user knows."""
        with_fields(found, name=name_of(found))
        if visible is None:
            visible = side.experiments.seen(found) or self._visible_from_mirror(side, found)
        with_fields(found, experiment_id=visible)
        if side.destination.capabilities.names_experiments_itself and EXPERIMENT_TAG not in found.tags:
            with_fields(found, name=self._engine.state.experiments.name(visible) or found.name)
        return found

    def _visible_from_mirror(self, side: Side, found: Experiment) -> str:
        """Return the user's id of a mirror's experiment; a provisional one where the primary's is not known.

        The mirror's own number would mean another experiment at the primary.
        """
        state, actual = self._engine.state, str(found.experiment_id)
        known = state.visible(side.role, "experiment", actual) or state.experiments.named(found.name)
        visible = known or provisional()
        identity = state.identity(side.role, "experiment", visible)
        if identity is None or not identity.actual:
            state.set_identity(side.role, "experiment", visible, actual)
            self._engine.state.experiments.remember(visible, found.name, own_tags(found))
        return visible
