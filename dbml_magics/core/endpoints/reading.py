"""Read a request's rows as the model's input types, alike in every request format.

MLflow reads some forms with the model's schema and others by the look of their values: base64 stays text
then, a float in a column of whole numbers loses its fraction, and a list of rows gets the type of its first
column. Here each value is read as its column's type, and one that is not of it is refused by row and column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from dbml_magics.core.endpoints import exact
from dbml_magics.core.mlflow_private import enforce_type

if TYPE_CHECKING:
    from mlflow.types.schema import Array, DataType, Map, Object

    Kind: TypeAlias = DataType | Array | Object | Map

__all__ = ["FORMS", "BadRequest", "Table", "free", "refuse_other_numbers", "tabular", "typed"]

FORMS = ("input_data", "dataframe_split", "dataframe_records", "inputs", "instances")
"""The keys of a request that may hold its rows."""


Name: TypeAlias = "str | int"
"""A column's name, or its place where the model's columns have none."""


class BadRequest(Exception):
    """The request cannot be read."""


@dataclass(frozen=True)
class Table:
    """Rows by column, as they were written."""

    names: list[Name]
    columns: list[list[object]]
    index: list[object] | None = None

    def row(self, number: int) -> object:
        """Return the caller's label of a row: its index, else its position."""
        return number if self.index is None else self.index[number]


def tabular(form: str, data: object, names: Sequence[Name]) -> Table:
    """Return rows, however they are written, by column; ``names`` are the model's. Raises BadRequest."""
    if isinstance(data, dict) and "data" in data and _is_split(form, data):
        columns = data.get("columns")
        return _of_rows(data["data"], list(names) if columns is None else list(columns), data.get("index"))
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        found = list(dict.fromkeys(key for row in data for key in row))
        return Table(found, [[row.get(name) for row in data] for name in found])
    if isinstance(data, list):
        return _of_rows(data, list(names), None)
    if isinstance(data, dict) and form not in ("dataframe_split", "dataframe_records"):
        lists = {name: value if isinstance(value, list) else None for name, value in data.items()}
        if all(each is None for each in lists.values()):
            return Table(list(data), [[value] for value in data.values()])
        lengths = {name: len(each) for name, each in lists.items() if each is not None}
        if len(lengths) < len(lists) or len(set(lengths.values())) > 1:
            raise BadRequest(f"the columns of {form} have different numbers of values")
        return Table(list(lists), [each for each in lists.values() if each is not None])
    if isinstance(data, (str, int, float)) and len(names) == 1:
        return Table(list(names), [[data]])
    raise BadRequest(f"{form} has no rows: a list of them is wanted, or columns and data")


def _is_split(form: str, data: Mapping[str, object]) -> bool:
    return form == "dataframe_split" or (form == "input_data" and "columns" in data)


def _of_rows(rows: object, names: list[Name], index: object) -> Table:
    if not isinstance(rows, list):
        raise BadRequest("data has no rows: a list of them is wanted")
    twice = [str(name) for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise BadRequest(f"there is more than one column {', '.join(twice)}")
    if index is not None and (not isinstance(index, list) or len(index) != len(rows)):
        raise BadRequest("index has as many values as there are rows")
    listed = [row if isinstance(row, list) else [row] for row in rows]
    for number, row in enumerate(listed):
        if len(row) != len(names):
            shown = ", ".join(map(str, names))
            raise BadRequest(f"rows of {len(names)} values are wanted: {shown}; row {number} has {len(row)}")
    return Table(names, [list(column) for column in zip(*listed, strict=True)] or [[] for _ in names], index)


def typed(table: Table, wanted: Sequence[tuple[Name, Kind, bool]]) -> pd.DataFrame:
    """Return rows as a frame of the model's columns: name, type of MLflow's, required. Raises BadRequest.

    Columns that the model does not know are left out; those that are missing MLflow names as it predicts.
    """
    places = {name: number for number, name in enumerate(table.names)}
    found = {
        name: _column(table, table.columns[places[name]], name, kind, required)
        for name, kind, required in wanted
        if name in places
    }
    frame = pd.DataFrame(found, index=range(len(table.columns[0]) if table.columns else 0))
    return frame if table.index is None else frame.set_axis(table.index)


_NUMBERS = {"integer": "int32", "long": "int64", "float": "float32", "double": "float64"}


def _column(
    table: Table, values: list[object], name: Name, kind: Kind, required: bool
) -> exact.Array | exact.Column:
    named = str(getattr(kind, "name", ""))
    quick = _quick(values, named)
    if quick is not None:
        return quick
    read = _READERS.get(named) or (lambda value: _nested(value, kind, required))
    found = []
    for number, value in enumerate(values):
        try:
            found.append(read(value))
        except (ValueError, TypeError, OverflowError) as error:
            said = " ".join(str(error).split())[:300]
            raise BadRequest(f"row {table.row(number)}, column {name}: {said}") from None
    if named == "datetime":
        return pd.to_datetime(pd.Series(found))
    if named in _NUMBERS:
        return np.array(found, dtype=_NUMBERS[named])
    flags = named == "boolean" and None not in found
    return np.array(found, dtype=bool) if flags else exact.objects(found)


def _quick(values: list[Any], kind: str) -> exact.Array | exact.Column | None:
    """Return a column whose values all have JSON's form of its type, else None."""
    types = set(map(type, values))
    try:
        if kind == "double" and types <= {float, int, type(None)}:
            return np.array([math.nan if each is None else each for each in values], dtype="float64")
        if kind == "long" and types <= {int}:
            return np.array(values, dtype="int64")
        if kind == "datetime" and types <= {str, type(None)}:
            return pd.to_datetime(pd.Series(values))
    except (OverflowError, ValueError):
        return None
    return exact.objects(values) if kind == "string" else None


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.60} is no base64, and the model wants binary")
    try:
        return exact.from_base64(value)
    except ValueError:
        raise ValueError(f"{value!r:.60} is no base64, and the model wants binary") from None


