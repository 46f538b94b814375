"""The journal: every write, on a local disk, before the call that made it returns.

A link has one queue a run (and one, ``link``, for experiments and registries). A queue is a folder; each
process appends to a file of its own in it, one JSON line a write, with one ``write(2)``: what a killed
process had acknowledged is in the page cache, so it outlives the process, and a second later it is on the
disk.

A line is ``[t, code, …]`` with ``t`` in nanoseconds, which orders the writes of several processes on one run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from dbml_magics.config import spool_limit_bytes
from dbml_magics.errors import JournalError, JournalFull

LINK_QUEUE = "link"
_CHUNK = 256 * 1024
_MAX_OPEN = 256
_ORPHAN_S = 3600.0


@dataclass(slots=True)  # not frozen: delivery makes one a line, and freezing is two thirds of what that costs
class Entry:
    """One write as it stands in a journal file; ``op`` is None where the line cannot be read."""

    file: str
    start: int
    end: int
    op: list[Any] | None
    text: str = ""

    @property
    def order(self) -> tuple[int, str, int]:
        """Return the key that merges several processes' writes."""
        stamp = self.op[0] if self.op else 0
        return (stamp if isinstance(stamp, int) else 0, self.file, self.start)


class _Writer:
    """One process's own file in a queue; appended to under the queue's lock."""

    __slots__ = ("dirty", "fd", "path", "size")

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        while True:
            private_folder(folder)
            try:
                self.fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # the folder was cleaned away in between
            # A shared lock says "somebody still writes here"; cleaning deletes only what it can lock alone.
            fcntl.flock(self.fd, fcntl.LOCK_SH)
            if os.fstat(self.fd).st_nlink:
                break
            os.close(self.fd)
        self.size = os.fstat(self.fd).st_size
        self.dirty = False

    def append(self, data: bytes) -> None:
        try:
            written = os.write(self.fd, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self.fd, self.size)  # no half line may stay in front of the next one
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JournalFull(
                    f"the disk of the journal ({self.path.parent}) is full.",
                    remedies=[("%dbml sync", "deliver what waits, which frees its space")],
                ) from error
            raise JournalError(
                f"the journal ({self.path.parent}) cannot be written ({error.strerror})."
            ) from error
        self.size += written
        self.dirty = True

    def close(self) -> None:
        os.close(self.fd)


