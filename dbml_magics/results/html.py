"""How texts, tables and panels are written as HTML.

It inherits the page's colours, so it reads in light and dark themes, and everything that is not
:class:`Html` is escaped on its way in.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from dbml_magics.common.foreign_text import visible
from dbml_magics.results.text import ago, when

__all__ = [
    "Html",
    "alert",
    "badge",
    "code",
    "details",
    "escaped",
    "html_table",
    "link",
    "page_links",
    "panel",
    "parts_table",
    "rows_table",
    "run_title",
    "safe",
    "started",
    "together",
]

_TAG = re.compile(r"<[^>]*>")
_COLOURS = {"FINISHED": "#009e73", "FAILED": "#d55e00", "KILLED": "#e69f00", "RUNNING": "#0072b2"}
"""Of Okabe and Ito's palette, which colour-blind eyes tell apart; on white and on black alike."""
_ADDRESS = re.compile(r"(https?://[^\s<>\"]*[\w/])")
# Of its own: marimo and Colab give a table's cells no room.
_CELL = 'style="text-align:left;vertical-align:top;padding:0.3em 0.6em"'
_WRAPPED = f'{_CELL[:-1]};overflow-wrap:anywhere"'
_SHORT = 24  # letters of a value that no line breaks


class Html(str):
    """Markup that is safe already; any other string is escaped."""

    __slots__ = ()


def escaped(text: str) -> str:
    """Return a text with markup's own characters escaped."""
    return html.escape(visible(text))


def safe(text: str) -> Html:
    """Return the text as markup, escaped unless it is markup already."""
    return text if isinstance(text, Html) else Html(escaped(text))


def badge(status: str, when: str = "") -> Html:
    """Return a run's status, and when it was that, in words with a bar of its colour beside them."""
    colour, said = _COLOURS.get(status, "#777777"), f"{status} {when}".rstrip()
    return Html(f'<strong style="border-left:8px solid {colour};padding-left:6px">{escaped(said)}</strong>')


def run_title(name: str, status: str) -> Html:
    """Return a run's name behind its status."""
    return Html(f"{badge(status)} <strong>Run {safe(name)}</strong>")


def alert(text: str) -> Html:
    """Return a line that is not to be missed."""
    return Html(f'<strong style="border-left:4px solid #d55e00;padding-left:8px">{escaped(text)}</strong>')


def code(text: str) -> Html:
    """Return a command as markup."""
    return Html(f"<code>{escaped(text)}</code>")


def started(milliseconds: int) -> Html:
    """Return how long ago something began, or the time where that is far away; the time is its title too."""
    at = when(milliseconds)
    return Html(f'<span title="{escaped(at)}">{escaped(ago(milliseconds) or at)}</span>')


def together(text: str) -> Html:
    """Return markup that no line breaks."""
    return Html(f'<span style="white-space:nowrap">{safe(text)}</span>')


def link(label: str, url: str) -> Html:
    """Return a link, or the label alone when the address is not a web page's."""
    if urlsplit(url).scheme not in {"http", "https"}:
        return safe(label)
    return Html(f'<a href="{escaped(url)}" target="_blank" rel="noopener">{escaped(label)}</a>')


def _linked(text: str) -> Html:
    """Return a text whose web addresses are links."""
    if isinstance(text, Html):
        return text
    parts = _ADDRESS.split(text)  # what is between addresses, and each address
    return Html("".join(link(part, part) if at % 2 else safe(part) for at, part in enumerate(parts)))


def details(summary: str, content: Html) -> Html:
    """Fold content away under a line that opens it; no script is needed for that."""
    return Html(f"<details><summary>{safe(summary)}</summary>{content}</details>")


def html_table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Lay out rows in a table whose columns have headers; the first cell of a row is the row's header."""
    return parts_table(caption, headers, [("", rows)])


def parts_table(
    caption: str, headers: Sequence[str], parts: Iterable[tuple[str, Iterable[Sequence[str]]]]
) -> Html:
    """Lay out rows below the same headers in parts, each with a title unless that is empty."""
    head = "".join(f'<th scope="col" {_CELL}>{safe(header)}</th>' for header in headers)
    body = ""
    for title, rows in parts:
        above = f'<tr><th scope="rowgroup" colspan="{len(headers)}" {_CELL}>{_staying(title)}</th></tr>'
        body += _body(rows, above if title else "")
    return _table(caption, f"<thead><tr>{head}</tr></thead>{body}")


def _staying(title: str) -> Html:
    """Return a part's title, which stays in sight where its table scrolls sideways."""
    return Html(f'<span style="position:sticky;left:6px">{safe(title)}</span>')


def rows_table(caption: str, rows: Iterable[Sequence[str]]) -> Html:
    """Lay out labelled rows: the first cell of each is its header."""
    return _table(caption, "<tbody>" + "".join(f"<tr>{_labelled(cells)}</tr>" for cells in rows) + "</tbody>")


def _table(caption: str, content: str) -> Html:
    """Lay out a table below its caption, which wraps at the page's width and not at the table's."""
    said, label = safe(caption), html.escape(html.unescape(_TAG.sub("", safe(caption))))
    above = f"<div>{said}</div>" if said else ""
    named = f' aria-label="{label}"' if label else ""
    # Whoever has no mouse scrolls a wide table by the keys, once it can be reached by them.
    scrolls = f'<div style="overflow-x:auto" tabindex="0" role="group"{named}>'
    return Html(f"{above}{scrolls}<table{named}>{content}</table></div>")


def _body(rows: Iterable[Sequence[str]], above: str = "") -> str:
    lines = "".join(f"<tr>{_row(cells)}</tr>" for cells in rows)
    return f"<tbody>{above}{lines}</tbody>"


def _row(cells: Sequence[str]) -> str:
    first, *others = (_kept_together(cell) for cell in cells)
    return f'<th scope="row" {_CELL}>{first}</th>' + "".join(f"<td {_CELL}>{cell}</td>" for cell in others)


def _kept_together(cell: str) -> Html:
    """Keep a short value in one line, a longer one in few: where a table is too wide, it scrolls."""
    markup = safe(cell)
    if " " not in markup and "-" not in markup:
        return markup
    if len(html.unescape(_TAG.sub("", markup))) <= _SHORT:
        return together(markup)
    return Html(f'<span style="display:inline-block;min-width:14em">{markup}</span>')


def _labelled(cells: Sequence[str]) -> str:
    """Return a labelled row, whose values break anywhere before the table is too wide."""
    values = "".join(f"<td {_WRAPPED}>{safe(cell)}</td>" for cell in cells[1:])
    return f'<th scope="row" {_CELL}>{safe(cells[0])}</th>{values}'


def panel(*parts: str) -> str:
    """Stack parts below each other in one block."""
    return '<div class="dbml">' + "".join(f"<div>{_linked(part)}</div>" for part in parts if part) + "</div>"


def page_links(pages: Mapping[str, str]) -> Html:
    """Return links to pages, each under its name."""
    return Html(" · ".join(link(name, url) for name, url in pages.items()))
