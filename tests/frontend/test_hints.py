"""Commands in messages are in the words of whoever reads them: magics, Python calls, shell commands."""

from __future__ import annotations

import inspect
import pickle
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dbml_magics
from dbml_magics import errors
from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.common import hints
from dbml_magics.common.hints import Remedy
from dbml_magics.results.delivery import SyncResult
from tests.frontend.conftest import Shell

EXAMPLES = [
    example
    for command in (*COMMANDS.values(), TRACK)
    for example in (*command.examples, *(option.example for option in command.options if option.example))
    if isinstance(example, Remedy)
]


@pytest.fixture
def in_python() -> Iterator[None]:
    """Write for somebody who writes Python."""
    before = hints.speak("python")
    yield
    hints.speak(before)


class _Twins:
    """Stands for the package, and checks that each call is one that it takes."""

    def __getattr__(self, name: str) -> Any:
        twin = getattr(dbml_magics, name)

        def call(*values: Any, **options: Any) -> str:
            inspect.signature(twin).bind(*values, **options)
            return name

        return call


@pytest.mark.parametrize("example", dict.fromkeys(EXAMPLES))
def test_every_example_has_a_python_call_that_the_package_takes(example: Remedy, in_python: None) -> None:
    said = hints.say(example)
    assert "%" not in said
    call = said.removeprefix("with ").removesuffix(":")
    namespace = {"dbml": _Twins(), "help": lambda _: "help", "depth": 3, "rate": 0.1, "rows": [[1.0]]}
    namespace["frame"] = object()
    assert eval(call, namespace), said


@pytest.mark.parametrize(
    ("command", "call"),
    [
        (Remedy("sync", timeout=60), "dbml.sync(timeout=60)"),
        (Remedy("sync", dead="list", run="last"), 'dbml.dead_letters(run="last")'),
        (Remedy("sync", dead="discard", confirm=3), "dbml.discard_dead_letters(confirm=3)"),
        (Remedy("link", local=True), "dbml.link(local=True)"),
        (Remedy("link"), "dbml.status()"),
        (Remedy("link", databricks="URI", azureml="URI"), 'dbml.link(databricks="URI", azureml="URI")'),
        (
            Remedy("register", "last", "wine", alias=["champion"], tag=["stage=test"]),
            'dbml.register("last", "wine", aliases=["champion"], tags={"stage": "test"})',
        ),
        (Remedy("register", "wine"), 'dbml.register("last", "wine")'),
        (
            Remedy("runs", order_by="metrics.loss ASC", max=5),
            'dbml.runs(order_by=["metrics.loss ASC"], max_results=5)',
        ),
        (Remedy("compare", "4f1c", "…"), 'dbml.compare("4f1c", …)'),
        (Remedy("invoke", "wine", "$rows", params="{}"), 'dbml.invoke("wine", rows, params="{}")'),
        (Remedy("runs", help=True), "help(dbml.runs)"),
        (Remedy("help"), "help(dbml)"),
        (
            Remedy("track", "forest", no_autolog=True, params="depth,rate", source=True),
            'with dbml.track("forest", autolog=False, params={"depth": depth, "rate": rate}):',
        ),
        ("mlflow.end_run()", "mlflow.end_run()"),
        ("%pip install lightgbm", "pip install lightgbm"),
        ("%env DBML_AZUREML_TOKEN", "printenv DBML_AZUREML_TOKEN"),
        ("!cat a.log", "cat a.log"),
        ("--name my-x", 'name="my-x"'),
        ("--input $frame --as score", 'data=frame, column="score"'),
    ],
)
def test_a_command_is_shown_as_a_python_call(command: str, call: str, in_python: None) -> None:
    assert hints.say(command) == call


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (Remedy("link", databricks="URI", mode=None, again=False), "%dbml link --databricks URI"),
        (Remedy("runs", filter="metrics.loss < 1", max=5), '%dbml runs --filter "metrics.loss < 1" --max 5'),
        (Remedy("cleanup", "experiment", "two words"), "%dbml cleanup experiment 'two words'"),
        (
            Remedy("register", "last", "wine", tag=["a=b", "c=d"]),
            "%dbml register last wine --tag a=b --tag c=d",
        ),
        (
            Remedy("score", "wine/1", input="$frame", as_="quality"),
            "%dbml score wine/1 --input $frame --as quality",
        ),
        (Remedy("track", "forest", no_autolog=True), "%%track forest --no-autolog"),
        (
            Remedy("sync", from_="azureml").but(from_="databricks", deep=True),
            "%dbml sync --from databricks --deep",
        ),
        (Remedy("deploy", "wine/1", to="lcoal").ending_in("local"), "%dbml deploy wine/1 --to local"),
        (Remedy("panel", "rnus").ending_in("runs"), "%dbml panel runs"),
        (Remedy("models", "a\nb").changed(lambda word: word.replace("\n", " ")), "%dbml models 'a b'"),
        (
            pickle.loads(pickle.dumps(Remedy("sync", from_="azureml", all=True))),
            "%dbml sync --from azureml --all",
        ),
    ],
)
def test_a_command_is_the_magic_line_as_a_text(command: Remedy, line: str) -> None:
    assert command == line


