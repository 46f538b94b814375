"""The panel: tabs, each with one form at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import ipywidgets as widgets

from dbml_magics import api
from dbml_magics.commands.grammar import Command
from dbml_magics.forms import tabs, words
from dbml_magics.forms.form import CommandForm
from dbml_magics.forms.keys import KEYS
from dbml_magics.forms.outputs import CellOutputs
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
        self._outputs = CellOutputs()
        self._azure = True
        self._tabs = widgets.ToggleButtons(
            options=[(words.TITLES[name], name) for name in tabs.TABS if tabs.commands_of(name, commands)],
            value=tab,
            style={"button_width": "auto"},
        )
        self._tabs.add_class("dbml-tabs")
        self._tabs.observe(lambda change: self._show_tab(change["new"]), names="value")
        self._chooser: widgets.Dropdown | None = None
        self._actions = widgets.VBox()
        self._inner = widgets.VBox()
        self.state = widgets.HTML()
        self.state.add_class("dbml-linked")
        self.box = widgets.VBox(
            [widgets.HTML(STYLE + KEYS), self._tabs, self.state, self._actions, self._inner]
        )
        self.box.add_class("dbml-panel")
        self._show_tab(tab, command)

    def form(self, name: str) -> CommandForm:
        """Return a command's form."""
        if name not in self._forms:
            self._forms[name] = CommandForm(
                self._commands[name],
                self._session,
                self._namespace,
                self._ran,
                outputs=self._outputs,
                azure=lambda: self._azure,
            )
        return self._forms[name]

    def open(self, command: str, values: Mapping[str, str]) -> None:
        """Open a command's form with values in its fields."""
        tab = tabs.tab_of(command)
        if tab is not None and self._tabs.value != tab:
            self._tabs.value = tab
        assert self._chooser is not None
        self._chooser.value = command
        self.form(command).fill(values)

    def _show_tab(self, tab: str, command: str | None = None) -> None:
        names = [each.name for each in tabs.commands_of(tab, self._commands)]
        if tab == "runs":
            names = [words.BROWSE, *names]
        self._show_state()
        chosen = command if command in names else names[0]
        # A new one for each tab: choices that change under the pointer would choose what stood there before.
        self._chooser = _chooser(names, chosen)
        self._chooser.observe(lambda change: self._show(change["new"]), names="value")
        self._actions.children = (self._chooser,) if len(names) > 1 else ()
        self._show(chosen)

    def _show(self, name: str) -> None:
        if name == words.BROWSE:
            from dbml_magics.forms.runs import RunsView

            self._inner.children = (RunsView(self._session, self.open).box,)
            return
        form = self.form(name)
        if self._inner.children != (form.box,):
            self._inner.children = (form.box,)
        form.seen()

    def _show_state(self) -> None:
        if not self._session().linked:
            self._azure = True
            self.state.value = '<span role="status">Not linked yet: begin with the tab Link.</span>'
            return
        status = api.status()
        self._azure = any(place.kind == "azureml" for place in status.destinations)
        where = " and ".join(place.name for place in status.destinations if place.tracked)
        self.state.value = f'<span role="status">Linked: tracking to {where}</span>'

    def _ran(self, command: Command, _result: Result) -> None:
        if command.name not in _CHANGES:
            return
        self._show_state()
        for form in list(self._forms.values()):  # another tab may be opened meanwhile
            form.look_up()


def _chooser(names: list[str], chosen: str) -> widgets.Dropdown:
    made = widgets.Dropdown(
        options=[(words.ACTIONS[name].title, name) for name in names],
        value=chosen,
        description="Action",
        tooltip="What to do",
        style={"description_width": "190px"},
        layout=widgets.Layout(width="min(524px, 100%)"),
    )
    made.add_class("dbml-commands")
    return made
