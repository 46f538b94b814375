"""The state's tables: made, opened, and read as far as a damaged file lets itself be read."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

FORMAT = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (k TEXT PRIMARY KEY, v TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ids (
    dest TEXT NOT NULL, kind TEXT NOT NULL, visible TEXT NOT NULL, actual TEXT NOT NULL, extra TEXT NOT NULL,
    PRIMARY KEY (dest, kind, visible)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ids_actual ON ids (dest, kind, actual);
CREATE TABLE IF NOT EXISTS cursors (
    dest TEXT NOT NULL, queue TEXT NOT NULL, file TEXT NOT NULL,
    offset INTEGER NOT NULL, sending INTEGER NOT NULL,
    PRIMARY KEY (dest, queue, file)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, dest TEXT NOT NULL, queue TEXT NOT NULL, op TEXT NOT NULL,
    cause TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (k TEXT PRIMARY KEY, v TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (visible TEXT PRIMARY KEY, at REAL NOT NULL, info TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS runs_at ON runs (at);
CREATE TABLE IF NOT EXISTS models (visible TEXT PRIMARY KEY, queue TEXT NOT NULL, info TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS overflow (
    dest TEXT NOT NULL, queue TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    step INTEGER NOT NULL, stamp INTEGER NOT NULL, extra TEXT NOT NULL, value TEXT NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY (dest, queue, kind, key, step, stamp, extra, value)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts (
    dest TEXT NOT NULL, queue TEXT NOT NULL, kind TEXT NOT NULL,
    count INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
    PRIMARY KEY (dest, queue, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (dest TEXT PRIMARY KEY, delivered INTEGER NOT NULL);
"""

TABLES = ("ids", "cursors", "dead", "answers", "runs", "models", "overflow", "receipts", "counts")
"""What another machine, and a new file in the place of a damaged one, are given: all but ``meta``."""

# SQLite's own 1,000 pages (4 MB) are more than a full disk may have left before the first checkpoint.
_WAL_PAGES, _WAL_BYTES = 256, 1 << 20


def open_at(path: Path) -> sqlite3.Connection:
    """Open a state file, made with its tables if need be. Raises OSError, sqlite3.DatabaseError."""
    # Made 0600 before SQLite writes to it; -wal and -shm inherit the mode.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
        make_tables(db)
    except BaseException:
        db.close()
        raise
    return db


def make_tables(db: sqlite3.Connection) -> None:
    """Make the tables that are missing."""
    db.executescript(SCHEMA)
    db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(FORMAT),))


def columns() -> dict[str, list[tuple[str, str]]]:
    """Return {table: [(column, its declared type)]} of what another machine is given."""
    with closing(sqlite3.connect(":memory:")) as db:
        make_tables(db)
        return {
            table: [(name, kind) for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")]
            for table in TABLES
        }


def fill(db: sqlite3.Connection, rows: dict[str, list[Any]]) -> None:
    """Put {table: rows} into the tables, inside a transaction of the caller's."""
    for table in TABLES:
        for row in rows.get(table, []):
            db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * len(row))})", row)


def read_only(path: Path) -> sqlite3.Connection:
    """Open a state file to read it."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)


def format_of(path: Path) -> int:
    """Return the format of a state file; 0 where it cannot be read."""
    try:
        with closing(read_only(path)) as db:
            return int(db.execute("SELECT v FROM meta WHERE k='format'").fetchone()[0])
    except (sqlite3.Error, TypeError, ValueError):
        return 0


def readable_rows(path: Path) -> dict[str, list[Any]]:
    """Return what can be read of a damaged file, {table: rows}; not the cursors, which must not be wrong."""
    found: dict[str, list[Any]] = {}
    for table in (name for name in TABLES if name not in ("cursors", "counts")):
        rows = found.setdefault(table, [])
        with (
            suppress(sqlite3.Error),
            closing(read_only(path)) as db,
        ):
            for row in db.execute(f"SELECT * FROM {table}"):
                if _is_sound(table, row):
                    rows.append(row)
    return found


def _is_sound(table: str, row: tuple[Any, ...]) -> bool:
    """Tell whether a row of a damaged file says something: the JSON in it, if it has any, can be read."""
    place = {"ids": 4, "dead": 3, "answers": 1, "runs": 2, "models": 2}.get(table)
    try:
        if place is not None:
            json.loads(row[place])
    except (ValueError, TypeError, IndexError):
        return False
    return all(value is not None for value in row)
