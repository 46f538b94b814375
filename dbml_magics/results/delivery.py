"""Delivery: what ``sync`` delivered, and the writes that a workspace refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from dbml_magics.common.hints import Remedy, say
from dbml_magics.results.base import Result
from dbml_magics.results.html import html_table, panel
from dbml_magics.results.text import LACKING, count, duration, short, text_table, when

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "DiscardResult",
    "Receipt",
    "Requests",
    "RequestsResult",
    "RetryResult",
    "SyncResult",
]


@dataclass(frozen=True, repr=False)
class SyncResult(Result):
    """What ``sync`` delivered, and what remains: what was logged in the meantime."""

    delivered: Mapping[str, int]
    remaining: Mapping[str, int]
    seconds: float
    dead: Mapping[str, int] = field(default_factory=dict)
    taken: int = 0  # packages of other processes' writes that were delivered
    left: tuple[str, ...] = ()  # a line for each package, or write of one, that was not

    def text(self) -> str:
        """Return what was delivered, and what could not be."""
        sent = [f"{name} {count(amount, 'write')}" for name, amount in self.delivered.items() if amount]
        left = [f"{name} {count(amount, 'write')}" for name, amount in self.remaining.items() if amount]
        refused = [f"{name} {count(amount, 'write')}" for name, amount in self.dead.items() if amount]
        if self.taken:
            sent.insert(0, f"{count(self.taken, 'package')} of other processes' writes")
        headline = (
            f"Delivered {', '.join(sent)} in {duration(self.seconds)}" if sent else "Nothing was on its way"
        )
        lines = [headline + ("" if left else ": every workspace is up to date")]
        lines += [f"  {line}" for line in self.left]
        if left:
            lines.append(f"  still on their way: {', '.join(left)}; {say(Remedy('sync'))} goes on")
        if refused:
            why = say(Remedy("sync", dead="list"))
            lines.append(f"  ✗ refused for good: {', '.join(refused)}; {why} says why")
        return "\n".join(lines)


@dataclass(frozen=True)
class DeadLetter:
    """A write that a workspace refused for good."""

    number: int
    workspace: str
    run_id: str | None  # None for a write of no run: an experiment's, a registry's
    run: str  # its name
    what: str  # "param depth", "metric loss at step 3"
    cause: str
    at: int  # when it was refused
    trying: bool = False  # on its way once more
    held: bool = False  # a file that the workspace does not take now: it is tried again by itself

    @property
    def where(self) -> str:
        """Return the run in words."""
        return f"{short(self.run, 24)} {(self.run_id or '')[:8]}".strip() or LACKING


_MOST_LETTERS = 30


_LETTER_HEADERS = ("number", "workspace", "run", "write", "refused", "cause")


@dataclass(frozen=True, repr=False)
class DeadLetters(Result):
    """The writes that the workspaces refused for good, oldest first."""

    letters: tuple[DeadLetter, ...]
    of_run: str = ""  # the run asked for, as it was given

    def __len__(self) -> int:
        return len(self.letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.letters)

    def __getitem__(self, index: int) -> DeadLetter:
        return self.letters[index]

    def _headline(self) -> str:
        of = f" of run {self.of_run}" if self.of_run else ""
        if not self.letters:
            return f"No write{of} was refused"
        held = sum(letter.held for letter in self.letters)
        refused = len(self.letters) - held
        parts = [f"{count(refused, 'write')}{of} refused for good"] if refused else []
        parts += [f"{count(held, 'file')}{of} not taken now, tried again by itself"] if held == 1 else []
        parts += [f"{count(held, 'file')}{of} not taken now, tried again by themselves"] if held > 1 else []
        return f"{', '.join(parts)}; everything else goes on"

    def _end(self) -> list[str]:
        if not self.letters:
            return []
        run = self.of_run or None
        retry = say(Remedy("sync", dead="retry", run=run))
        discard = say(Remedy("sync", dead="discard", run=run, confirm=len(self.letters)))
        return [f"{retry} tries them again, {discard} gives them up"]

    def text(self) -> str:
        """Return a line for each refused write."""
        if not self.letters:
            return self._headline()
        lines = text_table(_LETTER_HEADERS, _letter_rows(self.letters[:_MOST_LETTERS], 160))
        more = len(self.letters) - _MOST_LETTERS
        end = [f"… {more:,} more; the result's .letters has all"] if more > 0 else []
        return "\n".join([self._headline(), *lines, *(f"  {line}" for line in (*end, *self._end()))])

    def html(self) -> str:
        """Return the same as a table."""
        if not self.letters:
            return panel(self._headline())
        shown = _letter_rows(self.letters[: 10 * _MOST_LETTERS], 500)
        more = len(self.letters) - len(shown)
        end = [f"… {more:,} more; the result's .letters has all"] if more > 0 else []
        return panel(html_table(self._headline(), _LETTER_HEADERS, shown), *end, *self._end())


@dataclass(frozen=True, repr=False)
class RetryResult(Result):
    """What became of refused writes that were tried again."""

    arrived: Mapping[str, int]  # workspace -> writes
    refused: tuple[DeadLetter, ...]  # again, with the new cause
    waiting: tuple[DeadLetter, ...]
    notes: tuple[str, ...] = ()  # why the rest waits, what cannot be tried again

    def text(self) -> str:
        """Return what arrived, and what was refused again."""
        arrived = sum(self.arrived.values())
        tried = arrived + len(self.refused) + len(self.waiting)
        if not tried:
            return "\n".join(["No write was refused: there is nothing to try again", *self.notes])
        said = [f"{name} {count(amount, 'write')}" for name, amount in self.arrived.items() if amount]
        head = f"Tried {count(tried, 'write')} again: {arrived:,} arrived" + (
            f" ({', '.join(said)})" if said else ""
        )
        lines = [head + (f", {len(self.refused):,} refused again" if self.refused else "")]
        lines[0] += f", {len(self.waiting):,} on the way" if self.waiting else ""
        shown = self.refused[:_MOST_LETTERS]
        lines += [f"  ✗ {row[1]}  {row[2]}  {row[3]}: {row[5]}" for row in _letter_rows(shown, 160)]
        lines += [f"  {note}" for note in self.notes]
        if self.refused:
            lines.append(f"  {say(Remedy('sync', dead='list'))} shows what is refused")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class DiscardResult(Result):
    """The refused writes that were given up."""

    letters: tuple[DeadLetter, ...]

    def text(self) -> str:
        """Return what was given up."""
        if not self.letters:
            return "No write was refused: there is nothing to discard"
        rows = [f"  {row[1]}  {row[2]}  {row[3]}" for row in _letter_rows(self.letters[:_MOST_LETTERS], 80)]
        more = len(self.letters) - len(rows)
        end = [f"  … {more:,} more"] if more > 0 else []
        head = f"Discarded {count(len(self.letters), 'refused write')}, for good"
        return "\n".join([head, *rows, *end])


def _letter_rows(letters: Iterable[DeadLetter], longest: int) -> list[list[str]]:
    return [
        [
            str(letter.number),
            letter.workspace,
            letter.where,
            short(letter.what, 60),
            when(letter.at),
            ("on its way once more; was: " if letter.trying else "") + short(letter.cause, longest),
        ]
        for letter in letters
    ]


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
        payload = {
            "run_id": self.run_id,
            "name": self.name,
            "delivered": self.delivered,
            "verified": self.verified,
            "deliveries": [asdict(each) for each in self.deliveries],
        }
        return json.dumps(payload, indent=2, ensure_ascii=False)

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
            notes.append(f"{say(Remedy('sync'))} waits for the rest")
        if any(each.refused for each in self.deliveries):
            notes.append(f"{say(Remedy('sync', dead='list', run=self.run_id[:8]))} says why")
        return notes

    _COLUMNS = ("workspace", "run there", "state", "arrived", "last")

    def text(self) -> str:
        """Return a line for each workspace."""
        table = text_table(self._COLUMNS, self._rows())
        return "\n".join([self._headline(), *table, *(f"  {note}" for note in self._notes())])

    def html(self) -> str:
        """Return the same as a table."""
        return panel(html_table(self._headline(), self._COLUMNS, self._rows()), *self._notes())


@dataclass(frozen=True)
class Requests:
    """The requests of one kind to a workspace."""

    workspace: str  # databricks or azureml
    call: str  # POST runs/log-batch
    requests: int
    seconds: float  # of all of them together
    failed: int  # refused, or without an answer


@dataclass(frozen=True, repr=False)
class RequestsResult(Result):
    """The requests that this process has made of the link's workspaces, by kind, the most first."""

    calls: tuple[Requests, ...]

    def _headline(self) -> str:
        if not self.calls:
            return "No request was made of a workspace here: what is on this machine is written to directly"
        of_each: dict[str, int] = {}
        for each in self.calls:
            of_each[each.workspace] = of_each.get(each.workspace, 0) + each.requests
        parts = [f"{count(amount, 'request')} to {role}" for role, amount in of_each.items()]
        return f"{' and '.join(parts)} since this kernel began"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                each.workspace,
                each.call,
                f"{each.requests:,}",
                f"{1000 * each.seconds / each.requests:,.0f} ms",
                f"{each.failed:,}" if each.failed else "",
            )
            for each in self.calls
        ]

    _COLUMNS = ("workspace", "call", "requests", "mean", "failed")

    def text(self) -> str:
        """Return a line for each kind of request."""
        table = text_table(self._COLUMNS, self._rows()) if self.calls else []
        return "\n".join([self._headline(), *table])

    def html(self) -> str:
        """Return the same as a table."""
        if not self.calls:
            return panel(self._headline())
        return panel(html_table(self._headline(), self._COLUMNS, self._rows()))
