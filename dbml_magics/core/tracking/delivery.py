"""Delivery: one courier a workspace takes the journal's writes there, in order per run, for as long as it takes.

Of all processes of a link one delivers to a workspace at a time: the one that holds the workspace's lease, a POSIX
record lock, which the kernel releases when its holder dies.
"""

from __future__ import annotations

import fcntl
import heapq
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dbml_magics.config import DELIVERY_TIMEOUT_S, LINGER_S
from dbml_magics.core.tracking.apply import Applier, Batch, Point, cause_of, mark
from dbml_magics.core.tracking.faults import Away
from dbml_magics.core.tracking.journal import Entry
from dbml_magics.core.tracking.registrations import answer_key
from dbml_magics.core.workspaces.rest import call_timeout

if TYPE_CHECKING:
    from dbml_magics.core.tracking.engine import Engine

_log = logging.getLogger(__name__)

_SCAN_S = 1.0  # how often queues of other processes are looked for
_SLICE = 100  # lines read at a stretch before the training's thread gets the interpreter
_PROBE_S = 5.0
_BUG_TRIES = 3


class _ShortTurns:
    """While a courier works, threads take turns more often than every 5 ms.

    A training's thread gives the interpreter's lock away at each write to the journal; a courier in the middle of
    some Python would keep it for the whole of the switch interval (measured: p99 of a log call 4 ms, 0.3 ms so).
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
        """In a forked child: no courier works here."""
        self._lock = threading.Lock()
        if self._workers:
            self._workers = 0
            sys.setswitchinterval(self._before)


_short_turns = _ShortTurns()


class Courier:
    """Delivers to one workspace."""

    def __init__(self, engine: Engine, role: str) -> None:
        self.engine = engine
        self.role = role
        self.line = engine.lines[role]
        self.applier = Applier(engine, role)
        self.delivered = 0
        self._dirty: set[str] = set()
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._stop = threading.Event()
        self._arrived = threading.Condition()
        self._thread: threading.Thread | None = None
        self._lease_fd: int | None = None
        self._pauses: dict[str, tuple[int, float]] = {}  # queue -> (tries, not before)
        self._bugs: dict[str, int] = {}
        self._work_lock = threading.RLock()

    # --- being told

    def notify(self, queue: str) -> None:
        """Tell that ``queue`` has a new write (called on the path of every log call)."""
        if queue not in self._dirty:
            self._dirty.add(queue)
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self.start()

    def hurry(self) -> None:
        """Tell that somebody waits: send at once instead of gathering."""
        self._urgent.set()
        self._wake.set()
        self.start()

    def start(self) -> None:
        """Start the courier's thread, once."""
        with self._arrived:
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
        self._stop.set()
        self._wake.set()
        self._urgent.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2 * DELIVERY_TIMEOUT_S)
        self._thread = None
        self._release_lease()

    def after_fork(self) -> None:
        """In a forked child: no thread, no lease; both come back when the child writes."""
        _short_turns.after_fork()
        self._dirty = set()
        self._wake, self._urgent, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._arrived = threading.Condition()
        self._work_lock = threading.RLock()
        self._thread = None
        if self._lease_fd is not None:
            os.close(self._lease_fd)  # record locks are not inherited: the parent keeps its lease
            self._lease_fd = None
        self.applier = Applier(self.engine, self.role)

    def wait_for_arrival(self, seconds: float) -> None:
        """Wait until something has arrived, at most so long."""
        with self._arrived:
            self._arrived.wait(seconds)

    # --- the lease

    @property
    def has_lease(self) -> bool:
        """Tell whether this process delivers to the workspace."""
        return self._lease_fd is not None

    def _take_lease(self) -> bool:
        if self._lease_fd is not None:
            return True
        path = self.engine.link.home / f"{self.role}.lease"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._lease_fd = fd
        return True

    def _release_lease(self) -> None:
        fd, self._lease_fd = self._lease_fd, None
        if fd is not None:
            os.close(fd)

    # --- the thread

    def _run(self) -> None:
        scanned = 0.0
        while not self._stop.is_set():
            self._wake.wait(_SCAN_S)
            if self._stop.is_set():
                return
            try:
                if not self._take_lease():
                    self._look_after_line()
                    self._stop.wait(0.2)
                    continue
                if self._wake.is_set() and not self._urgent.is_set():
                    self._gather()
                self._wake.clear()
                if time.monotonic() - scanned > _SCAN_S:
                    self._dirty.update(self.engine.journal.queues())
                    scanned = time.monotonic()
                self._round()
                if self.engine.retired and self._may_end():
                    return
            except Exception:
                _log.exception("delivery to %s stumbled; it goes on", self.role)
                self._stop.wait(1.0)

    def _may_end(self) -> bool:
        """End the thread of a link that was left, once nothing waits; a later write starts it again."""
        if self._wake.is_set() or self._dirty or self.engine.waiting(self.role)[0]:
            return False
        self._release_lease()
        self._thread = None
        return True

    def _gather(self) -> None:
        until = time.monotonic() + LINGER_S
        while not self._urgent.is_set() and not self._stop.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return
            self._urgent.wait(min(left, 0.1))

    def _look_after_line(self) -> None:
        """Keep this process's word on the workspace true while another process delivers."""
        if self.line.away and self.line.pause() == 0:
            self._ping()

    def _ping(self) -> bool:
        try:
            with call_timeout(_PROBE_S):
                self.applier.workspace.ping()
        except Exception as error:
            self.line.trouble(error if isinstance(error, Away) else Away(cause_of(error)))
            return False
        self.line.fine()
        return True

    def _round(self) -> None:
        """Deliver what is there, a part of each queue in turn, until nothing is or the workspace is away."""
        urgent = self._urgent.is_set()
        self._urgent.clear()
        queues = sorted(self._dirty)
        self._dirty.difference_update(queues)
        while queues and not self._stop.is_set():
            pause = self.line.pause()
            if pause > 0:
                self._dirty.update(queues)
                self._stop.wait(min(pause, 0.25))
                self._wake.set()
                if urgent:
                    self._urgent.set()
                return
            left = []
            for queue in queues:
                if self._stop.is_set():
                    return
                if self._pauses.get(queue, (0, 0.0))[1] > time.monotonic():
                    self._dirty.add(queue)
                elif self.deliver(queue):
                    left.append(queue)
                if self.line.pause() > 0:
                    self._dirty.update(queues)
                    self._wake.set()
                    break
            else:
                queues = left
                continue
            return
        if self.line.away and self.line.pause() == 0:
            self._ping()
        if self._dirty:
            self._stop.wait(0.05)
            self._wake.set()

    # --- one queue

    def deliver(self, queue: str) -> bool:
        """Deliver the next part of a queue; True when more is left."""
        with self._work_lock:
            try:
                with call_timeout(_PROBE_S if self.line.away else DELIVERY_TIMEOUT_S), _short_turns:
                    more = _Part(self, queue).deliver()
            except Away as error:
                self._when_away(queue, error)
                return True
            self._pauses.pop(queue, None)
            if not more:
                self.engine.tidy(queue)
            return more

    def _when_away(self, queue: str, error: Away) -> None:
        if not error.sent:
            self.engine.state.unmark_sending(self.role, queue)
        tries = self._pauses.get(queue, (0, 0.0))[0] + 1
        if error.sent and not error.denied and tries > 1 and self._ping():
            # The workspace answers; this queue alone has trouble, and the others shall not wait for it.
            pause = min(0.2 * 2 ** min(tries, 8), 15.0) * random.uniform(0.7, 1.3)
            self._pauses[queue] = (tries, time.monotonic() + max(pause, error.retry_after or 0))
            return
        self._pauses[queue] = (tries, 0.0)
        self.line.trouble(error)

    def arrived(self, count: int) -> None:
        """Note that ``count`` writes have arrived, and tell who waits."""
        self.delivered += count
        self.line.fine()
        with self._arrived:
            self._arrived.notify_all()

    def bug(self, queue: str, entry: Entry, error: Exception) -> bool:
        """Count an error that is none of the workspace's; True when its write is to be put aside."""
        key = f"{queue}/{entry.file}/{entry.start}"
        self._bugs[key] = self._bugs.get(key, 0) + 1
        _log.warning("a write could not be delivered to %s", self.role, exc_info=error)
        return self._bugs[key] >= _BUG_TRIES