def _flag(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{value!r:.60} is no boolean")


def _whole(value: object, kind: str) -> int:
    if value is None:
        raise ValueError(f"a null, and the model wants {kind}")
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise ValueError(f"{value!r:.60} is no whole number") from None
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= exact.EXACT:
            raise ValueError(f"{value!r} is no whole number for certain, and the model wants {kind}")
        value = int(value)
    if not isinstance(value, int):
        raise ValueError(f"{value!r:.60} is no whole number")
    low, high = exact.RANGES[kind]
    if not low <= value <= high:
        raise ValueError(f"{value} is beyond what {kind} holds")
    return int(value)


def _number(value: Any, kind: type[np.floating[Any]]) -> float:
    if value is None:
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r:.60} is no number") from None
    with np.errstate(over="ignore"):
        if math.isinf(kind(found)) and not math.isinf(found):
            raise ValueError(f"{value!r} is beyond what {kind.__name__} holds")
    return found


def _moment(value: Any) -> object:
    try:
        return pd.to_datetime(value)
    except (ValueError, TypeError):
        raise ValueError(f"{value!r:.60} is no datetime") from None


_READERS: dict[str, Callable[[object], object]] = {
    "binary": _bytes,
    "boolean": _flag,
    "integer": lambda value: _whole(value, "integer"),
    "long": lambda value: _whole(value, "long"),
    "float": lambda value: _number(value, np.float32),
    "double": lambda value: _number(value, np.float64),
    "datetime": _moment,
}


def _nested(value: object, kind: Kind, required: bool) -> object:
    """Return a list, an object or a map as MLflow checks it, with the bytes in it."""
    from mlflow.exceptions import MlflowException

    try:
        return enforce_type(_with_bytes(value, kind), kind, required)
    except MlflowException as error:
        raise ValueError(error.message) from None


def _with_bytes(value: object, kind: Kind) -> object:
    from mlflow.types.schema import Array, DataType, Map, Object

    if kind == DataType.binary:
        return _bytes(value)
    if isinstance(kind, Array) and isinstance(value, list):
        return [_with_bytes(each, kind.dtype) for each in value]
    if isinstance(kind, Object) and isinstance(value, dict):
        kinds = {each.name: each.dtype for each in kind.properties}
        return {name: _with_bytes(each, kinds.get(name)) for name, each in value.items()}
    if isinstance(kind, Map) and isinstance(value, dict):
        return {name: _with_bytes(each, kind.value_type) for name, each in value.items()}
    return value


def free(form: str, data: object, parsed: object) -> object:
    """Return what MLflow made of rows that no schema describes, with the values that it changed put back."""
    if isinstance(parsed, pd.DataFrame):
        table = tabular(form, data, list(parsed.columns))
        return pd.DataFrame(
            {name: exact.series(values) for name, values in zip(table.names, table.columns, strict=True)},
        ).set_axis(parsed.index)
    if isinstance(parsed, np.ndarray) and isinstance(data, list):
        return exact.array(data)
    if isinstance(parsed, dict) and isinstance(data, dict):
        return {k: exact.array(v) if isinstance(v, list) else parsed[k] for k, v in data.items()}
    if isinstance(parsed, dict) and isinstance(data, list):  # instances
        return {name: exact.array([row[name] for row in data if name in row]) for name in parsed}
    return parsed


def refuse_other_numbers(data: object, parsed: object) -> None:
    """Raise BadRequest for an array of whole numbers or booleans that was made of other ones."""
    if isinstance(parsed, dict) and isinstance(data, dict):
        for name, array in parsed.items():
            refuse_other_numbers(data.get(name), array)
    elif isinstance(parsed, np.ndarray) and parsed.dtype.kind in "iub":
        try:
            same = bool(np.array_equal(np.asarray(data), parsed))
        except ValueError:
            return
        if not same:
            raise BadRequest(f"the model wants {parsed.dtype}, and the data has other values")
