"""Who imports whom in the package: every arrow, the lazy ones and those for annotations too.

python -m tests.arrows            prints the layers, what leads from each to which, and the circles
python -m tests.arrows --write    writes that to docs/arrows.md
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dbml_magics"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGE = ROOT / "docs" / "arrows.md"
_INTRODUCTION = """\
# Which part imports which

Each layer imports of itself and of the layers above it here. `python -m tests.arrows --write` draws this page
from every import, the lazy ones and those for annotations too; a test fails where it is not up to date.
"""

LAYERS = {
    "common": "_version common errors",
    "results": "results",
    "core": "core",
    "commands and forms": "api commands forms",
    "front ends": "__init__ __main__ notebook",
}
"""Each layer imports of itself and of those above it in this list; its modules, as the package names them."""


def named(path: Path) -> str:
    """Return a module's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Yield the name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            within = {f"{node.module}.{alias.name}" for alias in node.names} & _names().keys()
            yield from within
            if len(within) < len(node.names):
                yield node.module


@cache
def _names() -> Mapping[str, Path]:
    return {named(path): path for path in MODULES}


@cache
def arrows() -> Mapping[str, frozenset[str]]:
    """Return which modules of the package each of them imports."""
    return {name: frozenset(imported(path)) & _names().keys() - {name} for name, path in _names().items()}


def layer_of(module: str) -> int:
    """Return the layer of one of the package's modules, the lowest being 0."""
    _, _, within = module.partition(".")
    top = within.partition(".")[0] or "__init__"
    found = [number for number, names in enumerate(LAYERS.values()) if top in names.split()]
    assert len(found) == 1, f"{module} belongs in one layer of tests/arrows.py, and is in {len(found)}"
    return found[0]


def circles() -> list[set[str]]:
    """Return the groups of modules that reach each other, the largest first."""
    reached = {name: reached_from(name) for name in arrows()}
    found: list[set[str]] = []
    for name, there in reached.items():
        group = {other for other in there if name in reached[other]}
        if len(group) > 1 and group not in found:
            found.append(group)
    return sorted(found, key=len, reverse=True)


def reached_from(name: str) -> set[str]:
    """Return the modules that one imports, and those that they import."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        for other in arrows()[ahead.pop()] - found:
            found.add(other)
            ahead.append(other)
    return found


def drawn() -> str:
    """Return the layers with their parts, and the parts that each of these imports."""
    lines = []
    for number, layer in enumerate(LAYERS):
        lines.append(layer)
        parts: dict[str, set[str]] = {}
        for name, others in arrows().items():
            if layer_of(name) == number:
                parts.setdefault(_part(name), set()).update(map(_part, others))
        lines += [
            f"  {part:<20} → {', '.join(sorted(to - {part}))}".rstrip(" →")
            for part, to in sorted(parts.items())
        ]
    lines += [f"circle of {len(group)}: {', '.join(sorted(group))}" for group in circles()]
    return "\n".join(lines)


def _part(module: str) -> str:
    """Return a module's package below the layers: ``core/runtime``, or the module itself."""
    words = module.split(".")[1:] or ["__init__"]
    return "/".join(words[:2] if words[0] in ("core", "common", "notebook") else words[:1])


def page() -> str:
    """Return the page of the documentation that shows the arrows."""
    return f"{_INTRODUCTION}\n```\n{drawn()}\n```\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        print(drawn())
