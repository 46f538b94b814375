"""Reading a line by the grammar: options and values, with the notebook's variables in their place."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import TYPE_CHECKING, Any, NoReturn

from dbml_magics.commands.grammar import Command, Option, command_help, pair, text
from dbml_magics.common.hints import Remedy
from dbml_magics.common.secrecy import refusal, refuse_secrets, resembles_secret_option
from dbml_magics.errors import BadCommand, UndefinedVariable

if TYPE_CHECKING:
    from dbml_magics.results.base import Result

_ECHOED = re.compile(r"[A-Za-z][\w.-]{0,23}")
_NAME = r"[^\W\d]\w*"
_VARIABLE = re.compile(rf"\$(?:({_NAME})|\{{({_NAME})\}})")
# What stands for something else within a value: $$, $name and ${name}, {{name}}, and IPython's {name} or
# {name[0]:.2f}, which is refused. JSON, a repeat of a regular expression and {a,b} of paths stay as they are.
_REFERENCE = re.compile(
    rf"\$\$|{_VARIABLE.pattern}|\{{(\{{{_NAME}[^{{}}]*\}})\}}|\{{({_NAME})(?: *[.\[(:!+*/%-][^{{}}]*)?\}}"
)
_HELP = ("-h", "--help")


class HelpRequested(Exception):
    """``--help`` stands on the line: its text is to be shown, and nothing else done."""

    def __init__(self, shown: str) -> None:
        super().__init__(shown)
        self.shown = shown

    def as_result(self) -> Result:
        """Return the help as what a command returns."""
        from dbml_magics.results.base import HelpText

        return HelpText(self.shown)


def without_remark(line: str) -> str:
    """Return a line without the remark at its end: what follows a ``#`` that begins a word."""
    quote, before, place = "", " ", 0
    while place < len(line):
        letter = line[place]
        if letter == "#" and not quote and before.isspace():
            return line[:place]
        if letter == "\\" and quote != "'":
            place += 1
        elif letter == quote:
            quote = ""
        elif letter in "'\"" and not quote:
            quote = letter
        before = letter
        place += 1
    return line


def split(line: str, prog: str) -> list[str]:
    """Split a line into words as a shell does, without its remark.

    Secrets are refused before anything can echo them, in a remark too.
    """
    refuse_secrets(line)
    try:
        tokens = shlex.split(without_remark(line))
    except ValueError:
        raise BadCommand(
            f"{prog}: a quote is opened and not closed, or a backslash ends the line.",
            remedies=[
                (Remedy("runs", filter="metrics.accuracy > 0.9"), "a value with blanks stands in quotes")
            ],
        ) from None
    refuse_secrets(line, tokens)
    return tokens


def wants_help(tokens: Iterable[str]) -> bool:
    """Tell whether ``--help`` is among the words."""
    return any(token in _HELP for token in tokens)


