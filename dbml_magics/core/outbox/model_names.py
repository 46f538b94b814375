"""Registered models that were renamed, and where their aliases point."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dbml_magics.core.outbox.answers import Answers, Family, Texts


@dataclass(frozen=True)
class AliasTarget:
    """The version that an alias was pointed at; ``of`` is the key of its registration, if made here."""

    version: str
    of: str | None


def _target(value: dict[str, Any]) -> AliasTarget:
    return AliasTarget(value["version"], value["of"])


class ModelNames:
    """What a registered model is called now, and its aliases as they were acknowledged."""

    def __init__(self, answers: Answers) -> None:
        self._renamed = Texts(answers, "renamed")
        self._aliases = Family(answers, "alias", _target, asdict)

    def current(self, name: str) -> str:
        """Return what a model is called now."""
        for _ in range(100):
            renamed = self._renamed.get(name)
            if renamed is None:
                return name
            name = renamed
        return name

    def rename(self, name: str, new_name: str) -> None:
        """Note that a model was renamed, its aliases with it."""
        for alias, target in self._aliases.below(name).items():
            self._aliases.put(target, new_name, alias)
            self._aliases.forget(name, alias)
        self._renamed.put(new_name, name)
        self.note_used(new_name)

    def note_used(self, name: str) -> None:
        """Note that a model has this name, whichever was renamed from it before."""
        self._renamed.forget(name)

    def alias(self, name: str, alias: str) -> AliasTarget | None:
        """Return where an alias points, or None where this machine did not set it."""
        return self._aliases.get(name, alias)

    def aliases(self, name: str) -> dict[str, AliasTarget]:
        """Return where a model's aliases point that this machine set."""
        return self._aliases.below(name)

    def point(self, name: str, alias: str, target: AliasTarget) -> None:
        """Note where an alias points."""
        self._aliases.put(target, name, alias)

    def drop_aliases(self, name: str) -> None:
        """Forget all aliases of a model."""
        for alias in self._aliases.below(name):
            self._aliases.forget(name, alias)

    def drop_alias(self, name: str, alias: str) -> None:
        """Forget an alias."""
        self._aliases.forget(name, alias)
