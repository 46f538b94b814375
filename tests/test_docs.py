"""The pages of docs/ name modules, classes and functions that are there."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.arrows import MODULES, PACKAGE, ROOT

PAGES = ("how-it-works.md", "glossary.md")


@cache
def defined() -> set[str]:
    """Return the names of the package's classes and functions, and of methods as ``Class.method``."""
    found: set[str] = set()
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
                found |= {f"{node.name}.{name}" for name in methods}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text))
    assert named, f"docs/{page} names no module"
    assert not {name for name in named if not (PACKAGE / name).exists()}


@pytest.mark.parametrize("page", PAGES)
def test_every_class_and_method_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = set(re.findall(r"`([A-Z][a-z]\w*(?:\.[a-z]\w*)?)`", text)) - {"MLmodel"}
    assert not named - defined()
