"""The writing side by itself: what is journaled shows in the views of live queues, and wakes delivery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dbml_magics.core.mlflow_private import metric_points
from dbml_magics.core.model.operations import (
    CreateRun,
    DeleteTag,
    LogMetric,
    LogParam,
    Operation,
    SetTag,
    UpdateRun,
)
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import line_of
from dbml_magics.core.outbox.state import State
from dbml_magics.core.run_view import RunView
from dbml_magics.core.runtime.disk_thread import DiskThread
from dbml_magics.core.runtime.lifetime import Lifetime
from dbml_magics.core.runtime.live import LiveQueues
from dbml_magics.core.runtime.own_runs import OwnRuns
from dbml_magics.core.runtime.recorder import Recorder

RUN = "a" * 32
CREATION = CreateRun("7", "me", 1000, {"mlflow.runName": "first"})


class Woken:
    """A sender that notes what it is notified of."""

    def __init__(self) -> None:
        self.notified: list[tuple[str, str]] = []

    def notify(self, queue: str) -> None:
        """Note a write that may wait for others."""
        self.notified.append(("in a while", queue))

    def notify_soon(self, queue: str) -> None:
        """Note a write that others wait to see."""
        self.notified.append(("soon", queue))

    def hurry(self) -> None:
        """Do nothing."""

    def wait_for_arrival(self, seconds: float) -> None:
        """Do nothing."""

    def halt(self) -> None:
        """Do nothing."""

    def come_to_rest(self, until: float) -> bool:
        """Be at rest."""
        return True


class Side:
    """The writing side of a link, whose disk thread never starts."""

    def __init__(self, home: Path) -> None:
        self.journal, self.state = Journal(home), State(home / "state.db")
        self.asked: list[str] = []
        self.live = LiveQueues(self.journal, artifact_uri, self._base)
        lifetime = Lifetime(self.journal, self.state, {}, {}, lambda: True)
        self.disk = DiskThread(self.journal, self.state, lifetime)
        self.recorder = Recorder(self.journal, self.live, artifact_uri, self.disk)
        self.runs = OwnRuns(self.journal, self.state, self.recorder, self.live)

    def _base(self, run_id: str) -> RunView:
        self.asked.append(run_id)
        return RunView(run_id, "7", artifact_uri("run", run_id), "me", 1)

    def run(self) -> RunView:
        """Return the run as it is seen."""
        view = self.live.queue_view(RUN)
        assert view is not None
        assert view.run is not None
        return view.run

    def close(self) -> None:
        """Close the files."""
        self.journal.close()
        self.state.close()


def artifact_uri(kind: str, name: str) -> str:
    """Name the files of a run."""
    return f"dbml://a-link/{kind}s/{name}/artifacts"


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    """Return the writing side of a link."""
    monkeypatch.setattr(DiskThread, "start", lambda self: None)
    side = Side(tmp_path)
    yield side
    side.close()


def test_what_is_journaled_before_a_queue_is_live_and_after_shows_in_its_view(side: Side) -> None:
    side.recorder.write_all(RUN, [CREATION, LogParam("a", "1")])
    assert not side.live.queues, "nobody looked at it yet"
    assert side.run().params == {"a": "1"}
    side.recorder.write(RUN, LogParam("b", "2"))
    side.recorder.log_metric(RUN, "loss", 0.5, 1000, 3, None)
    run = side.run().run()
    assert run.data.params == {"a": "1", "b": "2"}
    assert run.data.metrics == {"loss": 0.5}
    assert run.info.artifact_uri == artifact_uri("run", RUN)
    assert not side.asked, "its beginning is in the journal"


def test_a_run_that_began_elsewhere_is_asked_for_once(side: Side) -> None:
    for step in range(3):
        side.recorder.log_metric(RUN, "loss", 0.5, 1000, step, None)
    assert side.asked == [RUN]
    assert [metric.step for metric in metric_points(side.run().run())] == [2]


def test_a_line_that_an_interrupt_kept_from_the_view_is_folded_before_the_next(side: Side) -> None:
    side.live.begin_queue(RUN)
    side.recorder.write(RUN, CREATION)
    stamp = side.journal.next_stamp(RUN)
    side.journal.append(RUN, line_of(LogParam("lost", "1").encode(stamp)))
    side.recorder.write(RUN, LogParam("next", "2"))
    assert side.run().params == {"lost": "1", "next": "2"}


def test_what_another_process_writes_shows_at_the_next_look(side: Side, tmp_path: Path) -> None:
    side.recorder.write(RUN, CREATION)
    assert side.run().params == {}
    other = Side(tmp_path)
    try:
        other.recorder.write(RUN, LogParam("theirs", "1"))
        assert side.run().params == {"theirs": "1"}
        other.recorder.write(RUN, SetTag("stage", "two"))
        assert side.run().tags["stage"] == "two"
    finally:
        other.close()


def test_a_forked_child_folds_its_parents_queues_anew(side: Side) -> None:
    side.recorder.write(RUN, CREATION)
    before, queues = side.live.begin_queue(RUN), side.live.queues
    side.live.after_fork()
    assert side.live.queues is queues, "the recorder looks into the same"
    assert side.live.begin_queue(RUN) is not before


@pytest.mark.parametrize(
    ("op", "when"),
    [
        (LogMetric("loss", 0.5, 1000, 1), "in a while"),
        (LogParam("a", "1"), "in a while"),
        (SetTag("a", "1"), "in a while"),
        (DeleteTag("a"), "soon"),
        (UpdateRun("FINISHED", 2000), "soon"),
    ],
)
def test_writes_that_batch_leave_delivery_time_and_others_do_not(
    side: Side, op: Operation, when: str
) -> None:
    sender = Woken()
    side.recorder.wake([sender])
    side.recorder.write(RUN, op)
    assert sender.notified == [(when, RUN)]


def test_a_point_wakes_every_workspace(side: Side) -> None:
    senders = [Woken(), Woken()]
    side.recorder.wake(senders)
    side.recorder.log_metric(RUN, "loss", 0.5, 1000, 1, None)
    assert [sender.notified for sender in senders] == [[("in a while", RUN)]] * 2


def test_the_beginning_of_a_run_is_found_in_the_journal(side: Side) -> None:
    assert side.live.creation_of(RUN) is None
    side.recorder.write_all(RUN, [CREATION, LogParam("a", "1")])
    assert side.live.creation_of(RUN) == CREATION


def test_a_few_points_of_a_run_are_kept_as_it_ends(side: Side) -> None:
    side.state.remember_run(RUN, {"name": "x", "ended": False})
    side.recorder.write(RUN, CREATION)
    for step in range(1000):
        side.recorder.log_metric(RUN, "loss", 1000.125 - step, step, step, None)
    for key, value in (("once", 1.0), ("system/cpu", 1.0), ("system/cpu", 2.0)):
        side.recorder.log_metric(RUN, key, value, 1, 0, None)
    for step, value in ((3, 3.0), (1, 1.0), (2, float("nan"))):
        side.recorder.log_metric(RUN, "mixed", value, step, step, None)
    side.run()
    side.runs.note_ended(RUN, True)
    kept = (side.state.run(RUN) or {}).get("curves", {})
    assert kept.keys() == {"loss", "mixed"}
    assert (kept["loss"][0], kept["loss"][-1], len(kept["loss"])) == (1000.0, 1.125, 12)
    assert kept["mixed"] == [1.0, 3.0], "by step, without what is no number"
    side.runs.note_ended(RUN, False)
    assert (side.state.run(RUN) or {}).get("curves") == kept


def test_runs_that_this_process_began_are_open_until_they_end(side: Side) -> None:
    for run in ("one", "two"):
        side.state.remember_run(run, {"name": run, "ended": False})
        side.runs.begun.append(run)
    side.state.remember_run("another's", {"name": "x", "ended": False, "others": True})
    side.state.remember_run("resumed", {"name": "y", "ended": False})
    assert side.runs.open_runs(["another's", "resumed"]) == ["one", "two", "resumed"]
    side.runs.end_run("one", "KILLED")
    assert side.runs.open_runs() == ["two"]
    written = side.live.queue_view("one")
    assert written is not None
    side.runs.after_fork()
    assert side.runs.open_runs() == []
