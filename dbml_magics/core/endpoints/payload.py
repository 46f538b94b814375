"""What is sent to an endpoint and what comes back: data, checked, as JSON, and its shape restored.

Numbers travel as JSON's shortest exact form, so predictions equal those of the model in memory to the bit.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dbml_magics.core.endpoints.swagger import sides
from dbml_magics.errors import BadData

__all__ = ["Payload", "prepare", "read"]

_WRAPPERS = ("input_data", "dataframe_split", "dataframe_records", "instances", "inputs")
_DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "object",
    "datetime": "datetime64[ns]",
}
_RANGES = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
_EXACT = 2**53  # whole numbers beyond it have no exact double, so nobody knows which one was meant
_WRITTEN = "dbml written as JSON"  # marks a frame whose predictions are a list, as JSON has it
_HELP = [("%dbml help invoke", "what it takes")]


@dataclass(frozen=True)
class Payload:
    """Rows that are ready to be sent, in pieces if need be."""

    rows: int
    body: Callable[[int, int], bytes]
    """Returns the request for the rows from the first number up to the second."""
    restore: Callable[[list[Any]], Any]
    """Returns predictions in the shape of what was given."""
    notes: tuple[str, ...] = ()
    whole: bool = False  # it cannot be split


def read(data: Any) -> Any:
    """Return what a text means: JSON or a file's content; anything else as it is. Raises BadData."""
    if isinstance(data, os.PathLike):
        return _from_file(Path(data))
    if not isinstance(data, str):
        return data
    written = data.strip()
    if written[:1] in ("{", "["):
        try:
            return _unwrapped(json.loads(written))
        except RecursionError:
            raise _too_deep() from None
        except ValueError as error:
            raise BadData(
                f"the text is not JSON: {error}; on a magic line it stands in single quotes.",
                remedies=[
                    ("""%dbml invoke wine '{"columns": ["a"], "data": [[1.5]]}'""", "for example"),
                    *_HELP,
                ],
            ) from None
    path = Path(written).expanduser()
    if path.exists():
        return _from_file(path)
    try:
        number = json.loads(written)
    except (ValueError, RecursionError):
        raise BadData(
            f"{written[:60]!r} is neither JSON nor a file; a variable of the notebook is written $name.",
            remedies=_HELP,
        ) from None
    return [number]


