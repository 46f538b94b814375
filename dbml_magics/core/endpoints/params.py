"""The params of a prediction: checked against the model's signature, so that none is dropped unseen.

MLflow itself leaves out with a warning, which nobody sees on a server, what the signature does not name.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from dbml_magics.common.foreign_text import kind_of
from dbml_magics.common.hints import amended, is_typed
from dbml_magics.core.endpoints.exact import RANGES
from dbml_magics.core.endpoints.swagger import sides
from dbml_magics.core.model.mlmodel import ColumnSpec, Params, Signature
from dbml_magics.errors import BadData

__all__ = ["check_params", "read_params"]


def _example() -> list[tuple[str, str]]:
    """Return the line with params as they are written: score's, and otherwise invoke's."""
    params = '{"temperature": 0.5}'
    score = amended("score", "MODEL", params=params)
    line = score if is_typed("score") else amended("invoke", "NAME", "$data", params=params)
    return [(line, "JSON in single quotes, or $name of a dict")]


def read_params(given: object) -> dict[str, object] | None:
    """Return params as a dict: of JSON, or of a mapping. Raises BadData."""
    if given is None:
        return None
    found: object = given
    if isinstance(given, str):
        try:
            found = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise BadData(f"the params are not JSON: {error}.", remedies=_example()) from None
    if not isinstance(found, Mapping):
        raise BadData(f"params want names with values, and {kind_of(found)} is given.", remedies=_example())
    return {str(name): value for name, value in found.items()}


def check_params(params: Params | None, signature: Signature | None) -> dict[str, object]:
    """Return params as the model's signature wants them. Raises BadData for one that it does not name."""
    if not params:
        return {}
    wanted = {str(each["name"]): each for each in sides(signature, "params")}
    unknown = [name for name in params if name not in wanted]
    if unknown and not wanted:
        raise BadData(
            f"the model's signature names no params, and {', '.join(unknown[:5])} would be dropped.",
            remedies=[("infer_signature(X, y, params={…})", "as the model is logged")],
        )
    if unknown:
        near = get_close_matches(unknown[0], wanted, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(f"{name} ({_kind(each)})" for name, each in list(wanted.items())[:8])
        raise BadData(
            f"the model has no param {', '.join(map(repr, unknown[:5]))}; it takes {known}.{hint}",
            remedies=_example(),
        )
    found = {}
    for name, value in params.items():
        try:
            found[name] = _as_wanted(value, wanted[name])
        except ValueError as problem:
            raise BadData(
                f"param {name} {problem}, and the model wants {_kind(wanted[name])}.", remedies=_example()
            ) from None
    return found


def _kind(spec: ColumnSpec) -> str:
    kind = str(spec.get("type"))
    return f"a list of {kind}" if spec.get("shape") else kind


def _as_wanted(value: object, spec: ColumnSpec) -> object:
    kind = str(spec.get("type"))
    if not spec.get("shape"):
        return _scalar(value, kind, spec)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"is {_named(value)}")
    return [_scalar(each, kind, spec) for each in value]


def _scalar(value: object, kind: str, spec: ColumnSpec) -> object:
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    if value is None:
        return None
    if kind == "object":
        return _object(value, spec)
    if kind in RANGES and isinstance(value, int) and not isinstance(value, bool):
        low, high = RANGES[kind]
        if not low <= value <= high:
            raise ValueError(f"is {value}")
        return value
    if kind in ("float", "double") and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "datetime" and _is_moment(value):
        return value
    raise ValueError(f"is {_named(value)}")


def _object(value: object, spec: ColumnSpec) -> object:
    properties = spec.get("properties") or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"is {_named(value)}")
    strange = [str(name) for name in value if str(name) not in properties]
    absent = [name for name, each in properties.items() if each.get("required", True) and name not in value]
    if strange or absent:
        raise ValueError(f"has {strange[0]!r}" if strange else f"lacks {absent[0]!r}")
    return dict(value)


def _is_moment(value: object) -> bool:
    if isinstance(value, (datetime.date, np.datetime64)):
        return True
    try:
        return isinstance(value, str) and not isinstance(np.datetime64(value).item(), int)
    except ValueError:
        return False


def _named(value: object) -> str:
    return {str: "text", bool: "a boolean", dict: "an object", list: "a list"}.get(
        type(value), kind_of(value)
    )
