"""What is scored: a table, a path, or a DataFrame; read as Spark has it."""

from __future__ import annotations

import glob
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy, amended
from dbml_magics.core.scoring.columns import Kinds
from dbml_magics.core.scoring.spark import first_line, is_here
from dbml_magics.core.scoring.types import to_spark
from dbml_magics.errors import BadCommand, BadData

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, SparkSession
    from pyspark.sql import DataFrame as SparkFrame
    from pyspark.sql.types import DataType as SparkType

__all__ = ["FORMATS", "as_pandas", "filtered", "format_of", "is_path", "located", "read"]

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".delta": "delta",
    ".orc": "orc",
}
_HELP = (Remedy("help", "score"), "what it takes")
_QUOTED = re.compile(r"(\w+|`(?:[^`]|``)+`)(\.(\w+|`(?:[^`]|``)+`))*\.`(?:[^`]|``)+`|`(?:[^`]|``)+`")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:/")


def is_path(written: str) -> bool:
    """Tell whether a word names files rather than a table."""
    return not _QUOTED.fullmatch(written) and (
        "/" in written
        or "*" in written
        or _suffix(written) in FORMATS
        or (written[:1] == "." and Path(written).expanduser().exists())
        or Path(written).is_dir()
    )


def _suffix(path: str) -> str:
    bare = re.sub(r"\.(gz|bz2|zst|snappy)$", "", path.rstrip("/").lower())
    return Path(bare).suffix


def located(spark: SparkSession, path: str) -> str:
    """Return a path as Spark finds it: one of this machine's does not hang on Spark's own folder."""
    if _SCHEME.match(path) or not is_here(spark):
        return path
    return f"file:{Path(path).expanduser().absolute()}"


def format_of(path: str, default: str) -> str:
    """Return the format of files, by their name or, on this machine, by what is in the folder."""
    found = FORMATS.get(_suffix(path))
    if found is not None:
        return found
    folder = Path(path).expanduser()
    if not _SCHEME.match(path) and folder.is_dir():
        if (folder / "_delta_log").is_dir():
            return "delta"
        inside = (FORMATS.get(_suffix(each.name)) for each in sorted(folder.iterdir()))
        return next((each for each in inside if each is not None), default)
    return default


def read(spark: SparkSession, written: str, wanted: Kinds) -> tuple[SparkFrame, str]:
    """Return a table or files as a Spark DataFrame, and what they are in words. Raises BadData.

    Of CSV the columns that are ``wanted`` as text are text, and so are those with numbers that no number
    keeps, like 007; a column without any value has the Arrow type that is wanted of it.
    """
    if not written.strip():
        raise BadData("the input has no name: a table, a path, or a DataFrame.", remedies=[_HELP])
    return _files(spark, written, wanted) if is_path(written) else _table(spark, written)


def _table(spark: SparkSession, name: str) -> tuple[SparkFrame, str]:
    try:
        found = spark.table(name)
        found.schema  # noqa: B018 - Spark Connect looks the table up here
    except Exception as error:
        if "PARSE" not in str(error).upper() and "NOT_FOUND" not in str(error).upper():
            raise BadData(f"table {name} cannot be read: {first_line(error)}.", remedies=[_HELP]) from None
        raise _no_table(spark, name) from None
    return found, f"table {name}"


def _no_table(spark: SparkSession, name: str) -> BadData:
    running = environment.shell()
    if running is not None and name in running.user_ns:
        return BadData(
            f"there is no table {name!r}; the notebook has a variable of that name.",
            remedies=[(amended("score", "MODEL", input=f"${name}"), "means the variable")],
        )
    try:
        known = [table.name for table in spark.catalog.listTables()]
    except Exception:  # a catalog that may not be listed
        known = []
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return BadData(
        f"there is no table {name!r}.{hint}",
        remedies=[
            (amended("score", "MODEL", input=near[0] if near else "schema.table"), "a table"),
            (
                amended("score", "MODEL", input="./rows.parquet"),
                "files: a path has a / or ends in .parquet, .csv, .json or .delta",
            ),
        ],
    )


def _files(spark: SparkSession, path: str, wanted: Kinds) -> tuple[SparkFrame, str]:
    if is_here(spark) and not _SCHEME.match(path):
        _check_there(path)
    default = str(spark.conf.get("spark.sql.sources.default"))
    kind = format_of(path, default)
    reader = spark.read.format(kind)
    if kind == "csv":
        reader = reader.option("header", True).option("inferSchema", True)
    if kind == "json" and _is_one_list(path):
        reader = reader.option("multiLine", True)
    try:
        found = reader.load(located(spark, path))
        found.schema  # noqa: B018 - Spark Connect reads it here
        if kind == "csv":
            found = _as_written(spark, located(spark, path), found, wanted)
    except Exception as error:
        if "DATA_SOURCE_NOT_FOUND" in str(error) or "Failed to find data source" in str(error):
            raise BadData(
                f"this Spark cannot read {kind}: the library for it is not there.",
                remedies=[("%pip install delta-spark", "then start Spark with it")]
                if kind == "delta"
                else [_HELP],
            ) from None
        raise BadData(f"{path} cannot be read as {kind}: {first_line(error)}.", remedies=[_HELP]) from None
    return found, path


