"""What the link knows of experiments: their names, under the ids that the user sees."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dbml_magics.core.outbox.answers import Answers, Family, Marks, Texts


@dataclass(frozen=True)
class ExperimentFacts:
    """The user's name of an experiment and its tags: what another workspace needs to have it too."""

    name: str
    tags: dict[str, str]


def _facts(value: dict[str, Any]) -> ExperimentFacts:
    return ExperimentFacts(value["name"], value["tags"])


class ExperimentNotes:
    """Experiments by the id and by the name that the user knows."""

    def __init__(self, answers: Answers) -> None:
        self._facts = Family(answers, "experiment", _facts, asdict)
        self._by_name = Texts(answers, "experiment-name")
        self._former_names = Marks(answers, "experiment-was")
        self._of_queue = Texts(answers, "experiment-of")
        self._full_names = Texts(answers, "experiment-path")
        self._active = Texts(answers, "active-experiment")

    def facts(self, visible: str) -> ExperimentFacts | None:
        """Return an experiment's name and tags, or None while they are not known."""
        return self._facts.get(visible)

    def name(self, visible: str) -> str | None:
        """Return the user's name of an experiment, or None while it is not known."""
        facts = self._facts.get(visible)
        return None if facts is None else facts.name

    def is_known(self, visible: str) -> bool:
        """Tell whether an experiment's name and tags are known."""
        return self._facts.has(visible)

    def note(self, visible: str, name: str, tags: dict[str, str]) -> None:
        """Note an experiment's name and tags."""
        self._facts.put(ExperimentFacts(name, tags), visible)

    def remember(self, visible: str, name: str, tags: dict[str, str]) -> None:
        """Note what another workspace needs to have an experiment too, and that the user calls it so."""
        self.note(visible, name, tags)
        self.note_name(name, visible)

    # --- by name

    def named(self, name: str) -> str | None:
        """Return the id of the experiment that the user calls so, or None."""
        return self._by_name.get(name)

    def note_name(self, name: str, visible: str) -> None:
        """Note which experiment the user calls so."""
        self._by_name.put(visible, name)

    def names(self) -> list[str]:
        """Return the names of all known experiments, sorted."""
        return sorted(self._by_name.below())

    def retire_name(self, visible: str, name: str) -> None:
        """Note that an experiment had a name that another one may have from now on."""
        self._former_names.add(visible, name)
        self._by_name.forget(name)

    def had_name(self, visible: str, name: str) -> bool:
        """Tell whether an experiment has been renamed from a name."""
        return self._former_names.has(visible, name)

    # --- of a queue, at a workspace, in this link

    def of_queue(self, queue: str) -> str | None:
        """Return the experiment of a run or model that another link or machine began, or None."""
        return self._of_queue.get(queue)

    def note_queue(self, queue: str, visible: str) -> None:
        """Note the experiment of a run or model that another link or machine began."""
        self._of_queue.put(visible, queue)

    def full_name(self, role: str, name: str) -> str | None:
        """Return a workspace's name of an experiment with its folder, or None until it was asked."""
        return self._full_names.get(role, name)

    def note_full_name(self, role: str, name: str, full_name: str) -> None:
        """Note a workspace's name of an experiment with its folder."""
        self._full_names.put(full_name, role, name)

    def active(self) -> str | None:
        """Return the experiment that the user set last under this link, or None."""
        return self._active.get()

    def note_active(self, visible: str) -> None:
        """Note the experiment that the user set."""
        self._active.put(visible)

    def forget_active(self) -> None:
        """Forget the experiment that the user set."""
        self._active.forget()
