"""The grammar as data: what each sub-command takes, and its texts.

A :class:`Command` holds the texts of a sub-command beside the callable of :mod:`dbml_magics.api` that it
calls; what its options take follows from that callable's signature. The parser, the help, the completion, the
forms and the tests are derived from it.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict

from dbml_magics.common.hints import Remedy

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import Result

_NONE = inspect.Parameter.empty
Call = Callable[..., object]
"""One of the callables of ``api``."""

# ---- what a value may be: each takes the written text and raises ValueError saying what was wanted ----


def text(written: str) -> str:
    """Take any text but the empty one."""
    if not written.strip():
        raise ValueError("a value that is not empty")
    return written


def positive_integer(written: str) -> int:
    """Take a whole number from 1 on."""
    if not re.fullmatch(r"\+?\d{1,9}", written) or int(written) < 1:
        raise ValueError("a whole number from 1 on")
    return int(written)


def percent(written: str) -> int:
    """Take a whole number from 0 to 100."""
    if not re.fullmatch(r"\d{1,3} ?%?", written) or int(written.rstrip(" %")) > 100:
        raise ValueError("a percentage from 0 to 100")
    return int(written.rstrip(" %"))


def seconds(written: str) -> float:
    """Take a number of seconds, zero or more."""
    try:
        value = float(written)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError("a number of seconds")
    return value


def names(written: str) -> tuple[str, ...]:
    """Take names of notebook variables with commas between them."""
    found = tuple(name.strip() for name in written.split(","))
    if not all(name.isidentifier() for name in found):
        raise ValueError("names of variables with commas between them")
    return found


def pair(written: str) -> tuple[str, str]:
    """Take KEY=VALUE."""
    key, equals, value = written.partition("=")
    if not equals or not key.strip():
        raise ValueError("KEY=VALUE")
    return key.strip(), value


class _Takes(TypedDict, total=False):
    """What an option takes, as its fields say it."""

    convert: Callable[[str], object]
    optional_value: bool
    repeatable: bool
    takes_any: bool
    required: bool


_TAKES: dict[str, _Takes] = {
    "int": {"convert": positive_integer},
    "int | None": {"convert": positive_integer},
    "float | None": {"convert": seconds},
    "str | bool | None": {"optional_value": True},
    "Sequence[str]": {"repeatable": True},
    "Iterable[str]": {"repeatable": True},
    "Mapping[str, str] | None": {"repeatable": True, "convert": pair},
    "Mapping[str, object] | str | None": {"takes_any": True},
    "object": {"takes_any": True},
}
"""A parameter's annotation -> what the option for it takes, where that is more than a text or a switch."""


@dataclass(frozen=True)
class Option:
    """One option of a command, or (its name without dashes) one of its values."""

    name: str
    help: str
    metavar: str = ""  # empty for an option that is on or off
    choices: tuple[str, ...] = ()
    example: Remedy | None = None
    """A command that ends in the option and a good value, for the message about a bad one."""
    completes: str = ""  # run, model, experiment, command, variable: what completion looks up
    excludes: tuple[str, ...] = ()  # options that cannot stand beside it
    parameter: str = ""  # of the callable, where it is not the option's own name
    listed: bool = False  # several in one word, with commas between them
    otherwise: str = ""  # what a value that may be left out is then
    likely: Callable[[argparse.Namespace], str | None] | None = None
    """Returns what a line that lacks the option probably wants, by what else stands on the line."""
    # What follows from that parameter, unless it is said here:
    repeatable: bool = False  # for a value: the last one, which takes all that are left
    optional_value: bool = False  # --local [DIR]; for a value: it may be left out
    convert: Callable[[str], object] = text
    takes_any: bool = False  # $name is handed on as it is, whatever it is
    required: bool = False  # the line cannot be without it

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameter", self.parameter or self.dest)

    def taking(self, parameter: inspect.Parameter) -> Option:
        """Return the option with what follows from a parameter."""
        if self.listed or self.convert is not text:
            return self
        takes: _Takes = {**_TAKES.get(parameter.annotation, {})}
        if self.positional:
            every = parameter.kind is parameter.VAR_POSITIONAL
            takes.update({"repeatable": True} if every else {})
            takes["optional_value"] = self.optional_value or (parameter.default is not _NONE and not every)
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is _NONE:
            takes["required"] = True
        return replace(self, **takes)

    @property
    def positional(self) -> bool:
        """Tell whether it is a value that stands by itself."""
        return not self.name.startswith("-")

    @property
    def takes_value(self) -> bool:
        """Tell whether a value follows it."""
        return self.positional or bool(self.metavar or self.choices)

    @property
    def dest(self) -> str:
        """Return its name among the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_").lower()

    @property
    def written(self) -> str:
        """Return it as a usage line shows it."""
        value = "|".join(self.choices) or self.metavar
        if self.positional:
            return f"[{value or self.name}]" if self.optional_value else (value or self.name)
        if not self.takes_value:
            return self.name
        return f"{self.name} [{value}]" if self.optional_value else f"{self.name} {value}"


@dataclass(frozen=True)
class Command:
    """One sub-command: its texts, and the callable whose signature its options follow."""

    name: str
    help: str
    examples: tuple[str, ...]  # whole lines; the first is the one that errors show
    call: Call | None = None
    instead: Mapping[str, Call] = field(default_factory=dict)
    """What is called where an option stands on the line (``--verify``), or has a value (``--dead list``)."""
    bare: Call | None = None  # what the command alone comes to, where that is another call
    run: Callable[[argparse.Namespace, Output], Result] | None = None  # where calling it is not all
    options: tuple[Option, ...] = ()
    needs_link: bool = True
    at_once: str = ""  # shown while the command begins, before anything is imported for it
    details: str = ""
    prefix: str = "%dbml "

    def __post_init__(self) -> None:
        calls = [] if self.call is None else [self.call, *self.instead.values()]
        signatures = [inspect.signature(call).parameters for call in calls]
        derived = []
        for option in self.options:
            for parameters in signatures:
                if option.parameter in parameters:
                    option = option.taking(parameters[option.parameter])
            derived.append(option)
        object.__setattr__(self, "options", tuple(derived))

    def called(self, given: Callable[[str], object]) -> Call | None:
        """Return what a line calls; ``given`` returns the value of an option by its name, if it has one."""
        for written, call in self.instead.items():
            name, _, wanted = written.partition(" ")
            value = given(name)
            if value == wanted if wanted else value:
                return call
        return self.call

    @property
    def prog(self) -> str:
        """Return the command as it is typed."""
        return f"{self.prefix}{self.name}"

    @property
    def values(self) -> tuple[Option, ...]:
        """Return the values that stand by themselves, in order."""
        return tuple(option for option in self.options if option.positional)

    @property
    def takes_more(self) -> bool:
        """Tell whether the last of its values takes as many as there are."""
        return any(value.repeatable for value in self.values)

    @property
    def flags(self) -> tuple[Option, ...]:
        """Return the options with a name."""
        return tuple(option for option in self.options if not option.positional)

    def flag(self, name: str) -> Option | None:
        """Return the option of that name, if there is one."""
        return next((option for option in self.flags if option.name == name), None)

    @property
    def help_line(self) -> tuple[str, str]:
        """Return the remedy that leads to this command's help."""
        return Remedy(self.name, help=True), "what it takes"

    def usage(self) -> str:
        """Return the usage line."""
        shown = [f"[{o.written}]" + ("…" if o.repeatable else "") for o in self.flags]
        return " ".join([self.prog, *(value.written for value in self.values), *shown])


