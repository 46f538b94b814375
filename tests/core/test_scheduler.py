"""The scheduler of a destination: what happened and the time in, what to do out; nothing waits or sends."""

from __future__ import annotations

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
        scheduler.handle(Failed("a", Blocked("waits for b", on="b")), NOW)
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
@pytest.mark.parametrize("error", [NOT_SENT, ELSEWHERE, Blocked("waits for b", on="b")])
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
    assert scheduler.judge(WriteBlocked("b"), NOW + 119) is Verdict.TRY_LATER
    assert scheduler.judge(WriteBlocked("b"), NOW + 120) is Verdict.GIVE_UP
    assert scheduler.judge(WriteBlocked("c"), NOW + 120) is Verdict.TRY_LATER


@pytest.mark.parametrize(
    ("error", "trouble", "moves"),
    [
        (Blocked("waits for b", on="b"), False, True),
        (Busy("100 versions are pending", retry_after=5.0), False, True),
        (NOT_SENT, False, False),
        (ANSWERED_503, False, False),
        (ANSWERED_503, True, True),
    ],
)
def test_a_registration_that_waits_or_fails_apart_holds_up_its_run_no_longer(
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
