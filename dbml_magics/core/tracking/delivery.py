"""Delivery: one worker a workspace takes the journal's writes there, in order per run, as long as it takes.

Of all processes of a link one delivers to a workspace at a time: the one that holds the workspace's lease, a
POSIX record lock, which the kernel releases when its holder dies.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from dbml_magics.common.config import DELIVERY_TIMEOUT_S
from dbml_magics.common.log_records import logger
from dbml_magics.core.delivery.batching import Batch, Rejected, within
from dbml_magics.core.delivery.scheduler import Scheduler
from dbml_magics.core.delivery.writers.acknowledged import Missing
from dbml_magics.core.delivery.writers.registrations import REGISTRY_QUEUE, registration_queue
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Blocked, Busy, Unavailable, cause_of, time_and_again
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.interrupts import Flag, Waiters, deferred
from dbml_magics.core.model.operations import (
    BATCHED,
    ChangeRegistry,
    CreateModel,
    CreateRun,
    DamagedLine,
    DeleteModel,
    DeleteModelTag,
    DeleteRun,
    DeleteTag,
    FinalizeModel,
    Line,
    LogArtifact,
    LogBatch,
    LogInputs,
    LogMetric,
    LogModelParams,
    LogOutputs,
    LogParam,
    Operation,
    RegisterVersion,
    RestoreRun,
    RetryDeadLetter,
    SetModelTags,
    SetTag,
    SetTagAt,
    UpdateRun,
    decode,
    point_of,
)
from dbml_magics.core.model.sendable import LEAST, MOST, is_text
from dbml_magics.core.tracking.containers import Containers
from dbml_magics.core.tracking.journal import LINK_QUEUE, Entry, copy_of
from dbml_magics.core.tracking.lease import Lease, Watch
from dbml_magics.core.tracking.view import TERMINAL, mark
from dbml_magics.errors import JournalError

if TYPE_CHECKING:
    from dbml_magics.core.outbox.deferred_uploads import DeferredUploads
    from dbml_magics.core.tracking.engine import Engine

_log = logger(__name__)

_SCAN_S = 1.0  # how often queues of other processes are looked for, unless writes are gathered for longer
_SLICE = 50  # lines read at a stretch before the training's thread gets the interpreter
_BREATH_S = 0.001  # and for how long: a training that logs without a pause keeps most of its core
_PROBE_S = 5.0
_IN_FLIGHT_S = 2.0  # how long a request may be under way whose sender is dead
_NOTHING: dict[str, str] = {}
_OF_MACHINE = (sqlite3.Error, JournalError)  # this machine's trouble, and no write's: a full disk
_HELD_S, _HELD_LONGEST_S = 15.0, 600.0  # between two tries of files that are not taken now
_PARTS = 10_000  # of a queue that goes before another
HELD_QUEUE = "held"
_OF_MODEL = (CreateModel, FinalizeModel, SetModelTags, DeleteModelTag, LogModelParams, DeleteModel)
_OF_REGISTRY = (RegisterVersion, ChangeRegistry)
_OF_RUN = (DeleteTag, UpdateRun, DeleteRun, RestoreRun, LogInputs, LogOutputs)


class _ShortTurns:
    """While a worker works, threads take turns more often than every 5 ms.

    A training's thread gives the interpreter's lock away at each write to the journal; a worker in the
    middle of some Python would keep it for the whole of the switch interval (measured: p99 of a log call
    4 ms, 0.3 ms so).
    """

    _INTERVAL_S = 0.0002

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers = 0
        self._before = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._workers == 0:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, self._INTERVAL_S))
            self._workers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._workers -= 1
            if self._workers == 0:
                sys.setswitchinterval(self._before)

    def after_fork(self) -> None:
        """In a forked child: no worker works here."""
        self._lock = threading.Lock()
        if self._workers:
            self._workers = 0
            sys.setswitchinterval(self._before)


_short_turns = _ShortTurns()


class DeliveryWorker:
    """Delivers to one workspace."""

    def __init__(self, engine: Engine, role: str) -> None:
        self.engine = engine
        self.role = role
        self.clock = engine.clock
        self.health = engine.health[role]
        self.side = Side(role, engine.parts, self)
        self.delivered = 0
        self.scheduler = Scheduler(LINK_QUEUE, engine.chance)
        # Flags and waiters, as they are set and waited for in the main thread, where an interrupt may come.
        self._wake, self._urgent, self._stop = Flag(), Flag(), Flag()
        self._nudge = Flag()  # ends a pause of gathering: it may be over now
        self._arrived = Waiters()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.lease = Lease(engine.link.home / f"{role}.lease")
        self._lease_lock = threading.Lock()
        self.watch = Watch(self.lease)
        self._leased = self._scanned = float("-inf")
        self._begun = False  # what others left is in doubt since the lease was taken
        self._work_lock = threading.RLock()
        self._delivered_by_others: int | None = None  # looked at while there is trouble
        self.held = UploadRetries(self)
        self.containers = Containers(engine, role)

    # --- being told

    def notify(self, queue: str) -> None:
        """Tell that ``queue`` has a new write (called on the path of every log call)."""
        if queue not in (due := self.scheduler.due):
            due.add(queue)
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self.start()

    def notify_soon(self, queue: str) -> None:
        """Tell that ``queue`` has a new write that is seen from afar: a begin, an end, a file, a model."""
        first, self.scheduler.soon = not self.scheduler.soon, True
        self.notify(queue)
        if first:  # of those that the next round sends: waking the thread costs the caller some 0.1 ms
            self._nudge.set()

    def hurry(self) -> None:
        """Tell that somebody waits: send at once instead of gathering."""
        self._urgent.set()
        self._wake.set()
        self._nudge.set()
        self.start()

    def start(self) -> None:
        """Start the worker's thread, once."""
        with self._start_lock, deferred():
            if self._thread is None or not self._thread.is_alive():
                self._stop.clear()
                thread = threading.Thread(target=self._run, name=f"dbml-{self.role}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is ending; what waits is in the journal
                    return
                self._thread = thread

    def stop(self) -> None:
        """End the thread and give the lease back."""
        self.halt()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2 * DELIVERY_TIMEOUT_S)
        self._thread = None
        self.lease.release()

    def halt(self) -> None:
        """Have the thread send nothing more."""
        self._stop.set()
        self._wake.set()
        self._urgent.set()
        self._nudge.set()

    @property
    def at_rest(self) -> bool:
        """Tell whether no thread delivers."""
        return self._thread is None

    @property
    def halted(self) -> bool:
        """Tell whether nothing more shall be sent."""
        return self._stop.is_set()

    def come_to_rest(self, until: float) -> bool:
        """Wait for the halted thread's end until then (monotonic); True when the lease is ours."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - self.clock.monotonic()))
        while not self.take_lease():
            if self.clock.monotonic() >= until:
                return False
            self.clock.sleep(0.05)
        return True

    def after_fork(self) -> None:
        """In a forked child: no thread, no lease; both come back when the child writes."""
        _short_turns.after_fork()
        self.scheduler = Scheduler(LINK_QUEUE, self.engine.chance)
        self._wake, self._urgent, self._stop, self._nudge = Flag(), Flag(), Flag(), Flag()
        self._arrived, self._start_lock = Waiters(), threading.Lock()
        self._work_lock = threading.RLock()
        self._thread = None
        self.held = UploadRetries(self)
        self.lease.after_fork()
        self._lease_lock = threading.Lock()
        self.side = Side(self.role, self.engine.parts, self)

    def wait_for_arrival(self, seconds: float) -> None:
        """Wait until something has arrived, at most so long."""
        self._arrived.wait(seconds)

    # --- the lease

    @property
    def has_lease(self) -> bool:
        """Tell whether this process delivers to the workspace."""
        return self.lease.held

    def take_lease(self) -> bool:
        """Take the workspace's lease, if no other process has it; tell whether it is ours."""
        with self._lease_lock, deferred():  # who sees it taken sees the rest done, too
            if self.lease.held:
                return True
            if not self.lease.take():
                return False
            self._leased = self.clock.monotonic()
            self._begun = False
            self.engine.journal.drop_lent(self.role)
            return True

    def stopped_holder(self) -> int | None:
        """Return the id of another process that has the lease and does not move, or None.

        Takes some seconds where it is not known yet and seems so.
        """
        if self.watch.still is not None and self.lease.is_elsewhere():
            return self.watch.still
        return Watch(self.lease).ask()

    def let_settle(self) -> None:
        """Leave what is in doubt alone while a request of the lease's last holder may yet be carried out.

        The last holder may have been killed with a request at the service; asked too soon, the service does
        not know of it yet. Raises Unavailable.
        """
        left = self._leased + _IN_FLIGHT_S - self.clock.monotonic()
        if left > 0:
            raise Unavailable(
                "waits for what an earlier process had sent", sent=False, elsewhere=True, retry_after=left
            )

    # --- the thread

    def _run(self) -> None:
        self._scanned = float("-inf")
        while not self._stop.is_set():
            if not self.clock.wait(self._wake, _SCAN_S):
                self.scheduler.unsteady()
            if self._stop.is_set() or not self.step():
                return

    def step(self) -> bool:
        """Deliver what is due, if the lease is ours; False when a link that was left needs it no more."""
        try:
            if not self.take_lease():
                self._look_after_line()
                self.clock.wait(self._stop, 0.2)
                return True
            if not self._begun:
                self.engine.begin_delivery(self.role)
                self._begun = True
            if self._wake.is_set() and not self._urgent.is_set():
                self._gather()
            self._wake.clear()
            if self.clock.monotonic() - self._scanned > _SCAN_S:
                self.scheduler.due.update(self.engine.journal.queues())
                self._scanned = self.clock.monotonic()
            urgent, soon = self._urgent.is_set(), self.scheduler.soon
            self.scheduler.soon = False
            self._round()
            if urgent or soon:
                self.scheduler.unsteady()
            else:
                self.scheduler.steady(self.clock.monotonic())
            self._write_overflow(urgent)
            if not self.health.away:
                self.held.try_due()
            return not (self.engine.retired and self._may_end())
        except Exception:
            _log.exception("delivery to %s stumbled; it goes on", self.role)
            self.clock.wait(self._stop, 1.0)
            return True

    def _may_end(self) -> bool:
        """End the thread of a link that was left, once nothing waits; a later write starts it again."""
        if self._wake.is_set() or self.scheduler.due or self.engine.waiting(self.role)[0]:
            return False
        with self._start_lock:
            thread, self._thread = self._thread, None
            if self._wake.is_set():  # a write that saw this thread still running
                self._thread = thread
                return False
        self.lease.release()
        self.engine.close_if_left()
        return True

    def _gather(self) -> None:
        """Wait before sending, so that writes batch."""
        began = self.clock.monotonic()
        while True:
            self._nudge.clear()
            if self._urgent.is_set() or self._stop.is_set():
                return
            batch = self.side.learned.limits.metrics
            left = self.scheduler.gathering_seconds(began, self.clock.monotonic(), batch)
            if left <= 0:
                return
            self.clock.wait(self._nudge, left)

    def _write_overflow(self, urgent: bool) -> None:
        """Write the files of what did not fit, once the rest of their runs has arrived."""
        overflow = self.side.overflow
        if overflow.unwritten() and not self.health.away and self.health.pause() == 0:
            with self._work_lock, call_timeout(DELIVERY_TIMEOUT_S):
                overflow.write_due(lambda run: self.engine.is_waiting(self.role, run), at_once=urgent)

    def _look_after_line(self) -> None:
        """Keep this process's word on the workspace true while another process delivers."""
        self.watch.look()
        if self.health.reason is None:
            self._delivered_by_others = None
            return
        before, now = self._delivered_by_others, self.engine.state.delivered_count(self.role)
        self._delivered_by_others = now
        if before is not None and now > before:
            self.health.fine()
        elif self.health.pause() == 0:
            self.answers()

    def answers(self) -> bool:
        """Ask the workspace whether it answers at all."""
        try:
            with call_timeout(_PROBE_S):
                self.side.destination.ping()
        except Exception as error:
            self.health.trouble(error if isinstance(error, Unavailable) else Unavailable(cause_of(error)))
            return False
        self.health.fine()
        return True

    def _round(self) -> None:
        """Deliver what is there, a part of each queue in turn, until nothing is or the workspace is away."""
        urgent, scheduler = self._urgent.is_set(), self.scheduler
        self._urgent.clear()
        pause = self.health.pause()
        if pause > 0 and scheduler.due:
            self.clock.wait(self._stop, min(pause, 0.25))
            self._wake.set()
            if urgent:
                self._urgent.set()
            return
        scheduler.begin_round()
        while not self._stop.is_set() and (queue := scheduler.next(self.clock.monotonic())) is not None:
            if self.deliver(queue):
                scheduler.again(queue)
            if self.health.pause() > 0:
                scheduler.postpone()
                self._wake.set()
                return
        if self._stop.is_set():
            return
        if self.health.reason is not None and self.health.pause() == 0:
            self.answers()
        if scheduler.due:
            self.clock.wait(self._stop, 0.05)
            self._wake.set()

    # --- one queue

    def deliver(self, queue: str) -> bool:
        """Deliver the next part of a queue; True when more is left."""
        with self._work_lock:
            try:
                with call_timeout(_PROBE_S if self.health.away else DELIVERY_TIMEOUT_S), _short_turns:
                    more = _Part(self, queue).deliver()
            except Unavailable as error:
                self._when_away(queue, error)
                return True
            except Exception:  # of this machine's (a full disk) or of ours: the other queues shall go on
                _log.exception("delivery of %s to %s stumbled; it is tried again", queue, self.role)
                self.scheduler.stumbled(queue, self.clock.monotonic())
                return True
            self.scheduler.delivered(queue)
            if not more:
                self.side.points.forget_all()
                self.engine.tidy(queue)
            return more

    def deliver_first(self, queue: str) -> None:
        """Deliver a queue as far as it goes now, within the turn of another one that comes after it."""
        for _ in range(_PARTS):
            if not self.deliver(queue) or self.scheduler.paused(queue):
                return

    def _when_away(self, queue: str, error: Unavailable) -> None:
        alone = self.scheduler.unavailable(queue, error, self.clock.monotonic())
        if not error.elsewhere:
            self.health.trouble(error)
        if alone and self.answers():
            self.scheduler.isolate(queue, error, self.clock.monotonic())

    def is_stuck(self, queue: str) -> bool:
        """Tell whether the next write of a queue fails time and again though the workspace answers."""
        return self.scheduler.is_isolated(queue, self.clock.monotonic())

    def has_failed_long(self, queue: str, times: int = 1) -> bool:
        """Tell whether the next write of a queue has failed so long that nothing more is waited for."""
        return self.scheduler.has_failed_long(queue, self.clock.monotonic(), times)

    def passes(self, op: Operation, queue: str) -> bool:
        """Tell whether a write of the same kind went through since a queue's next one began to fail."""
        return self.scheduler.passes(_family(op.kind), queue)

    def passed(self, op: Operation) -> None:
        """Note that a write of a kind went through."""
        self.scheduler.passed(_family(op.kind), self.clock.monotonic())

    @property
    def trouble_since(self) -> float | None:
        """Return since when (s since the epoch) a queue does not move although the workspace answers."""
        since = self.scheduler.trouble_since
        return None if since is None else self.clock.time() - (self.clock.monotonic() - since)

    def takes_later(self, queue: str) -> bool:
        """Tell whether a queue's next write has to wait though the workspace answers."""
        return self.scheduler.takes_later(queue, self.clock.monotonic())

    def arrived(self, count: int) -> None:
        """Note that ``count`` writes have arrived, and tell who waits."""
        self.delivered += count
        self.scheduler.arrived(count, self.clock.monotonic())
        self.health.fine()
        self._arrived.wake()

    @property
    def rate(self) -> float:
        """Return how many writes a second this process has delivered of late, since the first of them."""
        return self.scheduler.rate(self.clock.monotonic())

    def bug(self, queue: str, ends: dict[str, int], error: Exception) -> bool:
        """Count an error that is none of the workspace's; True when its write is to be put aside."""
        _log.debug("a write could not be delivered to %s", self.role, exc_info=error)
        return self.scheduler.bug(f"{queue}/{sorted(ends.items())}")