def command_help(command: Command, said: Callable[[str], str] = str) -> str:
    """Return a command's help: what it does, its usage, its options, examples; no line is too wide.

    ``said`` returns a text with its commands as the reader's front end has them.
    """
    lines = [*columns([(command.prog, command.help)], said, gap=3), ""]
    lines += _wrapped(said(f"usage: {command.usage()}"), " " * 9)
    if command.options:
        lines += ["", *columns([(o.written, o.help) for o in command.options], said, "  ")]
    if command.details:
        lines += ["", *_wrapped(said(" ".join(command.details.split("\n"))))]
    lines += ["", "example:"]
    for example in command.examples:
        lines += _wrapped(f"  {said(example)}", " " * 6, " \\")
    return "\n".join(lines)


def option_help(command: Command, option: Option) -> str:
    """Return what an option of a command does and takes, with an example of it."""
    lines = [*_wrapped(f"{command.prog} {option.written}"), *_wrapped(f"  {option.help}", "  ")]
    if option.excludes:
        lines += _wrapped(f"  not beside {', '.join(option.excludes)}", "    ")
    return "\n".join([*lines, *([] if option.example is None else ["", "example:", f"  {option.example}"])])


_WIDE = 80  # columns of a help text
_FIRST = 28  # columns of it that a first column takes at most


def columns(
    rows: Sequence[tuple[str, str]], said: Callable[[str], str] = str, indent: str = "", gap: int = 2
) -> list[str]:
    """Lay two columns out, the second one below the first where that is wide; each is wrapped."""
    heads = [said(head) for head, _ in rows]
    fitting = [len(head) for head in heads if len(head) <= _FIRST]
    width = max(fitting, default=2)
    lines: list[str] = []
    for head, (_, what) in zip(heads, rows, strict=True):
        margin = " " * (len(indent) + width + gap)
        below = _wrapped(f"{margin}{said(what)}", margin)
        if len(head) > width:
            lines += [*_wrapped(f"{indent}{head}", f"{indent}    "), *below]
        else:
            lines += [f"{indent}{head.ljust(width)}{' ' * gap}{below[0].lstrip()}".rstrip(), *below[1:]]
    return lines


_WORD = re.compile(r"""\[(?:[^\[\]]|\[[^\]]*\])*\]…?|(?<!\S)'[^']*'(?!\S)|(?<!\S)"[^"]*"(?!\S)|\S+""")


def _wrapped(text: str, margin: str = "", end: str = "") -> list[str]:
    """Break a text where it has blanks, and long choices behind a ``|``; ``end`` stands at each break.

    What stands in brackets or quotes stays together. The first line is indented as the text is.
    """
    lines: list[str] = []
    line = text[: len(text) - len(text.lstrip())]
    for word in _WORD.findall(text):
        glue = " " if line.strip() else ""
        for part in re.findall(r"[^|]+\|?", word) if len(word) > _WIDE // 2 else [word]:
            if line.strip() and len(f"{line}{glue}{part}{end}") > _WIDE:
                lines.append(f"{line}{end}")
                line, glue = margin, ""
            line += f"{glue}{part}"
            glue = ""
    return [*lines, line]
