"""Where the link's state is while its own disk takes nothing: on another disk, at worst in memory.

The whole file is copied to the first other disk that takes it, and every process of the link goes on in the
copy. Once the state's own disk takes writes again, what differs is written back there and the copy is
deleted; whoever finds its copy deleted looks in the state's own place again. A process that dies leaves the
copy to the next one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dbml_magics.common.disks import is_own, make_own
from dbml_magics.core.outbox.tables import TABLES, fill, make_tables, open_at, read_only, readable_rows
from dbml_magics.errors import JournalError

_LEAD, _END = "state-", ".db"  # a new name each time: SQLite deletes the -wal of a file by its name
_DISK_TROUBLE = ("full", "readonly", "disk i/o", "unable to open")  # Python 3.10 gives no error codes


def is_of_disk(error: sqlite3.OperationalError) -> bool:
    """Tell whether an error is the disk's, and not another process's that has the file at the moment."""
    said = str(error).lower()
    return any(words in said for words in _DISK_TROUBLE)


@dataclass
class Fallback:
    """The state in another place; ``path`` is None where that is this process's memory."""

    path: Path | None
    db: sqlite3.Connection
    partial: bool
    """Not everything of the state could be read: it is not written back."""

    @property
    def stands(self) -> bool:
        """Tell whether no process has brought the state back."""
        return self.path is None or self.path.exists()

    def give_back(self, own: sqlite3.Connection) -> None:
        """Make the state's own file like this one, and delete this one. Raises sqlite3.Error, OSError."""
        with _transaction(self.db):  # no process writes here meanwhile
            if not self.stands:
                return
            own.execute("PRAGMA synchronous=FULL")  # this copy goes
            try:
                with _transaction(own):
                    _make_alike(self.db, own)
            finally:
                own.execute("PRAGMA synchronous=NORMAL")
            if self.path is not None:
                self.path.unlink()
                for end in ("-wal", "-shm"):
                    Path(f"{self.path}{end}").unlink(missing_ok=True)


def find(spares: Sequence[Path]) -> Fallback | None:
    """Return the fallback that a process of the link has made and nobody has left, or None.

    Raises JournalError for one that cannot be read: the state's own file is older than it.
    """
    for spare in spares:
        try:
            names = [name for name in os.listdir(spare) if name.startswith(_LEAD) and name.endswith(_END)]
        except OSError:
            continue
        if names and is_own(spare.parent.parent):
            try:
                return _opened(spare / min(names))
            except FileNotFoundError:
                continue
            except (OSError, sqlite3.Error) as error:
                raise JournalError(
                    f"the link's state, in {spare} since its own disk failed, cannot be read ({error}).",
                    remedies=[(f"df -h {spare}", "in a terminal: is that disk full, or gone?")],
                ) from error
    return None


def make(path: Path, own: sqlite3.Connection, spares: Sequence[Path]) -> Fallback:
    """Return a fallback with what is in ``path``; the one of another process that was first."""
    with _kept_out(own):
        for spare in spares:
            try:
                make_own(spare)
                with _alone(spare):
                    return find(spares) or _opened(_copy(path, spare))
            except (OSError, sqlite3.Error, JournalError):
                continue
        db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        return Fallback(None, db, partial=not _fill(path, db))


def _opened(path: Path) -> Fallback:
    db = open_at(path)
    if not path.exists():  # brought back in between, and made anew by the look at it
        db.close()
        raise FileNotFoundError(path)
    (partial,) = db.execute("SELECT count(*) FROM meta WHERE k='partial'").fetchone()
    return Fallback(path, db, bool(partial))


def _copy(path: Path, folder: Path) -> Path:
    """Copy a state file into a folder of another disk; returns where it is there."""
    target = folder / f"{_LEAD}{secrets.token_hex(4)}{_END}"
    part = target.with_suffix(".part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(part, isolation_level=None)) as db:
            _fill(path, db)
        os.rename(part, target)
    except BaseException:
        for end in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{part}{end}").unlink(missing_ok=True)
        raise
    return target


def _fill(path: Path, db: sqlite3.Connection) -> bool:
    """Copy a state file into an empty one; False where only a part of it could be read."""
    try:
        with closing(read_only(path)) as source:
            source.execute("SELECT 1 FROM meta").fetchone()
            source.backup(db)
        db.execute("SELECT 1 FROM meta").fetchone()
        return True
    except sqlite3.DatabaseError as error:
        if "full" in str(error):
            raise
    make_tables(db)
    fill(db, readable_rows(path))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('partial', '1')")
    return False


def _make_alike(here: sqlite3.Connection, there: sqlite3.Connection) -> None:
    """Write and delete what differs: it has to fit on a disk that was full."""
    for table in (*TABLES, "sqlite_sequence"):
        wanted, found = (set(db.execute(f"SELECT * FROM {table}").fetchall()) for db in (here, there))
        columns = [row[1] for row in there.execute(f"PRAGMA table_info({table})")]
        same = " AND ".join(f"{column} IS ?" for column in columns)
        there.executemany(f"DELETE FROM {table} WHERE {same}", found - wanted)
        places = ",".join("?" * len(columns))
        there.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", wanted - found)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        if db.in_transaction:
            db.execute("COMMIT")
    except BaseException:
        roll_back(db)
        raise


def roll_back(db: sqlite3.Connection) -> None:
    """End a transaction that failed; the disk that failed it may fail this too."""
    if db.in_transaction:
        with suppress(sqlite3.OperationalError):
            db.execute("ROLLBACK")


@contextmanager
def _kept_out(own: sqlite3.Connection) -> Iterator[None]:
    """Keep other processes from writing to a file that is being copied, where its disk lets us."""
    with suppress(sqlite3.OperationalError):
        own.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        roll_back(own)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep another process from making a fallback in the folder at the same time."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
