"""About the code itself: exports, who leans on whom, what an import costs, which errors are tested."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dbml_magics import errors
from tests.arrows import MODULES, PACKAGE, ROOT, imported, layer_of, named

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CORE = [path for path in MODULES if "core" in path.relative_to(PACKAGE).parts]
ERRORS = [
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.DbmlError) and value is not errors.DbmlError
]

# What is private of a library (all of azureml-mlflow is) is touched by these modules, and a test of each says
# what is relied on; MLflow's is tests/core/test_mlflow_private.py.
PRIVATE_PARTS = {
    "azureml": ("core.azure.azureml_mlflow_private", "core.azure.core_auth"),
    "databricks": ("core.destinations.databricks_private",),
}
OWNERS = {"core.mlflow_private", *(module for modules in PRIVATE_PARTS.values() for module in modules)}
# What modules touch that another one, or another library, keeps private. It only shrinks.
PRIVATE_ELSEWHERE = {
    "core.destinations.aliases": "_add_alias _aliases _tags",
    "core.destinations.imports": "_create_import_hook_from_string",
    "core.destinations.rest": "_content",
    "core.endpoints.webservice_child": "_exit",
    "core.endpoints.worker": "_exit",
    "core.interrupts": "_getframe",
    "core.scoring.outputs": "_jsc _jvm",
    "core.scoring.spark": "_jsc",
    "core.plugin.artifacts": "_path",
    "notebook.callers": "_getframe",
    "notebook.cells": "_getframe",
    "notebook.live": "_current_frames _reply_subshell_id",
}

# Our own, and what is used only where the user has it: a Databricks cluster's, its client for Spark, TOML's
# reader before the standard library had one.
OTHERS = ("dbml_magics", "dbruntime", "databricks.connect", "tomli")
HEAVY = ("mlflow", "azureml", "databricks", "pyspark", "pandas", "numpy", "sklearn", "azure")


def in_fresh_process(code: str) -> str:
    """Run code in a fresh interpreter; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_all_is_sorted_and_complete(path: Path) -> None:
    tree = ast.parse(path.read_text())
    exported = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ),
        None,
    )
    if exported is None:
        return
    assert len(exported) == len(set(exported))
    assert exported in (sorted(exported), ruff_sorted(exported))
    module = importlib.import_module(named(path))
    assert [name for name in exported if not hasattr(module, name)] == []
    public = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    assert public <= set(exported), f"not in __all__: {sorted(public - set(exported))}"


def ruff_sorted(names: list[str]) -> list[str]:
    """Sort as ruff's RUF022 does: constants, then classes, then the rest."""

    def group(name: str) -> int:
        bare = name.lstrip("_")
        return 0 if bare.isupper() else 1 if bare[:1].isupper() else 2

    return sorted(
        names,
        key=lambda name: (group(name), name),
    )


def test_every_error_is_exported_by_the_package() -> None:
    package = importlib.import_module("dbml_magics")
    assert set(ERRORS) <= set(package.__all__)
    assert set(ERRORS) | {"DbmlError"} == set(errors.__all__)


@pytest.mark.parametrize("path", CORE, ids=named)
def test_the_core_knows_no_notebook_and_prints_nothing(path: Path) -> None:
    found = [m for m in imported(path) if m.split(".")[0] in ("IPython", "ipywidgets", "traitlets")]
    assert found == []
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "display", "input", "sys.stdout.write")
    ]
    assert calls == []


def test_results_and_errors_lean_on_nothing_heavy() -> None:
    for path in MODULES:
        if layer_of(named(path)) == 0:
            heavy = {m for m in imported(path) if m.split(".")[0] in HEAVY}
            assert heavy <= {"pandas", "numpy"}, "at the first use of a value as theirs, and nothing else"


