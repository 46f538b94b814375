"""What ``doctor --probe`` returns: what was found on the services, beside what is recorded of them."""

from __future__ import annotations

import json
import platform
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from dbml_magics._version import __version__
from dbml_magics.results.base import Result
from dbml_magics.results.doctor import without_secrets
from dbml_magics.results.html import details, html_table, panel, safe
from dbml_magics.results.text import count, duration, nearby

__all__ = ["ProbeReport", "Probed"]

_WIDTH = 110
_MOST = 20  # differences that are shown; the report has all


@dataclass(frozen=True)
class Probed:
    """One recorded fact about one workspace, and what was found."""

    workspace: str  # databricks or azureml: the role
    kind: str  # databricks, azureml or mlflow
    fact: str  # its id in the table of facts
    says: str
    expected: str
    source: str
    date: str
    found: str = ""
    more: str = ""  # the service's own words, or a measurement beside
    why: str = ""  # it could not be tried
    confirmed: bool | None = None  # None: it could not be tried
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("found", "more", "why"):
            object.__setattr__(self, name, without_secrets(getattr(self, name)))

    @property
    def verdict(self) -> str:
        """Return confirmed, differs or could not be tried."""
        return {True: "confirmed", False: "differs", None: "could not be tried"}[self.confirmed]

    @property
    def outcome(self) -> str:
        """Return what was found, or why nothing was."""
        return self.why or " ".join(filter(None, [self.found, f"({self.more})" if self.more else ""]))

    def facts(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        return {
            "workspace": self.workspace,
            "kind": self.kind,
            "fact": self.fact,
            "verdict": self.verdict,
            "says": self.says,
            "expected": self.expected,
            "found": self.found,
            "more": self.more,
            "why": self.why,
            "source": self.source,
            "date": self.date,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, repr=False)
class ProbeReport(Result):
    """All that was found, the differences first."""

    rows: tuple[Probed, ...]
    seconds: float
    file: str = ""  # the report to read and send; the same as JSON is beside it
    left: tuple[str, ...] = ()  # what could not be deleted
    unlinked: tuple[str, ...] = ()  # workspaces that the link does not track to
    packages: Mapping[str, str] = field(default_factory=dict)  # of the clients, with their releases
    as_json: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Probed]:
        return iter(self.rows)

    @property
    def confirmed(self) -> tuple[Probed, ...]:
        """Return what is as recorded."""
        return tuple(row for row in self.rows if row.confirmed is True)

    @property
    def differing(self) -> tuple[Probed, ...]:
        """Return what is not as recorded."""
        return tuple(row for row in self.rows if row.confirmed is False)

    @property
    def untried(self) -> tuple[Probed, ...]:
        """Return what could not be tried."""
        return tuple(row for row in self.rows if row.confirmed is None)

    def at(self, file: str) -> ProbeReport:
        """Return it with the place where it was written."""
        return replace(self, file=file)

    def json(self) -> str:
        """Return the report as JSON, without secrets, and without names and ids of workspaces and people."""
        payload = {
            "dbml_magics": __version__,
            "python": platform.python_version(),
            "packages": dict(self.packages),
            "seconds": round(self.seconds, 1),
            "confirmed": len(self.confirmed),
            "differing": len(self.differing),
            "untried": len(self.untried),
            "left": len(self.left),
            "facts": [row.facts() for row in self._sorted()],
        }
        return json.dumps(payload, indent=2, ensure_ascii=False)

    def markdown(self) -> str:
        """Return the same report to be read."""
        lines = [
            "# What the services do, beside what is recorded of them",
            "",
            f"dbml-magics {__version__}, Python {platform.python_version()}"
            f"{''.join(f', {name} {release}' for name, release in self.packages.items())}.",
            "",
            f"{self._headline()}.",
        ]
        for title, rows in (
            ("Differs", self.differing),
            ("Could not be tried", self.untried),
            ("Confirmed", self.confirmed),
        ):
            lines += ["", f"## {title} ({len(rows)})", ""]
            if rows:
                lines += [
                    "| service | fact | says | expected | found | source |",
                    "|---|---|---|---|---|---|",
                ]
            lines += [
                f"| {' | '.join(map(_cell, (r.kind, r.fact, r.says, r.expected, r.outcome, r.source)))} |"
                for r in rows
            ]
        return "\n".join(lines)

    def _sorted(self) -> tuple[Probed, ...]:
        return (*self.differing, *self.untried, *self.confirmed)

    def _headline(self) -> str:
        return (
            f"Probed in {duration(self.seconds)}: {len(self.confirmed)} confirmed, {len(self.differing)} "
            f"differ, {len(self.untried)} could not be tried"
        )

    def _groups(self) -> list[tuple[str, str]]:
        """Return what could not be tried, by its cause, and after it what is confirmed."""
        causes: dict[tuple[str, str], list[str]] = {}
        for row in self.untried:
            cause = "by hand, the report says how" if row.why.startswith("by hand") else row.why
            causes.setdefault((row.workspace, cause), []).append(row.fact)
        groups = [(f"{role}: {cause}", ", ".join(names)) for (role, cause), names in causes.items()]
        for role in dict.fromkeys(row.workspace for row in self.confirmed):
            names = [row.fact for row in self.confirmed if row.workspace == role]
            groups.append((f"{role}: confirmed", ", ".join(names)))
        return groups

    def _notes(self) -> list[str]:
        notes = [f"could not be deleted: {each}" for each in self.left]
        notes += [
            f"{role}: nothing was asked, since this link tracks to no service there" for role in self.unlinked
        ]
        if not self.left:
            notes.append("all that was made is deleted")
        if self.file:
            notes.append(
                f"the report is in {nearby(self.file)}, without secrets, ids and names: only you can send it"
            )
        return notes

    def text(self) -> str:
        """Return the differences, then in groups what could not be tried and what is confirmed."""
        if self.as_json:
            return self.json()
        lines = [self._headline()]
        for row in self.differing[:_MOST]:
            line = f"{row.workspace} {row.fact}: expected {row.expected}, found {row.outcome} ({row.says})"
            lines += _wrapped(line, "  differs  ", 1)
        if len(self.differing) > _MOST:
            lines.append(f"  and {count(len(self.differing) - _MOST, 'difference')} more in the report")
        for head, names in self._groups():
            lines += _wrapped(f"{head}: {names}", "  ", 3)
        return "\n".join([*lines, *(f"  {note}" for note in self._notes())])

    def html(self) -> str:
        """Return the differences as a table, the rest folded."""
        if self.as_json:
            return panel(self.json())
        table = html_table(
            self._headline(),
            ("workspace", "fact", "says", "expected", "found"),
            [(r.workspace, r.fact, r.says, r.expected, r.outcome) for r in self.differing],
        )
        rest = [details(head, safe(names)) for head, names in self._groups()]
        return panel(table, *rest, *self._notes())


def _wrapped(text: str, indent: str, most: int) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", max_lines=most, placeholder=" …"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
