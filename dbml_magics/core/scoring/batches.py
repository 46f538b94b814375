"""What runs beside the data: batches of rows go in, their predictions come out, the same everywhere.

Spark's workers get these functions by value, since a cluster need not have the package; so this module
imports nothing of it, and what a worker keeps between tasks is kept in a module of its own. The process that
scores a pandas frame calls the same functions.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

__all__ = ["MARK", "Plan", "Scorer", "arrow_mapper", "cause_of", "frame_scorer", "series_mapper"]

MARK = "dbml-score:"
"""Stands before the cause in the error of a failed task, so that it is found in a Java traceback."""

_ROWS = 100_000  # rows that the model is given at once
_BYTES = 128 * 1024**2  # or so many bytes of them
_SAMPLE = 64  # rows that speak for those that lack the same columns
_HOPELESS = 1000  # complete rows refused one by one, and none accepted: the model does not work at all
_KEPT = "_dbml_scoring_models"
_EXACT = 2**53  # whole numbers beyond it have no exact double


@dataclass(frozen=True)
class Plan:
    """What a worker has to know, in plain values."""

    identity: str  # of the model: a worker loads it once
    path: str | None  # the model's files, where the workers see this machine's disk
    archive: str | None  # else the name under which Spark unpacked them
    columns: tuple[str, ...]  # of the input, in the model's order
    names: tuple[str, ...]  # what the model calls them
    wanted: tuple[Any, ...]  # the Arrow type that the model wants of each; None: as it is
    shape: str  # "frame", "array" (one array of all columns), "arrays" (an array by name)
    output: str  # the name of the new column
    result: Any  # its Arrow type
    skip: bool = False  # rows that the model refuses get null
    zone: str = "UTC"  # the session's, in which timestamps are read off the clock
    environment: Mapping[str, str] = field(default_factory=dict)  # where MLflow tracks to


class Scorer:
    """One model and what it is asked: Arrow batches in, an Arrow array of as many predictions out."""

    def __init__(self, plan: Plan, model: Any) -> None:
        self.plan = plan
        self.refused = 0
        self.cause: str | None = None  # of the last refusal
        self._model = model
        self._accepted = False
        self._complete = 0  # rows without nulls that were refused, one by one

    def score(self, rows: pa.Table) -> pa.Array:
        """Return predictions; a row that the model refuses fails the task or, with ``skip``, gets null."""
        if rows.num_rows == 0:
            return pa.nulls(0, self.plan.result)
        try:
            found = self._predict(rows)
        except Exception as error:
            if not self.plan.skip:
                raise RuntimeError(f"{MARK} {cause_of(error)}") from error
            return self._apart(rows)
        self._accepted = True
        return found

    def _predict(self, rows: pa.Table) -> pa.Array:
        data = _as_input(rows, self.plan)
        return _as_array(self._model.predict(data), rows.num_rows, self.plan)

    def _apart(self, rows: pa.Table) -> pa.Array:
        """Predict for the complete rows together, and for those with nulls by what they lack."""
        import numpy as np

        lacking = np.zeros(rows.num_rows, dtype=np.int64)
        for number, column in enumerate(rows.columns):
            lacking = lacking * 2 + _is_missing(column) if number < 60 else lacking | _is_missing(column)
        places: list[Any] = []
        found: list[pa.Array] = []
        for pattern in np.unique(lacking):
            own = np.flatnonzero(lacking == pattern)
            places.append(own)
            found.append(self._isolate(rows.take(pa.array(own)), complete=not pattern))
        order = np.empty(rows.num_rows, dtype=np.int64)
        order[np.concatenate(places)] = np.arange(rows.num_rows)
        return pa.concat_arrays(found).take(pa.array(order))

    def _isolate(self, rows: pa.Table, *, complete: bool) -> pa.Array:
        """Return the predictions of rows that lack the same columns, null for those that are refused."""
        try:
            found = self._predict(rows)
        except Exception as error:
            self.cause = cause_of(error)
            if rows.num_rows == 1:
                return self._refuse(1, complete=complete)
        else:
            self._accepted = True
            return found
        if not complete and rows.num_rows > 2 * _SAMPLE and self._refuses_each(rows):
            return self._refuse(rows.num_rows, complete=False)
        half = rows.num_rows // 2
        parts = (rows.slice(0, half), rows.slice(half))
        return pa.concat_arrays([self._isolate(part, complete=complete) for part in parts])

    def _refuse(self, count: int, *, complete: bool) -> pa.Array:
        self.refused += count
        self._complete += count if complete else 0
        if self._complete >= _HOPELESS and not self._accepted:
            raise RuntimeError(f"{MARK} the model refuses every row: {self.cause}")
        return pa.nulls(count, self.plan.result)

    def _refuses_each(self, rows: pa.Table) -> bool:
        step = rows.num_rows // _SAMPLE
        for number in range(_SAMPLE):
            try:
                self._predict(rows.slice(number * step, 1))
            except Exception:
                continue
            return False
        return True


def cause_of(error: BaseException) -> str:
    """Return what went wrong in one line."""
    said = " ".join(str(getattr(error, "message", None) or error).split())
    said = said.removeprefix("Failed to enforce schema of data ").strip()
    at = said.find("Error: ")
    if at >= 0 and "with schema" in said[:at]:  # MLflow repeats the data and the schema first
        said = said[at + len("Error: ") :]
    return f"{type(error).__name__}: {said}"[:400]


# --- what the model is given


def _as_input(rows: pa.Table, plan: Plan) -> Any:
    import numpy as np

    columns = [
        _cast(column, wanted, plan, name)
        for column, wanted, name in zip(rows.columns, plan.wanted, plan.columns, strict=True)
    ]
    if plan.shape == "frame":
        named = pa.table(columns, names=list(plan.names))
        frame = named.to_pandas(maps_as_pydicts="strict", date_as_object=True)
        for name, wanted in zip(plan.names, plan.wanted, strict=True):
            if wanted is not None and pa.types.is_list(wanted):
                frame[name] = [None if each is None else _nested(each) for each in frame[name]]
        return frame
    arrays = {name: _tensor(column) for name, column in zip(plan.names, columns, strict=True)}
    if plan.shape == "arrays":
        return arrays
    if len(arrays) == 1 and next(iter(arrays.values())).ndim > 1:
        return next(iter(arrays.values()))
    return np.column_stack(list(arrays.values()))


def _nested(value: Any) -> Any:
    return [_nested(each) for each in value] if str(getattr(value, "dtype", "")) == "object" else value


def _tensor(column: pa.ChunkedArray) -> Any:
    import numpy as np

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return np.array(column.to_pylist(), dtype=_element(column.type).to_pandas_dtype())
    return column.to_numpy()


def _element(kind: Any) -> Any:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return kind


def _cast(column: pa.ChunkedArray, wanted: Any, plan: Plan, name: str) -> pa.ChunkedArray:
    """Return a column as the model wants it. Raises ValueError when a value cannot be."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        import pyarrow.compute as pc

        column = pc.local_timestamp(column.cast(pa.timestamp(kind.unit, plan.zone)))
        kind = column.type
    if wanted is None:
        return column.cast(pa.float64()) if pa.types.is_decimal(kind) else column
    if column.null_count and (pa.types.is_integer(wanted) or pa.types.is_boolean(wanted)):
        raise ValueError(f"column {name} has a null, and the model wants {wanted}")
    if kind.equals(wanted) or (pa.types.is_string(wanted) and pa.types.is_large_string(kind)):
        return column
    if pa.types.is_floating(kind) and pa.types.is_integer(wanted):
        # Spark's pandas functions get whole numbers as doubles where some are null.
        import pyarrow.compute as pc

        most = pc.max(pc.abs(column)).as_py()
        if most is not None and most >= _EXACT:
            raise ValueError(f"column {name} has whole numbers that a double does not hold")
    try:
        if pa.types.is_floating(wanted):
            # To the nearest float, as MLflow, Spark and a request's JSON have it.
            return column.cast(wanted, safe=False)
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise ValueError(f"column {name}: {' '.join(str(error).split())}") from None


