"""A form for one command: its fields, the line that they make, and what became of it.

The form does what the magic does: it reads its own line by the grammar and calls what the command calls.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import ipywidgets as widgets

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.commands.output import Progress
from dbml_magics.commands.parser import parse, split
from dbml_magics.commands.running import run
from dbml_magics.common.foreign_text import visible
from dbml_magics.common.hints import Argument, Remedy, python
from dbml_magics.common.redaction import redacted
from dbml_magics.common.reporting import how_to_report
from dbml_magics.errors import DbmlError, NotLinked
from dbml_magics.forms import choices, tabs, words
from dbml_magics.forms.fields import Field, said
from dbml_magics.forms.lines import LineBox
from dbml_magics.forms.outputs import CellOutputs
from dbml_magics.results.html import safe
from dbml_magics.results.text import duration

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.base import Result

__all__ = ["CommandForm"]

_TWICE_S = 0.8  # a second click so soon after the first one's end was meant for the first


class CommandForm:
    """One command's form."""

    def __init__(
        self,
        command: Command,
        session: Callable[[], Session],
        namespace: Mapping[str, object],
        ran: Callable[[Command, Result], None],
        *,
        outputs: CellOutputs | None = None,
        azure: Callable[[], bool] = lambda: True,
    ) -> None:
        self.command = command
        self._session = session
        self._namespace = namespace
        self._ran = ran
        self._outputs = CellOutputs() if outputs is None else outputs
        self._azure = azure
        self._lock = threading.Lock()
        self._busy = False
        self._last: tuple[str, float] = ("", 0.0)
        self._seen = False
        self._came_of_it = ""  # the last run, until something else is typed
        self._ways = tabs.ways_of(command)
        self._way = self._ways[0]
        self._confirm = tabs.needs_confirming(command)
        self.fields: dict[str, Field] = {}
        self.fields.update({option.name: self._field(option) for option in command.options})
        if self.command.name in tabs.PRUNES:
            self.fields["--confirm"].agreed = self._pruned
        self._message = _html("dbml-state")
        self._line = LineBox()
        self.outcome = _html("dbml-result")
        self.button = widgets.Button(
            description=words.ACTIONS[command.name].verb,
            button_style="primary",
            tooltip=f"{_sentence(command.help)}. Enter in a field does it too",
            layout=widgets.Layout(width="auto"),
        )
        self.button.add_class("dbml-go")
        self.button.on_click(lambda _: self.run())
        self._chooser = self._made_chooser()
        self._more = widgets.ToggleButton(
            description="More options",
            icon="plus",
            tooltip="Show the other options",
            layout=widgets.Layout(width="auto", align_self="flex-start"),
        )
        self._more.add_class("dbml-more")
        self._more.observe(lambda _: self._switch(), names="value")
        self._ahead, self._behind = widgets.VBox(), widgets.VBox()
        self.box = self._laid_out()
        self.box.add_class(f"dbml-form-{command.name}")
        self._lay_out()
        self._changed()

    def _field(self, option: Option) -> Field:
        ask = choices.source(option.completes, self._session, self._namespace)
        return Field(
            self.command,
            option,
            self._namespace,
            ask,
            self.values,
            lambda: self._typed(option),
            self.run,
        )

    def _made_chooser(self) -> widgets.Dropdown:
        made = widgets.Dropdown(
            description="How" if self.command.name == "link" else "What",
            options=[(way.title, way.name) for way in self._ways],
            style={"description_width": "190px"},
            layout=widgets.Layout(width="min(524px, 100%)"),
        )
        made.add_class("dbml-way")
        made.observe(lambda change: self.choose(change["new"]), names="value")
        return made

    def _laid_out(self) -> widgets.VBox:
        about = widgets.HTML(f"<p class='dbml-about'>{safe(_sentence(self.command.help))}.</p>")
        first = self._chooser if len(self._ways) > 1 else about
        row = widgets.HBox(
            [self.button, self._line.box], layout=widgets.Layout(flex_flow="row wrap", align_items="baseline")
        )
        row.add_class("dbml-foot")
        parts = [first, self._ahead, self._more, self._behind, row, self._message, self.outcome]
        return widgets.VBox(parts)

    def choose(self, way: str) -> None:
        """Show the fields of one of the command's purposes."""
        self._way = next(each for each in self._ways if each.name == way)
        self._chooser.value = way
        self._came_of_it = ""
        self._lay_out()
        self._changed()

    def _lay_out(self) -> None:
        way = self._way
        self._ahead.children = [self.fields[name].box for name in way.ahead]
        self._behind.children = [self.fields[name].box for name in way.behind]
        self._switch()

    def _switch(self) -> None:
        opened = bool(self._more.value)
        self._behind.layout.display = "" if opened else "none"
        self._more.description = "Fewer options" if opened else "More options"
        self._more.icon = "minus" if opened else "plus"

    def _show_fields(self) -> None:
        """Show the fields that mean something beside the others, and on this link."""
        way, azure = self._way, self._azure()
        there = {*way.ahead, *way.behind, *way.given}
        for name, field in self.fields.items():
            field.offer(azure)
            shown = name in there and tabs.matters(self.command, field.option, self.values(), azure=azure)
            field.show(shown, way.given.get(name))
        behind = any(self.fields[name].box.layout.display != "none" for name in way.behind)
        self._more.layout.display = "" if behind else "none"

    # --- what it holds

    def values(self) -> Mapping[str, str]:
        """Return what stands in the fields, by option."""
        return {name: field.written for name, field in self.fields.items()}

    def fill(self, values: Mapping[str, str]) -> None:
        """Write values into fields, by option."""
        for name, value in values.items():
            self.fields[name].control.value = value

    def seen(self) -> None:
        """Look up the choices, the first time that the form is on the screen."""
        if not self._seen:
            self._seen = True
            self.look_up()

    def look_up(self) -> None:
        """Look up the choices of all fields again, and show those that matter for what is linked now."""
        if not self._busy:
            self._changed()
        for field in self.fields.values():
            if self._seen and field.option.completes not in choices.WHEN_ASKED:
                field.look_up()

    @property
    def line(self) -> str:
        """Return the magic line that the fields make."""
        fields = list(self.fields.values())
        made = [word for field in fields if field.option.positional for word in field.words()]
        made += [word for field in fields if not field.option.positional for word in field.words()]
        return " ".join([self.command.prog, *made])

    @property
    def python(self) -> str:
        """Return the Python call that does the same."""
        alone: list[str] = []
        options: dict[str, Argument] = {}
        for field in self.fields.values():
            option, values = field.option, field.arguments()
            if values is None:
                continue
            if option.positional:
                alone += values
            elif not values:
                options[option.dest] = True
            else:
                options[option.dest] = values if option.repeatable else values[0]
        variable = options.get("output") if self.command.name == "score" else None
        if isinstance(variable, str) and variable.isidentifier():  # the line puts it into a variable
            del options["output"]
            return f"{variable} = {python(Remedy(self.command.name, *alone, **options))}.data"
        return python(Remedy(self.command.name, *alone, **options))

    def problem(self) -> str:
        """Return why the line cannot run as it is; empty when it can."""
        for field in self.fields.values():
            if field.problem():
                return f"{field.label}: {field.problem()}"
        missing = [field.label for field in self.fields.values() if field.needed and not field.written]
        if missing:
            return f"still required: {', '.join(missing)}"
        shows_only = self.fields.get("--dry-run")
        deletes = self._confirm is not None and not (shows_only and shows_only.written)
        if deletes and self._confirm and (wanted := self._to_confirm()):
            field = self.fields[self._confirm.name]
            if field.written != wanted:
                return f"this deletes {wanted}: type {wanted} once more under {field.label!r}"
        if pruned := self._pruned():
            field = self.fields["--confirm"]
            if field.written and field.written != pruned:
                return (
                    f"this deletes in {pruned} what the other workspace lacks: "
                    f"type {pruned} under {field.label!r}"
                )
        try:
            parse(self.command, split(self.line.removeprefix(self.command.prog), "%dbml"), self._namespace)
        except DbmlError as error:
            return words.worded(self.command, error.message)
        return ""

    def _to_confirm(self) -> str:
        """Return the name of what is deleted: the last value that stands by itself."""
        named = [field.written for field in self.fields.values() if field.option.positional]
        return named[-1] if named else ""

    def _pruned(self) -> str:
        """Return the workspace in which things are deleted because the other one lacks them, if any is."""
        if self.command.name not in tabs.PRUNES or not self.fields["--prune"].written:
            return ""
        linked = self._session().linked
        tracked = [place.name for place in api.status().destinations if place.tracked] if linked else []
        source = self.fields["--from"].written or (tracked[0] if tracked else "")
        return next((name for name in reversed(tracked) if name != source), "")

    def _typed(self, option: Option) -> None:
        self._came_of_it = ""
        if self._seen:
            for field in self.fields.values():
                if option.name in choices.DEPENDS.get(field.option.completes, ()):
                    field.look_up()
        self._changed()

    def _changed(self) -> None:
        if not self._busy:
            self._show_fields()
            self._refresh()

    def _refresh(self) -> None:
        problem = self.problem()
        self._line.show(self.line, self.python, complete=not problem)
        self.button.disabled = bool(problem)
        wrong = [field.label for field in self.fields.values() if field.problem()]  # each says so itself
        self._message.value = self._came_of_it or said(f"correct {', '.join(wrong)}" if wrong else problem)

    # --- what it does

    def run(self) -> None:
        """Run the line in the background; a second click while it runs, or just after, does nothing."""
        with self._lock:
            line, ended = self._last
            if self._busy or (line == self.line and time.monotonic() - ended < _TWICE_S):
                return
            if problem := self.problem():
                self._message.value = said(f"✗ {problem}", role="alert")
                return
            self._busy = True
        line = self.line
        self._set_busy(True)
        self._show_running(line, time.monotonic(), "")
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run, line), name="dbml-form", daemon=True).start()

    def _run(self, line: str) -> None:
        begun = time.monotonic()
        over = threading.Event()
        ticking = threading.Thread(target=self._tick, args=(line, begun, over), daemon=True)
        ticking.start()
        result: Result | None = None
        try:
            result = self._answer(line)
            below = self._outputs.put(line, result)
            shown = "" if below else result.html() or f"<pre>{safe(result.text())}</pre>"
            where = "; the result stands below the panel" if below else ""
            took = duration(time.monotonic() - begun)
            self._finish(over, ticking, shown, f"✓ done in {took}: {line}{where}")
        except DbmlError as error:
            first, *remedies = error.lines()  # remedies are lines to paste, so they stay as they are
            shown = "\n".join([words.worded(self.command, first), *remedies])
            self._finish(over, ticking, _alert(shown), f"✗ failed: {line}")
            if (field := self._meant(error)) is not None:
                field.refuse(words.worded(self.command, error.message))
        except BaseException as error:  # nobody stands above a thread
            text = f"{type(error).__name__}: {error}\n{how_to_report()}"
            self._finish(over, ticking, _alert(text), f"✗ failed: {line}")
        if result is not None:
            self._ran(self.command, result)

    def _answer(self, line: str) -> Result:
        args = parse(self.command, split(line.removeprefix(self.command.prog), "%dbml"), self._namespace)
        if self.command.needs_link and not self._session().linked:
            raise NotLinked(Remedy(self.command.name))
        return run(self.command, args, self)

    def _meant(self, error: DbmlError) -> Field | None:
        """Return the field whose value an error names, if it names one alone."""
        named = [
            field
            for field in self.fields.values()
            if (value := field.written)
            and not isinstance(field.control, widgets.Checkbox)
            and any(f"{mark}{value}{mark}" in error.message for mark in "'\"")
        ]
        return named[0] if len(named) == 1 else None

    def note(self, text: str) -> None:
        """Show a line of the command that runs."""
        self._progress = visible(redacted(text))

    def progress(self) -> Progress:
        """Open a progress line of the command that runs."""
        return Progress(self.note)

    _progress = ""

    def _tick(self, line: str, begun: float, over: threading.Event) -> None:
        while not over.wait(0.5):
            self._show_running(line, begun, self._progress)

    def _show_running(self, line: str, begun: float, progress: str) -> None:
        passed = duration(time.monotonic() - begun)
        more = f"\n{progress}" if progress else ""
        self._message.value = f'<pre role="status">… running {safe(line)}  {passed}{safe(more)}</pre>'

    def _finish(self, over: threading.Event, ticking: threading.Thread, shown: str, message: str) -> None:
        over.set()
        ticking.join()
        self._progress = ""
        self.outcome.value = shown
        self._last = (self.line, time.monotonic())
        self._set_busy(False)
        self._came_of_it = said(message)
        self._refresh()
        self._busy = False  # last: whoever sees it idle sees what came of it

    def _set_busy(self, busy: bool) -> None:
        self.button.disabled = busy
        self.button.icon = "hourglass-half" if busy else ""
        for field in self.fields.values():
            field.enable(not busy)
        self._more.disabled = self._chooser.disabled = busy


def _alert(text: str) -> str:
    return f'<pre role="alert" class="dbml-error">{safe(text)}</pre>'


def _sentence(text: str) -> str:
    """Return a text with a capital letter first."""
    return text[:1].upper() + text[1:]


def _html(name: str) -> widgets.HTML:
    made = widgets.HTML()
    made.add_class(name)
    return made
