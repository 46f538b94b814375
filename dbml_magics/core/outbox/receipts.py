"""What has arrived of each run at a workspace, for its receipt."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dbml_magics.core.outbox.answers import Answers, Texts
from dbml_magics.core.outbox.state_file import StateFile


@dataclass(frozen=True)
class Arrived:
    """How many writes of a kind have arrived, the first and the last when (seconds since the epoch)."""

    count: int
    first: float
    last: float


class Receipts:
    """Counts of what has arrived of a run, and what was sent again since it was missing at the run's end."""

    def __init__(self, file: StateFile, answers: Answers) -> None:
        self._file = file
        self._resent = Texts(answers, "resent")

    def add(self, db: sqlite3.Connection, role: str, run: str, kinds: Mapping[str, int]) -> None:
        """Count what has arrived of each kind, in a transaction of the caller's."""
        now = time.time()
        for kind, amount in kinds.items():
            db.execute(
                "INSERT INTO receipts VALUES (?,?,?,?,?,?) "
                "ON CONFLICT DO UPDATE SET count=count+excluded.count, last=excluded.last",
                (role, run, kind, amount, now, now),
            )

    def arrived(self, role: str, run: str) -> dict[str, Arrived]:
        """Return {kind: what has arrived} of a run."""
        rows = self._file.rows(
            "SELECT kind, count, first, last FROM receipts WHERE dest=? AND queue=? ORDER BY kind", role, run
        )
        return {kind: Arrived(*rest) for kind, *rest in rows}

    def forget(self, run: str) -> None:
        """Forget what has arrived of a run: it is counted again from the journal."""
        self._file.execute("DELETE FROM receipts WHERE queue=?", run)

    def note_resent(self, role: str, run: str, words: str) -> None:
        """Note what was sent again at the end of a run."""
        self._resent.put(words, role, run)

    def resent(self, role: str, run: str) -> str | None:
        """Return what was sent again at the end of a run, or None."""
        return self._resent.get(role, run)
