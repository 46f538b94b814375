"""``%%track``: a run that begins with its cell and ends with it.

Running the cell from inside a cell magic would lose top-level await, line numbers and the reply's status.
So the first line of the cell becomes a call that begins the run, the rest stays the cell it is, and the run
ends with the execution that began it.
"""

from __future__ import annotations

import ast
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from IPython.core.inputtransformer2 import cell_magic

from dbml_magics.commands import TRACK, track
from dbml_magics.commands.parser import HelpRequested, parse, split, suggestion, wants_help, without_remark
from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy, amended, typing
from dbml_magics.core.interrupts import deferred
from dbml_magics.errors import BadCommand, DbmlError, UndefinedVariable
from dbml_magics.notebook import callers, display, live

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

    from dbml_magics.core.session import Session
    from dbml_magics.core.track import Track
    from dbml_magics.results.runs import TrackSummary

__all__ = ["CellTracker", "TrackedCellFailed", "magic_body", "transform"]

# What the first line becomes. It shows up in tracebacks of the cell, so the cell's text is not in it.
_BEGIN = "get_ipython().run_line_magic('track', {!r})\n"
_EMPTY = "get_ipython().run_cell_magic('track', {!r}, '\\n')\n"
_NO_CELL_MAGIC = "{}get_ipython().run_cell_magic('dbml', {!r}, '\\n')\n"
_INTERRUPTED = (-int(signal.SIGINT), 128 + int(signal.SIGINT))  # exit codes: of the program, of its shell
_MAGIC = re.compile(r"^(\s*)[%!].*\n?")
_ASSIGNED = re.compile(r"^(\s*[\w.,\s\[\]'\"]+=\s*)[%!].*\n?")
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
    view: live.View | None = None
    failure: BaseException | None = None
    ended: bool = False


@dataclass
class _Execution:
    """One execution of a cell, or of what ``run_cell_magic`` was given."""

    cell: str
    frame: FrameType | None = None  # in which IPython executes it
    info: ExecutionInfo | None = None  # IPython's own; None where it is silent, or no execution of IPython's
    result_before: ExecutionResult | None = None  # of a silent one: the last result before it
    tracked: bool = False  # it began a run, or tried to
    code_before: object = None  # the exit code of the last !command before it
    shown: list[BaseException] = field(default_factory=list)  # the errors that IPython showed meanwhile
    open: _Open | None = None


def magic_body(line: str) -> str | None:
    """Return what follows ``%%track`` on a cell's first line, or None when it is another line."""
    head, _, rest = line.replace("\t", " ").rstrip().partition(" ")
    return rest.strip() if head == Remedy("track") else None


def _first_line(lines: Sequence[str]) -> tuple[str | None, int]:
    """Return what follows ``%%track`` on a cell's first line, and how many lines that takes.

    A backslash continues it on the next one, as in IPython's own line magics.
    """
    line, taken = (magic_body(lines[0]) if lines else None), 1
    while line is not None and line.endswith("\\") and without_remark(line) == line and taken < len(lines):
        line, taken = f"{line[:-1].rstrip()} {lines[taken].strip()}", taken + 1
    return line, taken


def transform(lines: list[str]) -> list[str]:
    """Turn a cell's line ``%%track …`` into the call that begins the run.

    Comments, imports and line magics may stand above it. Below other code it becomes a call that refuses the
    cell before any of it runs.

    Must not depend on state: IPython transforms a cell several times, also for completion.
    """
    place = _place(lines)
    if place is None:
        return lines
    if lines[place].lstrip().startswith("%%dbml"):
        margin, _, rest = lines[place].partition("%%dbml")
        return [*lines[:place], _NO_CELL_MAGIC.format(margin, rest.strip()), *lines[place + 1 :]]
    if place and (lines[place][:1].isspace() or not _is_light(lines[:place])):
        return [_BEGIN.format(magic_body(lines[place].lstrip()))]
    return [*lines[:place], *_transformed(lines[place:])]


