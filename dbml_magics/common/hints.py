"""Commands in messages, in the words of whoever reads them.

Messages, results and errors carry each command as a :class:`Remedy`. Where the magics are loaded it is shown
as a magic line (``%dbml sync --timeout 60``), in a script as a Python call (``dbml.sync(timeout=60)``), in a
shell as a shell has it (``dbml-magics sync --timeout 60``).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

from dbml_magics.common import environment

__all__ = [
    "IN_SHELLS",
    "SHELL",
    "WSL",
    "Argument",
    "FrontEnd",
    "Grammar",
    "Remedy",
    "Template",
    "amended",
    "corrected",
    "derive_from",
    "front_end",
    "instead",
    "is_typed",
    "place",
    "process",
    "python",
    "quoted",
    "say",
    "speak",
    "to_train",
    "typing",
    "worded",
]

FrontEnd = Literal["magic", "python", "shell"]

IN_SHELLS = ("status", "sync", "doctor")
"""The commands that ``dbml-magics`` has."""

WSL = ("wsl --install", "in a terminal, once; then start Jupyter inside the Windows Subsystem for Linux")
"""The remedy where Windows itself is refused."""

SHELL = "dbml-magics"
"""The command that shells have."""

# Without the current folder on the path: a module of our name may lie there.
_PYTHON = "python -P" if sys.version_info >= (3, 11) else "python -I"
_GIVEN = re.compile(r"--([a-z][a-z-]*) (\S+)")
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)(?: (?=['\"]))?")


# MLflow's and Spark's expressions have texts in single quotes, so double ones stand around them.
_EXPRESSIONS = frozenset({"filter", "order_by", "where", "metric"})
_NEEDS_QUOTES = re.compile(r"[\s'\"\\]|^#|^$")
_SHELL_NEEDS_QUOTES = re.compile(r"[\s'\"\\&;|<>()$`*?!#~\[\]{}]|^$")

Argument = str | int | bool | Sequence[str] | None
"""An option's value: True where it takes none, several where it is repeated, None where it is left out."""


class Remedy(str):
    """A command to run next, with its arguments; as a text it is the magic line.

    ``Remedy("sync", dead="list")`` is ``%dbml sync --dead list``. A value that only shows where one goes
    (``NAME``, ``…``, ``$frame``) is written as any other.
    """

    command: str
    values: tuple[str, ...]
    """What stands by itself."""
    options: Mapping[str, str | bool | list[str]]
    """An option's name (``order_by``) -> its value, or its values; True where it has none."""

    def __new__(cls, command: str, *values: str, **options: Argument) -> Remedy:
        given: dict[str, str | bool | list[str]] = {}
        for name, value in options.items():
            if value is None or value is False:
                continue
            if value is True or isinstance(value, str):
                given[name.rstrip("_")] = value
            else:
                given[name.rstrip("_")] = str(value) if isinstance(value, int) else [*value]
        begin = "%%track" if command == "track" else f"%dbml {command}"
        made = super().__new__(cls, " ".join([begin, *_arguments(values, given, quoted)]))
        made.command, made.values, made.options = command, values, given
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str, ...], dict[str, Argument]]:
        return (self.command, *self.values), dict(self.options)

    def but(self, **options: Argument) -> Remedy:
        """Return it with other options, or with more of them."""
        changed = {name.rstrip("_"): value for name, value in options.items()}
        return Remedy(self.command, *self.values, **{**self.options, **changed})

    def ending_in(self, word: str) -> Remedy:
        """Return it with another last argument."""
        if self.options:
            return self.but(**{[*self.options][-1]: word})
        return Remedy(self.command, *self.values[:-1], word)

    def changed(self, change: Callable[[str], str]) -> Remedy:
        """Return it with each argument as ``change`` returns it."""

        def changed(value: str | bool | list[str]) -> Argument:
            if isinstance(value, list):
                return [*map(change, value)]
            return change(value) if isinstance(value, str) else value

        options = {name: changed(value) for name, value in self.options.items()}
        return Remedy(self.command, *map(change, self.values), **options)

    def without(self, *names: str) -> Remedy:
        """Return it without some of its options."""
        return Remedy(self.command, *self.values, **{n: v for n, v in self.options.items() if n not in names})


_typed: ContextVar[Remedy | None] = ContextVar("dbml_typed", default=None)


@contextmanager
def typing(line: Remedy | None) -> Iterator[None]:
    """Know the line that its reader typed while it runs."""
    before = _typed.set(line)
    try:
        yield
    finally:
        _typed.reset(before)


