"""What is on its way and how it is waited for, without a workspace: the test delivers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.link import Link, WorkspaceSpec
from dbml_magics.core.model.operations import CreateRun, LogParam, Operation, UpdateRun
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import line_of
from dbml_magics.core.outbox.state import State
from dbml_magics.core.run_view import RunView
from dbml_magics.core.runtime.asking import Asking
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.doubt import Doubt
from dbml_magics.core.runtime.live import LiveQueues
from dbml_magics.core.runtime.retention import Retention
from dbml_magics.core.runtime.visible_ids import VisibleIds
from dbml_magics.core.runtime.waiting import Waiting

RUN = "a" * 32
ROLES = ("databricks", "azureml")
CREATION = CreateRun("7", "me", 1000, {"mlflow.runName": "first"})


class Delivery:
    """A sender that delivers what it is notified of each time that somebody waits for it."""

    def __init__(self, parts: Parts, role: str) -> None:
        self._parts = parts
        self._role = role
        self._due: set[str] = set()
        self.meanwhile: Callable[[], None] = lambda: None
        self.stuck = False

    def notify(self, queue: str) -> None:
        """Deliver a queue at the next occasion."""
        self._due.add(queue)

    def notify_soon(self, queue: str) -> None:
        """Deliver a queue at the next occasion."""
        self.notify(queue)

    def hurry(self) -> None:
        """Do nothing: it is fast enough."""

    def wait_for_arrival(self, seconds: float) -> None:
        """Deliver what is due, unless nothing moves."""
        if not self.stuck:
            for queue in self._due:
                self._parts.deliver(self._role, queue)
            self._due.clear()
        self.meanwhile()

    def halt(self) -> None:
        """Deliver nothing more."""
        self.stuck = True

    def come_to_rest(self, until: float) -> bool:
        """Tell whether nothing more is delivered."""
        return self.stuck


class Parts:
    """The parts of a link that need no workspace."""

    def __init__(self, home: Path) -> None:
        self.link = Link(str(home), tuple(WorkspaceSpec(role, f"http://{role}.test") for role in ROLES))
        self.journal, self.state = Journal(home), State(home / "state.db")
        self.health = {role: Health() for role in ROLES}
        self.overflowing: set[str] = set()
        self.cleared: list[str] = []
        self.backlog = Backlog(self.journal, self.state, lambda _: self.overflowing)
        self.senders = {role: Delivery(self, role) for role in ROLES}
        self.waiting = Waiting(
            self.link, self.state, self.backlog, self.health, self.senders, lambda _: self.overflowing
        )
        self.ids = VisibleIds(self.link, self.state, lambda role, actual: f"{role}'s {actual}")
        self.live = LiveQueues(self.journal, self.ids.artifact_uri, self._base)
        self.retention = Retention(
            self.link,
            self.journal,
            self.state,
            self.live,
            self.backlog,
            self.health,
            self.senders,
            self.cleared.append,
        )
        self.witnesses = {role: self.journal.witness(role, n) for n, role in enumerate(ROLES, start=1)}
        self.doubt = Doubt(self.link, self.journal, self.state, self.witnesses)

    def _base(self, run_id: str) -> RunView:
        return RunView(run_id, "7", "", "me", 1)

    def write(self, *ops: Operation, queue: str = RUN, journal: Journal | None = None) -> None:
        """Journal writes."""
        journal = journal or self.journal
        for op in ops:
            journal.append(queue, line_of(op.encode(journal.next_stamp(queue))))

    def deliver(self, role: str, queue: str = RUN) -> None:
        """Note that all of a queue has arrived at a workspace."""
        files = self.journal.files(queue)
        self.state.mark_delivered(role, queue, files, len(files))

    def close(self) -> None:
        """Close the files."""
        self.journal.close()
        self.state.close()
        for witness in self.witnesses.values():
            witness.close()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Return the parts of a new link."""
    parts = Parts(tmp_path)
    yield parts
    parts.close()


@pytest.fixture
def other(tmp_path: Path, parts: Parts) -> Iterator[Journal]:
    """Return the journal as another living process of the link has it open."""
    journal = Journal(tmp_path)
    parts.write(CREATION, queue="theirs", journal=journal)
    yield journal
    journal.close()


# --- the backlog


def test_a_queue_waits_for_each_workspace_by_itself(parts: Parts) -> None:
    assert not parts.backlog.is_waiting("azureml", RUN)
    parts.write(CREATION, LogParam("a", "1"))
    parts.deliver("databricks")
    assert parts.backlog.queues("databricks") == []
    assert parts.backlog.queues("azureml") == [RUN]
    count, age = parts.backlog.waiting("azureml")
    assert count == 2
    assert 0 <= age < 60
    assert parts.backlog.waiting("databricks") == (0, 0.0)


