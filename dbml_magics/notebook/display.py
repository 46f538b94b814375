"""Showing: the only module that prints or displays.

In a notebook a result is one display with a text form and an HTML form; in a terminal and in scripts it is
text.
"""

from __future__ import annotations

import contextvars
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dbml_magics.commands import output
from dbml_magics.common import environment
from dbml_magics.common.foreign_text import visible
from dbml_magics.common.redaction import redacted
from dbml_magics.common.reporting import how_to_report
from dbml_magics.core.interrupts import Flag

if TYPE_CHECKING:
    from dbml_magics.results.base import Result

__all__ = [
    "Place",
    "Progress",
    "Screen",
    "defect",
    "is_terminal",
    "note",
    "progress_is_open",
    "show",
    "warn",
]

_SECONDS = re.compile(r"(.*  )(\d[\d,]*) s")  # a line that ends in its seconds
_TICK_S = 1.0
_PLAIN_EVERY = 10.0  # seconds between progress lines where a line cannot be rewritten


class _Unfinished:
    """The progress line that the next result takes the place of, so that a command leaves one output."""

    handle: Any = None
    own: bool = False  # it shows nothing but that the command went on


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
    """Tell whether a finished command's progress line waits for its result.

    One that shows nothing but that the command went on is taken away.
    """
    if _Unfinished.handle is not None and _Unfinished.own:
        handle, _Unfinished.handle = _Unfinished.handle, None
        handle.update({"text/plain": ""}, raw=True)
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
    """A progress line of a notebook, a terminal or a script, updated in place where that is possible.

    It moves each second, whether or not the command reports anything. Within a command's own line, what the
    command opens is that line.
    """

    def __init__(self) -> None:
        super().__init__(self._report)
        self._handle: Any = None
        self._width = 0
        self._printed = float("-inf")
        self._depth = 0
        self._started = self._said = time.monotonic()
        self._base = ""
        self._own = True  # nothing but the command's name is shown
        self._lock = threading.Lock()
        self._over = Flag()  # set in the main thread, where an interrupt may come
        self._ticking: threading.Thread | None = None

    def begin(self, what: str, at_once: str = "") -> None:
        """Show from the first second on that the command goes on; ``at_once`` is a line for before that."""
        self._base = at_once or what
        if at_once and (environment.has_kernel(environment.shell()) or is_terminal()):
            with self._lock:
                self._show(at_once)
        # What the thread shows belongs to this cell, whichever runs when it is sent.
        context = contextvars.copy_context()
        self._ticking = threading.Thread(
            target=context.run, args=(self._tick,), name="dbml-progress", daemon=True
        )
        self._ticking.start()

    def _tick(self) -> None:
        while not self._over.wait(_TICK_S):
            with self._lock:
                if (
                    not self._over.is_set()
                    and self._is_due()
                    and time.monotonic() - self._said >= _TICK_S / 2
                ):
                    self._show(self._with_seconds())

    def _is_due(self) -> bool:
        """Tell whether a line is worth its place, which is for good where it cannot be rewritten."""
        rewritten = environment.rewrites_displays(environment.shell()) or is_terminal()
        return rewritten or time.monotonic() - self._started >= _PLAIN_EVERY

    def wipe(self) -> None:
        """Clear the line in a terminal, where another text is to be printed."""
        with self._lock:
            if self._width:
                sys.stdout.write("\r" + " " * self._width + "\r")
                sys.stdout.flush()

    def _with_seconds(self) -> str:
        """Return the line with the seconds that have passed: its own, else the command's."""
        now = time.monotonic()
        found = _SECONDS.fullmatch(self._base)
        if found is None:
            return f"{self._base}  {now - self._started:,.0f} s"
        passed = int(found[2].replace(",", "")) + now - self._said
        return f"{found[1]}{passed:,.0f} s"

    def _report(self, line: str) -> None:
        with self._lock:
            self._base, self._said, self._own = line, time.monotonic(), False
            self._show(line)

    def __enter__(self) -> Progress:
        if not self._depth:
            _Unfinished.handle = None
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._over.set()
        if self._ticking is not None:
            self._ticking.join(_TICK_S)
        if error is not None and self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)  # the error says how far it came
        self.wipe()  # a result or an error follows: in a terminal it begins on a clean line
        if error is None:
            _Unfinished.handle, _Unfinished.own = self._handle, self._own

    def _show(self, line: str) -> None:
        if environment.rewrites_displays(environment.shell()):
            self._in_notebook(line)
        elif is_terminal():
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


def is_terminal() -> bool:
    """Tell whether what is printed goes to a terminal, which can rewrite its last line."""
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # replaced or closed streams
        return False


class Screen:
    """The output of commands that a reader of this module's displays runs."""

    def __init__(self) -> None:
        self._line: Progress | None = None

    def note(self, text: str) -> None:
        """Print one line for the reader."""
        if self._line is not None:
            self._line.wipe()
        note(text)

    def progress(self) -> Progress:
        """Open a progress line: the command's, where it has one."""
        return self._line or Progress()

    @contextmanager
    def going(self, what: str, at_once: str = "") -> Iterator[None]:
        """Show that a command goes on; ``at_once`` is a line for before the first second is over."""
        self._line = Progress()
        with self._line:
            self._line.begin(what, at_once)
            yield
