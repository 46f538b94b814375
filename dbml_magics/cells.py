"""``%%track``: a run that begins with its cell and ends with it.

Running the cell from inside a cell magic would lose top-level await, line numbers and the reply's status.
So the first line of the cell becomes a call that begins the run, the rest stays the cell it is, and the run
ends with the execution that began it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from IPython.core.inputtransformer2 import cell_magic

from dbml_magics import display, live
from dbml_magics.commands import TRACK, track
from dbml_magics.core.interrupts import deferred
from dbml_magics.errors import BadCommand, DbmlError, UndefinedVariable
from dbml_magics.parser import HelpRequested, parse, split, wants_help

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.core.track import Track
    from dbml_magics.results import TrackSummary

__all__ = ["CellTracker", "TrackedCellFailed", "magic_body", "transform"]

# What the first line becomes. It shows up in tracebacks of the cell, so the cell's text is not in it.
_BEGIN = "get_ipython().run_line_magic('track', {!r})\n"
_EMPTY = "get_ipython().run_cell_magic('track', {!r}, '\\n')\n"
_FUTURE = re.compile(r"from __future__ import [\w, ]+\s*")


class TrackedCellFailed(Exception):
    """The cell failed and its traceback is shown already; this shows nothing of its own."""

    def _render_traceback_(self) -> list[str]:
        return []


@dataclass
class _Open:
    """A run that a cell began."""

    track: Track
    params: tuple[str, ...]
    view: live.LiveView | None = None
    failure: BaseException | None = None
    ended: bool = False


@dataclass
class _Execution:
    """One execution of a cell, from ``pre_run_cell`` to ``post_run_cell``."""

    info: Any
    last_error: BaseException | None  # what was shown last before it
    code_name: str | None = None  # the file name of the code that began a run, or tried to
    open: _Open | None = None


def magic_body(line: str) -> str | None:
    """Return what follows ``%%track`` on a cell's first line, or None when it is another line."""
    head, _, rest = line.rstrip().partition(" ")
    return rest.strip() if head == "%%track" else None


def transform(lines: list[str]) -> list[str]:
    """Turn a cell's first line ``%%track …`` into the call that begins the run.

    Must not depend on state: IPython transforms a cell several times, also for completion.
    """
    line = magic_body(lines[0]) if lines else None
    if line is None:
        return lines
    rest = lines[1:]
    if wants_help(line.split()):
        return [_BEGIN.format(line)]
    if not track.has_code("".join(rest)):
        return [_EMPTY.format(line)]
    # A cell magic below it would be a syntax error in the middle of the cell, so it is turned into its call
    # here; and nothing may stand above an import from __future__, so that goes first.
    blank = next(place for place, below in enumerate(rest) if below.strip())
    code = next(place for place, below in enumerate(rest) if track.has_code(below))
    begin = _BEGIN.format(line)
    if _FUTURE.fullmatch(rest[code]):
        begin, rest[code] = f"{rest[code].strip()}; {begin}", "\n"
    return [begin, *rest[:blank], *cell_magic(rest[blank:])]


# So IPython leaves it out when a terminal asks whether the lines typed so far are a whole cell: else the
# first line alone would be one, and no code could be typed below it. A cell magic ends at a blank line.
transform.has_side_effects = True  # type: ignore[attr-defined]


