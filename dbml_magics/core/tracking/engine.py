"""One engine a link and process: the journal, the state, the views of live runs, the workers.

The stores that MLflow calls are thin: what they do with a write is here. A ``log_metric`` passes through
``DbmlTrackingStore.log_metric`` → :meth:`Engine.log_metric` → :meth:`Journal.append`, and returns.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from dbml_magics.common.config import (
    SEARCH_WAIT_S,
    exit_flush_seconds,
    identity_budget_seconds,
    spool_limit_bytes,
    spool_wait_seconds,
)
from dbml_magics.common.hints import say
from dbml_magics.common.log_records import logger
from dbml_magics.core.clock import SYSTEM, Clock
from dbml_magics.core.delivery.lease import Lease, Watch
from dbml_magics.core.delivery.worker import DeliveryWorker
from dbml_magics.core.delivery.writers.emulated_models import MODELS_TAG, in_tag
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.side import LinkParts, Side
from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.interrupts import deferred, is_held_back
from dbml_magics.core.link import Link, WorkspaceSpec, from_uri
from dbml_magics.core.mlflow_private import with_fields
from dbml_magics.core.model.operations import (
    BATCHED,
    CreateRun,
    LogBatch,
    Operation,
    StoredFile,
    UpdateRun,
    VersionFacts,
    decode,
    encoded_point,
    read_as,
)
from dbml_magics.core.model.sendable import refuse_bad_text, required
from dbml_magics.core.outbox.state import State
from dbml_magics.core.outbox.tables import FORMAT, format_of
from dbml_magics.core.tracking import handoff, shutdown
from dbml_magics.core.tracking.holders import is_anothers
from dbml_magics.core.tracking.journal import Entry, Journal, copy_of, frame, kept_small, line_of
from dbml_magics.core.tracking.provenance import place_of
from dbml_magics.core.tracking.view import TERMINAL, QueueView, RunView
from dbml_magics.errors import JournalDamaged

_log = logger(__name__)
NOTE_TAG = "mlflow.note.content"
_TICK_NS = 100_000_000  # a folder's time is that of the kernel's tick: 10 ms at most, and some more
_SECOND_ASK_S = 2.0  # how long a read waits for the mirror when the primary has cost its budget
T = TypeVar("T")

_engines: dict[str, Engine] = {}
_engines_lock = threading.Lock()


def engine_for(uri: str) -> Engine:
    """Return this process's engine for a ``dbml:`` URI."""
    return engine_of(from_uri(uri))


def engine_of(link: Link) -> Engine:
    """Return this process's engine for a link: one, whatever the mode, as its journal and leases are one."""
    with _engines_lock:
        engine = _engines.get(link.key)
        if engine is None:
            engine = _engines[link.key] = Engine(link)
            shutdown.heed_sigterm(link)
        return engine


def engine_by_key(key: str) -> Engine | None:
    """Return this process's engine for the link of that key, if it has one."""
    return _engines.get(key)


def known_engines() -> list[Engine]:
    """Return all engines of this process."""
    return list(_engines.values())


def register(engine: Engine) -> None:
    """Let an engine that was made apart be found by its link's key."""
    with _engines_lock:
        _engines[engine.link.key] = engine


def discard(engine: Engine) -> None:
    """Forget the engine of a link that could not be made."""
    with _engines_lock:
        _engines.pop(engine.link.key, None)


def flush_all_at_exit() -> None:
    """Deliver what waits, within the bound, when the process ends."""
    shutdown.end_terminated()
    for engine in list(_engines.values()):
        engine.flush_at_exit()
    shutdown.settle_exit_code()


class _LiveQueue:
    """A queue that this process writes or reads: its view, and the lock that keeps file and view in order."""

    __slots__ = ("end", "file", "keys", "lock", "models", "path", "view")

    def __init__(self, queue: str) -> None:
        self.view = QueueView(queue)
        self.lock = threading.RLock()
        self.keys: dict[str, str] = {}  # metric keys that were checked -> their JSON
        self.models: set[str] = set()  # logged models that its writes were noted to name
        self.path: str = ""
        self.file, self.end = "", 0  # of this process's own file: folded into the view up to there


Goal = dict[str, dict[str, int]]
"""What shall have arrived: of each queue its files, and their sizes."""

IN_TURN = 3  # times that what came while one waited is waited for, too: delivery's own writes follow others


