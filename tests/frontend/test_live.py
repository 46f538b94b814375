"""The live view under a tracked cell: what a front end is sent, when, and what stays."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from textwrap import indent
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from dbml_magics.common import environment
from dbml_magics.core.interrupts import Flag
from dbml_magics.notebook import display, live
from dbml_magics.results.compare import Curve
from dbml_magics.results.link import Destination
from dbml_magics.results.live import FinishedRun, LiveMetric, LoggedFile, RunProgress, charts, diverged
from tests.frontend.fakes import FakeSession, FakeTrack
from tests.frontend.test_kernel import Kernel, kernel

__all__ = ["kernel"]

# The cell goes on until its live view has been looked at often enough, so that no test waits for a clock.
UNTIL_SEEN = (
    "end, track = time.monotonic() + 30, fake.tracks[-1]\n"
    "looks, look = [], track.look\n"
    "track.look = lambda: (looks.append(time.monotonic()), look())[1]\n"
    "while len(looks) < 4 and time.monotonic() < end:\n"
    "    time.sleep(0.02)\n"
)
SLOW = f"%%track slow\nimport time\n{UNTIL_SEEN}"
BLOCK = f"import time, dbml_magics as dbml\nwith dbml.track('slow') as run:\n{indent(UNTIL_SEEN, '    ')}"


def test_a_running_cell_shows_its_run_in_one_output_that_ends_in_the_summary(kernel: Kernel) -> None:
    reply = kernel.run(SLOW)
    assert reply.status == "ok", reply.traceback
    data = [output["data"] for output in reply.outputs if "data" in output]
    views = [each for each in data if "Run slow  RUNNING" in each["text/plain"]]
    assert len(views) >= 2
    assert "databricks ✓ delivered" in views[0]["text/plain"]
    assert "metrics     loss 0.3" in views[0]["text/plain"]
    assert 'alt="curve of loss: from 1 to 0.3 over steps 0 to 4"' in views[0]["text/html"]
    ended = [shown for shown in reply.shown if shown.startswith("Run slow")]
    assert len(ended) == 1
    assert "FINISHED in 2.1 s" in ended[0]
    last = next(each for each in data if "FINISHED" in each["text/plain"])
    assert "curve of loss" in last["text/html"], "the charts stay below the summary"
    assert not any("widget-view" in kind for kind in last)


def test_a_tracked_block_is_shown_as_a_tracked_cell_is(kernel: Kernel) -> None:
    reply = kernel.run(BLOCK)
    assert reply.status == "ok", reply.traceback
    shown = [output["data"]["text/plain"] for output in reply.outputs if "data" in output]
    assert any("Run slow  RUNNING" in each for each in shown)
    assert [each for each in reply.shown if each][-1].startswith("Run slow  FINISHED in 2.1 s")
    assert kernel.value("run").startswith("Run slow  FINISHED")


def test_a_block_that_is_over_at_once_leaves_no_output(kernel: Kernel) -> None:
    reply = kernel.run(
        "import dbml_magics as dbml\nfor n in range(3):\n    with dbml.track(f'{n}'):\n        pass"
    )
    assert reply.status == "ok", reply.traceback
    assert not reply.shown


def test_what_a_cell_prints_stays_together_in_its_order(kernel: Kernel) -> None:
    reply = kernel.run(SLOW.replace("import time", "import time; print('first')", 1) + "print('last')\n")
    assert reply.status == "ok", reply.traceback
    kinds = ["text" if "text" in output else "display" for output in reply.outputs]
    assert kinds[0] == "display", "the place of the view and of the summary"
    assert reply.printed.split() == ["first", "last"]
    assert reply.shown[0].startswith("Run slow  FINISHED")


def test_updates_come_twice_a_second_at_the_most(kernel: Kernel) -> None:
    kernel.run(SLOW)
    gaps = kernel.value("min(b - a for a, b in zip(looks[:-1], looks[1:-1]))  # the last one is the end's")
    assert float(gaps) >= 0.49


def test_a_view_that_fails_is_not_noticed_by_the_cell(kernel: Kernel) -> None:
    reply = kernel.run(
        "%%track\nimport time\nlooks, end = [], time.monotonic() + 30\n"
        "def fails():\n    looks.append(1)\n    raise RuntimeError('ours')\n"
        "fake.tracks[-1].look = fails\n"
        "while not looks and time.monotonic() < end:\n    time.sleep(0.02)\n"
    )
    assert reply.status == "ok"
    assert not reply.printed
    assert [shown.split("  ")[1] for shown in reply.shown if shown] == ["FINISHED in 2.1 s"]


def test_a_look_that_fails_once_is_made_again(kernel: Kernel) -> None:
    once = UNTIL_SEEN.replace("track.look = lambda: (looks.append(time.monotonic()), look())[1]", "")
    reply = kernel.run(
        f"%%track slow\nimport time\n{once}".replace(
            "looks, look = [], track.look\n",
            "looks, look = [], track.look\n"
            "def fails_once():\n"
            "    looks.append(time.monotonic())\n"
            "    if len(looks) == 1:\n"
            "        raise RuntimeError('ours')\n"
            "    return look()\n"
            "track.look = fails_once\n",
        )
    )
    assert reply.status == "ok", reply.traceback
    views = [o["data"]["text/plain"] for o in reply.outputs if "RUNNING" in str(o.get("data"))]
    assert views, "the view goes on after the look that failed"


class Recorded:
    """An output in a notebook that takes down what is shown in it."""

    every: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.shown = False

    def put(self, bundle: Any) -> None:
        self.shown = True
        self.every.append(bundle["text/plain"])

    def end_in(self, result: Any) -> None:
        self.every.append(result.text())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what live views of a front end without widgets show, in its order."""
    monkeypatch.setattr(Recorded, "every", [])
    monkeypatch.setattr(display, "Place", Recorded)
    monkeypatch.setattr(live, "_FIRST_S", 0.01)
    monkeypatch.setattr(live, "_SHORTEST_S", 0.01)
    return Recorded.every


