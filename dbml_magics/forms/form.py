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
from dbml_magics.common.hints import Remedy
from dbml_magics.common.redaction import redacted
from dbml_magics.common.reporting import how_to_report
from dbml_magics.errors import DbmlError, NotLinked
from dbml_magics.forms import choices, tabs
from dbml_magics.forms.fields import Field, said
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
    ) -> None:
        self.command = command
        self._session = session
        self._namespace = namespace
        self._ran = ran
        self._lock = threading.Lock()
        self._busy = False
        self._last: tuple[str, float] = ("", 0.0)
        self._seen = False
        ahead, behind = tabs.front(command)
        self._confirm = tabs.needs_confirming(command)
        self.fields = {option.name: self._field(option) for option in (*ahead, *behind)}
        if self.command.name in tabs.PRUNES:
            self.fields["--confirm"].agreed = self._pruned
        self._more: widgets.ToggleButton | None = None
        self._message = _html("dbml-state")
        self._line = _html("dbml-line")
        self.outcome = _html("dbml-result")
        self.button = widgets.Button(
            description=f"Run {command.prog.strip()}",
            button_style="primary",
            tooltip=command.help,
            layout=widgets.Layout(width="auto"),
        )
        self.button.add_class("dbml-go")
        self.button.on_click(lambda _: self.run())
        self.box = self._laid_out(ahead, behind)
        self.box.add_class(f"dbml-form-{command.name}")
        self._changed()

    def _field(self, option: Option) -> Field:
        ask = choices.source(option.completes, self._session, self._namespace)
        return Field(self.command, option, self._namespace, ask, self.values, lambda: self._typed(option))

    def _laid_out(self, ahead: list[Option], behind: list[Option]) -> widgets.VBox:
        title = widgets.HTML(f"<p style='margin:4px 0'>{safe(self.command.help)}</p>")
        parts = [title, *(self.fields[option.name].box for option in ahead)]
        if behind:
            more = self._more = widgets.ToggleButton(
                description="More options",
                icon="plus",
                tooltip=f"Show the other options of {self.command.prog}",
                layout=widgets.Layout(width="auto", align_self="flex-start"),
            )
            more.add_class("dbml-more")
            rest = widgets.VBox([self.fields[option.name].box for option in behind])
            rest.layout.display = "none"

            def switch(change: Mapping[str, object]) -> None:
                rest.layout.display = "" if change["new"] else "none"
                more.description = "Fewer options" if change["new"] else "More options"
                more.icon = "minus" if change["new"] else "plus"

            more.observe(switch, names="value")
            parts += [more, rest]
        row = widgets.HBox(
            [self.button, self._line], layout=widgets.Layout(flex_flow="row wrap", align_items="center")
        )
        return widgets.VBox([*parts, row, self._message, self.outcome])

    # --- what it holds

    def values(self) -> Mapping[str, str]:
        """Return what stands in the fields, by option."""
        return {name: field.written for name, field in self.fields.items()}

    def seen(self) -> None:
        """Look up the choices, the first time that the form is on the screen."""
        if not self._seen:
            self._seen = True
            self.look_up()

    def look_up(self) -> None:
        """Look up the choices of all fields again."""
        for field in self.fields.values():
            if self._seen and field.option.completes not in choices.WHEN_ASKED:
                field.look_up()

    @property
    def line(self) -> str:
        """Return the magic line that the fields make."""
        fields = list(self.fields.values())
        words = [word for field in fields if field.option.positional for word in field.words()]
        words += [word for field in fields if not field.option.positional for word in field.words()]
        return " ".join([self.command.prog, *words])

    def problem(self) -> str:
        """Return why the line cannot run as it is; empty when it can."""
        for field in self.fields.values():
            if field.problem():
                return f"{field.label}: {field.problem()}"
        missing = [field.label for field in self.fields.values() if field.needed and not field.written]
        if missing:
            return f"still needed: {', '.join(name.removesuffix(' (needed)') for name in missing)}"
        shows_only = self.fields.get("--dry-run")
        deletes = self._confirm is not None and not (shows_only and shows_only.written)
        if deletes and self._confirm and (wanted := self._to_confirm()):
            typed = self.fields[self._confirm.name].written
            if typed != wanted:
                return f"this deletes {wanted}: type {wanted} once more as confirm"
        if (pruned := self._pruned()) and (typed := self.fields["--confirm"].written) and typed != pruned:
            return f"this deletes in {pruned} what the other workspace has not: type {pruned} as confirm"
        try:
            parse(self.command, split(self.line.removeprefix(self.command.prog), "%dbml"), self._namespace)
        except DbmlError as error:
            return error.message
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
        if self._seen:
            for field in self.fields.values():
                if option.name in choices.DEPENDS.get(field.option.completes, ()):
                    field.look_up()
        self._changed()

    def _changed(self) -> None:
        if not self._busy:
            self._refresh()

    def _refresh(self) -> None:
        problem = self.problem()
        self._line.value = f'<span>runs <code tabindex="0">{safe(self.line)}</code></span>'
        self.button.disabled = bool(problem)
        self._message.value = said(problem)

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
            shown = result.html() or f"<pre>{safe(result.text())}</pre>"
            self._finish(over, ticking, shown, f"✓ done in {duration(time.monotonic() - begun)}: {line}")
        except DbmlError as error:
            self._finish(over, ticking, _alert("\n".join(error.lines())), f"✗ failed: {line}")
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
        self._refresh()
        self._message.value = said(message)
        self._busy = False  # last: whoever sees it idle sees what came of it

    def _set_busy(self, busy: bool) -> None:
        self.button.disabled = busy
        self.button.icon = "hourglass-half" if busy else ""
        for field in self.fields.values():
            field.enable(not busy)
        if self._more is not None:
            self._more.disabled = busy


def _alert(text: str) -> str:
    return f'<pre role="alert" class="dbml-error">{safe(text)}</pre>'


def _html(name: str) -> widgets.HTML:
    made = widgets.HTML()
    made.add_class(name)
    return made
