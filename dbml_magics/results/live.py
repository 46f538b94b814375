"""What a live view shows: a run as it stands while its cell goes on, in text and in HTML.

What was shown last stays as it is in a notebook that is saved, exported or opened again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dbml_magics.results.base import Result
from dbml_magics.results.best import BEST, best_so_far
from dbml_magics.results.boards import board
from dbml_magics.results.charts import Chart
from dbml_magics.results.compare import Curve
from dbml_magics.results.html import Html, alert, badge, escaped, panel, safe
from dbml_magics.results.link import Destination
from dbml_magics.results.pictures import small_curve
from dbml_magics.results.runs import TrackSummary
from dbml_magics.results.text import count, duration, listing, now, number, short, size

__all__ = ["FinishedRun", "LiveMetric", "LoggedFile", "Pace", "RunProgress", "charts", "diverged", "pictures"]

_CHARTS = 8  # metrics drawn large; the others follow in columns, so that fifty of them fit a screen
_LARGE_FROM = 5  # points: fewer of them are told in a line as well
_LISTED = 200
_LOGGED_IMAGE = re.compile(r"images/(.+)[+%]step[+%](\d+)[+%]timestamp[+%].*")  # MLflow's name for one
_OF_SYSTEM = "system/"  # MLflow's prefix for what it measures of the machine


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
    def large(self) -> bool:
        """Tell whether it is drawn as a chart of its own."""
        return self.drawable and self.curve.count >= _LARGE_FROM and not self.of_system

    @property
    def of_system(self) -> bool:
        """Tell whether MLflow has measured it of the machine."""
        return self.key.startswith(_OF_SYSTEM)

    @property
    def value(self) -> str:
        """Return the latest value, and the best one where that is another and the metric's name tells it."""
        last, best = number(self.last), best_so_far(self.key, self.curve.values)
        return last if best is None or number(best) == last else f"{last} ({BEST} {number(best)})"

    @property
    def told(self) -> str:
        """Return the same; where the metric's name does not tell the best, its lowest and highest value."""
        finite = [value for value in self.curve.values if math.isfinite(value)]
        if not finite or best_so_far(self.key, finite) is not None:
            return self.value
        low, high = number(min(finite)), number(max(finite))
        return self.value if low == high else f"{self.value} ({low} to {high})"


@dataclass(frozen=True)
class LoggedFile:
    """A file that a run has logged; ``picture`` is a small copy of an image, as the address of its data."""

    path: str
    size: int
    picture: str = ""

    @property
    def told(self) -> str:
        """Return its path and its size; of an image that ``mlflow.log_image`` named, its key and its step."""
        image = _LOGGED_IMAGE.fullmatch(self.path)
        name = f"{image[1]} step {image[2]}" if image else self.path
        return f"{short(name)} {size(self.size)}"


def charts(metrics: Sequence[LiveMetric], key: str = "") -> Html:
    """Draw the first metrics large, and the others small in columns, with their latest values.

    What MLflow measures of the machine is a group of its own. ``key`` names the run, whose charts keep from
    one update to the next what their reader has set.
    """
    own = sorted((m for m in metrics if not m.of_system), key=lambda m: (not m.large, not m.drawable))
    large = [metric for metric in own[:_CHARTS] if metric.large]
    drawn = board([_figure(metric) for metric in large], key) if large else ""
    machine = _columns([metric for metric in metrics if metric.of_system], "the machine")
    return Html(f"{drawn}{_columns(own[len(large) :])}{machine}")


def _columns(metrics: Sequence[LiveMetric], of: str = "") -> str:
    """List metrics small, in columns; ``of`` is the title of their group."""
    if not metrics:
        return ""
    label = f"latest values of {count(len(metrics), 'metric')}{f' of {of}' if of else ''}"
    listed = "".join(_item(metric) for metric in metrics[:_LISTED])
    left = len(metrics) - _LISTED
    return (
        (f"<div><small>{escaped(of)}</small></div>" if of else "")
        + '<ul style="columns:200px auto;column-gap:20px;list-style:none;margin:6px 0;padding:0" '
        f'aria-label="{escaped(label)}">{listed}</ul>'
        + (f"<div>… {left:,} more metrics</div>" if left > 0 else "")
    )


def pictures(files: Sequence[LoggedFile]) -> Html:
    """Show the small copies of logged images side by side."""
    figures = "".join(_picture(file) for file in files if file.picture)
    style = "display:flex;flex-wrap:wrap;gap:8px 16px;margin:6px 0"
    return Html(f'<div style="{style}">{figures}</div>' if figures else "")


