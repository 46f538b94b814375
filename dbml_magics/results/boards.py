"""Charts laid out side by side with one legend: pictures, and the script that makes them answer.

Where a page runs scripts (a notebook of one's own, an exported page) the script takes the pictures' places:
hovering, zooming, a logarithmic axis, smoothing, time in place of steps. It is part of the output, so that it
needs no kernel, no widget and no request; everywhere else the pictures stay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dbml_magics.common.foreign_text import one_line
from dbml_magics.results.charts import Chart, Line
from dbml_magics.results.html import Html, safe
from dbml_magics.results.pictures import COLOURS, DASHES, MARKERS, picture, swatch

__all__ = ["board"]


def board(charts: Sequence[tuple[Chart, Html]], key: str = "") -> Html:
    """Lay out charts, each under its caption, and one legend where they show several lines.

    The lines of all charts are the same, in one order. A board with the key of an earlier one on the page
    that is gone goes on as the reader had set it.
    """
    drawn = [(chart, caption) for chart, caption in charts if chart.drawable]
    if not drawn:
        return Html("")
    figures = "".join(
        f'<figure style="margin:0;flex:1 1 190px;max-width:440px;min-width:0">'
        f'<figcaption style="overflow-wrap:anywhere">{caption}</figcaption>{picture(chart)}</figure>'
        for chart, caption in drawn
    )
    labels = [line.label for line in drawn[0][0].lines]
    legend = _legend(labels) if len(labels) > 1 else ""
    style = "display:flex;flex-wrap:wrap;align-items:flex-end;gap:8px 16px;margin:6px 0"
    grid = f'<div style="{style}">{figures}</div>'
    told = {
        "key": key,
        "colours": COLOURS,
        "dashes": DASHES,
        "markers": MARKERS,
        "charts": [_told(chart) for chart, _ in drawn],
    }
    called = f"{_script()}(document.currentScript, {_json(told)});"
    return Html(f'<div class="dbml-board">{grid}{legend}</div><script>{called}</script>')


def _legend(labels: Sequence[str]) -> str:
    style = "display:inline-block;margin-right:12px"
    items = "".join(
        f'<li style="{style}">{swatch(place)} {safe(f"{place + 1} {label}")}</li>'
        for place, label in enumerate(labels)
    )
    return f'<ul style="list-style:none;margin:2px 0 6px;padding:0" aria-label="legend">{items}</ul>'


@cache
def _script() -> str:
    """Return the script in one line, which is much faster to look through than many."""
    lines = Path(__file__).with_name("charts.js").read_text(encoding="ascii").splitlines()
    return " ".join(bare for line in lines if (bare := line.strip()) and not bare.startswith("//"))


def _told(chart: Chart) -> dict[str, Any]:
    return {
        "title": one_line(chart.title),
        "axis": one_line(chart.axis),
        "names": [one_line(name) for name in chart.names] or None,
        "words": [one_line(word) for word in chart.words] or None,
        "lines": [_points(line) for line in chart.lines],
    }


def _points(line: Line) -> dict[str, Any]:
    return {
        "label": one_line(line.label),
        "x": [_short(step) for step in line.steps],
        "y": [_short(value) for value in line.values],
        "t": [round(seconds, 2) for seconds in line.times],
    }


def _short(value: float) -> float | str:
    """Return a number in the figures that a chart can show; a word for one that is not finite."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.6g}")


def _json(told: dict[str, Any]) -> str:
    """Return what a script reads, without a character that would end it."""
    made = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        made = made.replace(character, f"\\u{ord(character):04x}")
    return made
