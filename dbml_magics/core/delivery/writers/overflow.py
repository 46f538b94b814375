"""What a run has more of than a workspace takes: left out there, said so, and kept as a file of the run.

A value that MLflow itself would cut is cut there, as plain MLflow's is, and stands whole in the file.
Azure ML takes 50 names of metrics a run, say. The 51st stays in the journal's state until it stands in the
run's artifact ``dbml/overflow.json`` at that workspace; everything else of the run goes on. The limits are
those of the table, or those that a refusal names. Our own two tags always fit: a user's tag makes room.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dbml_magics.common.log_records import logger
from dbml_magics.core.clock import Clock
from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.delivery.writers.acknowledged import Acknowledged
from dbml_magics.core.delivery.writers.ports import Turns
from dbml_magics.core.delivery.writers.reader import Reader
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import Unavailable, classify_error, is_missing
from dbml_magics.core.destinations.limits import Limits, number_named
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.outbox.overflow_files import OverflowFile
from dbml_magics.core.outbox.overflow_rows import OverflowRows, Row

_log = logger(__name__)

ARTIFACT = "dbml/overflow.json"
RESERVED = frozenset({"dbml_run_id", "dbml_models"})
"""Run tags of ours, without which a run or model is not found again."""

_PAUSE_S = 15.0  # between two versions of the artifact of a live run
_BOOKS = 256
_NEAR = 0.9
_KEYS_KEPT = 200  # names of what overflowed that are remembered once the rows are cleared away


def limit_words(name: str, number: int | None) -> str:
    """Return a limit in words: ``50 metric names a run``."""
    amount = "fewer" if number is None else f"{number:,}"
    return f"{amount} {_WORDS[name]}"


_WORDS = {
    "metric_names": "metric names a run",
    "metric_rows": "points a metric",
    "run_rows": "points of metrics a run",
    "run_params": "params a run",
    "run_tags": "tags a run",
    "model_metrics": "metrics a logged model",
    "metric_key": "characters in a metric's name",
    "param_key": "characters in a param's name",
    "param_value": "characters in a param",
    "tag_key": "characters in a tag's name",
    "tag_value": "characters in a tag",
    "m": "metrics than the run has",
    "p": "params, or shorter ones, than the run has",
    "g": "tags, or shorter ones, than the run has",
}


@dataclass
class RunUsage:
    """What a run has at one workspace, as far as its limits are concerned."""

    points: dict[str, int] = field(default_factory=dict)  # metric -> points sent by this process
    total: int = 0
    params: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    caps: dict[str, int] = field(default_factory=dict)  # learnt: name of the limit -> number
    full: set[str] = field(default_factory=set)  # metrics that take no more points

    @classmethod
    def of(cls, run: Run) -> RunUsage:
        """Open a book with what the workspace says of a run."""
        data = run.data
        return cls(dict.fromkeys(data.metrics, 0), 0, set(data.params), set(data.tags))


@dataclass(eq=False)
class Overflow(Writer):
    """Keeps each run of one workspace within what the workspace takes."""

    reader: Reader
    acknowledged: Acknowledged
    turns: Turns
    clock: Clock
    _usages: dict[str, RunUsage] = field(default_factory=dict, init=False)
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

    # --- what fits

    def begin(self, run: str, tags: Iterable[str]) -> None:
        """Open the book of a run that was made just now."""
        if _limits_runs(self.learned.limits):
            self._put(run, RunUsage(tags=set(tags)))

    def _put(self, run: str, usage: RunUsage) -> RunUsage:
        if len(self._usages) >= _BOOKS:
            self._usages.pop(next(iter(self._usages)))
        self._usages[run] = usage
        return usage

    def _usage(self, run: str, run_id: str) -> RunUsage:
        known = self._usages.get(run)
        return known or self._put(run, RunUsage.of(self.destination.get_run(run_id)))

    def split_by_limits(self, run: str, run_id: str, batch: Batch) -> Batch:
        """Return what of a batch fits; the rest is kept for the run's artifact."""
        limits = self.learned.limits
        if run not in self._usages and not _limits_runs(limits) and not _has_long(limits, batch):
            self._fit_after_all(run, batch.tags)
            return batch
        usage = self._usage(run, run_id)
        rows: list[Row] = []
        batch.metrics = list(self._fitting_points(usage, limits, batch.metrics, rows))
        batch.params = self._fitting_params(usage, limits, batch.params, rows)
        batch.tags, stale = self._fitting_tags(usage, limits, batch.tags, rows)
        for key in stale:  # the workspace would go on showing what the tag said before
            self._untag(run_id, key)
            usage.tags.discard(key)
        if rows:
            self.keep(run, rows)
        kept = {key for kind, key, *_ in rows if kind == "g"}
        self._fit_after_all(run, {k: v for k, v in batch.tags.items() if k not in kept})
        return batch

    def _fitting_points(
        self, usage: RunUsage, limits: Limits, points: list[Point], rows: list[Row]
    ) -> Iterator[Point]:
        names = usage.caps.get("metric_names", limits.metric_names)
        new: dict[str, int] = {}
        total = usage.total
        for point in points:
            key = point[0]
            known = key in usage.points or key in new
            if limits.metric_key is not None and len(key) > limits.metric_key:
                why = limit_words("metric_key", limits.metric_key)
            elif not known and names is not None and len(usage.points) + len(new) >= names:
                why = limit_words("metric_names", names)
            elif key in usage.full or (
                limits.metric_rows is not None
                and usage.points.get(key, 0) + new.get(key, 0) >= limits.metric_rows
            ):
                why = limit_words("metric_rows", limits.metric_rows or usage.caps.get(f"rows/{key}"))
            elif limits.run_rows is not None and total >= limits.run_rows:
                why = limit_words("run_rows", limits.run_rows)
            else:
                new[key] = new.get(key, 0) + (1 if known else 0)
                if not known:
                    new[key] = 1
                total += 1
                yield point
                continue
            rows.append(_row_of(point, why))

    def _fitting_params(
        self, usage: RunUsage, limits: Limits, params: dict[str, str], rows: list[Row]
    ) -> dict[str, str]:
        most = usage.caps.get("run_params", limits.run_params)
        kept: dict[str, str] = {}
        for key, value in params.items():
            fitting, why = _fitting("param", limits, key, value)
            new = key not in usage.params
            if fitting is not None and most is not None and new and len(usage.params | kept.keys()) >= most:
                fitting, why = None, limit_words("run_params", most)
            if fitting is not None:
                kept[key] = fitting
            if why is not None:
                rows.append(_item("p", key, value, why))
        return kept

    def _fitting_tags(
        self, usage: RunUsage, limits: Limits, tags: dict[str, str], rows: list[Row]
    ) -> tuple[dict[str, str], list[str]]:
        most = usage.caps.get("run_tags", limits.run_tags)
        kept: dict[str, str] = {}
        stale = []
        # Ours first, then MLflow's own: what they say is not said elsewhere.
        for key in sorted(tags, key=_rank):
            value = tags[key]
            fitting, why = (value, None) if key in RESERVED else _fitting("tag", limits, key, value)
            new = key not in usage.tags and key not in RESERVED
            full = new and most is not None and len(usage.tags | kept.keys() | RESERVED) >= most
            if fitting is not None and full:
                fitting, why = None, limit_words("run_tags", most)
            if fitting is not None:
                kept[key] = fitting
            elif key in usage.tags:
                stale.append(key)
            if why is not None:
                rows.append(_item("g", key, value, why))
        return kept, stale

    def split_tags(self, tags: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the tags that a run can be made with, and those that have to overflow (some of both cut)."""
        rows: list[Row] = []
        kept, _ = self._fitting_tags(RunUsage(), self.learned.limits, tags, rows)
        return kept, {key: value for _, key, _, _, _, value, _ in rows}

    def sent(self, run: str, batch: Batch) -> None:
        """Note in the run's book what the workspace has taken."""
        usage = self._usages.get(run)
        if usage is None:
            return
        for point in batch.metrics:
            usage.points[point[0]] = usage.points.get(point[0], 0) + 1
        usage.total += len(batch.metrics)
        usage.params.update(batch.params)
        usage.tags.update(batch.tags)

    def untagged(self, run: str, key: str) -> None:
        """Note that a tag was removed."""
        if (usage := self._usages.get(run)) is not None:
            usage.tags.discard(key)
        self._drop(run, [key])

    def _fit_after_all(self, run: str, tags: dict[str, str]) -> None:
        """Forget what was kept of tags that are sent whole; what was cut before is sent again as it is."""
        if not tags or not self._rows.has_any(self.role, run):
            return
        limit = self.learned.limits.tag_value
        self._drop(
            run,
            [k for k, v in tags.items() if len(v) != limit or self._whole(run, "g", k, v) == v],
        )

    def _drop(self, run: str, tags: list[str]) -> None:
        if self._rows.has_any(self.role, run) and self._rows.drop(self.role, run, "g", tags):
            self._to_write(run)

    # --- what a refusal teaches

    def learn(self, run: str, run_id: str, batch: Batch, refusal: str) -> bool:
        """Keep the one item of a batch that was refused for a limit; True when it is worth another try."""
        usage = self._usage(run, run_id)
        named = number_named(refusal)
        if batch.metrics:
            point = batch.metrics[0]
            key = point[0]
            if len(point) > 4 and point[4] is not None and point[4][0]:
                # It may be the model that has as many as it may have: the run's own point is worth a try.
                most = self.learned.limits.model_metrics
                self.keep(run, [_row_of(point, limit_words("model_metrics", most or named))])
                batch.metrics = [point[:4]]
                return True
            if key in usage.points:
                why = limit_words("metric_rows", named)
                usage.full.add(key)
                if named is not None:
                    usage.caps[f"rows/{key}"] = named
            elif named == len(usage.points):
                why = limit_words("metric_names", named)
                usage.caps["metric_names"] = len(usage.points)
            else:
                long_key = named is not None and named < len(key)
                why = limit_words("metric_key", named) if long_key else limit_words("m", None)
            self.keep(run, [_row_of(batch.metrics[0], why)])
            return False
        kind, items, have, name = (
            ("p", batch.params, usage.params, "run_params")
            if batch.params
            else ("g", batch.tags, usage.tags, "run_tags")
        )
        ((key, value),) = items.items()
        if kind == "g" and key in RESERVED:
            return self._make_room(run, run_id, usage, named)
        if named is not None and named == len(have):
            usage.caps[name] = len(have)
            why = limit_words(name, named)
        elif named is not None and named < max(len(key), len(value)):
            word = "param" if kind == "p" else "tag"
            why = limit_words(f"{word}_{'value' if named < len(value) else 'key'}", named)
        else:
            why = limit_words(kind, None)
        self.keep(run, [_item(kind, key, self._whole(run, kind, key, value), why)])
        return False

    def _whole(self, run: str, kind: str, key: str, value: str) -> str:
        """Return a refused value as it was before it was cut: what is kept of it already."""
        kept = (v for k, _, _, _, v in self._rows.of_kind(self.role, run, kind) if k == key)
        return next((whole for whole in kept if whole.startswith(value)), value)

    def _make_room(self, run: str, run_id: str, usage: RunUsage, named: int | None) -> bool:
        """Move one of the user's tags into the artifact; False where there is none."""
        tags = self.destination.get_run(run_id).data.tags
        movable = sorted(key for key in tags if not key.startswith(("mlflow.", "dbml_")))
        if not movable:
            return False
        usage.caps["run_tags"] = len(tags)
        key = movable[-1]
        value = self._whole(run, "g", key, tags[key])
        self.keep(run, [_item("g", key, value, limit_words("run_tags", named))])
        self._untag(run_id, key)
        usage.tags = set(tags) - {key}
        return True

    def _untag(self, run_id: str, key: str) -> None:
        try:
            self.acknowledged.untagged(run_id, key)
            self.destination.delete_tag(run_id, key)
        except MlflowException as error:
            if not is_missing(error):
                raise

    # --- the artifact

    def keep(self, run: str, rows: list[Row]) -> None:
        """Keep what does not fit until it stands in the run's artifact."""
        self._restore(run)
        self._rows.add(self.role, run, rows)
        with self._keeping:
            self._kept[run] = self._kept.get(run, 0) + 1
            self._to_write(run)
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

    def _to_write(self, run: str) -> None:
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

    def write_due(self, is_waiting: Callable[[str], bool], *, at_once: bool) -> None:
        """Write the artifacts of runs of which nothing is on its way; a live run's now and then.

        What the workspace does not take now is tried again later; nothing waits for it.
        """
        for run in list(self.unwritten()):
            ended = (self.state.run(run) or {}).get("ended", False)
            due = self._next_write.get(run, 0.0) <= self.clock.monotonic()
            soon = due or (run not in self._failed and (ended or at_once))
            if not soon or is_waiting(run):
                continue
            try:
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
                    self.clear(run)

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
        repository = self.reader.repository(f"run:{run}")
        with tempfile.TemporaryDirectory() as folder:
            held = json.loads(Path(repository.download_artifacts(known["path"], folder)).read_text("utf-8"))
        whys = {(kind, key): why for kind, key, why, _ in known["keys"]}
        rows: list[Row] = []
        for kind, name in (("p", "params"), ("g", "tags")):
            rows += [_item(kind, k, v, whys.get((kind, k), "")) for k, v in held[name].items()]
        for key, points in held["metrics"].items():
            why = whys.get(("m", key), "")
            rows += [_row_of((key, p[2], p[1], p[0], *p[3:]), why) for p in points]
        self._rows.add(self.role, run, rows)
        self._note(run, {**known, "cleared": False})

    def clear(self, run: str) -> None:
        """Give back the space of a run that is over and whose artifact is whole."""
        self._usages.pop(run, None)
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
        """Return what the link's status says: runs that overflowed, and live ones that soon will."""
        runs = self.state.overflow_files.runs(self.role)
        names = [str((self.state.run(run) or {}).get("name") or run[:8]) for run in runs]
        if not names:
            return self.near()
        shown = ", ".join(names[-3:]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        have, each = ("has", "its") if len(names) == 1 else ("have", "each one's")
        said = (
            f"{shown} {have} more than {self.role} takes: what is missing there is in {each} file {ARTIFACT}"
        )
        return [said, *self.near()]

    def near(self) -> list[str]:
        """Return a line for each live run that is near a limit."""
        limits, found = self.learned.limits, []
        for run, usage in list(self._usages.items()):
            known = self.state.run(run) or {}
            if known.get("ended", False):
                continue
            for name, size, most in (
                ("metric_names", len(usage.points), limits.metric_names),
                ("metric_rows", max(usage.points.values(), default=0), limits.metric_rows),
                ("run_rows", usage.total, limits.run_rows),
                ("run_params", len(usage.params), limits.run_params),
                ("run_tags", len(usage.tags | RESERVED), limits.run_tags),
            ):
                if most is not None and _NEAR * most <= size:
                    shown = known.get("name") or run[:8]
                    found.append(
                        f"{shown} has {size:,} of the {limit_words(name, most)} that {self.role} takes"
                    )
        return found


def _limits_runs(limits: Limits) -> bool:
    return limits.run_tags is not None or limits.metric_names is not None


def _rank(key: str) -> int:
    return 0 if key in RESERVED else 1 if key.startswith("mlflow.") else 2


def _has_long(limits: Limits, batch: Batch) -> bool:
    """Tell whether a param or tag of a batch is longer than the workspace takes."""
    return any(
        _too_long(kind, limits, key, value) is not None
        for kind, items in (("param", batch.params), ("tag", batch.tags))
        for key, value in items.items()
    )


def _fitting(kind: str, limits: Limits, key: str, value: str) -> tuple[str | None, str | None]:
    """Return (what of a value the workspace takes, or None; the limit for which the whole overflows)."""
    what = _too_long(kind, limits, key, value)
    if what is None:
        return value, None
    most = getattr(limits, what)
    cut = value[:most] if limits.cuts_values and what == f"{kind}_value" else None
    return cut, limit_words(what, most)


def _too_long(kind: str, limits: Limits, key: str, value: str) -> str | None:
    """Return the name of the limit that a param or tag is too long for, or None."""
    for what, text in (("key", key), ("value", value)):
        most = getattr(limits, f"{kind}_{what}")
        if most is not None and len(text) > most:
            return f"{kind}_{what}"
    return None


def _row_of(point: Point, why: str) -> Row:
    extra = json.dumps(point[4]) if len(point) > 4 and point[4] is not None else ""
    return ("m", point[0], point[3], point[2], extra, _text(point[1]), why)


def _item(kind: str, key: str, value: str, why: str) -> Row:
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
