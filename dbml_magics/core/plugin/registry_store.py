"""The registry store behind ``dbml:`` URIs: registers in one registry or both, reads the link's first one.

A registration travels in its run's queue, after that run's files. Other writes are made at the first registry
at once, so that it can refuse them, and journaled for the other; while the first is away, or has not yet what
was written before, they are journaled for both.
"""

from __future__ import annotations

import functools
import inspect
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.model_registry.abstract_store import AbstractStore

from dbml_magics.common.config import identity_budget_seconds
from dbml_magics.core.delivery.writers.registrations import (
    check_before,
    note_asked,
    write_directly,
)
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.mlflow_private import (
    validate_model_alias_name,
    validate_model_name,
    validate_model_version_tag,
    validate_registered_model_tag,
    with_fields,
)
from dbml_magics.core.model.operations import (
    ChangeRegistry,
    RegisterVersion,
    RegistryChange,
    VersionFacts,
    VersionSource,
)
from dbml_magics.core.model.queues import REGISTRY_QUEUE
from dbml_magics.core.model.sendable import refuse_bad_text, required
from dbml_magics.core.outbox.model_names import AliasTarget
from dbml_magics.core.outbox.model_versions import ModelVersions, Refusal, Registered
from dbml_magics.core.plugin.asked import ask, has_arrived
from dbml_magics.core.plugin.filters import own_filter
from dbml_magics.core.plugin.registry_away import AwayReads
from dbml_magics.core.plugin.registry_shown import Shown
from dbml_magics.core.plugin.registry_view import WAITING, model_of, version_of
from dbml_magics.core.tracking.engine import Engine, engine_for


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
        self._shown = Shown(engine)
        self._away = AwayReads(engine, self._shown)

    @property
    def first(self) -> str:
        """Return the role whose numbers and names the user knows."""
        return self.engine.link.registries[0]

    @property
    def _versions(self) -> ModelVersions:
        return self.engine.state.model_versions

    @property
    def _native(self) -> Any:
        return self.engine.workspaces[self.first].registry

    def _ask(self, question: Callable[[], Any]) -> Any:
        return self.engine.health[self.first].ask(question)

    def _read(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        self._settle_registrations()
        return self._ask(lambda: getattr(self._native, method)(*args, **kwargs))

    def _settle_registrations(self) -> None:
        """Let registrations that are on their way arrive before a read, within a search's patience."""
        self._wait_for(REGISTRY_QUEUE)

    # --- writes

    def _write(self, told: RegistryChange) -> Any:
        do, name = told["do"], told["name"]
        refuse_bad_text(f"the change ({do}) of a registered model:", told)
        versions, roles = self._versions, list(self.engine.link.registries)
        after = versions.open_of(name)
        provisional = False
        if "version" in told:
            told["of"] = key = self._registration(name, told["version"])
            copies = versions.copies_of(name, told["version"]) if do == "version_delete" else set()
            after = {k: queue for k, queue in after.items() if k == key or k in copies}
            answer = versions.answer(key, self.first) if key else None
            if told["version"] == "0":
                provisional = answer is None
                told["version"] = answer.version if isinstance(answer, Registered) else "0"
            elif answer is None:
                del told["of"]  # registered from elsewhere: its number says which it is
        result = None
        if not provisional and self._has_caught_up(after):
            tried: list[bool] = []
            try:
                result = self._tell_first(told, tried)
                roles = roles[1:]
            except Unavailable:
                result = None
                told["tried"] = bool(tried)  # it may have been done there, its answer lost
        if "alias" in told:
            self._remember_alias(told)
        elif do == "delete_model":
            self.engine.state.model_names.drop_aliases(name)
        if roles:
            self.engine.write(REGISTRY_QUEUE, ChangeRegistry({**told, "to": roles, "after": after}))
        return result

    def _tell_first(self, told: RegistryChange, tried: list[bool]) -> Any:
        def once() -> Any:
            again = bool(tried)
            tried.append(True)
            return write_directly(self.engine.workspaces[self.first], told, again)

        return ask(self.engine, self.first, "registry write", once)

    def _remember_alias(self, told: RegistryChange) -> None:
        """Remember where an alias points: it was acknowledged, also while nobody can be asked for it."""
        names, name, alias = self.engine.state.model_names, told["name"], told["alias"]
        if told["do"] == "alias":
            names.point(name, alias, AliasTarget(str(told["version"]), told.get("of")))
        else:
            names.drop_alias(name, alias)

    def _has_caught_up(self, after: Mapping[str, str] = MappingProxyType({})) -> bool:
        """Tell whether the first registry has what was written before: writes must not overtake others.

        ``after`` are the registrations (key -> queue) that a write comes after, as its model's versions.
        """
        open_ones = {k: q for k, q in after.items() if not self._versions.is_answered(k, self.first)}
        return has_arrived(self.engine, self.first, [REGISTRY_QUEUE, *open_ones.values()]) and all(
            self._versions.is_answered(key, self.first) for key in open_ones
        )

    def _wait_for(self, queue: str) -> bool:
        """Wait for a queue to arrive at the first registry, within the budget and while it moves."""
        return has_arrived(self.engine, self.first, [queue])

    def _registration(self, name: str, version: str) -> str | None:
        """Return the key of the registration behind a version, if this machine made it."""
        if version == "0":
            return self._provisional_key(name)
        return self._versions.key_of(name, version)

    def _provisional_key(self, name: str) -> str:
        told = self._versions.newest_provisional(name)
        if told is None:
            raise MlflowException(
                f"Model Version (name={name}, version=0) not found", RESOURCE_DOES_NOT_EXIST
            )
        return str(told["key"])

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
        kept = {t.key: t.value for t in tags or []}
        del deployment_job_id
        made = self._write({"do": "create_model", "name": name, "tags": kept, "description": description})
        if made is not None:
            return made
        return self._shown.as_first_model(model_of(name, int(time.time() * 1000), description, kept))

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
        told: VersionFacts = {
            "key": uuid.uuid4().hex,
            "name": name,
            "source": self._source(source, model_id),
            "run": run_id,
            # A copied version's tags say whose twin the original is.
            "tags": {t.key: str(t.value) for t in tags or [] if not t.key.startswith("dbml_")},
            "run_link": run_link,
            "description": description,
            "to": list(self.engine.link.registries),
        }
        check_before(self.engine.workspaces, self.engine.files_of, told)
        self._check_model(name)
        if run_id and not self._is_known(run_id):
            told["run"], told["foreign_run"] = None, run_id
        queue = self._queue_for(told)
        with deferred():
            self._register_at_first(queue, told)
            self.engine.note_registration(queue, told)
            note_asked(self.engine.state, queue, told)
            self.engine.write(queue, RegisterVersion(told))
        return self._answered(told, queue, source, model_id)

    def _register_at_first(self, queue: str, told: VersionFacts) -> None:
        """Register a version at the first registry where it has what was before. Raises its refusal.

        While it is away, or lacks the model's files, the registration goes there behind them; so it does
        where it takes as long as a copy of the files.
        """
        after = {**(told.get("after") or {}), **self._versions.open_of(told["name"])}
        side = self.engine.side(self.first)
        if not side.ids.is_tracked or side.destination.capabilities.copies_registered_files:
            return
        if not self._has_caught_up(after) or not self._wait_for(queue):
            return
        with suppress(Unavailable):
            ask(
                self.engine,
                self.first,
                "registration of a version",
                lambda: side.registrations.register_now(told, identity_budget_seconds()),
            )

    def _check_model(self, name: str) -> None:
        """Raise the first registry's refusal of a version of a model that it does not have."""
        if not self._has_caught_up():
            return
        try:
            self._ask(lambda: self._native.get_registered_model(name))
        except MlflowException as error:
            if not isinstance(error, Unavailable) and is_missing(error):
                raise

    def _is_known(self, run_id: str) -> bool:
        """Tell whether a run is one of the link's; True while nobody can say.

        A registry takes a version with any run's id, one of another server's too.
        """
        if self.engine.state.run(run_id) is not None or self.engine.creation_of(run_id) is not None:
            return True
        try:
            self.engine.get_run(run_id)
        except MlflowException as error:
            return isinstance(error, Unavailable)
        return True

    def _source(self, source: str, model_id: str | None) -> VersionSource:
        # Not urlsplit: a folder's name may have a # or ? in it.
        scheme, _, rest = source.partition(":")
        parts = [p for p in rest.split("/") if p]
        if model_id:
            return {"kind": "model", "id": model_id, "named": True}
        if scheme == "models" and len(parts) == 1 and "@" not in parts[0]:
            return {"kind": "model", "id": parts[0], "named": False}
        if scheme == "models" and len(parts) == 2 and parts[1].isdigit():
            return {"kind": "version", "name": parts[0], "version": parts[1]}
        if scheme == "runs" and len(parts) >= 2:
            # A client that was given such a URI sends it as it is; elsewhere the run has another id.
            path = "/".join(parts[1:])
            logged = self.engine.state.models_of(parts[0])
            model = next((m for m, told in logged if told.get("name") == path), None)
            if model is not None:
                return {"kind": "model", "id": model, "named": False}
            return {"kind": "run", "run": parts[0], "path": path}
        if scheme == "dbml":
            parts = parts[1:]  # the link
            if len(parts) >= 2 and parts[0] == "models":
                return {"kind": "model", "id": parts[1], "named": False}
            if len(parts) >= 3 and parts[0] == "runs":
                return {"kind": "run", "run": parts[1], "path": "/".join(parts[3:])}
            if len(parts) >= 4 and parts[0] == "versions":
                return {"kind": "version", "name": unquote(parts[2]), "version": parts[3]}
        return {"kind": "uri", "uri": source}

    def _queue_for(self, told: VersionFacts) -> str:
        source, runless = told["source"], told["run"] is None and "foreign_run" not in told
        if source["kind"] == "model":
            queue = self.engine.model_queue(source["id"])
            if runless and queue != source["id"]:
                told["run"] = queue
            return queue
        if source["kind"] == "run":
            if runless:
                told["run"] = source["run"]
            return str(source["run"])
        if source["kind"] == "version":
            told["after"] = self._versions.open_of(source["name"])
            source["of"] = self._registration(source["name"], source["version"])
            if source["of"] is None or not told["after"].keys() & {source["of"]}:
                told["after"] = {}
        return told["run"] or REGISTRY_QUEUE

    def _answered(self, told: VersionFacts, queue: str, source: str, model_id: str | None) -> ModelVersion:
        self._wait_for(queue)
        answer = self._versions.answer(told["key"], self.first)
        if isinstance(answer, Refusal):
            code = dict(ErrorCode.items()).get(answer.error.partition(":")[0], INVALID_PARAMETER_VALUE)
            raise MlflowException(answer.error, code)
        if answer is not None:
            with suppress(MlflowException):
                return self._shown.version(
                    self._ask(lambda: self._native.get_model_version(answer.name, answer.version))
                )
        else:
            self._versions.note_provisional(queue, told)
        number = answer.version if answer else WAITING
        made = version_of(told, number, int(time.time() * 1000), source)
        with_fields(made, name=name_of(answer, told))
        with_fields(made, model_id=model_id)
        return self._shown.as_first(made)

    def update_registered_model(
        self, name: str, description: str | None, deployment_job_id: str | None = None
    ) -> RegisteredModel:
        """Change a registered model's description."""
        del deployment_job_id
        made: RegisteredModel | None = self._write(
            {"do": "update_model", "name": name, "description": description}
        )
        if made is None:
            made = self._away.model_after(name)
            made.description = description or ""
        return made

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a registered model."""
        validate_model_name(new_name)
        made = self._write({"do": "rename_model", "name": name, "new_name": new_name})
        self._versions.follow_rename(name, new_name)
        if made is None:
            made = self._away.model_after(new_name)
        roles = list(self.engine.link.registries)
        if len(roles) > 1:
            twins: RegistryChange = {"do": "twins", "name": new_name, "old_name": name, "to": roles}
            self.engine.write(REGISTRY_QUEUE, ChangeRegistry(twins))
        return made

    def delete_registered_model(self, name: str) -> None:
        """Delete a registered model."""
        self._write({"do": "delete_model", "name": name})

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        """Set a registered model's tag."""
        validate_registered_model_tag(tag.key, tag.value)
        self._check_tags(name, tag)
        self._write({"do": "model_tag", "name": name, "key": tag.key, "value": str(tag.value)})

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a registered model's tag."""
        self._write({"do": "model_untag", "name": name, "key": key})

    def update_model_version(self, name: str, version: str, description: str | None) -> ModelVersion:
        """Change a version's description."""
        found = self._write(
            {"do": "version_update", "name": name, "version": str(version), "description": description}
        )
        if found is not None:
            return self._shown.version(found)
        return self._away.version_after(ModelVersion(name, str(version), 0, description=description))

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Move a version to a stage."""
        found = self._write(
            {
                "do": "version_stage",
                "name": name,
                "version": str(version),
                "stage": stage,
                "archive": archive_existing_versions,
            }
        )
        if found is not None:
            return self._shown.version(found)
        return self._away.version_after(ModelVersion(name, str(version), 0, current_stage=stage))

    def delete_model_version(self, name: str, version: str) -> None:
        """Delete a version."""
        self._write({"do": "version_delete", "name": name, "version": str(version)})

    def set_model_version_tag(self, name: str, version: str, tag: ModelVersionTag) -> None:
        """Set a version's tag."""
        validate_model_version_tag(tag.key, tag.value)
        self._check_tags(name, tag)
        self._write(
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
        self._write({"do": "version_untag", "name": name, "version": str(version), "key": key})

    def _check_tags(self, name: str, *tags: Any) -> None:
        for role in self.engine.link.registries:
            self.engine.workspaces[role].check_model_tags(name, {t.key: str(t.value) for t in tags})

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        validate_model_alias_name(alias)
        self._write({"do": "alias", "name": name, "alias": alias, "version": str(version)})

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias."""
        self._write({"do": "unalias", "name": name, "alias": alias})

    # --- reads

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """Return one version; 0 is the newest that is still provisional."""
        told, number = self._away.waiting_at(name, str(version))
        if told is not None:
            return self._away.waiting_version(name, told)
        try:
            return self._shown.version(self._read("get_model_version", name, number))
        except Unavailable:
            return self._away.version(name, number)

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias points at."""
        names = self.engine.state.model_names
        known = names.alias(names.current(name), alias)
        # What was acknowledged counts until the registry has it: a write of an alias may be on its way.
        if known is None or self._has_caught_up():
            try:
                return self._shown.version(self._read("get_model_version_by_alias", name, alias))
            except Unavailable:
                pass
        return self._away.behind_alias(name, alias, self.get_model_version)

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Return the link's own URI of a version's files: they are read with that workspace's credentials."""
        found = self.get_model_version(name, version)
        if str(found.version) == "0":
            return str(found.source)
        if self.engine.health[self.first].away:
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
    ) -> Any:
        """Search versions at the first registry, or at the other one while that is away."""
        rest = max_results, order_by, page_token
        try:
            where = own_filter(self.engine.side(self.first), filter_string)
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
    ) -> Any:
        given = {} if max_results is None else {"max_results": max_results}
        return self._read(method, filter_string=where, order_by=order_by, page_token=page_token, **given)

    def get_registered_model(self, name: str) -> RegisteredModel:
        """Return a registered model, its versions under the run ids that the user knows."""
        try:
            return self._shown.model(self._read("get_registered_model", name))
        except Unavailable:
            return self._away.model(name)

    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> Any:
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
            return [self._shown.version(v) for v in self._read("get_latest_versions", name, stages)]
        except Unavailable:
            return self._away.latest(name, stages)

    def copy_model_version(self, src_mv: ModelVersion, dst_name: str) -> ModelVersion:
        """Register a version's model under another name."""
        return AbstractStore.copy_model_version(self, src_mv, dst_name)

    def _await_model_version_creation(self, mv: ModelVersion, await_creation_for: int) -> None:
        """Do nothing: a version is READY when it is returned."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._native, name)
        return functools.partial(self._read, name) if callable(found) else found


def name_of(answer: Any, told: VersionFacts) -> str:
    """Return a registration's model name: the registry's own once it has answered."""
    return str(answer["name"]) if answer else str(told["name"])


def _forwarder(name: str, like: Any) -> Any:
    if isinstance(like, property):
        return property(lambda self: getattr(self._native, name))

    def forward(self: DbmlRegistryStore, *args: Any, **kwargs: Any) -> Any:
        return self._read(name, *args, **kwargs)

    return functools.wraps(like)(forward)


def _forward_the_rest(cls: type) -> None:
    """Forward to the first registry whatever MLflow's base class has and this class does not override.

    What the base class builds from other calls (prompts are registered models with tags) stays its own.
    """
    for name in dir(AbstractStore):
        if name.startswith("_") or name in cls.__dict__:
            continue
        like = inspect.getattr_static(AbstractStore, name)
        if isinstance(like, staticmethod) or not (callable(like) or isinstance(like, property)):
            continue
        setattr(cls, name, _forwarder(name, like))


_forward_the_rest(DbmlRegistryStore)
DbmlRegistryStore.__abstractmethods__ = frozenset()
