"""One worker a workspace takes the journal's writes there, in order per run, as long as it takes.

Of all processes of a link one delivers to a workspace at a time: the one that holds the workspace's lease.
The worker owns the thread and the lease, and does what the scheduler says.
"""

from __future__ import annotations

import threading
from functools import partial

from dbml_magics.common.config import DELIVERY_TIMEOUT_S
from dbml_magics.common.log_records import logger
from dbml_magics.core.delivery.containers import Containers
from dbml_magics.core.delivery.events import (
    Answered,
    Arrived,
    Deliver,
    Delivered,
    Event,
    Failed,
    Instruction,
    MoreDue,
    Ping,
    Question,
    Rest,
    Stumbled,
    TurnOver,
    Verdict,
    Woken,
)
from dbml_magics.core.delivery.lease import Lease, Watch
from dbml_magics.core.delivery.ports import Runtime
from dbml_magics.core.delivery.scheduler import Scheduler
from dbml_magics.core.delivery.short_turns import short_turns
from dbml_magics.core.delivery.turn import Turn
from dbml_magics.core.delivery.uploads import UploadRetries
from dbml_magics.core.delivery.writers.side import Side
from dbml_magics.core.destinations.errors import Unavailable, cause_of
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.interrupts import Flag, Waiters, deferred
from dbml_magics.core.model.queues import LINK_QUEUE

_log = logger(__name__)

_SCAN_S = 1.0  # how often queues of other processes are looked for, unless writes are gathered for longer
_PROBE_S = 5.0
_LOOK_S = 0.05  # between two looks, during a round, whether more is due
_IN_FLIGHT_S = 2.0  # how long a request may be under way whose sender is dead