def _from_file(path: Path) -> Any:
    readers: dict[str, Callable[[], Any]] = {
        ".json": lambda: _unwrapped(json.loads(path.read_text())),
        ".jsonl": lambda: [json.loads(line) for line in path.read_text().splitlines() if line.strip()],
        ".csv": lambda: pd.read_csv(path),
        ".parquet": lambda: pd.read_parquet(path),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadData(
            f"{path} is no file that is known here: {', '.join(readers)} are.",
            remedies=[("%dbml invoke NAME $data", "a DataFrame, array or list of the notebook")],
        )
    try:
        return reader()
    except Exception as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise BadData(f"{path} cannot be read: {said}.", remedies=_HELP) from None


def _unwrapped(told: Any) -> Any:
    """Return the data of a whole request, such as ``{"input_data": …}``."""
    if not isinstance(told, dict):
        return told
    found = [key for key in _WRAPPERS if key in told]
    if len(found) == 1 and set(told) <= {found[0], "params"}:
        return _unwrapped(told[found[0]])
    if {"columns", "data"} <= told.keys() <= {"columns", "data", "index"}:
        frame = pd.DataFrame(told["data"], columns=told["columns"], index=told.get("index"))
        frame.attrs[_WRITTEN] = True
        return frame
    return told


def prepare(data: Any, signature: Mapping[str, Any] | None, params: Mapping[str, Any] | None) -> Payload:
    """Check data against a model's signature, and make it ready to be sent. Raises BadData."""
    try:
        return _prepared(_unwrapped(data), signature, params)
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> BadData:
    return BadData("the data is nested too deeply to be sent.", remedies=_HELP)


def _prepared(data: Any, signature: Mapping[str, Any] | None, params: Mapping[str, Any] | None) -> Payload:
    if type(data).__module__.startswith("pyspark"):
        raise BadData(
            "a Spark DataFrame is not sent to an endpoint: it is scored where it is.",
            remedies=[(".limit(1000).toPandas()", "for a few rows of it")],
        )
    inputs = sides(signature, "inputs")
    outputs = sides(signature, "outputs")
    if inputs and inputs[0].get("type") == "tensor":
        return _tensors(data, inputs, outputs, params)
    if inputs and inputs[0].get("name") is not None:
        return _columns(data, inputs, outputs, params)
    return _free(data, outputs, params)


def _request(input_data: Any, params: Mapping[str, Any] | None) -> bytes:
    told = {"input_data": input_data, **({"params": dict(params)} if params else {})}
    try:
        return json.dumps(told, default=_plain).encode()
    except RecursionError:
        raise _too_deep() from None


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise BadData(f"a {type(value).__name__} cannot be sent as JSON.", remedies=_HELP)


# --- columns


def _columns(
    data: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], params: Mapping[str, Any] | None
) -> Payload:
    names = [str(each["name"]) for each in inputs]
    frame, restore = _as_frame(data, names, outputs)
    optional = {str(each["name"]) for each in inputs if each.get("required") is False or each.get("optional")}
    present = {str(column) for column in frame.columns}
    missing = [each for each in inputs if str(each["name"]) not in present | optional]
    extra = [str(column) for column in frame.columns if str(column) not in names]
    if missing:
        raise BadData(_missing(missing, extra, len(names)), remedies=_HELP)
    frame = frame.rename(columns=str)
    twice = sorted({str(c) for c in frame.columns[frame.columns.duplicated()]} & set(names))
    if twice:
        raise BadData(f"the data has more than one column {', '.join(twice)}.", remedies=_HELP)
    wrong = []
    columns: dict[str, list[Any]] = {}
    for each in inputs:
        name = str(each["name"])
        if name not in present:
            continue
        try:
            columns[name] = _column(frame[name], str(each.get("type")))
        except ValueError as problem:
            wrong.append(f"{name} {problem}, and the model wants {each.get('type')}")
    if wrong:
        raise BadData(f"the data does not have the model's types: {'; '.join(wrong[:5])}.", remedies=_HELP)
    notes = []
    if extra:
        listed = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
        notes.append(f"not sent, since the model does not know them: {listed}")

    def body(first: int, last: int) -> bytes:
        rows = [list(row) for row in zip(*(values[first:last] for values in columns.values()), strict=True)]
        told = {"columns": list(columns), "index": list(range(first, last)), "data": rows}
        return _request(told, params)

    return Payload(len(frame), body, restore, tuple(notes))


def _missing(missing: Sequence[Mapping[str, Any]], extra: Sequence[str], wanted: int) -> str:
    told = []
    for each in missing[:8]:
        near = get_close_matches(str(each["name"]), extra, n=1, cutoff=0.6)
        hint = f"; is it {near[0]!r} here?" if near else ""
        told.append(f"{each['name']!r} ({each.get('type')}{hint})")
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return f"the data lacks {len(missing)} of the model's {wanted} columns: {', '.join(told)}{more}."