def _place(lines: Sequence[str]) -> int | None:
    """Return where a line of ours stands that IPython reads on a cell's first line alone."""
    for place, line in enumerate(lines):
        bare = line.lstrip()
        head = bare.split(None, 1)[0] if bare.startswith(("%%track", "%%dbml")) else ""
        if head == Remedy("track") and place == 0:
            return place
        if head in (Remedy("track"), "%%dbml") and place and _begins_statement(lines[:place], line):
            return place
    return None


def _begins_statement(above: Sequence[str], line: str) -> bool:
    """Tell whether a line is code, and no line of a text in quotes."""
    if above[0].startswith("%%") and not above[0].startswith(("%%time", "%%capture", "%%prun", "%%dbml")):
        return False  # a text for another magic
    margin = line[: len(line) - len(line.lstrip())]
    try:
        ast.parse("".join([*map(_without_magic, above), f"{margin}pass\n"]))
    except (SyntaxError, ValueError):
        return False
    return True


def _is_light(above: Sequence[str]) -> bool:
    """Tell whether nothing but comments, imports and magics of a line stand there."""
    parsed = ast.parse("".join(map(_without_magic, above)))
    return all(isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)) for node in parsed.body)


def _without_magic(line: str) -> str:
    """Return a line of Python in the place of one of IPython's."""
    return _MAGIC.sub(r"\1pass\n", _ASSIGNED.sub(r"\1None\n", line))


