"""Runs side by side, with the curves of their metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbml_magics.common.hints import Remedy, say
from dbml_magics.results.base import Result
from dbml_magics.results.best import BEST, best_of
from dbml_magics.results.boards import board
from dbml_magics.results.charts import Chart, Line, sparklines
from dbml_magics.results.html import Html, details, html_table, panel, parts_table, safe
from dbml_magics.results.runs import RunRow, RunsResult
from dbml_magics.results.text import (
    DIFFERS,
    LACKING,
    count,
    duration,
    listing,
    number,
    short,
    text_table,
    when,
)

__all__ = ["CompareResult", "ComparedMetric", "ComparedParam", "Curve"]


@dataclass(frozen=True)
class Curve:
    """A metric's points in one run, thinned; a value that is not finite is a gap that is marked."""

    steps: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    count: int = 0  # points logged
    odd: int = 0  # those that are NaN or infinite
    axis: str = "step"  # "point" where no steps were given: the steps are the points' places then
    times: tuple[float, ...] = ()  # seconds since the run began
    lost: float | None = None  # the step from which on no value is finite

    @property
    def trouble(self) -> str:
        """Say in words which values are not finite; empty where all are."""
        if not self.odd:
            return ""
        said = f"{count(self.odd, 'point')} of {self.count:,} not finite"
        if self.lost is None:
            return said
        last = self.values[-1]
        what = "NaN" if math.isnan(last) else "infinite" if last > 0 else "minus infinity"
        return f"{what} since {self.axis} {number(self.lost)} ({said})"

    def line(self, label: str) -> Line:
        """Return the curve as it is drawn."""
        return Line(label, self.steps, self.values, self.times)


@dataclass(frozen=True)
class ComparedParam:
    """A param's value in each run, None where a run lacks it."""

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Tell whether the runs have different values, or not all have one."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class ComparedMetric:
    """A metric's last value in each run, None where a run lacks it."""

    key: str
    last: tuple[float | None, ...]
    curves: tuple[Curve, ...] = ()  # of each run; empty for a metric that is not shown


_MOST_PARAMS = 20
NO_METRICS = "metrics: these runs have none"


