"""The registry store behind ``dbml:`` URIs: registers in one registry or both, reads the link's first one.

A registration travels in its run's queue, after that run's files. Other writes are made at the first registry
at once, so that it can refuse them, and journaled for the other; while the first is away, or lacks what was
written before, they are journaled for both.
"""

from __future__ import annotations

import functools
import time
import uuid
from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry.abstract_store import AbstractStore

from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.mlflow_private import (
    validate_model_alias_name,
    validate_model_name,
    validate_model_version_tag,
    validate_registered_model_tag,
)
from dbml_magics.core.model.facts import VersionFacts
from dbml_magics.core.model.sendable import required
from dbml_magics.core.plugin.filters import own_filter
from dbml_magics.core.plugin.first_registry import FirstRegistry
from dbml_magics.core.plugin.forwarding import forward_the_rest
from dbml_magics.core.plugin.registry_away import AwayReads
from dbml_magics.core.plugin.registry_changes import RegistryChanges
from dbml_magics.core.plugin.registry_shown import Shown
from dbml_magics.core.plugin.registry_view import WAITING, model_of
from dbml_magics.core.plugin.version_registration import VersionRegistration
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.engines import engine_for


def build(store_uri: str | None) -> DbmlRegistryStore:
    """Build the registry store of a ``dbml:`` URI."""
    if store_uri is None:
        raise MlflowException("a dbml: registry needs its URI", INVALID_PARAMETER_VALUE)
    return DbmlRegistryStore(engine_for(store_uri))


