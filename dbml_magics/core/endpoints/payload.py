"""Requests and predictions of an endpoint: check data, encode it as JSON, restore its shape.

Numbers travel as JSON's shortest exact form, so predictions equal those of the model in memory to the bit.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dbml_magics.common.foreign_text import kind_of
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core.endpoints import exact
from dbml_magics.core.endpoints.json_values import as_json, first_refused, is_null, json_column
from dbml_magics.core.endpoints.params import check_params, read_params
from dbml_magics.core.endpoints.restoring import (
    WRITTEN,
    Restore,
    as_array,
    first_prediction,
    like_frame,
    restorer,
    with_bytes,
)
from dbml_magics.core.endpoints.swagger import sides
from dbml_magics.core.model.mlmodel import ColumnSpec, Params, Signature, missing_columns
from dbml_magics.errors import BadData

__all__ = ["Payload", "prepare", "read"]

_WRAPPERS = ("input_data", "dataframe_split", "dataframe_records", "instances", "inputs")
_HELP = [(Remedy("help", "invoke"), "what it takes")]
_EXAMPLE = '{"columns": ["a"], "data": [[1.5]]}'


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
                    (corrected(Remedy("invoke", "wine", _EXAMPLE), _EXAMPLE), "for example"),
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
            remedies=[
                (
                    corrected(Remedy("invoke", "NAME", "$data"), "$data"),
                    "a DataFrame, array or list of the notebook",
                )
            ],
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
        frame.attrs[WRITTEN] = True
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
    return replace(prepared, restore=lambda found: shape(with_bytes(found, outputs)))


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
        return json.dumps(body, default=as_json).encode()
    except RecursionError:
        raise _too_deep() from None


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
        raise BadData(missing_columns(missing, extra, len(names)), remedies=_HELP)
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
            columns[name] = json_column(frame[name], kind)
        except ValueError as problem:
            row = first_refused(frame[name], kind)
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


def _as_frame(data: Any, names: list[str], outputs: Sequence[ColumnSpec]) -> tuple[pd.DataFrame, Restore]:
    """Return data as a frame, and the function that restores its shape for predictions."""
    if isinstance(data, pd.DataFrame):
        return data, restorer(data, outputs)
    if isinstance(data, pd.Series):
        if set(names) <= {str(label) for label in data.index} and not data.index.has_duplicates:
            return data.to_frame().T.infer_objects(), lambda found: first_prediction(found, outputs)
        if len(names) == 1:
            return data.to_frame(names[0]), lambda found: like_frame(found, data.index, outputs)
        raise BadData(_wants(names, "a Series without these labels"), remedies=_HELP)
    if isinstance(data, dict):
        if all(np.ndim(value) == 0 for value in data.values()):
            return _as_written([data]), lambda found: first_prediction(found, outputs)
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
        raise BadData(_wants(names, kind_of(data)), remedies=_HELP)
    rows: Any = (
        data if array else [list(row) if isinstance(row, (list, tuple, np.ndarray)) else row for row in data]
    )
    flat = data.ndim == 1 if array else not any(isinstance(row, list) for row in rows)
    shaped: Restore = (lambda found: as_array(found, outputs)) if array else (lambda found: found)
    if flat and len(names) > 1:
        rows, shaped = [rows], lambda found: first_prediction(found, outputs)
    elif flat:
        rows = [[row] for row in rows]
    widths = {len(row) if np.ndim(row) else 1 for row in rows}
    if widths - {len(names)}:
        raise BadData(_wants(names, f"{' and '.join(map(str, sorted(widths)))} in a row"), remedies=_HELP)
    return pd.DataFrame(rows, columns=names, dtype=None if array else object), shaped


def _wants(names: Sequence[str], got: str) -> str:
    listed = ", ".join(names[:8]) + (f", … {len(names) - 8} more" if len(names) > 8 else "")
    return f"the model wants {len(names)} values a row ({listed}), and the data has {got}."


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

        return Payload(rows.pop(), body, restorer(data, outputs))
    single = np.ndim(data) and len(_shape(inputs[0])) == np.ndim(data) + 1
    array = _array([data] if single else data, inputs[0])
    restore = (lambda found: first_prediction(found, outputs)) if single else restorer(data, outputs)
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

        return Payload(len(data), split, restorer(data, outputs), (said,) if moments else ())
    if isinstance(data, (np.ndarray, list, tuple)) and len(
        np.shape(data) if isinstance(data, np.ndarray) else [0]
    ):
        rows = data.tolist() if isinstance(data, np.ndarray) else list(data)
        if not inputs:
            _refuse_bytes(rows)
        return Payload(
            len(rows), lambda first, last: _request(rows[first:last], params), restorer(data, outputs)
        )
    return Payload(1, lambda _first, _last: _request(data, params), lambda found: found, whole=True)


def _unsigned(values: exact.Column, name: str) -> list[object]:
    """Return a column that no signature describes as JSON's values. Raises BadData for what JSON lacks."""
    found: list[object] = []
    for row, value in enumerate(values.tolist()):
        if is_null(value):
            found.append(None)
            continue
        try:
            _refuse_bytes(value)
            kept = isinstance(value, (str, int, float, list, tuple, dict)) or _is_moment(value)
            found.append(value if kept else as_json(value))
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
