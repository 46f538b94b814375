"""Where predictions go: a table or files, written by Spark; files also without it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Remedy, amended
from dbml_magics.core.scoring.inputs import format_of, is_path, located
from dbml_magics.core.scoring.spark import first_line, is_here
from dbml_magics.errors import BadCommand, ScoringFailed

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame as SparkFrame
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming import StreamingQuery

__all__ = ["Target", "checkpoint_of", "make_target", "start_stream", "write", "write_here"]

_HELP = (Remedy("help", "score"), "what it takes")
_PART = r"(?:`(?:[^`]|``)+`|[^\W\d][\w-]*)"
_TABLE = re.compile(rf"{_PART}(\.{_PART}){{1,2}}")
_TAKEN = ("PATH_ALREADY_EXISTS", "LOCATION_ALREADY_EXISTS")
# Serverless compute takes no stream that goes on for ever.
_ENDLESS_REFUSED = (
    "INFINITE_STREAMING_TRIGGER_NOT_SUPPORTED",
    "Trigger type ProcessingTime is not supported",
)


@dataclass(frozen=True)
class Target:
    """A table or a path, and the mode for existing rows."""

    place: str
    table: bool
    mode: str | None  # append, overwrite; None: nothing may be there
    spelled: str = ""  # the line's own words, for messages

    @property
    def words(self) -> str:
        """Return what it is, for people."""
        return f"table {self.place}" if self.table else self.place


def make_target(output: str, mode: str | None) -> Target:
    """Parse ``--output``: a path, or a table with its schema. Raises BadCommand."""
    if mode not in (None, "append", "overwrite"):
        raise BadCommand(f"--mode is append or overwrite, not {mode!r}.", remedies=[_HELP])
    if is_path(output):
        return Target(output, False, mode)
    if _TABLE.fullmatch(output):
        return Target(output, True, mode)
    raise BadCommand(
        f"--output {output!r}: a table is named with its schema, and a path has a / or ends in .parquet, "
        ".csv, .json or .delta.",
        remedies=[
            (amended("score", "MODEL", output=f"default.{output}"), "a table"),
            (amended("score", "MODEL", output=f"./{output}.parquet"), "files"),
        ],
    )


_failed: set[str] = set()
"""The places whose last job of this process failed; what its cancelled tasks leave there is no rows."""


def write(spark: SparkSession, frame: SparkFrame, target: Target) -> SparkFrame:
    """Write a Spark DataFrame; returns a DataFrame that reads it. Raises BadCommand and Spark's own."""
    _refuse_alike(spark, frame)
    if target.table:
        there = _exists(spark, target.place)
        if target.mode is None and there:
            raise _there_already(target)
        place = None if there else _place_of(spark, target.place)
        with _left_as_found(spark, target, place):
            frame.write.mode(target.mode or "errorifexists").saveAsTable(target.place)
        return spark.table(target.place)
    kind = format_of(target.place, str(spark.conf.get("spark.sql.sources.default")))
    if kind == "csv":
        _refuse_nested(frame)
    if kind == "orc" and (cut := [name for name in frame.columns if "`" in name]):
        raise BadCommand(
            f"ORC cuts names at a backtick, and there is one in {', '.join(cut[:5])}.",
            remedies=[(amended("score", "MODEL", output="./scored.parquet"), "keeps them")],
        )
    place = located(spark, target.place)
    writer = frame.write.mode(target.mode or "errorifexists").format(kind)
    try:
        with _left_as_found(spark, target, place if target.mode is None else None):
            (writer.option("header", True) if kind == "csv" else writer).save(place)
    except Exception as error:
        if _says_taken(error):
            raise _there_already(target) from None
        if "DATA_SOURCE_NOT_FOUND" in str(error):
            raise BadCommand(
                f"this Spark cannot write {kind}: its library is not there.", remedies=[_HELP]
            ) from None
        raise
    reader = spark.read.format(kind)
    if kind == "csv":
        reader = reader.option("header", True)
        own = target.mode != "append"
        reader = reader.schema(frame.schema) if own else reader.option("inferSchema", True)
    return reader.load(place)


@contextlib.contextmanager
def _left_as_found(spark: SparkSession, target: Target, place: str | None) -> Iterator[None]:
    """Leave nothing of a job that fails at a ``place`` where nothing was: the line works again then.

    Its cancelled tasks may write there once more after that, which is looked at before the next job.
    """
    if target.place in _failed and place is not None:
        _take_away(spark, place)
    try:
        yield
    except Exception as error:
        if place is not None and not _says_taken(error):
            _failed.add(target.place)
            _take_away(spark, place)
        raise
    _failed.discard(target.place)