def _is_missing(column: pa.ChunkedArray) -> Any:
    """Return for each row whether the column has a null or, among floats, NaN."""
    import pyarrow.compute as pc

    return pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)).to_numpy(zero_copy_only=False)


# --- what it answers


def _as_array(predicted: Any, rows: int, plan: Plan) -> pa.Array:
    """Return predictions as an Arrow array of the plan's type. Raises ValueError when they are of another."""
    found = _converted(predicted, plan)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if len(found) != rows:
        raise ValueError(f"the model gave {len(found):,} predictions for {rows:,} rows")
    return found


def _converted(predicted: Any, plan: Plan) -> pa.Array:
    import numpy as np
    import pandas as pd

    result = plan.result
    if hasattr(predicted, "toarray"):  # scipy's sparse matrices
        predicted = predicted.toarray()
    if isinstance(predicted, Mapping):
        predicted = pd.DataFrame({key: list(value) for key, value in predicted.items()})
    if isinstance(predicted, list) and predicted and hasattr(predicted[0], "model_dump"):
        predicted = [each.model_dump() for each in predicted]
    if pa.types.is_struct(result):
        return _struct(predicted, plan)
    if isinstance(predicted, pd.DataFrame):
        if predicted.shape[1] == 1 and not pa.types.is_list(result):
            predicted = predicted.iloc[:, 0]
        else:
            predicted = predicted.to_numpy()
    if isinstance(predicted, pd.Series):
        predicted = predicted.to_numpy()
    if isinstance(predicted, np.ndarray) and predicted.ndim == 2 and predicted.shape[1] == 1:
        predicted = predicted if pa.types.is_list(result) else predicted[:, 0]
    if isinstance(predicted, np.ndarray) and predicted.ndim > 1:
        if not pa.types.is_list(result):
            raise ValueError(
                f"the model gives {predicted.shape[1]} values a row, and {result} was asked for: "
                f"--result-type 'array<{_named(predicted.dtype)}>'"
            )
        return _values(predicted.tolist(), result)
    if isinstance(predicted, np.ndarray) and pa.types.is_list(result) and predicted.dtype.kind in "iufbU":
        return _values([[each] for each in predicted.tolist()], result)
    return _values(predicted, result)


