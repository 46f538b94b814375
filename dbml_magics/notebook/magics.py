"""The magics: ``%dbml`` and ``%%track``. They parse, call and show; everything else is below them."""

from __future__ import annotations

import dis
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Literal

from IPython.core.magic import Magics, cell_magic, line_cell_magic, line_magic, magics_class, no_var_expand

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command
from dbml_magics.commands.help import overview
from dbml_magics.commands.parser import (
    HelpRequested,
    corrected,
    find_command,
    parse,
    split,
    suggestion,
    without_remark,
)
from dbml_magics.commands.running import need_link, run
from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy
from dbml_magics.errors import BadCommand, DbmlError
from dbml_magics.notebook import callers, display, live
from dbml_magics.notebook.cells import CellTracker, TrackedCellFailed
from dbml_magics.notebook.completion import Completion
from dbml_magics.notebook.display_hook import DisplayHookFilter
from dbml_magics.notebook.inspection import Inspection, overview_of_commands, track_help

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from dbml_magics.core.session import Session
    from dbml_magics.core.track import Track
    from dbml_magics.results.base import Result

__all__ = ["DbmlMagics"]


def _current_session() -> Session:
    # Imported at the first command: loading the extension is not to cost what the core costs.
    from dbml_magics.core import session

    return session.current()


@magics_class
class DbmlMagics(Magics):  # type: ignore[misc]
    """``%dbml`` and ``%%track``."""

    def __init__(self, shell: InteractiveShell, session: Callable[[], Session] = _current_session) -> None:
        super().__init__(shell)
        self._session = session
        self._cells = CellTracker(shell, session)
        self._filter = DisplayHookFilter(shell)
        self._completion = Completion(shell)
        self._inspection = Inspection(shell)

    def install(self) -> None:
        """Register the magics and all that goes with them in the shell."""
        self.shell.register_magics(self)
        self._cells.install()
        self._filter.install()
        self._completion.install()
        self._inspection.install()

    def remove(self) -> None:
        """Leave the shell as it was before :meth:`install`."""
        self._inspection.remove()
        self._completion.remove()
        self._filter.remove()
        self._cells.remove()
        for kind, names in self.magics.items():
            for name in names:
                self.shell.magics_manager.magics[kind].pop(name, None)
        self.shell.magics_manager.registry.pop(type(self).__name__, None)

    @no_var_expand  # type: ignore[untyped-decorator]
    @line_magic  # type: ignore[untyped-decorator]
    def dbml(self, line: str) -> Result | None:
        """Track to an Azure Databricks and an Azure ML workspace at once; %dbml help lists the commands."""
        self._filter.pass_over(None)
        with _own_defects("%dbml"):
            result = self._form(line) or self._answer(line, callers.names(self.shell, callers.frame()))
            return self._hand_over(result)

    @no_var_expand  # type: ignore[untyped-decorator]
    @cell_magic("dbml")  # type: ignore[untyped-decorator]
    def dbml_cell(self, line: str, cell: str) -> None:  # noqa: ARG002 - IPython's signature
        """Say that ``%dbml`` is a line magic."""
        raise BadCommand(
            "%%dbml is no cell magic: a command is one line with one %.",
            remedies=[
                (self._as_line(line), "as a line; the code goes below it"),
                (Remedy("track"), "to run a cell as a run"),
            ],
        )

    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    def track(self, line: str, cell: str | None = None) -> None:
        """Run this cell as an MLflow run, and sum it up; %%track --help shows the options."""
        with _own_defects(Remedy("track")):
            if cell is not None:
                self._cells.run(line, cell, callers.frame())
            else:  # what the first line of a %%track cell became
                self._cells.begin(line, callers.frame())

    def view_of_block(self, track: Track) -> live.View | None:
        """Begin to show the run of a ``with dbml.track(...)`` block."""
        return live.begin_block(track, self.shell)

    def _as_line(self, line: str) -> str:
        """Return a line of ``%%dbml`` as the line magic that was meant."""
        name, *words = split(line, "%dbml") or ["help"]
        meant = name if name in COMMANDS else suggestion(name, COMMANDS)
        if meant is None:
            return Remedy("help")
        return corrected(COMMANDS[meant], words, callers.names(self.shell, callers.frame()))

    def _answer(self, line: str, namespace: Mapping[str, object]) -> Result:
        tokens = split(line, "%dbml")
        if not tokens or tokens[0] in ("-h", "--help"):
            return overview(COMMANDS, TRACK)

        def meant(name: str) -> Remedy:
            return corrected(TRACK if name == TRACK.name else COMMANDS[name], tokens[1:], namespace)

        command = find_command(tokens[0], COMMANDS, meant)
        try:
            args = parse(command, tokens[1:], namespace, line)
        except HelpRequested as asked:
            return asked.as_result()
        return self._run(command, args)

    def _form(self, line: str) -> Result | None:
        """Return the form of a command that stands alone and wants more, where widgets are shown."""
        name = without_remark(line).strip()
        command = COMMANDS.get(name)
        if command is None or not (name == "link" or any(not v.optional_value for v in command.values)):
            return None
        if not environment.shows_widgets(self.shell) or _fate_of_value(callers.frame()) == "used":
            return None
        from dbml_magics.commands import panel
        from dbml_magics.forms import tabs

        tab = tabs.tab_of(name)
        return None if tab is None else panel.panel(COMMANDS, self._session(), tab, name)

    def _run(self, command: Command, args: Namespace) -> Result:
        screen = display.Screen()
        with screen.going(command.prog, command.at_once):
            if command.needs_link:
                need_link(Remedy(command.name))
            return run(command, args, screen)

    def _hand_over(self, result: Result) -> Result | None:
        """Show a result unless the line's value is used, and return it so that it is not shown again.

        ``runs = %dbml runs`` keeps the value and shows nothing, as with other SQL and Spark magics.
        """
        fate = _fate_of_value(callers.frame())
        if fate == "used" and not display.progress_is_open():
            return result
        display.show(result)
        if environment.prints_prompts(self.shell):  # it would print an empty "Out[n]:" for it
            if fate == "shown":
                self.shell.displayhook.update_user_ns(result)  # the names _ and Out[n] are its all the same
            return None
        self._filter.pass_over(result)
        return result


