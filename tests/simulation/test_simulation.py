"""Whatever befalls a link, what was acknowledged stands at both destinations, once.

``python -m tests.simulation 10000`` plays more histories than these.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbml_magics.core.delivery.writers.batches import Batches
from dbml_magics.core.delivery.writers.sender import Sender
from dbml_magics.core.giving_way import OneAtATime
from dbml_magics.core.outbox.state import State
from tests.infra.planted import BUGS
from tests.simulation.history import play, stillness

HISTORIES = 400
FOUND_WITHIN = 100  # histories, of a bug that is planted
PLANTED = [
    "an outage loses a batch",
    "doubt is not settled",
    "sending is not noted",
    "two turns make the same run",
]
"""Bugs that lie in what is simulated; tests/core/test_histories.py finds the others."""


@pytest.fixture(autouse=True)
def _still() -> Iterator[None]:
    with stillness():
        yield


def play_all(seeds: range) -> None:
    for seed in seeds:
        play(seed)


@pytest.mark.parametrize("seed", [589, 834, 1123, 2053, 2237, 5477])
def test_histories_that_once_went_wrong_come_out_right(seed: int) -> None:
    """Registrations killed before their lines, in wait for each other, moved apart, forgotten; old files."""
    play(seed, lanes=1)


@pytest.mark.parametrize("seed", [38, 313, 821, 1042, 1344, 1717, 2190, 2394, 2757])
def test_histories_with_models_that_once_went_wrong_come_out_right(seed: int) -> None:
    """Renames on their way while versions are made, of their old name too; models that a lost state named."""
    play(seed)


@pytest.mark.full(but=["0"])
@pytest.mark.parametrize("first", range(0, HISTORIES, 50))
def test_nothing_is_lost_doubled_or_left(first: int) -> None:
    play_all(range(first, first + 50))


def test_a_seed_plays_the_same_history_again() -> None:
    assert play(7) == play(7)


def test_processes_are_killed_at_many_steps() -> None:
    stories = [line for seed in range(20) for line in play(seed)]
    assert sum(line.endswith("the process was killed") for line in stories) > 10


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (Sender, "send"),
        (Batches, "send"),
        (State, "mark_sending"),
        (OneAtATime, "doing"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back at the end
    BUGS[bug]()
    with pytest.raises(AssertionError, match="the history:"):
        play_all(range(FOUND_WITHIN))