def test_rows_of_an_overflow_file_count_until_it_is_written(parts: Parts) -> None:
    parts.overflowing.add(RUN)
    assert parts.backlog.waiting("azureml")[0] == 1
    assert parts.backlog.count("azureml", {}) == 1


def test_what_a_living_process_writes_is_its_own_to_deliver(parts: Parts, other: Journal) -> None:
    parts.write(CREATION)
    assert set(parts.backlog.own_goal("azureml")) == {RUN}
    assert parts.backlog.count("azureml", parts.backlog.own_goal("azureml")) == 1
    other.close()
    assert set(parts.backlog.own_goal("azureml")) == {RUN, "theirs"}


# --- waiting


def test_a_wait_ends_when_what_was_journaled_has_arrived(parts: Parts) -> None:
    parts.write(CREATION)
    assert parts.waiting.wait("azureml", timeout=60)
    assert not parts.backlog.is_waiting("azureml", RUN)
    assert parts.backlog.is_waiting("databricks", RUN), "nobody waited for it"


def test_a_wait_for_a_goal_leaves_out_what_comes_meanwhile(parts: Parts) -> None:
    parts.write(CREATION)
    parts.senders["azureml"].meanwhile = lambda: parts.write(LogParam("later", "1"))
    assert parts.waiting.wait("azureml", timeout=60, goal=parts.backlog.goal())
    assert parts.backlog.is_waiting("azureml", RUN)


def test_a_wait_ends_at_its_time_and_where_the_caller_gives_up(parts: Parts) -> None:
    parts.write(CREATION)
    parts.senders["azureml"].stuck = True
    assert not parts.waiting.wait("azureml", timeout=0)
    asked: list[int] = []

    def give_up() -> bool:
        asked.append(1)
        return len(asked) == 2

    assert not parts.waiting.wait("azureml", give_up=give_up)
    assert len(asked) == 2


def test_a_wait_for_both_tells_what_is_missing_where(parts: Parts) -> None:
    parts.write(CREATION)
    parts.write(LogParam("p", "1"), queue="link")
    parts.senders["azureml"].stuck = True
    missing = parts.waiting.wait_at({role: [RUN] for role in ROLES}, 0.2)
    assert missing == {"azureml": parts.backlog.goal([RUN])}
    assert parts.backlog.queues("databricks") == ["link"], "nobody waited for the other queue"
    parts.senders["azureml"].stuck = False
    assert parts.waiting.wait_at({"azureml": ["link"], "databricks": [RUN]}, 60) == {}


def test_a_wait_for_both_has_one_deadline_and_hurries_both_at_once(parts: Parts) -> None:
    parts.write(CREATION)
    hurried: list[str] = []
    for role, sender in parts.senders.items():
        sender.stuck = True
        sender.meanwhile = lambda role=role: hurried.append(role)  # type: ignore[misc]
    began = time.monotonic()
    assert [*parts.waiting.wait_at(dict.fromkeys(ROLES), 0.5)] == [*ROLES]
    assert 0.5 <= time.monotonic() - began < 30
    assert {*hurried[:2]} == {*ROLES}


def test_a_wait_for_both_goes_on_while_the_caller_gives_up_one_of_them(parts: Parts) -> None:
    parts.write(CREATION)
    parts.senders["databricks"].stuck = True
    asked: list[str] = []

    def give_up(role: str) -> bool:
        asked.append(role)
        if len(asked) > 3:
            parts.senders["databricks"].stuck = False
        return role == "azureml"

    assert parts.waiting.wait_at(dict.fromkeys(ROLES), give_up=give_up) == {}
    assert "databricks" in asked


def test_an_overflow_file_that_is_being_written_is_missing_where_all_is_waited_for(parts: Parts) -> None:
    parts.overflowing.add(RUN)
    assert parts.waiting.wait_at({"azureml": None}, 0) == {"azureml": {}}
    assert parts.waiting.wait_at({"azureml": [RUN]}, 0) == {}


def test_everything_is_waited_for_until_all_that_is_behind_is_away(parts: Parts) -> None:
    parts.write(CREATION)
    parts.senders["azureml"].stuck = True
    parts.health["azureml"].away = True
    assert [*parts.waiting.wait_for_everything(ROLES)] == ["azureml"]
    assert parts.backlog.waiting("databricks")[0] == 0
    assert parts.waiting.wait_for_everything(["databricks"]) == {}


def test_what_delivery_writes_in_turn_is_waited_for_too(parts: Parts) -> None:
    parts.write(CREATION)
    sender, after = parts.senders["azureml"], [LogParam("a", "1")]

    def write_in_turn() -> None:
        if after:
            parts.write(after.pop(), queue="link")

    sender.meanwhile = write_in_turn
    assert parts.waiting.wait_for_everything(["azureml"]) == {}
    assert parts.backlog.waiting("azureml")[0] == 0


