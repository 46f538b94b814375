"""Which processes have a run: the one that logs to it keeps its file of the journal open, and locked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbml_magics.core.model.facts import RunFacts
    from dbml_magics.core.outbox.journal import Journal

__all__ = ["is_anothers", "is_held"]


def is_held(journal: Journal, run_id: str) -> bool:
    """Tell whether a living process logs to a run: this one, or another one of this machine."""
    return any(journal.is_own(file) or not journal.is_left(run_id, file) for file in journal.files(run_id))


def is_anothers(journal: Journal, run_id: str, known: RunFacts | None) -> bool:
    """Tell whether a run that this process is to join is another's to end: a job's, or a living process's.

    ``known`` is what the link knows of it. Who resumes one whose process is gone ends it.
    """
    if known is None or known.get("others"):
        return True
    return any(
        not journal.is_own(file) and not journal.is_left(run_id, file) for file in journal.files(run_id)
    )
