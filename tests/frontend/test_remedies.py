"""Remedies are the line that was typed, corrected: whole, ready to paste, and free of secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command
from dbml_magics.commands.parser import corrected, find_command, parse, split
from dbml_magics.commands.typed import TypedLine
from dbml_magics.common import hints
from dbml_magics.common.hints import Remedy
from dbml_magics.core.endpoints.base import check_name, with_share
from dbml_magics.core.endpoints.params import read_params
from dbml_magics.core.scoring.outputs import make_target
from dbml_magics.errors import DbmlError, SecretRefused, UndefinedVariable
from tests.frontend.conftest import Shell
from tests.frontend.test_any_line import SECRET_WORDS, SECRETS

NAMES: dict[str, Any] = {"rows": [[1.0]], "frame": [1], "depth": 3, "name": "wine"}
LINES = [
    (command, line)
    for command in (*COMMANDS.values(), TRACK)
    for line in dict.fromkeys(
        line
        for line in (*command.examples, *(option.example for option in command.options))
        if isinstance(line, Remedy)
    )
]
OPTIONS = [
    (command, line, place)
    for command, line in LINES
    for place, word in enumerate(split(line, "")[1:] if command is TRACK else split(line, "")[2:])
    if word.startswith("--")
]


def _words(command: Command, line: Remedy) -> list[str]:
    return split(line, command.prog)[1 if command is TRACK else 2 :]


def _refused(command: Command, words: list[str], line: str = "") -> DbmlError:
    with pytest.raises(DbmlError) as refused:
        parse(command, words, NAMES, line)
    return refused.value


def _ids(parameters: list[tuple[Any, ...]]) -> list[str]:
    return [str(each[1]) + (f" {each[2]}" if len(each) > 2 else "") for each in parameters]


@pytest.mark.parametrize(("command", "line"), LINES, ids=_ids(LINES))
def test_a_line_that_can_be_read_is_a_remedy_of_the_same_words(command: Command, line: Remedy) -> None:
    parsed = parse(command, _words(command, line), NAMES)
    assert parsed.typed == line


@pytest.mark.parametrize(("command", "line"), LINES, ids=_ids(LINES))
def test_a_misspelt_command_s_remedy_keeps_the_rest_of_the_line(command: Command, line: Remedy) -> None:
    misspelt = command.name[:-1] + "x" * (len(command.name) < 4) if command.name != "ui" else "iu"
    words = _words(command, line)

    def right(name: str) -> Remedy:
        return corrected(TRACK if name == "track" else COMMANDS[name], words, NAMES)

    with pytest.raises(DbmlError) as refused:
        find_command(misspelt, COMMANDS, right)
    assert refused.value.remedies[0][0] == line


@pytest.mark.parametrize(("command", "line", "place"), OPTIONS, ids=_ids(OPTIONS))
def test_a_misspelt_option_s_remedy_is_the_line_with_the_right_one(
    command: Command, line: Remedy, place: int
) -> None:
    words = _words(command, line)
    name = words[place]
    words[place] = name[:-2] + name[-1] + name[-2] if name[-1] != name[-2] else name[:-1]
    if command.flag(words[place]) is not None:  # another option's name
        return
    assert _refused(command, words).remedies[0][0] == line


@pytest.mark.parametrize(("command", "line", "place"), OPTIONS, ids=_ids(OPTIONS))
def test_an_option_given_twice_is_left_with_its_last_value(
    command: Command, line: Remedy, place: int
) -> None:
    words = _words(command, line)
    option = command.flag(words[place])
    assert option is not None
    if option.repeatable:
        return
    has_value = option.takes_value and words[place + 1 : place + 2] and not words[place + 1].startswith("--")
    twice = [option.name, *([words[place + 1]] if has_value else [])]
    error = _refused(command, [*twice, *words])
    assert "given twice" in error.message
    assert error.remedies[0][0] == line


@pytest.mark.parametrize(("command", "line", "place"), OPTIONS, ids=_ids(OPTIONS))
def test_a_missing_value_s_remedy_has_one_and_all_that_was_typed(
    command: Command, line: Remedy, place: int
) -> None:
    words = _words(command, line)
    option = command.flag(words[place])
    assert option is not None
    if not option.takes_value or option.optional_value:
        return
    del words[place + 1]
    error = _refused(command, words)
    remedy = error.remedies[0][0]
    assert isinstance(remedy, Remedy)
    kept = split(remedy, command.prog)
    assert set(words) <= set(kept), "nothing that was typed is dropped"
    assert parse(command, _words(command, remedy), NAMES)


@pytest.mark.parametrize(
    ("command", "option"),
    [(c, o) for c in (*COMMANDS.values(), TRACK) for o in c.flags if o.choices],
    ids=lambda each: each.name,
)
def test_a_misspelt_choice_s_remedy_has_the_one_that_was_meant(command: Command, option: Any) -> None:
    assert option.example is not None
    words = _words(command, option.example)
    place = words.index(option.name) + 1
    meant = words[place]
    words[place] = meant[:-1] if len(meant) > 3 else meant + "x"
    assert _refused(command, words).remedies[0] == (option.example, "")


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("lnk --local", "%dbml link --local"),
        ("lnk --loacl --trak both", "%dbml link --local --track both"),
        ("trak forest --autlog", "%%track forest --autolog"),
        ("track forest --tag a=b", "%%track forest --tag a=b"),
        ("help trak", "%dbml help track"),
        ("link local", "%dbml link --local"),
        ("link --local --again", "%dbml link --local"),
        ("link --track both", "%dbml link --track both --local"),
        ("link --local=", "%dbml link --local .dbml"),
        ("runs --filter metrics.loss < 1 --max 3", '%dbml runs --filter "metrics.loss < 1" --max 3'),
        ("runs --filter --max 3", '%dbml runs --filter "metrics.loss < 1" --max 3'),
        ("runs --order-by -start", "%dbml runs --order-by=-start"),
        ("runs --max {depth} --experiment wine", "%dbml runs --max $depth --experiment wine"),
        ("runs --max 0 --experiment $name", "%dbml runs --max 5 --experiment $name"),
        ("runs --filter \"params.depth = '$dpth'\"", "%dbml runs --filter \"params.depth = '$depth'\""),
        ("runs --again=1", "%dbml runs --help"),
        ("link --again=1", "%dbml link --again"),
        ("status now", "%dbml status"),
        ("experiment two words", "%dbml experiment 'two words'"),
        ("experiment wine's", '%dbml experiment "wine\'s"'),
        ("experiment 'wine", "%dbml experiment wine"),
        ("register a b c", "%dbml register a 'b c'"),
        ("register last --alias champion", "%dbml register last wine --alias champion"),
        ("register --alias champion", "%dbml register wine --alias champion"),
        ("register last wine --tag k=1 --tag a=b --tag k=2", "%dbml register last wine --tag a=b --tag k=2"),
        ("deploy wine/1 --traffic 10 --to local", "%dbml deploy wine/1 --traffic 10 --to local --name wine"),
        ("deploy --to local --name w3x --no-wait", "%dbml deploy wine/1 --to local --name w3x --no-wait"),
        ('invoke wine {"a": [1, 2]} --deployment g', "%dbml invoke wine '{\"a\": [1, 2]}' --deployment g"),
        ("invoke wine --deployment green", "%dbml invoke wine $rows --deployment green"),
        (
            "score wine --input $rows --output here --mode append",
            "%dbml score wine --input $rows --output default.here --mode append",
        ),
        ("compare last --metric loss", "%dbml compare last 4f1c --metric loss"),
        ("sync --run 4f1c", "%dbml sync --run 4f1c --verify"),
        ("sync --since 7d", "%dbml sync --since 7d --verify"),
        ("sync --dead list --run last --timeout 3", "%dbml sync --dead list --run last"),
    ],
)
def test_the_remedy_is_the_line_corrected(shell: Shell, line: str, remedy: str) -> None:
    shell.ip.user_ns.update(NAMES)
    with pytest.raises(DbmlError) as refused:
        shell.run(f"%dbml {line}")
    assert remedy in [command for command, _ in refused.value.remedies]
    assert shell["fake"].calls == []


def test_a_variable_that_nothing_resembles_is_to_be_defined(shell: Shell) -> None:
    with pytest.raises(UndefinedVariable) as refused:
        shell.run("%dbml experiment wine-$nope")
    assert str(refused.value) == "$nope is not defined in this notebook.", (
        "the shell's own open is none of it"
    )
    assert refused.value.remedies == (
        ("nope = …", "in a cell above"),
        ("%dbml experiment wine-$$nope", "for a $ itself"),
    )


@pytest.mark.parametrize("word", SECRET_WORDS)
@pytest.mark.parametrize("line", ["lnk --local {}", "link --loacl {}", "runs --max {}", "deploy a {} c"])
def test_no_remedy_repeats_a_secret(shell: Shell, line: str, word: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        shell.run(f"%dbml {line.format(word)}")
    assert not any(secret in "\n".join(refused.value.lines()) for secret in SECRETS)


def test_a_secret_of_a_variable_is_not_in_a_remedy(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBML_AZUREML_TOKEN", "plainwordsofasecret")
    shell.ip.user_ns["key"] = "plainwordsofasecret"
    for line in ("runs --mxa 3 --experiment $key", "runs --mxa 3 --experiment plainwordsofasecret"):
        with pytest.raises(DbmlError) as refused:
            shell.run(f"%dbml {line}")
        assert "plainwords" not in "\n".join(refused.value.lines())


@given(st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12))
def test_a_remedy_reads_back_as_the_words_that_it_was_made_of(word: str) -> None:
    command = COMMANDS["runs"]
    line = TypedLine(command, (f"--experiment={word}", f"--filter={word}")).remedy()
    if line is None:  # it looks like a secret
        return
    try:
        words = split(line.removeprefix("%dbml runs "), "%dbml")
    except SecretRefused:
        return
    again = TypedLine(command, tuple(words)).remedy()
    assert again is not None
    assert again.options == {"experiment": word, "filter": word}


@pytest.fixture
def typed() -> Iterator[None]:
    """Have a line typed that deploys."""
    with hints.typing(Remedy("deploy", "wien/1", to="aci", name="wien", traffic="5")):
        yield


def test_what_the_core_names_is_put_into_the_line_that_was_typed(typed: None) -> None:
    otherwise = Remedy("models", "wine")
    assert hints.instead("wien", "wine", otherwise) == "%dbml deploy wien/1 --to aci --name wine --traffic 5"
    assert hints.instead("wien/1", "wine/1", otherwise) == (
        "%dbml deploy wine/1 --to aci --name wien --traffic 5"
    )
    assert hints.instead("beer", "wine", otherwise) is otherwise
    plain = Remedy("deploy", "MODEL", to="local")
    assert hints.corrected(plain, to="local", traffic=None) == "%dbml deploy wien/1 --to local --name wien"
    assert hints.corrected(plain, "wine/2") == "%dbml deploy wine/2 --to aci --name wien --traffic 5"
    assert hints.corrected(otherwise, "x") is otherwise, "another command was typed"


def test_a_part_of_a_reference_is_put_right_too() -> None:
    for given_, right in (
        ("wien/1", "wine/1"),
        ("wien@champion", "wine@champion"),
        ("models:/wien/1", "models:/wine/1"),
    ):
        with hints.typing(Remedy("score", given_, input="wien.parquet")):
            assert hints.instead("wien", "wine", Remedy("models")) == Remedy(
                "score", right, input="wien.parquet"
            )


def test_the_command_of_a_shell_is_corrected_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dbml_magics.__main__ import main

    monkeypatch.chdir(tmp_path)
    try:
        assert main(["sync", "--timeuot", "3", "--dead", "list"]) == 2
    finally:
        hints.speak(None)
    assert "try  dbml-magics sync --timeout 3 --dead list" in capsys.readouterr().err


LINE = Remedy("deploy", "wine/1", to="local", name="wi", config="a b.yaml", traffic="30")


def test_a_command_s_own_refusals_keep_the_typed_line() -> None:
    with hints.typing(LINE):
        with pytest.raises(DbmlError) as refused:
            check_name("wi")
        assert refused.value.remedies[0][0] == LINE.but(name="my-wi")
        assert hints.amended("deploy", "MODEL", traffic=100) == LINE.but(traffic=100)
        assert hints.amended("score", "MODEL", mode="append") == "%dbml score MODEL --mode append"
    with hints.typing(Remedy("score", "wine/1", input="$rows", output="x", params="3")):
        with pytest.raises(DbmlError) as refused:
            make_target("x", None)
        assert [line for line, _ in refused.value.remedies] == [
            "%dbml score wine/1 --input $rows --output default.x --params 3",
            "%dbml score wine/1 --input $rows --output ./x.parquet --params 3",
        ]
        with pytest.raises(DbmlError) as refused:
            read_params("3")
        assert refused.value.remedies[0][0] == (
            "%dbml score wine/1 --input $rows --output x --params '{\"temperature\": 0.5}'"
        )


@pytest.mark.parametrize(
    ("traffic", "percent", "line"),
    [
        ({"wi": 100}, 0, "--deployment OTHER --traffic 100"),
        ({"wi": 100}, 30, "--traffic 100"),
        ({}, 30, "--traffic 100"),
    ],
)
def test_requests_are_not_left_to_nobody(traffic: dict[str, int], percent: int, line: str) -> None:
    with pytest.raises(DbmlError) as refused:
        with_share(traffic, "wi", percent, LINE.without("traffic"))
    assert (
        refused.value.remedies[0][0] == f"%dbml deploy wine/1 --to local --name wi --config 'a b.yaml' {line}"
    )
    assert with_share({}, "wi", 0, LINE) == {}
    assert with_share({"green": 100}, "wi", 30, LINE) == {"green": 70, "wi": 30}


def test_a_remedy_is_shown_once() -> None:
    error = DbmlError("no.", remedies=[(LINE, ""), (LINE, "again"), Remedy("runs"), "%dbml runs"])
    assert [command for command, _ in error.remedies] == [LINE, Remedy("runs")]


@pytest.mark.parametrize(
    ("line", "said", "remedy"),
    [
        ("doctor --only x", "--only belongs to --probe", "%dbml doctor --only x --probe"),
        (
            "doctor --confirm probe --json",
            "--confirm belongs to",
            "%dbml doctor --confirm probe --json --probe",
        ),
    ],
)
def test_what_belongs_to_a_probe_is_not_passed_over(shell: Shell, line: str, said: str, remedy: str) -> None:
    with pytest.raises(DbmlError, match=said) as refused:
        shell.run(f"%dbml {line}")
    assert refused.value.remedies[0][0] == remedy
