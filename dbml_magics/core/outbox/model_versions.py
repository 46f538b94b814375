"""Registrations of model versions: what was asked for, and what each registry answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dbml_magics.core.model.facts import RegistryChange, VersionFacts
from dbml_magics.core.outbox.answers import Answers, Family, Marks, Texts
from dbml_magics.core.outbox.model_names import ModelNames


@dataclass(frozen=True)
class Registered:
    """A registry's answer to a registration: the version that it made."""

    name: str
    version: str
    source: str
    new: bool
    """Whether the registered model was made for it."""


@dataclass(frozen=True)
class Refusal:
    """A registry's refusal of a registration."""

    error: str


Answer = Registered | Refusal


def _answer(value: dict[str, Any]) -> Answer:
    if "version" not in value:
        return Refusal(value.get("error", ""))
    return Registered(value["name"], value["version"], value.get("source", ""), value.get("new", False))


@dataclass(frozen=True)
class Asked:
    """A registration that some registry may not have answered yet."""

    key: str
    queue: str
    at: int
    """In nanoseconds, by which registrations and other registry writes are ordered."""
    facts: VersionFacts | None
    """What was asked for; None in a state of the first release."""


def _asked(place: str, value: dict[str, Any]) -> Asked:
    return Asked(place.rpartition("/")[2], value["queue"], value.get("at", 0), value.get("told"))


def _payload(value: Any) -> dict[str, Any]:
    return dict(value)


class WaitingVersion(VersionFacts, total=False):
    """A registration that had to wait for its number, and since when (s)."""

    at: float


def _waiting(value: WaitingVersion) -> WaitingVersion:
    return value.copy()


def _texts(value: list[str]) -> list[str]:
    return value.copy()


def _change(value: RegistryChange) -> RegistryChange:
    return value.copy()


def _models_of(facts: VersionFacts) -> set[str]:
    """Return a registration's model and a copied version's original: the copy goes before that is deleted."""
    return {facts["name"], facts["source"].get("name") or facts["name"]}


