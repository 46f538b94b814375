"""Compare one run at two workspaces.

What differs by nature is no difference: the ids, MLflow's own tags about where code ran, tags of the services
and of this package, and what a workspace cannot hold and keeps in our own file instead.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from typing import Any

from mlflow.entities import DatasetInput, Metric, Run

from dbml_magics.core.delivery.writers.attached import Attached, Scored
from dbml_magics.core.delivery.writers.emulated_models import FOLDER as MODELS_FOLDER
from dbml_magics.core.delivery.writers.emulated_models import MODELS_TAG, paths_in
from dbml_magics.core.delivery.writers.learned import Lack
from dbml_magics.core.destinations.errors import WouldRefuse
from dbml_magics.core.mlflow_private import metric_points
from dbml_magics.core.parallel import in_parallel
from dbml_magics.core.reconcile.files import Files, folded, unlike_files
from dbml_magics.core.reconcile.readers import Model, WorkspaceReader
from dbml_magics.core.run_view import Mark, mark
from dbml_magics.core.runtime.retention import NOTE_TAG
from dbml_magics.results.reconcile import ABSENT, Difference

_OF_RUNS: tuple[Lack, ...] = ("inputs", "outputs")
PARENT = "mlflow.parentRunId"
ALL_FILES = "(all)"
"""Stands for every path, where a workspace may not have its files where it says that they are."""
_OVERFLOWS = {"param": "params", "tag": "tags", "metric": "metrics", "name": "tags", "note": "tags"}
_TAG_OF = {"name": "mlflow.runName", "note": NOTE_TAG}
Unread = Callable[[str, str, Exception, str], Difference]
HeldBack = Callable[[], dict[str, Any]]  # what a run's own file has, read when it is first looked at
_OWN_FOLDER = MODELS_FOLDER.partition("/")[0]
_THEIR_OWN = ("mlflow.", "dbml_", "azureml.")


class Comparer:
    """Compares runs of two workspaces, with their models, datasets and files."""

    def __init__(
        self,
        first: WorkspaceReader,
        second: WorkspaceReader,
        unread: Unread,
        *,
        deep: bool = False,
        files: bool = True,
        histories_at_once: int = 1,
        by_receipt: bool = False,
    ) -> None:
        self.unread = unread
        self.first = first
        self.second = second
        self.deep = deep
        self.files = files
        self._at_once = histories_at_once
        self._by_receipt = by_receipt
        # Histories that had to be read, runs that were asked for themselves, runs whose files were listed.
        self.histories = self.asked_again = self.listed = 0
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], Files] = {}  # (workspace, its run) -> files that were just listed

    def run(self, key: str, first: Run, second: Run, *, whole: bool) -> list[Difference]:
        """Return what differs between the two forms of a run.

        What a search returned is asked for again where it differs or does not tell all; ``whole`` forms not.
        """
        both = (self.first, first), (self.second, second)
        models = all(reader.has_models(str(run.info.experiment_id)) for reader, run in both)
        # A search does not say which models a run took: only the run itself does, where there are any.
        asked = not whole and models and any(reader.has_any_model for reader in (self.first, self.second))
        found = [] if asked else (self.entities if whole or models else self._told)(key, first, second)
        if not whole and (found or asked):
            with self._lock:
                self.asked_again += 1
            # A search may lag behind: what it says differs is believed only of the run itself.
            first, second = self.first.get_run(first.info.run_id), self.second.get_run(second.info.run_id)
            found = self.entities(key, first, second)
        held = _held_by(self.first, first), _held_by(self.second, second)
        found = [d for d in found if not self._overflowed(d, held)]
        checked = [d for d in found if d.kind != "metric"]
        latest = {d.key: d for d in found if d.kind == "metric"}
        names = {*first.data.metrics, *second.data.metrics} if self.deep else set(latest)

        def history(name: str) -> list[Difference]:
            with self._lock:
                self.histories += (name in first.data.metrics) + (name in second.data.metrics)
            points = Points(self.first, first, self.second, second, name)
            points.settle(*held)
            return list(self._history(key, first, points, latest.get(name)))

        for unlike in in_parallel(self._at_once, history, sorted(names)):
            checked += unlike
        if self.files and (self.deep or not self._are_without_files(key, first, second)):
            with self._lock:
                self.listed += 1
            try:
                checked += self._files(key, first, second)
            except Exception as error:  # everything else of the run is known
                checked.append(self.unread(key, name_of(first), error, "artifacts"))
        return checked

    def points(
        self, reader: WorkspaceReader, run: Run, other: WorkspaceReader, other_run: Run, name: str
    ) -> Points:
        """Return a metric's points at two workspaces, points in the run's overflow file included."""
        points = Points(reader, run, other, other_run, name)
        points.settle(_held_by(reader, run), _held_by(other, other_run))
        return points

    def difference(
        self, run: str, name: str, kind: str, key: str, first: object, second: object
    ) -> Difference:
        """Return a difference between the two workspaces."""
        return Difference(run, name, kind, key, {self.first.role: first, self.second.role: second})

    @property
    def has_models(self) -> bool:
        """Tell whether both services have logged models, as far as it is known."""
        return self.first.side.learned.has_logged_models and self.second.side.learned.has_logged_models

    def entities(self, key: str, first: Run, second: Run) -> list[Difference]:
        """Compare the two forms of a run except for histories and files."""
        return [*self._told(key, first, second), *self._attached(key, first, second)]

    # --- what get_run and search_runs tell

    def _told(self, key: str, first: Run, second: Run) -> list[Difference]:
        name = name_of(first)
        found = [
            self.difference(key, name, kind, "", a, b)
            for kind, a, b in (
                ("name", name, name_of(second)),
                ("status", first.info.status, second.info.status),
                ("start", first.info.start_time, second.info.start_time),
                ("end", first.info.end_time or 0, second.info.end_time or 0),
                ("stage", first.info.lifecycle_stage, second.info.lifecycle_stage),
            )
            if a != b
        ]
        found += self._parents(key, name, first, second)
        found += self._maps(key, name, "param", first.data.params, second.data.params)
        found += self._maps(key, name, "tag", user_tags(first), user_tags(second))
        note_a, note_b = first.data.tags.get(NOTE_TAG, ABSENT), second.data.tags.get(NOTE_TAG, ABSENT)
        if (note_a or "") != (note_b or ""):
            found.append(self.difference(key, name, "note", "", note_a, note_b))
        found += self._maps(key, name, "metric", latest_of(first), latest_of(second))
        return found

    def _attached(self, key: str, first: Run, second: Run) -> Iterator[Difference]:
        """Yield differences in a run's input datasets and in its input and output models."""
        name, lacks = name_of(first), {what for what in _OF_RUNS if self._lack(what)}
        ours, theirs = self.attached(first, second)
        if "inputs" not in lacks:
            yield from self._datasets(key, name, ours.datasets, theirs.datasets)
        if not self.has_models:
            return
        if "inputs" not in lacks:
            taken = (dict.fromkeys(each.inputs, "taken") for each in (ours, theirs))
            yield from self._maps(key, name, "input", *taken)
        if "outputs" not in lacks:
            steps = ({m: f"step {step}" for m, step in each.outputs.items()} for each in (ours, theirs))
            yield from self._maps(key, name, "output", *steps)

    def _lack(self, what: Lack) -> bool:
        return any(reader.side.learned.lacks(what) for reader in (self.first, self.second))

    def _datasets(
        self, key: str, name: str, first: dict[str, DatasetInput], second: dict[str, DatasetInput]
    ) -> Iterator[Difference]:
        there = ({k: d.dataset.source_type for k, d in each.items()} for each in (first, second))
        for found in self._maps(key, name, "dataset", *there):
            yield found
        for dataset in sorted(first.keys() & second.keys()):
            ours, theirs = dataset_facts(first[dataset]), dataset_facts(second[dataset])
            for found in self._maps(key, name, "dataset", ours, theirs):
                yield replace(found, key=f"{dataset} {found.key}")

    def attached(self, first: Run, second: Run) -> tuple[Attached, Attached]:
        """Return the datasets and models of both forms of a run, each model under its shared id."""
        ours, theirs = self.first.attached(first), self.second.attached(second)
        there = {*theirs.inputs, *theirs.outputs}
        lone = {*ours.inputs, *ours.outputs} - there
        # The primary knows a model that was named while it was away under another id: its tag says which.
        other = {model: tag for model in lone if there and (tag := self._tag_of(model)) in there}
        ours = replace(
            ours,
            inputs=tuple(other.get(m, m) for m in ours.inputs),
            outputs={other.get(m, m): step for m, step in ours.outputs.items()},
        )
        return _living(self.first, ours, theirs), _living(self.second, theirs, ours)

    def _maps(
        self, run: str, name: str, kind: str, first: Mapping[str, object], second: Mapping[str, object]
    ) -> Iterator[Difference]:
        for key in sorted({*first, *second}):
            a, b = first.get(key, ABSENT), second.get(key, ABSENT)
            if a != b:
                yield self.difference(run, name, kind, key, a, b)

    def _parents(self, key: str, name: str, first: Run, second: Run) -> Iterator[Difference]:
        a, b = parent_key(self.first, first), parent_key(self.second, second)
        if a != b:
            yield self.difference(key, name, "parent", "", a or ABSENT, b or ABSENT)

    def _tag_of(self, model: str) -> str:
        if not self.first.side.learned.has_logged_models:
            return ""
        found = self.first.model(self.first.own_model(model))
        return found.other_key if found is not None else ""

    # --- what a workspace does not take, and keeps in a file of the run instead

    def _overflowed(self, difference: Difference, held: tuple[HeldBack, HeldBack]) -> bool:
        """Tell whether two sides are equal once each one's overflow file completes it."""
        name = _OVERFLOWS.get(difference.kind)
        if name is None:
            return False
        readers = self.first, self.second
        stated = [difference.values.get(reader.role, ABSENT) for reader in readers]
        kept = [
            own().get(name, {}).get(_TAG_OF.get(difference.kind, difference.key), ABSENT)
            if reader.bounded
            else ABSENT
            for reader, own in zip(readers, held, strict=True)
        ]
        if difference.kind == "metric":
            pairs = (kept[0], stated[1]), (kept[1], stated[0])
            return any(isinstance(own, list) and other in _marks(own) for own, other in pairs)
        # What a service shows is a beginning of what its file has, or somebody has changed it since.
        whole = [
            own if own is not ABSENT and (there is ABSENT or str(own).startswith(str(there))) else there
            for own, there in zip(kept, stated, strict=True)
        ]
        return bool(whole[0] == whole[1])

    # --- histories

    def _history(
        self, run: str, first: Run, points: Points, latest: Difference | None
    ) -> Iterator[Difference]:
        if not points.differ:
            return  # a service may call another point of the same history the latest one
        if latest is not None:
            yield Difference(latest.run, latest.name, "metric", points.name, _values(latest))
            return
        counts = [
            f"{count:,} points" + (f", {own.total():,} its own" if own else "")
            for count, own in zip(points.counts, (points.only_first, points.only_second), strict=True)
        ]
        yield self.difference(run, name_of(first), "history", points.name, *counts)

    # --- files

    def _are_without_files(self, key: str, first: Run, second: Run) -> bool:
        return all(
            reader.is_without_files(key, run, by_receipt=self._by_receipt)
            for reader, run in ((self.first, first), (self.second, second))
        )

    def _files(self, run: str, first: Run, second: Run) -> Iterator[Difference]:
        try:
            found = self.run_files(first, second)
        except WouldRefuse:
            places = [
                _reached(reader, f.info.artifact_uri)
                for reader, f in ((self.first, first), (self.second, second))
            ]
            yield self.difference(run, name_of(first), "artifact", ALL_FILES, *places)
            return
        for path, a, b in unlike_files(*found):
            yield self.difference(run, name_of(first), "artifact", path, a, b)

    def run_files(self, first: Run, second: Run) -> tuple[Files, Files]:
        """Return a run's files at both workspaces, without those of its kept models and our own."""
        return self.alike(self.files_of(self.first, first), self.files_of(self.second, second))

    def keep_files(self, reader: WorkspaceReader, run: Run, files: Files) -> None:
        """Remember a run's files for the comparison that follows at once."""
        self._kept[reader.role, run.info.run_id] = files

    def files_of(self, reader: WorkspaceReader, run: Run) -> Files:
        """Return a run's files at one workspace, as they are listed there."""
        if (kept := self._kept.pop((reader.role, run.info.run_id), None)) is not None:
            return kept
        repository = reader.side.destination.artifacts(run.info.artifact_uri)
        return reader.files(repository, [_OWN_FOLDER, *paths_in(run.data.tags.get(MODELS_TAG, ""))])

    def alike(self, first: Files, second: Files) -> tuple[Files, Files]:
        """Return both workspaces' files, a write-once copy beside the original under its original name."""
        return (
            folded(first, second) if self.first.writes_once else first,
            folded(second, first) if self.second.writes_once else second,
        )

    def model(self, key: str, first: Model | None, second: Model | None) -> Iterator[Difference]:
        """Yield the differences between the two forms of a logged model."""
        either = first or second
        assert either is not None
        if first is None or second is None:
            there = (first.facts["status"] if first else ABSENT, second.facts["status"] if second else ABSENT)
            yield self.difference(either.run, either.name, "model", key, *there)
            return
        for fact in sorted({*first.facts, *second.facts}):
            a, b = first.facts.get(fact, ABSENT), second.facts.get(fact, ABSENT)
            if a != b:
                yield self.difference(either.run, either.name, "model", f"{key} {fact}", a, b)
        if first.run != second.run:
            runs = first.run or ABSENT, second.run or ABSENT
            yield self.difference(either.run, either.name, "model", f"{key} run", *runs)
        yield from self._scores(key, first, second)
        if self.files:
            try:
                files = self.model_files(key)
            except WouldRefuse as refused:
                yield self.difference(
                    either.run, either.name, "model", f"{key} file {ALL_FILES}", refused.message, "there"
                )
                return
            for path, ours, theirs in unlike_files(*files):
                yield self.difference(either.run, either.name, "model", f"{key} file {path}", ours, theirs)

    def _scores(self, key: str, first: Model, second: Model) -> Iterator[Difference]:
        """Yield the metrics of which one form of a model has points that the other one lacks."""
        ours, theirs = unlike_points(self.first, first, self.second, second)
        for place in sorted({each.place for each in (*ours, *theirs)}):
            marked = [[p.mark for p in points if p.place == place] for points in (ours, theirs)]
            what = metric_words(place)
            values = (_point(max(marks, key=lambda m: m[:2])) if marks else ABSENT for marks in marked)
            yield self.difference(first.run, first.name, "model", f"{key} metric {what}", *values)

    def model_files(self, key: str) -> tuple[Files, Files]:
        """Return a logged model's files at both workspaces."""
        owner = f"model:{key}"
        first, second = (
            reader.files(reader.side.reader.repository(owner)) for reader in (self.first, self.second)
        )
        return self.alike(first, second)


