"""docs/commands.md, written from the commands' grammar.

``python -m tests.command_reference --write`` writes it anew; a test fails where it is not up to date.
"""

from __future__ import annotations

import inspect
import re
import sys

import dbml_magics
from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Call, Command, Option
from tests.arrows import ROOT

__all__ = ["PAGE", "page"]

PAGE = ROOT / "docs" / "commands.md"
WIDE = 36
"""The most characters of a table's first column; the choices of a longer option stand in the second."""

HEAD = """\
# Command reference

Every command with its options and examples, and the Python call that does the same. In a notebook
`%dbml help link` or `%dbml link --help` shows the same text for one command.

## How a line is read

- A command's result is a value: `runs = %dbml runs`, then `runs.to_pandas()`. A result that is assigned is
  not shown.
- `$name` or `${name}` stands for the value of a variable of the notebook, the calling function or the
  script, also within a value (`exp-$fold`). `$$` is a dollar sign, and `{{name}}` is `{name}`.
- A `#` that begins a word begins a remark; a backslash at the end of a line continues it on the next.
- Commands, options, runs, models and experiments complete with Tab.

This page is written from the grammar in `dbml_magics/commands/` by
`python -m tests.command_reference --write`; a test fails where it is not up to date.
"""

_CODE = re.compile(
    r"(?<![\w.-])(%dbml [a-z]+(?: --[a-z]+| [A-Z]{2,}\b)*|%%?[a-z]+|--[a-z][\w-]*(?: [A-Z]{2,}\b)?|"
    r"\$[a-z]\w*|[A-Z]+(?:_[A-Z]+)+\b)"
)
_MARKS = re.compile(r"([*<\[\]])")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _prose(text: str) -> str:
    """Return a help text as Markdown: options, magics and variables as code, all else as it reads."""
    parts = _CODE.split(text)
    return "".join(
        f"`{part}`" if index % 2 else _MARKS.sub(r"\\\1", part) for index, part in enumerate(parts)
    )


def _row(option: Option) -> str:
    written, said = option.written.replace("|", "\\|"), [_prose(option.help)]
    if len(written) > WIDE:
        written = f"{option.name} …" if option.takes_value and not option.positional else option.name
        choices = option.choices or option.metavar.split("|")
        said[0] += f": {', '.join(f'`{choice}`' for choice in choices)}"
    said += ["required"] if option.required else []
    if option.repeatable and not option.positional and "repeated" not in option.help:
        said.append("may be repeated")
    said += [f"not beside {', '.join(f'`{name}`' for name in option.excludes)}"] if option.excludes else []
    return f"| `{written}` | {'; '.join(said)} |".replace("\n", " ")


def _call(call: Call) -> str:
    """Return a call of the package with its parameters, those with a default as ``name=default``."""
    shown = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in inspect.signature(call).parameters.values()
        if each.name not in ("progress", "prompt")  # the magics' own
    ]
    name = call.__name__
    assert hasattr(dbml_magics, name), f"{name} is no call of the package"
    return f"`dbml.{name}{inspect.Signature(shown)}`"


def _python(command: Command) -> list[str]:
    if command is TRACK:
        return ["In Python:", "", f"- {_call(dbml_magics.track)}, in a `with` statement"]
    if command.call is None:
        return []
    lines = [f"- {_call(command.call)}"]
    lines += [f"- for `{option}`: {_call(call)}" for option, call in command.instead.items()]
    return ["In Python:", "", *lines]


def _section(command: Command) -> str:
    lines = [f"## {command.prog}", "", _sentence(command.help), "", "```", *command.examples, "```"]
    if command.options:
        rows = [_row(option) for option in command.options]
        lines += ["", "| value or option | meaning |", "|---|---|", *rows]
    if command.details:
        lines += ["", *map(_prose, command.details.splitlines())]
    python = _python(command)
    return "\n".join([*lines, *(["", *python] if python else []), ""])


def page() -> str:
    """Return the page as it should be."""
    return "\n".join([HEAD, *map(_section, (TRACK, *COMMANDS.values()))])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())
