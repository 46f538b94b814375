"""Where predictions go: a table or files, written by Spark; files also without it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbml_magics.core.scoring.inputs import format_of, is_path, located
from dbml_magics.core.scoring.spark import first_line, is_here
from dbml_magics.errors import BadCommand, ScoringFailed

__all__ = ["Target", "checkpoint_of", "make_target", "start_stream", "write", "write_here"]

_HELP = ("%dbml help score", "what it takes")
_TABLE = re.compile(r"(`[^`]+`|[^\W\d][\w-]*)(\.(`[^`]+`|[^\W\d][\w-]*)){1,2}")
_TAKEN = ("PATH_ALREADY_EXISTS", "LOCATION_ALREADY_EXISTS")
# Serverless compute takes no stream that goes on for ever.
_ENDLESS_REFUSED = (
    "INFINITE_STREAMING_TRIGGER_NOT_SUPPORTED",
    "Trigger type ProcessingTime is not supported",
)


@dataclass(frozen=True)
class Target:
    """A table or a path, and what happens to what is there already."""

    place: str
    table: bool
    mode: str | None  # append, overwrite; None: nothing may be there
    spelled: str = ""  # the line's own words, for messages

    @property
    def words(self) -> str:
        """Return what it is, for people."""
        return f"table {self.place}" if self.table else self.place


def make_target(output: str, mode: str | None) -> Target:
    """Return what ``--output`` means: a path, or a table with its schema. Raises BadCommand."""
    if mode not in (None, "append", "overwrite"):
        raise BadCommand(f"--mode is append or overwrite, not {mode!r}.", remedies=[_HELP])
    if is_path(output):
        return Target(output, False, mode)
    if _TABLE.fullmatch(output):
        return Target(output, True, mode)
    raise BadCommand(
        f"--output {output!r}: a table is named with its schema, and a path has a / or ends in .parquet, "
        ".csv, .json or .delta.",
        remedies=[(f"--output default.{output}", "a table"), (f"--output ./{output}.parquet", "files")],
    )


_failed: set[str] = set()
"""The places whose last job of this process failed; what its cancelled tasks leave there is no rows."""


def write(spark: Any, frame: Any, target: Target) -> Any:
    """Write a Spark DataFrame; returns what reads it again. Raises BadCommand and Spark's own."""
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
        reader = reader.option("header", True).option("inferSchema", True)
    return reader.load(place)


@contextlib.contextmanager
def _left_as_found(spark: Any, target: Target, place: str | None) -> Iterator[None]:
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


def _place_of(spark: Any, table: str) -> str | None:
    """Return the folder that a new managed table would have; None where its catalog does not say."""
    *schema, name = (part.strip("`") for part in re.findall(r"`[^`]+`|[^.`]+", table))
    try:
        return f"{spark.catalog.getDatabase('.'.join(schema)).locationUri.rstrip('/')}/{name.lower()}"
    except Exception:  # there is no such schema, or it may not be asked: writing will say it
        return None


def _take_away(spark: Any, place: str) -> None:
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


def _exists(spark: Any, table: str) -> bool:
    try:
        return bool(spark.catalog.tableExists(table))
    except Exception:  # a catalog that may not be asked: writing will say it
        return False


def _there_already(target: Target) -> BadCommand:
    return BadCommand(
        f"{target.words} is there already, and nothing is overwritten unasked.",
        remedies=[
            ("--mode append", "adds the rows to it"),
            ("--mode overwrite", "replaces what is there"),
        ],
    )


def _refuse_nested(frame: Any) -> None:
    nested = [
        f.name for f in frame.schema.fields if f.dataType.typeName() in ("array", "struct", "map", "udt")
    ]
    if nested:
        raise BadCommand(
            f"a CSV file takes no arrays and structs, and {', '.join(nested[:5])} is one.",
            remedies=[("--output ./scored.parquet", "keeps them")],
        )


def write_here(frame: Any, target: Target) -> None:
    """Write a pandas DataFrame to one file. Raises BadCommand."""
    path = Path(target.place).expanduser()
    kind = format_of(target.place, "parquet")
    if path.is_dir():
        raise BadCommand(
            f"{path} is a folder, and a pandas DataFrame is written to one file.",
            remedies=[(f"--output {path / 'scored.parquet'}", "a file in it")],
        )
    if path.exists() and target.mode is None:
        raise _there_already(target)
    if path.exists() and target.mode == "append":
        import pandas as pd

        readers: dict[str, Any] = {"parquet": pd.read_parquet, "csv": pd.read_csv}
        before = readers[kind](path) if kind in readers else pd.read_json(path, lines=True)
        frame = pd.concat([before, frame], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if kind == "parquet":
            frame.to_parquet(fresh)
        elif kind == "csv":
            frame.to_csv(fresh, index=False)
        else:
            frame.to_json(fresh, orient="records", lines=True, double_precision=15)
        fresh.replace(path)
    except OSError as error:
        raise BadCommand(f"{path} cannot be written: {error.strerror}.", remedies=[_HELP]) from None
    finally:
        fresh.unlink(missing_ok=True)


# --- streams


def checkpoint_of(spark: Any, target: Target, given: str | None) -> str:
    """Return where a stream remembers how far it came: beside its output. Raises BadCommand."""
    if given is not None:
        return located(spark, given)
    if not target.table:
        return f"{located(spark, target.place).rstrip('/')}_checkpoint"
    if not is_here(spark):
        raise BadCommand(
            f"--checkpoint says where the stream into table {target.place} remembers how far it came: "
            "a place that the cluster keeps.",
            remedies=[(f"--checkpoint /Volumes/CATALOG/SCHEMA/VOLUME/{target.place}", "for example")],
        )
    warehouse = str(spark.conf.get("spark.sql.warehouse.dir")).rstrip("/")
    return f"{warehouse}/_checkpoints/{target.place}"


def start_stream(
    spark: Any, frame: Any, target: Target, checkpoint: str, *, available_now: bool
) -> tuple[Any, bool]:
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
                (f"--checkpoint {checkpoint}-2", "begins anew, if the model or the columns changed"),
                _HELP,
            ],
        ) from error


def _start(spark: Any, frame: Any, target: Target, checkpoint: str, *, now: bool) -> Any:
    writer = frame.writeStream.outputMode("append").option("checkpointLocation", checkpoint)
    if now:
        writer = writer.trigger(availableNow=True)
    if target.table:
        return writer.toTable(target.place)
    kind = format_of(target.place, str(spark.conf.get("spark.sql.sources.default")))
    writer = writer.option("header", True) if kind == "csv" else writer
    return writer.format(kind).option("path", located(spark, target.place)).start()
