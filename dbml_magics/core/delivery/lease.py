"""Which of a link's processes delivers to a workspace: the one that holds the workspace's lease.

The lease is a POSIX record lock, which the kernel releases when its holder dies. A holder that lives and does
not move (it was stopped: Ctrl-Z, a debugger, a paused container) keeps it; so a holder counts in the lease's
file, and who waits for its deliveries sees whether the number changes.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dbml_magics.common.disks import private_folder
from dbml_magics.core.interrupts import deferred

__all__ = ["STILL_S", "Lease", "Watch"]

_BEAT_S = 0.5
STILL_S = 4.0
"""How long a holder's number may stay the same before it counts as one that does not move."""


@dataclass(frozen=True)
class _Holder:
    pid: int
    count: int


class Lease:
    """The lease of one workspace, as one process sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        # One thread at a time: closing any handle of the file in this process would give the lock up.
        self._lock = threading.Lock()
        self._count = 0
        self._term = object()  # of holding it, in this process

    @property
    def held(self) -> bool:
        """Tell whether it is this process's."""
        return self._fd is not None

    def take(self) -> bool:
        """Take it, if no other process has it; tells whether it is this process's."""
        with self._lock, deferred():
            return self._fd is not None or self._open()

    def _open(self) -> bool:
        private_folder(self._path.parent)
        fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._fd, self._term = fd, object()
        self._write()
        with suppress(RuntimeError):  # the interpreter is ending: who waits for its end beats instead
            threading.Thread(target=self._go_on, args=(self._term,), name="dbml-lease", daemon=True).start()
        return True

    def _go_on(self, term: object) -> None:
        while self._fd is not None and self._term is term:
            self.beat()
            time.sleep(_BEAT_S)

    def beat(self) -> None:
        """Show that this process moves, if it holds the lease."""
        with self._lock:
            if self._fd is not None:
                self._write()

    def _write(self) -> None:
        self._count += 1
        with suppress(OSError):  # a full disk: the file's length stays the same
            os.pwrite(self._fd or 0, b"%20d %20d\n" % (os.getpid(), self._count), 0)

    def is_elsewhere(self) -> bool:
        """Tell whether another process has it."""
        with self._lock, deferred():
            if self._fd is not None:
                return False
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                return False
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(fd)
            return False

    def release(self) -> None:
        """Give it back."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: record locks are not inherited, so the parent keeps its lease."""
        self._lock = threading.Lock()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def holder(self) -> tuple[_Holder, float] | None:
        """Return who wrote to the file last, and how many seconds ago; None where it is this process."""
        with self._lock:
            if self._fd is not None:
                return None
            try:
                with open(self._path, "rb", buffering=0) as file:
                    pid, count = map(int, file.read(64).split())
                    age = time.time() - os.fstat(file.fileno()).st_mtime
            except (OSError, ValueError):
                return None
        return _Holder(pid, count), age


class Watch:
    """Looks whether the process that holds a lease moves."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._seen: _Holder | None = None
        self._since = time.monotonic()
        self.moved = False
        """Its number has changed since the watch began."""

    def look(self) -> None:
        """Look once more."""
        found = self._lease.holder()
        holder = None if found is None else found[0]
        if holder != self._seen:
            self.moved = self._seen is not None
            self._seen, self._since = holder, time.monotonic()

    @property
    def still(self) -> int | None:
        """Return the id of a holder that has not moved for ``STILL_S``, as far as was looked."""
        if self._seen is None or time.monotonic() - self._since < STILL_S:
            return None
        return self._seen.pid

    def last_word(self) -> int | None:
        """Return the id of a holder that does not move, after a watch that may have been too short."""
        found = self._lease.holder()
        if self.moved or self._seen is None or (found is not None and found[1] < 4 * _BEAT_S):
            return None
        return self._seen.pid

    def ask(self) -> int | None:
        """Return the id of a holder that does not move; takes ``STILL_S`` where it seems so at first."""
        if not self._lease.is_elsewhere():
            return None
        self.look()
        found = self._lease.holder()
        if found is None or found[1] < 4 * _BEAT_S:  # it wrote just now
            return None
        until = time.monotonic() + STILL_S
        while self.still is None and time.monotonic() < until and not self.moved:
            time.sleep(0.1)
            self.look()
        return self.still
