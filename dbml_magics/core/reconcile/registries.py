"""Registered models and versions: pair them across registries, compare them, repair them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.versions import KEY_TAG, TWIN_TAG
from dbml_magics.core.destinations.errors import is_missing
from dbml_magics.core.outbox.merge_base import MergeBase
from dbml_magics.core.paging import entries
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.results.reconcile import ABSENT, Difference

_PAGE = 1000
_NAMES_PAGE = 100
_OURS = ("dbml_", "mlflow.", "azureml.")
DESCRIPTION = "description"
STAGE = "stage"
_PROMPT_TAG = "mlflow.prompt.is_prompt"
_OF_MODEL = re.compile(r"^models:/(m-[^/]+)$|/models/(m-[^/]+)/artifacts/?$")
MODEL = "registered model"
MakeDifference = Callable[[str, str, str, str, object, object], Difference]
Facts = dict[str, str | None]


@dataclass(frozen=True)
class Version:
    """A registered version as one registry has it."""

    key: str  # of its registration, which both registries' versions carry; empty for one made without a link
    name: str
    number: str
    run: str
    description: str
    tags: dict[str, str]
    twin: str
    source: str
    model: str  # the logged model that it was made of, if any
    status: str
    stage: str  # empty where the registry has no stages
    created: int

    @property
    def place(self) -> str:
        """Return the name and number."""
        return f"{self.name}/{self.number}"

    def said(self, what: str) -> str | None:
        """Return one of the facts, or its stage."""
        return self.stage if what == STAGE else self.facts.get(what)

    @property
    def is_ours(self) -> bool:
        """Tell whether it was registered through a link."""
        return bool(self.key or self.twin)

    @property
    def facts(self) -> Facts:
        """Return its editable facts."""
        return {DESCRIPTION: self.description or None, **{f"tag {k}": v for k, v in self.tags.items()}}


@dataclass(frozen=True)
class Registered:
    """A registered model as one registry has it, with its versions."""

    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, str]
    versions: tuple[Version, ...]

    @property
    def facts(self) -> Facts:
        """Return its editable facts except for aliases."""
        return {DESCRIPTION: self.description or None, **{f"tag {k}": v for k, v in self.tags.items()}}


@dataclass(frozen=True)
class VersionPair:
    """A version as each registry has it, or None where it has not."""

    first: Version | None
    second: Version | None

    @property
    def either(self) -> Version:
        """Return the version of one of the two."""
        found = self.first or self.second
        assert found is not None
        return found

    @property
    def names(self) -> set[str]:
        """Return under which names it is registered."""
        return {version.name for version in (self.first, self.second) if version is not None}

    @property
    def place(self) -> str:
        """Return its place in the merge base."""
        return f"version/{self.either.key or self.either.place}"


@dataclass(frozen=True)
class ModelPair:
    """A registered model that both registries have, with the pairs of its versions."""

    first: Registered
    second: Registered
    versions: list[VersionPair] = field(default_factory=list)
    meant: frozenset[str] = frozenset()  # the places of those of them that are in scope

    @property
    def place(self) -> str:
        """Return its place in the merge base."""
        return f"registered/{self.first.name}"

    def pointed(self, alias: str) -> tuple[VersionPair | None, VersionPair | None]:
        """Return which version an alias points at in each registry."""
        numbers = self.first.aliases.get(alias), self.second.aliases.get(alias)
        return (
            next((p for p in self.versions if p.first and p.first.number == numbers[0]), None),
            next((p for p in self.versions if p.second and p.second.number == numbers[1]), None),
        )

    def dangling(self, alias: str) -> tuple[bool, bool]:
        """Tell of each registry whether an alias points there at a version that is gone."""
        first, second = self.pointed(alias)
        return alias in self.first.aliases and first is None, alias in self.second.aliases and second is None

    def aliases(self) -> list[str]:
        """Return the aliases of versions in scope and of none, in either registry."""
        return [
            alias
            for alias in sorted({*self.first.aliases, *self.second.aliases})
            if any(p is not None and p.place in self.meant for p in self.pointed(alias))
            or any(self.dangling(alias))
        ]


def registered(
    reader: WorkspaceReader, troubled: Callable[[str, Exception], None], *, older: bool
) -> Iterator[Registered]:
    """Yield all registered models with their versions; :func:`_complete` reads what else is said of one.

    ``troubled`` takes those of which the versions cannot be read. Without ``older`` nobody is asked for the
    runs of versions that were registered without a link.
    """

    def page(token: str | None) -> PagedList[RegisteredModel]:
        return reader.ask(partial(reader.workspace.search_registered_models, _NAMES_PAGE, token))

    for model in entries(page):
        tags = model.tags  # Unity Catalog's search returns none: there it is a method that raises
        if isinstance(tags, dict) and str(tags.get(_PROMPT_TAG)).lower() == "true":
            continue  # prompts go to the primary alone
        try:
            versions = sorted(_versions(reader, model.name), key=lambda v: int(v.version))
            shown = tuple(version_of(reader, each, older=older) for each in versions)
            yield Registered(model.name, "", {}, {}, shown)
        except Exception as error:
            troubled(model.name, error)


def registered_as(model: RegisteredModel, versions: tuple[Version, ...]) -> Registered:
    """Convert a registry's registered model."""
    return Registered(
        model.name,
        model.description or "",
        _own_tags(dict(model.tags)),
        {alias: str(number) for alias, number in (model.aliases or {}).items()},
        versions,
    )


