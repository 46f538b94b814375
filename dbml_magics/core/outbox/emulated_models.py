"""Logged models that the link keeps in the place of a service that has none."""

from __future__ import annotations

from typing import Any, TypedDict

from dbml_magics.core.model.facts import ModelFacts
from dbml_magics.core.outbox.answers import Answers, Family, Texts


class ModelPoint(TypedDict):
    """The newest point of a logged model's metric, of one dataset."""

    key: str
    value: float
    time: int
    step: int
    dataset: str | None
    digest: str | None


class EmulatedFacts(ModelFacts, total=False):
    """All that is kept of a logged model: what it was created with, and what changed since."""

    run_at: str
    path: str
    number: int
    status: str
    metrics: list[ModelPoint]
    deleted: bool


def facts_of(value: Any) -> EmulatedFacts:
    """Return the facts that a JSON object holds."""
    facts: EmulatedFacts = value
    return facts


class EmulatedModels:
    """The facts of each kept model at a workspace, its folder in its run, and models that a run output."""

    def __init__(self, answers: Answers) -> None:
        self._facts = Family(answers, "kept", facts_of)
        self._paths = Texts(answers, "kept-path")
        self._outputs = Family(answers, "kept-output", int)

    def facts(self, role: str, model: str) -> EmulatedFacts | None:
        """Return what is kept of a model, or None where the workspace's files have to be read."""
        return self._facts.get(role, model)

    def note(self, role: str, model: str, facts: EmulatedFacts) -> None:
        """Note what is kept of a model."""
        self._facts.put(facts, role, model)

    def has(self, role: str, model: str) -> bool:
        """Tell whether a model is known to be kept."""
        return self._facts.has(role, model)

    def has_any(self, role: str) -> bool:
        """Tell whether any model is known to be kept for a workspace."""
        return bool(self._facts.below(role))

    def take_path(self, role: str, run: str, path: str, model: str) -> None:
        """Note the folder of a run that holds a kept model's files."""
        self._paths.put(model, role, run, path)

    def paths(self, role: str, run: str) -> dict[str, str]:
        """Return {folder: kept model} of a run."""
        return self._paths.below(role, run)

    def note_output(self, role: str, run: str, model: str, step: int) -> None:
        """Note a model of the service's own that a run output."""
        self._outputs.put(step, role, run, model)

    def outputs(self, role: str, run: str) -> list[str]:
        """Return the models of the service's own that a run output."""
        return [*self._outputs.below(role, run)]
