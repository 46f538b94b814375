"""Lossless conversion of values: numpy and pandas silently change mixed types and large integers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
import pandas as pd

__all__ = [
    "EXACT",
    "RANGES",
    "Array",
    "Column",
    "array",
    "as_dtype",
    "from_base64",
    "objects",
    "read_csv",
    "series",
]

EXACT = 2**53
"""Whole numbers beyond it have no exact double, so nobody knows which one was meant."""

Column: TypeAlias = "pd.Series[Any]"
Array: TypeAlias = "np.ndarray[Any, Any]"

RANGES = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
"""The range of each of MLflow's integer types."""

_LEADING_ZERO = re.compile(r"[+-]?0\d")


def from_base64(text: str) -> bytes:
    """Return bytes that JSON has as base64, MLflow's with line breaks in it. Raises ValueError."""
    return base64.b64decode("".join(text.split()), validate=True)


def array(values: Sequence[object]) -> Array:
    """Return numpy's array of values; an array of objects where numpy would change one (1 beside "a")."""
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError):  # rows of different lengths, numbers beyond 64 bits
        return objects(values)
    return found if found.dtype == object or _is_same(found.tolist(), values) else np.array(values, object)


def objects(values: Sequence[object]) -> Array:
    """Return values as an array of one dimension, each as it is."""
    found = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):
        found[number] = value
    return found


def series(values: Sequence[object]) -> Column:
    """Return values as a column of pandas: whole numbers beside nulls stay exact."""
    try:
        found = pd.Series(list(values))
    except OverflowError:
        return pd.Series(objects(values))
    if found.dtype == object:
        return found
    present = [value for value in values if value is not None]
    if _is_same(found.dropna().tolist() if len(present) < len(found) else found.tolist(), present):
        return found
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in present)
    return pd.Series(list(values), dtype="Int64") if whole else pd.Series(objects(values))


def as_dtype(values: Sequence[object], dtype: str) -> Array:
    """Return values as an array of a type; whole numbers and booleans that would change stay as they are."""
    found = np.asarray(values, dtype=dtype)
    return found if found.dtype.kind not in "iub" or _is_same(found.tolist(), list(values)) else array(values)


def _is_same(made: Iterable[object], given: Iterable[object]) -> bool:
    """Tell whether each value equals what was made of it; a boolean is no number, and neither is a text."""
    kinds = {type(value) for value in _leaves(given)}
    if len(kinds) == 1 and kinds <= {float, str, bool} and {type(value) for value in _leaves(made)} == kinds:
        return True
    pairs = zip(_leaves(made), _leaves(given), strict=False)
    return all(a == b and _rank(a) == _rank(b) for a, b in pairs if b == b)


def _leaves(values: Iterable[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value.item() if isinstance(value, np.generic) else value


def _rank(value: object) -> int:
    return 1 if isinstance(value, bool) else 2 if isinstance(value, (int, float)) else 3


def read_csv(source: Path | TextIO, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read CSV; ``texts`` and columns with numbers like 007 stay text, large whole numbers stay whole."""
    written = pd.read_csv(source, dtype=str)
    frame = pd.DataFrame(index=written.index)
    parts = []
    for number, name in enumerate(written.columns):
        column = written.iloc[:, number]
        known = column.dropna()
        if name in texts or known.map(lambda value: _LEADING_ZERO.match(value) is not None).any():
            parts.append(column)
        else:
            parts.append(_inferred(column, known))
    return pd.concat(parts, axis=1) if parts else frame


def _inferred(column: Column, known: Column) -> Column:
    """Return a column of text as what pandas reads in it, without a loss."""
    if known.empty:
        return pd.Series(np.nan, index=column.index, name=column.name)
    if known.isin(["True", "False", "TRUE", "FALSE", "true", "false"]).all():
        flags = column.map(lambda value: value.lower() == "true", na_action="ignore")
        return flags if len(known) < len(column) else flags.astype(bool)
    try:
        whole = [int(value) if isinstance(value, str) else None for value in column]
    except ValueError:
        try:
            numbers = column.astype("float64")
        except ValueError:
            return column
        # 9007199254740993 beside 1.5: no number of pandas holds both.
        large = (numbers.abs() >= EXACT) & column.str.fullmatch(r"[+-]?\d+").fillna(False).astype(bool)
        return column if large.any() else numbers
    return pd.Series(series(whole).array, index=column.index, name=column.name)
