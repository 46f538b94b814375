"""The journal: every write, on a local disk, before the call that made it returns.

A link has one queue a run (and one, ``link``, for experiments and registries). A queue is a folder; each
process appends to a file of its own in it, one JSON line a write, with one ``write(2)``: what a killed
process had acknowledged is in the page cache, so it outlives the process, and a second later it is on the
disk.

A line is a checksum and ``[t, code, …]``, where ``t`` orders the writes of all processes of the link on one
run (``stamps.py``). Files with the suffix ``.jsonl`` are release 0.1's: their lines have no checksum.

An artifact is copied before the call returns: a small one into its line, another into a file of the spool.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import heapq
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeGuard
from urllib.parse import quote, unquote

from dbml_magics.common.config import spool_limit_bytes
from dbml_magics.common.disks import is_own, make_own, private_folder
from dbml_magics.common.hints import Remedy
from dbml_magics.common.log_records import logger
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.model.operations import (
    Line,
    LogArtifact,
    Operation,
    StoredFile,
    decode,
    is_line,
    read_as,
    stamp_of,
)
from dbml_magics.core.outbox.provenance import Witness
from dbml_magics.core.outbox.stamps import Stamps
from dbml_magics.errors import JournalError, JournalFull

LINK_QUEUE = "link"
SMALL = 4096
"""Bytes of a file that its line still holds: making a file for them costs more than the rest of the call."""

SUFFIX, OLD_SUFFIX = ".jnl", ".jsonl"
"""Of files whose lines carry a checksum, and of release 0.1's, whose processes do not look for the others."""

