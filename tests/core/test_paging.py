"""Listings that do not end: each way of going round is noticed, and a long honest listing is read whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import FileInfo
from mlflow.store.entities.paged_list import PagedList

from dbml_magics.core.destinations.errors import EndlessListing
from dbml_magics.core.paging import entries, files_below

_counter = itertools.count()
ENDLESS: dict[str, Callable[[str | None], PagedList]] = {
    "one token again and again": lambda _: PagedList([next(_counter)], "more"),
    "two tokens in turn": lambda t: PagedList([next(_counter)], "b" if t == "a" else "a"),
    "the first page under new tokens": lambda _: PagedList([1, 2, 3], str(next(_counter))),
    "empty pages under new tokens": lambda _: PagedList([], str(next(_counter))),
    "an empty page and its own token": lambda _: PagedList([], "more"),
    "a token of bytes": lambda _: PagedList([next(_counter)], b"more"),
    "a number": lambda _: PagedList([next(_counter)], 7),
}


@pytest.mark.parametrize("page", ENDLESS.values(), ids=ENDLESS)
def test_a_listing_that_goes_round_is_left(page: Callable[[str | None], PagedList]) -> None:
    with pytest.raises(EndlessListing, match="does not end"):
        for _ in itertools.islice(entries(page), 100_000):
            pass


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=30), st.integers(0, 2**32))
def test_a_listing_that_ends_is_read_whole(pages: list[list[int]], first: int) -> None:
    # Two pages that follow each other and are the same would be one page twice to anybody.
    kept: list[list[int]] = []
    for each in pages:
        last = next((page for page in reversed(kept) if page), None)
        if not each or each != last:
            kept.append(each)
    pages = kept

    def page(token: str | None) -> PagedList:
        number = 0 if token is None else int(token) - first
        more = number + 1 < len(pages)
        return PagedList(pages[number] if pages else [], str(first + number + 1) if more else None)

    assert list(entries(page)) == [each for one in pages for each in one]


def file(path: str, folder: bool = False) -> FileInfo:
    return FileInfo(path, folder, None if folder else 1)


def test_folders_that_contain_themselves_are_listed_once() -> None:
    payload = {
        "": [file("a", True), file("a", True), file("b.txt"), file("", True), file("../up", True)],
        "a": [file("a/c.txt"), file("a", True), file("", True), file("ab/x.txt"), file("a/a", True)],
        "a/a": [file("a/a/d.txt"), file("a", True)],
    }
    assert sorted(f.path for f in files_below(lambda folder: payload[folder])) == [
        "a/a/d.txt",
        "a/c.txt",
        "b.txt",
    ]
    assert [f.path for f in files_below(lambda folder: payload[folder], "a/a")] == ["a/a/d.txt"]
    assert [f.path for f in files_below(lambda folder: payload[folder], leave_out=["a"])] == ["b.txt"]


def test_folders_without_end_are_left() -> None:
    with pytest.raises(EndlessListing, match="folders in a row"):
        list(files_below(lambda folder: [file(f"{folder}/x".lstrip("/"), True)]))
