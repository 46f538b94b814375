"""The scheduler of a destination: what happened and the time in, what to do out; nothing waits or sends."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from dbml_magics.core.delivery.events import (
    Answered,
    Arrived,
    Deliver,
    Delivered,
    Failed,
    Fault,
    LetterFailed,
    MoreDue,
    Passed,
    Ping,
    Rest,
    Stumbled,
    TurnOver,
    Verdict,
    Woken,
    WriteBlocked,
    WriteFailed,
)
from dbml_magics.core.delivery.scheduler import Scheduler
from dbml_magics.core.delivery.upload_backoff import UploadBackoff
from dbml_magics.core.destinations.errors import Blocked, Busy, Unavailable
from dbml_magics.core.model.operations import (
    ChangeRegistry,
    CreateModel,
    CreateRun,
    DeleteModel,
    LogArtifact,
    Operation,
    RegisterVersion,
    UpdateRun,
)
from dbml_magics.core.model.queues import REGISTRY_QUEUE, registration_queue

NOW = 1_000.0
ANSWERED_503 = Unavailable("answers 503")
NOT_SENT = Unavailable("connection refused", sent=False)
DENIED = Unavailable("answers 403", sent=False, denied=True)
ELSEWHERE_BLOCKED = Blocked("waits for the primary")
ELSEWHERE = Unavailable("waits for another process", elsewhere=True)
FILE = LogArtifact("run:a", "model/data.bin", {"size": 1, "data": "eA=="})
BEGIN = CreateRun("0", "me", 1, {})
REGISTRATION = RegisterVersion({"key": "1", "name": "wine"})


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """Return a scheduler whose back-off is drawn from a fixed seed."""
    monkeypatch.setenv("DBML_LINGER", "0.5")
    monkeypatch.setenv("DBML_LONGEST_PAUSE", "60")
    return Scheduler("link", Random(1))


def played(scheduler: Scheduler, parts: dict[str, int], now: float = NOW) -> list[str]:
    """Deliver a round of queues with so many parts each; returns the queues in the order of their parts."""
    follows, order = scheduler.handle(Woken(), now), []
    while follows and isinstance(follows[0], Deliver):
        queue = follows[0].queue
        order.append(queue)
        parts[queue] -= 1
        follows = scheduler.handle(TurnOver(queue, parts[queue] > 0), now)
    return order


def failing(
    scheduler: Scheduler, queue: str, times: int, now: float = NOW, error: Unavailable = ANSWERED_503
) -> float:
    """Let a queue fail so often although the destination answers; returns the time of the last failure."""
    for _ in range(times):
        paused = scheduler.paused(queue)
        now = max(now, paused[1] if paused else now)
        failed = Failed(queue, error)
        assert scheduler.handle(failed, now) == (Ping(failed),)
        scheduler.handle(Answered(failed), now)
    return now


def isolated(scheduler: Scheduler, queue: str = "a", error: Unavailable = ANSWERED_503) -> float:
    """Let a queue fail until its next write is isolated, and no longer; returns the time."""
    now = max(failing(scheduler, queue, 5, error=error), NOW + 15)
    assert scheduler.is_isolated(queue, now)
    return now


def pause_of(scheduler: Scheduler, queue: str, now: float = NOW) -> float:
    """Return for how long a queue is left alone."""
    paused = scheduler.paused(queue)
    assert paused is not None
    return paused[1] - now


# --- rounds


def test_experiments_go_first_and_each_run_gets_a_part_in_turn(scheduler: Scheduler) -> None:
    scheduler.due.update(["b", "a", "link"])
    assert played(scheduler, {"a": 3, "b": 1, "link": 2}) == ["link", "a", "b", "link", "a", "a"]
    assert not scheduler.due


def test_a_round_of_nothing_does_nothing(scheduler: Scheduler) -> None:
    assert scheduler.handle(Woken(), NOW) == ()


def test_a_queue_written_during_a_round_waits_for_the_next(scheduler: Scheduler) -> None:
    scheduler.due.add("a")
    assert scheduler.handle(Woken(), NOW) == (Deliver("a"),)
    scheduler.due.add("b")
    assert scheduler.handle(TurnOver("a", more=False), NOW) == (Rest(0.05),)
    assert scheduler.due == {"b"}


def test_a_round_ends_where_the_destination_goes_away_and_its_pass_is_due(
    scheduler: Scheduler,
) -> None:
    scheduler.due.update("abc")
    assert scheduler.handle(Woken(), NOW) == (Deliver("a"),)
    assert scheduler.handle(TurnOver("a", more=True, pause=3.0), NOW) == (Rest(0.0),)
    assert scheduler.due == {"a", "b", "c"}


@pytest.mark.parametrize(("pause", "rest"), [(0.1, 0.1), (60.0, 0.25)])
def test_no_round_begins_during_an_outage_and_who_waits_waits_on(
    scheduler: Scheduler, pause: float, rest: float
) -> None:
    scheduler.due.add("a")
    assert scheduler.handle(Woken(urgent=True, pause=pause), NOW) == (Rest(rest, urgent=True),)
    assert scheduler.due == {"a"}


def test_after_an_outage_the_round_ends_with_the_question_whether_the_destination_answers(
    scheduler: Scheduler,
) -> None:
    assert scheduler.handle(Woken(troubled=True), NOW) == (Ping(),)
    scheduler.handle(Stumbled("a"), NOW)
    scheduler.due.update("ab")
    assert scheduler.handle(Woken(), NOW) == (Deliver("b"),)
    assert scheduler.handle(TurnOver("b", more=False, troubled=True), NOW) == (Ping(), Rest(0.05))


def test_a_paused_queue_stays_due_and_holds_up_no_other(scheduler: Scheduler) -> None:
    scheduler.handle(Stumbled("a"), NOW)
    scheduler.due.update("ab")
    assert played(scheduler, {"a": 1, "b": 1}) == ["b"]
    assert scheduler.due == {"a"}
    assert played(scheduler, {"a": 1}, NOW + 15) == ["a"]


# --- several at a time


@pytest.fixture
def several(scheduler: Scheduler) -> Scheduler:
    """Return a scheduler that gives turns to three queues at a time."""
    return Scheduler("link", Random(1), lanes=3)


def test_several_queues_have_a_turn_at_a_time_and_each_has_one(several: Scheduler) -> None:
    several.due.update("abcd")
    assert several.handle(Woken(), NOW) == (Deliver("a"), Deliver("b"), Deliver("c"))
    assert several.handle(TurnOver("b", more=True), NOW) == (Deliver("d"),)
    assert several.handle(TurnOver("d", more=False), NOW) == (Deliver("b"),)
    assert several.handle(TurnOver("a", more=False), NOW) == ()
    assert several.handle(TurnOver("b", more=False), NOW) == ()
    several.due.add("c")
    assert several.handle(TurnOver("c", more=False), NOW) == (Rest(0.05),)


def test_experiments_are_made_before_any_run_begins_its_turn(several: Scheduler) -> None:
    several.due.update(["a", "b", "link"])
    assert several.handle(Woken(), NOW) == (Deliver("link"),)
    assert several.handle(TurnOver("link", more=False), NOW) == (Deliver("a"), Deliver("b"))


def test_what_comes_during_a_long_turn_does_not_wait_for_its_end(several: Scheduler) -> None:
    several.due.add("upload")
    assert several.handle(Woken(), NOW) == (Deliver("upload"),)
    several.due.update(["upload", "new"])
    assert several.handle(MoreDue(), NOW) == (Deliver("new"),)
    assert several.due == {"upload"}, "it is due again when its turn is over"
    assert several.handle(TurnOver("new", more=False), NOW) == ()
    assert several.handle(TurnOver("upload", more=False), NOW) == (Rest(0.05),)


def test_runs_that_are_logged_to_now_go_before_a_backlog_and_not_alone(scheduler: Scheduler) -> None:
    scheduler.left.update(f"left{n}" for n in range(3))
    scheduler.due.update(f"live{n}" for n in range(5))
    order = played(scheduler, dict.fromkeys([*scheduler.left, *scheduler.due], 1))
    assert order == ["live0", "live1", "live2", "left0", "live3", "live4", "left1", "left2"]


def test_a_queue_that_lets_another_go_first_gets_no_turn_beside_it(several: Scheduler) -> None:
    several.due.update(["a", "b"])
    assert several.handle(Woken(), NOW) == (Deliver("a"), Deliver("b"))
    several.handle(Failed("a", Blocked("waits", on="b")), NOW)
    assert several.handle(TurnOver("a", more=True), NOW) == (), "b has its turn"
    assert several.handle(TurnOver("b", more=True), NOW) == (Deliver("b"),)
    assert several.handle(TurnOver("b", more=False), NOW) == (Deliver("a"),)


def test_one_turn_alone_looks_whether_an_outage_is_over(several: Scheduler) -> None:
    several.due.update("abc")
    assert several.handle(Woken(troubled=True), NOW) == (Deliver("a"),)
    assert several.handle(TurnOver("a", more=False), NOW) == (Deliver("b"), Deliver("c"))


def test_a_round_that_breaks_off_ends_with_its_last_turn(several: Scheduler) -> None:
    several.due.update("abcd")
    several.left.add("e")
    several.handle(Woken(), NOW)
    assert several.handle(TurnOver("a", more=True, pause=3.0), NOW) == ()
    assert several.handle(TurnOver("b", more=False), NOW) == ()
    assert several.handle(TurnOver("c", more=False, pause=3.0), NOW) == (Rest(0.0),)
    assert (several.due, several.left) == ({"a", "d"}, {"e"})


def test_what_is_waited_for_gets_another_turn_after_one_that_began_before(several: Scheduler) -> None:
    several.due.update([REGISTRY_QUEUE, "run"])
    assert several.handle(Woken(), NOW) == (Deliver(REGISTRY_QUEUE), Deliver("run"))
    waits = Blocked("lets registry writes go first", on=REGISTRY_QUEUE, needed=False)
    several.handle(Failed("run", waits), NOW)
    several.handle(TurnOver("run", more=True), NOW)
    # What the run waits for may have been written since the registry's turn began.
    assert several.handle(TurnOver(REGISTRY_QUEUE, more=False), NOW) == (Deliver(REGISTRY_QUEUE),)
    assert several.judge(WriteBlocked("run", REGISTRATION, waits), NOW) is Verdict.TRY_LATER
    assert several.handle(TurnOver(REGISTRY_QUEUE, more=False), NOW) == (Deliver("run"),)
    assert several.judge(WriteBlocked("run", REGISTRATION, waits), NOW) is Verdict.GO_ON


def test_what_joins_a_round_does_not_look_whether_an_outage_is_over_beside_another(
    several: Scheduler,
) -> None:
    several.due.update("ab")
    assert several.handle(Woken(troubled=True), NOW) == (Deliver("a"),)
    assert several.handle(MoreDue(troubled=True), NOW) == ()
    assert several.handle(TurnOver("a", more=False), NOW) == (Deliver("b"),)


def test_a_round_that_broke_off_goes_on_though_one_of_its_turns_takes_long(several: Scheduler) -> None:
    several.due.update(["upload", "a", "b"])
    several.handle(Woken(), NOW)
    assert several.handle(TurnOver("a", more=True, pause=3.0), NOW) == ()
    assert several.handle(MoreDue(pause=1.0), NOW) == ()
    assert several.handle(TurnOver("b", more=True, pause=1.0), NOW) == ()
    assert several.handle(MoreDue(troubled=True), NOW) == (Deliver("a"),), "one alone looks"
    assert several.handle(TurnOver("a", more=False), NOW) == (Deliver("b"),)


def test_what_is_left_alone_after_a_failure_stays_so_when_more_joins_the_round(several: Scheduler) -> None:
    several.due.update(["a", "b", "c"])
    several.handle(Woken(), NOW)
    several.handle(Failed("a", Busy("takes no more", retry_after=30.0)), NOW)
    several.handle(MoreDue(), NOW)
    several.handle(Failed("b", Blocked("waits", on="a")), NOW)
    assert pause_of(several, "a") == pause_of(several, "b") == 30.0


# --- failures


def test_a_pause_doubles_with_each_failure_up_to_its_bound(scheduler: Scheduler) -> None:
    pauses = []
    for _ in range(10):
        scheduler.handle(Stumbled("a"), NOW)
        pauses.append(pause_of(scheduler, "a"))
    expected = [min(0.1 * 2 ** min(n, 8), 15.0) for n in range(1, 11)]
    assert all(0.7 * mean <= pause <= 1.3 * mean for pause, mean in zip(pauses, expected, strict=True))
    scheduler.handle(Delivered("a"), NOW)
    assert scheduler.paused("a") is None


def test_the_services_own_time_to_wait_is_obeyed(scheduler: Scheduler) -> None:
    failed = Failed("a", Unavailable("answers 503", retry_after=300.0))
    scheduler.handle(Answered(failed), NOW)
    assert pause_of(scheduler, "a") == 300


@pytest.mark.parametrize(
    ("error", "first", "second"),
    [
        (ANSWERED_503, True, True),
        (NOT_SENT, False, False),
        (DENIED, True, True),
        (Unavailable("answers 429", retry_after=5.0), False, True),
        (ELSEWHERE, False, False),
    ],
)
def test_what_was_sent_or_denied_may_be_this_queues_own_trouble(
    scheduler: Scheduler, error: Unavailable, first: bool, second: bool
) -> None:
    failed = Failed("a", error)
    ping = (Ping(failed),)
    assert scheduler.handle(failed, NOW) == (ping if first else ())
    assert scheduler.handle(failed, NOW) == (ping if second else ())
    assert not scheduler.in_trouble("a"), "whether the destination answers is not known yet"


def test_a_blocked_queue_is_looked_at_twice_a_second(scheduler: Scheduler) -> None:
    for _ in range(8):
        scheduler.handle(Failed("a", ELSEWHERE_BLOCKED), NOW)
    assert pause_of(scheduler, "a") <= 0.5 * 1.3
    assert scheduler.trouble is None


def test_a_busy_destination_takes_the_queues_next_write_later(scheduler: Scheduler) -> None:
    scheduler.handle(Failed("a", Busy("an upgrade is under way", retry_after=20.0)), NOW)
    assert scheduler.takes_later("a", NOW)
    assert scheduler.trouble == "an upgrade is under way"
    scheduler.handle(Delivered("a"), NOW)
    assert not scheduler.takes_later("a", NOW)


def test_a_write_is_isolated_after_five_failures_and_fifteen_seconds(scheduler: Scheduler) -> None:
    failing(scheduler, "a", 4)
    assert not scheduler.is_isolated("a", NOW + 1000)
    now = failing(scheduler, "a", 1, NOW + 10)
    assert not scheduler.is_isolated("a", NOW + 14.9)
    assert scheduler.is_isolated("a", NOW + 15)
    assert scheduler.takes_later("a", max(now, NOW + 15))
    assert scheduler.trouble_since == NOW
    scheduler.handle(Arrived("a", 1, own=True), NOW)
    assert not scheduler.is_isolated("a", NOW + 1000)


def test_a_denied_write_has_to_wait_from_its_second_failure(scheduler: Scheduler) -> None:
    failing(scheduler, "a", 1, error=DENIED)
    assert not scheduler.takes_later("a", NOW)
    failing(scheduler, "a", 1, error=DENIED)
    assert scheduler.takes_later("a", NOW)


# --- queues that go before others


@dataclass
class Write:
    """A write that comes after another one, or after a whole queue, or fails."""

    name: str
    on: str = ""
    """The queue that it comes after."""
    of: str = ""
    """The write there, if it is one; else it comes after all of the queue."""
    needed: bool = True
    fails: Unavailable | None = None


class Rounds:
    """Plays rounds of queues, and notes the writes in the order in which they arrive."""

    def __init__(self, scheduler: Scheduler, queues: dict[str, list[Write]]) -> None:
        self._scheduler, self.queues = scheduler, queues
        self.turns: list[str] = []
        self.arrived: list[str] = []

    def play(self, *due: str, now: float = NOW) -> None:
        """Play one round."""
        self.turns.clear()
        self._scheduler.due.update(due)
        follows = self._scheduler.handle(Woken(), now)
        while follows and isinstance(follows[0], Deliver):
            queue = follows[0].queue
            self.turns.append(queue)
            assert len(self.turns) < 50, f"it goes round and round: {self.turns}"
            follows = self._scheduler.handle(TurnOver(queue, self._deliver(queue, now)), now)

    def _deliver(self, queue: str, now: float) -> bool:
        writes = self.queues.get(queue, [])
        while writes:
            error = self._kept_by(queue, writes[0], now)
            if error is not None:
                follows = self._scheduler.handle(Failed(queue, error), now)
                if follows:
                    self._scheduler.handle(Answered(Failed(queue, error)), now)
                return True
            self.arrived.append(writes.pop(0).name)
            self._scheduler.handle(Arrived(queue, 1, own=True), now)
        self._scheduler.handle(Delivered(queue), now)
        return False

    def _kept_by(self, queue: str, write: Write, now: float) -> Unavailable | None:
        if write.of not in self.arrived if write.of else self.queues.get(write.on):
            by = Blocked(f"comes after {write.on}", on=write.on, needed=write.needed)
            if self._scheduler.judge(WriteBlocked(queue, BEGIN, by), now) is not Verdict.GO_ON:
                return by
        return write.fails


def test_what_a_write_comes_after_gets_its_turn_first_and_the_write_comes_back(scheduler: Scheduler) -> None:
    rounds = Rounds(
        scheduler, {"a": [Write("a1"), Write("a2", "b"), Write("a3")], "b": [Write("b1")], "c": [Write("c1")]}
    )
    rounds.play("a", "c")
    assert rounds.turns == ["a", "c", "b", "a"]
    assert rounds.arrived == ["a1", "c1", "b1", "a2", "a3"]
    assert scheduler.paused("a") is None
    assert not scheduler.due


def test_queues_that_come_after_each_other_in_a_row_go_in_that_order(scheduler: Scheduler) -> None:
    queues = {"a": [Write("a1", "b")], "b": [Write("b1", "c")], "c": [Write("c1", "d")], "d": [Write("d1")]}
    rounds = Rounds(scheduler, queues)
    rounds.play("a", "b")
    assert rounds.arrived == ["d1", "c1", "b1", "a1"]


def test_two_that_need_each_other_wait_and_hold_up_no_third(scheduler: Scheduler) -> None:
    rounds = Rounds(scheduler, {"a": [Write("a1", "b")], "b": [Write("b1", "a")], "c": [Write("c1")]})
    rounds.play("a", "b", "c")
    assert rounds.arrived == ["c1"]
    assert scheduler.due == {"a", "b"}
    assert all(0 < pause_of(scheduler, queue) <= 0.5 * 1.3 for queue in "ab")
    rounds.queues["b"][0].on = ""
    rounds.play("a", "b", now=NOW + 1)
    assert rounds.arrived == ["c1", "b1", "a1"]


@pytest.mark.parametrize("first", ["a", "registry"])
def test_of_two_that_wait_for_each_other_the_one_that_need_not_goes_on(
    scheduler: Scheduler, first: str
) -> None:
    """As a registration, and an alias of its version among the registry writes that go before it."""
    registration = Write("version", "registry", needed=False)
    alias = Write("alias", "a", of="version")
    rounds = Rounds(scheduler, {"a": [registration], "registry": [alias]})
    rounds.play(first)
    rounds.play("registry", now=NOW + 1)
    assert rounds.arrived == ["version", "alias"]


@pytest.mark.parametrize("first", ["a", "registry"])
def test_what_waited_for_one_write_of_a_queue_goes_before_the_next_one(
    scheduler: Scheduler, first: str
) -> None:
    """Else a model's deletion between two registrations would take the second version with it."""
    rounds = Rounds(
        scheduler,
        {
            "a": [Write("v1", "registry", needed=False), Write("v2", "registry", needed=False)],
            "registry": [Write("alias of v1", "a", of="v1"), Write("deletion"), Write("alias", "a", of="v2")],
        },
    )
    rounds.play(first)
    rounds.play("registry", now=NOW + 1)
    assert rounds.arrived == ["v1", "alias of v1", "deletion", "v2", "alias"]


