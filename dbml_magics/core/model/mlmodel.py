"""What a model's file MLmodel says: its flavors and its signature, column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias, TypedDict

__all__ = ["ColumnSpec", "Flavors", "MLmodel", "Params", "Signature", "TensorSpec", "missing_columns"]

Params: TypeAlias = Mapping[str, object]
"""The params of a prediction, by name."""

Signature: TypeAlias = Mapping[str, Any]
"""A signature's ``inputs``, ``outputs`` and ``params``: JSON text in MLmodel, lists where it was read."""

Flavors: TypeAlias = Mapping[str, Mapping[str, object]]


class MLmodel(TypedDict, total=False):
    """What is read of a model's file MLmodel."""

    flavors: Flavors
    signature: Signature


class TensorSpec(TypedDict, total=False):
    """The type and the shape of a tensor."""

    dtype: str
    shape: list[int]


ColumnSpec = TypedDict(
    "ColumnSpec",
    {
        "name": "str | None",
        "type": "str | None",
        "required": bool,
        "shape": "list[int] | None",
        "tensor-spec": TensorSpec,
        "properties": "dict[str, ColumnSpec]",
        "items": "ColumnSpec",
        "values": "ColumnSpec",
    },
    total=False,
)
"""A column, tensor or param of a signature, as MLflow writes it."""


def missing_columns(missing: Sequence[ColumnSpec], extra: Sequence[str], wanted: int) -> str:
    """Return what of a model's columns data lacks, with the column of the data that may be meant."""
    lacking = []
    for each in missing[:8]:
        near = get_close_matches(str(each["name"]), extra, n=1, cutoff=0.6)
        hint = f"; is it {near[0]!r} here?" if near else ""
        lacking.append(f"{each['name']!r} ({each.get('type')}{hint})")
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    which = f"{len(missing)} of the model's {wanted} columns:" if wanted > 1 else "the model's column"
    return f"the data lacks {which} {', '.join(lacking)}{more}."
