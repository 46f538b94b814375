"""Files that a workspace does not take now, though it answers: put aside, so that their run goes on.

A storage's firewall refuses uploads while metrics pass. They are dead letters that are tried again by
themselves, one at first, and the rest as soon as one goes through.
"""

from __future__ import annotations

from dbml_magics.core.delivery.ports import Runtime
from dbml_magics.core.delivery.upload_backoff import UploadBackoff
from dbml_magics.core.model.operations import LogArtifact, RetryDeadLetter, read_as
from dbml_magics.core.model.queues import HELD_QUEUE
from dbml_magics.core.outbox.spool import copy_of


class UploadRetries:
    """Puts files aside for one workspace, and tries them again when they are due."""

    def __init__(self, role: str, runtime: Runtime, backoff: UploadBackoff) -> None:
        self._role = role
        self._runtime = runtime
        self._deferred = runtime.parts.state.deferred_uploads
        self._backoff = backoff

    def numbers(self) -> list[int]:
        """Return the numbers of the dead letters that are tried again by themselves."""
        return self._deferred.numbers(self._role)

    def has(self, number: int) -> bool:
        """Tell whether a dead letter is one of these."""
        return self._deferred.has(self._role, number)

    def add(self, number: int) -> None:
        """Hold a dead letter for another try."""
        self._deferred.add(self._role, number)
        self._load()
        self._backoff.add(number, self._now())

    def settled(self, number: int, arrived: bool) -> None:
        """Note what came of another try."""
        if arrived:
            self._deferred.discard(self._role, number)
            self._backoff.arrived(number)
        else:
            self._backoff.failed(number, self._now())

    def overtaken(self, op: LogArtifact, before: int | None = None) -> None:
        """Give up what was put aside of a place that has a newer file now; ``before`` is its own number."""
        state, retention = self._runtime.parts.state, self._runtime.retention
        for number in self.numbers():
            letter = state.dead_letter(number) if before is None or number < before else None
            older = read_as(LogArtifact, letter)
            if older is not None and (older.owner, older.path) == (op.owner, op.path):
                queue = state.dead_queue(number)
                state.discard_dead([number])
                self.settled(number, True)
                if queue is not None and (copy := copy_of(letter)) is not None:
                    retention.release_copy(queue, copy)

    def try_due(self) -> None:
        """Try again what is due."""
        self._load()
        now = self._now()
        for number in self._backoff.due(now):
            self._try(number)
            self._backoff.under_way(number, now)

    def try_all(self) -> None:
        """Try all again now: somebody waits for them."""
        for number in self.numbers():
            self._try(number)

    def _try(self, number: int) -> None:
        if self._runtime.parts.state.dead_letter(number) is None:  # discarded
            self.settled(number, True)
        else:
            self._runtime.recorder.write(HELD_QUEUE, RetryDeadLetter(self._role, number))

    def _load(self) -> None:
        self._backoff.load(self.numbers(), self._now())

    def _now(self) -> float:
        return self._runtime.parts.clock.monotonic()
