"""Completion of ``%dbml`` lines and of ``%%track`` first lines, derived from the grammar."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.completer import SimpleCompletion, context_matcher

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.environment import variables
from dbml_magics.common.foreign_text import is_plain, one_line
from dbml_magics.common.hints import quoted

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

    from dbml_magics.core.session import Session

__all__ = ["Completion", "complete", "words_of_line"]

_Known = TypeVar("_Known")

_LINE = re.compile(r"\s*(?:[\w.,\s\[\]'\"]+=\s*)?%dbml\s+(?P<words>.*)", re.DOTALL)
_TRACK = re.compile(r"%%track\s+(?P<words>.*)", re.DOTALL)
_ABOVE = ("%", "!", "#", "import ", "from ")
_LOOK_UP_SECONDS = 0.25
_WIDE = 72  # characters of a description
# The names of runs that a line can have, in quotes or without.
_NAME = re.compile(r"[^-${}'\"\\][^${}'\"\\]*")


@dataclass(frozen=True)
class _Offer:
    """One thing that could stand at the cursor."""

    text: str
    kind: str
    what: str = ""

    @property
    def shown(self) -> str:
        """Return what front ends show beside it: JupyterLab and terminals have no other room for words."""
        whole = f"{self.kind}: {self.what}" if self.what else self.kind
        return whole if len(whole) <= _WIDE else f"{whole[: _WIDE - 1]}…"


class Completion:
    """The matcher of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

        # A function, since IPython writes the matcher's attributes on it, and a method takes none.
        @context_matcher(identifier="dbml_magics", priority=200)  # type: ignore[untyped-decorator]
        def matcher(context: CompletionContext) -> dict[str, Any]:
            return self._match(context)

        self._matcher = matcher

    def install(self) -> None:
        """Add the matcher to the shell's completer."""
        self._shell.Completer.custom_matchers.append(self._matcher)

    def remove(self) -> None:
        """Take the matcher away."""
        matchers = self._shell.Completer.custom_matchers
        if self._matcher in matchers:
            matchers.remove(self._matcher)

    def _match(self, context: CompletionContext) -> dict[str, Any]:
        lines = context.full_text.split("\n")[: context.cursor_line]
        words = words_of_line(context.text_until_cursor, lines)
        fragment, offers = ("", []) if words is None else complete(*words, self._shell.user_ns)
        return {
            "completions": [SimpleCompletion(text=offer.text, type=offer.shown) for offer in offers],
            # IPython's other matchers stay where nothing is offered: they complete paths.
            "suppress": bool(offers),
            "matched_fragment": fragment,
        }


def words_of_line(line: str, above: Sequence[str]) -> tuple[Command | None, str] | None:
    """Return the command of a line, and the words behind it; None where the line is none of ours.

    The command is None where the first of the words names it. ``above`` are the lines of the cell above it.
    """
    found = _LINE.fullmatch(line)
    if found:
        return None, found["words"]
    found = _TRACK.fullmatch(line)
    # Comments, imports, %%time and the like can stand above it.
    if found and all(not other.strip() or other.startswith(_ABOVE) for other in above):
        return TRACK, found["words"]
    return None


def complete(
    command: Command | None, words: str, namespace: Mapping[str, object]
) -> tuple[str, list[_Offer]]:
    """Return the fragment at the cursor and what could replace it.

    ``words`` is the line before the cursor; ``command`` is None where the sub-command is its first word.
    """
    *before, fragment = re.split(r"\s+", words) if words else [""]
    before = [word for word in before if word]
    if command is None:
        if not before:
            return fragment, _starting(
                fragment, (_Offer(each.name, "command", each.help) for each in COMMANDS.values())
            )
        command = COMMANDS.get(before[0])
        if command is None:
            return fragment, []
        before = before[1:]
    return _complete_word(command, before, fragment, namespace)


def _complete_word(
    command: Command, before: Sequence[str], fragment: str, namespace: Mapping[str, object]
) -> tuple[str, list[_Offer]]:
    name, equals, written = fragment.partition("=")
    glued = command.flag(name) if equals else None
    if glued is not None:
        return written, _values(glued, written, namespace)
    last = command.flag(before[-1]) if before else None
    if last is not None and last.takes_value and not last.optional_value:
        return fragment, _values(last, fragment, namespace)
    if fragment.startswith("-"):
        return fragment, _starting(fragment, _flags(command, before))
    following = _next_value(command, before)
    if following is not None and following.completes == "of kind":
        kind = next((word for word in before if word in _KINDS), "")
        following = replace(following, completes=kind)
    offers = [] if following is None else _values(following, fragment, namespace)
    if not fragment:
        offers += _flags(command, before)
    return fragment, offers


def _flags(command: Command, before: Iterable[str]) -> list[_Offer]:
    """Return the options that may still be given."""
    given = {word.partition("=")[0] for word in before}
    free = [
        option
        for option in command.flags
        if (option.repeatable or option.name not in given) and not given & set(option.excludes)
    ]
    return [
        *(_Offer(option.name, "option", option.help) for option in free),
        _Offer("--help", "option", "what it takes"),
    ]


