"""What a run says of the contracts, with pytest-xdist and without, whole and in part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEST = """\
from tests.contracts.plugin import settle

def test_exchanges():
    settle({{"counts": {counts}, "unallowed": {unallowed}}})
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Return a suite of two files: one of three allowed lines is used by the first, one by the second."""
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("area | one | why\ndeviation | two | why\ndeviation | three | why\n")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntestpaths = suite\ncontracts_allowed = {allowed}\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.contracts.plugin"]\n')
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_a.py").write_text(
        TEST.format(counts={"checked": 2, "area one": 4}, unallowed=[])
    )
    (tmp_path / "suite" / "test_b.py").write_text(
        TEST.format(counts={"checked": 3, "deviation two": 1}, unallowed=[])
    )
    return tmp_path


def run(suite: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run a suite; returns the exit code and what the run says of the contracts."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    # Of the installed plugins this one alone: the others take most of a short run's time.
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist.plugin", *arguments],
        cwd=suite,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [line for line in done.stdout.splitlines() if "contracts: " in line]


WHOLE = "contracts: 5 exchanges checked, 4 of services without a description, 1 deviations allowed by 1 lines"
STALE = "contracts: FAILED, a line of allowed.txt that nothing uses: deviation three"


@pytest.mark.full(but=["alone"])  # the whole check itself is a run with xdist
@pytest.mark.parametrize("parallel", [[], ["-n", "2", "--dist", "loadfile"]], ids=["alone", "xdist"])
def test_a_whole_run_sums_up_and_fails_for_a_stale_line(suite: Path, parallel: list[str]) -> None:
    assert run(suite, *parallel) == (1, [WHOLE, STALE])
    (suite / "suite" / "test_c.py").write_text(TEST.format(counts={"deviation three": 1}, unallowed=[]))
    whole = WHOLE.replace("1 deviations allowed by 1 lines", "2 deviations allowed by 2 lines")
    assert run(suite, *parallel) == (0, [whole])


@pytest.mark.full(but=["by file"])
@pytest.mark.parametrize(
    "chosen",
    [["suite/test_a.py"], ["-k", "test_a"], ["--deselect", "suite/test_b.py"]],
    ids=["by file", "by name", "without one"],
)
def test_a_run_of_some_tests_says_nothing_of_lines_that_others_use(suite: Path, chosen: list[str]) -> None:
    code, lines = run(suite, *chosen)
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith("contracts: 2 exchanges checked, 4 of services")


def test_a_deviation_fails_its_test_and_leaves_no_word_of_stale_lines(suite: Path) -> None:
    (suite / "suite" / "test_c.py").write_text(
        TEST.format(counts={}, unallowed=["PUT W request: x is unknown"])
    )
    code, lines = run(suite, "-n", "2", "--dist", "loadfile")
    assert code == 1
    assert lines == [WHOLE]
