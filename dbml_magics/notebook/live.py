"""The live view under a ``%%track`` cell: the run as it stands, while the cell goes on.

A thread of its own looks at the run (:meth:`~dbml_magics.core.track.Track.look`) and updates one output in
place. What it shows is HTML without a script, so that the notebook keeps it when it is saved; only the button
that stops the cell is a widget, shown where a click reaches a busy kernel, and gone when the run ends.
"""

from __future__ import annotations

import contextvars
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from dbml_magics.common import config, environment
from dbml_magics.common.hints import Remedy, say
from dbml_magics.common.log_records import logger
from dbml_magics.core.interrupts import Flag
from dbml_magics.notebook import display

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from ipywidgets import Button, Widget

    from dbml_magics.core.track import Track
    from dbml_magics.results.live import RunProgress
    from dbml_magics.results.runs import TrackSummary

__all__ = ["LiveView", "TerminalView", "View", "begin", "begin_block"]

_log = logger(__name__)

_FIRST_S = 0.5  # a shorter cell needs no live view: its summary is there at once
_SHORTEST_S = 0.5  # between two updates: two a second at the most
_SHARE = 0.02  # of the time, at most, is spent on looking and drawing
_AFTER = ((60.0, 1.0), (600.0, 2.0), (3600.0, 5.0))  # a run of so many seconds is looked at this often
_SUBSHELL_S = 1.0  # how long a front end may take to open its way for clicks
_LINE_S = 1.0  # between two updates of a terminal's line
_TYPING = ("pdb", "IPython.terminal.debugger", "code", "getpass")
_JOIN_S = 5.0  # how long the cell's end waits for a look that goes on
_TRIES = 5  # looks that fail one after the other
_GIVEN_UP = "This view is not brought up to date any more; the run goes on, and {status} tells how far it is"
_NOTHING = {"text/plain": "", "text/html": "<div></div>"}  # takes no room
_STOP_HINT = "To stop the cell, interrupt the kernel (■ in the toolbar)."


def begin_block(track: Track, shell: InteractiveShell) -> View | None:
    """Begin to show the run of a ``with`` block of a cell's own code, as :func:`begin`.

    A block that is over before there is a view leaves no output: a cell may have hundreds.
    """
    main = threading.current_thread() is threading.main_thread()
    return begin(track, shell, leaves_short=False) if main else None


def begin(track: Track, shell: InteractiveShell, *, leaves_short: bool = True) -> View | None:
    """Begin to show a run, where somebody watches and sees what changes; else return None.

    ``leaves_short``: a run that ends before there is a view shows its summary all the same.
    """
    if not config.live_views():
        return None
    if environment.updates_displays(shell):
        view = LiveView(track, shell, leaves_short=leaves_short)
        view.start()
        return view
    if not environment.has_kernel(shell) and display.is_terminal():
        return TerminalView(track, shows_summary=leaves_short)
    return None


class View(Protocol):
    """What is shown of a run while it goes on."""

    def end(self, summary: TrackSummary | None) -> None:
        """Show the summary in its place, where there is one."""


class TerminalView:
    """One run in a terminal: a line that moves each second while the cell prints nothing of its own."""

    def __init__(self, track: Track, *, shows_summary: bool) -> None:
        from dbml_magics.notebook.moving_line import MovingLine

        self._track = track
        self._shows_summary = shows_summary
        self._over = Flag()  # set in the main thread, where an interrupt may come
        self._line = MovingLine()
        self._line.open()
        self._thread = threading.Thread(target=self._go, name="dbml-live", daemon=True)
        self._thread.start()

    def end(self, summary: TrackSummary | None) -> None:
        """Take the line away and print the summary."""
        self._over.set()
        self._thread.join(_JOIN_S)
        self._line.close()
        if summary is not None and self._shows_summary:
            display.show(summary)

    def _go(self) -> None:
        from dbml_magics.core.pace import shows_bar

        pid = os.getpid()
        while not self._over.wait(_LINE_S) and os.getpid() == pid:
            with suppress(Exception):  # a view that fails must not be noticed by the training
                told = self._track.look().line()
                if not shows_bar() and not _debugs():
                    self._line.put(told)


