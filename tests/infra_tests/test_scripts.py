"""The scripts that the README names: the notebook runner, and the check of everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]


def run_notebook(folder: Path, *cells: str) -> subprocess.CompletedProcess[str]:
    v4: Any = nbformat.v4
    book = v4.new_notebook()
    book.cells = [
        v4.new_markdown_cell(cell[3:]) if cell.startswith("md ") else v4.new_code_cell(cell) for cell in cells
    ]
    (folder / "book.ipynb").write_text(v4.writes(book))
    return subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / "run.py"), str(folder / "book.ipynb")],
        capture_output=True,
        text=True,
    )


@pytest.mark.full
def test_a_notebook_runs_in_its_own_folder_and_shows_code_and_results(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("from the folder")
    done = run_notebook(
        tmp_path,
        "md # A title",
        "x = 2\nprint('10%\\r100%')\nx + 40",
        "open('data.txt').read()",
        "import sys; sys.executable",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "# A title\n\nIn [1]: x = 2\n   ...: print('10%\\r100%')\n   ...: x + 40\n100%\n42\n" in done.stdout
    )
    assert "In [2]: open('data.txt').read()\n'from the folder'" in done.stdout
    assert repr(sys.executable) in done.stdout
    assert "3 cells ran" in done.stdout
    assert done.stderr == ""


@pytest.mark.full
def test_a_failing_cell_ends_the_notebook_with_its_traceback(tmp_path: Path) -> None:
    done = run_notebook(tmp_path, "1 / 0", "print('never')")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
    assert "never" not in done.stdout
    assert "cell 1 failed" in done.stdout


def test_the_check_reports_what_pytest_said_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from tests import check

    monkeypatch.setattr(check, "ROOT", ROOT)
    for words, closing in (
        ("== 3 passed, 1 skipped in 0.12s ==", "3 passed, 1 skipped in 0.12s"),
        ("1 failed in 2.00s", "1 failed in 2.00s"),
        ("no line that closes", ""),
    ):
        code, lines = check.run([sys.executable, "-c", f"print({words!r}); raise SystemExit(3)"])
        assert (code, check.closing_line(lines)) == (3, closing)


STEADY = """

def test_fine():
    pass
"""
CROWDED = """

@pytest.mark.parametrize("what", ["a", "b"])
def test_alone(what):
    assert "PYTEST_XDIST_WORKER" not in os.environ, "not " + "alone"
"""
BROKEN = """

def test_broken():
    raise RuntimeError("a - b")
"""
MANY = """

@pytest.mark.parametrize("number", range(5))
def test_many(number):
    assert number > 5
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("tests", "code", "said"),
    [
        (STEADY, 0, ["1 passed in"]),
        (STEADY + CROWDED, 0, ["2 failed, 1 passed in", "by themselves: 2 passed in", "UNSTEADY"]),
        (BROKEN, 1, ["1 failed in", "by themselves: 1 failed in"]),
        (BROKEN + CROWDED, 1, ["3 failed in", "by themselves: 1 failed, 2 passed in"]),
        (MANY, 1, ["5 failed in"]),
    ],
    ids=["steady", "crowded", "broken", "both", "many"],
)
def test_the_check_runs_a_few_failed_tests_again_and_names_the_unsteady(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tests: str,
    code: int,
    said: list[str],
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from tests import check

    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    (tmp_path / "test_it.py").write_text(f"import os\n\nimport pytest\n\nHERE = os, pytest\n{tests}")
    (tmp_path / "typed").mkdir()
    (tmp_path / "typed" / "__init__.py").touch()
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "TYPED", ["typed"])
    monkeypatch.setattr(check, "PAGES", ["compileall", "-q", "typed"])
    monkeypatch.setattr(check, "install_browser", lambda: None)
    assert check.main([]) == code
    summary = capsys.readouterr().out.partition("── summary")[2]
    assert [words for words in said if words not in summary] == [], summary
    assert ("UNSTEADY" in summary) == ("UNSTEADY" in said)


@pytest.mark.parametrize(
    ("user", "there", "installs"), [(0, set(), 2), (1000, set(), 0), (0, {"chromium"}, 0)]
)
def test_the_check_installs_a_browser_where_it_may_and_must(
    monkeypatch: pytest.MonkeyPatch, user: int, there: set[str], installs: int
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from tests import check

    ran: list[list[str]] = []
    found = {"apt-get", *there}
    monkeypatch.setattr("shutil.which", lambda name: name if name in found else None)
    monkeypatch.setattr("os.geteuid", lambda: user)

    def run(command: list[str]) -> tuple[int, list[str]]:
        ran.append(command)
        return 0, []

    monkeypatch.setattr(check, "run", run)
    check.install_browser()
    assert len(ran) == installs
    assert all(command[0] == "apt-get" for command in ran)


@pytest.mark.parametrize(("fails_at", "commands"), [("", 4), ("--upgrade", 2)])
def test_the_check_with_the_newest_mlflow_runs_itself_in_an_environment_of_its_own(
    monkeypatch: pytest.MonkeyPatch, fails_at: str, commands: int
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from tests import check

    ran: list[list[str]] = []

    def run(command: list[str]) -> tuple[int, list[str]]:
        ran.append(command)
        own = Path(command[0] if len(ran) > 2 else command[command.index("--python") + 1])
        assert own != Path(sys.executable)
        assert own.exists(), "the environment is there while it is used"
        return (1 if fails_at and fails_at in command else 7 if command[-1] == "-x" else 0), []

    monkeypatch.setattr(check, "run", run)
    assert check.main(["--newest", "-k", "journal", "-x"]) == (1 if fails_at else 7)
    assert len(ran) == commands
    assert ran[0][-2:] == ["--editable", f"{check.ROOT}[test]"]
    assert ran[1][-2:] == ["--upgrade", "mlflow"]
    if not fails_at:
        assert ran[-1][1:] == [check.__file__, "-k", "journal", "-x"]
    assert not Path(ran[0][ran[0].index("--python") + 1]).exists()
