"""Why a model refuses rows, and which one it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dbml_magics.core.scoring.carried.answered import WrongType

_OTHERS = 8  # rows among which one is looked for that the model accepts


def cause_of(error: BaseException) -> str:
    """Return an error's cause in one line."""
    if isinstance(error, WrongType):  # the type that it suggests is whole
        return str(error)
    said = " ".join(str(getattr(error, "message", None) or error).split())
    said = said.removeprefix("Failed to enforce schema of data ").strip()
    at = said.find("Error: ")
    if at >= 0 and "with schema" in said[:at]:  # MLflow repeats the data and the schema first
        said = said[at + len("Error: ") :]
    return f"{type(error).__name__.lstrip('_')}: {said}"[:400]


def place_of_refusal(
    ask: Callable[[object], object],
    part: Callable[[int, int], object],
    rows: int,
    *,
    mixed: Callable[[int, int, int], object] | None = None,
    names: Sequence[str] = (),
    label: Callable[[int], object] = int,
    seconds: float = 10.0,
) -> str:
    """Return in words where the first row is that ``ask`` refuses by itself; nothing when none is found soon.

    ``part`` returns the rows from the first number up to the second, ``mixed`` a row with one column's value
    of another row, by their places: a row that passes with a column of another one fails for that column.
    """
    until = time.monotonic() + seconds

    def fails(data: object) -> bool:
        try:
            ask(data)
        except Exception:
            return True
        return False

    first, last = 0, rows
    fine: int | None = None
    while last - first > 1:
        if time.monotonic() > until:
            return ""
        middle = (first + last) // 2
        if fails(part(first, middle)):
            last = middle
        elif fails(part(middle, last)):
            fine, first = first, middle
        else:
            return ""  # they fail together only
    if rows == 0 or (rows > 1 and not fails(part(first, last))):
        return ""
    row = label(first)
    if len(names) == 1 or mixed is None:
        return f" (row {row}, column {names[0]})" if names else f" (row {row})"
    others = range(0, rows, max(1, rows // _OTHERS)) if fine is None else [fine]
    for other in others:
        if time.monotonic() > until:
            break
        if other == first or (fine is None and fails(part(other, other + 1))):
            continue
        found = []
        for number, name in enumerate(names):
            if time.monotonic() > until:
                break
            if not fails(mixed(first, other, number)):
                found.append(name)
        if found:
            return f" (row {row}, column {' or '.join(found[:3])})"
        break
    return f" (row {row})"
