"""A line of a terminal that moves while a cell runs, and gives way to whatever the cell prints."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from dbml_magics.common.foreign_text import visible
from dbml_magics.common.fork_locks import ForkLock
from dbml_magics.common.redaction import redacted

__all__ = ["MovingLine"]


class MovingLine:
    """The last line of this process's terminal, until it is closed.

    What is printed meanwhile passes through it: it wipes the line first, and where something was printed that
    does not end its line, there is none.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._pid = os.getpid()
        self._width = 0
        self._closed = False
        self._free = True  # the cursor stands where a line begins
        self._watched: dict[str, _Watched] = {}

    def open(self) -> None:
        """Have what is printed from now on pass by the line."""
        for name in ("stdout", "stderr"):
            stream: TextIO = getattr(sys, name)
            self._watched[name] = watched = _Watched(stream, self)
            setattr(sys, name, watched)

    def close(self) -> None:
        """Take the line away for good."""
        with self._lock:
            self._wipe()
            self._closed = True
        for name, watched in self._watched.items():
            if getattr(sys, name) is watched:  # else the cell has put its own there, and may keep it
                setattr(sys, name, watched.stream)

    def put(self, text: str) -> None:
        """Show a text, cut to the terminal's width, where there is room for a line."""
        shown = visible(redacted(text))[: max(shutil.get_terminal_size().columns - 1, 1)]
        with self._lock:
            if self._free and not self._closed:
                # The cursor goes back, so that what passes by this object's streams begins its own line.
                self._write(f"\r{shown.ljust(self._width)}\r")
                self._width = len(shown)

    def _wipe(self) -> None:
        if self._width and os.getpid() == self._pid:
            self._write(f"\r{' ' * self._width}\r")
        self._width = 0

    def passed(self, text: str, stream: TextIO) -> int:
        """Print a text to one of the streams."""
        with self._lock:
            self._wipe()
            if text:
                self._free = text.endswith(("\n", "\r"))
            return stream.write(text)

    def _write(self, text: str) -> None:
        stream = self._watched["stdout"].stream
        stream.write(text)
        stream.flush()


class _Watched:
    """A stream whose texts pass by the line; all else is the stream's own."""

    def __init__(self, stream: TextIO, line: MovingLine) -> None:
        self.stream = stream
        self._line = line

    def write(self, text: str) -> int:
        return self._line.passed(text, self.stream)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