def suggestion(written: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant."""
    words = list(known)
    close = difflib.get_close_matches(written.lower(), words, n=1, cutoff=0.6)
    if close:
        return close[0]
    # Short words with two letters the wrong way round are less alike than that.
    return next((word for word in words if sorted(word) == sorted(written.lower())), None)


def find_command(written: str, commands: Mapping[str, Command]) -> Command:
    """Return the command of that name, or raise BadCommand saying which was probably meant."""
    if written in commands:
        return commands[written]
    if written.startswith("-"):
        raise BadCommand(
            "%dbml takes a command before any option.", remedies=[(Remedy("help"), "all commands")]
        )
    if written == "track":
        raise BadCommand(
            "%%track is a magic of its own: it stands on a cell's first line, the code that trains below it.",
            remedies=[(Remedy("track", help=True), "what it takes")],
        )
    meant = suggestion(written, [*commands, "track"])
    if meant == "track":
        raise BadCommand(
            f"there is no command{_echo(written)}. Did you mean %%track?",
            remedies=[(Remedy("track", help=True), "what it takes")],
        )
    message = f"there is no command{_echo(written)}." + (f' Did you mean "{meant}"?' if meant else "")
    remedies = [(Remedy(meant), commands[meant].help)] if meant else [(Remedy("help"), "all commands")]
    raise BadCommand(message, remedies=remedies)


def parse(command: Command, tokens: Sequence[str], namespace: Mapping[str, object]) -> argparse.Namespace:
    """Read a command's words; each ``$name`` in a value becomes the namespace's value.

    Raises HelpRequested, BadCommand, SecretRefused or UndefinedVariable, and nothing else.
    """
    if wants_help(tokens):
        raise HelpRequested(command_help(command))
    _check_flags(command, tokens)
    _check_quotes(command, tokens)
    parsed: argparse.Namespace = _argparse(command, namespace).parse_intermixed_args(list(tokens))
    _place_values(command, parsed, namespace)
    return parsed


def _check_flags(command: Command, tokens: Sequence[str]) -> None:
    """Refuse unknown, doubled and contradicting options, by name alone: their values are not echoed."""
    seen: list[str] = []
    for place, token in enumerate(tokens):
        if not re.match(r"--?[A-Za-z]", token):
            continue
        name, equals, _ = token.partition("=")
        option = command.flag(name)
        if option is None:
            _refuse_unknown(command, name, command.flag(tokens[place - 1]) if place else None)
        elif equals and not option.takes_value:
            raise BadCommand(f"{name} takes no value.", remedies=[command.help_line])
        elif name in seen and not option.repeatable:
            raise BadCommand(
                f"{name} is given twice; {command.prog} takes it once.", remedies=[command.help_line]
            )
        else:
            clash = next((other for other in option.excludes if other in seen), None)
            if clash:
                raise BadCommand(f"{name} and {clash} exclude each other.", remedies=[command.help_line])
            seen.append(name)


def _check_quotes(command: Command, tokens: Sequence[str]) -> None:
    """Refuse a value with blanks that lacks its quotes: words go on where the line takes none."""
    if command.takes_more:
        return
    left = len(command.values)
    after: Option | None = None  # the option whose value has just been read
    place = 0
    while place < len(tokens):
        name, equals, _ = tokens[place].partition("=")
        option = command.flag(name)
        place += 1
        if option is not None:
            after = option if option.takes_value else None
            place += bool(after and not equals and command.flag("".join(tokens[place : place + 1])) is None)
            continue
        left -= 1
        if left < 0 and after is not None and after.convert is text and not after.choices:
            raise BadCommand(
                f"{after.name} takes one value, and more words follow it: "
                "a value with blanks stands in quotes.",
                remedies=[_corrected(command, after)],
            )


def _refuse_unknown(command: Command, written: str, before: Option | None) -> NoReturn:
    known = [option.name for option in command.flags]
    if resembles_secret_option(written, known):
        raise refusal()
    meant = suggestion(written, known)
    if meant is None and before is not None and before.takes_value and not before.optional_value:
        raise BadCommand(
            f"{before.name} wants a value; one that begins with a dash is written {before.name}=…",
            remedies=[command.help_line],
        )
    # A short option's value may be glued to it (-pVALUE), so no more than its letter is shown.
    shown = written if written.startswith("--") and _ECHOED.fullmatch(written[2:]) else written[:2]
    hint = f" Did you mean {meant}?" if meant else ""
    raise BadCommand(f"{command.prog} has no option {shown}.{hint}", remedies=[command.help_line])


class _Misread(Exception):
    """What argparse has to say, on its way to becoming a BadCommand."""


class _Parser(argparse.ArgumentParser):
    """An argparse parser that neither prints nor exits."""

    def error(self, message: str) -> NoReturn:
        raise _Misread(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise _Misread(message or str(status))

    def print_help(self, file: object = None) -> NoReturn:  # noqa: ARG002 - argparse's own
        raise HelpRequested(self.format_help())

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        command: Command = self.get_default("_command")
        try:
            return super().parse_intermixed_args(args, namespace)
        except _Misread as problem:
            raise _explained(command, str(problem)) from None


def _explained(command: Command, message: str) -> BadCommand:
    found = re.match(r"argument (--[\w-]+): expected one argument", message)
    option = command.flag(found.group(1)) if found else None
    if option is None:
        # argparse's own words may hold a value of the line, so they are not passed on.
        return BadCommand(f"{command.prog} cannot read this line.", remedies=[_example(command)])
    wanted = "|".join(option.choices) or option.metavar
    return BadCommand(f"{option.name} wants a value: {wanted}.", remedies=[_corrected(command, option)])


def _argparse(command: Command, namespace: Mapping[str, object]) -> _Parser:
    parser = _Parser(prog=command.prog, add_help=False, allow_abbrev=False)
    parser.set_defaults(_command=command)
    for option in command.flags:
        if not option.takes_value:
            parser.add_argument(option.name, dest=option.dest, action="store_true", help=option.help)
            continue
        parser.add_argument(
            option.name,
            dest=option.dest,
            action="append" if option.repeatable else "store",
            default=[] if option.repeatable else None,
            type=_reader(command, option, namespace),
            help=option.help,
            nargs="?" if option.optional_value else None,
            const=True if option.optional_value else None,
        )
    # Values are assigned afterwards: argparse cannot leave out a first one for the sake of a second.
    parser.add_argument("_values", nargs="*")
    return parser


def _place_values(command: Command, parsed: argparse.Namespace, namespace: Mapping[str, object]) -> None:
    given = list(vars(parsed).pop("_values") or [])
    del vars(parsed)["_command"]
    required = [value for value in command.values if not value.optional_value]
    if len(given) > len(command.values) and not command.takes_more:
        if any(value.takes_any for value in command.values) and any(word[:1] in "{[" for word in given):
            raise BadCommand(
                "JSON on a magic's line stands in single quotes, or a variable holds it: $name.",
                remedies=[_example(command)],
            )
        takes = f"no more than {len(command.values)}" if command.values else "none"
        few = "value" if len(given) == 1 else "values"
        raise BadCommand(
            f"{len(given)} {few} outside the options, and {command.prog} takes {takes}; "
            "a value with blanks stands in quotes.",
            remedies=[_example(command)],
        )
    if len(given) < len(required):
        missing = " and ".join(value.name for value in required[len(given) :])
        raise BadCommand(f"{command.prog} needs {missing}.", remedies=[_example(command)])
    spare = len(given) - len(required)
    for value in command.values:
        if value.optional_value and spare == 0:
            setattr(parsed, value.dest, None)
            continue
        spare -= value.optional_value
        read = _reader(command, value, namespace)
        if value.repeatable:
            setattr(parsed, value.dest, [read(written) for written in given])
            return
        setattr(parsed, value.dest, read(given.pop(0)))


def read_value(command: Command, option: Option, written: str, namespace: Mapping[str, object]) -> object:
    """Read one value as :func:`parse` would. Raises BadCommand, SecretRefused or UndefinedVariable."""
    refuse_secrets(shlex.quote(written), [written])
    return _reader(command, option, namespace)(written)


def _reader(command: Command, option: Option, namespace: Mapping[str, object]) -> Callable[[str], object]:
    def read(written: str) -> object:
        if option.takes_any and (found := _VARIABLE.fullmatch(written)) is not None:
            return _looked_up(found[1] or found[2], namespace)
        try:
            if option.convert is pair:
                key, value = pair(written)
                return _expand(key, namespace), _expand(value, namespace)
            value = _expand(written, namespace)
            if option.choices and value not in option.choices:
                raise ValueError("one of " + ", ".join(option.choices))
            return option.convert(value)
        except ValueError as problem:
            meant = suggestion(written, option.choices) if option.choices else None
            hint = f' Did you mean "{meant}"?' if meant else ""
            raise BadCommand(
                f"{option.name} wants {problem}, not{_echo(written) or ' this'}.{hint}",
                remedies=[_corrected(command, option, meant)],
            ) from None

    return read


def _expand(written: str, namespace: Mapping[str, object]) -> str:
    """Return a value with the notebook's variables in the place of each ``$name``; ``$$`` is a ``$``."""

    def value(found: re.Match[str]) -> str:
        plain, guarded, doubled, braced = found.groups()
        if braced is not None:
            shown = f"{{{braced}{'}' if len(found[0]) == len(braced) + 2 else '…}'}"
            raise BadCommand(
                f"{shown} is not expanded here: a variable of the notebook is written ${braced}.",
                remedies=[(f"${braced}", "in its place"), (f"{{{{{braced}}}}}", "for the braces themselves")],
            )
        if doubled is not None:
            return str(doubled)
        name = plain or guarded
        return "$" if name is None else _text_of(name, namespace)

    expanded = _REFERENCE.sub(value, written)
    if expanded != written:
        refuse_secrets(shlex.quote(expanded), [expanded])
    return expanded


def _text_of(name: str, namespace: Mapping[str, object]) -> str:
    value = _looked_up(name, namespace)
    if not isinstance(value, (str, Number, os.PathLike)):
        raise BadCommand(
            f"${name} is a {type(value).__name__}, and a text or a number is wanted here.",
            remedies=[(f"{name}_text = str({name})", f"then ${name}_text")],
        )
    return str(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _looked_up(name: str, namespace: Mapping[str, object]) -> object:
    """Return the value of a variable of the notebook."""
    if name not in namespace:
        meant = suggestion(name, [known for known in namespace if not known.startswith("_")])
        raise UndefinedVariable(
            f"${name} is not defined in this notebook." + (f" Did you mean ${meant}?" if meant else ""),
            remedies=[(f"{name} = …", "in a cell above"), (f"$${name}", "for a $ itself")],
        )
    return namespace[name]


def _echo(written: str) -> str:
    """Return a word to be shown in a message, or nothing when it is not plainly a word."""
    return f' "{written}"' if _ECHOED.fullmatch(written) else ""


def _example(command: Command) -> tuple[str, str]:
    return command.examples[0], "for example"


def _corrected(command: Command, option: Option, meant: str | None = None) -> tuple[str, str]:
    if not option.example:
        return _example(command)
    # The other values of the line are not repeated: the example's own stand for them.
    return option.example.ending_in(meant) if meant else option.example, "for example"
