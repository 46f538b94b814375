"""The health of a destination: one outage, one budget, one back-off."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import requests
from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.health import Health
from tests.infra.clock import FakeClock

REFUSED = requests.exceptions.ConnectionError("connection refused")


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that moves when somebody sleeps."""
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Health:
    """Return the health of a destination that nobody has asked yet."""
    monkeypatch.setenv("DBML_LONGEST_PAUSE", "60")
    monkeypatch.setenv("DBML_IDENTITY_BUDGET", "10")
    return Health(clock, Random(1))


def away(clock: FakeClock, seconds: float, asked: list[float]) -> Callable[[], str]:
    """Return a question that is answered after so many seconds, and notes when it was asked."""
    back = clock.now + seconds

    def question() -> str:
        asked.append(clock.now)
        if clock.now < back:
            raise REFUSED
        return "answer"

    return question


def test_the_second_failure_in_a_row_is_an_outage(health: Health, clock: FakeClock) -> None:
    health.trouble(Unavailable("connection refused"))
    assert (health.away, health.reason, health.since) == (False, "connection refused", clock.time())
    clock.now += 5
    health.trouble(Unavailable("timed out"))
    assert (health.away, health.reason, health.since) == (True, "timed out", clock.time() - 5)
    health.fine()
    assert (health.away, health.reason, health.since, health.pause()) == (False, None, None, 0)
    assert health.back_at == clock.now


def test_a_failure_that_counts_with_another_keeps_its_retry_after(health: Health, clock: FakeClock) -> None:
    asked = clock.now
    clock.now += 1
    health.trouble(Unavailable("timed out"))
    health.trouble(Unavailable("answers 429", retry_after=30.0), asked)
    assert not health.away
    assert health.pause() == 30.0


def test_a_denial_counts_at_once(health: Health) -> None:
    health.trouble(Unavailable("answers 403", denied=True))
    assert health.away
    assert health.denied


def test_the_pause_grows_to_seconds_and_in_a_long_outage_to_a_minute(
    health: Health, clock: FakeClock
) -> None:
    pauses = []
    for _ in range(12):
        health.trouble(Unavailable("connection refused"))
        pauses.append(health.pause())
        clock.now += health.pause()
        assert health.pause() == 0
    assert pauses[0] < 0.6
    assert 2.8 <= max(pauses) <= 5.2
    clock.now += 300
    health.trouble(Unavailable("connection refused"))
    assert 42 <= health.pause() <= 78


def test_a_question_is_asked_again_while_the_budget_lasts(health: Health, clock: FakeClock) -> None:
    asked: list[float] = []
    assert health.ask(away(clock, 3.0, asked)) == "answer"
    assert len(asked) > 5
    assert not health.away
    assert health.reason is None


def test_one_outage_costs_one_budget_for_all_questions(health: Health, clock: FakeClock) -> None:
    began, asked = clock.now, list[float]()
    question = away(clock, 3600, asked)
    with pytest.raises(Unavailable):
        health.ask(question)
    assert 9 <= clock.now - began <= 10
    before = len(asked)
    with pytest.raises(Unavailable, match="connection refused"):
        health.ask(question)
    assert len(asked) == before, "who knows of the outage asks nothing"


def test_a_kind_of_question_that_alone_fails_costs_its_budget_once(health: Health, clock: FakeClock) -> None:
    def fails() -> str:
        clock.now += 1
        health.fine()  # others are answered meanwhile
        raise REFUSED

    with pytest.raises(Unavailable):
        health.ask(fails, what="name")
    assert not health.away
    began = clock.now
    with pytest.raises(Unavailable):
        health.ask(fails, what="name")
    assert clock.now == began
    clock.now += 31
    health.fine()
    assert health.ask(lambda: "answer", what="name") == "answer"


def test_a_refusal_is_raised_at_once_and_is_no_outage(health: Health, clock: FakeClock) -> None:
    def refuse() -> None:
        raise MlflowException("no such run", error_code=1001)

    began = clock.now
    with pytest.raises(MlflowException):
        health.ask(refuse)
    assert clock.now == began
    assert not health.away
    assert health.reason is None
