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
from dbml_magics.forms import checks, tabs, words
from dbml_magics.forms.choices import Choices, Values
from dbml_magics.results.html import safe

__all__ = ["Field", "said"]

_PLAIN = re.compile(r"[\w./:@+%,=-]+|\$[^\W\d]\w*")
_LABEL = {"description_width": "190px"}
_PLACEHOLDER = 52  # characters: what a field shows; the tooltip has all of it


def _wide(width: int = 524) -> widgets.Layout:
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
        entered: Callable[[], None] = lambda: None,
    ) -> None:
        self.option = option
        self._command = command
        self._namespace = namespace
        self._values = values
        self._changed = changed
        self._entered = entered
        self._shown = True
        self._given: str | None = None
        self._refused = ""
        self.choices = None if ask is None else Choices(ask, self._show)
        self.message = widgets.HTML()
        self.message.add_class("dbml-message")
        self._hint = widgets.HTML()
        self._hint.add_class("dbml-hint")
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
                tooltip=f"Look up the choices for {self.label} again",
                layout=widgets.Layout(width="auto", flex="0 0 auto"),
            )
            self._again.on_click(lambda _: self.look_up())
            parts.append(self._again)
        # In one row, whatever the width: a button below its field would look like the next field's.
        row = widgets.HBox(parts, layout=widgets.Layout(align_items="baseline", width="min(570px, 100%)"))
        row.add_class("dbml-row")
        self.box = widgets.HBox(
            [row, self._hint, self.message],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        self.box.add_class("dbml-field")
        self._show()

    @property
    def label(self) -> str:
        """Return what the control is called."""
        return words.label(self._command.name, self.option)

    @property
    def needed(self) -> bool:
        """Tell whether the line cannot be without it."""
        return tabs.is_needed(self.option)

    def _control(self) -> widgets.DOMWidget:
        option = self.option
        described = f"{self.label} (required)" if self.needed else self.label
        about: dict[str, object] = {"description": described, "tooltip": option.help}
        if not option.takes_value:
            made: widgets.DOMWidget = widgets.Checkbox(layout=_wide(), style=_LABEL, **about)
        elif (offered := _offered(option)) and not option.repeatable:
            made = widgets.Dropdown(
                options=self._listed(offered), value="", layout=_wide(), style=_LABEL, **about
            )
        else:
            kind = widgets.Text if self.choices is None else widgets.Combobox
            placeholder = textwrap.shorten(option.help, _PLACEHOLDER, placeholder=" …")
            made = kind(
                placeholder=placeholder, layout=_wide(), style=_LABEL, continuous_update=True, **about
            )
            made.on_msg(lambda _control, content, _buffers: self._submitted(content))
        made.observe(lambda _: self._typed(), names="value")
        if option.optional_value and not option.positional:
            made.placeholder = "may be left empty"
            self.tick = widgets.Checkbox(
                description=self.label,
                tooltip=option.help,
                layout=widgets.Layout(width="auto", flex="0 0 auto"),
                style=_LABEL,
            )
            self.tick.add_class(f"dbml-with-{option.dest.replace('_', '-')}")
            self.tick.observe(lambda _: self._typed(), names="value")
            self._beside_its_tick(made)
        return made

    def _beside_its_tick(self, made: widgets.DOMWidget) -> None:
        """Have the control stand beside the tick that gives the option at all."""
        made.description = _SPOKEN.get(self.option.metavar, self.option.metavar.lower())
        made.layout = _wide(280)
        made.style = {"description_width": "initial"}
        made.add_class("dbml-beside")

    def _listed(self, offered: tuple[str, ...]) -> list[tuple[str, str]]:
        nothing = "Choose …" if self.needed else "Default"
        return [(nothing, ""), *((choice, choice) for choice in offered)]

    def offer(self, azure: bool) -> None:
        """Offer the choices that a link with Azure ML, or one without, has; a single one is chosen."""
        offered = tabs.choices_where(self._command, self.option, _offered(self.option), azure=azure)
        listed = self._listed(offered)
        if not isinstance(self.control, widgets.Dropdown) or list(self.control.options) == listed:
            return
        before = self.control.value
        self.control.options = listed
        alone = offered[0] if len(offered) == 1 and self.needed else ""
        self.control.value = before if before in offered else alone

    def show(self, shown: bool, given: str | None = None) -> None:
        """Show it or not; what is not shown is not on the line, except what it is ``given`` by itself."""
        asks = shown and (given is None or self.option.optional_value)
        self._shown, self._given = shown, given
        self.box.layout.display = "" if asks else "none"
        if self.tick is not None and given is not None and self.tick.layout.display != "none":
            self.tick.layout.display = "none"
            self.control.description = self.label
            self.control.layout = _wide()
            self.control.style = _LABEL
            self.control.remove_class("dbml-beside")
        self._show()  # what is wrong with it may hang on the others

    def _submitted(self, content: Mapping[str, object]) -> None:
        if content.get("event") == "submit":
            self._entered()

    def _typed(self) -> None:
        self._refused = ""
        self._show()
        self._changed()

    def look_up(self) -> None:
        """Look the choices up in the background, if the field has any."""
        if self.choices is not None:
            self.choices.load(self._values())

    def refuse(self, why: str) -> None:
        """Say under the field why its value was refused; until something else is typed."""
        self._refused = why
        self._show()

    def _show(self) -> None:
        choices = self.choices
        if choices is not None and choices.state == "loaded":
            self.control.options = choices.found
        problem, hint = self.problem() or self._refused, ""
        message = f"✗ {problem}" if problem else ""
        if choices is not None:
            if choices.state != "failed":
                hint = choices.state_text
            elif not message:
                message = choices.state_text
            if self._again is not None:
                self._again.icon = "refresh spin" if choices.state == "loading" else "refresh"
        self.message.value, self._hint.value = said(message), said(hint)
        self.message.layout.display = "" if message else "none"
        self._hint.layout.display = "" if hint else "none"

    @property
    def written(self) -> str:
        """Return what stands in the field; ``yes`` for a tick."""
        if self._given is not None:
            return self._given or str(self.control.value or "").strip() or "yes"
        if not self._shown:
            return ""
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

    def _without_value(self) -> bool:
        return not self.option.takes_value or (self.tick is not None and not self.control.value)

    def problem(self) -> str:
        """Return what is wrong with what stands there; empty when nothing is."""
        if not self._shown or self._given or self._without_value():
            return ""
        if word := self.agreed():
            return "" if self.written == word else f"type {word} here"
        for item in self._items():
            try:
                read_value(self._command, self.option, item, self._namespace)
            except DbmlError as error:
                # Under its own field the name says nothing.
                return words.worded(self._command, error.message.removeprefix(f"{self.option.name} "))
            if why := checks.refusal(self._command.name, self.option.name, item, self._values()):
                return why
        return ""

    def arguments(self) -> list[str] | None:
        """Return the option's values, none where it stands alone; None where it is not on the line."""
        if self._given:
            return [self._given]
        if self._without_value():
            return [] if self.written else None
        if self._is_agreed():
            return []
        return self._items() or None

    def words(self) -> list[str]:
        """Return what the line gets of it."""
        option, values = self.option, self.arguments()
        if values is None:
            return []
        made = [] if values else [option.name]
        for item in values:
            if option.positional:
                made.append(_quoted(item))
            elif item.startswith("-"):
                made.append(f"{option.name}={_quoted(item)}")
            else:
                made += [option.name, _quoted(item)]
        return made


_SPOKEN = {"N": "number or name"}


def _offered(option: Option) -> tuple[str, ...]:
    """Return the words that the option's value is one of, where the grammar names them all."""
    words = tuple(option.metavar.split("|"))
    return option.choices or (words if len(words) > 1 and option.metavar.islower() else ())


def _quoted(word: str) -> str:
    return word if _PLAIN.fullmatch(word) else shlex.quote(word)
