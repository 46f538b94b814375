"""The scheduler of a destination: events and the time in, the next queue out."""

from __future__ import annotations

from random import Random

import pytest

from dbml_magics.core.delivery.scheduler import Scheduler
from dbml_magics.core.destinations.errors import Blocked, Busy, Unavailable

NOW = 1_000.0
ANSWERED_503 = Unavailable("answers 503")
NOT_SENT = Unavailable("connection refused", sent=False)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """Return a scheduler whose back-off is drawn from a fixed seed."""
    monkeypatch.setenv("DBML_LINGER", "0.5")
    monkeypatch.setenv("DBML_LONGEST_PAUSE", "60")
    return Scheduler("link", Random(1))


def played(scheduler: Scheduler, parts: dict[str, int], now: float = NOW) -> list[str]:
    """Deliver a round of queues with so many parts each; returns the queues in the order of their parts."""
    scheduler.begin_round()
    order = []
    while (queue := scheduler.next(now)) is not None:
        order.append(queue)
        parts[queue] -= 1
        if parts[queue]:
            scheduler.again(queue)
    return order


def failing(scheduler: Scheduler, queue: str, times: int, now: float = NOW) -> float:
    """Let a queue fail so often although the destination answers; returns the time of the last failure."""
    for _ in range(times):
        paused = scheduler.paused(queue)
        now = max(now, paused[1] if paused else now)
        assert scheduler.unavailable(queue, ANSWERED_503, now)
        scheduler.isolate(queue, ANSWERED_503, now)
    return now


# --- rounds


def test_experiments_go_first_and_each_run_gets_a_part_in_turn(scheduler: Scheduler) -> None:
    scheduler.due.update(["b", "a", "link"])
    assert played(scheduler, {"a": 3, "b": 1, "link": 2}) == ["link", "a", "b", "link", "a", "a"]
    assert not scheduler.due


def test_a_queue_written_during_a_round_waits_for_the_next(scheduler: Scheduler) -> None:
    scheduler.due.add("a")
    scheduler.begin_round()
    assert scheduler.next(NOW) == "a"
    scheduler.due.add("b")
    assert scheduler.next(NOW) is None
    assert scheduler.due == {"b"}


def test_a_postponed_round_leaves_all_of_its_pass_due(scheduler: Scheduler) -> None:
    scheduler.due.update("abc")
    scheduler.begin_round()
    assert scheduler.next(NOW) == "a"
    scheduler.postpone()
    assert scheduler.next(NOW) is None
    assert scheduler.due == {"a", "b", "c"}


def test_a_paused_queue_stays_due_and_holds_up_no_other(scheduler: Scheduler) -> None:
    scheduler.stumbled("a", NOW)
    scheduler.due.update("ab")
    assert played(scheduler, {"a": 1, "b": 1}) == ["b"]
    assert scheduler.due == {"a"}
    assert played(scheduler, {"a": 1}, NOW + 15) == ["a"]


# --- failures


def test_a_pause_doubles_with_each_failure_up_to_its_bound(scheduler: Scheduler) -> None:
    pauses = []
    for _ in range(10):
        scheduler.stumbled("a", NOW)
        paused = scheduler.paused("a")
        assert paused is not None
        pauses.append(paused[1] - NOW)
    expected = [min(0.1 * 2 ** min(n, 8), 15.0) for n in range(1, 11)]
    assert all(0.7 * mean <= pause <= 1.3 * mean for pause, mean in zip(pauses, expected, strict=True))
    scheduler.delivered("a")
    assert scheduler.paused("a") is None


def test_the_services_own_time_to_wait_is_obeyed(scheduler: Scheduler) -> None:
    scheduler.isolate("a", Unavailable("answers 503", retry_after=300.0), NOW)
    paused = scheduler.paused("a")
    assert paused is not None
    assert paused[1] == NOW + 300


@pytest.mark.parametrize(
    ("error", "first", "second"),
    [
        (ANSWERED_503, True, True),
        (NOT_SENT, False, False),
        (Unavailable("answers 403", sent=False, denied=True), True, True),
        (Unavailable("answers 429", retry_after=5.0), False, True),
        (Unavailable("waits for another process", elsewhere=True), False, False),
    ],
)
def test_what_was_sent_or_denied_may_be_this_queues_own_trouble(
    scheduler: Scheduler, error: Unavailable, first: bool, second: bool
) -> None:
    assert scheduler.unavailable("a", error, NOW) is first
    assert scheduler.unavailable("a", error, NOW) is second
    assert not scheduler.in_trouble("a"), "whether the destination answers is not known yet"


