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

from dbml_magics.commands import typed
from dbml_magics.commands.grammar import Command, Option, command_help, pair, text
from dbml_magics.commands.typed import Edit, Slip, TypedLine, is_option
from dbml_magics.common.environment import variables
from dbml_magics.common.foreign_text import kind_of
from dbml_magics.common.hints import Remedy, quoted
from dbml_magics.common.secrecy import refusal, refuse_secrets, resembles_secret_option
from dbml_magics.errors import BadCommand, DbmlError, Remedies, UndefinedVariable

if TYPE_CHECKING:
    from dbml_magics.results.base import Result

_ECHOED = re.compile(r"-?[A-Za-z0-9][\w.%-]{0,23}")
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
        whole = _with_quotes(line)
        refuse_secrets(whole, shlex.split(whole))
        raise BadCommand(
            f"{prog}: a quote is opened and not closed, or a backslash ends the line.",
            remedies=[(" ".join([prog, *map(quoted, shlex.split(whole))]), "")],
        ) from None
    refuse_secrets(line, tokens)
    return tokens


def _with_quotes(line: str) -> str:
    """Return a line whose open quote is closed; one within a word (wine's) is a letter of it."""
    bare = without_remark(line).rstrip()
    for whole in (re.sub(r"(?<=\w)(['\"])", r"\\\1", bare), f"{bare}'", f'{bare}"', bare.rstrip("\\")):
        try:
            shlex.split(whole)
        except ValueError:
            continue
        return whole
    return ""


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


_FIRST_LINE = "on a cell's first line, the code that trains below it"


def find_command(
    written: str, commands: Mapping[str, Command], corrected: Callable[[str], Remedy] | None = None
) -> Command:
    """Return the command of that name, or raise BadCommand saying which was probably meant.

    ``corrected`` returns the line with a command's right name in it (``track``, too).
    """
    if written in commands:
        return commands[written]
    line = corrected or (lambda name: Remedy(name, help=name == "track"))
    if written.startswith("-"):
        raise BadCommand(
            "%dbml takes a command before any option.", remedies=[(Remedy("help"), "all commands")]
        )
    if written == "track":
        raise BadCommand(
            "%%track is a magic of its own: it stands on a cell's first line, the code that trains below it.",
            remedies=[(line("track"), _FIRST_LINE), (Remedy("track", help=True), "what it takes")],
        )
    meant = suggestion(written, [*commands, "track"])
    if meant == "track":
        right = line("track")
        raise BadCommand(
            f"there is no command{_echo(written)}. Did you mean %%track?",
            remedies=[
                (right, _FIRST_LINE if right.command == "track" else ""),
                (Remedy("track", help=True), "what it takes"),
            ],
        )
    message = f"there is no command{_echo(written)}." + (f' Did you mean "{meant}"?' if meant else "")
    if not meant:
        raise BadCommand(message, remedies=[(Remedy("help"), "all commands")])
    right = line(meant)
    raise BadCommand(message, remedies=[(right, commands[meant].help if right == Remedy(meant) else "")])


def parse(
    command: Command, tokens: Sequence[str], namespace: Mapping[str, object], line: str = ""
) -> argparse.Namespace:
    """Read a command's words; each ``$name`` in a value becomes the namespace's value.

    ``line`` is the text that the words come from, with its quotes. What is returned has the line as a remedy
    in ``typed``. Raises HelpRequested, BadCommand, SecretRefused or UndefinedVariable, and nothing else.
    """
    if wants_help(tokens):
        raise HelpRequested(command_help(command))
    typed_line = TypedLine(command, tuple(tokens), line)
    try:
        parsed = _read(typed_line, namespace)
    except Slip as slip:
        raise slip.kind(slip.message, remedies=_remedies(slip, typed_line, namespace)) from None
    parsed.typed = typed_line.remedy()
    return parsed


def corrected(command: Command, tokens: Sequence[str], namespace: Mapping[str, object]) -> Remedy:
    """Return a line with its slips corrected; the bare command where that cannot be."""
    return _settled(TypedLine(command, tuple(tokens)), namespace) or Remedy(command.name)


def _read(line: TypedLine, namespace: Mapping[str, object]) -> argparse.Namespace:
    """Read a line. Raises Slip or SecretRefused."""
    _check_flags(line)
    _check_quotes(line.command, line.words)
    parsed: argparse.Namespace = _argparse(line.command, namespace).parse_intermixed_args([*line.words])
    _place_values(line.command, parsed, namespace)
    _check_required(line.command, parsed)
    _check_pairs(line.command, parsed)
    return parsed


_SLIPS = 5  # that are corrected in one line


