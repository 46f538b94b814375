"""What ``doctor`` returns: a line for each thing that was looked at, with its cause and what mends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from dbml_magics._version import __version__
from dbml_magics.common import hints
from dbml_magics.common.redaction import redacted
from dbml_magics.results.base import Result
from dbml_magics.results.html import Html, code, html_table, panel, safe
from dbml_magics.results.text import count, duration

__all__ = ["LEVELS", "DoctorResult", "Finding", "without_secrets"]

LEVELS = ("fine", "warning", "broken")

_LONGEST = 400


def without_secrets(text: str) -> str:
    """Return a text in one line without what is secret: by its value, or by its look."""
    shown = " ".join(redacted(text).split())
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str  # python, packages, machine, journal, spark, notebook, leftovers, databricks or azureml
    what: str
    level: str = "fine"  # fine, warning or broken
    cause: str = ""  # what was seen, or why it is not fine
    command: str = ""  # what mends it, as a notebook has it
    does: str = ""  # what the command does
    milliseconds: float | None = None  # where it was measured

    def __post_init__(self) -> None:
        assert self.level in LEVELS, self.level
        object.__setattr__(self, "cause", without_secrets(self.cause))

    @property
    def said(self) -> str:
        """Return what was looked at and what was seen, in one line."""
        return f"{self.what}: {self.cause}" if self.cause else self.what

    @property
    def mends(self) -> str:
        """Return the command that mends it as its reader types it, and what it does."""
        return "   ".join(filter(None, [hints.say(self.command) if self.command else "", self.does]))

    def facts(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        facts: dict[str, object] = {
            "area": self.area,
            "what": self.what,
            "level": self.level,
            "cause": self.cause,
        }
        if self.command:
            facts.update(command=hints.say(self.command), does=self.does)
        if self.milliseconds is not None:
            facts["milliseconds"] = round(self.milliseconds, 1)
        return facts


@dataclass(frozen=True, repr=False)
class DoctorResult(Result):
    """All that was looked at."""

    findings: tuple[Finding, ...]
    seconds: float
    as_json: bool = False  # shown as JSON, for whoever gives support

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def of(self, level: str) -> tuple[Finding, ...]:
        """Return the findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Return what does not work."""
        return self.of("broken")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Return what works, or may, and should be seen to."""
        return self.of("warning")

    def json(self) -> str:
        """Return everything as JSON; no secret is in it."""
        payload = {
            "dbml_magics": __version__,
            "seconds": round(self.seconds, 1),
            **{level: len(self.of(level)) for level in LEVELS},
            "findings": [finding.facts() for finding in self.findings],
        }
        return json.dumps(payload, indent=2, ensure_ascii=False)

    def _headline(self) -> str:
        parts = [f"{len(self.broken)} broken"] if self.broken else []
        parts += [count(len(self.warnings), "warning")] if self.warnings else []
        parts += [f"{len(self.of('fine'))} fine"]
        return f"Doctor: {', '.join(parts)}, in {duration(self.seconds)}"

    def text(self) -> str:
        """Return a line for each finding, and below those that are not fine what mends them."""
        if self.as_json:
            return self.json()
        areas = max((len(finding.area) for finding in self.findings), default=0)
        lines = [self._headline()]
        for finding in self.findings:
            lines.append(f"  {finding.area.ljust(areas)}  {finding.level:<7}  {finding.said}")
            if finding.level != "fine" and finding.mends:
                lines.append(f"  {'':<{areas}}  {'':<7}  try  {finding.mends}")
        return "\n".join(lines)

    def html(self) -> str:
        """Return the same as a table, what is not fine in bold."""
        if self.as_json:
            return panel(Html(f"<pre>{safe(self.json())}</pre>"))
        rows = []
        for finding in self.findings:
            fine = finding.level == "fine"
            level = finding.level if fine else Html(f"<b>{safe(finding.level)}</b>")
            command = code(hints.say(finding.command)) if finding.command and not fine else ""
            said = (
                Html(f"{safe(finding.said)}<br>{command} {safe(finding.does)}") if command else finding.said
            )
            rows.append((finding.area, level, said))
        return panel(html_table(self._headline(), ("area", "state", "what was seen"), rows))
