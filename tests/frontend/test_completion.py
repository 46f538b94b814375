"""What Tab offers, from the grammar and from what is known already."""

from __future__ import annotations

import threading

import pytest

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.notebook import completion
from tests.frontend.conftest import Shell
from tests.frontend.fakes import FakeSession

NAMESPACE = {"frame": [1], "folder": "x", "_hidden": 1, "In": [], "tool": len.__class__, "make": lambda: None}


def _offered(line: str) -> list[str]:
    """Return what is offered at the end of a line that stands alone in its cell."""
    command = TRACK if line.startswith("%%track ") else None
    return [offer.text for offer in completion.complete(command, line.partition(" ")[2], NAMESPACE)[1]]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%dbml ", list(COMMANDS)),
        ("%dbml un", ["unlink", "undeploy"]),
        ("%dbml deploy w", ["wine", "whisky"]),
        ("%dbml deploy wine --to a", ["aci", "aks"]),
        ("%dbml logs ", ["served", "--deployment", "--lines", "--from", "--help"]),
        ("%dbml invoke served ", ["$folder", "$frame", "--deployment", "--params", "--from", "--help"]),
        ("%dbml invoke served $fr", ["$frame"]),
        ("%dbml score w", ["wine", "whisky"]),
        ("%dbml score wine --input $fr", ["$frame"]),
        ("%dbml score wine --on-error ", ["fail", "null"]),
        ("%dbml ui --st", ["--stop"]),
        ("%dbml link --tr", ["--track"]),
        ("%dbml link --track ", ["both", "azureml", "databricks"]),
        ("%dbml link --track=a", ["azureml"]),
        ("%dbml link --local --mode s", ["sync"]),
        ("%dbml link --again ", ["--track", "--registry", "--mode", "--help"]),
        ("%dbml runs --max 3 --m", []),
        ("%dbml runs --experiment ", ["wine", '"two words"']),
        ("%dbml experiment w", ["wine"]),
        (
            "%dbml register ",
            [
                *("last", "a1" * 16, "b2" * 16),
                *("--path", "--to", "--alias", "--tag", "--require-delivered", "--help"),
            ],
        ),
        ("%dbml register l", ["last"]),
        ("%dbml register fo", ["a1" * 16]),
        ("%dbml register last w", ["wine", "whisky"]),
        ("%dbml register last --to both w", ["wine", "whisky"]),
        ("%dbml register last wine --alias a --al", ["--alias"]),
        ("%dbml register last wine --to both --t", ["--tag"]),
        ("%dbml compare l", ["last"]),
        ("%dbml compare last a1 b", ["b2" * 16]),
        ("%dbml compare last --m", ["--metric"]),
        ("%dbml models b", ["beer"]),
        ("%dbml help tr", ["track"]),
        ("%dbml experiment $", ["$folder", "$frame"]),
        ("%dbml sync --timeout $fo", ["$folder"]),
        ("%dbml sync --dead ", ["list", "retry", "discard"]),
        ("%dbml nonsense --", []),
        ("%%track forest --au", ["--autolog"]),
        ("%%track forest --autolog --no", []),
        ("%%track --params f", ["folder", "frame"]),
        ("%%track --params folder,", ["folder,frame"]),
        ("%%track --register wi", ["wine"]),
        ("%%track --tag a=b --ta", ["--tag"]),
    ],
)
def test_tab_offers_what_can_stand_there(fake: FakeSession, line: str, offered: list[str]) -> None:
    assert sorted(_offered(line)) == sorted(offered)


def test_without_a_link_nothing_is_looked_up(fake: FakeSession) -> None:
    fake.linked = False
    assert _offered("%dbml models ") == ["--help"]


def test_a_failing_look_up_offers_nothing(fake: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise OSError("gone")

    monkeypatch.setattr(fake, "known_models", fail)
    assert _offered("%dbml models w") == []


def test_a_slow_look_up_is_not_waited_for(fake: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slow() -> list[str]:
        answered.wait(60)
        return ["wine"]

    monkeypatch.setattr(fake, "known_models", slow)
    monkeypatch.setattr(completion, "_LOOK_UP_SECONDS", 0.01)
    try:
        assert _offered("%dbml models w") == []
        assert _offered("%dbml models w") == []
    finally:
        answered.set()
    assert completion._looking.acquire(timeout=60), "the thread that was left behind ends"
    completion._looking.release()


@pytest.mark.parametrize(
    ("cell", "offered"),
    [
        ("%dbml stat", "status"),
        ("x = %dbml ru", "runs"),
        ("if True:\n    %dbml ru", "runs"),
        ("%%track --nes", "--nested"),
        ("%%time\n%%track --nes", "--nested"),
    ],
)
def test_the_shell_s_completer_offers_it(shell: Shell, cell: str, offered: str) -> None:
    assert _completed(shell, cell) == [offered]


@pytest.mark.parametrize("cell", ["x = 1\n%%track --nes", "print('%dbml stat", "dbml stat"])
def test_other_lines_are_left_alone(shell: Shell, cell: str) -> None:
    assert not {"status", "--nested"} & set(_completed(shell, cell))


def _completed(shell: Shell, cell: str) -> list[str]:
    from IPython.core.completer import provisionalcompleter

    shell.ip.Completer.use_jedi = False
    with provisionalcompleter():
        return [found.text for found in shell.ip.Completer.completions(cell, len(cell))]