_RECORD = re.compile(rb"[0-9a-f]{8} \[\d+,")
_STAMP = re.compile(rb"(?:[0-9a-f]{8} )?\[(\d+),")
_CHECKSUM = 9  # bytes of a line before its JSON: eight hexadecimal digits and a space
_TAIL = 8192
_LOOKS = 4
_CHUNK = 256 * 1024
_MAX_OPEN = 256
_ORPHAN_S = 3600.0
_LOOK_S = 1.0  # between two looks for files on other disks
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIED_ELSEWHERE = (*_FULL, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
_log = logger(__name__)
_COPYS_NAME = re.compile(r"[0-9a-f]{1,20}-[0-9]{1,10}-[0-9a-f]{8}")


@dataclass(slots=True)  # not frozen: delivery makes one a line, and freezing is two thirds of what that costs
class Entry:
    """One write as it stands in a journal file; ``line`` is None where it cannot be read."""

    file: str
    start: int
    end: int
    line: Line | None
    text: str = ""

    @property
    def stamp(self) -> int:
        """Return what orders the write among its queue's, 0 for a line that cannot be read."""
        return stamp_of(self.line) if self.line else 0

    @property
    def order(self) -> tuple[int, str, int]:
        """Return the key that merges several processes' writes."""
        return self.stamp, self.file, self.start

    @property
    def operation(self) -> Operation | None:
        """Return the write, or None for a line that cannot be read."""
        return None if self.line is None else decode(self.line)


class _Writer:
    """One process's own file in a queue; appended to under the queue's lock."""

    __slots__ = ("broken", "dirty", "fd", "name", "path", "size", "unsure")

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name = folder / name, name
        try:
            self._open(folder)
        except OSError as error:
            raise _not_written(error, folder) from error
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
            raise _not_written(error, self.path.parent) from error
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
                raise _not_written(error, self.path.parent) from error
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
        os.close(self.fd)


def _not_written(error: OSError, folder: Path) -> JournalError:
    if error.errno in _FULL:
        return JournalFull(
            f"the disk of the journal ({folder}) is full.",
            remedies=[(Remedy("sync"), "deliver what waits, which frees its space")],
        )
    return JournalError(
        f"the journal ({folder}) cannot be written ({error.strerror}).",
        remedies=[("DBML_HOME=/a/local/folder", "set it before the notebook starts")],
    )


class Journal:
    """All queues of one link.

    ``spares`` are folders on other disks: while the disk of ``root`` takes nothing (it is full, or has become
    read-only), new lines and copies go there. They are looked into by every process of the link.
    """

    def __init__(self, root: Path, spares: Sequence[Path] = ()) -> None:
        self.root = root
        self.queues_root = root / "queues"
        self.spool_root = root / "spool"
        self._spares = spares
        self._used_spares: list[Path] = []
        self._looked = float("-inf")
        self._fallen: Path | None = None  # where this process writes since the root's disk failed it
        self._lock = threading.Lock()
        self._open: dict[str, _Writer] = {}
        self._process = self._new_process_name()
        self._opened = 0
        self._spool_used: int | None = None
        self._stamps = Stamps(root)

    @staticmethod
    def _new_process_name() -> str:
        return f"{os.getpid()}-{secrets.token_hex(4)}"

    # --- writing

    def witness(self, role: str, slot: int) -> Witness:
        """Return what keeps the count of a role's delivery steps beside this journal."""
        return Witness(self.root / f"{role}.count", self._stamps, slot)

    def next_stamp(self, queue: str) -> int:
        """Return the number that orders a write behind every earlier one of ``queue``, in any process."""
        if queue not in self._open:
            self._stamps.attach()
            for file in self.files(queue):
                self._stamps.follow(self._last_stamp(queue, file))
        return self._stamps.next()

    def _last_stamp(self, queue: str, file: str) -> int:
        """Return the stamp of a file's last whole line, 0 where none can be read."""
        handle = self._to_read(queue, file)
        if handle is None:
            return 0
        with handle:
            end, length = handle.seek(0, os.SEEK_END), _TAIL
            while True:
                handle.seek(max(0, end - length))
                lines = handle.read().split(b"\n")[:-1]  # what follows the last newline is half a line
                whole = lines if length >= end else lines[1:]
                if whole or length >= end:
                    break
                length *= 8
        found = [int(stamp[1]) for line in whole[-1:] if (stamp := _STAMP.match(line))]
        return found[0] if found else 0

    def append(self, queue: str, data: bytes) -> tuple[str, int]:
        """Append whole lines to ``queue``; returns (file, its size). Raises JournalFull, JournalError."""
        with self._lock:
            writer = self._open.get(queue)
            if writer is None:
                with deferred():  # a file that is open and that nobody knows of would stay for good
                    return self._append_anew(queue, data)
            try:
                writer.append(data)
            except JournalError as error:
                with deferred():
                    return self._append_after(writer, queue, data, error)
            return writer.name, writer.size

    def _append_anew(self, queue: str, data: bytes) -> tuple[str, int]:
        """Append to a file that is begun with it."""
        if len(self._open) >= _MAX_OPEN:
            self._close_writer(next(iter(self._open)))
        name = self._new_name()
        if self._fallen is not None:
            return self._append_elsewhere(queue, data, name)
        try:
            writer = _Writer(self.folder(queue), name)
        except JournalError as error:
            return self._append_elsewhere(queue, data, name, error)
        self._open[queue] = writer
        try:
            writer.append(data)
        except JournalError as error:
            return self._append_after(writer, queue, data, error)
        return name, writer.size

    def _append_after(
        self, writer: _Writer, queue: str, data: bytes, failure: JournalError
    ) -> tuple[str, int]:
        """Append to another file than the one that did not take it."""
        if writer.broken:
            self._close_writer(queue)
        return self._append_elsewhere(queue, data, self._new_name(), failure)

    def _new_name(self) -> str:
        # A new name each time: a cursor into a file that was cleaned away must not fit the next.
        self._opened += 1
        return f"{self._process}-{self._opened}{SUFFIX}"

    def own_end(self, queue: str) -> tuple[str, int] | None:
        """Return (file, size) of the file that this process writes to in ``queue``, if it is open."""
        writer = self._open.get(queue)
        if writer is not None and writer.unsure:
            with self._lock:  # nobody is writing just now
                writer = self._open.get(queue)
                if writer is not None and writer.unsure:
                    writer.look()
        return None if writer is None else (writer.name, writer.size)

    def _append_elsewhere(
        self, queue: str, data: bytes, name: str, failure: JournalError | None = None
    ) -> tuple[str, int]:
        """Append to a file on another disk. Raises the first failure where none takes it."""
        for spare in self._spares if self._fallen is None else (self._fallen, *self._spares):
            writer = None
            try:
                make_own(spare)
                writer = _Writer(spare / "queues" / _folder_of(queue), name)
                writer.append(data)
            except (JournalError, OSError) as error:
                if writer is not None:
                    writer.close()
                failure = failure or (
                    error if isinstance(error, JournalError) else _not_written(error, spare)
                )
                continue
            self._close_writer(queue)
            self._open[queue] = writer
            self._fall_to(spare, failure)
            return name, writer.size
        raise failure or JournalError(f"the journal ({self.root}) cannot be written.")

    def _fall_to(self, spare: Path, failure: JournalError | None) -> None:
        if spare not in self._used_spares:
            self._used_spares.append(spare)
        if self._fallen != spare:
            self._fallen = spare
            _log.warning(
                "dbml_magics: %s Writes are kept in %s now, and delivered from there; nothing is lost",
                failure or "the journal cannot be written.",
                spare,
            )

    def rescan_disks(self) -> None:
        """Look for files on other disks at the next call: another process may just have gone there."""
        self._looked = float("-inf")

    def _roots(self) -> list[Path]:
        """Return the folders that have, or may have, files of this journal."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._used_spares = [s for s in self._spares if is_own(s.parent.parent) and s.is_dir()]
            self._looked = now  # only now: another thread that comes in between must not take none for all
        return [self.root, *self._used_spares]

    def is_own(self, file: str) -> bool:
        """Tell whether this process wrote a file."""
        return file.startswith(self._process)

    def sync_to_disk(self) -> None:
        """Flush what was written since the last call to the disk itself (called about once a second)."""
        with deferred():  # a copy that stays open keeps the lock on its file
            with self._lock:
                dirty = [w for w in self._open.values() if w.dirty]
                for writer in dirty:
                    writer.dirty = False
                copies = [os.dup(w.fd) for w in dirty]
            for fd in copies:
                try:
                    os.fsync(fd)
                except OSError:  # a disk that cannot sync: the page cache still holds the lines
                    pass
                finally:
                    os.close(fd)

    def _close_writer(self, queue: str) -> None:
        writer = self._open.pop(queue, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Close all files; the next write opens what it needs."""
        with self._lock:
            for queue in list(self._open):
                self._close_writer(queue)
        self._stamps.detach()

    def after_fork(self) -> None:
        """In a forked child: give up the parent's files and write to ones of our own."""
        self._lock = threading.Lock()
        for writer in self._open.values():
            writer.close()
        self._open = {}
        self._stamps.after_fork()
        self._process = self._new_process_name()

    # --- reading

    def folder(self, queue: str) -> Path:
        """Return the queue's folder."""
        return self.queues_root / _folder_of(queue)

    def path(self, queue: str, file: str) -> Path:
        """Return the path of one of a queue's files, on whichever disk it is."""
        own = self.folder(queue) / file
        for spare in self._used_spares:
            path = spare / "queues" / own.parent.name / file
            if path.exists():
                return path
        return own

    def stamp(self, queue: str, folder: str) -> int:
        """Return a number that changes when a file comes or goes. Raises FileNotFoundError where none is."""
        if not self._used_spares:
            return os.stat(folder).st_mtime_ns
        found = 0
        for root in self._used_spares:
            with suppress(OSError):
                found += os.stat(root / "queues" / _folder_of(queue)).st_mtime_ns
        with suppress(OSError):
            found += os.stat(folder).st_mtime_ns
        return found

    def queues(self) -> list[str]:
        """Return the names of all queues that have files."""
        names: dict[str, None] = {}
        for root in self._roots():
            with suppress(OSError), os.scandir(root / "queues") as found:
                names.update((unquote(entry.name), None) for entry in found if entry.is_dir())
        return list(names)

    def files(self, queue: str) -> dict[str, int]:
        """Return {file: size} of one queue."""
        sizes = {}
        name = _folder_of(queue)
        for root in self._roots():
            with suppress(FileNotFoundError), os.scandir(os.path.join(root, "queues", name)) as found:
                for entry in found:
                    # A file that is tidied away while we look takes no other one's place in the answer.
                    with suppress(FileNotFoundError):
                        if entry.name.endswith((SUFFIX, OLD_SUFFIX)):
                            sizes[entry.name] = entry.stat().st_size
        return sizes

    def _to_read(self, queue: str, file: str) -> BinaryIO | None:
        """Open a file to read; None for one that was delivered and tidied away since it was listed."""
        try:
            return open(self.path(queue, file), "rb")
        except FileNotFoundError:
            return None

    def read(self, queue: str, file: str, start: int, limit: int = 1 << 60) -> Iterator[Entry]:
        """Yield the whole lines of a file from ``start`` on; a torn last line is not there yet."""
        handle = self._to_read(queue, file)
        if handle is None:
            return
        checked = file.endswith(SUFFIX)
        with handle:
            handle.seek(start)
            position, rest = start, b""
            while position < limit:
                chunk = handle.read(_CHUNK)
                if not chunk:
                    break
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    end = position + len(line) + 1
                    op = _decode(line, checked)
                    if op is not None:
                        yield Entry(file, position, end, op)
                    else:
                        yield from _damaged(file, position, line, checked)
                    position = end
                    if position >= limit:
                        return
            if checked and (op := _decode(rest[:-1], checked)) is not None:
                # The damaged byte is the newline: the line was whole, and acknowledged.
                yield Entry(file, position, position + len(rest), op)

    def entries(self, queue: str, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> Iterator[Entry]:
        """Yield a queue's lines between two places of each of its files, in the order of their stamps."""
        readers = [
            self.read(queue, file, offsets.get(file, 0), size)
            for file, size in sizes.items()
            if size > offsets.get(file, 0)
        ]
        return readers[0] if len(readers) == 1 else heapq.merge(*readers, key=lambda entry: entry.order)

    def count_waiting(self, queue: str, delivered: dict[str, int]) -> tuple[int, int | None]:
        """Return how many writes lie beyond ``delivered`` and the oldest one's time (ns), reading no more."""
        count, oldest = 0, None
        for file, size in self.files(queue).items():
            start = delivered.get(file, 0)
            if start >= size:
                continue
            handle = self._to_read(queue, file)
            if handle is None:
                continue
            with handle:
                handle.seek(start)
                first = True
                while chunk := handle.read(_CHUNK):
                    if first and (stamp := _STAMP.match(chunk[:40])):
                        oldest = int(stamp[1]) if oldest is None else min(oldest, int(stamp[1]))
                    first = False
                    count += chunk.count(b"\n")
        return count, oldest

    def is_left(self, queue: str, file: str) -> bool:
        """Tell whether nobody writes to a file any more (its process has closed it, or is dead)."""
        for again in range(_LOOKS):
            try:
                fd = os.open(self.path(queue, file), os.O_RDONLY | os.O_CLOEXEC)
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

    def delete_if_done(self, queue: str, file: str, size: int) -> bool:
        """Delete a file of ``size`` delivered bytes unless somebody still writes to it."""
        if self.is_own(file):
            with self._lock:
                self._close_writer(queue)
        path = self.path(queue, file)
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
        try:
            path.parent.rmdir()
        except OSError:
            pass
        return True

    # --- the spool: copies of artifacts that wait

    def spool(self, source: str | os.PathLike[str]) -> tuple[str, int]:
        """Copy a file into the spool; returns (name, size). Raises JournalFull at the spool's limit.

        A copy, never a hard link: the user's file may be changed after ``log_artifact`` has returned.
        """
        if self.spool_is_full(source):
            raise JournalFull(
                f"the spool for artifacts holds {(self._spool_used or 0) / 1e9:.1f} GB, its limit "
                f"(DBML_SPOOL_LIMIT) is {spool_limit_bytes() / 1e9:.1f} GB.",
                remedies=[(Remedy("sync"), "deliver what waits, which frees its space")],
            )
        name = f"{time.time_ns():x}-{os.getpid()}-{secrets.token_hex(4)}"
        size = self._copy_somewhere(source, name)
        self._spool_used = (self._spool_used or 0) + size
        return name, size

    def spool_is_full(self, source: str | os.PathLike[str]) -> bool:
        """Tell whether the spool's limit leaves no room for a file."""
        size = os.path.getsize(source)
        if self._spool_used is None or self._spool_used + size > spool_limit_bytes():
            self._spool_used = self._measure_spool()
        return self._spool_used + size > spool_limit_bytes()

    def _copy_somewhere(self, source: str | os.PathLike[str], name: str) -> int:
        """Copy a file into the spool, on another disk where this one is full; returns the copy's size."""
        failure: OSError | None = None
        for root in (self.root, *self._spares):
            target = root / "spool" / name
            try:
                if root is not self.root:
                    make_own(root)
                size = self._copy(source, target)
            except OSError as error:
                with suppress(OSError):
                    target.unlink(missing_ok=True)
                if error.errno not in _TRIED_ELSEWHERE or error.filename == os.fspath(source):
                    raise
                failure = failure or error
                continue
            if root is not self.root and root not in self._used_spares:
                self._used_spares.append(root)
            return size
        assert failure is not None
        if failure.errno in _FULL:
            raise JournalFull(
                f"the disk of the artifact spool ({self.spool_root}) is full.",
                remedies=[(Remedy("sync"), "deliver what waits, which frees its space")],
            ) from failure
        raise failure

    def _copy(self, source: str | os.PathLike[str], target: Path) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            out = os.open(target, flags, 0o600)
        except FileNotFoundError:
            private_folder(target.parent)
            out = os.open(target, flags, 0o600)
        with os.fdopen(out, "wb") as copy, open(source, "rb", buffering=0) as original:
            shutil.copyfileobj(original, copy, 1 << 20)
            copy.flush()
            return os.fstat(copy.fileno()).st_size  # the original may have grown, or shrunk, meanwhile

    def spooled(self, name: str) -> Path | None:
        """Return the path of a spooled file, or None when it is gone.

        A name that is none of the spool's own, or a link to a file elsewhere, is no file of the spool's: a
        journal may come from another machine.
        """
        if not is_copys_name(name):
            return None
        for root in (self.root, *self._used_spares):
            path = root / "spool" / name
            with suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    return path
        return None

    @contextmanager
    def lent(self, kept: StoredFile, name: str, role: str) -> Iterator[Path | None]:
        """Lend what was kept of a file to a role's worker, under the name that it shall have where it goes.

        None where it is gone.
        """
        data, file = small_file(kept), None
        if not is_files_name(name) or (data is None and (file := self.spooled(kept["spool"])) is None):
            yield None
            return
        with self._folder_to_lend(self.spool_root if file is None else file.parent, role) as folder:
            lent = Path(folder, name)
            if file is None:
                lent.write_bytes(data or b"")
            else:
                try:
                    os.link(file, lent)
                except OSError:  # a file system without hard links
                    lent.symlink_to(file)
            yield lent

    def _folder_to_lend(self, beside: Path, role: str) -> tempfile.TemporaryDirectory[str]:
        """Make a folder beside the copies, or on another disk where theirs is full or read-only."""
        failure: OSError | None = None
        for place in (beside, *(spare / "spool" for spare in self._spares)):
            try:
                if place is not beside:
                    make_own(place.parent)
                private_folder(place)
                return tempfile.TemporaryDirectory(dir=place, prefix=f".lent-{role}-")
            except OSError as error:
                failure = failure or error
                if error.errno not in _TRIED_ELSEWHERE:
                    break
        assert failure is not None
        raise failure

    def unspool(self, name: str) -> None:
        """Delete a spooled file that has arrived everywhere."""
        path = self.spooled(name)
        if path is None:
            return
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError:  # gone; or it stays, on a disk that has become read-only
            return
        if self._spool_used is not None:
            self._spool_used -= size

    def drop_lent(self, role: str) -> None:
        """Delete what was lent to a worker that was killed; only the holder of the role's lease may."""
        for root in self._roots():
            for folder in (root / "spool").glob(f".lent-{role}-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def drop_orphans(self, needed: Callable[[str], bool]) -> None:
        """Delete the copies that no journal line names, their process having died before it wrote one.

        ``needed`` tells which copies something else than the journal still names.
        """
        if self.queues():
            return
        for copy in [copy for root in self._roots() for copy in (root / "spool").glob("*-*-*")]:
            with suppress(OSError, ValueError):
                age, writer = time.time() - copy.stat().st_mtime, int(copy.name.split("-")[1])
                # A process of another container may seem dead: what it copied just now is left alone.
                if age > (_ORPHAN_S if is_alive(writer) else 60.0) and not needed(copy.name):
                    copy.unlink()

    def has_spooled(self) -> bool:
        """Tell whether any artifact's copy is here."""
        for root in self._roots():
            with suppress(FileNotFoundError), os.scandir(root / "spool") as found:
                if any(True for _ in found):
                    return True
        return False

    def spool_bytes(self) -> int:
        """Return how many bytes of artifacts wait in the spool."""
        return self._measure_spool()

    def _measure_spool(self) -> int:
        used = 0
        for root in self._roots():
            with suppress(FileNotFoundError), os.scandir(root / "spool") as found:
                for entry in found:
                    with suppress(FileNotFoundError):  # released while we look
                        used += entry.stat().st_size if entry.is_file() else 0
        return used


def kept_small(source: str | os.PathLike[str]) -> StoredFile | None:
    """Return what a line keeps of a small file, its content with it; None for a larger one."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, SMALL + 1)
    finally:
        os.close(fd)
    if len(data) > SMALL:
        return None
    return {"data": base64.b64encode(data).decode("ascii"), "size": len(data)}


def small_file(kept: StoredFile) -> bytes | None:
    """Return the content of a file that its line keeps; None where that is a copy in the spool."""
    return base64.b64decode(kept["data"]) if "data" in kept else None


def copy_of(line: Line | None) -> str | None:
    """Return the name of the spool's copy that a write needs, if it is of an artifact that has one."""
    upload = read_as(LogArtifact, line)
    name = upload.file.get("spool") if upload is not None else None
    return name if is_copys_name(name) else None


def is_copys_name(name: object) -> TypeGuard[str]:
    """Tell whether this is a name that the spool gives to a copy: never a path."""
    return isinstance(name, str) and _COPYS_NAME.fullmatch(name) is not None


def is_files_name(name: str) -> bool:
    """Tell whether this names one file in a folder, wherever the name comes from."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _folder_of(queue: str) -> str:
    """Return the name of a queue's folder: one below the queues, whatever the queue is called."""
    name = quote(queue, safe="")
    return name if name.strip(".") else name.replace(".", "%2E") or "%"


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _decode(line: bytes, checked: bool) -> Line | None:
    """Return the write in a line, or None where the line is damaged."""
    if checked:
        body = line[_CHECKSUM:]
        try:
            if line[8:_CHECKSUM] != b" " or int(line[:8], 16) != zlib.crc32(body):
                return None
        except ValueError:
            return None
        line = body
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if is_line(found) else None


def _damaged(file: str, position: int, line: bytes, checked: bool) -> Iterator[Entry]:
    """Yield a damaged line, or the whole lines in it where only the newline between them is damaged."""
    starts = [found.start() for found in _RECORD.finditer(line)] if checked else []
    bounds = [0, *(start for start in starts if start), len(line) + 1]
    damaged_from = 0
    for begin, following in pairwise(bounds):
        op = _decode(line[begin : following - 1], checked)
        if op is not None:
            if damaged_from < begin:
                yield Entry(
                    file, position + damaged_from, position + begin, None, _text(line[damaged_from:begin])
                )
            yield Entry(file, position + begin, position + following, op)
            damaged_from = following
    if damaged_from < len(line) or not line:
        yield Entry(file, position + damaged_from, position + len(line) + 1, None, _text(line[damaged_from:]))


def _text(damaged: bytes) -> str:
    return damaged[:500].decode("utf-8", "replace")


# json.dumps makes an encoder a call. Text stays text: what UTF-8 cannot carry fails before it is written.
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def frame(body: bytes) -> bytes:
    """Return the journal line of an encoded write: its checksum, the write, a newline."""
    return b"%08x %b\n" % (zlib.crc32(body), body)


def line_of(op: Line) -> bytes:
    """Encode one write, ``[stamp, code, …]``, as a journal line. Raises UnicodeEncodeError."""
    return frame(_to_json(op).encode())
