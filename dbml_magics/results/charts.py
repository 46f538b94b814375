"""How curves and points are drawn, with characters and as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbml_magics.results.html import Html, escaped
from dbml_magics.results.text import number

__all__ = [
    "Line",
    "chart_svg",
    "curve_svg",
    "curves_svg",
    "points_svg",
    "sparkline",
    "sparklines",
    "text_points",
]

_BLOCKS = "▁▂▃▄▅▆▇█"


def _thinned(curve: Sequence[float], most: int) -> list[float]:
    finite = [value for value in curve if math.isfinite(value)]
    if len(finite) <= most:
        return finite
    return [finite[round(place * (len(finite) - 1) / (most - 1))] for place in range(most)]


def sparkline(curve: Sequence[float], most: int = 16) -> str:
    """Draw a curve with block characters; empty for fewer than two finite values."""
    values = _thinned(curve, most)
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    # Halved before they are subtracted: the span of two huge values would overflow.
    span = high / 2 - low / 2
    if span == 0:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[round((value / 2 - low / 2) / span * (len(_BLOCKS) - 1))] for value in values)


def curve_svg(curve: Sequence[float], label: str) -> Html:
    """Draw a curve as a small inline picture in the text's own colour; empty like :func:`sparkline`."""
    values = _thinned(curve, 60)
    if len(values) < 2:
        return Html("")
    low, high = min(values), max(values)
    span = (high / 2 - low / 2) or 1.0
    points = " ".join(
        f"{place * 58 / (len(values) - 1) + 1:.1f},{13 - (value / 2 - low / 2) / span * 12:.1f}"
        for place, value in enumerate(values)
    )
    said = escaped(f"curve of {label}: from {number(values[0])} to {number(values[-1])}")
    return Html(
        f'<svg role="img" aria-label="{said}" width="60" height="14" viewBox="0 0 60 14">'
        f'<polyline fill="none" stroke="currentColor" stroke-width="1.2" points="{points}"/></svg>'
    )


_CHART_WIDTH, _CHART_HEIGHT, _CHART_LEFT, _CHART_BOTTOM = 240, 96, 46, 78


