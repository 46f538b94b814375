"""The runs that this process began or resumed, and the versions that it registered of their models."""

from __future__ import annotations

import time
from collections.abc import Iterable

from dbml_magics.core.model.facts import RunFacts, VersionFacts
from dbml_magics.core.model.operations import UpdateRun
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime.holders import is_anothers
from dbml_magics.core.runtime.live import LiveQueues
from dbml_magics.core.runtime.recorder import Recorder


class OwnRuns:
    """The runs of this process at one link."""

    def __init__(self, journal: Journal, state: State, recorder: Recorder, live: LiveQueues) -> None:
        self._journal = journal
        self._live = live
        self._state = state
        self._recorder = recorder
        self._registrations: dict[str, dict[str, VersionFacts]] = {}
        self.begun: list[str] = []
        """The runs that this process began, the oldest first."""

    def after_fork(self) -> None:
        """In a forked child: the parent's runs are not this process's."""
        self.begun = []

    def note_ended(self, run_id: str, ended: bool) -> None:
        """Remember that a run has ended (its files may go once they are delivered), or goes on.

        A few points of its metrics are kept, as its view goes with its files.
        """
        known = self._state.run(run_id)
        if known is not None and known.get("ended") != ended:
            live = self._live.queues.get(run_id)
            view = live.view.run if ended and live is not None else None
            curves = {} if view is None else view.curves()
            kept: RunFacts = {**known, "ended": ended}
            self._state.remember_run(run_id, {**kept, "curves": curves} if curves else kept)

    def open_runs(self, resumed: Iterable[str] = ()) -> list[str]:
        """Return the runs that this process began and that have not ended, the oldest first.

        Of those that it ``resumed``, the ones that are not another's to end come after them.
        """
        known = {run: self._state.run(run) for run in (*self.begun, *resumed)}
        return [
            run
            for run, facts in known.items()
            if (facts or {}).get("ended") is False
            and (run in self.begun or not is_anothers(self._journal, run, facts))
        ]

    def end_run(self, run_id: str, status: str) -> None:
        """End a run that this process began, now."""
        self._recorder.write(run_id, UpdateRun(status, int(time.time() * 1000)))
        self.note_ended(run_id, True)

    def registrations_of(self, run_id: str) -> dict[str, VersionFacts]:
        """Return {key: what was asked} of the registrations of a run's models made through this process."""
        return dict(self._registrations.get(run_id, {}))

    def note_registration(self, queue: str, facts: VersionFacts) -> None:
        """Remember a registration for the run's summary."""
        self._registrations.setdefault(queue, {})[facts["key"]] = facts
