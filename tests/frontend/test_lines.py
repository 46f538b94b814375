"""Lines as they are typed: what they ask for, and what is said about a line that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbml_magics.errors import BadCommand, DeliveryIncomplete, NotLinked, UndefinedVariable
from tests.frontend.conftest import Shell
from tests.frontend.fakes import FakeSession


@pytest.mark.parametrize(
    ("line", "method", "arguments"),
    [
        ("link --local", "link", {"local": True, "track": None, "mode": None, "registry": None}),
        ("link --local here --registry both", "link", {"local": "here", "registry": "both"}),
        ("link --local --mode sync", "link", {"local": True, "mode": "sync"}),
        ("link --again", "link", {"again": True}),
        (
            "link --local --on-undelivered fail --spill /mnt/x",
            "link",
            {"on_undelivered": "fail", "spill": "/mnt/x"},
        ),
        ("sync --spill /mnt/x --timeout 5", "sync", {"spill": "/mnt/x", "timeout": 5.0}),
        (
            "link --databricks databricks --azureml=http://h:1",
            "link",
            {"azureml": "http://h:1", "local": None},
        ),
        ("experiment 'two words'", "experiment", {"name": "two words"}),
        ("runs", "runs", {"experiment": None, "filter": "", "order_by": (), "max_results": 20}),
        ("runs --max 3 --experiment e", "runs", {"max_results": 3, "experiment": "e"}),
        ("runs --order-by 'a DESC, b'", "runs", {"order_by": ("a DESC", "b")}),
        ("compare last 4f1c", "compare", {"given": ("last", "4f1c"), "metrics": ()}),
        (
            "compare a --metric loss b c --metric 'val loss'",
            "compare",
            {"given": ("a", "b", "c"), "metrics": ("loss", "val loss")},
        ),
        ("register wine", "register", {"run": "last", "name": "wine"}),
        ("register abc wine --path m --to both", "register", {"run": "abc", "path": "m", "to": "both"}),
        ("register --alias a wine --alias b", "register", {"name": "wine", "aliases": ("a", "b")}),
        ("register last --tag k=v wine --tag x=a=b", "register", {"tags": {"k": "v", "x": "a=b"}}),
        ("models", "models", {"name": None}),
        ("models wine", "models", {"name": "wine"}),
        ("sync --timeout 1.5", "sync", {"timeout": 1.5}),
        ("sync --dead list", "dead_letters", {"run": None}),
        ("sync --dead list --run last", "dead_letters", {"run": "last"}),
        ("sync --dead retry --timeout 3 --run a1", "retry_dead_letters", {"run": "a1", "timeout": 3}),
        ("sync --dead discard", "discard_dead_letters", {"confirm": None, "run": None}),
        ("sync --dead discard --confirm 3", "discard_dead_letters", {"confirm": 3}),
        (
            "deploy wine/1 --to local --name wine",
            "deploy",
            {"model": "wine/1", "to": "local", "name": "wine", "traffic": None, "wait": True, "config": None},
        ),
        (
            "deploy last --name w --to online --deployment green --traffic 10% --no-wait --config c.yaml "
            "--instance-type S --instance-count 2 --app-insights --collect-data --add-packages "
            "--model-name m",
            "deploy",
            {
                "model": "last",
                "deployment": "green",
                "traffic": 10,
                "wait": False,
                "config": "c.yaml",
                "instance_type": "S",
                "instance_count": 2,
                "app_insights": True,
                "collect_data": True,
                "add_packages": True,
                "model_name": "m",
            },
        ),
        ("endpoints", "endpoints", {"name": None, "target": None}),
        ("endpoints wine --from online", "endpoints", {"name": "wine", "target": "online"}),
        ("logs wine --deployment green --lines 3", "logs", {"deployment": "green", "lines": 3}),
        ("invoke wine '{\"a\": [1]}'", "invoke", {"name": "wine", "data": '{"a": [1]}'}),
        ("invoke wine rows.csv --deployment green", "invoke", {"data": "rows.csv", "deployment": "green"}),
        ("undeploy wine", "undeploy", {"name": "wine", "confirm": None, "target": None}),
        ("undeploy wine --from aci --confirm wine", "undeploy", {"target": "aci", "confirm": "wine"}),
        ("score wine/1", "score", {"model": "wine/1", "data": None, "column": "prediction", "where": None}),
        (
            'score last --input ml.rows --where "a > 1" --columns a,b --output ml.scored --mode append '
            "--as p --result-type array<double> --on-error null --checkpoint /c --available-now",
            "score",
            {
                "model": "last",
                "data": "ml.rows",
                "where": "a > 1",
                "columns": "a,b",
                "output": "ml.scored",
                "mode": "append",
                "column": "p",
                "result_type": "array<double>",
                "on_error": "null",
                "checkpoint": "/c",
                "available_now": True,
            },
        ),
        ("score wine --input rows.csv --output here", "score", {"data": "rows.csv", "output": None}),
        ("ui", "ui", {"stop": False}),
        ("ui --stop", "ui", {"stop": True}),
        ("unlink", "unlink", {}),
    ],
)
def test_a_line_asks_the_session(shell: Shell, line: str, method: str, arguments: dict[str, Any]) -> None:
    shell.run(f"%dbml {line}")
    asked = shell["fake"].last(method)
    assert {name: asked[name] for name in arguments} == arguments


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stauts", 'there is no command "stauts". Did you mean "status"?'),
        ("--local", "a command before any option"),
        ("link --loacl", "no option --loacl. Did you mean --local?"),
        ("link --local --track bth", 'Did you mean "both"?'),
        ("link --local --track both --track both", "--track is given twice"),
        ("link --local --again", "--again and --local exclude each other"),
        ("link --again --mode sync", "the other options belong to a new one"),
        ("link --track both", "needs the workspaces"),
        ("link --local=", "--local wants a value that is not empty"),
        ("status now", "1 value outside the options"),
        ("runs --max 0", "--max wants a whole number from 1 on"),
        ("runs --max", "--max wants a value: N."),
        ("runs --filter --max 3", "--filter wants a value"),
        ("runs --order-by -start", "written --order-by=…"),
        ("sync --timeout abc", '--timeout wants a number of seconds, not "abc"'),
        ("sync --timeout nan", "a number of seconds"),
        ("sync --timeout=-1", "a number of seconds"),
        ("compare", "needs RUN"),
        ("compare last", "needs two runs or more"),
        ("compare a b --metric", "--metric wants a value: M."),
        ("sync --dead lst", 'Did you mean "list"?'),
        ("sync --dead", "--dead wants a value: list|retry|discard."),
        ("sync --run last", "--run narrows --dead"),
        ("sync --confirm 3", "--confirm belongs to --dead discard"),
        ("sync --dead retry --confirm 3", "--confirm belongs to --dead discard"),
        ("sync --dead discard --confirm all", "--confirm wants a whole number"),
        ("sync --dead list --timeout 3", "--dead list does not wait"),
        ("deploy wine/1", "needs --to"),
        ("deploy wine/1 --to local", "needs --name"),
        ("deploy wine/1 --to lcoal --name wine", 'Did you mean "local"?'),
        ("deploy wine/1 --to local --name wine --traffic 101", "--traffic wants a percentage from 0 to 100"),
        ("invoke wine", "needs DATA"),
        ('invoke wine {"a": 1}', "stands in single quotes"),
        ("invoke wine a b", "takes no more than 2"),
        ("score", "needs MODEL"),
        ("score wine $", "takes no more than 1"),
        ("score wine --on-error skip", "--on-error wants one of fail, null"),
        ("score wine --input t --output here --mode append", "here is a variable of the notebook"),
        ("ui stop", "1 value outside the options"),
        ("register", "needs NAME"),
        ("register last", "needs the model's NAME"),
        ("register a b c", "takes no more than 2"),
        ("register last wine --tag nonsense", "--tag wants KEY=VALUE"),
        ("register last wine --tag k=1 --tag k=2", "a tag's key is given twice"),
        ("register last wine --to azuerml", 'Did you mean "azureml"?'),
        ("experiment", "needs NAME"),
        ("experiment 'wine", "a quote is opened and not closed"),
        ("link --again=1", "--again takes no value"),
        ("help stauts", 'Did you mean "status"?'),
        ("iu", 'Did you mean "ui"?'),
        ("help trak", "Did you mean %%track?"),
        ("track forest", "%%track is a magic of its own"),
        ("runs --filter metrics.loss < 1", "--filter takes one value, and more words follow it"),
        ("runs --max {n}", "{n} is not expanded here: a variable of the notebook is written $n."),
        ("experiment {name}", "written $name"),
    ],
)
def test_a_wrong_line_is_explained_with_what_to_run(shell: Shell, line: str, said: str) -> None:
    with pytest.raises(BadCommand) as refused:
        shell.run(f"%dbml {line}")
    assert said in str(refused.value)
    assert refused.value.remedies, "every wrong line names a right one"
    assert shell["fake"].calls == []


def test_a_typed_variable_stands_for_its_value(shell: Shell, tmp_path: Path) -> None:
    shell.ip.user_ns.update(name="wine", folder=tmp_path, most=4)
    shell.run("%dbml register last $name --tag team=$name")
    assert shell["fake"].last("register")["name"] == "wine"
    assert shell["fake"].last("register")["tags"] == {"team": "wine"}
    shell.run("%dbml link --local $folder")
    assert shell["fake"].last("link")["local"] == str(tmp_path)
    shell.run("%dbml runs --max=$most")
    assert shell["fake"].last("runs")["max_results"] == 4


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("exp-$fold", "exp-3"),
        ("$name/$fold", "wine/3"),
        ("runs:/$name/model", "runs:/wine/model"),
        ("${name}_$fold", "wine_3"),
        ("'costs $$5'", "costs $5"),
        ("a$$name", "a$name"),
        ("$$$name", "$wine"),
        ("'5$ a$'", "5$ a$"),
        ("a-{{name}}", "a-{name}"),
        ('\'{"a": {"b": 1}}\'', '{"a": {"b": 1}}'),
        ("'data/{name,fold}-[0-9]{2}'", "data/{name,fold}-[0-9]{2}"),
        ("$text", "a$name {fold}"),
        ("$whole", "7"),
        ("wine#1  # a remark: don't read $nowhere --help", "wine#1"),
        ("'wine # 1'", "wine # 1"),
        ("wine # the last \\\n", "wine"),
    ],
)
def test_a_variable_within_a_value_and_what_is_no_variable(shell: Shell, written: str, meant: str) -> None:
    shell.ip.user_ns.update(name="wine", fold=3, text="a$name {fold}", whole=np.int64(7))
    shell.run(f"%dbml experiment {written}")
    assert shell["fake"].last("experiment")["name"] == meant
    shell.run(
        f"%%track --tag k={written}\nx = 1" if "\n" not in written else f"%%track --tag k={written}x = 1"
    )
    assert shell["fake"].last("begin_track")["tags"] == {"k": meant}


@pytest.mark.parametrize(
    "written", ["{fold}", "a-{fold}", "{fold:02d}", "a{cfg.name}b", "{fold + 1}", "{d[0]}"]
)
def test_the_braces_of_ipython_are_refused_with_what_to_write(shell: Shell, written: str) -> None:
    with pytest.raises(
        BadCommand, match="is not expanded here: a variable of the notebook is written"
    ) as refused:
        shell.run(f"%dbml experiment '{written}'")
    shell.run(refused.value.remedies[1][0])
    assert shell["fake"].last("experiment")["name"] == written


def test_a_line_goes_on_behind_a_backslash(shell: Shell) -> None:
    shell.run("%dbml register \\\n  last wine \\\n  --to both")
    assert (shell["fake"].last("register")["name"], shell["fake"].last("register")["to"]) == ("wine", "both")
    with pytest.raises(ZeroDivisionError) as failed:
        shell.run("%%track forest \\\n  --tag a=b \\\n  --source\n# code\n1 / 0")
    begun = shell["fake"].last("begin_track")
    assert (begun["name"], begun["tags"], begun["source"]) == ("forest", {"a": "b"}, "# code\n1 / 0")
    assert failed.traceback[-1].lineno == 4, "the cell's own line numbers"
    shell.run("%%track\tforest  # a remark\nx = 1")
    assert shell["fake"].last("begin_track")["name"] == "forest"


def test_an_undefined_variable_is_an_error_and_never_a_literal(shell: Shell) -> None:
    shell.ip.user_ns["wine_name"] = "wine"
    with pytest.raises(UndefinedVariable, match=r"\$wine_nme is not defined.*Did you mean \$wine_name"):
        shell.run("%dbml experiment a-$wine_nme")
    shell.ip.user_ns["frame"] = object()
    with pytest.raises(BadCommand, match=r"\$frame is an object, and a text"):
        shell.run("%dbml experiment $frame")


NESTED = "def go(inner):\n    def own():\n        inner\n        {}\n    own()\ngo('wine')"
CALLERS = {
    "a function": "def go(inner):\n    {}\ngo('wine')",
    "a part of a function": "def go(inner):\n    return [{} for each in range(1)]\ngo('wine')",
    "a function's function": NESTED,
    "a timed function": "def go(inner):\n    get_ipython().run_line_magic('time', {!r})\ngo('wine')",
}


@pytest.mark.parametrize("within", CALLERS)
@pytest.mark.parametrize(
    ("call", "method", "of"),
    [
        ("get_ipython().run_line_magic('dbml', 'experiment $inner')", "experiment", "name"),
        ("get_ipython().run_cell_magic('track', '$inner', 'x = 1')", "begin_track", "name"),
    ],
)
def test_the_names_of_a_function_are_seen_by_every_magic(
    shell: Shell, within: str, call: str, method: str, of: str
) -> None:
    shell.run(CALLERS[within].format(call))
    assert shell["fake"].last(method)[of] == "wine"


def test_without_a_link_the_command_is_named_and_the_way_to_link(shell: Shell, fake: FakeSession) -> None:
    fake.linked = False
    for command in ("status", "runs", "sync", "models", "experiment x", "register wine"):
        with pytest.raises(NotLinked, match=f"%dbml {command.split()[0]} needs a link") as refused:
            shell.run(f"%dbml {command}")
        assert refused.value.remedies[0][0] == "%dbml link --local"
    with pytest.raises(NotLinked, match="%dbml link without options needs a link"):
        shell.run("%dbml link")


def test_unlinking_twice_is_no_error(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%dbml unlink")
    assert capsys.readouterr().out.startswith("Unlinked: MLflow tracks to ")
    shell.run("%dbml unlink")
    assert capsys.readouterr().out.startswith("Nothing was linked\n")


def test_link_without_options_shows_what_is_linked(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%dbml link")
    assert capsys.readouterr().out.startswith("Tracking to both, models registered in databricks\n")


def test_a_bare_command_and_help_list_the_commands(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("%dbml", "%dbml --help", "%dbml help"):
        shell.run(line)
        shown = capsys.readouterr().out
        assert shown.startswith("usage: %dbml COMMAND [options]\n")
        for name in ("link", "unlink", "status", "experiment", "runs", "register", "models", "sync"):
            assert f"  %dbml {name} " in shown
        assert "%%track" in shown


@pytest.mark.parametrize("line", ["runs --help", "runs --max 0 -h", "help runs", "register --help"])
def test_help_prints_and_stops(shell: Shell, capsys: pytest.CaptureFixture[str], line: str) -> None:
    shell.run(f"%dbml {line}")
    shown = capsys.readouterr().out
    assert "usage: %dbml r" in shown
    assert "example:" in shown
    assert shell["fake"].calls == []


def test_help_needs_no_link(shell: Shell, fake: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    fake.linked = False
    shell.run("%dbml help track")
    assert "%%track forest --autolog" in capsys.readouterr().out


def test_a_command_as_a_cell_magic_is_explained(shell: Shell) -> None:
    with pytest.raises(BadCommand, match="%%dbml is no cell magic"):
        shell.run("%%dbml link --local\nx = 1")


def test_an_interrupted_sync_says_what_is_on_the_way(shell: Shell, fake: FakeSession) -> None:
    fake.sync_raises = KeyboardInterrupt()
    with pytest.raises(DeliveryIncomplete, match="nothing is lost"):
        shell.run("%dbml sync")


def test_a_defect_keeps_its_traceback_and_says_where_to_report(
    shell: Shell, fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.raises = ZeroDivisionError("of ours")
    with pytest.raises(ZeroDivisionError):
        shell.run("%dbml runs")
    shown = capsys.readouterr()
    assert "a defect of ours" in shown.err
    assert "Traceback" in shown.out


def test_an_error_is_shown_in_lines_without_a_traceback(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadCommand):
        shell.run("%dbml stauts")
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        'BadCommand: there is no command "stauts". Did you mean "status"?',
        "  try  %dbml status   where tracking goes, what is still on its way, how far behind",
    ]


def test_data_of_the_notebook_is_handed_on_as_it_is(shell: Shell) -> None:
    shell.run("rows = [[1.0, 2.0]]")
    shell.run("%dbml invoke wine $rows")
    assert shell["fake"].last("invoke")["data"] is shell["rows"]
    with pytest.raises(UndefinedVariable, match=r"Did you mean \$rows"):
        shell.run("%dbml invoke wine $row")
    with pytest.raises(BadCommand, match="a text or a number is wanted here"):
        shell.run("%dbml invoke wine $rows.head()")


def test_predictions_go_into_a_variable_of_the_notebook(shell: Shell) -> None:
    shell.run("rows = [[1.0]]")
    result = shell.run("%dbml score wine/1 --input $rows --output scored")
    assert shell["fake"].last("score")["data"] is shell["rows"]
    assert shell["scored"] == [1.5]
    assert result is None or result.variable == "scored"
    with pytest.raises(UndefinedVariable, match=r"\$row is not defined"):
        shell.run("%dbml score wine/1 --input $row")
    udf = shell.run("udf = %dbml score wine/1\nudf")
    assert udf("a", "b") == ("a", "b")
    assert udf() == ("`depth`",)


def test_endpoints_of_this_machine_need_no_link(shell: Shell) -> None:
    shell["fake"].linked = False
    for line in ("endpoints", "endpoints wine", "logs wine", "invoke wine [[1]]", "undeploy wine"):
        shell.run(f"%dbml {line}")
    with pytest.raises(NotLinked, match="%dbml deploy needs a link"):
        shell.run("%dbml deploy wine/1 --to local --name wine")