def test_what_fails_is_tried_once_for_all_that_come_after_it(scheduler: Scheduler) -> None:
    """And they look again when it is tried again: its back-off is not theirs to shorten."""
    busy = Write("b1", fails=Busy("an upgrade is under way", retry_after=20.0))
    queues = {"b": [busy], **{queue: [Write(queue, "b")] for queue in "acd"}}
    rounds = Rounds(scheduler, queues)
    rounds.play("a", "c", "d")
    assert rounds.turns.count("b") == 1
    assert [pause_of(scheduler, queue) for queue in "abcd"] == [20.0] * 4
    assert scheduler.due == {"a", "c", "d", "b"}
    busy.fails = None
    rounds.play(now=NOW + 19)
    assert rounds.turns == []
    rounds.play(now=NOW + 20)
    assert rounds.arrived[0] == "b1"
    assert sorted(rounds.arrived) == ["a", "b1", "c", "d"]


def test_a_write_that_need_not_wait_goes_on_without_what_fails(scheduler: Scheduler) -> None:
    fails = Write("b1", fails=ANSWERED_503)
    rounds = Rounds(scheduler, {"a": [Write("a1", "b", needed=False)], "b": [fails]})
    rounds.play("a")
    assert (rounds.turns, rounds.arrived) == (["a", "b", "a"], ["a1"])


