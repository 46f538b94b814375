"""How numbers, durations, curves and tables are written, in text and in HTML.

HTML inherits the page's colours, so it reads in light and dark themes, and everything that is not
:class:`Html` is escaped on its way in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from urllib.parse import urlsplit

__all__ = [
    "Html",
    "code",
    "count",
    "curve_svg",
    "duration",
    "from_here",
    "html_table",
    "link",
    "listing",
    "number",
    "panel",
    "rows_table",
    "safe",
    "sparkline",
    "text_table",
    "when",
]

_BLOCKS = "▁▂▃▄▅▆▇█"
_CELL = 'style="text-align:left;vertical-align:top"'


class Html(str):
    """Markup that is safe already; any other string is escaped."""

    __slots__ = ()


def safe(text: str) -> Html:
    """Return the text as markup, escaped unless it is markup already."""
    return text if isinstance(text, Html) else Html(escape(text))


def code(text: str) -> Html:
    """Return a command as markup."""
    return Html(f"<code>{escape(text)}</code>")


def link(label: str, url: str) -> Html:
    """Return a link, or the label alone when the address is not a web page's."""
    if urlsplit(url).scheme not in {"http", "https"}:
        return safe(label)
    return Html(f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(label)}</a>')


def from_here(uri: str) -> str:
    """Return a URI with a path below the working directory shown from there, as the user would type it."""
    return uri.replace(f"///{os.getcwd()}/", "///") if "///" in uri else uri


def number(value: float) -> str:
    """Write a number for people: 1,204 or 0.994 or 3.2e-07."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}"
    if size >= 1000:
        return f"{value:,.1f}"
    if size >= 1:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.3g}"


def count(amount: int, noun: str) -> str:
    """Write an amount with its noun: 1 write, 1,204 writes."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def duration(seconds: float) -> str:
    """Write a duration for people: 2.1 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def when(milliseconds: int) -> str:
    """Write a time, given in milliseconds since the epoch, on the reader's clock."""
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")


def listing(items: Sequence[str], most: int) -> str:
    """Join the first items, and say how many more there are."""
    if len(items) <= most + 1:  # the last one takes no more room than saying that there is one more
        return ", ".join(items)
    return ", ".join(items[:most]) + f", … {len(items) - most:,} more"


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
    said = escape(f"curve of {label}: from {number(values[0])} to {number(values[-1])}")
    return Html(
        f'<svg role="img" aria-label="{said}" width="60" height="14" viewBox="0 0 60 14">'
        f'<polyline fill="none" stroke="currentColor" stroke-width="1.2" points="{points}"/></svg>'
    )


def text_table(headers: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lay out rows in aligned columns under their headers."""
    table = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in table
    ]


def html_table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Lay out rows in a table whose columns have headers; the first cell of a row is the row's header."""
    head = "".join(f'<th scope="col" {_CELL}>{safe(header)}</th>' for header in headers)
    body = "".join(f"<tr>{_row(cells)}</tr>" for cells in rows)
    return Html(
        f'<table><caption style="text-align:left;white-space:nowrap">{safe(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def rows_table(caption: str, rows: Iterable[Sequence[str]]) -> Html:
    """Lay out labelled rows: the first cell of each is its header."""
    body = "".join(f"<tr>{_row(cells)}</tr>" for cells in rows)
    return Html(
        f'<table><caption style="text-align:left;white-space:nowrap">{safe(caption)}</caption><tbody>{body}</tbody></table>'
    )


def _row(cells: Sequence[str]) -> str:
    first = f'<th scope="row" {_CELL}>{safe(cells[0])}</th>'
    return first + "".join(f"<td {_CELL}>{safe(cell)}</td>" for cell in cells[1:])


def panel(*parts: str) -> str:
    """Stack parts below each other in one block."""
    return '<div class="dbml">' + "".join(f"<div>{safe(part)}</div>" for part in parts if part) + "</div>"
