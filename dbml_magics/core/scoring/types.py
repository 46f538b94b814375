"""Types: Spark's names for them, a signature's, and Arrow's, in which everything here is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from dbml_magics.common.hints import amended
from dbml_magics.core.model.mlmodel import ColumnSpec
from dbml_magics.errors import BadCommand

if TYPE_CHECKING:
    from pyspark.sql.types import DataType as SparkType

__all__ = [
    "fits",
    "from_spark",
    "of_outputs",
    "of_spec",
    "quoted",
    "read_ddl",
    "simple",
    "to_spark",
    "with_zone",
    "writable",
]

_NAMED: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "bool": pa.bool_(),
    "byte": pa.int8(),
    "tinyint": pa.int8(),
    "short": pa.int16(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "real": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "datetime": pa.timestamp("ns"),  # MLflow's word in a signature
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}
_SPARK = {
    pa.bool_(): "boolean",
    pa.int8(): "tinyint",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.large_string(): "string",  # texts of pandas 3
    pa.binary(): "binary",
    pa.large_binary(): "binary",
    pa.date32(): "date",
}
_A = pa.types
_Tests = tuple[Callable[[pa.DataType], bool], ...]
_NUMBERS = (_A.is_floating, _A.is_integer)
_FITS: tuple[tuple[_Tests, _Tests], ...] = (  # what is wanted, what it is made of
    (_NUMBERS, (*_NUMBERS, _A.is_decimal)),
    ((_A.is_timestamp,), (_A.is_timestamp, _A.is_date)),
    ((_A.is_string,), (_A.is_string, _A.is_large_string)),
    ((_A.is_binary,), (_A.is_binary, _A.is_large_binary)),
    ((_A.is_struct, _A.is_map), (_A.is_struct, _A.is_map)),
)
_KNOWN = "boolean, int, long, float, double, string, binary, date, timestamp, array<T>, struct<a: T>"
_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|`(?:[^`]|``)+`|\d+|[<>(),:])")


def quoted(name: str) -> str:
    """Return a column's name as Spark takes it literally, whatever is in it."""
    return "`" + name.replace("`", "``") + "`"


def read_ddl(written: str) -> pa.DataType:
    """Return the Arrow type of a Spark type in words (``double``, ``array<double>``). Raises BadCommand."""
    tokens = _TOKEN.findall(written)
    if re.sub(r"\s+", "", "".join(tokens)) != re.sub(r"\s+", "", written):
        raise _unknown(written)
    try:
        found = _type(tokens)
    except (IndexError, KeyError, ValueError):
        raise _unknown(written) from None
    if tokens:
        raise _unknown(written)
    return found


def _unknown(written: str) -> BadCommand:
    return BadCommand(
        f"--result-type {written!r} is no type that Spark knows: {_KNOWN}.",
        remedies=[
            (amended("score", "MODEL", result_type="double"), "for example"),
            (amended("score", "MODEL", result_type="array<double>"), ""),
        ],
    )


def _type(tokens: list[str]) -> pa.DataType:
    name = tokens.pop(0).lower()
    if name == "array":
        _expect(tokens, "<")
        inner = _type(tokens)
        _expect(tokens, ">")
        return pa.list_(inner)
    if name == "map":
        _expect(tokens, "<")
        key = _type(tokens)
        _expect(tokens, ",")
        value = _type(tokens)
        _expect(tokens, ">")
        return pa.map_(key, value)
    if name == "struct":
        _expect(tokens, "<")
        fields = []
        while True:
            field = tokens.pop(0)
            field = field[1:-1].replace("``", "`") if field[0] == "`" else field
            if tokens[0] == ":":
                tokens.pop(0)
            fields.append(pa.field(field, _type(tokens)))
            if tokens[0] != ",":
                break
            tokens.pop(0)
        _expect(tokens, ">")
        return pa.struct(fields)
    if name == "decimal":
        _expect(tokens, "(")
        precision = int(tokens.pop(0))
        _expect(tokens, ",")
        scale = int(tokens.pop(0))
        _expect(tokens, ")")
        return pa.decimal128(precision, scale)
    return _NAMED[name]


def _expect(tokens: list[str], mark: str) -> None:
    if tokens.pop(0) != mark:
        raise ValueError(mark)


