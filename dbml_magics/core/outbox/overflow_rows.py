"""What a workspace does not take of a run, until it stands in the run's overflow file there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from dbml_magics.core.outbox.state_file import StateFile

Row = tuple[str, str, int, int, str, str, str]
"""(kind, key, step, time, extra, value, why) of an item; kind is m for metrics, p for params, g for tags."""


class OverflowRows:
    """The items of each run that overflowed at a workspace."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def add(self, dest: str, run: str, rows: Iterable[Row]) -> None:
        """Keep items; of a param or tag the newest value."""
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

        self._file.write(work)

    def has_any(self, dest: str, run: str) -> bool:
        """Tell whether anything of a run overflowed."""
        sql = "SELECT 1 FROM overflow WHERE dest=? AND queue=? LIMIT 1"
        return self._file.one(sql, dest, run) is not None

    def keys(self, dest: str, run: str) -> list[tuple[str, str, str, int]]:
        """Return (kind, key, why, how many) of what overflowed of a run."""
        return self._file.rows(
            "SELECT kind, key, why, count(*) FROM overflow WHERE dest=? AND queue=? "
            "GROUP BY kind, key, why ORDER BY kind, key",
            dest,
            run,
        )

    def of_kind(self, dest: str, run: str, kind: str) -> Iterator[tuple[str, int, int, str, str]]:
        """Yield (key, step, time, extra, value) of what overflowed of a run in that order, page by page."""
        last: tuple[Any, ...] = ("", -(1 << 62), 0, "", "")
        while True:
            page = self._file.rows(
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

    def drop(self, dest: str, run: str, kind: str, keys: Iterable[str]) -> bool:
        """Forget params or tags that fit after all, or were removed; True when there were any."""
        gone = [(dest, run, kind, key) for key in keys]
        sql = "DELETE FROM overflow WHERE dest=? AND queue=? AND kind=? AND key=?"
        return self._file.write(lambda db: db.executemany(sql, gone).rowcount > 0)

    def clear(self, dest: str, run: str) -> None:
        """Forget what stands in a run's file."""
        self._file.execute("DELETE FROM overflow WHERE dest=? AND queue=?", dest, run)
