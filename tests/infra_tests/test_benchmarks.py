"""Everything that the benchmarks promise can be measured; how fast it is stands in no test."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.benchmarks import child
from tests.benchmarks.report import Figure, Row, Section, markdown, terminal

ROOT = Path(__file__).parents[2]


@pytest.mark.full
def test_the_quick_run_measures_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--markdown"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for title in (
        "one mlflow.log_metric",
        "other calls, linked",
        "2,000 points, both workspaces",
        "5,000 points in one run",
        "5 runs of 20 points |",
        "5 runs of 20 points one after the other",
        "8 runs of 20 points in 2 processes",
        "a training of 20 rounds, tracked and not",
        "5,000 calls of log_metric over 50 metrics",
        "%load_ext dbml_magics",
        "a new kernel, from %load_ext",
        "60 runs and 3 registered models at both",
        "one model served",
        "a linear model of 8 columns",
        "60 runs with 5 metrics each",
        "12 runs copied",
    ):
        assert f"| {title}" in done.stdout


def test_a_run_that_does_not_begin_ends_the_benchmark_of_many_runs_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    begun = iter(range(100))

    def start_run(**_: object) -> object:
        if next(begun) == 2:
            raise OSError("no run today")
        return nullcontext()

    monkeypatch.setattr(mlflow, "start_run", start_run)
    for name in ("log_metric", "set_experiment"):
        monkeypatch.setattr(mlflow, name, lambda *_, **__: None)
    for name, gives in (("floor", {}), ("link", child.nothing), ("turn", None)):
        monkeypatch.setattr(child, name, lambda *_, gives=gives, **__: gives)
    with pytest.raises(OSError, match="no run today"):
        child.hundred({"experiment": "e", "runs": 5, "points": 1})


def test_tables_align_and_say_what_could_not_be_measured() -> None:
    section = Section("calls", ("× floor", "median µs"))
    section.add(Row("the floor", (Figure(1, 1), Figure(16.4))))
    section.add(Row("linked", (Figure(1234.5, 1), Figure(text="met"))))
    section.add(Row("the limit", (Figure(0.5, 1),)))
    section.add(Row("wandb", problem="not installed", absent=True))
    assert terminal([section]).splitlines()[1:] == [
        "calls        × floor  median µs",
        "  the floor      1.0         16",
        "  linked     1,234.5        met",
        "  the limit      0.5",
        "  wandb      not measured: not installed",
    ]
    assert markdown([section]).splitlines()[2:] == [
        "| the floor | 1.0 | 16 |",
        "| linked | 1,234.5 | met |",
        "| the limit | 0.5 |  |",
        "| wandb | not measured: not installed |  |",
    ]
    assert not section.failed
    section.add(Row("rest", problem="RestException"))
    assert section.failed
