"""What a clean-up would do, before anything is deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dbml_magics.common.hints import Argument
from dbml_magics.results.cleanup import CleanupItem

__all__ = ["Plan", "Step"]

_ID = 8  # characters of a run's id that are enough to mean it


@dataclass(frozen=True)
class Step:
    """One thing that goes, and how."""

    item: CleanupItem
    delete: Callable[[], str | None]
    """Deletes it, and returns None, or why it stays though nothing failed. Raises what the service says."""
    last: bool = False  # only when everything before it is gone


@dataclass
class Plan:
    """All that a clean-up would do."""

    kind: str
    name: str
    steps: list[Step]
    kept: list[CleanupItem] = field(default_factory=list)  # what is named because it stays
    stays: list[str] = field(default_factory=list)  # what stays billed
    notes: list[str] = field(default_factory=list)
    options: Mapping[str, Argument] = field(default_factory=dict)  # of the command
    after: Callable[[], list[str]] = list  # called when all is gone; returns notes
    id: str = ""  # of a run: its beginning confirms as well as its name

    def confirmed_by(self, typed: str | None) -> bool:
        """Tell whether what was typed names it: its name, or at least eight characters of a run's id."""
        if typed is None:
            return False
        return typed == self.name or (len(typed) >= _ID and self.id.startswith(typed))
