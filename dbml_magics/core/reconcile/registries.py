"""Registered models and versions: which one is which of the other registry, what differs, what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException

from dbml_magics.core.paging import entries
from dbml_magics.core.reconcile.agreed import Agreed
from dbml_magics.core.reconcile.fixes import Fix, Outcomes, unread
from dbml_magics.core.reconcile.sides import Side
from dbml_magics.core.tracking.faults import is_missing
from dbml_magics.core.tracking.registrations import KEY_TAG, RUN_TAG, TWIN_TAG, answer_key
from dbml_magics.differences import ABSENT, Difference

if TYPE_CHECKING:
    from dbml_magics.core.reconcile.mender import Mender

_PAGE = 1000
_NAMES_PAGE = 100
_OURS = ("dbml_", "mlflow.", "azureml.")
_DESCRIPTION = "description"
MODEL = "registered model"
Told = Callable[[str, str, str, str, Any, Any], Difference]
Facts = dict[str, str | None]


@dataclass(frozen=True)
class Version:
    """A registered version as one registry has it."""

    key: str  # of its registration, which both registries' versions carry; empty for one made without us
    name: str
    number: str
    run: str
    description: str
    tags: dict[str, str]
    twin: str
    source: str
    model: str

    @property
    def place(self) -> str:
        """Return the name and number."""
        return f"{self.name}/{self.number}"

    @property
    def facts(self) -> Facts:
        """Return what people edit of it."""
        return {_DESCRIPTION: self.description or None, **{f"tag {k}": v for k, v in self.tags.items()}}


@dataclass(frozen=True)
class Registered:
    """A registered model as one registry has it, with its versions that were registered through a link."""

    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, str]
    versions: tuple[Version, ...]

    @property
    def facts(self) -> Facts:
        """Return what people edit of it, its aliases aside."""
        return {_DESCRIPTION: self.description or None, **{f"tag {k}": v for k, v in self.tags.items()}}


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
    def place(self) -> str:
        """Return where what is agreed of it stands."""
        return f"version/{self.either.key or self.either.place}"


@dataclass(frozen=True)
class ModelPair:
    """A registered model that both registries have, with the pairs of its versions."""

    first: Registered
    second: Registered
    versions: list[VersionPair] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Return where what is agreed of it stands."""
        return f"registered/{self.first.name}"

    def pointed(self, alias: str) -> tuple[VersionPair | None, VersionPair | None]:
        """Return which version an alias points at in each registry."""
        numbers = self.first.aliases.get(alias), self.second.aliases.get(alias)
        return (
            next((p for p in self.versions if p.first and p.first.number == numbers[0]), None),
            next((p for p in self.versions if p.second and p.second.number == numbers[1]), None),
        )

    def aliases(self) -> list[str]:
        """Return the aliases that point at versions of the link's, in either registry."""
        return [
            alias for alias in sorted({*self.first.aliases, *self.second.aliases}) if any(self.pointed(alias))
        ]


def registered(side: Side, troubled: Callable[[str, Exception], None]) -> Iterator[Registered]:
    """Yield all registered models that have versions of a link; ``troubled`` takes what cannot be read."""
    registry = side.applier.workspace.registry

    def page(token: str | None) -> Any:
        return side.ask(partial(registry.search_registered_models, max_results=_NAMES_PAGE, page_token=token))

    for model in entries(page):
        try:
            found = _with_versions(side, registry, model.name)
        except Exception as error:
            troubled(model.name, error)
            continue
        if found is not None:
            yield found


def _with_versions(side: Side, registry: Any, name: str) -> Registered | None:
    own = [version for version in _versions(side, registry, name) if _is_ours(version)]
    if not own:
        return None
    try:
        model = side.ask(lambda: registry.get_registered_model(name))
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None
    return Registered(
        name,
        model.description or "",
        _own_tags(dict(model.tags)),
        {alias: str(number) for alias, number in (model.aliases or {}).items()},
        tuple(_version(side, each) for each in own),
    )


