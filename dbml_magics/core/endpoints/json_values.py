"""Values as JSON has them, of the types that a model wants; what would lose something is refused."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dbml_magics.common.foreign_text import kind_of
from dbml_magics.common.hints import Remedy
from dbml_magics.core.endpoints import exact
from dbml_magics.errors import BadData

_HELP = [(Remedy("help", "invoke"), "what it takes")]


def json_column(values: exact.Column, wanted: str) -> Sequence[object]:
    """Return a column as JSON values. Raises ValueError, naming its type, when that is another."""
    kind = values.dtype.kind if isinstance(values.dtype, np.dtype) else ""
    if wanted in ("double", "float"):
        return _numbers(values, kind)
    if wanted in exact.RANGES:
        return _whole(values, kind, wanted)
    if wanted == "boolean":
        listed = values.tolist()
        if not all(isinstance(value, (bool, np.bool_)) for value in listed):
            raise ValueError(f"is {_named(values)}")
        return [bool(value) for value in listed]
    if wanted == "string":
        listed = [None if is_null(value) else value for value in values.tolist()]
        if not all(value is None or isinstance(value, str) for value in listed):
            raise ValueError(f"is {_named(values)}")
        return listed
    if wanted == "datetime":
        try:
            moments = pd.to_datetime(values)
        except (ValueError, TypeError):
            raise ValueError(f"is {_named(values)}") from None
        zone = getattr(moments.dtype, "tz", None)
        if zone is not None or moments.dtype == object:  # MLflow's schema has no time zones
            named = "time zones" if zone is None else f"the time zone {zone}"
            raise ValueError(f"has {named} (.dt.tz_localize(None) leaves it out)")
        return [None if pd.isna(moment) else moment.isoformat() for moment in moments]
    if wanted == "binary":
        return [None if is_null(value) else _in_base64(value) for value in values.tolist()]
    return values.tolist()  # bytes, lists and objects: the model itself looks at them


def _in_base64(value: Any) -> str:
    """Encode bytes as base64; a base64 text stays. Raises ValueError for anything else."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    try:
        exact.from_base64(value)
    except (AttributeError, ValueError):
        said = "text that is not base64" if isinstance(value, str) else type(value).__name__
        raise ValueError(f"has {said}") from None
    return str(value)


def _numbers(values: exact.Column, kind: str) -> list[object]:
    if kind in ("f", "i", "u"):
        found = values.astype("float64").tolist()
    else:
        found = [math.nan if is_null(value) else float(value) for value in _unboxed(values)]
    return [None if math.isnan(value) else value for value in found]


def _whole(values: exact.Column, kind: str, wanted: str) -> list[int]:
    listed = values.tolist() if kind in ("i", "u") else [_exact(value) for value in _unboxed(values)]
    low, high = exact.RANGES[wanted]
    if listed and (min(listed) < low or max(listed) > high):
        raise ValueError(f"has {min(listed) if min(listed) < low else max(listed)}")
    return listed


def _exact(value: Any) -> int:
    """Return an integer for a number. Raises ValueError when it is not exactly one."""
    if is_null(value):
        raise ValueError("has missing values")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if value % 1 != 0:  # infinity too
        raise ValueError("has fractions")
    if not isinstance(value, decimal.Decimal) and abs(value) >= exact.EXACT:
        raise ValueError("has whole numbers that a double does not hold")
    return int(value)


def _unboxed(values: exact.Column) -> list[Any]:
    """Return the numbers of a column as they are. Raises ValueError when it has others."""
    listed: list[Any] = values.tolist()
    for value in listed:
        if is_null(value):
            continue
        if isinstance(value, (bool, np.bool_)) or not isinstance(
            value, (int, float, np.number, decimal.Decimal)
        ):
            raise ValueError(f"is {_named(values)}")
    return listed


def is_null(value: object) -> bool:
    """Tell whether a value is missing."""
    return (
        value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    )


def _named(values: exact.Column) -> str:
    first = next((value for value in values.tolist() if not is_null(value)), None)
    if isinstance(first, str):
        return "text"
    return str(values.dtype) if values.dtype != object else type(first).__name__


def first_refused(values: exact.Column, kind: str) -> int:
    """Return the place of the first value that is not of the type that is wanted."""
    fine, most = 0, len(values)
    while fine + 1 < most:
        middle = (fine + most) // 2
        try:
            json_column(values.iloc[:middle], kind)
        except ValueError:
            most = middle
        else:
            fine = middle
    return fine


def as_json(value: object) -> object:
    """Return a value as JSON has it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return _of_decimal(value)
    raise BadData(f"{kind_of(value)} cannot be sent as JSON.", remedies=_HELP)


def _of_decimal(value: decimal.Decimal) -> int | float:
    """Return a decimal as the number that JSON and its readers have. Raises BadData when there is none."""
    if value.is_finite() and value == value.to_integral_value():
        return int(value)
    if value.is_finite() and decimal.Decimal(repr(float(value))) != value:
        raise BadData(f"{value} has more digits than a number in JSON keeps.", remedies=_HELP)
    return float(value)
