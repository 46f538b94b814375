"""In a real kernel: what a front end is sent."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

import dbml_magics

ROOT = Path(dbml_magics.__file__).parents[1]
PATIENCE = 60.0


@dataclass
class Reply:
    """What came of a cell."""

    status: str = ""
    name: str = ""
    traceback: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> list[str]:
        """Return the text of each display, with updates in the place of what they update."""
        places: dict[Any, str] = {}
        for output in self.outputs:
            if "data" in output:
                key = (output.get("transient") or {}).get("display_id") or id(output)
                places[key] = output["data"]["text/plain"]
        return list(places.values())

    @property
    def printed(self) -> str:
        """Return what was printed."""
        return "".join(output["text"] for output in self.outputs if "text" in output)


class Kernel:
    """A kernel with a made-up session."""

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str, *, interrupt_after: str | None = None) -> Reply:
        """Run a cell; interrupt it when it has printed what is given."""
        request = self.client.execute(code, store_history=True)
        reply, over, idle = Reply(), time.monotonic() + PATIENCE, False
        while not idle:
            message = self.client.get_iopub_msg(timeout=max(over - time.monotonic(), 0.1))
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            idle = kind == "status" and content["execution_state"] == "idle"
            if kind in ("stream", "display_data", "execute_result", "update_display_data"):
                reply.outputs.append(content)
            if interrupt_after and interrupt_after in reply.printed:
                interrupt_after = None
                self.manager.interrupt_kernel()
        content = self._answer(request)
        reply.status, reply.name = content["status"], content.get("ename", "")
        reply.traceback = "\n".join(content.get("traceback", []))
        return reply

    def _answer(self, request: str) -> dict[str, Any]:
        """Return the answer to one request; one to the kernel's start may still be in front of it."""
        while True:
            message = self.client.get_shell_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") == request:
                content: dict[str, Any] = message["content"]
                return content

    def value(self, expression: str) -> str:
        """Return an expression's repr."""
        return self.run(expression).shown[-1]

    def complete(self, code: str) -> dict[str, Any]:
        """Ask for completions at the end of the code."""
        return self._answer(self.client.complete(code, len(code)))

    def inspect(self, code: str, cursor: int) -> str:
        """Ask for the help at a place of the code, as Shift+Tab does."""
        answer = self._answer(self.client.inspect(code, cursor))
        return str(answer["data"]["text/plain"]) if answer["found"] else ""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    import os

    folder = tmp_path_factory.mktemp("kernel")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder), "DBML_HOME": str(folder)}
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder), env=environment)
    started = Kernel(manager, client)
    begun = started.run(
        "from tests.frontend.fakes import use_in_kernel\nfake = use_in_kernel()\n%load_ext dbml_magics"
    )
    assert begun.status == "ok", begun.traceback
    yield started
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.mark.parametrize(
    ("cell", "outputs"),
    [
        ("%dbml status", 1),
        ("%dbml status\n'after'", 2),
        ("x = %dbml status", 0),
        ("x = %dbml status\nx", 1),
        ("%dbml sync", 1),
        ("%dbml help", 1),
        ("%time %dbml status", 1),
        ("%%time\n%dbml status", 1),
        ("%%track\n'value'", 2),
        ("%%track\nx = 1", 1),
        ("%%time\n%%track\n'value'", 2),
        ("%%capture\n%%track\nx = 1", 0),
    ],
)
def test_each_result_is_one_output(kernel: Kernel, cell: str, outputs: int) -> None:
    reply = kernel.run(cell)
    assert reply.status == "ok", reply.traceback
    assert len(reply.shown) == outputs


def test_a_result_has_a_text_and_an_html_form(kernel: Kernel) -> None:
    (output,) = kernel.run("%dbml status").outputs
    assert set(output["data"]) == {"text/plain", "text/html"}


def test_a_shown_result_is_the_cell_s_value(kernel: Kernel) -> None:
    kernel.run("%dbml runs")
    assert kernel.value("_[0].name") == "'forest'"


def test_where_nothing_is_updated_in_place_the_result_is_an_output_of_its_own(kernel: Kernel) -> None:
    console = (
        "from dbml_magics.common import environment\n"
        "found, environment._starter = environment._starter, lambda: 'jupyter-console'"
    )
    assert kernel.run(console).status == "ok"
    try:
        reply = kernel.run("%dbml deploy wine/1 --to local --name wine")
        assert [sorted(output) for output in reply.outputs] == [
            ["name", "text"],
            ["data", "metadata", "transient"],
        ]
        assert "loading the model" in reply.outputs[0]["text"]
        assert "Deployed wine/1" in reply.outputs[1]["data"]["text/plain"]
        assert "display_id" not in reply.outputs[1]["transient"], "a console shows no update of one"
    finally:
        kernel.run("environment._starter = found")


def test_progress_is_updated_in_place_and_ends_in_the_result(kernel: Kernel) -> None:
    reply = kernel.run("%dbml sync")
    lines = [output["data"]["text/plain"] for output in reply.outputs]
    assert lines[0].startswith("delivering  databricks 0 left · azureml 1,204 left")
    assert "azureml 12 left" in lines[1]
    assert lines[2].startswith("Delivered databricks 1,204 writes")
    assert len(reply.shown) == 1


def test_an_error_is_lines_and_fails_the_cell(kernel: Kernel) -> None:
    reply = kernel.run("%dbml stauts")
    assert (reply.status, reply.name) == ("error", "BadCommand")
    assert reply.traceback.splitlines()[0].startswith('BadCommand: there is no command "stauts"')
    assert "Traceback" not in reply.traceback


