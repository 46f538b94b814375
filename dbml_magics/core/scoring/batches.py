"""What runs beside the data: batches of rows go in, their predictions come out, the same everywhere.

Spark's workers get these functions by value, since a cluster need not have the package; so this module
imports nothing of it, and what a worker keeps between tasks is kept in a module of its own. The process that
scores a pandas frame calls the same functions.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    from typing import TypeAlias

    import pandas as pd
    from mlflow.pyfunc import PyFuncModel

    Model: TypeAlias = PyFuncModel | "_Apart"
    BatchMapper: TypeAlias = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    _Series: TypeAlias = pd.Series[Any] | pd.DataFrame | tuple[pd.Series[Any] | pd.DataFrame, ...]

__all__ = [
    "MARK",
    "Plan",
    "Scorer",
    "arrow_mapper",
    "cause_of",
    "frame_scorer",
    "kind_mapper",
    "load",
    "place_of_refusal",
    "series_mapper",
    "spoken",
    "takes_params",
]

MARK = "dbml-score:"
"""Stands before the cause in the error of a failed task, so that it is found in a Java traceback."""

_ROWS = 100_000  # rows that the model is given at once
_BYTES = 128 * 1024**2  # or so many bytes of them
_SAMPLE = 64  # rows that speak for those that lack the same columns
_HOPELESS = 1000  # complete rows refused one by one, and none accepted: the model does not work at all
_OTHERS = 8  # rows among which one is looked for that the model accepts
_KEPT = "_dbml_scoring_models"
T = TypeVar("T")
_EXACT = 2**53  # whole numbers beyond it have no exact double


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


class _WrongType(ValueError):
    """The model returns another type than the wanted one: no single row is the cause."""


class Scorer:
    """One model and what it is asked: Arrow batches in, an Arrow array of as many predictions out."""

    def __init__(self, plan: Plan, model: Model, own: Mapping[str, pd.Series[Any]] | None = None) -> None:
        self.plan = plan
        self.refused = 0
        self.cause: str | None = None  # of the last refusal
        self.result = plan.result
        self._model = model
        self._own = (
            {} if own is None else own
        )  # pandas columns that no type is wanted of: the model gets them as they are
        self._accepted = False
        self._complete = 0  # rows without nulls that were refused, one by one
        self._before = 0  # rows of earlier batches

    def score(self, rows: pa.Table, numbers: Sequence[int] | None = None) -> pa.Array:
        """Return predictions; a row that the model refuses fails the task or, with ``skip``, gets null.

        ``numbers`` are what messages call the rows; by default their places among all that came here.
        """
        if self.plan.params and not takes_params(self._model):
            named = ", ".join(self.plan.params)
            raise RuntimeError(f"{MARK} the model's predict takes no params, and {named} would be dropped")
        before = self._before
        self._before += rows.num_rows
        if rows.num_rows == 0:
            return pa.nulls(0, self.result)
        try:
            found = self._predict(rows)
        except Exception as error:
            if self.plan.skip:
                return self._apart(rows)
            where = "" if isinstance(error, _WrongType) else self._place(rows, before, numbers)
            raise RuntimeError(f"{MARK} {cause_of(error)}{where}") from error
        self._accepted = True
        return found

    def _predict(self, rows: pa.Table) -> pa.Array:
        data = _as_input(rows, self.plan, self._own)
        params = self.plan.params
        predicted = self._model.predict(data, params=dict(params)) if params else self._model.predict(data)
        if self.result is None:
            kind = _kind_of(predicted)
            # Nothing but nulls shows no type yet.
            if not pa.types.is_null(kind):
                self.result = kind
        return _as_array(predicted, rows.num_rows, self.result)

    def _place(self, rows: pa.Table, before: int, numbers: Sequence[int] | None) -> str:
        def mixed(row: int, other: int, column: int) -> pa.Table:
            one, value = rows.slice(row, 1), rows.column(column).slice(other, 1)
            return one.set_column(column, rows.schema.field(column), value)

        partition = _partition()

        def label(row: int) -> str:
            if numbers is not None:
                return str(numbers[row])
            return f"{before + row}" + ("" if partition is None else f" of partition {partition}")

        return place_of_refusal(
            self._predict,
            lambda first, last: rows.slice(first, last - first),
            rows.num_rows,
            mixed=mixed,
            names=self.plan.columns,
            label=label,
        )

    def _apart(self, rows: pa.Table) -> pa.Array:
        """Predict for the complete rows together, and for rows with nulls by their missing columns."""
        import numpy as np

        lacking = np.zeros(rows.num_rows, dtype=np.int64)
        for number, column in enumerate(rows.columns):
            own = self._own.get(self.plan.columns[number])
            missing = _is_missing(column) if own is None else own.isna().to_numpy()[column.to_numpy()]
            lacking = lacking * 2 + missing if number < 60 else lacking | missing
        places: list[Any] = []
        found: list[pa.Array] = []
        for pattern in np.unique(lacking):
            these = np.flatnonzero(lacking == pattern)
            places.append(these)
            found.append(self._isolate(rows.take(pa.array(these)), complete=not pattern))
        order = np.empty(rows.num_rows, dtype=np.int64)
        order[np.concatenate(places)] = np.arange(rows.num_rows)
        return _joined(found, self.result).take(pa.array(order))

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
        return _joined([self._isolate(part, complete=complete) for part in parts], self.result)

    def _refuse(self, count: int, *, complete: bool) -> pa.Array:
        self.refused += count
        self._complete += count if complete else 0
        if self._complete >= _HOPELESS and not self._accepted:
            raise RuntimeError(f"{MARK} the model refuses every row: {self.cause}")
        return pa.nulls(count, self.result)

    def _refuses_each(self, rows: pa.Table) -> bool:
        step = rows.num_rows // _SAMPLE
        for number in range(_SAMPLE):
            try:
                self._predict(rows.slice(number * step, 1))
            except Exception:
                continue
            return False
        return True


def takes_params(model: Model) -> bool:
    """Tell whether a model's own predict sees params: from one that does not, MLflow keeps them."""
    own: PyFuncModel = getattr(model, "inner", model)
    try:
        predict = own.unwrap_python_model().predict
    except Exception:  # it is of another flavor
        predict = getattr(own, "_predict_fn", own.predict)
    found = inspect.signature(predict).parameters.get("params")
    return found is not None and found.kind is not inspect.Parameter.VAR_KEYWORD


