"""Whether a link's folder is what the last delivery left: not restored, copied, or without a part of it.

Delivery to a workspace counts its steps in the state, and notes the count beside the journal and in memory
that all processes of this machine share. The state also says on which machine, since which boot and in which
folder it was written. Where these do not match, nobody knows what of the journal has arrived: delivery asks.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import uuid
from contextlib import suppress
from pathlib import Path

from dbml_magics.core.outbox.stamps import Stamps

_MACHINE_ID = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def place_of(home: Path, state: Path) -> str:
    """Return a digest of the machine, its boot, and the folder and file on its disk.

    A copy of a folder, and a file that was put back from a backup, have other inodes. macOS tells no boot.
    """
    parts = [_first_text(_MACHINE_ID) or f"{socket.gethostname()} {uuid.getnode()}", _first_text((_BOOT_ID,))]
    for path in (home, state):
        with suppress(OSError):
            status = path.stat()
            parts.append(f"{status.st_ino} {status.st_uid}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _first_text(paths: tuple[Path, ...]) -> str:
    for path in paths if sys.platform == "linux" else ():
        with suppress(OSError):
            return path.read_text(encoding="ascii").strip()
    return ""


class Witness:
    """The count of a role's delivery steps, kept beside the journal and in shared memory."""

    def __init__(self, file: Path, stamps: Stamps, slot: int) -> None:
        self._file = file
        self._stamps = stamps
        self._slot = slot
        self._fd: int | None = None

    def noted(self) -> int:
        """Return the highest count that was noted anywhere; 0 where none was."""
        try:
            beside = int(self._file.read_bytes()[:20] or b"0")
        except (OSError, ValueError):
            beside = 0
        return max(beside, self._stamps.shared[self._slot])

    def note(self, count: int) -> None:
        """Note the count; a disk that takes nothing leaves it to the memory."""
        self._stamps.shared[self._slot] = count
        with suppress(OSError):
            if self._fd is None:
                self._fd = os.open(self._file, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            os.pwrite(self._fd, b"%020d" % count, 0)

    def close(self) -> None:
        """Close the file until the next note."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