def is_typed(command: str) -> bool:
    """Tell whether the line that its reader typed is one of a command."""
    line = _typed.get()
    return line is not None and line.command == command


def corrected(otherwise: Remedy, *values: str, **options: Argument) -> Remedy:
    """Return the line that its reader typed, with other last values and options; None leaves an option out.

    Where no line of that command was typed, it is ``otherwise``.
    """
    line = _typed.get()
    if line is None or line.command != otherwise.command:
        return otherwise
    kept = [*line.values[: max(len(line.values) - len(values), 0)], *values]
    return Remedy(line.command, *kept, **line.options).but(**options)


def amended(command: str, *values: str, **options: Argument) -> Remedy:
    """Return the line that its reader typed with other options; else the command with ``values`` and them."""
    return corrected(Remedy(command, *values, **options), **options)


def instead(given: str, meant: str, otherwise: Remedy) -> Remedy:
    """Return the line that its reader typed, with one name in the place of another.

    Where no line with that name was typed, it is ``otherwise``.
    """
    line = _typed.get()
    if line is None or not given:
        return otherwise
    whole = line.changed(lambda word: meant if word == given else word)
    if whole != line:
        return whole
    # A part of a reference: wine of wine/1, of wine@champion, of models:/wine/1.
    part = re.compile(rf"(?<![^:/]){re.escape(given)}(?![^/@])")
    changed = line.changed(lambda word: part.sub(lambda _: meant, word))
    return changed if changed != line else otherwise


Template = Callable[[str], Remedy]
"""Makes the command for the run, the model or the name that is meant."""


class Grammar(Protocol):
    """What knows the commands; it stands above all that names them in messages."""

    def python(self, remedy: Remedy) -> str:
        """Return a command as a Python call."""

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


def say(command: str) -> str:
    """Return a command as its reader would type it; a text that is none of ours without IPython's marks."""
    reader = front_end()
    if reader == "magic":
        return str(command)
    if not isinstance(command, Remedy):
        return _keywords(command) if reader == "python" and command.startswith("--") else _plain(command)
    if reader == "shell" and command.command in IN_SHELLS:
        words = _arguments(command.values, command.options, _quoted_in_shell)
        return " ".join([SHELL, command.command, *words])
    if _Front.grammar is None or (reader == "shell" and (command.command != "link" or "…" in command)):
        return f"{command} in a notebook"
    call = _Front.grammar.python(command)
    return call if reader == "python" else f"{_PYTHON} -c {shlex.quote(_IN_SHELL.format(call))}"


def python(command: Remedy) -> str:
    """Return a command as a Python call, whoever reads it."""
    return str(command) if _Front.grammar is None else _Front.grammar.python(command)


_IN_SHELL = "import dbml_magics as dbml; print({})"


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


def _keywords(options: str) -> str:
    """Return options of a line (``--input $frame --mode append``) as the arguments of a Python call."""
    grammar = _Front.grammar
    if grammar is None:
        return options

    def written(value: str) -> str:
        return value[1:] if value.startswith("$") else f'"{value}"'

    return ", ".join(
        f"{grammar.keyword(found.group(1))}={written(found.group(2))}" for found in _GIVEN.finditer(options)
    )


def _plain(line: str) -> str:
    """Return a line of IPython's own (``%pip install x``, ``!cat y``) as a shell has it."""
    if line.startswith("%env "):
        return f"printenv {line[5:]}"
    return re.sub(r"^(!|%(?=pip |cd ))", "", line)


def _arguments(
    values: Sequence[str],
    options: Mapping[str, str | bool | list[str]],
    quoted: Callable[[str, bool], str],
) -> list[str]:
    """Return a command's arguments as words, each value ``quoted`` (doubly where it is an expression)."""
    words = [quoted(value, False) for value in values]
    for name, value in options.items():
        written = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(written)
        else:
            several = [value] if isinstance(value, str) else value
            # A value that begins with a dash would be read as an option of its own.
            words += [
                f"{written}{'=' if each[:1] == '-' else ' '}{quoted(each, name in _EXPRESSIONS)}"
                for each in several
            ]
    return words


def _quoted_in_shell(word: str, _doubly: bool) -> str:
    """Return a word as a shell reads it back."""
    return word if _SHELL_NEEDS_QUOTES.search(word) is None else shlex.quote(word)


def quoted(word: str, doubly: bool = False) -> str:
    """Return a word as a magic line has it: in quotes where it needs them."""
    if _NEEDS_QUOTES.search(word) is None:
        return word
    doubly = doubly or "'" in word
    return f'"{word}"' if doubly and '"' not in word and "\\" not in word else shlex.quote(word)