def _joined(parts: Sequence[pa.Array], kind: pa.DataType | None) -> pa.Array:
    """Return arrays as one; those that came before a type was known have nulls alone."""
    return pa.concat_arrays(
        [part if kind is None or part.type.equals(kind) else part.cast(kind) for part in parts]
    )


def _partition() -> int | None:
    """Return the number of the partition that a worker of Spark's works on; None elsewhere."""
    try:
        from pyspark import TaskContext

        context = TaskContext.get()
        return None if context is None else int(context.partitionId())
    except Exception:
        return None


def cause_of(error: BaseException) -> str:
    """Return an error's cause in one line."""
    if isinstance(error, _WrongType):  # the type that it suggests is whole
        return str(error)
    said = " ".join(str(getattr(error, "message", None) or error).split())
    said = said.removeprefix("Failed to enforce schema of data ").strip()
    at = said.find("Error: ")
    if at >= 0 and "with schema" in said[:at]:  # MLflow repeats the data and the schema first
        said = said[at + len("Error: ") :]
    return f"{type(error).__name__.lstrip('_')}: {said}"[:400]


def place_of_refusal(
    ask: Callable[[object], object],
    part: Callable[[int, int], object],
    rows: int,
    *,
    mixed: Callable[[int, int, int], object] | None = None,
    names: Sequence[str] = (),
    label: Callable[[int], object] = int,
    seconds: float = 10.0,
) -> str:
    """Return in words where the first row is that ``ask`` refuses by itself; nothing when none is found soon.

    ``part`` returns the rows from the first number up to the second, ``mixed`` a row with one column's value
    of another row, by their places: a row that passes with a column of another one fails for that column.
    """
    until = time.monotonic() + seconds

    def fails(data: object) -> bool:
        try:
            ask(data)
        except Exception:
            return True
        return False

    first, last = 0, rows
    fine: int | None = None
    while last - first > 1:
        if time.monotonic() > until:
            return ""
        middle = (first + last) // 2
        if fails(part(first, middle)):
            last = middle
        elif fails(part(middle, last)):
            fine, first = first, middle
        else:
            return ""  # they fail together only
    if rows == 0 or (rows > 1 and not fails(part(first, last))):
        return ""
    row = label(first)
    if len(names) == 1 or mixed is None:
        return f" (row {row}, column {names[0]})" if names else f" (row {row})"
    others = range(0, rows, max(1, rows // _OTHERS)) if fine is None else [fine]
    for other in others:
        if time.monotonic() > until:
            break
        if other == first or (fine is None and fails(part(other, other + 1))):
            continue
        found = []
        for number, name in enumerate(names):
            if time.monotonic() > until:
                break
            if not fails(mixed(first, other, number)):
                found.append(name)
        if found:
            return f" (row {row}, column {' or '.join(found[:3])})"
        break
    return f" (row {row})"


# --- what the model is given


def _as_input(rows: pa.Table, plan: Plan, own: Mapping[str, pd.Series[Any]]) -> object:
    import numpy as np
    import pandas as pd

    columns = [
        column if name in own else _cast(column, wanted, plan, name)
        for column, wanted, name in zip(rows.columns, plan.wanted, plan.columns, strict=True)
    ]
    if plan.shape == "frame":
        named = pa.table(columns, names=list(plan.names))
        frame = named.to_pandas(maps_as_pydicts="strict", date_as_object=True)
        for given, name, column, wanted in zip(plan.columns, plan.names, columns, plan.wanted, strict=True):
            if given in own:  # the Arrow column has the rows' places
                frame[name] = pd.Series(own[given].array.take(column.to_numpy()))
            elif _loses(column):
                nested = pa.types.is_nested(column.type)
                whole = pd.Series(pd.array(column.to_pylist(), dtype="Int64")) if not nested else None
                frame[name] = column.to_pylist() if whole is None else whole
            elif wanted is not None and pa.types.is_list(wanted):
                frame[name] = [None if each is None else _nested(each) for each in frame[name]]
        return frame
    arrays = {name: _tensor(column) for name, column in zip(plan.names, columns, strict=True)}
    if plan.shape == "arrays":
        return arrays
    if len(arrays) == 1 and next(iter(arrays.values())).ndim > 1:
        return next(iter(arrays.values()))
    return np.column_stack(list(arrays.values()))


def _loses(column: pa.Array | pa.ChunkedArray) -> bool:
    """Tell whether pandas would make doubles of whole numbers beside nulls that no double holds."""
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_integer(kind):
        if not column.null_count or kind.bit_width < 64:
            return False
        most, least = pc.max(column).as_py(), pc.min(column).as_py()
        return most is not None and (most >= _EXACT or least <= -_EXACT)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return any(_loses(chunk.flatten()) for chunk in chunks)
    if pa.types.is_struct(kind):
        return any(_loses(part) for chunk in chunks for part in chunk.flatten())
    return False


def _nested(value: Any) -> Any:
    return [_nested(each) for each in value] if str(getattr(value, "dtype", "")) == "object" else value


def _tensor(column: pa.ChunkedArray) -> Any:
    import numpy as np

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return np.array(column.to_pylist(), dtype=_element(column.type).to_pandas_dtype())
    return column.to_numpy()


def _element(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return kind


def _cast(column: pa.ChunkedArray, wanted: pa.DataType | None, plan: Plan, name: str) -> pa.ChunkedArray:
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
        return column
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


def _as_array(predicted: Any, rows: int, result: pa.DataType | None) -> pa.Array:
    """Return predictions as an Arrow array of a type. Raises ValueError when they are of another."""
    found = _converted(_plain(predicted), pa.null() if result is None else result)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if len(found) != rows:
        raise ValueError(f"the model gave {len(found):,} predictions for {rows:,} rows")
    return found


def _plain(predicted: Any) -> Any:
    """Return predictions as a frame, an array, a Series or a list."""
    import pandas as pd

    if hasattr(predicted, "toarray"):  # scipy's sparse matrices
        return predicted.toarray()
    if isinstance(predicted, Mapping):
        return pd.DataFrame({key: list(value) for key, value in predicted.items()})
    if isinstance(predicted, list) and predicted and hasattr(predicted[0], "model_dump"):
        return [each.model_dump() for each in predicted]
    return predicted


def _kind_of(predicted: Any) -> pa.DataType:
    """Return the Arrow type that predictions have by themselves. Raises ValueError for several in one."""
    import numpy as np
    import pandas as pd

    predicted = _plain(predicted)
    if isinstance(predicted, pd.DataFrame):
        if predicted.shape[1] != 1:
            columns = [predicted.iloc[:, number] for number in range(predicted.shape[1])]
            fields = zip(map(str, predicted.columns), map(_kind_of, columns), strict=True)
            return pa.struct([pa.field(name, kind) for name, kind in fields])
        predicted = predicted.iloc[:, 0]
    depth = 0
    if isinstance(predicted, np.ndarray) and predicted.ndim > 1:
        depth = predicted.ndim - 1 if predicted.ndim > 2 or predicted.shape[1] != 1 else 0
        predicted = predicted.ravel()
    try:
        kind = _arrow(predicted).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise _WrongType("the model gives values of several types: --result-type string") from None
    for _ in range(depth):
        kind = pa.list_(kind)
    return _settled(kind)


def _settled(kind: pa.DataType) -> pa.DataType:
    """Return a type without pandas' and Arrow's own variants of it."""
    if pa.types.is_dictionary(kind):
        return _settled(kind.value_type)
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_settled(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(each.name, _settled(each.type)) for each in kind])
    return kind


def _arrow(values: Any) -> pa.Array:
    """Return values as Arrow has them; NaN stays NaN, and None, NA and NaT are nulls."""
    import numpy as np
    import pandas as pd

    if isinstance(values, pd.Index):
        values = values.to_series()
    if isinstance(values, pd.Series) and isinstance(values.dtype, np.dtype):
        values = values.to_numpy()
    elif not isinstance(values, (np.ndarray, pd.Series)):
        values = list(values)
    try:
        found = pa.array(values)
    except (pa.ArrowException, TypeError, ValueError):
        found = pa.array(values, from_pandas=True)  # NA among objects
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _converted(predicted: Any, result: pa.DataType) -> pa.Array:
    import numpy as np
    import pandas as pd

    if pa.types.is_struct(result):
        return _struct(predicted, result)
    if isinstance(predicted, pd.DataFrame):
        if predicted.shape[1] == 1 and not pa.types.is_list(result):
            predicted = predicted.iloc[:, 0]
        else:
            predicted = predicted.to_numpy()
    if isinstance(predicted, pd.Series) and pa.types.is_list(result):
        predicted = predicted.to_numpy()
    if isinstance(predicted, np.ndarray) and predicted.ndim == 2 and predicted.shape[1] == 1:
        predicted = predicted if pa.types.is_list(result) else predicted[:, 0]
    if isinstance(predicted, np.ndarray) and predicted.ndim > 1:
        if not pa.types.is_list(result):
            inner = spoken(_kind_of(predicted))
            raise _WrongType(
                f"the model gives {predicted.shape[1]} values a row, and {result} was asked for: "
                f"--result-type {inner}"
            )
        return _values(predicted.tolist(), result)
    if isinstance(predicted, np.ndarray) and pa.types.is_list(result) and predicted.dtype.kind in "iufbU":
        return _values([[each] for each in predicted.tolist()], result)
    return _values(predicted, result)


def _struct(predicted: Any, result: pa.DataType) -> pa.Array:
    import numpy as np
    import pandas as pd

    fields = list(result)
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


def _values(values: Any, result: pa.DataType) -> pa.Array:
    """Return one column of predictions; NaN stays NaN."""
    import numpy as np
    import pandas as pd

    if pa.types.is_string(result):
        listed = values.tolist() if isinstance(values, (np.ndarray, pd.Series)) else list(values)
        if any(isinstance(each, (bytes, bytearray)) for each in listed):
            raise _WrongType("the model gives binary, and string was asked for: --result-type binary")
        loose = not (isinstance(values, np.ndarray) and values.dtype.kind == "f")
        return pa.array([None if _is_none(each, loose) else str(each) for each in listed], result)
    if pa.types.is_nested(result) and not isinstance(values, (np.ndarray, pd.Series, pd.Index)):
        try:
            found = pa.array(values, type=result)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            found = _arrow(values)
    else:  # by themselves first: asked for a date, Arrow would make one of a decimal
        found = _arrow(values)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if found.type.equals(result):
        return found
    if pa.types.is_timestamp(result) and result.tz is not None and pa.types.is_timestamp(found.type):
        import pyarrow.compute as pc

        if found.type.tz is None:
            return pc.assume_timezone(found.cast(pa.timestamp("us"), safe=False), result.tz)
    try:
        made = found.cast(result, safe=not pa.types.is_floating(result))
        if pa.types.is_float64(result) and pa.types.is_integer(found.type) and found.type.bit_width == 64:
            found.cast(result)  # it raises for whole numbers that no double holds
        return made
    except pa.ArrowException:
        raise _WrongType(
            f"the model gives {spoken(found.type)}, and {spoken(result)} was asked for: "
            f"--result-type {spoken(found.type)}"
        ) from None


def _is_none(value: object, loose: bool) -> bool:
    """Tell whether a value is missing; among texts NaN is too."""
    import pandas as pd

    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (loose and isinstance(value, float) and value != value)
    )


def spoken(kind: pa.DataType) -> str:
    """Return a type as Spark and ``--result-type`` read it; for one that they lack, the next wider one."""
    if pa.types.is_dictionary(kind):
        return spoken(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"array<{spoken(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{spoken(kind.key_type)},{spoken(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{_quoted(each.name)}:{spoken(each.type)}' for each in kind)}>"
    if pa.types.is_decimal(kind):
        return f"decimal({min(kind.precision, 38)},{max(0, min(kind.scale, 38))})"
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        return "timestamp"
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary"
    known = {
        pa.bool_(): "boolean",
        pa.int8(): "tinyint",
        pa.int16(): "smallint",
        pa.int32(): "int",
        pa.int64(): "long",
        pa.uint8(): "smallint",
        pa.uint16(): "int",
        pa.uint32(): "long",
        pa.uint64(): "decimal(20,0)",
        pa.float16(): "float",
        pa.float32(): "float",
        pa.float64(): "double",
        pa.binary(): "binary",
        pa.date32(): "date",
        pa.null(): "double",
    }
    return known.get(kind, "string")


def _quoted(name: str) -> str:
    plain = name.isascii() and name.isidentifier()
    return name if plain else "`" + name.replace("`", "``") + "`"


# --- in Spark's workers


def _scorer(plan: Plan) -> Scorer:
    """Return a scorer on the model of this worker, loaded at the first task that needs it."""
    os.environ.update(plan.environment)
    models: dict[tuple[str, str], Model] = _kept("models", dict)
    place = plan.path or _unpacked(str(plan.archive))
    model = models.get((plan.identity, place))
    if model is None:
        try:
            model = models[plan.identity, place] = load(place)
        except Exception as error:
            raise RuntimeError(f"{MARK} the model cannot be loaded there: {cause_of(error)}") from error
    return Scorer(plan, model)


def _kept(name: str, make: Callable[[], T]) -> T:
    """Return a process-wide object by name: this module may be loaded more than once."""
    module = sys.modules.setdefault(_KEPT, types.ModuleType(_KEPT))
    kept: T = module.__dict__.setdefault(name, make())
    return kept


def load(place: str) -> Model:
    """Return the model in a folder; one with code of its own (``code_paths``) shares no module."""
    import mlflow.pyfunc
    from mlflow.models import Model

    flavor = Model.load(os.path.join(place, "MLmodel")).flavors.get("python_function") or {}
    folder = os.path.join(place, str(flavor["code"])) if flavor.get("code") else ""
    names = _modules_in(folder) if os.path.isdir(folder) else frozenset()
    return _Apart(place, folder, names) if names else mlflow.pyfunc.load_model(place)


_RUNS_ON = ("cloudpickle", "mlflow", "numpy", "pandas", "pyarrow", "pyspark")


def _modules_in(folder: str) -> frozenset[str]:
    """Return the modules that a folder has, without those that Python and MLflow run on."""
    found = {
        each.partition(".")[0] for each in os.listdir(folder) if not each.startswith((".", "__pycache__"))
    }
    return frozenset(found - set(sys.stdlib_module_names) - set(_RUNS_ON))


class _Apart:
    """A model whose own modules are there only while it is loaded or asked.

    Another version's modules of the same names, and the notebook's, are put aside meanwhile: Python has one
    module of a name, and would give the second model the first one's code.
    """

    def __init__(self, place: str, folder: str, names: frozenset[str]) -> None:
        import mlflow.pyfunc

        self._folder, self._names = folder, names
        self._modules: dict[str, types.ModuleType] = {}
        with self._inside():
            self.inner = mlflow.pyfunc.load_model(place)

    def predict(self, data: object, params: Mapping[str, object] | None = None) -> object:
        with self._inside():
            return self.inner.predict(data, params=params) if params else self.inner.predict(data)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        with _kept("lock", threading.RLock):
            others = self._taken_out()
            sys.modules.update(self._modules)
            sys.path.insert(0, self._folder)
            try:
                yield
            finally:
                self._modules = self._taken_out()
                sys.modules.update(others)
                sys.path[:] = [place for place in sys.path if place != self._folder]

    def _taken_out(self) -> dict[str, types.ModuleType]:
        named = [name for name in list(sys.modules) if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in named}


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
            column = _from_pandas(values, pa.string() if name in plan.as_text else wanted)
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
                yield _to_pandas(own)

    return score_series


def _from_pandas(values: Any, wanted: pa.DataType | None) -> pa.ChunkedArray:
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
                columns.append(_from_pandas(frame[name], wanted))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                said = " ".join(str(error).split())[:200]
                raise ValueError(f"column {name}: {said}{_first_strange(frame[name], wanted)}") from None
        rows = pa.table(columns, names=list(plan.columns))
        parts = [scorer.score(rows.slice(first, _ROWS * 10)) for first in range(0, len(frame), _ROWS * 10)]
        if scorer.result is None:
            scorer.result = pa.float64()
        return _joined(parts, scorer.result) if parts else pa.nulls(0, scorer.result)

    return scorer, score


def _first_strange(values: pd.Series[Any], wanted: pa.DataType | None) -> str:
    """Return which row of a column cannot be what the model wants."""
    for row, value in enumerate(values.tolist()):
        try:
            pa.array([value], type=wanted, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return f" (row {row})"
    return ""
