"""A file of a queue: its process appends to it, and a shared lock says that somebody still writes there.

A line is written with one ``write(2)``: what a killed process had acknowledged is in the page cache, so it
outlives the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from dbml_magics.common.disks import private_folder
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.outbox.spares import FULL, no_room
from dbml_magics.errors import JournalError

_LOOKS = 4


class QueueFile:
    """A file of a queue that this process alone appends to, under the journal's lock."""

    __slots__ = ("broken", "dirty", "fd", "name", "path", "size", "unsure")

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name = folder / name, name
        try:
            self._open(folder)
        except OSError as error:
            raise not_written(error, folder) from error
        self.size = os.fstat(self.fd).st_size
        self.dirty = False
        self.broken = False  # ends in a half line that cannot be taken back
        self.unsure = False  # an interrupt came before what was written was counted

    def _open(self, folder: Path) -> None:
        while True:
            private_folder(folder)
            try:
                self.fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # the folder was cleaned away in between
            # A shared lock says "somebody still writes here"; cleaning deletes only what it can lock alone.
            fcntl.flock(self.fd, fcntl.LOCK_SH)
            if os.fstat(self.fd).st_nlink:
                return
            os.close(self.fd)

    def append(self, data: bytes) -> None:
        """Append whole lines, or nothing of them. Raises JournalFull, JournalError."""
        if self.unsure:
            self.look()
        self.dirty = self.unsure = True
        try:
            written = os.write(self.fd, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with deferred():
                self._take_back()
            raise not_written(error, self.path.parent) from error
        self.size += written
        self.unsure = False

    def look(self) -> None:
        """Count a line whose writer was interrupted, or take back the half of it. Raises JournalError."""
        with deferred():
            try:
                size = os.fstat(self.fd).st_size
                with open(self.path, "rb") as written:
                    written.seek(max(size - 1, 0))
                    whole = written.read(1) in (b"", b"\n")
            except OSError as error:
                raise not_written(error, self.path.parent) from error
            if whole:
                self.size, self.unsure = max(self.size, size), False
            else:
                self._take_back()

    def _take_back(self) -> None:
        try:
            os.ftruncate(self.fd, self.size)  # no half line may stay in front of the next one
        except OSError:
            self.broken = True
        self.unsure = False

    def close(self) -> None:
        """Close the file, which gives its lock up: nobody writes to it any more."""
        os.close(self.fd)


def not_written(error: OSError, folder: Path) -> JournalError:
    """Return the error of a journal that a disk did not take."""
    if error.errno in FULL:
        return no_room(f"the disk of the journal ({folder}) is full.")
    return JournalError(
        f"the journal ({folder}) cannot be written ({error.strerror}).",
        remedies=[("DBML_HOME=/a/local/folder", "set it before the notebook starts")],
    )


def is_left(path: Path) -> bool:
    """Tell whether nobody writes to a file any more (its process has closed it, or is dead)."""
    for again in range(_LOOKS):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # It may be another look that has the lock, for a moment: a writer keeps it.
            time.sleep(0.001 * again)
        else:
            return True
        finally:
            os.close(fd)
    return False


def delete_left(path: Path, size: int) -> bool:
    """Delete a file of ``size`` bytes, and its folder with the last one, unless somebody writes to it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_size != size:
            return False
        path.unlink(missing_ok=True)
    except OSError:  # locked by who writes to it, or on a disk that has become read-only
        return False
    finally:
        os.close(fd)
    with suppress(OSError):
        path.parent.rmdir()
    return True
