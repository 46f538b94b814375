"""Charts as pictures: an SVG within an ``<img>``, with what it shows in words.

A picture needs no script and no kernel: it stays in a notebook that is saved, exported or not trusted. There
front ends drop an ``<svg>`` of the page itself and leave its labels behind. A picture knows nothing of the
page's theme, so its colours are seen on white and on black.
"""

from __future__ import annotations

import math
from binascii import b2a_base64
from collections.abc import Callable, Sequence

from dbml_magics.common.redaction import redacted
from dbml_magics.results.charts import Axis, Chart, Line, thinned
from dbml_magics.results.html import Html, escaped
from dbml_magics.results.text import number

__all__ = ["COLOURS", "DASHES", "INK", "MARKERS", "picture", "small_curve", "swatch", "ticks"]

INK = "#7b7b7b"
# Told apart by eyes that see fewer colours, and a contrast of at least 3 to white and to near black.
COLOURS = ("#3182ce", "#d55e00", "#0a9471", "#b763b3", "#9b7a12", "#e0526e", "#6f79d6", "#7d8590")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "5 2 1 2 1 2", "1 2")
# Paths round the middle of a marker.
MARKERS = (
    "M-3.2,0a3.2,3.2 0 1,0 6.4,0a3.2,3.2 0 1,0 -6.4,0z",
    "M-3,-3h6v6h-6z",
    "M0,-4l3.8,6.6h-7.6z",
    "M0,-4.2l4.2,4.2l-4.2,4.2l-4.2,-4.2z",
    "M0,4l3.8,-6.6h-7.6z",
)
_WIDTH, _HEIGHT, _TOP, _RIGHT, _BOTTOM = 400, 170, 10, 388, 140
_LETTER = 6.4  # pixels that a figure of a label takes
_IN_LINE = "display:inline-block;vertical-align:middle"  # marimo's page would break the line at a picture


def picture(chart: Chart) -> Html:
    """Draw a chart; empty where it has no curve."""
    if not chart.drawable:
        return Html("")
    every = [point for line in chart.lines for point in line.points]
    across = Axis.over([*(step for step, _ in every), *(s for line in chart.lines for s, _ in line.odd)])
    up = Axis.over(value for _, value in every)
    labels = ticks(up, 6)
    left = 14 + _LETTER * max((len(label) for _, label in labels), default=0)

    def x(step: float) -> float:
        inset = 8 if chart.names else 0
        return left + inset + across.share(step) * (_RIGHT - left - 2 * inset)

    def y(value: float) -> float:
        return _BOTTOM - 6 - up.share(value) * (_BOTTOM - _TOP - 12)

    parts = [_frame(chart, across, labels, left, x, y)]
    for place, line in enumerate(chart.lines):
        parts += _points(line, x, y) if chart.names else _line(place, line, len(chart.lines) > 1, x, y)
    return _img("".join(parts), _WIDTH, _HEIGHT, chart.told(), "max-width:100%;height:auto")


