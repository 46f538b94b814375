"""How far comparing or repairing is, and how long the rest will take."""

from __future__ import annotations

from dbml_magics.core.clock import Clock
from dbml_magics.core.reconcile.survey import Progress, Survey
from dbml_magics.results.text import about, count

__all__ = ["Pace"]

_MEASURED_S = 5.0  # of work, before it says how long the rest will take


class Pace:
    """Counts the runs that are done, and tells the caller's ``progress``.

    Runs that both workspaces have come first and take little. How long the others take is measured from when
    all are listed; how many there are is not known before.
    """

    def __init__(self, survey: Survey, progress: Progress | None, clock: Clock) -> None:
        self._survey = survey
        self._clock = clock
        self._progress = progress
        self._done = 0
        self._listed: tuple[float, int] | None = None  # when all were listed, and how many were done

    def done(self) -> None:
        """Count one run more."""
        self._done += 1
        if self._listed is None and self._survey.total is not None:
            self._listed = self._clock.monotonic(), self._done

    def tell(self, *more: str) -> None:
        """Tell how far it is, in words that go on after the number of runs that are done."""
        if self._progress is not None:
            self._progress(self._done, " · ".join([self._words(), *more]))

    def _words(self) -> str:
        total = self._survey.total
        if total is None:
            return f"{count(self._done, 'run').partition(' ')[2]} compared"
        left = self._left(total)
        return f"of {count(total, 'run')}" + (f", {about(left)} left" if left is not None else "")

    def _left(self, total: int) -> float | None:
        if self._listed is None:
            return None
        since, before = self._listed
        took, done = self._clock.monotonic() - since, self._done - before
        if took < _MEASURED_S or not done or total <= self._done:
            return None
        return took / done * (total - self._done)