class UploadRetries:
    """Files that a workspace does not take now, though it answers: put aside, so that their run goes on.

    A storage's firewall refuses uploads while metrics pass. They are dead letters that are tried again by
    themselves, one at first, and the rest as soon as one goes through.
    """

    def __init__(self, worker: DeliveryWorker) -> None:
        self._worker = worker
        self._next: dict[int, float] = {}
        self._pause_s = _HELD_S
        self.closed = False
        """No upload has gone through since the last one that was put aside."""
        self._loaded = False

    @property
    def _deferred(self) -> DeferredUploads:
        return self._worker.engine.state.deferred_uploads

    def numbers(self) -> list[int]:
        """Return the numbers of the dead letters that are tried again by themselves."""
        return self._deferred.numbers(self._worker.role)

    def add(self, number: int) -> None:
        """Hold a dead letter for another try."""
        self._deferred.add(self._worker.role, number)
        self._load()
        self._next[number] = self._worker.clock.monotonic() + self._pause_s
        self.closed = True

    def has(self, number: int) -> bool:
        """Tell whether a dead letter is one of these."""
        return self._deferred.has(self._worker.role, number)

    def settled(self, number: int, arrived: bool) -> None:
        """Note what came of another try."""
        if arrived:
            self._deferred.discard(self._worker.role, number)
            self._next.pop(number, None)
            return
        self._pause_s = min(2 * self._pause_s, _HELD_LONGEST_S)
        self._next[number] = self._worker.clock.monotonic() + self._pause_s

    def went_through(self) -> None:
        """Note that an upload went through: all are due."""
        if self.closed:
            self.closed, self._pause_s = False, _HELD_S
            self._next = dict.fromkeys(self._next, 0.0)

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            self._next = dict.fromkeys(self.numbers(), self._worker.clock.monotonic() + self._pause_s)

    def try_due(self) -> None:
        """Try again what is due: one while none goes through, else all."""
        self._load()
        now = self._worker.clock.monotonic()
        due = [number for number, at in self._next.items() if at <= now]
        for number in due[:1] if self.closed else due:
            self._again(number)
            self._next[number] = now + _HELD_LONGEST_S  # until it is settled

    def try_all(self) -> None:
        """Try all again now: somebody waits for them."""
        for number in self.numbers():
            self._again(number)

    def _again(self, number: int) -> None:
        engine, role = self._worker.engine, self._worker.role
        if engine.state.dead_letter(number) is None:  # discarded
            self.settled(number, True)
        else:
            # A queue of its own: in its run's, a registration may wait for this very file.
            engine.write(HELD_QUEUE, RetryDeadLetter(role, number))


