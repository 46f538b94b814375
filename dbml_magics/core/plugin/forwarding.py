"""Forwarders for whatever MLflow's base class of a store has and the link's own class does not define."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

Forwarder = Callable[[str, Any], Any]
"""Makes the forwarder of a method or property, from its name and the base class's own."""


def forward_the_rest(cls: type, base: type, forwarder: Forwarder, but: Callable[[str], bool]) -> None:
    """Give a store's class a forwarder for each method of its base, except its own and what ``but`` names.

    The forwarders follow from ``dir(base)``, so a method that a release of MLflow adds has one too.
    """
    for name in dir(base):
        if but(name) or is_own(cls, base, name):
            continue
        like = inspect.getattr_static(base, name)
        if isinstance(like, staticmethod) or not (callable(like) or isinstance(like, property)):
            continue
        setattr(cls, name, forwarder(name, like))


def is_own(cls: type, base: type, name: str) -> bool:
    """Tell whether a store's class, or a family of its methods, has something of a name itself."""
    return any(name in vars(each) for each in cls.__mro__ if each not in base.__mro__)