def complete(reader: WorkspaceReader, model: Registered) -> Registered | None:
    """Return a registered model with all that is said of it, which a search leaves out in part."""
    try:
        found = reader.ask(partial(reader.workspace.get_registered_model, model.name))
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None
    return registered_as(found, model.versions)


def _versions(reader: WorkspaceReader, name: str) -> Iterator[ModelVersion]:
    quoted = name.replace("'", "\\'")

    def page(token: str | None) -> PagedList[ModelVersion]:
        return reader.ask(partial(reader.workspace.search_model_versions, f"name='{quoted}'", _PAGE, token))

    return entries(page)


def version_of(reader: WorkspaceReader, found: ModelVersion, *, older: bool = True) -> Version:
    """Convert a registry's version, under the ids that the user knows."""
    tags = dict(found.tags)
    asks = older or bool({KEY_TAG, TWIN_TAG} & tags.keys())
    run = found.run_id or ""
    if run and asks and RUN_TAG not in tags:
        run = reader.key_of(run)
    named = _OF_MODEL.search(found.source or "")
    model = found.model_id or (named[1] or named[2] if named is not None else "")
    if model and asks:
        model = reader.model_key_of(model)
    return Version(
        key=tags.get(KEY_TAG, ""),
        name=found.name,
        number=str(found.version),
        run=tags.get(RUN_TAG) or ("" if reader.is_gone(run) else run),
        description=found.description or "",
        tags=_own_tags(tags),
        twin=tags.get(TWIN_TAG, ""),
        source=found.source or "",
        model=model,
        status=str(found.status or ""),
        stage=str(found.current_stage or ""),
        created=found.creation_timestamp or 0,
    )


def _own_tags(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if not k.startswith(_OURS)}


