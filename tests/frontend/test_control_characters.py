"""Control characters in what others named: none comes through any text, markup, error or message of ours.

Every result, error and value that is shown is made with a hostile text in each of its fields.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import pkgutil
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

import dbml_magics
from dbml_magics import errors, results
from dbml_magics.commands import COMMANDS, output
from dbml_magics.common import hints, log_records
from dbml_magics.common.foreign_text import is_plain, one_line, visible
from dbml_magics.core.link import Link, WorkspaceSpec
from dbml_magics.notebook import completion, display
from dbml_magics.results.base import Result, _cleaned
from dbml_magics.results.boards import board
from dbml_magics.results.charts import Chart, Line
from dbml_magics.results.html import code, details, html_table, link, panel, rows_table, safe
from dbml_magics.results.link import ExperimentResult
from dbml_magics.results.pictures import picture, small_curve
from dbml_magics.results.runs import RunRow
from tests.frontend.conftest import Shell

HOSTILE = (
    "n\x1b[2J\x1b]0;title\x07\x9b31m\x08\r\x7f\x85\u202e\u2066\u200b\u2028\u2029\ufeff\xad\u061c"
    "\U000e0041\nsecond line\tq<b>\x00"
)
SAFE = set("\n\t")


def raw(text: str | None) -> list[str]:
    """Return the control characters in a text."""
    unseen = {"Cc", "Cf", "Zl", "Zp", "Cs"}
    return [hex(ord(c)) for c in text or "" if unicodedata.category(c) in unseen and c not in SAFE]


def begins_a_line(text: str | None) -> bool:
    """Tell whether a foreign text has begun a line of its own."""
    return any(line.startswith("second line") for line in (text or "").splitlines())


# --- every result


def modules() -> Iterator[str]:
    """Yield the names of the modules that hold results."""
    for found in pkgutil.iter_modules(results.__path__, f"{results.__name__}."):
        yield found.name


def shown_classes() -> list[type]:
    """Return the dataclasses that are shown, results and their parts."""
    found: dict[str, type] = {}
    for name in modules():
        for value in vars(importlib.import_module(name)).values():
            if not isinstance(value, type) or not value.__module__.startswith("dbml_magics"):
                continue
            if hasattr(value, "__dataclass_fields__"):
                found[value.__qualname__] = value
    return sorted(found.values(), key=lambda each: each.__qualname__)


RESULTS = [each for each in shown_classes() if issubclass(each, Result)]


class Maker:
    """Makes a value of any type, a hostile text where a text can stand."""

    def __init__(self, text: str = HOSTILE) -> None:
        self.text = text
        self.used = 0

    def value(self, kind: Any, name: str = "") -> Any:
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if kind is str:
            self.used += 1
            return self.text
        if origin is Literal:
            return args[0]
        if origin in (typing.Union, types.UnionType):
            return self.value(next(arg for arg in args if arg is not type(None)), name)
        if origin is tuple:
            if args[-1] is Ellipsis:
                return (self.value(args[0], name), self.value(args[0], name))
            return tuple(self.value(arg, name) for arg in args)
        if origin in (Mapping, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
            keys = ["databricks", "azureml"] if name in ROLES_BY else [self.value(args[0], name)]
            return {key: self.value(args[1], name) for key in keys}
        if origin in (Sequence, list, frozenset, set) or (
            isinstance(origin, type) and issubclass(origin, Sequence)
        ):
            return (self.value(args[0], name),)
        if kind is bool:
            return True
        if kind is int:
            return 7
        if kind is float:
            return 1.5
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self.made(kind)
        if origin is Callable or kind is None:
            return None
        return self.anything(name)

    def anything(self, name: str) -> Any:
        self.used += 1
        return [self.text] if name == "predictions" else self.text

    def made(self, kind: type) -> Any:
        hints_of = typing.get_type_hints(kind)
        fields = {}
        for field in dataclasses.fields(kind):
            if field.name in FIXED.get(kind.__name__, {}):
                fields[field.name] = FIXED[kind.__name__][field.name]
            elif field.default is None and field.name in (
                "get_workspace",
                "view",
                "data",
                "function",
                "query",
            ):
                fields[field.name] = None
            else:
                fields[field.name] = self.value(hints_of[field.name], field.name)
        return kind(**fields)


ROLES_BY = {"undelivered", "delivered", "remaining", "dead", "arrived", "older", "values", "links", "names"}
# What decides a form and is ours (a role, a level, a state of this release), so that all of it is drawn.
FIXED: dict[str, dict[str, Any]] = {
    "Finding": {"level": "broken", "area": "python"},
    "VerifyResult": {"workspaces": ("databricks", "azureml")},
    "RepairResult": {"workspaces": ("databricks", "azureml")},
    "LinkStatus": {"track": "both"},
    "Curve": {"steps": (0.0, 1.0, 2.0), "values": (1.0, 2.0, 3.0), "count": 3, "odd": 1},
    "MetricSummary": {"curve": (1.0, 2.0)},
    "HelpText": {"content": HOSTILE.replace("\n", " ")},
    "StreamResult": {"query": types.SimpleNamespace(isActive=True, status={}, lastProgress=None, id="x",
                                                    exception=lambda: None)},
    "CompareResult": {},
}  # fmt: skip


def variants(kind: type) -> Iterator[Any]:
    """Yield a result with hostile texts, and again with each truth the other way."""
    full = Maker().made(kind)
    yield full
    for field in dataclasses.fields(kind):
        value = getattr(full, field.name)
        if value is True:
            yield dataclasses.replace(full, **{field.name: False})
        elif value is not None and field.default is None:
            yield dataclasses.replace(full, **{field.name: None})
        elif isinstance(value, (tuple, dict)) and value:
            yield dataclasses.replace(full, **{field.name: type(value)()})


def forms(result: Result) -> dict[str, str | None]:
    """Return every form in which a result is shown."""
    found: dict[str, str | None] = {"text": result.text(), "html": result.html()}
    found |= {"str": str(result), "repr": repr(result), "for notebooks": result._repr_html_()}
    pieces: list[str] = []
    printer = types.SimpleNamespace(text=pieces.append, break_=lambda: pieces.append("\n"))
    result._repr_pretty_(printer, False)
    return {**found, "pretty": "".join(pieces)}


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("front_end", ["magic", "python"])
def test_no_result_lets_a_control_character_through(kind: type, front_end: hints.FrontEnd) -> None:
    hints.speak(front_end)
    if not dataclasses.fields(kind):
        pytest.skip("nothing stands in it")
    tried, failed = 0, {}
    for made in variants(kind):
        try:
            found = forms(made)
        except (KeyError, StopIteration, IndexError, ZeroDivisionError, ValueError, AssertionError):
            continue  # a combination that nobody makes
        for name, text in found.items():
            tried += 1
            if raw(text) or begins_a_line(text):
                failed[name, tried] = raw(text) or "begins a line"
    print(f"{tried} texts of {kind.__name__}, {len(failed)} raw")
    assert tried, f"{kind.__name__} could not be shown at all"
    assert not failed


def test_values_stay_as_they_are_in_python() -> None:
    row = RunRow("r", HOSTILE, HOSTILE, "FINISHED", 0, 1, params={HOSTILE: HOSTILE})
    str(row)
    assert (row.name, row.experiment, row.params) == (HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    plain = RunRow("r", "n", "e", "FINISHED", 0, 1)
    assert _cleaned(plain) is plain, "what has nothing to clean is not copied"


def test_results_in_markup_say_what_they_say_in_text() -> None:
    shown = str(ExperimentResult(HOSTILE, "1", {"databricks": HOSTILE}, created=True))
    assert "n\\x1b[2J\\x1b]0;title\\x07\\x9b31m\\x08\\r\\x7f\\x85\\u202e" in shown
    assert "\\nsecond line\\tq<b>\\x00" in shown


# --- every error, message, log record


def error_classes() -> list[type[errors.DbmlError]]:
    return [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("front_end", ["magic", "python", "shell"])
def test_no_error_lets_a_control_character_through(
    kind: type[errors.DbmlError], front_end: hints.FrontEnd
) -> None:
    hints.speak(front_end)
    remedies: list[str | tuple[str, str]] = [
        (hints.Remedy("models", HOSTILE, to=HOSTILE, tag=[HOSTILE]), HOSTILE),
        HOSTILE,
        f"%pip install {HOSTILE}",
    ]
    made = (
        errors.NotLinked(HOSTILE)
        if kind is errors.NotLinked
        else kind(f"no run {HOSTILE!s}.", remedies=remedies)
    )
    texts = [*made.lines(), str(made), repr(made), made.message, *map(str, made.args)]
    texts += [*made._render_traceback_(), *getattr(made, "__notes__", [])]
    texts += [text for remedy in made.remedies for text in remedy]
    assert [text for text in texts if raw(text)] == []
    assert not any(begins_a_line(text) for text in made.lines()[1:])


def test_notes_progress_warnings_and_log_records_let_none_through(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    display.note(HOSTILE)
    display.warn(HOSTILE)
    lines: list[str] = []
    with output.Progress(lines.append) as progress:
        progress.say(HOSTILE)
        progress.step(1, 2, HOSTILE)
        progress.update({HOSTILE: 3}, 1.0)
    with display.Progress() as progress:
        progress.say(HOSTILE)
    log_records.logger("dbml_magics.of_this_test").warning("said %s", HOSTILE)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err, *lines, *(record.getMessage() for record in caplog.records)):
        assert raw(text) == []
    assert len(lines) == 3


def test_every_logger_of_ours_is_one_that_cleans() -> None:
    root = Path(dbml_magics.__file__).parent
    bare = [
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if re.search(r"logging\.getLogger\(__name__\)", file.read_text())
    ]
    assert bare == []
    importlib.import_module("dbml_magics.core.outbox.journal")
    assert logging.getLogger("dbml_magics.core.outbox.journal").filters


# --- what is made without a result


def test_what_a_link_says_of_its_places_lets_none_through() -> None:
    spec = WorkspaceSpec("databricks", f"http://h/{HOSTILE}")
    link = Link("folder", (spec,), track="databricks")
    for command in (link.command, spec.place):
        error = errors.BadLink(f"for {spec.place}", remedies=[(command, "")])
        assert [line for line in error.lines() if raw(line)] == []


@pytest.mark.parametrize(
    "draw",
    [
        safe,
        code,
        lambda text: link(text, f"http://h/{text}"),
        lambda text: html_table(text, [text], [[text]]),
        lambda text: rows_table(text, [[text, text]]),
        lambda text: details(text, safe(text)),
        lambda text: panel(text),
        lambda text: small_curve([1.0, 2.0], text),
        lambda text: board([(Chart(text, text, [Line(text, [0.0, 1.0], [1.0, 2.0])] * 2), safe(text))]),
        lambda text: picture(
            Chart(text, text, [Line(text, [0.0, 1.0], [1.0, 2.0])], [text, text], [text, text])
        ),
    ],
)
def test_no_markup_title_or_label_lets_one_through(draw: Callable[[str], str]) -> None:
    drawn = draw(HOSTILE)
    assert raw(drawn) == []
    assert "<b>" not in drawn
    assert "\\u202e" in drawn


def test_forms_let_none_through(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipywidgets")
    from dbml_magics.forms.choices import Choices
    from dbml_magics.forms.fields import said
    from dbml_magics.forms.form import CommandForm

    assert raw(said(HOSTILE)) == []
    messages = []
    choices = Choices(lambda _: ["fine", HOSTILE, "a\x1bb"], lambda: messages.append(1))
    choices._look(0, {})
    assert choices.found == ("fine",)

    def fails(_: Mapping[str, str]) -> list[str]:
        raise ValueError(HOSTILE)

    broken = Choices(fails, lambda: None)
    broken._look(0, {})
    assert raw(said(broken.state_text)) == []
    form = CommandForm(COMMANDS["runs"], lambda: shell["fake"], {}, lambda *_: None)
    form.fields["--experiment"].control.value = HOSTILE
    values = [
        str(getattr(widget, name))
        for widget in _below(form.box)
        for name in ("value", "description", "tooltip")
        if widget is not form.fields["--experiment"].control and hasattr(widget, name)
    ]
    assert [value for value in values if raw(value)] == []


def _below(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _below(child)


def test_completion_offers_no_name_that_a_line_cannot_have(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_known", lambda *_, **__: [HOSTILE, "fine", "fi\x1bne", "fi\u202ene"])
    for line in ("runs --experiment ", "models ", "logs "):
        _, offers = completion.complete(None, line, {})
        names = [offer.text for offer in offers if not offer.text.startswith("-")]
        assert names == ["fine"], line


# --- the two functions


RANGES = [(0, 0x20), (0x7F, 0xA0), (0x200B, 0x2010), (0x2028, 0x202F), (0x2060, 0x2065), (0x2066, 0x2070)]
EACH = [chr(n) for begin, end in RANGES for n in range(begin, end)]


@pytest.mark.parametrize("character", EACH + list("\xad\u061c\u3164\ufeff\ufffb\U000e0041\ud800"), ids=ascii)
def test_each_control_character_is_shown_as_its_escape(character: str) -> None:
    assert is_plain(one_line(f"a{character}b"))
    assert not is_plain(character)
    assert one_line(f"a{character}b").startswith("a\\")
    assert one_line(one_line(character)) == one_line(character), "once is enough"
    assert (visible(character) == character) is (character in SAFE)


@pytest.mark.parametrize(
    "text", ["", "plain", "äöü ß", "日本語", "5\xa0GB", "→ ✓ …", "e\u0301", "🙂", "a\\x1b"]
)
def test_ordinary_text_stays(text: str) -> None:
    assert visible(text) == one_line(text) == text