def _as_frame(
    data: Any, names: list[str], outputs: list[dict[str, Any]]
) -> tuple[pd.DataFrame, Callable[[list[Any]], Any]]:
    """Return data as a frame, and what gives predictions its shape."""
    if isinstance(data, pd.DataFrame):
        return data, _restorer(data, outputs)
    if isinstance(data, pd.Series):
        if set(names) <= {str(label) for label in data.index} and not data.index.has_duplicates:
            return data.to_frame().T.infer_objects(), lambda found: _one(found, outputs)
        if len(names) == 1:
            return data.to_frame(names[0]), lambda found: _like_frame(found, data.index, outputs)
        raise BadData(_wants(names, "a Series without these labels"), remedies=_HELP)
    if isinstance(data, dict):
        if all(np.ndim(value) == 0 for value in data.values()):
            return pd.DataFrame([data]), lambda found: _one(found, outputs)
        try:
            return pd.DataFrame(data), lambda found: found
        except ValueError as error:
            raise BadData(f"the dict is no table: {error}.", remedies=_HELP) from None
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return pd.DataFrame(data), lambda found: found
    return _from_rows(data, names, outputs)


def _from_rows(
    data: Any, names: list[str], outputs: list[dict[str, Any]]
) -> tuple[pd.DataFrame, Callable[[list[Any]], Any]]:
    """Return rows without names, or one row, as a frame."""
    array = isinstance(data, np.ndarray)
    if not array and not isinstance(data, (list, tuple)):
        raise BadData(_wants(names, f"a {type(data).__name__}"), remedies=_HELP)
    rows: Any = (
        data if array else [list(row) if isinstance(row, (list, tuple, np.ndarray)) else row for row in data]
    )
    flat = data.ndim == 1 if array else not any(isinstance(row, list) for row in rows)
    shaped: Callable[[list[Any]], Any] = (
        (lambda found: _as_array(found, outputs)) if array else (lambda found: found)
    )
    if flat and len(names) > 1:
        rows, shaped = [rows], lambda found: _one(found, outputs)
    elif flat:
        rows = [[row] for row in rows]
    widths = {len(row) if np.ndim(row) else 1 for row in rows}
    if widths - {len(names)}:
        raise BadData(_wants(names, f"{' and '.join(map(str, sorted(widths)))} in a row"), remedies=_HELP)
    return pd.DataFrame(rows, columns=names), shaped


def _wants(names: Sequence[str], got: str) -> str:
    listed = ", ".join(names[:8]) + (f", … {len(names) - 8} more" if len(names) > 8 else "")
    return f"the model wants {len(names)} values a row ({listed}), and the data has {got}."


def _column(values: pd.Series[Any], wanted: str) -> list[Any]:
    """Return a column as JSON's values. Raises ValueError, saying what it has, when it is of another type."""
    kind = values.dtype.kind if isinstance(values.dtype, np.dtype) else ""
    if wanted in ("double", "float"):
        return _numbers(values, kind)
    if wanted in _RANGES:
        return _whole(values, kind, wanted)
    if wanted == "boolean":
        listed = values.tolist()
        if not all(isinstance(value, (bool, np.bool_)) for value in listed):
            raise ValueError(f"is {_named(values)}")
        return [bool(value) for value in listed]
    if wanted == "string":
        listed = [None if _is_null(value) else value for value in values.tolist()]
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
    return values.tolist()  # bytes, lists and objects: the model itself looks at them


def _numbers(values: pd.Series[Any], kind: str) -> list[Any]:
    if kind in ("f", "i", "u"):
        found = values.astype("float64").tolist()
    else:
        found = [math.nan if _is_null(value) else float(value) for value in _unboxed(values)]
    return [None if math.isnan(value) else value for value in found]


def _whole(values: pd.Series[Any], kind: str, wanted: str) -> list[Any]:
    listed = values.tolist() if kind in ("i", "u") else [_exact(value) for value in _unboxed(values)]
    low, high = _RANGES[wanted]
    if listed and (min(listed) < low or max(listed) > high):
        raise ValueError(f"has {min(listed) if min(listed) < low else max(listed)}")
    return listed


def _exact(value: Any) -> int:
    """Return a number as the whole number that it is. Raises ValueError when it is none for certain."""
    if _is_null(value):
        raise ValueError("has missing values")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if value % 1 != 0:  # infinity too
        raise ValueError("has fractions")
    if not isinstance(value, decimal.Decimal) and abs(value) >= _EXACT:
        raise ValueError("has whole numbers that a double does not hold")
    return int(value)


