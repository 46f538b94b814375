"""The journal: every write, on a local disk, before the call that made it returns.

A link has one queue a run (and some of their own for what is no run's: ``core/model/queues.py``). A queue is
a folder; each process appends to a file of its own in it, one JSON line a write, and a second later what it
wrote is on the disk.
"""

from __future__ import annotations

import heapq
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

from dbml_magics.common.disks import make_own
from dbml_magics.common.log_records import logger
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.outbox import queue_file
from dbml_magics.core.outbox.lines import OLD_SUFFIX, SUFFIX, Entry, count_lines, last_stamp, read_lines
from dbml_magics.core.outbox.provenance import Witness
from dbml_magics.core.outbox.queue_file import QueueFile, not_written
from dbml_magics.core.outbox.spares import Spares
from dbml_magics.core.outbox.spool import Spool
from dbml_magics.core.outbox.stamps import Stamps
from dbml_magics.errors import JournalError

_MAX_OPEN = 256
_log = logger(__name__)


class Journal:
    """All queues of one link, and its ``spool``; ``spares`` are folders on other disks (``spares.py``)."""

    def __init__(self, root: Path, spares: Sequence[Path] = ()) -> None:
        self.root = root
        self.spares = Spares(root, spares)
        self.spool = Spool(self.spares)
        self._fallen: Path | None = None  # where this process writes since the root's disk failed it
        self._lock = threading.Lock()
        self._open: dict[str, QueueFile] = {}
        self._quiet: dict[str, int] = {}  # queue -> how long its file was at the last look
        self._process = self._new_process_name()
        self._opened = 0
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
            return last_stamp(handle)

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
            writer = QueueFile(self.folder(queue), name)
        except JournalError as error:
            return self._append_elsewhere(queue, data, name, error)
        self._open[queue] = writer
        try:
            writer.append(data)
        except JournalError as error:
            return self._append_after(writer, queue, data, error)
        return name, writer.size

    def _append_after(
        self, writer: QueueFile, queue: str, data: bytes, failure: JournalError
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
        others = self.spares.folders
        for spare in others if self._fallen is None else (self._fallen, *others):
            writer = None
            try:
                make_own(spare)
                writer = QueueFile(spare / "queues" / _folder_of(queue), name)
                writer.append(data)
            except (JournalError, OSError) as error:
                if writer is not None:
                    writer.close()
                failure = failure or (error if isinstance(error, JournalError) else not_written(error, spare))
                continue
            self._close_writer(queue)
            self._open[queue] = writer
            self._fall_to(spare, failure)
            return name, writer.size
        raise failure or JournalError(f"the journal ({self.root}) cannot be written.")

    def _fall_to(self, spare: Path, failure: JournalError | None) -> None:
        self.spares.use(spare)
        if self._fallen != spare:
            self._fallen = spare
            _log.warning(
                "dbml_magics: %s Writes are kept in %s now, and delivered from there; nothing is lost",
                failure or "the journal cannot be written.",
                spare,
            )

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

    def close_quiet(self, ended: Callable[[str], bool]) -> None:
        """Close the files of runs that have ended and were not written to since the last call.

        Another process may deliver them, and deletes what nobody has open.
        """
        with self._lock:
            quiet = {queue: writer.size for queue, writer in self._open.items()}
        for queue, size in quiet.items():
            if self._quiet.get(queue) == size and ended(queue):
                with deferred(), self._lock:
                    writer = self._open.get(queue)
                    if writer is not None and (writer.size, writer.unsure, writer.dirty) == (
                        size,
                        False,
                        False,
                    ):
                        self._close_writer(queue)
        self._quiet = quiet

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
        self._open, self._quiet = {}, {}
        self._stamps.after_fork()
        self._process = self._new_process_name()

    # --- reading

    def folder(self, queue: str) -> Path:
        """Return the queue's folder."""
        return self.root / "queues" / _folder_of(queue)

    def path(self, queue: str, file: str) -> Path:
        """Return the path of one of a queue's files, on whichever disk it is."""
        own = self.folder(queue) / file
        for spare in self.spares.used:
            path = spare / "queues" / own.parent.name / file
            if path.exists():
                return path
        return own

    def stamp(self, queue: str, folder: str) -> int:
        """Return a number that changes when a file comes or goes. Raises FileNotFoundError where none is."""
        if not self.spares.used:
            return os.stat(folder).st_mtime_ns
        found = 0
        for root in self.spares.used:
            with suppress(OSError):
                found += os.stat(root / "queues" / _folder_of(queue)).st_mtime_ns
        with suppress(OSError):
            found += os.stat(folder).st_mtime_ns
        return found

    def queues(self) -> list[str]:
        """Return the names of all queues that have files."""
        names: dict[str, None] = {}
        for root in self.spares.roots():
            with suppress(OSError), os.scandir(root / "queues") as found:
                names.update((unquote(entry.name), None) for entry in found if entry.is_dir())
        return list(names)

    def files(self, queue: str) -> dict[str, int]:
        """Return {file: size} of one queue."""
        sizes = {}
        name = _folder_of(queue)
        for root in self.spares.roots():
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
        if handle is not None:
            with handle:
                yield from read_lines(handle, file, start, limit)

    def entries(self, queue: str, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> Iterator[Entry]:
        """Yield a queue's lines between two places of each of its files, in the order of their stamps."""
        readers = [
            self.read(queue, file, offsets.get(file, 0), size)
            for file, size in sizes.items()
            if size > offsets.get(file, 0)
        ]
        return readers[0] if len(readers) == 1 else heapq.merge(*readers, key=lambda entry: entry.order)

    def beyond(self, queue: str, cursors: Mapping[str, tuple[int, int]]) -> Iterator[Entry]:
        """Yield a queue's lines that a workspace's cursors, {file: (offset, sending)}, have not reached."""
        return self.entries(queue, self.files(queue), {file: offset for file, (offset, _) in cursors.items()})

    def count_waiting(self, queue: str, delivered: dict[str, int]) -> tuple[int, int | None]:
        """Return how many writes lie beyond ``delivered`` and the oldest one's time (ns), reading no more."""
        count, oldest = 0, None
        for file, size in self.files(queue).items():
            start = delivered.get(file, 0)
            handle = self._to_read(queue, file) if start < size else None
            if handle is None:
                continue
            with handle:
                more, first = count_lines(handle, start)
            count += more
            if first is not None:
                oldest = first if oldest is None else min(oldest, first)
        return count, oldest

    def is_left(self, queue: str, file: str) -> bool:
        """Tell whether nobody writes to a file any more (its process has closed it, or is dead)."""
        return queue_file.is_left(self.path(queue, file))

    def delete_if_done(self, queue: str, file: str, size: int) -> bool:
        """Delete a file of ``size`` delivered bytes unless somebody still writes to it."""
        if self.is_own(file):
            with self._lock:
                self._close_writer(queue)
        return queue_file.delete_left(self.path(queue, file), size)


def _folder_of(queue: str) -> str:
    """Return the name of a queue's folder: one below the queues, whatever the queue is called."""
    name = quote(queue, safe="")
    return name if name.strip(".") else name.replace(".", "%2E") or "%"
