"""Journaled writes of metrics, params and tags as the items of a batch, checked for what can be sent."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.model.operations import (
    CreateModel,
    CreateRun,
    LogArtifact,
    LogBatch,
    LogMetric,
    LogParam,
    Operation,
    RegisterVersion,
    SetTag,
    SetTagAt,
)
from dbml_magics.core.model.sendable import LEAST, MOST, is_text
from dbml_magics.core.run_view import mark


def items_of(op: Operation, role: str) -> Batch | None:
    """Return what a write adds to a workspace's batch; None for one that travels alone or is damaged."""
    try:
        match op:
            case LogMetric():
                return Batch([_point(op.fields())])
            case LogParam():
                return Batch(params=_texts({op.key: op.value}))
            case SetTag():
                return Batch(tags=_texts({op.key: op.value}))
            case LogBatch():
                return Batch([_point(p) for p in op.points], _texts(op.params), _texts(op.tags))
            case SetTagAt():
                return Batch(tags=_texts({op.key: op.value}) if role in op.to else {})
    except (IndexError, TypeError, ValueError, OverflowError):
        pass
    return None


def _texts(given: Mapping[str, str]) -> dict[str, str]:
    if not all(is_text(key) and is_text(value) for key, value in given.items()):
        raise ValueError("no params or tags that a workspace can be sent")
    return dict(given)


def _point(fields: Sequence[Any]) -> Point:
    key, value, stamp, step, *extra = fields
    if not (
        is_text(key)
        and all(is_text(text) for text in (extra[0] if extra else None) or () if text is not None)
    ):
        raise ValueError("no point of a metric")
    if not (type(stamp) is int and type(step) is int and LEAST <= stamp <= MOST and LEAST <= step <= MOST):
        raise ValueError("no point of a metric")
    return (key, float(value), stamp, step, *extra)


def is_plain(point: Point) -> bool:
    """Tell in few steps whether a point can be sent as it is; False where a closer look is needed."""
    if len(point) != 4:
        return False
    key, value, stamp, step = point
    return (
        type(key) is str
        and key.isascii()
        and type(value) is float
        and type(stamp) is int
        and type(step) is int
        and 0 <= stamp <= MOST
        and LEAST <= step <= MOST
    )


def without_repeats(points: list[Point]) -> list[Point]:
    """Return points each once: MLflow's own stores keep one of a point that comes twice."""
    # A plain finite point is its own identity.
    return list({(p if len(p) == 4 and p[1] - p[1] == 0 else _identity(p)): p for p in points}.values())


def _identity(point: Point) -> Hashable:
    model = tuple(point[4]) if len(point) > 4 and point[4] is not None else None
    return point[0], mark(point[1], point[2], point[3]), model


# What a run's receipt counts beside points, params and tags; other writes are changes.
_RECEIVED: dict[type[Operation], str] = {
    CreateRun: "runs",
    LogArtifact: "files",
    CreateModel: "models",
    RegisterVersion: "registrations",
}


def received(op: Operation, role: str) -> dict[str, int]:
    """Return what a run's receipt counts of a write."""
    items = items_of(op, role)
    return {_RECEIVED.get(op.kind, "changes"): 1} if items is None else counted(items)


def counted(items: Batch) -> dict[str, int]:
    """Return what a run's receipt counts of a batch."""
    return {"points": len(items.metrics), "params": len(items.params), "tags": len(items.tags)}