def chart_svg(label: str, axis: str, steps: Sequence[float], values: Sequence[float]) -> Html:
    """Draw one curve with its axes in the text's own colour; empty for fewer than two finite points."""
    line = Line(label, steps, values)
    points = line.points
    if len(points) < 2:
        return Html("")
    across, up = _Axis.over(step for step, _ in points), _Axis.over(value for _, value in points)
    parts = []
    for stretch in line.stretches:
        places = " ".join(
            f"{_CHART_LEFT + across.share(step) * (_CHART_WIDTH - _CHART_LEFT - 8):.1f},"
            f"{_CHART_BOTTOM - 3 - up.share(value) * (_CHART_BOTTOM - 11):.1f}"
            for step, value in stretch
        )
        if len(stretch) == 1:
            x, _, y = places.partition(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="1.5" fill="currentColor"/>')
        else:
            parts.append(
                f'<polyline fill="none" stroke="currentColor" stroke-width="1.3" points="{places}"/>'
            )
    frame = f"M{_CHART_LEFT},4 V{_CHART_BOTTOM} H{_CHART_WIDTH - 4}"
    parts.append(f'<path d="{frame}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>')
    parts.append(_words(_CHART_LEFT - 4, 12, number(up.high), "end"))
    if up.low < up.high:
        parts.append(_words(_CHART_LEFT - 4, _CHART_BOTTOM, number(up.low), "end"))
    parts.append(_words(_CHART_LEFT, _CHART_BOTTOM + 13, f"{axis} {number(across.low)}"))
    parts.append(_words(_CHART_WIDTH - 4, _CHART_BOTTOM + 13, number(across.high), "end"))
    return Html(
        f'<svg role="img" aria-label="{escaped(f"curve of {_told(line, axis)}")}" width="{_CHART_WIDTH}" '
        f'height="{_CHART_HEIGHT}" viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" font-size="10" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class Line:
    """One of several curves on shared axes."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]

    @property
    def points(self) -> list[tuple[float, float]]:
        """Return the finite points."""
        both = zip(self.steps, self.values, strict=True)
        return [(step, value) for step, value in both if math.isfinite(value)]

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


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> _Axis:
        known = list(values)
        return cls(min(known), max(known))

    def share(self, value: float) -> float:
        """Return how far along the axis a value is, from 0 to 1; the middle where the axis has no length."""
        # Halved before they are subtracted: the span of two huge values would overflow.
        span = self.high / 2 - self.low / 2
        return (value / 2 - self.low / 2) / span if span else 0.5


def sparklines(lines: Sequence[Line], most: int = 16) -> list[str]:
    """Draw curves with block characters on shared axes.

    A column is the same step in each of them, a height the same value.
    """
    points = [line.points for line in lines]
    every = [point for each in points for point in each]
    columns = min(most, len({step for step, _ in every}))
    if columns < 2:
        return ["" for _ in lines]
    across, up = _Axis.over(step for step, _ in every), _Axis.over(value for _, value in every)
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


_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 2", "12 4", "5 2 1 2 1 2")


_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH = 64, 440, 10, 150, 470


def curves_svg(title: str, axis: str, lines: Sequence[Line]) -> Html:
    """Draw curves on shared axes in the text's own colour, each with its dashes and number.

    Empty where no line has two points. The numbers are the lines' places, from 1 on; the legend below
    the axes has their labels.
    """
    every = [point for line in lines for point in line.points]
    if not every or max(len(line.points) for line in lines) < 2:
        return Html("")
    across, up = _Axis.over(step for step, _ in every), _Axis.over(value for _, value in every)

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + across.share(step) * (_RIGHT - _LEFT)
        return x, _BOTTOM - up.share(value) * (_BOTTOM - _TOP)

    height = _BOTTOM + 34 + 16 * len(lines)
    parts = [_axes(axis, across, up)]
    ends = []
    for row, line in enumerate(lines):
        dash = f' stroke-dasharray="{_DASHES[row % len(_DASHES)]}"' if row % len(_DASHES) else ""
        width = 1.4 + 0.8 * (row // len(_DASHES))
        stroke = f'fill="none" stroke="currentColor" stroke-width="{width:g}"{dash}'
        for stretch in line.stretches:
            if len(stretch) == 1:
                x, y = place(*stretch[0])
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="currentColor"/>')
            else:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in stretch))
                parts.append(f'<polyline {stroke} points="{path}"/>')
        if line.points:
            ends.append((*place(*line.points[-1]), str(row + 1)))
        y = _BOTTOM + 38 + 16 * row
        parts.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + 40}" y2="{y}" {stroke}/>')
        lacks = "" if line.points else " (no values)"
        parts.append(_words(_LEFT + 48, y + 4, f"{row + 1} {line.label}{lacks}"))
    parts += [_words(x + 4, y + 4, number_) for x, y, number_ in _apart(ends)]
    said = "; ".join(f"{row + 1} {_told(line, axis)}" for row, line in enumerate(lines))
    spoken = escaped(f"{title} by {axis}, on shared axes: {said}")
    return Html(
        f'<svg role="img" aria-label="{spoken}" width="{_WIDTH}" '
        f'height="{height}" viewBox="0 0 {_WIDTH} {height}" font-size="11" font-family="sans-serif" '
        f'style="max-width:100%;height:auto">{"".join(parts)}</svg>'
    )


def _axes(axis: str, across: _Axis, up: _Axis) -> str:
    frame = f"M{_LEFT},{_TOP} V{_BOTTOM} H{_RIGHT}"
    parts = [f'<path d="{frame}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>']
    if up.low < up.high:
        parts += [
            _words(_LEFT - 5, _TOP + 5, number(up.high), "end"),
            _words(_LEFT - 5, _BOTTOM, number(up.low), "end"),
        ]
    else:
        parts.append(_words(_LEFT - 5, (_TOP + _BOTTOM) / 2 + 4, number(up.low), "end"))
    if across.low < across.high:
        parts.append(_words(_LEFT, _BOTTOM + 15, number(across.low)))
        parts.append(_words(_RIGHT, _BOTTOM + 15, number(across.high), "end"))
    else:
        axis += f" {number(across.low)}"
    return "".join([*parts, _words((_LEFT + _RIGHT) / 2, _BOTTOM + 15, axis, "middle")])


def points_svg(
    title: str,
    axis: str,
    across: Sequence[float],
    up: Sequence[float],
    names: Sequence[str],
    words: Sequence[str] = (),
) -> Html:
    """Draw points on axes in the text's own colour; each says its name where the pointer rests.

    ``words`` are what the places 0, 1, … along the axis stand for, where they are no numbers.
    """
    xs, ys = _Axis.over(across), _Axis.over(up)
    parts = []
    for x, y, name in zip(across, up, names, strict=True):
        cx = _LEFT + 8 + xs.share(x) * (_RIGHT - _LEFT - 16)
        cy = _BOTTOM - 6 - ys.share(y) * (_BOTTOM - _TOP - 12)
        title_text = escaped(f"{name}, {title} {number(y)}")
        parts.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="currentColor" fill-opacity="0.45" '
            f'stroke="currentColor"><title>{title_text}</title></circle>'
        )
    ends = (words[0], words[-1]) if words else (number(xs.low), number(xs.high))
    frame = f"M{_LEFT},{_TOP} V{_BOTTOM} H{_RIGHT}"
    parts += [
        f'<path d="{frame}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>',
        _words(_LEFT - 5, _TOP + 10, number(ys.high), "end"),
        _words(_LEFT - 5, _BOTTOM - 2, number(ys.low) if ys.low < ys.high else "", "end"),
        _words(_LEFT, _BOTTOM + 15, ends[0]),
        _words(_RIGHT, _BOTTOM + 15, ends[1] if xs.low < xs.high else "", "end"),
        _words((_LEFT + _RIGHT) / 2, _BOTTOM + 15, axis, "middle"),
    ]
    spoken = "; ".join(f"{name}, {title} {number(y)}" for name, y in zip(names, up, strict=True))
    height = _BOTTOM + 24
    return Html(
        f'<svg role="img" aria-label="{escaped(f"{title} against {axis}: {spoken}")}" width="{_WIDTH}" '
        f'height="{height}" viewBox="0 0 {_WIDTH} {height}" font-size="11" font-family="sans-serif" '
        f'style="max-width:100%;height:auto">{"".join(parts)}</svg>'
    )


def text_points(
    across: Sequence[float], up: Sequence[float], words: Sequence[str] = (), width: int = 48, height: int = 10
) -> list[str]:
    """Draw points with characters: a digit says how many share a place (9 or more: ``9``)."""
    xs, ys = _Axis.over(across), _Axis.over(up)
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


def _words(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escaped(text)}</text>'


def _apart(ends: Iterable[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Move the labels of curves that end at one height below each other."""
    placed: list[tuple[float, float, str]] = []
    for x, y, label in sorted(ends, key=lambda end: end[1]):
        near = [other for x2, other, _ in placed if abs(x2 - x) < 14]
        placed.append((x, max([y, *(other + 11 for other in near)]), label))
    return placed


def _told(line: Line, axis: str) -> str:
    points = line.points
    if not points:
        return f"{line.label}: no values"
    (first, start), (last, end) = points[0], points[-1]
    if first == last:
        return f"{line.label}: {number(end)} at {axis} {number(last)}"
    reach = f"over {axis}s {number(first)} to {number(last)}"
    return f"{line.label}: from {number(start)} to {number(end)} {reach}"
