"""Everything that the benchmarks promise can be measured; how fast it is stands in no test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.report import Figure, Row, Section, markdown, terminal

ROOT = Path(__file__).parents[2]


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
        "2,000 points",
        "LightGBM, 20 rounds",
        "%load_ext dbml_magics",
    ):
        assert f"| {title}" in done.stdout


def test_tables_align_and_say_what_could_not_be_measured() -> None:
    section = Section("calls", ("× floor", "median µs"))
    section.add(Row("the floor", (Figure(1, 1), Figure(16.4))))
    section.add(Row("linked", (Figure(1234.5, 1), Figure(text="met"))))
    section.add(Row("wandb", problem="not installed", absent=True))
    assert terminal([section]).splitlines()[1:] == [
        "calls        × floor  median µs",
        "  the floor      1.0         16",
        "  linked     1,234.5        met",
        "  wandb      not measured: not installed",
    ]
    assert markdown([section]).splitlines()[2:] == [
        "| the floor | 1.0 | 16 |",
        "| linked | 1,234.5 | met |",
        "| wandb | not measured: not installed |  |",
    ]
    assert not section.failed
    section.add(Row("rest", problem="RestException"))
    assert section.failed