def test_an_error_and_a_result_have_no_magics_where_there_are_none(in_python: None) -> None:
    refused = errors.BadLink(
        "--local makes both; not beside --databricks.", remedies=[Remedy("link", local=True)]
    )
    assert refused.lines() == [
        "BadLink: local= makes both; not beside databricks=.",
        "  try  dbml.link(local=True)",
    ]
    assert refused.__notes__ == ["  try  dbml.link(local=True)"]
    assert "runs() needs a link, and there is none in this process" in str(errors.NotLinked(Remedy("runs")))
    done = SyncResult({"databricks": 1}, {"databricks": 2}, 1.0, {"databricks": 1})
    assert "dbml.sync() goes on" in str(done)
    assert "dbml.dead_letters() says why" in str(done)


def test_a_shell_is_told_what_a_shell_can_do() -> None:
    before = hints.speak("shell")
    try:
        assert hints.say(Remedy("sync", dead="list")) == "dbml-magics sync --dead list"
        made = hints.say(Remedy("link", local=True))
        assert made == f"{hints._PYTHON} -c 'import dbml_magics as dbml; print(dbml.link(local=True))'"
        assert hints.say(Remedy("runs")) == "%dbml runs in a notebook"
    finally:
        hints.speak(before)


def test_whoever_has_loaded_the_magics_reads_of_magics(shell: Shell) -> None:
    hints.speak(None)
    assert hints.say(Remedy("sync")) == "%dbml sync"
    dbml_magics.unload_ipython_extension(shell.ip)
    try:
        assert hints.say(Remedy("sync")) == "dbml.sync()"
    finally:
        dbml_magics.load_ipython_extension(shell.ip)


def test_a_scripts_traceback_ends_with_the_call_to_make_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import dbml_magics as dbml\ndbml.runs()"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    shown = done.stderr.splitlines()
    said = next(place for place, line in enumerate(shown) if "NotLinked: " in line)
    assert shown[said].endswith("dbml.runs() needs a link, and there is none in this process.")
    if sys.version_info >= (3, 11):  # before that, a traceback shows no notes
        assert shown[said + 1].startswith("  try  dbml.link(local=True)")


def test_a_command_for_a_shell_quotes_what_a_shell_would_read() -> None:
    before = hints.speak("shell")
    try:
        said = hints.say(Remedy("sync", experiment="R&D; rm -rf $HOME", verify=True))
    finally:
        hints.speak(before)
    assert shlex.split(said) == ["dbml-magics", "sync", "--experiment", "R&D; rm -rf $HOME", "--verify"]
    assert "'R&D; rm -rf $HOME'" in said
