"""What a repair made or restored at a workspace, for the next one where it is cut short."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Marks, Texts

_EXPERIMENT = "experiment"


class Repairs:
    """Experiments made for a copy, and deleted runs and experiments that are active only meanwhile."""

    def __init__(self, answers: Answers) -> None:
        self._made = Texts(answers, "made")
        self._awake = Marks(answers, "awake")
        self._copying = Marks(answers, "copying")

    def note_made(self, role: str, other: str, created: int | None, own: str) -> None:
        """Note the experiment that was made for one of the other workspace's."""
        self._made.put(own, role, _origin(other, created))

    def made_for(self, role: str, other: str, created: int | None) -> str | None:
        """Return the experiment that was made for one of the other workspace's, or None."""
        return self._made.get(role, _origin(other, created))

    def begin_copy(self, role: str, run: str) -> None:
        """Note that a run is about to be made for a copy."""
        self._copying.add(role, run)

    def is_begun(self, role: str, run: str) -> bool:
        """Tell whether a copy of a run was begun and is not known to have ended."""
        return self._copying.has(role, run)

    def end_copy(self, role: str, run: str) -> None:
        """Note that the copy of a run has ended."""
        self._copying.forget(role, run)

    def note_restored_run(self, role: str, run: str) -> None:
        """Note that a deleted run is active while it is written to."""
        self._awake.add(role, run)

    def is_restored_run(self, role: str, run: str) -> bool:
        """Tell whether a deleted run is active only because a repair was cut short."""
        return self._awake.has(role, run)

    def forget_restored_run(self, role: str, run: str) -> None:
        """Note that a run was deleted again."""
        self._awake.forget(role, run)

    def note_restored_experiment(self, role: str, own: str) -> None:
        """Note that a deleted experiment is active while runs are copied into it."""
        self._awake.add(role, _EXPERIMENT, own)

    def restored_experiments(self, role: str) -> list[str]:
        """Return the deleted experiments that are active only for a copy."""
        return self._awake.listed(role, _EXPERIMENT)

    def forget_restored_experiment(self, role: str, own: str) -> None:
        """Note that an experiment was deleted again."""
        self._awake.forget(role, _EXPERIMENT, own)


def _origin(experiment_id: str, created: int | None) -> str:
    """Return an experiment's id with its creation time: a server restored from a backup gives an id again."""
    return f"{experiment_id}@{created}"