class DbmlRegistryStore(AbstractStore):  # type: ignore[misc]
    """One registry or two as one MLflow model registry."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.link.uri, engine.link.uri)
        self.engine = engine
        self._first = FirstRegistry(engine)
        self._shown = Shown(engine)
        self._changes = RegistryChanges(engine, self._first, self._shown)
        self._registration = VersionRegistration(engine, self._first, self._shown)
        self._away = AwayReads(engine, self._shown)

    # --- registered models

    def create_registered_model(
        self,
        name: str,
        tags: list[RegisteredModelTag] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> RegisteredModel:
        """Make a registered model. Raises MLflow's "already exists"."""
        validate_model_name(name)
        for tag in tags or []:
            validate_registered_model_tag(tag.key, tag.value)
        self._check_tags(name, *(tags or []))
        values = {t.key: t.value for t in tags or []}
        del deployment_job_id
        made = self._changes.make(
            {"do": "create_model", "name": name, "tags": values, "description": description}
        )
        if made is not None:
            return made
        return self._shown.as_first_model(model_of(name, int(time.time() * 1000), description, values))

    def update_registered_model(
        self, name: str, description: str | None, deployment_job_id: str | None = None
    ) -> RegisteredModel:
        """Change a registered model's description."""
        del deployment_job_id
        made = self._changes.make({"do": "update_model", "name": name, "description": description})
        if made is not None:
            return made
        after = self._away.model_after(name)
        after.description = description or ""
        return after

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a registered model."""
        validate_model_name(new_name)
        made = self._changes.make({"do": "rename_model", "name": name, "new_name": new_name})
        self._first.versions.follow_rename(name, new_name)
        after = self._away.model_after(new_name) if made is None else made
        self._changes.rename_twins(name, new_name)
        return after

    def delete_registered_model(self, name: str) -> None:
        """Delete a registered model."""
        self._changes.make({"do": "delete_model", "name": name})

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        """Set a registered model's tag."""
        validate_registered_model_tag(tag.key, tag.value)
        self._check_tags(name, tag)
        self._changes.make({"do": "model_tag", "name": name, "key": tag.key, "value": str(tag.value)})

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a registered model's tag."""
        self._changes.make({"do": "model_untag", "name": name, "key": key})

    # --- versions

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: list[ModelVersionTag] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        """Register a version in the link's registries; READY with number 0 while the first one is away."""
        validate_model_name(name)
        required("source", source)
        for tag in tags or []:
            validate_model_version_tag(tag.key, tag.value)
        del local_model_path
        facts: VersionFacts = {
            "key": uuid.uuid4().hex,
            "name": name,
            "source": self._registration.source_of(source, model_id),
            "run": run_id,
            # A copied version's tags say whose twin the original is.
            "tags": {t.key: str(t.value) for t in tags or [] if not t.key.startswith("dbml_")},
            "run_link": run_link,
            "description": description,
            "to": list(self.engine.link.registries),
        }
        return self._registration.register(facts, source, model_id)

    def update_model_version(self, name: str, version: str, description: str | None) -> ModelVersion:
        """Change a version's description."""
        found = self._changes.make(
            {"do": "version_update", "name": name, "version": str(version), "description": description}
        )
        if found is not None:
            return found
        return self._away.version_after(ModelVersion(name, str(version), 0, description=description))

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Move a version to a stage."""
        found = self._changes.make(
            {
                "do": "version_stage",
                "name": name,
                "version": str(version),
                "stage": stage,
                "archive": archive_existing_versions,
            }
        )
        if found is not None:
            return found
        return self._away.version_after(ModelVersion(name, str(version), 0, current_stage=stage))

    def delete_model_version(self, name: str, version: str) -> None:
        """Delete a version."""
        self._changes.make({"do": "version_delete", "name": name, "version": str(version)})

    def set_model_version_tag(self, name: str, version: str, tag: ModelVersionTag) -> None:
        """Set a version's tag."""
        validate_model_version_tag(tag.key, tag.value)
        self._check_tags(name, tag)
        self._changes.make(
            {
                "do": "version_tag",
                "name": name,
                "version": str(version),
                "key": tag.key,
                "value": str(tag.value),
            }
        )

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete a version's tag."""
        self._changes.make({"do": "version_untag", "name": name, "version": str(version), "key": key})

    def _check_tags(self, name: str, *tags: RegisteredModelTag | ModelVersionTag) -> None:
        for role in self.engine.link.registries:
            self.engine.workspaces[role].check_model_tags(name, {t.key: str(t.value) for t in tags})

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        validate_model_alias_name(alias)
        self._changes.make({"do": "alias", "name": name, "alias": alias, "version": str(version)})

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias."""
        self._changes.make({"do": "unalias", "name": name, "alias": alias})

    # --- reads

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """Return one version; 0 is the newest that is still provisional."""
        waiting, number = self._away.waiting_at(name, str(version))
        if waiting is not None:
            return self._away.waiting_version(name, waiting)
        try:
            return self._shown.version(self._first.read("get_model_version", name, number))
        except Unavailable:
            return self._away.version(name, number)

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias points at."""
        names = self.engine.state.model_names
        known = names.alias(names.current(name), alias)
        # What was acknowledged counts until the registry has it: a write of an alias may be on its way.
        if known is None or self._first.has_caught_up():
            try:
                return self._shown.version(self._first.read("get_model_version_by_alias", name, alias))
            except Unavailable:
                pass
        return self._away.behind_alias(name, alias, self.get_model_version)

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Return the link's own URI of a version's files: they are read with that workspace's credentials."""
        found = self.get_model_version(name, version)
        if str(found.version) == WAITING:
            return str(found.source)
        if self.engine.health[self._first.role].away:
            second = self._away.other.twin(name, str(found.version))
            if second is not None:
                return self._shown.version_files(name, second[1].version, second[0], found.source or "")
        return self._shown.version_files(found.name, found.version, source=found.source or "")

    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[ModelVersion]:
        """Search versions at the first registry, or at the other one while that is away."""
        rest = max_results, order_by, page_token
        try:
            where = own_filter(self.engine.side(self._first.role), filter_string)
            page = self._search("search_model_versions", where, *rest)
        except Unavailable:
            return self._away.search_versions(filter_string, *rest)
        for found in page:
            self._shown.version(found)
        return page

    def _search(
        self,
        method: str,
        where: str | None,
        max_results: int | None,
        order_by: list[str] | None,
        page_token: str | None,
    ) -> PagedList[Any]:
        limit = {} if max_results is None else {"max_results": max_results}
        return self._first.read(
            method, filter_string=where, order_by=order_by, page_token=page_token, **limit
        )

    def get_registered_model(self, name: str) -> RegisteredModel:
        """Return a registered model, its versions under the run ids that the user knows."""
        try:
            return self._shown.model(self._first.read("get_registered_model", name))
        except Unavailable:
            return self._away.model(name)

    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[RegisteredModel]:
        """Search registered models at the first registry, or at the other one while that is away."""
        asked = filter_string, max_results, order_by, page_token
        try:
            page = self._search("search_registered_models", *asked)
        except Unavailable:
            return self._away.search_models(*asked)
        for model in page:
            self._shown.model(model)
        return page

    def get_latest_versions(self, name: str, stages: list[str] | None = None) -> list[ModelVersion]:
        """Return the newest version of each stage."""
        try:
            return [self._shown.version(v) for v in self._first.read("get_latest_versions", name, stages)]
        except Unavailable:
            return self._away.latest(name, stages)

    def copy_model_version(self, src_mv: ModelVersion, dst_name: str) -> ModelVersion:
        """Register a version's model under another name."""
        return AbstractStore.copy_model_version(self, src_mv, dst_name)

    def _await_model_version_creation(self, mv: ModelVersion, await_creation_for: int) -> None:
        """Do nothing: a version is READY when it is returned."""

    def __getattr__(self, name: str) -> Any:
        """Forward what clients call although MLflow's base class lacks it."""
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._first.native, name)
        return functools.partial(self._first.read, name) if callable(found) else found


def _forwarder(name: str, like: Any) -> Any:
    if isinstance(like, property):
        return property(lambda self: getattr(self._first.native, name))

    def forward(self: DbmlRegistryStore, *args: Any, **kwargs: Any) -> Any:
        return self._first.read(name, *args, **kwargs)

    return functools.wraps(like)(forward)


# What the base class builds from other calls (prompts are registered models with tags) stays its own.
forward_the_rest(DbmlRegistryStore, AbstractStore, _forwarder, lambda name: name.startswith("_"))
DbmlRegistryStore.__abstractmethods__ = frozenset()
