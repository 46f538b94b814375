"""The live queues of this process: each with its view, folded from the journal and kept up to date."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from dbml_magics.core.interrupts import deferred
from dbml_magics.core.model.operations import CreateRun, LogBatch, read_as
from dbml_magics.core.model.sendable import required
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.run_view import QueueView, RunView

_TICK_NS = 100_000_000  # a folder's time is that of the kernel's tick: 10 ms at most, and some more


class LiveQueue:
    """A queue that this process writes or reads: its view, and the lock that keeps file and view in order."""

    __slots__ = ("end", "file", "keys", "lock", "models", "path", "view")

    def __init__(self, queue: str) -> None:
        self.view = QueueView(queue)
        self.lock = threading.RLock()
        self.keys: dict[str, str] = {}  # metric keys that were checked -> their JSON
        self.models: set[str] = set()  # logged models that its writes were noted to name
        self.path: str = ""
        self.file, self.end = "", 0  # of this process's own file: folded into the view up to there


class LiveQueues:
    """All live queues of one link.

    ``artifact_uri`` names the files of a ``run`` by its id; ``base`` gives what a run was before the writes
    that are in the journal.
    """

    def __init__(
        self, journal: Journal, artifact_uri: Callable[[str, str], str], base: Callable[[str], RunView]
    ) -> None:
        self._journal = journal
        self._artifact_uri = artifact_uri
        self._base = base
        self.queues: dict[str, LiveQueue] = {}
        """The live queues by name; the object stays the same for as long as the process lives."""
        self.lock = threading.RLock()
        """Held while a queue becomes live: its view must not miss what is written meanwhile."""

    def after_fork(self) -> None:
        """In a forked child: views are folded from the journal anew, as their files are the parent's."""
        self.lock = threading.RLock()
        self.queues.clear()

    def begin_queue(self, queue: str) -> LiveQueue:
        """Return the queue with a view; made if need be, folded from the journal."""
        with self.lock:
            live = self.queues.get(queue)
            if live is None:
                live = LiveQueue(queue)
                self._fold_files(live, live.view)
                self.queues[queue] = live
            return live

    def open_run(self, run_id: str) -> LiveQueue:
        """Return a run's queue, with what is known of the run. Raises MLflow's "not found"."""
        required("run_id", run_id)
        live = self.begin_queue(run_id)
        if live.view.run is not None:
            return live
        with live.lock:
            if live.view.run is None:
                view = QueueView(run_id)
                view.run = self._base(run_id)
                self._fold_files(live, view)
        return live

    def current(self, queue: str) -> LiveQueue | None:
        """Return an up-to-date queue if it is live or has files to fold."""
        live = self.queues.get(queue)
        if live is None:
            if not self._journal.files(queue):
                return None
            live = self.begin_queue(queue)
        self.refresh(live)
        return live

    def queue_view(self, queue: str) -> QueueView | None:
        """Return a queue's view if it has one or has files to fold."""
        live = self.current(queue)
        return None if live is None else live.view

    def creation_of(self, run_id: str) -> CreateRun | None:
        """Return the write that began a run, if it is in the journal."""
        for file, size in self._journal.files(run_id).items():
            first = next(self._journal.read(run_id, file, 0, size), None)
            if first is not None and (creation := read_as(CreateRun, first.line)) is not None:
                return creation
        return None

    def know_key(self, run_id: str, key: str) -> str:
        """Remember that a metric's key was checked; returns it as JSON."""
        keys = self.begin_queue(run_id).keys
        encoded = keys.get(key)
        if encoded is None:
            encoded = keys[key] = json.dumps(key)
        return encoded

    # --- folding

    def catch_up(self, live: LiveQueue, file: str, end: int) -> None:
        """Fold what this process has in its file up to ``end`` and an interrupt kept from the view."""
        queue = live.view.queue
        if file != live.file:
            if live.file:
                self._fold_own(live, live.file, self._journal.files(queue).get(live.file, 0))
            live.end = 0
            live.file = file
        self._fold_own(live, file, end)

    def _fold_own(self, live: LiveQueue, file: str, end: int) -> None:
        if end <= live.end:
            return
        view = live.view
        artifact_uri = self._artifact_uri("run", view.queue)
        for entry in self._journal.read(view.queue, file, live.end, end):
            batch = read_as(LogBatch, entry.line)
            if batch is not None and view.run is not None:
                batch = replace(batch, points=view.run.lacking(batch.points))  # it may be there in part
                view.fold(batch, entry.stamp, artifact_uri, (file, entry.start, entry.end))
            else:
                view.fold_line(entry, artifact_uri)
            live.end = entry.end

    def _fold_files(self, live: LiveQueue, view: QueueView) -> None:
        """Fold all files of a queue into a view, and make that the queue's."""
        self._fold_from(view, self._journal.files(view.queue))
        own = self._journal.own_end(view.queue)
        with deferred():
            live.view = view
            live.file, live.end = ("", 0) if own is None else (own[0], view.read_to.get(own[0], 0))

    def _fold_from(self, view: QueueView, sizes: dict[str, int], *, lives: bool = False) -> None:
        """Fold what files have gained since the last look, in the order in which it is delivered.

        A view that ``lives`` already is not thrown away where an interrupt comes.
        """
        for entry in self._journal.entries(view.queue, sizes, view.read_to):
            with deferred() if lives else nullcontext():
                view.fold_line(entry, self._artifact_uri("run", view.queue))
                view.read_to[entry.file] = entry.end

    def refresh(self, live: LiveQueue) -> None:
        """Fold what other processes wrote since the last look; two system calls when nobody did."""
        view, journal = live.view, self._journal
        own = journal.own_end(view.queue)
        if own is not None and own != (live.file, live.end):
            with live.lock:  # another thread may be about to fold it
                own = journal.own_end(view.queue)
                if own is not None:
                    self.catch_up(live, *own)
        if not live.path:
            live.path = str(journal.folder(view.queue))
        try:
            stamp = journal.stamp(view.queue, live.path)
        except FileNotFoundError:
            return
        others = [f for f in view.read_to if not journal.is_own(f)]
        if stamp == view.stamp and not others:
            return
        with live.lock:
            # A file that comes within the same tick of the disk's clock does not change the folder's time.
            view.stamp = stamp if time.time_ns() - stamp > _TICK_NS else 0
            sizes = {f: s for f, s in journal.files(view.queue).items() if not journal.is_own(f)}
            for file in sizes:
                view.read_to.setdefault(file, 0)  # known from now on, also while it has no whole line
            self._fold_from(view, sizes, lives=True)
