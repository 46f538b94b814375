"""Decide what a worker does for one destination: no thread, no clock, no I/O.

:meth:`Scheduler.handle` takes what happened to a queue and returns what to do next; :meth:`Scheduler.judge`
takes what kept a write from being carried out and returns what becomes of it. ``now`` is the time at which it
happened, in seconds on the monotonic clock.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from dbml_magics.common.config import linger_seconds, longest_pause_seconds
from dbml_magics.core.delivery.events import (
    Answered,
    Arrived,
    Deliver,
    Delivered,
    Event,
    Failed,
    Fault,
    Instruction,
    LetterFailed,
    MoreDue,
    Passed,
    Ping,
    Question,
    Rest,
    Stumbled,
    TurnOver,
    Verdict,
    Woken,
    WriteBlocked,
    WriteFailed,
)
from dbml_magics.core.delivery.line import Line
from dbml_magics.core.delivery.precedence import Precedence
from dbml_magics.core.delivery.upload_backoff import UploadBackoff
from dbml_magics.core.destinations.errors import Blocked, Busy, Unavailable
from dbml_magics.core.model.operations import (
    ChangeRegistry,
    CreateModel,
    CreateRun,
    DeleteModel,
    DeleteModelTag,
    DeleteRun,
    DeleteTag,
    FinalizeModel,
    LogArtifact,
    LogInputs,
    LogModelParams,
    LogOutputs,
    Operation,
    RegisterVersion,
    RestoreRun,
    SetModelTags,
    UpdateRun,
)
from dbml_magics.core.model.queues import REGISTRY_QUEUE, registration_queue

_STEADY_TIMES = 10  # how much longer a run is gathered that logs nothing but metrics, params and tags
_ISOLATED_TRIES, _ISOLATED_S = 5, 15.0  # before a write that fails is tried apart from the others
_ISOLATED_PAUSE_S = 4.0  # the longest between these tries
_ALONE_TRIES, _ALONE_S = 8, 60.0  # before it is put aside though nothing of its kind has passed meanwhile
_BLOCKED_S = 0.5  # between two looks whether what a write waits for has arrived
# The longest between two tries, of what waits for others and of the rest.
_ELSEWHERE_S, _LONGEST_S = 4.0, 15.0
_RECENT_S = 60.0  # the time over which the rate of delivery is taken
_BUG_TRIES = 12  # some minutes: what fails while a library is being imported passes afterwards
_AWAY_S, _NEXT_ROUND_S = 0.25, 0.05  # the longest rest before an outage is looked at; before the next round
_OF_MODEL = (CreateModel, FinalizeModel, SetModelTags, DeleteModelTag, LogModelParams, DeleteModel)
_OF_REGISTRY = (RegisterVersion, ChangeRegistry)
_OF_RUN = (DeleteTag, UpdateRun, DeleteRun, RestoreRun, LogInputs, LogOutputs)


@dataclass
class _Failing:
    """How long the next write of a queue has been failing although the destination answers."""

    since: float
    tries: int = 0
    denied: bool = False  # until somebody gives a right, or opens a firewall


@dataclass
class _Pause:
    """How long a queue is left alone."""

    tries: int = 0
    until: float = 0.0


class Scheduler:
    """What one destination's queues wait for, and which of them are next."""

    def __init__(self, first: str, chance: random.Random | None = None, lanes: int = 1) -> None:
        self._first = first
        self._chance = chance or random.Random()
        self._lanes = lanes
        """How many queues have a turn at a time; each has one at a time."""
        self.due: set[str] = set()
        """Queues with writes to deliver; threads that log add to it."""
        self.left: set[str] = set()
        """Queues that nobody logs to now and that may have some: others wrote them, or an earlier process."""
        self.soon = False
        """Something waits that others look for: a begin, an end, a file, a model."""
        self.uploads = UploadBackoff()
        self._hurried = False  # the round under way is one that somebody looks for
        self._steady_since: float | None = None
        self._line = Line()
        self._under_way: dict[str, bool] = {}  # queue that has a turn -> whether this process logs to it now
        self._early: set[str] = set()  # of these, the ones whose turn began before the destination's trouble
        self._awaited: set[str] = set()  # and those of which more may be waited for than their turn takes
        self._broken_off = False  # the destination is away: the round ends with the turns that go on
        self._precedence = Precedence()
        self._pauses: dict[str, _Pause] = {}
        self._troubles: dict[str, str] = {}  # queue -> why it does not move
        self._busy: set[str] = set()  # queues whose next write the destination takes later, as it says
        self._failing: dict[str, _Failing] = {}
        self._bugs: dict[str, int] = {}
        self._passed: dict[str, float] = {}  # kind of write -> when the last one went through
        self._recent: deque[tuple[float, int]] = deque()  # when writes arrived, and how many

    def handle(self, event: Event, now: float) -> tuple[Instruction, ...]:
        """Note what happened; returns what to do about it, in this order."""
        match event:
            case Woken():
                return self._begin_round(event, now)
            case MoreDue():
                return self._join_round(event, now)
            case TurnOver():
                return self._go_on(event, now)
            case Failed():
                return self._note_failure(event, now)
            case Answered(failed):
                self._isolate(failed.queue, failed.error, now)
            case Delivered(queue):
                self._pauses.pop(queue, None)
                self._troubles.pop(queue, None)
                self._busy.discard(queue)
            case Stumbled(queue):
                self._precedence.stopped(queue, failed=True)
                self._pause(queue, now, _LONGEST_S)
            case Passed(op):
                self._passed[_family(op.kind)] = now
                if isinstance(op, LogArtifact):
                    self.uploads.went_through()
            case Arrived(queue, count, own):
                self._failing.pop(queue, None)
                self._precedence.moved(queue)
                if not own:  # whoever waits for them there cannot make this process hurry
                    self._steady_since = None
                self._recent.append((now, count))
                while self._recent[0][0] < now - _RECENT_S:
                    self._recent.popleft()
        return ()

    # --- gathering

    @property
    def is_steady(self) -> bool:
        """Tell whether nothing but metrics, params and tags has come of late."""
        return self._steady_since is not None

    def unsteady(self) -> None:
        """Note that something else came, or that nothing did: the next write does not wait for others."""
        self._steady_since = None

    def steady(self, now: float) -> None:
        """Note that a round has delivered nothing but metrics, params and tags, and nobody waited for it."""
        if self._steady_since is None:
            self._steady_since = now

    def gathering_seconds(self, began: float, now: float, batch: int) -> float:
        """Return for how long writes are still gathered, ``batch`` of them at most, since ``began``.

        The longer, the longer nothing but metrics, params and tags has come: each batch costs this machine
        and the service some milliseconds, however little is in it.
        """
        shortest = longest = linger_seconds()
        if not self.soon and self._steady_since is not None:
            longest = min(began - self._steady_since, _STEADY_TIMES * shortest)
            if rate := self.rate(now):  # a full batch has nothing to wait for
                longest = min(longest, batch / rate)
        return began + max(shortest, longest) - now

    # --- rounds

    def _begin_round(self, event: Woken, now: float) -> tuple[Instruction, ...]:
        """Take what is due into a round: experiments first, then runs, a part of each in turn.

        Nothing is under way: a round that was halted ends where the next one begins.
        """
        self._hurried, self.soon = event.urgent or self.soon, False
        self._line.clear()
        self._under_way.clear()
        self._early.clear()
        self._awaited.clear()
        self._broken_off = False
        if event.pause > 0 and self.has_due:
            return self._end_round(now, Rest(min(event.pause, _AWAY_S), event.urgent))
        self._admit()
        self._precedence.begin_round()
        return self._next_turns(now, event.troubled)

    def _join_round(self, event: MoreDue, now: float) -> tuple[Instruction, ...]:
        """Take what is due into the round that goes on; one that broke off goes on once it may ask again.

        What fails and is left alone for it stays what nobody waits for.
        """
        self._hurried = event.urgent or self.soon or self._hurried
        self.soon = False
        self._broken_off = event.pause > 0
        self._admit()
        self._precedence.begin_round(queue for queue, pause in self._pauses.items() if pause.until > now)
        return self._next_turns(now, event.troubled)

    @property
    def has_due(self) -> bool:
        """Tell whether any queue may have writes to deliver."""
        return bool(self.due or self.left)

    def _admit(self) -> None:
        """Let what is due stand in line, but for what has its turn now: that comes back when it is over."""
        for found, live in ((self.due, True), (self.left, False)):
            come = found - self._under_way.keys()
            found.difference_update(come)
            for queue in sorted(come, key=lambda queue: (queue != self._first, queue)):
                self._line.add(queue, live=live or queue == self._first)

    def _go_on(self, event: TurnOver, now: float) -> tuple[Instruction, ...]:
        live = self._under_way.pop(event.queue, True)
        self._early.discard(event.queue)
        awaited = event.queue in self._awaited
        self._awaited.discard(event.queue)
        if event.more or awaited:
            self._line.add(event.queue, live=live)
        else:
            self._precedence.went(event.queue)
        if event.pause > 0:  # the destination is away: all that is left of the round is due again
            self._broken_off = True
        return self._next_turns(now, event.troubled)

    def _next_turns(self, now: float, troubled: bool = False) -> tuple[Instruction, ...]:
        """Give turns to as many queues as may have one now; one alone looks whether an outage is over."""
        if self._broken_off:
            for queue in self._line:
                self._put_back(queue)
            self._line.clear()
            return () if self._under_way else self._end_round(now, Rest(0.0))
        begun: list[Instruction] = []
        while self._has_room(troubled) and self._first not in self._under_way:
            found = self._next_queue(now)
            if found is None:
                break
            queue, live = found
            self._under_way[queue] = live
            if not troubled:
                self._early.add(queue)
            begun.append(Deliver(queue))
        if begun or self._under_way:
            return tuple(begun)
        ping = (Ping(),) if troubled else ()
        return self._end_round(now, *ping, *((Rest(_NEXT_ROUND_S),) if self.has_due else ()))

    def _has_room(self, troubled: bool) -> bool:
        looks = troubled and not self._under_way.keys() <= self._early
        return len(self._under_way) < self._lanes and not looks

    def _next_queue(self, now: float) -> tuple[str, bool] | None:
        """Take the next queue out of the line; returns it, and whether this process logs to it now."""
        for queue, pause in self._pauses.items():
            if pause.until > now and queue in self._line:
                self._put_back(queue)
                self._line.remove(queue)
        return self._line.take(lambda queue: not self._precedence.waits(queue, self._is_on_its_way))

    def _is_on_its_way(self, queue: str) -> bool:
        return queue in self._under_way or queue in self._line

    def _put_back(self, queue: str) -> None:
        (self.due if self._line.is_live(queue) else self.left).add(queue)

    def _end_round(self, now: float, *last: Instruction) -> tuple[Instruction, ...]:
        if self._hurried:
            self.unsteady()
        else:
            self.steady(now)
        return last

    # --- what came of a delivery

    def _note_failure(self, event: Failed, now: float) -> tuple[Instruction, ...]:
        """Leave a queue alone for a while; where its own write may be the cause, see whether it is."""
        queue, error = event.queue, event.error
        self._steady_since = None
        if isinstance(error, Blocked):
            self._note_blocked(queue, error, now)
            return ()
        self._precedence.stopped(queue, failed=True)
        if error.elsewhere:
            if isinstance(error, Busy):
                self._busy.add(queue)
                self._troubles[queue] = error.reason
            self._pause(queue, now, _ELSEWHERE_S, error.retry_after or 0.0)
            return ()
        again = queue in self._pauses
        pause = self._pauses.setdefault(queue, _Pause())
        pause.tries, pause.until = pause.tries + 1, 0.0
        own = _reached(error) and (again or error.retry_after is None)
        return (Ping(event),) if own else ()

    def _note_blocked(self, queue: str, error: Blocked, now: float) -> None:
        """Give what a queue's next write comes after its turn, and the queue another one after that.

        Where that goes no further, look again when it is tried again.
        """
        other = self._pauses.get(error.on, _Pause())
        if self._precedence.may_go(error.on, before=queue):
            self._precedence.let_go(error.on, before=queue)
            if error.on in self._under_way:  # its turn takes what was there when it began
                self._awaited.add(error.on)
            else:
                self._line.add(error.on, live=self._under_way.get(queue, True))
            other.until = 0.0
        else:
            self._precedence.stopped(queue, failed=False)
            self._pause(queue, now, _BLOCKED_S, other.until - now)

    def _isolate(self, queue: str, error: Unavailable, now: float) -> None:
        """Note that this queue alone has trouble, and no other waits for it."""
        self._troubles[queue] = error.reason
        failing = self._failing.setdefault(queue, _Failing(now))
        failing.tries += 1
        failing.denied = error.denied
        most = _ISOLATED_PAUSE_S if failing.tries <= _ISOLATED_TRIES else _LONGEST_S
        self._pause(queue, now, most, error.retry_after or 0.0)

    def _pause(self, queue: str, now: float, most: float, least: float = 0.0) -> None:
        """Leave one queue alone for a while, longer each time."""
        pause = self._pauses.setdefault(queue, _Pause())
        pause.tries += 1
        seconds = min(0.1 * 2 ** min(pause.tries, 8), most, longest_pause_seconds())
        pause.until = now + max(seconds * self._chance.uniform(0.7, 1.3), least)

    # --- what becomes of a write

    def judge(self, question: Question, now: float) -> Verdict:
        """Return what becomes of a write that was not carried out."""
        match question:
            case WriteFailed(queue, op, error):
                waits = isinstance(error, Busy) or self.in_trouble(queue)
                if waits and _holds_up_its_run(op, queue):
                    return Verdict.MOVE_APART
                return self._judge_failure(queue, op, error, now)
            case LetterFailed(queue, error, held):
                known = held or self.is_isolated(queue, now)
                return Verdict.HOLD if _is_own(error) and known else Verdict.TRY_LATER
            case WriteBlocked(queue, op, by):
                return self._judge_blocked(queue, op, by, now)
            case Fault(queue, ends):
                write = f"{queue}/{sorted(ends.items())}"
                self._bugs[write] = self._bugs.get(write, 0) + 1
                return Verdict.REJECT if self._bugs[write] >= _BUG_TRIES else Verdict.TRY_LATER

    def _judge_blocked(self, queue: str, op: Operation, by: Blocked, now: float) -> Verdict:
        if self._precedence.may_go(by.on, before=queue):
            return Verdict.TRY_LATER
        if not by.needed:
            return Verdict.GO_ON
        if isinstance(op, _OF_REGISTRY):
            return Verdict.MOVE_APART if _holds_up_its_run(op, queue) else Verdict.TRY_LATER
        return Verdict.GIVE_UP if self._has_failed_long(by.on, now, 2) else Verdict.TRY_LATER

    def _judge_failure(self, queue: str, op: Operation, error: Unavailable, now: float) -> Verdict:
        if not _is_own(error):
            return Verdict.TRY_LATER
        isolated = self.is_isolated(queue, now)
        if isinstance(op, LogArtifact):
            return Verdict.HOLD if error.apart or isolated or self.uploads.closed else Verdict.TRY_LATER
        if not isolated:
            return Verdict.TRY_LATER
        if isinstance(op, _OF_RUN):
            return Verdict.TRY_ALONE
        if self._passes(_family(op.kind), queue):
            return Verdict.REJECT
        endless = isinstance(op, CreateRun) and error.denied
        return Verdict.GIVE_UP if self._has_failed_long(queue, now) and not endless else Verdict.TRY_LATER

    def _has_failed_long(self, queue: str, now: float, times: int = 1) -> bool:
        """Tell whether the next write of a queue has failed so long that nothing more is waited for."""
        return self._has_failed(queue, now, times * _ALONE_TRIES, times * _ALONE_S)

    def _has_failed(self, queue: str, now: float, tries: int, seconds: float) -> bool:
        failing = self._failing.get(queue)
        return failing is not None and failing.tries >= tries and now - failing.since >= seconds

    def _passes(self, family: str, queue: str) -> bool:
        """Tell whether a write of a kind went through since a queue's next one began to fail."""
        failing = self._failing.get(queue)
        return failing is not None and self._passed.get(family, float("-inf")) > failing.since

    # --- what is known of a queue

    def paused(self, queue: str) -> tuple[int, float] | None:
        """Return how often a queue was left alone in a row and until when (monotonic); None if it is not."""
        pause = self._pauses.get(queue)
        return None if pause is None else (pause.tries, pause.until)

    def is_isolated(self, queue: str, now: float) -> bool:
        """Tell whether the next write of a queue fails time and again although the destination answers."""
        return self._has_failed(queue, now, _ISOLATED_TRIES, _ISOLATED_S)

    def in_trouble(self, queue: str) -> bool:
        """Tell whether a queue does not move although the destination answers."""
        return queue in self._troubles

    def takes_later(self, queue: str, now: float) -> bool:
        """Tell whether a queue's next write has to wait although the destination answers.

        It is busy, as it says itself; or it denies the write; or the write fails time and again.
        """
        failing = self._failing.get(queue)
        denied = failing is not None and failing.denied and failing.tries > 1 and self.in_trouble(queue)
        return queue in self._busy or denied or self.is_isolated(queue, now)

    @property
    def trouble(self) -> str | None:
        """Return why a queue does not move although the destination answers, or None."""
        return next(iter(list(self._troubles.values())), None)

    @property
    def trouble_since(self) -> float | None:
        """Return since when a queue does not move although the destination answers, or None."""
        failing = list(self._failing.items())
        return min((each.since for queue, each in failing if self.in_trouble(queue)), default=None)

    def rate(self, now: float) -> float:
        """Return how many writes a second have arrived of late, since the first of them."""
        recent = [(when, count) for when, count in list(self._recent) if when >= now - _RECENT_S]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(now - recent[0][0], 1.0)


def _reached(error: Unavailable) -> bool:
    """Tell whether a failure shows that the destination was reached, however it answered."""
    return error.sent or error.denied


def _is_own(error: Unavailable) -> bool:
    """Tell whether a failure may be a write's own fault."""
    return _reached(error) and not error.elsewhere


def _holds_up_its_run(op: Operation, queue: str) -> bool:
    """Tell whether a write is a registration in its run's queue, and not in one of its own."""
    if not isinstance(op, RegisterVersion):
        return False
    return queue not in (REGISTRY_QUEUE, registration_queue(op.facts["key"]))


def _family(kind: type[Operation]) -> str:
    """Return the name of the kinds of which one going through shows that the service takes the others."""
    if issubclass(kind, _OF_MODEL):
        return "model"
    return "registry" if issubclass(kind, _OF_REGISTRY) else kind.__name__
