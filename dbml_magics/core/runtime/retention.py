"""What is kept of the journal: copies of files until they are delivered, queues until nobody needs them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from dbml_magics.common.config import spool_limit_bytes, spool_wait_seconds
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.interrupts import is_held_back
from dbml_magics.core.link import Link
from dbml_magics.core.model.facts import StoredFile
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import Entry
from dbml_magics.core.outbox.spool import copy_of, kept_small
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.live import LiveQueues
from dbml_magics.core.runtime.senders import Sender

NOTE_TAG = "mlflow.note.content"


class Retention:
    """Keeps files for delivery, and deletes what is delivered everywhere.

    ``forget_overflow`` is called with each queue that is deleted.
    """

    def __init__(
        self,
        link: Link,
        journal: Journal,
        state: State,
        live: LiveQueues,
        backlog: Backlog,
        health: Mapping[str, Health],
        senders: Mapping[str, Sender],
        forget_overflow: Callable[[str], None],
    ) -> None:
        self._link = link
        self._journal = journal
        self._state = state
        self._live = live
        self._backlog = backlog
        self._health = health
        self._senders = senders
        self._forget_overflow = forget_overflow

    # --- copies of files

    def keep(self, source: str | os.PathLike[str]) -> StoredFile:
        """Copy a file; returns what its line says of the copy. While the spool is full, wait for room.

        Nobody waits for a workspace that is away, nor for a file that is larger than the spool. Raises
        JournalFull.
        """
        small = kept_small(source)
        if small is not None:
            return small
        until = time.monotonic() + spool_wait_seconds()
        while self._journal.spool.has_no_room_for(source):
            away = any(line.away for line in self._health.values())
            over = time.monotonic() >= until or is_held_back()
            if away or os.path.getsize(source) > spool_limit_bytes() or over:
                break
            for sender in self._senders.values():
                sender.hurry()
                sender.wait_for_arrival(0.1)
        spool, size = self._journal.spool.add(source)
        return {"spool": spool, "size": size}

    def release_spool(self, queue: str, entry: Entry) -> None:
        """Delete the copy that a write has in the spool, if any, once every workspace is beyond it."""
        spool = copy_of(entry.line)
        if spool is None:
            return
        for role in self._link.used:
            offset, _ = self._state.cursors(role, queue).get(entry.file, (0, 0))
            if offset < entry.end:
                return
        self._unspool(spool)

    def release_copy(self, queue: str, spool: str) -> None:
        """Delete an artifact's copy that a dead letter needed, unless it is on its way elsewhere."""
        for file in self._journal.files(queue):
            for entry in self._journal.read(queue, file, 0):
                if copy_of(entry.line) == spool:
                    self.release_spool(queue, entry)
                    return
        self._unspool(spool)

    def _unspool(self, spool: str) -> None:
        if not self._state.is_dead_copy(spool):  # it may be tried again
            self._journal.spool.delete(spool)

    # --- queues

    def tidy(self, queue: str) -> None:
        """Delete a queue's files once they are delivered everywhere and the run needs them no more."""
        files = self._journal.files(queue)
        if not files or any(self._backlog.is_waiting(role, queue) for role in self._link.used):
            return
        known = self._state.run(queue)
        live = self._live.queues.get(queue)
        if known is not None and not known.get("ended"):
            lives_here = live is not None and live.view.run is not None
            if lives_here or not all(self._journal.is_left(queue, file) for file in files):
                return  # a live run is read from its files, here or in the process that has one of them open
        self._note_alike(queue)
        for file, size in files.items():
            self._release_spool_of(queue, file)
            if self._journal.delete_if_done(queue, file, size):
                self._state.drop_file(queue, file)
        if not self._journal.files(queue):
            self._live.queues.pop(queue, None)
            self._forget_overflow(queue)
            if not self._journal.spool.is_empty() and not self._journal.queues():
                self._journal.spool.drop_orphans(self._state.is_dead_copy)

    def _note_alike(self, queue: str) -> None:
        """Remember what both workspaces were given of what people edit later, in one portal or the other."""
        live = self._live.queues.get(queue)
        run = live.view.run if live is not None else None
        if run is not None:
            tags = {k: v for k, v in run.tags.items() if not k.startswith(("mlflow.", "dbml_"))}
            if NOTE_TAG in run.tags:
                tags[NOTE_TAG] = run.tags[NOTE_TAG]
            self._state.merge_base.note_run(queue, {"name": run.tags.get("mlflow.runName"), "tags": tags})

    def _release_spool_of(self, queue: str, file: str) -> None:
        """Delete the copies of artifacts that a killed worker had delivered and not yet deleted."""
        if not self._journal.spool.is_empty():
            for entry in self._journal.read(queue, file, 0):
                self.release_spool(queue, entry)