class Registries:
    """Two registries' models and versions, paired: by their registration, their twins, else by their run."""

    def __init__(
        self,
        first: WorkspaceReader,
        second: WorkspaceReader,
        keep: Callable[[Version], bool],
        unread: Callable[[str, str, Exception, str], Difference],
        *,
        chosen: bool,
        everything: bool,
    ) -> None:
        self.readers = first, second
        self.troubles: list[Difference] = []
        self._troubled: set[tuple[str, str]] = set()  # (workspace, model) whose versions are not known

        def troubled(role: str, name: str, error: Exception) -> None:
            self.troubles.append(unread("", name, error, MODEL))
            self._troubled.add((role, name))

        ours, theirs = (
            {model.name: model for model in registered(reader, partial(troubled, reader.role), older=chosen)}
            for reader in self.readers
        )
        pairs = self._pairs(ours.values(), theirs.values())
        self.versions = [pair for pair in pairs if keep(pair.either)]
        self.models: list[ModelPair] = []
        self.lone: list[tuple[Registered | None, Registered | None]] = []  # without a version to bring them
        self.older: Counter[str] = (
            Counter()
        )  # models that one has, with versions that were made without a link
        meant = {pair.place for pair in self.versions}
        by_name: dict[str, list[VersionPair]] = {}
        for pair in pairs:
            for name in pair.names:
                by_name.setdefault(name, []).append(pair)
        for name in sorted({*ours, *theirs}):
            if any(self._is_troubled(reader.role, name) for reader in self.readers):
                continue
            own = by_name.get(name, [])
            one = ours.get(name)
            other = theirs.get(next((p.second.name for p in own if p.first and p.second), name))
            if not everything:
                self._count_older(one, other, [p for p in own if p.place not in meant])
            if everything and (one is None or other is None) and not own:
                self.lone.append((one, other))
            elif one and other and (everything or any(p.place in meant for p in own)):
                whole = complete(first, one), complete(second, other)
                if whole[0] is not None and whole[1] is not None:
                    self.models.append(ModelPair(whole[0], whole[1], own, frozenset(meant)))

    def _pairs(self, ours: Iterable[Registered], theirs: Iterable[Registered]) -> list[VersionPair]:
        first, second = self.readers
        others = [v for model in theirs for v in model.versions]
        place = first.side.versions.place
        by_key = {v.key: v for v in others if v.key}
        by_twin = {v.twin: v for v in others if v.twin}
        by_place = {place(second.role, v.name, v.number): v for v in others}
        by_run: dict[tuple[str, ...], list[Version]] = {}
        for each in others:
            by_run.setdefault(_made_of(each), []).append(each)
        taken: set[str] = set()
        pairs: list[VersionPair] = []
        unpaired: list[Version] = []
        for own in (v for model in ours for v in model.versions):
            if self._is_troubled(second.role, own.name, *_twin_of(own)):
                continue
            other = by_key.get(own.key) or by_twin.get(place(first.role, own.name, own.number))
            other = other or by_place.get(own.twin)
            if other is None or other.place in taken:
                unpaired.append(own)
                continue
            taken.add(other.place)
            pairs.append(VersionPair(self._of_one_model(own, other), other))
        for own in unpaired:
            alike = [v for v in by_run.get(_made_of(own), ()) if v.place not in taken and not v.is_ours]
            other = alike[0] if own.run and not own.is_ours and alike else None
            if other is not None:
                taken.add(other.place)
            pairs.append(VersionPair(own, other))
        pairs += [
            VersionPair(None, v)
            for v in others
            if v.place not in taken and not self._is_troubled(first.role, v.name, *_twin_of(v))
        ]
        # In the order in which they were made: numbers come out alike, and a copy follows its original.
        return sorted(pairs, key=lambda pair: (pair.either.created, int(pair.either.number)))

    def _of_one_model(self, own: Version, other: Version) -> Version:
        """Name the logged model of two twins alike: one that was named elsewhere says so in its tag."""
        first = self.readers[0]
        if own.model and other.model and own.model != other.model and first.side.learned.has_logged_models:
            found = first.model(first.own_model(own.model))
            if found is not None and found.other_key == other.model:
                return replace(own, model=other.model)
        return own

    def _count_older(
        self, one: Registered | None, other: Registered | None, pairs: Iterable[VersionPair]
    ) -> None:
        for number, (reader, there) in enumerate(zip(self.readers, (other, one), strict=True)):
            own = (one, other)[number]
            lone = [p for p in pairs if (p.first, p.second)[1 - number] is None and not p.either.is_ours]
            if own is not None and (lone or (there is None and not own.versions)):
                self.older[reader.role] += 1

    def _is_troubled(self, role: str, *names: str) -> bool:
        """Tell whether a model's versions in one registry are not known: none counts as lacking there."""
        return any((role, name) in self._troubled for name in names)

    def differences(self, make_difference: MakeDifference) -> Iterator[Difference]:
        """Yield all differences, and versions that cannot be compared."""
        yield from self.troubles
        for pair in self.versions:
            yield from version_differences(pair, make_difference)
        for one, other in self.lone:
            yield lone_difference(one, other, make_difference)
        for model in self.models:
            yield from model_differences(model, make_difference)

    def dangling(self) -> Iterator[str]:
        """Yield the aliases that point at versions that are gone, in words."""
        for model in self.models:
            for alias in model.aliases():
                for reader, own, gone in zip(
                    self.readers, (model.first, model.second), model.dangling(alias), strict=True
                ):
                    if gone:
                        where = f"version {own.aliases[alias]}, which is gone in {reader.role}"
                        yield f"alias {alias} of {own.name} points at {where}"

    def note_alike(self, merge_base: MergeBase) -> None:
        """Save equal facts of both registries as merge base: a later difference is an edit."""
        for pair in self.versions:
            if pair.first is not None and pair.second is not None:
                merge_base.note_facts(pair.place, pair.first.facts, pair.second.facts)
        for model in self.models:
            ours, theirs = (dict(reader.facts) for reader in (model.first, model.second))
            for alias in model.aliases():
                first, second = model.pointed(alias)
                ours[alias_fact(alias)] = canonical(first)
                theirs[alias_fact(alias)] = canonical(second)
            merge_base.note_facts(model.place, ours, theirs)