class DeliveryWorker:
    """Delivers to one workspace."""

    def __init__(self, role: str, runtime: Runtime, lease: Lease) -> None:
        self.role = role
        self.runtime = runtime
        self.clock = runtime.parts.clock
        self.health = runtime.parts.health[role]
        self.delivered = 0
        self.lease = lease
        self._watch = Watch(lease)
        self._leased = self._scanned = float("-inf")
        self._begun = False  # what others left is in doubt since the lease was taken
        self._delivered_by_others: int | None = None  # looked at while there is trouble
        self._containers = Containers(runtime, role)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.side = Side(self.role, self.runtime.parts, self)
        self._lanes = self.runtime.lanes(self.runtime.parts.destinations[self.role], f"dbml-{self.role}-turn")
        self.scheduler = Scheduler(LINK_QUEUE, self.runtime.chance, self._lanes.most)
        self.held = UploadRetries(self.role, self.runtime, self.scheduler.uploads)
        # Flags and waiters, as they are set and waited for in the main thread, where an interrupt may come.
        self._wake, self._urgent, self._stop = Flag(), Flag(), Flag()
        self._nudge = Flag()  # ends a pause of gathering: it may be over now
        self._arrived = Waiters()
        self._start_lock, self._lease_lock = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """In a forked child: no thread, no lease; both come back when the child writes."""
        short_turns.after_fork()
        self._begin_anew()
        self.lease.after_fork()

    # --- notifications

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

    def check_may_send(self) -> None:
        """Raise Unavailable in a turn of a worker that shall send nothing more."""
        if self._stop.is_set() and self._lanes.is_mine:
            raise Unavailable("delivery has been ended here", sent=False, elsewhere=True)

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
            self.runtime.parts.journal.spool.drop_lent(self.role)
            return True

    def stopped_holder(self) -> int | None:
        """Return the id of another process that has the lease and does not move, or None.

        Takes some seconds where it is not known yet and seems so.
        """
        if self._watch.still is not None and self.lease.is_elsewhere():
            return self._watch.still
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
                self._look_after_health()
                self.clock.wait(self._stop, 0.2)
                return True
            if not self._begun:
                self.runtime.doubt.begin_delivery(self.role)
                self._begun = True
            if self._wake.is_set() and not self._urgent.is_set():
                self._gather()
            self._wake.clear()
            self._look_for_others()
            self._go_on_with_round()  # one in which something stumbled
            urgent = self._take_urgency()
            self.note(Woken(urgent, *self._breaker()))
            self._go_on_with_round()
            self._see_to_the_rest(urgent)
            return not (self.runtime.lifetime.retired and self._may_end())
        except Exception:
            _log.exception("delivery to %s stumbled; it goes on", self.role)
            self.clock.wait(self._stop, 1.0)
            return True

    def _take_urgency(self) -> bool:
        """Tell whether somebody has waited since the last call."""
        urgent = self._urgent.is_set()
        self._urgent.clear()
        return urgent

    def _look_for_others(self) -> None:
        """Look every now and then for queues that other processes write, or that an earlier one left."""
        if self.clock.monotonic() - self._scanned > _SCAN_S:
            self.scheduler.left.update(self.runtime.parts.journal.queues())
            self._scanned = self.clock.monotonic()

    def _go_on_with_round(self) -> None:
        """See the round's turns to their end; what is due meanwhile joins it where they take long."""
        joined, hurried = self.clock.monotonic(), False
        while self._lanes.busy:
            over = self._lanes.next_over(_LOOK_S)
            if over is not None:
                self.note(over)
            urgent = self._take_urgency()
            hurried |= urgent
            if self._lanes.busy and (urgent or self._gathering_seconds(joined) <= 0):
                joined = self.clock.monotonic()
                self._wake.clear()
                self._look_for_others()
                self.note(MoreDue(urgent, *self._breaker()))
                self._see_to_the_rest(urgent)
        if hurried and self.scheduler.has_due:  # for what was written during its run's turn
            self._urgent.set()
            self._wake.set()

    def _may_end(self) -> bool:
        """End the thread of a link that was left, once nothing waits; a later write starts it again."""
        if self._wake.is_set() or self.scheduler.has_due or self.runtime.backlog.waiting(self.role)[0]:
            return False
        with self._start_lock:
            thread, self._thread = self._thread, None
            if self._wake.is_set():  # a write that saw this thread still running
                self._thread = thread
                return False
        self.lease.release()
        self.runtime.lifetime.close_if_left()
        return True

    def _gather(self) -> None:
        """Wait before sending, so that writes batch."""
        began = self.clock.monotonic()
        while True:
            self._nudge.clear()
            if self._urgent.is_set() or self._stop.is_set():
                return
            left = self._gathering_seconds(began)
            if left <= 0:
                return
            self.clock.wait(self._nudge, left)

    def _gathering_seconds(self, began: float) -> float:
        """Return for how long writes are still gathered that are gathered since then."""
        batch = self.side.learned.limits.metrics
        return self.scheduler.gathering_seconds(began, self.clock.monotonic(), batch)

    def _see_to_the_rest(self, urgent: bool) -> None:
        """Write the files of what did not fit, and try again the files that were put aside."""
        self._write_overflow(urgent)
        if not self.health.away:
            with self._lanes.working():
                self.held.try_due()

    def _write_overflow(self, urgent: bool) -> None:
        """Write the files of what did not fit, once the rest of their runs has arrived."""
        overflow = self.side.overflow
        if overflow.files.unwritten() and not self.health.away and self.health.pause() == 0:
            with self._lanes.working(), call_timeout(DELIVERY_TIMEOUT_S):
                overflow.write_due(
                    lambda run: self.runtime.backlog.is_waiting(self.role, run), at_once=urgent
                )

    def _look_after_health(self) -> None:
        """Keep this process's word on the workspace true while another process delivers."""
        self._watch.look()
        if self.health.reason is None:
            self._delivered_by_others = None
            return
        before, now = self._delivered_by_others, self.runtime.parts.state.delivered_count(self.role)
        self._delivered_by_others = now
        if before is not None and now > before:
            self.health.fine()
        elif self.health.pause() == 0:
            self.answers()

    def _breaker(self) -> tuple[float, bool]:
        """Return for how long the workspace is not asked, and whether it did not answer and may be asked."""
        pause = self.health.pause()
        return pause, self.health.reason is not None and pause == 0

    # --- what the scheduler says

    def note(self, event: Event) -> None:
        """Tell the scheduler what happened, and carry out what follows."""
        follows: Event | None = event
        with self._lanes.working():
            while follows is not None:
                instructions, follows = self.scheduler.handle(follows, self.clock.monotonic()), None
                for instruction in instructions:
                    follows = self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> Event | None:
        """Do what the scheduler says; returns what came of it, or None."""
        match instruction:
            case Ping(about) if about is not None:
                return Answered(about) if self.answers() else None
            case _ if self._stop.is_set():  # a halted worker's round ends here
                return None
            case Ping():
                self.answers()
            case Deliver(queue):
                self._lanes.begin(partial(self._take_turn, queue))
            case Rest(seconds, urgent):
                self.clock.wait(self._stop, seconds)
                self._wake.set()
                if urgent:
                    self._urgent.set()
        return None

    def judge(self, question: Question) -> Verdict:
        """Ask the scheduler what becomes of a write that was not carried out."""
        return self.scheduler.judge(question, self.clock.monotonic())

    def answers(self) -> bool:
        """Ask the workspace whether it answers at all."""
        asked = self.clock.monotonic()
        try:
            with call_timeout(_PROBE_S):
                self.side.destination.ping()
        except Exception as error:
            trouble = error if isinstance(error, Unavailable) else Unavailable(cause_of(error))
            self.health.trouble(trouble, asked)
            return False
        self.health.fine()
        return True

    # --- one queue

    def _take_turn(self, queue: str) -> TurnOver:
        try:
            more = self.deliver(queue)
        except Exception:  # what fails here fails in this queue's turn, and not in the round
            _log.exception("delivery of %s to %s stumbled; it is tried again", queue, self.role)
            self.note(Stumbled(queue))
            more = True
        return TurnOver(queue, more, *self._breaker())

    def deliver(self, queue: str) -> bool:
        """Deliver the next part of a queue; True when more is left."""
        began = self.clock.monotonic()
        try:
            with call_timeout(_PROBE_S if self.health.away else DELIVERY_TIMEOUT_S), short_turns:
                more = Turn(self, self._containers, queue).take()
        except Unavailable as error:
            if not error.elsewhere:
                self.health.trouble(error, began)
            self.note(Failed(queue, error))
            return True
        except Exception:  # of this machine's (a full disk) or of ours: the other queues shall go on
            _log.exception("delivery of %s to %s stumbled; it is tried again", queue, self.role)
            self.note(Stumbled(queue))
            return True
        self.note(Delivered(queue))
        if not more:
            self.side.points.forget_run(queue)
            self.runtime.retention.tidy(queue)
        return more

    def arrived(self, queue: str, count: int, *, own: bool) -> None:
        """Note that writes of a queue have arrived, and tell who waits."""
        self.delivered += count
        self.note(Arrived(queue, count, own))
        self.health.fine()
        self._arrived.wake()

    def wait_for_arrival(self, seconds: float) -> None:
        """Wait until something has arrived, at most so long."""
        self._arrived.wait(seconds)

    # --- what is known of it

    def is_stuck(self, queue: str) -> bool:
        """Tell whether the next write of a queue fails time and again though the workspace answers."""
        return self.scheduler.is_isolated(queue, self.clock.monotonic())

    def takes_later(self, queue: str) -> bool:
        """Tell whether a queue's next write has to wait though the workspace answers."""
        return self.scheduler.takes_later(queue, self.clock.monotonic())

    @property
    def trouble_since(self) -> float | None:
        """Return since when (s since the epoch) a queue does not move although the workspace answers."""
        since = self.scheduler.trouble_since
        return None if since is None else self.clock.time() - (self.clock.monotonic() - since)

    @property
    def rate(self) -> float:
        """Return how many writes a second this process has delivered of late, since the first of them."""
        return self.scheduler.rate(self.clock.monotonic())
