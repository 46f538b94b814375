"""How far a run is: by its metrics' steps, or by a progress bar of tqdm's that goes on."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

from dbml_magics.core.run_view import RunView
from dbml_magics.results.live import Pace

_LOOKS = 20  # over which the rate is measured: some seconds at first, then minutes


class RunPace:
    """One run's pace from look to look. ``total`` is how many steps it is to have, if anybody said."""

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS)

    def at(self, seconds: float, run: RunView) -> Pace | None:
        """Return the pace when the run has gone on for so long; None where nothing tells it."""
        if self._total is None and (bar := _bar()) is not None:
            return bar
        logged = [series for series in list(run.series.values()) if series.last >= 0]
        if not logged:
            return None
        first, last = min(s.steps[0] for s in logged), max(s.steps[s.last] for s in logged)
        if last <= first:
            return None
        done = last + (first == 0)  # steps that begin at 0 end one below their number
        self._looks.append((seconds, done))
        (began, then), (now, _) = self._looks[0], self._looks[-1]
        rate = (done - then) / (now - began) if now > began and done > then else None
        return Pace(min(done, self._total) if self._total else done, self._total, rate)


def shows_bar() -> bool:
    """Tell whether tqdm shows a bar in this process."""
    try:
        return any(not bar.disable for bar in _bars())
    except Exception:  # as below
        return False


def _bars() -> list[Any]:
    """Return tqdm's bars; its set of them is not documented: where it is another one, there is no bar."""
    return list(getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ()))


def _bar() -> Pace | None:
    """Return the pace of the outermost bar that tqdm shows in this process and whose end is known."""
    try:
        bars = [bar for bar in _bars() if bar.total and not bar.disable]
        if not bars:
            return None
        outermost = min(bars, key=lambda bar: abs(bar.pos))
        facts = outermost.format_dict
        elapsed = facts["elapsed"]
        rate = facts["rate"] or (facts["n"] / elapsed if elapsed else None)
        unit = "iteration" if facts["unit"] == "it" else str(facts["unit"])
        return Pace(float(facts["n"]), float(facts["total"]), rate and float(rate), unit)
    except Exception:  # it changes while it is read, or is not what we think
        return None
