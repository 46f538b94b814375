"""What the link knows of itself on this machine."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Family, Texts


class LinkNotes:
    """When the link began, what of its files was repaired, and where each workspace was delivered to from."""

    def __init__(self, answers: Answers) -> None:
        self._began = Family(answers, "link-began", float)
        self._repaired = Texts(answers, "mended")
        self._places = Texts(answers, "place")

    def began(self) -> float | None:
        """Return when the link was made on this machine, in seconds since the epoch, or None."""
        return self._began.get()

    def note_began(self, at: float) -> None:
        """Note when the link was made on this machine."""
        self._began.put(at)

    def repaired(self) -> str | None:
        """Return what of the link's files was lost or replaced, in words, or None."""
        return self._repaired.get()

    def note_repaired(self, words: str) -> None:
        """Note what of the link's files was lost or replaced."""
        self._repaired.put(words)

    def place(self, role: str) -> str | None:
        """Return the digest of the machine and folder that delivered to a workspace last, or None."""
        return self._places.get(role)

    def note_place(self, role: str, place: str) -> None:
        """Note the digest of the machine and folder that delivers to a workspace."""
        self._places.put(place, role)