def _frame(
    chart: Chart,
    across: Axis,
    labels: Sequence[tuple[float, str]],
    left: float,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> str:
    """Draw grid, axes and their labels; what is encoded cannot be read later, so secrets go here."""
    parts = []
    for value, label in labels:
        parts.append(_rule(left, y(value), _RIGHT, y(value)))
        parts.append(_words(left - 6, y(value) + 4, label, "end"))
    if chart.words:
        said = [(float(place), redacted(word)) for place, word in enumerate(chart.words)]
        said = said if len(said) <= 5 else [said[0], said[-1]]
    else:
        said = ticks(across, 6, whole=chart.axis in ("step", "point"))
    for value, label in said:
        parts.append(_rule(x(value), _TOP, x(value), _BOTTOM))
        cut = x(value) + len(label) * _LETTER / 2 > _WIDTH
        place = (_WIDTH, "end") if cut else (x(value), "middle")
        parts.append(_words(place[0], _BOTTOM + 14, label, place[1]))
    parts.append(_words((left + _RIGHT) / 2, _BOTTOM + 27, redacted(chart.axis), "middle"))
    frame = f"M{left:.1f},{_TOP} V{_BOTTOM} H{_RIGHT}"
    return "".join([*parts, f'<path d="{frame}" fill="none" stroke="{INK}"/>'])


def _line(
    place: int, line: Line, several: bool, x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    colour = COLOURS[place % len(COLOURS)]
    parts = []
    for stretch in line.stretches:
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in stretch)
        if len(stretch) == 1:
            parts.append(_marker(0, colour, x(stretch[0][0]), y(stretch[0][1]), 0.6))
        else:
            parts.append(f'<polyline {_stroke(place)} points="{path}"/>')
    points = line.points
    if several and points:  # five of them tell which line it is, begun a little later in each
        spread = {round((n + place / 7 % 1) / 5 * (len(points) - 1)) for n in range(5)}
        marked = [points[each] for each in sorted({*spread, len(points) - 1})]
    else:
        marked = points[-1:]
    parts += [_marker(place, colour, x(step), y(value)) for step, value in marked]
    last = -math.inf
    for step, value in line.odd:
        if x(step) - last > 5:  # a row of them needs no more than one beside the other
            last = x(step)
            parts.append(_odd(colour, last, value))
    return parts


def _points(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    return [
        f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="4.5" fill="{COLOURS[0]}" fill-opacity="0.6" '
        f'stroke="{COLOURS[0]}"/>'
        for step, value in line.points
    ]


def _odd(colour: str, x: float, value: float) -> str:
    """Mark a value that is not finite: a cross below for NaN, an arrow at the edge that it went beyond."""
    if math.isnan(value):
        return f'<path d="M{x - 3:.1f},{_BOTTOM - 3}l6,6m0,-6l-6,6" stroke="{colour}" stroke-width="1.5"/>'
    return _marker(2 if value > 0 else 4, colour, x, _TOP + 2 if value > 0 else _BOTTOM - 2)


def _stroke(place: int) -> str:
    dash = DASHES[place % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'fill="none" stroke="{COLOURS[place % len(COLOURS)]}" stroke-width="1.8"{dashed}'


def _marker(place: int, colour: str, x: float, y: float, scale: float = 1.0) -> str:
    sized = f" scale({scale})" if scale != 1 else ""
    path = MARKERS[place % len(MARKERS)]
    return f'<path d="{path}" fill="{colour}" transform="translate({x:.1f},{y:.1f}){sized}"/>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}" stroke="{INK}" stroke-opacity="0.3"/>'


def _words(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escaped(text)}</text>'


def _img(content: str, width: int, height: int, said: str, style: str) -> Html:
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-size="11" font-family="sans-serif">{content}</svg>'
    )
    data = b2a_base64(drawn.encode(), newline=False).decode()
    return Html(
        f'<img width="{width}" height="{height}" style="{style}" alt="{escaped(said)}" '
        f'src="data:image/svg+xml;base64,{data}"/>'
    )


def small_curve(curve: Sequence[float], label: str) -> Html:
    """Draw a curve as small as a word; empty for fewer than two finite values."""
    values = thinned(curve, 40)
    if len(values) < 2:
        return Html("")
    up = Axis.over(values)
    points = " ".join(
        f"{place * 58 / (len(values) - 1) + 1:.1f},{13 - up.share(value) * 12:.1f}"
        for place, value in enumerate(values)
    )
    said = f"curve of {label}: from {number(values[0])} to {number(values[-1])}"
    line = f'<polyline fill="none" stroke="{COLOURS[0]}" stroke-width="1.5" points="{points}"/>'
    return _img(line, 60, 14, said, _IN_LINE)


def swatch(place: int) -> Html:
    """Draw a sample of a line, for a legend."""
    sample = f'<path d="M1,7H39" {_stroke(place)}/>{_marker(place, COLOURS[place % len(COLOURS)], 20, 7)}'
    return _img(sample, 40, 14, "", _IN_LINE)


def ticks(axis: Axis, most: int, *, whole: bool = False) -> list[tuple[float, str]]:
    """Return round values along an axis with their labels, about so many."""
    span = axis.high / 2 - axis.low / 2
    if not span or not math.isfinite(span):
        return [(axis.low, number(axis.low))]
    rough = span / most * 2
    if not math.isfinite(rough):
        return [(each, _label(each, rough)) for each in (axis.low, axis.high)]
    size = 10.0 ** math.floor(math.log10(rough)) if rough > 1e-300 else 1e-300
    width = next((size * factor for factor in (1, 2, 5, 10) if size * factor >= rough), rough)
    width = max(width, 1.0) if whole else width
    first, last = math.ceil(axis.low / width), math.floor(axis.high / width)
    if last - first < 0 or last - first > 3 * most:
        return [(each, _label(each, rough)) for each in (axis.low, axis.high)]
    return [(place * width, _label(place * width, width)) for place in range(first, last + 1)]


def _label(value: float, width: float) -> str:
    """Write a value of an axis in no more figures than tell it from its neighbours."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or width < 1e-5:
        short = f"{value:.3g}"
        mantissa, sign, exponent = short.partition("e")
        return f"{mantissa}e{int(exponent)}" if sign else short
    figures = max(0, -math.floor(math.log10(width) + 1e-9))
    return f"{value:,.{figures}f}"