def test_every_library_that_is_imported_is_declared() -> None:
    """What comes with another library goes with it one day."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["spark"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    missing: dict[str, set[str]] = {}
    for path in MODULES:
        for module in set(imported(path)):
            known = {module, module.partition(".")[0]} & {*OTHERS, *sys.stdlib_module_names}
            if not known and not declared & providers(module):
                missing.setdefault(module, set()).add(named(path))
    assert not missing


def for_annotations(path: Path) -> Iterator[str]:
    """Yield the names, with their modules, that a module imports of other libraries for annotations alone."""
    for block in ast.parse(path.read_text()).body:
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING"):
            for node in block.body:
                if isinstance(node, ast.ImportFrom):
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)
                elif isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)


FOR_ANNOTATIONS = sorted({name for path in MODULES for name in for_annotations(path)})


@pytest.mark.parametrize("name", [name for name in FOR_ANNOTATIONS if not name.startswith("dbml_magics.")])
def test_what_is_imported_for_annotations_alone_exists(name: str) -> None:
    """mypy does not follow libraries without annotations, so it misses a name that one of them dropped."""
    pytest.importorskip(name.partition(".")[0])
    assert pkgutil.resolve_name(name)


_distributions = cache(metadata.packages_distributions)


@cache
def providers(module: str) -> set[str]:
    """Return the installed distributions that have a module."""
    top = module.partition(".")[0]
    names: set[str] = {canonicalize_name(name) for name in _distributions().get(top, ())}
    if len(names) < 2:
        return names
    place = module.replace(".", "/")
    return {
        name for name in names if any(file.startswith((f"{place}/", f"{place}.")) for file in files_of(name))
    }


@cache
def files_of(distribution: str) -> list[str]:
    """Return the paths of what an installed distribution has."""
    return [str(file) for file in metadata.files(distribution) or ()]


def tracked_files() -> list[Path]:
    """Return the repository's text files."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("no git repository")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_tracked_file_names_a_machine() -> None:
    host = re.compile(
        r"(?<![\w/])/(?:root|work|home/\w+)/[\w.]+|pypi\.org/simple|(?:index|find-links)-url[ =]+\S*//|"
        r"files\.p[y]thonhosted|\bartifactory\b|\bproxy\.golang\b|\bnexus\."
    )
    found = []
    for path in tracked_files():
        if path == Path(__file__).resolve():
            continue
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.name}:{n}: {line[:100]}" for n, line in enumerate(lines, 1) if host.search(line)]
    assert found == []


@pytest.mark.parametrize(
    "what",
    [
        "import dbml_magics",
        "import dbml_magics.core.session",
        "import dbml_magics.core.link",
        "import dbml_magics.core.plugin.entry",
        "import dbml_magics.notebook.magics",
        "import dbml_magics as dbml; dbml.link; dbml.TrackSummary if False else None",
        "from IPython.core.interactiveshell import InteractiveShell; "
        "InteractiveShell.instance().run_line_magic('load_ext', 'dbml_magics')",
    ],
)
def test_imports_nothing_heavy(what: str) -> None:
    code = f"import sys; {what}; print([m for m in {HEAVY} if m in sys.modules])"
    assert in_fresh_process(code).splitlines()[-1] == "[]"


def test_mlflow_finds_the_plugin_and_imports_no_more_of_it() -> None:
    code = (
        "import sys, mlflow; "
        "print(sorted(m for m in sys.modules if m.startswith('dbml_magics.core.') and m.count('.') > 2))"
    )
    entry = ["dbml_magics.core.plugin.entry", "dbml_magics.core.plugin.job_run"]
    assert in_fresh_process(code).splitlines()[-1] == str(entry)


def remedies_of(path: Path) -> Iterator[ast.expr]:
    """Yield what a module gives errors as remedies."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    given = [each.value for call in calls for each in call.keywords if each.arg == "remedies"]
    for part in (inner for each in given for inner in ast.walk(each)):
        if isinstance(part, (ast.List, ast.Tuple)):
            yield from part.elts


def test_no_remedy_is_an_option_without_its_line() -> None:
    bare = [
        f"{short(path)}:{part.lineno}"
        for path in MODULES
        for part in remedies_of(path)
        if isinstance(part, (ast.Constant, ast.JoinedStr)) and re.match(r"""f?["']--""", ast.unparse(part))
    ]
    assert not bare, "hints.amended() puts an option into the line that was typed"


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_raised_by_the_package_and_by_a_test(name: str) -> None:
    subclasses = [n for n in ERRORS if n != name and issubclass(getattr(errors, n), getattr(errors, name))]
    word = re.compile(rf"\b(?:{'|'.join([name, *subclasses])})\(")
    raised = [p.name for p in MODULES if p.name != "errors.py" and word.search(p.read_text())]
    assert raised, f"nothing raises {name}"
    tests = [p for p in (ROOT / "tests").rglob("test_*.py") if p != Path(__file__).resolve()]
    expects = re.compile(rf"\b(?:raises|refused)\([^)\n]*\b{name}\b|\berrors\.{name}\b|, {name}\b")
    assert any(expects.search(p.read_text()) for p in tests), f"no test expects {name}"


