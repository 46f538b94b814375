"""Curves and points, what they say in words, and how they are drawn with characters.

:mod:`~dbml_magics.results.pictures` draws them for pages, :mod:`~dbml_magics.results.boards` lays them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbml_magics.results.text import number

__all__ = ["Axis", "Chart", "Line", "sparkline", "sparklines", "text_points", "thinned"]

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Line:
    """One of several curves on shared axes."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]  # NaN and infinities are gaps that are marked
    times: Sequence[float] = ()  # seconds since the first point, where they are known

    @property
    def points(self) -> list[tuple[float, float]]:
        """Return the finite points."""
        both = zip(self.steps, self.values, strict=True)
        return [(step, value) for step, value in both if math.isfinite(value)]

    @property
    def odd(self) -> list[tuple[float, float]]:
        """Return the points whose values are not finite."""
        both = zip(self.steps, self.values, strict=True)
        return [(step, value) for step, value in both if not math.isfinite(value)]

    @property
    def stretches(self) -> list[list[tuple[float, float]]]:
        """Return the finite points between one gap and the next."""
        found: list[list[tuple[float, float]]] = [[]]
        for step, value in zip(self.steps, self.values, strict=True):
            if math.isfinite(value):
                found[-1].append((step, value))
            elif found[-1]:
                found.append([])
        return [stretch for stretch in found if stretch]

    def told(self, axis: str) -> str:
        """Say in words where the curve begins and ends."""
        points = self.points
        if not points:
            return f"{self.label}: no values"
        (first, start), (last, end) = points[0], points[-1]
        if first == last:
            return f"{self.label}: {number(end)} at {axis} {number(last)}"
        reach = f"over {axis}s {number(first)} to {number(last)}"
        return f"{self.label}: from {number(start)} to {number(end)} {reach}"


@dataclass(frozen=True)
class Chart:
    """Curves of one metric on shared axes; or points, each with a name, that are not joined."""

    title: str
    axis: str  # what the steps are
    lines: Sequence[Line]
    names: Sequence[str] = ()  # of the points of the only line
    words: Sequence[str] = ()  # what the places 0, 1, … along the axis stand for, where they are no numbers

    @property
    def drawable(self) -> bool:
        """Tell whether there is a curve, or a point that stands for itself."""
        least = 1 if self.names else 2
        return any(len(line.points) >= least for line in self.lines)

    def told(self) -> str:
        """Say in words what the chart shows."""
        if self.names:
            points = zip(self.names, self.lines[0].values, strict=True)
            said = "; ".join(f"{name}, {self.title} {number(value)}" for name, value in points)
            return f"{self.title} against {self.axis}: {said}"
        if len(self.lines) == 1:
            return f"curve of {self.lines[0].told(self.axis)}"
        each = "; ".join(f"{row} {line.told(self.axis)}" for row, line in enumerate(self.lines, 1))
        return f"{self.title} by {self.axis}, on shared axes: {each}"


@dataclass(frozen=True)
class Axis:
    """The range of what is drawn along one direction."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """Return the axis that has room for all values."""
        known = list(values)
        return cls(min(known), max(known))

    def share(self, value: float) -> float:
        """Return how far along the axis a value is, from 0 to 1; the middle where the axis has no length."""
        # Halved before they are subtracted: the span of two huge values would overflow.
        span = self.high / 2 - self.low / 2
        return (value / 2 - self.low / 2) / span if span else 0.5


def thinned(curve: Sequence[float], most: int) -> list[float]:
    """Return so many of a curve's finite values, evenly spread."""
    finite = [value for value in curve if math.isfinite(value)]
    if len(finite) <= most:
        return finite
    return [finite[round(place * (len(finite) - 1) / (most - 1))] for place in range(most)]


def sparkline(curve: Sequence[float], most: int = 16) -> str:
    """Draw a curve with block characters; empty for fewer than two finite values."""
    values = thinned(curve, most)
    if len(values) < 2:
        return ""
    up = Axis.over(values)
    if up.low == up.high:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[round(up.share(value) * (len(_BLOCKS) - 1))] for value in values)


def sparklines(lines: Sequence[Line], most: int = 16) -> list[str]:
    """Draw curves with block characters on shared axes.

    A column is the same step in each of them, a height the same value.
    """
    points = [line.points for line in lines]
    every = [point for each in points for point in each]
    columns = min(most, len({step for step, _ in every}))
    if columns < 2:
        return ["" for _ in lines]
    across, up = Axis.over(step for step, _ in every), Axis.over(value for _, value in every)
    drawn = []
    for each in points:
        cells = [" "] * columns
        last = -1
        for step, value in each:
            column = round(across.share(step) * (columns - 1))
            block = _BLOCKS[round((up.share(value) if up.low < up.high else 0.0) * (len(_BLOCKS) - 1))]
            if last >= 0:  # what was logged at few steps holds until the next one
                cells[last:column] = [cells[last]] * (column - last)
            cells[column], last = block, column
        drawn.append("".join(cells).rstrip() if len(each) > 1 else "")
    return drawn


def text_points(
    across: Sequence[float], up: Sequence[float], words: Sequence[str] = (), width: int = 48, height: int = 10
) -> list[str]:
    """Draw points with characters: a digit says how many share a place (9 or more: ``9``)."""
    xs, ys = Axis.over(across), Axis.over(up)
    cells = [[0] * width for _ in range(height)]
    for x, y in zip(across, up, strict=True):
        cells[height - 1 - round(ys.share(y) * (height - 1))][round(xs.share(x) * (width - 1))] += 1
    margin = max(len(number(ys.high)), len(number(ys.low)))
    labels = {0: number(ys.high), height - 1: number(ys.low)} if ys.low < ys.high else {0: number(ys.low)}
    drawn = [
        f"  {labels.get(row, '').rjust(margin)} │"
        + "".join(" " if n == 0 else "•" if n == 1 else str(min(n, 9)) for n in line).rstrip()
        for row, line in enumerate(cells)
    ]
    low, high = (words[0], words[-1]) if words else (number(xs.low), number(xs.high))
    axis = low if xs.low == xs.high else low + high.rjust(width - len(low))
    return [*drawn, f"  {' ' * margin} └{'─' * width}", f"  {' ' * margin}  {axis}"]
