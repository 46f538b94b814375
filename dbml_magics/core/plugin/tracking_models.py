"""The tracking store's methods for logged models."""

from __future__ import annotations

import uuid
from dataclasses import replace

from mlflow.entities import LoggedModel, LoggedModelParameter, LoggedModelStatus, LoggedModelTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.delivery.writers.ids import MODEL_TAG
from dbml_magics.core.delivery.writers.models import MODEL_VERSIONS_TAG
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import MissingEndpoint, Unavailable, is_missing
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.mlflow_private import random_name, validate_logged_model_name
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.model.operations import (
    CreateModel,
    DeleteModel,
    DeleteModelTag,
    FinalizeModel,
    LogModelParams,
    ModelChange,
    SetModelTags,
)
from dbml_magics.core.model.sendable import refuse_bad_text, required
from dbml_magics.core.plugin.asked import Answer, ask_primary, is_run_on_its_way, store_of
from dbml_magics.core.plugin.model_reader import ModelSearch
from dbml_magics.core.plugin.not_numbers import Clause
from dbml_magics.core.plugin.tracking_family import MethodFamily
from dbml_magics.results.text import now


class LoggedModelMethods(MethodFamily):
    """Logged models: the primary names and changes them where it has any, else the link emulates them."""

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: list[LoggedModelTag] | None = None,
        params: list[LoggedModelParameter] | None = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        """Have the primary name a logged model, or name it here where it is away or has none."""
        validate_logged_model_name(name or None)
        required("experiment_id", str(experiment_id))
        facts: ModelFacts = {
            "id": "",
            "experiment": str(experiment_id),
            "name": name or random_name(),
            "run": source_run_id,
            "type": model_type,
            "params": {p.key: str(p.value) for p in params or []},
            "tags": {t.key: str(t.value) for t in tags or []},
            "created": now(),
        }
        texts = {k: v for k, v in facts.items() if k in ("name", "type", "params", "tags")}
        refuse_bad_text("the logged model's", texts)
        with deferred():
            model_id = self._begin_model(facts)
        return self._models.get(model_id)

    def _begin_model(self, facts: ModelFacts) -> str:
        key, source_run_id = "m-" + uuid.uuid4().hex, facts["run"]
        if source_run_id:
            try:  # what fails after the primary has named the model would leave it there alone
                self.engine.live.open_run(source_run_id)
            except MlflowException as error:
                if isinstance(error, Unavailable) or not is_missing(error):
                    raise
                # A server takes any run's id, one of another server's too.
                facts["run"], facts["foreign_run"], source_run_id = None, source_run_id, None
        made = self._made_at_primary(facts, key)
        facts["id"] = model_id = made.model_id if made is not None else key
        if made is not None:
            self.engine.primary.ids.remember_model(model_id, made)
            facts["created"] = made.creation_timestamp
        queue = source_run_id or model_id
        self.engine.state.remember_model(model_id, queue, facts)
        self.engine.live.begin_queue(queue)
        self.engine.recorder.write_all(queue, [CreateModel(facts)], lasting=True)
        return str(model_id)

    def _made_at_primary(self, facts: ModelFacts, key: str) -> LoggedModel | None:
        """Return the logged model that the primary made; None where the link names it."""
        if not self.engine.primary.learned.has_logged_models or is_run_on_its_way(self.engine, facts["run"]):
            return None
        tried: list[bool] = []

        def ask(primary: Side) -> LoggedModel:
            run = facts["run"]
            experiment_id = primary.experiments.at(facts["experiment"])
            if tried:
                for found in primary.models.named(experiment_id, facts["name"]):
                    if found.tags.get(MODEL_TAG) == key:
                        return found
            tried.append(True)
            return store_of(self.engine, primary).create_logged_model(
                experiment_id=experiment_id,
                name=facts["name"],
                source_run_id=primary.ids.known_run(run) if run else facts.get("foreign_run"),
                tags=[LoggedModelTag(k, v) for k, v in {**facts["tags"], MODEL_TAG: key}.items()],
                params=[LoggedModelParameter(k, v) for k, v in facts["params"].items()],
                model_type=facts["type"],
            )

        try:
            return self.engine.asking.ask_primary(ask)
        except MissingEndpoint:
            self.engine.primary.learned.note_no_logged_models()
        except Unavailable:
            self.engine.state.creations.begin(self.engine.link.primary, key)
        return None

    # --- reads

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        """Return a logged model, with what of it is on its way."""
        return self._models.get(str(model_id), allow_deleted)

    def search_logged_models(
        self,
        experiment_ids: list[str],
        filter_string: str | None = None,
        datasets: list[Clause] | None = None,
        max_results: int | None = None,
        order_by: list[Clause] | None = None,
        page_token: str | None = None,
    ) -> PagedList[LoggedModel]:
        """Search logged models at the primary once it has caught up; here, where it has none."""
        self.engine.waiting.wait_for_reads("search_logged_models")
        ids = [str(each) for each in experiment_ids]
        return self._models.search(
            ModelSearch(ids, filter_string, datasets, max_results, order_by, page_token)
        )

    # --- changes

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        """Journal a logged model's final status, behind its files. Raises MLflow's "not found"."""
        queue = self.engine.models.queue_of(model_id)
        if self._models.from_journal(model_id, queue, allow_deleted=True) is None:
            self._models.get(model_id, allow_deleted=True)
        self.engine.live.begin_queue(queue)
        self.engine.recorder.write(queue, FinalizeModel(model_id, str(LoggedModelStatus(status))))
        self._after_write(queue)
        return self._models.get(model_id, allow_deleted=True)

    def set_logged_model_tags(self, model_id: str, tags: list[LoggedModelTag]) -> None:
        """Set a logged model's tags."""
        self._change_model(SetModelTags(model_id, {t.key: str(t.value) for t in tags}))

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        """Delete a logged model's tag."""
        self._change_model(DeleteModelTag(model_id, key))

    def log_logged_model_params(self, model_id: str, params: list[LoggedModelParameter]) -> None:
        """Log a logged model's params."""
        self._change_model(LogModelParams(model_id, {p.key: str(p.value) for p in params}))

    def delete_logged_model(self, model_id: str) -> None:
        """Delete a logged model, behind what is on its way to it."""
        self._change_model(DeleteModel(model_id))

    def _change_model(self, change: ModelChange) -> None:
        """Have the primary change a logged model; journal it for the mirror. Raises MLflow's refusal."""
        engine, model_id = self.engine, change.model
        primary, queue = engine.primary, engine.models.queue_of(model_id)
        _, *fields = change.fields()
        refuse_bad_text("the logged model's", fields)
        # A tag that names versions goes behind their registration, of which it needs the numbers.
        after = isinstance(change, SetModelTags) and MODEL_VERSIONS_TAG in change.tags
        changes = engine.state.model_changes
        behind = [queue] if after or changes.is_unanswered(model_id) else []
        if isinstance(change, DeleteModel):
            behind = engine.models.queues_naming(model_id)

        def ask(side: Side, again: bool) -> None:
            if side.emulated.keeps(model_id):
                raise Unavailable("the model is kept by the link there", sent=False)
            own: ModelChange = change
            if isinstance(change, SetModelTags):
                own = replace(change, tags=side.models.own_tags(change.tags))
            side.models.change_native(side.ids.known_model(model_id), own, again)

        if primary.emulated.keeps(model_id) or self._is_model_on_its_way(model_id, queue):
            self._models.get(model_id)
            asked = Answer[None](None, list(engine.link.tracked), False)
        else:
            asked = ask_primary(engine, "change of a logged model", behind, ask)
        if primary.role not in asked.to:
            changes.settle(model_id)
        else:
            changes.note_unanswered(model_id)
        engine.live.begin_queue(queue)
        engine.recorder.write(queue, replace(change, to=asked.to))
        self._after_write(queue)

    def _is_model_on_its_way(self, model_id: str, queue: str) -> bool:
        """Tell whether a logged model that was named here has yet to be made at the primary."""
        engine = self.engine
        if engine.state.identity(engine.link.primary, "model", model_id) is not None:
            return False
        return engine.state.model_facts(model_id) is not None and engine.backlog.is_waiting(
            engine.link.primary, queue
        )