def _settled(line: TypedLine, namespace: Mapping[str, object], slips: int = _SLIPS) -> Remedy | None:
    """Return a line as a remedy, with the slips corrected that are left in it: so many at most."""
    for _ in range(slips + 1):
        try:
            _read(line, namespace)
        except Slip as slip:
            if slip.kind is UndefinedVariable:
                return line.remedy()
            better = slip.first(line)
            if better is None:
                return None
            line = better
        except DbmlError:
            return None
        else:
            return line.remedy()
    return None


def _remedies(slip: Slip, line: TypedLine, namespace: Mapping[str, object]) -> Remedies:
    """Return a slip's remedies: the line as each of them corrects it, else what the command takes."""
    found: list[tuple[str, str]] = []
    for remedy, what in slip.remedies:
        if isinstance(remedy, str):
            found.append((remedy, what))
            continue
        better = remedy(line)
        # The likeliest correction goes on where another slip is left; another one is as good as it stands.
        slips = 0 if found else _SLIPS
        command = None if better is None else _settled(better, namespace, slips)
        if command is not None and command not in [each for each, _ in found]:
            found.append((command, what))
    return found or [line.command.help_line]


def _check_flags(line: TypedLine) -> None:
    """Refuse unknown, doubled and contradicting options, by name alone: their values are not echoed."""
    command, tokens = line.command, line.words
    seen: list[Option] = []
    for place, token in enumerate(tokens):
        if not is_option(token):
            continue
        name, equals, _ = token.partition("=")
        option = command.flag(name)
        if option is None:
            _refuse_unknown(command, token, command.flag(tokens[place - 1]) if place else None)
        if equals and not option.takes_value:
            raise Slip(f"{name} takes no value.", (typed.without_value(name), ""))
        if option in seen and not option.repeatable:
            raise Slip(
                f"{name} is given twice; {command.prog} takes it once.",
                (typed.without(option, but_last=True), ""),
            )
        clash = next((other for other in seen if other.name in option.excludes), None)
        if clash:
            raise Slip(
                f"{name} and {clash.name} exclude each other.",
                (typed.without(option), f"without {name}"),
                (typed.without(clash), f"without {clash.name}"),
            )
        seen.append(option)


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
            excess = len(TypedLine(command, tuple(tokens)).values()) - len(command.values)
            raise Slip(
                f"{after.name} takes one value, and more words follow it: "
                "a value with blanks stands in quotes.",
                (typed.quoted(after, excess), ""),
                *_corrections(after),
            )


def _refuse_unknown(command: Command, token: str, before: Option | None) -> NoReturn:
    written = token.partition("=")[0]
    known = [option.name for option in command.flags]
    if resembles_secret_option(written, known):
        raise refusal()
    meant = suggestion(written, known)
    if meant is None and before is not None and before.takes_value and not before.optional_value:
        raise Slip(
            f"{before.name} wants a value; one that begins with a dash is written {before.name}=…",
            (typed.glued(before.name, token), ""),
            *_corrections(before),
        )
    # A short option's value may be glued to it (-pVALUE), so no more than its letter is shown.
    shown = written if written.startswith("--") and _ECHOED.fullmatch(written[2:]) else written[:2]
    hint = f" Did you mean {meant}?" if meant else ""
    message = f"{command.prog} has no option {shown}.{hint}"
    raise Slip(message, *([(typed.renamed(written, meant), "")] if meant else []))


class _Misread(Exception):
    """What argparse has to say, on its way to becoming a Slip."""


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


def _explained(command: Command, message: str) -> Slip:
    found = re.match(r"argument (--[\w-]+): expected one argument", message)
    option = command.flag(found.group(1)) if found else None
    if option is None:
        # argparse's own words may hold a value of the line, so they are not passed on.
        return Slip(f"{command.prog} cannot read this line.", _example(command))
    wanted = "|".join(option.choices) or option.metavar
    return Slip(f"{option.name} wants a value: {wanted}.", *_corrections(option))


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
            type=_reader(option, namespace),
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
            raise Slip(
                "JSON on a magic's line stands in single quotes, or a variable holds it: $name.",
                (typed.json_in_quotes, ""),
                _example(command),
            )
        takes = f"no more than {len(command.values)}" if command.values else "none"
        few = "value" if len(given) == 1 else "values"
        raise Slip(
            f"{len(given)} {few} outside the options, and {command.prog} takes {takes}; "
            "a value with blanks stands in quotes.",
            (typed.fewer_values(command), ""),
        )
    if len(given) < len(required):
        missing = " and ".join(value.name for value in required[len(given) :])
        raise Slip(f"{command.prog} needs {missing}.", (typed.completed(command), "for example"))
    spare = len(given) - len(required)
    for value in command.values:
        if value.optional_value and spare == 0:
            setattr(parsed, value.dest, None)
            continue
        spare -= value.optional_value
        read = _reader(value, namespace)
        if value.repeatable:
            setattr(parsed, value.dest, [read(written) for written in given])
            return
        setattr(parsed, value.dest, read(given.pop(0)))