def _reached(reader: WorkspaceReader, uri: str) -> str:
    """Return why a workspace may not have its files where it says, or that they are there."""
    try:
        reader.side.destination.artifacts(uri)
    except WouldRefuse as refused:
        return str(refused.message)
    return "there"


def _held_by(reader: WorkspaceReader, run: Run) -> HeldBack:
    return cache(lambda: reader.overflow(run)) if reader.bounded else dict


def _marks(held: Iterable[Metric]) -> Iterator[Mark]:
    """Yield the points that a run's own file has, as they compare."""
    for step, time, value, *_ in held:
        yield mark(float(value), time, step)


def _values(difference: Difference) -> dict[str, Any]:
    return {role: point if point is ABSENT else _point(point) for role, point in difference.values.items()}


def _point(point: Mark) -> str:
    step, _, value = point
    return f"{value} at step {step}"


def name_of(run: Run) -> str:
    """Return a run's name."""
    return str(run.data.tags.get("mlflow.runName") or run.info.run_name or "")


def user_tags(run: Run) -> dict[str, str]:
    """Return the tags that both workspaces should have alike."""
    return {k: v for k, v in run.data.tags.items() if not k.startswith(_THEIR_OWN)}


def latest_of(run: Run) -> dict[str, Mark]:
    """Return each metric's latest point."""
    return {m.key: mark(m.value, m.timestamp, m.step) for m in metric_points(run)}


