"""Commands in messages, in the words of whoever reads them.

Messages, results and remedies name commands as a notebook has them (``%dbml sync --timeout 60``). Where the
magics are loaded they stay so; in a script the same command is shown as a Python call
(``dbml.sync(timeout=60)``), in a shell as a shell has it (``dbml-magics sync --timeout 60``).
"""

from __future__ import annotations

import re
from typing import Literal, Protocol

from dbml_magics.common import environment

__all__ = [
    "IN_SHELLS",
    "SHELL",
    "WSL",
    "FrontEnd",
    "Grammar",
    "Remedy",
    "derive_from",
    "front_end",
    "place",
    "process",
    "say",
    "speak",
    "to_train",
    "worded",
]

FrontEnd = Literal["magic", "python", "shell"]

IN_SHELLS = ("status", "sync", "doctor")
"""The commands that ``dbml-magics`` has."""

WSL = ("wsl --install", "in a terminal, once; then start Jupyter inside the Windows Subsystem for Linux")
"""The remedy where Windows itself is refused."""

SHELL = "dbml-magics"
"""The command that shells have."""

_COMMAND = re.compile(r"(%dbml|%%track)(?![\w-])")
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)(?: (?=['\"]))?")


class Remedy(Protocol):
    """A command with its arguments, which each front end shows in its own words."""

    def python(self) -> str:
        """Return it as a Python call."""

    def shell(self, line: str) -> str:
        """Return it as a shell's command, where there is one; ``line`` is a notebook's."""


class Grammar(Protocol):
    """What knows the commands; it stands above all that names them in messages."""

    def remedy(self, line: str) -> Remedy | None:
        """Take a notebook's line apart; None where it is no command's."""

    def keyword(self, option: str) -> str:
        """Return the argument of a Python call for an option."""


class _Front:
    """Who reads; None where it is to be found out."""

    chosen: FrontEnd | None = None
    grammar: Grammar | None = None


def derive_from(grammar: Grammar) -> None:
    """Have commands in messages shown by a grammar."""
    _Front.grammar = grammar


def speak(to: FrontEnd | None) -> FrontEnd | None:
    """Write for one kind of reader from now on (None: find out each time); returns what was set before."""
    before, _Front.chosen = _Front.chosen, to
    return before


def front_end() -> FrontEnd:
    """Return who reads: somebody who has the magics, or somebody who writes Python, or a shell's user."""
    if _Front.chosen is not None:
        return _Front.chosen
    shell = environment.shell()
    has_magics = shell is not None and "dbml" in shell.magics_manager.magics["line"]
    return "magic" if has_magics else "python"


def place() -> str:
    """Return what the reader works in, in a word."""
    return {"magic": "notebook", "python": "process", "shell": "folder"}[front_end()]


def say(line: str) -> str:
    """Return one command, given as a notebook has it, as its reader would type it; other text as it is."""
    reader = front_end()
    if reader == "magic":
        return line
    if not _COMMAND.match(line):
        return _plain(line)
    remedy = None if _Front.grammar is None else _Front.grammar.remedy(line)
    if remedy is None:
        return line if reader == "python" else f"{line} in a notebook"
    return remedy.python() if reader == "python" else remedy.shell(line)


def process() -> str:
    """Return what runs the reader's code, in a word."""
    return "kernel" if front_end() == "magic" else "process"


def to_train() -> str:
    """Return the sentence about what comes after a link."""
    if front_end() == "magic":
        return "Next: start a cell that trains with %%track"
    return 'Next: train in a block that begins with dbml.track("NAME"):'


def worded(message: str) -> str:
    """Return a message's sentence with its options (``--local``) as the reader's front end has them."""
    grammar = _Front.grammar
    if front_end() != "python" or grammar is None:
        return message
    return _OPTION.sub(lambda found: f"{grammar.keyword(found.group(1))}=", message)


def _plain(line: str) -> str:
    """Return a line of IPython's own (``%pip install x``, ``!cat y``) as a shell has it."""
    if line.startswith("%env "):
        return f"printenv {line[5:]}"
    return re.sub(r"^(!|%(?=pip |cd ))", "", line)
