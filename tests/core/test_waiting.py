"""Every wait of an endpoint has a deadline."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

import pytest

from dbml_magics.core.endpoints.rest import Answer
from dbml_magics.core.endpoints.waiting import Patience, lock
from dbml_magics.errors import Refused


def test_patience_ends_and_says_meanwhile_what_for() -> None:
    said: list[str] = []
    patience = Patience(2.0)
    rounds = 0
    while patience.waits(0.1, lambda: said.append("waiting")):
        rounds += 1
        assert rounds < 50
    assert rounds >= 1
    assert len(said) >= rounds
    assert Patience(5400.0).limit == "90 minutes"


def test_a_lock_that_another_process_keeps_is_waited_for_with_an_end(tmp_path: Path) -> None:
    path = tmp_path / "wine.lock"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        began = time.monotonic()
        kept = lock(path, "wine", 0.2, lambda: None)
        with pytest.raises(Refused, match="another process has been changing endpoint wine"), kept:
            raise AssertionError("it was not free")
        assert time.monotonic() - began < 30
    with lock(path, "wine", 0.2, lambda: None):
        pass


@pytest.mark.parametrize(
    ("status", "body", "state", "is_over"),
    [
        (200, {"status": "Updating", "percentComplete": 0.0}, "updating", False),
        (200, {"status": "Succeeded", "percentComplete": 100.0}, "succeeded", True),
        (200, {"status": "Canceled"}, "canceled", True),
        (202, {}, "running", False),
        (204, {}, "succeeded", True),
        (200, {"primaryKey": "x"}, "succeeded", True),
        (200, {"properties": {"provisioningState": "Updating"}}, "updating", False),
        (200, {"properties": {"provisioningState": "Failed"}}, "failed", True),
    ],
)
def test_an_operation_is_over_by_its_status_or_by_what_its_location_answers(
    status: int, body: dict[str, object], state: str, is_over: bool
) -> None:
    answer = Answer(status, body)
    assert (answer.state, answer.is_over) == (state, is_over)
    assert (answer.failure is not None) is (state in ("failed", "canceled"))


def test_a_pause_and_a_limit_are_the_services_or_grow() -> None:
    asked = Answer(202, {}, {"Retry-After": "3", "x-ms-async-operation-timeout": "PT1H30M"})
    assert (asked.pause(), asked.limit) == (3.0, 5400 + 300)
    silent = Answer(202, {}, {"x-ms-async-operation-timeout": "soon"})
    assert [silent.pause(waited) for waited in (0.0, 8.0, 600.0)] == [0.5, 2.0, 5.0]
    assert silent.limit == 3600 + 300
