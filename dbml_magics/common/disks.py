"""Disks: which file system a path is on, whether a journal can be there, and where else it can be.

A write-ahead log and record locks need a disk of this machine (sqlite.org/wal.html): not DBFS, a workspace
folder, NFS, SMB or another FUSE mount, wherever the notebook lies.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = [
    "MOUNTS",
    "base_on",
    "can_be_written",
    "file_system",
    "is_own",
    "is_remote",
    "make_base",
    "make_own",
    "of_databricks",
    "private_folder",
    "spare_folders",
    "why_unfit",
]

MOUNTS = Path("/proc/self/mounts")
"""What is mounted where, as Linux tells; elsewhere there is no such file, and every disk counts as local."""

_KINDS = (
    (re.compile(r"nfs\d?"), "a network disk (NFS)"),
    (re.compile(r"cifs|smb\w*"), "a network disk (SMB)"),
    (re.compile(r"fuse\..*|fuse|fuseblk|davfs"), "a FUSE mount"),
    (re.compile(r"9p|afs|ceph|glusterfs|lustre|gpfs|beegfs"), "a network disk"),
)
_DATABRICKS = {
    "/Workspace": "a Databricks workspace folder",
    "/Repos": "a Databricks git folder",
    "/dbfs": "DBFS",
    "/Volumes": "a Unity Catalog volume",
}


def file_system(path: Path, mounts: Path | None = None) -> str | None:
    """Return the kind of file system that a path is on (``ext4``), or None where the system does not say."""
    try:
        lines = (mounts or MOUNTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best, kind = "", None
    for line in lines:
        words = line.split(" ")
        if len(words) < 3:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), words[1])
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):  # of two on one place the later one is on top
            best, kind = place, words[2]
    return kind


def is_remote(kind: str | None) -> bool:
    """Tell whether a kind of file system is no disk of this machine."""
    return kind is not None and any(pattern.fullmatch(kind) for pattern, _ in _KINDS)


def of_databricks(path: Path) -> str | None:
    """Return which of Databricks' own mounts a path is on, in words; None for none of them."""
    real = os.path.realpath(path)
    if os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        for lead, name in _DATABRICKS.items():
            if real == lead or real.startswith(lead + "/"):
                return name
    return None


def why_unfit(path: Path, mounts: Path | None = None) -> str | None:
    """Return what a path is on where a journal must not be, in words, or None where it can be."""
    real = os.path.realpath(path)
    if (name := of_databricks(path)) is not None:
        return name
    kind = file_system(path, mounts)
    for pattern, name in _KINDS:
        if kind is not None and pattern.fullmatch(kind):
            return name
    return "a git folder" if _in_git_folder(Path(real)) else None


def _in_git_folder(path: Path) -> bool:
    """Tell whether a path is in a checkout, which others fill; one that is the user's whole home is none."""
    home = Path(os.path.realpath(os.path.expanduser("~")))
    return any(
        (each / ".git").exists() for each in (path, *path.parents) if each not in (home, *home.parents)
    )


def can_be_written(path: Path) -> bool:
    """Tell whether a folder is there, or can be made, and can be written to."""
    for each in (path, *path.parents):
        if each.is_dir():
            return each != Path("/proc") and os.access(each, os.W_OK | os.X_OK)
        if os.path.lexists(each):
            return False
    return False


def is_own(path: Path) -> bool:
    """Tell whether a folder is this user's, and nobody else writes to it: in ``/tmp`` anybody makes some."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def base_on(place: str | os.PathLike[str]) -> Path:
    """Return the user's own folder in a place where others have folders too."""
    return Path(place, f"dbml-magics-{os.getuid()}")


def make_base(base: Path) -> None:
    """Make the user's own folder in such a place. Raises OSError where somebody else has made it."""
    with suppress(FileExistsError):
        os.mkdir(base, 0o700)
    if not is_own(base):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(base))


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for the user's own eyes."""
    if not path.is_dir():
        private_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)


def make_own(folder: Path) -> None:
    """Make one of the user's folders on a disk that others have folders on too. Raises OSError."""
    make_base(folder.parent.parent)  # <place>/dbml-magics-<uid>/links/<key>
    private_folder(folder)


def spare_folders() -> Iterator[Path]:
    """Yield the user's own folders on other disks of this machine, the most lasting first.

    The same ones in each of the user's processes; the last is memory, which outlives a process. None is
    made here.
    """
    if sys.platform == "win32":
        return
    seen = set()
    for place in ("/local_disk0", "/var/tmp", tempfile.gettempdir(), "/tmp", "/dev/shm"):
        if place not in seen and os.path.isdir(place):
            seen.add(place)
            folder = base_on(place)
            if (is_own(folder) or not os.path.lexists(folder)) and why_unfit(folder) is None:
                yield folder