def test_a_queue_left_alone_after_a_failure_is_tried_for_the_write_that_comes_after_it(
    scheduler: Scheduler,
) -> None:
    scheduler.handle(Stumbled("b"), NOW - 0.1)
    rounds = Rounds(scheduler, {"a": [Write("a1", "b", needed=False)], "b": [Write("b1")]})
    rounds.play("a")
    assert rounds.arrived == ["b1", "a1"]


def test_all_that_waits_is_due_again_where_the_destination_goes_away(scheduler: Scheduler) -> None:
    scheduler.due.add("a")
    assert scheduler.handle(Woken(), NOW) == (Deliver("a"),)
    scheduler.handle(Failed("a", Blocked("comes after b", on="b")), NOW)
    assert scheduler.handle(TurnOver("a", more=True), NOW) == (Deliver("b"),)
    scheduler.handle(Failed("b", NOT_SENT), NOW)
    assert scheduler.handle(TurnOver("b", more=True, pause=3.0), NOW) == (Rest(0.0),)
    assert scheduler.due == {"a", "b"}


# --- what becomes of a write that fails


def verdict(
    scheduler: Scheduler,
    op: Operation,
    now: float,
    error: Unavailable = ANSWERED_503,
    queue: str = "a",
) -> Verdict:
    """Return what becomes of a write."""
    return scheduler.judge(WriteFailed(queue, op, error), now)


