"""The files of a run or model as they compare: where a file is written once, a newer content lies beside it.

Azure ML keeps ``notes.txt`` as it was first; what is logged to that path later is ``notes~2.txt`` there, then
``notes~3.txt``. The newest of them is what the other workspace has as ``notes.txt``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dbml_magics.results.reconcile import ABSENT

_BESIDE = re.compile(r"(.*)~([2-9]|[1-9]\d{1,8})", re.S)


@dataclass(frozen=True)
class FileVersion:
    """A file as one workspace has it."""

    size: int | None  # None: unknown
    path: str  # where its newest content lies
    number: int = 1  # of contents that were ever put under its name


Files = dict[str, FileVersion]


def folded(files: Files, others: Collection[str]) -> Files:
    """Return files with each newer content in the stead of the one that it lies beside.

    ``others`` are the paths at the other workspace: a file that has its name there too is one of its own.
    """
    found = dict(files)
    for path in sorted(files, key=lambda p: (len(p), p)):
        origin, number = _beside(path)
        if number and origin in files and path not in others:
            newest = found.get(origin)
            if newest is not None and number > newest.number:
                found[origin] = FileVersion(files[path].size, path, number)
            found.pop(path, None)
    return found


def beside(path: str, number: int) -> str:
    """Return where the content of that number of a file lies: ``a/b~2.txt``."""
    stem, dot = posixpath.splitext(path)
    return f"{stem}~{number}{dot}"


def _beside(path: str) -> tuple[str, int]:
    stem, dot = posixpath.splitext(path)
    found = _BESIDE.fullmatch(stem)
    return (found[1] + dot, int(found[2])) if found and not found[1].endswith("/") else ("", 0)


def unlike_files(first: Files, second: Files) -> Iterator[tuple[str, object, object]]:
    """Yield (path, size there, size here) of the files that differ; an unknown size equals any."""
    for path in sorted({*first, *second}):
        a, b = first.get(path), second.get(path)
        # An MLmodel names ids and places, each workspace its own.
        if a is not None and b is not None:
            comparable = a.size is not None and b.size is not None and not path.endswith("MLmodel")
            if not comparable or a.size == b.size:
                continue
        yield path, _size(a), _size(b)


def _size(held: FileVersion | None) -> object:
    if held is None:
        return ABSENT
    return "there" if held.size is None else f"{held.size:,} bytes"