def _living(reader: WorkspaceReader, own: Attached, other: Attached) -> Attached:
    """Leave out deleted models that one workspace alone refers to: they cannot be copied."""
    lone = {*own.inputs, *own.outputs} - {*other.inputs, *other.outputs}
    asked = lone if reader.side.learned.has_logged_models else set()
    gone = {model for model in asked if reader.model(reader.own_model(model)) is None}
    return Attached(
        own.datasets,
        tuple(model for model in own.inputs if model not in gone),
        {model: step for model, step in own.outputs.items() if model not in gone},
    )


def dataset_facts(given: DatasetInput) -> dict[str, str]:
    """Return a dataset's attributes in a run other than its name and digest."""
    held = given.dataset
    facts = {"type": held.source_type, "source": held.source, "schema": held.schema, "profile": held.profile}
    facts |= {f"tag {tag.key}": tag.value for tag in given.tags}
    return {name: value for name, value in facts.items() if value}


def unlike_points(
    first: WorkspaceReader, one: Model, second: WorkspaceReader, other: Model
) -> tuple[set[Scored], set[Scored]]:
    """Return the points of a logged model that each of its two forms alone has.

    Of a model that we keep, only the latest point of each metric is known, and not in which run it was
    logged.
    """
    ours, theirs = one.points, other.points
    if one.native is None or other.native is None:
        ours, theirs = _latest(ours), _latest(theirs)
    alone = set(ours - theirs), set(theirs - ours)
    return (
        {each for each in alone[0] if not _stands_for_nan(first, one, each)},
        {each for each in alone[1] if not _stands_for_nan(second, other, each)},
    )


