"""Reading a listing page by page, whoever serves it: one that does not end is left, and said."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations.errors import EndlessListing

if TYPE_CHECKING:
    from mlflow.store.entities.paged_list import PagedList

T = TypeVar("T", bound=Hashable)

_EMPTY_PAGES = 200
"""Pages without an entry that may follow each other: a service that filters after it pages sends some."""
_DEEPEST = 500  # folders in folders: a path of that many is longer than any system takes


class Pages:
    """What one listing has given so far."""

    def __init__(self) -> None:
        self._tokens: set[Hashable] = set()
        self._empty = 0
        self._before: list[str] = []

    def follow(self, token: T | None, page: Iterable[object]) -> T | None:
        """Return the token of the page after ``page``, or None. Raises EndlessListing.

        A listing goes round where its token has been seen, where a page is the one before once more under
        another token, and where page after page is empty.
        """
        if not token:
            return None
        if token in self._tokens:
            raise EndlessListing("a listing does not end: it gave a page's token twice")
        self._tokens.add(token)
        found = list(page)
        self._empty = 0 if found else self._empty + 1
        if self._empty > _EMPTY_PAGES:
            raise EndlessListing(f"a listing does not end: {self._empty} empty pages in a row")
        if found:
            shown = [repr(each) for each in found]
            if shown == self._before:
                raise EndlessListing("a listing does not end: it gave a page twice")
            self._before = shown
        return token


def entries(page: Callable[[str | None], PagedList]) -> Iterator[Any]:
    """Yield what all pages of a listing have; ``page`` returns MLflow's PagedList. Raises EndlessListing."""
    pages, token = Pages(), None
    while True:
        found = page(token)
        token = pages.follow(getattr(found, "token", None), found)
        yield from found
        if token is None:
            return


def standing(listed: Callable[[str], Iterable[FileInfo]]) -> Callable[[str], bool | None]:
    """Return what tells by listings of folders what is at a path: True for a folder, False for a file.

    It tells None where nothing is, or where nobody can say.
    """

    @functools.cache
    def kinds(folder: str) -> dict[str, bool]:
        try:
            return {info.path: info.is_dir for info in listed(folder)}
        except MlflowException:
            return {}

    return lambda path: kinds(posixpath.dirname(path)).get(path)


def files_below(
    listed: Callable[[str], Iterable[FileInfo]], folder: str = "", leave_out: Sequence[str] = ()
) -> Iterator[FileInfo]:
    """Yield all files in a folder and those below it. Raises EndlessListing.

    Only what a folder's listing has in that folder counts: some repositories list by bare prefix ("model"
    also finds "model-x/…"), and a listing that names a folder above itself would never end.
    """
    folders, seen = [folder], {folder}
    while folders:
        here = folders.pop()
        if here.count("/") > _DEEPEST:
            raise EndlessListing(f"a listing does not end: there are more than {_DEEPEST} folders in a row")
        for info in listed(here):
            if posixpath.dirname(info.path) != here or info.path == here:
                continue
            if any(info.path == path or info.path.startswith(path + "/") for path in leave_out):
                continue
            if not info.is_dir:
                yield info
            elif info.path not in seen:
                seen.add(info.path)
                folders.append(info.path)
