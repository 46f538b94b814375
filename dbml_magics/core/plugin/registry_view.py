"""What a registry will hold once it has every write that is on its way there.

A view begins with the registry's answer, and folds the waiting registrations and other writes over it in the
order in which they were made. Its versions have the first registry's numbers, "0" where they wait for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.entities.model_registry.model_version_stages import (
    STAGE_ARCHIVED,
    STAGE_NONE,
    get_canonical_stage,
)
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.versions import KEY_TAG
from dbml_magics.core.mlflow_private import own_tags, with_fields
from dbml_magics.core.model.facts import RegistryChange, VersionFacts, VersionSource
from dbml_magics.core.model.operations import ChangeRegistry, RegisterVersion, read_as
from dbml_magics.core.model.queues import REGISTRY_QUEUE
from dbml_magics.core.outbox.model_versions import Asked, Refusal

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

WAITING = "0"
"""The number of a version that the first registry has not numbered yet."""


@dataclass(frozen=True)
class Change:
    """A registration, or another registry write, that is on its way."""

    at: int  # in nanoseconds, by which changes are ordered
    op: RegisterVersion | ChangeRegistry
    number: str | None = None  # of a registration's version


@dataclass(frozen=True)
class Pointer:
    """The version that an alias points at."""

    number: str
    key: str | None


def changes_to(engine: Engine, role: str) -> list[Change]:
    """Return the registrations and other registry writes that a registry has yet to get, in their order."""
    state, queue = engine.state, REGISTRY_QUEUE
    found = {}
    for asked in state.model_versions.asked():
        change = _registration(engine, role, asked)
        if change is not None:
            found[asked.key] = change
    delivered = {file: end for file, (end, _) in state.cursors(role, queue).items()}
    writes = [
        Change(entry.stamp, op)
        for entry in engine.journal.entries(queue, engine.journal.files(queue), delivered)
        if (op := read_as(ChangeRegistry, entry.line)) is not None and _concerns(op.change, role)
    ]
    return sorted([*found.values(), *writes], key=lambda change: change.at)


def _concerns(change: object, role: str) -> bool:
    return isinstance(change, dict) and role in change.get("to", ()) and not change.get("own")


def _registration(engine: Engine, role: str, asked: Asked) -> Change | None:
    """Return a registration that a registry has yet to answer, unless the first one refused it."""
    facts, first, versions = asked.facts, engine.link.registries[0], engine.state.model_versions
    if facts is None or not {role, first} <= {*facts["to"]}:
        return None
    if versions.is_answered(facts["key"], role):
        return None
    answer = versions.answer(facts["key"], first)
    if isinstance(answer, Refusal):
        return None
    return Change(asked.at, RegisterVersion(facts), WAITING if answer is None else answer.version)


def earlier_name(changes: Iterable[Change], name: str) -> str:
    """Return a model's name before the changes, by the name that the user knows."""
    for waiting in reversed([*changes]):
        if not isinstance(waiting.op, ChangeRegistry):
            continue
        change = waiting.op.change
        if change.get("do") == "rename_model" and change["new_name"] == name:
            name = change["name"]
    return name


