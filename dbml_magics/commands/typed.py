"""The line as it was typed, and the line as it should have been.

A :class:`Slip` says what is wrong with a line and how the line is corrected. Its corrections are edits of the
line's own words, so that what a message shows is the user's line, ready to paste.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Argument, Remedy
from dbml_magics.common.redaction import redacted
from dbml_magics.errors import BadCommand, DbmlError

__all__ = [
    "Edit",
    "Slip",
    "TypedLine",
    "completed",
    "fewer_values",
    "glued",
    "is_option",
    "json_in_quotes",
    "one_tag_each",
    "quoted",
    "renamed",
    "replaced",
    "valued",
    "variable",
    "without",
    "without_value",
]

_OPTION = re.compile(r"--?[A-Za-z]")


def is_option(word: str) -> bool:
    """Tell whether a word of a line is an option's name, known or not."""
    return _OPTION.match(word) is not None


@dataclass(frozen=True)
class TypedLine:
    """A command and the words that were typed behind it."""

    command: Command
    words: tuple[str, ...]
    text: str = ""
    """The line with its quotes, where it is known."""

    def parts(self) -> Iterator[tuple[int, Option | None, int]]:
        """Yield each part of the line: its place, its option (None for a value), its number of words."""
        place = 0
        while place < len(self.words):
            name, equals, _ = self.words[place].partition("=")
            option = self.command.flag(name)
            follows = place + 1 < len(self.words) and not is_option(self.words[place + 1])
            length = 2 if option is not None and option.takes_value and not equals and follows else 1
            yield place, option, length
            place += length

    def values(self) -> list[int]:
        """Return the places of the values that stand by themselves."""
        return [place for place, option, _ in self.parts() if option is None and not self._is_option(place)]

    def of(self, wanted: Option) -> list[tuple[int, int]]:
        """Return where an option, or a value, stands: its place and its number of words, each time."""
        if not wanted.positional:
            return [(place, length) for place, option, length in self.parts() if option is wanted]
        places = self.values()
        if wanted.repeatable:
            return [(place, 1) for place in places]
        spare = len(places) - sum(not value.optional_value for value in self.command.values)
        for value in self.command.values:
            if value.optional_value and spare <= 0:
                continue
            spare -= value.optional_value
            if value is wanted:
                return [(place, 1) for place in places[:1]]
            places = places[1:]
        return []

    def written(self, place: int, length: int) -> str | bool:
        """Return the value of a part of the line; True where it has none."""
        name, equals, value = self.words[place].partition("=")
        if not is_option(name):
            return self.words[place]
        return value if equals else self.words[place + 1] if length == 2 else True

    def put(self, place: int, length: int, *words: str) -> TypedLine:
        """Return the line with other words in the place of a part of it."""
        return replace(self, words=(*self.words[:place], *words, *self.words[place + length :]), text="")

    def add(self, *words: str) -> TypedLine:
        """Return the line with more words at its end."""
        return self.put(len(self.words), 0, *words)

    def each(self, change: Callable[[str], str]) -> TypedLine:
        """Return the line with each of its words changed."""
        return replace(self, words=tuple(map(change, self.words)), text="")

    def remedy(self) -> Remedy | None:
        """Return the line as a command to run; None where an option is unknown, or a secret stands there."""
        values: list[str] = []
        options: dict[str, Argument] = {}
        repeated: dict[str, list[str]] = {}
        for place, option, length in self.parts():
            written = self.written(place, length)
            if option is None:
                if self._is_option(place) or not isinstance(written, str):
                    return None
                values.append(written)
                continue
            name = option.name[2:].replace("-", "_")
            if option.repeatable and isinstance(written, str):
                options[name] = repeated.setdefault(name, [])
                repeated[name].append(written)
            else:
                options[name] = written
        made = Remedy(self.command.name, *values, **options)
        return made if redacted(made) == made else None

    def _is_option(self, place: int) -> bool:
        return is_option(self.words[place])


Edit = Callable[[TypedLine], "TypedLine | None"]
"""Corrects a line; None where it cannot."""


