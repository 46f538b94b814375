"""Repair differences in registered models and versions, from the source to the target."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial

from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.versions import TWIN_TAG
from dbml_magics.core.destinations.protocol import Registry
from dbml_magics.core.model.facts import VersionFacts, VersionSource
from dbml_magics.core.reconcile.fixes import Fix, Outcomes, unread
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.core.reconcile.registries import (
    DESCRIPTION,
    STAGE,
    ModelPair,
    Registered,
    Registries,
    Version,
    VersionPair,
    alias_fact,
    canonical,
    complete,
    lone_difference,
    model_differences,
    version_differences,
)
from dbml_magics.core.reconcile.repairer import Repairer
from dbml_magics.results.reconcile import Difference

_OF_VERSION = re.compile(r"models:/([^/]+)/(\d+)")
_OWN_PLACES = ("mlflow-artifacts:", "dbfs:", "azureml:", "runs:", "models:/m-")


class RegistryRepairer:
    """Mends registered models and versions, from the source's registry to the target's."""

    def __init__(self, repairer: Repairer, read: Callable[[], Registries | None]) -> None:
        self.repairer = repairer
        self.source = repairer.source
        self.target = repairer.target
        self.read = read

    def all(self) -> Iterator[Outcomes]:
        """Mend what is in scope; versions first, for aliases point at them."""
        found = self.read()
        if found is None:
            return
        repairer, make_difference = self.repairer, self.repairer.comparer.difference
        yield from map(unread, found.troubles)
        registered_some = False
        for pair in found.versions:
            outcomes = [
                (d, repairer.mended(partial(self._version, d, pair, found)))
                for d in version_differences(pair, make_difference)
            ]
            registered_some |= any(outcome.good and not d.key for d, outcome in outcomes)
            if outcomes:
                yield outcomes
        for one, other in found.lone:
            difference = lone_difference(one, other, make_difference)
            outcome = repairer.mended(partial(self._lone, one, other))
            registered_some |= outcome.good
            yield [(difference, outcome)]
        if registered_some and not repairer.dry_run:
            found = self.read() or found
        for model in found.models:
            outcomes = [
                (d, repairer.mended(partial(self._model, d, model)))
                for d in model_differences(model, make_difference)
            ]
            if outcomes:
                yield outcomes
        if not repairer.dry_run:
            found.note_alike(repairer.merge_base)

    @staticmethod
    def _registry(reader: WorkspaceReader) -> Registry:
        return reader.workspace

    def _lone(self, first: Registered | None, second: Registered | None) -> Fix:
        ours = first if self.repairer.forwards else second
        role = self.target.role
        if ours is None:
            return Fix(f"in {role} alone; --from {role} copies it")
        registry, write = self._registry(self.target), self.repairer.write

        def make() -> None:
            whole = complete(self.source, ours) or ours
            about = whole.description or None
            write(lambda: registry.create_registered_model(whole.name, whole.tags, about))

        return Fix(f"made in {role}", make)

    def _version(self, difference: Difference, pair: VersionPair, found: Registries) -> Fix:
        """Plan for a version; a registry takes none under another's number, so twins only match."""
        ours, theirs = (pair.first, pair.second) if self.repairer.forwards else (pair.second, pair.first)
        role, what = self.target.role, difference.key
        if ours is None:
            return Fix(f"in {role} alone; --from {role} registers it")
        if theirs is None:
            return Fix(f"registered in {role}", partial(self._register, ours, found))
        if what in ("run", "model", "status"):
            return Fix(f"a registered version's {what} cannot be changed")
        at = {self.source: ours, self.target: theirs}

        def write(reader: WorkspaceReader, value: str) -> None:
            own = at[reader]
            if what == DESCRIPTION:
                self._registry(reader).update_model_version(own.name, own.number, value)
                return
            if what == STAGE:
                self._registry(reader).transition_model_version_stage(own.name, own.number, value, False)
                return
            name = what.removeprefix("tag ")
            self._registry(reader).set_model_version_tag(own.name, own.number, name, value)

        def delete(reader: WorkspaceReader) -> None:
            own = at[reader]
            if what == DESCRIPTION:
                self._registry(reader).update_model_version(own.name, own.number, "")
                return
            self._registry(reader).delete_model_version_tag(own.name, own.number, what.removeprefix("tag "))

        return self.repairer.fact(pair.place, difference, (ours.said(what), theirs.said(what)), write, delete)

    def _model(self, difference: Difference, pair: ModelPair) -> Fix:
        ours, theirs = (pair.first, pair.second) if self.repairer.forwards else (pair.second, pair.first)
        if difference.kind == "alias":
            return self._alias(difference, pair, {self.source: ours, self.target: theirs})
        names, what = {self.source: ours.name, self.target: theirs.name}, difference.key

        def write(reader: WorkspaceReader, value: str) -> None:
            if what == DESCRIPTION:
                self._registry(reader).update_registered_model(names[reader], value)
                return
            self._registry(reader).set_registered_model_tag(names[reader], what.removeprefix("tag "), value)

        def delete(reader: WorkspaceReader) -> None:
            if what == DESCRIPTION:
                self._registry(reader).update_registered_model(names[reader], "")
                return
            self._registry(reader).delete_registered_model_tag(names[reader], what.removeprefix("tag "))

        return self.repairer.fact(
            pair.place, difference, (ours.facts.get(what), theirs.facts.get(what)), write, delete
        )

    def _alias(self, difference: Difference, pair: ModelPair, at: dict[WorkspaceReader, Registered]) -> Fix:
        alias = difference.key
        first, second = pair.pointed(alias)
        ours, theirs = (first, second) if self.repairer.forwards else (second, first)
        source, target = self.source.role, self.target.role
        gone = pair.dangling(alias)[0 if self.repairer.forwards else 1]
        if gone:
            return Fix(f"points at a version that is gone in {source}: nothing can be carried over")
        if ours is None and alias in at[self.source].aliases:
            return Fix(f"points at a version that is in {source} alone")
        if ours is None and theirs is not None and None in (theirs.first, theirs.second):
            return Fix(f"in {target} alone, at a version that {source} has not")
        if ours is not None and None in (ours.first, ours.second):
            return Fix(f"its version is not registered in {target}")
        wanted = {p.place: p for p in (ours, theirs) if p is not None}

        def write(reader: WorkspaceReader, place: str) -> None:
            there = wanted[place]
            own = there.first if reader is self.repairer.survey.first else there.second
            assert own is not None
            self._registry(reader).set_registered_model_alias(at[reader].name, alias, own.number)

        def delete(reader: WorkspaceReader) -> None:
            self._registry(reader).delete_registered_model_alias(at[reader].name, alias)

        renamed = Difference(difference.run, difference.name, "alias", alias_fact(alias), difference.values)
        return self.repairer.fact(pair.place, renamed, (canonical(ours), canonical(theirs)), write, delete)

    def _register(self, ours: Version, found: Registries) -> None:
        """Register a version's twin, its files carried over first if need be."""
        source, versions = self.source, self.repairer.state.model_versions
        registrations, registry = self.target.side.registrations, self._registry(source)
        twin = self.target.side.versions.place(source.role, ours.name, ours.number)
        key = ours.key or hashlib.sha256(f"{twin}@{ours.created}".encode()).hexdigest()[:32]
        made_of = self._source(ours, found)
        facts: VersionFacts = {
            "key": key,
            "name": ours.name,
            "tags": ours.tags,
            "run": ours.run or None,
            "description": ours.description or None,
            "source": made_of,
            "to": [source.role, self.target.role],
        }
        if ours.run:
            self.repairer.copier.run_at_target(ours.run)
        if made_of["kind"] == "model":
            self.repairer.copier.bring_model(made_of["id"])
        made = self.repairer.write(lambda: registrations.register(facts, True, twin))
        if ours.key:
            versions.note_registered(ours.key, self.target.role, made)
        if ours.stage:
            self._set_stage(made.name, made.version, ours.stage)
        there = self.target.side.versions.place(self.target.role, made.name, made.version)
        source.ask(lambda: registry.set_model_version_tag(ours.name, ours.number, TWIN_TAG, there))

    def _set_stage(self, name: str, number: str, stage: str) -> None:
        registry = self._registry(self.target)
        there = registry.get_model_version(name, number).current_stage
        if there and there != stage:
            self.repairer.write(lambda: registry.transition_model_version_stage(name, number, stage, False))

    def _source(self, ours: Version, found: Registries) -> VersionSource:
        """Return what a version was made of, as a registration says it. Raises MlflowException."""
        if ours.model:
            return {"kind": "model", "id": ours.model}
        _, artifacts, path = ours.source.partition("/artifacts/")
        if ours.run and artifacts and path:
            return {"kind": "run", "run": ours.run, "path": path}
        copied = _OF_VERSION.fullmatch(ours.source)
        if copied is not None:
            return {"kind": "uri", "uri": self._twin_uri(found, copied[1], copied[2])}
        if ours.source.startswith(_OWN_PLACES):
            raise MlflowException.invalid_parameter_value(
                f"its files are {self.source.role}'s own, in no run or model: {ours.source}"
            )
        return {"kind": "uri", "uri": ours.source}

    def _twin_uri(self, found: Registries, name: str, number: str) -> str:
        """Return the target's own URI of the version that another is a copy of. Raises MlflowException."""
        renewed = self.read() or found  # it may have been registered just now
        for pair in renewed.versions:
            ours, theirs = (pair.first, pair.second) if self.repairer.forwards else (pair.second, pair.first)
            if ours is not None and ours.place == f"{name}/{number}" and theirs is not None:
                return f"models:/{theirs.place}"
        raise MlflowException.invalid_parameter_value(
            f"it is a copy of {name}/{number}, which is not registered in {self.target.role}"
        )
