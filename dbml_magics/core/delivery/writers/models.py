"""Logged models at one workspace: the service's own, or those that the link keeps in their place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.experiments import Experiments
from dbml_magics.core.delivery.writers.ids import MODEL_TAG
from dbml_magics.core.delivery.writers.model_emulation import ModelEmulation
from dbml_magics.core.delivery.writers.once import remove_once, was_tried
from dbml_magics.core.delivery.writers.ports import Peers, Turns
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.versions import Versions
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import MissingEndpoint, is_missing
from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.model.operations import (
    DeleteModel,
    DeleteModelTag,
    LogModelParams,
    ModelChange,
    SetModelTags,
)
from dbml_magics.core.outbox.state import Identity
from dbml_magics.core.paging import entries

MODEL_VERSIONS_TAG = "mlflow.modelVersions"


@dataclass(eq=False)
class Models(Writer):
    """Makes and changes logged models at one workspace."""

    experiments: Experiments
    emulation: ModelEmulation
    versions: Versions
    turns: Turns
    peers: Peers[Reader]

    def bring(self, model: str) -> Identity:
        """Make a logged model that has no known id here, or find it, and return its id and files' place."""
        with self.alone.doing("model", model):
            return self.state.identity(self.role, "model", model) or self._bring(model)

    def _bring(self, model: str) -> Identity:
        facts = self.state.model_facts(model)
        if facts is None:
            if self.ids.is_primary:
                return self.ids.find_model(model)
            try:
                with self.peers.asking(self.ids.topology.primary) as primary:
                    facts = primary.model_facts(model)
            except MlflowException as error:  # it is deleted there; here it may wait for that
                lost = self.ids.lost_model(model) if is_missing(error) else None
                if lost is None:
                    raise
                return self.ids.remember_model(model, lost)
        self.create(facts, True)
        made = self.state.identity(self.role, "model", model)
        assert made is not None
        return made

    def create(self, facts: ModelFacts, in_doubt: bool) -> None:
        """Create a logged model, at the service or among those that the link keeps there."""
        with self.alone.doing("model", facts["id"]):
            if not self.ids.has_model(facts["id"]):
                self._create(facts, in_doubt)

    def _create(self, facts: ModelFacts, in_doubt: bool) -> None:
        if self.learned.has_logged_models:
            try:
                self._create_native(facts, in_doubt)
                return
            except MissingEndpoint:
                self.learned.note_no_logged_models()
        self.emulation.create(facts)

    def _create_native(self, facts: ModelFacts, in_doubt: bool) -> None:
        model = facts["id"]
        experiment_id = self.experiments.at(facts["experiment"])
        run_id = self.ids.run_at(run) if (run := facts.get("run")) else facts.get("foreign_run")
        if was_tried(self.state.creations, self.role, model, self.turns) or in_doubt:
            for found in self.named(experiment_id, facts["name"]):
                if model in (found.tags.get(MODEL_TAG), found.model_id):
                    self.ids.remember_model(model, found)
                    self.state.creations.settle(self.role, model)
                    return
        self.state.creations.begin(self.role, model)
        tags = {**(facts.get("tags") or {}), MODEL_TAG: model}
        made = self.experiments.in_living(
            experiment_id,
            lambda: self.destination.create_logged_model(
                experiment_id, facts["name"], run_id, tags, facts.get("params") or {}, facts.get("type")
            ),
        )
        self.ids.remember_model(model, made)
        self.state.creations.settle(self.role, model)

    def named(self, experiment_id: str, name: str) -> Iterable[LoggedModel]:
        """Yield the service's logged models of a name in an experiment (its own id)."""
        return entries(
            lambda token: self.destination.search_logged_models(
                [experiment_id], f"name = '{name}'", page_token=token
            )
        )

    def finalize(self, model: str, status: str) -> None:
        """Set a logged model's final status, at the service or where the link keeps the model."""
        identity = self.ids.model_at(model)
        if self.ids.emulated.keeps(model):
            self.emulation.change(model, status=status)
        else:
            self.destination.finalize_logged_model(identity.actual, LoggedModelStatus(status))

    def change(self, change: ModelChange, in_doubt: bool) -> None:
        """Change a logged model by the user's id, at the service or where the link keeps the model."""
        identity = self.ids.model_at(change.model)
        if isinstance(change, SetModelTags):
            change = replace(change, tags=self.own_tags(change.tags))
        if self.ids.emulated.keeps(change.model):
            self.emulation.apply_change(change)
        else:
            self.change_native(identity.actual, change, in_doubt or not isinstance(change, LogModelParams))

    def own_tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return a logged model's tags with its versions under this workspace's own numbers."""
        own = dict(tags)
        versions = own.pop(MODEL_VERSIONS_TAG, None)
        if versions and (numbers := self.versions.numbers(_versions_in(versions))):
            own[MODEL_VERSIONS_TAG] = json.dumps(numbers)
        return own

    def change_native(self, actual: str, change: ModelChange, again: bool) -> None:
        """Change a logged model of the service's; ``again`` where it may have been done before.

        Raises Unavailable, or the workspace's refusal.
        """
        match change:
            case SetModelTags():
                if change.tags:
                    self.destination.set_logged_model_tags(actual, change.tags)
            case LogModelParams():
                params = change.params
                if again:
                    there = self.destination.get_logged_model(actual).params
                    params = {key: value for key, value in params.items() if there.get(key) != value}
                if params:
                    self.destination.log_logged_model_params(actual, params)
            case DeleteModelTag():
                remove_once(partial(self.destination.delete_logged_model_tag, actual, change.key), again)
            case DeleteModel():
                remove_once(partial(self.destination.delete_logged_model, actual), again)


def _versions_in(tag: str) -> list[tuple[str, str]]:
    """Return (name, number) of the versions that a logged model's tag names."""
    try:
        named = [v for v in json.loads(tag) if isinstance(v, dict) and "name" in v and "version" in v]
        return [(str(v["name"]), str(v["version"])) for v in named]
    except (TypeError, ValueError):
        return []
