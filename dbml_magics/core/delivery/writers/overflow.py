"""What a run has more of than a workspace takes: left out there, said so, and kept as a file of the run.

A value that MLflow itself would cut is cut there, as plain MLflow's is, and stands whole in the file.
Azure ML takes 50 names of metrics a run, say. The 51st stays in the journal's state until it stands in the
run's artifact ``dbml/overflow.json`` at that workspace; everything else of the run goes on. The limits are
those of the table, or those that a refusal names. Our own two tags always fit: a user's tag makes room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.delivery.writers.acknowledged import Acknowledged
from dbml_magics.core.delivery.writers.overflow_files import OverflowFiles, item_row, point_row
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import is_missing
from dbml_magics.core.destinations.limits import Limits, cut_to, is_of_a_model, number_named
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.outbox.overflow_rows import OverflowRows, Row

RESERVED = frozenset({"dbml_run_id", "dbml_models"})
"""Run tags of ours, without which a run or model is not found again."""

_NAME = "mlflow.runName"
# Tags that a service keeps as fields of the run, with limits of their own.
_FIELDS = {_NAME: "run_name", "mlflow.note.content": "run_description"}
_BOOKS = 256
_NEAR = 0.9


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
    "run_name": "characters in a run's name",
    "run_description": "characters in a run's description",
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

    acknowledged: Acknowledged
    files: OverflowFiles
    _usages: dict[str, RunUsage] = field(default_factory=dict, init=False)
    _full_models: dict[str, str] = field(default_factory=dict, init=False)
    """Logged model of which the workspace takes no more points, be they of a metric that it has -> why."""

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
        known = run in self._usages or bool(self._full_models)
        if not known and not _limits_runs(limits) and not _has_long(limits, batch):
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
            self.files.keep(run, rows)
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
            if self._full_models and len(point) > 4 and point[4] and point[4][0] in self._full_models:
                rows.append(point_row(point, self._full_models[point[4][0]]))
                point = point[:4]
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
            rows.append(point_row(point, why))

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
                rows.append(item_row("p", key, value, why))
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
                rows.append(item_row("g", key, value, why))
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
        limits = self.learned.limits
        cuts = {limits.tag_value, limits.run_name, limits.run_description}
        self._drop(
            run,
            [k for k, v in tags.items() if len(v) not in cuts or self._whole(run, "g", k, v) == v],
        )

    def fitting_name(self, run: str, name: str | None) -> str | None:
        """Return a run's name as the workspace takes it; a longer one stands whole in the run's file."""
        fitting, why = _fitting("tag", self.learned.limits, _NAME, name or "")
        if why is None:
            return name
        self.files.keep(run, [item_row("g", _NAME, name or "", why)])
        return fitting

    def _drop(self, run: str, tags: list[str]) -> None:
        if self._rows.has_any(self.role, run) and self._rows.drop(self.role, run, "g", tags):
            self.files.to_write(run)

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
                why = limit_words("model_metrics", self.learned.limits.model_metrics or named)
                if is_of_a_model(refusal):
                    self._full_models[point[4][0]] = why
                self.files.keep(run, [point_row(point, why)])
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
            self.files.keep(run, [point_row(batch.metrics[0], why)])
            return False
        kind, items, have, name = (
            ("p", batch.params, usage.params, "run_params")
            if batch.params
            else ("g", batch.tags, usage.tags, "run_tags")
        )
        ((key, value),) = items.items()
        if kind == "g" and key in RESERVED:
            return self._make_room(run, run_id, usage, named)
        word = "param" if kind == "p" else "tag"
        cut = cut_to(refusal, value)
        if cut is not None:
            why = limit_words(f"{word}_value", len(cut))
            self.files.keep(run, [item_row(kind, key, self._whole(run, kind, key, value), why)])
            limits = self.learned.limits
            if len(cut) == named:  # characters: the next one need not be refused first
                self.learned.limits = (
                    replace(limits, param_value=named) if kind == "p" else replace(limits, tag_value=named)
                )
            items[key] = cut
            return limits.cuts_values
        if named is not None and named == len(have):
            usage.caps[name] = len(have)
            why = limit_words(name, named)
        elif named is not None and named < len(key.encode()):
            why = limit_words(f"{word}_key", named)
        else:
            why = limit_words(kind, None)
        self.files.keep(run, [item_row(kind, key, self._whole(run, kind, key, value), why)])
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
        self.files.keep(run, [item_row("g", key, value, limit_words("run_tags", named))])
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

    # --- the runs' files

    def write_due(self, is_waiting: Callable[[str], bool], *, at_once: bool) -> None:
        """Write the files that are due, and give back the space of the runs that are over with that."""
        for run in self.files.write_due(is_waiting, at_once=at_once):
            self.clear(run)

    def clear(self, run: str) -> None:
        """Give back the space of a run that is over and whose file is whole."""
        self._usages.pop(run, None)
        self.files.clear(run)

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
    cut = value[:most] if what == "run_name" or (limits.cuts_values and what == f"{kind}_value") else None
    return cut, limit_words(what, most)


def _too_long(kind: str, limits: Limits, key: str, value: str) -> str | None:
    """Return the name of the limit that a param or tag is too long for, or None."""
    of_value = _FIELDS.get(key) if kind == "tag" else None
    if of_value is None or getattr(limits, of_value) is None:
        of_value = f"{kind}_value"
    for what, text in ((f"{kind}_key", key), (of_value, value)):
        most = getattr(limits, what)
        if most is not None and len(text) > most:
            return what
    return None
