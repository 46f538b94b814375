"""Commands in messages, in the words of whoever reads them.

Messages, results and remedies name commands as a notebook has them (``%dbml sync --timeout 60``). Where the
magics are loaded they stay so; in a script the same command is shown as a Python call
(``dbml.sync(timeout=60)``), in a shell as a shell has it (``dbml-magics sync --timeout 60``).
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, Literal

from dbml_magics import environment

__all__ = [
    "IN_SHELLS",
    "WSL",
    "FrontEnd",
    "front_end",
    "place",
    "process",
    "say",
    "speak",
    "to_train",
    "worded",
]

FrontEnd = Literal["magic", "python", "shell"]

IN_SHELLS = ("status", "sync", "doctor")
"""The commands that ``dbml-magics`` has."""

WSL = ("wsl --install", "in a terminal, once; then start Jupyter inside the Windows Subsystem for Linux")
"""The remedy where Windows itself is refused."""

_SHELL = "dbml-magics"
# Without the current folder on the path: a module of our name may lie there.
_PYTHON = "python -P" if sys.version_info >= (3, 11) else "python -I"
_COMMAND = re.compile(r"(%dbml|%%track)(?![\w-])")
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)(?: (?=['\"]))?")
_NUMBER = re.compile(r"\d+(\.\d+)?")
# Where a Python call's name for an option is another, or takes several values.
_RENAMED = {
    "max": "max_results",
    "alias": "aliases",
    "tag": "tags",
    "metric": "metrics",
    "all": "everything",
    "from": "source",
    "input": "data",
    "as": "column",
}
_SEVERAL = {"also", "aliases", "metrics", "order_by"}
_NUMBERS = {"max_results", "timeout", "confirm", "traffic", "lines", "instance_count"}
_OF_ENDPOINTS = {"endpoints", "invoke", "logs", "undeploy"}  # their --from is a target
_DEAD = {"list": "dead_letters", "retry": "retry_dead_letters", "discard": "discard_dead_letters"}


class _Front:
    """Who reads; None where it is to be found out."""

    chosen: FrontEnd | None = None


def speak(to: FrontEnd | None) -> FrontEnd | None:
    """Write for one kind of reader from now on (None: find out each time); returns what was set before."""
    before, _Front.chosen = _Front.chosen, to
    return before


def front_end() -> FrontEnd:
    """Return who reads: somebody who has the magics, or somebody who writes Python, or a shell's user."""
    if _Front.chosen is not None:
        return _Front.chosen
    shell = environment.shell()
    has_magics = shell is not None and "dbml" in shell.magics_manager.magics["line"]
    return "magic" if has_magics else "python"


def place() -> str:
    """Return what the reader works in, in a word."""
    return {"magic": "notebook", "python": "process", "shell": "folder"}[front_end()]


def say(line: str) -> str:
    """Return one command, given as a notebook has it, as its reader would type it; other text as it is."""
    reader = front_end()
    if reader == "magic":
        return line
    if not _COMMAND.match(line):
        return _plain(line)
    if reader == "python":
        return _call(line)
    if line.split()[1:2] and line.split()[1] in IN_SHELLS:
        return line.replace("%dbml", _SHELL, 1)
    if line.startswith("%dbml link") and "…" not in line:
        return f"{_PYTHON} -c {shlex.quote(f'import dbml_magics as dbml; print({_call(line)})')}"
    return f"{line} in a notebook"


def process() -> str:
    """Return what runs the reader's code, in a word."""
    return "kernel" if front_end() == "magic" else "process"


def to_train() -> str:
    """Return the sentence about what comes after a link."""
    if front_end() == "magic":
        return "Next: start a cell that trains with %%track"
    return 'Next: train in a block that begins with dbml.track("NAME"):'


def worded(message: str) -> str:
    """Return a message's sentence with its options (``--local``) as the reader's front end has them."""
    if front_end() != "python":
        return message
    return _OPTION.sub(lambda found: f"{_keyword(found.group(1))}=", message)


def _plain(line: str) -> str:
    """Return a line of IPython's own (``%pip install x``, ``!cat y``) as a shell has it."""
    if line.startswith("%env "):
        return f"printenv {line[5:]}"
    return re.sub(r"^(!|%(?=pip |cd ))", "", line)


def _keyword(option: str) -> str:
    name = option.replace("-", "_")
    return _RENAMED.get(name, name)


def _call(line: str) -> str:
    """Return a magic's line as a call: the words that stand alone, then the options by name."""
    try:
        magic, *words = shlex.split(line)
    except ValueError:  # a value of the user's with a quote in it
        magic, *words = line.split()
    name = "track" if magic == "%%track" else words.pop(0) if words else "help"
    if {"-h", "--help"} & set(words) or name in ("help", "--help"):
        about = next((word for word in words if word[0] not in "-%"), name if name != "help" else "")
        return f"help(dbml.{about})" if about and about[0] not in "-" else "help(dbml)"
    values, options = _read(words)
    if name == "sync" and "dead" in options:
        name = _DEAD.get(str(options.pop("dead")), name)
    if name == "doctor" and options.pop("probe", None):
        name = "probe"
    if name == "status" and "run" in options:
        name, values = "receipt", [str(options.pop("run"))]
    for other in ("verify", "repair"):
        if name == "sync" and options.pop(other, None):
            name = other
    if name in _OF_ENDPOINTS and "source" in options:
        options["target"] = options.pop("source")
    if name == "link" and not values and not options:
        name = "status"
    if name == "register" and len(values) == 1:
        values.insert(0, "last")
    given = [_literal(value) for value in values]
    given += [f"{key}={_value(key, value)}" for key, value in options.items()]
    call = f"dbml.{name}({', '.join(given)})"
    return f"with {call}:" if magic == "%%track" else call


def _read(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    values: list[str] = []
    options: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            values.append(word)
            continue
        option, equals, value = word[2:].partition("=")
        if not equals and left and not left[0].startswith("--") and option not in _SWITCHES:
            value, equals = left.pop(0), "="
        if option == "source":  # a cell's text, and a block of a script is no cell
            continue
        if option.startswith("no-"):
            options[option[3:]] = False
        elif not equals:
            options[_keyword(option)] = True
        elif _keyword(option) in _SEVERAL or option == "tag":
            options.setdefault(_keyword(option), []).append(value)
        else:
            options[_keyword(option)] = value
    return values, options


_SWITCHES = {
    *("again", "autolog", "no-autolog", "nested", "source", "stop"),
    *("dry-run", "require-delivered", "probe"),
    *("json", "verify", "repair", "deep", "all", "prune"),
    *("app-insights", "collect-data", "no-wait", "available-now"),
}


def _value(key: str, value: Any) -> str:
    if key == "tags":
        pairs = (each.partition("=") for each in value)
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, _, v in pairs) + "}"
    if key == "params":
        return "{" + ", ".join(f"{_literal(name)}: {name}" for name in value.split(",")) + "}"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_literal(each) for each in value) + "]"
    return str(value) if key in _NUMBERS and _NUMBER.fullmatch(value) else _literal(value)


def _literal(word: str) -> str:
    if word == "…":
        return word
    return word[1:] if re.fullmatch(r"\$[^\W\d]\w*", word) else json.dumps(word, ensure_ascii=False)
