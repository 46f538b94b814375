"""The runs' view: a table that is sorted and filtered, runs side by side, a param against a metric."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as widgets

from dbml_magics import api
from dbml_magics.errors import DbmlError
from dbml_magics.forms.fields import said
from dbml_magics.results.base import Result
from dbml_magics.results.html import safe
from dbml_magics.results.runs_table import RunsTable, Scatter

if TYPE_CHECKING:
    from dbml_magics.core.session import Session

__all__ = ["RunsView"]

_MOST = 500
_LABEL = {"description_width": "80px"}


class RunsView:
    """The active experiment's runs."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session
        self._table = RunsTable(())
        self._filling = False
        self._sort = _dropdown("Sort by", "The column that the runs are sorted by", "dbml-sort")
        self._down = widgets.Checkbox(
            description="highest first", tooltip="Turn the order round", indent=False, value=True
        )
        self._match = widgets.Text(
            description="Filter",
            placeholder="words, and terms like loss<0.5",
            tooltip="Runs that have all these words, and for which all these terms hold",
            style=_LABEL,
        )
        self._match.add_class("dbml-match")
        self._param = _dropdown("Param", "The param along the axis", "dbml-param")
        self._metric = _dropdown("Metric", "The metric upwards", "dbml-metric")
        self._chosen = widgets.SelectMultiple(
            description="Compare",
            tooltip="Two runs or more, with Ctrl or Shift",
            rows=5,
            style=_LABEL,
            layout=widgets.Layout(width="min(420px, 100%)"),
        )
        self._chosen.add_class("dbml-chosen")
        self._load = _button("Load the runs", "refresh", "Ask for the experiment's runs again", self.load)
        self._compare = _button(
            "Compare", "columns", "Set the chosen runs side by side", self._begin_comparing
        )
        self._compare.add_class("dbml-compare")
        self._message, self._shown = widgets.HTML(), widgets.HTML()
        # Outputs, since their charts answer: the other kind of widget runs no script.
        self._scatter, self._beside = widgets.Output(), widgets.Output()
        for place in (self._shown, self._scatter, self._beside):
            place.add_class("dbml-result")
        self._shown.add_class("dbml-table")
        self._scatter.add_class("dbml-scatter")
        self._beside.add_class("dbml-compared")
        for control in (self._sort, self._down, self._match, self._param, self._metric):
            control.observe(lambda _: self._draw(), names="value")
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        self.box = widgets.VBox(
            [
                widgets.HBox([self._load, self._sort, self._down, self._match], layout=wrap),
                self._message,
                self._shown,
                widgets.HBox([self._chosen, self._compare], layout=wrap),
                self._beside,
                widgets.HBox([self._param, self._metric], layout=wrap),
                self._scatter,
            ]
        )
        self.box.add_class("dbml-runs")
        self.load()

    def load(self) -> None:
        """Ask for the runs in the background."""
        self._in_back(self._ask)

    def _begin_comparing(self) -> None:
        self._in_back(self._side_by_side)

    def _in_back(self, work: Callable[[], None]) -> None:
        self._load.disabled = self._compare.disabled = True
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
            self._load.disabled = self._compare.disabled = False

        threading.Thread(target=go, name="dbml-runs", daemon=True).start()

    def _ask(self) -> None:
        rows = api.runs(max_results=_MOST).rows if self._session().linked else ()
        self._filling = True
        try:
            self._table = RunsTable(tuple(rows))
            _offer(self._sort, [("(newest first)", ""), *((c, c) for c in self._table.columns)])
            params = sorted({key for row in rows for key in row.params})
            ahead = self._table.params
            _offer(self._param, [(p, p) for p in [*ahead, *(p for p in params if p not in ahead)]])
            _offer(self._metric, [(m, m) for m in self._table.metrics])
        finally:
            self._filling = False
        self._draw()

    def _draw(self) -> None:
        if self._filling:
            return
        self._table = RunsTable(
            self._table.rows, self._sort.value or "", bool(self._down.value), self._match.value
        )
        self._shown.value = self._table.html()
        shown = self._table.shown
        offered = [(f"{row.run_id[:8]}  {row.name}", row.run_id) for row in shown]
        if tuple(offered) != tuple(self._chosen.options):
            kept = [run for run in self._chosen.value if run in {run for _, run in offered}]
            self._chosen.options = offered
            self._chosen.value = kept
        if self._param.value and self._metric.value:
            _show(self._scatter, Scatter.of(shown, self._param.value, self._metric.value))
        else:
            self._scatter.outputs = ()

    def _side_by_side(self) -> None:
        _show(self._beside, api.compare(*self._chosen.value))


def _show(place: widgets.Output, result: Result) -> None:
    forms = {"text/plain": result.text(), "text/html": result.html()}
    place.outputs = ({"output_type": "display_data", "data": forms, "metadata": {}},)


def _dropdown(label: str, about: str, name: str) -> widgets.Dropdown:
    made = widgets.Dropdown(
        description=label, tooltip=about, style=_LABEL, layout=widgets.Layout(width="260px")
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
