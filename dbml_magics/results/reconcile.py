"""What ``sync --verify`` and ``sync --repair`` return: the differences between two workspaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dbml_magics.common.hints import Argument, Remedy, say
from dbml_magics.results.base import Result
from dbml_magics.results.html import details, html_table, panel
from dbml_magics.results.text import count, duration, text_table

__all__ = ["ABSENT", "LOST", "UNREAD", "Difference", "RepairResult", "Repaired", "VerifyResult"]

_SHOWN = 30
_MOST = 1000
_WIDTH = 40
_CAUSES = 10


class _Absent:
    """The value of something that a workspace does not have."""

    def __repr__(self) -> str:
        return "—"

    def __bool__(self) -> bool:
        return False


ABSENT = _Absent()
LOST = "lost"
UNREAD = "not compared"


@dataclass(frozen=True)
class Difference:
    """One thing that two workspaces do not say alike.

    ``kind`` is one of experiment, run, status, start, end, name, stage, parent, param, tag, note, metric,
    history, dataset, input, output, artifact, model, version, registered model, alias; ``key`` names the
    param, tag, metric, dataset, file, model or alias, and is empty for the others. ``values`` holds what
    stands at each workspace, :data:`ABSENT` where it is not there.

    Of kind :data:`LOST` is a run or experiment that a workspace had and has no more, or whose id there means
    another one by now; of kind :data:`UNREAD` is what could not be compared, for ``cause``.
    """

    run: str  # the id that the user knows; empty for an experiment or a registered model
    name: str  # of the run, experiment or model
    kind: str
    key: str
    values: Mapping[str, Any]
    cause: str = ""

    @property
    def databricks(self) -> object:
        """Return what stands in the Databricks workspace."""
        return self.values.get("databricks", ABSENT)

    @property
    def azureml(self) -> object:
        """Return what stands in the Azure ML workspace."""
        return self.values.get("azureml", ABSENT)

    @property
    def what(self) -> str:
        """Return the kind and the key in words."""
        return f"{self.kind} {self.key}".strip()


@dataclass(frozen=True)
class Repaired:
    """A difference that was mended, or why it could not be."""

    difference: Difference
    done: str  # what was done, or why nothing could be


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _who(difference: Difference) -> str:
    return f"{difference.run[:8]}  {difference.name}".strip() if difference.run else difference.name


class _Table(Result):
    """A headline, a table of differences, notes."""

    def _headline(self) -> str:
        raise NotImplementedError

    def _tables(self) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        raise NotImplementedError

    def _notes(self) -> list[str]:
        return []

    def text(self) -> str:
        """Return the headline, what differs, and what to do next."""
        lines = [self._headline()]
        for title, columns, rows in self._tables():
            if title:
                lines.append(f"  {title}")
            lines += text_table(columns, rows[:_SHOWN])
            if len(rows) > _SHOWN:
                lines.append(f"  … {len(rows) - _SHOWN:,} more in the result's own list")
        return "\n".join([*lines, *(f"  {note}" for note in self._notes())])

    def html(self) -> str:
        """Return the same as tables."""
        parts = []
        for title, columns, rows in self._tables():
            parts.append(html_table(title or "What differs", columns, rows[:_SHOWN]))
            if len(rows) > _SHOWN:
                rest = html_table(f"{title or 'What differs'}, the rest", columns, rows[_SHOWN:_MOST])
                parts.append(details(f"{len(rows) - _SHOWN:,} more", rest))
        return panel(self._headline(), *parts, *self._notes())


@dataclass(frozen=True, repr=False)
class VerifyResult(_Table):
    """What two workspaces say of the same runs."""

    workspaces: tuple[str, str]  # the primary first
    runs_compared: int
    differences: tuple[Difference, ...]
    older: Mapping[str, int]  # runs that only one workspace has, from before the link
    waiting: tuple[str, ...] = ()  # runs whose writes are still on their way: not compared
    requests: int = 0
    least: int = 0  # the fewest requests with which this can be known
    seconds: float = 0.0
    deep: bool = False
    scope: Mapping[str, Argument] = field(default_factory=dict)
    """The options that chose what was compared, for the next command."""
    older_models: Mapping[str, int] = field(default_factory=dict)  # registered without the link, in one alone
    dangling: tuple[str, ...] = ()  # aliases that point at versions that are gone, in words

    @property
    def equal(self) -> bool:
        """Tell whether nothing differs."""
        return not self.differences

    def _headline(self) -> str:
        first, second = self.workspaces
        compared = f"{count(self.runs_compared, 'run')} compared in {duration(self.seconds)}"
        if self.equal:
            return f"{first} and {second} match: {compared}"
        runs = len({d.run for d in self.differences if d.run})
        of = f" in {count(runs, 'run')}" if runs else ""
        return f"{count(len(self.differences), 'difference')}{of}: {compared}"

    def _tables(self) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        if self.differences:
            first, second = self.workspaces
            rows: list[tuple[str, ...]] = [
                (
                    _who(d),
                    _short(d.what),
                    _short(d.values.get(first, ABSENT)),
                    _short(d.values.get(second, ABSENT)),
                )
                for d in self.differences
            ]
            yield "", ("run", "what", first, second), rows

    def _notes(self) -> list[str]:
        first, second = self.workspaces
        notes = [f"{count(self.requests, 'request')}; the least possible is {self.least:,}"]
        if self.waiting:
            notes.append(
                f"{count(len(self.waiting), 'run')} left out, whose writes are still on their way: "
                f"{say(Remedy('sync'))} waits for them"
            )
        for role, number in self.older.items():
            if number:
                other = second if role == first else first
                notes.append(
                    f"{count(number, 'run')} of {role} from before the link "
                    f"{'is' if number == 1 else 'are'} not in {other}: "
                    f"{say(_copying(role, first))} copies {'it' if number == 1 else 'them'}"
                )
        for role, number in self.older_models.items():
            if number:
                has = "has" if number == 1 else "have"
                notes.append(
                    f"{count(number, 'registered model')} of {role}, made without the link, {has} versions "
                    f"that {second if role == first else first} lacks: "
                    f"{say(_copying(role, first))} copies them"
                )
        notes += self.dangling[:_CAUSES]
        unread = [d for d in self.differences if d.cause]
        notes += [f"{_who(d)}: {d.what}: {d.cause}" for d in unread[:_CAUSES]]
        if len(unread) > _CAUSES:
            notes.append(f"{count(len(unread) - _CAUSES, 'cause')} more in the result's own list")
        if len(unread) < len(self.differences):
            notes.append(
                f"Next: {say(Remedy('sync', repair=True, **self.scope))} makes {second} like {first}, "
                "adding and correcting, never deleting"
            )
        return notes


def _copying(role: str, first: str) -> Remedy:
    """Return the command that copies what one workspace has from before the link."""
    return Remedy("sync", repair=True, all=True, from_=None if role == first else role)


@dataclass(frozen=True, repr=False)
class RepairResult(_Table):
    """What was mended between two workspaces, and what could not be."""

    workspaces: tuple[str, str]  # the model first, then the one made like it
    runs_compared: int
    repaired: tuple[Repaired, ...]
    remaining: tuple[Repaired, ...]
    copied: int = 0  # runs that were copied whole
    waiting: tuple[str, ...] = ()
    requests: int = 0
    seconds: float = 0.0

    def _headline(self) -> str:
        compared = f"{count(self.runs_compared, 'run')} compared in {duration(self.seconds)}"
        if not self.repaired and not self.remaining:
            return f"Nothing to repair: {compared}"
        copied = f", {count(self.copied, 'run')} copied" if self.copied else ""
        left = f", {len(self.remaining):,} left" if self.remaining else ""
        return f"Repaired {count(len(self.repaired), 'difference')}{copied}{left}: {compared}"

    def _tables(self) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        for title, entries in (("repaired", self.repaired), ("left", self.remaining)):
            if entries:
                rows: list[tuple[str, ...]] = [
                    (_who(e.difference), _short(e.difference.what), e.done) for e in entries
                ]
                yield title, ("run", "what", "done" if title == "repaired" else "why"), rows

    def _notes(self) -> list[str]:
        notes = []
        if self.waiting:
            notes.append(
                f"{count(len(self.waiting), 'run')} left out, whose writes are still on their way: "
                f"{say(Remedy('sync'))} waits for them"
            )
        if any("--prune" in entry.done for entry in self.remaining):
            prune = say(Remedy("sync", repair=True, prune=True, confirm=True))
            notes.append(f"{prune} deletes what the other one lacks")
        return notes
