"""Showing: the only module that prints or displays.

In a notebook a result is one display with a text form and an HTML form; in a terminal and in scripts it is
text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dbml_magics.commands import output
from dbml_magics.common import environment
from dbml_magics.common.foreign_text import visible
from dbml_magics.common.redaction import redacted
from dbml_magics.common.reporting import how_to_report

if TYPE_CHECKING:
    from dbml_magics.results.base import Result

__all__ = [
    "Place",
    "Progress",
    "Screen",
    "defect",
    "note",
    "progress_is_open",
    "show",
    "warn",
]

_PLAIN_EVERY = 10.0  # seconds between progress lines where a line cannot be rewritten


class _Unfinished:
    """The progress line that the next result takes the place of, so that a command leaves one output."""

    handle: Any = None


def show(result: Result) -> None:
    """Show a result once, in the place of its progress line if there was one."""
    handle, _Unfinished.handle = _Unfinished.handle, None
    shell = environment.shell()
    if shell is None:
        print(result)
    elif handle is not None:
        handle.update(result)
    elif environment.has_kernel(shell):
        from IPython.display import display

        display(result)
    else:
        print(result)


def progress_is_open() -> bool:
    """Tell whether a finished command's progress line waits for its result."""
    return _Unfinished.handle is not None


def note(text: str) -> None:
    """Print one line for the reader."""
    print(visible(redacted(text)))


def warn(text: str) -> None:
    """Print one line beside the output."""
    print(visible(redacted(text)), file=sys.stderr)


def defect(what: str) -> None:
    """Print how to report an error that no user causes; its traceback follows."""
    warn(
        f"{what} failed inside dbml_magics: a defect of ours, not of your code. What was logged is kept.\n"
        f"{how_to_report()}"
    )


class Place:
    """One output of a notebook that is shown when there is something to show, and changed in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    @property
    def shown(self) -> bool:
        """Tell whether anything is shown there."""
        return self._handle is not None

    def put(self, bundle: Mapping[str, Any]) -> None:
        """Show a bundle (form -> content) there."""
        if self._handle is None:
            from IPython.display import display

            self._handle = display(dict(bundle), raw=True, display_id=True)
        else:
            self._handle.update(dict(bundle), raw=True)

    def end_in(self, result: Result) -> None:
        """Show a result there for good."""
        _Unfinished.handle = self._handle
        show(result)


class Progress(output.Progress):
    """A progress line of a notebook, a terminal or a script, updated in place where that is possible."""

    def __init__(self) -> None:
        super().__init__(self._show)
        self._handle: Any = None
        self._width = 0
        self._printed = float("-inf")

    def __enter__(self) -> Progress:
        _Unfinished.handle = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            # A result or an error follows: in a terminal it begins on a clean line.
            sys.stdout.write("\r" + " " * self._width + "\r")
            sys.stdout.flush()
        if error is None:
            _Unfinished.handle = self._handle

    def _show(self, line: str) -> None:
        if environment.has_kernel(environment.shell()):
            self._in_notebook(line)
        elif _is_terminal():
            sys.stdout.write("\r" + line.ljust(self._width))
            sys.stdout.flush()
            self._width = max(self._width, len(line))
        elif time.monotonic() - self._printed >= _PLAIN_EVERY:
            self._printed = time.monotonic()
            print(line)

    def _in_notebook(self, line: str) -> None:
        bundle = {"text/plain": line}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # replaced or closed streams
        return False


class Screen:
    """The output of commands that a reader of this module's displays runs."""

    def note(self, text: str) -> None:
        """Print one line for the reader."""
        note(text)

    def progress(self) -> Progress:
        """Open a progress line."""
        return Progress()