@dataclass(frozen=True, repr=False)
class CompareResult(Result):
    """Runs side by side."""

    runs: tuple[RunRow, ...]
    shown: tuple[str, ...]  # the metrics that are shown; the frame has all
    curves: Mapping[str, tuple[Curve, ...]]  # shown metric -> its curve in each run
    notes: tuple[str, ...] = ()

    @property
    def params(self) -> tuple[ComparedParam, ...]:
        """Return all params, those that differ first."""
        keys = dict.fromkeys(key for run in self.runs for key in run.params)
        found = [ComparedParam(key, tuple(run.params.get(key) for run in self.runs)) for key in keys]
        return tuple(sorted(found, key=lambda param: not param.differs))

    @property
    def differing(self) -> tuple[ComparedParam, ...]:
        """Return the params that differ."""
        return tuple(param for param in self.params if param.differs)

    @property
    def metrics(self) -> tuple[ComparedMetric, ...]:
        """Return all metrics, those that are shown first."""
        keys = dict.fromkeys([*self.shown, *(key for run in self.runs for key in run.metrics)])
        return tuple(
            ComparedMetric(key, tuple(run.metrics.get(key) for run in self.runs), self.curves.get(key, ()))
            for key in keys
        )

    def to_pandas(self) -> Any:
        """Return a row for each run, params and metrics as columns ``params.*`` and ``metrics.*``."""
        return RunsResult(self.runs, "").to_pandas()

    def _experiments(self) -> list[str]:
        return list(dict.fromkeys(run.experiment for run in self.runs))

    def _headline(self) -> str:
        return f"Compared {len(self.runs)} runs of {' and '.join(self._experiments())}"

    def _heads(self) -> list[str]:
        return [f"{place} {short(run.name, 24)}".rstrip() for place, run in enumerate(self.runs, 1)]

    def _facts(self) -> list[list[str]]:
        facts = [["run", *(run.run_id[:8] for run in self.runs)]]
        if len(self._experiments()) > 1:
            facts.append(["experiment", *(run.experiment for run in self.runs)])
        facts.append(["status", *(run.status for run in self.runs)])
        facts.append(["started", *(when(run.start_time) for run in self.runs)])
        took = ["" if run.seconds is None else duration(run.seconds) for run in self.runs]
        return [*facts, ["took", *(each or LACKING for each in took)]]

    def _params_line(self) -> str:
        differing = len(self.differing)
        verb = "differs" if differing == 1 else "differ"
        return f"params: {differing} {verb} ({DIFFERS}), {len(self.params) - differing} equal"

    def _lines(self, metric: ComparedMetric) -> list[Line]:
        return [
            curve.line(short(run.name, 24) or run.run_id[:8])
            for run, curve in zip(self.runs, metric.curves, strict=True)
        ]

    def _said(self, metric: ComparedMetric) -> list[str]:
        best = best_of(metric.key, metric.last)
        return [
            LACKING if value is None else f"{number(value)} {BEST}" if place == best else number(value)
            for place, value in enumerate(metric.last)
        ]

    def _told(self, metric: ComparedMetric, said: Sequence[str]) -> Sequence[str]:
        """Return each run's last value and its curve, the values in a column of their own."""
        width = max(len(each) for each in said)
        curves = sparklines(self._lines(metric)) if metric.curves else []
        if not any(curves):
            return said
        return [f"{each.ljust(width)} {curve}" for each, curve in zip(said, curves, strict=True)]

    def _metrics_line(self, said: Sequence[Sequence[str]]) -> str:
        """Return what stands above the metrics, of which each run's last values are ``said``."""
        if not said:
            return NO_METRICS
        best = any(value.endswith(BEST) for values in said for value in values)
        return f"metrics: last values{f' ({BEST} the best)' if best else ''}, curves on one scale"

    def _left_out(self) -> list[str]:
        return [metric.key for metric in self.metrics if metric.key not in self.shown]

    def _odd(self) -> list[str]:
        """Return one line for each curve with gaps."""
        return [
            f"{metric.key} of {run.name or run.run_id[:8]}{' diverged' * (curve.lost is not None)}: "
            f"{curve.trouble}"
            for metric in self.metrics
            for run, curve in zip(self.runs, metric.curves, strict=False)
            if curve.odd
        ]

    def _more(self, most: int) -> str:
        left = self._left_out()
        if not left:
            return ""
        line = say(Remedy("compare", *(run.run_id[:8] for run in self.runs), metric=left[0]))
        return (
            f"{count(len(left), 'metric')} left out ({listing(left, most)}): "
            f"{line} shows one, to_pandas() has all"
        )

    def text(self) -> str:
        """Return aligned columns: the runs' facts, the params that differ, the metrics with their curves."""
        differing = self.differing
        params = [
            [f"{DIFFERS} {short(p.key, 32)}", *(LACKING if v is None else short(v, 24) for v in p.values)]
            for p in differing[:_MOST_PARAMS]
        ]
        shown = [metric for metric in self.metrics if metric.key in self.shown]
        said = [self._said(metric) for metric in shown]
        metrics = [
            [short(metric.key, 34), *self._told(metric, values)]
            for metric, values in zip(shown, said, strict=True)
        ]
        facts = self._facts()
        table = text_table(["", *self._heads()], [*facts, *params, *metrics])
        lines = [self._headline(), *table[: len(facts) + 1]]
        if self.params:
            lines.append(self._params_line())
            lines += table[len(facts) + 1 : len(facts) + 1 + len(params)]
            if len(differing) > len(params):
                lines.append(f"  … {len(differing) - len(params)} more differ; to_pandas() has all")
        lines.append(self._metrics_line(said))
        lines += table[len(facts) + 1 + len(params) :]
        end = [self._more(3), *self._odd(), *self.notes]
        return "\n".join([*lines, *(f"  {line}" for line in end if line)])

    def html(self) -> str:
        """Return the same as tables, with a picture of each shown metric's curves."""
        heads, differing = self._heads(), self.differing
        equal = [param for param in self.params if not param.differs]
        shown = [metric for metric in self.metrics if metric.key in self.shown]
        said = [self._said(metric) for metric in shown]
        left = [(m.key, *self._said(m)) for m in self.metrics if m.key not in self.shown]
        rows = [("", self._facts())]
        if self.params:
            rows.append((self._params_line(), [_param_cells(param) for param in differing]))
        cells = [[metric.key, *values] for metric, values in zip(shown, said, strict=True)]
        rows.append((self._metrics_line(said), cells))
        parts: list[str] = [parts_table(self._headline(), ["", *heads], rows)]
        if equal:
            values = [(param.key, short(param.values[0] or "", 200)) for param in equal]
            table = html_table("equal params", ["param", "value"], values)
            parts.append(details(count(len(equal), "equal param"), table))
        parts.append(self._board(shown))
        if left:
            table = html_table("metrics left out", ["metric", *heads], left)
            parts.append(details(self._more(3), table))
        return panel(*parts, *self._odd(), *self.notes)

    def _board(self, shown: Sequence[ComparedMetric]) -> Html:
        """Draw the metrics, those that only some runs have last."""
        drawn = [metric for metric in shown if metric.curves]
        charts = []
        for metric in sorted(drawn, key=lambda each: sum(not curve.count for curve in each.curves)):
            axis = next((curve.axis for curve in metric.curves if curve.count), "step")
            caption = Html(f"<strong>{safe(metric.key)}</strong>")
            charts.append((Chart(metric.key, axis, self._lines(metric)), caption))
        return board(charts)


def _param_cells(param: ComparedParam) -> list[str]:
    shown = [LACKING if value is None else short(value, 200) for value in param.values]
    return [f"{DIFFERS} {param.key}", *shown]
