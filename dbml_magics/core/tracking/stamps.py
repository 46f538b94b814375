"""Stamps: the numbers that order the writes of all processes of a link, whatever becomes of the clock.

A stamp is the time in nanoseconds where that is later than every stamp so far, else the last one and one more
(a hybrid logical clock). The newest stamp stands in memory that the processes share, so a process whose clock
is set back, or runs slow, writes behind what another has written. Without such memory (macOS), a process
follows the stamps that it finds in the journal.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from dbml_magics import disks

_MEMORY = Path("/dev/shm")
_BYTES = mmap.PAGESIZE
SLOTS = 8


class Stamps:
    """The stamps of one journal."""

    def __init__(self, root: Path) -> None:
        self._newest: memoryview | list[int] = [0] * SLOTS
        if sys.platform == "linux":
            with suppress(OSError):
                self._newest = _shared(root)

    def next(self) -> int:
        """Return a number greater than any that a process of the link has had."""
        stamp, newest = time.time_ns(), self._newest
        if stamp <= newest[0]:
            stamp = newest[0] + 1
        newest[0] = stamp
        return stamp

    @property
    def shared(self) -> memoryview | list[int]:
        """Return the memory: the stamp in the first slot, then a slot for each role's :class:`Witness`."""
        return self._newest

    def follow(self, stamp: int) -> None:
        """Have the next stamps come after one that was found in the journal."""
        if self._newest[0] < stamp < 1 << 62:
            self._newest[0] = stamp


def _shared(root: Path) -> memoryview:
    """Map the memory that all processes with a journal in ``root`` share. Raises OSError."""
    base = disks.base_on(_MEMORY)
    disks.make_base(base)
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]
    fd = os.open(base / f"stamps-{name}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(fd).st_size < _BYTES:
            os.posix_fallocate(fd, 0, _BYTES)  # a page that is there cannot fail a write: no SIGBUS
        return memoryview(mmap.mmap(fd, _BYTES)).cast("q")
    finally:
        os.close(fd)
