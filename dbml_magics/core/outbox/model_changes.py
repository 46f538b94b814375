"""Which writes to a logged model are on their way, and in which queues."""

from __future__ import annotations

from dbml_magics.core.outbox.answers import Answers, Marks


class ModelChanges:
    """The queues that name a logged model, and models of which the primary has not answered a change."""

    def __init__(self, answers: Answers) -> None:
        self._named = Marks(answers, "names")
        self._unanswered = Marks(answers, "unanswered")

    def note_named(self, model: str, queue: str) -> None:
        """Note that another run's writes name a logged model."""
        self._named.add(model, queue)

    def queues_naming(self, model: str) -> list[str]:
        """Return the queues of other runs whose writes name a logged model."""
        return self._named.listed(model)

    def note_unanswered(self, model: str) -> None:
        """Note that a change of a logged model was journaled without the primary's answer."""
        self._unanswered.add(model)

    def is_unanswered(self, model: str) -> bool:
        """Tell whether the last change of a logged model was journaled without the primary's answer."""
        return self._unanswered.has(model)

    def settle(self, model: str) -> None:
        """Note that the primary answered the last change of a logged model."""
        self._unanswered.forget(model)