class _Part:
    """The next part of one queue on its way to one workspace."""

    def __init__(self, courier: Courier, queue: str) -> None:
        self.courier = courier
        self.engine = courier.engine
        self.state = courier.engine.state
        self.applier = courier.applier
        self.role = courier.role
        self.queue = queue
        cursors = self.state.cursors(self.role, queue)
        self.offsets = {file: offset for file, (offset, _) in cursors.items()}
        self.doubtful_to = {file: sending for file, (offset, sending) in cursors.items() if sending > offset}
        self.batch = Batch()
        self.ends: dict[str, int] = {}
        self.count = 0
        self.bytes = 0

    def deliver(self) -> bool:
        sizes = self.engine.journal.files(self.queue)
        limit = 4 * self.applier.limits.metrics
        handled = 0
        for entry in self._entries(sizes):
            handled += 1
            if handled % _SLICE == 0:
                time.sleep(0.0003)  # the interpreter's lock goes to the training for a moment
            if not self._add_to_batch(entry):
                self._flush()
                self._apply(entry)
            if handled >= limit:
                self._flush()
                return True
        self._flush()
        return False

    def _entries(self, sizes: dict[str, int]) -> Iterator[Entry]:
        behind = [file for file, size in sizes.items() if size > self.offsets.get(file, 0)]
        readers = [
            self.engine.journal.read(self.queue, file, self.offsets.get(file, 0), sizes[file]) for file in behind
        ]
        return readers[0] if len(readers) == 1 else heapq.merge(*readers, key=lambda entry: entry.order)

    def _add_to_batch(self, entry: Entry) -> bool:
        if entry.op is None:
            return False
        op, code = entry.op, entry.op[1]
        points: list[Point] = []
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        if code == "m":
            points = [tuple(op[2:])]
        elif code == "p":
            params = {op[2]: op[3]}
        elif code == "g":
            tags = {op[2]: op[3]}
        elif code == "b":
            points, params, tags = [tuple(p) for p in op[2]], op[3], op[4]
        elif code == "t":
            tags = {op[3]: op[4]} if self.role in op[2] else {}
        else:
            return False
        self._make_room(len(points), len(params), len(tags), len(entry.text) or entry.end - entry.start, params)
        self.batch.metrics.extend(points)
        self.batch.params.update(params)
        self.batch.tags.update(tags)
        self._took(entry)
        return True

    def _make_room(self, points: int, params: int, tags: int, size: int, new_params: dict[str, str]) -> None:
        limits, batch = self.applier.limits, self.batch
        changed = any(batch.params.get(k, v) != v for k, v in new_params.items())
        if self.count and (
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

    def _doubt(self) -> bool:
        return any(self.offsets.get(file, 0) < self.doubtful_to.get(file, 0) for file in self.ends)

    def _flush(self) -> None:
        if not self.count:
            return
        if len(self.batch):
            self.state.mark_sending(self.role, self.queue, self.ends)
            limits = self.applier.limits
            batch = self.batch
            # The same point twice is one point: MLflow's own stores keep one, and so shall every workspace.
            batch.metrics = list({_identity(p): p for p in batch.metrics}.values())
            buried = []
            for part in _within(batch, limits.metrics, limits.params, limits.tags):
                buried += self.applier.batch(self.queue, part, self._doubt())
            for op, cause in buried:
                self.state.bury(self.role, self.queue, [0, *op], cause)
        self._done()

    def _apply(self, entry: Entry) -> None:
        self._took(entry)
        if entry.op is None:
            self.state.bury(self.role, self.queue, [0, "?", entry.text], "this line of the journal is damaged")
            self._done()
            return
        self.state.mark_sending(self.role, self.queue, self.ends)
        try:
            self.applier.apply(self.queue, entry.op, self._doubt())
        except Away:
            raise
        except Exception as error:
            self._refused(entry, entry.op, error)
        self._done()
        if entry.op[1] == "a":
            self.engine.release_spool(self.queue, entry)

    def _refused(self, entry: Entry, op: list[Any], error: Exception) -> None:
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException) and not self.courier.bug(self.queue, entry, error):
            raise Away(f"a write could not be applied ({cause_of(error)})") from error
        cause = cause_of(error)
        self.state.bury(self.role, self.queue, op, cause)
        if op[1] == "V":
            self.state.set_answer(answer_key(op[2]["key"], self.role), {"error": cause})

    def _done(self) -> None:
        self.state.mark_delivered(self.role, self.queue, self.ends, self.count)
        self.offsets.update(self.ends)
        self.courier.arrived(self.count)
        self.batch, self.ends, self.count, self.bytes = Batch(), {}, 0, 0


def _identity(point: Point) -> Any:
    model = tuple(point[4]) if len(point) > 4 and point[4] is not None else None
    return point[0], mark(point[1], point[2], point[3]), model


def _within(batch: Batch, metrics: int, params: int, tags: int) -> Iterator[Batch]:
    """Split what one log call brought (it may be more than one request takes) into requests' sizes."""
    if len(batch.metrics) <= metrics and len(batch.params) <= params and len(batch.tags) <= tags:
        yield batch
        return
    parts = max(-(-len(batch.metrics) // metrics), -(-len(batch.params) // params), -(-len(batch.tags) // tags))
    all_params, all_tags = list(batch.params.items()), list(batch.tags.items())
    for n in range(parts):
        yield Batch(
            batch.metrics[n * metrics : (n + 1) * metrics],
            dict(all_params[n * params : (n + 1) * params]),
            dict(all_tags[n * tags : (n + 1) * tags]),
        )