def _says_taken(error: Exception) -> bool:
    return any(word in str(error) for word in _TAKEN) or "already exists" in first_line(error)


def _place_of(spark: SparkSession, table: str) -> str | None:
    """Return the folder that a new managed table would have; None where its catalog does not say."""
    *schema, last = re.findall(_PART, table)
    name = last[1:-1].replace("``", "`") if last[0] == "`" else last
    try:
        return f"{spark.catalog.getDatabase('.'.join(schema)).locationUri.rstrip('/')}/{name.lower()}"
    except Exception:  # there is no such schema, or it may not be asked: writing will say it
        return None


def _take_away(spark: SparkSession, place: str) -> None:
    """Remove the folder that a failed job leaves, if it has no rows in it."""
    with contextlib.suppress(Exception):  # by Spark Connect, or where the driver's files may not be touched
        path = spark._jvm.org.apache.hadoop.fs.Path(place)
        files = path.getFileSystem(spark._jsc.hadoopConfiguration())
        if _no_rows(each.getPath().getName() for each in files.listStatus(path)):
            files.delete(path, True)
        return
    folder = Path(place.removeprefix("file:"))
    with contextlib.suppress(OSError):
        if _no_rows(os.listdir(folder)):
            shutil.rmtree(folder)


def _no_rows(names: Iterable[str]) -> bool:
    return all(name.startswith(("_", ".")) and name not in ("_SUCCESS", "_delta_log") for name in names)


def _exists(spark: SparkSession, table: str) -> bool:
    try:
        return bool(spark.catalog.tableExists(table))
    except Exception:  # a catalog that may not be asked: writing will say it
        return False


def _there_already(target: Target) -> BadCommand:
    return BadCommand(
        f"{target.words} is there already, and nothing is overwritten unasked.",
        remedies=[
            (amended("score", "MODEL", mode="append"), "adds the rows to it"),
            (amended("score", "MODEL", mode="overwrite"), "replaces what is there"),
        ],
    )


def _refuse_alike(spark: SparkSession, frame: SparkFrame) -> None:
    """Raise BadCommand for columns whose names the output would not distinguish."""
    exact = str(spark.conf.get("spark.sql.caseSensitive", "false")).lower() == "true"
    seen: dict[str, str] = {}
    for name in frame.columns:
        key = name if exact else name.lower()
        other = seen.get(key)
        seen[key] = name
        if other is None:
            continue
        said, remedy = f"there is more than one column {name}", ("frame.drop('…')", "before it is scored")
        if other != name:
            said = f"the columns {other} and {name} differ by case alone"
            remedy = ("spark.conf.set('spark.sql.caseSensitive', True)", "tells A from a")
        raise BadCommand(f"{said}, and what Spark writes has to tell them apart.", remedies=[remedy])


def _refuse_nested(frame: SparkFrame) -> None:
    nested = [
        f.name for f in frame.schema.fields if f.dataType.typeName() in ("array", "struct", "map", "udt")
    ]
    if nested:
        raise BadCommand(
            f"a CSV file takes no arrays and structs, and {', '.join(nested[:5])} is one.",
            remedies=[(amended("score", "MODEL", output="./scored.parquet"), "keeps them")],
        )


def write_here(frame: pd.DataFrame, target: Target) -> None:
    """Write a pandas DataFrame to one file. Raises BadCommand."""
    path = Path(target.place).expanduser()
    kind = format_of(target.place, "parquet")
    if path.is_dir():
        raise BadCommand(
            f"{path} is a folder, and a pandas DataFrame is written to one file.",
            remedies=[(amended("score", "MODEL", output=f"{path / 'scored.parquet'}"), "a file in it")],
        )
    if path.exists() and target.mode is None:
        raise _there_already(target)
    if kind != "parquet":
        _refuse_bytes(frame, kind)
    before = path if path.exists() and target.mode == "append" else None
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if kind == "parquet":
            _write_parquet(frame, fresh, before)
        elif kind == "csv":
            _write_csv(frame, fresh, before)
        else:
            lines = frame.to_json(orient="records", lines=True, double_precision=15)
            known = "" if before is None else before.read_text()
            fresh.write_text(known + ("\n" if known and not known.endswith("\n") else "") + lines)
        fresh.replace(path)
    except OSError as error:
        raise BadCommand(f"{path} cannot be written: {error.strerror}.", remedies=[_HELP]) from None
    finally:
        fresh.unlink(missing_ok=True)


