"""``%%track``: the run begins and ends with its cell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from dbml_magics.errors import (
    BadCommand,
    EmptyCell,
    JournalFull,
    NoModel,
    NotLinked,
    SecretRefused,
    UndefinedVariable,
)
from dbml_magics.notebook import cells
from tests.frontend.conftest import Shell
from tests.frontend.fakes import FakeSession
from tests.infra.interrupts import Interrupter


def test_a_cell_is_a_run_that_ends_with_its_summary(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.run("%%track forest\nx = 20\nx + 1") == 21
    assert [(track.name, track.status) for track in shell["fake"].tracks] == [("forest", "FINISHED")]
    shown = capsys.readouterr().out
    assert shown.count("Run forest  FINISHED in 2.1 s      databricks ✓ delivered   azureml ✓ delivered") == 1
    assert "see        %dbml runs · %dbml status" in shown


def test_the_options_reach_the_run(shell: Shell) -> None:
    options = "--experiment e --autolog --nested --register wine --tag k=v --source --unended end --total 500"
    shell.run(f"%%track a {options}\nx = 1\n")
    assert shell["fake"].last("begin_track") == {
        "name": "a",
        "experiment": "e",
        "autolog": True,
        "tags": {"k": "v"},
        "nested": True,
        "register": "wine",
        "source": "x = 1\n",
        "unended": "end",
        "total": 500,
    }
    shell.run("%%track --no-autolog\nx = 1")
    plain = shell["fake"].last("begin_track")
    assert (plain["name"], plain["autolog"], plain["source"]) == (None, False, None)
    shell.run("%%track\nx = 1")
    assert shell["fake"].last("begin_track")["autolog"] is None


def test_a_failing_cell_ends_its_run_failed(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        shell.run("%%track\n1 / 0")
    assert shell["fake"].tracks[0].status == "FAILED"
    shown = capsys.readouterr().out
    assert "----> 2 1 / 0" in shown, "the traceback has the cell's own line numbers"
    assert "FAILED in 2.1 s" in shown


def test_an_interrupted_cell_ends_its_run_killed(shell: Shell) -> None:
    with pytest.raises(KeyboardInterrupt):
        shell.run("%%track\nraise KeyboardInterrupt")
    assert shell["fake"].tracks[0].status == "KILLED"


def test_a_cell_can_await(shell: Shell) -> None:
    shell.run("%%track\nimport asyncio\nawait asyncio.sleep(0)\nafter = True")
    assert shell["after"]
    assert shell["fake"].tracks[0].status == "FINISHED"


@pytest.mark.parametrize("first", ["%%time", "%%capture", "\n\n%%time", "%%time\n"])
def test_other_cell_magics_stand_above_it(shell: Shell, first: str) -> None:
    shell.run(f"{first}\n%%track forest\nx = 5")
    assert shell["x"] == 5
    assert shell["fake"].tracks[0].status == "FINISHED"


@pytest.mark.parametrize("first", ["%%time", "%%capture"])
def test_a_failure_under_another_cell_magic_ends_the_run_failed(shell: Shell, first: str) -> None:
    shell.ip.run_cell(f"{first}\n%%track forest\n1 / 0")
    assert [track.status for track in shell["fake"].tracks] == ["FAILED"]


def test_a_failure_under_time_fails_the_cell_in_every_ipython(shell: Shell, fake: FakeSession) -> None:
    with pytest.raises(ZeroDivisionError):
        shell.run("%%time\n%%track\n1 / 0")
    fake.linked = False
    with pytest.raises(NotLinked):
        shell.run("%%time\n%%track\nx = 1")


def test_another_cell_magic_can_stand_below_it(shell: Shell) -> None:
    shell.run("%%track forest\n\n%%time\nx = 6")
    assert shell["x"] == 6
    assert shell["fake"].tracks[0].status == "FINISHED"


def test_a_cell_that_runs_a_cell_is_one_run(shell: Shell) -> None:
    shell.run(
        "%%track outer\n"
        "get_ipython().run_cell('inner = fake.tracks[0].status')\n"
        "get_ipython().run_cell('')\n"
        "still = fake.tracks[0].status"
    )
    assert shell["inner"] is None
    assert shell["still"] is None
    assert shell["fake"].tracks[0].status == "FINISHED"


SHOWN = {
    "a script": "%run bad.py",
    "a script's syntax": "%run wrong.py",
    "a script's exit": "%run leaves.py",
    "a module": "%run -m bad",
    "a notebook": "%run bad.ipynb",
    "a cell in the cell": "get_ipython().run_cell('1 / 0')",
    "a cell that is no Python": "get_ipython().run_cell('x = (')",
    "captured": "from IPython.utils.capture import capture_output\nwith capture_output():\n"
    "    get_ipython().run_cell('1 / 0')",
    "a deeper one": "get_ipython().run_cell_magic('capture', '', '%run bad.py')",
    "handled and shown": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    get_ipython().showtraceback()",
    "several at once": "get_ipython().run_cell('raise BaseExceptionGroup(\"all\", [ValueError()])')",
    "a program": "%%bash\nexit 3",
}


def _write_notebook(name: str, cells: list[str]) -> None:
    writer: Any = nbformat
    written = writer.v4.new_notebook(cells=[writer.v4.new_code_cell(cell) for cell in cells])
    writer.write(written, name)


@pytest.mark.parametrize("how", SHOWN)
def test_an_error_that_ipython_shows_is_the_cell_s_whoever_raised_it(
    shell: Shell, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "several at once" and sys.version_info < (3, 11):
        pytest.skip("Python 3.11 brought groups of exceptions")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("bad.py").write_text("1 / 0")
    Path("wrong.py").write_text("x = (")
    Path("leaves.py").write_text("import sys; sys.exit(3)")
    _write_notebook("bad.ipynb", ["1 / 0"])
    done = shell.ip.run_cell(f"%%track --register wine\n{SHOWN[how]}")
    assert [track.status for track in shell["fake"].tracks] == ["FAILED"]
    assert not done.success, "Run All stops"
    shell.run("%%track\nx = 1")
    assert shell["fake"].tracks[-1].status == "FINISHED"


@pytest.mark.parametrize(
    "body",
    ["%run leaves.py", "!false", "try:\n    1 / 0\nexcept ArithmeticError:\n    pass"],
)
def test_what_ipython_shows_no_error_for_is_none(
    shell: Shell, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("leaves.py").write_text("import sys; sys.exit(0)")
    shell.run(f"%%track\n{body}")
    assert shell["fake"].tracks[0].status == "FINISHED"


@pytest.mark.parametrize(
    "body", ["get_ipython().run_cell({0!r})", "%%capture\n{0}", "%run stopped.py\n1 / 0"]
)
def test_an_interrupt_that_ipython_shows_is_the_cell_s(
    shell: Shell, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stopped.py").write_text("raise KeyboardInterrupt")
    shell.ip.run_cell(f"%%track\n{body.format('raise KeyboardInterrupt')}")
    assert shell["fake"].tracks[0].status == "KILLED"


def test_a_time_that_is_up_is_no_interrupt(shell: Shell) -> None:
    shell.ip.run_cell("%%track\nimport asyncio\nawait asyncio.wait_for(asyncio.sleep(9), 0.001)")
    assert shell["fake"].tracks[0].status == "FAILED"


def test_an_error_of_another_thread_or_of_before_is_not_the_cell_s(shell: Shell) -> None:
    show = "try:\n    1 / 0\nexcept ZeroDivisionError:\n    get_ipython().showtraceback()"
    shell.run(
        f"{show}\nshow = {show!r}\nimport threading\n"
        "get_ipython().run_cell_magic('track', '', "
        "'thread = threading.Thread(target=exec, args=(show, globals()))\\nthread.start()\\nthread.join()')"
    )
    assert shell["fake"].tracks[0].status == "FINISHED"


def test_tracked_cells_of_a_notebook_that_is_run_are_runs_of_their_own(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells_of_it = ["name = 'first'", "%%track $name --source\nx = 1", "%%track second --params x\nx += 1"]
    _write_notebook("inner.ipynb", cells_of_it)
    shell.run("%%track outer\n%run inner.ipynb\nstatuses = [track.status for track in fake.tracks]")
    assert [(track.name, track.status) for track in shell["fake"].tracks] == [
        ("outer", "FINISHED"),
        ("first", "FINISHED"),
        ("second", "FINISHED"),
    ]
    assert shell["statuses"] == [None, "FINISHED", "FINISHED"], "each ended with its cell"
    assert shell["fake"].tracks[1].settings["source"] == "x = 1"
    assert shell["fake"].tracks[2].params == {"x": 2}


def test_a_script_that_is_run_has_its_own_names_in_its_magics(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell.ip.user_ns.update(depth=0, who="notebook")
    Path("exported.py").write_text(
        "who, depth = 'script', 3\n"
        "def double(): return 2 * depth\n"
        "get_ipython().run_line_magic('dbml', 'experiment exp-$who')\n"
        "cell = 'depth = 4\\ntwice = double()\\ntwice'\n"
        "get_ipython().run_cell_magic('track', '$who --params depth,twice', cell)\n"
        "def within(depth):\n"
        "    get_ipython().run_cell_magic('track', 'deep-$depth', 'later = depth')\n"
        "within(5)\n"
        "get_ipython().run_line_magic('dbml', 'score wine/1 --input $depth --output scored')\n"
        "seen = (depth, twice, later, scored is not None, sorted(n for n in globals() if n[:3] == '_oh'))\n"
    )
    shell.run("%run exported.py")
    assert shell["fake"].last("experiment")["name"] == "exp-script"
    assert [(t.name, t.status, t.params) for t in shell["fake"].tracks] == [
        ("script", "FINISHED", {"depth": 4, "twice": 8}),
        ("deep-5", "FINISHED", {}),
    ]
    assert shell["seen"] == (4, 8, 4, True, [])


def test_a_subshell_s_cells_end_no_run_of_another_thread(shell: Shell) -> None:
    shell.run(
        "%%track\nimport threading\n"
        "other = threading.Thread(target=get_ipython().run_cell, args=('y = 1',))\n"
        "other.start()\nother.join()\nstill = fake.tracks[0].status"
    )
    assert (shell["still"], shell["fake"].tracks[0].status) == (None, "FINISHED")


def test_a_run_ends_with_the_execution_that_began_it(shell: Shell) -> None:
    shell.run("get_ipython().run_cell('%%track inner\\nx = 1')\nstatus = fake.tracks[0].status")
    assert shell["status"] == "FINISHED"


def test_a_failing_beginning_stops_the_cell(shell: Shell, fake: FakeSession) -> None:
    fake.linked = False
    with pytest.raises(NotLinked, match="%%track needs a link"):
        shell.run("%%track\nreached = True")
    with pytest.raises(BadCommand, match="Did you mean --autolog"):
        shell.run("%%track --autlog\nreached = True")
    assert "reached" not in shell.ip.user_ns
    assert fake.tracks == []


def test_a_failing_end_fails_the_cell_after_its_summary(
    shell: Shell, fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.has_model = False
    with pytest.raises(NoModel):
        shell.run("%%track forest --register wine\nx = 1")
    shown = capsys.readouterr().out
    assert shown.index("Run forest  FINISHED") < shown.index("NoModel: the run logged no model.")


def test_a_failing_end_of_a_failing_cell_leaves_the_cell_s_own_error(
    shell: Shell, fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.end_raises = JournalFull("the disk is full.")
    with pytest.raises(ZeroDivisionError):
        shell.run("%%track\n1 / 0")
    assert "JournalFull: the disk is full." in capsys.readouterr().err


@pytest.mark.parametrize("body", ["", "\n", "\n   \n", "\n# nothing but words\n"])
def test_an_empty_cell_is_an_error(shell: Shell, body: str) -> None:
    with pytest.raises(EmptyCell, match="%%track stands above nothing"):
        shell.run(f"%%track forest{body}")
    assert shell["fake"].tracks == []


def test_help_is_shown_and_the_cell_does_not_run(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for cell in ("%%track --help\nreached = True", "%%track -h", "%%track forest --help\nreached ="):
        shell.run(cell)
        assert "usage: %%track [RUN_NAME]" in capsys.readouterr().out
    assert "reached" not in shell.ip.user_ns
    assert shell["fake"].tracks == []


def test_a_cell_that_is_no_python_begins_no_run(shell: Shell) -> None:
    with pytest.raises(SyntaxError):
        shell.run("%%track\nx = (")
    assert shell["fake"].tracks == []


def test_params_are_the_values_at_the_end_of_the_cell(shell: Shell) -> None:
    shell.ip.user_ns["rate"] = 0.5
    shell.run("%%track --params rate,depth\ndepth = 3\nrate = 0.1")
    assert shell["fake"].tracks[0].params == {"rate": 0.1, "depth": 3}


def test_a_param_that_is_undefined_fails_the_cell_and_keeps_the_run(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UndefinedVariable, match="--params names nowhere, which is not defined at the end"):
        shell.run("%%track --params here,nowhere\nhere = 1\nif not here:\n    nowhere = 1")
    assert shell["fake"].tracks[0].status == "FINISHED"
    assert shell["fake"].tracks[0].params == {"here": 1}
    assert "FINISHED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("params", "code", "remedy"),
    [
        ("rate,dept", "depth = 3; rate = 1", "%%track forest --params rate,depth"),
        ("rate,nowhere", "for rate in 1, 2: pass", "%%track forest --params rate"),
        ("nowhere", "import os as depth", "%%track forest"),
        ("nope", "open", "%%track forest"),  # the shell's own open is none of it
    ],
)
def test_a_param_that_the_cell_cannot_know_is_refused_before_it_runs(
    shell: Shell, params: str, code: str, remedy: str
) -> None:
    with pytest.raises(UndefinedVariable, match="nothing has run") as refused:
        shell.run(f"%%track forest --params {params}\nran = True\n{code}")
    assert refused.value.remedies[0][0] == remedy
    assert shell["fake"].tracks == []
    assert "ran" not in shell.ip.user_ns


@pytest.mark.parametrize(
    "code",
    [
        "exec('depth = 3')",
        "globals()['depth'] = 3",
        "from math import *; depth = 3",
        "%config depth",
        "[depth := n for n in range(4)]",
        "def depth(): pass",
        "match [1, 3]:\n    case [_, depth]: pass",
        "with open('/dev/null') as depth: pass",
        "a, (b, *depth) = 1, (2, 3)",
    ],
)
def test_a_param_that_the_cell_may_know_is_not_refused_before_it_runs(shell: Shell, code: str) -> None:
    if code.startswith("%"):
        code = "depth = 3\n%time depth"
    shell.run(f"%%track --params depth\n{code}")
    assert "depth" in shell["fake"].tracks[0].params


def test_a_failing_cell_says_nothing_of_its_missing_params(shell: Shell) -> None:
    with pytest.raises(ZeroDivisionError):
        shell.run("%%track --params here,nowhere\nhere = 1\nnowhere = 1 / 0")
    assert shell["fake"].tracks[0].params == {"here": 1}


def test_an_import_from_the_future_can_stand_first(shell: Shell) -> None:
    future = "from __future__ import annotations"
    shell.run(f"%%track\n# first\n{future}\ndef f(x: nowhere): pass\nx = f.__annotations__")
    assert shell["x"] == {"x": "nowhere"}
    assert shell["fake"].tracks[0].status == "FINISHED"
    shell.ip.compile.reset_compiler_flags()


def test_params_are_names(shell: Shell) -> None:
    with pytest.raises(BadCommand, match="--params wants names of variables"):
        shell.run("%%track --params a+b\nx = 1")


def test_the_magic_can_be_called_as_a_function(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("get_ipython().run_cell_magic('track', 'forest', 'x = 1\\nx + 1')")
    shown = capsys.readouterr().out
    assert "2" in shown.splitlines()[0]
    assert shown.count("Run forest  FINISHED") == 1
    with pytest.raises(Exception, match="division") as failed:
        shell.run("get_ipython().run_cell_magic('track', 'forest', '1 / 0')")
    assert failed.value._render_traceback_() == []  # type: ignore[attr-defined]
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert capsys.readouterr().out.count("ZeroDivisionError: division by zero") == 1
    assert [track.status for track in shell["fake"].tracks] == ["FINISHED", "FAILED"]


def test_a_function_call_fails_when_its_end_fails(shell: Shell, fake: FakeSession) -> None:
    fake.has_model = False
    with pytest.raises(Exception, match="logged no model") as failed:
        shell.run("get_ipython().run_cell_magic('track', '--register wine', 'x = 1')")
    assert isinstance(failed.value.__cause__, NoModel)


def test_a_second_run_in_a_cell_is_met_with_what_to_do(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    begins = "raise Exception('Run with UUID 4f1c is already active. To start a new run, first end the …')"
    with pytest.raises(Exception, match="already active"):
        shell.run(f"%%track\n{begins}")
    assert "make a child of it with mlflow.start_run(nested=True)" in capsys.readouterr().err


def test_a_single_percent_sign_is_explained(shell: Shell) -> None:
    with pytest.raises(BadCommand, match="%track is no line magic"):
        shell.run("x = 1\n%track forest")
    assert shell["fake"].tracks == []


def test_a_cell_is_one_run(shell: Shell) -> None:
    with pytest.raises(BadCommand, match="given twice"):
        shell.run("%%track a\nget_ipython().run_line_magic('track', 'b')")
    assert [track.status for track in shell["fake"].tracks] == ["FAILED"]


def test_a_defect_at_the_end_is_told_from_an_error_of_the_user_s(
    shell: Shell, fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.end_raises = RuntimeError("ours")
    with pytest.raises(RuntimeError):
        shell.run("%%track\nx = 1")
    shown = capsys.readouterr()
    assert "a defect of ours" in shown.err
    assert "RuntimeError: ours" in shown.out


def test_a_silent_execution_is_a_run_too(shell: Shell) -> None:
    shell.ip.run_cell("%%track\nreached = True", silent=True)
    shell.ip.run_cell("%%track\n1 / 0", silent=True)
    assert shell["reached"]
    assert [track.status for track in shell["fake"].tracks] == ["FINISHED", "FAILED"]


@pytest.mark.full(but=["a cell"])
@pytest.mark.parametrize("as_magic", [False, True], ids=["a cell", "a cell magic's call"])
def test_an_interrupt_at_any_step_of_its_beginning_or_end_leaves_no_run_open(
    shell: Shell, as_magic: bool
) -> None:
    interrupter, cell = Interrupter(Path(cells.__file__)), "%%track\nx = 1"
    if as_magic:
        cell = "get_ipython().run_cell_magic('track', '', 'x = 1')"
    interrupter.run(lambda: shell.ip.run_cell(cell))
    steps = interrupter.steps
    assert steps > 40
    for at in range(1, steps):
        begun = len(shell["fake"].tracks)
        interrupter.run(lambda: shell.ip.run_cell(cell), at)
        where = interrupter.where
        shell.run("y = 2")
        left = [track for track in shell["fake"].tracks[begun:] if track.status is None]
        assert not left, f"a run goes on after an interrupt at {where}"
        shell.run("%%track\nx = 1")
        assert shell["fake"].tracks[-1].status == "FINISHED", f"after an interrupt at {where}"


ABOVE = [
    "# a comment\n\n",
    "import math\n",
    "from os import path  # for later\nimport math, json\n",
    "from os import (\n    path,\n    sep,\n)\n",
    "from __future__ import annotations\n",
    "%matplotlib --list\n",
    "!true\n# and so on\n",
    "%%time\n# a comment\n",
]


@pytest.mark.parametrize("above", ABOVE)
def test_comments_imports_and_magics_can_stand_above(shell: Shell, above: str) -> None:
    body = "import mlflow\nx = 1\n"
    shell.run(f"{above}%%track forest --source\n{body}")
    begun = shell["fake"].last("begin_track")
    assert (begun["name"], begun["source"]) == ("forest", body)
    assert shell["fake"].tracks[-1].status == "FINISHED"
    assert shell["x"] == 1


def test_a_cell_that_is_indented_as_a_whole_can_have_a_comment_above(shell: Shell) -> None:
    shell.run("    # a comment\n    %%track forest\n    x = 2")
    assert shell["fake"].last("begin_track")["name"] == "forest"
    assert shell["x"] == 2


def test_the_lines_below_keep_their_numbers(shell: Shell) -> None:
    with pytest.raises(ZeroDivisionError) as failed:
        shell.run("# a comment\nimport math\n%%track\ny = 1\n1 / 0")
    assert failed.traceback[-1].lineno == 4, "counted from 0"
    assert shell["fake"].tracks[-1].status == "FAILED"


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("before = 1\n%%track forest --autolog\nx = 1", 2),
        ("import math\nprint(math.pi)\n\n%%track forest --autolog\nx = 1", 4),
        ("if True:\n    %%track forest --autolog\n    x = 1", 2),
        ("found = !true\n%%track forest --autolog\nx = 1", 2),
        ("%%time\nbefore = 1\n%%track forest --autolog\nx = 1", 3),
    ],
)
def test_below_code_it_is_refused_before_anything_runs(shell: Shell, cell: str, line: int) -> None:
    shell.ip.user_ns.pop("before", None)
    with pytest.raises(BadCommand, match=f"%%track stands below code, on line {line} of its cell") as refused:
        shell.run(cell)
    assert refused.value.remedies[0][0] == "%%track forest --autolog"
    assert "before" not in shell.ip.user_ns
    assert shell["fake"].tracks == []


def test_a_secret_below_code_is_not_repeated(shell: Shell) -> None:
    with pytest.raises(SecretRefused) as refused:
        shell.run("before = 1\n%%track forest --token hunter2hunter2\nx = 1")
    assert "hunter2" not in "\n".join(refused.value.lines())


@pytest.mark.parametrize(
    "cell",
    [
        's = """\n%%track forest\n"""',
        "%%writefile written.txt\nx = 1\n%%track forest\n",
        "# %%track forest\nx = 1",
        "x = 1  # %%track forest",
    ],
)
def test_what_only_looks_like_it_is_left_alone(
    shell: Shell, cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell.run(cell)
    assert shell["fake"].tracks == []


@pytest.mark.parametrize("above", ["", "# a comment\n", "import math\n"])
def test_a_command_with_two_percents_is_shown_with_one(shell: Shell, above: str) -> None:
    with pytest.raises(BadCommand, match="%%dbml is no cell magic") as refused:
        shell.run(f"{above}%%dbml lnk --loacl\nx = 1")
    assert refused.value.remedies[0][0] == "%dbml link --local"
