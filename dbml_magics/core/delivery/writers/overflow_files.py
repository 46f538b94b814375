"""The file of a run in which stands what a workspace does not take of it.

What does not fit is kept in the link's state until it stands in the run's artifact ``dbml/overflow.json``.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlflow.exceptions import MlflowException

from dbml_magics.common.log_records import logger
from dbml_magics.core.clock import Clock
from dbml_magics.core.delivery.writers.ports import Turns
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.giving_way import gives_way
from dbml_magics.core.outbox.overflow_files import OverflowFile
from dbml_magics.core.outbox.overflow_rows import OverflowRows, Row

_log = logger(__name__)

ARTIFACT = "dbml/overflow.json"

_PAUSE_S = 15.0  # between two versions of the artifact of a live run
_KEYS_KEPT = 200  # names of what overflowed that are remembered once the rows are cleared away


@dataclass(eq=False)
class OverflowFiles(Writer):
    """Keeps what does not fit into the runs of one workspace, and writes their files."""

    reader: Reader
    turns: Turns
    clock: Clock
    _next_write: dict[str, float] = field(default_factory=dict, init=False)
    _loaded: bool = field(default=False, init=False)
    _unwritten: set[str] = field(default_factory=set, init=False)
    _kept: dict[str, int] = field(default_factory=dict, init=False)
    """Run -> times that something was kept, to see whether its file has it."""
    _keeping: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Repairing keeps what does not fit while a worker writes files."""
    _failed: set[str] = field(default_factory=set, init=False)
    _said: set[str] = field(default_factory=set, init=False)

    @property
    def _rows(self) -> OverflowRows:
        return self.state.overflow_rows

    def keep(self, run: str, rows: list[Row]) -> None:
        """Keep what does not fit until it stands in the run's artifact."""
        self._restore(run)
        self._rows.add(self.role, run, rows)
        with self._keeping:
            self._kept[run] = self._kept.get(run, 0) + 1
            self.to_write(run)
        for why in dict.fromkeys(row[-1] for row in rows):
            if why not in self._said:
                self._said.add(why)
                name = (self.state.run(run) or {}).get("name") or run
                _log.warning(
                    "dbml_magics: %s takes %s; the rest of run %s stands in its file %s there, and nothing "
                    "else of it is held up",
                    self.role,
                    why,
                    name,
                    ARTIFACT,
                )

    def to_write(self, run: str) -> None:
        """Have a run's file written, or written anew."""
        if run not in self._unwritten:
            self._note(run, {**self._file(run), "written": False})
            self._unwritten.add(run)

    def _file(self, run: str) -> OverflowFile:
        return self.state.overflow_files.of(self.role, run)

    def _note(self, run: str, file: OverflowFile) -> None:
        self.state.overflow_files.note(self.role, run, file)

    def unwritten(self) -> set[str]:
        """Return the runs whose artifact lacks something."""
        if not self.turns.has_lease:  # another process writes them
            self._loaded = False
            return self.state.overflow_files.unwritten(self.role)
        if not self._loaded:
            self._unwritten |= self.state.overflow_files.unwritten(self.role)
            self._loaded = True
        return self._unwritten

    def on_their_way(self) -> set[str]:
        """Return the runs whose artifact can be waited for: those that were not taken are tried later."""
        return self.unwritten() - self._failed

    def try_again(self) -> None:
        """Try what was not taken again now: somebody waits for it."""
        for run in list(self._failed):
            self._next_write[run] = 0.0

    def write_due(self, is_waiting: Callable[[str], bool], *, at_once: bool) -> Iterator[str]:
        """Write the artifacts of runs of which nothing is on its way; a live run's now and then.

        Yields the runs that are over and whose artifact is whole.

        What the workspace does not take now is tried again later; nothing waits for it.
        """
        for run in list(self.unwritten()):
            ended = (self.state.run(run) or {}).get("ended", False)
            due = self._next_write.get(run, 0.0) <= self.clock.monotonic()
            soon = due or (run not in self._failed and (ended or at_once))
            if not soon or is_waiting(run):
                continue
            try:
                with self.alone.doing("overflow file", run):
                    if run in self.unwritten():  # else another thread wrote it meanwhile
                        self._write(run)
            except Exception as error:
                classified = classify_error(error)
                self._note(run, {**self._file(run), "trouble": str(classified)[:300]})
                self._next_write[run] = self.clock.monotonic() + _PAUSE_S
                self._failed.add(run)
                if isinstance(classified, Unavailable) and not classified.denied:
                    return
                if not isinstance(classified, (Unavailable, MlflowException)):
                    raise
                if not isinstance(classified, Unavailable):  # refused: it would be again
                    self._unwritten.discard(run)
            else:
                self._failed.discard(run)
                if ended:
                    yield run

    def _write(self, run: str) -> None:
        earlier = self._file(run)
        number = earlier.get("number", 0) + 1
        once = self.learned.limits.artifacts_once or earlier.get("once", False)
        with tempfile.TemporaryDirectory() as folder:
            while True:
                path = ARTIFACT if number == 1 or not once else f"dbml/overflow-{number}.json"
                file = Path(folder, Path(path).name)
                before = self._kept.get(run)
                with open(file, "w", encoding="utf-8") as out:
                    self._compose(run, out)
                try:
                    repository = self.reader.repository(f"run:{run}")
                    self.destination.upload(repository, file, "dbml")
                    break
                except Exception as error:
                    if once or "exist" not in str(error).lower():
                        raise
                    once, number = True, number + 1  # a file that is there cannot be written again
        keys = self._rows.keys(self.role, run)
        with self._keeping:
            whole = self._kept.get(run) == before  # else it is written again, with what came meanwhile
            self._note(
                run,
                {"written": whole, "number": number, "path": path, "once": once, "keys": keys[:_KEYS_KEPT]},
            )
            if whole:
                self._unwritten.discard(run)
        self._next_write[run] = self.clock.monotonic() + _PAUSE_S

    def _compose(self, run: str, out: IO[str]) -> None:
        keys = self._rows.keys(self.role, run)
        head = {
            "about": f"What {self.role} does not take of this run, or takes only cut: here it is whole, and "
            "stands in this file alone.",
            "run_id": run,
            "limits": sorted({why for _, _, why, _ in keys}),
        }
        out.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2])
        for kind, name in (("p", "params"), ("g", "tags")):
            found = {key: value for key, _, _, _, value in self._rows.of_kind(self.role, run, kind)}
            out.write(f",\n {json.dumps(name)}: {json.dumps(found, indent=2, ensure_ascii=False)}")
        out.write(',\n "columns": ["step", "timestamp", "value"],\n "metrics": {')
        last = None
        for key, step, stamp, extra, value in self._rows.of_kind(self.role, run, "m"):
            if key != last:
                out.write("" if last is None else "\n  ],")
                out.write(f"\n  {json.dumps(key, ensure_ascii=False)}: [")
            point = [step, stamp, float(value) if _is_finite(value) else value]
            point += [json.loads(extra)] if extra else []
            out.write(f"{'' if key != last else ','}\n   {json.dumps(point)}")
            last = key
        out.write("" if last is None else "\n  ]")
        out.write("\n }\n}\n")

    def _restore(self, run: str) -> None:
        """Take up what an earlier artifact holds, once its rows were cleared away: each one is complete."""
        known = self._file(run)
        if not known.get("cleared"):
            return
        repository = gives_way(self.reader.repository(f"run:{run}"))
        with tempfile.TemporaryDirectory() as folder:
            held = json.loads(Path(repository.download_artifacts(known["path"], folder)).read_text("utf-8"))
        whys = {(kind, key): why for kind, key, why, _ in known["keys"]}
        rows: list[Row] = []
        for kind, name in (("p", "params"), ("g", "tags")):
            rows += [item_row(kind, k, v, whys.get((kind, k), "")) for k, v in held[name].items()]
        for key, points in held["metrics"].items():
            why = whys.get(("m", key), "")
            rows += [point_row((key, p[2], p[1], p[0], *p[3:]), why) for p in points]
        self._rows.add(self.role, run, rows)
        self._note(run, {**known, "cleared": False})

    def clear(self, run: str) -> None:
        """Give back the space of a run that is over and whose artifact is whole."""
        file = self._file(run)
        if file.get("written") and not file.get("cleared"):
            self._rows.clear(self.role, run)
            self._note(run, {**file, "cleared": True})

    # --- in words

    def notes(self, run: str) -> list[str]:
        """Return a line for each limit that a run has overflowed here."""
        file = self._file(run)
        keys = file["keys"] if file.get("cleared") else self._rows.keys(self.role, run)
        by_why: dict[str, list[tuple[str, str, int]]] = {}
        for kind, key, why, count in keys:
            by_why.setdefault(why, []).append((kind, key, count))
        path = file.get("path", ARTIFACT)
        where = f"in its file {path} there" if file.get("written") else f"kept for its file {path} there"
        if file.get("trouble") and not file.get("written"):
            where += f" ({file['trouble']})"
        return [f"{self.role} takes {why}: {_listed(items)} {where}" for why, items in by_why.items()]

    def summary(self) -> list[str]:
        """Return what the link's status says of runs that overflowed."""
        runs = self.state.overflow_files.runs(self.role)
        names = [str((self.state.run(run) or {}).get("name") or run[:8]) for run in runs]
        if not names:
            return []
        shown = ", ".join(names[-3:]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        have, each = ("has", "its") if len(names) == 1 else ("have", "each one's")
        said = (
            f"{shown} {have} more than {self.role} takes: what is missing there is in {each} file {ARTIFACT}"
        )
        return [said]


def point_row(point: Point, why: str) -> Row:
    """Return a point as it is kept, with the limit that it is beyond."""
    extra = json.dumps(point[4]) if len(point) > 4 and point[4] is not None else ""
    return ("m", point[0], point[3], point[2], extra, _text(point[1]), why)


def item_row(kind: str, key: str, value: str, why: str) -> Row:
    """Return a param (``p``) or tag (``g``) as it is kept, with the limit that it is beyond."""
    return (kind, key, 0, 0, "", value, why)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value - value == 0:
        return repr(value)
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _is_finite(text: str) -> bool:
    return text not in ("NaN", "Infinity", "-Infinity")


def _listed(items: list[tuple[str, str, int]]) -> str:
    words = {"m": "metric", "p": "param", "g": "tag"}
    parts = []
    for kind in ("m", "p", "g"):
        keys = [key if len(key) <= 40 else key[:39] + "…" for k, key, _ in items if k == kind]
        if not keys:
            continue
        points = sum(count for k, _, count in items if k == kind)
        said = f"{words[kind]}{'s' if len(keys) > 1 else ''} {', '.join(keys[:3])}"
        said += f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        said += f" ({points:,} point{'s' if points > 1 else ''})" if kind == "m" else ""
        parts.append(said)
    plural = len(items) > 1
    return f"{', '.join(parts)} {'are' if plural else 'is'}"
