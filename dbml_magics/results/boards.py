"""Charts laid out side by side with one legend."""

from __future__ import annotations

from collections.abc import Sequence

from dbml_magics.results.charts import Chart
from dbml_magics.results.html import Html, safe
from dbml_magics.results.pictures import picture, swatch

__all__ = ["board"]


def board(charts: Sequence[tuple[Chart, Html]]) -> Html:
    """Lay out charts, each under its caption, and one legend where they show several lines.

    The lines of all charts are the same, in one order.
    """
    figures = [
        f'<figure style="margin:0;flex:1 1 280px;max-width:440px"><figcaption style="overflow-wrap:anywhere">'
        f"{caption}</figcaption>{picture(chart)}</figure>"
        for chart, caption in charts
        if chart.drawable
    ]
    if not figures:
        return Html("")
    labels = [line.label for line in charts[0][0].lines]
    grid = f'<div style="display:flex;flex-wrap:wrap;gap:8px 16px;margin:6px 0">{"".join(figures)}</div>'
    return Html(grid + (_legend(labels) if len(labels) > 1 else ""))


def _legend(labels: Sequence[str]) -> str:
    style = "display:inline-block;margin-right:16px"
    items = "".join(
        f'<li style="{style}">{swatch(place)} {safe(f"{place + 1} {label}")}</li>'
        for place, label in enumerate(labels)
    )
    return f'<ul style="list-style:none;margin:2px 0 6px;padding:0" aria-label="legend">{items}</ul>'
