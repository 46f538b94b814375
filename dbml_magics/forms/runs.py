"""The runs' view: a table that is sorted by its heads, filtered and chosen from; a param against a metric.

The table is one piece of HTML, so that hundreds of runs cost one message. Its heads and boxes write what was
pressed into a hidden field, which tells the kernel. A head that was pressed has the focus again once the
kernel has drawn the table anew.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import ipywidgets as widgets

from dbml_magics import api
from dbml_magics.errors import DbmlError
from dbml_magics.forms.fields import said
from dbml_magics.results.base import Result
from dbml_magics.results.html import safe
from dbml_magics.results.runs import RunRow
from dbml_magics.results.runs_table import RunsTable, Scatter
from dbml_magics.results.text import count

if TYPE_CHECKING:
    from dbml_magics.core.session import Session

__all__ = ["RunsView"]

_MOST = 500
_LABEL = {"description_width": "70px"}
_PRESSED = html.escape(
    """const field = this.closest('.dbml-runs').querySelector('.dbml-pressed input');
const table = this.closest('.dbml-table'), pressed = this.dataset.pressed;
if (this.tagName === 'BUTTON') new MutationObserver((_, drawing) => {
  const again = table.querySelector('[data-pressed="' + pressed + '"]');
  if (again) { drawing.disconnect(); again.focus(); }
}).observe(table, {childList: true, subtree: true});
field.value = this.dataset.pressed + ' ' + Date.now();
for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true}));"""
)


class RunsView:
    """The active experiment's runs."""

    def __init__(
        self,
        session: Callable[[], Session],
        open_form: Callable[[str, Mapping[str, str]], None] = lambda *_: None,
    ) -> None:
        self._session = session
        self._open = open_form
        self._table = RunsTable(())
        self._filling = False
        self._chosen: list[str] = []
        self._pressed = widgets.Text()
        self._pressed.add_class("dbml-pressed")
        self._pressed.layout.display = "none"
        self._pressed.observe(lambda change: self._press(change["new"]), names="value")
        self._match = widgets.Text(
            description="Filter",
            placeholder="words, and terms like loss<0.5",
            tooltip="Runs that have all these words, and for which all these terms hold",
            style={"description_width": "190px"},
            layout=widgets.Layout(flex="0 1 520px", min_width="0"),
        )
        self._match.add_class("dbml-match")
        self._param = _dropdown("Param", "The param along the axis", "dbml-param")
        self._metric = _dropdown("Metric", "The metric upwards", "dbml-metric")
        self._load = _button("", "refresh", "Ask for the experiment's runs again", self.load)
        self._compare = _button(
            "Compare", "columns", "Set the chosen runs side by side", self._begin_comparing
        )
        self._register = _button("Register …", "", "Register the chosen run's model", self._to_register)
        self._deploy = _button("Deploy …", "", "Deploy the chosen run's model", self._to_deploy)
        for name, button in (
            ("compare", self._compare),
            ("register", self._register),
            ("deploy", self._deploy),
        ):
            button.add_class(f"dbml-{name}")
        self._said = widgets.HTML()
        self._message, self._shown = widgets.HTML(), widgets.HTML()
        # Outputs, since their charts answer: the other kind of widget runs no script.
        self._scatter, self._beside = widgets.Output(), widgets.Output()
        for place in (self._shown, self._scatter, self._beside):
            place.add_class("dbml-result")
        self._shown.add_class("dbml-table")
        self._scatter.add_class("dbml-scatter")
        self._beside.add_class("dbml-compared")
        for control in (self._match, self._param, self._metric):
            control.observe(lambda _: self._draw(), names="value")
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        self._axes = widgets.HBox([self._param, self._metric], layout=wrap)
        acting = [self._compare, self._register, self._deploy, self._said]
        self.box = widgets.VBox(
            [
                widgets.HBox([self._match, self._load], layout=wrap),
                self._message,
                self._shown,
                widgets.HBox(acting, layout=wrap),
                self._beside,
                self._axes,
                self._scatter,
                self._pressed,
            ]
        )
        self.box.add_class("dbml-runs")
        self._count()
        self.load()

    def load(self) -> None:
        """Ask for the runs in the background."""
        self._in_back(self._ask)

    def _begin_comparing(self) -> None:
        self._in_back(self._side_by_side)

    def _to_register(self) -> None:
        self._open("register", {"RUN": self._chosen[0]})

    def _to_deploy(self) -> None:
        self._open("deploy", {"MODEL": self._chosen[0]})

    def _in_back(self, work: Callable[[], None]) -> None:
        self._load.disabled = self._compare.disabled = True
        self._load.icon = "refresh spin"
        self._message.value = said("… asking the workspace")

        def go() -> None:
            problem = ""
            try:
                work()
            except DbmlError as error:
                problem = "\n".join(error.lines())
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            self._message.value = (
                f'<pre role="alert" class="dbml-error">{safe(problem)}</pre>' if problem else ""
            )
            self._load.icon = "refresh"
            self._load.disabled = False
            self._count()

        threading.Thread(target=go, name="dbml-runs", daemon=True).start()

    def _ask(self) -> None:
        rows = api.runs(max_results=_MOST).rows if self._session().linked else ()
        self._filling = True
        try:
            self._table = RunsTable(tuple(rows), self._table.sort, self._table.descending)
            there = {row.run_id for row in rows}
            self._chosen = [run for run in self._chosen if run in there]
            params = sorted({key for row in rows for key in row.params})
            ahead = self._table.params
            _offer(self._param, [(p, p) for p in [*ahead, *(p for p in params if p not in ahead)]])
            _offer(self._metric, [(m, m) for m in self._table.metrics])
        finally:
            self._filling = False
        self._draw()

    def _press(self, pressed: str) -> None:
        """Do what was pressed in the table: a head's number, or a run's id."""
        kind, _, what = pressed.rpartition(" ")[0].partition(" ")
        if kind == "sort" and what.isdigit() and int(what) < len(self._table.columns):
            column, table = self._table.columns[int(what)], self._table
            again = table.sort == column
            self._table = RunsTable(table.rows, column, again and not table.descending, table.matching)
            self._draw()
        elif kind == "run" and what in {row.run_id for row in self._table.rows}:
            if what in self._chosen:
                self._chosen.remove(what)
            else:
                self._chosen.append(what)
            self._count()

    def _count(self) -> None:
        """Say how many runs are chosen, and let them be used."""
        chosen = len(self._chosen)
        self._compare.disabled = chosen < 2
        self._register.disabled = self._deploy.disabled = chosen != 1
        told = f"{count(chosen, 'run')} chosen" if chosen else "Tick one run or more in the table"
        self._said.value = f'<span role="status">{safe(told)}</span>' if self._table.rows else ""

    def _draw(self) -> None:
        if self._filling:
            return
        table = self._table
        self._table = RunsTable(table.rows, table.sort, table.descending, self._match.value)
        self._shown.value = self._drawn()
        offered = bool(self._param.value and self._metric.value)
        self._axes.layout.display = "" if offered else "none"
        if offered:
            _show(self._scatter, Scatter.of(self._table.shown, self._param.value, self._metric.value))
        else:
            self._scatter.outputs = ()
        self._count()

    def _drawn(self) -> str:
        table = self._table
        if not table.rows:
            where = (
                "in the active experiment yet"
                if self._session().linked
                else "before two workspaces are linked"
            )
            return f"<p>No runs {where}.</p>"
        shown = table.shown
        if not shown:
            return f"<p>None of {count(len(table.rows), 'run')} matches {safe(repr(table.matching))}.</p>"
        return table.markup(self._pressable, self._box)

    def _pressable(self, column: str, shown: str) -> str:
        """Return a column's head as a button that sorts by it."""
        return (
            f'<button type="button" data-pressed="sort {self._table.columns.index(column)}" '
            f'title="Sort by {safe(column)}" onclick="{_PRESSED}">{safe(shown)}</button>'
        )

    def _box(self, row: RunRow) -> str:
        """Return a run's box to tick."""
        ticked = " checked" if row.run_id in self._chosen else ""
        return (
            f'<input type="checkbox" aria-label="{safe(f"Choose run {row.name or row.run_id[:8]}")}" '
            f'data-pressed="run {safe(row.run_id)}" onchange="{_PRESSED}"{ticked}>'
        )

    def _side_by_side(self) -> None:
        _show(self._beside, api.compare(*self._chosen))


def _show(place: widgets.Output, result: Result) -> None:
    forms = {"text/plain": result.text(), "text/html": result.html()}
    place.outputs = ({"output_type": "display_data", "data": forms, "metadata": {}},)


def _dropdown(label: str, about: str, name: str) -> widgets.Dropdown:
    made = widgets.Dropdown(
        description=label, tooltip=about, style=_LABEL, layout=widgets.Layout(width="min(260px, 100%)")
    )
    made.add_class(name)
    return made


def _button(label: str, icon: str, about: str, clicked: Callable[[], None]) -> widgets.Button:
    made = widgets.Button(description=label, icon=icon, tooltip=about, layout=widgets.Layout(width="auto"))
    made.on_click(lambda _: clicked())
    return made


def _offer(control: widgets.Dropdown, options: list[tuple[str, str]]) -> None:
    """Put choices into a dropdown and keep what was chosen, where it is still there."""
    before = control.value
    control.options = options
    values = [value for _, value in options]
    control.value = before if before in values else (values[0] if values else None)
