"""Runs side by side: what differs in their params, their metrics' last values, their curves by step."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core import runs
from dbml_magics.core.destinations.errors import Unavailable, is_missing
from dbml_magics.core.mlflow_private import metric_points
from dbml_magics.core.pages import PagesOfLink
from dbml_magics.core.parallel import in_parallel, workers
from dbml_magics.core.run_view import clamp
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.errors import AmbiguousRun, BadCommand, RunNotFound, WorkspaceUnreachable
from dbml_magics.results.compare import CompareResult, Curve
from dbml_magics.results.runs import RunRow

_SHOWN = 8  # metrics, when none is named: more make no table that is read
_BUCKETS = 120  # a curve keeps the telling points of each
_MOST = clamp(math.inf)


def compare(engine: Engine, given: Sequence[str], metrics: Sequence[str], last: str | None) -> CompareResult:
    """Compare runs. Raises BadCommand, RunNotFound, AmbiguousRun, WorkspaceUnreachable."""
    ids = _resolved(engine, given, last)
    found = list(in_parallel(workers(engine), partial(_run, engine), ids))
    pages = PagesOfLink(engine)
    rows = tuple(_row(engine, run, pages) for run in found)
    shown = _named(rows, metrics) if metrics else _telling(found)
    curves, notes = _curves(engine, found, shown)
    for row in rows:
        if row.end_time is None:
            notes.append(f"{row.name or row.run_id[:8]} is still running: its values are those logged so far")
    return CompareResult(runs=rows, shown=tuple(shown), curves=curves, notes=tuple(notes))


def _resolved(engine: Engine, given: Sequence[str], last: str | None) -> list[str]:
    if len(given) < 2:
        raise BadCommand(
            "comparing needs two runs or more.", remedies=[(Remedy("runs"), "lists the runs with their ids")]
        )
    ids: list[str] = []
    for place, run in enumerate(given):
        before, after = given[:place], given[place + 1 :]

        def with_run(run: str, before: Sequence[str] = before, after: Sequence[str] = after) -> Remedy:
            return Remedy("compare", *before, run, *after)

        try:
            run_id = runs.resolve(engine, run, last, with_run)
        except RunNotFound as error:
            raise RunNotFound(error.message, remedies=_instead(engine, given, last)) from error
        if run_id in ids:
            raise BadCommand(
                f"run {run_id[:8]} is given twice: {given[ids.index(run_id)]!r} and {run!r} are the same.",
                remedies=_instead(engine, given, last),
            )
        ids.append(run_id)
    return ids


def _instead(engine: Engine, given: Sequence[str], last: str | None) -> list[tuple[str, str]]:
    """Return the command that compares what was probably meant, as it can be run, and where the ids are."""
    names = {run: str(info.get("name") or "") for run, info in engine.state.recent_runs(2000)}
    known = {run: _silently(engine, run, last) for run in given}
    taken = {run for run in known.values() if run is not None}
    words: list[str] = []
    meant: list[str] = []
    for place, run in enumerate(given):
        if known[run] is not None and known[run] not in [known[each] for each in given[:place]]:
            words.append(run)
            continue
        left = {each: name for each, name in names.items() if each not in taken}
        near = difflib.get_close_matches(run, left.values(), n=1, cutoff=0.6)
        # By its name, by one like it, else the newest one that is not there yet.
        other = next((each for each, name in left.items() if name in near), next(iter(left), None))
        if other is not None:
            taken.add(other)
            words.append(other[:8])
            meant.append(f"run {names[other] or other[:8]}")
    whole = (
        [(corrected(Remedy("compare", *words), *words), " and ".join(meant))]
        if len(words) > 1 and meant
        else []
    )
    return [*whole, (Remedy("runs"), "lists the runs with their ids")]


def _silently(engine: Engine, run: str, last: str | None) -> str | None:
    try:
        return runs.resolve(engine, run, last)
    except (RunNotFound, AmbiguousRun, WorkspaceUnreachable):
        return None


def _run(engine: Engine, run_id: str) -> Run:
    try:
        return runs.client(engine).get_run(run_id)
    except MlflowException as error:
        if is_missing(error):
            raise RunNotFound(
                f"run {run_id[:8]} is not in {' or '.join(engine.link.tracked)} any more.",
                remedies=[(Remedy("runs"), "lists the runs with their ids")],
            ) from error
        raise runs.as_error(engine, error, f"run {run_id[:8]}") from error


def _row(engine: Engine, run: Run, pages: PagesOfLink) -> RunRow:
    row = runs.row(engine, run, _experiment(engine, str(run.info.experiment_id)), pages)
    return replace(row, metrics={key: _unclamped(value) for key, value in row.metrics.items()})


def _experiment(engine: Engine, experiment_id: str) -> str:
    name = engine.state.experiments.name(experiment_id)
    if name is not None:
        return name
    try:
        return str(runs.client(engine).get_experiment(experiment_id).name)
    except MlflowException:
        return experiment_id


def _unclamped(value: float) -> float:
    """Return infinity for the largest float, which is what MLflow's databases keep of it."""
    return math.copysign(math.inf, value) if abs(value) >= _MOST else value


