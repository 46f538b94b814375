"""A command to run next, as a value that each front end shows in its own words.

Messages are written with the command as a notebook has it. :meth:`Remedy.read` takes such a line apart by the
grammar of the commands, so that a new option needs no word here; unlike the parser it takes what only shows
where a value goes (``NAME``, ``…``), and a line without its end.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.parser import Call, Command, Option, names, pair, text
from dbml_magics.common.hints import IN_SHELLS, SHELL

__all__ = ["Remedy", "keyword"]

# Without the current folder on the path: a module of our name may lie there.
_PYTHON = "python -P" if sys.version_info >= (3, 11) else "python -I"
_NUMBER = re.compile(r"\d+(\.\d+)?")


def keyword(option: str) -> str:
    """Return the argument of a Python call for an option (``max`` without its dashes)."""
    return _KEYWORDS.get(f"--{option}", option.replace("-", "_"))


_KEYWORDS = {option.name: option.parameter for each in COMMANDS.values() for option in each.flags}


@dataclass(frozen=True)
class Remedy:
    """A command with its arguments."""

    command: Command
    values: tuple[str, ...]
    """What stands by itself."""
    options: Mapping[str, str | bool | list[str]]
    """An option -> its value, or its values; True where it has none."""

    @classmethod
    def read(cls, line: str) -> Remedy | None:
        """Take a notebook's line apart; None where it is no command's."""
        try:
            magic, *words = shlex.split(line)
        except ValueError:  # a value of the user's with a quote in it
            magic, *words = line.split()
        if magic == "%%track":
            return cls(TRACK, *_read(TRACK, words))
        command = COMMANDS.get(words[0] if words and words[0] != "--help" else "help")
        return None if command is None else cls(command, *_read(command, words[1:]))

    @property
    def call(self) -> Call | None:
        """Return the callable that does it."""
        if not self.values and not self.options and self.command.bare is not None:
            return self.command.bare
        return self.command.called(self.options.get)

    def python(self) -> str:
        """Return it as a Python call."""
        if self.command.name == "help" or {"-h", "--help"} & {*self.values, *self.options}:
            about = self.values[:1] if self.command.name == "help" else (self.command.name,)
            return f"help({'.'.join(['dbml', *about])})"
        call = self.call
        parameters = {} if call is None else inspect.signature(call).parameters
        missing = len(self.command.values) - len(self.values)
        alone = [value.otherwise for value in self.command.values[:missing] if value.otherwise]
        given = [_literal(value) for value in (*alone, *self.values)]
        named = []
        for name, value in self.options.items():
            option = self.command.flag(name)
            parameter = parameters.get("" if option is None else option.parameter)
            if option is None or parameter is None:
                continue
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.annotation == "str":
                given.append(_value(option, value))  # what the call is about
            else:
                named.append(f"{option.parameter}={_value(option, value)}")
        written = (
            f"dbml.{self.command.name if call is None else call.__name__}({', '.join([*given, *named])})"
        )
        return f"with {written}:" if self.command is TRACK else written

    def shell(self, line: str) -> str:
        """Return it as a shell's command, where there is one; ``line`` is a notebook's."""
        if self.command.name in IN_SHELLS:
            return line.replace("%dbml", SHELL, 1)
        if self.command.name == "link" and "…" not in line:
            return f"{_PYTHON} -c {shlex.quote(f'import dbml_magics as dbml; print({self.python()})')}"
        return f"{line} in a notebook"


def _read(
    command: Command, words: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, str | bool | list[str]]]:
    values: list[str] = []
    options: dict[str, str | bool | list[str]] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            values.append(word)
            continue
        name, equals, value = word.partition("=")
        option = command.flag(name)
        if not equals and option is not None and option.takes_value and left and left[0][:2] != "--":
            value, equals = left.pop(0), "="
        several = options.get(name)
        if not equals:
            options[name] = True
        elif option is not None and option.repeatable:
            options[name] = [*several, value] if isinstance(several, list) else [value]
        else:
            options[name] = value
    return tuple(values), options


def _value(option: Option, value: str | bool | list[str]) -> str:
    if isinstance(value, bool):
        return str(value and not option.name.startswith("--no-"))
    if isinstance(value, list):
        if option.convert is pair:
            pairs = (each.partition("=") for each in value)
            return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, _, each in pairs) + "}"
        return "[" + ", ".join(map(_literal, value)) + "]"
    if option.convert is names:
        return "{" + ", ".join(f"{_literal(name)}: {name}" for name in value.split(",")) + "}"
    if option.listed:
        return "[" + ", ".join(_literal(each.strip()) for each in value.split(",")) + "]"
    is_number = option.convert not in (text, pair) and _NUMBER.fullmatch(value)
    return value if is_number else _literal(value)


def _literal(word: str) -> str:
    if word == "…":
        return word
    return word[1:] if re.fullmatch(r"\$[^\W\d]\w*", word) else json.dumps(word, ensure_ascii=False)
