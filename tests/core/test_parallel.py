"""Asking several things at a time, and ahead of who takes the answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dbml_magics.core.parallel import ahead, in_parallel
from tests.infra.wait import eventually


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_asked_in_parallel_is_answered_in_order(workers: int) -> None:
    assert list(in_parallel(workers, lambda n: n * 2, range(50))) == [n * 2 for n in range(50)]


def test_items_are_taken_ahead_in_their_order_and_no_more_than_wanted() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    found = ahead(items(), 5)
    assert next(found) == 0
    eventually(lambda: len(taken) >= 6, "five items were taken ahead of the one that is looked at")
    assert len(taken) <= 8, "one is looked at, five wait, one is about to"
    assert [0, *found] == list(range(100))


def test_an_error_ends_what_is_taken_ahead_where_it_stood() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second page")

    found = ahead(items(), 5)
    assert next(found) == 1
    with pytest.raises(ValueError, match="the second page"):
        next(found)


def test_who_stops_looking_leaves_no_thread_behind() -> None:
    def items() -> Iterator[int]:
        yield from range(1000)

    found = ahead(items(), 2)
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert "dbml-ahead" not in {thread.name for thread in threading.enumerate()}
