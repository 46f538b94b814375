"""What ``%dbml score`` returns: predictions beside their data, a running stream, or the function itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dbml_magics.common.hints import Remedy, front_end, say
from dbml_magics.results.base import Result
from dbml_magics.results.html import Html, code, panel, rows_table
from dbml_magics.results.text import count, duration, nearby

__all__ = ["KEPT", "ScoreResult", "StreamResult", "UdfResult"]

_SHOWN = 5
KEPT = "scored"
"""The variable that a line to come may keep its data in."""


@dataclass(frozen=True, repr=False, eq=False)
class ScoreResult(Result):
    """Rows with a model's predictions: a frame, or where they were written."""

    model: str
    column: str  # the predictions' own
    result_type: str  # in Spark's words
    engine: str  # who scored: "this process, without Spark", "Spark 4.0 (local[*])"
    data: Any = None
    """The pandas or Spark DataFrame with the predictions; of what was written, what reads it again."""
    rows: int | None = None  # None while Spark has not scored yet
    unscored: int = 0  # rows without a prediction
    seconds: float = 0.0
    output: str | None = None  # "table ml.scored", "scored.parquet"
    variable: str | None = None  # of the notebook, that holds the data now
    keeping: str | None = None  # the same line, for a variable that shall hold it
    notes: tuple[str, ...] = ()

    @property
    def lazy(self) -> bool:
        """Tell whether Spark will score when the data is used."""
        return self.rows is None and self.output is None

    @property
    def predictions(self) -> Any:
        """Return the predictions alone: a Series, or a Spark DataFrame of one column."""
        return self.data[self.column] if _is_pandas(self.data) else self.data.select(self.column)

    def to_pandas(self) -> Any:
        """Return everything as a pandas DataFrame; Spark scores now if it has not."""
        return self.data if _is_pandas(self.data) else self.data.toPandas()

    def __len__(self) -> int:
        return len(self.data) if self.rows is None and _is_pandas(self.data) else int(self.rows or 0)

    def __bool__(self) -> bool:
        return True  # a lazy result has no length yet

    def __iter__(self) -> Iterator[Any]:
        return iter(self.predictions)

    def _headline(self) -> str:
        by = f"by {self.engine}"
        if self.lazy:
            return f"{self.model} scores lazily, when the result is used, {by}"
        if self.rows is None:
            return f"Scored by {self.model} in {duration(self.seconds)}, {by}"
        return f"Scored {count(self.rows, 'row')} by {self.model} in {duration(self.seconds)}, {by}"

    def facts(self) -> list[tuple[str, str]]:
        """Return what there is to know as labelled rows."""
        facts = [("column", f"{self.column} ({self.result_type})")]
        if self.output:
            facts.append(("written to", self.output))
        if self.variable:
            facts.append(("variable", self.variable))
        if self.unscored:
            facts.append(
                ("without one", f"{count(self.unscored, 'row')}: the model refused them, or gave nothing")
            )
        return [*facts, *(("note", note) for note in self.notes)]

    def next_line(self) -> str:
        """Return what makes sense now."""
        if not self.lazy:
            return ""
        if self.variable is None and self.keeping is not None and front_end() == "magic":
            return f"{say(self.keeping)}, then {KEPT}.show()"
        return f"{self.variable or 'result.data'}.show()"

    def text(self) -> str:
        """Return the headline, the facts and the first rows."""
        lines = [self._headline(), *_aligned(self.facts())]
        if _is_pandas(self.data):
            lines += [f"  {line[:200]}" for line in repr(self.data.head(_SHOWN)).splitlines()]
        if self.next_line():
            lines.append(f"  see  {self.next_line()}")
        return "\n".join(lines)

    def html(self) -> str:
        """Return the same as tables."""
        table = Html(self.data.head(_SHOWN)._repr_html_()) if _is_pandas(self.data) else ""
        see = Html(f"see {code(self.next_line())}") if self.next_line() else ""
        return panel(rows_table(self._headline(), self.facts()), table, see)


@dataclass(frozen=True, repr=False, eq=False)
class StreamResult(Result):
    """A stream that a model scores as it comes."""

    model: str
    column: str
    result_type: str
    engine: str
    query: Any
    """Spark's own StreamingQuery."""
    output: str
    checkpoint: str
    trigger: str = "as rows come"  # or "what there is now, then it ends"
    notes: tuple[str, ...] = ()
    why: Callable[[BaseException], str] = str
    """Returns what Spark's exception means."""

    def stop(self) -> None:
        """End the stream; the checkpoint remembers how far it came."""
        self.query.stop()

    @property
    def active(self) -> bool:
        """Tell whether it runs."""
        return bool(self.query.isActive)

    def _headline(self) -> str:
        state = "Scoring" if self.active else "Scored"
        return f"{state} a stream by {self.model}, by {self.engine}"

    def facts(self) -> list[tuple[str, str]]:
        """Return what there is to know as labelled rows."""
        failed = self.query.exception()
        return [
            ("column", f"{self.column} ({self.result_type})"),
            ("written to", self.output),
            ("checkpoint", f"{nearby(self.checkpoint)} (the same line goes on from there)"),
            ("trigger", self.trigger),
            *([("failed", self.why(failed)[:600])] if failed is not None else []),
            *(("note", note) for note in self.notes),
        ]

    def text(self) -> str:
        """Return the headline and the facts."""
        see = "  see  .query.lastProgress · .stop()"
        return "\n".join([self._headline(), *_aligned(self.facts()), see])

    def html(self) -> str:
        """Return the same as a table."""
        see = Html(f"see {code('.query.lastProgress')} · {code('.stop()')}")
        return panel(rows_table(self._headline(), self.facts()), see)


@dataclass(frozen=True, repr=False, eq=False)
class UdfResult(Result):
    """A model as a function over columns: ``frame.withColumn("prediction", udf("a", "b"))``."""

    model: str
    names: tuple[str, ...]  # the model's columns, in its order; those of ``udf()`` without arguments
    result_type: str
    engine: str
    udf: Any
    """Spark's own user-defined function, which ``spark.udf.register`` takes too."""
    notes: tuple[str, ...] = ()

    def __call__(self, *columns: object) -> Any:
        """Return the predictions' column over these columns, or over those of the signature."""
        # A name that the model has is a column's own, not a way into a struct.
        own = ["`" + name.replace("`", "``") + "`" for name in self.names]
        return self.udf(*(columns or own))

    def __getattr__(self, name: str) -> Any:
        # What spark.udf.register and SQL functions look for.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(object.__getattribute__(self, "udf"), name)

    def _facts(self) -> list[tuple[str, str]]:
        takes = ", ".join(self.names) or "the columns that it is called with"
        return [("takes", takes), ("gives", self.result_type), *(("note", note) for note in self.notes)]

    def _use(self) -> str:
        return 'frame.withColumn("prediction", udf())' if self.names else 'frame.select(udf("a", "b"))'

    def text(self) -> str:
        """Return what it takes and gives, and how it is used."""
        head = f"{self.model} as a function of {self.engine}"
        kept = say(Remedy("score", self.model)) if " " not in self.model else Remedy("score", "…")
        use = f"  use  udf = {kept}, then {self._use()}"
        return "\n".join([head, *_aligned(self._facts()), use])

    def html(self) -> str:
        """Return the same as a table."""
        head = f"{self.model} as a function of {self.engine}"
        return panel(rows_table(head, self._facts()), Html(f"use {code(self._use())}"))


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(label) for label, _ in rows)
    return [f"  {label.ljust(width)}  {value}" for label, value in rows]


def _is_pandas(data: object) -> bool:
    return type(data).__module__.startswith("pandas")