def _versions(side: Side, registry: Any, name: str) -> Iterator[Any]:
    quoted = name.replace("'", "\\'")

    def page(token: str | None) -> Any:
        return side.ask(
            partial(registry.search_model_versions, f"name='{quoted}'", max_results=_PAGE, page_token=token)
        )

    return entries(page)


def _version(side: Side, found: Any) -> Version:
    tags = dict(found.tags)
    return Version(
        key=tags.get(KEY_TAG, ""),
        name=found.name,
        number=str(found.version),
        run=tags.get(RUN_TAG) or (side.key_of(found.run_id) if found.run_id else ""),
        description=found.description or "",
        tags=_own_tags(tags),
        twin=tags.get(TWIN_TAG, ""),
        source=found.source or "",
        model=getattr(found, "model_id", None) or "",
    )


def _own_tags(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if not k.startswith(_OURS)}


def _is_ours(version: Any) -> bool:
    return bool({KEY_TAG, TWIN_TAG} & set(version.tags))


class Registries:
    """Two registries' models and versions, paired: by their registration, else by their twins."""

    def __init__(
        self,
        first: Side,
        second: Side,
        keep: Callable[[Version], bool],
        unread: Callable[[str, str, Exception, str], Difference],
    ) -> None:
        self.troubles: list[Difference] = []
        self._troubled: set[tuple[str, str]] = set()  # (workspace, model) whose versions are not known

        def troubled(role: str, name: str, error: Exception) -> None:
            self.troubles.append(unread("", name, error, MODEL))
            self._troubled.add((role, name))

        ours, theirs = (list(registered(side, partial(troubled, side.role))) for side in (first, second))
        others = [v for model in theirs for v in model.versions]
        by_key = {v.key: v for v in others if v.key}
        by_twin = {v.twin: v for v in others if v.twin}
        place = first.applier.registrations.place
        by_name = {model.name: model for model in theirs}
        taken: set[str] = set()
        self.versions: list[VersionPair] = []
        self.models: list[ModelPair] = []
        for model in ours:
            pairs = []
            if self._is_troubled(second.role, model.name):
                continue
            for own in model.versions:
                if self._is_troubled(second.role, *_twin_of(own)):
                    continue
                other = by_key.get(own.key) or by_twin.get(place(first.role, own.name, own.number))
                if other is not None:
                    taken.add(other.place)
                pairs.append(VersionPair(own, other))
            self.versions += [pair for pair in pairs if keep(pair.either)]
            name = next((p.second.name for p in pairs if p.second is not None), model.name)
            if name in by_name and any(keep(pair.either) for pair in pairs):
                self.models.append(ModelPair(model, by_name[name], pairs))
        alone = [
            VersionPair(None, v)
            for v in others
            if v.place not in taken
            and not self._is_troubled(first.role, v.name)
            and not self._is_troubled(first.role, *_twin_of(v))
        ]
        self.versions += [pair for pair in alone if keep(pair.either)]
        for pair in self.models:
            pair.versions.extend(p for p in alone if p.either.name == pair.second.name)

    def _is_troubled(self, role: str, *names: str) -> bool:
        """Tell whether a model's versions in one registry are not known: none counts as lacking there."""
        return any((role, name) in self._troubled for name in names)

    def differences(self, told: Told) -> Iterator[Difference]:
        """Yield all that differs, and what cannot be compared."""
        yield from self.troubles
        for pair in self.versions:
            yield from version_differences(pair, told)
        for model in self.models:
            yield from model_differences(model, told)

    def note_agreed(self, agreed: Agreed) -> None:
        """Remember what both registries say alike: what differs later was edited in one of them."""
        for pair in self.versions:
            if pair.first is not None and pair.second is not None:
                agreed.note_facts(pair.place, pair.first.facts, pair.second.facts)
        for model in self.models:
            ours, theirs = (dict(side.facts) for side in (model.first, model.second))
            for alias in model.aliases():
                first, second = model.pointed(alias)
                ours[alias_fact(alias)] = _canonical(first)
                theirs[alias_fact(alias)] = _canonical(second)
            agreed.note_facts(model.place, ours, theirs)