def _unboxed(values: pd.Series[Any]) -> list[Any]:
    """Return the numbers of a column as they are. Raises ValueError when it has others."""
    listed: list[Any] = values.tolist()
    for value in listed:
        if _is_null(value):
            continue
        if isinstance(value, (bool, np.bool_)) or not isinstance(
            value, (int, float, np.number, decimal.Decimal)
        ):
            raise ValueError(f"is {_named(values)}")
    return listed


def _is_null(value: Any) -> bool:
    return (
        value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    )


def _named(values: pd.Series[Any]) -> str:
    first = next((value for value in values.tolist() if not _is_null(value)), None)
    if isinstance(first, str):
        return "text"
    return str(values.dtype) if values.dtype != object else type(first).__name__


# --- arrays


def _tensors(
    data: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], params: Mapping[str, Any] | None
) -> Payload:
    named = inputs[0].get("name") is not None
    if named:
        given = {str(k): v for k, v in data.items()} if isinstance(data, (dict, pd.DataFrame)) else None
        if given is None:
            raise BadData(
                f"the model wants arrays by name: {', '.join(str(i['name']) for i in inputs)}.",
                remedies=_HELP,
            )
        missing = [str(each["name"]) for each in inputs if str(each["name"]) not in given]
        if missing:
            raise BadData(f"the data lacks the arrays {', '.join(missing)}.", remedies=_HELP)
        arrays = {str(i["name"]): _array(given[str(i["name"])], i) for i in inputs}
        rows = {len(array) for array in arrays.values()}
        if len(rows) != 1:
            raise BadData("the arrays have different numbers of rows.", remedies=_HELP)

        def body(first: int, last: int) -> bytes:
            return _request({name: array[first:last].tolist() for name, array in arrays.items()}, params)

        return Payload(rows.pop(), body, _restorer(data, outputs))
    one = np.ndim(data) and len(_shape(inputs[0])) == np.ndim(data) + 1
    array = _array([data] if one else data, inputs[0])
    restore = (lambda found: _one(found, outputs)) if one else _restorer(data, outputs)
    return Payload(len(array), lambda first, last: _request(array[first:last].tolist(), params), restore)


def _shape(told: Mapping[str, Any]) -> list[int]:
    return [int(side) for side in (told.get("tensor-spec") or {}).get("shape") or []]


def _array(data: Any, told: Mapping[str, Any]) -> Any:
    wanted = np.dtype((told.get("tensor-spec") or {}).get("dtype") or "float64")
    shape = _shape(told)
    name = f"{told['name']}: " if told.get("name") is not None else ""
    try:
        array = np.asarray(data)
    except ValueError:
        raise BadData(f"{name}the rows have different lengths.", remedies=_HELP) from None
    shown = "×".join("n" if side < 0 else str(side) for side in shape)
    if shape and (
        array.ndim != len(shape) or any(s >= 0 and s != a for s, a in zip(shape, array.shape, strict=True))
    ):
        got = "×".join(map(str, array.shape)) or "one value"
        raise BadData(f"{name}the model wants an array of {shown}, and the data is {got}.", remedies=_HELP)
    if array.dtype != wanted and (
        array.dtype.kind not in "iufb"
        or wanted.kind not in "iuf"
        or (array.dtype.kind == "f" and wanted.kind != "f")
    ):
        if array.dtype.kind == "f" and wanted.kind in "iu" and not (array % 1).any():
            if (np.abs(array) >= _EXACT).any():
                said = "has whole numbers that a double does not hold"
                raise BadData(f"{name}the model wants {wanted}, and the data {said}.", remedies=_HELP)
            return _fitting(array, wanted, name)
        raise BadData(f"{name}the model wants {wanted}, and the data is {array.dtype}.", remedies=_HELP)
    if wanted.kind in "iu" and array.dtype != wanted:
        return _fitting(array, wanted, name)
    return array.astype(wanted) if wanted.kind in "iuf" else array


