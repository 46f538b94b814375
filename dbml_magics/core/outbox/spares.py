"""Folders on other disks: where lines and copies go while the disk of the link's own folder takes nothing."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dbml_magics.common.disks import is_own, make_own
from dbml_magics.common.hints import Remedy
from dbml_magics.errors import JournalFull

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIED_ELSEWHERE = (*FULL, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
_LOOK_S = 1.0  # between two looks for files on other disks
T = TypeVar("T")


def no_room(cause: str) -> JournalFull:
    """Return the error of a journal or spool that has no room left."""
    return JournalFull(cause, remedies=[(Remedy("sync"), "deliver what waits, which frees its space")])


class Spares:
    """The folders of one link's journal: ``root`` and, on other disks, ``folders``.

    A disk takes nothing when it is full or has become read-only. Every process of the link looks into the
    other disks' folders.
    """

    def __init__(self, root: Path, folders: Sequence[Path]) -> None:
        self.root = root
        self.folders = folders
        self.used: list[Path] = []
        """Those of the folders that have, or may have, files of this journal."""
        self._looked = float("-inf")

    def roots(self) -> list[Path]:
        """Return all folders that have, or may have, files of this journal."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self.used = [s for s in self.folders if is_own(s.parent.parent) and s.is_dir()]
            self._looked = now  # only now: another thread that comes in between must not take none for all
        return [self.root, *self.used]

    def rescan(self) -> None:
        """Look for files on other disks at the next call: another process may just have gone there."""
        self._looked = float("-inf")

    def use(self, folder: Path) -> None:
        """Remember that this process has written to a folder."""
        if folder != self.root and folder not in self.used:
            self.used.append(folder)

    def try_each(self, first: Path, attempt: Callable[[Path], T], source: str | None = None) -> T:
        """Return what ``attempt`` makes in ``first`` or, while that disk takes nothing, in another folder.

        Raises the first disk's OSError where none takes it, and at once one of another kind or of ``source``.
        """
        failure: OSError | None = None
        for root in (first, *(spare for spare in self.folders if spare != first)):
            try:
                if root != self.root:
                    make_own(root)
                made = attempt(root)
            except OSError as error:
                failure = failure or error
                if error.errno not in _TRIED_ELSEWHERE or error.filename == source is not None:
                    raise
                continue
            self.use(root)
            return made
        assert failure is not None
        raise failure
