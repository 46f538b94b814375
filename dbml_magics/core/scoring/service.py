"""Scoring: which model, which data, who scores, where the predictions go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from dbml_magics.common.config import score_here_rows
from dbml_magics.common.foreign_text import kind_of
from dbml_magics.common.hints import amended
from dbml_magics.core.model.mlmodel import Params
from dbml_magics.core.scoring import outputs
from dbml_magics.core.scoring.carried.batches import frame_scorer
from dbml_magics.core.scoring.carried.plan import Plan
from dbml_magics.core.scoring.columns import check_output, match
from dbml_magics.core.scoring.order import HELP, Order, in_a_line
from dbml_magics.core.scoring.types import (
    from_spark,
    of_outputs,
    of_spec,
    quoted,
    read_ddl,
    simple,
    with_zone,
    writable,
)
from dbml_magics.errors import BadCommand, BadData, DbmlError, SparkUnavailable
from dbml_magics.results.scoring import ScoreResult, StreamResult, UdfResult

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame as SparkFrame
    from pyspark.sql import SparkSession

    from dbml_magics.core.runtime.engine import Engine

__all__ = ["Progress", "score"]

Progress = Callable[[str], None]


_ROW = "__dbml_row"


class _Facts(TypedDict):
    model: str
    column: str
    result_type: str
    engine: str


def score(
    engine: Engine,
    model: str,
    data: object = None,
    *,
    last: str | None = None,
    where: str | None = None,
    columns: str | Sequence[str] = (),
    output: str | os.PathLike[str] | None = None,
    column: str = "prediction",
    result_type: str | None = None,
    on_error: str = "fail",
    mode: str | None = None,
    checkpoint: str | None = None,
    available_now: bool = False,
    params: Params | str | None = None,
    progress: Progress | None = None,
) -> ScoreResult | StreamResult | UdfResult:
    """Score data with a model; see :func:`dbml_magics.api.score`."""
    began = time.monotonic()
    say = _telling(progress, model)
    chosen = _names(columns)
    line = amended("score", model)
    if on_error not in ("fail", "null"):
        raise BadCommand(
            f"--on-error is fail or null, not {on_error!r}.", remedies=[line.but(on_error="null")]
        )
    if not column.strip():
        raise BadCommand("--as wants a name.", remedies=[line.but(as_="prediction")])
    wished = None if result_type is None else read_ddl(result_type)
    target = None if output is None else outputs.make_target(os.fspath(output), mode)
    if target is None and (mode or checkpoint):
        raise BadCommand(
            f"--{'mode' if mode else 'checkpoint'} is about what --output names.",
            remedies=[(line.but(output="./scored.parquet"), "for example")],
        )
    if data is None and (where or chosen or target or available_now):
        raise BadCommand(
            "without --input there is nothing to score.",
            remedies=[(line.but(input="$frame"), "a DataFrame of the notebook")],
        )

    from dbml_magics.core.endpoints.models import read_mlmodel
    from dbml_magics.core.endpoints.params import check_params, read_params
    from dbml_magics.core.endpoints.swagger import sides
    from dbml_magics.core.scoring import files

    given = read_params(params)
    say("looking for the model")
    found = files.find(engine, model, last)
    say("fetching its files")
    folder = files.fetched(engine, found)
    mlmodel = read_mlmodel(folder)
    signature = mlmodel.get("signature")
    order = Order(
        label=found.label,
        identity=found.identity,
        files=folder,
        mlmodel=mlmodel,
        inputs=sides(signature, "inputs"),
        where=where,
        columns=chosen,
        column=column,
        result=wished or of_outputs(sides(signature, "outputs")),
        skip=on_error == "null",
        target=target,
        checkpoint=checkpoint,
        available_now=available_now,
        environment={"MLFLOW_TRACKING_URI": engine.link.uri, "MLFLOW_REGISTRY_URI": engine.link.uri},
        notes=(found.said,) if found.said else (),
        params=check_params(given, signature),
        line=line,
    )
    if order.params and order.mllib:
        raise BadCommand(
            "--params is not for MLlib's models: Spark runs them without any.",
            remedies=[("mlflow.spark.load_model(URI)", "whose stages have params of their own")],
        )
    if order.mllib and wished is not None:
        raise BadCommand(
            "--result-type is not for MLlib's models: Spark knows what they give.",
            remedies=[('.data.withColumn("prediction", col("prediction").cast("int"))', "afterwards")],
        )
    return _scored(order, data, say, began)


def _names(columns: str | Sequence[str]) -> tuple[str, ...]:
    parts = columns.split(",") if isinstance(columns, str) else list(columns)
    return tuple(part.strip() for part in parts if part.strip())


def _telling(progress: Progress | None, model: str) -> Callable[[str], None]:
    began = time.monotonic()

    def say(state: str) -> None:
        if progress is not None:
            progress(f"{model}  {state}  {time.monotonic() - began:.0f} s")

    return say


def _scored(
    order: Order, data: object, say: Progress, began: float
) -> ScoreResult | StreamResult | UdfResult:
    from dbml_magics.core.scoring import inputs, spark

    if data is None:
        return _function(order, say)
    if isinstance(data, os.PathLike):
        data = os.fspath(data)
    if isinstance(data, str):
        session, said = spark.session(say)
        wanted = {str(each.get("name")): writable(of_spec(each)) for each in order.inputs}
        frame, _ = inputs.read(session, data, wanted)
        return _by_spark(order.noted(said), session, frame, say, began)
    if spark.is_frame(data):
        return _by_spark(order, data.sparkSession, data, say, began)
    names = [str(each["name"]) for each in order.inputs if each.get("name") is not None]
    pandas = inputs.as_pandas(data, names)
    if pandas is None:
        raise BadData(
            f"{kind_of(data)} is not scored: a DataFrame is (of Spark or pandas), a table or a path.",
            remedies=[(amended("score", "MODEL", input="$frame"), "a DataFrame of the notebook"), HELP],
        )
    if order.available_now or order.checkpoint:
        raise _for_streams(order, "a pandas DataFrame is none")
    return _of_pandas(order, pandas, say, began)


def _for_streams(order: Order, why: str) -> BadCommand:
    option = "available_now" if order.available_now else "checkpoint"
    return BadCommand(
        f"--{option.replace('_', '-')} is for streams, and {why}.",
        remedies=[order.line.without("available_now", "checkpoint")],
    )


# --- pandas


def _of_pandas(order: Order, frame: pd.DataFrame, say: Progress, began: float) -> ScoreResult:
    check_output(order.column, [str(name) for name in frame.columns])
    spark_only = _why_spark(order)
    if spark_only is None and len(frame) <= score_here_rows():
        return _here(order, frame, say, began)
    from dbml_magics.core.scoring import spark

    try:
        session, said = spark.session(say)
    except SparkUnavailable as error:
        if spark_only is None:  # it is only large
            return _here(order, frame, say, began)
        raise SparkUnavailable(f"{spark_only}, and {error.message}", remedies=error.remedies) from None
    return _sent(order.noted(said, spark_only), session, frame, say, began)


def _why_spark(order: Order) -> str | None:
    """Return why a pandas DataFrame goes to Spark however small it is, if it does."""
    if order.mllib:
        return "MLlib's models run in Spark"
    if order.where is not None:
        return "--where is SQL, which Spark reads: rows chosen in pandas are scored without it"
    if order.target is not None and order.target.table:
        return "a table is written by Spark"
    if order.target is not None and order.target.place.rstrip("/").endswith(".delta"):
        return "delta is written by Spark"
    return None


def _here(order: Order, frame: pd.DataFrame, say: Progress, began: float) -> ScoreResult:
    """Score a pandas DataFrame in this process."""
    from dbml_magics.core.scoring import files

    named = frame.rename(columns=str)
    _refuse_twice(named.columns, order)
    found = match(order.inputs, _kinds(named), order.columns)
    plan = order.plan(found, path=str(order.files), zone="UTC", zoned=False)
    say("loading the model")
    model = files.loaded(order.files)
    say(f"scoring {len(frame):,} rows")
    scorer, predict = frame_scorer(plan, model)
    try:
        predicted = predict(named)
    except (RuntimeError, ValueError) as error:
        raise order.failed(error) from error
    result = frame.copy(deep=False)
    result[order.column] = _series(predicted, frame.index)
    if scorer.cause is not None:
        order = order.noted(f"refused: {scorer.cause}")
    order = order.noted(*found.notes)
    if order.target is not None:
        outputs.write_here(result, order.target)
    return ScoreResult(
        model=order.label,
        column=order.column,
        result_type=simple(predicted.type),
        engine="this process, without Spark",
        data=result,
        rows=len(frame),
        unscored=predicted.null_count,
        seconds=time.monotonic() - began,
        output=None if order.target is None else order.target.words,
        notes=order.notes,
    )


def _kinds(frame: pd.DataFrame) -> dict[str, pa.DataType | None]:
    """Return the Arrow types of a pandas frame's columns; None for those that are seen when they are read."""
    import numpy as np
    import pyarrow as pa

    kinds: dict[str, pa.DataType | None] = {}
    for name in frame.columns:
        values = frame[name]
        try:
            if isinstance(values.dtype, np.dtype) and values.dtype != object:
                kinds[name] = pa.from_numpy_dtype(values.dtype)
            else:
                kinds[name] = pa.array(values.dropna().head(100), from_pandas=True).type
        except (pa.ArrowException, TypeError, ValueError):
            kinds[name] = None
    return kinds


