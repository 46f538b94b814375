"""A notebook's variables."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["variables"]

_SHELL = frozenset({"exit", "quit", "get_ipython", "open"})


def variables(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names of the notebook's values: no modules, functions, classes or IPython's own."""
    tools = (ModuleType, FunctionType, type)
    return sorted(
        name
        for name, value in list(namespace.items())
        if not name.startswith("_")
        and name not in ("In", "Out")
        and not isinstance(value, tools)
        and name not in _SHELL
    )
