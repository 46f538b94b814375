"""Runs as a sorted and filtered table, and a param against a metric."""

from __future__ import annotations

import base64
import math

import pytest

from dbml_magics.results.runs import RunRow, RunsResult
from dbml_magics.results.runs_table import RunsTable, Scatter, differing_params
from dbml_magics.results.text import when


def row(name: str, params: dict[str, str], metrics: dict[str, float], seconds: float = 1.0) -> RunRow:
    return RunRow(
        name * 32, name, "wine", "FINISHED", 1_700_000_000_000, 1_700_000_000_000 + int(seconds * 1000),
        params=params, metrics=metrics,
    )  # fmt: skip


ROWS = (
    row("a", {"depth": "10", "kind": "forest", "seed": "1"}, {"loss": 0.5}, 3.0),
    row("b", {"depth": "9", "kind": "boosted", "seed": "1"}, {"loss": math.nan}, 2.0),
    row("c", {"depth": "2", "seed": "1"}, {"loss": 0.1, "accuracy": 0.9}, 1.0),
)


def circles(html: str) -> int:
    """Return how many points the picture in a page has."""
    data = html.partition("base64,")[2].partition('"')[0]
    return base64.b64decode(data).count(b"<circle")


def names(table: RunsTable) -> str:
    return "".join(row.name for row in table.shown)


@pytest.mark.parametrize(
    ("column", "ascending", "descending"),
    [
        ("depth", "cba", "abc"),
        ("loss", "cab", "acb"),
        ("accuracy", "cab", "cab"),
        ("kind", "bac", "abc"),
        ("took", "cba", "abc"),
        ("", "abc", "abc"),
    ],
)
def test_a_column_sorts_numbers_as_numbers_and_what_lacks_it_stands_last(
    column: str, ascending: str, descending: str
) -> None:
    assert names(RunsTable(ROWS, column)) == ascending
    assert names(RunsTable(ROWS, column, descending=True)) == descending


@pytest.mark.parametrize(
    ("matching", "found"),
    [
        ("", "abc"),
        ("forest", "a"),
        ("FINISHED boost", "b"),
        ("depth>=9", "ab"),
        ("depth != 9", "ac"),
        ("loss<0.3", "c"),
        ("kind=forest depth=10", "a"),
        ("nowhere=1", ""),
        ("kind<5", ""),
    ],
)
def test_words_and_terms_filter(matching: str, found: str) -> None:
    assert names(RunsTable(ROWS, matching=matching)) == found


def test_params_that_differ_are_columns_and_marked() -> None:
    assert differing_params(ROWS) == ["depth", "kind"]
    table = RunsTable(ROWS, "loss")
    assert "≠ depth" in table.text()
    assert "seed" not in table.text()
    html = table.markup(
        lambda column, shown: f"<button>{column}: {shown}</button>", lambda row: f"[{row.name}]"
    )
    assert '<th scope="col" aria-sort="ascending"' in html
    assert "<button>loss: loss ▲</button>" in html
    assert "<td>[c]</td>" in html
    assert "<caption" in html
    assert '<th scope="row"' in html
    assert "3 of 3 runs, by loss, lowest first; ≠ marks a param that differs" in html


def test_when_a_run_started_is_told_from_now_with_the_time_itself_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = ROWS[0].start_time
    monkeypatch.setattr("dbml_magics.results.text.time.time", lambda: began / 1000 + 180)
    assert f'<span title="{when(began)}">3 min ago</span>' in RunsTable(ROWS).html()
    shown = RunsResult(ROWS, "wine")
    assert f'<span title="{when(began)}">3 min ago</span>' in shown.html()
    assert f"as of {when(began + 180_000)}" in shown.html(), "a saved notebook is read later"
    assert when(began) in shown.text()
    monkeypatch.setattr("dbml_magics.results.text.time.time", lambda: began / 1000 + 1e9)
    assert f'<span title="{when(began)}">{when(began)}</span>' in RunsTable(ROWS).html()


def test_a_table_is_escaped() -> None:
    assert "<b>" not in RunsTable((row("a", {"<b>": "1"}, {}), row("b", {"<b>": "<b>"}, {}))).html()


def test_a_scatter_says_each_point_in_words() -> None:
    drawn = Scatter.of(ROWS, "depth", "loss")
    assert len(drawn.points) == 2, "a value that is not finite is left out"
    html = drawn.html()
    assert circles(html) == 2
    assert 'alt="loss against depth: a: depth 10, loss 0.5; c: depth 2, loss 0.1"' in html
    lines = drawn.text().splitlines()
    assert lines[0] == "loss against depth, 2 runs"
    assert sum(line.count("•") for line in lines) == 2


def test_a_param_of_words_has_a_place_for_each_word() -> None:
    drawn = Scatter.of((*ROWS[:1], row("d", {"kind": "boosted"}, {"loss": 0.2})), "kind", "loss")
    assert "boosted" in drawn.text().splitlines()[-1]
    assert "forest" in drawn.html()


def test_runs_without_the_param_are_no_picture() -> None:
    assert Scatter.of(ROWS, "rate", "loss").text() == "No run has both the param rate and the metric loss"
    one = Scatter.of(ROWS[:1], "depth", "loss")
    assert circles(one.html()) == 1
    assert "•" in one.text()