class Engine:
    """Everything that a link needs in one process.

    One that delivers what another process left (``link.taken``) shares the workspaces of this process's
    ``own``.
    """

    def __init__(
        self,
        link: Link,
        own: Engine | None = None,
        *,
        connect: Callable[[WorkspaceSpec], Workspace] = connect,
        clock: Clock = SYSTEM,
        chance: random.Random | None = None,
    ) -> None:
        self.link = link
        self.clock, self.chance = clock, chance or random.Random()
        self.began = time.time()
        self._key = link.key  # a hash, which is not to be made at each call
        self.journal = Journal(link.home, link.spares)
        self.state = State(link.home / "state.db", link.spares)
        self.workspaces: dict[str, Workspace] = {
            role: connect(link.spec(role)) if own is None else own.workspaces[role] for role in link.used
        }
        self.health: dict[str, Health] = {
            role: Health(clock, self.chance) if own is None else own.health[role] for role in link.used
        }
        self.witnesses = {role: self.journal.witness(role, n) for n, role in enumerate(link.used, start=1)}
        self.state.on_step = lambda role, count: self.witnesses[role].note(count)
        self.parts = LinkParts(
            link,
            self.workspaces,
            self.health,
            self.state,
            self.journal,
            self,
            clock,
            lambda role: self.side(role).reader,
        )
        """What the writers of every workspace get of this link."""
        self.workers: dict[str, DeliveryWorker] = {
            role: DeliveryWorker(role, self, Lease(link.home / f"{role}.lease")) for role in link.used
        }
        self._workers: tuple[DeliveryWorker, ...] = tuple(self.workers.values())
        self._live: dict[str, _LiveQueue] = {}
        self._lock = threading.RLock()
        self._disk_thread: threading.Thread | None = None
        self._warned: set[str] = set()
        self._gave_up = float("-inf")  # when a search waited for the primary in vain
        self._refusals_before = 0  # dead letters up to this one are older than the sync mode of this process
        self._refusals_told: dict[str, int] = {}
        self._registrations: dict[str, dict[str, VersionFacts]] = {}
        self._pid = os.getpid()
        self.begun: list[str] = []
        """The runs that this process began, the oldest first."""
        self.retired: bool = False
        """Nobody is linked to it any more: its threads end once everything is delivered."""
        _after_fork.add(self)
        self._open_state()
        handoff.settle(self)

    def _open_state(self) -> None:
        """Look at the state file; what is left of a damaged one begins a new one. Raises JournalError."""
        self.state.on_loss = self._doubt_all
        if not self.state.path.exists():
            return
        try:
            self.state.check()
        except JournalDamaged as error:
            # Who delivers has it open: only where nobody does may it be put aside.
            if format_of(self.state.path) > FORMAT or not all(c.take_lease() for c in self._workers):
                raise
            aside = self.state.mend()
            for witness in self.witnesses.values():
                witness.note(0)
            self._doubt_all()
            told = f"{error.message[:-1]}: it is {aside} now, and a new one was begun with what could be read"
            self.state.link_notes.note_repaired(told)
            _log.warning("dbml_magics: %s; whether a write that waits has arrived is asked first", told)

    def _doubt_all(self) -> None:
        """Have delivery ask whether what is in the journal has arrived, and count anew what has."""
        for queue in self.journal.queues():
            for role in self.link.used:
                self.state.mark_sending(role, queue, self.journal.files(queue))
            self.state.receipts.forget(queue)

    def begin_delivery(self, role: str) -> None:
        """Put in doubt what this process has not written itself and delivers from now on to a workspace.

        Whoever had the lease before may have sent it: on another machine, in a copy of this folder, or here
        before the folder was restored. Called before the first write is sent under a lease.
        """
        if not self.journal.queues():
            return
        place, noted = place_of(self.link.home, self.state.path), self.witnesses[role].noted()
        known = self.state.link_notes.place(role)
        restored = noted > self.state.steps(role)
        if restored:
            told = (
                f"the link's folder {self.link.home} is older than what was delivered from it (was it "
                "restored, or a part of it lost?): workspaces are asked what they have before more is sent"
            )
            self.state.link_notes.note_repaired(told)
            _log.warning("dbml_magics: %s", told)
        everything = restored or known not in (None, place)
        cursors = self.state.all_cursors(role)
        for queue in self.journal.queues():
            reached = cursors.get(queue, {})
            left = {
                file: size
                for file, size in self.journal.files(queue).items()
                if size > reached.get(file, 0)
                and not self.journal.is_own(file)
                and (everything or self.journal.is_left(queue, file))
            }
            if left:
                self.state.mark_sending(role, queue, left)
        if known != place:
            self.state.link_notes.note_place(role, place)

    # --- parts

    def link_began(self) -> float:
        """Return when this link was made on this machine, in seconds since the epoch."""
        began = self.state.link_notes.began()
        if began is None:
            began = self.began
            self.state.link_notes.note_began(began)
        return began

    def side(self, role: str) -> Side:
        """Return one workspace's ids and writers."""
        return self.workers[role].side

    @property
    def primary(self) -> Side:
        """Return the side at which runs are named."""
        return self.side(self.link.primary)

    def artifact_uri(self, kind: str, name: str) -> str:
        """Return the link's own URI of a run's or model's files."""
        return f"dbml://{self._key}/{kind}s/{name}/artifacts"

    def after_fork(self) -> None:
        """In a forked child: everything that holds a file, a connection or a thread begins anew."""
        self._pid = os.getpid()
        self.begun = []
        self._lock = threading.RLock()
        self.journal.after_fork()
        self.state.forget_connection()
        for workspace in self.workspaces.values():
            workspace.forget_connections()
        for line in self.health.values():
            line.after_fork()
        for worker in self._workers:
            worker.after_fork()
        self._disk_thread = None
        # The parent's files are another process's now: the views are folded from the journal when asked for.
        self._live = {}

    def retire(self) -> None:
        """Be a link that was left: the threads end once everything is delivered."""
        self.retired = True
        self.close_if_left()

    def close_if_left(self) -> None:
        """Keep no file of a left link open, once nothing of it is under way; what is asked later opens it."""
        if self.retired and all(worker.at_rest for worker in self._workers):
            self.state.rest()
            self.journal.close()
            for witness in self.witnesses.values():
                witness.close()
            for workspace in self.workspaces.values():
                workspace.close_idle()

    # --- writing

    def write(self, queue: str, op: Operation) -> None:
        """Journal one write of any kind, and fold it into the queue's view."""
        self.write_all(queue, [op])

    def write_all(self, queue: str, ops: Sequence[Operation], *, lasting: bool = False) -> None:
        """Journal writes with one append; fold them into the view; wake delivery.

        ``lasting`` ones are on the disk itself when this returns: what names something to the user must
        outlive the machine's power.
        """
        live = self._live.get(queue)
        if live is None:
            with self._lock:  # a view that is being folded right now must not miss these lines
                live = self._live.get(queue)
                if live is None:
                    self._append(queue, ops)
        if live is not None:
            with live.lock:
                file, start, end, stamped = self._append(queue, ops)
                if start != live.end or file != live.file:
                    self._catch_up(live, file, start)
                for op, stamp in stamped:
                    live.view.fold(op, stamp, self.artifact_uri("run", queue), (file, start, end))
                live.end = end
        if lasting:
            self.journal.sync_to_disk()
        gathered = all(isinstance(op, BATCHED) for op in ops)
        for worker in self._workers:
            if gathered:
                worker.notify(queue)
            else:
                worker.notify_soon(queue)
        if self._disk_thread is None:
            self._start_disk_thread()

    def _append(
        self, queue: str, ops: Sequence[Operation]
    ) -> tuple[str, int, int, list[tuple[Operation, int]]]:
        """Stamp and append writes; returns (file, from byte, to byte, the writes with their stamps)."""
        stamped = [(op, self.journal.next_stamp(queue)) for op in ops]
        try:
            data = b"".join([line_of(op.encode(stamp)) for op, stamp in stamped])
        except UnicodeEncodeError:
            for op in ops:
                refuse_bad_text(op.label(), op.fields())
            raise
        file, end = self.journal.append(queue, data)
        return file, end - len(data), end, stamped

    def log_metric(
        self, run_id: str, key: str, value: float, timestamp: int, step: int, extra: tuple[Any, ...] | None
    ) -> None:
        """Journal one point; the shortest way, since training calls it most."""
        live = self._live.get(run_id)
        if live is None or live.view.run is None:
            live = self.open_run(run_id)
        encoded = live.keys.get(key) or self.know_key(run_id, key)
        tail = encoded_point(encoded, value, timestamp, step, extra)
        run, journal = live.view.run, self.journal
        assert run is not None
        with live.lock:
            line = frame(f"[{journal.next_stamp(run_id)}{tail}".encode())
            file, end = journal.append(run_id, line)
            if end - len(line) != live.end or file != live.file:
                self._catch_up(live, file, end - len(line))
            run.add_metric(key, value, timestamp, step, extra)
            live.end = end
        for worker in self._workers:
            worker.notify(run_id)
        if self._disk_thread is None:
            self._start_disk_thread()

    def know_key(self, run_id: str, key: str) -> str:
        """Remember that a metric's key was checked; returns it as JSON."""
        keys = self.begin_queue(run_id).keys
        encoded = keys.get(key)
        if encoded is None:
            encoded = keys[key] = json.dumps(key)
        return encoded

    def _catch_up(self, live: _LiveQueue, file: str, end: int) -> None:
        """Fold what this process has in its file up to ``end`` and an interrupt kept from the view."""
        queue = live.view.queue
        if file != live.file:
            if live.file:
                self._fold_own(live, live.file, self.journal.files(queue).get(live.file, 0))
            live.end = 0
            live.file = file
        self._fold_own(live, file, end)

    def _fold_own(self, live: _LiveQueue, file: str, end: int) -> None:
        if end <= live.end:
            return
        view = live.view
        for entry in self.journal.read(view.queue, file, live.end, end):
            batch = read_as(LogBatch, entry.line)
            if batch is not None and view.run is not None:
                batch = replace(batch, points=view.run.lacking(batch.points))  # it may be there in part
                place = (file, entry.start, entry.end)
                view.fold(batch, entry.stamp, self.artifact_uri("run", view.queue), place)
            else:
                view.fold_line(entry, self.artifact_uri("run", view.queue))
            live.end = entry.end

    def _start_disk_thread(self) -> None:
        with self._lock, deferred():
            if self._disk_thread is None:
                self._disk_thread = threading.Thread(target=self._keep_on_disk, name="dbml-disk", daemon=True)
                try:
                    self._disk_thread.start()
                except RuntimeError:  # the interpreter is ending
                    self._disk_thread = None

    def _keep_on_disk(self) -> None:
        pid = self._pid
        while os.getpid() == pid:
            time.sleep(1.0)
            if self.retired:
                self._disk_thread = None
                self.journal.sync_to_disk()
                self.state.come_back(at_once=True)
                self.close_if_left()
                return
            try:
                self.journal.sync_to_disk()
                self.state.come_back()
            except OSError:
                _log.debug("the journal could not be synced to disk", exc_info=True)

    # --- live queues and views

    def begin_queue(self, queue: str) -> _LiveQueue:
        """Return the queue with a view; made if need be, folded from the journal."""
        with self._lock:
            live = self._live.get(queue)
            if live is None:
                live = _LiveQueue(queue)
                self._fold_files(live, live.view)
                self._live[queue] = live
            return live

    def _fold_files(self, live: _LiveQueue, view: QueueView) -> None:
        """Fold all files of a queue into a view, and make that the queue's."""
        self._fold_from(view, self.journal.files(view.queue))
        own = self.journal.own_end(view.queue)
        with deferred():
            live.view = view
            live.file, live.end = ("", 0) if own is None else (own[0], view.read_to.get(own[0], 0))

    def _fold_from(self, view: QueueView, sizes: dict[str, int], *, lives: bool = False) -> None:
        """Fold what files have gained since the last look, in the order in which it is delivered.

        A view that ``lives`` already is not thrown away where an interrupt comes.
        """
        for entry in self.journal.entries(view.queue, sizes, view.read_to):
            with deferred() if lives else nullcontext():
                view.fold_line(entry, self.artifact_uri("run", view.queue))
                view.read_to[entry.file] = entry.end

    def _refresh(self, live: _LiveQueue) -> None:
        """Fold what other processes wrote since the last look; two system calls when nobody did."""
        view = live.view
        own = self.journal.own_end(view.queue)
        if own is not None and own != (live.file, live.end):
            with live.lock:  # another thread may be about to fold it
                own = self.journal.own_end(view.queue)
                if own is not None:
                    self._catch_up(live, *own)
        if not live.path:
            live.path = str(self.journal.folder(view.queue))
        try:
            stamp = self.journal.stamp(view.queue, live.path)
        except FileNotFoundError:
            return
        others = [f for f in view.read_to if not self.journal.is_own(f)]
        if stamp == view.stamp and not others:
            return
        with live.lock:
            # A file that comes within the same tick of the disk's clock does not change the folder's time.
            view.stamp = stamp if time.time_ns() - stamp > _TICK_NS else 0
            sizes = {f: s for f, s in self.journal.files(view.queue).items() if not self.journal.is_own(f)}
            for file in sizes:
                view.read_to.setdefault(file, 0)  # known from now on, also while it has no whole line
            self._fold_from(view, sizes, lives=True)

    def open_run(self, run_id: str) -> _LiveQueue:
        """Return a run's queue, with what is known of the run. Raises MLflow's "not found"."""
        required("run_id", run_id)
        live = self.begin_queue(run_id)
        if live.view.run is not None:
            return live
        with live.lock:
            if live.view.run is None:
                view = QueueView(run_id)
                view.run = self._base_of(run_id)
                self._fold_files(live, view)
        return live

    def _base_of(self, run_id: str) -> RunView:
        try:
            run = self.read(lambda a: self._run_at(a, run_id))
        except Unavailable:
            known = self.state.run(run_id)
            if known is None:
                # Nobody can say whether it exists; a write must not fail for that.
                return RunView(run_id, "", self.artifact_uri("run", run_id), "", int(time.time() * 1000))
            view = RunView(
                run_id, known["experiment"], self.artifact_uri("run", run_id), known["user"], known["start"]
            )
            view.tags = {"mlflow.runName": known["name"]}
            return view
        if self.state.run(run_id) is None:
            self.state.experiments.note_queue(run_id, run.info.experiment_id)
        return RunView.from_run(run, self.artifact_uri("run", run_id))

    def get_run(self, run_id: str) -> Run:
        """Return a run: from its view while it lives here or is on its way, else from the primary."""
        live = self._live.get(run_id)
        if live is None and self.journal.files(run_id):
            live = self.begin_queue(run_id)
        if live is not None:
            self._refresh(live)
            with live.lock:
                if live.view.run is None and self.is_waiting(self.link.primary, run_id):
                    self.open_run(run_id)
                if self._reads_from_view(live):
                    assert live.view.run is not None
                    return live.view.run.run()
        try:
            found = self.read(lambda a: self._run_at(a, run_id))
        except Unavailable:
            # log_metric(run_id=…) asks for the run first, and must not fail because nobody answers.
            if live is None or live.view.run is None:
                raise
            with live.lock:
                return live.view.run.run()
        if live is not None and live.view.run is not None and live.view.run.status in TERMINAL:
            self._live.pop(run_id, None)
        return found

    def _reads_from_view(self, live: _LiveQueue) -> bool:
        """Tell whether the view says more than the primary: of a run that lives here, or is on its way.

        A run that began elsewhere may be written to elsewhere too.
        """
        run = live.view.run
        if run is None:
            return False
        if live.view.created and run.status not in TERMINAL:
            return True
        return self.is_waiting(self.link.primary, live.view.queue)

    def _run_at(self, side: Side, run_id: str) -> Run:
        try:
            found = side.destination.get_run(side.ids.known_run(run_id))
        except MlflowException as error:
            if side.role != self.link.primary or not is_missing(error):
                raise
            if (elsewhere := self._begun_at_mirror(run_id)) is not None:
                return elsewhere
            if (named := side.ids.run_by_tag(run_id)) is None:
                raise
            side.ids.remember_run(run_id, named)
            found = named
        return self.translate_run(found, run_id, side.role)

    def _begun_at_mirror(self, run_id: str) -> Run | None:
        """Return a run that was begun at the mirror without the link (an Azure ML job's), or None.

        It keeps its id; the primary gets a copy once something is logged to it.
        """
        for role in self.link.tracked[1:]:
            side = self.side(role)
            if self.health[role].away or self.state.visible(role, "run", run_id) not in (None, run_id):
                continue
            try:
                found = self.health[role].ask(partial(side.destination.get_run, run_id), _SECOND_ASK_S)
                if RUN_TAG in found.data.tags and found.data.tags[RUN_TAG] != run_id:
                    continue
                experiment = self._experiment_begun_at(side, found.info.experiment_id)
            except MlflowException:
                continue
            if self.state.identity(role, "run", run_id) is None:
                self.state.creations.note_began_at(run_id, role)
                side.ids.remember_run(run_id, found)
            found = self.translate_run(found, run_id, role)
            with_fields(found.info, experiment_id=experiment)
            return found
        return None

    def _experiment_begun_at(self, side: Side, actual: str) -> str:
        """Return the user's id of an experiment of the mirror's, which is made at the primary if need be."""
        known = self.state.visible(side.role, "experiment", actual)
        if known is not None:
            return known
        from dbml_magics.core.destinations.naming import EXPERIMENT_TAG

        there = side.destination.get_experiment(actual)
        name = there.tags.get(EXPERIMENT_TAG, there.name)
        visible = self.state.experiments.named(name)
        if visible is None:
            visible = self.ask_primary(lambda primary: primary.experiments.make(name, {}))
            self.state.experiments.remember(visible, name, {})
        self.state.set_identity(side.role, "experiment", visible, actual)
        return visible

    def view_of(self, run_id: str) -> RunView | None:
        """Return the run's view where the run is read from it, else None."""
        live = self._live.get(run_id)
        if live is None and self.journal.files(run_id):
            live = self.begin_queue(run_id)
        if live is None:
            return None
        self._refresh(live)
        return live.view.run if self._reads_from_view(live) else None

    def queue_view(self, queue: str) -> QueueView | None:
        """Return a queue's view if it has one or has files to fold."""
        live = self._live.get(queue)
        if live is None:
            if not self.journal.files(queue):
                return None
            live = self.begin_queue(queue)
        self._refresh(live)
        return live.view

    def registrations_of(self, run_id: str) -> dict[str, VersionFacts]:
        """Return {key: what was asked} of the registrations of a run's models made through this process."""
        return dict(self._registrations.get(run_id, {}))

    def note_registration(self, queue: str, told: VersionFacts) -> None:
        """Remember a registration for the run's summary."""
        self._registrations.setdefault(queue, {})[told["key"]] = told

    def note_ended(self, run_id: str, ended: bool) -> None:
        """Remember that a run has ended (its files may go once they are delivered), or goes on."""
        known = self.state.run(run_id)
        if known is not None and known.get("ended") != ended:
            self.state.remember_run(run_id, {**known, "ended": ended})

    def open_runs(self, resumed: Iterable[str] = ()) -> list[str]:
        """Return the runs that this process began and that have not ended, the oldest first.

        Of those that it ``resumed``, the ones that are not another's to end come after them.
        """
        known = {run: self.state.run(run) for run in (*self.begun, *resumed)}
        return [
            run
            for run, told in known.items()
            if (told or {}).get("ended") is False
            and (run in self.begun or not is_anothers(self.journal, run, told))
        ]

    def end_run(self, run_id: str, status: str) -> None:
        """End a run that this process began, now."""
        self.write(run_id, UpdateRun(status, int(time.time() * 1000)))
        self.note_ended(run_id, True)

    def creation_of(self, run_id: str) -> CreateRun | None:
        """Return the write that began a run, if it is in the journal."""
        for file, size in self.journal.files(run_id).items():
            first = next(self.journal.read(run_id, file, 0, size), None)
            if first is not None and (creation := read_as(CreateRun, first.line)) is not None:
                return creation
        return None

    # --- asking

    def read(self, question: Callable[[Side], T]) -> T:
        """Ask the primary, or the mirror when the primary is away. Raises Unavailable, or the refusal."""
        return self.answered(question)[1]

    def answered(self, question: Callable[[Side], T]) -> tuple[str, T]:
        """Ask as :meth:`read` does; returns (the role that answered, its answer)."""
        failure: Exception | None = None
        for role in self.link.tracked:
            budget = identity_budget_seconds() if failure is None else _SECOND_ASK_S
            try:
                return role, self.health[role].ask(partial(question, self.side(role)), budget)
            except Unavailable as error:
                failure = failure or error
            except MlflowException as error:
                if failure is None or not is_missing(error):
                    raise failure or error from error
        assert failure is not None
        if isinstance(failure, Unavailable):
            asked = " nor ".join(self.link.tracked)
            raise Unavailable(
                failure.reason,
                sent=False,
                denied=failure.denied,
                shown=f"{'neither ' if ' nor ' in asked else ''}{asked} answers: {failure.reason}; "
                f"{say('%dbml status')} shows what waits",
            ) from failure
        raise failure

    def ask_primary(self, question: Callable[[Side], T]) -> T:
        """Ask the primary for what it alone can name, within the budget. Raises Unavailable, or a refusal."""
        return self.health[self.link.primary].ask(lambda: question(self.primary), what="name")

    def translate_run(self, run: Run, run_id: str | None = None, role: str | None = None) -> Run:
        """Return a workspace's run under the ids that the user knows, its files behind the link."""
        visible = run_id or self._visible("run", run.info.run_id, role)
        with_fields(
            run.info,
            run_id=visible,
            experiment_id=self.visible_experiment(run.info.experiment_id, role),
            artifact_uri=self.artifact_uri("run", visible),
        )
        parent = run.data.tags.get("mlflow.parentRunId")
        if parent:
            run.data.tags["mlflow.parentRunId"] = self._visible("run", parent, role)
        for outputs in (run.outputs.model_outputs if run.outputs else []) or []:
            with_fields(outputs, model_id=self._visible("model", outputs.model_id, role))
        for inputs in (run.inputs.model_inputs if run.inputs else []) or []:
            with_fields(inputs, model_id=self._visible("model", inputs.model_id, role))
        # What the workspaces keep for us says nothing that the run itself does not say here.
        run.data.tags.pop(RUN_TAG, None)
        kept = run.data.tags.pop(MODELS_TAG, None)
        if kept:
            _add_outputs(run, [self._visible("model", model, role) for model in in_tag(kept)])
        return run

    def _visible(self, kind: str, actual: str, role: str | None = None) -> str:
        for each in self.link.tracked if role is None else (role,):
            found = self.state.visible(each, kind, actual)
            if found is not None:
                return found
        return actual

    def visible_run(self, actual: str) -> str:
        """Return the id that the user knows for a workspace's own run id."""
        return self._visible("run", actual)

    def visible_model(self, actual: str) -> str:
        """Return the id that the user knows for a workspace's own logged-model id."""
        return self._visible("model", actual)

    def visible_experiment(self, actual: str, role: str | None = None) -> str:
        """Return the id that the user knows for one workspace's own experiment id.

        Two servers count their experiments alike, so an id means nothing without the ``role`` it comes from.
        """
        return self.side(role or self.link.primary).experiments.visible(str(actual))

    # --- experiments

    def note_renamed(self, experiment_id: str, name: str) -> None:
        """Remember that an experiment had a name that may be another one's from now on."""
        self.state.experiments.retire_name(experiment_id, name)

    def experiment_of(self, queue: str) -> str | None:
        """Return the experiment of a run's or model's queue, as far as this machine knows."""
        live = self._live.get(queue)
        if live is not None and live.view.run is not None and live.view.run.experiment_id:
            return live.view.run.experiment_id
        model = self.state.model(queue)
        known = self.state.run(queue) or (model[1] if model else None) or {}
        found = known.get("experiment") or self.state.experiments.of_queue(queue)
        return str(found) if found else None

    def contents_of(self, experiment_id: str, role: str | None = None) -> list[str]:
        """Return the queues of an experiment's runs and models of which something is on its way."""
        role = role or self.link.primary
        waiting = [queue for queue in self.journal.queues() if self.is_waiting(role, queue)]
        return [queue for queue in waiting if experiment_id in self.experiments_in(queue)]

    def experiments_in(self, queue: str) -> set[str | None]:
        """Return the experiments of a queue: its run's, and those of the models that began in it."""
        return {self.experiment_of(queue), *self.state.experiments_of_models(queue)}

    def note_experiment_stage(self, experiment_id: str, *, deleted: bool) -> None:
        """Note for the runs that live here what a server does to the runs of such an experiment."""
        for live in list(self._live.values()):
            run = live.view.run
            if run is not None and run.experiment_id == experiment_id:
                run.deleted = deleted

    # --- models

    def queues_naming(self, model_id: str) -> list[str]:
        """Return the queues that may hold writes to a logged model: its own, and of runs that name it."""
        others = self.state.model_changes.queues_naming(model_id)
        return list(dict.fromkeys([self.model_queue(model_id), *others]))

    def note_model_named(self, queue: str, model_id: str) -> None:
        """Remember that a run's writes name a logged model, which may be another run's."""
        live = self.begin_queue(queue)
        if model_id not in live.models:
            known = self.state.model(model_id)
            if known is None or known[0] != queue:
                self.state.model_changes.note_named(model_id, queue)
            live.models.add(model_id)

    def model_queue(self, model_id: str) -> str:
        """Return the queue that a logged model's writes travel in: its run's, or its own."""
        known = self.state.model(model_id)
        if known is not None:
            return known[0]
        try:
            role, found = self.answered(lambda a: a.destination.get_logged_model(a.ids.known_model(model_id)))
            queue = self.visible_run(found.source_run_id) if found.source_run_id else model_id
            experiment_id = self.visible_experiment(found.experiment_id, role)
            self.state.experiments.note_queue(queue, experiment_id)
        except MlflowException as error:
            queue = model_id
            if is_missing(error):
                return queue
        self.state.remember_model(model_id, queue, {})
        return queue

    # --- artifacts

    def files_of(self, owner: str) -> ArtifactRepository:
        """Return the link's own artifact repository of ``run:<id>`` or ``model:<id>``."""
        kind, _, name = owner.partition(":")
        return get_artifact_repository(self.artifact_uri(kind, name), tracking_uri=self.link.uri)

    def keep(self, source: str | os.PathLike[str]) -> StoredFile:
        """Copy a file; returns what its line says of the copy. While the spool is full, wait for room.

        Nobody waits for a workspace that is away, nor for a file that is larger than the spool. Raises
        JournalFull.
        """
        small = kept_small(source)
        if small is not None:
            return small
        until = time.monotonic() + spool_wait_seconds()
        while self.journal.spool_is_full(source):
            away = any(line.away for line in self.health.values())
            over = time.monotonic() >= until or is_held_back()
            if away or os.path.getsize(source) > spool_limit_bytes() or over:
                break
            for worker in self._workers:
                worker.hurry()
                worker.wait_for_arrival(0.1)
        spool, size = self.journal.spool(source)
        return {"spool": spool, "size": size}

    def release_spool(self, queue: str, entry: Entry) -> None:
        """Delete the copy that a write has in the spool, if any, once every workspace is beyond it."""
        spool = copy_of(entry.line)
        if spool is None:
            return
        for role in self.link.used:
            offset, _ = self.state.cursors(role, queue).get(entry.file, (0, 0))
            if offset < entry.end:
                return
        if not self.state.is_dead_copy(spool):  # it may be tried again
            self.journal.unspool(spool)

    def release_copy(self, queue: str, spool: str) -> None:
        """Delete an artifact's copy that a dead letter needed, unless it is on its way elsewhere."""
        for file in self.journal.files(queue):
            for entry in self.journal.read(queue, file, 0):
                if copy_of(entry.line) == spool:
                    self.release_spool(queue, entry)
                    return
        if not self.state.is_dead_copy(spool):
            self.journal.unspool(spool)

    # --- what waits

    def is_waiting(self, role: str, queue: str) -> bool:
        """Tell whether anything of a queue is still on its way to a workspace."""
        files = self.journal.files(queue)
        if not files:
            return False
        cursors = self.state.cursors(role, queue)
        return any(size > cursors.get(file, (0, 0))[0] for file, size in files.items())

    def waiting(self, role: str) -> tuple[int, float]:
        """Return how many writes wait for a workspace, and the oldest one's age in seconds."""
        cursors = self.state.all_cursors(role)
        count, oldest = 0, None
        for queue in self.journal.queues():
            n, stamp = self.journal.count_waiting(queue, cursors.get(queue, {}))
            count += n
            if stamp is not None:
                oldest = stamp if oldest is None else min(oldest, stamp)
        count += len(self.side(role).overflow.files.unwritten())
        return count, max(0.0, time.time() - oldest / 1e9) if oldest is not None else 0.0

    def goal(self, queues: Iterable[str] | None = None) -> Goal:
        """Return what is journaled now."""
        self.journal.rescan_disks()
        return {q: self.journal.files(q) for q in (self.journal.queues() if queues is None else queues)}

    def wait(
        self,
        role: str,
        queues: Iterable[str] | None = None,
        timeout: float | None = None,
        goal: Goal | None = None,
    ) -> bool:
        """Wait until what is journaled now has arrived at a workspace; False when the time is up.

        With a ``goal``, what was journaled since is not waited for.
        """
        worker = self.workers[role]
        goal = self.goal(queues) if goal is None else goal
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            goal = {q: left for q, files in goal.items() if (left := self.left(role, q, files))}
            if not goal and not (queues is None and worker.side.overflow.files.on_their_way()):
                return True
            if until is not None and time.monotonic() >= until:
                return False
            for queue in goal:
                worker.notify(queue)
            worker.hurry()
            worker.wait_for_arrival(0.05)

    def wait_for_everything(
        self, role: str, until: float | None = None, give_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait until what is journaled now has arrived, and what delivery writes in turn.

        What other processes or threads go on logging is not waited for. False when the workspace is away,
        ``give_up()`` says so, or it is later than ``until`` (monotonic).
        """
        for _ in range(IN_TURN):
            goal = self.goal()
            while not self.wait(role, None, 0.25, goal):
                if self.health[role].away or give_up() or (until is not None and time.monotonic() >= until):
                    return False
            if not self.waiting(role)[0]:
                break
        return True

    def left(self, role: str, queue: str, goal: dict[str, int]) -> dict[str, int]:
        """Return what of a goal in one queue is still on its way to a workspace."""
        cursors = self.state.cursors(role, queue)
        there = self.journal.files(queue)
        return {f: s for f, s in goal.items() if f in there and s > cursors.get(f, (0, 0))[0]}

    def wait_for_reads(self, what: str) -> None:
        """Let the primary catch up before a search, and warn once if it does not."""
        role = self.answering()
        behind = [q for q in self.journal.queues() if role is not None and self.is_waiting(role, q)]
        if role is None or not behind:
            return
        if time.monotonic() - self._gave_up > SEARCH_WAIT_S:  # once for several searches in a row
            if not self.health[role].away and self.wait(role, behind, SEARCH_WAIT_S):
                return
            self._gave_up = time.monotonic()
        count, _ = self.waiting(role)
        if count and self.warns_once(role):
            _log.warning(
                "%s: %s writes are still on their way to %s and are missing from this answer; "
                "%s waits for them",
                what,
                f"{count:,}",
                role,
                say("%dbml sync"),
            )

    def warns_once(self, what: str) -> bool:
        """Tell whether a warning has yet to be given, and note that it is."""
        new = what not in self._warned
        self._warned.add(what)
        return new

    def answering(self) -> str | None:
        """Return the role that answers reads now: the primary, or the mirror while the primary is away."""
        return next((role for role in self.link.tracked if not self.health[role].away), None)

    def begin_sync_mode(self) -> None:
        """From here on tell of each write that the primary refuses (and of none that it refused before)."""
        self._refusals_before = max(self._refusals_before, self.state.last_dead())

    def wait_for_primary(self, queue: str) -> None:
        """In sync mode: wait for the primary's answer to what was just written, and raise its error."""
        role = self.link.primary
        while not self.wait(role, [queue], 0.5) and not is_held_back():
            line = self.health[role]
            if line.away:
                raise Unavailable(f"{role}: {line.reason}; the write waits in the journal")
        for number, _, _, _, cause, _ in self.state.dead(role, queue):
            if number > self._refusals_told.get(queue, self._refusals_before):
                self._refusals_told[queue] = number
                raise MlflowException(f"{role} refused the write: {cause}", INVALID_PARAMETER_VALUE)

    def tidy(self, queue: str) -> None:
        """Delete a queue's files once they are delivered everywhere and the run needs them no more."""
        files = self.journal.files(queue)
        if not files:
            return
        for role in self.link.used:
            cursors = self.state.cursors(role, queue)
            if any(size > cursors.get(file, (0, 0))[0] for file, size in files.items()):
                return
        known = self.state.run(queue)
        own_live = queue in self._live and self._live[queue].view.run is not None
        live = known is not None and not known.get("ended")
        if live and (own_live or not all(self.journal.is_left(queue, file) for file in files)):
            return  # a live run is read from its files, here or in the process that holds one of them open
        self._note_alike(queue)
        for file, size in files.items():
            self._release_spool_of(queue, file)
            if self.journal.delete_if_done(queue, file, size):
                self.state.drop_file(queue, file)
        if not self.journal.files(queue):
            self._live.pop(queue, None)
            for worker in self._workers:
                worker.side.overflow.clear(queue)
            if self.journal.has_spooled():
                self.journal.drop_orphans(self.state.is_dead_copy)

    def _note_alike(self, queue: str) -> None:
        """Remember what both workspaces were given of what people edit later, in one portal or the other."""
        live = self._live.get(queue)
        run = live.view.run if live is not None else None
        if run is not None:
            tags = {k: v for k, v in run.tags.items() if not k.startswith(("mlflow.", "dbml_"))}
            if NOTE_TAG in run.tags:
                tags[NOTE_TAG] = run.tags[NOTE_TAG]
            self.state.merge_base.note_run(queue, {"name": run.tags.get("mlflow.runName"), "tags": tags})

    def _release_spool_of(self, queue: str, file: str) -> None:
        """Delete the copies of artifacts that a killed worker had delivered and not yet deleted."""
        if self.journal.has_spooled():
            for entry in self.journal.read(queue, file, 0):
                self.release_spool(queue, entry)

    # --- the end of a process

    def flush_at_exit(self) -> None:
        """Deliver within the bound; put what is left where the link says, and say so.

        What other living processes of the link log is theirs to see to.
        """
        if os.getpid() != self._pid:
            return
        self.journal.sync_to_disk()
        until = time.monotonic() + exit_flush_seconds()
        watches = {role: Watch(worker.lease) for role, worker in self.workers.items()}
        stopped = {role: self._flush_role(role, until, watches) for role in self.link.used}
        left = {role: self._count(role, self._own_goal(role)) for role in self.link.used}
        if not any(self.waiting(role)[0] for role in self.link.used):
            for queue in self.journal.queues():
                self.tidy(queue)
        self.journal.close()
        self.state.come_back(at_once=True)
        undelivered = {
            role: n for role, n in left.items() if n and (stopped[role] or not self._other_delivers(role))
        }
        if undelivered:
            shutdown.tell(self, undelivered, {role: pid for role, pid in stopped.items() if pid is not None})
        for worker in self._workers:
            worker.halt()

    def _flush_role(self, role: str, until: float, watches: dict[str, Watch]) -> int | None:
        """Wait for what is this process's to see to; returns a holder of the lease that does not move.

        A workspace that is away was asked at least twice; the next process asks again.
        """
        worker, watch = self.workers[role], watches[role]
        for _ in range(IN_TURN):
            goal = self._own_goal(role)
            while not self.wait(role, None, 0.25, goal):
                for each in watches.values():
                    each.look()
                if not self._other_delivers(role):
                    worker.lease.beat()
                    if self.health[role].away or time.monotonic() >= until:
                        return None
                elif watch.moved or watch.still is not None or time.monotonic() >= until:
                    return watch.last_word()
            if not self._own_goal(role):
                break
        return None

    def _own_goal(self, role: str) -> Goal:
        """Return what is this process's to see to: what it wrote, and what processes that ended left."""
        goal = {}
        for queue, files in self.goal().items():
            there = self.left(role, queue, files)
            goal[queue] = {
                f: s for f, s in there.items() if self.journal.is_own(f) or self.journal.is_left(queue, f)
            }
        return {queue: files for queue, files in goal.items() if files}

    def _count(self, role: str, goal: Goal) -> int:
        """Return how many writes of a goal wait for a workspace, the rows of overflow files with them."""
        count = len(self.side(role).overflow.files.unwritten())
        for queue, files in goal.items():
            cursors = self.state.cursors(role, queue)
            for file, size in files.items():
                start = cursors.get(file, (0, 0))[0]
                count += sum(1 for _ in self.journal.read(queue, file, start, size))
        return count

    def _other_delivers(self, role: str) -> bool:
        worker = self.workers[role]
        return not worker.has_lease and not worker.take_lease()

    def rest(self, seconds: float) -> bool:
        """Have the workers send nothing more, with all leases ours; False when another process has one."""
        for worker in self._workers:
            worker.halt()
        until = time.monotonic() + seconds
        return all(worker.come_to_rest(until) for worker in self._workers)

    def warn_refused(self, queue: str) -> list[str]:
        """Return one line for each write of a queue that a workspace refused for good."""
        return [
            f"{role} refused {decode(line).label()}: {cause}"
            for _, role, found, line, cause, _ in self.state.dead(queue=queue)
            if found == queue
        ]


def _add_outputs(run: Run, models: list[str]) -> None:
    from mlflow.entities import LoggedModelOutput, RunOutputs

    have = {o.model_id for o in run.outputs.model_outputs} if run.outputs else set()
    outputs = list(run.outputs.model_outputs) if run.outputs else []
    run._outputs = RunOutputs(outputs + [LoggedModelOutput(m, 0) for m in models if m not in have])


_after_fork: weakref.WeakSet[Engine] = weakref.WeakSet()


_held = threading.local()


def _before_fork() -> None:
    """Let no thread be inside SQLite while the process forks: its locks would stay closed in the child."""
    _held.states = sorted((engine.state for engine in tuple(_engines.values())), key=id)
    for state in _held.states:
        state.lock.acquire()
    shutdown.before_fork()


def _after_fork_in_parent() -> None:
    shutdown.after_fork_in_parent()
    for state in getattr(_held, "states", []):
        state.lock.release()
    _held.states = []


def _begin_anew() -> None:
    global _engines_lock
    _engines_lock = threading.Lock()
    _held.states = []
    shutdown.after_fork()
    for engine in list(_after_fork):
        engine.after_fork()


shutdown.end_runs_of(known_engines)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_begin_anew)
