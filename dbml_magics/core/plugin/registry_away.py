"""Reads of the registry while the first registry does not answer.

The other registry's answer, with the writes on its way folded over it, takes the place of the first one's.
What a write that waits for the first registry deletes is not found, even where the other one has it. What
neither the other registry nor this machine knows is an outage, raised with its cause.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.prompt.registry_utils import add_prompt_filter_string
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry import (
    SEARCH_MODEL_VERSION_MAX_RESULTS_DEFAULT,
    SEARCH_MODEL_VERSION_MAX_RESULTS_THRESHOLD,
    SEARCH_REGISTERED_MODEL_MAX_RESULTS_DEFAULT,
    SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD,
)
from mlflow.utils.search_utils import SearchModelUtils, SearchModelVersionUtils, SearchUtils

from dbml_magics.common.hints import Remedy, say
from dbml_magics.core.delivery.writers.versions import KEY_TAG
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.mlflow_private import validate_model_version, with_fields
from dbml_magics.core.plugin.filters import own_filter
from dbml_magics.core.plugin.other_registry import OtherRegistry, Seen
from dbml_magics.core.plugin.registry_view import WAITING, Pointer, RegistryView, version_of

if TYPE_CHECKING:
    from dbml_magics.core.outbox.model_names import AliasTarget
    from dbml_magics.core.outbox.model_versions import ModelVersions, WaitingVersion
    from dbml_magics.core.plugin.registry_shown import Shown
    from dbml_magics.core.runtime.engine import Engine

T = TypeVar("T")


class AwayReads:
    """Answers for the first registry."""

    def __init__(self, engine: Engine, shown: Shown) -> None:
        self.engine = engine
        self.shown = shown
        self.first = shown.first
        self.other = OtherRegistry(engine, self.first, shown.files_of)

    @property
    def _versions(self) -> ModelVersions:
        return self.engine.state.model_versions

    def waiting_at(self, name: str, version: str) -> tuple[WaitingVersion | None, str]:
        """Return (the registration of a version that waits for its number, the number as far as known)."""
        waiting = self._versions.newest_provisional(name) if version == WAITING else None
        made = self._versions.registered(waiting["key"], self.first) if waiting else None
        return (waiting, version) if made is None else (None, made.version)

    def waiting_version(self, name: str, waiting: WaitingVersion) -> ModelVersion:
        """Return a version that the first registry has not numbered yet, from the journal alone."""
        view = self.other.on_its_way()
        self._refuse_gone(view, name, WAITING, waiting["key"])
        found = view.find(name, WAITING, waiting["key"])
        if found is None:
            at = int(waiting.get("at", time.time()) * 1000)
            found = version_of(waiting, WAITING, at, self.shown.files_of(waiting["source"]))
        return self.shown.as_first(found, view.aliases_of(found))

    def version(self, name: str, version: str) -> ModelVersion:
        """Return a version from the other registry, with the writes on its way there."""
        validate_model_version(version)
        key = self._versions.key_of(name, version)
        seen = self._seen(name, version, key)
        found = seen.view.find(name, version, key) if seen is not None else None
        if seen is None or found is None:
            raise self._unanswered(f"version {version} of {name}", seen)
        return self.shown.as_first(found, seen.view.aliases_of(found))

    def version_after(self, known: ModelVersion) -> ModelVersion:
        """Return a version as it stands after a write that the first registry did not answer."""
        with suppress(MlflowException):
            waiting, number = self.waiting_at(known.name, known.version)
            if waiting is not None:
                return self.waiting_version(known.name, waiting)
            return self.version(known.name, number)
        return known

    def model_after(self, name: str) -> RegisteredModel:
        """Return a model as it stands after a write that the first registry did not answer."""
        with suppress(MlflowException):
            return self.model(name)
        return self.shown.as_first_model(RegisteredModel(name))

    def behind_alias(self, name: str, alias: str, read: Callable[[str, str], ModelVersion]) -> ModelVersion:
        """Return the version behind an alias, as this machine or the other registry knows it.

        ``read`` returns a version by its number.
        """
        coming, names = self.other.on_its_way(), self.engine.state.model_names
        self._refuse_gone(coming, name)
        if (name, "alias", alias) in coming.gone:
            raise MlflowException(f"Registered model alias {alias} not found.", INVALID_PARAMETER_VALUE)
        known = names.alias(names.current(name), alias)
        if known is None:
            return self._behind_others_alias(name, alias)
        version = self._number_behind(known)
        waiting = self._versions.provisional(known.of) if known.of and version == WAITING else None
        if waiting is not None:
            return self.waiting_version(name, waiting)
        made = self._versions.registered(known.of, self.first)
        try:
            return read(name, version)
        except Unavailable:
            if made is None:
                raise
            return ModelVersion(
                made.name, self.shown.number(version), 0, source=self.shown.version_files(name, version)
            )

    def _behind_others_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version behind an alias at the other registry."""
        seen = self.other.seen([name])
        if seen is not None:
            view = seen.view
            at = view.aliases.get(name, {}).get(alias)
            newest = view.latest(name) if alias.lower() == "latest" else []
            found = newest[0] if newest else view.find(name, at.number, at.key) if at is not None else None
            if found is not None:
                return self.shown.as_first(found, view.aliases_of(found))
        raise self._unanswered(f"the alias {alias} of {name}", seen)

    def _number_behind(self, alias: AliasTarget) -> str:
        """Return the number of the version that an alias was pointed at, as far as it is known."""
        made = self._versions.registered(alias.of, self.first)
        return alias.version if made is None else made.version

    def search_versions(
        self, where: str | None, most: int | None, order_by: list[str] | None, token: str | None
    ) -> PagedList[ModelVersion]:
        """Search versions at the other registry; filter here, because numbers and run ids differ there."""
        if most is not None and not 1 <= most <= SEARCH_MODEL_VERSION_MAX_RESULTS_THRESHOLD:
            raise _too_many(most, SEARCH_MODEL_VERSION_MAX_RESULTS_THRESHOLD)
        seen = self._seen_all()
        there: list[ModelVersion] = []
        coming: list[ModelVersion] = []
        for version in seen.view.versions:
            waits = version.tags.get(KEY_TAG) in seen.view.waiting
            shown = self.shown.as_first(version)
            with_fields(shown, version=int(shown.version))  # by which a filter and an order take it
            (coming if waits else there).append(shown)
        own = own_filter(self.engine.side(seen.role), where, places_only=True)
        found = [
            each
            for versions, asked in ((there, own), (coming, where))
            for each in SearchModelVersionUtils.filter(
                versions, add_prompt_filter_string(asked, is_prompt=False)
            )
        ]
        order = order_by or ["last_updated_timestamp DESC", "name ASC", "version_number DESC"]
        ordered = SearchModelVersionUtils.sort(found, order)
        page = _page(ordered, SEARCH_MODEL_VERSION_MAX_RESULTS_DEFAULT if most is None else most, token)
        for each in page:
            with_fields(each, version=self.shown.number(each.version))
        return page

    def search_models(
        self, where: str | None, most: int | None, order_by: list[str] | None, token: str | None
    ) -> PagedList[RegisteredModel]:
        """Search registered models at the other registry."""
        if most is not None and most > SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD:
            raise _too_many(most, SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD)
        view = self._seen_all().view
        models = [self.shown.model_in(view, name) for name in view.models]
        for model in models:  # a database's own order, where it asks for many models at once
            model.latest_versions.sort(key=lambda version: version.current_stage)
        found = SearchModelUtils.filter(models, add_prompt_filter_string(where, is_prompt=False))
        ordered = SearchModelUtils.sort(found, order_by)
        return _page(ordered, SEARCH_REGISTERED_MODEL_MAX_RESULTS_DEFAULT if most is None else most, token)

    def latest(self, name: str, stages: list[str] | None) -> list[ModelVersion]:
        """Return a model's newest version of each stage."""
        wanted = {get_canonical_stage(stage) for stage in stages or ()}
        seen = self._seen(name)
        if seen is None or name not in seen.view.models:
            raise self._unanswered(f"the model {name}", seen)
        found = [v for v in seen.view.latest(name) if not wanted or v.current_stage in wanted]
        return [self.shown.as_first(version, seen.view.aliases_of(version)) for version in found]

    def _seen(self, name: str, *versions: str | None) -> Seen | None:
        """Return what the other registry holds of a model, unless a write on its way deletes it."""
        self._refuse_gone(self.other.on_its_way(), name, *versions)
        seen = self.other.seen([name])
        if seen is not None:
            self._refuse_gone(seen.view, name, *versions)
        return seen

    def _seen_all(self) -> Seen:
        """Return all that the other registry holds. Raises Unavailable where it does not answer."""
        seen = self.other.seen()
        if seen is None:
            raise self._unanswered("", None)
        return seen

    def model(self, name: str) -> RegisteredModel:
        """Return a model as the other registry, or this machine, knows it.

        Raises Unavailable, or "not found".
        """
        seen, names = self._seen(name), self.engine.state.model_names
        view = seen.view if seen is not None and name in seen.view.models else self.other.on_its_way()
        if name not in view.models:
            # MLflow's client asks this before it sets an alias or a tag, and that must not fail.
            if not self._versions.knows_model(name) and self._versions.newest_provisional(name) is None:
                raise self._unanswered(f"the model {name}", seen)
            view.models[name] = RegisteredModel(name, 0, 0)
        for alias, target in names.aliases(names.current(name)).items():
            at = Pointer(self._number_behind(target), target.of)
            view.aliases.setdefault(name, {}).setdefault(alias, at)
        return self.shown.model_in(view, name)

    def _unanswered(self, what: str, seen: Seen | None) -> Unavailable:
        """Return the error of a read that no registry answers: which is away, and which else was asked."""
        line = self.engine.health[self.first]
        reason = line.reason or "not reachable"
        others = self.engine.link.registries[1:]
        if seen is not None:
            said = f"{self.first} does not answer ({reason}), and {seen.role} does not have {what}"
        elif others:
            said = f"neither {self.first} nor {' nor '.join(others)} answers: {reason}"
        else:
            said = f"{self.first} does not answer: {reason}"
        shown = f"{said}; {say(Remedy('status'))} shows what waits"
        return Unavailable(reason, sent=False, denied=line.denied, shown=shown)

    @staticmethod
    def _refuse_gone(view: RegistryView, name: str, *versions: str | None) -> None:
        """Raise MLflow's "not found" for what a write on its way to the first registry deletes."""
        if (name,) in view.gone:
            raise MlflowException(f"Registered Model with name={name} not found", RESOURCE_DOES_NOT_EXIST)
        if any((name, version) in view.gone for version in versions if version is not None):
            raise MlflowException(
                f"Model Version (name={name}, version={versions[0]}) not found", RESOURCE_DOES_NOT_EXIST
            )


def _too_many(asked: int, most: int) -> MlflowException:
    return MlflowException(
        f"Invalid value for max_results: it must be from 1 to {most}, but got {asked}",
        INVALID_PARAMETER_VALUE,
    )


def _page(found: list[T], most: int, token: str | None) -> PagedList[T]:
    start = SearchUtils.parse_start_offset_from_page_token(token)
    end = start + max(most, 0)
    return PagedList(found[start:end], SearchUtils.create_page_token(end) if end < len(found) else None)
