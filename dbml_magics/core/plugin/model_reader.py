"""Logged models as the user sees them: what a workspace or the journal holds, with what is on its way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.delivery.writers import emulated_models
from dbml_magics.core.delivery.writers.ids import MODEL_TAG, no_such_model
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, is_missing
from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.paging import entries
from dbml_magics.core.plugin.asked import store_of
from dbml_magics.core.plugin.experiment_reader import ExperimentReader
from dbml_magics.core.plugin.filters import own_filter
from dbml_magics.core.plugin.model_points import as_a_server_keeps, each_once
from dbml_magics.core.plugin.not_numbers import Clause, search_models
from dbml_magics.core.run_view import QueueView, latest_of_each
from dbml_magics.core.runtime.engine import Engine


@dataclass(frozen=True)
class ModelSearch:
    """What a search of logged models asks for, by the user's ids."""

    experiment_ids: list[str]
    filter_string: str | None
    datasets: list[Clause] | None
    max_results: int | None
    order_by: list[Clause] | None
    page_token: str | None


class ModelReader:
    """Reads logged models at the primary, at the mirror or from the journal."""

    def __init__(self, engine: Engine, experiments: ExperimentReader) -> None:
        self._engine = engine
        self._experiments = experiments

    # --- one model

    def get(self, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        """Return a logged model, with what of it is on its way. Raises MLflow's "not found"."""
        return self._with_other_runs_metrics(self._without_other_runs_metrics(str(model_id), allow_deleted))

    def from_journal(
        self, model_id: str, queue: str, allow_deleted: bool = False, *, as_kept: bool = True
    ) -> LoggedModel | None:
        """Return a model from the journal; None if it has none. Raises MLflow's "not found" of a deleted one.

        Its points are as the primary will return them, or (not ``as_kept``) as they were logged.
        """
        view = self._engine.live.queue_view(queue)
        model = view.models.get(model_id) if view else None
        if view is None or model is None:
            return None
        if model.deleted and not allow_deleted:
            raise no_such_model(model_id)
        metrics = self._points_of(model_id, view) if as_kept else view.model_metrics(model_id)
        found = model.entity(self._engine.ids.artifact_uri("model", model_id), metrics)
        if self._engine.primary.destination.capabilities.answers_by_rest:  # with "" for what is not set
            with_fields(found, model_type=found.model_type or "", source_run_id=found.source_run_id or "")
            with_fields(found, status_message=found.status_message or "")
        return found

    def _without_other_runs_metrics(self, model_id: str, allow_deleted: bool) -> LoggedModel:
        queue = self._engine.models.queue_of(model_id)
        on_its_way = [
            role for role in self._engine.link.tracked if self._engine.backlog.is_waiting(role, queue)
        ]
        status = None
        if self._engine.link.primary in on_its_way:
            journaled = self.from_journal(model_id, queue, allow_deleted)
            if journaled is not None:
                return journaled
            view = self._engine.live.queue_view(queue)
            status = view.statuses.get(model_id) if view is not None else None
        try:
            found = self._engine.asking.read(lambda a: self._at(a, model_id, allow_deleted))
            if status is not None:
                with_fields(found, status=LoggedModelStatus(status))
            return found
        except MlflowException as error:
            # The mirror may have answered for a primary that is away, and lack what waits for it.
            if not on_its_way or not (isinstance(error, Unavailable) or is_missing(error)):
                raise
            journaled = self.from_journal(model_id, queue, allow_deleted)
            if journaled is None:
                raise
            return journaled

    def _with_other_runs_metrics(self, model: LoggedModel) -> LoggedModel:
        """Return a model with what other runs logged for it and is on its way."""
        engine, own = self._engine, self._engine.models.queue_of(model.model_id)
        for queue in engine.models.queues_naming(model.model_id):
            if queue == own or not engine.backlog.is_waiting(engine.link.primary, queue):
                continue
            view = engine.live.queue_view(queue)
            if view is not None:
                with_fields(model, metrics=self._points_of(model.model_id, view, model.metrics or []))
        return model

    def _points_of(self, model_id: str, view: QueueView, delivered: Iterable[Metric] = ()) -> list[Metric]:
        """Return a model's points, with those on their way, as after their delivery."""
        own = view.model_metrics(model_id)
        if self._engine.primary.emulated.keeps(model_id):
            return latest_of_each([*delivered, *own])
        return each_once([*delivered, *self._as_kept(model_id, own)])

    def _as_kept(self, model_id: str, points: list[Metric]) -> list[Metric]:
        """Return a model's points as the primary will return them."""
        primary = self._engine.primary
        plain = primary.destination.kind != "mlflow" or primary.emulated.keeps(model_id)
        return points if plain else as_a_server_keeps(points)

    def _at(self, side: Side, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        """Return a model as one workspace holds it, natively or emulated."""
        if not side.emulated.keeps(model_id):
            try:
                actual = side.ids.known_model(model_id)
                if allow_deleted:
                    found = store_of(self._engine, side).get_logged_model(actual, allow_deleted=True)
                    return self._visible(side, found)
                return self._visible(side, store_of(self._engine, side).get_logged_model(actual), model_id)
            except MissingEndpoint as error:
                if side.learned.look_for_logged_models():
                    raise no_such_model(model_id) from error
            except MlflowException as error:
                unavailable = isinstance(error, Unavailable)
                if unavailable or not is_missing(error) or not side.emulated.may_keep():
                    raise
        facts = side.emulated.facts(model_id)
        if facts.get("deleted") and not allow_deleted:
            raise no_such_model(model_id)
        return emulated_models.entity(
            facts,
            self._engine.ids.artifact_uri("model", model_id),
            facts["experiment"],
            side.ids.shown("run", facts["run_at"]) if facts.get("run") else None,
        )

    def _visible(self, side: Side, found: LoggedModel, model_id: str | None = None) -> LoggedModel:
        """Return a workspace's model under the ids that the user knows."""
        engine = self._engine
        found.model_id = model_id or side.ids.shown("model", found.model_id)
        with_fields(found, model_uri=f"models:/{found.model_id}")
        found.experiment_id = side.experiments.visible(str(found.experiment_id))
        found.artifact_location = engine.ids.artifact_uri("model", found.model_id)
        if found.source_run_id:
            with_fields(found, source_run_id=side.ids.shown("run", found.source_run_id))
        for metric in found.metrics or []:
            with_fields(metric, model_id=found.model_id)
            with_fields(metric, run_id=metric.run_id and side.ids.shown("run", metric.run_id))
        found.tags.pop(MODEL_TAG, None)  # by which the link finds it again; nothing to a reader
        return found

    # --- searches

    def search(self, asked: ModelSearch) -> PagedList[LoggedModel]:
        """Return a page of the models at the primary or the mirror, with those on their way there."""
        # Whose writes wait is read before the question: what arrives in between is in the answer.
        on_their_way = {} if asked.page_token else self._on_their_way(set(asked.experiment_ids))
        try:
            role, found = self._engine.asking.answered(lambda a: self._search_at(a, asked))
            waiting = self._models_of(on_their_way.get(role, []))
        except Unavailable:
            waiting = self._models_of(on_their_way.get(self._engine.link.primary, []))
            if not waiting:
                raise
            found = PagedList([], None)
        there = {model.model_id for model in found}
        waiting = [model for model in waiting if model.model_id not in there]
        if not waiting:
            return found
        most = max(len(found) + len(waiting), 1)
        merged = [*found, *search_models(waiting, asked.filter_string, asked.datasets, most, None, None)]
        answer = search_models(merged, None, None, most, asked.order_by, None)
        own = {model.model_id for model in waiting}
        for model in answer:
            if model.model_id in own:  # compared and sorted as it was logged, returned as a server returns it
                with_fields(model, metrics=self._as_kept(model.model_id, model.metrics))
        return PagedList(answer, found.token)

    def _search_at(self, side: Side, asked: ModelSearch) -> PagedList[LoggedModel]:
        """Return a page of the models that one workspace holds, natively and emulated."""
        ids = self._experiments.searched_at(side, asked.experiment_ids)
        if ids is None:
            return PagedList([], None)
        where = own_filter(side, asked.filter_string)
        emulated = side.emulated.of_runs(ids) if side.emulated.may_keep() else []
        native: list[LoggedModel] = []

        def page_of(token: str | None) -> PagedList[LoggedModel]:
            return store_of(self._engine, side).search_logged_models(
                ids, where, asked.datasets, asked.max_results, asked.order_by, token
            )

        if side.learned.has_logged_models:
            try:
                page = page_of(asked.page_token if not emulated else None)
                if not emulated:
                    return PagedList([self._visible(side, each) for each in page], page.token)
                native = [*page]
                if page.token:  # a page of both is one that is sorted here
                    native += entries(lambda token: page_of(token or page.token))
            except MissingEndpoint:
                side.learned.note_no_logged_models()
                emulated = side.emulated.of_runs(ids)
        models = [self._at(side, facts["id"]) for facts in emulated]
        models = [
            *search_models(models, asked.filter_string, asked.datasets, len(models) or 1, None, None),
            *(self._visible(side, model) for model in native),
        ]
        return search_models(models, None, None, asked.max_results, asked.order_by, asked.page_token)

    def _on_their_way(self, experiment_ids: set[str]) -> dict[str, list[tuple[str, str]]]:
        """Return {role: (id, queue) of the models logged here of which something is on its way there}."""
        known = [
            (model_id, queue)
            for model_id, queue, facts in self._engine.state.models()
            if facts.get("experiment") in experiment_ids
        ]
        return {
            role: [
                (model_id, queue) for model_id, queue in known if self._engine.backlog.is_waiting(role, queue)
            ]
            for role in self._engine.link.tracked
        }

    def _models_of(self, on_their_way: list[tuple[str, str]]) -> list[LoggedModel]:
        found = []
        for model_id, queue in on_their_way:
            try:
                journaled = self.from_journal(model_id, queue, as_kept=False)
                found.append(journaled or self.get(model_id))
            except MlflowException:  # deleted
                continue
        return found
