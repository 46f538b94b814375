"""Requests and predictions of an endpoint: check data, encode it as JSON, restore its shape.

Numbers travel as JSON's shortest exact form, so predictions equal those of the model in memory to the bit.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dbml_magics.common.hints import Remedy
from dbml_magics.core.endpoints import exact
from dbml_magics.core.endpoints.params import check_params, read_params
from dbml_magics.core.endpoints.swagger import sides
from dbml_magics.core.model.mlmodel import ColumnSpec, Params, Signature
from dbml_magics.errors import BadData, ScoringFailed

__all__ = ["Payload", "prepare", "read"]

_WRAPPERS = ("input_data", "dataframe_split", "dataframe_records", "instances", "inputs")
_DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "object",
    "binary": "object",
    "datetime": "datetime64[ns]",
}
_WRITTEN = "dbml written as JSON"  # marks a frame whose predictions are a list, as JSON has it
_HELP = [(Remedy("help", "invoke"), "what it takes")]


Restore = Callable[[Any], object]


@dataclass(frozen=True)
class Payload:
    """Rows that are ready to be sent, in pieces if need be."""

    rows: int
    body: Callable[[int, int], bytes]
    """Returns the request for the rows from the first number up to the second."""
    restore: Restore
    """Returns predictions in the shape of the input."""
    notes: tuple[str, ...] = ()
    whole: bool = False  # it cannot be split


def read(data: object, signature: Signature | None = None) -> object:
    """Parse a text as JSON or read the file that it names; return other data as is. Raises BadData.

    ``signature`` is the model's: of CSV, its columns of text stay text.
    """
    texts = [str(each.get("name")) for each in sides(signature, "inputs") if each.get("type") == "string"]
    if isinstance(data, os.PathLike):
        return _from_file(Path(data), texts)
    if not isinstance(data, str):
        return data
    written = data.strip()
    if written[:1] in ("{", "["):
        try:
            return json.loads(written)
        except RecursionError:
            raise _too_deep() from None
        except ValueError as error:
            raise BadData(
                f"the text is not JSON: {error}; on a magic line it stands in single quotes.",
                remedies=[
                    (Remedy("invoke", "wine", '{"columns": ["a"], "data": [[1.5]]}'), "for example"),
                    *_HELP,
                ],
            ) from None
    path = Path(written).expanduser()
    if path.exists():
        return _from_file(path, texts)
    try:
        number = json.loads(written)
    except (ValueError, RecursionError):
        raise BadData(
            f"{written[:60]!r} is neither JSON nor a file; a variable of the notebook is written $name.",
            remedies=_HELP,
        ) from None
    return [number]


def _from_file(path: Path, texts: Sequence[str]) -> object:
    readers: dict[str, Callable[[], object]] = {
        ".json": lambda: json.loads(path.read_text()),
        ".jsonl": lambda: [json.loads(line) for line in path.read_text().splitlines() if line.strip()],
        ".csv": lambda: exact.read_csv(path, texts),
        ".parquet": lambda: pd.read_parquet(path),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadData(
            f"{path} is no file that is known here: {', '.join(readers)} are.",
            remedies=[(Remedy("invoke", "NAME", "$data"), "a DataFrame, array or list of the notebook")],
        )
    try:
        return reader()
    except Exception as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise BadData(f"{path} cannot be read: {said}.", remedies=_HELP) from None


def _unwrapped(content: object) -> tuple[object, object]:
    """Return the data of a whole request, such as ``{"input_data": …, "params": …}``, and its params."""
    if not isinstance(content, dict):
        return content, None
    found = [key for key in _WRAPPERS if key in content]
    if len(found) == 1 and set(content) <= {found[0], "params"}:
        data, within = _unwrapped(content[found[0]])
        return data, content.get("params") if within is None else within
    if {"columns", "data"} <= content.keys() <= {"columns", "data", "index"}:
        frame = _as_written(content["data"], content["columns"], content.get("index"))
        frame.attrs[_WRITTEN] = True
        return frame, None
    return content, None


def _as_written(data: Any, columns: Any = None, index: Any = None) -> pd.DataFrame:
    """Return rows as a frame whose values are as they were written, whatever stands beside them."""
    try:
        return pd.DataFrame(data, columns=columns, index=index, dtype=object)
    except (ValueError, TypeError) as error:
        raise BadData(
            f"the data is no table: {' '.join(str(error).split())[:200]}.", remedies=_HELP
        ) from None


def prepare(data: object, signature: Signature | None, params: Params | str | None) -> Payload:
    """Check data and params against a model's signature, and make them ready to be sent. Raises BadData.

    Params of a whole request count as those that are given beside it.
    """
    try:
        bare, own = _unwrapped(data)
        if own is not None and params is not None:
            raise BadData("params are given twice: in the request, and beside it.", remedies=_HELP)
        chosen = read_params(params if own is None else own)
        if signature is not None:  # else nobody knows here what the model takes: its server does
            chosen = check_params(chosen, signature)
        prepared = _prepared(bare, signature, chosen)
    except RecursionError:
        raise _too_deep() from None
    outputs = sides(signature, "outputs")
    if not any("binary" in json.dumps(each) for each in outputs):
        return prepared
    shape = prepared.restore
    return replace(prepared, restore=lambda found: shape(_with_bytes(found, outputs)))


def _too_deep() -> BadData:
    return BadData("the data is nested too deeply to be sent.", remedies=_HELP)


def _prepared(data: object, signature: Signature | None, params: Params | None) -> Payload:
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
    return _free(data, inputs, outputs, params)


def _request(input_data: object, params: Params | None) -> bytes:
    body = {"input_data": input_data, **({"params": dict(params)} if params else {})}
    try:
        return json.dumps(body, default=_plain).encode()
    except RecursionError:
        raise _too_deep() from None


def _plain(value: object) -> object:
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
    raise BadData(f"a {type(value).__name__} cannot be sent as JSON.", remedies=_HELP)


def _of_decimal(value: decimal.Decimal) -> int | float:
    """Return a decimal as the number that JSON and its readers have. Raises BadData when there is none."""
    if value.is_finite() and value == value.to_integral_value():
        return int(value)
    if value.is_finite() and decimal.Decimal(repr(float(value))) != value:
        raise BadData(f"{value} has more digits than a number in JSON keeps.", remedies=_HELP)
    return float(value)


# --- columns


def _columns(
    data: Any, inputs: Sequence[ColumnSpec], outputs: Sequence[ColumnSpec], params: Params | None
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
    columns: dict[str, Sequence[object]] = {}
    for each in inputs:
        name = str(each["name"])
        if name not in present:
            continue
        kind = str(each.get("type"))
        try:
            columns[name] = _column(frame[name], kind)
        except ValueError as problem:
            row = _first_refused(frame[name], kind)
            wrong.append(f"{name} {problem}, and the model wants {kind} (row {row})")
    if wrong:
        raise BadData(f"the data does not have the model's types: {'; '.join(wrong[:5])}.", remedies=_HELP)
    notes = []
    if extra:
        listed = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
        notes.append(f"not sent, since the model does not know them: {listed}")

    def body(first: int, last: int) -> bytes:
        rows = [list(row) for row in zip(*(values[first:last] for values in columns.values()), strict=True)]
        table = {"columns": list(columns), "index": list(range(first, last)), "data": rows}
        return _request(table, params)

    return Payload(len(frame), body, restore, tuple(notes))


def _first_refused(values: exact.Column, kind: str) -> int:
    """Return the place of the first value that is not of the type that is wanted."""
    fine, most = 0, len(values)
    while fine + 1 < most:
        middle = (fine + most) // 2
        try:
            _column(values.iloc[:middle], kind)
        except ValueError:
            most = middle
        else:
            fine = middle
    return fine


def _missing(missing: Sequence[ColumnSpec], extra: Sequence[str], wanted: int) -> str:
    lacking = []
    for each in missing[:8]:
        near = get_close_matches(str(each["name"]), extra, n=1, cutoff=0.6)
        hint = f"; is it {near[0]!r} here?" if near else ""
        lacking.append(f"{each['name']!r} ({each.get('type')}{hint})")
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return f"the data lacks {len(missing)} of the model's {wanted} columns: {', '.join(lacking)}{more}."


def _as_frame(data: Any, names: list[str], outputs: Sequence[ColumnSpec]) -> tuple[pd.DataFrame, Restore]:
    """Return data as a frame, and the function that restores its shape for predictions."""
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
            return _as_written([data]), lambda found: _one(found, outputs)
        lists = {k: exact.objects(v) if isinstance(v, (list, tuple)) else v for k, v in data.items()}
        try:
            return pd.DataFrame(lists), lambda found: found
        except ValueError as error:
            raise BadData(f"the dict is no table: {error}.", remedies=_HELP) from None
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return _as_written(data), lambda found: found
    return _from_rows(data, names, outputs)


def _from_rows(data: Any, names: list[str], outputs: Sequence[ColumnSpec]) -> tuple[pd.DataFrame, Restore]:
    """Return rows without names, or one row, as a frame."""
    array = isinstance(data, np.ndarray)
    if not array and not isinstance(data, (list, tuple)):
        raise BadData(_wants(names, f"a {type(data).__name__}"), remedies=_HELP)
    rows: Any = (
        data if array else [list(row) if isinstance(row, (list, tuple, np.ndarray)) else row for row in data]
    )
    flat = data.ndim == 1 if array else not any(isinstance(row, list) for row in rows)
    shaped: Restore = (lambda found: _as_array(found, outputs)) if array else (lambda found: found)
    if flat and len(names) > 1:
        rows, shaped = [rows], lambda found: _one(found, outputs)
    elif flat:
        rows = [[row] for row in rows]
    widths = {len(row) if np.ndim(row) else 1 for row in rows}
    if widths - {len(names)}:
        raise BadData(_wants(names, f"{' and '.join(map(str, sorted(widths)))} in a row"), remedies=_HELP)
    return pd.DataFrame(rows, columns=names, dtype=None if array else object), shaped


def _wants(names: Sequence[str], got: str) -> str:
    listed = ", ".join(names[:8]) + (f", … {len(names) - 8} more" if len(names) > 8 else "")
    return f"the model wants {len(names)} values a row ({listed}), and the data has {got}."


def _column(values: exact.Column, wanted: str) -> Sequence[object]:
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
    if wanted == "binary":
        return [None if _is_null(value) else _in_base64(value) for value in values.tolist()]
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
        found = [math.nan if _is_null(value) else float(value) for value in _unboxed(values)]
    return [None if math.isnan(value) else value for value in found]


def _whole(values: exact.Column, kind: str, wanted: str) -> list[int]:
    listed = values.tolist() if kind in ("i", "u") else [_exact(value) for value in _unboxed(values)]
    low, high = exact.RANGES[wanted]
    if listed and (min(listed) < low or max(listed) > high):
        raise ValueError(f"has {min(listed) if min(listed) < low else max(listed)}")
    return listed


def _exact(value: Any) -> int:
    """Return an integer for a number. Raises ValueError when it is not exactly one."""
    if _is_null(value):
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
        if _is_null(value):
            continue
        if isinstance(value, (bool, np.bool_)) or not isinstance(
            value, (int, float, np.number, decimal.Decimal)
        ):
            raise ValueError(f"is {_named(values)}")
    return listed


def _is_null(value: object) -> bool:
    return (
        value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    )


def _named(values: exact.Column) -> str:
    first = next((value for value in values.tolist() if not _is_null(value)), None)
    if isinstance(first, str):
        return "text"
    return str(values.dtype) if values.dtype != object else type(first).__name__


# --- arrays


def _tensors(
    data: Any, inputs: Sequence[ColumnSpec], outputs: Sequence[ColumnSpec], params: Params | None
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


def _shape(spec: ColumnSpec) -> list[int]:
    return [int(side) for side in (spec.get("tensor-spec") or {}).get("shape") or []]


def _array(data: object, spec: ColumnSpec) -> exact.Array:
    wanted = np.dtype((spec.get("tensor-spec") or {}).get("dtype") or "float64")
    shape = _shape(spec)
    name = f"{spec['name']}: " if spec.get("name") is not None else ""
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
            if (np.abs(array) >= exact.EXACT).any():
                said = "has whole numbers that a double does not hold"
                raise BadData(f"{name}the model wants {wanted}, and the data {said}.", remedies=_HELP)
            return _fitting(array, wanted, name)
        raise BadData(f"{name}the model wants {wanted}, and the data is {array.dtype}.", remedies=_HELP)
    if wanted.kind in "iu" and array.dtype != wanted:
        return _fitting(array, wanted, name)
    return array.astype(wanted) if wanted.kind in "iuf" else array


def _fitting(array: exact.Array, wanted: np.dtype[Any], name: str) -> exact.Array:
    """Return whole numbers in the model's own type. Raises BadData for those that it does not hold."""
    held = np.iinfo(wanted)
    if array.size and (int(array.min()) < held.min or int(array.max()) > held.max):
        one = int(array.min()) if int(array.min()) < held.min else int(array.max())
        raise BadData(f"{name}the model wants {wanted}, and the data has {one}.", remedies=_HELP)
    return array.astype(wanted)


