"""The registry store behind ``dbml:`` URIs: registers in one registry or both, reads the link's first one.

A registration travels in its run's queue, after that run's files. Other writes are made at the first registry at
once, so that it can refuse them, and journaled for the other; while the first is away they are journaled for both.
"""

from __future__ import annotations

import functools
import inspect
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_name,
    _validate_model_version_tag,
    _validate_registered_model_tag,
)

from dbml_magics.config import IDENTITY_BUDGET_S
from dbml_magics.core.tracking.engine import Engine, engine_for
from dbml_magics.core.tracking.faults import Away
from dbml_magics.core.tracking.journal import encode
from dbml_magics.core.tracking.registrations import RUN_TAG, answer_key, write_directly

_REGISTRY_QUEUE = "registry"


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

    @property
    def first(self) -> str:
        """Return the role whose numbers and names the user knows."""
        return self.engine.link.registries[0]

    @property
    def _native(self) -> Any:
        return self.engine.workspaces[self.first].registry

    def _ask(self, question: Callable[[], Any]) -> Any:
        return self.engine.lines[self.first].ask(question)

    def _read(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._settle_registrations()
        return self._ask(lambda: getattr(self._native, name)(*args, **kwargs))

    def _settle_registrations(self) -> None:
        """Let registrations that are on their way arrive before a read, within a search's patience."""
        if self.engine.is_waiting(self.first, _REGISTRY_QUEUE) and not self.engine.lines[self.first].away:
            self.engine.wait(self.first, [_REGISTRY_QUEUE], IDENTITY_BUDGET_S)

    # --- writes

    def _write(self, do: str, name: str, **fields: Any) -> Any:
        told = {"do": do, "name": name, **fields}
        roles = list(self.engine.link.registries)
        provisional = str(fields.get("version", "")) == "0"
        if provisional:
            told["of"] = self._provisional_key(name)
            answer = self.engine.state.answer(answer_key(told["of"], self.first))
            if answer and "version" in answer:
                told["version"], provisional = answer["version"], False
        result = None
        if not provisional:
            try:
                result = self._ask(lambda: write_directly(self._native, told, told.get("version")))
                roles = roles[1:]
            except Away:
                result = None
        if roles:
            queue = self._queue_of(told.get("of"))
            self.engine.append(queue, encode("W", {**told, "to": roles}))
        return result

    def _provisional_key(self, name: str) -> str:
        for _, told in self._provisional_versions():
            if told["name"] == name:
                return str(told["key"])
        raise MlflowException(f"Model Version (name={name}, version=0) not found", RESOURCE_DOES_NOT_EXIST)

    def _provisional_versions(self) -> list[tuple[str, dict[str, Any]]]:
        kept = self.engine.state.answers("provisional/")
        return sorted(((k, v) for k, v in kept.items()), key=lambda item: -item[1]["at"])

    def _queue_of(self, key: str | None) -> str:
        told = self.engine.state.answer(f"provisional/{key}") if key else None
        return told["queue"] if told else _REGISTRY_QUEUE

    def create_registered_model(
        self,
        name: str,
        tags: list[RegisteredModelTag] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> RegisteredModel:
        """Make a registered model. Raises MLflow's "already exists"."""
        _validate_model_name(name)
        for tag in tags or []:
            _validate_registered_model_tag(tag.key, tag.value)
        kept = {t.key: t.value for t in tags or []}
        del deployment_job_id
        made = self._write("create_model", name, tags=kept, description=description)
        if made is not None:
            return made
        now = int(time.time() * 1000)
        return RegisteredModel(name, now, now, description, [], [RegisteredModelTag(k, v) for k, v in kept.items()])

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
        _validate_model_name(name)
        for tag in tags or []:
            _validate_model_version_tag(tag.key, tag.value)
        del local_model_path
        told: dict[str, Any] = {
            "key": uuid.uuid4().hex,
            "name": name,
            "source": self._source(source, model_id),
            "run": run_id,
            "tags": {t.key: str(t.value) for t in tags or []},
            "run_link": run_link,
            "description": description,
            "to": list(self.engine.link.registries),
        }
        queue = self._queue_for(told)
        self.engine.note_registration(queue, told)
        self.engine.append(queue, encode("V", told))
        return self._answered(told, queue, source, model_id)

    def _source(self, source: str, model_id: str | None) -> dict[str, Any]:
        split = urlsplit(source)
        parts = [p for p in split.path.split("/") if p]
        if model_id:
            return {"kind": "model", "id": model_id}
        if split.scheme == "models":
            if len(parts) == 1:
                return {"kind": "model", "id": parts[0]}
            return {"kind": "version", "name": parts[0], "version": parts[1]}
        if split.scheme == "dbml" and len(parts) >= 2 and parts[0] == "models":
            return {"kind": "model", "id": parts[1]}
        if split.scheme == "dbml" and len(parts) > 3 and parts[0] == "runs":
            return {"kind": "run", "run": parts[1], "path": "/".join(parts[3:])}
        if split.scheme == "dbml" and len(parts) >= 4 and parts[0] == "versions":
            return {"kind": "version", "name": parts[2], "version": parts[3]}
        return {"kind": "uri", "uri": source}

    def _queue_for(self, told: dict[str, Any]) -> str:
        source = told["source"]
        if source["kind"] == "model":
            queue = self.engine.model_queue(source["id"])
            if told["run"] is None and queue != source["id"]:
                told["run"] = queue
            return queue
        if source["kind"] == "run":
            told["run"] = told["run"] or source["run"]
            return str(source["run"])
        return told["run"] or _REGISTRY_QUEUE

    def _answered(self, told: dict[str, Any], queue: str, source: str, model_id: str | None) -> ModelVersion:
        line = self.engine.lines[self.first]
        if not line.away:
            self.engine.wait(self.first, [queue], IDENTITY_BUDGET_S)
        answer = self.engine.state.answer(answer_key(told["key"], self.first))
        if answer is not None and "error" in answer:
            raise MlflowException(answer["error"], INVALID_PARAMETER_VALUE)
        if answer is None:
            self.engine.state.set_answer(f"provisional/{told['key']}", {**told, "queue": queue, "at": time.time()})
        now = int(time.time() * 1000)
        return ModelVersion(
            name=name_of(answer, told),
            version=answer["version"] if answer else "0",
            creation_timestamp=now,
            last_updated_timestamp=now,
            description=told["description"],
            source=source,
            run_id=told["run"],
            tags=[ModelVersionTag(k, v) for k, v in told["tags"].items()],
            run_link=told["run_link"],
            model_id=model_id,
        )

    def update_registered_model(
        self, name: str, description: str | None, deployment_job_id: str | None = None
    ) -> RegisteredModel:
        """Change a registered model's description."""
        del deployment_job_id
        return self._write("update_model", name, description=description) or RegisteredModel(name)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a registered model."""
        _validate_model_name(new_name)
        return self._write("rename_model", name, new_name=new_name) or RegisteredModel(new_name)

    def delete_registered_model(self, name: str) -> None:
        """Delete a registered model."""
        self._write("delete_model", name)

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        """Set a registered model's tag."""
        _validate_registered_model_tag(tag.key, tag.value)
        self._write("model_tag", name, key=tag.key, value=str(tag.value))

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a registered model's tag."""
        self._write("model_untag", name, key=key)

    def update_model_version(self, name: str, version: str, description: str | None) -> ModelVersion:
        """Change a version's description."""
        found = self._write("version_update", name, version=str(version), description=description)
        return self._shown(found) if found is not None else ModelVersion(name, str(version), 0, description=description)

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Move a version to a stage."""
        found = self._write(
            "version_stage", name, version=str(version), stage=stage, archive=archive_existing_versions
        )
        return self._shown(found) if found is not None else ModelVersion(name, str(version), 0, current_stage=stage)

    def delete_model_version(self, name: str, version: str) -> None:
        """Delete a version."""
        self._write("version_delete", name, version=str(version))

    def set_model_version_tag(self, name: str, version: str, tag: ModelVersionTag) -> None:
        """Set a version's tag."""
        _validate_model_version_tag(tag.key, tag.value)
        self._write("version_tag", name, version=str(version), key=tag.key, value=str(tag.value))

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete a version's tag."""
        self._write("version_untag", name, version=str(version), key=key)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        _validate_model_alias_name(alias)
        self._write("alias", name, alias=alias, version=str(version))

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias."""
        self._write("unalias", name, alias=alias)

    # --- reads

    def _shown(self, found: ModelVersion) -> ModelVersion:
        """Return a version under the run id that the user knows."""
        tagged = found.tags.get(RUN_TAG)
        if tagged:
            found._run_id = tagged
        elif found.run_id:
            found._run_id = self.engine.visible_run(found.run_id)
        if found.model_id:
            found._model_id = self.engine.visible_model(found.model_id)
        return found

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """Return one version; 0 is the newest that is still provisional."""
        if str(version) == "0":
            key = self._provisional_key(name)
            answer = self.engine.state.answer(answer_key(key, self.first))
            told = self.engine.state.answer(f"provisional/{key}") or {"at": 0, "run": None}
            if not (answer and "version" in answer):
                return ModelVersion(name, "0", int(told["at"] * 1000), run_id=told["run"])
            version = answer["version"]
        return self._shown(self._read("get_model_version", name, version))

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias points at."""
        return self._shown(self._read("get_model_version_by_alias", name, alias))

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Return the link's own URI of a version's files, so that they are read with that workspace's credentials."""
        found = self.get_model_version(name, version)
        model, number = quote(found.name, safe=""), quote(str(found.version), safe="")
        return f"dbml://{self.engine.link.key}/versions/{self.first}/{model}/{number}"

    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> Any:
        """Search versions at the first registry."""
        given = {} if max_results is None else {"max_results": max_results}
        page = self._read(
            "search_model_versions", filter_string=filter_string, order_by=order_by, page_token=page_token, **given
        )
        for found in page:
            self._shown(found)
        return page

    def get_latest_versions(self, name: str, stages: list[str] | None = None) -> list[ModelVersion]:
        """Return the newest version of each stage."""
        return [self._shown(v) for v in self._read("get_latest_versions", name, stages)]

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


def name_of(answer: Any, told: dict[str, Any]) -> str:
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
