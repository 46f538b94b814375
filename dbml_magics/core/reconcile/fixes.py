"""Fixes of differences, declared before they are carried out, so that deletions can be shown first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dbml_magics.results.reconcile import Difference

PRUNE = "--prune deletes it"


class Outcome(NamedTuple):
    """Whether a difference was repaired, and how or why not."""

    good: bool
    said: str


Outcomes = list[tuple[Difference, Outcome]]


def unread(difference: Difference) -> Outcomes:
    """Return the outcome of a difference that cannot be compared: nothing is done."""
    return [(difference, Outcome(False, difference.cause))]


@dataclass(frozen=True)
class Fix:
    """One repairing. Without ``do`` nothing can be done, and ``said`` is why."""

    said: str
    do: Callable[[], object] | None = None  # may return an Outcome of its own
    unless_pruned: str = ""  # it deletes: what is said where that was not asked for

    @classmethod
    def deletion(cls, role: str, why: str, do: Callable[[], object], *, too: bool = False) -> Fix:
        """Return one that deletes something at ``role``; ``why`` says what the source has in its stead."""
        return cls(f"deleted in {role}", do, f"{why}: {PRUNE}{f' in {role} too' if too else ''}")

    @property
    def deletes(self) -> bool:
        """Tell whether it takes something away; then it is done only when that was confirmed."""
        return bool(self.unless_pruned)

    def carry_out(self, *, prune: bool) -> Outcome:
        """Mend it."""
        if self.do is None:
            return Outcome(False, self.said)
        if self.deletes and not prune:
            return Outcome(False, self.unless_pruned)
        outcome = self.do()
        return outcome if isinstance(outcome, Outcome) else Outcome(True, self.said)
