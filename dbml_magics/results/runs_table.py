"""Runs as a table that is sorted and filtered, and a param set against a metric; in text and in HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dbml_magics.results.base import Result
from dbml_magics.results.boards import board
from dbml_magics.results.charts import Chart, Line, text_points
from dbml_magics.results.html import safe, started
from dbml_magics.results.pictures import small_curve
from dbml_magics.results.runs import RunRow
from dbml_magics.results.text import DIFFERS, LACKING, count, duration, number, short, text_table, when

__all__ = ["RunsTable", "Scatter", "differing_params"]

_FACTS = ("name", "status", "started", "took")
_LEFT, _RIGHT = 'style="text-align:left"', 'style="text-align:right;font-variant-numeric:tabular-nums"'
_SIGNS = {"FINISHED": "✓", "FAILED": "✗", "KILLED": "■", "RUNNING": "▶", "SCHEDULED": "…"}
_TERM = re.compile(r"(?P<key>[^<>=!~\s]+)\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>\S+)")
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def differing_params(rows: Sequence[RunRow]) -> list[str]:
    """Return the params that the runs have different values of, or that not all of them have."""
    keys = dict.fromkeys(key for row in rows for key in row.params)
    return [key for key in keys if len({row.params.get(key) for row in rows}) > 1]


@dataclass(frozen=True, repr=False)
class RunsTable(Result):
    """Runs in one order, those that match alone: a column for each metric and each param that differs."""

    rows: tuple[RunRow, ...]
    sort: str = ""  # a column; empty for the order that the runs came in
    descending: bool = False
    matching: str = ""  # words, and terms like ``loss<0.5``: all must hold
    most: int = 8  # columns of params, and of metrics

    @property
    def metrics(self) -> list[str]:
        """Return the metrics that are columns."""
        keys = dict.fromkeys(key for row in self.rows for key in row.metrics)
        return sorted(keys, key=lambda key: key.startswith("system/"))[: self.most]

    @property
    def params(self) -> list[str]:
        """Return the params that are columns: those that differ."""
        return differing_params(self.rows)[: self.most]

    @property
    def columns(self) -> list[str]:
        """Return what the runs can be sorted by."""
        return [*_FACTS, *self.metrics, *self.params]

    @property
    def shown(self) -> list[RunRow]:
        """Return the runs that match, in order."""
        found = [row for row in self.rows if self._matches(row)]
        if not self.sort:
            return found
        keyed = [(_sortable(self._value(row, self.sort)), row) for row in found]
        have = [pair for pair in keyed if pair[0] is not None]
        lack = [row for key, row in keyed if key is None]
        have.sort(key=lambda pair: pair[0], reverse=self.descending)  # type: ignore[arg-type,return-value]
        return [row for _, row in have] + lack  # what has no value stands last either way

    def _value(self, row: RunRow, column: str) -> Any:
        facts = {"name": row.name, "status": row.status, "started": row.start_time, "took": row.seconds}
        if column in _FACTS:
            return facts[column]
        return row.metrics[column] if column in row.metrics else row.params.get(column)

    def _matches(self, row: RunRow) -> bool:
        rest = self.matching
        for term in _TERM.finditer(self.matching):
            rest = rest.replace(term[0], " ")
            value = _sortable(self._value(row, term["key"]))
            wanted = _sortable(term["value"])
            if value is None or wanted is None:
                return False
            if value[0] != wanted[0]:  # a text against a number
                value, wanted = (1, str(value[1])), (1, term["value"])
            if not _COMPARED[term["sign"]](value, wanted):
                return False
        searched = " ".join([row.run_id, row.name, row.status, *row.params.values()]).lower()
        return all(word in searched for word in rest.lower().split())

    def cells(self, row: RunRow) -> list[str]:
        """Return a run's line: the beginning of its id, then its value in each of the columns."""
        took = "" if row.seconds is None else duration(row.seconds)
        cells = [row.run_id[:8], short(row.name), row.status, when(row.start_time), took or LACKING]
        cells += [number(row.metrics[key]) if key in row.metrics else LACKING for key in self.metrics]
        return cells + [short(row.params.get(key, LACKING)) for key in self.params]

    def head(self, column: str) -> str:
        """Return what stands above a column."""
        return f"{DIFFERS} {column}" if column in self.params else column

    def _order(self, column: str) -> tuple[str, str]:
        """Return the attribute and the sign with which a head says that its column is the sorted one."""
        if column != self.sort:
            return "", ""
        direction, sign = ("descending", " ▼") if self.descending else ("ascending", " ▲")
        return f' aria-sort="{direction}"', sign

    def _heads(self) -> list[str]:
        return ["run", *map(self.head, self.columns)]

    def caption(self) -> str:
        """Return how many runs match, in which order."""
        said = f"{len(self.shown):,} of {count(len(self.rows), 'run')}"
        if self.sort:
            said += f", by {self.sort}, {'highest' if self.descending else 'lowest'} first"
        marked = f"; {DIFFERS} marks a param that differs" if self.params else ""
        return said + marked

    def text(self) -> str:
        """Return aligned columns."""
        return "\n".join([self.caption(), *text_table(self._heads(), map(self.cells, self.shown))])

    def html(self) -> str:
        """Return a table whose head says which column it is sorted by."""
        return self.markup(lambda _, shown: safe(shown))

    def markup(self, head: Callable[[str, str], str], ahead: Callable[[RunRow], str] | None = None) -> str:
        """Return the table with what is drawn in a head (of a column and its words) and ahead of a run."""
        heads = ["<td></td>"] if ahead is not None else []
        heads.append(f'<th scope="col" {_LEFT}>run</th>')
        for column in self.columns:
            aria, sign = self._order(column)
            shown = head(column, self.head(column) + sign)
            heads.append(f'<th scope="col"{aria} {self._aligned(column)}>{shown}</th>')
        rows = []
        for row in self.shown:
            first, *others = self.cells(row)
            box = f"<td>{ahead(row)}</td>" if ahead is not None else ""
            cells = "".join(self._cell(row, *each) for each in zip(self.columns, others, strict=True))
            rows.append(f'<tr>{box}<th scope="row" {_LEFT}>{safe(first)}</th>{cells}</tr>')
        return (
            f"<table><caption {_LEFT}>{safe(self.caption())}</caption>"
            f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )

    def _aligned(self, column: str) -> str:
        return _RIGHT if column in self.metrics else _LEFT

    def _cell(self, row: RunRow, column: str, shown: str) -> str:
        if column == "status":
            word = f"{_SIGNS.get(row.status, '')} {row.status.lower()}"
            return f'<td class="dbml-{safe(row.status.lower())}" {_LEFT}>{safe(word)}</td>'
        if column == "started":
            return f"<td {_LEFT}>{started(row.start_time)}</td>"
        drawn = small_curve(row.curves.get(column, ()), column)  # ahead of the value, so that those align
        return f"<td {self._aligned(column)}>{drawn}{' ' if drawn else ''}{safe(shown)}</td>"