def _as_written(spark: SparkSession, place: str, found: SparkFrame, wanted: Kinds) -> SparkFrame:
    """Return rows of CSV with what Spark took for numbers as text, where a number would not keep it.

    What Spark took for text because there is no value gets the type that is wanted.
    """
    import pyarrow as pa
    from pyspark.sql.functions import coalesce, col, lit
    from pyspark.sql.functions import max as most
    from pyspark.sql.types import StringType, StructField, StructType

    fields = found.schema.fields
    reader = spark.read.format("csv").option("header", True)
    numbers = {"byte", "short", "integer", "long", "float", "double", "decimal"}
    types: dict[int, SparkType] = {}
    checks: dict[int, Column] = {}
    for n, each in enumerate(fields):
        kind, name = wanted.get(each.name), each.dataType.typeName()
        if kind is not None and pa.types.is_string(kind):
            types[n] = StringType()
        elif name in numbers:
            # Leading zeros; of doubles, whole numbers with more digits than they hold.
            checks[n] = col(f"c{n}").rlike(_LOST[name == "double"])
        elif name == "string" and kind is not None and not pa.types.is_nested(kind):
            checks[n] = col(f"c{n}").isNotNull()
    if checks:
        written = reader.schema(StructType([StructField(f"c{n}", StringType()) for n in range(len(fields))]))
        asked = [coalesce(most(check), lit(False)).alias(f"c{n}") for n, check in checks.items()]
        seen = written.load(place).agg(*asked).collect()[0]
        for n in checks:
            blank = fields[n].dataType.typeName() == "string" and not seen[f"c{n}"]
            if blank or seen[f"c{n}"]:
                types[n] = to_spark(wanted[fields[n].name]) if blank else StringType()
    if not types:
        return found
    kept = [StructField(f.name, types.get(n, f.dataType)) for n, f in enumerate(fields)]
    return reader.schema(StructType(kept)).load(place)


_LOST = {False: r"^\s*[+-]?0[0-9]", True: r"^\s*[+-]?(0[0-9]|[0-9]{16,}\s*$)"}


def _check_there(path: str) -> None:
    place = Path(path).expanduser()
    if place.exists() or (any(mark in path for mark in "*?[{") and glob.glob(str(place))):
        return
    beside = [each.name for each in place.parent.iterdir()] if place.parent.is_dir() else []
    near = get_close_matches(place.name, beside, n=1, cutoff=0.6)
    hint = f" Did you mean {place.parent / near[0]}?" if near else ""
    raise BadData(f"there is nothing at {path}.{hint}", remedies=[_HELP])


def _is_one_list(path: str) -> bool:
    """Tell whether a file of this machine is one JSON list rather than a value a line."""
    place = Path(path).expanduser()
    if _SCHEME.match(path) or not place.is_file() or place.suffix.lower() != ".json":
        return False
    with place.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"["


def filtered(frame: SparkFrame, where: str | None) -> SparkFrame:
    """Return the rows for which a SQL condition holds. Raises BadCommand."""
    if where is None:
        return frame
    try:
        found = frame.where(where)
        found.schema  # noqa: B018 - Spark Connect looks at the condition here
    except Exception as error:
        raise BadCommand(
            f"--where {where!r}: {first_line(error)}.",
            remedies=[
                (
                    amended("score", "MODEL", where="country = 'PT' AND year >= 2020"),
                    "a condition in SQL, in quotes",
                )
            ],
        ) from None
    return found


def as_pandas(data: object, names: list[str]) -> pd.DataFrame | None:
    """Return data of the notebook as a pandas DataFrame, or None when it is none. Raises BadData."""
    import numpy as np
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, pd.Series) and (len(names) == 1 or data.name is not None):
        return data.to_frame(data.name if data.name is not None else names[0])
    if isinstance(data, np.ndarray) and data.ndim == 2:
        known = names if len(names) == data.shape[1] else [str(number) for number in range(data.shape[1])]
        return pd.DataFrame(data, columns=known)
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return pd.DataFrame(data)
    if isinstance(data, dict):
        try:
            return pd.DataFrame(data)
        except ValueError as error:
            raise BadData(f"the dict is no table: {error}.", remedies=[_HELP]) from None
    return None
