"""Creations of runs and logged models whose outcome may be unknown, and runs that began without the link."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Marks, Texts


class Creations:
    """Which creations were begun at a workspace, which it refused, and where a run began."""

    def __init__(self, answers: Answers) -> None:
        self._begun = Marks(answers, "creating")
        self._refused = Texts(answers, "unmade")
        self._adopting = Marks(answers, "adopting")
        self._began_at = Texts(answers, "began")

    def begin(self, role: str, visible: str) -> None:
        """Note before it is sent that a workspace is asked to make a run or model."""
        self._begun.add(role, visible)

    def is_begun(self, role: str, visible: str) -> bool:
        """Tell whether a creation was begun whose answer was not seen."""
        return self._begun.has(role, visible)

    def settle(self, role: str, visible: str) -> None:
        """Note that a creation was answered, or never left this machine."""
        self._begun.forget(role, visible)

    # --- refused runs

    def refuse_run(self, role: str, run: str, cause: str) -> None:
        """Note that a workspace refuses to make a run."""
        self._refused.put(cause, role, run)

    def refusal_of_run(self, role: str, run: str) -> str | None:
        """Return why a workspace refuses to make a run, or None where it does not."""
        return self._refused.get(role, run)

    def settle_run(self, role: str, run: str) -> None:
        """Note that a workspace has a run: its creation is neither open nor refused any more."""
        self._begun.forget(role, run)
        self._refused.forget(role, run)

    # --- runs that began without the link

    def note_began_at(self, run: str, role: str) -> None:
        """Note that a run began at a workspace without the link."""
        self._began_at.put(role, run)

    def began_at(self, run: str) -> str | None:
        """Return the workspace where a run began without the link, or None."""
        return self._began_at.get(run)

    def begin_adoption(self, role: str, run: str) -> None:
        """Note before it is copied that a workspace is given a run which began elsewhere."""
        self._adopting.add(role, run)

    def is_adopting(self, role: str, run: str) -> bool:
        """Tell whether the copy of a run was begun and not finished."""
        return self._adopting.has(role, run)

    def end_adoption(self, role: str, run: str) -> None:
        """Note that a workspace has the whole copy of a run."""
        self._adopting.forget(role, run)