def _transformed(lines: list[str]) -> list[str]:
    """Return a cell from its ``%%track`` line on, with the call that begins the run."""
    line, taken = _first_line(lines)
    assert line is not None
    rest = [*["\n"] * (taken - 1), *lines[taken:]]  # the lines that follow keep their numbers
    if wants_help(without_remark(line).split()):
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

    def __init__(self, shell: InteractiveShell, session: Callable[[], Session]) -> None:
        self._shell = shell
        self._session = session
        # A kernel's subshells execute cells in threads of their own: their executions, and whether one heard
        # of an execution's end.
        self._threads = threading.local()
        self._show: Callable[..., Any] | None = None

    def install(self) -> None:
        """Hook into the shell."""
        self._shell.input_transformers_cleanup.append(transform)
        for event, callback in self._callbacks():
            self._shell.events.register(event, callback)
        self._show = self._shell.showtraceback
        self._shell.showtraceback = self._showtraceback

    def remove(self) -> None:
        """Leave the shell as it was."""
        if transform in self._shell.input_transformers_cleanup:
            self._shell.input_transformers_cleanup.remove(transform)
        for event, callback in self._callbacks():
            if callback in self._shell.events.callbacks[event]:
                self._shell.events.unregister(event, callback)
        if self._shell.showtraceback == self._showtraceback:  # else another tool calls it behind its own
            if getattr(self._show, "__func__", None) is getattr(type(self._shell), "showtraceback", None):
                del self._shell.showtraceback
            else:
                self._shell.showtraceback = self._show

    def _callbacks(self) -> tuple[tuple[str, Callable[..., None]], ...]:
        return (
            ("pre_run_cell", self.pre_run_cell),
            ("post_execute", self.post_execute),
            ("post_run_cell", self.post_run_cell),
            ("post_run_cell", self.post_run_cell_again),
        )

    # ---- what IPython shows as an error ----

    def _showtraceback(self, *args: Any, **keywords: Any) -> Any:
        """Show an error, and note it: many a magic shows one and passes none on (%run, %%capture)."""
        given = keywords.get("exc_tuple", args[0] if args else None)
        self._note(given[1] if given else sys.exc_info()[1] or getattr(sys, "last_value", None))
        assert self._show is not None
        return self._show(*args, **keywords)

    def _note(self, error: BaseException | None) -> None:
        if isinstance(error, BaseException):
            for execution in self._executions:
                execution.shown.append(error)

    # ---- the executions, the outermost first: a cell that runs another fires these events for both ----

    @property
    def _executions(self) -> list[_Execution]:
        found: list[_Execution] | None = getattr(self._threads, "executions", None)
        if found is None:
            found = self._threads.executions = []
        return found

    def pre_run_cell(self, info: ExecutionInfo) -> None:
        """Note that an execution begins."""
        frames = self._frames()
        if self._executions and len(frames) < 2:
            self._close_unannounced(None)
        self._executions.append(_Execution(info.raw_cell, frames[0] if frames else None, info))

    def _frames(self) -> list[FrameType]:
        """Return the frames in which IPython executes cells here, the innermost first."""
        code = getattr(getattr(type(self._shell), "run_cell_async", None), "__code__", None)
        frame: FrameType | None = sys._getframe()
        found = []
        while frame is not None:
            if frame.f_code is code:
                found.append(frame)
            frame = frame.f_back
        return found

    def _close_unannounced(self, below: _Execution | None) -> None:
        """End the executions above one (None: all) whose end an interrupt kept IPython from announcing."""
        while self._executions and self._executions[-1] is not below:
            self._close(self._executions[-1].open, [KeyboardInterrupt()])
            self._executions.pop()

    def post_execute(self) -> None:
        """End the run of a silent execution that ends: no other event tells of one (%run of a notebook)."""
        executions = self._executions
        if not any(e.info is None and e.frame is not None for e in executions):
            return
        frames = self._frames()
        for execution in [e for e in executions if e.info is None and e.frame is not None]:
            if execution in executions and execution.frame not in frames:
                result = getattr(self._shell, "last_execution_result", None)
                self._end(execution, None if result is execution.result_before else result)

    def post_run_cell(self, result: ExecutionResult) -> None:
        """End the run of the execution that ends.

        IPython gives no result when the execution was cancelled, and none of the events' beginnings for an
        empty cell. An interrupt that comes meanwhile ends this call, and IPython makes the next one.
        """
        self._threads.heard = False
        info = None if result is None else result.info
        found = [e for e in self._executions if info is None or e.info is info]
        if found:
            self._end(found[-1], result)
        self._threads.heard = True

    def post_run_cell_again(self, result: ExecutionResult) -> None:
        """End the run of the execution that ends, unless that is done."""
        if not getattr(self._threads, "heard", False):
            self.post_run_cell(result)
        self._threads.heard = False

    def _end(self, execution: _Execution, result: ExecutionResult | None) -> None:
        """End an execution and all above it; it fails with what was raised, or shown, or fails at its end."""
        self._close_unannounced(execution)
        error = _error_of(result)
        if error is not None:
            self._note_below(execution, error)
        if execution.open is not None and error is None:
            self._show_interrupt(execution)
        errors = _errors(error, execution.shown if execution.tracked else ())
        failure = self._close(execution.open, errors) or (errors[0] if errors else None)
        if failure is not None and result is not None and result.success:
            result.error_in_exec = failure
            self._shell.last_execution_succeeded = False
        self._executions.pop()

    def _show_interrupt(self, execution: _Execution) -> None:
        """Show that a !command was interrupted: IPython ends the command, and lets the cell go on."""
        code = self._shell.user_ns.get("_exit_code")
        if code in _INTERRUPTED and execution.code_before not in _INTERRUPTED:
            stopped = KeyboardInterrupt(f"a !command of the cell was interrupted (exit code {code})")
            self._shell.showtraceback((KeyboardInterrupt, stopped, None))

    def _note_below(self, execution: _Execution, error: BaseException) -> None:
        """Note an error for what ran the cell: one of its syntax, say, is shown in another way."""
        for below in self._executions:
            if below is execution:
                return
            below.shown.append(error)

    # ---- beginning ----

    def begin(self, line: str, caller: FrameType | None) -> None:
        """Begin the run of the execution that goes on now; ``caller`` is the frame of its code."""
        try:
            execution = self._current()
            execution.tracked = True
            if execution.open is not None:
                raise BadCommand(
                    "%%track is given twice in this cell; a cell is one run.", remedies=[Remedy("track")]
                )
            execution.code_before = self._shell.user_ns.get("_exit_code")
            with deferred():
                names = callers.names(self._shell, caller)
                execution.open = self._open(line, _body(execution.cell), names)
            execution.shown.clear()  # what was shown before it is not the run's
        except HelpRequested as asked:
            display.show(asked.as_result())

    def _current(self) -> _Execution:
        """Return the execution that goes on now; a silent one is noted here, since no event tells of it."""
        frames, executions = self._frames(), self._executions
        if not frames:
            raise BadCommand(
                "%%track cannot run outside a cell: nothing tells when it ends.",
                remedies=[
                    (Remedy("track"), "on a cell's first line"),
                    ('with dbml.track("NAME"):', "a block of Python code as a run"),
                ],
            )
        found = next((e for e in reversed(executions) if e.frame is frames[0]), None)
        if found is None:
            cell = str(frames[0].f_locals.get("raw_cell", ""))
            found = _Execution(cell, frames[0], result_before=self._shell.last_execution_result)
            executions.append(found)
        return found

    def run(self, line: str, body: str, caller: FrameType | None) -> None:
        """Run a cell as a run: the real cell magic, for ``run_cell_magic``.

        The cell's own output and traceback are shown as it goes; a failing cell raises TrackedCellFailed. A
        script that ``%run`` runs has its cells run in its own names.
        """
        execution = _Execution(body, tracked=True)
        script = callers.script(self._shell, caller)
        failure: BaseException | None = None
        errors: list[BaseException] = []
        result: ExecutionResult | None = None
        self._executions.append(execution)
        try:
            try:
                with deferred():
                    execution.open = self._open(line, body, callers.names(self._shell, caller))
                with callers.within_script(self._shell, script):
                    result = self._shell.run_cell(body)
            finally:
                if execution.open is not None:
                    errors = _errors(_error_of(result), execution.shown)
                    names = callers.names(self._shell, caller)
                    failure = self._close(
                        execution.open, errors, {**names, **(script or self._shell.user_ns)}
                    )
        except HelpRequested as asked:
            display.show(asked.as_result())
            return
        finally:
            self._close(execution.open, [KeyboardInterrupt()])  # where an interrupt kept the above from it
            if execution in self._executions:
                self._close_unannounced(execution)
                self._executions.pop()
        if errors or failure is not None:
            cause = errors[0] if errors else failure
            raise TrackedCellFailed(str(cause)) from cause

    def _open(self, line: str, body: str, names: Mapping[str, object]) -> _Open:
        args = parse(TRACK, split(line, TRACK.prog), names, line)
        track.check(body)
        with typing(args.typed):
            self._refuse_unknown(args.params or (), body, names)
            opened = _Open(track.begin(args, self._session(), body), args.params or ())
        try:
            opened.view = live.begin(opened.track, self._shell)
        except Exception as failure:
            self._close(opened, [failure])
            raise
        return opened

    def _refuse_unknown(self, params: Sequence[str], body: str, known: Mapping[str, object]) -> None:
        """Raise UndefinedVariable for a param that no variable has or gets, before the cell's code runs."""
        if all(name in known for name in params):
            return
        from dbml_magics.notebook.assigned import (
            assigned_names,  # for few cells: loading need not wait for it
        )

        gets = assigned_names(self._shell.transform_cell(body))
        if gets is None:
            return
        for name in params:
            if name not in known and name not in gets:
                raise _unknown(name, params, [*gets, *environment.variables(known)])

    # ---- ending ----

    def _close(
        self, opened: _Open | None, errors: Sequence[BaseException], names: Mapping[str, object] | None = None
    ) -> BaseException | None:
        """End a run and show its summary; return what failed at the end, which is shown already.

        ``names`` are those that its ``--params`` are looked up in, by default the notebook's.
        """
        if opened is None:
            return None
        if opened.ended:
            return opened.failure
        status = _status(errors)
        known = self._shell.user_ns if names is None else names
        params = {name: known[name] for name in opened.params if name in known}
        missing = [name for name in opened.params if name not in known]
        cause = errors[0] if errors else None
        failure: BaseException | None = None
        summary: TrackSummary | None = None
        try:
            summary = opened.track.end(status, params=params, error=cause)
        except BaseException as problem:  # the end of a cell has nobody above it who could handle this
            failure, summary = problem, getattr(problem, "summary", None)
            if isinstance(problem, KeyboardInterrupt):
                opened.track.close(status, error=cause)  # it may have come before that
        opened.ended = True
        if opened.view is not None:
            opened.view.end(summary)
        elif summary is not None:
            display.show(summary)
        if any(map(_began_another, errors)):
            display.warn(
                "%%track has begun this cell's run already: leave mlflow.start_run() out and log to that "
                "run, or make a child of it with mlflow.start_run(nested=True)"
            )
        if failure is None and missing and not errors:
            failure = _undefined(missing)
        opened.failure = failure
        if failure is not None:
            self._tell(failure, cell_failed=bool(errors))
        return failure

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
    place = next((n for n, line in enumerate(lines) if magic_body(line.lstrip()) is not None), None)
    if place is None and any(line.split()[:1] == ["%track"] for line in lines):
        raise BadCommand(
            "%track is no line magic: it tracks the whole cell.",
            remedies=[(Remedy("track"), "on the first line, the code that trains below it")],
        )
    if place is None:
        return cell
    dedented = [line.lstrip() if n == place else line for n, line in enumerate(lines)]
    if place and _begins_statement(lines[:place], lines[place]):
        _refuse_below_code(dedented[place], lines[place], lines[:place])
    return "".join(lines[place + _first_line(dedented[place:])[1] :])


