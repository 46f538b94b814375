"""A run's receipt: what was delivered of it where and when, what was refused, what is on its way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from dbml_magics.hints import say
from dbml_magics.rendering import count, html_table, panel, text_table, when
from dbml_magics.results import Result

__all__ = ["Delivery", "Receipt"]


@dataclass(frozen=True)
class Delivery:
    """What one workspace has got of a run."""

    workspace: str  # databricks or azureml
    run_id: str | None  # the run's id there; None while it is not there
    arrived: Mapping[str, int]  # points, params, tags, files, models, registrations, changes: how many
    first: int | None = None  # when the first write arrived, in milliseconds since the epoch
    last: int | None = None
    waiting: int = 0
    refused: int = 0
    notes: tuple[str, ...] = ()  # what did not fit there, and where it is kept

    @property
    def complete(self) -> bool:
        """Tell whether everything that was logged is there."""
        return self.run_id is not None and not self.waiting and not self.refused

    def state(self) -> str:
        """Return how far delivery is, in words."""
        parts = [f"{count(self.waiting, 'write')} on the way"] if self.waiting else []
        parts += [f"{count(self.refused, 'write')} refused"] if self.refused else []
        if not parts and self.run_id is None:
            return "not there"
        return ", ".join(parts) or "✓ delivered"


@dataclass(frozen=True, repr=False)
class Receipt(Result):
    """What was delivered of a run."""

    run_id: str
    name: str
    deliveries: tuple[Delivery, ...]
    verified: bool = False  # this machine has not delivered the run: the workspaces were compared instead

    @property
    def delivered(self) -> bool:
        """Tell whether everything that was logged is at every workspace of the link."""
        return all(each.complete for each in self.deliveries)

    def json(self) -> str:
        """Return it as JSON, to be kept beside a model."""
        told = {
            "run_id": self.run_id,
            "name": self.name,
            "delivered": self.delivered,
            "verified": self.verified,
            "deliveries": [asdict(each) for each in self.deliveries],
        }
        return json.dumps(told, indent=2, ensure_ascii=False)

    def _headline(self) -> str:
        where = " and ".join(each.workspace for each in self.deliveries)
        if not self.delivered:
            return f"Receipt of run {self.name}: not all of it is at {where}"
        how = "equal at" if self.verified else "delivered to"
        return f"Receipt of run {self.name}: {how} {where}"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                each.workspace,
                (each.run_id or "")[:12],
                each.state(),
                ", ".join(count(amount, kind[:-1]) for kind, amount in each.arrived.items()),
                "" if each.last is None else when(each.last),
            )
            for each in self.deliveries
        ]

    def _notes(self) -> list[str]:
        notes = [note for each in self.deliveries for note in each.notes]
        if any(each.waiting for each in self.deliveries):
            notes.append(f"{say('%dbml sync')} waits for the rest")
        if any(each.refused for each in self.deliveries):
            notes.append(f"{say(f'%dbml sync --dead list --run {self.run_id[:8]}')} says why")
        return notes

    _COLUMNS = ("workspace", "run there", "state", "arrived", "last")

    def text(self) -> str:
        """Return a line for each workspace."""
        table = text_table(self._COLUMNS, self._rows())
        return "\n".join([self._headline(), *table, *(f"  {note}" for note in self._notes())])

    def html(self) -> str:
        """Return the same as a table."""
        return panel(html_table(self._headline(), self._COLUMNS, self._rows()), *self._notes())