def _fitting(array: Any, wanted: Any, name: str) -> Any:
    """Return whole numbers in the model's own type. Raises BadData for those that it does not hold."""
    held = np.iinfo(wanted)
    if array.size and (int(array.min()) < held.min or int(array.max()) > held.max):
        one = int(array.min()) if int(array.min()) < held.min else int(array.max())
        raise BadData(f"{name}the model wants {wanted}, and the data has {one}.", remedies=_HELP)
    return array.astype(wanted)


def _free(data: Any, outputs: list[dict[str, Any]], params: Mapping[str, Any] | None) -> Payload:
    """Send data to a model without a signature, or with columns that have no names."""
    if isinstance(data, pd.Series):
        data = data.to_frame(data.name if data.name is not None else "0")
    if isinstance(data, pd.DataFrame):
        lists = [[None if _is_null(value) else value for value in data[c].tolist()] for c in data.columns]

        def split(first: int, last: int) -> bytes:
            rows = [list(row) for row in zip(*(values[first:last] for values in lists), strict=True)]
            names = [str(column) for column in data.columns]
            return _request({"columns": names, "index": list(range(first, last)), "data": rows}, params)

        return Payload(len(data), split, _restorer(data, outputs))
    if isinstance(data, (np.ndarray, list, tuple)) and len(
        np.shape(data) if isinstance(data, np.ndarray) else [0]
    ):
        rows = data.tolist() if isinstance(data, np.ndarray) else list(data)
        return Payload(
            len(rows), lambda first, last: _request(rows[first:last], params), _restorer(data, outputs)
        )
    return Payload(1, lambda _first, _last: _request(data, params), lambda found: found, whole=True)


# --- the shape of predictions


def _restorer(data: Any, outputs: list[dict[str, Any]]) -> Callable[[list[Any]], Any]:
    if isinstance(data, (pd.DataFrame, pd.Series)) and not data.attrs.get(_WRITTEN):
        return lambda found: _like_frame(found, data.index, outputs)
    if isinstance(data, np.ndarray):
        return lambda found: _as_array(found, outputs)
    return lambda found: found


def _dtype(told: Mapping[str, Any]) -> str | None:
    if told.get("type") == "tensor":
        return (told.get("tensor-spec") or {}).get("dtype")
    return _DTYPES.get(str(told.get("type")))


def _as_array(found: list[Any], outputs: list[dict[str, Any]]) -> Any:
    if found and isinstance(found[0], dict):
        return _like_frame(found, None, outputs)
    dtype = _dtype(outputs[0]) if len(outputs) == 1 else None
    try:
        return np.asarray(found, dtype=dtype)
    except (ValueError, TypeError):
        return np.asarray(found, dtype=object)


def _like_frame(found: list[Any], index: Any, outputs: list[dict[str, Any]]) -> Any:
    if len(found) and isinstance(found[0], dict):
        frame = pd.DataFrame(found, index=index)
        for each in outputs:
            dtype = _dtype(each)
            if each.get("name") in frame.columns and dtype and not frame[each["name"]].isna().any():
                frame[each["name"]] = frame[each["name"]].astype(dtype)
        return frame
    array = _as_array(found, outputs)
    if array.ndim == 1:
        name = outputs[0].get("name") if len(outputs) == 1 else None
        return pd.Series(array, index=index, name=name if name is not None else "prediction")
    if array.ndim == 2:
        return pd.DataFrame(array, index=index)
    return pd.Series(list(array), index=index, name="prediction")


def _one(found: list[Any], outputs: list[dict[str, Any]]) -> Any:
    """Return the one prediction of one row."""
    first = found[0]
    if isinstance(first, (dict, list)) or first is None:
        return first
    return _as_array(found, outputs)[0]