@pytest.mark.parametrize(
    "op", [CreateRun("0", "me", 1, {}), UpdateRun("FINISHED", 1), DeleteModel("m-1"), FILE]
)
@pytest.mark.parametrize("error", [NOT_SENT, ELSEWHERE])
def test_a_write_that_may_not_be_at_fault_is_tried_later(
    scheduler: Scheduler, op: Operation, error: Unavailable
) -> None:
    now = isolated(scheduler)
    assert verdict(scheduler, op, now + 1000, error) is Verdict.TRY_LATER


@pytest.mark.parametrize(
    "op", [CreateRun("0", "me", 1, {}), UpdateRun("FINISHED", 1), DeleteModel("m-1"), FILE]
)
def test_a_write_whose_queue_is_not_isolated_is_tried_later(scheduler: Scheduler, op: Operation) -> None:
    failing(scheduler, "a", 4)
    assert verdict(scheduler, op, NOW + 1000) is Verdict.TRY_LATER


def test_a_runs_own_write_that_goes_on_failing_is_tried_alone(scheduler: Scheduler) -> None:
    now = isolated(scheduler)
    assert verdict(scheduler, UpdateRun("FINISHED", 1), now) is Verdict.TRY_ALONE


@pytest.mark.parametrize(
    ("op", "other", "same_kind"),
    [
        (DeleteModel("m-1"), CreateModel({"id": "m-2"}), True),
        (REGISTRATION, ChangeRegistry({"do": "delete"}), True),
        (BEGIN, CreateRun("0", "me", 2, {}), True),
        (BEGIN, CreateModel({"id": "m-2"}), False),
    ],
)
def test_a_write_is_put_aside_once_another_of_its_kind_went_through_meanwhile(
    scheduler: Scheduler, op: Operation, other: Operation, same_kind: bool
) -> None:
    queue = registration_queue("1")
    scheduler.handle(Passed(op), NOW - 1)
    now = isolated(scheduler, queue)
    assert verdict(scheduler, op, now, queue=queue) is Verdict.TRY_LATER
    scheduler.handle(Passed(other), now)
    expected = Verdict.REJECT if same_kind else Verdict.TRY_LATER
    assert verdict(scheduler, op, now, queue=queue) is expected
    assert verdict(scheduler, op, now, queue=REGISTRY_QUEUE) is Verdict.TRY_LATER, "that one did not fail"


