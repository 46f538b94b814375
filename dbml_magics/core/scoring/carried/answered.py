"""What the model answers: its predictions as an Arrow array of the type that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa


class WrongType(ValueError):
    """The model returns another type than the wanted one: no single row is the cause."""


def as_array(predicted: Any, rows: int, result: pa.DataType | None) -> pa.Array:
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


def kind_of(predicted: Any) -> pa.DataType:
    """Return the Arrow type that predictions have by themselves. Raises ValueError for several in one."""
    import numpy as np
    import pandas as pd

    predicted = _plain(predicted)
    if isinstance(predicted, pd.DataFrame):
        if predicted.shape[1] != 1:
            columns = [predicted.iloc[:, number] for number in range(predicted.shape[1])]
            fields = zip(map(str, predicted.columns), map(kind_of, columns), strict=True)
            return pa.struct([pa.field(name, kind) for name, kind in fields])
        predicted = predicted.iloc[:, 0]
    depth = 0
    if isinstance(predicted, np.ndarray) and predicted.ndim > 1:
        depth = predicted.ndim - 1 if predicted.ndim > 2 or predicted.shape[1] != 1 else 0
        predicted = predicted.ravel()
    try:
        kind = _arrow(predicted).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise WrongType("the model gives values of several types: --result-type string") from None
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
            inner = spoken(kind_of(predicted))
            raise WrongType(
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
            raise WrongType("the model gives binary, and string was asked for: --result-type binary")
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
        raise WrongType(
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


def joined(parts: Sequence[pa.Array], kind: pa.DataType | None) -> pa.Array:
    """Return arrays as one; those that came before a type was known have nulls alone."""
    return pa.concat_arrays(
        [part if kind is None or part.type.equals(kind) else part.cast(kind) for part in parts]
    )


def to_pandas(predicted: pa.Array) -> Any:
    """Return predictions as Spark's pandas functions give them back."""
    if pa.types.is_struct(predicted.type):
        return pa.Table.from_struct_array(predicted).to_pandas()
    return predicted.to_pandas()
