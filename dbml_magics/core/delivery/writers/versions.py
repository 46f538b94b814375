"""The numbers of one registry's model versions, and the twins that they name.

The user knows a version by the number that the link's first registry gave it. Each version carries its twin's
name and number in a tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from mlflow.entities.model_registry import ModelVersion

from dbml_magics.core.delivery.writers.ports import Topology
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.outbox.model_versions import ModelVersions
from dbml_magics.core.outbox.state import State

KEY_TAG = "dbml_key"
TWIN_TAG = "dbml_twin"


class Numbered(TypedDict):
    """A version of a registered model, as a logged model's tag names it."""

    name: str
    version: int


@dataclass(eq=False)
class Versions:
    """Translates versions of registered models between the user and one registry."""

    role: str
    topology: Topology
    destinations: Mapping[str, Destination]
    state: State

    @property
    def notes(self) -> ModelVersions:
        """Return what is remembered of registrations."""
        return self.state.model_versions

    def own_version(self, name: str, version: str, key: str | None) -> str | None:
        """Return this registry's number for a version that the user knows by the first registry's."""
        if key is not None:
            made = self.notes.registered(key, self.role)
            return None if made is None else made.version
        first = self.topology.registries[0]
        if self.role == first:
            return str(version)
        known = self.state.identity(self.role, "version", f"{name}/{version}")
        if known is not None:
            return known.actual
        # Registered from another machine: the version itself says whose twin it is.
        return next(
            (
                str(v.version)
                for v in self.all_of(name)
                if v.tags.get(TWIN_TAG) == self.place(first, name, version)
            ),
            None,
        )

    def all_of(self, name: str, role: str | None = None) -> list[ModelVersion]:
        """Return the versions of a model that this registry, or another one, has."""
        quoted = name.replace("'", "\\'")
        return list(self.destinations[role or self.role].search_model_versions(f"name='{quoted}'"))

    def numbers(self, versions: Iterable[tuple[str, str]]) -> list[Numbered]:
        """Return versions (name and the user's number) by this registry's own numbers."""
        if self.role not in self.topology.registries:
            return []
        found: dict[tuple[str, str], Numbered] = {}
        for name, version in versions:
            waiting = self.notes.newest_provisional(name) if version == "0" else None
            key = waiting["key"] if waiting else self.notes.key_of(name, version)
            own = self.own_version(name, version, key)
            if own is not None and own != "0":
                found[name, own] = {"name": name, "version": int(own)}
        return list(found.values())

    def place(self, role: str, name: str, version: str) -> str:
        """Return a version as its twin's tag names it: under the name that its own workspace shows."""
        return f"{role}:{self.destinations[role].model_name(name)}/{version}"

    def read_place(self, tag: str) -> tuple[str, str, str]:
        """Return (role, name as the link knows it, number) of a twin's tag."""
        role, _, twin = tag.partition(":")
        name, _, number = twin.rpartition("/")
        there = self.destinations.get(role)
        return role, there.model_name_behind(name) if there is not None else name, number