def _sortable(value: Any) -> tuple[int, Any] | None:
    """Return a key that puts numbers before texts, or None where there is nothing to sort by."""
    if value is None or value == "":
        return None
    try:
        as_number = float(value)
    except (TypeError, ValueError):
        return 1, str(value)
    return None if math.isnan(as_number) else (0, as_number)


@dataclass(frozen=True, repr=False)
class Scatter(Result):
    """A param against a metric, a point for each run that has both."""

    param: str
    metric: str
    points: tuple[tuple[str, str, float], ...]  # run's name, the param's value, the metric's value

    @classmethod
    def of(cls, rows: Sequence[RunRow], param: str, metric: str) -> Scatter:
        """Return the runs' scatter."""
        found = [
            (row.name or row.run_id[:8], row.params[param], row.metrics[metric])
            for row in rows
            if param in row.params and metric in row.metrics and math.isfinite(row.metrics[metric])
        ]
        return cls(param, metric, tuple(found))

    @property
    def _places(self) -> tuple[list[float], list[str]]:
        """Return each point's place along the axis, and the axis' words where the values are no numbers."""
        written = [value for _, value, _ in self.points]
        keys = [_sortable(value) for value in written]
        if all(key is not None and key[0] == 0 for key in keys):
            return [key[1] for key in keys if key is not None], []
        words = sorted(set(written))
        return [float(words.index(value)) for value in written], words

    def _headline(self) -> str:
        if not self.points:
            return f"No run has both the param {self.param} and the metric {self.metric}"
        return f"{self.metric} against {self.param}, {count(len(self.points), 'run')}"

    def text(self) -> str:
        """Return the points as a picture of characters, and a line for each."""
        if not self.points:
            return self._headline()
        across, words = self._places
        values = [value for _, _, value in self.points]
        return "\n".join([self._headline(), *text_points(across, values, words)])

    def html(self) -> str:
        """Return the points as a picture that says its values."""
        if not self.points:
            return f"<div>{safe(self._headline())}</div>"
        across, words = self._places
        values = [value for _, _, value in self.points]
        names = [f"{name}: {self.param} {value}" for name, value, _ in self.points]
        chart = Chart(self.metric, self.param, [Line(self.metric, across, values)], names, words)
        return board([(chart, safe(self._headline()))])
