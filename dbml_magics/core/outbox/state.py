"""What delivery knows for good: ids at each workspace, cursors, dead letters, and the notes of each owner."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dbml_magics.common.redaction import redacted
from dbml_magics.core.model.facts import ModelFacts, RunFacts
from dbml_magics.core.model.operations import Line
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
from dbml_magics.core.outbox.overflow_rows import OverflowRows
from dbml_magics.core.outbox.receipts import Receipts
from dbml_magics.core.outbox.renamed_files import RenamedFiles
from dbml_magics.core.outbox.repairs import Repairs
from dbml_magics.core.outbox.state_file import StateFile


@dataclass(frozen=True)
class Identity:
    """What a workspace calls something that the user knows by another (or the same) id."""

    actual: str
    extra: dict[str, Any]


class State(StateFile):
    """The link's state: its tables, and a repository for each kind of note."""

    def __init__(self, path: Path, spares: Sequence[Path] = ()) -> None:
        super().__init__(path, spares)
        self.on_step: Callable[[str, int], None] | None = None
        """Called with (workspace, count) after each step of a delivery."""
        self._ids: dict[tuple[str, str, str], Identity] = {}
        self._answers = Answers(self)
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
        self.overflow_rows = OverflowRows(self)
        self.receipts = Receipts(self, self._answers)
        self.renamed_files = RenamedFiles(self._answers)
        self.repairs = Repairs(self._answers)

    def mend(self) -> Path:
        """Begin a new file with what can be read of a damaged one; returns where that one is now."""
        with self.lock:
            self._ids = {}
            return super().mend()

    def forget_connection(self) -> None:
        """Drop the connection without closing it: in a forked child it is still the parent's."""
        super().forget_connection()
        self._ids = {}

    # --- identities

    def identity(self, dest: str, kind: str, visible: str) -> Identity | None:
        """Return what ``dest`` calls ``visible``, or None while it is not known there."""
        key = (dest, kind, visible)
        known = self._ids.get(key)
        if known is None:
            row = self.one("SELECT actual, extra FROM ids WHERE dest=? AND kind=? AND visible=?", *key)
            if row is None:
                return None
            known = self._ids[key] = Identity(row[0], json.loads(row[1]))
        return known

    def set_identity(self, dest: str, kind: str, visible: str, actual: str, **extra: Any) -> Identity:
        """Remember what ``dest`` calls ``visible``."""
        self.execute(
            "INSERT OR REPLACE INTO ids VALUES (?,?,?,?,?)", dest, kind, visible, actual, json.dumps(extra)
        )
        identity = self._ids[dest, kind, visible] = Identity(actual, extra)
        if len(self._ids) > 50_000:
            self._ids = {(dest, kind, visible): identity}
        return identity

    def forget_identity(self, dest: str, kind: str, visible: str) -> None:
        """Forget what ``dest`` called ``visible``: it is gone there."""
        self.execute("DELETE FROM ids WHERE dest=? AND kind=? AND visible=?", dest, kind, visible)
        self._ids.pop((dest, kind, visible), None)

    def visible(self, dest: str, kind: str, actual: str) -> str | None:
        """Return the id that the user knows for ``dest``'s own id; the same one, where it has two."""
        sql = "SELECT visible FROM ids WHERE dest=? AND kind=? AND actual=? ORDER BY visible=actual DESC"
        row = self.one(sql, dest, kind, actual)
        return None if row is None else str(row[0])

    def differing(self, dest: str, kind: str) -> dict[str, str]:
        """Return {actual: visible} of all ids that differ at ``dest``."""
        rows = self.rows(
            "SELECT actual, visible FROM ids WHERE dest=? AND kind=? AND actual<>visible", dest, kind
        )
        return dict(rows)

    # --- cursors

    def cursors(self, dest: str, queue: str) -> dict[str, tuple[int, int]]:
        """Return {file: (delivered up to, sending up to)} of one queue."""
        rows = self.rows("SELECT file, offset, sending FROM cursors WHERE dest=? AND queue=?", dest, queue)
        return {file: (offset, sending) for file, offset, sending in rows}

    def all_cursors(self, dest: str) -> dict[str, dict[str, int]]:
        """Return {queue: {file: delivered up to}} of one workspace."""
        found: dict[str, dict[str, int]] = {}
        for queue, file, offset in self.rows("SELECT queue, file, offset FROM cursors WHERE dest=?", dest):
            found.setdefault(queue, {})[file] = offset
        return found

    def steps(self, dest: str) -> int:
        """Return how many steps of delivery to a workspace this state has seen."""
        return self._counted(f"steps/{dest}")

    def _counted(self, key: str) -> int:
        row = self.one("SELECT delivered FROM counts WHERE dest=?", key)
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

        count = self.write(counted, lasting=lasting)
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
            self.receipts.add(db, dest, queue, kinds)

        self._step(dest, work)

    def unmark_sending(self, dest: str, queue: str, before: dict[str, int]) -> None:
        """Take a note back, since nothing left this machine: ``before`` is what stood there before it."""

        def work(db: sqlite3.Connection) -> None:
            for file, end in before.items():
                db.execute(
                    "UPDATE cursors SET sending=? WHERE dest=? AND queue=? AND file=?",
                    (end, dest, queue, file),
                )

        self.write(work)

    def delivered_count(self, dest: str) -> int:
        """Return how many writes have been delivered over the link's life."""
        return self._counted(dest)

    def drop_file(self, queue: str, file: str) -> None:
        """Forget a journal file that is delivered everywhere and deleted."""
        self.execute("DELETE FROM cursors WHERE queue=? AND file=?", queue, file)

    # --- dead letters

    def reject(self, dest: str, queue: str, op: Line, cause: str) -> int:
        """Put aside a write that ``dest`` refused for good; returns its number."""

        def work(db: sqlite3.Connection) -> int:
            made = db.execute(
                "INSERT INTO dead (dest, queue, op, cause, at) VALUES (?,?,?,?,?)",
                (dest, queue, json.dumps(op), redacted(cause)[:2000], time.time()),
            )
            return int(made.lastrowid or 0)

        return self.write(work)

    def dead(
        self, dest: str | None = None, queue: str | None = None
    ) -> list[tuple[int, str, str, Line, str, float]]:
        """Return (id, dest, queue, op, cause, at) of the writes put aside, oldest first."""
        rows = self.rows(
            "SELECT id, dest, queue, op, cause, at FROM dead WHERE (?1 IS NULL OR dest=?1) "
            "AND (?2 IS NULL OR queue=?2) ORDER BY id",
            dest,
            queue,
        )
        return [(i, d, q, json.loads(op), cause, at) for i, d, q, op, cause, at in rows]

    def dead_numbers(self, dest: str, queue: str | None = None) -> set[int]:
        """Return the numbers of the writes that ``dest`` refused (of one queue)."""
        rows = self.rows("SELECT id FROM dead WHERE dest=?1 AND (?2 IS NULL OR queue=?2)", dest, queue)
        return {number for (number,) in rows}

    def last_dead(self) -> int:
        """Return the number of the newest write put aside (0: none was)."""
        return int(self.one("SELECT coalesce(max(id), 0) FROM dead")[0])

    def dead_letter(self, number: int) -> Line | None:
        """Return the write put aside under a number, or None when it is none any more."""
        row = self.one("SELECT op FROM dead WHERE id=?", number)
        return None if row is None else list(json.loads(row[0]))

    def dead_queue(self, number: int) -> str | None:
        """Return the queue of the write put aside under a number, or None."""
        row = self.one("SELECT queue FROM dead WHERE id=?", number)
        return None if row is None else str(row[0])

    def settle_dead(self, number: int, refused: list[tuple[Line, str]]) -> None:
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

        self.write(work)

    def discard_dead(self, numbers: Iterable[int]) -> None:
        """Forget writes put aside."""
        gone = [(number,) for number in numbers]
        self.write(lambda db: db.executemany("DELETE FROM dead WHERE id=?", gone))

    def is_dead_copy(self, spool: str) -> bool:
        """Tell whether a dead letter needs an artifact's copy."""
        named = json.dumps({"spool": spool})[1:-1]
        return self.one("SELECT 1 FROM dead WHERE instr(op, ?) LIMIT 1", named) is not None

    def dead_count(self, dest: str) -> int:
        """Return how many writes ``dest`` refused for good."""
        return int(self.one("SELECT count(*) FROM dead WHERE dest=?", dest)[0])

    # --- runs and models known on this machine

    def remember_run(self, visible: str, info: RunFacts) -> None:
        """Remember a run that was begun or taken up through this link."""
        self.execute("INSERT OR REPLACE INTO runs VALUES (?,?,?)", visible, time.time(), json.dumps(info))

    def run(self, visible: str) -> RunFacts | None:
        """Return what is known of a run."""
        row = self.one("SELECT info FROM runs WHERE visible=?", visible)
        return None if row is None else json.loads(row[0])

    def recent_runs(self, limit: int = 200) -> list[tuple[str, RunFacts]]:
        """Return (id, info) of the newest runs."""
        rows = self.rows("SELECT visible, info FROM runs ORDER BY at DESC LIMIT ?", limit)
        return [(v, json.loads(i)) for v, i in rows]

    def remember_model(self, visible: str, queue: str, info: Mapping[str, Any]) -> None:
        """Remember a logged model and the queue that its writes travel in."""
        self.execute("INSERT OR REPLACE INTO models VALUES (?,?,?)", visible, queue, json.dumps(info))

    def model(self, visible: str) -> tuple[str, ModelFacts] | None:
        """Return (queue, info) of a logged model."""
        row = self.one("SELECT queue, info FROM models WHERE visible=?", visible)
        return None if row is None else (row[0], json.loads(row[1]))

    def model_facts(self, visible: str) -> ModelFacts | None:
        """Return what a logged model was created with, if this machine knows."""
        known = self.model(visible)
        return known[1] or None if known else None

    def models_of(self, queue: str) -> list[tuple[str, ModelFacts]]:
        """Return (id, info) of the logged models that a run made."""
        rows = self.rows("SELECT visible, info FROM models WHERE queue=?", queue)
        return [(v, json.loads(i)) for v, i in rows]

    def experiments_of_models(self, queue: str) -> set[str]:
        """Return the experiments of the logged models that were begun in a queue."""
        found = self.rows("SELECT info FROM models WHERE queue = ?", queue)
        return {str(json.loads(info).get("experiment")) for (info,) in found}

    def models(self) -> list[tuple[str, str, ModelFacts]]:
        """Return (id, queue, info) of all logged models known on this machine."""
        return [(v, q, json.loads(i)) for v, q, i in self.rows("SELECT visible, queue, info FROM models")]