def test_a_blocked_queue_is_looked_at_twice_a_second(scheduler: Scheduler) -> None:
    for _ in range(8):
        scheduler.unavailable("a", Blocked("waits for b", on="b"), NOW)
    paused = scheduler.paused("a")
    assert paused is not None
    assert paused[1] - NOW <= 0.5 * 1.3
    assert scheduler.trouble is None


def test_a_busy_destination_takes_the_queues_next_write_later(scheduler: Scheduler) -> None:
    scheduler.unavailable("a", Busy("an upgrade is under way", retry_after=20.0), NOW)
    assert scheduler.takes_later("a", NOW)
    assert scheduler.trouble == "an upgrade is under way"
    scheduler.delivered("a")
    assert not scheduler.takes_later("a", NOW)


def test_a_write_is_isolated_after_five_failures_and_fifteen_seconds(scheduler: Scheduler) -> None:
    failing(scheduler, "a", 4)
    assert not scheduler.is_isolated("a", NOW + 1000)
    now = failing(scheduler, "a", 1, NOW + 10)
    assert not scheduler.is_isolated("a", NOW + 14.9)
    assert scheduler.is_isolated("a", NOW + 15)
    assert scheduler.takes_later("a", max(now, NOW + 15))
    assert scheduler.trouble_since == NOW
    scheduler.moved("a", own=True)
    assert not scheduler.is_isolated("a", NOW + 1000)


def test_a_write_is_given_up_alone_after_eight_failures_and_a_minute(scheduler: Scheduler) -> None:
    failing(scheduler, "a", 8)
    assert not scheduler.has_failed_long("a", NOW + 59)
    assert scheduler.has_failed_long("a", NOW + 60)
    assert not scheduler.has_failed_long("a", NOW + 600, times=2)


def test_a_denied_write_has_to_wait_from_its_second_failure(scheduler: Scheduler) -> None:
    denied = Unavailable("answers 403", sent=False, denied=True)
    scheduler.isolate("a", denied, NOW)
    assert not scheduler.takes_later("a", NOW)
    scheduler.isolate("a", denied, NOW)
    assert scheduler.takes_later("a", NOW)


def test_a_write_of_the_same_kind_that_passes_since_shows_that_the_kind_passes(scheduler: Scheduler) -> None:
    scheduler.passed("model", NOW - 1)
    failing(scheduler, "a", 1)
    assert not scheduler.passes("model", "a")
    scheduler.passed("registry", NOW + 1)
    assert not scheduler.passes("model", "a")
    scheduler.passed("model", NOW + 1)
    assert scheduler.passes("model", "a")
    assert not scheduler.passes("model", "b"), "b did not fail"


def test_a_fault_of_ours_is_tried_twelve_times(scheduler: Scheduler) -> None:
    assert [scheduler.bug("a/1") for _ in range(12)] == [False] * 11 + [True]
    assert not scheduler.bug("a/2")


# --- gathering


def test_writes_are_gathered_the_longer_the_longer_only_metrics_come(scheduler: Scheduler) -> None:
    assert scheduler.gathering_seconds(NOW, NOW, 1000) == 0.5
    scheduler.steady(NOW - 3)
    scheduler.steady(NOW)
    assert scheduler.gathering_seconds(NOW, NOW, 1000) == 3
    assert scheduler.gathering_seconds(NOW + 100, NOW + 101, 1000) == 4, "ten times the shortest at most"
    scheduler.soon = True
    assert scheduler.gathering_seconds(NOW + 100, NOW + 100, 1000) == 0.5


def test_a_full_batch_waits_for_nothing(scheduler: Scheduler) -> None:
    scheduler.steady(NOW - 3600)
    scheduler.arrived(5_000, NOW - 10)
    assert scheduler.rate(NOW) == 500
    assert scheduler.gathering_seconds(NOW, NOW, 1000) == 2
    assert scheduler.rate(NOW + 100) == 0


@pytest.mark.parametrize("event", ["nothing came", "another process wrote", "the destination is away"])
def test_gathering_begins_anew(scheduler: Scheduler, event: str) -> None:
    scheduler.steady(NOW)
    if event == "nothing came":
        scheduler.unsteady()
    elif event == "another process wrote":
        scheduler.moved("a", own=True)
        assert scheduler.is_steady
        scheduler.moved("a", own=False)
    else:
        scheduler.unavailable("a", NOT_SENT, NOW)
    assert not scheduler.is_steady