def simple(kind: pa.DataType) -> str:
    """Return a type in Spark's words."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"array<{simple(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{simple(kind.key_type)},{simple(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{f.name}:{simple(f.type)}' for f in kind)}>"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_null(kind):
        return "void"
    return _SPARK.get(kind, str(kind))


def of_spec(spec: ColumnSpec) -> pa.DataType | None:
    """Return the Arrow type of one column of a signature; None for what is taken as it is."""
    kind = spec.get("type")
    if kind == "tensor":
        tensor = spec.get("tensor-spec") or {}
        element = _NAMED.get(str(tensor.get("dtype")))
        if element is None:
            element = (
                pa.string() if str(tensor.get("dtype")) in ("str", "object") else _numpy(tensor.get("dtype"))
            )
        for _ in range(max(0, len(tensor.get("shape") or [-1]) - 1)):
            element = pa.list_(element)
        return element
    if kind == "array":
        inner = of_spec(spec.get("items") or {})
        return None if inner is None else pa.list_(inner)
    if kind == "object":
        properties = {str(name): of_spec(each) for name, each in (spec.get("properties") or {}).items()}
        if None in properties.values():
            return None
        return pa.struct([pa.field(name, each) for name, each in properties.items()])
    if kind == "map":
        inner = of_spec(spec.get("values") or {})
        return None if inner is None else pa.map_(pa.string(), inner)
    return _NAMED.get(str(kind))


def _numpy(name: str | None) -> pa.DataType | None:
    import numpy as np

    try:
        return pa.from_numpy_dtype(np.dtype(str(name)))
    except (TypeError, pa.ArrowException):
        return None


def of_outputs(outputs: Sequence[ColumnSpec]) -> pa.DataType | None:
    """Return the Arrow type of what a signature says the model gives; None when it does not say."""
    if not outputs:
        return None
    kinds = [writable(of_spec(each)) for each in outputs]
    if len(kinds) == 1:
        return kinds[0]
    if None in kinds:
        return None
    named = [str(each.get("name") if each.get("name") is not None else n) for n, each in enumerate(outputs)]
    return pa.struct([pa.field(name, kind) for name, kind in zip(named, kinds, strict=True)])


def writable(kind: pa.DataType | None) -> pa.DataType | None:
    """Return the type that Spark has for it: no unsigned numbers, no nanoseconds."""
    if kind is None:
        return None
    if pa.types.is_list(kind):
        return pa.list_(writable(kind.value_type))
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us")
    unsigned = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}
    return unsigned.get(kind, pa.int64() if pa.types.is_uint64(kind) else kind)


def with_zone(kind: pa.DataType, zone: str) -> pa.DataType:
    """Return a type with Spark's time zone in its timestamps."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", zone)
    if pa.types.is_list(kind):
        return pa.list_(with_zone(kind.value_type, zone))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, with_zone(f.type, zone)) for f in kind])
    return kind


def to_spark(kind: pa.DataType) -> SparkType:
    """Return Spark's type for an Arrow type."""
    from pyspark.sql import types as spark

    if pa.types.is_list(kind):
        return spark.ArrayType(to_spark(kind.value_type))
    if pa.types.is_map(kind):
        return spark.MapType(to_spark(kind.key_type), to_spark(kind.item_type))
    if pa.types.is_struct(kind):
        return spark.StructType([spark.StructField(f.name, to_spark(f.type)) for f in kind])
    if pa.types.is_timestamp(kind):
        return spark.TimestampType()
    if pa.types.is_decimal(kind):
        return spark.DecimalType(kind.precision, kind.scale)
    names = {
        "boolean": spark.BooleanType,
        "tinyint": spark.ByteType,
        "smallint": spark.ShortType,
        "int": spark.IntegerType,
        "bigint": spark.LongType,
        "float": spark.FloatType,
        "double": spark.DoubleType,
        "string": spark.StringType,
        "binary": spark.BinaryType,
        "date": spark.DateType,
    }
    return names[simple(kind)]()


def from_spark(kind: SparkType) -> pa.DataType | None:
    """Return the Arrow type of one of Spark's; None for one that only Spark has (vectors, intervals)."""
    name = kind.typeName()
    if name == "array":
        inner = from_spark(kind.elementType)
        return None if inner is None else pa.list_(inner)
    if name == "map":
        key, value = from_spark(kind.keyType), from_spark(kind.valueType)
        return None if None in (key, value) else pa.map_(key, value)
    if name == "struct":
        kinds = [from_spark(each.dataType) for each in kind.fields]
        if None in kinds:
            return None
        return pa.struct([pa.field(f.name, each) for f, each in zip(kind.fields, kinds, strict=True)])
    if name == "decimal":
        return pa.decimal128(kind.precision, kind.scale)
    if name == "timestamp_ntz":
        return pa.timestamp("us")
    return pa.string() if name in ("char", "varchar") else _NAMED.get(name)


def fits(kind: pa.DataType | None, wanted: pa.DataType | None) -> bool:
    """Tell whether values of one type can be what the model wants; single values may still not fit."""
    if kind is None or wanted is None:
        return True
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or kind.equals(wanted):
        return True
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if pa.types.is_list(wanted):
        return is_list and fits(kind.value_type, wanted.value_type)
    return any(
        all(any(is_it(t) for is_it in side) for t, side in ((wanted, to), (kind, of))) for to, of in _FITS
    )
