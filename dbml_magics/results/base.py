"""What commands return: frozen values with a text form and an HTML form.

Each is usable as a Python value (``runs = %dbml runs``); showing them is the display hook's and
``display.py``'s. Times are milliseconds since the epoch, durations seconds. Both forms say the same with the
same words.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Protocol

from dbml_magics.common.foreign_text import one_line, visible
from dbml_magics.common.hints import Remedy
from dbml_magics.common.redaction import redacted
from dbml_magics.results.html import Html

__all__ = ["HelpText", "Result"]


class _Printer(Protocol):
    """IPython's printer of a value's text."""

    def text(self, text: str) -> None: ...

    def break_(self) -> None: ...


class Result:
    """What a command returns: a value with a text form and an HTML form.

    Its fields are what workspaces and users say, character by character; in both forms a control character
    in any of them is shown as its escape (:mod:`dbml_magics.common.foreign_text`), a name cannot begin a
    line, and a secret that a server or a log repeats is not shown.
    """

    as_it_is: ClassVar[frozenset[str]] = frozenset()
    """Fields whose lines are our own, or whose values show themselves."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("text", "html"):
            if name in cls.__dict__:
                setattr(cls, name, _made_visible(cls.__dict__[name]))

    def text(self) -> str:
        """Return the text form."""
        raise NotImplementedError

    def html(self) -> str | None:
        """Return the HTML form, or None when the text says it all."""
        return None

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str | None:
        return self.html()

    def _mime_(self) -> tuple[str, str]:
        """Return what marimo shows; where there is no HTML, its own choice would be an empty output."""
        html = self.html()
        return ("text/plain", self.text()) if html is None else ("text/html", html)

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:
        for number_, line in enumerate(self.text().splitlines() if not cycle else ["…"]):
            if number_:
                printer.break_()
            printer.text(line)


def _made_visible(form: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """Return a form of a result that is made of fields without control characters."""

    @functools.wraps(form)
    def shown(result: Result) -> str | None:
        made = form(_cleaned(result, result.as_it_is))
        return None if made is None else visible(redacted(made))

    return shown


def _cleaned(value: object, but: frozenset[str] = frozenset()) -> object:
    """Return a value with the texts in it made visible; the same one where there is nothing to do."""
    if isinstance(value, Remedy):
        cleaned = value.changed(one_line)
        return value if cleaned == value else cleaned
    if isinstance(value, str):
        return value if isinstance(value, Html) else one_line(value)
    if isinstance(value, (tuple, list)):
        if value and isinstance(value[0], (float, int)):
            return value  # a curve
        items = [_cleaned(item) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same or type(value) not in (tuple, list) else type(value)(items)
    if isinstance(value, Mapping):
        pairs = {_cleaned(key): _cleaned(item) for key, item in value.items()}
        same = all(key in pairs and pairs[key] is item for key, item in value.items())
        return value if same else pairs
    if is_dataclass(value) and not isinstance(value, type):
        found = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in but}
        made = {name: new for name, old in found.items() if (new := _cleaned(old)) is not old}
        if made:
            value = copy.copy(value)
            for name, new in made.items():
                object.__setattr__(value, name, new)
    return value


@dataclass(frozen=True, repr=False)
class HelpText(Result):
    """What ``--help`` and ``%dbml help`` show."""

    as_it_is: ClassVar[frozenset[str]] = frozenset({"content"})

    content: str

    def text(self) -> str:
        """Return the help as it is."""
        return self.content