class _Part:
    """The next part of one queue on its way to one workspace."""

    def __init__(self, worker: DeliveryWorker, queue: str) -> None:
        self.worker = worker
        self.engine = worker.engine
        self.state = worker.engine.state
        self.side = worker.side
        self.learned = worker.side.learned
        self.role = worker.role
        self.queue = queue
        self.offsets: dict[str, int] = {}
        self.doubtful_to: dict[str, int] = {}
        self._read_cursors()
        self.batch = Batch()
        self.ends: dict[str, int] = {}
        self.count = 0
        self.bytes = 0
        self.kinds: Counter[str] = Counter()  # what has arrived, for the run's receipt

    def deliver(self) -> bool:
        sizes = self.engine.journal.files(self.queue)
        limit, waits_from = 4 * self.learned.limits.metrics, self.worker.containers.limit(self.queue)
        for handled, entry in enumerate(
            self.engine.journal.entries(self.queue, sizes, self.offsets), start=1
        ):
            if handled % _SLICE == 0:
                self.worker.clock.sleep(_BREATH_S)  # the training gets the interpreter's lock for a moment
            if waits_from is not None and entry.order[0] > waits_from:
                self._flush()
                raise Blocked("waits for a change of its experiment", on=LINK_QUEUE)
            if not self._add_to_batch(entry):
                self._flush()
                self._apply(entry)
            if handled >= limit:
                self._flush()
                return True
        self._flush()
        self._pass_torn_ends(sizes)
        return False

    def _read_cursors(self) -> None:
        cursors = self.state.cursors(self.role, self.queue)
        self.offsets = {file: offset for file, (offset, _) in cursors.items()}
        self.doubtful_to = {file: sending for file, (offset, sending) in cursors.items() if sending > offset}

    def _pass_torn_ends(self, sizes: dict[str, int]) -> None:
        """Pass over the half line of a process that died while it wrote: nobody was told it is kept."""
        for file, size in sizes.items():
            if size > self.offsets.get(file, 0) and self.engine.journal.is_left(self.queue, file):
                self.state.mark_delivered(self.role, self.queue, {file: size}, 0)
                self.offsets[file] = size

    def _add_to_batch(self, entry: Entry) -> bool:
        if entry.line is None:
            return False
        point = point_of(entry.line)
        if point is not None and _is_plain(point):
            return self._add_point(entry, point)
        found = _items_of(decode(entry.line), self.role)
        if found is None:
            return False
        points, params, tags = found
        self._make_room(
            len(points), len(params), len(tags), len(entry.text) or entry.end - entry.start, params
        )
        self.batch.metrics.extend(points)
        self.batch.params.update(params)
        self.batch.tags.update(tags)
        self._took(entry)
        return True

    def _add_point(self, entry: Entry, point: Point) -> bool:
        """Add the usual write, one point, in few steps: a training's every step is one."""
        size = entry.end - entry.start
        self._make_room(1, 0, 0, size, _NOTHING)
        self.batch.metrics.append(point)
        self._took(entry)
        return True

    def _make_room(self, points: int, params: int, tags: int, size: int, new_params: dict[str, str]) -> None:
        if not self.count:
            return
        limits, batch = self.learned.limits, self.batch
        changed = bool(new_params) and any(batch.params.get(k, v) != v for k, v in new_params.items())
        if (
            len(batch.metrics) + points > limits.metrics
            or len(batch.params) + params > limits.params
            or len(batch.tags) + tags > limits.tags
            or len(batch) + points + params + tags > limits.items
            or 2 * (self.bytes + size) > limits.body_bytes  # the wire's form is at most twice the journal's
            or changed
        ):
            self._flush()

    def _took(self, entry: Entry) -> None:
        self.ends[entry.file] = entry.end
        self.count += 1
        self.bytes += entry.end - entry.start

    def _in_doubt(self) -> bool:
        if self.side.adoption.settle_doubt(self.queue):
            self._read_cursors()
        in_doubt = any(self.offsets.get(file, 0) < self.doubtful_to.get(file, 0) for file in self.ends)
        if in_doubt:
            self.worker.let_settle()
        return in_doubt

    def _flush(self) -> None:
        if not self.count:
            return
        self._go_on()
        if len(self.batch):
            # The same point twice is one point: MLflow's own stores keep one, and so shall every workspace.
            # A plain finite point is its own identity.
            points = self.batch.metrics
            self.batch.metrics = list(
                {(p if len(p) == 4 and p[1] - p[1] == 0 else _identity(p)): p for p in points}.values()
            )
            rejected: Sequence[tuple[Operation, str]]
            try:
                rejected = self._send_batch()
            except (Unavailable, OSError, *_OF_MACHINE):
                raise
            except Exception as error:
                if not isinstance(error, MlflowException) and not self.worker.bug(
                    self.queue, self.ends, error
                ):
                    raise Unavailable(f"writes could not be applied ({cause_of(error)})") from error
                # Not an item is refused but all of them: the run cannot be made there, say.
                whole = LogBatch(self.batch.metrics, self.batch.params, self.batch.tags)
                rejected = [(whole, cause_of(error))]
            self.kinds.update(_counted(self.batch.metrics, self.batch.params, self.batch.tags))
            for op, cause in rejected:
                self.state.reject(self.role, self.queue, op.encode(), cause)
                items = _items_of(op, self.role)
                if items is not None:
                    self.kinds.subtract(_counted(*items))
        self._done()

    def _send_batch(self) -> Rejected:
        self.side.batches.make_ready(self.queue)
        in_doubt = self._in_doubt()
        before = {file: self.doubtful_to.get(file, 0) for file in self.ends}
        self.state.mark_sending(self.role, self.queue, self.ends)
        rejected: Rejected = []
        stuck = self.worker.is_stuck(self.queue)
        for number, part in enumerate(within(self.batch, self.learned.limits)):
            try:
                rejected += self.side.batches.send(self.queue, part, in_doubt, in_pieces=stuck)
            except Unavailable as error:
                if number == 0 and not error.sent:
                    self.state.unmark_sending(self.role, self.queue, before)
                raise
        return rejected

    def _go_on(self) -> None:
        if self.worker.halted and threading.current_thread() is self.worker._thread:
            raise Unavailable("delivery has been ended here", sent=False, elsewhere=True)

    def _apply(self, entry: Entry) -> None:
        self._go_on()
        self._took(entry)
        op = entry.operation
        if entry.line is None or op is None:
            self._reject_damaged(entry.text)
            return
        if op.kind in BATCHED:
            self._reject_damaged(str(entry.line)[:500])
            return
        if isinstance(op, RetryDeadLetter):
            self._again(op)
            return
        if not self._await_contents(op, entry):
            self._done()
            return
        before = {file: self.doubtful_to.get(file, 0) for file in self.ends}
        self.state.mark_sending(self.role, self.queue, self.ends)
        in_doubt = self._in_doubt()
        try:
            self.side.apply(self.queue, op, in_doubt)
        except Unavailable as error:
            if not error.sent and not error.denied:
                self.state.unmark_sending(self.role, self.queue, before)
            if not self._goes_apart(op, error):
                self._put_aside(op, entry.line, error)
        except _OF_MACHINE:
            raise
        except Exception as error:
            self._refused(op, entry.line, error)
        else:
            if _ends(op):
                self._check_end(op)
            self._passed(op)
            self.kinds[_RECEIVED.get(op.kind, "changes")] += 1
        self._done()
        self.engine.release_spool(self.queue, entry)

    def _await_contents(self, op: Operation, entry: Entry) -> bool:
        """Let what a write contains go first; False when it is put aside since that never arrives."""
        try:
            self.worker.containers.await_contents(self.queue, op, entry.stamp)
        except Blocked as error:
            if not self.worker.has_failed_long(error.on, 2):
                raise
            self.state.reject(self.role, self.queue, entry.line, error.reason)
            return False
        return True

    def _goes_apart(self, op: Operation, error: Unavailable) -> bool:
        """Let a registration that cannot be made now wait in a queue of its own: its run goes on."""
        if not isinstance(op, RegisterVersion):
            return False
        own = registration_queue(op.facts["key"])
        if self.queue in (REGISTRY_QUEUE, own):
            return False
        if not (isinstance(error, (Blocked, Busy)) or self.worker.scheduler.in_trouble(self.queue)):
            return False
        told = op.facts.copy()
        told.update({"only": self.role, "queue": self.queue})
        self.engine.write(own, RegisterVersion(told))
        return True

    def _check_end(self, op: Operation) -> None:
        """Compare an ended run with what was acknowledged, and send what is missing again.

        Raises Unavailable.
        """
        if not self.side.ids.is_tracked:
            return
        try:
            missing = self.side.batches.missing_at_end(self.queue)
            if missing:
                _log.warning(
                    "dbml_magics: %s acknowledged writes of run %s that it does not have (%s): sent again",
                    self.role,
                    self.queue,
                    missing,
                )
                self._send_missing(missing, op)
                left = self.side.batches.missing_at_end(self.queue)
                self.state.receipts.note_resent(self.role, self.queue, str(missing))
                if left:
                    self._reject_missing(left)
        except Unavailable:
            if not self.worker.is_stuck(self.queue):
                raise
        except MlflowException as error:  # nobody may read it: what was acknowledged has to do
            _log.debug("run %s at %s could not be compared: %s", self.queue, self.role, error)
        self.side.acknowledged.forget(self.side.ids.run_at(self.queue))

    def _send_missing(self, missing: Missing, op: Operation) -> None:
        for points in self._points_of(missing.metrics):
            self._send_again(Batch(metrics=points))
        for part in within(Batch([], dict(missing.params), dict(missing.tags)), self.learned.limits):
            self._send_again(part)
        if missing.status:
            self.side.apply(self.queue, op, True)

    def _points_of(self, metrics: frozenset[str]) -> Iterator[list[Point]]:
        """Yield what the journal has of some metrics of the run, as many points at a time as fit a batch."""
        journal, points, limit = self.engine.journal, list[Point](), self.learned.limits.metrics
        for entry in journal.entries(self.queue, journal.files(self.queue), {}) if metrics else ():
            items = None if entry.line is None else _items_of(decode(entry.line), self.role)
            points += [point for point in items[0] if point[0] in metrics] if items else []
            while len(points) >= limit:
                yield points[:limit]
                points = points[limit:]
        if points:
            yield points

    def _send_again(self, part: Batch) -> None:
        for op, cause in self.side.batches.send(self.queue, part, True):
            self.state.reject(self.role, self.queue, op.encode(), cause)

    def _reject_missing(self, missing: Missing) -> None:
        """Put aside what a workspace goes on acknowledging without having it."""
        cause = f"{self.role} acknowledged it twice and did not have it when the run ended"
        if missing.params or missing.tags:
            lacking = LogBatch([], dict(missing.params), dict(missing.tags))
            self.state.reject(self.role, self.queue, lacking.encode(), cause)
        for points in self._points_of(missing.metrics):
            if absent := self.side.batches.absent(self.queue, points):
                self.state.reject(self.role, self.queue, LogBatch(absent, {}, {}).encode(), cause)

    def _passed(self, op: Operation) -> None:
        self.worker.passed(op)
        if isinstance(op, LogArtifact):
            self.worker.held.went_through()

    def _put_aside(self, op: Operation, line: Line, error: Unavailable) -> None:
        """Put a write aside that fails time and again while others go through.

        Raises Unavailable if they fail.
        """
        worker = self.worker
        if error.elsewhere or not (error.sent or error.denied):
            raise error
        if isinstance(op, LogArtifact):
            known = error.apart or worker.is_stuck(self.queue) or worker.held.closed
            if not known or not worker.answers():
                raise error
            worker.held.add(self.state.reject(self.role, self.queue, line, cause_of(error)))
            return
        if not worker.is_stuck(self.queue):
            raise error
        failure, alone = error, True
        if isinstance(op, _OF_RUN):
            failed = self.side.batches.retry_in_isolation(
                self.queue, lambda: self.side.apply(self.queue, op, True)
            )
            if failed is None:
                return
            failure = failed
        elif not worker.passes(op, self.queue):
            alone = False
            if not worker.has_failed_long(self.queue) or (isinstance(op, CreateRun) and error.denied):
                raise error
        cause = time_and_again(failure, alone=alone)
        if isinstance(op, CreateRun):
            self.side.runs.give_up(self.queue, cause)
        self._refused(op, line, MlflowException(cause))

    def _reject_damaged(self, text: str) -> None:
        cause = "this line of the journal is damaged"
        self.state.reject(self.role, self.queue, DamagedLine(text).encode(), cause)
        self._done()

    def _refused(self, op: Operation, line: Line, error: Exception) -> None:
        if not isinstance(error, MlflowException) and not self.worker.bug(self.queue, self.ends, error):
            raise Unavailable(f"a write could not be applied ({cause_of(error)})") from error
        cause = cause_of(error)
        if isinstance(op, RegisterVersion):
            self.state.reject(self.role, op.facts.get("queue", self.queue), line, cause)  # of its run
            self.state.model_versions.note_refusal(op.facts["key"], self.role, cause)
        else:
            self.state.reject(self.role, self.queue, line, cause)

    def _again(self, again: RetryDeadLetter) -> None:
        """Try a dead letter of this workspace once more; what is refused again stays one, with its new cause.

        The letter itself stays until then, and says by its absence that a line was obeyed before: a crash in
        between neither loses nor doubles it.
        """
        number = again.number
        letter = self.state.dead_letter(number) if again.role == self.role else None
        if letter is not None:
            op = decode(letter)
            self.state.mark_sending(self.role, self.queue, self.ends)
            try:
                refused = [(item.encode(), cause) for item, cause in self._try_again(op)]
            except Unavailable as error:
                fails = (error.sent or error.denied) and not error.elsewhere
                held = self.worker.held.has(number)
                if not fails or not (held or self.worker.is_stuck(self.queue)) or not self.worker.answers():
                    raise
                refused = [(letter, cause_of(error))]
            except _OF_MACHINE:
                raise
            except Exception as error:
                if not isinstance(error, MlflowException) and not self.worker.bug(
                    self.queue, self.ends, error
                ):
                    raise Unavailable(f"a write could not be applied ({cause_of(error)})") from error
                refused = [(letter, cause_of(error))]
                if isinstance(op, RegisterVersion):
                    self.state.model_versions.note_refusal(op.facts["key"], self.role, cause_of(error))
            own = self.state.dead_queue(number) or self.queue
            self.state.settle_dead(number, refused)
            if self.worker.held.has(number):
                self.worker.held.settled(number, not refused)
            if not refused:
                self._passed(op)
                items = _items_of(op, self.role)
                self.kinds.update(_counted(*items) if items else [_RECEIVED.get(op.kind, "changes")])
        self._done()
        if name := copy_of(letter):
            self.engine.release_copy(own, name)

    def _try_again(self, op: Operation) -> Rejected:
        items = _items_of(op, self.role)
        if items is None:
            if isinstance(op, RegisterVersion):
                self.state.model_versions.forget_answer(op.facts["key"], self.role)  # it was the refusal
            ended = (self.state.run(self.queue) or {}).get("ended")
            if isinstance(op, UpdateRun) and not _ends(op) and ended:
                # MLflow's rename says RUNNING too: what came after it shall stand.
                op = UpdateRun(name=op.name)
            self.side.apply(self.queue, op, True)
            return []
        refused: Rejected = []
        # Always in doubt: a part of it may have arrived before it was refused, or another way since.
        for part in within(Batch(*items), self.learned.limits):
            refused += self.side.batches.send(self.queue, part, True)
        return refused

    def _done(self) -> None:
        kinds = {kind: amount for kind, amount in self.kinds.items() if amount > 0}
        self.state.mark_delivered(self.role, self.queue, self.ends, self.count, kinds)
        self.kinds.clear()
        self.worker.scheduler.moved(self.queue, all(map(self.engine.journal.is_own, self.ends)))
        self.offsets.update(self.ends)
        self.worker.arrived(self.count)
        self.batch, self.ends, self.count, self.bytes = Batch(), {}, 0, 0