def seen(shown: list[Any], least: int) -> bool:
    end = time.monotonic() + 30
    while len(shown) < least and time.monotonic() < end:
        time.sleep(0.01)
    return len(shown) >= least


def test_nothing_is_drawn_after_the_summary(recorded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_JOIN_S", 0.05)
    track: Any = FakeTrack(FakeSession(), "forest", {})
    progress: RunProgress = track.look()
    goes_on, looks = threading.Event(), list[int]()

    def slow() -> RunProgress:
        looks.append(1)
        if len(looks) > 1:
            assert goes_on.wait(30)
        return progress

    track.look = slow
    view = live.LiveView(track, SimpleNamespace(), leaves_short=True)
    view.start()
    assert seen(looks, 2)
    view.end(track.end())
    ended = list(recorded)
    goes_on.set()
    view._thread.join(30)
    assert not view._thread.is_alive()
    assert recorded == ended
    assert recorded[-1].startswith("Run forest  FINISHED")


def test_no_button_takes_the_place_of_the_summary(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_SUBSHELL_S", -1.0)  # it looks for a way for clicks no longer
    place, over = display.Place(), Flag()
    over.set()
    stop = live._Stop(SimpleNamespace(), place)
    before = list(recorded)
    stop.show(over, threading.Lock())
    assert recorded == before


def test_a_view_that_goes_on_failing_says_so_and_is_left(recorded: list[Any]) -> None:
    track: Any = FakeTrack(FakeSession(), "forest", {})
    progress: RunProgress = track.look()
    looks = list[int]()

    def fails() -> RunProgress:
        looks.append(1)
        if len(looks) > 1:
            raise RuntimeError("ours")
        return progress

    track.look = fails
    view = live.LiveView(track, SimpleNamespace(), leaves_short=True)
    view.start()
    view._thread.join(30)
    assert "This view is not brought up to date any more" in recorded[-1]
    view.end(track.end())
    assert recorded[-1].startswith("Run forest  FINISHED")


def test_a_setting_switches_it_off(kernel: Kernel) -> None:
    kernel.run("import os\nos.environ['DBML_LIVE'] = 'off'")
    try:
        reply = kernel.run("%%track\nimport threading\nnames = [t.name for t in threading.enumerate()]")
        assert reply.status == "ok"
        assert "dbml-live" not in kernel.value("names")
    finally:
        kernel.run("del os.environ['DBML_LIVE']")


def test_the_thread_is_gone_when_the_cell_is(kernel: Kernel) -> None:
    kernel.run("%%track\nx = 1")
    assert "dbml-live" not in kernel.value("[t.name for t in __import__('threading').enumerate()]")


def attended(**kernel_: Any) -> Any:
    return SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True, **kernel_))


def test_nobody_watches_a_notebook_that_runs_unattended() -> None:
    assert environment.updates_displays(attended())
    assert environment.shows_widgets(attended())
    unattended = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False))
    assert not environment.updates_displays(unattended)
    assert not environment.shows_widgets(unattended)
    terminal = SimpleNamespace()
    assert not environment.updates_displays(terminal)
    assert not environment.shows_widgets(terminal)


def test_a_console_shows_neither_updates_nor_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_starter", lambda: "jupyter-console")
    assert not environment.updates_displays(attended())
    assert not environment.shows_widgets(attended())


@pytest.mark.parametrize(
    ("runtime", "widgets"),
    [("15.4", True), ("10.4", False), ("client.2.1", True), ("17.0.x-scala2.13", True)],
)
def test_databricks_shows_widgets_and_no_updates(
    monkeypatch: pytest.MonkeyPatch, runtime: str, widgets: bool
) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", runtime)
    assert not environment.updates_displays(attended())
    assert environment.shows_widgets(attended()) is widgets
    monkeypatch.setenv("DB_IS_JOB_CLUSTER", "TRUE")
    assert not environment.shows_widgets(attended())


