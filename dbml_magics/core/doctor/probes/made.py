"""What a probe made at a workspace: noted on this disk before it is made, until it is deleted again.

A kernel that is killed deletes nothing; the next ``doctor --probe`` at the same workspace does, by the note.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dbml_magics.common.config import data_home
from dbml_magics.core.workspace_uri import same_place

if TYPE_CHECKING:
    from dbml_magics.core.destinations.kinds import RemoteWorkspace

__all__ = ["Made", "Note", "left_behind"]

Made = tuple[str, str]
"""What it is (experiment, model, catalog-model, logged-model, endpoint), and its name there."""


class Note:
    """One sandbox's note: a file (0600) that its process holds locked."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+")

    @classmethod
    def new(cls, workspace: RemoteWorkspace, name: str) -> Note:
        """Begin the note of a sandbox."""
        note = cls(_folder() / f"{name}.jsonl")
        note.hold()
        note.add(("workspace", _home(workspace)))
        return note

    def hold(self) -> bool:
        """Lock it; tells whether no living process has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def add(self, made: Made) -> None:
        """Note something that is about to be made."""
        self._file.write(json.dumps(made) + "\n")
        self._file.flush()

    def read(self) -> list[Made]:
        """Return all that was noted; the last line of a process that was killed may be half a line."""
        self._file.seek(0)
        found: list[Made] = []
        for line in self._file:
            try:
                what, name = json.loads(line)
            except ValueError:
                break
            found.append((str(what), str(name)))
        return found

    def close(self, *, done: bool) -> None:
        """Let go of it; ``done`` deletes it."""
        if done:
            self.path.unlink(missing_ok=True)
        self._file.close()


def left_behind(workspace: RemoteWorkspace) -> Iterator[tuple[Note, list[Made]]]:
    """Yield the notes of sandboxes at a workspace whose process is gone, with what they made."""
    folder = _folder()
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        note = Note(path)
        made = note.read() if note.hold() else []
        if made and made[0] == ("workspace", _home(workspace)):
            yield note, made[1:]
        else:
            note.close(done=False)


def _home(workspace: RemoteWorkspace) -> str:
    """Return the address of a workspace; its URI may be the environment's to say."""
    return same_place(workspace.creds().host)


def _folder() -> Path:
    return data_home() / "probes"