def _refuse_below_code(line: str, written: str, above: Sequence[str]) -> None:
    """Refuse a ``%%track`` that is not the beginning of what a cell does."""
    first = next((each for each in above if each.strip()), written)
    margin = first[: len(first) - len(first.lstrip())]  # of a cell that is indented as a whole
    at_margin = written.startswith(margin) and not written[len(margin) :][:1].isspace()
    if at_margin and _is_light([each.removeprefix(margin) for each in above]):
        return
    split(line, TRACK.prog)  # refuses a secret, which the remedy would repeat
    raise BadCommand(
        f"%%track stands below code, on line {len(above) + 1} of its cell, and tracks whole cells; nothing "
        "has run. Only comments, imports and magics of a line can stand above it.",
        remedies=[(line.strip(), "on the cell's first line, or in a cell of its own with what it tracks")],
    )


def _errors(raised: BaseException | None, shown: Sequence[BaseException]) -> list[BaseException]:
    """Return the errors of a cell, each once: the one that was raised, then those that were shown alone."""
    found: list[BaseException] = []
    for error in (raised, *shown):
        if error is not None and not any(error is other for other in found):
            found.append(error)
    return found


def _status(errors: Sequence[BaseException]) -> str:
    return "KILLED" if any(map(_is_interrupt, errors)) else "FAILED" if errors else "FINISHED"


