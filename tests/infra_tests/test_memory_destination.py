"""What can go wrong with a destination in memory, when a test asks for it."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import Busy, Unavailable
from tests.infra.memory_destination import HALF, LOST, UNSENT, MemoryDestination


def a_run(there: MemoryDestination) -> str:
    return str(there.create_run("0", "me", 1, {}, None).info.run_id)


def test_a_lost_answer_is_to_a_call_that_was_made() -> None:
    there = MemoryDestination()
    there.fail(LOST)
    with pytest.raises(Unavailable) as error:
        there.create_run("0", "me", 1, {}, None)
    assert error.value.sent
    assert len(there.search_runs(["0"], "")) == 1


def test_a_call_that_never_arrives_changes_nothing() -> None:
    there = MemoryDestination()
    there.fail(UNSENT, 2, of="create_run")
    run = a_run(there)
    there.log_batch(run, [], {}, {"t": "1"})  # another call is not counted
    with pytest.raises(Unavailable) as error:
        a_run(there)
    assert not error.value.sent
    assert [r.info.run_id for r in there.search_runs(["0"], "")] == [run]


def test_half_a_batch_is_its_params_and_the_first_points() -> None:
    there = MemoryDestination()
    run = a_run(there)
    there.fail(HALF, of="log_batch")
    with pytest.raises(Unavailable):
        there.log_batch(run, [("m", 1.0, 1, 1), ("m", 2.0, 2, 2)], {"p": "1"}, {"t": "1"})
    data = there.get_run(run).data
    assert (data.params, data.metrics, "t" in data.tags) == ({"p": "1"}, {"m": 1.0}, False)
    there.log_batch(run, [("m", 1.0, 1, 1), ("m", 2.0, 2, 2)], {"p": "1"}, {"t": "1"})
    assert there.get_run(run).data.metrics == {"m": 2.0}


def test_any_error_can_be_asked_for() -> None:
    there = MemoryDestination()
    there.fail(lambda: Busy("takes no more", retry_after=1.0), 2)
    there.ping()
    with pytest.raises(Busy) as error:
        a_run(there)
    assert error.value.retry_after == 1.0
    assert there.calls == ["ping", "create_run"]
    assert not there.search_runs(["0"], "")


def test_reads_lag_behind_writes() -> None:
    there = MemoryDestination(remembers=3)
    run = a_run(there)
    for step in range(3):
        there.log_batch(run, [("m", float(step), step, step)], {}, {})
    there.lag = 2
    assert there.get_run(run).data.metrics == {"m": 0.0}
    there.lag = 0
    assert there.get_run(run).data.metrics == {"m": 2.0}


def test_what_was_forgotten_was_never_there() -> None:
    there = MemoryDestination(remembers=5)
    run, other = a_run(there), a_run(there)
    there.forget(1)
    assert there.get_run(run).info.run_id == run
    with pytest.raises(MlflowException, match="not found"):
        there.get_run(other)


def test_a_history_can_be_played_again() -> None:
    made = [[a_run(MemoryDestination(seed=seed)) for _ in range(2)] for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