def test_in_sync_mode_each_refusal_is_raised_once(parts: Parts) -> None:
    parts.state.reject("databricks", RUN, ["p", "old", "1"], "refused before")
    parts.waiting.begin_sync_mode()
    parts.write(CREATION)
    parts.waiting.wait_for_primary(RUN)
    parts.state.reject("databricks", RUN, ["p", "new", "1"], "a value that changed")
    with pytest.raises(MlflowException, match="databricks refused the write: a value that changed"):
        parts.waiting.wait_for_primary(RUN)
    parts.waiting.wait_for_primary(RUN)


def test_in_sync_mode_a_primary_that_is_away_is_raised(parts: Parts) -> None:
    parts.write(CREATION)
    parts.senders["databricks"].stuck = True
    parts.health["databricks"].trouble(Unavailable("no route", denied=True))
    with pytest.raises(Unavailable, match="no route; the write waits in the journal"):
        parts.waiting.wait_for_primary(RUN)


@pytest.mark.full
def test_a_search_warns_once_of_what_is_missing(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.write(CREATION)
    for role in ROLES:
        parts.health[role].away = True
    parts.waiting.wait_for_reads("search_runs")
    assert not caplog.messages, "nobody answers at all"
    parts.health["azureml"].away = False
    parts.senders["azureml"].stuck = True
    for _ in range(2):
        parts.waiting.wait_for_reads("search_runs")
    (said,) = caplog.messages
    assert said.startswith("search_runs: 1 writes are still on their way to azureml")


# --- retention


def test_a_queue_goes_once_it_is_delivered_everywhere_and_its_run_has_ended(parts: Parts) -> None:
    parts.state.remember_run(RUN, {"name": "first", "ended": False})
    parts.write(CREATION, UpdateRun("FINISHED", 2000))
    parts.live.begin_queue(RUN)
    parts.deliver("databricks")
    parts.retention.tidy(RUN)
    assert parts.journal.queues() == [RUN], "the mirror has not got it"
    parts.deliver("azureml")
    parts.retention.tidy(RUN)
    assert parts.journal.queues() == [RUN], "it lives"
    parts.state.remember_run(RUN, {"name": "first", "ended": True})
    parts.retention.tidy(RUN)
    assert parts.journal.queues() == []
    assert RUN not in parts.live.queues
    assert parts.cleared == [RUN]


def test_a_run_that_another_process_logs_to_keeps_its_queue(parts: Parts, other: Journal) -> None:
    parts.state.remember_run("theirs", {"name": "first", "ended": False})
    for role in ROLES:
        parts.deliver(role, "theirs")
    parts.retention.tidy("theirs")
    assert parts.journal.queues() == ["theirs"]
    other.close()
    parts.retention.tidy("theirs")
    assert parts.journal.queues() == []


# --- doubt


def test_what_a_process_that_ended_left_is_in_doubt_and_ones_own_is_not(parts: Parts, other: Journal) -> None:
    parts.write(CREATION)
    parts.doubt.begin_delivery("azureml")
    assert parts.state.cursors("azureml", "theirs") == {}, "its process lives"
    other.close()
    parts.doubt.begin_delivery("azureml")
    ((offset, sending),) = parts.state.cursors("azureml", "theirs").values()
    assert (offset, sending) == (0, sum(parts.journal.files("theirs").values()))
    assert parts.state.cursors("azureml", RUN) == {}


def test_in_a_restored_folder_all_that_others_wrote_is_in_doubt(
    parts: Parts, other: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    parts.witnesses["azureml"].note(7)  # steps that this state has not seen
    parts.doubt.begin_delivery("azureml")
    assert parts.state.cursors("azureml", "theirs")
    assert "is older than what was delivered from it to " in caplog.text
    assert other.files("theirs")


# --- ids and questions


def test_ids_that_differ_at_a_workspace_are_translated_and_others_stay(parts: Parts) -> None:
    ids = parts.ids
    parts.state.set_identity("azureml", "run", RUN, "their-id")
    assert (ids.run("their-id"), ids.run("unknown")) == (RUN, "unknown")
    assert ids.experiment("7") == "databricks's 7"
    assert ids.artifact_uri("model", "m-1") == f"dbml://{parts.link.key}/models/m-1/artifacts"


def test_the_mirror_answers_while_the_primary_is_away(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking[str](parts.link, parts.health, lambda role: role)
    assert asking.answered(str.upper) == ("databricks", "DATABRICKS")
    parts.health["databricks"].trouble(Unavailable("no route", denied=True))
    assert asking.answered(str.upper) == ("azureml", "AZUREML")
    with pytest.raises(Unavailable, match="no route"):
        asking.ask_primary(str.upper)
    parts.health["azureml"].trouble(Unavailable("no route either", denied=True))
    with pytest.raises(Unavailable) as raised:
        asking.read(str.upper)
    assert "neither databricks nor azureml answers: no route" in str(raised.value)