def metric_words(place: tuple[str, str, str]) -> str:
    """Return a logged model's metric in words: its name, and the dataset that it was measured on."""
    return " on ".join(filter(None, (place[0], " ".join(place[1:]).strip())))


def _latest(points: Iterable[Scored]) -> frozenset[Scored]:
    found: dict[tuple[str, str, str], Scored] = {}
    for each in points:
        there = found.get(each.place)
        if there is None or each.mark[:2] >= there.mark[:2]:
            found[each.place] = replace(each, run="")
    return frozenset(found.values())


def _stands_for_nan(reader: WorkspaceReader, model: Model, point: Scored) -> bool:
    """Tell whether a model's zero is its run's NaN, as MLflow's own server tells it: nobody can add that."""
    step, time, value = point.mark
    if value != 0 or model.native is None:
        return False
    logged = {
        m.run_id
        for m in model.native.metrics or []
        if (m.key, m.step, m.timestamp) == (point.key, step, time)
    }
    return any(
        mark(m.value, m.timestamp, m.step) == (step, time, "nan")
        for run_id in filter(None, logged)
        for m in reader.history(run_id, point.key)
    )


class Points:
    """A metric's points at two workspaces: equal points are counted and dropped while streaming."""

    def __init__(
        self, first: WorkspaceReader, one: Run, second: WorkspaceReader, other: Run, name: str
    ) -> None:
        self.name = name
        self.counts = [0, 0]
        self.only_first: Counter[Mark] = Counter()
        self.only_second: Counter[Mark] = Counter()
        streams = _points(first, one, name), _points(second, other, name)
        for a, b in zip_longest(*streams):
            self.counts[0] += a is not None
            self.counts[1] += b is not None
            if a == b:
                continue
            _count(self.only_first, self.only_second, a)
            _count(self.only_second, self.only_first, b)

    def settle(self, first: HeldBack, second: HeldBack) -> None:
        """Leave out points that one side has in its overflow file."""
        for number, (own, held) in enumerate(((self.only_second, first), (self.only_first, second))):
            if own:
                for point in _marks(held().get("metrics", {}).get(self.name, ())):
                    if own[point] > 0:
                        own[point] -= 1
                        self.counts[number] += 1
        self.only_first, self.only_second = +self.only_first, +self.only_second

    @property
    def differ(self) -> bool:
        """Tell whether the histories differ, regardless of their order."""
        return bool(self.only_first or self.only_second)


