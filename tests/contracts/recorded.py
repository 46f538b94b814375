"""What others recorded of the two services (``recorded.json``), as tests replay it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["FACTS", "Fact", "filled", "named_in", "replayed", "replays"]

T = TypeVar("T", bound=Callable[..., None])

RECORDED = Path(__file__).with_name("recorded.json")
# The parts of a signed address, in their lengths (lro-signed); c is a certificate.
_SIGNATURE = f"t={'6' * 18}&c=MIIH{'x' * 2571}&s={'y' * 342}&h={'z' * 43}"


@dataclass(frozen=True)
class Fact:
    """One answer of a service, its words, or its figures, and where they were recorded."""

    id: str
    sources: list[str]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    """Headers that the recorded answer does not have."""
    body: Any = ""
    says: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def text(self, names: Mapping[str, str], part: Any = None) -> str:
        """Return the body, or a part of the fact, with the names of a replay."""
        return filled(self.body if part is None else part, names)

    def sent(self, names: Mapping[str, str]) -> dict[str, str]:
        """Return the headers with the names of a replay."""
        return {key: filled(value, names) for key, value in self.headers.items()}


def filled(part: Any, names: Mapping[str, str]) -> str:
    """Return a part of a fact as text, with the names of a replay in place of ``{…}``."""
    text = part if isinstance(part, str) else json.dumps(part)
    for name, value in {**names, "signature": _SIGNATURE}.items():
        text = text.replace(f"{{{name}}}", value)
    return text


FACTS = {each["id"]: Fact(**each) for each in json.loads(RECORDED.read_text(encoding="utf-8"))["facts"]}


def replays(*ids: str) -> Callable[[T], T]:
    """Mark a test as the replay of these facts."""

    def mark(test: T) -> T:
        vars(test)["replays"] = ids
        return test

    return mark


def replayed(*modules: ModuleType) -> dict[str, set[str]]:
    """Return the facts that each marked test of these modules replays, by its name."""
    tests = {name: test for each in modules for name, test in vars(each).items()}
    return {name: {*vars(test)["replays"]} for name, test in tests.items() if "replays" in _vars(test)}


def named_in(test: Callable[..., None]) -> set[str]:
    """Return the facts that a test's own text names beside its mark."""
    text = inspect.getsource(test)
    return {each for each in FACTS if text.count(f'"{each}"') > 1}


def _vars(found: object) -> dict[str, Any]:
    return vars(found) if inspect.isfunction(found) else {}