def _twin_of(version: Version) -> tuple[str, ...]:
    """Return the name of a version's twin in the other registry, if it names one."""
    name = version.twin.partition(":")[2].rpartition("/")[0]
    return (name,) if name else ()


def alias_fact(alias: str) -> str:
    """Return under what name it is remembered at which version an alias points."""
    return f"alias {alias}"


def _canonical(pair: VersionPair | None) -> str | None:
    return None if pair is None else pair.place


def version_differences(pair: VersionPair, told: Told) -> Iterator[Difference]:
    """Yield what differs between two twins, or that one is not there."""
    a, b = pair.first, pair.second
    either = pair.either
    if a is None or b is None:
        there = (f"version {a.number}" if a else ABSENT, f"version {b.number}" if b else ABSENT)
        yield told(either.run, either.place, "version", "", *there)
        return
    if a.run != b.run:
        yield told(either.run, either.place, "version", "run", a.run or ABSENT, b.run or ABSENT)
    yield from _fact_differences(partial(told, either.run, either.place, "version"), a.facts, b.facts)


def model_differences(pair: ModelPair, told: Told) -> Iterator[Difference]:
    """Yield what differs between two registered models: description, tags, aliases."""
    name = pair.first.name
    yield from _fact_differences(partial(told, "", name, MODEL), pair.first.facts, pair.second.facts)
    for alias in pair.aliases():
        first, second = pair.pointed(alias)
        if first is not second:
            numbers = pair.first.aliases.get(alias, ABSENT), pair.second.aliases.get(alias, ABSENT)
            either = first or second
            assert either is not None
            yield told(either.either.run, name, "alias", alias, *numbers)


def _fact_differences(told: Callable[..., Difference], ours: Facts, theirs: Facts) -> Iterator[Difference]:
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if a != b:
            yield told(key, ABSENT if a is None else a, ABSENT if b is None else b)


