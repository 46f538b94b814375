"""What both workspaces last said alike of what people edit: whoever says something else later was edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbml_magics.core.tracking.state import State

Told = Mapping[str, str | None]


class Agreed:
    """The memory of it, kept with the link: of experiments, logged models, registered models and versions.

    A run's own stands under its id alone, where delivery puts it too.
    """

    def __init__(self, state: State) -> None:
        self.state = state

    def note(self, place: str, told: Any) -> None:
        """Remember what both say; that they say it still costs no write."""
        if self.state.answer(f"agreed/{place}") != told:
            self.state.set_answer(f"agreed/{place}", told)

    def of(self, place: str) -> Any:
        """Return what both said, or None where nothing is remembered."""
        return self.state.answer(f"agreed/{place}")

    def note_facts(self, place: str, ours: Told, theirs: Told) -> None:
        """Remember the facts that both say alike; of the others what was agreed before stays."""
        before = dict(self.of(place) or {})
        alike = {k: v for k, v in ours.items() if v is not None and theirs.get(k) == v}
        kept = {k: v for k, v in before.items() if ours.get(k) != theirs.get(k)}
        self.note(place, {**kept, **alike})

    def set(self, place: str, key: str, value: str | None) -> None:
        """Remember that both say one thing of one fact, or that neither has it."""
        told = {**(self.of(place) or {}), key: value}
        self.note(place, {k: v for k, v in told.items() if v is not None})

    def edited_there(self, place: str, key: str, ours: str | None, theirs: str | None) -> bool:
        """Tell whether ``theirs`` is an edit made there alone, while ``ours`` is what both said before.

        Where nothing was agreed, what is only there was added there, as far as anybody can tell: nothing is
        lost by keeping it.
        """
        return theirs is not None and edited_alone(self.of(place), key, ours)


def edited_alone(agreed: Mapping[str, Any] | None, key: str, ours: str | None) -> bool:
    """Tell whether the source still says what both said before, so that the other one was edited."""
    return ours is None if agreed is None else bool(agreed.get(key) == ours)