def test_a_write_is_given_up_after_eight_failures_and_a_minute(scheduler: Scheduler) -> None:
    failing(scheduler, "a", 8)
    assert verdict(scheduler, DeleteModel("m-1"), NOW + 59) is Verdict.TRY_LATER
    assert verdict(scheduler, DeleteModel("m-1"), NOW + 60) is Verdict.GIVE_UP


def test_a_run_that_nobody_may_create_waits_for_the_right(scheduler: Scheduler) -> None:
    failing(scheduler, "a", 8, error=DENIED)
    assert verdict(scheduler, BEGIN, NOW + 3600, DENIED) is Verdict.TRY_LATER
    assert verdict(scheduler, BEGIN, NOW + 3600) is Verdict.GIVE_UP


def test_a_write_waits_twice_as_long_for_another_queue(scheduler: Scheduler) -> None:
    failing(scheduler, "b", 16)
    for other, expected in (("b", Verdict.GIVE_UP), ("c", Verdict.TRY_LATER)):
        deletion = WriteBlocked("a", DeleteModel("m-1"), Blocked(f"waits for {other}", on=other))
        scheduler.handle(Failed("a", deletion.by), NOW)
        scheduler.handle(TurnOver(other, more=False), NOW)
        assert scheduler.judge(deletion, NOW + 119) is Verdict.TRY_LATER
        assert scheduler.judge(deletion, NOW + 120) is expected


