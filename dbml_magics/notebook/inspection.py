"""Help where the cursor is: ``%dbml?``, ``%dbml link?`` and Shift+Tab within a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command, command_help, option_help
from dbml_magics.commands.help import overview_text
from dbml_magics.notebook.completion import words_of_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Inspection", "help_at", "overview_of_commands", "question", "track_help"]

_QUESTION = re.compile(r"(?P<indent>\s*)%dbml[ \t]+(?P<name>\w+)(?:[ \t].*)?\?{1,2}\s*")


def overview_of_commands() -> str:
    """Return what ``%dbml?`` shows."""
    return overview_text(COMMANDS, TRACK)


def track_help() -> str:
    """Return what ``%%track?`` shows."""
    return command_help(TRACK)


def question(lines: list[str]) -> list[str]:
    """Turn ``%dbml link?`` into ``%dbml help link``: IPython would look for an object of that name.

    Must not depend on state: IPython transforms a cell several times.
    """
    found = _QUESTION.fullmatch(lines[0]) if len(lines) == 1 else None
    if found is None or found["name"] not in (*COMMANDS, TRACK.name):
        return lines
    return [f"{found['indent']}%dbml help {found['name']}\n"]


def help_at(code: str, cursor: int) -> str | None:
    """Return the help on what stands at the cursor; None outside our lines."""
    lines = code.split("\n")
    above = code[:cursor].count("\n")
    column = cursor - sum(len(line) + 1 for line in lines[:above])
    line = lines[above]
    found = words_of_line(line, lines[:above])
    if found is None:
        return None
    command, words = found
    before = line[:column]
    # The word that the cursor stands in or behind, and the words ahead of it.
    ahead = [*before[len(line) - len(words) :].split()] if len(before) > len(line) - len(words) else []
    if before[-1:].isspace() and column < len(line) and not line[column].isspace():
        ahead.append("")
    if ahead:
        ahead[-1] += re.match(r"\S*", line[column:])[0]  # type: ignore[index]
    if command is None:
        command = COMMANDS.get(words.split()[0]) if words.split() else None
        if command is None or not ahead:
            return overview_of_commands()
        ahead = ahead[1:]
    return _help_on(command, ahead)


def _help_on(command: Command, ahead: Sequence[str]) -> str:
    """Return the help on the last of some words: on its option, on the option that it is the value of."""
    for word in reversed(ahead[-2:]):
        option = command.flag(word.partition("=")[0])
        if option is not None and (word == ahead[-1] or option.takes_value):
            return option_help(command, option)
    return command_help(command)


class Inspection:
    """The help of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._kernel: Any = getattr(shell, "kernel", None)
        self._inspect: Callable[..., dict[str, Any]] | None = None

    def install(self) -> None:
        """Hook into the shell, and into its kernel's answers to Shift+Tab."""
        self._shell.input_transformers_cleanup.append(question)
        self._inspect = getattr(self._kernel, "do_inspect", None)
        if self._inspect is not None:
            self._kernel.do_inspect = self._answer

    def remove(self) -> None:
        """Leave both as they were."""
        if question in self._shell.input_transformers_cleanup:
            self._shell.input_transformers_cleanup.remove(question)
        if self._inspect is not None and getattr(self._kernel, "do_inspect", None) == self._answer:
            if getattr(self._inspect, "__self__", None) is self._kernel:
                del self._kernel.do_inspect
            else:
                self._kernel.do_inspect = self._inspect

    def _answer(self, code: str, cursor_pos: int, *args: Any, **keywords: Any) -> dict[str, Any]:
        shown = help_at(code, cursor_pos)
        if shown is not None:
            return {"status": "ok", "found": True, "data": {"text/plain": shown}, "metadata": {}}
        assert self._inspect is not None
        return self._inspect(code, cursor_pos, *args, **keywords)
