"""The panel: tabs, each with the forms of its commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import ipywidgets as widgets

from dbml_magics import api
from dbml_magics.commands.grammar import Command
from dbml_magics.forms import tabs
from dbml_magics.forms.form import CommandForm
from dbml_magics.forms.style import STYLE

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.base import Result

__all__ = ["Panel"]

_CHANGES = frozenset({"link", "unlink", "register", "deploy", "undeploy", "cleanup", "experiment"})


class Panel:
    """The panel, open at one tab; a form is made when it is first shown."""

    def __init__(
        self,
        commands: Mapping[str, Command],
        session: Callable[[], Session],
        namespace: Mapping[str, object],
        *,
        tab: str = "link",
        command: str | None = None,
    ) -> None:
        self._commands = commands
        self._session = session
        self._namespace = namespace
        self._forms: dict[str, CommandForm] = {}
        names = [name for name in tabs.TABS if tabs.commands_of(name, commands)]
        self._tabs = _chooser(names, tab, "Tab", "dbml-tabs")
        self._tabs.observe(lambda change: self._show_tab(change["new"]), names="value")
        self._inner = widgets.VBox()
        self.state = widgets.HTML()
        self.state.add_class("dbml-linked")
        self.box = widgets.VBox([widgets.HTML(STYLE), self._tabs, self.state, self._inner])
        self.box.add_class("dbml-panel")
        self._show_tab(tab, command)

    def form(self, name: str) -> CommandForm:
        """Return a command's form."""
        if name not in self._forms:
            self._forms[name] = CommandForm(self._commands[name], self._session, self._namespace, self._ran)
        return self._forms[name]

    def _show_tab(self, tab: str, command: str | None = None) -> None:
        names = [each.name for each in tabs.commands_of(tab, self._commands)]
        self._show_state()
        chosen = command if command in names else names[0]
        place = widgets.VBox()

        def show(name: str) -> None:
            form = self.form(name)
            place.children = (form.box,)
            form.seen()

        parts: list[widgets.Widget] = []
        if tab == "runs":
            from dbml_magics.forms.runs import RunsView

            parts.append(RunsView(self._session).box)
        if len(names) > 1:
            chooser = _chooser(names, chosen, "Command", "dbml-commands")
            chooser.observe(lambda change: show(change["new"]), names="value")
            parts.append(chooser)
        self._inner.children = (*parts, place)
        show(chosen)

    def _show_state(self) -> None:
        if not self._session().linked:
            self.state.value = '<span role="status">Not linked: begin in the tab link.</span>'
            return
        status = api.status()
        where = " and ".join(place.name for place in status.destinations if place.tracked)
        self.state.value = f'<span role="status">Linked: tracking to {where}</span>'

    def _ran(self, command: Command, _result: Result) -> None:
        if command.name not in _CHANGES:
            return
        self._show_state()
        for form in list(self._forms.values()):  # another tab may be opened meanwhile
            form.look_up()


def _chooser(names: list[str], chosen: str, label: str, name: str) -> widgets.ToggleButtons:
    made = widgets.ToggleButtons(
        options=names,
        value=chosen,
        description=label,
        tooltips=[f"{label} {each}" for each in names],
        style={"description_width": "80px", "button_width": "auto"},
    )
    made.add_class(name)
    return made