def _free(
    data: Any,
    inputs: Sequence[ColumnSpec],
    outputs: Sequence[ColumnSpec],
    params: Params | None,
) -> Payload:
    """Send data to a model without a signature, or with columns that have no names."""
    if isinstance(data, pd.Series):
        data = data.to_frame(data.name if data.name is not None else "0")
    if isinstance(data, pd.DataFrame):
        names = [str(column) for column in data.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadData(f"the data has more than one column {', '.join(twice)}.", remedies=_HELP)
        if inputs and len(inputs) == len(names):
            named = [each.copy() for each in inputs]
            for each, name in zip(named, names, strict=True):
                each["name"] = name
            return _columns(data, named, outputs, params)
        lists = [_unsigned(data.iloc[:, number], name) for number, name in enumerate(names)]
        moments = [n for n, each in zip(names, lists, strict=True) if any(map(_is_moment, each))]
        said = f"dates go as text, since no signature says what they are: {', '.join(moments[:5])}"

        def split(first: int, last: int) -> bytes:
            rows = [list(row) for row in zip(*(values[first:last] for values in lists), strict=True)]
            return _request({"columns": names, "index": list(range(first, last)), "data": rows}, params)

        return Payload(len(data), split, _restorer(data, outputs), (said,) if moments else ())
    if isinstance(data, (np.ndarray, list, tuple)) and len(
        np.shape(data) if isinstance(data, np.ndarray) else [0]
    ):
        rows = data.tolist() if isinstance(data, np.ndarray) else list(data)
        if not inputs:
            _refuse_bytes(rows)
        return Payload(
            len(rows), lambda first, last: _request(rows[first:last], params), _restorer(data, outputs)
        )
    return Payload(1, lambda _first, _last: _request(data, params), lambda found: found, whole=True)


def _unsigned(values: exact.Column, name: str) -> list[object]:
    """Return a column that no signature describes as JSON's values. Raises BadData for what JSON lacks."""
    found: list[object] = []
    for row, value in enumerate(values.tolist()):
        if _is_null(value):
            found.append(None)
            continue
        try:
            _refuse_bytes(value)
            kept = isinstance(value, (str, int, float, list, tuple, dict)) or _is_moment(value)
            found.append(value if kept else _plain(value))
        except BadData as error:
            raise BadData(
                f"row {row}, column {name}: {error.message}", remedies=list(error.remedies)
            ) from None
    return found


def _is_moment(value: object) -> bool:
    return isinstance(value, (datetime.datetime, datetime.date, datetime.time))


def _refuse_bytes(value: object) -> None:
    """Raise BadData for bytes: a model whose signature does not say binary would be given a text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise BadData(
            "bytes are sent as base64, which a model without a signature would take for text.",
            remedies=[("infer_signature(X, y)", "as the model is logged: it says which columns are binary")],
        )
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            _refuse_bytes(each)


# --- the shape of predictions


def _restorer(data: object, outputs: Sequence[ColumnSpec]) -> Restore:
    if isinstance(data, (pd.DataFrame, pd.Series)) and not data.attrs.get(_WRITTEN):
        return lambda found: _like_frame(found, data.index, outputs)
    if isinstance(data, np.ndarray):
        return lambda found: _as_array(found, outputs)
    return lambda found: found


def _dtype(spec: ColumnSpec) -> str | None:
    if spec.get("type") == "tensor":
        return (spec.get("tensor-spec") or {}).get("dtype")
    return _DTYPES.get(str(spec.get("type")))


def _as_array(found: list[Any], outputs: Sequence[ColumnSpec]) -> Any:
    if found and isinstance(found[0], dict):
        return _like_frame(found, None, outputs)
    dtype = _dtype(outputs[0]) if len(outputs) == 1 else None
    try:
        return exact.array(found) if dtype is None else exact.as_dtype(found, dtype)
    except (ValueError, TypeError, OverflowError):
        return np.asarray(found, dtype=object)


def _like_frame(found: list[Any], index: Any, outputs: Sequence[ColumnSpec]) -> Any:
    if len(found) and isinstance(found[0], dict):
        names = dict.fromkeys(key for row in found for key in row)
        frame = pd.DataFrame({name: exact.series([row.get(name) for row in found]) for name in names})
        frame = frame if index is None else frame.set_axis(index)
        for each in outputs:
            dtype = _dtype(each)
            if each.get("name") in frame.columns and dtype and not frame[each["name"]].isna().any():
                frame[each["name"]] = exact.as_dtype(frame[each["name"]].tolist(), dtype)
        return frame
    array = _as_array(found, outputs)
    if array.ndim == 1:
        name = outputs[0].get("name") if len(outputs) == 1 else None
        return pd.Series(array, index=index, name=name if name is not None else "prediction")
    if array.ndim == 2:
        return pd.DataFrame(array, index=index)
    return pd.Series(list(array), index=index, name="prediction")


def _with_bytes(found: list[Any], outputs: Sequence[ColumnSpec]) -> list[object]:
    """Return predictions with bytes where the signature says binary and an answer has base64."""
    named = {str(each.get("name")): each for each in outputs}
    one = outputs[0]
    rows: list[object] = []
    for row in found:
        if isinstance(row, dict) and not (len(outputs) == 1 and one.get("type") in ("object", "map")):
            rows.append(
                {k: _unpacked(v, named.get(k, one if len(outputs) == 1 else {})) for k, v in row.items()}
            )
        elif len(outputs) > 1 and isinstance(row, list):
            rows.append([_unpacked(v, each) for v, each in zip(row, outputs, strict=False)])
        else:
            rows.append(_unpacked(row, one if len(outputs) == 1 else {}))
    return rows


def _unpacked(value: object, spec: ColumnSpec) -> object:
    kind = spec.get("type")
    if kind == "binary" and isinstance(value, str):
        try:
            return exact.from_base64(value)
        except ValueError:
            raise ScoringFailed(
                "the signature says that the model gives bytes, and its answer is not base64.", remedies=_HELP
            ) from None
    if kind == "array" and isinstance(value, list):
        return [_unpacked(each, spec.get("items") or {}) for each in value]
    if kind == "object" and isinstance(value, dict):
        within = spec.get("properties") or {}
        return {key: _unpacked(each, within.get(key) or {}) for key, each in value.items()}
    if kind == "map" and isinstance(value, dict):
        return {key: _unpacked(each, spec.get("values") or {}) for key, each in value.items()}
    return value


def _one(found: list[Any], outputs: Sequence[ColumnSpec]) -> object:
    """Return the one prediction of one row."""
    first = found[0]
    if isinstance(first, (dict, list)) or first is None:
        return first
    return _as_array(found, outputs)[0]
