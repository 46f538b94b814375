"""What is recorded or assumed of the services, with its source: the one table that the probes compare with.

The table is ``facts.json`` beside this module; docs/assumptions.md is written from it (``python -m
tests.assumptions --write``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

__all__ = ["FACTS", "Expected", "Fact", "Found", "fact", "facts"]

Found: TypeAlias = "str | int | float"
Expected: TypeAlias = "str | int | list[str] | Mapping[str, int] | None"

FACTS = Path(__file__).with_name("facts.json")


@dataclass(frozen=True)
class Fact:
    """One statement about one service."""

    service: str  # azureml, databricks, or mlflow: any MLflow server
    id: str  # the name of its probe too
    says: str
    expected: Expected  # one value, any of several, or a bound; None where no probe can tell
    source: str
    date: str  # on which the source was read
    limit: str = ""  # the field of ``Limits`` that reckons with it
    option: str = ""  # of ``doctor --probe``: the probe runs with it alone
    by_hand: str = ""  # how to find out where no probe can

    @property
    def bound(self) -> int | None:
        """Return the figure that is expected, or its bound."""
        if isinstance(self.expected, Mapping):
            return next(iter(self.expected.values()))
        return self.expected if isinstance(self.expected, int) else None

    @property
    def is_least(self) -> bool:
        """Tell whether more than the expected figure confirms it too."""
        return isinstance(self.expected, Mapping) and "at least" in self.expected

    @property
    def expects(self) -> str:
        """Return what is expected, in words."""
        if isinstance(self.expected, Mapping):
            return ", ".join(f"{how} {number:,}" for how, number in self.expected.items())
        if isinstance(self.expected, list):
            return " or ".join(self.expected)
        return f"{self.expected:,}" if isinstance(self.expected, int) else str(self.expected or "")

    def confirmed_by(self, found: Found) -> bool:
        """Tell whether what was found is what is expected."""
        if isinstance(self.expected, Mapping):
            (how, number), *_ = self.expected.items()
            return not isinstance(found, str) and (found >= number if how == "at least" else found <= number)
        return found in self.expected if isinstance(self.expected, list) else found == self.expected


@cache
def _table() -> tuple[Fact, ...]:
    return tuple(Fact(**each) for each in json.loads(FACTS.read_text(encoding="utf-8")))


def facts(service: str) -> tuple[Fact, ...]:
    """Return all facts about a service, in the order of the table."""
    return tuple(each for each in _table() if each.service == service)


def fact(service: str, name: str) -> Fact:
    """Return one of them."""
    return next(each for each in facts(service) if each.id == name)