def _refuse_bytes(frame: pd.DataFrame, kind: str) -> None:
    for number, name in enumerate(frame.columns):
        column = frame.iloc[:, number]
        if column.dtype == object and any(isinstance(each, (bytes, bytearray)) for each in column):
            raise BadCommand(
                f"a {kind.upper()} file takes no bytes, and column {name} has some.",
                remedies=[(amended("score", "MODEL", output="./scored.parquet"), "keeps them")],
            )


def _write_parquet(frame: pd.DataFrame, fresh: Path, before: Path | None) -> None:
    """Write rows behind those that are there, each with its value. Raises BadCommand for other types."""
    if before is None:
        frame.to_parquet(fresh)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = pq.read_table(before)
    known = known.select([name for name in known.column_names if not name.startswith("__index_level_")])
    added = pa.Table.from_pandas(frame, preserve_index=False)
    try:
        both = pa.concat_tables(
            [known.replace_schema_metadata(), added.replace_schema_metadata()], promote_options="default"
        )
    except pa.ArrowException as error:
        raise BadCommand(
            f"{before} has columns of other types: {' '.join(str(error).split())[:200]}.",
            remedies=[(amended("score", "MODEL", mode="overwrite"), "replaces what is there")],
        ) from None
    pq.write_table(both, fresh)


def _write_csv(frame: pd.DataFrame, fresh: Path, before: Path | None) -> None:
    """Write rows behind those that are there, whose text stays as it is."""
    if before is not None:
        import pandas as pd

        known = pd.read_csv(before, dtype=str, keep_default_na=False)
        frame = pd.concat([known, frame.astype(object)], ignore_index=True)
    frame.to_csv(fresh, index=False)


# --- streams


def checkpoint_of(spark: SparkSession, target: Target, given: str | None) -> str:
    """Return where a stream remembers how far it came: beside its output. Raises BadCommand."""
    if given is not None:
        return located(spark, given)
    if not target.table:
        return f"{located(spark, target.place).rstrip('/')}_checkpoint"
    if not is_here(spark):
        raise BadCommand(
            f"--checkpoint says where the stream into table {target.place} remembers how far it came: "
            "a place that the cluster keeps.",
            remedies=[
                (
                    amended("score", "MODEL", checkpoint=f"/Volumes/CATALOG/SCHEMA/VOLUME/{target.place}"),
                    "for example",
                )
            ],
        )
    warehouse = str(spark.conf.get("spark.sql.warehouse.dir")).rstrip("/")
    return f"{warehouse}/_checkpoints/{target.place}"


def start_stream(
    spark: SparkSession, frame: SparkFrame, target: Target, checkpoint: str, *, available_now: bool
) -> tuple[StreamingQuery, bool]:
    """Start writing a stream; returns the query, and whether it ends with what there is now.

    Where the compute allows no endless stream it is started with ``AvailableNow``. Raises BadCommand,
    ScoringFailed.
    """
    if target.mode == "overwrite":
        raise BadCommand("a stream adds to its output: --mode overwrite is for what ends.", remedies=[_HELP])
    try:
        return _start(spark, frame, target, checkpoint, now=available_now), available_now
    except Exception as error:
        if not available_now and any(words in str(error) for words in _ENDLESS_REFUSED):
            return _start(spark, frame, target, checkpoint, now=True), True
        raise ScoringFailed(
            f"the stream does not start: {first_line(error)}.",
            remedies=[
                (
                    amended("score", "MODEL", checkpoint=f"{checkpoint}-2"),
                    "begins anew, if the model or the columns changed",
                ),
                _HELP,
            ],
        ) from error


def _start(
    spark: SparkSession, frame: SparkFrame, target: Target, checkpoint: str, *, now: bool
) -> StreamingQuery:
    writer = frame.writeStream.outputMode("append").option("checkpointLocation", checkpoint)
    if now:
        writer = writer.trigger(availableNow=True)
    if target.table:
        return writer.toTable(target.place)
    kind = format_of(target.place, str(spark.conf.get("spark.sql.sources.default")))
    writer = writer.option("header", True) if kind == "csv" else writer
    return writer.format(kind).option("path", located(spark, target.place)).start()
