"""A run watched while it goes on: each look costs what was logged since the last one."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Mapping
from dataclasses import replace

from dbml_magics.core.pace import RunPace
from dbml_magics.core.run_view import ArtifactLocation, RunView, Series
from dbml_magics.core.runtime.engine import Engine
from dbml_magics.core.status import destination
from dbml_magics.results.compare import Curve
from dbml_magics.results.live import LiveMetric, LoggedFile, RunProgress
from dbml_magics.results.text import now

_FILES = 20  # of a run's, told in its view
_SECOND = "compressed.webp"  # ends the name of the small file that MLflow keeps beside an image
_BUCKETS = 96  # of a curve, at most; each keeps its lowest and its highest point


class RunWatch:
    """One run's curves as they grow.

    It reads the arrays that logging appends to without a lock: a point is there once its step is, which is
    appended last.
    """

    def __init__(self, engine: Engine, run_id: str, total: int | None = None) -> None:
        self._engine = engine
        self._pace = RunPace(total)
        self._run_id = run_id
        self._curves: dict[str, _Growing] = {}
        self._images = engine.thumbnails.of(run_id)
        self.last: RunProgress | None = None
        """What was seen last; None before the first look."""

    def look(self, seconds: float) -> RunProgress:
        """Return the run as it stands now; ``seconds`` is how long it has gone on."""
        view = self._engine.live.queue_view(self._run_id)
        run = view.run if view is not None else None
        places = tuple(destination(self._engine, role, self._run_id) for role in self._engine.link.tracked)
        if view is None or run is None:  # it has ended, all of it is delivered, and its journal is gone
            before = self.last or RunProgress(self._run_id, self._run_id[:8], "", "RUNNING", seconds)
            return replace(before, seconds=seconds, destinations=places, as_of=now())
        self.last = RunProgress(
            run_id=self._run_id,
            name=run.tags.get("mlflow.runName") or self._run_id[:8],
            experiment=self._engine.state.experiments.name(run.experiment_id) or "",
            status=run.status,
            seconds=seconds,
            params=dict(run.params),
            metrics=tuple(self._metrics(run)),
            destinations=places,
            pace=self._pace.at(seconds, run),
            files=self._files(view.artifacts.get(f"run:{self._run_id}", {})),
        )
        return self.last

    def close(self) -> None:
        """Keep no more of the run's images; those that were kept are shown on."""
        self._engine.thumbnails.forget(self._run_id)

    def _files(self, logged: Mapping[str, ArtifactLocation]) -> tuple[LoggedFile, ...]:
        """Return the last files that the run has logged, the newest first, and those that can be seen."""
        pictures = self._images.addresses()
        files = [(path, held.size) for path, held in list(logged.items()) if not path.endswith(_SECOND)]
        return tuple(
            LoggedFile(path, size, pictures.get(path, ""))
            for place, (path, size) in enumerate(reversed(files))
            if place < _FILES or path in pictures
        )

    def _metrics(self, run: RunView) -> list[LiveMetric]:
        found = []
        for key in dict.fromkeys([*list(run.base_latest), *list(run.series)]):
            series = run.series.get(key)
            if series is None or series.last < 0:
                if key in run.base_latest:
                    found.append(LiveMetric(key, run.base_latest[key].value, Curve(count=1)))
                continue
            growing = self._curves.get(key)
            if growing is None or growing.series is not series:  # new, or the run was taken up anew
                growing = self._curves[key] = _Growing(series, run.start)
            found.append(LiveMetric(key, run.latest(key).value, growing.grown()))
        return found


_Point = tuple[int, int, float]  # place, step, value
_Stretch = tuple[_Point | None, _Point | None, _Point | None]  # the lowest, the highest, the first odd one


