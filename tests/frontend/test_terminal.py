"""IPython in a terminal: no widget and no HTML, so everything has its text form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped]
import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120
_CODES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()=>].?)|\r")


class Screen:
    """The lines that a terminal shows of a text, with what carriage returns have overwritten."""

    def __init__(self, text: str) -> None:
        self.lines: list[str] = []
        self.seen: list[str] = []
        for line in re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text).split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
                self.seen.append(shown.rstrip())
            self.lines.append(shown.rstrip())


class Terminal:
    """An IPython that believes in its terminal, as a user has it in a shell."""

    def __init__(self, folder: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DBML_", "MLFLOW_"))}
        places = {"DBML_HOME": str(folder / "home"), "IPYTHONDIR": str(folder / "ipython")}
        self._child: Any = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", "--no-banner", "--no-confirm-exit", "--colors=NoColor", "--simple-prompt"],
            cwd=str(folder),
            env={
                **kept,
                **places,
                "PYTHONPATH": str(ROOT),
                "TERM": "xterm",
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
            dimensions=(50, 200),
            encoding="utf-8",
            timeout=PATIENCE_S,
            echo=False,
            use_poll=True,  # select() knows no more than 1024 files, and a run of all tests has more open
        )
        self._number = 1
        self._child.expect_exact("In [1]: ")

    def run(self, line: str) -> str:
        """Type a line and return what is shown until the next prompt."""
        self._child.sendline(line)
        self._number += 1
        self._child.expect_exact(f"In [{self._number}]: ")
        return _CODES.sub("", self._child.before)

    def screen(self, line: str) -> Screen:
        """Type a line and return what the screen shows until the next prompt."""
        self._child.sendline(line)
        self._number += 1
        self._child.expect_exact(f"In [{self._number}]: ")
        return Screen(self._child.before)

    def close(self) -> None:
        """Leave it."""
        self._child.close(force=True)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Return an IPython in a terminal, in a folder of its own."""
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


@pytest.mark.full
def test_the_forms_are_text_in_a_terminal(terminal: Terminal) -> None:
    assert terminal.run("%load_ext dbml_magics").strip() == ""
    shown = terminal.run("%dbml panel deploy")
    assert "What the panel's forms do, as lines to type:" in shown
    assert re.search(r"\n +%dbml deploy wine/1 --to local --name wine  +serve a model", shown)
    assert "widget" not in shown.lower()
    assert "NotLinked" in terminal.run("%dbml link"), "a form of its own is nothing for a terminal"
    assert "Linked: tracking to both" in terminal.run("%dbml link --local")
    terminal.run("import mlflow")
    tracked = terminal.run("%%track forest\nmlflow.log_metric('loss', 0.5)\n\n")  # a blank line ends it
    assert re.search(r"Run forest +FINISHED in [\d.]+ s", tracked)
    assert "metrics  loss 0.5" in tracked
    assert "<div" not in tracked
    assert "forest" in terminal.run("%dbml runs")


@pytest.mark.full
def test_a_line_moves_while_a_cell_runs_and_what_the_cell_prints_stays_whole(terminal: Terminal) -> None:
    terminal.run("%load_ext dbml_magics")
    terminal.run("%dbml link --local")
    terminal.run("import mlflow, sys, time")
    terminal.run(
        "def work(seconds):\n"
        "    mlflow.log_metric('loss', 0.5, step=1)\n"
        "    end = time.monotonic() + seconds\n"
        "    print('first')\n"
        "    while time.monotonic() < end:\n"
        "        time.sleep(0.05)\n"
        "    print('second ', end='')\n"
        "    time.sleep(2.2)\n"
        "    print('is whole')\n"
        "    print('an error', file=sys.stderr)\n"
        "\n"
    )
    screen = terminal.screen("%%track forest --total 100\nwork(4)\n\n")
    assert any("Run forest  RUNNING for" in line and "loss 0.5" in line for line in screen.seen)
    prompt, *printed = [line for line in screen.lines if line]
    assert prompt.endswith(" first")
    assert printed[:2] == ["second is whole", "an error"]
    assert re.match(r"Run forest +FINISHED in [\d.]+ s", printed[2])
    assert not any("RUNNING" in line for line in printed)
    restored = terminal.run("sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__")
    assert restored.strip().endswith("(True, True)")


def test_a_line_leaves_no_empty_prompt_and_its_value_is_the_last_one(tmp_path: Path) -> None:
    lines = "%load_ext dbml_magics\n%dbml endpoints\ntype(_).__name__\n"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DBML_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "--no-confirm-exit"],
        input=lines,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "DBML_HOME": str(tmp_path / "home"),
            "IPYTHONDIR": str(tmp_path / "ipython"),
        },
        timeout=PATIENCE_S,
        check=True,
    )
    assert "In [2]: No endpoints\n" in done.stdout
    assert "Out[2]" not in done.stdout, "what is shown already has no prompt of a value"
    assert "Out[3]: 'EndpointsResult'" in done.stdout
