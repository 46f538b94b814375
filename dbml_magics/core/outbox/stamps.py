"""Stamps: the numbers that order the writes of all processes of a link, whatever becomes of the clock.

A stamp is the time in nanoseconds where that is later than every stamp so far, else the last one and one more
(a hybrid logical clock). The newest stamp stands in memory that the processes share, so a process whose clock
is set back, or runs slow, writes behind what another has written. Without such memory (macOS), a process
follows the stamps that it finds in the journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from dbml_magics.common import disks

_MEMORY = Path("/dev/shm")
_BYTES = mmap.PAGESIZE
_SLOTS = 8


class Stamps:
    """The stamps of one journal; the last process of its link deletes the shared memory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fd: int | None = None
        self.shared: memoryview | list[int] = [0] * _SLOTS
        """The newest stamp in the first slot, then a slot for each role's count of delivery steps."""
        self.attach()

    def attach(self) -> None:
        """Share the memory with the link's other processes, if it is not shared yet and can be."""
        if self._fd is None and sys.platform == "linux":
            with suppress(OSError):
                self._fd, shared = _open(self._root)
                for slot in range(_SLOTS):
                    shared[slot] = max(shared[slot], self.shared[slot])
                self.shared = shared

    def next(self) -> int:
        """Return a number greater than any that a process of the link has had."""
        stamp, shared = time.time_ns(), self.shared
        if stamp <= shared[0]:
            stamp = shared[0] + 1
        shared[0] = stamp
        return stamp

    def follow(self, stamp: int) -> None:
        """Have the next stamps come after one that was found in the journal."""
        if self.shared[0] < stamp < 1 << 62:
            self.shared[0] = stamp

    def detach(self) -> None:
        """Give the memory up until the next write."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self.shared = list(self.shared[:_SLOTS])
            with suppress(OSError):  # another process shares it
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _path(self._root).unlink()
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: share the memory as a process of its own."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self.shared = list(self.shared[:_SLOTS])
            os.close(fd)
            self.attach()


def _path(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]
    return disks.base_on(_MEMORY) / f"stamps-{name}"


def _open(root: Path) -> tuple[int, memoryview]:
    """Open and map what all processes with a journal in ``root`` share. Raises OSError."""
    path = _path(root)
    disks.make_base(path.parent)
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # A shared lock says "somebody shares this"; who gives it up deletes only what it can lock alone.
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink:
                os.posix_fallocate(fd, 0, _BYTES)  # a page that is there cannot fail a write: no SIGBUS
                return fd, memoryview(mmap.mmap(fd, _BYTES)).cast("q")
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