def _refuse_twice(names: Iterable[object], order: Order) -> None:
    listed = [str(name) for name in names]
    used = {str(each.get("name")) for each in order.inputs} | set(order.columns)
    twice = sorted({name for name in listed if listed.count(name) > 1 and (name in used or not order.inputs)})
    if twice:
        raise BadData(f"the data has more than one column {', '.join(twice)}.", remedies=[HELP])


def _series(predicted: pa.Array, index: pd.Index[Any]) -> pd.Series[Any]:
    import pandas as pd
    import pyarrow as pa

    if predicted.null_count and pa.types.is_integer(predicted.type):
        values = pd.Series(predicted.to_pylist(), dtype="Int64")
    else:
        values = predicted.to_pandas()
    values.index = index
    return values


def _sent(
    order: Order, session: SparkSession, frame: pd.DataFrame, say: Progress, began: float
) -> ScoreResult:
    """Score a pandas DataFrame by Spark; its own columns never leave it."""
    from dbml_magics.core.scoring import frames, inputs
    from dbml_magics.core.scoring.spark import name_of

    named = frame.rename(columns=str)
    _refuse_twice(named.columns, order)
    if order.target is not None and order.target.table:
        return _by_spark(order, session, _as_spark(session, named), say, began)  # type: ignore[return-value]
    numbered = named if order.where is not None or order.mllib else _needed(named, order)
    numbered = numbered.assign(**{_ROW: range(len(frame))})
    rows = inputs.filtered(_as_spark(session, numbered), order.where)
    scored, kind, notes = _with_predictions(order, session, rows)
    try:
        with frames.watched(session, say):
            back = scored.select(_ROW, quoted(order.column)).toPandas()
    except Exception as error:
        raise order.failed(error) from error
    back = back.sort_values(_ROW, ignore_index=True)
    result = frame.iloc[back[_ROW].to_numpy()].copy(deep=False)
    result[order.column] = back[order.column].set_axis(result.index)
    if order.target is not None:
        outputs.write_here(result, order.target)
    return ScoreResult(
        model=order.label,
        column=order.column,
        result_type=kind,
        engine=name_of(session),
        data=result,
        rows=len(result),
        unscored=int(back[order.column].isna().sum()) if order.skip else 0,
        seconds=time.monotonic() - began,
        output=None if order.target is None else order.target.words,
        notes=(*order.notes, *notes),
    )