# --- which metrics


def _named(rows: Sequence[RunRow], metrics: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(key for row in rows for key in row.metrics))
    for metric in metrics:
        if metric in known:
            continue
        near = difflib.get_close_matches(metric, known, n=1, cutoff=0.5)
        line = Remedy("compare", *(row.run_id[:8] for row in rows))
        remedies = [(line.but(metric=near[0]), "")] if near else []
        raise BadCommand(
            f"none of these runs has a metric {metric!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            remedies=[*remedies, (line, "shows the metrics that there are")],
        )
    return list(dict.fromkeys(metrics))


def _telling(found: Sequence[Run]) -> list[str]:
    """Return the metrics that tell most: with a curve, had by all runs, differing; the system's own last."""
    latest: dict[str, list[Metric]] = {}
    for run in found:
        for metric in metric_points(run):
            latest.setdefault(metric.key, []).append(metric)

    def rank(key: str) -> tuple[bool, bool, bool, bool]:
        points = latest[key]
        flat = all(point.step == 0 for point in points)
        same = len({point.value for point in points}) == 1
        return key.startswith("system/"), flat, len(points) < len(found), same

    ordered = sorted(latest, key=rank)
    # The last one takes no more room than saying that there is one more.
    return ordered if len(ordered) <= _SHOWN + 1 else ordered[:_SHOWN]


# --- curves


def _curves(
    engine: Engine, found: Sequence[Run], shown: Sequence[str]
) -> tuple[dict[str, tuple[Curve, ...]], list[str]]:
    curves, notes = {}, []
    asked = [(run, key) for key in shown for run in found]
    answers = in_parallel(workers(engine), partial(_history, engine), asked)
    for key in shown:
        histories = []
        for run, answer in zip(found, answers, strict=False):  # as many answers as there are runs
            if isinstance(answer, MlflowException):
                why = (
                    answer.reason if isinstance(answer, Unavailable) else " ".join(str(answer).split())[:200]
                )
                name = run.info.run_name or run.info.run_id[:8]
                notes.append(f"the curve of {key} in {name} is missing: {why}")
                answer = []
            histories.append(answer)
        curves[key] = _on_one_axis(found, histories)
    return curves, notes if len(notes) < 4 else [*notes[:3], f"… {len(notes) - 3} more curves are missing"]


def _history(engine: Engine, asked: tuple[Run, str]) -> list[Metric] | MlflowException:
    run, key = asked
    if key not in run.data.metrics:
        return []
    try:
        history = runs.client(engine).get_metric_history(run.info.run_id, key)
    except MlflowException as error:
        return error
    return sorted(history, key=lambda point: (point.step, point.timestamp))


def _on_one_axis(found: Sequence[Run], histories: Sequence[Sequence[Metric]]) -> tuple[Curve, ...]:
    """Return the runs' curves by step; in the order of logging where nobody gave steps."""
    by_step = any(len({point.step for point in history}) > 1 for history in histories)
    began = [run.info.start_time or 0 for run in found]
    return tuple(_curve(history, by_step, start) for history, start in zip(histories, began, strict=True))


def _curve(history: Sequence[Metric], by_step: bool, began: int) -> Curve:
    values = [_unclamped(float(point.value)) for point in history]
    steps = [float(point.step if by_step else place) for place, point in enumerate(history)]
    odd = [not math.isfinite(value) for value in values]
    kept = _thinned(values)
    lost = next((place for place in range(len(odd), 0, -1) if not odd[place - 1]), 0)
    return Curve(
        steps=tuple(steps[place] for place in kept),
        values=tuple(values[place] for place in kept),
        count=len(values),
        odd=sum(odd),
        axis="step" if by_step else "point",
        times=tuple((history[place].timestamp - began) / 1000 for place in kept),
        lost=steps[lost] if lost < len(steps) else None,
    )


def _thinned(values: Sequence[float]) -> list[int]:
    """Return the places of each stretch's telling points, of the first and of the last.

    They are the lowest and the highest one (one looks for spikes), and the first that is not finite.
    """
    if len(values) <= 2 * _BUCKETS:
        return list(range(len(values)))
    kept = {0, len(values) - 1}
    for bucket in range(_BUCKETS):
        stretch = range(bucket * len(values) // _BUCKETS, (bucket + 1) * len(values) // _BUCKETS)
        finite = [place for place in stretch if math.isfinite(values[place])]
        if finite:
            kept.add(min(finite, key=values.__getitem__))
            kept.add(max(finite, key=values.__getitem__))
        if len(finite) < len(stretch):
            kept.add(next(place for place in stretch if not math.isfinite(values[place])))
    return sorted(kept)
