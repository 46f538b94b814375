"""What delivery knows for good: ids at each workspace, cursors, dead letters, answers.

One SQLite file a link, shared by all its processes. Nothing here is on the path of a ``log_*`` call; the
journal is.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbml_magics.core.tracking.journal import private_folder
from dbml_magics.errors import JournalDamaged, JournalError

FORMAT = 1

_SCHEMA = """
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
CREATE TABLE IF NOT EXISTS counts (dest TEXT PRIMARY KEY, delivered INTEGER NOT NULL);
"""


_parents: list[Any] = []  # connections of the process that forked this one: SQLite must not close them here


@dataclass(frozen=True)
class Identity:
    """What a workspace calls something that the user knows by another (or the same) id."""

    actual: str
    extra: dict[str, Any]


class State:
    """The link's state file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._ids: dict[tuple[str, str, str], Identity] = {}

    # --- the connection

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                private_folder(self.path.parent)
                # Made 0600 before SQLite writes to it; -wal and -shm inherit the mode.
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
                db = sqlite3.connect(self.path, timeout=30, check_same_thread=False, isolation_level=None)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
                db.executescript(_SCHEMA)
                db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(FORMAT),))
                (found,) = db.execute("SELECT v FROM meta WHERE k='format'").fetchone()
            except sqlite3.DatabaseError as error:
                raise JournalDamaged(
                    f"the link's state file {self.path} cannot be read ({error}).",
                    remedies=[("%dbml link --local", "begin a new link; move that folder away first")],
                ) from error
            except OSError as error:
                raise JournalError(
                    f"the link's folder {self.path.parent} cannot be written ({error.strerror}).",
                    remedies=[("DBML_HOME=/a/local/folder", "set it before the notebook starts")],
                ) from error
            if int(found) > FORMAT:
                raise JournalDamaged(
                    f"the link's journal was written by a newer dbml-magics (format {found}, this one reads "
                    f"{FORMAT}).",
                    remedies=["pip install --upgrade dbml-magics"],
                )
            self._db = db
        return self._db

    def forget_connection(self) -> None:
        """Drop the connection without closing it: in a forked child it is still the parent's."""
        self.lock = threading.RLock()
        _parents.append(self._db)
        self._db = None
        self._ids = {}

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            db = self._connect()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _one(self, sql: str, *args: Any) -> Any:
        with self.lock:
            return self._connect().execute(sql, args).fetchone()

    def _all(self, sql: str, *args: Any) -> list[Any]:
        with self.lock:
            return self._connect().execute(sql, args).fetchall()

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
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO ids VALUES (?,?,?,?,?)",
                (dest, kind, visible, actual, json.dumps(extra)),
            )
        identity = self._ids[dest, kind, visible] = Identity(actual, extra)
        if len(self._ids) > 50_000:
            self._ids = {(dest, kind, visible): identity}
        return identity

    def forget_identity(self, dest: str, kind: str, visible: str) -> None:
        """Forget what ``dest`` called ``visible``: it is gone there."""
        with self._write() as db:
            db.execute("DELETE FROM ids WHERE dest=? AND kind=? AND visible=?", (dest, kind, visible))
        self._ids.pop((dest, kind, visible), None)

    def visible(self, dest: str, kind: str, actual: str) -> str | None:
        """Return the id that the user knows for ``dest``'s own id."""
        row = self._one("SELECT visible FROM ids WHERE dest=? AND kind=? AND actual=?", dest, kind, actual)
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

    def mark_sending(self, dest: str, queue: str, ends: dict[str, int]) -> None:
        """Note that writes up to ``ends`` are about to be sent: whoever finds this note asks before sending.

        An earlier note that reaches further stays: the next try may take less than the one that failed.
        """
        with self._write() as db:
            for file, end in ends.items():
                db.execute(
                    "INSERT INTO cursors VALUES (?,?,?,0,?) "
                    "ON CONFLICT DO UPDATE SET sending=max(sending, excluded.sending)",
                    (dest, queue, file, end),
                )

    def mark_delivered(self, dest: str, queue: str, ends: dict[str, int], count: int) -> None:
        """Note that writes up to ``ends`` have arrived."""
        with self._write() as db:
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

    def unmark_sending(self, dest: str, queue: str, before: dict[str, int]) -> None:
        """Take a note back, since nothing left this machine: ``before`` is what stood there before it."""
        with self._write() as db:
            for file, end in before.items():
                db.execute(
                    "UPDATE cursors SET sending=? WHERE dest=? AND queue=? AND file=?",
                    (end, dest, queue, file),
                )

    def delivered_count(self, dest: str) -> int:
        """Return how many writes have been delivered over the link's life."""
        row = self._one("SELECT delivered FROM counts WHERE dest=?", dest)
        return 0 if row is None else int(row[0])

    def drop_file(self, queue: str, file: str) -> None:
        """Forget a journal file that is delivered everywhere and deleted."""
        with self._write() as db:
            db.execute("DELETE FROM cursors WHERE queue=? AND file=?", (queue, file))

    # --- dead letters

    def bury(self, dest: str, queue: str, op: Any, cause: str) -> None:
        """Put aside a write that ``dest`` refused for good."""
        with self._write() as db:
            db.execute(
                "INSERT INTO dead (dest, queue, op, cause, at) VALUES (?,?,?,?,?)",
                (dest, queue, json.dumps(op), cause[:2000], time.time()),
            )

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

    def last_dead(self) -> int:
        """Return the number of the newest write put aside (0: none was)."""
        return int(self._one("SELECT coalesce(max(id), 0) FROM dead")[0])

    def dead_letter(self, number: int) -> list[Any] | None:
        """Return the write put aside under a number, or None when it is none any more."""
        row = self._one("SELECT op FROM dead WHERE id=?", number)
        return None if row is None else list(json.loads(row[0]))

    def settle_dead(self, number: int, refused: list[tuple[list[Any], str]]) -> None:
        """Put what was refused again (nothing: all arrived) in the place of a dead letter that was tried."""
        with self._write() as db:
            row = db.execute("SELECT dest, queue FROM dead WHERE id=?", (number,)).fetchone()
            if row is None:
                return  # discarded in the meantime
            db.execute("DELETE FROM dead WHERE id=?", (number,))
            for place, (op, cause) in enumerate(refused):
                db.execute(
                    "INSERT INTO dead (id, dest, queue, op, cause, at) VALUES (?,?,?,?,?,?)",
                    (None if place else number, *row, json.dumps(op), cause[:2000], time.time()),
                )

    def discard_dead(self, numbers: Iterable[int]) -> None:
        """Forget writes put aside."""
        with self._write() as db:
            db.executemany("DELETE FROM dead WHERE id=?", [(number,) for number in numbers])

    def is_dead_copy(self, spool: str) -> bool:
        """Tell whether a dead letter needs an artifact's copy."""
        named = json.dumps({"spool": spool})[1:-1]
        return self._one("SELECT 1 FROM dead WHERE instr(op, ?) LIMIT 1", named) is not None

    def dead_count(self, dest: str) -> int:
        """Return how many writes ``dest`` refused for good."""
        return int(self._one("SELECT count(*) FROM dead WHERE dest=?", dest)[0])

    # --- answers: what an operation's workspace said, by the operation's key

    def answer(self, key: str) -> Any | None:
        """Return what was answered under ``key``, or None."""
        row = self._one("SELECT v FROM answers WHERE k=?", key)
        return None if row is None else json.loads(row[0])

    def set_answer(self, key: str, value: Any) -> None:
        """Remember an answer."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO answers VALUES (?,?)", (key, json.dumps(value)))

    def set_answer_and_read(self, key: str, value: Any, others: Iterable[str]) -> dict[str, Any]:
        """Remember an answer and return the others' in one transaction: the later of two sees the earlier."""
        found = {}
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO answers VALUES (?,?)", (key, json.dumps(value)))
            for other in others:
                row = db.execute("SELECT v FROM answers WHERE k=?", (other,)).fetchone()
                if row is not None:
                    found[other] = json.loads(row[0])
        return found

    def answers(self, prefix: str) -> dict[str, Any]:
        """Return all answers whose key begins with ``prefix``."""
        rows = self._all("SELECT k, v FROM answers WHERE substr(k, 1, ?)=?", len(prefix), prefix)
        return {k: json.loads(v) for k, v in rows}

    def forget_answer(self, key: str) -> None:
        """Forget an answer."""
        with self._write() as db:
            db.execute("DELETE FROM answers WHERE k=?", (key,))

    # --- runs and models known on this machine

    def remember_run(self, visible: str, info: dict[str, Any]) -> None:
        """Remember a run that was begun or taken up through this link."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO runs VALUES (?,?,?)", (visible, time.time(), json.dumps(info)))

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
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO models VALUES (?,?,?)", (visible, queue, json.dumps(info)))

    def model(self, visible: str) -> tuple[str, dict[str, Any]] | None:
        """Return (queue, info) of a logged model."""
        row = self._one("SELECT queue, info FROM models WHERE visible=?", visible)
        return None if row is None else (row[0], json.loads(row[1]))

    def models(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (id, queue, info) of all logged models known on this machine."""
        return [(v, q, json.loads(i)) for v, q, i in self._all("SELECT visible, queue, info FROM models")]