def _needed(frame: pd.DataFrame, order: Order) -> pd.DataFrame:
    found = match(order.inputs, _kinds(frame), order.columns)
    needed: pd.DataFrame = frame[list(found.columns)]
    return needed


def _as_spark(session: SparkSession, frame: pd.DataFrame) -> SparkFrame:
    try:
        return session.createDataFrame(frame)
    except Exception as error:
        from dbml_magics.core.scoring.spark import first_line

        raise BadData(
            f"Spark cannot take this pandas DataFrame: {first_line(error)}.", remedies=[HELP]
        ) from None


# --- Spark


def _by_spark(
    order: Order, session: SparkSession, frame: SparkFrame, say: Progress, began: float
) -> ScoreResult | StreamResult:
    from dbml_magics.core.scoring import frames, inputs
    from dbml_magics.core.scoring.spark import name_of

    rows = inputs.filtered(frame, order.where)
    check_output(order.column, rows.columns)
    scored, kind, notes = _with_predictions(order, session, rows)
    order = order.noted(*notes)
    facts: _Facts = {
        "model": order.label,
        "column": order.column,
        "result_type": kind,
        "engine": name_of(session),
    }
    if rows.isStreaming and order.target is not None:
        return _streamed(order, session, scored, facts)
    if order.available_now or order.checkpoint:
        why = "nothing is written yet: --output says where" if rows.isStreaming else "this input is none"
        raise _for_streams(order, why)
    target = order.target
    if target is None:
        said = ".writeStream begins it, or --output" if rows.isStreaming else None
        notes = (*order.notes, said) if said else order.notes
        return ScoreResult(**facts, data=scored, seconds=time.monotonic() - began, notes=notes)
    scored, seen = frames.counted(scored, order.column)
    try:
        with frames.watched(session, say):
            written = outputs.write(session, scored, target)
        counts = {} if seen is None else dict(seen.get)
    except DbmlError:
        raise
    except Exception as error:
        raise order.failed(error) from error
    total = counts.get("rows")
    if target.table and _ends_with_it(session):
        order = order.noted("tables of a Spark that was started here end with it: files stay")
    return ScoreResult(
        **facts,
        data=written,
        rows=None if total is None else int(total),
        unscored=0 if total is None else int(total) - int(counts["scored"]),
        seconds=time.monotonic() - began,
        output=target.words,
        notes=order.notes,
    )