def test_the_last_value_of_a_tracked_cell_is_shown(kernel: Kernel) -> None:
    reply = kernel.run("%%track forest\nimport asyncio\nawait asyncio.sleep(0)\n6 * 7")
    assert reply.shown[0].startswith("Run forest  FINISHED"), "above all else that the cell shows"
    assert reply.shown[1] == "42"
    assert reply.status == "ok"


def test_run_all_stops_at_a_failing_cell(kernel: Kernel) -> None:
    assert kernel.run("%%track\n\n1 / 0").status == "error"
    reply = kernel.run("%%track\nx = 1\n1 / 0")
    assert "line 3" in reply.traceback
    assert kernel.value("fake.tracks[-1].status") == "'FAILED'"
    assert kernel.run("%%track --register wine\nfake.has_model = False").name == "NoModel"
    kernel.run("fake.has_model = True\nfake.linked = False")
    assert kernel.run("%%track\nx = 1").name == "NotLinked"
    kernel.run("fake.linked = True")


@pytest.mark.parametrize("first", ["", "%%time\n"])
def test_an_interrupted_cell_ends_its_run_killed(kernel: Kernel, first: str) -> None:
    cell = f"{first}%%track slow\nprint('begun', flush=True)\nimport time\nwhile True:\n    time.sleep(0.02)"
    reply = kernel.run(cell, interrupt_after="begun")
    assert (reply.status, reply.name) == ("error", "KeyboardInterrupt")
    assert "Run slow  KILLED" in reply.shown[-1]
    assert kernel.value("fake.tracks[-1].status") == "'KILLED'"


@pytest.mark.parametrize(
    "body",
    [
        "%run slow.py\nafter = True",
        "get_ipython().run_cell(open('slow.py').read())\nafter = True",
        "%%capture --no-stdout\n%run slow.py",
        "%%bash\necho begun\nsleep 30",
        "!echo begun && sleep 30",
    ],
)
def test_an_interrupt_of_what_the_cell_runs_ends_its_run_killed(kernel: Kernel, body: str) -> None:
    kernel.run(
        "from pathlib import Path\n"
        "_ = Path('slow.py').write_text('print(\"begun\", flush=True)\\nimport time\\n"
        "for _ in range(1500): time.sleep(0.02)')"
    )
    reply = kernel.run(f"%%track slow --register wine\n{body}", interrupt_after="begun")
    assert reply.status == "error", "Run All stops"
    assert "Run slow  KILLED" in reply.shown[-1]
    assert kernel.value("fake.tracks[-1].status") == "'KILLED'"


@pytest.mark.parametrize(
    "body", ["%run bad.py", "%%capture\n1 / 0", "%%bash\nexit 3", "get_ipython().run_cell('x =')"]
)
def test_an_error_that_a_magic_shows_and_does_not_pass_on_fails_the_tracked_cell(
    kernel: Kernel, body: str
) -> None:
    kernel.run("_ = Path('bad.py').write_text('1 / 0')")
    reply = kernel.run(f"%%track --register wine\n{body}")
    assert (reply.status, kernel.value("fake.tracks[-1].status")) == ("error", "'FAILED'")
    assert reply.traceback, "the reply says what failed"


def test_an_interrupted_wait_ends_its_run_killed(kernel: Kernel) -> None:
    # Short waits: ipykernel does not wake its event loop for an interrupt, it only notes it.
    cell = (
        "%%track slow\nimport asyncio\nprint('begun', flush=True)\nwhile True:\n    await asyncio.sleep(0.02)"
    )
    reply = kernel.run(cell, interrupt_after="begun")
    assert reply.status == "error"
    assert kernel.value("fake.tracks[-1].status") == "'KILLED'"


def test_a_run_after_an_interrupted_one_is_another(kernel: Kernel) -> None:
    assert kernel.run("%%track next\nx = 1").shown[0].startswith("Run next  FINISHED")


@pytest.mark.parametrize(
    ("code", "offered"),
    [
        ("%dbml ", "status"),
        ("%dbml link --tr", "--track"),
        ("%dbml link --track ", "azureml"),
        ("%dbml models w", "wine"),
        ("%dbml register ", "last"),
        ("value = 1\n%dbml experiment $fa", "$fake"),
        ("%%track --auto", "--autolog"),
        ("%%time\n%%track --auto", "--autolog"),
    ],
)
def test_tab_completes(kernel: Kernel, code: str, offered: str) -> None:
    found = kernel.complete(code)
    assert offered in found["matches"]
    fragment = code[found["cursor_start"] : found["cursor_end"]]
    assert all(match.startswith(fragment) for match in found["matches"])


def test_nothing_is_left_in_the_channel(kernel: Kernel) -> None:
    with pytest.raises(queue.Empty):
        kernel.client.get_shell_msg(timeout=0.1)


def test_help_and_descriptions_are_where_the_cursor_is(kernel: Kernel) -> None:
    line = "%dbml register last wine --to both"
    assert kernel.inspect(line, 8).startswith("%dbml register   register a run's model")
    assert "where (the link's registry by default)" in kernel.inspect(line, len(line))
    assert "usage: %dbml COMMAND" in kernel.inspect("%dbml", 5)
    assert "ZeroDivisionError" in kernel.inspect("ZeroDivisionError", 3), "the kernel's own help stays"
    assert kernel.inspect("nothing_of_that_name", 3) == ""
    types = {
        each["text"]: each["type"]
        for each in kernel.complete("%dbml link --tr")["metadata"]["_jupyter_types_experimental"]
    }
    assert types == {"--track": "option: where runs go (both by default)"}