def _is_interrupt(error: BaseException) -> bool:
    """Tell whether an error is an interrupt, or came while one was handled (in ``%%bash``, say)."""
    import asyncio  # slow to import, and loading the extension is not to wait for it

    if isinstance(error, asyncio.CancelledError):  # as a cause it is a time that was up
        return True
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__context__
    return found is not None


def _error_of(result: ExecutionResult | None) -> BaseException | None:
    if result is None:
        return KeyboardInterrupt()
    error: BaseException | None = result.error_before_exec or result.error_in_exec
    return error


def _began_another(error: BaseException | None) -> bool:
    """Tell whether a cell failed by beginning a run beside its own; MLflow knows no ``%%track``."""
    return type(error) is Exception and "is already active. To start a new run" in str(error)


def _unknown(name: str, params: Sequence[str], known: Sequence[str]) -> UndefinedVariable:
    meant = suggestion(name, sorted(known))
    right = [meant if each == name and meant else each for each in params if meant or each != name]
    listed = ",".join(right) or None
    guess = f" Did you mean {meant!r}?" if meant else ""
    line = amended("track", params=listed)
    return UndefinedVariable(
        f"--params names {name}, which is not defined and which the cell does not assign; nothing has "
        f"run.{guess}",
        remedies=[(line, ""), (f"{name} = …", "in the cell")],
    )


def _undefined(missing: list[str]) -> UndefinedVariable:
    listed = ", ".join(missing)
    are = "are" if len(missing) > 1 else "is"
    return UndefinedVariable(
        f"--params names {listed}, which {are} not defined at the end of the cell; the run kept the rest.",
        remedies=[(f"{missing[0]} = …", "in the cell")],
    )
