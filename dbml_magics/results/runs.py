"""Runs: one, a list of them, and what a tracked one recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dbml_magics.common.hints import Remedy, process, say, to_train
from dbml_magics.results.base import Result
from dbml_magics.results.best import BEST, best_of
from dbml_magics.results.charts import sparkline
from dbml_magics.results.html import (
    Html,
    badge,
    code,
    html_table,
    link,
    page_links,
    panel,
    rows_table,
    run_title,
    safe,
    started,
    together,
)
from dbml_magics.results.link import Destination
from dbml_magics.results.pictures import small_curve
from dbml_magics.results.registry import ModelVersion
from dbml_magics.results.text import (
    count,
    duration,
    labelled,
    listing,
    now,
    number,
    opened,
    short,
    text_table,
    when,
)

__all__ = ["MetricSummary", "RunRow", "RunsResult", "TrackSummary"]


@dataclass(frozen=True)
class MetricSummary:
    """A metric's last value and a thinned curve of it."""

    key: str
    last: float
    count: int
    curve: tuple[float, ...] = ()


class _Metric(NamedTuple):
    """A metric as it is told in a list: its words, and its curve where that is known."""

    key: str
    said: str
    curve: Sequence[float]

    def text(self) -> str:
        return f"{self.said} {sparkline(self.curve)}".rstrip()

    def html(self) -> Html:
        drawn = small_curve(self.curve, self.key)
        return together(Html(f"{safe(self.said)} {drawn}")) if drawn else safe(self.said)


@dataclass(frozen=True, repr=False)
class RunRow(Result):
    """One run."""

    run_id: str
    name: str
    experiment: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    undelivered: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> the run's page, where there is one
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)  # of metrics that this machine logged

    @property
    def seconds(self) -> float | None:
        """Return the run's duration in seconds, or None while it runs."""
        return None if self.end_time is None else (self.end_time - self.start_time) / 1000

    def _rows(self, metrics: str) -> list[tuple[str, str]]:
        params = ", ".join(f"{key} {short(value)}" for key, value in self.params.items())
        waiting = ", ".join(f"{name} {count(n, 'write')}" for name, n in self.undelivered.items() if n)
        rows = [
            ("run", self.run_id),
            ("started", when(self.start_time)),
            ("params", params),
            ("metrics", metrics),
            ("waiting", waiting),
        ]
        return [row for row in rows if row[1]]

    def _metrics(self) -> list[_Metric]:
        return [
            _Metric(key, f"{key} {number(value)}", self.curves.get(key, ()))
            for key, value in self.metrics.items()
        ]

    def text(self) -> str:
        """Return the run with all that it logged."""
        head = _run_head(self.name, self.status, self.seconds)
        metrics = ", ".join(metric.text() for metric in self._metrics())
        return "\n".join([head, *labelled(self._rows(metrics)), *opened(self.links)])

    def html(self) -> str:
        """Return the same as a table."""
        rows: list[tuple[str, str]] = [
            *self._rows(Html(", ".join(metric.html() for metric in self._metrics()))),
            *([("open", page_links(self.links))] if self.links else []),
        ]
        return panel(rows_table(_run_markup(self.name, self.status, self.seconds), rows))