class CellTracker:
    """Begins and ends the runs of one shell's cells."""

    def __init__(self, shell: Any, session: Callable[[], Session]) -> None:
        self._shell = shell
        self._session = session
        self._executions: list[_Execution] = []
        self._heard = False  # of an execution's end

    def install(self) -> None:
        """Hook into the shell."""
        self._shell.input_transformers_cleanup.append(transform)
        self._shell.events.register("pre_run_cell", self.pre_run_cell)
        self._shell.events.register("post_run_cell", self.post_run_cell)
        self._shell.events.register("post_run_cell", self.post_run_cell_again)

    def remove(self) -> None:
        """Leave the shell as it was."""
        if transform in self._shell.input_transformers_cleanup:
            self._shell.input_transformers_cleanup.remove(transform)
        for event, callback in (
            ("pre_run_cell", self.pre_run_cell),
            ("post_run_cell", self.post_run_cell),
            ("post_run_cell", self.post_run_cell_again),
        ):
            if callback in self._shell.events.callbacks[event]:
                self._shell.events.unregister(event, callback)

    # ---- the executions, the outermost first: a cell that runs another fires these events for both ----

    def pre_run_cell(self, info: Any) -> None:
        """Note that an execution begins."""
        if self._executions and not self._is_nested():
            self._close_unannounced(None)
        self._executions.append(_Execution(info, _shown_last()))

    def _is_nested(self) -> bool:
        """Tell whether the execution that begins does so within another."""
        code = getattr(getattr(type(self._shell), "run_cell_async", None), "__code__", None)
        frame, running = sys._getframe(), 0
        while frame is not None and running < 2:
            running += frame.f_code is code
            frame = frame.f_back  # type: ignore[assignment]
        return code is None or running > 1

    def _close_unannounced(self, info: Any) -> None:
        """End the executions above one (None: all) whose end an interrupt kept IPython from announcing."""
        while self._executions and (info is None or self._executions[-1].info is not info):
            self._close(self._executions[-1].open, KeyboardInterrupt())
            self._executions.pop()

    def post_run_cell(self, result: Any) -> None:
        """End the run of the execution that ends.

        IPython gives no result when the execution was cancelled, and none of the events' beginnings for an
        empty cell. An interrupt that comes meanwhile ends this call, and IPython makes the next one.
        """
        self._heard = False
        info = None if result is None else result.info
        if self._executions and (info is None or any(e.info is info for e in self._executions)):
            if info is not None:
                self._close_unannounced(info)
            execution = self._executions[-1]
            error = _error_of(result) or _swallowed_error(execution)
            failure = self._close(execution.open, error) or error
            if failure is not None and result is not None and result.success:
                result.error_in_exec = failure
                self._shell.last_execution_succeeded = False
            self._executions.pop()
        self._heard = True

    def post_run_cell_again(self, result: Any) -> None:
        """End the run of the execution that ends, unless that is done."""
        if not self._heard:
            self.post_run_cell(result)
        self._heard = False

    # ---- beginning ----

    def begin(self, line: str, code_name: str) -> None:
        """Begin the run of the execution that goes on now; ``code_name`` is the file name of its code."""
        try:
            if not self._executions:
                raise BadCommand(
                    "%%track cannot run in a silent execution: nothing tells when it ends.",
                    remedies=[("%%track", "in a cell that is run as usual")],
                )
            execution = self._executions[-1]
            execution.code_name = code_name
            if execution.open is not None:
                raise BadCommand(
                    "%%track is given twice in this cell; a cell is one run.", remedies=["%%track"]
                )
            with deferred():
                execution.open = self._open(line, _body(execution.info.raw_cell))
        except HelpRequested as asked:
            display.show(asked.as_result())

    def run(self, line: str, body: str) -> None:
        """Run a cell as a run: the real cell magic, for ``run_cell_magic``.

        The cell's own output and traceback are shown as it goes; a failing cell raises TrackedCellFailed.
        """
        opened: _Open | None = None
        result = None
        try:
            try:
                with deferred():
                    opened = self._open(line, body)
                result = self._shell.run_cell(body)
            finally:
                failure = self._close(opened, error := _error_of(result))
        except HelpRequested as asked:
            display.show(asked.as_result())
            return
        finally:
            self._close(opened, KeyboardInterrupt())  # where an interrupt kept the above from it
        if error is not None:
            raise TrackedCellFailed(str(error)) from error
        if failure is not None:
            raise TrackedCellFailed(str(failure)) from failure

    def _open(self, line: str, body: str) -> _Open:
        args = parse(TRACK, split(line, TRACK.prog), self._shell.user_ns)
        track.check(body)
        opened = _Open(track.begin(args, self._session(), body), args.params or ())
        try:
            opened.view = live.begin(opened.track, self._shell)
        except Exception as failure:
            self._close(opened, failure)
            raise
        return opened

    # ---- ending ----

    def _close(self, opened: _Open | None, error: BaseException | None) -> BaseException | None:
        """End a run and show its summary; return what failed at the end, which is shown already."""
        if opened is None:
            return None
        if opened.ended:
            return opened.failure
        status = _status(error)
        params, missing = self._params(opened.params)
        failure: BaseException | None = None
        summary: TrackSummary | None = None
        try:
            summary = opened.track.end(status, params=params)
        except BaseException as problem:  # the end of a cell has nobody above it who could handle this
            failure, summary = problem, getattr(problem, "summary", None)
            if isinstance(problem, KeyboardInterrupt):
                opened.track.close(status)  # it may have come before that
        opened.ended = True
        if opened.view is not None:
            opened.view.end(summary)
        elif summary is not None:
            display.show(summary)
        if _began_another(error):
            display.warn(
                "%%track has begun this cell's run already: leave mlflow.start_run() out and log to that "
                "run, or make a child of it with mlflow.start_run(nested=True)"
            )
        if failure is None and missing and error is None:
            failure = _undefined(missing)
        opened.failure = failure
        if failure is not None:
            self._tell(failure, cell_failed=error is not None)
        return failure

    def _params(self, wanted: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
        namespace = self._shell.user_ns
        return {name: namespace[name] for name in wanted if name in namespace}, [
            name for name in wanted if name not in namespace
        ]

    def _tell(self, failure: BaseException, *, cell_failed: bool) -> None:
        if cell_failed:
            # The reply carries the traceback that was shown last, and that is to stay the cell's own.
            lines = (
                failure.lines()
                if isinstance(failure, DbmlError)
                else [f"{type(failure).__name__}: {failure}"]
            )
            display.warn("\n".join(lines))
            return
        if isinstance(failure, Exception) and not isinstance(failure, DbmlError):
            display.defect("%%track")
        trace: TracebackType | None = failure.__traceback__
        self._shell.showtraceback((type(failure), failure, trace))


def _body(cell: str) -> str:
    """Return a cell's text below its ``%%track`` line."""
    lines = cell.splitlines(keepends=True)
    place = next((place for place, line in enumerate(lines) if magic_body(line) is not None), None)
    if place is None and any(line.split()[:1] == ["%track"] for line in lines):
        raise BadCommand(
            "%track is no line magic: it tracks the whole cell.",
            remedies=[("%%track", "on the first line, the code that trains below it")],
        )
    return "".join(lines if place is None else lines[place + 1 :])


def _status(error: BaseException | None) -> str:
    if error is None:
        return "FINISHED"
    import asyncio  # slow to import, and loading the extension is not to wait for it

    return "KILLED" if isinstance(error, KeyboardInterrupt | asyncio.CancelledError) else "FAILED"


def _error_of(result: Any) -> BaseException | None:
    if result is None:
        return KeyboardInterrupt()
    error: BaseException | None = result.error_before_exec or result.error_in_exec
    return error


def _began_another(error: BaseException | None) -> bool:
    """Tell whether a cell failed by beginning a run beside its own; MLflow knows no ``%%track``."""
    return type(error) is Exception and "is already active. To start a new run" in str(error)


def _swallowed_error(execution: _Execution) -> BaseException | None:
    """Return the error that a cell magic showed and did not pass on, as older ``%%time`` does."""
    error = _shown_last()
    if execution.code_name is None or error is None or error is execution.last_error:
        return None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == execution.code_name:
            return error
        trace = trace.tb_next
    return None


def _shown_last() -> BaseException | None:
    return getattr(sys, "last_value", None)


def _undefined(missing: list[str]) -> UndefinedVariable:
    listed = ", ".join(missing)
    are = "are" if len(missing) > 1 else "is"
    return UndefinedVariable(
        f"--params names {listed}, which {are} not defined at the end of the cell; the run kept the rest.",
        remedies=[(f"{missing[0]} = …", "in the cell")],
    )
