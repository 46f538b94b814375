"""Whatever is typed, there is a result or an error in words, and never a secret shown."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.errors import DbmlError
from dbml_magics.parser import HelpRequested, find_command, parse, split

SECRETS = ["dapi" + "a1" * 16, "eyJhbGciOi.eyJhdWQiOi.c2lnbmF0", "hunter2hunter2"]
SECRET_WORDS = [
    *SECRETS[:2],
    f"https://me:{SECRETS[2]}@host/",
    f"https://host/?token={SECRETS[2]}",
    f"--token={SECRETS[2]}",
    f"--password {SECRETS[2]}",
    f"'Bearer {SECRETS[2]}'",
]
PLAIN = [
    *COMMANDS,
    *sorted({option.name for command in (*COMMANDS.values(), TRACK) for option in command.flags}),
    *[
        "both",
        "last",
        "wine",
        "3",
        "-1",
        "k=v",
        "$name",
        "$nowhere",
        "-",
        "--",
        "''",
        '"',
        "\\",
        "#",
        "=",
        "x=",
        "-x",
    ],
]
WORDS = st.one_of(st.sampled_from(PLAIN), st.text(max_size=8), st.sampled_from(SECRET_WORDS))
NAMESPACE: dict[str, Any] = {"name": "wine", "frame": object(), "uri": f"http://me:{SECRETS[2]}@host"}


def _read(line: str) -> None:
    tokens = split(line, "%dbml")
    command = find_command(tokens[0], COMMANDS) if tokens else COMMANDS["help"]
    parse(command, tokens[1:], NAMESPACE)


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, max_size=7), st.sampled_from(["", *COMMANDS]))
def test_any_line_is_read_or_refused_in_words(words: list[str], first: str) -> None:
    line = " ".join([first, *words])
    try:
        _read(line)
    except HelpRequested as asked:
        shown, helped = asked.shown, True
    except DbmlError as refused:
        shown = "\n".join(refused.lines())
        helped = bool(refused.remedies)
    else:
        assert not any(secret in line for secret in SECRETS), "a secret was let through"
        return
    assert helped, "a refusal says what to do"
    assert not any(secret in shown for secret in SECRETS)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=6))
def test_any_first_line_of_a_cell_is_read_or_refused_in_words(words: list[str]) -> None:
    line = " ".join(words)
    try:
        parse(TRACK, split(line, "%%track"), NAMESPACE)
    except (DbmlError, HelpRequested) as stopped:
        shown = str(stopped)
    else:
        shown = ""
    assert not any(secret in shown for secret in SECRETS)