# What a run's receipt counts; others are changes.
_RECEIVED: dict[type[Operation], str] = {
    CreateRun: "runs",
    LogArtifact: "files",
    CreateModel: "models",
    RegisterVersion: "registrations",
}


def _family(kind: type[Operation]) -> str:
    """Return the name of the kinds of which one going through shows that the service takes the others."""
    if issubclass(kind, _OF_MODEL):
        return "model"
    return "registry" if issubclass(kind, _OF_REGISTRY) else kind.__name__


def _items_of(op: Operation, role: str) -> tuple[list[Point], dict[str, str], dict[str, str]] | None:
    """Return (points, params, tags) of a write that travels in batches; None for another or a damaged one."""
    try:
        match op:
            case LogMetric():
                return [_point(op.fields())], {}, {}
            case LogParam():
                return [], _texts({op.key: op.value}), {}
            case SetTag():
                return [], {}, _texts({op.key: op.value})
            case LogBatch():
                return [_point(p) for p in op.points], _texts(op.params), _texts(op.tags)
            case SetTagAt():
                return [], {}, _texts({op.key: op.value}) if role in op.to else {}
    except (IndexError, TypeError, ValueError, OverflowError):
        pass
    return None


def _texts(given: Mapping[str, str]) -> dict[str, str]:
    if not all(is_text(key) and is_text(value) for key, value in given.items()):
        raise ValueError("no params or tags that a workspace can be sent")
    return dict(given)


