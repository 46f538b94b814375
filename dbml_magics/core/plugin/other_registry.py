"""The link's other registry, which answers while the first one is away: under the first one's numbers.

A version's tag names its twin. A version without a twin belongs to that registry alone and is hidden, unless
it waits for its number in the first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.abstract_store import AbstractStore

from dbml_magics.core.delivery.writers.versions import KEY_TAG, TWIN_TAG
from dbml_magics.core.destinations.errors import is_missing
from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.model.facts import VersionSource
from dbml_magics.core.model.queues import REGISTRY_QUEUE
from dbml_magics.core.outbox.model_versions import ModelVersions, Registered
from dbml_magics.core.paging import entries
from dbml_magics.core.plugin.asked import has_arrived
from dbml_magics.core.plugin.registry_view import WAITING, Pointer, RegistryView, changes_to, earlier_name

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

T = TypeVar("T")
_MOST = 1000  # models or versions that one search asks for


@dataclass(frozen=True)
class Seen:
    """What a registry holds and will hold: everything, or what concerns the models that were asked for."""

    role: str
    view: RegistryView


class OtherRegistry:
    """What the link's other registry has, as the user would see it in the first."""

    def __init__(self, engine: Engine, first: str, files_of: Callable[[VersionSource], str]) -> None:
        self.engine = engine
        self.first = first
        self._files_of = files_of

    @property
    def _versions(self) -> ModelVersions:
        return self.engine.state.model_versions

    def ask(self, question: Callable[[str, AbstractStore], T | None]) -> tuple[str, T] | None:
        """Ask the other registry, once what was written has arrived there; returns (role, its answer)."""
        for role in self.engine.link.registries[1:]:
            registry = self.engine.workspaces[role].registry
            has_arrived(self.engine, role, [REGISTRY_QUEUE, *self._registering(role)])
            try:
                found = self.engine.health[role].ask(functools.partial(question, role, registry))
            except MlflowException:
                continue
            if found is not None:
                return role, found
        return None

    def _registering(self, role: str) -> set[str]:
        """Return the queues of the registrations that a workspace has not answered yet."""
        versions = self._versions
        return {asked.queue for asked in versions.asked() if not versions.is_answered(asked.key, role)}

    def seen(self, names: Sequence[str] | None = None) -> Seen | None:
        """Return what the other registry holds of some models, or of all, and what is on its way there.

        None where it does not answer.
        """

        def look(role: str, registry: AbstractStore) -> Seen:
            changes = changes_to(self.engine, role)  # before the question: what arrives meanwhile is in both
            asked = None
            if names is not None:
                asked = dict.fromkeys([*(earlier_name(changes, name) for name in names), *names])
            view = RegistryView(self._files_of)
            for model, versions in _held(registry, asked):
                self._add(view, role, model, versions)
            view.fold(changes)
            return Seen(role, view)

        found = self.ask(look)
        return None if found is None else found[1]

    def on_its_way(self) -> RegistryView:
        """Return what the first registry will be given: of what it holds already, nothing."""
        view = RegistryView(self._files_of)
        view.fold(changes_to(self.engine, self.first))
        return view

    def twin(self, name: str, number: str) -> tuple[str, ModelVersion] | None:
        """Return (role, the twin of a version as that workspace numbers it)."""

        def find(role: str, registry: AbstractStore) -> ModelVersion | None:
            key = self._versions.key_of(name, number)
            own = self.engine.side(role).versions.own_version(name, number, key)
            return None if own is None else registry.get_model_version(name, own)

        return self.ask(find)

    def _add(
        self, view: RegistryView, role: str, model: RegisteredModel, versions: Iterable[ModelVersion]
    ) -> None:
        """Add a model to a view, its versions and aliases under the first registry's numbers."""
        shown, pointers = [], self._deleted(role, model.name)
        for version in versions:
            number = self._number_of(version)
            if number is not None:
                pointers[str(version.version)] = Pointer(number, version.tags.get(KEY_TAG))
                with_fields(version, version=number)
                shown.append(version)
        aliases = {alias: pointers[str(own)] for alias, own in model.aliases.items() if str(own) in pointers}
        view.add(model, shown, aliases)

    def _deleted(self, role: str, name: str) -> dict[str, Pointer]:
        """Return {own number: version} of what was registered here: an alias outlives its version."""
        found = {}
        for number, key in self._versions.keys_of(name).items():
            made = self._versions.registered(key, role)
            if made is not None:
                found[made.version] = Pointer(number, key)
        return found

    def _number_of(self, found: ModelVersion) -> str | None:
        """Return the first registry's number of a version: 0 where it waits for one, None for none."""
        role, _, twin = found.tags.get(TWIN_TAG, "").partition(":")
        if role == self.first:
            return str(twin.rpartition("/")[2])
        key = found.tags.get(KEY_TAG)
        if key is None:
            return None
        answer = self._versions.answer(key, self.first)
        if answer is not None:
            return answer.version if isinstance(answer, Registered) else None
        return WAITING if self._versions.provisional(key) is not None else None


def _held(
    registry: AbstractStore, names: Iterable[str] | None
) -> list[tuple[RegisteredModel, list[ModelVersion]]]:
    """Return some models of a registry, or all, each with its versions."""
    if names is not None:
        models = [model for name in names if (model := _model(registry, name)) is not None]
        return [(model, _versions(registry, _named(model.name))) for model in models]
    models = [*entries(lambda page: registry.search_registered_models(max_results=_MOST, page_token=page))]
    versions: dict[str, list[ModelVersion]] = {}
    for version in _versions(registry, None):
        versions.setdefault(version.name, []).append(version)
    return [(model, versions.get(model.name, [])) for model in models]


def _model(registry: AbstractStore, name: str) -> RegisteredModel | None:
    try:
        return registry.get_registered_model(name)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None


def _named(name: str) -> str:
    quoted = name.replace("'", "\\'")
    return f"name='{quoted}'"


def _versions(registry: AbstractStore, where: str | None) -> list[ModelVersion]:
    return [*entries(lambda page: registry.search_model_versions(where, max_results=_MOST, page_token=page))]
