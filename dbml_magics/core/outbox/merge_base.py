"""What both workspaces last said alike of what people edit: the merge base of a later repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from dbml_magics.core.outbox.answers import Answers, Family

Facts = Mapping[str, str | None]


class RunBase(TypedDict):
    """A run's name and the tags that people edit."""

    name: str | None
    tags: dict[str, str]


def _run(value: Any) -> RunBase:
    base: RunBase = value
    return base


class MergeBase:
    """The merge base of runs, experiments, logged models, registered models and versions.

    A run's stands under its id alone; the place of anything else begins with its kind.
    """

    def __init__(self, answers: Answers) -> None:
        self._runs = Family(answers, "agreed", _run)
        self._facts: Family[dict[str, str | None]] = Family(answers, "agreed", dict)
        self._names: Family[list[str]] = Family(answers, "agreed", list)

    # --- runs

    def of_run(self, run: str) -> RunBase | None:
        """Return what both said of a run, or None where nothing is remembered."""
        return self._runs.get(run)

    def note_run(self, run: str, base: RunBase) -> None:
        """Note what both say of a run."""
        self._runs.put(base, run)

    # --- facts of everything else

    def facts(self, place: str) -> Facts | None:
        """Return the facts that both said alike, or None where nothing is remembered."""
        return self._facts.get(place)

    def note_facts(self, place: str, ours: Facts, theirs: Facts) -> None:
        """Note the facts that both say alike; of the others the earlier base stays."""
        before = self._facts.get(place)
        alike = {k: v for k, v in ours.items() if v is not None and theirs.get(k) == v}
        kept = {k: v for k, v in (before or {}).items() if ours.get(k) != theirs.get(k)}
        self._replace(place, before, {**kept, **alike})

    def note_fact(self, place: str, key: str, value: str | None) -> None:
        """Note that both say one thing of one fact, or that neither has it."""
        before = self._facts.get(place)
        facts = {**(before or {}), key: value}
        self._replace(place, before, {k: v for k, v in facts.items() if v is not None})

    def _replace(self, place: str, before: Facts | None, facts: dict[str, str | None]) -> None:
        if before != facts:  # that both still say it costs no write
            self._facts.put(facts, place)

    def is_edited_there(self, place: str, key: str, ours: str | None, theirs: str | None) -> bool:
        """Tell whether ``theirs`` is an edit made there alone, while ``ours`` is what both said before.

        Where nothing was agreed, what is only there was added there, as far as anybody can tell: nothing is
        lost by keeping it.
        """
        if theirs is None:
            return False
        base = self.facts(place)
        return ours is None if base is None else base.get(key) == ours

    # --- names of experiments

    def names(self, place: str) -> list[str] | None:
        """Return what an experiment was called at each workspace while both meant the same, or None."""
        return self._names.get(place, "names")

    def note_names(self, place: str, names: list[str]) -> None:
        """Note what an experiment is called at each workspace."""
        if self.names(place) != names:
            self._names.put(names, place, "names")

    def forget(self, place: str) -> None:
        """Forget what both said of an experiment."""
        self._facts.forget(place)
        self._names.forget(place, "names")
