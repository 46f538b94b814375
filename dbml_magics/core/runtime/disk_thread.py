"""The thread that puts what is journaled onto the disk itself, every second."""

from __future__ import annotations

import os
import threading
import time

from dbml_magics.common.log_records import logger
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime.lifetime import Lifetime

_log = logger(__name__)


class DiskThread:
    """Syncs the journal to the disk, and brings the state back to its own disk once that works again."""

    def __init__(self, journal: Journal, state: State, lifetime: Lifetime) -> None:
        self._journal = journal
        self._state = state
        self._lifetime = lifetime
        self._lock = threading.RLock()
        self.thread: threading.Thread | None = None
        """The thread; None while nothing is journaled."""

    def after_fork(self) -> None:
        """In a forked child: no thread; it comes back when the child writes."""
        self._lock = threading.RLock()
        self.thread = None

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock, deferred():
            if self.thread is None:
                self.thread = threading.Thread(
                    target=self._run, args=(os.getpid(),), name="dbml-disk", daemon=True
                )
                try:
                    self.thread.start()
                except RuntimeError:  # the interpreter is ending
                    self.thread = None

    def _has_ended(self, queue: str) -> bool:
        return bool((self._state.run(queue) or {}).get("ended"))

    def _run(self, pid: int) -> None:
        while os.getpid() == pid:
            time.sleep(1.0)
            if self._lifetime.retired:
                self.thread = None
                self._journal.sync_to_disk()
                self._state.come_back(at_once=True)
                self._lifetime.close_if_left()
                return
            try:
                self._journal.sync_to_disk()
                self._journal.close_quiet(self._has_ended)
                self._state.come_back()
            except OSError:
                _log.debug("the journal could not be synced to disk", exc_info=True)
