"""Loading and unloading the extension: quick, light, and without a trace afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dbml_magics
from dbml_magics.common import environment
from tests.frontend.conftest import Shell
from tests.frontend.fakes import FakeSession

HEAVY = ["mlflow", "azureml", "databricks", "pyspark", "pandas", "numpy", "ipywidgets"]
MOST_MODULES = 62  # beyond what IPython has imported; contextvars, two of them, are in each kernel already

LOAD = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
before = time.perf_counter()
shell.run_line_magic("load_ext", "dbml_magics")
shell.run_line_magic("dbml", "help link")
print()
print(json.dumps({"modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""

COUNT = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
before = set(sys.modules)
shell.run_line_magic("load_ext", "dbml_magics")
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def _python(source: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(dbml_magics.__file__).parents[1]))
    monkeypatch.setenv("DBML_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path


def test_loading_and_help_import_nothing_heavy(folder: Path) -> None:
    modules = json.loads(_python(LOAD, folder).splitlines()[-1])["modules"]
    assert not set(modules) & set(HEAVY)


def test_loading_imports_few_modules(folder: Path) -> None:
    # How long it takes is measured by tests/benchmarks (row load_ext): a clock here measures the machine.
    imported = json.loads(_python(COUNT, folder))
    assert len(imported) <= MOST_MODULES, imported


def test_importing_the_package_imports_nothing_heavy(folder: Path) -> None:
    source = "import json, sys, dbml_magics as dbml; dbml.BadUri; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(_python(source, folder))
    assert not {name.partition(".")[0] for name in modules} & {*HEAVY, "IPython"}


def _traces(ip: Any) -> list[Any]:
    formatter = ip.display_formatter.ipython_display_formatter
    return [
        list(ip.input_transformers_cleanup),
        [list(ip.events.callbacks[event]) for event in ("pre_run_cell", "post_execute", "post_run_cell")],
        vars(ip).get("showtraceback"),
        list(ip.Completer.custom_matchers),
        list(ip.input_transformers_cleanup),
        {kind: sorted(names) for kind, names in ip.magics_manager.magics.items()},
        sorted(ip.magics_manager.registry),
        [*formatter.type_printers, *formatter.deferred_printers],
    ]


def test_unloading_leaves_no_trace(shell: Shell) -> None:
    dbml_magics.unload_ipython_extension(shell.ip)
    before = _traces(shell.ip)
    dbml_magics.load_ipython_extension(shell.ip)
    loaded = _traces(shell.ip)
    assert all(now != then for now, then in zip(loaded, before, strict=True))
    dbml_magics.load_ipython_extension(shell.ip)
    assert _traces(shell.ip) == loaded, "loading twice is loading once"
    dbml_magics.unload_ipython_extension(shell.ip)
    assert _traces(shell.ip) == before
    dbml_magics.unload_ipython_extension(shell.ip)


def test_reloading_shows_each_result_once(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    dbml_magics.unload_ipython_extension(shell.ip)
    dbml_magics.load_ipython_extension(shell.ip)
    shell.run("%dbml runs")
    shell.run("%%track\n1;")
    shown = capsys.readouterr().out
    assert shown.count("Runs of wine") == 1
    assert shown.count("FINISHED in") == 1


def test_a_remembered_link_is_mentioned_in_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DBML_HOME", str(tmp_path))
    asked: list[str] = []

    def hint(folder: str) -> str | None:
        asked.append(folder)
        return "A link is remembered for this folder: %dbml link --again takes it up"

    monkeypatch.setattr("dbml_magics.core.remembered_links.remembered_hint", hint)
    dbml_magics.unload_ipython_extension(shell.ip)
    dbml_magics.load_ipython_extension(shell.ip)
    assert capsys.readouterr().out == "", "nobody reads a job's output"
    assert asked == []

    monkeypatch.setattr(environment, "is_interactive", lambda _: True)
    dbml_magics.unload_ipython_extension(shell.ip)
    dbml_magics.load_ipython_extension(shell.ip)
    assert capsys.readouterr().out == "A link is remembered for this folder: %dbml link --again takes it up\n"
    assert asked == [str(Path.cwd())]


def test_endpoints_that_an_earlier_kernel_has_left_are_mentioned(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("dbml_magics.core.remembered_links.remembered_hint", lambda _: None)
    monkeypatch.setattr(environment, "is_interactive", lambda _: True)
    monkeypatch.setenv("DBML_HOME", str(tmp_path))
    (tmp_path / "endpoints" / "wine").mkdir(parents=True)
    (tmp_path / "endpoints" / "wine" / "endpoint.json").touch()
    dbml_magics.unload_ipython_extension(shell.ip)
    dbml_magics.load_ipython_extension(shell.ip)
    assert capsys.readouterr().out == "Endpoints of yours on this machine: wine (%dbml endpoints)\n"


def test_no_remembered_link_no_word(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DBML_HOME", str(tmp_path))
    monkeypatch.setattr("dbml_magics.core.remembered_links.remembered_hint", lambda _: None)
    monkeypatch.setattr(environment, "is_interactive", lambda _: True)
    dbml_magics.unload_ipython_extension(shell.ip)
    dbml_magics.load_ipython_extension(shell.ip)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("variables", "kernel", "expected"),
    [
        ({}, True, "jupyter"),
        ({"VSCODE_PID": "1"}, True, "vscode"),
        ({"DATABRICKS_RUNTIME_VERSION": "15.4"}, True, "databricks"),
        ({}, False, "terminal"),
    ],
)
def test_places_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kernel: bool, expected: str
) -> None:
    for name in ("VSCODE_PID", "VSCODE_CWD", "DATABRICKS_RUNTIME_VERSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    class Running:
        def __init__(self) -> None:
            self.kernel = object() if kernel else None

    assert environment.place(Running()) == expected
    assert environment.is_interactive(Running()) is kernel
    assert not environment.is_interactive(None)


def test_a_plain_script_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "shell", lambda: None)
    assert environment.place() == "script"


def test_a_link_outlives_unloading(shell: Shell, fake: FakeSession) -> None:
    dbml_magics.unload_ipython_extension(shell.ip)
    assert fake.linked
    assert fake.calls == []
