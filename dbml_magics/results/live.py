"""What a live view shows: a run as it stands while its cell goes on, in text and in HTML.

What was shown last stays as it is in a notebook that is saved, exported or opened again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dbml_magics.results.base import Result
from dbml_magics.results.best import BEST, best_so_far
from dbml_magics.results.boards import board
from dbml_magics.results.charts import Chart
from dbml_magics.results.compare import Curve
from dbml_magics.results.html import Html, alert, escaped, panel, run_title, safe
from dbml_magics.results.link import Destination
from dbml_magics.results.pictures import small_curve
from dbml_magics.results.runs import TrackSummary
from dbml_magics.results.text import count, duration, listing, now, number, short

__all__ = ["FinishedRun", "LiveMetric", "Pace", "RunProgress", "charts", "diverged"]

_CHARTS = 8  # metrics drawn large; the others follow in columns, so that fifty of them fit a screen
_LISTED = 200


@dataclass(frozen=True)
class LiveMetric:
    """A metric's latest value and its thinned curve."""

    key: str
    last: float
    curve: Curve

    @property
    def drawable(self) -> bool:
        """Tell whether there is more than one point to draw."""
        return len(self.curve.values) > 1

    @property
    def value(self) -> str:
        """Return the latest value, and the best one where that is another and the metric's name tells it."""
        best = best_so_far(self.key, self.curve.values)
        told = "" if best is None or number(best) == number(self.last) else f" ({BEST} {number(best)})"
        return f"{number(self.last)}{told}"


def charts(metrics: Sequence[LiveMetric], key: str = "") -> Html:
    """Draw the first metrics large, and the others small in columns, with their latest values.

    ``key`` names the run, whose charts keep from one update to the next what their reader has set.
    """
    ordered = sorted(metrics, key=lambda m: (not m.drawable, m.key.startswith("system/")))
    large = [metric for metric in ordered[:_CHARTS] if metric.drawable]
    small = ordered[len(large) :]
    parts: list[str] = []
    if large:
        parts.append(board([_figure(metric) for metric in large], key))
    if small:
        rows = "".join(_item(metric) for metric in small[:_LISTED])
        parts.append(
            '<ul style="columns:200px auto;column-gap:20px;list-style:none;margin:6px 0;padding:0" '
            f'aria-label="latest values of {count(len(small), "metric")}">{rows}</ul>'
        )
        if len(small) > _LISTED:
            parts.append(f"<div>… {len(small) - _LISTED:,} more metrics</div>")
    return Html("".join(parts))


def _figure(metric: LiveMetric) -> tuple[Chart, Html]:
    curve = metric.curve
    points = curve.trouble or count(curve.count, "point")
    caption = f"<strong>{safe(metric.key)}</strong> {metric.value} <small>{points}</small>"
    return Chart(metric.key, curve.axis, [curve.line(metric.key)]), Html(caption)


def _item(metric: LiveMetric) -> str:
    curve = small_curve(metric.curve.values, metric.key) if metric.drawable else ""
    return (
        '<li style="break-inside:avoid;overflow-wrap:anywhere;line-height:1.5">'
        f"{safe(metric.key)} <strong>{metric.value}</strong> {curve}</li>"
    )


def diverged(metrics: Sequence[LiveMetric]) -> list[str]:
    """Return a line for each of the first metrics whose values are not finite any more."""
    lost = [metric for metric in metrics if metric.curve.lost is not None]
    said = [f"✗ {metric.key} diverged: {metric.curve.trouble}" for metric in lost[:4]]
    return said + ([f"✗ {len(lost) - 4:,} more metrics diverged"] if len(lost) > 4 else [])


