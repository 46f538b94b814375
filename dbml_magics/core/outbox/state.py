"""What delivery knows for good: ids at each workspace, cursors, dead letters, answers.

One SQLite file a link, shared by all its processes. Nothing here is on the path of a ``log_*`` call; the
journal is. While the file's disk takes nothing, everything goes on in a copy elsewhere (``fallback.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from dbml_magics.core.interrupts import deferred
from dbml_magics.core.outbox import fallback
from dbml_magics.core.outbox.answers import Answers
from dbml_magics.core.outbox.capability_notes import CapabilityNotes
from dbml_magics.core.outbox.creations import Creations
from dbml_magics.core.outbox.deferred_uploads import DeferredUploads
from dbml_magics.core.outbox.emulated_models import EmulatedModels
from dbml_magics.core.outbox.experiment_notes import ExperimentNotes
from dbml_magics.core.outbox.link_notes import LinkNotes
from dbml_magics.core.outbox.merge_base import MergeBase
from dbml_magics.core.outbox.model_changes import ModelChanges
from dbml_magics.core.outbox.model_names import ModelNames
from dbml_magics.core.outbox.model_versions import ModelVersions
from dbml_magics.core.outbox.overflow_files import OverflowFiles
from dbml_magics.core.outbox.receipt_notes import ReceiptNotes
from dbml_magics.core.outbox.renamed_files import RenamedFiles
from dbml_magics.core.outbox.repairs import Repairs
from dbml_magics.core.outbox.tables import FORMAT, TABLES, fill, open_at, readable_rows
from dbml_magics.disks import private_folder
from dbml_magics.errors import JournalDamaged, JournalError, JournalFull
from dbml_magics.redaction import redacted

_RESERVE, _LOW = 16 << 20, 256 << 10  # bytes kept for the state on its disk; given when so few are free
_ROOM = 1 << 20  # bytes that must be free on a disk that was full before the state goes back there
_LOOK_S = 5.0  # between two looks whether it can
_MOVES = 5  # from place to place within one call
_CHECKED_BYTES = 64 << 20  # larger files take too long to be looked through at each start
_OF_THIS_MACHINE = ("steps/", "place/")  # counts, and answers
T = TypeVar("T")

_parents: list[Any] = []  # connections of the process that forked this one: SQLite must not close them here


class _Moved(Exception):
    """Another process has taken the state elsewhere, or has brought it back."""


def _free(folder: Path) -> int:
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


def _not_written(error: Exception, path: Path) -> JournalError:
    if "full" in str(error):
        return JournalFull(
            f"the disk of the link's state ({path.parent}) is full.",
            remedies=[("df -h", "in a terminal: free some space there, and everything goes on")],
        )
    return JournalError(
        f"the link's folder {path.parent} cannot be written ({error}).",
        remedies=[("DBML_HOME=/a/local/folder", "set it before the notebook starts")],
    )


def _newer(found: Any) -> JournalDamaged:
    return JournalDamaged(
        f"the link's journal was written by a newer dbml-magics (format {found}, this one reads {FORMAT}).",
        remedies=["pip install --upgrade dbml-magics"],
    )


@dataclass(frozen=True)
class Identity:
    """What a workspace calls something that the user knows by another (or the same) id."""

    actual: str
    extra: dict[str, Any]


class State:
    """The link's state file; ``spares`` are the link's folders on other disks."""

    def __init__(self, path: Path, spares: Sequence[Path] = ()) -> None:
        self.path = path
        self.on_loss: Callable[[], None] | None = None
        """Called when the state goes on with a part of itself, since the rest could not be read."""
        self.on_step: Callable[[str, int], None] | None = None
        """Called with (workspace, count) after each step of a delivery."""
        self._spares = spares
        self._reserve = path.with_name("reserve")
        self._has_reserve = False
        self.lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._fallback: fallback.Fallback | None = None
        self._failure: Exception | None = None  # why the state left its own disk
        self._next_look = 0.0
        self._ids: dict[tuple[str, str, str], Identity] = {}
        self._answers = Answers(self._one, self._all, self._write)
        self.capabilities = CapabilityNotes(self._answers)
        self.creations = Creations(self._answers)
        self.deferred_uploads = DeferredUploads(self._answers)
        self.emulated_models = EmulatedModels(self._answers)
        self.experiments = ExperimentNotes(self._answers)
        self.link_notes = LinkNotes(self._answers)
        self.merge_base = MergeBase(self._answers)
        self.model_changes = ModelChanges(self._answers)
        self.model_names = ModelNames(self._answers)
        self.model_versions = ModelVersions(self._answers, self.model_names)
        self.overflow_files = OverflowFiles(self._answers)
        self.receipt_notes = ReceiptNotes(self._answers)
        self.renamed_files = RenamedFiles(self._answers)
        self.repairs = Repairs(self._answers)

    # --- the connection

    def _connect(self) -> sqlite3.Connection:
        """Return the connection to the state's own file."""
        if self._db is None:
            try:
                private_folder(self.path.parent)
                try:
                    db = open_at(self.path)
                except sqlite3.OperationalError as error:
                    if "full" not in str(error) or not self._reserve.exists():
                        raise
                    self._reserve.unlink(missing_ok=True)
                    db = open_at(self.path)
                (found,) = db.execute("SELECT v FROM meta WHERE k='format'").fetchone()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                    raise _not_written(error, self.path) from error
                raise self._damaged(error) from error
            except OSError as error:
                raise JournalError(
                    f"the link's folder {self.path.parent} cannot be written ({error.strerror}).",
                    remedies=[("DBML_HOME=/a/local/folder", "set it before the notebook starts")],
                ) from error
            if int(found) > FORMAT:
                db.close()
                raise _newer(found)
            self._db = db
            self._keep_reserve()
        return self._db

    def _current(self) -> sqlite3.Connection:
        """Return the connection to where the state is now."""
        if self._fallback is not None and not self._fallback.stands:
            self._leave_fallback()
        if self._fallback is None:
            self._fallback = fallback.find(self._spares)
        return self._connect() if self._fallback is None else self._fallback.db

    def _leave_fallback(self) -> None:
        if self._fallback is not None:
            with suppress(sqlite3.Error):
                self._fallback.db.close()
        self._fallback = None

    def _go_elsewhere(self, error: sqlite3.OperationalError) -> None:
        """Leave a disk that takes nothing for another. Raises JournalFull, JournalError where none is."""
        if self._fallback is not None:
            raise _not_written(error, self._fallback.path or self.path) from error
        if "full" in str(error) and self._give_reserve(at_once=True):
            return  # which makes room for some thousand runs
        try:
            self._fallback = fallback.make(self.path, self._connect(), self._spares)
        except (sqlite3.Error, OSError) as trouble:
            raise _not_written(error, self.path) from trouble
        self._failure, self._next_look = error, time.monotonic() + _LOOK_S
        if self._fallback.partial and self._fallback.path is not None and self.on_loss is not None:
            self.on_loss()

    def come_back(self, *, at_once: bool = False) -> None:
        """Bring the state back to its own disk once that takes writes again; looked at every few seconds."""
        with self.lock:
            found = self._fallback
            if found is None or found.partial or (not at_once and time.monotonic() < self._next_look):
                return
            self._next_look = time.monotonic() + _LOOK_S
            try:
                room = _ROOM + (found.path.stat().st_size if found.path is not None else 0)
                if _free(self.path.parent) >= room:
                    found.give_back(self._connect())
                    self._leave_fallback()
                    self._keep_reserve()
            except (sqlite3.Error, OSError, JournalError):
                return  # it stays where it is

    def _keep_reserve(self) -> None:
        """Keep some space of the disk: the state goes on in it once the disk is full."""
        with suppress(OSError):
            free = shutil.disk_usage(self.path.parent).free
            if not self._reserve.exists() and free > 16 * _LOW:
                fd = os.open(self._reserve, os.O_CREAT | os.O_WRONLY, 0o600)
                try:
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(fd, 0, min(_RESERVE, free // 8))
                finally:
                    os.close(fd)
        self._has_reserve = self._reserve.exists()

    def _give_reserve(self, *, at_once: bool = False) -> bool:
        """Give the space kept on the disk where little is left; True when there was some to give."""
        if not self._has_reserve or not (at_once or _free(self.path.parent) < _LOW):
            return False
        self._has_reserve = False
        with suppress(OSError):
            self._reserve.unlink()
            return True
        return False

    def check(self) -> None:
        """Look whether the file can be read at all. Raises JournalDamaged, JournalError."""
        with self.lock:
            db = self._current()
            try:
                if self.path.stat().st_size <= _CHECKED_BYTES:
                    (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
                    if said != "ok":
                        raise sqlite3.DatabaseError(said)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> JournalDamaged:
        return JournalDamaged(
            f"the link's state file {self.path} cannot be read ({error}).",
            remedies=[("%dbml link --local", "begin a new link; move that folder away first")],
        )

    def mend(self) -> Path:
        """Begin a new file with what can be read of a damaged one; returns where that one is now.

        No other process may have the file open.
        """
        with self.lock:
            place = (self._fallback.path if self._fallback is not None else None) or self.path
            self.close()
            self._ids = {}
            aside = place.with_name(f"{place.name}.damaged-{int(time.time())}")
            for end in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.replace(f"{place}{end}", f"{aside}{end}")
            self.load({"format": FORMAT, "tables": readable_rows(aside)})
            return aside

    def forget_connection(self) -> None:
        """Drop the connection without closing it: in a forked child it is still the parent's."""
        self.lock = threading.RLock()
        _parents.append((self._db, self._fallback))
        self._db, self._fallback = None, None
        self._ids = {}

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            self._leave_fallback()
            if self._db is not None:
                self._db.close()
                self._db = None

    def rest(self) -> None:
        """Close the connection until the state is asked again; one whose state is elsewhere stays open."""
        with self.lock:
            if self._fallback is None:
                self.close()

    def _write(self, work: Callable[[sqlite3.Connection], T], *, lasting: bool = False) -> T:
        """Do some work in one transaction, wherever the state can be written.

        ``work`` may be done again from the start. Where it is ``lasting``, memory alone will not do. Raises
        JournalFull, JournalError.
        """
        with self.lock, deferred():  # a transaction that stays open keeps every process out
            self.come_back()
            return self._where_it_can(lambda db: self._in_transaction(db, work, lasting))

    def _where_it_can(self, work: Callable[[sqlite3.Connection], T]) -> T:
        for _ in range(_MOVES):
            db = self._current()
            try:
                return work(db)
            except _Moved:
                continue
            except sqlite3.OperationalError as error:
                if not fallback.is_of_disk(error):
                    raise
                self._go_elsewhere(error)
        raise JournalError(
            f"the link's state ({self.path}) is brought from disk to disk all the time.",
            remedies=[("df -h", "in a terminal: free some space on the disk of that folder")],
        )

    def _in_transaction(
        self, db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], lasting: bool
    ) -> T:
        if self._fallback is None:
            self._give_reserve()
        elif lasting and self._fallback.path is None:
            failure = self._failure or OSError("no disk takes it")
            raise _not_written(failure, self.path) from failure
        try:
            db.execute("BEGIN IMMEDIATE")
            if self._is_elsewhere():
                raise _Moved
            done = work(db)
            db.execute("COMMIT")
        except BaseException:
            fallback.roll_back(db)
            raise
        return done

    def _do(self, sql: str, *args: Any) -> None:
        self._write(lambda db: db.execute(sql, args))

    def _is_elsewhere(self) -> bool:
        """Tell whether another process moved the state before this transaction began."""
        if self._fallback is not None:
            return not self._fallback.stands
        self._fallback = fallback.find(self._spares)
        return self._fallback is not None

    def _one(self, sql: str, *args: Any) -> Any:
        with self.lock:
            return self._where_it_can(lambda db: db.execute(sql, args).fetchone())

    def _all(self, sql: str, *args: Any) -> list[Any]:
        with self.lock:
            return self._where_it_can(lambda db: db.execute(sql, args).fetchall())

    # --- the whole of it, for another machine

    def dump(self) -> dict[str, Any]:
        """Return everything but what is of this machine alone: {"format": …, "tables": {table: rows}}."""
        tables = self._write(
            lambda db: {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
        )
        for table in ("answers", "counts"):
            tables[table] = [row for row in tables[table] if not row[0].startswith(_OF_THIS_MACHINE)]
        return {"format": FORMAT, "tables": tables}

    def load(self, dumped: dict[str, Any]) -> None:
        """Fill an empty state with what :meth:`dump` returned. Raises JournalDamaged for a newer format."""
        if dumped["format"] > FORMAT:
            raise _newer(dumped["format"])
        self._write(lambda db: fill(db, dumped["tables"]))

    # --- identities

    def identity(self, dest: str, kind: str, visible: str) -> Identity | None:
        """Return what ``dest`` calls ``visible``, or None while it is not known there."""
        key = (dest, kind, visible)
        known = self._ids.get(key)
        if known is None:
            row = self._one("SELECT actual, extra FROM ids WHERE dest=? AND kind=? AND visible=?", *key)
            if row is None:
                return None
            known = self._ids[key] = Identity(row[0], json.loads(row[1]))
        return known

    def set_identity(self, dest: str, kind: str, visible: str, actual: str, **extra: Any) -> Identity:
        """Remember what ``dest`` calls ``visible``."""
        self._do(
            "INSERT OR REPLACE INTO ids VALUES (?,?,?,?,?)", dest, kind, visible, actual, json.dumps(extra)
        )
        identity = self._ids[dest, kind, visible] = Identity(actual, extra)
        if len(self._ids) > 50_000:
            self._ids = {(dest, kind, visible): identity}
        return identity

    def forget_identity(self, dest: str, kind: str, visible: str) -> None:
        """Forget what ``dest`` called ``visible``: it is gone there."""
        self._do("DELETE FROM ids WHERE dest=? AND kind=? AND visible=?", dest, kind, visible)
        self._ids.pop((dest, kind, visible), None)

    def visible(self, dest: str, kind: str, actual: str) -> str | None:
        """Return the id that the user knows for ``dest``'s own id; the same one, where it has two."""
        sql = "SELECT visible FROM ids WHERE dest=? AND kind=? AND actual=? ORDER BY visible=actual DESC"
        row = self._one(sql, dest, kind, actual)
        return None if row is None else str(row[0])

    def differing(self, dest: str, kind: str) -> dict[str, str]:
        """Return {actual: visible} of all ids that differ at ``dest``."""
        rows = self._all(
            "SELECT actual, visible FROM ids WHERE dest=? AND kind=? AND actual<>visible", dest, kind
        )
        return dict(rows)

    # --- cursors

    def cursors(self, dest: str, queue: str) -> dict[str, tuple[int, int]]:
        """Return {file: (delivered up to, sending up to)} of one queue."""
        rows = self._all("SELECT file, offset, sending FROM cursors WHERE dest=? AND queue=?", dest, queue)
        return {file: (offset, sending) for file, offset, sending in rows}

    def all_cursors(self, dest: str) -> dict[str, dict[str, int]]:
        """Return {queue: {file: delivered up to}} of one workspace."""
        found: dict[str, dict[str, int]] = {}
        for queue, file, offset in self._all("SELECT queue, file, offset FROM cursors WHERE dest=?", dest):
            found.setdefault(queue, {})[file] = offset
        return found

    def steps(self, dest: str) -> int:
        """Return how many steps of delivery to a workspace this state has seen."""
        return self._counted(f"steps/{dest}")

    def _counted(self, key: str) -> int:
        row = self._one("SELECT delivered FROM counts WHERE dest=?", key)
        return 0 if row is None else int(row[0])

    def _step(self, dest: str, work: Callable[[sqlite3.Connection], None], *, lasting: bool = False) -> None:
        """Do some work of a delivery in one transaction, and count it as a step."""

        key = f"steps/{dest}"

        def counted(db: sqlite3.Connection) -> int:
            work(db)
            db.execute(
                "INSERT INTO counts VALUES (?,1) ON CONFLICT DO UPDATE SET delivered=delivered+1", (key,)
            )
            return int(db.execute("SELECT delivered FROM counts WHERE dest=?", (key,)).fetchone()[0])

        count = self._write(counted, lasting=lasting)
        if self.on_step is not None:
            self.on_step(dest, count)

    def mark_sending(self, dest: str, queue: str, ends: dict[str, int]) -> None:
        """Note that writes up to ``ends`` are about to be sent: whoever finds this note asks before sending.

        An earlier note that reaches further stays: the next try may take less than the one that failed.
        """

        def work(db: sqlite3.Connection) -> None:
            for file, end in ends.items():
                db.execute(
                    "INSERT INTO cursors VALUES (?,?,?,0,?) "
                    "ON CONFLICT DO UPDATE SET sending=max(sending, excluded.sending)",
                    (dest, queue, file, end),
                )

        self._step(dest, work, lasting=True)

    def mark_delivered(
        self,
        dest: str,
        queue: str,
        ends: dict[str, int],
        count: int,
        kinds: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Note that writes up to ``ends`` have arrived: so many, and of each kind, for the run's receipt."""
        now = time.time()

        def work(db: sqlite3.Connection) -> None:
            for file, end in ends.items():
                db.execute(
                    "INSERT INTO cursors VALUES (?,?,?,?,0) "
                    "ON CONFLICT DO UPDATE SET offset=excluded.offset, "
                    "sending=CASE WHEN sending > excluded.offset THEN sending ELSE 0 END",
                    (dest, queue, file, end),
                )
            db.execute(
                "INSERT INTO counts VALUES (?,?) "
                "ON CONFLICT DO UPDATE SET delivered=delivered+excluded.delivered",
                (dest, count),
            )
            for kind, amount in kinds.items():
                db.execute(
                    "INSERT INTO receipts VALUES (?,?,?,?,?,?) "
                    "ON CONFLICT DO UPDATE SET count=count+excluded.count, last=excluded.last",
                    (dest, queue, kind, amount, now, now),
                )

        self._step(dest, work)

    def receipt(self, dest: str, queue: str) -> dict[str, tuple[int, float, float]]:
        """Return {kind: (how many, first, last)} of what has arrived of a run; seconds since the epoch."""
        rows = self._all(
            "SELECT kind, count, first, last FROM receipts WHERE dest=? AND queue=? ORDER BY kind",
            dest,
            queue,
        )
        return {kind: (count, first, last) for kind, count, first, last in rows}

    def forget_receipts(self, queue: str) -> None:
        """Forget what has arrived of a run: it is counted again from the journal."""
        self._do("DELETE FROM receipts WHERE queue=?", queue)

    def unmark_sending(self, dest: str, queue: str, before: dict[str, int]) -> None:
        """Take a note back, since nothing left this machine: ``before`` is what stood there before it."""

        def work(db: sqlite3.Connection) -> None:
            for file, end in before.items():
                db.execute(
                    "UPDATE cursors SET sending=? WHERE dest=? AND queue=? AND file=?",
                    (end, dest, queue, file),
                )

        self._write(work)

    def delivered_count(self, dest: str) -> int:
        """Return how many writes have been delivered over the link's life."""
        return self._counted(dest)

    def drop_file(self, queue: str, file: str) -> None:
        """Forget a journal file that is delivered everywhere and deleted."""
        self._do("DELETE FROM cursors WHERE queue=? AND file=?", queue, file)

    # --- dead letters

    def bury(self, dest: str, queue: str, op: Any, cause: str) -> int:
        """Put aside a write that ``dest`` refused for good; returns its number."""

        def work(db: sqlite3.Connection) -> int:
            made = db.execute(
                "INSERT INTO dead (dest, queue, op, cause, at) VALUES (?,?,?,?,?)",
                (dest, queue, json.dumps(op), redacted(cause)[:2000], time.time()),
            )
            return int(made.lastrowid or 0)

        return self._write(work)

    def dead(
        self, dest: str | None = None, queue: str | None = None
    ) -> list[tuple[int, str, str, Any, str, float]]:
        """Return (id, dest, queue, op, cause, at) of the writes put aside, oldest first."""
        rows = self._all(
            "SELECT id, dest, queue, op, cause, at FROM dead WHERE (?1 IS NULL OR dest=?1) "
            "AND (?2 IS NULL OR queue=?2) ORDER BY id",
            dest,
            queue,
        )
        return [(i, d, q, json.loads(op), cause, at) for i, d, q, op, cause, at in rows]

    def dead_numbers(self, dest: str, queue: str | None = None) -> set[int]:
        """Return the numbers of the writes that ``dest`` refused (of one queue)."""
        rows = self._all("SELECT id FROM dead WHERE dest=?1 AND (?2 IS NULL OR queue=?2)", dest, queue)
        return {number for (number,) in rows}

    def last_dead(self) -> int:
        """Return the number of the newest write put aside (0: none was)."""
        return int(self._one("SELECT coalesce(max(id), 0) FROM dead")[0])

    def dead_letter(self, number: int) -> list[Any] | None:
        """Return the write put aside under a number, or None when it is none any more."""
        row = self._one("SELECT op FROM dead WHERE id=?", number)
        return None if row is None else list(json.loads(row[0]))

    def dead_queue(self, number: int) -> str | None:
        """Return the queue of the write put aside under a number, or None."""
        row = self._one("SELECT queue FROM dead WHERE id=?", number)
        return None if row is None else str(row[0])

    def settle_dead(self, number: int, refused: list[tuple[list[Any], str]]) -> None:
        """Put what was refused again (nothing: all arrived) in the place of a dead letter that was tried."""

        def work(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT dest, queue FROM dead WHERE id=?", (number,)).fetchone()
            if row is None:
                return  # discarded in the meantime
            db.execute("DELETE FROM dead WHERE id=?", (number,))
            for place, (op, cause) in enumerate(refused):
                db.execute(
                    "INSERT INTO dead (id, dest, queue, op, cause, at) VALUES (?,?,?,?,?,?)",
                    (None if place else number, *row, json.dumps(op), redacted(cause)[:2000], time.time()),
                )

        self._write(work)

    def discard_dead(self, numbers: Iterable[int]) -> None:
        """Forget writes put aside."""
        gone = [(number,) for number in numbers]
        self._write(lambda db: db.executemany("DELETE FROM dead WHERE id=?", gone))

    def is_dead_copy(self, spool: str) -> bool:
        """Tell whether a dead letter needs an artifact's copy."""
        named = json.dumps({"spool": spool})[1:-1]
        return self._one("SELECT 1 FROM dead WHERE instr(op, ?) LIMIT 1", named) is not None

    def dead_count(self, dest: str) -> int:
        """Return how many writes ``dest`` refused for good."""
        return int(self._one("SELECT count(*) FROM dead WHERE dest=?", dest)[0])

    # --- overflow: what a workspace does not take of a run, until it stands in the run's file there

    def overflow_add(
        self, dest: str, run: str, rows: Iterable[tuple[str, str, int, int, str, str, str]]
    ) -> None:
        """Keep (kind, key, step, time, extra, value, why) of items; of a param or tag the newest value."""
        kept = list(rows)

        def work(db: sqlite3.Connection) -> None:
            for row in kept:
                kind, key = row[:2]
                if kind != "m":
                    db.execute(
                        "DELETE FROM overflow WHERE dest=? AND queue=? AND kind=? AND key=?",
                        (dest, run, kind, key),
                    )
                db.execute("INSERT OR REPLACE INTO overflow VALUES (?,?,?,?,?,?,?,?,?)", (dest, run, *row))

        self._write(work)

    def overflow_any(self, dest: str, run: str) -> bool:
        """Tell whether anything of a run overflowed."""
        return self._one("SELECT 1 FROM overflow WHERE dest=? AND queue=? LIMIT 1", dest, run) is not None

    def overflow_keys(self, dest: str, run: str) -> list[tuple[str, str, str, int]]:
        """Return (kind, key, why, how many) of what overflowed of a run."""
        return self._all(
            "SELECT kind, key, why, count(*) FROM overflow WHERE dest=? AND queue=? "
            "GROUP BY kind, key, why ORDER BY kind, key",
            dest,
            run,
        )

    def overflow_rows(self, dest: str, run: str, kind: str) -> Iterator[tuple[str, int, int, str, str]]:
        """Yield (key, step, time, extra, value) of what overflowed of a run in that order, page by page."""
        last: tuple[Any, ...] = ("", -(1 << 62), 0, "", "")
        while True:
            page = self._all(
                "SELECT key, step, stamp, extra, value FROM overflow WHERE dest=? AND queue=? AND kind=? "
                "AND (key, step, stamp, extra, value) > (?,?,?,?,?) "
                "ORDER BY key, step, stamp, extra, value LIMIT 1000",
                dest,
                run,
                kind,
                *last,
            )
            yield from page
            if len(page) < 1000:
                return
            last = page[-1]

    def overflow_drop(self, dest: str, run: str, kind: str, keys: Iterable[str]) -> bool:
        """Forget params or tags that fit after all, or were removed; True when there were any."""
        gone = [(dest, run, kind, key) for key in keys]
        sql = "DELETE FROM overflow WHERE dest=? AND queue=? AND kind=? AND key=?"
        return self._write(lambda db: db.executemany(sql, gone).rowcount > 0)

    def overflow_clear(self, dest: str, run: str) -> None:
        """Forget what stands in a run's file."""
        self._do("DELETE FROM overflow WHERE dest=? AND queue=?", dest, run)

    # --- runs and models known on this machine

    def remember_run(self, visible: str, info: dict[str, Any]) -> None:
        """Remember a run that was begun or taken up through this link."""
        self._do("INSERT OR REPLACE INTO runs VALUES (?,?,?)", visible, time.time(), json.dumps(info))

    def run(self, visible: str) -> dict[str, Any] | None:
        """Return what is known of a run."""
        row = self._one("SELECT info FROM runs WHERE visible=?", visible)
        return None if row is None else dict(json.loads(row[0]))

    def recent_runs(self, limit: int = 200) -> list[tuple[str, dict[str, Any]]]:
        """Return (id, info) of the newest runs."""
        rows = self._all("SELECT visible, info FROM runs ORDER BY at DESC LIMIT ?", limit)
        return [(v, json.loads(i)) for v, i in rows]

    def remember_model(self, visible: str, queue: str, info: dict[str, Any]) -> None:
        """Remember a logged model and the queue that its writes travel in."""
        self._do("INSERT OR REPLACE INTO models VALUES (?,?,?)", visible, queue, json.dumps(info))

    def model(self, visible: str) -> tuple[str, dict[str, Any]] | None:
        """Return (queue, info) of a logged model."""
        row = self._one("SELECT queue, info FROM models WHERE visible=?", visible)
        return None if row is None else (row[0], json.loads(row[1]))

    def models_of(self, queue: str) -> list[tuple[str, dict[str, Any]]]:
        """Return (id, info) of the logged models that a run made."""
        rows = self._all("SELECT visible, info FROM models WHERE queue=?", queue)
        return [(v, json.loads(i)) for v, i in rows]

    def experiments_of_models(self, queue: str) -> set[str]:
        """Return the experiments of the logged models that were begun in a queue."""
        found = self._all("SELECT info FROM models WHERE queue = ?", queue)
        return {str(json.loads(info).get("experiment")) for (info,) in found}

    def models(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (id, queue, info) of all logged models known on this machine."""
        return [(v, q, json.loads(i)) for v, q, i in self._all("SELECT visible, queue, info FROM models")]
