"""The link's other registry, which answers while the first one is away: under the first one's numbers.

A version says in its tag whose twin it is. One without a twin belongs to that registry alone and is not
shown, unless it is one that waits for its number in the first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.prompt.registry_utils import add_prompt_filter_string
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.search_utils import SearchModelUtils, SearchModelVersionUtils, SearchUtils

from dbml_magics.core.paging import entries
from dbml_magics.core.tracking.asked import has_arrived
from dbml_magics.core.tracking.registrations import KEY_TAG, REGISTRY_QUEUE, TWIN_TAG, answer_key, number_key

if TYPE_CHECKING:
    from dbml_magics.core.tracking.engine import Engine

T = TypeVar("T")
_MOST = 1000  # models or versions that one search asks for, and returns where nobody said how many


class OtherRegistry:
    """What the link's other registry has, as the user would see it in the first."""

    def __init__(self, engine: Engine, first: str, number: Callable[[str], int | str]) -> None:
        self.engine = engine
        self.first = first
        self._number = number

    def ask(self, question: Callable[[str, Any], T | None]) -> tuple[str, T] | None:
        """Ask the other registry, once what was written has arrived there; returns (role, its answer)."""
        for role in self.engine.link.registries[1:]:
            registry = self.engine.workspaces[role].registry
            has_arrived(self.engine, role, [REGISTRY_QUEUE, *self._registering(role)])
            try:
                found = self.engine.lines[role].ask(functools.partial(question, role, registry))
            except MlflowException:
                continue
            if found is not None:
                return role, found
        return None

    def _registering(self, role: str) -> set[str]:
        """Return the queues of the registrations that a workspace has not answered yet."""
        state = self.engine.state
        return {
            asked["queue"]
            for place, asked in state.answers("registering/").items()
            if state.answer(answer_key(place.rpartition("/")[2], role)) is None
        }

    def version(self, name: str, number: str) -> ModelVersion | None:
        """Return the twin of a version, under the first registry's number."""
        second = self.twin(name, number)
        if second is None:
            return None
        second[1]._version = self._number(number)
        return second[1]

    def twin(self, name: str, number: str) -> tuple[str, ModelVersion] | None:
        """Return (role, the twin of a version as that workspace numbers it)."""

        def find(role: str, registry: Any) -> ModelVersion | None:
            key = self.engine.state.answer(number_key(name, number))
            own = self.engine.applier(role).registrations.own_version(name, number, key)
            return None if own is None else registry.get_model_version(name, own)

        return self.ask(find)

    def behind_alias(self, name: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias points at."""
        second = self.ask(lambda _, registry: registry.get_model_version_by_alias(name, alias))
        return None if second is None else self._as_first(second[1])

    def model(self, name: str) -> RegisteredModel | None:
        """Return a registered model, its aliases and versions under the first registry's numbers."""
        second = self.ask(
            lambda _, registry: (registry.get_registered_model(name), _versions(registry, _named(name)))
        )
        return None if second is None else self._model_as_first(*second[1])

    def latest(self, name: str, stages: list[str] | None) -> list[ModelVersion] | None:
        """Return the newest version of each stage."""
        second = self.ask(lambda _, registry: registry.get_latest_versions(name, stages))
        return None if second is None else self._all_as_first(second[1])

    def search_versions(
        self, where: str | None, most: int | None, order_by: list[str] | None, token: str | None
    ) -> PagedList | None:
        """Search versions: filtered here, as numbers and runs are other ones there."""
        second = self.ask(lambda _, registry: _versions(registry, None))
        if second is None:
            return None
        found = SearchModelVersionUtils.filter(
            self._all_as_first(second[1]), add_prompt_filter_string(where, is_prompt=False)
        )
        order = order_by or ["last_updated_timestamp DESC", "name ASC", "version_number DESC"]
        return _page(SearchModelVersionUtils.sort(found, order), most, token)

    def search_models(
        self, where: str | None, most: int | None, order_by: list[str] | None, token: str | None
    ) -> PagedList | None:
        """Search registered models."""
        second = self.ask(
            lambda _, registry: (
                list(
                    entries(
                        lambda page: registry.search_registered_models(max_results=_MOST, page_token=page)
                    )
                ),
                _versions(registry, None),
            )
        )
        if second is None:
            return None
        models, versions = second[1]
        shown = [self._model_as_first(m, [v for v in versions if v.name == m.name]) for m in models]
        found = SearchModelUtils.filter(shown, add_prompt_filter_string(where, is_prompt=False))
        return _page(SearchModelUtils.sort(found, order_by), most, token)

    def _model_as_first(self, found: RegisteredModel, versions: list[ModelVersion]) -> RegisteredModel:
        numbers = {str(v.version): first for v in versions if (first := self._number_of(v)) is not None}
        found.latest_versions = self._all_as_first(found.latest_versions or [])
        aliases = {alias: numbers.get(str(number)) for alias, number in found.aliases.items()}
        found._aliases = {alias: str(number) for alias, number in aliases.items() if number is not None}
        return found

    def _all_as_first(self, versions: list[ModelVersion]) -> list[ModelVersion]:
        return [shown for found in versions if (shown := self._as_first(found)) is not None]

    def _as_first(self, found: ModelVersion) -> ModelVersion | None:
        number = self._number_of(found)
        if number is None:
            return None
        found._version = self._number(number)
        return found

    def _number_of(self, found: ModelVersion) -> str | None:
        """Return the first registry's number of a version: 0 where it waits for one, None for none."""
        role, _, twin = found.tags.get(TWIN_TAG, "").partition(":")
        if role == self.first:
            return str(twin.rpartition("/")[2])
        key = found.tags.get(KEY_TAG)
        waits = key is not None and self.engine.state.answer(f"provisional/{key}") is not None
        return "0" if waits else None


def _named(name: str) -> str:
    quoted = name.replace("'", "\\'")
    return f"name='{quoted}'"


def _versions(registry: Any, where: str | None) -> list[ModelVersion]:
    return list(
        entries(lambda page: registry.search_model_versions(where, max_results=_MOST, page_token=page))
    )


def _page(found: list[Any], most: int | None, token: str | None) -> PagedList:
    start = SearchUtils.parse_start_offset_from_page_token(token)
    end = start + (most or _MOST)
    return PagedList(found[start:end], SearchUtils.create_page_token(end) if end < len(found) else None)
