"""Batches of metrics, params and tags, cut to what one request to a destination takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from dbml_magics.core.destinations.limits import Limits
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.model.operations import Item, LogMetric, LogParam, SetTag

__all__ = ["Batch", "Rejected", "wire_bytes", "within"]

_ENVELOPE = 200  # bytes of a request beside its items
_POINT = 120  # bytes of a point beside its name: two numbers, a value, the fields' names
_EXTRA = 250  # bytes of a point's model and dataset


@dataclass
class Batch:
    """What one log-batch will carry, or a part of it."""

    metrics: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)

    def halves(self) -> tuple[Batch, Batch]:
        """Split by kind where there are several, else in the middle."""
        kinds = [bool(self.metrics), bool(self.params), bool(self.tags)]
        if sum(kinds) > 1:
            if self.metrics:
                return Batch(metrics=self.metrics), Batch(params=self.params, tags=self.tags)
            return Batch(params=self.params), Batch(tags=self.tags)
        if self.metrics:
            middle = len(self.metrics) // 2
            return Batch(metrics=self.metrics[:middle]), Batch(metrics=self.metrics[middle:])
        items = list((self.params or self.tags).items())
        first, second = dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])
        if self.params:
            return Batch(params=first), Batch(params=second)
        return Batch(tags=first), Batch(tags=second)

    def one(self) -> Item:
        """Return a batch of one as a write, for the dead letters."""
        if self.metrics:
            return LogMetric(*self.metrics[0])
        kind, items = (LogParam, self.params) if self.params else (SetTag, self.tags)
        return kind(*next(iter(items.items())))


Rejected = list[tuple[Item, str]]


def within(batch: Batch, limits: Limits) -> Iterator[Batch]:
    """Split what one log call brought (it may be more than one request takes) into requests' sizes."""
    if _fits(batch, limits):
        yield batch
        return
    part, size = Batch(), 0
    sizes = _sizes(batch)
    for kind, items in (("params", batch.params), ("tags", batch.tags), ("metrics", batch.metrics)):
        most = min(getattr(limits, kind), limits.items)
        for item in items.items() if isinstance(items, dict) else items:
            own = next(sizes)
            there = getattr(part, kind)
            if len(part) and (
                len(there) >= most or len(part) >= limits.items or size + own > limits.body_bytes - _ENVELOPE
            ):
                yield part
                part, size = Batch(), 0
                there = getattr(part, kind)
            if isinstance(there, dict):
                there[item[0]] = item[1]
            else:
                there.append(item)
            size += own
    if len(part):
        yield part


def _fits(batch: Batch, limits: Limits) -> bool:
    return (
        len(batch.metrics) <= limits.metrics
        and len(batch.params) <= limits.params
        and len(batch.tags) <= limits.tags
        and len(batch) <= limits.items
        and wire_bytes(batch) + _ENVELOPE <= limits.body_bytes
    )


def wire_bytes(batch: Batch) -> int:
    """Return how many bytes the items of a batch take at most on the wire."""
    return sum(_sizes(batch))


def _sizes(batch: Batch) -> Iterator[int]:
    """Yield how many bytes each param, tag and point of a batch takes at most on the wire, in that order."""
    for items in (batch.params, batch.tags):
        for key, value in items.items():
            yield _width(key) + _width(value) + 30
    widths: dict[str, int] = {}  # a batch has many points of few metrics
    for point in batch.metrics:
        width = widths.get(point[0])
        if width is None:
            width = widths[point[0]] = _width(point[0])
        yield width + (_POINT if len(point) == 4 else _POINT + _EXTRA + len(str(point[4])))


def _width(text: str) -> int:
    if text.isascii() and text.isprintable():
        return len(text) + text.count('"') + text.count("\\")
    return len(json.dumps(text))
