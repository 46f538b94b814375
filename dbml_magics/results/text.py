"""How numbers, durations, lists and tables are written as text."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

__all__ = [
    "DIFFERS",
    "LACKING",
    "about",
    "ago",
    "clock",
    "count",
    "duration",
    "from_here",
    "labelled",
    "listing",
    "nearby",
    "now",
    "number",
    "opened",
    "short",
    "size",
    "text_table",
    "when",
]


def from_here(uri: str) -> str:
    """Return a URI with a path below the working directory shown from there, as the user would type it."""
    return uri.replace(f"///{os.getcwd()}/", "///") if "///" in uri else uri


def nearby(path: str) -> str:
    """Return a path of this machine as the user would type it: from here, or from the home folder."""
    bare = path.removeprefix("file:")
    for folder, short in ((os.getcwd(), "."), (os.path.expanduser("~"), "~")):
        if len(folder) > 1 and bare.startswith(folder + os.sep):
            return f"{short}{bare[len(folder) :]}"
    return path


def number(value: float) -> str:
    """Write a number for people: 1,204 or 0.994 or 3.2e-7 or 1e19."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}"
    if size >= 1e15:
        return _short_exponent(f"{value:.4g}")
    if size >= 1000:
        return f"{value:,.1f}"
    if size >= 1:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return _short_exponent(f"{value:.3g}")


def _short_exponent(written: str) -> str:
    """Return a number without the sign and the zeros of its exponent that say nothing."""
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), written)


def count(amount: int, noun: str) -> str:
    """Write an amount with its noun: 1 write, 1,204 writes."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def size(amount: float) -> str:
    """Write a number of bytes for people: 212 MB, 1.4 GB."""
    for unit in ("B", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def duration(seconds: float) -> str:
    """Write a duration for people: 2.1 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def about(seconds: float) -> str:
    """Write how long something may take: less than a minute, about 4 min, about 2 h 10 min."""
    if seconds < 50:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min"
    tens = round(minutes, -1)
    return f"about {tens // 60:,} h {tens % 60} min"


def when(milliseconds: int) -> str:
    """Write a time, given in milliseconds since the epoch, on the reader's clock."""
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")


def now() -> int:
    """Return the time in milliseconds since the epoch."""
    return int(time.time() * 1000)


def ago(milliseconds: int) -> str:
    """Write how long ago a time was, in one unit; empty where it is to come or more than two months away."""
    seconds = time.time() - milliseconds / 1000
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 36), ("days", 86400, 60)):
        if 0 <= seconds < most * length:
            return f"{int(seconds / length)} {unit} ago"
    return ""


def clock(milliseconds: int) -> str:
    """Write a time of day, given in milliseconds since the epoch; with its date when that is another day."""
    then = datetime.fromtimestamp(milliseconds / 1000)
    return then.strftime("%H:%M" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M")


def listing(items: Sequence[str], most: int) -> str:
    """Join the first items, and say how many more there are."""
    if len(items) <= most + 1:  # the last one takes no more room than saying that there is one more
        return ", ".join(items)
    return ", ".join(items[:most]) + f", … {len(items) - most:,} more"


def text_table(headers: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lay out rows in aligned columns under their headers."""
    table = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in table
    ]


DIFFERS = "≠"
LACKING = "—"


def opened(pages: Mapping[str, str]) -> list[str]:
    """Return a line that says where something can be looked at, if anywhere."""
    return [f"  open  {', '.join(f'{name} {url}' for name, url in pages.items())}"] if pages else []


def labelled(rows: list[tuple[str, str]]) -> list[str]:
    """Return a line for each label and its text, the texts below each other."""
    width = max((len(label) for label, _ in rows), default=0)
    return [f"  {label.ljust(width)}  {shown}" for label, shown in rows]


def short(value: str, most: int = 40) -> str:
    """Return a text in one line, cut where it is longer than that."""
    value = " ".join(value.split())
    return value if len(value) <= most else value[: most - 1] + "…"
