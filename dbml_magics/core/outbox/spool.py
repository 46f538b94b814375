"""The spool: copies of logged files until they are delivered, since a script may change its own at once.

A small file is copied into its line, another into a file of the spool.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeGuard

from dbml_magics.common.config import spool_limit_bytes
from dbml_magics.common.disks import private_folder
from dbml_magics.core.model.facts import StoredFile
from dbml_magics.core.model.operations import Line, LogArtifact, read_as
from dbml_magics.core.outbox.spares import FULL, Spares, no_room

SMALL = 4096
"""Bytes of a file that its line still holds: making a file for them costs more than the rest of the call."""

_ORPHAN_S = 3600.0
_COPYS_NAME = re.compile(r"[0-9a-f]{1,20}-[0-9]{1,10}-[0-9a-f]{8}")


class Spool:
    """The copies of one link, beside its journal or on the disks of its ``spares``."""

    def __init__(self, spares: Spares) -> None:
        self._spares = spares
        self._used: int | None = None  # bytes, as this process knows them

    def add(self, source: str | os.PathLike[str]) -> tuple[str, int]:
        """Copy a file into the spool; returns (name, size). Raises JournalFull at the spool's limit.

        A copy, never a hard link: the user's file may be changed after ``log_artifact`` has returned.
        """
        if self.has_no_room_for(source):
            raise no_room(
                f"the spool for artifacts holds {(self._used or 0) / 1e9:.1f} GB, its limit "
                f"(DBML_SPOOL_LIMIT) is {spool_limit_bytes() / 1e9:.1f} GB."
            )
        name = f"{time.time_ns():x}-{os.getpid()}-{secrets.token_hex(4)}"
        root = self._spares.root
        try:
            size = self._spares.try_each(
                root, lambda at: _copy(source, at / "spool" / name), os.fspath(source)
            )
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise no_room(f"the disk of the artifact spool ({root / 'spool'}) is full.") from error
        self._used = (self._used or 0) + size
        return name, size

    def has_no_room_for(self, source: str | os.PathLike[str]) -> bool:
        """Tell whether the spool's limit leaves no room for a file."""
        size = os.path.getsize(source)
        if self._used is None or self._used + size > spool_limit_bytes():
            self._used = self.size()
        return self._used + size > spool_limit_bytes()

    def find(self, name: str) -> Path | None:
        """Return the path of a copy, or None when it is gone.

        A name that is none of the spool's own, or a link to a file elsewhere, is no copy: a journal may come
        from another machine.
        """
        if not is_copys_name(name):
            return None
        for root in (self._spares.root, *self._spares.used):
            path = root / "spool" / name
            with suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    return path
        return None

    @contextmanager
    def lent(self, kept: StoredFile, name: str, role: str) -> Iterator[Path | None]:
        """Lend what was kept of a file to a role's worker, under the name that it shall have where it goes.

        None where it is gone.
        """
        data, file = small_file(kept), None
        if not is_files_name(name) or (data is None and (file := self.find(kept["spool"])) is None):
            yield None
            return
        beside = self._spares.root if file is None else file.parent.parent
        with self._spares.try_each(beside, lambda root: _folder_to_lend(root, role, name, data)) as folder:
            lent = Path(folder, name)
            if file is not None:
                try:
                    os.link(file, lent)
                except OSError:  # a file system without hard links
                    lent.symlink_to(file)
            yield lent

    def delete(self, name: str) -> None:
        """Delete the copy of a file that has arrived everywhere."""
        path = self.find(name)
        if path is None:
            return
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError:  # gone; or it stays, on a disk that has become read-only
            return
        if self._used is not None:
            self._used -= size

    def drop_lent(self, role: str) -> None:
        """Delete what was lent to a worker that was killed; only the holder of the role's lease may."""
        for folder in self._glob(f".lent-{role}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def drop_orphans(self, needed: Callable[[str], bool]) -> None:
        """Delete the copies that no journal line names, their process having died before it wrote one.

        Called when the journal has no lines; ``needed`` tells which copies something else still names.
        """
        for copy in self.copies():
            with suppress(OSError, ValueError):
                age, writer = time.time() - copy.stat().st_mtime, int(copy.name.split("-")[1])
                # A process of another container may seem dead: what it copied just now is left alone.
                if age > (_ORPHAN_S if _is_alive(writer) else 60.0) and not needed(copy.name):
                    copy.unlink()

    def copies(self) -> list[Path]:
        """Return the paths of all copies."""
        return self._glob("*-*-*")

    def _glob(self, pattern: str) -> list[Path]:
        return [path for root in self._spares.roots() for path in (root / "spool").glob(pattern)]

    def is_empty(self) -> bool:
        """Tell whether nothing is in the spool."""
        return next(self._scan(), None) is None

    def size(self) -> int:
        """Return how many bytes of artifacts wait in the spool."""
        used = 0
        for entry in self._scan():
            with suppress(FileNotFoundError):  # released while we look
                used += entry.stat().st_size if entry.is_file() else 0
        return used

    def _scan(self) -> Iterator[os.DirEntry[str]]:
        for root in self._spares.roots():
            with suppress(FileNotFoundError), os.scandir(root / "spool") as found:
                yield from found


def _copy(source: str | os.PathLike[str], target: Path) -> int:
    """Copy a file to a new one, whole or not at all; returns the copy's size."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        try:
            out = os.open(target, flags, 0o600)
        except FileNotFoundError:
            private_folder(target.parent)
            out = os.open(target, flags, 0o600)
        with os.fdopen(out, "wb") as copy, open(source, "rb", buffering=0) as original:
            shutil.copyfileobj(original, copy, 1 << 20)
            copy.flush()
            return os.fstat(copy.fileno()).st_size  # the original may have grown, or shrunk, meanwhile
    except OSError:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        raise


def _folder_to_lend(root: Path, role: str, name: str, data: bytes | None) -> tempfile.TemporaryDirectory[str]:
    """Make a folder to lend a file in, with a small file's content: a full disk may take the folder alone."""
    private_folder(root / "spool")
    folder = tempfile.TemporaryDirectory(dir=root / "spool", prefix=f".lent-{role}-")
    if data is not None:
        try:
            Path(folder.name, name).write_bytes(data)
        except OSError:
            folder.cleanup()
            raise
    return folder


def kept_small(source: str | os.PathLike[str]) -> StoredFile | None:
    """Return what a line keeps of a small file, its content with it; None for a larger one."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, SMALL + 1)
    finally:
        os.close(fd)
    if len(data) > SMALL:
        return None
    return {"data": base64.b64encode(data).decode("ascii"), "size": len(data)}


def small_file(kept: StoredFile) -> bytes | None:
    """Return the content of a file that its line keeps; None where that is a copy in the spool."""
    return base64.b64decode(kept["data"]) if "data" in kept else None


def copy_of(line: Line | None) -> str | None:
    """Return the name of the spool's copy that a write needs, if it is of an artifact that has one."""
    upload = read_as(LogArtifact, line)
    name = upload.file.get("spool") if upload is not None else None
    return name if is_copys_name(name) else None


def is_copys_name(name: object) -> TypeGuard[str]:
    """Tell whether this is a name that the spool gives to a copy: never a path."""
    return isinstance(name, str) and _COPYS_NAME.fullmatch(name) is not None


def is_files_name(name: str) -> bool:
    """Tell whether this names one file in a folder, wherever the name comes from."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _is_alive(pid: int) -> bool:
    """Tell whether a process of this machine lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