@dataclass(frozen=True, repr=False)
class RunsResult(Result):
    """Runs, newest first unless ordered otherwise."""

    rows: tuple[RunRow, ...]
    experiment: str
    note: str = ""  # e.g. how many writes are missing from the answer
    filter: str = ""  # what the runs fit
    amount: int | None = None  # of the experiment's runs, where none fits the filter
    more: bool = False  # it has more than that
    unfiltered: str = ""  # the command that lists them
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> the experiment's page
    as_of: int = field(default_factory=now, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RunRow]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> RunRow:
        return self.rows[index]

    def to_pandas(self) -> Any:
        """Return the runs as a DataFrame, params and metrics as columns ``params.*`` and ``metrics.*``."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "run_id": row.run_id,
                    "name": row.name,
                    "experiment": row.experiment,
                    "status": row.status,
                    "start_time": pd.Timestamp(row.start_time, unit="ms", tz="UTC"),
                    "seconds": row.seconds,
                    **{f"params.{k}": v for k, v in row.params.items()},
                    **{f"metrics.{k}": v for k, v in row.metrics.items()},
                }
                for row in self.rows
            ]
        )

    def _undelivered(self) -> bool:
        return any(any(row.undelivered.values()) for row in self.rows)

    def _headers(self) -> tuple[str, ...]:
        headers = ("run", "name", "status", "started", "took", "metrics", "params")
        return (*headers, "delivery") if self._undelivered() else headers

    def _metrics(self) -> list[list[_Metric]]:
        """Return each run's metrics, those with a curve first, the best value of each marked."""
        keys = dict.fromkeys(key for row in self.rows for key in row.metrics)
        drawn = {key for row in self.rows for key in row.curves}
        best = {key: best_of(key, [row.metrics.get(key) for row in self.rows]) for key in keys}
        ordered = sorted(keys, key=lambda key: key not in drawn)
        return [
            [
                _Metric(
                    key,
                    f"{short(key)} {number(row.metrics[key])}{f' {BEST}' * (best[key] == place)}",
                    row.curves.get(key, ()),
                )
                for key in ordered
                if key in row.metrics
            ]
            for place, row in enumerate(self.rows)
        ]

    def _cells(self, row: RunRow, metrics: str) -> list[str]:
        cells = [
            row.run_id[:8],
            short(row.name),
            row.status,
            when(row.start_time),
            "" if row.seconds is None else duration(row.seconds),
            metrics,
            listing([f"{short(key)} {short(value)}" for key, value in row.params.items()], 2),
        ]
        waiting = [f"{name} … {count(n, 'write')}" for name, n in row.undelivered.items() if n]
        return [*cells, ", ".join(waiting) or "✓"] if self._undelivered() else cells

    def _end(self) -> list[str]:
        end = [self.note] if self.note else []
        if not self.rows:
            return [*end, f"see  {say(self.unfiltered)}" if self.amount else to_train()]
        return [*end, f"see  {say(Remedy('register', 'last', 'NAME'))} · {say(Remedy('runs', help=True))}"]

    def _nothing(self) -> str:
        if not self.amount:
            return f"No runs in {self.experiment}"
        there = f"{self.amount:,} runs or more" if self.more else count(self.amount, "run")
        are = "is" if self.amount == 1 else "are"
        return f"No run fits {self.filter}; {there} {are} in {self.experiment}"

    def text(self) -> str:
        """Return a line for each run."""
        if not self.rows:
            return "\n".join([self._nothing(), *self._end()])
        told = [listing([metric.text() for metric in metrics], 2) for metrics in self._metrics()]
        lines = [self._cells(row, metrics) for row, metrics in zip(self.rows, told, strict=True)]
        table = text_table(self._headers(), lines)
        end = [*opened(self.links), *(f"  {line}" for line in self._end())]
        return "\n".join([f"Runs of {self.experiment}", *table, *end])

    def html(self) -> str:
        """Return the same as a table."""
        if not self.rows:
            return panel(self._nothing(), *self._end())
        drawn = [Html(listing([metric.html() for metric in metrics], 2)) for metrics in self._metrics()]
        headers = list(self._headers())
        cells = [self._cells(row, metrics) for row, metrics in zip(self.rows, drawn, strict=True)]
        for row, each in zip(self.rows, cells, strict=True):
            each[headers.index("status")] = badge(row.status)
            each[headers.index("started")] = started(row.start_time)
        if any(row.links for row in self.rows):
            headers.append("open")
            cells = [[*each, page_links(row.links)] for each, row in zip(cells, self.rows, strict=True)]
        # A saved notebook is read later: what was 3 min ago then is told with the time it was then.
        table = html_table(f"Runs of {self.experiment} (as of {when(self.as_of)})", headers, cells)
        return panel(table, *self._end())