def _twin_of(version: Version) -> tuple[str, ...]:
    """Return the name of a version's twin in the other registry, if it names one."""
    name = version.twin.partition(":")[2].rpartition("/")[0]
    return (name,) if name else ()


def _made_of(version: Version) -> tuple[str, ...]:
    """Return the key that pairs versions registered without a link."""
    return version.name, version.run, version.model


def alias_fact(alias: str) -> str:
    """Return the merge base's key for an alias's version."""
    return f"alias {alias}"


def canonical(pair: VersionPair | None) -> str | None:
    """Return a version's name that is the same in both registries."""
    return None if pair is None else pair.place


def version_differences(pair: VersionPair, make_difference: MakeDifference) -> Iterator[Difference]:
    """Yield the differences between two twins, or that one is missing."""
    a, b = pair.first, pair.second
    either = pair.either
    if a is None or b is None:
        there = (f"version {a.number}" if a else ABSENT, f"version {b.number}" if b else ABSENT)
        yield make_difference(either.run, either.place, "version", "", *there)
        return
    if a.run != b.run:
        yield make_difference(either.run, either.place, "version", "run", a.run or ABSENT, b.run or ABSENT)
    if a.status != b.status:
        yield make_difference(either.run, either.place, "version", "status", a.status, b.status)
    if a.model and b.model and a.model != b.model:
        yield make_difference(either.run, either.place, "version", "model", a.model, b.model)
    if a.stage and b.stage and a.stage != b.stage:
        yield make_difference(either.run, either.place, "version", STAGE, a.stage, b.stage)
    yield from _fact_differences(
        partial(make_difference, either.run, either.place, "version"), a.facts, b.facts
    )


def model_differences(pair: ModelPair, make_difference: MakeDifference) -> Iterator[Difference]:
    """Yield the differences between two registered models: description, tags, aliases."""
    name = pair.first.name
    yield from _fact_differences(
        partial(make_difference, "", name, MODEL), pair.first.facts, pair.second.facts
    )
    for alias in pair.aliases():
        first, second = pair.pointed(alias)
        gone = pair.dangling(alias)
        if first is second and gone[0] == gone[1]:
            continue
        numbers = (
            f"{model.aliases.get(alias, ABSENT)}{', which is gone' if lost else ''}"
            if alias in model.aliases
            else ABSENT
            for model, lost in zip((pair.first, pair.second), gone, strict=True)
        )
        either = first or second
        yield make_difference(either.either.run if either is not None else "", name, "alias", alias, *numbers)


def lone_difference(
    one: Registered | None, other: Registered | None, make_difference: MakeDifference
) -> Difference:
    """Return that one registry lacks a registered model that has no versions."""
    either = one or other
    assert either is not None
    return make_difference(
        "", either.name, MODEL, "", "there" if one else ABSENT, "there" if other else ABSENT
    )


def _fact_differences(
    make_difference: Callable[..., Difference], ours: Facts, theirs: Facts
) -> Iterator[Difference]:
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if a != b:
            yield make_difference(key, ABSENT if a is None else a, ABSENT if b is None else b)
