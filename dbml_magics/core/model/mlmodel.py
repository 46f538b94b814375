"""What a model's file MLmodel says: its flavors and its signature, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict

__all__ = ["ColumnSpec", "Flavors", "MLmodel", "Params", "Signature", "TensorSpec"]

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