@pytest.mark.parametrize("name", [*ERRORS, "DbmlError"])
def test_the_drawing_of_the_errors_is_complete(name: str) -> None:
    assert re.search(rf"[─ ]{name}\b", errors.__doc__ or ""), f"{name} is missing in the drawing in errors.py"
    assert getattr(errors, name).__doc__


def test_everything_public_has_a_docstring() -> None:
    """A class that implements a protocol takes the docstrings of its methods from there."""
    missing = []
    documented = protocol_methods()
    for path in MODULES:
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree) and tree.body:
            missing.append(named(path))
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) and node is not tree:
                continue
            owner = "" if node is tree else f"{node.name}."  # type: ignore[attr-defined]
            if owner.startswith("_"):
                continue
            bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
            inherited = set().union(*(documented.get(base, ()) for base in bases))
            for child in node.body:  # type: ignore[attr-defined]
                if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    continue
                overload = any(
                    "property" in ast.unparse(d) or "overload" in ast.unparse(d) for d in child.decorator_list
                )
                if not child.name.startswith("_") and not ast.get_docstring(child) and not overload:
                    if child.name in inherited:
                        continue
                    missing.append(f"{named(path)}.{owner}{child.name}")
    assert missing == []


def protocol_methods() -> dict[str, set[str]]:
    """Return the documented methods of each protocol of the package, those of the protocols below it too."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef):
                continue
            bases = [ast.unparse(base) for base in node.bases]
            if "Protocol" in bases:
                own = {m.name for m in node.body if isinstance(m, ast.FunctionDef) and ast.get_docstring(m)}
                found[node.name] = own.union(*(found.get(base, ()) for base in bases))
    return found


def private(name: str) -> bool:
    """Tell whether a name is private; IPython's ``_repr_html_`` and the like are protocols."""
    return name.startswith("_") and not name.endswith("_")


def short(path: Path) -> str:
    """Return a module's name within the package."""
    return named(path).removeprefix("dbml_magics.")


def touched(path: Path) -> set[str]:
    """Return the private attributes that a module uses and that it does not have itself."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and private(node.attr)]
    of_self = [node for node in attributes if ast.unparse(node.value) in ("self", "cls", "super()")]
    own |= {node.attr for node in of_self if isinstance(node.ctx, ast.Store)}
    return {node.attr for node in attributes if node not in of_self and node.attr not in own}


def test_no_module_touches_what_another_one_keeps_private() -> None:
    found = {short(path): " ".join(sorted(touched(path))) for path in MODULES if short(path) not in OWNERS}
    found = {module: names for module, names in found.items() if names}
    assert found == PRIVATE_ELSEWHERE, "give it a public name, or move what needs it to its owner"


# azureml-core's looks its cloud up in a list that was read when it was imported; what it sets has a test in
# tests/core/test_azureml_private.py.
SKIPPED_CONSTRUCTORS = {"core.azure.core_auth.Authentication"}


def test_no_class_skips_the_constructor_that_it_inherits_of_another_library() -> None:
    """A later release of MLflow sets a field there which its other methods read."""
    skipped = set()
    for path in MODULES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        foreign = {
            alias.asname or alias.name
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in HEAVY
            for alias in node.names
        }
        for node in nodes:
            if not isinstance(node, ast.ClassDef) or not foreign & {ast.unparse(b) for b in node.bases}:
                continue
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    calls = {ast.unparse(c.func) for c in ast.walk(method) if isinstance(c, ast.Call)}
                    if "super().__init__" not in calls:
                        skipped.add(f"{short(path)}.{node.name}")
    assert skipped == SKIPPED_CONSTRUCTORS


@pytest.mark.parametrize("library", PRIVATE_PARTS)
def test_what_is_private_of_a_library_is_imported_in_one_place(library: str) -> None:
    owners = PRIVATE_PARTS[library]
    for path in MODULES:
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = [*imported(path), *(f"{node.module}.{alias.name}" for node in nodes for alias in node.names)]
        of_it = [name for name in names if name.split(".")[0] == library]
        if short(path) not in owners:
            assert [name for name in of_it if any(map(private, name.split(".")))] == []


@pytest.mark.parametrize("library", PRIVATE_PARTS)
def test_every_use_of_what_is_private_of_a_library_has_a_contract_test(library: str) -> None:
    test = (ROOT / "tests" / "core" / f"test_{library}_private.py").read_text()
    for owner in PRIVATE_PARTS[library]:
        module = importlib.import_module(f"dbml_magics.{owner}")
        public = [name for name in vars(module).get("__all__", ()) if name not in test]
        assert public == [], f"tests/core/test_{library}_private.py says nothing of them"
