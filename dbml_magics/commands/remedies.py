"""A command to run next as a Python call, by the grammar of the commands: a new option needs no word here."""

from __future__ import annotations

import inspect
import json
import re

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Call, Command, Option, names, pair, text
from dbml_magics.common.hints import Remedy

__all__ = ["keyword", "python"]

_NUMBER = re.compile(r"\d+(\.\d+)?")


def keyword(option: str) -> str:
    """Return the argument of a Python call for an option (``max`` without its dashes)."""
    return _KEYWORDS.get(f"--{option}", option.replace("-", "_"))


_KEYWORDS = {option.name: option.parameter for each in COMMANDS.values() for option in each.flags}


def python(remedy: Remedy) -> str:
    """Return a command as a Python call."""
    command = TRACK if remedy.command == "track" else COMMANDS[remedy.command]
    if command.name == "help" or "help" in remedy.options:
        about = remedy.values[:1] if command.name == "help" else (command.name,)
        return f"help({'.'.join(['dbml', *about])})"
    call = _call(remedy, command)
    parameters = {} if call is None else inspect.signature(call).parameters
    missing = len(command.values) - len(remedy.values)
    alone = [value.otherwise for value in command.values[:missing] if value.otherwise]
    given = [_literal(value) for value in (*alone, *remedy.values)]
    named = []
    for name, value in remedy.options.items():
        option = command.flag(_flag(name))
        parameter = parameters.get("" if option is None else option.parameter)
        if option is None or parameter is None:
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.annotation == "str":
            given.append(_value(option, value))  # what the call is about
        else:
            named.append(f"{option.parameter}={_value(option, value)}")
    written = f"dbml.{command.name if call is None else call.__name__}({', '.join([*given, *named])})"
    return f"with {written}:" if command is TRACK else written


def _call(remedy: Remedy, command: Command) -> Call | None:
    """Return the callable that does it."""
    if not remedy.values and not remedy.options and command.bare is not None:
        return command.bare
    return command.called({_flag(name): value for name, value in remedy.options.items()}.get)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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