# What IPython's ? shows in the place of a docstring.
DbmlMagics.dbml.getdoc = overview_of_commands
DbmlMagics.dbml_cell.getdoc = overview_of_commands
DbmlMagics.track.getdoc = track_help


@contextmanager
def _own_defects(what: str) -> Iterator[None]:
    """Say of an error that no user causes where to report it; its traceback stays."""
    try:
        yield
    except (DbmlError, TrackedCellFailed):
        raise
    except Exception:
        display.defect(what)
        raise


def _fate_of_value(frame: FrameType | None) -> Literal["used", "shown", "dropped"]:
    """Tell whether the code uses the call's value, hands it to the display hook or drops it.

    The instruction that follows the call tells: IPython turns both ``%dbml runs`` and ``runs = %dbml runs``
    into the same call, and ``%%time`` and the like leave no source to look at.
    """
    if frame is None:
        return "dropped"
    following = (
        instruction
        for instruction in dis.get_instructions(frame.f_code)
        if instruction.offset > frame.f_lasti and instruction.opname not in ("CACHE", "EXTENDED_ARG", "NOP")
    )
    after = next(following, None)
    if after is None or after.opname == "POP_TOP":
        return "dropped"
    if after.opname == "PRINT_EXPR":
        return "shown"
    if after.opname == "CALL_INTRINSIC_1":  # what PRINT_EXPR is since Python 3.12
        return "shown" if after.arg == 1 else "used"
    dropped = after.opname == "RETURN_VALUE" and frame.f_code.co_name == "<module>"
    return "dropped" if dropped else "used"