def _ends_with_it(session: SparkSession) -> bool:
    from dbml_magics.core.scoring.spark import is_here

    return (
        is_here(session) and session.conf.get("spark.sql.catalogImplementation", "in-memory") == "in-memory"
    )


def _with_predictions(
    order: Order, session: SparkSession, rows: SparkFrame
) -> tuple[SparkFrame, str, tuple[str, ...]]:
    """Return the rows with a column of predictions, its type in words, and notes."""
    from dbml_magics.core.scoring import frames, mllib, spark

    if order.mllib:
        return mllib.scored(
            session, order.files, order.inputs, rows, order.column, order.columns, skip=order.skip
        )
    _refuse_twice([name for name in rows.columns if name != _ROW], order)
    have = {f.name: from_spark(f.dataType) for f in rows.schema.fields if f.name != _ROW}
    found = match(order.inputs, have, order.columns)
    place = spark.ship(session, order.files, order.identity)
    zone = spark.zone_of(session)
    plan = order.plan(found, zone=zone, path=place["path"], archive=place["archive"])
    if _ROW in rows.columns:
        plan = replace(plan, numbered=_ROW)
    notes = found.notes
    if plan.result is None:
        kind = None
        if not rows.isStreaming:
            try:
                kind = frames.kind_seen(rows, replace(plan, numbered=None))
            except Exception as error:
                raise order.failed(error) from error
        plan, said = _assumed(plan, kind, zone)
        notes = (*notes, said)
    return frames.apply(rows, plan), simple(plan.result), notes


def _assumed(plan: Plan, kind: pa.DataType | None, zone: str | None) -> tuple[Plan, str]:
    """Return the plan with a result type where no signature has one, and a note about it."""
    import pyarrow as pa

    if kind is not None and pa.types.is_decimal(kind):  # other rows may have more digits
        kind = pa.decimal128(38, max(kind.scale, 18) if kind.precision - kind.scale <= 20 else kind.scale)
    how = "double is assumed" if kind is None else f"{simple(kind)}, as the first rows have it"
    kind = pa.float64() if kind is None else kind
    said = f"the model does not say what it gives: {how}; --result-type says otherwise"
    return replace(plan, result=kind if zone is None else with_zone(kind, zone)), said


def _streamed(order: Order, session: SparkSession, scored: SparkFrame, facts: _Facts) -> StreamResult:
    assert order.target is not None
    checkpoint = outputs.checkpoint_of(session, order.target, order.checkpoint)
    query, ends = outputs.start_stream(
        session, scored, order.target, checkpoint, available_now=order.available_now
    )
    trigger = "what there is now, then it ends" if ends else "as rows come"
    notes = order.notes
    if ends and not order.available_now:
        notes = (
            *notes,
            "this compute takes no endless stream: the same line again goes on from the checkpoint",
        )
    return StreamResult(
        **facts,
        query=query,
        output=order.target.words,
        checkpoint=checkpoint,
        trigger=trigger,
        notes=notes,
        why=lambda error: in_a_line(order.failed(error)),
    )


def _function(order: Order, say: Progress) -> UdfResult:
    """Return the model as a function over columns."""
    from dbml_magics.core.scoring import frames, spark

    if order.mllib:
        raise BadCommand(
            "MLlib's models are no functions over columns: Spark runs them over a whole DataFrame.",
            remedies=[(amended("score", "MODEL", input="$frame"), "scores one")],
        )
    names = [str(each["name"]) for each in order.inputs if each.get("name") is not None]
    if order.inputs and not names and len(order.inputs) == 1:
        shape = list((order.inputs[0].get("tensor-spec") or {}).get("shape") or [-1, 1])
        names_of = [str(number) for number in range(shape[1] if len(shape) == 2 and shape[1] > 0 else 1)]
    else:
        names_of = names or [str(number) for number in range(len(order.inputs))]
    if not order.inputs:
        raise BadCommand(
            "a model without a signature is no function: nobody knows its columns.",
            remedies=[(amended("score", "MODEL", input="$frame", columns="a,b"), "scores a DataFrame"), HELP],
        )
    session, said = spark.session(say)
    found = match(order.inputs, dict.fromkeys(names_of))
    place = spark.ship(session, order.files, order.identity)
    zone = spark.zone_of(session)
    plan = order.plan(found, zone=zone, path=place["path"], archive=place["archive"], zoned=False)
    if plan.result is None:
        plan, assumed = _assumed(plan, None, None)
        order = order.noted(assumed)
    return UdfResult(
        model=order.label,
        names=tuple(names),
        result_type=simple(plan.result),
        engine=spark.name_of(session),
        udf=frames.function(plan),
        notes=order.noted(said).notes,
    )
