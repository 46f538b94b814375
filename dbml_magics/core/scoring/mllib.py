"""Models of MLlib: Spark runs them itself, over its own columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Remedy
from dbml_magics.core.model.mlmodel import ColumnSpec, MLmodel
from dbml_magics.core.scoring.columns import match
from dbml_magics.core.scoring.spark import first_line, is_connect
from dbml_magics.core.scoring.types import from_spark, quoted
from dbml_magics.errors import BadCommand, BadData, NoModel

if TYPE_CHECKING:
    from pyspark.ml import PipelineModel, Transformer
    from pyspark.sql import DataFrame as SparkFrame
    from pyspark.sql import SparkSession

__all__ = ["is_mllib", "scored"]

_HIDDEN = "__dbml_kept_"
_READ = ("inputCol", "inputCols", "featuresCol", "userCol", "itemCol")
_WRITTEN = ("outputCol", "outputCols", "predictionCol", "probabilityCol", "rawPredictionCol")
_models: dict[tuple[int, str], PipelineModel] = {}


def is_mllib(mlmodel: MLmodel) -> bool:
    """Tell whether a model is Spark's own."""
    return "spark" in (mlmodel.get("flavors") or {})


def scored(
    spark: SparkSession,
    files: Path,
    inputs: Sequence[ColumnSpec],
    frame: SparkFrame,
    column: str,
    chosen: Sequence[str],
    *,
    skip: bool,
) -> tuple[SparkFrame, str, tuple[str, ...]]:
    """Return the frame with the model's predictions in a new column, their type, and notes.

    With ``skip`` rows that have a null among the model's columns get null; what else the model refuses
    fails the job, as its own ``handleInvalid`` says. Without a signature the stages say which columns they
    take. Raises BadData, BadCommand, NoModel.
    """
    model = _loaded(spark, files)
    taken, written = _columns(model)
    vectors = [str(each["name"]) for each in inputs if "vector" in str(each.get("type")).lower()]
    plain = [each.copy() for each in inputs]
    for each in plain:
        if str(each.get("name")) in vectors:
            each["type"] = None
    notes: tuple[str, ...] = ()
    needed: list[str] = []
    asked = frame
    if plain and plain[0].get("name") is not None:
        have = {each.name: from_spark(each.dataType) for each in frame.schema.fields}
        found = match(plain, have, chosen)
        notes, needed = found.notes, list(found.columns)
        for given, name in zip(found.columns, found.names, strict=True):
            if given != name:
                asked = asked.withColumn(name, asked[quoted(given)])
    elif chosen:
        raise BadCommand(
            "--columns names the model's columns, and this one has no signature that would say which.",
            remedies=[("frame.withColumnRenamed('amount', 'total')", "before it is scored")],
        )
    asked = _vectors(asked, vectors, model)
    output = _output(model)
    lacking = [str(each["name"]) for each in plain if each.get("name") is not None]
    lacking = lacking if needed else [name for name in taken if name in asked.columns]
    # What is somebody else's is put aside while the stages write columns of that name.
    aside = [name for name in frame.columns if name in written | {output} and name not in {*taken, *lacking}]
    for name in aside:
        asked = asked.withColumnRenamed(name, f"{_HIDDEN}{name}")
    if skip and not lacking:
        said = "the model does not say which columns it takes: --on-error null finds no row that lacks one"
        notes = (*notes, said)
    try:
        nulls = skip and bool(lacking)
        done = _with_nulls(asked, model, output, lacking) if nulls else model.transform(asked)
        kept = [f"{_HIDDEN}{name}" if name in aside else name for name in frame.columns]
        own = [done[quoted(now)].alias(name) for now, name in zip(kept, frame.columns, strict=True)]
        new = done.select(*own, done[quoted(output)].alias(column))
    except Exception as error:
        raise BadData(
            f"the model cannot take this data: {first_line(error)}.",
            remedies=[(Remedy("help", "score"), "what it takes")],
        ) from error
    return new, new.schema[column].dataType.simpleString(), notes


def _loaded(spark: SparkSession, files: Path) -> PipelineModel:
    import mlflow.spark

    key = (id(spark), str(files))
    if key not in _models:
        try:
            _models[key] = mlflow.spark.load_model(str(files))
        except Exception as error:
            how = " by Spark Connect" if is_connect(spark) else ""
            raise NoModel(
                f"MLlib's model cannot be loaded{how}: {first_line(error)}.",
                remedies=[("mlflow.spark.load_model(URI)", "shows the whole of it")],
            ) from error
    return _models[key]


def _stages(model: Transformer) -> list[Transformer]:
    """Return a pipeline's stages, those of pipelines in it too, or the model alone."""
    stages = getattr(model, "stages", None)
    return [model] if stages is None else [each for stage in stages for each in _stages(stage)]


def _columns(model: PipelineModel) -> tuple[list[str], set[str]]:
    """Return the columns that a model takes of the data, and those that its stages write."""
    taken: list[str] = []
    written: set[str] = set()
    for stage in _stages(model):
        taken += [name for name in _named(stage, _READ) if name not in written and name not in taken]
        written |= set(_named(stage, _WRITTEN))
    return taken, written


def _named(stage: Transformer, params: Sequence[str]) -> list[str]:
    values = [stage.getOrDefault(each) for each in params if stage.hasParam(each) and stage.isDefined(each)]
    return [name for value in values for name in ([value] if isinstance(value, str) else list(value)) if name]


def _output(model: PipelineModel) -> str:
    """Return the column that the model writes its predictions to."""
    stages = _stages(model)
    for stage in reversed(stages):
        if stage.hasParam("predictionCol"):
            return str(stage.getOrDefault("predictionCol"))
    last = stages[-1]
    return str(last.getOrDefault("outputCol")) if last.hasParam("outputCol") else "prediction"


def _vectors(frame: SparkFrame, named: Sequence[str], model: PipelineModel) -> SparkFrame:
    """Return the frame with arrays as the vectors that the model wants of them."""
    from pyspark.ml.functions import array_to_vector

    wanted = set(named)
    first = _stages(model)[0]
    if first.hasParam("featuresCol"):
        wanted.add(str(first.getOrDefault("featuresCol")))
    for name in wanted & set(frame.columns):
        if frame.schema[name].dataType.typeName() == "array":
            frame = frame.withColumn(name, array_to_vector(frame[quoted(name)].cast("array<double>")))
    return frame


def _with_nulls(frame: SparkFrame, model: PipelineModel, output: str, needed: Sequence[str]) -> SparkFrame:
    """Return all rows, null for those that lack one of the model's columns."""
    from pyspark.sql.functions import col, lit

    complete = reduce(lambda a, b: a & b, [col(quoted(name)).isNotNull() for name in needed])
    done = model.transform(frame.where(complete))
    kind = done.schema[output].dataType
    rest = frame.where(~complete).withColumn(output, lit(None).cast(kind))
    return done.select(*rest.columns).unionByName(rest)
