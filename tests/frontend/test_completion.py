"""What Tab offers, from the grammar and from what is known already."""

from __future__ import annotations

import threading

import pytest

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command
from dbml_magics.notebook import completion, inspection
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
                *("last", "forest", "boosted"),
                *("--path", "--to", "--alias", "--tag", "--require-delivered", "--help"),
            ],
        ),
        ("%dbml register l", ["last"]),
        ("%dbml register fo", ["forest"]),
        ("%dbml register last w", ["wine", "whisky"]),
        ("%dbml register last --to both w", ["wine", "whisky"]),
        ("%dbml register last wine --alias a --al", ["--alias"]),
        ("%dbml register last wine --to both --t", ["--tag"]),
        ("%dbml compare l", ["last"]),
        ("%dbml compare last a1 b", ["boosted"]),
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
        ("# a comment\nimport math\n%%track --nes", "--nested"),
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


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("%dbml runs --ma", "option: how many at most (20 by default)"),
        ("%dbml unl", "command: restore the tracking URIs that were there before the link"),
        (
            "%dbml deploy wine --to loc",
            "value: where: this machine, a container instance, a Kubernetes cluster,…",
        ),
        ("%dbml invoke served $fr", "variable: list"),
        ("%dbml register fo", "run: the name of a1a1a1a1"),
        ("%dbml register las", "run: the newest finished run here"),
        ("%dbml models be", "model: a registered model"),
        ("%dbml experiment wi", "experiment: an experiment of the link"),
        ("%dbml logs serv", "endpoint: an endpoint, by its name"),
        ("%dbml help unl", "command: restore the tracking URIs that were there before the link"),
        ("%%track --params fo", "variable: str"),
    ],
)
def test_each_offer_is_described(fake: FakeSession, line: str, shown: str) -> None:
    command = TRACK if line.startswith("%%track ") else None
    offers = completion.complete(command, line.partition(" ")[2], NAMESPACE)[1]
    assert [offer.shown for offer in offers] == [shown]


@pytest.mark.parametrize("command", [*COMMANDS.values(), TRACK], ids=lambda command: command.name)
def test_every_option_is_offered_with_its_description(fake: FakeSession, command: Command) -> None:
    words = "--" if command is TRACK else f"{command.name} --"
    offers = completion.complete(TRACK if command is TRACK else None, words, NAMESPACE)[1]
    assert {offer.text: offer.what for offer in offers} == {
        **{option.name: option.help for option in command.flags},
        "--help": "what it takes",
    }


@pytest.mark.parametrize(
    ("code", "begins"),
    [
        ("%dbml li|nk --track both", "%dbml link   link two workspaces"),
        ("%dbml link| --track both", "%dbml link   link two workspaces"),
        ("%dbml link --tr|ack both", "%dbml link --track both|azureml|databricks\n  where runs go"),
        ("%dbml link --track b|oth", "%dbml link --track both|azureml|databricks\n  where runs go"),
        ("%dbml link --track=b|oth", "%dbml link --track both|azureml|databricks\n  where runs go"),
        ("%dbml link --local |--track both", "%dbml link --track"),
        ("runs = %dbml runs --max 3|", "%dbml runs --max N\n  how many at most"),
        ("x = 1\n%dbml register la|st wine\ny = 2", "%dbml register   register a run's model"),
        ("%dbml |", "usage: %dbml COMMAND [options]"),
        ("%dbml nonsen|se", "usage: %dbml COMMAND [options]"),
        ("%%track forest --par|ams depth\nx = 1", "%%track --params a,b\n  variables"),
        ("%%track for|est\nx = 1", "%%track   run this cell as an MLflow run"),
        ("%%track forest\nx =| 1", None),
        ("x = pri|nt", None),
    ],
)
def test_the_help_is_on_what_stands_at_the_cursor(code: str, begins: str | None) -> None:
    cursor = code.index("|")
    whole = code[:cursor] + code[cursor + 1 :]
    shown = inspection.help_at(whole, cursor)
    assert shown is None if begins is None else shown is not None and shown.startswith(begins)


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("%dbml?", "usage: %dbml COMMAND [options]"),
        ("%%track?", "usage: %%track [RUN_NAME]"),
        ("%dbml link?", "%dbml link   link two workspaces"),
        ("%dbml link --local ?", "%dbml link   link two workspaces"),
        ("%dbml track??", "%%track   run this cell"),
    ],
)
def test_a_question_mark_shows_the_whole_help(
    shell: Shell, capsys: pytest.CaptureFixture[str], line: str, begins: str
) -> None:
    shell.run(line)
    assert begins in capsys.readouterr().out
    assert shell["fake"].calls == []


@pytest.mark.parametrize(
    ("runs", "line", "offered"),
    [
        ([("a1" * 16, "one"), ("b2" * 16, "other")], "%dbml compare o", ["one", "other"]),
        ([("a1" * 16, "one"), ("b2" * 16, "one")], "%dbml compare o", ["a1" * 16, "b2" * 16]),
        ([("a1" * 16, "a second try")], "%dbml compare a", ['"a second try"']),
        ([("a1" * 16, "a second try")], "%dbml compare a1", ["a1" * 16]),
        ([("a1" * 16, "b2b2"), ("b2" * 16, "")], "%dbml compare b2", ["a1" * 16, "b2" * 16]),
        ([("a1" * 16, "costs $5"), ("b2" * 16, "-x")], "%dbml compare c", ["a1" * 16]),
        ([("a1" * 16, "last")], "%dbml compare la", ["last", "a1" * 16]),
    ],
)
def test_a_run_is_offered_by_its_name_where_that_means_it_alone(
    fake: FakeSession,
    monkeypatch: pytest.MonkeyPatch,
    runs: list[tuple[str, str]],
    line: str,
    offered: list[str],
) -> None:
    monkeypatch.setattr(fake, "known_runs", lambda: runs)
    assert _offered(line) == offered