def _struct(predicted: Any, plan: Plan) -> pa.Array:
    import numpy as np
    import pandas as pd

    fields = list(plan.result)
    if isinstance(predicted, np.ndarray):
        predicted = pd.DataFrame(predicted.reshape(len(predicted), -1))
    elif not isinstance(predicted, pd.DataFrame):
        predicted = pd.DataFrame(list(predicted))
    named = {str(column): column for column in predicted.columns}
    by_name = {each.name for each in fields} <= named.keys()
    if not by_name and predicted.shape[1] != len(fields):
        raise ValueError(
            f"the model gives the columns {', '.join(named)}, and {', '.join(f.name for f in fields)} "
            "were asked for"
        )
    columns = [
        _values(predicted[named[f.name]] if by_name else predicted.iloc[:, number], f.type)
        for number, f in enumerate(fields)
    ]
    return pa.StructArray.from_arrays(columns, fields=fields)


def _named(dtype: Any) -> str:
    return {"f": "double", "i": "long", "u": "long", "b": "boolean"}.get(dtype.kind, "string")


def _values(values: Any, result: Any) -> pa.Array:
    """Return one column of predictions; NaN stays NaN."""
    import numpy as np
    import pandas as pd

    if isinstance(values, (pd.Series, pd.Index)):
        values = values.to_numpy()
    if pa.types.is_string(result):
        listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
        return pa.array([None if each is None else str(each) for each in listed], result)
    try:
        found = pa.array(values) if isinstance(values, np.ndarray) else pa.array(values, type=result)
    except (pa.ArrowException, TypeError, ValueError):
        found = pa.array(list(values))
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if found.type.equals(result):
        return found
    if pa.types.is_timestamp(result) and result.tz is not None and pa.types.is_timestamp(found.type):
        import pyarrow.compute as pc

        return pc.assume_timezone(found.cast(pa.timestamp("us"), safe=False), result.tz)
    try:
        return found.cast(result, safe=not pa.types.is_floating(result))
    except pa.ArrowException:
        raise ValueError(
            f"the model gives {_spoken(found.type)}, and {_spoken(result)} was asked for: "
            f"--result-type {_spoken(found.type)}"
        ) from None


def _spoken(kind: Any) -> str:
    """Return what Spark calls a type."""
    known = {pa.float64(): "double", pa.float32(): "float", pa.int64(): "long", pa.int32(): "int"}
    known |= {pa.bool_(): "boolean", pa.large_string(): "string"}
    return known.get(kind, str(kind))


# --- in Spark's workers