@pytest.mark.parametrize(
    ("op", "queue", "expected"),
    [
        (REGISTRATION, "a", Verdict.MOVE_APART),
        (REGISTRATION, registration_queue("1"), Verdict.TRY_LATER),
        (REGISTRATION, REGISTRY_QUEUE, Verdict.TRY_LATER),
        (ChangeRegistry({"do": "alias"}), REGISTRY_QUEUE, Verdict.TRY_LATER),
        (DeleteModel("m-1"), "a", Verdict.TRY_LATER),
    ],
)
def test_a_registration_that_waits_holds_up_its_run_no_longer(
    scheduler: Scheduler, op: Operation, queue: str, expected: Verdict
) -> None:
    waits = WriteBlocked(queue, op, Blocked("waits for b", on="b"))
    assert scheduler.judge(waits, NOW) is Verdict.TRY_LATER, "b goes first"
    scheduler.handle(Failed(queue, waits.by), NOW)
    scheduler.handle(TurnOver("b", more=False), NOW)
    assert scheduler.judge(waits, NOW) is expected
    elsewhere = WriteBlocked(queue, op, ELSEWHERE_BLOCKED)
    assert scheduler.judge(elsewhere, NOW) is expected, "nothing here can go first"


@pytest.mark.parametrize(
    ("error", "trouble", "moves"),
    [
        (Busy("100 versions are pending", retry_after=5.0), False, True),
        (NOT_SENT, False, False),
        (ANSWERED_503, False, False),
        (ANSWERED_503, True, True),
    ],
)
def test_a_registration_that_is_busy_or_fails_apart_holds_up_its_run_no_longer(
    scheduler: Scheduler, error: Unavailable, trouble: bool, moves: bool
) -> None:
    if trouble:
        for queue in ("a", REGISTRY_QUEUE, registration_queue("1")):
            failing(scheduler, queue, 1)
    expected = Verdict.MOVE_APART if moves else Verdict.TRY_LATER
    assert verdict(scheduler, REGISTRATION, NOW, error) is expected
    for queue in (REGISTRY_QUEUE, registration_queue("1")):
        assert verdict(scheduler, REGISTRATION, NOW, error, queue) is Verdict.TRY_LATER


