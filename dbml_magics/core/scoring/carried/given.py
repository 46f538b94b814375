"""What the model is given: Arrow columns as the frame or the arrays that it wants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbml_magics.core.scoring.carried.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

_EXACT = 2**53  # whole numbers beyond it have no exact double


def as_input(rows: pa.Table, plan: Plan, own: Mapping[str, pd.Series[Any]]) -> object:
    """Return rows as the model takes them. Raises ValueError when a value cannot be."""
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


def is_missing(column: pa.ChunkedArray) -> Any:
    """Return for each row whether the column has a null or, among floats, NaN."""
    import pyarrow.compute as pc

    return pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)).to_numpy(zero_copy_only=False)


def from_pandas(values: Any, wanted: pa.DataType | None) -> pa.ChunkedArray:
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
