"""Which names a cell's own code gives a value, read from its text before it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

__all__ = ["assigned_names"]

_UNKNOWABLE = frozenset({"exec", "eval", "get_ipython", "globals", "setattr", "vars", "locals"})
"""What may give names a value that the text does not show; magics and %run call ``get_ipython``."""


def assigned_names(code: str) -> set[str] | None:
    """Return the names that Python code may give a value; None where its text does not tell them all."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return None  # IPython will say so
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _UNKNOWABLE:
            return None
        if isinstance(node, (ast.Import, ast.ImportFrom)) and any(each.name == "*" for each in node.names):
            return None
        found.update(_names(node))
    return found


def _names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (each.asname or each.name.partition(".")[0] for each in names)
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