def test_a_click_reaches_a_busy_kernel_by_a_subshell_alone() -> None:
    def with_subshells(*names: str) -> Any:
        manager = SimpleNamespace(list_subshell=lambda: list(names))
        return attended(shell_channel_thread=SimpleNamespace(manager=manager))

    assert environment.way_to_busy_kernel(with_subshells("a", "b")) == "b"
    assert environment.way_to_busy_kernel(with_subshells()) is None
    assert environment.way_to_busy_kernel(attended()) is None, "VS Code's kernels, older kernels"
    assert environment.way_to_busy_kernel(None) is None


def line(key: str, points: int) -> LiveMetric:
    steps = tuple(float(n) for n in range(points))
    return LiveMetric(key, 0.5, Curve(steps, tuple(1 / (n + 1) for n in range(points)), points))


def test_fifty_metrics_are_eight_charts_and_columns_of_the_rest() -> None:
    shown = charts([line(f"metric {n} <b>", 90) for n in range(50)])
    assert shown.count("<figure") == 8
    assert shown.count("<li") == 42
    assert "<b>" not in shown
    assert len(shown) < 130_000
    assert shown.count('alt="curve of ') == 50, "each curve says in words what it shows"


def test_what_logs_no_curve_is_a_number() -> None:
    shown = charts([LiveMetric("accuracy", 0.9, Curve(count=1))])
    assert "<img" not in shown
    assert "accuracy <strong>0.9</strong>" in shown


def test_a_run_of_few_points_has_no_empty_charts() -> None:
    shown = charts([line("loss", 3)])
    assert "<figure" not in shown
    assert shown.count('alt="curve of loss') == 1


def test_what_is_measured_of_the_machine_is_a_group_of_its_own() -> None:
    shown = charts([line("system/cpu", 90), line("loss", 90)])
    assert shown.count("<figure") == 1
    assert shown.index("loss") < shown.index("the machine") < shown.index("cpu <strong>")


def test_a_metric_tells_its_best_value_or_its_lowest_and_highest() -> None:
    steps = (0.0, 1.0, 2.0)
    assert LiveMetric("loss", 0.5, Curve(steps, (1.0, 0.25, 0.5), 3)).told == "0.5 (★ 0.25)"
    assert LiveMetric("depth", 0.5, Curve(steps, (1.0, 0.25, 0.5), 3)).told == "0.5 (0.25 to 1)"
    assert LiveMetric("depth", 0.5, Curve(steps, (0.5, 0.5, 0.5), 3)).told == "0.5"


def test_logged_images_are_seen_and_files_are_named() -> None:
    uri = "data:image/png;base64,AAAA"
    files = (
        LoggedFile("images/pairs+step+7+timestamp+1733000000000+0123.png", 61_000, uri),
        LoggedFile("notes/<b>.txt", 12),
    )
    progress = RunProgress("a" * 32, "forest", "wine", "RUNNING", 41.0, files=files)
    assert "  artifacts   pairs step 7 61 kB, notes/<b>.txt 12 B" in progress.text().splitlines()
    for shown in (progress.html(), FinishedRun(FakeTrack(FakeSession(), None, {}).end(), (), files).html()):
        assert shown.count(f'src="{uri}"') == 1
        assert "<b>" not in shown


def test_a_metric_that_diverged_is_told_at_once() -> None:
    lost = LiveMetric("loss", math.nan, Curve((0.0, 1.0), (1.0, math.nan), 900, 88, lost=812.0))
    progress = RunProgress("a" * 32, "forest", "wine", "RUNNING", 41.0, metrics=(lost, line("f1", 9)))
    said = "✗ loss diverged: NaN since step 812 (88 points of 900 not finite)"
    assert progress.text().splitlines()[-1] == f"  {said}"
    assert said in progress.html()
    summary = FakeTrack(FakeSession(), "forest", {}).end()
    assert FinishedRun(summary, (lost,)).text() == f"{summary.text()}\n  {said}"
    assert said in FinishedRun(summary, (lost,)).html()
    many = [replace(lost, key=f"loss{n}") for n in range(9)]
    assert diverged(many)[4:] == ["✗ 5 more metrics diverged"]


def test_a_view_says_how_far_each_workspace_is_behind() -> None:
    away = Destination(
        "azureml", "mlflow", "u", "p", pending=1204, lag_seconds=41.0, last_error="timed out", away=True
    )
    progress = RunProgress("a" * 32, "forest", "wine", "RUNNING", 41.0, destinations=(away,))
    assert "azureml … 1,204 writes waiting: timed out, trying again, 41.0 s behind" in progress.text()
    assert "41.0 s behind" in progress.html()


def test_the_end_says_what_the_summary_says() -> None:
    summary = FakeTrack(FakeSession(), "forest", {}).end()
    assert FinishedRun(summary, ()).text() == summary.text()
    assert "Run forest" in FinishedRun(summary, (line("loss", 96),)).html()
