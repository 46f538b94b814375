"""A result is shown once, wherever its line stands, and not at all when it is assigned."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from dbml_magics.notebook import display
from dbml_magics.results.runs import RunsResult
from tests.frontend.conftest import Shell
from tests.frontend.fakes import FakeSession


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


LINES = [
    *("link --local", "unlink", "status", "experiment wine", "runs", "compare last 4f1c"),
    *("register last wine", "models", "deploy wine/1 --to local --name wine", "endpoints", "logs wine"),
    *("invoke wine '[[1]]'", "undeploy wine", "score wine/1", "sync", "sync --verify", "sync --dead list"),
    *("cleanup run last --dry-run", "doctor", "ui"),
]


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


class Terminal(io.StringIO):
    """A terminal's output."""

    def isatty(self) -> bool:
        return True


def _slow(fake: FakeSession, seconds: float) -> None:
    fake.meanwhile = lambda _: time.sleep(seconds)


@pytest.mark.parametrize("line", LINES)
def test_any_command_that_lasts_moves(
    shell: Shell, fake: FakeSession, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(display, "_TICK_S", 0.02)
    monkeypatch.setattr(display, "is_terminal", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    _slow(fake, 0.2)
    shell.run(f"kept = %dbml {line}")
    assert len(re.findall(r"\r[^\r]*\S  \d s", terminal.getvalue())) >= 2, terminal.getvalue()
    assert terminal.getvalue().endswith("\r"), "the line is cleared"


def test_a_link_shows_a_line_before_anything_is_asked(
    shell: Shell, fake: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "is_terminal", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    seen: list[str] = []
    fake.meanwhile = lambda _: seen.append(terminal.getvalue())
    shell.run("%dbml link --local")
    assert seen == ["\rlinking: MLflow and the workspaces are being opened"]


def test_a_line_with_seconds_of_its_own_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = display.Progress()
    progress.say("wine on local  loading  41 s")
    progress._said -= 3
    assert progress._with_seconds() == "wine on local  loading  44 s"
    progress.say("1 of 2  copying")
    progress._started -= 7
    assert progress._with_seconds() == "1 of 2  copying  7 s"


def test_where_lines_stay_a_short_command_shows_none(
    shell: Shell, fake: FakeSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "_TICK_S", 0.02)
    _slow(fake, 0.2)
    shell.run("kept = %dbml runs")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(display, "_PLAIN_EVERY", 0.1)
    shell.run("kept = %dbml runs")
    assert capsys.readouterr().out.startswith("%dbml runs  0 s\n")
