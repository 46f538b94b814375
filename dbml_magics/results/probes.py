"""What ``doctor --probe`` returns: what was measured on the services, beside what is assumed of them."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass

from dbml_magics._version import __version__
from dbml_magics.results.base import Result
from dbml_magics.results.doctor import without_secrets
from dbml_magics.results.html import html_table, panel
from dbml_magics.results.text import duration, text_table

__all__ = ["ProbeReport", "Probed"]


@dataclass(frozen=True)
class Probed:
    """One thing that was measured at one workspace."""

    workspace: str  # databricks or azureml: the role
    kind: str  # databricks, azureml or mlflow
    probe: str  # its name, as the README has it
    asked: str  # what it finds out
    assumed: str  # what the package reckons with; empty where it reckons with nothing
    measured: str
    agrees: bool | None = None  # None: nothing is assumed, or it could not be measured
    seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured", without_secrets(self.measured))

    @property
    def verdict(self) -> str:
        """Return whether it is as assumed, in words."""
        return {True: "as assumed", False: "OTHERWISE", None: ""}[self.agrees]

    def facts(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        return {
            "workspace": self.workspace,
            "kind": self.kind,
            "probe": self.probe,
            "asked": self.asked,
            "assumed": self.assumed,
            "measured": self.measured,
            "agrees": self.agrees,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, repr=False)
class ProbeReport(Result):
    """All that was measured."""

    rows: tuple[Probed, ...]
    seconds: float
    file: str = ""  # where the report is, for an issue
    left: tuple[str, ...] = ()  # what of the throw-away experiment could not be deleted
    as_json: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Probed]:
        return iter(self.rows)

    @property
    def otherwise(self) -> tuple[Probed, ...]:
        """Return what is not as the package assumes."""
        return tuple(row for row in self.rows if row.agrees is False)

    def json(self) -> str:
        """Return the report as JSON: no secret, and no name of a workspace, a person or a run is in it."""
        payload = {
            "dbml_magics": __version__,
            "python": platform.python_version(),
            "seconds": round(self.seconds, 1),
            "left": len(self.left),
            "probes": [row.facts() for row in self.rows],
        }
        return json.dumps(payload, indent=2, ensure_ascii=False)

    def _headline(self) -> str:
        other = len(self.otherwise)
        agreed = sum(row.agrees is True for row in self.rows)
        outcome = f"{agreed} as assumed, {other or 'none'} otherwise"
        return f"Probed {len(self.rows)} things in {duration(self.seconds)}: {outcome}"

    def _cells(self) -> list[tuple[str, ...]]:
        return [(r.workspace, r.probe, r.measured, r.assumed, r.verdict) for r in self.rows]

    def _notes(self) -> list[str]:
        notes = [f"could not be deleted: {each}" for each in self.left]
        if self.file:
            notes.append(f"the report, without secrets and names, is in {self.file}: attach it to an issue")
        return notes

    _COLUMNS = ("workspace", "probe", "measured", "assumed", "")

    def text(self) -> str:
        """Return a line for each probe."""
        if self.as_json:
            return self.json()
        lines = [self._headline(), *text_table(self._COLUMNS, self._cells())]
        return "\n".join([*lines, *(f"  {note}" for note in self._notes())])

    def html(self) -> str:
        """Return the same as a table."""
        if self.as_json:
            return panel(self.json())
        return panel(html_table(self._headline(), self._COLUMNS, self._cells()), *self._notes())
