"""Writes that travel alone: carried out, put aside, moved apart or tried again as the scheduler says."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.containers import Containers
from dbml_magics.core.delivery.end_check import EndCheck, is_end
from dbml_magics.core.delivery.events import Passed, Verdict, WriteBlocked, WriteFailed
from dbml_magics.core.delivery.items import received
from dbml_magics.core.delivery.letters import LetterRetry
from dbml_magics.core.delivery.progress import OF_THIS_MACHINE, Host, Progress
from dbml_magics.core.destinations.errors import Blocked, Unavailable, cause_of, time_and_again
from dbml_magics.core.model.operations import (
    BATCHED,
    CreateRun,
    DamagedLine,
    Line,
    Operation,
    RegisterVersion,
    RetryDeadLetter,
)
from dbml_magics.core.model.queues import registration_queue
from dbml_magics.core.outbox.journal import Entry


class SingleWrites:
    """Carries out the writes of one queue at one workspace that are no part of a batch."""

    def __init__(self, host: Host, containers: Containers, progress: Progress) -> None:
        self._host = host
        self._side = host.side
        self._containers = containers
        self._progress = progress
        self._queue = progress.queue

    def carry_out(self, entry: Entry) -> None:
        """Carry out a write, or put it aside. Raises Unavailable."""
        progress = self._progress
        progress.take(entry)
        op = entry.operation
        if entry.line is None or op is None or op.kind in BATCHED:
            text = entry.text if entry.line is None or op is None else str(entry.line)[:500]
            progress.reject(DamagedLine(text).encode(), "this line of the journal is damaged")
            progress.done()
        elif isinstance(op, RetryDeadLetter):
            LetterRetry(self._host, progress).carry_out(op)
        elif not self._await_contents(op, entry.line, entry.stamp):
            progress.done()
        else:
            self._apply(op, entry.line)
            progress.done()
            self._host.runtime.retention.release_spool(self._queue, entry)

    def _await_contents(self, op: Operation, line: Line, stamp: int) -> bool:
        """Let what a write contains go first; False when it is put aside since that never arrives."""
        try:
            self._containers.await_contents(self._queue, op, stamp)
        except Blocked as error:
            if self._host.judge(WriteBlocked(error.on)) is Verdict.TRY_LATER:
                raise
            self._progress.reject(line, error.reason)
            return False
        return True

    def _apply(self, op: Operation, line: Line) -> None:
        before = self._progress.mark_sending()
        in_doubt = self._progress.settle_doubt()
        try:
            self._side.apply(self._queue, op, in_doubt)
        except Unavailable as error:
            if not error.sent and not error.denied:
                self._progress.unmark(before)
            self._settle_failure(op, line, error)
        except OF_THIS_MACHINE:
            raise
        except Exception as error:
            self._refuse(op, line, self._progress.cause_to_reject(error))
        else:
            if is_end(op):
                EndCheck(self._host, self._progress).check(op)
            self._host.note(Passed(op))
            self._progress.kinds.update(received(op, self._host.role))

    def _settle_failure(self, op: Operation, line: Line, error: Unavailable) -> None:
        """Do what the scheduler says of a write that fails. Raises Unavailable where it is tried later."""
        failure, verdict = error, self._host.judge(WriteFailed(self._queue, op, error))
        if verdict is Verdict.TRY_LATER or (verdict is Verdict.HOLD and not self._host.answers()):
            raise error
        if verdict is Verdict.HOLD:
            self._host.held.add(self._progress.reject(line, cause_of(error)))
            return
        if verdict is Verdict.MOVE_APART and isinstance(op, RegisterVersion):
            facts = op.facts.copy()
            facts.update({"only": self._host.role, "queue": self._queue})
            self._host.runtime.recorder.write(registration_queue(facts["key"]), RegisterVersion(facts))
            return
        if verdict is Verdict.TRY_ALONE:
            failed = self._side.batches.retry_in_isolation(
                self._queue, lambda: self._side.apply(self._queue, op, True)
            )
            if failed is None:
                return
            failure = failed
        cause = time_and_again(failure, alone=verdict is not Verdict.GIVE_UP)
        if isinstance(op, CreateRun):
            self._side.runs.give_up(self._queue, cause)
        self._refuse(op, line, cause_of(MlflowException(cause)))

    def _refuse(self, op: Operation, line: Line, cause: str) -> None:
        if isinstance(op, RegisterVersion):
            self._progress.reject(line, cause, queue=op.facts.get("queue"))  # of its run
            self._progress.state.model_versions.note_refusal(op.facts["key"], self._host.role, cause)
        else:
            self._progress.reject(line, cause)