class Journal:
    """All queues of one link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.queues_root = root / "queues"
        self.spool_root = root / "spool"
        self._lock = threading.Lock()
        self._open: dict[str, _Writer] = {}
        self._process = self._new_process_name()
        self._opened = 0
        self._spool_used: int | None = None

    @staticmethod
    def _new_process_name() -> str:
        return f"{os.getpid()}-{secrets.token_hex(4)}"

    # --- writing

    def append(self, queue: str, data: bytes) -> int:
        """Append whole lines to ``queue``; returns the file's size. Raises JournalFull, JournalError."""
        with self._lock:
            writer = self._open.get(queue)
            if writer is None:
                if len(self._open) >= _MAX_OPEN:
                    self._close_writer(next(iter(self._open)))
                # A new name each time: a cursor into a file that was cleaned away must not fit the next.
                self._opened += 1
                writer = self._open[queue] = _Writer(
                    self.folder(queue), f"{self._process}-{self._opened}.jsonl"
                )
            writer.append(data)
            return writer.size

    def is_own(self, file: str) -> bool:
        """Tell whether this process wrote a file."""
        return file.startswith(self._process)

    def sync_to_disk(self) -> None:
        """Flush what was written since the last call to the disk itself (called about once a second)."""
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

    def close_queue(self, queue: str) -> None:
        """Close this process's file in ``queue``; the next append opens it again."""
        with self._lock:
            self._close_writer(queue)

    def _close_writer(self, queue: str) -> None:
        writer = self._open.pop(queue, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for queue in list(self._open):
                self._close_writer(queue)

    def after_fork(self) -> None:
        """In a forked child: give up the parent's files and write to ones of our own."""
        self._lock = threading.Lock()
        for writer in self._open.values():
            writer.close()
        self._open = {}
        self._process = self._new_process_name()

    # --- reading

    def folder(self, queue: str) -> Path:
        """Return the queue's folder."""
        return self.queues_root / quote(queue, safe="")

    def queues(self) -> list[str]:
        """Return the names of all queues that have files."""
        try:
            with os.scandir(self.queues_root) as found:
                return [unquote(entry.name) for entry in found if entry.is_dir()]
        except FileNotFoundError:
            return []

    def files(self, queue: str) -> dict[str, int]:
        """Return {file: size} of one queue."""
        sizes = {}
        try:
            with os.scandir(self.folder(queue)) as found:
                for entry in found:
                    if entry.name.endswith(".jsonl"):
                        sizes[entry.name] = entry.stat().st_size
        except FileNotFoundError:
            pass
        return sizes

    def read(self, queue: str, file: str, start: int, limit: int = 1 << 60) -> Iterator[Entry]:
        """Yield the whole lines of a file from ``start`` on; a torn last line is not there yet."""
        try:
            handle = open(self.folder(queue) / file, "rb")  # noqa: SIM115 - closed below, generator or not
        except FileNotFoundError:
            return
        with handle:
            handle.seek(start)
            position, rest = start, b""
            while position < limit:
                chunk = handle.read(_CHUNK)
                if not chunk:
                    return
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    end = position + len(line) + 1
                    yield Entry(file, position, end, *_decode(line))
                    position = end
                    if position >= limit:
                        return

    def count_waiting(self, queue: str, delivered: dict[str, int]) -> tuple[int, int | None]:
        """Return how many writes lie beyond ``delivered`` and the oldest one's time (ns), reading no more."""
        count, oldest = 0, None
        for file, size in self.files(queue).items():
            start = delivered.get(file, 0)
            if start >= size:
                continue
            with open(self.folder(queue) / file, "rb") as handle:
                handle.seek(start)
                first = True
                while chunk := handle.read(_CHUNK):
                    if first:
                        stamp = chunk[1:21].split(b",")[0]
                        if stamp.isdigit():
                            oldest = int(stamp) if oldest is None else min(oldest, int(stamp))
                        first = False
                    count += chunk.count(b"\n")
        return count, oldest

    def is_left(self, queue: str, file: str) -> bool:
        """Tell whether nobody writes to a file any more (its process has closed it, or is dead)."""
        try:
            fd = os.open(self.folder(queue) / file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def delete_if_done(self, queue: str, file: str, size: int) -> bool:
        """Delete a file of ``size`` delivered bytes unless somebody still writes to it."""
        if self.is_own(file):
            with self._lock:
                self._close_writer(queue)
        path = self.folder(queue) / file
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_size != size:
                return False
            path.unlink(missing_ok=True)
        except BlockingIOError:
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
        size = os.path.getsize(source)
        if self._spool_used is None:
            self._spool_used = self._measure_spool()
        if self._spool_used + size > spool_limit_bytes():
            self._spool_used = self._measure_spool()
            if self._spool_used + size > spool_limit_bytes():
                raise JournalFull(
                    f"the spool for artifacts holds {self._spool_used / 1e9:.1f} GB, its limit "
                    f"(DBML_SPOOL_LIMIT) is {spool_limit_bytes() / 1e9:.1f} GB.",
                    remedies=[("%dbml sync", "deliver what waits, which frees its space")],
                )
        name = f"{time.time_ns():x}-{os.getpid()}-{secrets.token_hex(4)}"
        target = self.spool_root / name
        try:
            self._copy(source, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JournalFull(
                    f"the disk of the artifact spool ({self.spool_root}) is full.",
                    remedies=[("%dbml sync", "deliver what waits, which frees its space")],
                ) from error
            raise
        self._spool_used += size
        return name, size

    def _copy(self, source: str | os.PathLike[str], target: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            out = os.open(target, flags, 0o600)
        except FileNotFoundError:
            private_folder(self.spool_root)
            out = os.open(target, flags, 0o600)
        with os.fdopen(out, "wb", buffering=0) as copy, open(source, "rb", buffering=0) as original:
            shutil.copyfileobj(original, copy, 1 << 20)

    def spooled(self, name: str) -> Path | None:
        """Return the path of a spooled file, or None when it is gone."""
        path = self.spool_root / name
        return path if path.exists() else None

    @contextmanager
    def under_own_name(self, file: Path, name: str, role: str) -> Iterator[Path]:
        """Lend a spooled file to a role's courier under the base name that it shall have where it goes."""
        with tempfile.TemporaryDirectory(dir=self.spool_root, prefix=f".lent-{role}-") as folder:
            lent = Path(folder, name)
            try:
                os.link(file, lent)
            except OSError:  # a file system without hard links
                lent.symlink_to(file)
            yield lent

    def unspool(self, name: str) -> None:
        """Delete a spooled file that has arrived everywhere."""
        path = self.spool_root / name
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        if self._spool_used is not None:
            self._spool_used -= size

    def drop_lent(self, role: str) -> None:
        """Delete what was lent to a courier that was killed; only the holder of the role's lease may."""
        for folder in self.spool_root.glob(f".lent-{role}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def drop_orphans(self, needed: Callable[[str], bool]) -> None:
        """Delete the copies that no journal line names, their process having died before it wrote one.

        ``needed`` tells which copies something else than the journal still names.
        """
        if self.queues():
            return
        for copy in self.spool_root.glob("*-*-*"):
            with suppress(OSError, ValueError):
                age, writer = time.time() - copy.stat().st_mtime, int(copy.name.split("-")[1])
                # A process of another container may seem dead: what it copied just now is left alone.
                if age > (_ORPHAN_S if is_alive(writer) else 60.0) and not needed(copy.name):
                    copy.unlink()

    def has_spooled(self) -> bool:
        """Tell whether any artifact's copy is here."""
        try:
            with os.scandir(self.spool_root) as found:
                return any(True for _ in found)
        except FileNotFoundError:
            return False

    def _measure_spool(self) -> int:
        try:
            with os.scandir(self.spool_root) as found:
                return sum(entry.stat().st_size for entry in found if entry.is_file())
        except FileNotFoundError:
            return 0


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for the user's own eyes."""
    if not path.is_dir():
        private_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)


def _decode(line: bytes) -> tuple[list[Any] | None, str]:
    try:
        op = json.loads(line)
    except ValueError:
        return None, line[:500].decode("utf-8", "replace")
    if isinstance(op, list) and len(op) >= 2 and isinstance(op[0], int):
        return op, ""
    return None, line[:500].decode("utf-8", "replace")


_to_json = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder a call


def line_of(op: list[Any]) -> bytes:
    """Encode one write, ``[time in ns, code, …]``, as a journal line."""
    return _to_json(op).encode() + b"\n"


def encode(code: str, *fields: Any) -> bytes:
    """Encode one write as a journal line, stamped now."""
    return line_of([time.time_ns(), code, *fields])
