"""Batches in, batches out: the functions that Spark or this process calls with the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from dbml_magics.core.scoring.carried.answered import joined, spoken, to_pandas
from dbml_magics.core.scoring.carried.given import from_pandas
from dbml_magics.core.scoring.carried.models import kept, load, unpacked
from dbml_magics.core.scoring.carried.plan import MARK, Plan
from dbml_magics.core.scoring.carried.refusals import cause_of
from dbml_magics.core.scoring.carried.scorer import Scorer

if TYPE_CHECKING:
    from typing import TypeAlias

    import pandas as pd

    from dbml_magics.core.scoring.carried.models import Model

    BatchMapper: TypeAlias = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    _Series: TypeAlias = pd.Series[Any] | pd.DataFrame | tuple[pd.Series[Any] | pd.DataFrame, ...]

_ROWS = 100_000  # rows that the model is given at once
_BYTES = 128 * 1024**2  # or so many bytes of them
T = TypeVar("T")


def _gathered(batches: Iterator[T], size: Callable[[T], tuple[int, int]]) -> Iterator[list[T]]:
    held: list[T] = []
    rows = volume = 0
    for batch in batches:
        held.append(batch)
        more, heavy = size(batch)
        rows, volume = rows + more, volume + heavy
        if rows >= _ROWS or volume >= _BYTES:
            yield held
            held, rows, volume = [], 0, 0
    if held:
        yield held


def arrow_mapper(plan: Plan, names: Sequence[str]) -> BatchMapper:
    """Return the function for ``mapInArrow``: every column as it was, and the predictions behind them.

    ``names`` are the columns' own in their order: Spark's batches may call them otherwise.
    """
    places = [names.index(name) for name in plan.columns]
    numbered = None if plan.numbered is None else names.index(plan.numbered)
    columns = [*names, plan.output]

    def score_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        scorer = _scorer(plan)
        for held in _gathered(batches, lambda batch: (batch.num_rows, batch.nbytes)):
            chosen = pa.Table.from_batches([batch.select(places) for batch in held])
            numbers = None
            if numbered is not None:
                numbers = [each for batch in held for each in batch.column(numbered).to_pylist()]
            predicted = scorer.score(chosen.rename_columns(list(plan.columns)), numbers)
            first = 0
            for batch in held:
                own = predicted.slice(first, batch.num_rows)
                first += batch.num_rows
                yield pa.RecordBatch.from_arrays([*batch.columns, own], columns)

    return score_batches


def kind_mapper(plan: Plan) -> BatchMapper:
    """Return the function for ``mapInArrow`` that tells the type of the predictions for some rows."""

    def tell(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = list(batches)
        if not sum(batch.num_rows for batch in rows):
            return
        scorer = _scorer(plan)
        scorer.score(pa.Table.from_batches(rows).rename_columns(list(plan.columns)))
        if scorer.result is not None:
            yield pa.RecordBatch.from_arrays([pa.array([spoken(scorer.result)])], ["kind"])

    return tell


def series_mapper(plan: Plan) -> Callable[[Iterator[_Series]], Iterator[object]]:
    """Return the function for an iterator pandas UDF over the model's columns."""

    def table(series: _Series) -> pa.Table:
        import pandas as pd

        if not isinstance(series, tuple):
            series = (series,)
        columns = []
        for each, wanted, name in zip(series, plan.wanted, plan.columns, strict=True):
            # A struct comes as a frame.
            values = each.to_dict("records") if isinstance(each, pd.DataFrame) else each
            column = from_pandas(values, pa.string() if name in plan.as_text else wanted)
            columns.append(column.cast(pa.int64()) if name in plan.as_text else column)
        return pa.table(columns, names=list(plan.columns))

    def score_series(batches: Iterator[_Series]) -> Iterator[object]:
        scorer = _scorer(plan)
        for held in _gathered(map(table, batches), lambda rows: (rows.num_rows, rows.nbytes)):
            predicted = scorer.score(pa.concat_tables(held))
            first = 0
            for part in held:
                own = predicted.slice(first, part.num_rows)
                first += part.num_rows
                yield to_pandas(own)

    return score_series


def _scorer(plan: Plan) -> Scorer:
    """Return a scorer on the model of this worker, loaded at the first task that needs it."""
    os.environ.update(plan.environment)
    models: dict[tuple[str, str], Model] = kept("models", dict)
    place = plan.path or unpacked(str(plan.archive))
    model = models.get((plan.identity, place))
    if model is None:
        try:
            model = models[plan.identity, place] = load(place)
        except Exception as error:
            raise RuntimeError(f"{MARK} the model cannot be loaded there: {cause_of(error)}") from error
    return Scorer(plan, model)


def frame_scorer(plan: Plan, model: Model) -> tuple[Scorer, Callable[[pd.DataFrame], pa.Array]]:
    """Return a function that scores a pandas frame in this process, in batches that fit the memory."""
    own: dict[str, pd.Series[Any]] = {}
    scorer = Scorer(plan, model, own)

    def score(frame: pd.DataFrame) -> pa.Array:
        columns = []
        for name, wanted in zip(plan.columns, plan.wanted, strict=True):
            if wanted is None and plan.shape == "frame":
                own[name] = frame[name]
                columns.append(pa.chunked_array([pa.array(range(len(frame)), pa.int64())]))
                continue
            try:
                columns.append(from_pandas(frame[name], wanted))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                said = " ".join(str(error).split())[:200]
                raise ValueError(f"column {name}: {said}{_first_strange(frame[name], wanted)}") from None
        rows = pa.table(columns, names=list(plan.columns))
        parts = [scorer.score(rows.slice(first, _ROWS * 10)) for first in range(0, len(frame), _ROWS * 10)]
        if scorer.result is None:
            scorer.result = pa.float64()
        return joined(parts, scorer.result) if parts else pa.nulls(0, scorer.result)

    return scorer, score


def _first_strange(values: pd.Series[Any], wanted: pa.DataType | None) -> str:
    """Return which row of a column cannot be what the model wants."""
    for row, value in enumerate(values.tolist()):
        try:
            pa.array([value], type=wanted, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return f" (row {row})"
    return ""
