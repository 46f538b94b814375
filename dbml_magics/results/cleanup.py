"""What ``cleanup`` returns: everything that goes, that went, that failed, and what stays billed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dbml_magics.common.hints import say
from dbml_magics.results.base import Result
from dbml_magics.results.html import html_table, panel
from dbml_magics.results.text import count, text_table

__all__ = ["CleanupItem", "CleanupResult"]

_SHOWN = 40
_MOST = 1000


@dataclass(frozen=True)
class CleanupItem:
    """One thing that a clean-up deletes, or leaves."""

    where: str  # databricks, azureml, azure, or a target of endpoints
    what: str  # run, experiment, version, model, endpoint, deployment, or a resource's type
    name: str
    state: str = "to go"  # "to go", "deleted", "gone already", "failed" or "stays"
    why: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Return it as a row of a table."""
        return self.where, self.what, self.name, f"{self.state}: {self.why}" if self.why else self.state


@dataclass(frozen=True, repr=False)
class CleanupResult(Result):
    """What was deleted, or with ``dry_run`` what would be."""

    kind: str
    name: str
    items: tuple[CleanupItem, ...]
    stays: tuple[str, ...] = ()  # what goes on costing money, a line each
    dry_run: bool = False
    notes: tuple[str, ...] = ()
    command: str = ""  # the line that does it, or does the rest

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[CleanupItem]:
        return iter(self.items)

    def of(self, state: str) -> tuple[CleanupItem, ...]:
        """Return the items of one state."""
        return tuple(item for item in self.items if item.state == state)

    @property
    def deleted(self) -> tuple[CleanupItem, ...]:
        """Return what is gone."""
        return self.of("deleted")

    @property
    def failed(self) -> tuple[CleanupItem, ...]:
        """Return what could not be deleted, each with its cause."""
        return self.of("failed")

    def headline(self) -> str:
        """Return what was done in one line."""
        of = f"{self.kind} {self.name}"
        if self.dry_run:
            going = len(self.of("to go"))
            return f"Cleaning up {of} would delete {count(going, 'thing')}; nothing was deleted"
        if not self.deleted and not self.failed:
            return f"Nothing to clean up of {of}: it is gone already"
        left = f", {len(self.failed):,} left" if self.failed else ""
        return f"Cleaned up {of}: {count(len(self.deleted), 'thing')} deleted{left}"

    def _lines(self) -> list[str]:
        lines = [f"stays billed: {line}" for line in self.stays]
        lines += self.notes
        if self.command:
            lines.append(f"{'Next' if self.dry_run else 'Again'}: {say(self.command)}")
        return lines

    def _rows(self) -> list[tuple[str, ...]]:
        return [item.cells for item in self.items]

    def lines(self) -> list[str]:
        """Return what goes, what stays and what comes next, a line each."""
        rows = self._rows()
        lines = text_table(("where", "what", "name", "state"), rows[:_SHOWN]) if rows else []
        if len(rows) > _SHOWN:
            lines.append(f"  … {len(rows) - _SHOWN:,} more in the result's own list")
        return [*lines, *(f"  {line}" for line in self._lines())]

    def text(self) -> str:
        """Return a line for each thing, what stays, and what to do next."""
        return "\n".join([self.headline(), *self.lines()])

    def html(self) -> str:
        """Return the same as a table."""
        table = html_table(self.headline(), ("where", "what", "name", "state"), self._rows()[:_MOST])
        return panel(table, *self._lines())
