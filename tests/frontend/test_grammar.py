"""The grammar itself: whole, helpful, and speaking of nothing that does not exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

import dbml_magics
from dbml_magics import errors
from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command, command_help, option_help
from dbml_magics.commands.help import overview_text
from dbml_magics.commands.parser import parse
from tests.arrows import imported

PACKAGE = Path(dbml_magics.__file__).parent
ROOMS = ("", "commands", "common", "notebook", "results")
MINE = sorted(path for room in ROOMS for path in (PACKAGE / room).glob("*.py"))
ALL = [*COMMANDS.values(), TRACK]
NAMES = {"rows": [[1.0]], "frame": 1}


@pytest.mark.parametrize("module", [dbml_magics, errors], ids=lambda module: module.__name__)
def test_exported_names_are_sorted_and_there(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert list(names) == sorted(names)
    for name in names:
        assert getattr(module, name) is not None


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) <= set(dbml_magics.__all__)
    assert set(dbml_magics.__all__) <= set(dir(dbml_magics))
    with pytest.raises(AttributeError):
        dbml_magics.nonsense


def _read(command: Command, line: str) -> None:
    words = shlex.split(re.sub(r"^\w+ = ", "", line))
    words = words[1:] if command is TRACK else words[2:]
    parse(command, words, NAMES)


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_every_command_has_help_and_examples_that_parse(command: Command) -> None:
    assert command.help
    assert command.examples
    for example in command.examples:
        assert command.prog in example
        _read(command, example)
    shown = command_help(command)
    joined = "".join(shown.split())
    assert joined.startswith("".join(f"{command.prog}{command.help}".split()))
    for option in command.options:
        assert option.help, option.name
        assert "".join(f"{option.written}{option.help}".split()) in joined
        if option.example:
            assert option.positional or option.name in option.example
            _read(command, option.example)
        if option.choices or option.convert.__name__ not in ("text",):
            assert option.example, f"{option.name} can be wrong, so it needs a right example"
        for other in option.excludes:
            assert command.flag(other) is not None, other


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_no_line_of_help_is_wider_than_a_terminal(command: Command) -> None:
    shown = command_help(command)
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    examples = shown.partition("\nexample:\n")[2].replace(" \\\n", " ")
    assert [" ".join(line.split()) for line in examples.splitlines()] == [*command.examples]
    for option in command.options:
        one = option_help(command, option).splitlines()
        assert [line for line in one if len(line) > 80 and line.strip() != option.example] == []


def test_the_list_of_commands_is_no_wider_than_a_terminal() -> None:
    shown = overview_text(COMMANDS, TRACK)
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert all("".join(f"{each.prog}{each.help}".split()) in "".join(shown.split()) for each in ALL)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_found_in_its_own_file(name: str) -> None:
    source = (PACKAGE / "commands" / f"{name}.py").read_text()
    assert re.search(r"^(COMMAND =|    return) Command\($", source, re.MULTILINE)
    assert re.search(rf"^( {{4}}call=api\.{name},|( {{4}})?def run\()", source, re.MULTILINE)


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_every_option_is_a_parameter_of_what_is_called(command: Command) -> None:
    if command.call is None:
        return
    calls = [command.call, *command.instead.values()]
    parameters = {name for call in calls for name in inspect.signature(call).parameters}
    chosen = {name.partition(" ")[0] for name in command.instead}
    apart = {"--source"} if command is TRACK else set()  # a cell's text, and a block of a script is no cell
    assert {o.name for o in command.options if o.parameter not in parameters} <= chosen | apart
    unsaid = {"progress", "prompt"} | ({"timeout"} if command.name == "doctor" else set())
    assert parameters - {option.parameter for option in command.options} <= unsaid


@pytest.mark.parametrize("path", MINE, ids=lambda path: path.name)
def test_hints_name_only_what_exists(path: Path) -> None:
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for text in texts:
        for named in re.findall(r"(?<!%)%dbml ([a-z]+)", text):
            assert named in {*COMMANDS, "takes", "lines"}, f"{path.name}: {text!r}"
        for option in re.findall(r"%dbml link [^`]*?(--[a-z-]+)", text):
            assert COMMANDS["link"].flag(option) or option == "--help", text


@pytest.mark.parametrize("path", MINE, ids=lambda path: path.name)
def test_only_display_and_the_shell_command_print(path: Path) -> None:
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in calls or path.name in ("display.py", "__main__.py")


@pytest.mark.parametrize("path", MINE, ids=lambda path: path.name)
def test_ipython_is_the_notebooks_alone(path: Path) -> None:
    """But for the type of the shell that common/environment.py finds, which no running code imports."""
    if path.parent.name in ("commands", "common", "results") or path.name == "errors.py":
        found = {name for name in imported(path) if name.partition(".")[0] == "IPython"}
        assert found <= ({"IPython.core.interactiveshell"} if path.name == "environment.py" else set())
