"""The state file: its connection, its transactions, and the copy in its place while its disk takes nothing.

Nothing here is on the path of a ``log_*`` call; the journal is.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from dbml_magics.common.disks import private_folder
from dbml_magics.common.hints import Remedy
from dbml_magics.core.interrupts import deferred
from dbml_magics.core.outbox import fallback
from dbml_magics.core.outbox.tables import FORMAT, TABLES, fill, open_at, readable_rows
from dbml_magics.errors import JournalDamaged, JournalError, JournalFull

_RESERVE, _LOW = 16 << 20, 256 << 10  # bytes kept for the state on its disk; given when so few are free
_ROOM = 1 << 20  # bytes that must be free on a disk that was full before the state goes back there
_LOOK_S = 5.0  # between two looks whether it can
_MOVES = 5  # from place to place within one call
_CHECKED_BYTES = 64 << 20  # larger files take too long to be looked through at each start
_OF_THIS_MACHINE = ("steps/", "place/")  # counts, and answers
T = TypeVar("T")

# Connections of the process that forked this one: SQLite must not close them here.
_parents: list[tuple[sqlite3.Connection | None, fallback.Fallback | None]] = []


class _Moved(Exception):
    """Another process has taken the state elsewhere, or has brought it back."""


def _free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


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


def _newer(found: object) -> JournalDamaged:
    return JournalDamaged(
        f"the link's journal was written by a newer dbml-magics (format {found}, this one reads {FORMAT}).",
        remedies=["pip install --upgrade dbml-magics"],
    )


class StateFile:
    """One SQLite file a link, for all its processes; ``spares`` are the link's folders on other disks."""

    def __init__(self, path: Path, spares: Sequence[Path] = ()) -> None:
        self.path = path
        self.on_loss: Callable[[], None] | None = None
        """Called when the state goes on with a part of itself, since the rest could not be read."""
        self._spares = spares
        self._reserve = path.with_name("reserve")
        self._has_reserve = False
        self.lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._fallback: fallback.Fallback | None = None
        self._failure: Exception | None = None  # why the state left its own disk
        self._next_look = 0.0

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
            remedies=[(Remedy("link", local=True), "begin a new link; move that folder away first")],
        )

    def mend(self) -> Path:
        """Begin a new file with what can be read of a damaged one; returns where that one is now.

        No other process may have the file open.
        """
        with self.lock:
            place = (self._fallback.path if self._fallback is not None else None) or self.path
            self.close()
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

    def write(self, work: Callable[[sqlite3.Connection], T], *, lasting: bool = False) -> T:
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

    def execute(self, sql: str, *args: Any) -> None:
        """Do one statement in a transaction of its own. Raises JournalFull, JournalError."""
        self.write(lambda db: db.execute(sql, args))

    def _is_elsewhere(self) -> bool:
        """Tell whether another process moved the state before this transaction began."""
        if self._fallback is not None:
            return not self._fallback.stands
        self._fallback = fallback.find(self._spares)
        return self._fallback is not None

    def one(self, sql: str, *args: Any) -> Any:
        """Return the first row of a query, or None."""
        with self.lock:
            return self._where_it_can(lambda db: db.execute(sql, args).fetchone())

    def rows(self, sql: str, *args: Any) -> list[Any]:
        """Return all rows of a query."""
        with self.lock:
            return self._where_it_can(lambda db: db.execute(sql, args).fetchall())

    # --- the whole of it, for another machine

    def dump(self) -> dict[str, Any]:
        """Return everything but what is of this machine alone: {"format": …, "tables": {table: rows}}."""
        tables = self.write(
            lambda db: {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
        )
        for table in ("answers", "counts"):
            tables[table] = [row for row in tables[table] if not row[0].startswith(_OF_THIS_MACHINE)]
        return {"format": FORMAT, "tables": tables}

    def load(self, dumped: dict[str, Any]) -> None:
        """Fill an empty state with what :meth:`dump` returned. Raises JournalDamaged for a newer format."""
        if dumped["format"] > FORMAT:
            raise _newer(dumped["format"])
        self.write(lambda db: fill(db, dumped["tables"]))