def _debugs() -> bool:
    """Tell whether the main thread is in a debugger, where somebody types."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals.get("__name__") in _TYPING:
            return True
        frame = frame.f_back
    return False


class LiveView:
    """One run's view: a thread and the output that it updates."""

    def __init__(self, track: Track, shell: InteractiveShell, *, leaves_short: bool) -> None:
        self._track = track
        self._leaves_short = leaves_short
        self._shell = shell
        self._top = display.Place()
        """Of the button while the run goes on, then of its summary."""
        self._place = display.Place() if environment.shows_widgets(shell) else self._top
        self._stop: _Stop | None = None
        self._over = Flag()  # set in the main thread, where an interrupt may come
        self._drawing = threading.Lock()  # what the thread shows never comes after the summary
        self._progress: RunProgress | None = None
        # What the thread shows belongs to this cell, whichever runs when it is sent.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._go,), name="dbml-live", daemon=True)

    def start(self) -> None:
        """Begin, and keep a place above all else that the cell shows: its output stays together, in order."""
        if self._leaves_short:
            self._top.put(_NOTHING)  # and no second one for the charts: a short cell would keep it, empty
        self._thread.start()

    def end(self, summary: TrackSummary | None) -> None:
        """End the view and show the summary in its place; without a view, the summary alone."""
        self._over.set()
        self._thread.join(_JOIN_S)
        with self._drawing:
            self._end(summary)

    def _end(self, summary: TrackSummary | None) -> None:
        if self._stop is not None:
            self._stop.remove()
        if self._progress is not None and self._place is not self._top:
            self._place.put(_NOTHING)  # which leaves no trace: the charts go to the summary
        if summary is None:
            return
        if self._progress is not None:
            from dbml_magics.results.live import FinishedRun

            progress = self._last_look() or self._progress
            self._top.end_in(FinishedRun(summary, progress.metrics, progress.files))
        elif self._leaves_short:
            self._top.end_in(summary)

    def _last_look(self) -> RunProgress | None:
        if self._thread.is_alive():  # it looks still; two looks at once would disturb each other
            return None
        try:
            return self._track.look()
        except Exception:
            return None

    def _go(self) -> None:
        pid, wait, failed = os.getpid(), _FIRST_S, 0
        while not self._over.wait(wait) and os.getpid() == pid:
            begun = time.thread_time()
            try:
                progress = self._track.look()
                first = self._progress is None
                self._show(progress)
                cost = time.thread_time() - begun
                if first and self._stop is not None:
                    self._stop.show(self._over, self._drawing)
            except Exception:  # a view that fails must not be noticed by the training
                _log.debug("a look for the live view failed", exc_info=True)
                failed, wait = failed + 1, wait * 2
                if failed == _TRIES:
                    self._give_up()
                    return
                continue
            slower = max((pause for age, pause in _AFTER if progress.seconds >= age), default=_SHORTEST_S)
            failed, wait = 0, max(slower, cost / _SHARE)

    def _show(self, progress: RunProgress) -> None:
        shown = {"text/plain": progress.text(), "text/html": progress.html()}
        with self._drawing:
            if self._over.is_set():
                return
            if self._stop is None and self._place is not self._top:
                self._stop = _Stop(self._shell, self._top)
            self._progress = progress
            self._place.put(shown)

    def _give_up(self) -> None:
        """Say in what is shown that it is brought up to date no more."""
        if self._progress is not None:
            with suppress(Exception):
                self._show(replace(self._progress, note=_GIVEN_UP.format(status=say(Remedy("status")))))


class _Stop:
    """The button that stops the cell, or the words that say how."""

    def __init__(self, shell: InteractiveShell, place: display.Place) -> None:
        import ipywidgets

        self._place = place
        self._shell = shell
        self._button = ipywidgets.Button(
            description="Stop the cell",
            icon="stop",
            tooltip="Interrupt the kernel: the cell stops, its run ends KILLED",
            layout=ipywidgets.Layout(width="auto"),
        )
        self._button.add_class("dbml-stop")
        self._button.on_click(self._clicked)
        if not place.shown:
            place.put(_NOTHING)  # above the view

    def show(self, over: Flag, drawing: threading.Lock) -> None:
        """Show the button; opening its widget is what makes a front end open its way for clicks."""
        until = time.monotonic() + _SUBSHELL_S
        while (way := environment.way_to_busy_kernel(self._shell)) is None and time.monotonic() < until:
            if over.wait(0.05):
                return
        comm = self._button.comm
        if way is not None and hasattr(comm, "_reply_subshell_id"):
            # From ipykernel 7.4 on a click goes to the shell that opened its widget, whatever it names: here
            # that would be the busy one.
            comm._reply_subshell_id = way
        form = {} if way is None else _widget_form(self._button)
        with drawing:
            if not over.is_set():
                self._place.put({"text/plain": _STOP_HINT, **form})

    def _clicked(self, button: Button) -> None:
        button.disabled, button.description = True, "Stopping…"
        _interrupt()

    def remove(self) -> None:
        """Leave nothing that a saved notebook could not show."""
        if self._place.shown:
            self._place.put(_NOTHING)
        self._button.close()


def _widget_form(widget: Widget) -> dict[str, Any]:
    form = widget._repr_mimebundle_()
    form = form[0] if isinstance(form, tuple) else form
    return {key: value for key, value in form.items() if key != "text/plain"}


def _interrupt() -> None:
    """Interrupt this process as the kernel's own interrupt does, and what it has started with it."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)