class RegistryView:
    """Registered models, their versions and aliases; ``files_of`` names the files of a version's source."""

    def __init__(self, files_of: Callable[[VersionSource], str]) -> None:
        self._files_of = files_of
        self.models: dict[str, RegisteredModel] = {}
        self.versions: list[ModelVersion] = []
        self.aliases: dict[str, dict[str, Pointer]] = {}
        self.gone: set[tuple[str, ...]] = set()
        """What the changes took away: (model), (model, number or key), (model, "alias", alias)."""
        self.waiting: set[str] = set()
        """The keys of the versions that the registry does not hold yet."""

    def add(
        self, model: RegisteredModel, versions: Iterable[ModelVersion], aliases: Mapping[str, Pointer]
    ) -> None:
        """Add what the registry holds of a model."""
        self.models[model.name] = model
        self.versions += versions
        self.aliases[model.name] = dict(aliases)

    def fold(self, changes: Iterable[Change]) -> None:
        """Apply changes; skip a damaged one, which delivery rejects."""
        for change in changes:
            with suppress(KeyError, TypeError, ValueError, AttributeError, MlflowException):
                op, at = change.op, change.at // 1_000_000
                if isinstance(op, RegisterVersion):
                    self._register(op.facts, change.number or WAITING, at)
                elif (do := op.change["do"]) in _FOLDS:
                    _FOLDS[do](self, op.change, at)

    def find(self, name: str, number: str, key: str | None = None) -> ModelVersion | None:
        """Return a version by its number, or by the key of its registration."""
        for version in self.versions_of(name):
            if key is not None and version.tags.get(KEY_TAG) == key:
                return version
            if number != WAITING and str(version.version) == number:
                return version
        return None

    def versions_of(self, name: str) -> list[ModelVersion]:
        """Return a model's versions, the newest last."""
        found = [version for version in self.versions if version.name == name]
        return sorted(found, key=lambda version: int(version.version) or float("inf"))

    def latest(self, name: str) -> list[ModelVersion]:
        """Return a model's newest version of each stage."""
        return [*{version.current_stage: version for version in self.versions_of(name)}.values()]

    def aliases_of(self, version: ModelVersion) -> list[str]:
        """Return the aliases that point at a version."""
        pointers = self.aliases.get(version.name, {})
        return [
            alias for alias, at in pointers.items() if self.find(version.name, at.number, at.key) is version
        ]

    def _model(self, name: str, at: int) -> RegisteredModel:
        """Return the model that a change names, made by it where there is none."""
        if name not in self.models:
            self.models[name] = RegisteredModel(name, at, at)
            self.aliases[name] = {}
            self.gone.discard((name,))
        return self.models[name]

    def _register(self, facts: VersionFacts, number: str, at: int) -> None:
        name, key = facts["name"], facts["key"]
        model = self._model(name, at)
        if self.find(name, number, key) is None:
            self.versions.append(version_of(facts, number, at, self._files_of(facts["source"])))
            self.waiting.add(key)
            with_fields(model, last_updated_timestamp=at)

    def _create_model(self, change: RegistryChange, at: int) -> None:
        model = self._model(change["name"], at)
        own_tags(model).update(change["tags"])
        with_fields(model, description=change.get("description") or model.description)

    def _update_model(self, change: RegistryChange, at: int) -> None:
        model = self.models[change["name"]]
        with_fields(model, description=change["description"], last_updated_timestamp=at)

    def _rename_model(self, change: RegistryChange, at: int) -> None:
        name, new_name = change["name"], change["new_name"]
        moved = {(new_name, *gone[1:]) for gone in self.gone if gone[0] == name and gone[1:]}
        self.gone = {gone for gone in self.gone if gone[0] not in (name, new_name)} | moved | {(name,)}
        model = self.models.pop(name)
        with_fields(model, name=new_name, last_updated_timestamp=at)
        self.models[new_name] = model
        self.aliases[new_name] = self.aliases.pop(name)
        for version in self.versions_of(name):
            with_fields(version, name=new_name, last_updated_timestamp=at)

    def _delete_model(self, change: RegistryChange, at: int) -> None:
        del at
        name = change["name"]
        self.gone = {gone for gone in self.gone if gone[0] != name} | {(name,)}
        self.models.pop(name, None)
        self.aliases.pop(name, None)
        self.versions = [version for version in self.versions if version.name != name]

    def _tag_model(self, change: RegistryChange, at: int) -> None:
        del at
        own_tags(self.models[change["name"]])[change["key"]] = change["value"]

    def _untag_model(self, change: RegistryChange, at: int) -> None:
        del at
        own_tags(self.models[change["name"]]).pop(change["key"], None)

    def _version(self, change: RegistryChange) -> ModelVersion:
        found = self.find(change["name"], change["version"], change.get("of"))
        if found is None:
            raise KeyError(change["version"])
        return found

    def _update_version(self, change: RegistryChange, at: int) -> None:
        version = self._version(change)
        with_fields(version, description=change["description"], last_updated_timestamp=at)

    def _move_to_stage(self, change: RegistryChange, at: int) -> None:
        version, stage = self._version(change), get_canonical_stage(change["stage"])
        if change["archive"]:
            for other in self.versions_of(change["name"]):
                if other.current_stage == stage and other is not version:
                    with_fields(other, current_stage=STAGE_ARCHIVED, last_updated_timestamp=at)
        with_fields(version, current_stage=stage, last_updated_timestamp=at)
        with_fields(self.models[change["name"]], last_updated_timestamp=at)

    def _delete_version(self, change: RegistryChange, at: int) -> None:
        self.gone.add((change["name"], change.get("of") or change["version"]))
        version = self._version(change)
        self.versions = [each for each in self.versions if each is not version]
        with_fields(self.models[change["name"]], last_updated_timestamp=at)

    def _tag_version(self, change: RegistryChange, at: int) -> None:
        del at
        own_tags(self._version(change))[change["key"]] = change["value"]

    def _untag_version(self, change: RegistryChange, at: int) -> None:
        del at
        own_tags(self._version(change)).pop(change["key"], None)

    def _point(self, change: RegistryChange, at: int) -> None:
        del at
        name, alias = change["name"], change["alias"]
        self.gone.discard((name, "alias", alias))
        self.aliases.setdefault(name, {})[alias] = Pointer(change["version"], change.get("of"))

    def _unpoint(self, change: RegistryChange, at: int) -> None:
        del at
        name, alias = change["name"], change["alias"]
        self.gone.add((name, "alias", alias))
        self.aliases.get(name, {}).pop(alias, None)


_FOLDS: dict[str, Callable[[RegistryView, RegistryChange, int], None]] = {
    "create_model": RegistryView._create_model,
    "update_model": RegistryView._update_model,
    "rename_model": RegistryView._rename_model,
    "delete_model": RegistryView._delete_model,
    "model_tag": RegistryView._tag_model,
    "model_untag": RegistryView._untag_model,
    "version_update": RegistryView._update_version,
    "version_stage": RegistryView._move_to_stage,
    "version_delete": RegistryView._delete_version,
    "version_tag": RegistryView._tag_version,
    "version_untag": RegistryView._untag_version,
    "alias": RegistryView._point,
    "unalias": RegistryView._unpoint,
}


def version_of(facts: VersionFacts, number: str, at: int, files: str) -> ModelVersion:
    """Return the version that a registration makes, at a time (ms), with what the user knows of it."""
    return ModelVersion(
        facts["name"],
        number,
        at,
        at,
        facts["description"],
        current_stage=STAGE_NONE,
        source=files,
        run_id=facts["run"] or facts.get("foreign_run"),
        tags=[ModelVersionTag(k, v) for k, v in {**facts["tags"], KEY_TAG: facts["key"]}.items()],
        run_link=facts["run_link"],
        model_id=facts["source"].get("id"),
    )


def model_of(name: str, at: int, description: str | None, tags: Mapping[str, str]) -> RegisteredModel:
    """Return a model that was just made."""
    return RegisteredModel(name, at, at, description, [], [RegisteredModelTag(k, v) for k, v in tags.items()])