class Slip(Exception):
    """What is wrong with a line; each remedy is an edit of the line, or a command, with what it does."""

    def __init__(
        self,
        message: str,
        *remedies: tuple[Edit | str, str],
        kind: type[DbmlError] = BadCommand,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedies = remedies
        self.kind = kind

    def first(self, line: TypedLine) -> TypedLine | None:
        """Return the line as the first of the edits corrects it."""
        edits = [edit for edit, _ in self.remedies if not isinstance(edit, str)]
        return edits[0](line) if edits else None


# ---- edits ----


def renamed(written: str, name: str) -> Edit:
    """Give an option its right name."""

    def edit(line: TypedLine) -> TypedLine | None:
        place = next((n for n, word in enumerate(line.words) if word.partition("=")[0] == written), None)
        return None if place is None else line.put(place, 1, name + line.words[place][len(written) :])

    return edit


def without(option: Option, *, but_last: bool = False) -> Edit:
    """Leave an option out, each time or all but the last one."""

    def edit(line: TypedLine) -> TypedLine | None:
        found = line.of(option)
        for place, length in reversed(found[:-1] if but_last else found):
            line = line.put(place, length)
        return line if found else None

    return edit


def without_value(name: str) -> Edit:
    """Leave the value out that is glued to an option's name."""
    return lambda line: line.each(lambda word: name if word.startswith(f"{name}=") else word)


def glued(name: str, value: str) -> Edit:
    """Glue a value that begins with a dash to its option."""

    def edit(line: TypedLine) -> TypedLine | None:
        for place, word in enumerate(line.words[1:], 1):
            if word == value and line.words[place - 1] == name:
                return line.put(place - 1, 2, f"{name}={value}")
        return None

    return edit


def valued(option: Option, value: str, instead_of: str | None = None) -> Edit:
    """Give an option or a value another value: the one that is missing, or the one that is wrong."""

    def edit(line: TypedLine) -> TypedLine | None:
        if option.positional:
            for place, _ in line.of(option):
                if line.words[place] == instead_of:
                    return line.put(place, 1, value)
            return None
        for place, length in line.of(option):
            written = line.written(place, length)
            if written == instead_of if instead_of is not None else written is True:
                return line.put(place, length, option.name, value)
        return line.add(option.name, value) if instead_of is None and not line.of(option) else None

    return edit


def completed(command: Command) -> Edit:
    """Add the values that are missing, from the command's first example."""

    def edit(line: TypedLine) -> TypedLine | None:
        example, given = command.examples[0], line.values()
        required = [value for value in command.values if not value.optional_value]
        missing = len(required) - len(given)
        if not isinstance(example, Remedy) or missing > len(example.values) or missing < 1:
            return None
        # The values that stand there are the first ones; behind the last of them the others go.
        place = given[-1] + 1 if given else 0
        return line.put(place, 0, *example.values[-missing:])

    return edit


def quoted(option: Option, excess: int) -> Edit:
    """Take the words that follow an option's value as more of that value."""

    def edit(line: TypedLine) -> TypedLine | None:
        for place, length in line.of(option):
            end = place + length
            while end < len(line.words) and not is_option(line.words[end]):
                end += 1
            if end - place - length >= excess and isinstance(line.written(place, length), str):
                end = place + length + excess
                words = [str(line.written(place, length)), *line.words[place + length : end]]
                return line.put(place, end - place, option.name, " ".join(words))
        return None

    return edit


def fewer_values(command: Command) -> Edit:
    """Make an option, or a part of the last value, of each value that is too many; else leave it out."""

    def edit(line: TypedLine) -> TypedLine | None:
        places, most = line.values(), len(command.values)
        over = places[most:]
        named = next((place for place in over if command.flag(f"--{line.words[place]}")), None)
        if named is not None:
            return line.put(named, 1, f"--{line.words[named]}")
        in_a_row = over == [*range(over[0], over[0] + len(over))]
        if most and command.values[-1].name in _NAMES and in_a_row and over[0] == places[most - 1] + 1:
            return line.put(over[0] - 1, len(over) + 1, " ".join(line.words[over[0] - 1 : over[-1] + 1]))
        for place in reversed(over):
            line = line.put(place, 1)
        return None if command.bare is not None and not line.words else line

    return edit


_NAMES = ("NAME", "RUN_NAME")  # values that may have blanks


def one_tag_each(option: Option) -> Edit:
    """Leave out a pair whose key is given again later."""

    def edit(line: TypedLine) -> TypedLine | None:
        found = [(place, length, str(line.written(place, length))) for place, length in line.of(option)]
        keys = [written.partition("=")[0].strip() for _, _, written in found]
        for number in reversed(range(len(found))):
            if keys[number] in keys[number + 1 :]:
                line = line.put(*found[number][:2])
        return line

    return edit


def replaced(old: str, new: str) -> Edit:
    """Write another text in the place of one, wherever it stands."""
    return lambda line: line.each(lambda word: word.replace(old, new))


def variable(name: str, other: str) -> Edit:
    """Write another variable's name in the place of one, wherever it stands."""
    return lambda line: line.each(
        lambda word: re.sub(rf"\$(\{{?){name}\b", lambda found: f"${found[1]}{other}", word)
    )


def json_in_quotes(line: TypedLine) -> TypedLine | None:
    """Take the JSON of the line as one value."""
    found = re.search(r"""\s(\{.*\}|\[.*\])""", line.text)
    places = line.values()
    if found is None or not places:
        return None
    opens = next((n for n, place in enumerate(places) if line.words[place][:1] in "{["), None)
    if opens is None:
        return None
    for place in reversed(places[opens + 1 :]):
        line = line.put(place, 1)
    return line.put(places[opens], 1, found[1])
