"""README.md and the pages of docs/ say what is so: names, links, lines, settings, dependencies, places."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command
from dbml_magics.commands.parser import find_command, parse, split
from dbml_magics.core.azure.permissions import ML, NEEDS, READER, smallest_role
from tests import command_reference
from tests.arrows import MODULES, PACKAGE, ROOT
from tests.documentation import DOCS, build, fetched, main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

README = ROOT / "README.md"
PAGES = sorted(DOCS.glob("*.md"))
READ = [README, ROOT / "CHANGELOG.md", *PAGES]
ABOUT_THE_CODE = ("how-it-works.md", "glossary.md")
CONTAINED = 150
"""The most lines that the README may have: it is for somebody with a minute."""

# ---- what the pages say of the code ----


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


@pytest.mark.parametrize("page", ABOUT_THE_CODE)
def test_every_module_that_a_page_names_is_there(page: str) -> None:
    text = (DOCS / page).read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text))
    assert named, f"docs/{page} names no module"
    assert not {name for name in named if not (PACKAGE / name).exists()}


@pytest.mark.parametrize("page", ABOUT_THE_CODE)
def test_every_class_and_method_that_a_page_names_is_there(page: str) -> None:
    text = (DOCS / page).read_text()
    named = set(re.findall(r"`([A-Z][a-z]\w*(?:\.[a-z]\w*)?)`", text)) - {"MLmodel"}
    assert not named - defined()


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_every_file_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"(?<![\w/])((?:dbml_magics|tests|notebooks|docs)/[\w./-]+\.\w+)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = re.findall(r"python -m (tests[\w.]*)", page.read_text())
    missing = [name for name in modules if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]
    assert [name for name in missing if not (ROOT / name.replace(".", "/") / "__main__.py").exists()] == []


def test_the_command_reference_is_up_to_date() -> None:
    written = command_reference.PAGE.read_text(encoding="utf-8")
    assert written == command_reference.page(), "python -m tests.command_reference --write"


def test_the_command_reference_has_every_command_and_every_option() -> None:
    """What a command has and the page leaves out would be up to date, too."""
    sections = command_reference.PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert sections.pop(0).startswith("How a line is read")
    assert [section.partition("\n")[0] for section in sections] == [
        command.prog for command in (TRACK, *COMMANDS.values())
    ]
    for section, command in zip(sections, (TRACK, *COMMANDS.values()), strict=True):
        for option in command.options:
            choices = option.choices or option.metavar.split("|")
            assert f"`{option.name}" in section or option.positional
            assert [choice for choice in choices if choice not in section] == []
        assert [example for example in command.examples if example not in section] == []


# ---- links ----


def _prose(text: str) -> str:
    """Return a page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _prose(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _broken(page: Path, text: str) -> Iterator[str]:
    """Yield the links of a page that lead nowhere within the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        found = there.is_file() and ROOT in there.parents
        if not found or (anchor and anchor not in _anchors(there)):
            yield target


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_of_the_repository(page: Path) -> None:
    assert list(_broken(page, page.read_text())) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "[a](docs/install.md) [b](docs/gone.md) [c](docs/link.md#gone) [d](../elsewhere) [e](#gone)"
    assert list(_broken(README, text)) == ["docs/gone.md", "docs/link.md#gone", "../elsewhere", "#gone"]


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    others = [page for page in PAGES if page.name != "index.md"]
    assert [page.name for page in others if f"({page.name})" not in index] == []
    listed = re.findall(r"^([\w-]+)$", index.partition("```{toctree}")[2], flags=re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in others)


# ---- lines to paste ----


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def _lines() -> list[tuple[str, str]]:
    """Return the magic lines in the blocks of code, each with its page; lines with a gap (…) are left out."""
    found = []
    for page in READ:
        for block in _blocks(page.read_text()):
            for line in block.splitlines():
                magic = re.match(r"(?:\w+ = )?(%dbml|%%track)\b(.*)$", line)
                if magic and "…" not in line and not line.startswith("%dbml help"):
                    found.append((page.name, magic[1] + magic[2]))
    return found


LINES = _lines()


def _command(line: str) -> tuple[Command, list[str]]:
    magic, *words = split(line, "%dbml")
    return (TRACK, words) if magic == "%%track" else (find_command(words[0], COMMANDS), words[1:])


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page} {line}" for page, line in LINES])
def test_every_line_to_paste_is_read_by_the_grammar(page: str, line: str) -> None:
    command, words = _command(line)
    parse(command, words, dict.fromkeys(re.findall(r"\$([a-z_]+)", line), "variable"))


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_every_command_and_option_in_the_prose_is_there(page: Path) -> None:
    for line in re.findall(r"`(%dbml [a-z]+[^`]*|%%track [^`]*)`", _prose(page.read_text())):
        command = TRACK if line.startswith("%%track") else find_command(line.split()[1], COMMANDS)
        options = re.findall(r"(?<!\S)(--[a-z][\w-]*)", line)
        known = {option.name for option in command.options} | {"--help"}
        assert [option for option in options if option not in known] == [], line


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= CONTAINED
    see, check, *_ = _blocks(text)
    for command, wanted in ((see, "[demo]"), (check, "[test]")):
        assert command.startswith("python3 -m venv --without-pip .venv && "), "it makes its own environment"
        assert len(command.splitlines()) == 1
        assert wanted in command
    assert see.endswith(".venv/bin/python notebooks/run.py notebooks/quickstart.ipynb\n")
    assert check.endswith(".venv/bin/python tests/check.py\n")


def test_the_five_cells_of_the_readme_run(tmp_path: Path) -> None:
    cells = _blocks(README.read_text())[2:]
    assert len(cells) == 5
    v4: Any = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in (*cells, "%dbml undeploy wine")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBML_HOME", str(tmp_path / "home"))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        where = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    shown = ["".join(o.get("data", {}).get("text/plain", "") for o in c.outputs) for c in notebook.cells]
    assert "Linked: tracking to both" in shown[0]
    assert "Run first  FINISHED" in shown[1]
    assert "loss" in shown[1]
    assert "wine version 1 (databricks)" in shown[1]
    assert "wine" in shown[2]
    assert "http://127.0.0.1:" in shown[3]
    assert shown[4].startswith("3 predictions from wine")


# ---- tables ----


def test_the_settings_are_those_that_the_package_reads() -> None:
    read = {name for path in MODULES for name in re.findall(r"\bDBML_[A-Z_]+\b", path.read_text())}
    read |= {
        f"DBML_{role}_{kind}" for role in ("DATABRICKS", "AZUREML") for kind in ("TOKEN", "USERNAME", "FILES")
    }
    told = set(re.findall(r"`(DBML_[A-Z_]+)`", (DOCS / "settings.md").read_text()))
    assert told == read


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    told = re.sub(r"[^\w.+-]", " ", (DOCS / "dependencies.md").read_text()).split()
    names = {canonicalize_name(word.strip(".")) for word in told}
    for lines in (project["dependencies"], *extras.values()):
        for requirement in map(Requirement, lines):
            name = canonicalize_name(requirement.name)
            stubs = name.startswith("types-") or name.endswith("-stubs")
            assert name in names or name in ("dbml-magics", "pytest-xdist") or stubs, f"{name}: no reason"
    assert [extra for extra in extras if f"`[{extra}]`" not in (DOCS / "dependencies.md").read_text()] == []


def _rows(page: Path, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first column has a heading, by that column."""
    after = page.read_text().split(f"\n| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in after]
    return {first: rest for first, *rest in cells}


def test_each_place_is_tried_by_a_test_or_said_to_be_assumed() -> None:
    places = _rows(DOCS / "compatibility.md", "where")
    for place, (_, state) in places.items():
        tests = re.findall(r"`(tests/[\w/]+\.py)`", state)
        assert state.startswith(("tried: ", "assumed")), place
        assert tests or not state.startswith("tried"), f"{place}: tried by which test?"
        assert [name for name in tests if not (ROOT / name).exists()] == []
    short = {place: state.split(":")[0].split(";")[0] for place, (_, state) in places.items()}
    assert {place: state for place, (_, state) in _rows(README, "where").items()} == short


def _azure_actions(written: str) -> Iterator[str]:
    """Yield the Azure actions of a cell in full: ``…/models/{read,write}`` are two of them."""
    for pattern in re.findall(r"`([^`]+)`", written):
        head, brace, rest = pattern.partition("{")
        middle, _, tail = rest.partition("}")
        for name in middle.split(",") if brace else [""]:
            more = (
                [f"{head}{name}{tail}"] if "{" not in tail else list(_azure_actions(f"`{head}{name}{tail}`"))
            )
            for action in more:
                if action.startswith("Microsoft."):
                    yield action.replace("…", "storageAccounts/blobServices/containers")
                elif action.startswith("resourceGroups/"):
                    yield f"Microsoft.Resources/subscriptions/{action}"
                elif action.startswith("…/locations/"):
                    yield action.replace("…", ML)
                else:
                    yield action.replace("…", f"{ML}/workspaces") if "…" in action else f"{ML}/{action}"


def test_the_roles_of_azure_are_those_that_a_refusal_names() -> None:
    told: set[str] = set()
    for what, (actions, written) in list(_rows(DOCS / "permissions.md", "what").items())[1:]:
        named = list(_azure_actions(actions))
        needed = {smallest_role(action) for action in named}
        highest = {(role, where) for role, where in needed if role != READER} or needed
        assert {role for role, _ in highest} == {written.partition(", on the ")[0]}, what
        assert [where for _, where in highest if where not in written] == [], what
        told |= {action.casefold() for action in named}
    for need in NEEDS:
        action = need.action.replace("/experiments/write", "/experiments/runs/write")
        assert action.casefold() in told, need


# ---- the built pages ----


def test_the_build_refuses_what_is_fetched_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<link rel="stylesheet" href="https://a.example/x.css"><a href="https://fine.example/">read</a>'
        '<script src="//b.example/x.js"></script><script>fetch("https://c.example/x")</script>'
        '<p style="background: url(https://d.example/x.png)"><img src="x.png"></p>'
    )
    (tmp_path / "style.css").write_text("@import 'https://e.example/x.css'; a { b: url(data:x) }")
    (tmp_path / "script.js").write_text(
        '// see https://fine.example\nconst a = new Worker("https://f.example")'
    )
    found = {re.split(r"//", line)[1][0] for line in fetched(tmp_path)}
    assert found == set("abcdef")


@pytest.mark.full
def test_the_build_fails_on_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text(
        'extensions = ["myst_parser"]\nnitpicky = True\nmyst_heading_anchors = 3\n'
    )
    (source / "index.md").write_text("# Here\n\n[here](#here)\n")
    assert build(tmp_path / "built", source) == ""
    (source / "index.md").write_text("# Here\n\n[gone](gone.md)\n\n[gone](#gone)\n\n![gone](gone.png)\n")
    assert build(tmp_path / "built", source).count("WARNING") == 3


@pytest.mark.full
def test_the_pages_are_built_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check builds them beside the tests; this is for who runs the tests alone."""
    assert main([str(tmp_path)]) == 0, capsys.readouterr().out