def _picture(file: LoggedFile) -> str:
    said = escaped(f"logged image {file.path}")
    return (
        '<figure style="margin:0;max-width:200px"><img style="max-width:100%;max-height:140px" '
        f'src="{escaped(file.picture)}" alt="{said}"/>'
        f'<figcaption style="overflow-wrap:anywhere"><small>{safe(file.told)}</small></figcaption></figure>'
    )


def _figure(metric: LiveMetric) -> tuple[Chart, Html]:
    curve = metric.curve
    points = curve.trouble or count(curve.count, "point")
    caption = f"<strong>{safe(metric.key)}</strong> {metric.told} <small>{points}</small>"
    return Chart(metric.key, curve.axis, [curve.line(metric.key)]), Html(caption)


def _item(metric: LiveMetric) -> str:
    curve = small_curve(metric.curve.values, metric.key) if metric.drawable else ""
    return (
        '<li style="break-inside:avoid;overflow-wrap:anywhere;line-height:1.5">'
        f"{safe(metric.key.removeprefix(_OF_SYSTEM))} <strong>{metric.value}</strong> {curve}</li>"
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
    files: tuple[LoggedFile, ...] = ()  # what it has logged of them, the newest first
    note: str = ""
    as_of: int = field(default_factory=now, compare=False)
    """When it stood so: a saved notebook shows it for good."""

    def headline(self) -> str:
        """Return what the run is called, how it stood, and when that was."""
        return f"Run {self.name}  {self.status} {self._as_of()}, {duration(self.seconds)} so far"

    def line(self) -> str:
        """Return the run in one line, which is shown for a second."""
        parts = [f"Run {self.name}  {self.status} for {duration(self.seconds)}"]
        parts += [] if self.pace is None else [self.pace.told]
        own = [metric for metric in self.metrics if not metric.of_system]
        return "   ".join([*parts, *(f"{metric.key} {metric.value}" for metric in own[:2])])

    def _as_of(self) -> str:
        """Say when the run stood so: a saved view is read when it has long ended."""
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
        files = listing([file.told for file in self.files], most)
        rows = [("experiment", self.experiment), ("params", listing(params, most)), ("artifacts", files)]
        return [row for row in rows if row[1]]

    def text(self) -> str:
        """Return the run's state, how far each workspace is behind, its params and its latest metrics."""
        lines = ["   ".join([self.headline(), *self._behind()])]
        if self.pace is not None:
            lines.append(f"  {'progress'.ljust(10)}  {self.pace.told}")
        lines += [f"  {label.ljust(10)}  {said}" for label, said in self._facts(2)]
        latest = [f"{metric.key} {metric.told}" for metric in self.metrics]
        if latest:
            lines.append(f"  {'metrics'.ljust(10)}  {listing(latest, 4)}")
        lines += [f"  {line}" for line in [*diverged(self.metrics), self.note] if line]
        return "\n".join(lines)

    def html(self) -> str:
        """Return the same with a chart of each of the first metrics."""
        facts = [f"{label}: {said}" for label, said in self._facts(8)]
        so_far = f"{duration(self.seconds)} so far"
        head = Html(f"{badge(self.status, self._as_of())} · <strong>Run {safe(self.name)}</strong>, {so_far}")
        lost = [alert(line) for line in diverged(self.metrics)]
        pace = Html("") if self.pace is None else Html(f"{self.pace.bar}{safe(self.pace.told)}")
        drawn = charts(self.metrics, self.run_id), pictures(self.files)
        return panel(head, pace, " · ".join(self._behind()), *facts, *lost, self.note, *drawn)


@dataclass(frozen=True, repr=False)
class FinishedRun(Result):
    """A run's summary, with the charts that were live above it."""

    summary: TrackSummary
    metrics: tuple[LiveMetric, ...]
    files: tuple[LoggedFile, ...] = ()

    def text(self) -> str:
        """Return the summary, and which metrics diverged."""
        return "\n".join([self.summary.text(), *(f"  {line}" for line in diverged(self.metrics))])

    def html(self) -> str:
        """Return the summary and the charts as they stood at the end."""
        drawn = [metric for metric in self.metrics if metric.large or metric.of_system]
        lost = [alert(line) for line in diverged(self.metrics)]
        summary = self.summary.markup({metric.key for metric in drawn})
        return panel(Html(summary), *lost, charts(drawn, self.summary.run_id), pictures(self.files))
