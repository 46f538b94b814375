"""One field of a form: a control made of an option's grammar, its description, and what is wrong with it."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from dbml_magics.commands.grammar import Command, Option
from dbml_magics.commands.parser import read_value
from dbml_magics.common.redaction import redacted
from dbml_magics.errors import DbmlError
from dbml_magics.forms import tabs
from dbml_magics.forms.choices import Choices, Values
from dbml_magics.results.html import safe

__all__ = ["Field", "said"]

_PLAIN = re.compile(r"[\w./:@+%,=-]+|\$[^\W\d]\w*")
_LABEL = {"description_width": "150px"}
_PLACEHOLDER = 47  # characters: what a field shows in a panel of 450 pixels; the tooltip has all of it


def _wide(width: int = 520) -> widgets.Layout:
    """Return the layout of a control that is so wide where there is room."""
    return widgets.Layout(flex=f"0 1 {width}px", min_width="0")


def said(text: str, *, role: str = "status") -> str:
    """Return a message as markup that a screen reader speaks when it appears."""
    return f'<span role="{role}">{safe(redacted(text))}</span>' if text else ""


class Field:
    """The control of one option."""

    def __init__(
        self,
        command: Command,
        option: Option,
        namespace: Mapping[str, object],
        ask: Callable[[Values], Any] | None,
        values: Callable[[], Values],
        changed: Callable[[], None],
    ) -> None:
        self.option = option
        self._command = command
        self._namespace = namespace
        self._values = values
        self._changed = changed
        self.choices = None if ask is None else Choices(ask, self._show)
        self.message = widgets.HTML()
        self.message.add_class("dbml-message")
        self.tick: Any = None  # of an option whose value may be left out: that it is given at all
        self.agreed: Callable[[], str] = str
        """Returns the word that, typed here, gives the option without a value: what is deleted, by name."""
        self.control = self._control()
        self.control.add_class(f"dbml-{option.dest.replace('_', '-')}")
        parts = [self.control] if self.tick is None else [self.tick, self.control]
        self._again: Any = None
        if self.choices is not None:
            self._again = widgets.Button(
                icon="refresh",
                description="Look up",
                tooltip=f"Look up the choices for {self.label} again",
                layout=widgets.Layout(width="auto", flex="0 0 auto"),
            )
            self._again.on_click(lambda _: self.look_up())
            parts.append(self._again)
        # In one row, whatever the width: a button below its field would look like the next field's.
        row = widgets.HBox(parts, layout=widgets.Layout(align_items="baseline", width="min(620px, 100%)"))
        row.add_class("dbml-row")
        self.box = widgets.HBox(
            [row, self.message], layout=widgets.Layout(flex_flow="row wrap", align_items="center")
        )
        self.box.add_class("dbml-field")

    @property
    def label(self) -> str:
        """Return what the control is called."""
        words = self.option.name.lstrip("-").replace("-", " ").lower()
        return words if not self.needed else f"{words} (needed)"

    @property
    def needed(self) -> bool:
        """Tell whether the line cannot be without it."""
        return tabs.is_needed(self.option)

    def _control(self) -> widgets.DOMWidget:
        option = self.option
        about: dict[str, object] = {"description": self.label, "tooltip": option.help}
        if not option.takes_value:
            made: widgets.DOMWidget = widgets.Checkbox(layout=_wide(), style=_LABEL, **about)
        elif (offered := _offered(option)) and not option.repeatable:
            none = "(choose)" if self.needed else "(default)"
            shown = [(none, ""), *((choice, choice) for choice in offered)]
            made = widgets.Dropdown(options=shown, value="", layout=_wide(), style=_LABEL, **about)
        else:
            kind = widgets.Text if self.choices is None else widgets.Combobox
            placeholder = textwrap.shorten(option.help, _PLACEHOLDER, placeholder=" …")
            made = kind(
                placeholder=placeholder, layout=_wide(), style=_LABEL, continuous_update=True, **about
            )
        made.observe(lambda _: self._typed(), names="value")
        if option.optional_value and not option.positional:
            made.description = _SPOKEN.get(option.metavar, option.metavar.lower())
            made.placeholder = "may be left empty"
            made.layout = _wide(280)
            made.style = {"description_width": "initial"}
            made.add_class("dbml-beside")
            self.tick = widgets.Checkbox(
                description=self.label,
                tooltip=option.help,
                layout=widgets.Layout(width="auto", flex="0 0 auto"),
                style=_LABEL,
            )
            self.tick.add_class(f"dbml-with-{option.dest.replace('_', '-')}")
            self.tick.observe(lambda _: self._typed(), names="value")
        return made

    def _typed(self) -> None:
        self._show()
        self._changed()

    def look_up(self) -> None:
        """Look the choices up in the background, if the field has any."""
        if self.choices is not None:
            self.choices.load(self._values())

    def _show(self) -> None:
        if self.choices is not None and self.choices.state == "loaded":
            self.control.options = self.choices.found
        problem = self.problem()
        message = f"✗ {problem}" if problem else "" if self.choices is None else self.choices.state_text
        self.message.value = said(message)

    @property
    def written(self) -> str:
        """Return what stands in the field; ``yes`` for a tick."""
        value = self.control.value
        if self.tick is not None and not value:
            value = bool(self.tick.value)
        if isinstance(value, bool):
            return "yes" if value else ""
        return str(value or "").strip()

    def enable(self, enabled: bool) -> None:
        """Let the user change it, or not."""
        for control in (self.control, self.tick, self._again):
            if control is not None:
                control.disabled = not enabled

    def _items(self) -> list[str]:
        if not self.option.repeatable:
            return [self.written] if self.written else []
        return [item.strip() for item in self.written.split(",") if item.strip()]

    def _is_agreed(self) -> bool:
        return bool(word := self.agreed()) and self.written == word

    def problem(self) -> str:
        """Return what is wrong with what stands there; empty when nothing is."""
        if not self.option.takes_value or (self.tick is not None and not self.control.value):
            return ""
        if word := self.agreed():
            return "" if self.written == word else f"type {word} as {self.label}"
        for item in self._items():
            try:
                read_value(self._command, self.option, item, self._namespace)
            except DbmlError as error:
                return error.message
        return ""

    def words(self) -> list[str]:
        """Return what the line gets of it."""
        option = self.option
        if not option.takes_value or (self.tick is not None and not self.control.value):
            return [option.name] if self.written else []
        if self._is_agreed():
            return [option.name]
        words = []
        for item in self._items():
            if option.positional:
                words.append(_quoted(item))
            elif item.startswith("-"):
                words.append(f"{option.name}={_quoted(item)}")
            else:
                words += [option.name, _quoted(item)]
        return words


_SPOKEN = {"N": "number or name"}


def _offered(option: Option) -> tuple[str, ...]:
    """Return the words that the option's value is one of, where the grammar names them all."""
    words = tuple(option.metavar.split("|"))
    return option.choices or (words if len(words) > 1 and option.metavar.islower() else ())


def _quoted(word: str) -> str:
    return word if _PLAIN.fullmatch(word) else shlex.quote(word)