class RegistryMender:
    """Mends registered models and versions, from the source's registry to the target's."""

    def __init__(self, mender: Mender, read: Callable[[], Registries | None]) -> None:
        self.mender = mender
        self.source = mender.source
        self.target = mender.target
        self.read = read

    def all(self) -> Iterator[Outcomes]:
        """Mend what is in scope; versions first, for aliases point at them."""
        found = self.read()
        if found is None:
            return
        mender, told = self.mender, self.mender.comparer.difference
        yield from map(unread, found.troubles)
        registered_some = False
        for pair in found.versions:
            outcomes = [
                (d, mender.mended(partial(self._version, d, pair))) for d in version_differences(pair, told)
            ]
            registered_some |= any(outcome.good and not d.key for d, outcome in outcomes)
            if outcomes:
                yield outcomes
        if registered_some and not mender.rehearse:
            found = self.read() or found
        for model in found.models:
            outcomes = [
                (d, mender.mended(partial(self._model, d, model))) for d in model_differences(model, told)
            ]
            if outcomes:
                yield outcomes
        if not mender.rehearse:
            found.note_agreed(mender.agreed)

    @staticmethod
    def _registry(side: Side) -> Any:
        return side.applier.workspace.registry

    def _version(self, difference: Difference, pair: VersionPair) -> Fix:
        """Plan for a version; a registry takes none under another's number, so twins only match."""
        ours, theirs = (pair.first, pair.second) if self.mender.forwards else (pair.second, pair.first)
        role, what = self.target.role, difference.key
        if ours is None:
            return Fix(f"in {role} alone; --from {role} registers it")
        if theirs is None:
            return self._registration(ours)
        if what == "run":
            return Fix("a registered version's run cannot be changed")
        at = {self.source: ours, self.target: theirs}

        def write(side: Side, value: str) -> None:
            own = at[side]
            if what == _DESCRIPTION:
                self._registry(side).update_model_version(own.name, own.number, value)
                return
            tag = ModelVersionTag(what.removeprefix("tag "), value)
            self._registry(side).set_model_version_tag(own.name, own.number, tag)

        def delete(side: Side) -> None:
            own = at[side]
            if what == _DESCRIPTION:
                self._registry(side).update_model_version(own.name, own.number, "")
                return
            self._registry(side).delete_model_version_tag(own.name, own.number, what.removeprefix("tag "))

        return self.mender.fact(
            pair.place, difference, (ours.facts.get(what), theirs.facts.get(what)), write, delete
        )

    def _model(self, difference: Difference, pair: ModelPair) -> Fix:
        ours, theirs = (pair.first, pair.second) if self.mender.forwards else (pair.second, pair.first)
        if difference.kind == "alias":
            return self._alias(difference, pair, {self.source: ours, self.target: theirs})
        names, what = {self.source: ours.name, self.target: theirs.name}, difference.key

        def write(side: Side, value: str) -> None:
            if what == _DESCRIPTION:
                self._registry(side).update_registered_model(names[side], value)
                return
            tag = RegisteredModelTag(what.removeprefix("tag "), value)
            self._registry(side).set_registered_model_tag(names[side], tag)

        def delete(side: Side) -> None:
            if what == _DESCRIPTION:
                self._registry(side).update_registered_model(names[side], "")
                return
            self._registry(side).delete_registered_model_tag(names[side], what.removeprefix("tag "))

        return self.mender.fact(
            pair.place, difference, (ours.facts.get(what), theirs.facts.get(what)), write, delete
        )

    def _alias(self, difference: Difference, pair: ModelPair, at: dict[Side, Registered]) -> Fix:
        alias = difference.key
        first, second = pair.pointed(alias)
        ours, theirs = (first, second) if self.mender.forwards else (second, first)
        source, target = self.source.role, self.target.role
        if ours is None and alias in at[self.source].aliases:
            return Fix(f"points at a version that is in {source} alone")
        if ours is None and theirs is not None and None in (theirs.first, theirs.second):
            return Fix(f"in {target} alone, at a version that {source} has not")
        if ours is not None and None in (ours.first, ours.second):
            return Fix(f"its version is not registered in {target}")
        wanted = {p.place: p for p in (ours, theirs) if p is not None}

        def write(side: Side, place: str) -> None:
            there = wanted[place]
            own = there.first if side is self.mender.survey.first else there.second
            assert own is not None
            self._registry(side).set_registered_model_alias(at[side].name, alias, own.number)

        def delete(side: Side) -> None:
            self._registry(side).delete_registered_model_alias(at[side].name, alias)

        renamed = Difference(difference.run, difference.name, "alias", alias_fact(alias), difference.values)
        return self.mender.fact(pair.place, renamed, (_canonical(ours), _canonical(theirs)), write, delete)

    def _registration(self, ours: Version) -> Fix:
        if not ours.key:
            return Fix(
                f"registered without a link; %dbml register {ours.run[:8] or 'RUN'} {ours.name} does it"
            )
        return Fix(f"registered in {self.target.role}", partial(self._register, ours))

    def _register(self, ours: Version) -> None:
        """Register a version's twin, its files carried over first if need be."""
        source, state = self.source, self.mender.state
        told = {
            "key": ours.key,
            "name": ours.name,
            "tags": ours.tags,
            "run": ours.run or None,
            "description": ours.description or None,
            "source": self._source(ours),
            "to": [source.role, self.target.role],
        }
        registrations = self.target.applier.registrations
        twin = registrations.place(source.role, ours.name, ours.number)
        made = self.mender.write(lambda: registrations._register(told, True, twin))
        state.set_answer(answer_key(ours.key, self.target.role), made)
        tag = ModelVersionTag(TWIN_TAG, registrations.place(self.target.role, made["name"], made["version"]))
        registry = self._registry(source)
        source.ask(lambda: registry.set_model_version_tag(ours.name, ours.number, tag))

    def _source(self, ours: Version) -> dict[str, Any]:
        state, role = self.mender.state, self.source.role
        model = ours.model or (
            ours.source.removeprefix("models:/") if ours.source.startswith("models:/m-") else ""
        )
        if model:
            return {"kind": "model", "id": state.visible(role, "model", model) or model}
        _, artifacts, path = ours.source.partition("/artifacts/")
        if ours.run and artifacts and path:
            return {"kind": "run", "run": ours.run, "path": path}
        return {"kind": "uri", "uri": ours.source}