@dataclass(frozen=True, repr=False)
class TrackSummary(Result):
    """What a ``%%track`` cell (or ``dbml.track``) recorded."""

    run_id: str
    name: str
    experiment: str
    status: str
    seconds: float
    params: Mapping[str, str]
    metrics: tuple[MetricSummary, ...]
    artifacts: tuple[str, ...]
    models: tuple[str, ...]  # names of the models logged
    registered: tuple[ModelVersion, ...]
    destinations: tuple[Destination, ...]
    notes: tuple[str, ...] = ()  # overflow, provisional ids, refused writes: one line each
    links: Mapping[str, str] = field(default_factory=dict)  # workspace -> the run's page, where there is one
    error: str = ""  # the last line of what the block raised
    artifact_links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Artifact -> workspace -> its page, where there is one."""
    children: tuple[str, ...] = ()  # names of the runs nested in it
    beside: tuple[str, ...] = ()  # names of the runs that began meanwhile and are not nested in it

    def _rows(self, drawn_below: Collection[str] = ()) -> list[tuple[str, str, Html]]:
        """Return label, text and markup of what the run recorded, what was reached first.

        Metrics that are ``drawn_below`` the summary's markup are left out of it.
        """
        params = [f"{key} {short(value)}" for key, value in self.params.items()]
        # Those with a curve were logged by the cell itself; autologging adds many that have none.
        ordered = sorted(self.metrics, key=lambda metric: len(metric.curve) < 2)
        every = [_Metric(m.key, f"{m.key} {number(m.last)}", m.curve) for m in ordered]
        metrics = [metric.text() for metric in every]
        drawn = [metric.html() for metric in every if metric.key not in drawn_below]
        models = [version.label for version in self.registered] or list(self.models)
        linked = [link(v.label, v.page) if v.page else safe(v.label) for v in self.registered]
        rows = [
            ("error", self.error, safe(self.error)),
            ("metrics", listing(metrics, 4), Html(listing(drawn, 8))),
            ("models", listing(models, 4), Html(listing(linked or [safe(m) for m in models], 8))),
            ("params", listing(params, 2), safe(listing(params, 6))),
            (
                "artifacts",
                listing(self.artifacts, 4),
                Html(listing([self._artifact(path) for path in self.artifacts], 8)),
            ),
            ("children", self._children(4), safe(self._children(8))),
            ("beside", self._beside(4), safe(self._beside(8))),
            ("run", self.run_id, code(self.run_id)),
            ("open", ", ".join(f"{name} {url}" for name, url in self.links.items()), page_links(self.links)),
        ]
        return [row for row in rows if row[1]]

    def _artifact(self, path: str) -> Html:
        """Return an artifact's name as a link to its page, or with a link for each of several."""
        there = self.artifact_links.get(path, {})
        if len(there) == 1:
            return Html(" ".join(link(path, url) for url in there.values()))
        return Html(f"{safe(path)} ({page_links(there)})") if there else safe(path)

    def _waiting(self) -> bool:
        return any(d.pending and (d.last_error or d.away) for d in self.destinations if d.tracked)

    def _children(self, most: int) -> str:
        if not self.children:
            return ""
        return f"{count(len(self.children), 'nested run')}: {listing(self.children, most)}"

    def _beside(self, most: int) -> str:
        """Name the runs that threads have begun meanwhile, or the block's own code once its run had ended."""
        if not self.beside:
            return ""
        began = "run was" if len(self.beside) == 1 else "runs were"
        return f"{len(self.beside):,} {began} begun in threads or beside it: {listing(self.beside, most)}"

    def _see(self) -> list[str]:
        more = [Remedy("models", version.name) for version in self.registered[:1]]
        if self.models and not self.registered:
            run = "last" if self.status == "FINISHED" else self.run_id[:8]
            path = self.models[0] if len(self.models) > 1 else None
            more.append(Remedy("register", run, "NAME", path=path))
        return [say(line) for line in (Remedy("runs"), Remedy("status"), *more)]

    def _outcomes(self) -> list[str]:
        return [f"{d.name} {d.outcome()}" for d in self.destinations if d.tracked]

    def text(self) -> str:
        """Return the run's outcome, what it recorded, and where to see it."""
        head = _run_head(self.name, self.status, self.seconds)
        lines = ["   ".join([head.ljust(32), *self._outcomes()]).rstrip()]
        rows = [(label, shown) for label, shown, _ in self._rows()]
        lines += labelled(rows if self._waiting() else [*rows, ("see", " · ".join(self._see()))])
        lines += [f"  {note}" for note in self.notes]
        return "\n".join([*lines, f"  {_nothing_lost()}"] if self._waiting() else lines)

    def html(self) -> str:
        """Return the same as a table."""
        return self.markup()

    def markup(self, drawn_below: Collection[str] = ()) -> str:
        """Return the summary as HTML, without the metrics that are drawn below it."""
        outcomes = map(safe, self._outcomes())
        head = Html(" · ".join([_run_markup(self.name, self.status, self.seconds), *outcomes]))
        rows: list[tuple[str, str]] = [(label, drawn) for label, _, drawn in self._rows(drawn_below) if drawn]
        if not self._waiting():
            rows.append(("see", Html(" · ".join(code(command) for command in self._see()))))
        return panel(rows_table(head, rows), *self.notes, _nothing_lost() if self._waiting() else "")


def _nothing_lost() -> str:
    return (
        f"nothing is lost: they go out when it answers, from this {process()} or the next; "
        f"{say(Remedy('status'))} shows how far"
    )


def _run_markup(name: str, status: str, seconds: float | None) -> Html:
    took = "" if seconds is None else f" in {duration(seconds)}"
    return Html(f"{run_title(name, status)}{took}")


def _run_head(name: str, status: str, seconds: float | None) -> str:
    return f"Run {name}  {status}" + ("" if seconds is None else f" in {duration(seconds)}")
