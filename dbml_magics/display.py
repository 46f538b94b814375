"""Showing: the only module that prints or displays.

In a notebook a result is one display with a text form and an HTML form; in a terminal and in scripts it is
text.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dbml_magics._version import __version__
from dbml_magics.common import environment
from dbml_magics.common.foreign_text import one_line, visible
from dbml_magics.common.redaction import redacted

if TYPE_CHECKING:
    from dbml_magics.results.base import Result

__all__ = [
    "DisplayHookFilter",
    "Place",
    "Progress",
    "defect",
    "how_to_report",
    "note",
    "progress_is_open",
    "show",
    "told_to",
    "warn",
]

# A name, since importing the results takes a third of the time that loading the extension may take.
_RESULT = "dbml_magics.results.base.Result"

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


_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Hand notes and progress lines of this context to a listener (a form) instead of showing them."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def note(text: str) -> None:
    """Print one line for the reader."""
    text = visible(redacted(text))
    listener = _listener.get()
    if listener is not None:
        listener(text)
    else:
        print(text)


def warn(text: str) -> None:
    """Print one line beside the output."""
    print(visible(redacted(text)), file=sys.stderr)


def defect(what: str) -> None:
    """Print how to report an error that no user causes; its traceback follows."""
    warn(
        f"{what} failed inside dbml_magics: a defect of ours, not of your code. What was logged is kept.\n"
        f"{how_to_report()}"
    )


def how_to_report() -> str:
    """Return how to report a defect of ours."""
    return f"To report it, send the traceback and this line to whoever gave you the package: {_versions()}"


def _versions() -> str:
    """Return the versions that a report has to name."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"dbml-magics {__version__}"]
    for package in ("mlflow", "ipython", "azureml-mlflow", "databricks-sdk"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join([*found, f"Python {platform.python_version()}", platform.system()])


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


class Progress:
    """One line with counts and a rate, updated in place; nothing appears before the first update."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._width = 0
        self._printed = float("-inf")
        self._line = ""
        self._began: float | None = None

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

    def update(self, remaining: Mapping[str, int], rate: float) -> None:
        """Say how many writes remain for each workspace, and how many go out in a second."""
        if not self._line and not any(remaining.values()):
            return
        left = " · ".join(f"{name} {amount:,} left" for name, amount in remaining.items())
        self.say(f"delivering  {left} · {rate:,.0f} writes/s")

    def step(self, done: int, total: int, what: str) -> None:
        """Say which of some steps is under way, and for how long the whole has been."""
        began = self._began = self._began or time.monotonic()
        self.say(f"{done} of {total}  {what}  {time.monotonic() - began:,.0f} s")

    def say(self, line: str) -> None:
        """Put a line in the place of the one before."""
        line = one_line(redacted(line))
        if line == self._line:
            return
        self._line = line
        listener = _listener.get()
        if listener is not None:
            listener(line)
        elif environment.has_kernel(environment.shell()):
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


class DisplayHookFilter:
    """Keeps the display hook from showing a result again that its magic showed already.

    The magic returns its result, and the hook shows what the last expression of a cell returns. The filter
    is a formatter for :class:`Result` in one shell: it swallows the one display that follows
    :meth:`pass_over`.
    """

    def __init__(self, shell: Any) -> None:
        self._formatter = shell.display_formatter.ipython_display_formatter
        self._skip: Result | None = None

    def install(self) -> None:
        """Put the filter in front of the shell's formatters."""
        self._formatter.for_type(_RESULT, self._swallow)

    def remove(self) -> None:
        """Take the filter away."""
        self._formatter.pop(_RESULT, None)

    def pass_over(self, result: Result | None) -> None:
        """Name the result that was shown just now; None forgets it."""
        self._skip = result

    def _swallow(self, result: Result) -> None:
        skip, self._skip = self._skip, None
        if skip is not result:
            raise NotImplementedError  # IPython goes on with the ordinary formatters
