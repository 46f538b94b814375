"""Writes that travel alone: carried out, put aside, moved apart or tried again as the scheduler says."""

from __future__ import annotations

from itertools import chain

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
    LogArtifact,
    Operation,
    RegisterVersion,
    RetryDeadLetter,
)
from dbml_magics.core.model.queues import registration_queue
from dbml_magics.core.outbox.lines import Entry


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
        elif not self._is_next(op, entry.line, entry.stamp):
            progress.done()
        else:
            self._apply(op, entry.line)
            progress.done()
            self._host.runtime.retention.release_spool(self._queue, entry)

    def _is_next(self, op: Operation, line: Line, stamp: int) -> bool:
        """Let go first what a write comes after; False when it was put aside or moved apart instead.

        Raises Blocked where the other queue goes first, or the write waits; nothing of it is marked as sent.
        """
        try:
            by, verdict = self._blocked(op, stamp)
        except (Unavailable, OSError, *OF_THIS_MACHINE):
            raise
        except Exception as error:
            self._refuse(op, line, self._progress.cause_to_reject(error))
            return False
        if by is None:
            return True
        if verdict is Verdict.TRY_LATER:
            raise by
        if verdict is Verdict.MOVE_APART:
            self._move_apart(op)
        else:
            self._progress.reject(line, by.reason)
        return False

    def _blocked(self, op: Operation, stamp: int) -> tuple[Blocked | None, Verdict]:
        """Return what keeps a write from being carried out now, and what the scheduler says of it."""
        queue = self._queue
        for by in chain(
            self._containers.before(queue, op, stamp), self._side.registrations.before(queue, op)
        ):
            verdict = self._host.judge(WriteBlocked(queue, op, by))
            if verdict is not Verdict.GO_ON:
                return by, verdict
        return None, Verdict.GO_ON

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
            if isinstance(op, LogArtifact):
                self._host.held.overtaken(op)
            self._progress.kinds.update(received(op, self._host.role))

    def _settle_failure(self, op: Operation, line: Line, error: Unavailable) -> None:
        """Do what the scheduler says of a write that fails. Raises Unavailable where it is tried later."""
        failure, verdict = error, self._host.judge(WriteFailed(self._queue, op, error))
        if verdict is Verdict.TRY_LATER or (verdict is Verdict.HOLD and not self._host.answers()):
            raise error
        if verdict is Verdict.HOLD:
            self._host.held.add(self._progress.reject(line, cause_of(error)))
            return
        if verdict is Verdict.MOVE_APART:
            self._move_apart(op)
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

    def _move_apart(self, op: Operation) -> None:
        """Have a registration wait in a queue of its own, so that its run goes on."""
        if isinstance(op, RegisterVersion):
            if self._progress.is_in_doubt:  # which its line in the other queue would not be
                self._progress.state.model_versions.begin(op.facts["key"], self._host.role)
            facts = op.facts.copy()
            facts.update({"only": self._host.role, "queue": self._queue})
            self._host.runtime.recorder.write(registration_queue(facts["key"]), RegisterVersion(facts))

    def _refuse(self, op: Operation, line: Line, cause: str) -> None:
        if isinstance(op, RegisterVersion):
            self._progress.reject(line, cause, queue=op.facts.get("queue"))  # of its run
            self._progress.state.model_versions.note_refusal(op.facts["key"], self._host.role, cause)
        else:
            self._progress.reject(line, cause)
