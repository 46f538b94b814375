"""The shape of predictions: what an endpoint answers, in the shape of the data that it was asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dbml_magics.common.hints import Remedy
from dbml_magics.core.endpoints import exact
from dbml_magics.core.model.mlmodel import ColumnSpec
from dbml_magics.errors import ScoringFailed

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
WRITTEN = "dbml written as JSON"  # marks a frame whose predictions are a list, as JSON has it
_HELP = [(Remedy("help", "invoke"), "what it takes")]

Restore = Callable[[Any], object]


def restorer(data: object, outputs: Sequence[ColumnSpec]) -> Restore:
    """Return the function that gives predictions the shape of data."""
    if isinstance(data, (pd.DataFrame, pd.Series)) and not data.attrs.get(WRITTEN):
        return lambda found: like_frame(found, data.index, outputs)
    if isinstance(data, np.ndarray):
        return lambda found: as_array(found, outputs)
    return lambda found: found


def _dtype(spec: ColumnSpec) -> str | None:
    if spec.get("type") == "tensor":
        return (spec.get("tensor-spec") or {}).get("dtype")
    return _DTYPES.get(str(spec.get("type")))


def as_array(found: list[Any], outputs: Sequence[ColumnSpec]) -> Any:
    """Return predictions as an array of the signature's type."""
    if found and isinstance(found[0], dict):
        return like_frame(found, None, outputs)
    dtype = _dtype(outputs[0]) if len(outputs) == 1 else None
    try:
        return exact.array(found) if dtype is None else exact.as_dtype(found, dtype)
    except (ValueError, TypeError, OverflowError):
        return np.asarray(found, dtype=object)


def like_frame(found: list[Any], index: Any, outputs: Sequence[ColumnSpec]) -> Any:
    """Return predictions as a frame or a Series with an index."""
    if len(found) and isinstance(found[0], dict):
        names = dict.fromkeys(key for row in found for key in row)
        frame = pd.DataFrame({name: exact.series([row.get(name) for row in found]) for name in names})
        frame = frame if index is None else frame.set_axis(index)
        for each in outputs:
            dtype = _dtype(each)
            if each.get("name") in frame.columns and dtype and not frame[each["name"]].isna().any():
                frame[each["name"]] = exact.as_dtype(frame[each["name"]].tolist(), dtype)
        return frame
    array = as_array(found, outputs)
    if array.ndim == 1:
        name = outputs[0].get("name") if len(outputs) == 1 else None
        return pd.Series(array, index=index, name=name if name is not None else "prediction")
    if array.ndim == 2:
        return pd.DataFrame(array, index=index)
    return pd.Series(list(array), index=index, name="prediction")


def with_bytes(found: list[Any], outputs: Sequence[ColumnSpec]) -> list[object]:
    """Return predictions with bytes where the signature says binary and an answer has base64."""
    named = {str(each.get("name")): each for each in outputs}
    only = outputs[0]
    rows: list[object] = []
    for row in found:
        if isinstance(row, dict) and not (len(outputs) == 1 and only.get("type") in ("object", "map")):
            rows.append(
                {k: _unpacked(v, named.get(k, only if len(outputs) == 1 else {})) for k, v in row.items()}
            )
        elif len(outputs) > 1 and isinstance(row, list):
            rows.append([_unpacked(v, each) for v, each in zip(row, outputs, strict=False)])
        else:
            rows.append(_unpacked(row, only if len(outputs) == 1 else {}))
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


def first_prediction(found: list[Any], outputs: Sequence[ColumnSpec]) -> object:
    """Return the one prediction of one row."""
    first = found[0]
    if isinstance(first, (dict, list)) or first is None:
        return first
    return as_array(found, outputs)[0]
