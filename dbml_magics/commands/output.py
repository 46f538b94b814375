"""What a command shows while it runs; each front end passes an :class:`Output` of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from dbml_magics.common.foreign_text import one_line
from dbml_magics.common.redaction import redacted

__all__ = ["Output", "Progress"]


class Output(Protocol):
    """Where notes and progress lines go."""

    def note(self, text: str) -> None:
        """Show one line."""

    def progress(self) -> Progress:
        """Open a progress line."""


class Progress:
    """One line with counts and a rate, replaced as they change; nothing appears before the first update."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put
        self._line = ""
        self._began: float | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the line."""

    def begin(self, what: str, at_once: str = "") -> None:
        """Name the command that begins, so that the line can show that it goes on."""

    def update(self, remaining: Mapping[str, int], rate: float) -> None:
        """Show how many writes remain for each workspace, and how many go out in a second."""
        if not self._line and not any(remaining.values()):
            return
        left = " · ".join(f"{name} {amount:,} left" for name, amount in remaining.items())
        self.say(f"delivering  {left} · {rate:,.0f} writes/s")

    def step(self, done: int, total: int, what: str) -> None:
        """Show which of some steps is under way, and for how long the whole has been."""
        began = self._began = self._began or time.monotonic()
        self.say(f"{done} of {total}  {what}  {time.monotonic() - began:,.0f} s")

    def say(self, line: str) -> None:
        """Replace the line."""
        line = one_line(redacted(line))
        if line != self._line:
            self._line = line
            self._put(line)