def _ends(op: Operation) -> bool:
    """Tell whether a write ends its run."""
    return isinstance(op, UpdateRun) and op.status in TERMINAL


def _counted(points: list[Point], params: dict[str, str], tags: dict[str, str]) -> dict[str, int]:
    """Return how many of each kind are in a batch."""
    return {"points": len(points), "params": len(params), "tags": len(tags)}


def _point(fields: Sequence[Any]) -> Point:
    key, value, stamp, step, *extra = fields
    if not (
        is_text(key)
        and all(is_text(text) for text in (extra[0] if extra else None) or () if text is not None)
    ):
        raise ValueError("no point of a metric")
    if not (type(stamp) is int and type(step) is int and LEAST <= stamp <= MOST and LEAST <= step <= MOST):
        raise ValueError("no point of a metric")
    return (key, float(value), stamp, step, *extra)


def _is_plain(point: Point) -> bool:
    """Tell in few steps whether a point can be sent as it is; False where a closer look is needed."""
    if len(point) != 4:
        return False
    key, value, stamp, step = point
    return (
        type(key) is str
        and key.isascii()
        and type(value) is float
        and type(stamp) is int
        and type(step) is int
        and 0 <= stamp <= MOST
        and LEAST <= step <= MOST
    )


def _identity(point: Point) -> Any:
    model = tuple(point[4]) if len(point) > 4 and point[4] is not None else None
    return point[0], mark(point[1], point[2], point[3]), model
