"""Lines made at random on a real link: rubbish reaches the core, and comes back as a result or in words."""

from __future__ import annotations

import os
import random
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest

import dbml_magics
import dbml_magics as dbml
from dbml_magics.commands import COMMANDS, TRACK
from dbml_magics.commands.grammar import Command
from dbml_magics.commands.output import Output
from dbml_magics.commands.running import run
from dbml_magics.core import session as sessions
from dbml_magics.core.destinations.limits import BY_KIND
from dbml_magics.errors import NoModel
from dbml_magics.results.base import Result
from tests.core.linking import sync
from tests.frontend.conftest import Shell
from tests.frontend.test_any_line import NAMESPACE, SECRET_WORDS, is_refused_well

ASKED = os.environ.get("DBML_TEST_EXAMPLES")  # other lines each time
LINES = int(ASKED or 500)
# ``ui`` and ``doctor`` take seconds each, whatever they are given: the grammar's own tests cover them.
COMMON = [*(command for name, command in COMMANDS.items() if name not in ("ui", "doctor")), TRACK]
ODD = [
    *("", "../..", "/etc/passwd", "/nowhere/at/all", "~", ".", "a/b/c/d", "runs:/last/model"),
    *("runs:/", "models:/", "models:/wine/1", "models:/wine@", "m-0", "m-" + "0" * 32, "wine", "wine@best"),
    *(
        "wine/0",
        "wine/1",
        "wine/-1",
        "wine/x",
        "wine/1/2",
        "one",
        "two",
        "last",
        "k=v",
        "=v",
        "k=",
        "a,b",
        ",",
    ),
    *("loss", "loss > 0", "metrics.loss > 0", "params.`a b` = 'x'", "select *", "1; drop table runs"),
    *("name =", "metrics.loss DESC", "loss DESC, x", "0", "-1", "1e309", "nan", "9" * 30, "0000", "f" * 32),
    *(
        "1d",
        "2026-11-27",
        "yesterday",
        "2026-13-45",
        "é" * 40,
        "𝓭𝓫𝓶𝓵",
        "a b",
        "a\tb",
        "{}",
        "{0}",
        "%s",
        "%n",
    ),
    *(
        "<b>",
        "\u202e",
        "[1, 2]",
        '{"a": [1]}',
        "[[",
        "$name",
        "$frame",
        "$nowhere",
        "a" * 3000,
        "local",
        "both",
    ),
    *("sqlite:///x.db", "sqlite:////proc/x", "http://127.0.0.1:1", "databricks://x", "azureml://x", "file:x"),
]


class Lines:
    """Lines that can be read, with whatever in the place of their values."""

    def __init__(self, seed: int, values: Sequence[str]) -> None:
        self.chance = random.Random(seed)
        self.values = values

    def make(self) -> tuple[str, bool]:
        """Return the text of a cell, and whether a secret stands in it."""
        chance = self.chance
        command = chance.choice(COMMON)
        words = [] if command is TRACK else [command.name]
        for option in command.options:
            if not option.positional:
                continue
            if not option.optional_value or chance.random() < 0.7:
                words += [
                    self._value(option) for _ in range(chance.randint(1, 3) if option.repeatable else 1)
                ]
        given: set[str] = set()
        flags = [option for option in command.options if not option.positional]
        for option in chance.sample(flags, chance.randint(0, min(3, len(flags)))):
            if given & set(option.excludes):
                continue
            given.add(option.name)
            words.append(option.name)
            if option.takes_value and not (option.optional_value and chance.random() < 0.3):
                words.append(self._value(option))
        secret = chance.random() < 0.1
        if secret:
            words.insert(chance.randint(0, len(words)), chance.choice(SECRET_WORDS))
        line = " ".join(words)
        return (f"%%track {line}\npass" if command is TRACK else f"%dbml {line}"), secret

    def _value(self, option: Any) -> str:
        """Return one that can be read, mostly: a number where one is wanted."""
        chance = self.chance
        if option.choices and chance.random() < 0.8:
            return str(chance.choice(option.choices))
        for _ in range(30):
            value = chance.choice(self.values)
            try:
                option.convert(value)
            except Exception:
                continue
            break
        return value if value.startswith("$") else shlex.quote(value)


@pytest.fixture
def linked(_ip: Any, home: Path, experiment_name: str) -> Iterator[Shell]:
    """Return a shell with the extension, a link to two workspaces on this machine, runs and a model in it."""
    _ip.reset(new_session=False)
    dbml_magics.load_ipython_extension(_ip)
    shell = Shell(_ip)
    shell.run("%dbml link --local")
    shell.run(f"%dbml experiment {experiment_name}")
    for name in ("one", "two"):
        shell.run(
            f"%%track {name}\nimport mlflow\nmlflow.log_metric('loss', 0.5)\nmlflow.log_param('a b', 'x')"
        )
    yield shell
    while mlflow.active_run() is not None:
        mlflow.end_run()
    if sessions.current().linked:
        sessions.current().unlink()
    dbml_magics.unload_ipython_extension(_ip)


@pytest.mark.full
def test_hundreds_of_lines_reach_a_real_link_and_end_in_a_result_or_in_words(
    linked: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = 1 if ASKED is None else random.randrange(10**9)
    ids = [run.run_id[:8] for run in dbml.runs()]
    lines = Lines(seed, [*ODD, *ids])
    reached: list[Namespace] = []
    refused = 0
    monkeypatch.setattr("dbml_magics.notebook.magics.run", partial(_counted, reached))
    for _ in range(LINES):
        if not sessions.current().linked:
            linked.run("%dbml link --local")
        linked.ip.user_ns.update(NAMESPACE)
        cell, secret = lines.make()
        refused += is_refused_well(linked.ip, cell, secret, f"seed {seed}", lines=12)
    assert len(reached) > LINES / 2, f"{len(reached)} of {LINES} lines reached the session"
    assert refused > LINES / 10


def _counted(reached: list[Namespace], command: Command, args: Namespace, output: Output) -> Result:
    reached.append(args)
    return run(command, args, output)


def test_a_model_at_an_address_that_holds_none_is_refused_in_words(linked: Shell) -> None:
    with pytest.raises(NoModel, match=r"the model at http://127\.0\.0\.1:1 cannot be read"):
        linked.run("frame = [1]\n%dbml score http://127.0.0.1:1 --input $frame")


def test_a_run_near_a_limit_is_named_by_the_magic_before_it_is_reached(linked: Shell) -> None:
    sessions.current().engine("this test").side("azureml").learned.limits = BY_KIND["azureml"]
    with mlflow.start_run(run_name="wide"):
        mlflow.log_metrics({f"m{n}": float(n) for n in range(44)})
        sync()
        assert "metric names a run" not in str(linked.run("%dbml status")), "44 of 50 are not near yet"
        mlflow.log_metrics({f"n{n}": float(n) for n in range(3)})
        sync()
        shown = str(linked.run("%dbml status"))
    assert "wide has 47 of the 50 metric names a run that azureml takes" in shown
    assert "metric names a run" not in str(linked.run("%dbml status")), "a run that has ended grows no more"
