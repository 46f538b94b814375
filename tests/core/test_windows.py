"""On Windows, which has no ``fcntl``: every command says in words that it works elsewhere, and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.commands import COMMANDS

# A kernel that has begun on this machine and is on Windows from here on: neither the module nor the calls.
_KERNEL = """
import json, os, sys
import requests, tempfile, subprocess, urllib.request
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
from IPython.core.interactiveshell import InteractiveShell
sys.modules["fcntl"] = None
sys.platform = "win32"
del os.getuid, os.geteuid
shell.run_line_magic("load_ext", "dbml_magics")
outcomes = {}
for line in json.loads(sys.argv[1]):
    try:
        if line.startswith("%%"):
            shell.run_cell_magic("track", "", "x = 1")
            found = None
        else:
            found = shell.run_line_magic("dbml", line.removeprefix("%dbml"))
        outcomes[line] = ["result", str(found)]
    except BaseException as error:
        outcomes[line] = [type(error).__name__, str(error) + repr(getattr(error, "remedies", ""))]
    if line == "%dbml doctor":
        outcomes[line].append([[f.area, f.what, f.level, f.cause, f.command] for f in found])
print("TOLD " + json.dumps(outcomes), flush=True)
os._exit(0)
"""


def lines() -> list[str]:
    """Return the first example of every command, and a cell."""
    return ["%%track", "%dbml doctor", *(command.examples[0] for command in COMMANDS.values())]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what each line came to: an error's name and words, or its result."""
    folder: Path = tmp_path_factory.mktemp("windows")
    done = subprocess.run(
        [sys.executable, "-c", _KERNEL, json.dumps(lines())],
        cwd=folder,
        env={**os.environ, "DBML_HOME": str(folder / "home"), "IPYTHONDIR": str(folder / "ip")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("TOLD ")] or [done.stderr]
    return dict(json.loads(line.removeprefix("TOLD ")))


@pytest.mark.full
def test_the_doctor_looks_and_says_that_windows_is_what_is_wrong(outcomes: dict[str, Any]) -> None:
    _, _, found = outcomes["%dbml doctor"]
    broken = {
        (area, what): (cause, command) for area, what, level, cause, command in found if level == "broken"
    }
    assert broken["python", "system"] == ("Windows lacks the journal's file locks", "wsl --install")
    assert not any("could not be looked at" in cause for cause, _ in broken.values()), broken
    assert not any("link --local" in command for *_, command in found), "what is refused is not offered"


@pytest.mark.full
def test_no_command_ends_in_a_defect(outcomes: dict[str, Any]) -> None:
    from dbml_magics import errors

    for line, (name, said, *_) in outcomes.items():
        assert name == "result" or name in errors.__all__, f"{line}: {name}: {said}"
        assert "fcntl" not in said, f"{line}: {said}"


@pytest.mark.parametrize("line", ["%%track", "%dbml status"])
@pytest.mark.full
def test_what_needs_a_link_names_what_works_instead_of_a_link_that_would_be_refused(
    outcomes: dict[str, Any], line: str
) -> None:
    name, said, *_ = outcomes[line]
    assert name == "NotLinked"
    assert "Windows Subsystem for Linux" in said
    assert "wsl --install" in said
    assert "link --local" not in said
