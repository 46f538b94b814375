"""Turns that go on at a time: one thread works, the others wait for answers; some things one does alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from dbml_magics.core.delivery.events import TurnOver
from dbml_magics.core.delivery.lanes import Threads
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.giving_way import OneAtATime, current, gives_way, giving_way

PATIENCE_S = 60.0


class Service:
    """What a turn asks, which answers once as many ask at a time as a test wants."""

    kind = "mlflow"

    def __init__(self, at_once: int) -> None:
        self._all_there = threading.Barrier(at_once)

    def ask(self) -> str:
        """Answer once the others have asked as well."""
        self._all_there.wait(PATIENCE_S)
        return "answer"


def all_over(lanes: Threads) -> list[str]:
    """Wait until all turns are over; returns their queues in the order of their ends."""
    over = []
    while lanes.busy:
        one = lanes.next_over(PATIENCE_S)
        assert one is not None, "a turn should have been over within a minute"
        over.append(one.queue)
    return over


def test_turns_wait_for_answers_together(request: pytest.FixtureRequest) -> None:
    lanes, service = Threads(3, request.node.name), gives_way(Service(3))
    said = []

    def turn(queue: str) -> TurnOver:
        said.append(service.ask())
        return TurnOver(queue, more=False)

    for queue in "abc":
        lanes.begin(lambda queue=queue: turn(queue))  # type: ignore[misc]
    assert sorted(all_over(lanes)) == ["a", "b", "c"]
    assert said == ["answer"] * 3
    assert service.kind == "mlflow"


def test_one_thread_works_at_a_time(request: pytest.FixtureRequest) -> None:
    lanes, working, most = Threads(4, request.node.name), 0, 0

    @contextmanager
    def counted() -> Iterator[None]:
        nonlocal working, most
        working += 1
        most = max(most, working)
        yield
        working -= 1

    def turn() -> TurnOver:
        for _ in range(200):
            with counted():
                assert lanes.is_mine
            with giving_way():
                assert current() is None
        return TurnOver("a", more=False)

    for _ in range(4):
        lanes.begin(turn)
    assert all_over(lanes) == ["a"] * 4
    assert most == 1


def test_what_ends_a_turn_is_raised_where_its_end_is_waited_for(request: pytest.FixtureRequest) -> None:
    def killed() -> TurnOver:
        raise KeyboardInterrupt

    lanes = Threads(2, request.node.name)
    lanes.begin(killed)
    with pytest.raises(KeyboardInterrupt):
        lanes.next_over(PATIENCE_S)
    assert not lanes.busy


def test_a_single_lane_has_no_thread_of_its_own(request: pytest.FixtureRequest) -> None:
    lanes, inside = Threads(1, request.node.name), []
    lanes.begin(lambda: inside.append(threading.current_thread()) or TurnOver("a", more=False))  # type: ignore[func-returns-value]
    assert all_over(lanes) == ["a"]
    assert inside == [threading.current_thread()]


def test_what_several_need_is_made_once() -> None:
    alone, made = OneAtATime(), dict[str, int]()

    def need(name: str) -> int:
        with alone.doing("run", name):
            if name not in made:
                with alone.doing("run", name):  # its maker may need it itself
                    made[name] = len(made)
            return made[name]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(need, [f"run{n % 5}" for n in range(400)]))
    assert len(made) == 5
    assert sorted(set(found)) == [0, 1, 2, 3, 4]
    assert not alone._held, "nothing is kept of what is done"


def test_turns_make_what_both_need_once(request: pytest.FixtureRequest) -> None:
    lanes, alone, made = Threads(4, request.node.name), OneAtATime(), list[str]()

    def turn() -> TurnOver:
        with alone.doing("run", "parent"):
            if not made:
                with giving_way():
                    threading.Event().wait(0.05)
                made.append("parent")
        return TurnOver("a", more=False)

    for _ in range(4):
        lanes.begin(turn)
    all_over(lanes)
    assert made == ["parent"]


def test_who_waits_in_vain_tries_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbml_magics.core.giving_way._LONGEST_S", 0.2)
    alone = OneAtATime()

    def wait(done: Callable[[], object]) -> object:
        try:
            with alone.doing("model", "m"):
                return done()
        except Unavailable as error:
            return error.reason

    with alone.doing("model", "m"), ThreadPoolExecutor(1) as pool:
        said = pool.submit(wait, lambda: "made").result(PATIENCE_S)
    assert said == "waits for another thread with the model"
    assert wait(lambda: "made") == "made"


def test_who_has_less_time_for_an_answer_waits_no_longer_for_another_thread() -> None:
    alone = OneAtATime()

    def wait() -> str:
        with pytest.raises(Unavailable) as raised, call_timeout(0.2), alone.doing("experiment", "e"):
            raise AssertionError("it was another thread's turn")
        return raised.value.reason

    with alone.doing("experiment", "e"), ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        assert pool.submit(wait).result(PATIENCE_S) == "waits for another thread with the experiment"
    assert time.monotonic() - began < 10


def test_a_turn_is_taken_where_no_more_threads_are_to_be_had(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        if taken:  # another thread, which has nothing else to do, is quicker
            lanes._take(lanes._begun.get())
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    lanes, taken = Threads(3, request.node.name), list[str]()
    for queue in ("here", "by another thread"):
        lanes.begin(lambda queue=queue: taken.append(queue) or TurnOver(queue, more=False))  # type: ignore[misc,func-returns-value]
    assert all_over(lanes) == taken == ["here", "by another thread"]
