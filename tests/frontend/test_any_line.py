"""Whatever is typed, there is a result or an error in words, and never a secret shown."""

from __future__ import annotations

import contextlib
import io
import os
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.parser import HelpRequested, find_command, parse, split
from dbml_magics.errors import DbmlError, SecretRefused
from tests.frontend.conftest import Shell

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


# --- ten thousand lines in a real shell

ASKED = os.environ.get("DBML_TEST_EXAMPLES")  # other lines each time, so many
LINES = int(ASKED or 10_000)
SHELLISH = [
    "; rm -rf ~",
    "| cat",
    "&& exit",
    "$(exit)",
    "`exit`",
    "{exit()}",
    "{uri}",
    "$uri",
    "> /dev/null",
    "*",
    "~/x",
    "../..",
    "!ls",
    "%ls",
    "%%time",
    "?",
    "# --help",
    "\\",
    "'",
    '"',
    "--",
    "-",
    "=",
    "-" * 300,
    "a" * 3000,
    "𝓭𝓫𝓶𝓵",
    "ı\u202e\u200d",
    "\ufeff",
    "\t",
    "\0",
    "%s %d {0} {}",
    "<script>alert(1)</script>",
    "1e309",
    "-1",
    "nan",
    "9" * 400,
]
VALUES = [
    "wine",
    "wine/1",
    "wine@best",
    "last",
    "local",
    "3",
    "0.5",
    "k=v",
    "both",
    "$name",
    "$frame",
    "x.json",
]


class Lines:
    """Lines made at random: whole ones by the grammar, then spoilt; or nothing but rubbish."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def make(self) -> tuple[str, bool]:
        """Return the text of a cell, and whether a secret stands in it."""
        chance = self.chance
        command = chance.choice([*COMMANDS.values(), TRACK])
        words = self._words(command)
        for _ in range(chance.choice([0, 0, 1, 2, 4])):
            self._spoil(words)
        line = " ".join(words)
        if chance.random() < 0.3:
            line = self._mutated(line)
        secret = chance.random() < 0.2
        if secret:
            at = chance.choice([0, len(line)] + [n for n, c in enumerate(line) if c == " "])
            line = f"{line[:at]} {chance.choice(SECRET_WORDS)} {line[at:]}"
        line = "".join(c for c in line if c not in LINE_ENDS)
        if command is TRACK:
            return f"%%track {line}\npass", secret
        assigned = "kept = " if chance.random() < 0.2 else ""
        return f"{assigned}%dbml {line}", secret

    def _words(self, command: Any) -> list[str]:
        chance = self.chance
        words = [] if command is TRACK else [command.name]
        if chance.random() < 0.05:
            return [self._rubbish() for _ in range(chance.randrange(6))]
        for option in chance.sample(command.options, chance.randint(0, min(4, len(command.options)))):
            if not option.positional:
                words.append(option.name)
            if option.takes_value:
                words.append(chance.choice([*option.choices, *VALUES]))
        if chance.random() < 0.05:
            words.append("--help")
        return words

    def _rubbish(self) -> str:
        chance = self.chance
        if chance.random() < 0.5:
            return chance.choice(SHELLISH)
        return "".join(
            chr(
                chance.choice(
                    [
                        chance.randrange(32, 127),
                        chance.randrange(0xA0, 0xD7FF),
                        chance.randrange(0x1F300, 0x1FAFF),
                    ]
                )
            )
            for _ in range(chance.randrange(1, 12))
        )

    def _spoil(self, words: list[str]) -> None:
        chance = self.chance
        place = chance.randint(0, len(words))
        how = chance.randrange(4)
        if how == 0 or not words:
            words.insert(place, self._rubbish())
        elif how == 1:
            words.pop(place % len(words))
        elif how == 2:
            words.insert(place, chance.choice(words))
        else:
            words.insert(place, chance.choice(PLAIN))

    def _mutated(self, line: str) -> str:
        """Change a few letters."""
        chance, letters = self.chance, list(line)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(letters) + 1)
            if chance.random() < 0.5 and place < len(letters):
                letters.pop(place)
            else:
                letters.insert(place, chance.choice("-='\"$\\ {}%?;,/@:abcxyz019é"))
        return "".join(letters)


LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # what follows one is Python's, not ours


def is_refused_well(ip: Any, cell: str, secret: bool, of: str, *, lines: int) -> bool:
    """Run a line and judge what is shown: no traceback, no secret, a remedy; tell whether it was refused."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = ip.run_cell(cell, store_history=False)
    shown, where = out.getvalue(), f"{of}: {cell!r}"
    error = done.error_before_exec or done.error_in_exec
    assert error is None or isinstance(error, DbmlError), f"{where} raised {error!r}\n{shown}"
    assert "Traceback" not in shown, f"{where} shows {shown}"
    if error is not None:
        assert error.remedies, f"{where}: a refusal says what to do, {error}"
        assert len(error.lines()) <= lines, f"{where} shows {shown}"
    if secret and not cell.rstrip().endswith("?"):  # which asks IPython for help, not us
        assert isinstance(error, SecretRefused), f"{where} was let through: {error!r}"
    assert not any(word in shown for word in SECRETS), f"{where} shows a secret: {shown}"
    return error is not None


@pytest.mark.full
def test_ten_thousand_lines_in_a_shell_end_in_a_result_or_in_words(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seed = 1 if ASKED is None else random.randrange(10**9)
    lines = Lines(seed)
    shell.ip.user_ns.update(NAMESPACE)
    refused = 0
    for _ in range(LINES):
        cell, secret = lines.make()
        refused += is_refused_well(shell.ip, cell, secret, f"seed {seed}", lines=8)
        shell.ip.user_ns["fake"].calls.clear()
    assert LINES / 10 < refused < LINES * 0.95, f"{refused} of {LINES} lines were refused"