def _count(own: Counter[Mark], other: Counter[Mark], point: Mark | None) -> None:
    if point is None:
        return
    if other[point] > 1:
        other[point] -= 1
    elif other.pop(point, 0) == 0:
        own[point] += 1


def _points(reader: WorkspaceReader, run: Run, name: str) -> Iterator[Mark]:
    # Asked for a metric that a run has not, some services answer with an error.
    if name in run.data.metrics:
        for metric in reader.history(run.info.run_id, name):
            yield mark(metric.value, metric.timestamp, metric.step)


def parent_key(reader: WorkspaceReader, run: Run) -> str:
    """Return the id that the user knows of the run that a run is nested in, or nothing."""
    parent = run.data.tags.get(PARENT)
    return reader.key_of(parent) if parent else ""


def model_pairs(
    first: Iterable[Model], second: Iterable[Model], keep: Callable[[Model], bool]
) -> Iterator[tuple[str, Model | None, Model | None]]:
    """Pair logged models by the id that the user knows."""
    theirs = {m.key: m for m in second if keep(m)}
    for own in sorted((m for m in first if keep(m)), key=lambda m: m.key):
        other = theirs.pop(own.key, None) or theirs.pop(own.other_key, None)
        yield (other.key if other is not None else own.key), own, other
    for key in sorted(theirs):
        yield key, None, theirs[key]


def tags_of(model: Model) -> dict[str, str | None]:
    """Return a logged model's tags as its differences name them."""
    return {k: v for k, v in model.facts.items() if k.startswith("tag ")}