@pytest.mark.parametrize("known_by", ["its place refuses", "its queue is isolated", "no upload goes through"])
def test_a_file_is_held_that_the_destination_does_not_take_now(scheduler: Scheduler, known_by: str) -> None:
    now, error = NOW, ANSWERED_503
    if known_by == "its place refuses":
        error = Unavailable("the storage answers 403", sent=False, denied=True, apart=True)
    elif known_by == "its queue is isolated":
        now = isolated(scheduler)
    else:
        scheduler.uploads.add(1, NOW)
    assert verdict(scheduler, FILE, now, error) is Verdict.HOLD
    assert verdict(scheduler, FILE, now, NOT_SENT) is Verdict.TRY_LATER


@pytest.mark.parametrize("held", [False, True])
def test_a_dead_letter_that_fails_again_stays_one_if_it_is_held_or_its_queue_isolated(
    scheduler: Scheduler, held: bool
) -> None:
    first = Verdict.HOLD if held else Verdict.TRY_LATER
    assert scheduler.judge(LetterFailed("a", ANSWERED_503, held), NOW) is first
    now = isolated(scheduler)
    assert scheduler.judge(LetterFailed("a", ANSWERED_503, held), now) is Verdict.HOLD
    assert scheduler.judge(LetterFailed("a", NOT_SENT, held), now) is Verdict.TRY_LATER
    assert scheduler.judge(LetterFailed("a", ELSEWHERE, held), now) is Verdict.TRY_LATER


