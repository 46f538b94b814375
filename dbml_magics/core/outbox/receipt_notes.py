"""What a run's receipt tells beside the counts of what arrived."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Texts


class ReceiptNotes:
    """What was acknowledged of a run, found missing at its end, and sent again."""

    def __init__(self, answers: Answers) -> None:
        self._resent = Texts(answers, "resent")

    def note_resent(self, role: str, run: str, words: str) -> None:
        """Note what was sent again at the end of a run."""
        self._resent.put(words, role, run)

    def resent(self, role: str, run: str) -> str | None:
        """Return what was sent again at the end of a run, or None."""
        return self._resent.get(role, run)