def _next_value(command: Command, before: Sequence[str]) -> Option | None:
    """Return the value whose turn it is."""
    taken = 0
    follows: Option | None = None
    for word in before:
        if follows is not None:
            follows = None
        elif word.startswith("-"):
            option = command.flag(word)
            follows = option if option is not None and option.takes_value else None
        else:
            taken += 1
    if command.takes_more:
        taken = min(taken, len(command.values) - 1)
    return command.values[taken] if taken < len(command.values) else None


def _values(option: Option, fragment: str, namespace: Mapping[str, object]) -> list[_Offer]:
    """Return what could be an option's value."""
    head, dollar, begun = fragment.rpartition("$")
    if dollar and not head.endswith("$") and (not begun or begun.isidentifier()):
        offers = (
            _Offer(f"{head}${name}", "variable", _type_of(name, namespace)) for name in variables(namespace)
        )
        return _starting(fragment, offers)
    if option.choices:
        return _starting(fragment, (_Offer(choice, "value", option.help) for choice in option.choices))
    if option.completes == "variable":
        return _starting(
            fragment,
            (_Offer(f"${name}", "variable", _type_of(name, namespace)) for name in variables(namespace)),
        )
    if option.completes == "names":
        done, comma, last = fragment.rpartition(",")
        return [
            _Offer(f"{done}{comma}{name}", "variable", _type_of(name, namespace))
            for name in variables(namespace)
            if name.startswith(last) and name not in done.split(",")
        ]
    if option.completes == "run":
        return _runs(fragment)
    looked_up: dict[str, Callable[[], Sequence[str]]] = {
        "kind": lambda: _KINDS,
        "command": lambda: [*COMMANDS, TRACK.name],
        "experiment": lambda: _known(lambda session: session.known_experiments()),
        "endpoint": lambda: _known(lambda session: session.known_endpoints(), linked=False),
        "deployable": lambda: _known(lambda session: session.known_models()),
        "model": lambda: _known(lambda session: session.known_models()),
    }
    found = looked_up.get(option.completes, list)()
    kind, what = _KNOWN_AS.get(option.completes, (option.completes, ""))
    return _starting(fragment, (_Offer(_quoted(name), kind, what or _about(name)) for name in found))


def _runs(fragment: str) -> list[_Offer]:
    """Return the runs whose name or id begins so: by the name where that means one run, else by the id."""
    known = _known(lambda session: session.known_runs())
    named = Counter(name for _, name in known)
    begun = fragment.lstrip("\"'")
    offers = _starting(fragment, [_Offer("last", "run", "the newest finished run here")])
    for run, name in known:
        means_one = named[name] == 1 and not any(other.startswith(name) for other, _ in known)
        if name.startswith(begun) and means_one and name != "last" and _NAME.fullmatch(name):
            offers.append(_Offer(quoted(name, doubly=True), "run", f"the name of {run[:8]}"))
        elif name.startswith(begun) or run.startswith(fragment):
            offers.append(_Offer(run, "run", one_line(name)))
    return [offer for offer in offers if is_plain(offer.text)]


_KNOWN_AS = {
    "deployable": ("model", "a registered model"),
    "model": ("model", "a registered model"),
    "experiment": ("experiment", "an experiment of the link"),
    "endpoint": ("endpoint", "an endpoint, by its name"),
    "kind": ("value", "what is deleted"),
}
"""What completion looks up -> what it is, in words."""


def _about(command: str) -> str:
    """Return what a command does, for ``%dbml help``."""
    found = TRACK if command == TRACK.name else COMMANDS.get(command)
    return "" if found is None else found.help


def _type_of(name: str, namespace: Mapping[str, object]) -> str:
    return type(namespace[name]).__name__


def _quoted(name: str) -> str:
    return f'"{name}"' if re.search(r"\s", name) else name


def _starting(fragment: str, offers: Iterable[_Offer]) -> list[_Offer]:
    """Return what begins so; a name with control characters in it is none that a line can have."""
    return [offer for offer in offers if offer.text.startswith(fragment) and is_plain(offer.text)]


_KINDS = ("endpoint", "model", "run", "experiment", "workspace", "resource-group")  # of cleanup

_looking = threading.Lock()


def _known(ask: Callable[[Session], Sequence[_Known]], *, linked: bool = True) -> list[_Known]:
    """Return what the session knows, or nothing when it is not linked, fails, or is not quick about it.

    A key press must neither wait nor fail, so the question is asked in a thread that may be left behind;
    while one is, no further question is asked.
    """
    module = sys.modules.get("dbml_magics.core.session")
    if module is None or not _looking.acquire(blocking=False):
        return []
    answer: list[_Known] = []

    def look() -> None:
        try:
            session = module.current()
            if session.linked or not linked:
                answer.extend(ask(session))
        except Exception:
            answer.clear()  # nothing to offer is all that a reader needs to know
        finally:
            _looking.release()

    thread = threading.Thread(target=look, name="dbml-completion", daemon=True)
    thread.start()
    thread.join(_LOOK_UP_SECONDS)
    return [] if thread.is_alive() else answer
