"""Dead letters that are tried again by themselves: files that a workspace does not take now."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Marks


class DeferredUploads:
    """The numbers of those dead letters, by workspace."""

    def __init__(self, answers: Answers) -> None:
        self._held = Marks(answers, "held")

    def numbers(self, role: str) -> list[int]:
        """Return the numbers of a workspace's deferred uploads, sorted."""
        return sorted(map(int, self._held.listed(role)))

    def all_numbers(self) -> list[tuple[str, int]]:
        """Return (workspace, number) of all deferred uploads."""
        places = (place.rpartition("/") for place in self._held.listed())
        return [(role, int(number)) for role, _, number in places]

    def add(self, role: str, number: int) -> None:
        """Defer a dead letter."""
        self._held.add(role, str(number))

    def has(self, role: str, number: int) -> bool:
        """Tell whether a dead letter is a deferred upload."""
        return self._held.has(role, str(number))

    def discard(self, role: str, number: int) -> None:
        """Forget a deferred upload that arrived, or was given up."""
        self._held.forget(role, str(number))