class ModelVersions:
    """Registrations by their key, and by the number that the first registry gave."""

    def __init__(self, answers: Answers, names: ModelNames) -> None:
        self._registering = Family(answers, "registering", _payload)
        self._answers = Family(answers, "version", _answer, asdict)
        self._creating = Marks(answers, "creating")
        self._registered = Texts(answers, "registered")
        self._provisional = Family(answers, "provisional", _waiting)
        self._owed = Family(answers, "owed", _change)
        self._renames = Family(answers, "renames", _texts)
        self._names = names

    # --- what was asked for

    def ask(self, queue: str, facts: VersionFacts, at: float) -> None:
        """Note a registration, asked for ``at`` a time (s), until every registry has answered it."""
        source = facts["source"]
        kept = {key: value for key, value in facts.items() if key != "after"}
        asked = {"queue": queue, "to": facts["to"], "at": int(at * 1e9), "told": kept}
        if source["kind"] == "version":
            asked["from"] = [source["name"], str(source["version"])]
        self._names.note_used(facts["name"])
        for name in _models_of(facts):
            self._registering.put(asked, name, facts["key"])

    def withdraw(self, facts: VersionFacts) -> None:
        """Forget a registration that could not be journaled: no registry will answer it."""
        for name in _models_of(facts):
            self._registering.forget(name, facts["key"])

    def was_asked_before(self, key: str, moment: float) -> bool:
        """Tell whether a registration was asked for before a moment (s)."""
        return all(asked.get("at", 0) < moment * 1e9 for asked in self._noted(key).values())

    def forget_lost(self, key: str) -> None:
        """Forget a registration that is in no queue: its process was killed between this note and that."""
        for place in self._noted(key):
            self._registering.forget(*place.rsplit("/", 1))

    def _noted(self, key: str) -> dict[str, dict[str, Any]]:
        return {k: asked for k, asked in self._registering.below().items() if k.endswith(f"/{key}")}

    def asked(self) -> list[Asked]:
        """Return the registrations that some registry may not have answered yet."""
        return [_asked(place, value) for place, value in self._registering.below().items()]

    def open_of(self, name: str) -> dict[str, str]:
        """Return {key: queue} of a model's registrations that some registry has not answered yet."""
        found = {}
        for key, asked in self._registering.below(name).items():
            if all(self.is_answered(key, role) for role in asked["to"]):
                self._registering.forget(name, key)
            else:
                found[key] = str(asked["queue"])
        return found

    def copies_of(self, name: str, version: str) -> set[str]:
        """Return the keys of the registrations that copy one version and are not answered everywhere yet."""
        asked = self._registering.below(name)
        return {key for key, value in asked.items() if value.get("from") == [name, version]}

    def is_open(self, key: str, role: str) -> bool:
        """Tell whether a registry has yet to answer a registration."""
        return not self.is_answered(key, role) and any(
            role in asked["to"] for asked in self._noted(key).values()
        )

    def knows_model(self, name: str) -> bool:
        """Tell whether a version of a model was registered, or asked for, on this machine."""
        return bool(self._registered.below(name)) or bool(self._registering.below(name))

    def model_names(self) -> list[str]:
        """Return the names of the models of which a version was asked for on this machine."""
        places = [*self._registering.below(), *self._registered.below()]
        return [*dict.fromkeys(place.rpartition("/")[0] for place in places)]

    def follow_rename(self, name: str, new_name: str) -> None:
        """Note that a model was renamed, its registrations and aliases with it."""
        registered, registering = self._registered.below(name), self._registering.below(name)
        for number, key in registered.items():
            self._registered.put(key, new_name, number)
            self._registered.forget(name, number)
        for key, asked in registering.items():
            self._registering.put(asked, new_name, key)
            self._registering.forget(name, key)
        copied = {key for key, asked in registering.items() if self._is_copied(asked, name)}
        for key in {*registered.values(), *registering} - copied:
            self._renames.put([*(self._renames.get(key) or []), new_name], key)
        self._names.rename(name, new_name)

    def _is_copied(self, asked: dict[str, Any], name: str) -> bool:
        """Tell whether a registration is noted below a name as that of what it copies, not as its own."""
        told = asked.get("told")
        return told is not None and self.names(told["key"], told["name"])[0] != name

    def names(self, key: str | None, name: str) -> list[str]:
        """Return what the model of a registration was called since, newest first, and at first (``name``).

        A registry calls it by one of these: renames may be on their way to it. Another model may have an
        older one by now.
        """
        renames = self._renames.get(key) if key else None
        if renames is None:
            return [*dict.fromkeys([self._names.current(name), name])]
        return [*dict.fromkeys([*reversed(renames), name])]

    # --- a creation whose outcome may be unknown

    def begin(self, key: str, role: str) -> None:
        """Note before it is sent that a registry is asked to make a version."""
        self._creating.add(role, "version", key)

    def is_begun(self, key: str, role: str) -> bool:
        """Tell whether a registry was asked to make a version and its answer was not seen."""
        return self._creating.has(role, "version", key)

    def settle(self, key: str, role: str) -> None:
        """Note that a registry answered whether it made a version."""
        self._creating.forget(role, "version", key)

    # --- what a registry answered

    def answer(self, key: str, role: str) -> Answer | None:
        """Return a registry's answer to a registration, or None while there is none."""
        return self._answers.get(key, role)

    def is_answered(self, key: str, role: str) -> bool:
        """Tell whether a registry has answered a registration."""
        return self._answers.has(key, role)

    def registered(self, key: str | None, role: str) -> Registered | None:
        """Return the version that a registry made for a registration, or None."""
        answer = self.answer(key, role) if key else None
        return answer if isinstance(answer, Registered) else None

    def registered_names(self) -> set[str]:
        """Return the names of the models of which a registry has made a version."""
        return {each.name for each in self._answers.below().values() if isinstance(each, Registered)}

    def note_refusal(self, key: str, role: str, cause: str) -> None:
        """Note that a registry refused a registration."""
        self._answers.put(Refusal(cause), key, role)

    def note_registered(self, key: str, role: str, answer: Registered) -> None:
        """Note the version that a registry made."""
        self._answers.put(answer, key, role)

    def exchange(
        self, key: str, role: str, answer: Registered, others: Iterable[str]
    ) -> Mapping[str, Answer]:
        """Note a version and return what other registries answered, in one transaction.

        Of two registries that answer at the same time, the later one sees the earlier's version.
        """
        return self._answers.put_and_read(answer, key, role, others)

    def forget_answer(self, key: str, role: str) -> None:
        """Forget a registry's refusal: the registration is tried again."""
        self._answers.forget(key, role)

    # --- the first registry's numbers

    def note_number(self, name: str, version: str, key: str) -> None:
        """Note which registration is behind the first registry's version of a model."""
        self._registered.put(key, name, version)

    def key_of(self, name: str, version: str) -> str | None:
        """Return the registration behind the first registry's version of a model, if made on this machine."""
        return self._registered.get(name, version)

    def keys_of(self, name: str) -> dict[str, str]:
        """Return {number: registration} of a model's versions that were registered on this machine."""
        return self._registered.below(name)

    def note_provisional(self, queue: str, facts: VersionFacts) -> None:
        """Note that the user was given a version before the first registry numbered it."""
        self._provisional.put({**facts, "queue": queue, "at": time.time()}, facts["key"])

    def provisional(self, key: str) -> WaitingVersion | None:
        """Return a registration that was given to the user without a number, or None."""
        return self._provisional.get(key)

    def provisionals(self) -> list[WaitingVersion]:
        """Return the registrations that were given to the user without a number."""
        return [*self._provisional.below().values()]

    def newest_provisional(self, name: str) -> WaitingVersion | None:
        """Return the newest registration of a model that was given to the user without a number."""
        kept = [version for version in self.provisionals() if self._names.current(version["name"]) == name]
        return max(kept, key=lambda version: version["at"]) if kept else None

    # --- writes to a version that was refused

    def defer_write(self, key: str, role: str, change: RegistryChange) -> None:
        """Keep a write to a version that a registry refused, until it is registered after all."""
        self._owed.put(change, role, key, f"{time.time_ns():020}")

    def deferred_writes(self, key: str, role: str) -> list[tuple[str, RegistryChange]]:
        """Return (place, write) of the writes to a version that were deferred, oldest first."""
        return sorted(self._owed.below(role, key).items(), key=lambda each: each[0])

    def drop_deferred(self, key: str, role: str, place: str) -> None:
        """Forget a deferred write that was made."""
        self._owed.forget(role, key, place)
