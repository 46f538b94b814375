"""A result is shown once, wherever its line stands, and not at all when it is assigned."""

from __future__ import annotations

import io
import sys

import pytest

from dbml_magics.notebook import display
from dbml_magics.results.runs import RunsResult
from tests.frontend.conftest import Shell


@pytest.mark.parametrize(
    "cell",
    [
        "%dbml runs",
        "%dbml runs\n1;",
        "x = 1\n%dbml runs",
        "if True:\n    %dbml runs",
        "for _ in [1]:\n    %dbml runs",
        "def f():\n    %dbml runs\nf()",
        "%time %dbml runs",
        "%%time\nx = 1\n%dbml runs",
        "get_ipython().run_line_magic('dbml', 'runs')",
        "import asyncio\nawait asyncio.sleep(0)\n%dbml runs",
    ],
)
def test_a_line_shows_its_result_once(shell: Shell, capsys: pytest.CaptureFixture[str], cell: str) -> None:
    shell.run(cell)
    assert capsys.readouterr().out.count("Runs of wine") == 1


@pytest.mark.parametrize(
    "cell",
    [
        "runs = %dbml runs",
        "runs = %dbml runs\nlen(runs)",
        "%%time\nruns = %dbml runs",
        "def f():\n    runs = %dbml runs\n    return runs\nruns = f()",
        "runs = get_ipython().run_line_magic('dbml', 'runs')",
        "runs = len(get_ipython().run_line_magic('dbml', 'runs'))",
        "runs = [get_ipython().run_line_magic('dbml', 'runs')]",
    ],
)
def test_an_assigned_result_is_not_shown(shell: Shell, capsys: pytest.CaptureFixture[str], cell: str) -> None:
    shell.run(cell)
    assert "Runs of wine" not in capsys.readouterr().out
    assert shell["runs"]


def test_an_assigned_result_is_shown_when_it_is_asked_for(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run("%dbml runs\nruns = %dbml runs\nruns")
    assert capsys.readouterr().out.count("Runs of wine") == 2


def test_a_shown_result_is_a_value_too(shell: Shell) -> None:
    result = shell.run("%dbml runs")
    assert isinstance(result, RunsResult)
    assert [row.name for row in result] == ["forest"]


def test_a_shown_result_can_be_shown_again_in_the_next_cell(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.ip.user_ns["kept"] = shell.run("%dbml runs")
    capsys.readouterr()
    shell.run("kept")
    assert "Runs of wine" in capsys.readouterr().out


def test_progress_is_whole_lines_where_a_line_cannot_be_rewritten(capsys: pytest.CaptureFixture[str]) -> None:
    with display.Progress() as progress:
        progress.update({"azureml": 1204}, 350.4)
        progress.update({"azureml": 12}, 350.4)
    assert capsys.readouterr().out == "delivering  azureml 1,204 left · 350 writes/s\n"


def test_progress_is_one_rewritten_line_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with display.Progress() as progress:
        progress.update({"azureml": 1204}, 350)
        progress.update({"azureml": 12}, 350)
    written = terminal.getvalue()
    assert "\n" not in written
    first, second, cleared, end = written.split("\r")[1:]
    assert first.startswith("delivering  azureml 1,204 left")
    assert second.rstrip() == "delivering  azureml 12 left · 350 writes/s"
    assert len(second) == len(first), "the shorter line covers the longer one"
    assert not cleared.strip()
    assert end == ""


def test_nothing_appears_when_there_is_nothing_to_wait_for(capsys: pytest.CaptureFixture[str]) -> None:
    with display.Progress() as progress:
        progress.update({"databricks": 0, "azureml": 0}, 0.0)
    assert capsys.readouterr().out == ""
