"""How far one queue is at one workspace, and what of it is under way: marked before it is sent.

What was marked and never settled may have arrived; the workspace is asked before it is sent again.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Protocol

from mlflow.exceptions import MlflowException

from dbml_magics.common.log_records import logger
from dbml_magics.core.delivery.events import Event, Fault, Question, Verdict
from dbml_magics.core.delivery.ports import Runtime
from dbml_magics.core.delivery.scheduler import Scheduler
from dbml_magics.core.delivery.uploads import UploadRetries
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable, cause_of
from dbml_magics.core.model.operations import Line
from dbml_magics.core.outbox.lines import Entry
from dbml_magics.errors import JournalError

_log = logger(__name__)

OF_THIS_MACHINE = (sqlite3.Error, JournalError)
"""This machine's trouble, and no write's: a full disk."""


class Host(Protocol):
    """The worker that gives a queue its turn."""

    role: str
    runtime: Runtime
    side: Side
    scheduler: Scheduler
    held: UploadRetries

    def check_may_send(self) -> None:
        """Raise Unavailable where nothing more shall be sent."""

    def let_settle(self) -> None:
        """Raise Unavailable while a request of the lease's last holder may yet be carried out."""

    def answers(self) -> bool:
        """Ask the workspace whether it answers at all."""

    def note(self, event: Event) -> None:
        """Tell the scheduler what happened, and carry out what follows."""

    def judge(self, question: Question) -> Verdict:
        """Ask the scheduler what becomes of a write that was not carried out."""

    def is_stuck(self, queue: str) -> bool:
        """Tell whether the next write of a queue fails time and again though the workspace answers."""

    def arrived(self, queue: str, count: int, *, own: bool) -> None:
        """Note that writes have arrived, and tell who waits."""


class Progress:
    """The place that one queue's delivery has reached, and the writes taken from there."""

    def __init__(self, host: Host, queue: str) -> None:
        self.host = host
        self.queue = queue
        self.role = host.role
        self.state = host.runtime.parts.state
        self.offsets: dict[str, int] = {}
        self._doubtful_to: dict[str, int] = {}
        self._read_cursors()
        self.ends: dict[str, int] = {}
        """Of each file the end of what is under way."""
        self.count = self.bytes = 0
        self.kinds: Counter[str] = Counter()
        """What has arrived, for the run's receipt."""

    def _read_cursors(self) -> None:
        cursors = self.state.cursors(self.role, self.queue)
        self.offsets = {file: offset for file, (offset, _) in cursors.items()}
        self._doubtful_to = {file: sending for file, (offset, sending) in cursors.items() if sending > offset}

    def take(self, entry: Entry) -> None:
        """Count a line among those under way."""
        self.ends[entry.file] = entry.end
        self.count += 1
        self.bytes += entry.end - entry.start

    def settle_doubt(self) -> bool:
        """Tell whether what is under way may have arrived. Raises Unavailable while it may yet arrive."""
        if self.host.side.adoption.settle_doubt(self.queue):
            self._read_cursors()
        if in_doubt := self.is_in_doubt:
            self.host.let_settle()
        return in_doubt

    @property
    def is_in_doubt(self) -> bool:
        """Tell whether what is under way may have arrived, as far as the cursors say."""
        return any(self.offsets.get(file, 0) < self._doubtful_to.get(file, 0) for file in self.ends)

    def mark_sending(self) -> dict[str, int]:
        """Note on disk that what is under way is sent now; returns what :meth:`unmark` takes."""
        before = {file: self._doubtful_to.get(file, 0) for file in self.ends}
        self.state.mark_sending(self.role, self.queue, self.ends)
        return before

    def unmark(self, before: dict[str, int]) -> None:
        """Note that nothing of it was sent."""
        self.state.unmark_sending(self.role, self.queue, before)

    def reject(self, line: Line, cause: str, *, queue: str | None = None) -> int:
        """Put a write aside; returns the number of its dead letter."""
        return self.state.reject(self.role, queue or self.queue, line, cause)

    def cause_to_reject(self, error: Exception, what: str = "a write") -> str:
        """Return the cause with which a write is put aside.

        Raises Unavailable while the error is a fault of ours, which may pass.
        """
        cause = cause_of(error)
        if not isinstance(error, MlflowException):
            _log.debug("a write could not be delivered to %s", self.role, exc_info=error)
            if self.host.judge(Fault(self.queue, self.ends)) is Verdict.TRY_LATER:
                raise Unavailable(f"{what} could not be applied ({cause})") from error
        return cause

    def done(self) -> None:
        """Note on disk that what was under way is done with, arrived or put aside."""
        kinds = {kind: amount for kind, amount in self.kinds.items() if amount > 0}
        self.state.mark_delivered(self.role, self.queue, self.ends, self.count, kinds)
        self.kinds.clear()
        self.offsets.update(self.ends)
        own = all(map(self.host.runtime.parts.journal.is_own, self.ends))
        self.host.arrived(self.queue, self.count, own=own)
        self.ends, self.count, self.bytes = {}, 0, 0

    def pass_torn_ends(self, sizes: dict[str, int]) -> None:
        """Pass over the half line of a process that died while it wrote: it was never acknowledged."""
        for file, size in sizes.items():
            if size > self.offsets.get(file, 0) and self.host.runtime.parts.journal.is_left(self.queue, file):
                self.state.mark_delivered(self.role, self.queue, {file: size}, 0)
                self.offsets[file] = size
