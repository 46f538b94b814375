"""Writes that a workspace refused for good: listed, tried again, given up.

They are rows of the link's state. To try one again, a line that names it goes into its queue's journal and
takes the way of every write, to that one workspace; what delivers it replaces the row by what came of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from dbml_magics.common.foreign_text import one_line
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core import runs
from dbml_magics.core.model.operations import (
    DamagedLine,
    Line,
    RegisterVersion,
    RetryDeadLetter,
    decode,
    read_as,
)
from dbml_magics.core.model.queues import HELD_QUEUE, registration_queue
from dbml_magics.core.outbox.spool import copy_of
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.runtime.waiting import PROGRESS_S
from dbml_magics.errors import NotConfirmed
from dbml_magics.results.delivery import DeadLetter, DeadLetters, DiscardResult, RetryResult
from dbml_magics.results.text import count

_PATIENCE_S = 60.0
_NAMED = 20  # writes that a refusal to discard names

Progress = Callable[[Mapping[str, int], float], None]


def listed(engine: Engine, run: str | None, last: str | None) -> DeadLetters:
    """Return the dead letters of one run, or all. Raises RunNotFound, AmbiguousRun."""
    return DeadLetters(tuple(_letters(engine, _queue(engine, run, last, "list"))), run or "")


def retry(
    engine: Engine, run: str | None, last: str | None, timeout: float | None, progress: Progress | None
) -> RetryResult:
    """Try dead letters again and wait for the outcome. Raises RunNotFound, AmbiguousRun, JournalError."""
    queue = _queue(engine, run, last, "retry")
    newest = engine.state.last_dead()
    letters = _letters(engine, queue)
    damaged = {
        number for number, _, _, line, _, _ in engine.state.dead(queue=queue) if read_as(DamagedLine, line)
    }
    held = {number for worker in engine.workers.values() for number in worker.held.numbers()}
    places = {
        number: (role, HELD_QUEUE if number in held else _own_queue(q, line))
        for number, role, q, line, _, _ in engine.state.dead(queue=queue)
    }
    tried = {letter.number: letter for letter in letters if letter.number not in damaged}
    for number, letter in tried.items():
        if not letter.trying:
            role, own = places[number]
            engine.recorder.write(own, RetryDeadLetter(role, number))
    waits = _wait(engine, {number: places[number] for number in tried}, timeout, progress)
    left = {letter.number: letter for letter in _letters(engine, queue)}
    waiting = tuple(letter for number, letter in left.items() if number in tried and letter.trying)
    refused = tuple(
        letter
        for number, letter in left.items()
        if not letter.trying and (number in tried or number > newest) and number not in damaged
    )
    arrived: dict[str, int] = {}
    for number, letter in tried.items():
        if number not in left:
            arrived[letter.workspace] = arrived.get(letter.workspace, 0) + 1
    notes = [f"{role}: {why}; they go out when it answers, nothing is lost" for role, why in waits.items()]
    if damaged:
        notes.append(
            f"{count(len(damaged), 'line')} of the journal {'is' if len(damaged) == 1 else 'are'} damaged "
            "and cannot be tried again"
        )
    return RetryResult(arrived=arrived, refused=refused, waiting=waiting, notes=tuple(notes))


def _wait(
    engine: Engine, tried: Mapping[int, tuple[str, str]], timeout: float | None, progress: Progress | None
) -> dict[str, str]:
    """Wait until dead letters were tried; returns {workspace: why some of its own still wait}."""
    began = time.monotonic()
    while True:
        left = [tried[number] for number in _on_their_way(engine) if number in tried]
        roles = sorted({role for role, _ in left})
        if progress is not None:
            seconds = max(time.monotonic() - began, 0.001)
            counts = {role: sum(role == other for other, _ in left) for role in roles}
            progress(counts, (len(tried) - len(left)) / seconds)
        over = time.monotonic() - began >= (_PATIENCE_S if timeout is None else timeout)
        if over or all(map(engine.waiting.is_away, roles)):
            return {role: engine.health[role].reason or "not tried yet" for role in roles}
        queues = {role: {queue for other, queue in left if other == role} for role in roles}
        engine.waiting.wait_at(queues, PROGRESS_S)


def discard(engine: Engine, run: str | None, last: str | None, confirm: int | None) -> DiscardResult:
    """Give dead letters up. Raises NotConfirmed, RunNotFound, AmbiguousRun."""
    queue = _queue(engine, run, last, "discard")
    letters = _letters(engine, queue)
    if letters and confirm != len(letters):
        raise _unconfirmed(letters, run, confirm)
    copies = [
        (own, name)
        for number, _, own, line, _, _ in engine.state.dead(queue=queue)
        if (name := copy_of(line)) and any(letter.number == number for letter in letters)
    ]
    engine.state.discard_dead(letter.number for letter in letters)
    for own, spool in copies:
        engine.retention.release_copy(own, spool)
    return DiscardResult(tuple(letters))


def _unconfirmed(letters: Sequence[DeadLetter], run: str | None, confirm: int | None) -> NotConfirmed:
    named = [one_line(f"  {letter.workspace}  {letter.where}  {letter.what}") for letter in letters[:_NAMED]]
    more = [f"  … {len(letters) - _NAMED:,} more"] if len(letters) > _NAMED else []
    found = f"{count(len(letters), 'refused write')} would be given up for good"
    if confirm is not None:
        found += f", not {confirm:,}"
    return NotConfirmed(
        "\n".join([f"{found}; nothing is yet:", *named, *more]),
        remedies=[
            (
                corrected(
                    Remedy("sync", dead="discard", run=run or None, confirm=len(letters)),
                    confirm=len(letters),
                ),
                "gives them up",
            ),
            (
                corrected(Remedy("sync", dead="retry", run=run or None), dead="retry", confirm=None),
                "tries them again",
            ),
        ],
    )


# --- what they are, in words


def _queue(engine: Engine, run: str | None, last: str | None, verb: str) -> str | None:
    """Return the queue of the run that is meant; None for all."""
    if run is None:
        return None
    queues = {queue for _, _, queue, _, _, _ in engine.state.dead()}
    found = [queue for queue in queues if queue.startswith(run)]
    if len(found) == 1 and engine.state.run(found[0]) is not None:
        return found[0]
    return runs.resolve(engine, run, last, lambda found: Remedy("sync", dead=verb, run=found))


def _letters(engine: Engine, queue: str | None) -> list[DeadLetter]:
    trying = _on_their_way(engine)
    held = {number for worker in engine.workers.values() for number in worker.held.numbers()}
    found = []
    for number, role, own, line, cause, at in engine.state.dead(queue=queue):
        known = engine.state.run(own)
        run_id = own if known is not None or len(own) == 32 else None
        found.append(
            DeadLetter(
                number=number,
                workspace=role,
                run_id=run_id,
                run=str((known or {}).get("name", "")),
                what=decode(line).describe(),
                cause=cause,
                at=int(at * 1000),
                trying=number in trying,
                held=number in held,
            )
        )
    return found


def _own_queue(queue: str, line: Line) -> str:
    """Return the queue in which a dead letter is tried again: a registration keeps its run from nothing."""
    registration = read_as(RegisterVersion, line)
    return queue if registration is None else registration_queue(registration.facts["key"])


def _on_their_way(engine: Engine) -> set[int]:
    """Return the numbers of the dead letters that are being tried again."""
    found = set()
    places = {(role, _own_queue(queue, line)) for _, role, queue, line, _, _ in engine.state.dead()}
    for role, queue in places | {(role, HELD_QUEUE) for role, _ in places}:
        cursors = engine.state.cursors(role, queue)
        for file, size in engine.journal.files(queue).items():
            start, _ = cursors.get(file, (0, 0))
            for entry in engine.journal.read(queue, file, start, size) if size > start else ():
                again = read_as(RetryDeadLetter, entry.line)
                if again is not None and again.role == role:
                    found.add(again.number)
    return found
