"""Every Python that the package admits: its sources compile there, and what needs no package runs there.

A Python that has the packages too (one of its own, or one that ``DBML_TEST_PYTHONS`` names, colons between)
goes through a whole journey.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MINORS = (10, 11, 12, 13)
NAMED = "DBML_TEST_PYTHONS"
GIVEN = [path for path in os.environ.get(NAMED, "").split(os.pathsep) if path]  # a test's own has none

_COMPILE = """
import pathlib, sys, warnings
warnings.simplefilter("error")  # an escape or a comparison that a newer Python warns of
for place in sys.argv[1:]:
    for path in sorted(pathlib.Path(place).rglob("*.py")):
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
"""

_ALONE = """
import os, pathlib, sys, tempfile
sys.path.insert(0, sys.argv[1])
import dbml_magics
from dbml_magics.common import config, disks, hints, secrecy
from dbml_magics import errors
from dbml_magics.commands import grammar, parser
from dbml_magics.results import charts, cleanup, compare, delivery, doctor, endpoints, live, scoring
from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.core import remembered_links
from dbml_magics.core import link as links
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State

for command in (*COMMANDS.values(), TRACK):
    assert grammar.command_help(command)
    for example in command.examples:
        if example.startswith(("%dbml", "%%track")):
            words = parser.split(example.partition("\\n")[0].partition(" ")[2], command.prog)
            try:
                parser.parse(command, words[0 if command is TRACK else 1 :], {"rows": 1, "frame": 1, "df": 1})
            except errors.UndefinedVariable:
                pass
assert hints.say(hints.Remedy("sync", timeout=60)) == "dbml.sync(timeout=60)"
assert dbml_magics.NotLinked("%dbml runs").lines()

folder = pathlib.Path(os.environ["DBML_HOME"])
local = links.from_uri("dbml://x?track=both&registry=databricks&mode=journal&folder=%2Ftmp&local=1"
                       "&databricks=sqlite%3A%2F%2F%2F%2Ftmp%2Fa%2Fmlflow.db"
                       "&azureml=sqlite%3A%2F%2F%2F%2Ftmp%2Fb%2Fmlflow.db")
remembered_links.remember(local)
assert remembered_links.remembered("/tmp").key == local.key
journal, state = Journal(local.home, ()), State(local.home / "state.db")
state.experiments.note("7", "iris", {"a": "ü"})
assert state.experiments.name("7") == "iris"
assert journal.queues() == [] or not list(journal.queues())
state.close()
print("ALONE")
"""

_JOURNEY = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow
import dbml_magics as dbml

class Doubles(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

dbml.link(local=True)
with dbml.track("smoke") as run:
    mlflow.log_metric("m", 1.0)
    mlflow.log_param("p", "x")
    mlflow.pyfunc.log_model(name="model", python_model=Doubles(), pip_requirements=["mlflow"])
assert str(dbml.register("last", "wine")).startswith("Registered")
dbml.sync(timeout=120)
assert not dbml.verify().differences
assert [r.name for r in dbml.runs()] == ["smoke"]
dbml.unlink()
print("JOURNEY")
"""


@functools.lru_cache
def pythons() -> dict[str, str]:
    """Return the Pythons of this machine that the package admits, a path each by version."""
    found: dict[str, str] = {}
    versions = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    for minor in MINORS:
        beside = [str(path) for path in sorted(versions.glob(f"3.{minor}.*/bin/python"))]
        for path in filter(None, [*beside, shutil.which(f"python3.{minor}")]):
            output = _said(path, "import sys; print(sys.version_info[:2])")
            if output == f"(3, {minor})":
                found[f"3.{minor}"] = path
                break
    return found


def _said(path: str, code: str) -> str:
    try:
        done = subprocess.run(
            [path, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd="/"
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _with_packages() -> Iterator[str]:
    own = os.path.realpath(sys.executable)
    for path in [*GIVEN, *pythons().values()]:
        needs = "from importlib.metadata import version as v; [v(n) for n in "
        needs += "('mlflow', 'azureml-mlflow', 'databricks-sdk', 'ipython')]; print('ok')"
        if os.path.realpath(path) != own and _said(path, needs) == "ok":
            yield path


def _run(path: str, code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW_"))}
    env |= {"DBML_HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [path, *arguments, "-c", code] if not code.startswith("-m") else [path, *arguments, *code.split()],
        env=env if "-S" not in arguments else {**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        check=False,
    )


@pytest.mark.full
@pytest.mark.parametrize("minor", MINORS)
def test_the_sources_compile_and_what_needs_no_package_runs(minor: int, tmp_path: Path) -> None:
    path = pythons().get(f"3.{minor}")
    if path is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    compiled = subprocess.run(
        [path, "-S", "-c", _COMPILE, *(str(ROOT / name) for name in ("dbml_magics", "tests", "notebooks"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    # Without site-packages: 3.10 reads TOML by a package, and a link without a file reads none.
    done = subprocess.run(
        [path, "-S", "-c", _ALONE, str(ROOT)],
        env={**os.environ, "DBML_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.strip() == "ALONE", done.stderr
    output = json.loads(_run(path, "-m dbml_magics doctor --json", tmp_path, "-S").stdout)
    python = next(f for f in output["findings"] if f["what"] == "Python")
    assert (python["level"], python["cause"][:4]) == ("fine", f"3.{minor}")
    assert any(f["what"] == "mlflow" and f["level"] == "broken" for f in output["findings"])


def test_a_journey_under_every_other_python_that_has_the_packages(tmp_path: Path) -> None:
    paths = list(_with_packages())
    if not paths:
        pytest.skip(f"no other Python here has the packages; {NAMED} names those that have")
    for n, path in enumerate(paths):
        folder = tmp_path / str(n)
        folder.mkdir()
        done = _run(path, f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{_JOURNEY}", folder)
        assert done.stdout.strip().endswith("JOURNEY"), f"{path}: {done.stdout}\n{done.stderr}"
