"""Dead letters that are tried again: what is refused again stays one, with its new cause."""

from __future__ import annotations

from contextlib import nullcontext

from dbml_magics.core.delivery.batching import Rejected, within
from dbml_magics.core.delivery.end_check import is_end
from dbml_magics.core.delivery.events import LetterFailed, Passed, Verdict, WriteBlocked
from dbml_magics.core.delivery.items import items_of, received
from dbml_magics.core.delivery.progress import OF_THIS_MACHINE, Host, Progress
from dbml_magics.core.destinations.errors import Unavailable, cause_of
from dbml_magics.core.model.operations import (
    Line,
    LogArtifact,
    Operation,
    RegisterVersion,
    RetryDeadLetter,
    UpdateRun,
    decode,
)
from dbml_magics.core.outbox.spool import copy_of


class LetterRetry:
    """Tries a dead letter of one workspace once more.

    The letter itself stays until then, and says by its absence that a line was obeyed before: a crash in
    between neither loses nor doubles it.
    """

    def __init__(self, host: Host, progress: Progress) -> None:
        self._host = host
        self._progress = progress
        self._state = progress.state

    def carry_out(self, retry: RetryDeadLetter) -> None:
        """Try the letter, and keep what is refused of it. Raises Unavailable."""
        number = retry.number
        letter = self._state.dead_letter(number) if retry.role == self._host.role else None
        own = self._progress.queue
        if letter is not None:
            op = decode(letter)
            own = self._state.dead_queue(number) or own
            with self._host.side.files.writing(op) if isinstance(op, LogArtifact) else nullcontext():
                if self._state.dead_letter(number) is not None:  # else a newer file came in its place
                    self._settle(number, letter, op)
        self._progress.done()
        if name := copy_of(letter):
            self._host.runtime.retention.release_copy(own, name)

    def _settle(self, number: int, letter: Line, op: Operation) -> None:
        refused = self._refused(number, letter, op)
        self._state.settle_dead(number, refused)
        if self._host.held.has(number):
            self._host.held.settled(number, not refused)
        if not refused:
            self._host.note(Passed(op))
            if isinstance(op, LogArtifact):
                self._host.held.overtaken(op, number)
            self._progress.kinds.update(received(op, self._host.role))

    def _await_others(self, op: Operation) -> None:
        """Let go first what the letter's write comes after. Raises Blocked where that is not over."""
        queue = self._progress.queue
        for by in self._host.side.registrations.before(queue, op):
            if self._host.judge(WriteBlocked(queue, op, by)) is not Verdict.GO_ON:
                raise by

    def _refused(self, number: int, letter: Line, op: Operation) -> list[tuple[Line, str]]:
        """Try a letter; returns what is refused of it. Raises Unavailable where it has to be tried later."""
        try:
            return [(item.encode(), cause) for item, cause in self._try(op)]
        except Unavailable as error:
            failed = LetterFailed(self._progress.queue, error, self._host.held.has(number))
            if self._host.judge(failed) is Verdict.TRY_LATER or not self._host.answers():
                raise
            return [(letter, cause_of(error))]
        except OF_THIS_MACHINE:
            raise
        except Exception as error:
            cause = self._progress.cause_to_reject(error)
            if isinstance(op, RegisterVersion):
                self._state.model_versions.note_refusal(op.facts["key"], self._host.role, cause)
            return [(letter, cause)]

    def _try(self, op: Operation) -> Rejected:
        self._await_others(op)
        self._progress.mark_sending()
        queue, role, side = self._progress.queue, self._host.role, self._host.side
        items = items_of(op, role)
        if items is None:
            if isinstance(op, RegisterVersion):
                self._state.model_versions.forget_answer(op.facts["key"], role)  # it was the refusal
            ended = (self._state.run(queue) or {}).get("ended")
            if isinstance(op, UpdateRun) and not is_end(op) and ended:
                # MLflow's rename says RUNNING too: what came after it shall stand.
                op = UpdateRun(name=op.name)
            side.apply(queue, op, True)
            return []
        refused: Rejected = []
        # Always in doubt: a part of it may have arrived before it was refused, or another way since.
        for part in within(items, side.learned.limits):
            refused += side.batches.send(queue, part, True)
        return refused
