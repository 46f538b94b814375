"""What a worker has to know of a model and of what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

MARK = "dbml-score:"
"""Stands before the cause in the error of a failed task, so that it is found in a Java traceback."""


@dataclass(frozen=True)
class Plan:
    """What a worker has to know, in plain values."""

    identity: str  # of the model: a worker loads it once
    path: str | None  # the model's files, where the workers see this machine's disk
    archive: str | None  # else the name under which Spark unpacked them
    columns: tuple[str, ...]  # of the input, in the model's order
    names: tuple[str, ...]  # what the model calls them
    wanted: tuple[pa.DataType | None, ...]  # the Arrow type that the model wants of each; None: as it is
    shape: str  # "frame", "array" (one array of all columns), "arrays" (an array by name)
    output: str  # the name of the new column
    result: pa.DataType | None  # its Arrow type; None: what the first batch shows
    skip: bool = False  # rows that the model refuses get null
    zone: str = "UTC"  # the session's, in which timestamps are read off the clock
    environment: Mapping[str, str] = field(default_factory=dict)  # where MLflow tracks to
    params: Mapping[str, object] = field(default_factory=dict)  # of the prediction
    numbered: str | None = None  # the column with the rows' numbers, for messages
    as_text: tuple[str, ...] = ()  # columns of whole numbers that come as text: pandas has no null there