@dataclass(frozen=True)
class Pace:
    """How far a run is, how fast it goes, and how far it is to go, as far as anybody knows."""

    done: float
    total: float | None = None
    rate: float | None = None  # a second
    unit: str = "step"

    @property
    def told(self) -> str:
        """Return it in words."""
        of = f" of {number(self.total)}" if self.total else ""
        parts = [f"{self.unit} {number(self.done)}{of}"]
        if self.rate:
            parts.append(f"{number(float(f'{self.rate:.3g}'))} a second")
            if self.total and self.total > self.done:
                parts.append(f"about {duration((self.total - self.done) / self.rate)} left")
        return ", ".join(parts)

    @property
    def bar(self) -> Html:
        """Return a bar where the end is known."""
        if not self.total:
            return Html("")
        share = min(max(self.done / self.total, 0.0), 1.0)
        return Html(f'<progress value="{share:.3f}" max="1" aria-label="{escaped(self.told)}"></progress> ')


@dataclass(frozen=True, repr=False)
class RunProgress(Result):
    """A run as it stands now."""

    run_id: str
    name: str
    experiment: str
    status: str
    seconds: float
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[LiveMetric, ...] = ()
    destinations: tuple[Destination, ...] = ()
    pace: Pace | None = None
    as_of: int = field(default_factory=now, compare=False)
    """When it stood so: a saved notebook shows it for good."""

    def _headline(self) -> str:
        return f"Run {self.name}  {self.status}  {duration(self.seconds)}  {self._as_of()}"

    def _as_of(self) -> str:
        return f"as of {datetime.fromtimestamp(self.as_of / 1000):%Y-%m-%d %H:%M:%S}"

    def _behind(self) -> list[str]:
        """Return how far each workspace is behind."""
        outcomes = []
        for place in self.destinations:
            if place.tracked:
                late = f", {duration(place.lag_seconds)} behind" if place.pending else ""
                outcomes.append(f"{place.name} {place.outcome()}{late}")
        return outcomes

    def _facts(self, most: int) -> list[tuple[str, str]]:
        params = [f"{key} {short(value)}" for key, value in self.params.items()]
        rows = [("experiment", self.experiment), ("params", listing(params, most))]
        return [row for row in rows if row[1]]

    def text(self) -> str:
        """Return the run's state, how far each workspace is behind, its params and its latest metrics."""
        lines = ["   ".join([self._headline(), *self._behind()])]
        if self.pace is not None:
            lines.append(f"  {'progress'.ljust(10)}  {self.pace.told}")
        lines += [f"  {label.ljust(10)}  {said}" for label, said in self._facts(2)]
        latest = [f"{metric.key} {metric.value}" for metric in self.metrics]
        if latest:
            lines.append(f"  {'metrics'.ljust(10)}  {listing(latest, 4)}")
        lines += [f"  {line}" for line in diverged(self.metrics)]
        return "\n".join(lines)

    def html(self) -> str:
        """Return the same with a chart of each of the first metrics."""
        facts = [f"{label}: {said}" for label, said in self._facts(8)]
        took = f" for {duration(self.seconds)}, {self._as_of()}"
        head = Html(f"{run_title(self.name, self.status)}{took}")
        lost = [alert(line) for line in diverged(self.metrics)]
        pace = Html("") if self.pace is None else Html(f"{self.pace.bar}{safe(self.pace.told)}")
        return panel(head, pace, " · ".join(self._behind()), *facts, *lost, charts(self.metrics, self.run_id))


@dataclass(frozen=True, repr=False)
class FinishedRun(Result):
    """A run's summary, with the charts that were live above it."""

    summary: TrackSummary
    metrics: tuple[LiveMetric, ...]

    def text(self) -> str:
        """Return the summary, and which metrics diverged."""
        return "\n".join([self.summary.text(), *(f"  {line}" for line in diverged(self.metrics))])

    def html(self) -> str:
        """Return the summary and the charts as they stood at the end."""
        drawn = [metric for metric in self.metrics if metric.drawable]
        lost = [alert(line) for line in diverged(self.metrics)]
        summary = self.summary.markup({metric.key for metric in drawn})
        return panel(Html(summary), *lost, charts(drawn, self.summary.run_id))
