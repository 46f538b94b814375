"""Calling what a line names, with what stands on the line."""

from __future__ import annotations

import inspect
import os
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option, pair
from dbml_magics.common import hints
from dbml_magics.common.hints import Remedy
from dbml_magics.errors import NotLinked

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import Result

__all__ = ["call", "need_link", "run"]


def run(command: Command, args: Namespace, output: Output) -> Result:
    """Run a line that has been read."""
    with hints.typing(getattr(args, "typed", None)):
        return call(command, args, output) if command.run is None else command.run(args, output)


def need_link(what: Remedy) -> None:
    """Raise NotLinked, naming what needs a link, where there is none."""
    from dbml_magics.core import remembered_links, session

    if not session.current().linked:
        raise NotLinked(what, again=remembered_links.is_remembered(os.getcwd()))


def call(command: Command, args: Namespace, output: Output, /, **settled: object) -> Result:
    """Call what a line calls with one progress line; ``settled`` are arguments that the caller sees to."""
    by_name = {option.name: option for option in command.options}
    called = command.called(lambda name: getattr(args, by_name[name].dest))
    assert called is not None
    parameters = inspect.signature(called).parameters
    several: tuple[object, ...] = ()
    named = dict(settled)
    for option in command.options:
        value = getattr(args, option.dest)
        parameter = parameters.get(option.parameter)
        if parameter is None or option.parameter in settled or not _is_given(option, value):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            several = tuple(value)
        else:
            named[option.parameter] = _argument(option, value)
    # By its name: tests put a recorder in the place of each callable.
    function: Callable[..., Result] = getattr(api, called.__name__)
    if "progress" not in parameters or "progress" in settled:
        return function(*several, **named)
    with output.progress() as progress:
        report = getattr(progress, _REPORTS[parameters["progress"].annotation])
        return function(*several, **named, progress=report)


_REPORTS = {
    "Callable[[str], None] | None": "say",
    "Callable[[int, int, str], None] | None": "step",
    "Callable[[Mapping[str, int], float], None] | None": "update",
}
"""How a call reports its progress -> the progress line's method for it."""


def _is_given(option: Option, value: object) -> bool:
    """Tell whether the line has a value; a frame's own truth is not asked."""
    return bool(value) if option.repeatable else value is not None and value is not False


def _argument(option: Option, value: object) -> object:
    if option.name.startswith("--no-"):
        return False
    if option.convert is pair:
        assert isinstance(value, list)
        return dict(value)
    if option.listed:
        assert isinstance(value, str)
        return tuple(each.strip() for each in value.split(",") if each.strip())
    return tuple(value) if option.repeatable and isinstance(value, list) else value
