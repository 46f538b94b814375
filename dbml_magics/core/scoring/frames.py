"""A model over a Spark DataFrame, and as a function over columns."""

from __future__ import annotations

import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from dbml_magics.core.scoring import carried
from dbml_magics.core.scoring.carried import batches
from dbml_magics.core.scoring.carried.plan import Plan
from dbml_magics.core.scoring.spark import Say, is_connect
from dbml_magics.core.scoring.types import from_spark, quoted, to_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame as SparkFrame
    from pyspark.sql import Observation, SparkSession

__all__ = ["apply", "counted", "function", "kind_seen", "watched"]

# Columns that the model does not see pass through Python untouched; of very many of them, or of types that
# only Spark has, the worker is spared: then the model's columns alone go there.
_FEW = 8
_TIMES = 2
_WATCH_S = 0.5
_SEEN = 1000  # rows whose predictions show the type, where no signature does


def _by_value() -> None:
    """Have Spark carry the functions themselves: its workers need not have this package."""
    from pyspark import cloudpickle

    if carried.__name__ not in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.register_pickle_by_value(carried)


def apply(frame: SparkFrame, plan: Plan) -> SparkFrame:
    """Return the frame with a column of predictions behind its own; Spark scores when it is used."""
    from pyspark.sql.types import StructField, StructType

    fields = frame.schema.fields
    others = [each for each in fields if each.name not in plan.columns]
    plain = all(from_spark(each.dataType) is not None for each in fields)
    names = [each.name for each in fields]
    # By place: a name may have dots and backticks in it, or differ from another one's by case alone.
    safe = [f"c{number}" for number in range(len(names))]
    renamed = frame.toDF(*safe)
    if plain and len(names) == len(set(names)) and len(others) <= max(_FEW, _TIMES * len(plan.columns)):
        _by_value()
        schema = StructType([*fields, StructField(plan.output, to_spark(plan.result))])
        return renamed.mapInArrow(batches.arrow_mapper(plan, names), schema)
    given = [safe[names.index(name)] for name in plan.columns]
    as_text = tuple(
        name
        for name, wanted in zip(plan.columns, plan.wanted, strict=True)
        if wanted is None and fields[names.index(name)].dataType.typeName() == "long"
    )
    score = function(replace(plan, as_text=as_text, numbered=None))
    texts = [
        renamed[place].cast("string") if name in as_text else renamed[place]
        for place, name in zip(given, plan.columns, strict=True)
    ]
    own = [
        renamed[place].alias(each.name, metadata=each.metadata)
        for place, each in zip(safe, fields, strict=True)
    ]
    return renamed.select(*own, score(*texts).alias(plan.output))


def kind_seen(frame: SparkFrame, plan: Plan) -> SparkFrame:
    """Return the Arrow type of the predictions for the frame's first rows; None when they do not tell."""
    from dbml_magics.core.scoring.types import read_ddl

    if any(from_spark(each.dataType) is None for each in frame.schema.fields if each.name in plan.columns):
        return None
    names = [each.name for each in frame.schema.fields]
    renamed = frame.toDF(*(f"c{number}" for number in range(len(names))))
    places = [f"c{names.index(name)}" for name in plan.columns]
    _by_value()
    sample = renamed.select(*places).limit(_SEEN).coalesce(1)
    rows = sample.mapInArrow(batches.kind_mapper(plan), "kind string").collect()
    return read_ddl(rows[0][0]) if rows else None


def function(plan: Plan) -> SparkFrame:
    """Return the model as Spark's own user-defined function over its columns."""
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql.functions import pandas_udf

    _by_value()
    score = batches.series_mapper(plan)
    given = pd.DataFrame if pa.types.is_struct(plan.result) else pd.Series
    # Spark reads from these which kind of function it is.
    score.__annotations__ = {
        "batches": typing.Iterator[typing.Tuple[pd.Series, ...]],  # noqa: UP006
        "return": typing.Iterator[given],  # type: ignore[valid-type]
    }
    score.__name__ = "score"
    return pandas_udf(score, to_spark(plan.result))


def counted(frame: SparkFrame, column: str) -> tuple[SparkFrame, Observation | None]:
    """Return the frame, watched while it is written: how many rows, how many with a prediction."""
    try:
        from pyspark.sql import Observation
        from pyspark.sql.functions import col, count, lit

        seen = Observation()
        of_all = count(lit(1)).alias("rows")
        return frame.observe(seen, of_all, count(col(quoted(column))).alias("scored")), seen
    except Exception:  # a Spark that cannot, or not by Spark Connect
        return frame, None


@contextmanager
def watched(spark: SparkSession, say: Say) -> Iterator[None]:
    """Tell now and then how many tasks of the work inside are done."""
    if is_connect(spark):
        say("scoring")
        yield
        return
    tracker = spark.sparkContext.statusTracker()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_WATCH_S):
            try:
                stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
            except Exception:  # the session ends
                return
            known = [stage for stage in stages if stage is not None]
            if known:
                done = sum(stage.numCompletedTasks for stage in known)
                say(f"scoring  {done:,} of {sum(stage.numTasks for stage in known):,} tasks")

    say("scoring")
    thread = threading.Thread(target=look, name="dbml-score", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_WATCH_S * 4)