def test_a_fault_of_ours_is_tried_twelve_times(scheduler: Scheduler) -> None:
    fault = Fault("a", {"file": 10})
    verdicts = [scheduler.judge(fault, NOW) for _ in range(12)]
    assert verdicts == [Verdict.TRY_LATER] * 11 + [Verdict.REJECT]
    assert scheduler.judge(Fault("a", {"file": 20}), NOW) is Verdict.TRY_LATER


# --- files that are tried again by themselves


def test_one_held_file_is_tried_while_none_goes_through_and_then_all(scheduler: Scheduler) -> None:
    uploads = scheduler.uploads
    for number in (1, 2, 3):
        uploads.add(number, NOW)
    assert uploads.due(NOW + 14) == []
    assert uploads.due(NOW + 15) == [1]
    uploads.under_way(1, NOW + 15)
    assert uploads.due(NOW + 15) == [2]
    scheduler.handle(Passed(FILE), NOW + 16)
    assert not uploads.closed
    assert uploads.due(NOW + 16) == [1, 2, 3]


def test_a_held_file_is_tried_ever_less_often_up_to_ten_minutes() -> None:
    uploads, pauses = UploadBackoff(), []
    uploads.add(1, NOW)
    for _ in range(8):
        uploads.failed(1, NOW)
        pauses.append(next(s for s in range(0, 700, 15) if uploads.due(NOW + s)))
    assert pauses == [30, 60, 120, 240, 480, 600, 600, 600]
    uploads.arrived(1)
    uploads.under_way(1, NOW)
    assert uploads.due(NOW + 10_000) == []


def test_files_that_an_earlier_process_held_are_taken_over_once() -> None:
    uploads = UploadBackoff()
    uploads.load([1, 2], NOW)
    uploads.arrived(1)
    uploads.load([1, 2], NOW)
    assert uploads.due(NOW + 15) == [2]


# --- gathering


def test_writes_are_gathered_the_longer_the_longer_only_metrics_come(scheduler: Scheduler) -> None:
    assert scheduler.gathering_seconds(NOW, NOW, 1000) == 0.5
    scheduler.steady(NOW - 3)
    scheduler.steady(NOW)
    assert scheduler.gathering_seconds(NOW, NOW, 1000) == 3
    assert scheduler.gathering_seconds(NOW + 100, NOW + 101, 1000) == 4, "ten times the shortest at most"
    scheduler.soon = True
    assert scheduler.gathering_seconds(NOW + 100, NOW + 100, 1000) == 0.5


@pytest.mark.parametrize("hurried", ["", "somebody waits", "a run began"])
def test_a_round_that_nobody_looks_for_shows_that_only_metrics_come(
    scheduler: Scheduler, hurried: str
) -> None:
    scheduler.soon = hurried == "a run began"
    scheduler.due.add("a")
    scheduler.handle(Woken(urgent=hurried == "somebody waits"), NOW)
    assert not scheduler.soon, "the next to begin is another one"
    scheduler.handle(TurnOver("a", more=False), NOW)
    assert scheduler.is_steady is not bool(hurried)


def test_a_full_batch_waits_for_nothing(scheduler: Scheduler) -> None:
    scheduler.steady(NOW - 3600)
    scheduler.handle(Arrived("a", 5_000, own=True), NOW - 10)
    assert scheduler.rate(NOW) == 500
    assert scheduler.gathering_seconds(NOW, NOW, 1000) == 2
    assert scheduler.rate(NOW + 100) == 0


@pytest.mark.parametrize("event", ["nothing came", "another process wrote", "the destination is away"])
def test_gathering_begins_anew(scheduler: Scheduler, event: str) -> None:
    scheduler.steady(NOW)
    if event == "nothing came":
        scheduler.unsteady()
    elif event == "another process wrote":
        scheduler.handle(Arrived("a", 1, own=True), NOW)
        assert scheduler.is_steady
        scheduler.handle(Arrived("a", 1, own=False), NOW)
    else:
        scheduler.handle(Failed("a", NOT_SENT), NOW)
    assert not scheduler.is_steady