class _Growing:
    """A curve's telling points in stretches of one width, which doubles as the curve grows.

    Each stretch keeps its lowest, its highest and the first one that is not finite. ``began`` is when the run
    did, in milliseconds since the epoch.
    """

    def __init__(self, series: Series, began: int = 0) -> None:
        self.series = series
        self._began = began
        self._width = 1
        self._read = 0  # points that are in a whole stretch
        self._stretches: list[_Stretch] = []
        self._first: _Point | None = None  # the curve's first finite point, whatever its stretch keeps
        self._last: _Point | None = None
        self._odd = 0
        self._ordered = True  # steps that went back once are never an axis again

    def grown(self) -> Curve:
        """Return the curve with what was logged since."""
        series = self.series
        there = len(series.steps)
        while there - self._read >= self._width:
            self._add(series, self._read, self._read + self._width)
            self._read += self._width
            if len(self._stretches) >= _BUCKETS:
                self._halve()
        shown, last, odd = list(self._stretches), self._last, self._odd
        if there > self._read:
            stretch, end, more = _stretch(series, self._read, there)
            shown.append(stretch)
            last = end or last
            odd += more
            self._check_order(self._read, there)
        end = None
        if there and not math.isfinite(series.values[there - 1]):
            end = (there - 1, series.steps[there - 1], series.values[there - 1])
        points = [*(point for stretch in shown for point in stretch), self._first, last, end]
        kept = {point[0]: point for point in points if point is not None}
        lost = None if end is None else 0 if last is None else last[0] + 1
        return self._curve([kept[place] for place in sorted(kept)], there, odd, lost)

    def _add(self, series: Series, start: int, stop: int) -> None:
        self._check_order(start, stop)
        found, end, odd = _stretch(series, start, stop)
        self._odd += odd
        if self._first is None:  # the first stretches are one point wide
            self._first = found[0]
        self._stretches.append(found)
        self._last = end or self._last

    def _halve(self) -> None:
        pairs = zip(self._stretches[::2], self._stretches[1::2], strict=False)
        left = self._stretches[-1:] if len(self._stretches) % 2 else []
        self._stretches = [_joined(a, b) for a, b in pairs] + left
        self._width *= 2

    def _check_order(self, start: int, stop: int) -> None:
        steps = self.series.steps[max(start - 1, 0) : stop]
        self._ordered = self._ordered and all(map(operator.le, steps, steps[1:]))

    def _curve(self, kept: list[_Point], points: int, odd: int, lost: int | None) -> Curve:
        by_step = self._ordered and len({step for _, step, _ in kept}) > 1
        xs = tuple(float(step if by_step else place) for place, step, _ in kept)
        values = tuple(value for _, _, value in kept)
        times = tuple((self.series.times[place] - self._began) / 1000 for place, _, _ in kept)
        since = None if lost is None else float(self.series.steps[lost] if by_step else lost)
        return Curve(xs, values, points, odd, "step" if by_step else "point", times, since)


def _value(point: _Point) -> float:
    return point[2]


def _joined(a: _Stretch, b: _Stretch) -> _Stretch:
    lows = [point for point in (a[0], b[0]) if point is not None]
    highs = [point for point in (a[1], b[1]) if point is not None]
    return min(lows, key=_value, default=None), max(highs, key=_value, default=None), a[2] or b[2]


def _stretch(series: Series, start: int, stop: int) -> tuple[_Stretch, _Point | None, int]:
    """Return a stretch, its last finite point (None without any), and how many of its points are odd."""
    values = series.values[start:stop]
    kept, odd = values, 0
    if not math.isfinite(sum(values)):  # a sum may also overflow: then none of them is odd
        kept = array("d", (value for value in values if math.isfinite(value)))
        odd = len(values) - len(kept)

    def point(place: int) -> _Point:
        return start + place, series.steps[start + place], values[place]

    first = next(n for n, value in enumerate(values) if not math.isfinite(value)) if odd else None
    gap = None if first is None else point(first)
    if not kept:
        return (None, None, gap), None, odd
    last = len(values) - 1
    while not math.isfinite(values[last]):
        last -= 1
    return (point(values.index(min(kept))), point(values.index(max(kept))), gap), point(last), odd