def _scorer(plan: Plan) -> Scorer:
    """Return a scorer on the model of this worker, loaded at the first task that needs it."""
    os.environ.update(plan.environment)
    kept: Any = sys.modules.setdefault(_KEPT, types.ModuleType(_KEPT))
    models: dict[tuple[str, str], Any] = kept.__dict__.setdefault("models", {})
    place = plan.path or _unpacked(str(plan.archive))
    model = models.get((plan.identity, place))
    if model is None:
        import mlflow.pyfunc

        try:
            model = models[plan.identity, place] = mlflow.pyfunc.load_model(place)
        except Exception as error:
            raise RuntimeError(f"{MARK} the model cannot be loaded there: {cause_of(error)}") from error
    return Scorer(plan, model)


def _unpacked(name: str) -> str:
    """Return where Spark has unpacked an archive."""
    places = [os.getcwd()]
    try:
        from pyspark import SparkFiles

        places.insert(0, SparkFiles.getRootDirectory())
    except Exception:
        pass  # a worker behind Spark Connect: archives are in its working directory
    for place in places:
        if os.path.isfile(os.path.join(place, name, "MLmodel")):
            return os.path.join(place, name)
    raise RuntimeError(f"{MARK} the model's files ({name}) did not arrive at this worker")


def _gathered(batches: Iterator[Any], size: Callable[[Any], tuple[int, int]]) -> Iterator[list[Any]]:
    held: list[Any] = []
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


def arrow_mapper(plan: Plan) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return the function for ``mapInArrow``: every column as it was, and the predictions behind them."""

    def score_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        scorer = _scorer(plan)
        for held in _gathered(batches, lambda batch: (batch.num_rows, batch.nbytes)):
            chosen = pa.Table.from_batches([batch.select(list(plan.columns)) for batch in held])
            predicted = scorer.score(chosen)
            first = 0
            for batch in held:
                own = predicted.slice(first, batch.num_rows)
                first += batch.num_rows
                names = [*batch.schema.names, plan.output]
                yield pa.RecordBatch.from_arrays([*batch.columns, own], names)

    return score_batches


def series_mapper(plan: Plan) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return the function for an iterator pandas UDF over the model's columns."""

    def table(series: Any) -> pa.Table:
        if not isinstance(series, tuple):
            series = (series,)
        columns = []
        for each, wanted in zip(series, plan.wanted, strict=True):
            if hasattr(each, "columns"):  # a struct comes as a frame
                each = each.to_dict("records")
            columns.append(_from_pandas(each, wanted))
        return pa.table(columns, names=list(plan.columns))

    def score_series(batches: Iterator[Any]) -> Iterator[Any]:
        scorer = _scorer(plan)
        for held in _gathered(map(table, batches), lambda rows: (rows.num_rows, rows.nbytes)):
            predicted = scorer.score(pa.concat_tables(held))
            first = 0
            for part in held:
                own = predicted.slice(first, part.num_rows)
                first += part.num_rows
                yield _to_pandas(own)

    return score_series


def _from_pandas(values: Any, wanted: Any) -> pa.ChunkedArray:
    """Return a column of pandas as Arrow's: its own type, or the wanted one where pandas has only objects."""
    import numpy as np

    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        # NaN of floats stays NaN; where a whole number is wanted it stands for null.
        nulls = wanted is None or not pa.types.is_floating(wanted)
        return pa.chunked_array([pa.array(values.to_numpy(), from_pandas=nulls)])
    try:
        return pa.chunked_array([pa.array(values, from_pandas=True)])
    except (pa.ArrowException, TypeError, ValueError):
        return pa.chunked_array([pa.array(values, type=wanted, from_pandas=True)])


def _to_pandas(predicted: pa.Array) -> Any:
    if pa.types.is_struct(predicted.type):
        return pa.Table.from_struct_array(predicted).to_pandas()
    return predicted.to_pandas()


# --- in this process


def frame_scorer(plan: Plan, model: Any) -> tuple[Scorer, Callable[[Any], pa.Array]]:
    """Return what scores a pandas frame here, in batches that fit the memory."""
    scorer = Scorer(plan, model)

    def score(frame: Any) -> pa.Array:
        columns = []
        for name, wanted in zip(plan.columns, plan.wanted, strict=True):
            try:
                columns.append(_from_pandas(frame[name], wanted))
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise ValueError(f"column {name}: {' '.join(str(error).split())[:200]}") from None
        rows = pa.table(columns, names=list(plan.columns))
        parts = [scorer.score(rows.slice(first, _ROWS * 10)) for first in range(0, len(frame), _ROWS * 10)]
        return pa.concat_arrays(parts) if parts else pa.nulls(0, plan.result)

    return scorer, score