def _check_required(command: Command, parsed: argparse.Namespace) -> None:
    """Refuse a line without an option that it cannot be without."""
    for option in command.options:
        if option.required and getattr(parsed, option.dest) is None:
            likely = option.likely(parsed) if option.likely is not None else None
            raise Slip(
                f"{command.prog} needs {option.name}.",
                *([] if likely is None else [(typed.valued(option, likely), "")]),
                *_corrections(option),
            )


def _check_pairs(command: Command, parsed: argparse.Namespace) -> None:
    """Refuse a key that has two values."""
    for option in command.options:
        keys = [key for key, _ in getattr(parsed, option.dest)] if option.convert is pair else []
        if len(set(keys)) < len(keys):
            raise Slip("a tag's key is given twice.", (typed.one_tag_each(option), "the last one"))


def read_value(command: Command, option: Option, written: str, namespace: Mapping[str, object]) -> object:
    """Read one value as :func:`parse` would. Raises BadCommand, SecretRefused or UndefinedVariable."""
    refuse_secrets(shlex.quote(written), [written])
    try:
        return _reader(option, namespace)(written)
    except Slip as slip:
        plain = [(remedy, what) for remedy, what in slip.remedies if isinstance(remedy, str)]
        example = (option.example, "for example") if option.example else _example(command)
        raise slip.kind(slip.message, remedies=plain or [example]) from None


def _reader(option: Option, namespace: Mapping[str, object]) -> Callable[[str], object]:
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
            shown = _echo(written)
            raise Slip(
                f"{option.name} wants {problem}{f', not{shown}' if shown else ''}.{hint}",
                *([(typed.valued(option, meant, written), "")] if meant else []),
                *(_corrections(option, written) if meant is None else []),
            ) from None

    return read


def _corrections(option: Option, instead_of: str | None = None) -> list[tuple[Edit | str, str]]:
    """Return the line with the value of the option's example in its place."""
    if option.example is None:
        if instead_of is not None:
            return []
        placeholder = option.metavar.partition("|")[0]
        return [(typed.valued(option, placeholder), f"with yours for {placeholder}")]
    value = [*option.example.options.values()][-1] if not option.positional else option.example.values[-1]
    good = value[-1] if isinstance(value, list) else value
    if not isinstance(good, str):
        return []
    return [(typed.valued(option, good, instead_of), "for example")]


def _expand(written: str, namespace: Mapping[str, object]) -> str:
    """Return a value with the notebook's variables in the place of each ``$name``; ``$$`` is a ``$``."""

    def value(found: re.Match[str]) -> str:
        plain, guarded, doubled, braced = found.groups()
        if braced is not None:
            raise _braces(found[0], braced)
        if doubled is not None:
            return str(doubled)
        name = plain or guarded
        return "$" if name is None else _text_of(name, namespace)

    expanded = _REFERENCE.sub(value, written)
    if expanded != written:
        refuse_secrets(shlex.quote(expanded), [expanded])
    return expanded


def _braces(written: str, name: str) -> Slip:
    """Return what is said of IPython's ``{name}``, and of an expression in braces."""
    literal = (typed.replaced(written, f"{{{written}}}"), "for the braces themselves")
    if written == f"{{{name}}}":
        return Slip(
            f"{written} is not expanded here: a variable of the notebook is written ${name}.",
            (typed.replaced(written, f"${name}"), ""),
            literal,
        )
    return Slip(
        f"{{{name}…}} is not expanded here: a variable of the notebook is written ${name}, and an expression "
        "is computed in a cell above.",
        (typed.replaced(written, "$value"), "after value = … in a cell above"),
        literal,
    )


def _text_of(name: str, namespace: Mapping[str, object]) -> str:
    value = _looked_up(name, namespace)
    if not isinstance(value, (str, Number, os.PathLike)):
        raise Slip(
            f"${name} is {kind_of(value)}, and a text or a number is wanted here.",
            (f"{name}_text = str({name})", f"in a cell above, then ${name}_text"),
        )
    return str(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _looked_up(name: str, namespace: Mapping[str, object]) -> object:
    """Return the value of a variable of the notebook."""
    if name not in namespace:
        meant = suggestion(name, variables(namespace))
        right: list[tuple[Edit | str, str]] = []
        if meant:
            right = [(typed.variable(name, meant), "")]
        raise Slip(
            f"${name} is not defined in this notebook." + (f" Did you mean ${meant}?" if meant else ""),
            *right,
            (f"{name} = …", "in a cell above"),
            (typed.variable(name, f"${name}"), "for a $ itself"),
            kind=UndefinedVariable,
        )
    return namespace[name]


def _echo(written: str) -> str:
    """Return a word to be shown in a message, or nothing when it is not plainly a word."""
    return f' "{written}"' if _ECHOED.fullmatch(written) else ""


def _example(command: Command) -> tuple[str, str]:
    return command.examples[0], "for example"
