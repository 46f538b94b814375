"""The panel's forms: the line that they make, what is said of it, and what becomes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import pytest

from dbml_magics.commands import COMMANDS
from dbml_magics.commands.panel import TABS
from dbml_magics.commands.parser import parse, split
from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy
from dbml_magics.errors import BadCommand, ModelNotFound, NotPermitted, WorkspaceUnreachable
from dbml_magics.forms import tabs
from dbml_magics.forms.form import CommandForm
from dbml_magics.forms.panel import Panel
from dbml_magics.forms.runs import RunsView
from dbml_magics.notebook.panel import panel
from dbml_magics.results.link import LinkStatus
from dbml_magics.results.panel import PanelResult
from dbml_magics.results.runs import RunRow, RunsResult
from tests.frontend.conftest import Shell
from tests.frontend.fakes import FakeSession
from tests.infra.wait import eventually


def form(
    fake: FakeSession, name: str, ran: Callable[..., None] = lambda *_: None, **namespace: Any
) -> CommandForm:
    return CommandForm(COMMANDS[name], lambda: fake, namespace, ran)  # type: ignore[arg-type,return-value]


def fill(made: CommandForm, **values: Any) -> None:
    if "way" in values:
        made.choose(values.pop("way"))
    for name, value in values.items():
        field = next(f for f in made.fields.values() if f.option.dest == name)
        if field.tick is not None and value is True:
            field.tick.value = True
        else:
            field.control.value = value


def finished(made: CommandForm) -> str:
    """Return what is said when the line has run."""
    eventually(lambda: not made._busy, "the form's command ends", 30)
    return str(made._message.value)


@pytest.mark.parametrize("name", [name for names in tabs.TABS.values() for name in names if name in COMMANDS])
def test_every_option_of_a_tab_s_command_has_a_field(fake: FakeSession, name: str) -> None:
    made = form(fake, name)
    assert set(made.fields) == {option.name for option in COMMANDS[name].options}
    for field in made.fields.values():
        control = field.tick or field.control
        assert control.description, "a label"
        assert control.tooltip == field.option.help


def test_the_tabs_are_those_that_the_grammar_names() -> None:
    assert [tab for tab in tabs.TABS if tabs.commands_of(tab, COMMANDS)] == list(TABS)


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("link", {}, "%dbml link --local"),
        ("link", {"local": ".dbml"}, "%dbml link --local .dbml"),
        ("link", {"way": "again"}, "%dbml link --again"),
        ("link", {"way": "file", "config": "dbml.toml"}, "%dbml link --config dbml.toml"),
        ("sync", {"way": "verify", "since": "7d"}, "%dbml sync --verify --since 7d"),
        ("sync", {"way": "retry"}, "%dbml sync --dead retry"),
        ("runs", {"filter": "metrics.loss < 0.5"}, "%dbml runs --filter 'metrics.loss < 0.5'"),
        (
            "register",
            {"run": "last", "name": "wine", "alias": "champion, newest", "tag": "stage=test"},
            "%dbml register last wine --alias champion --alias newest --tag stage=test",
        ),
        (
            "deploy",
            {"model": "wine/1", "to": "local", "name": "wine", "traffic": "10"},
            "%dbml deploy wine/1 --to local --name wine --traffic 10",
        ),
        ("compare", {"run": "last, 4f1c", "metric": "loss"}, "%dbml compare last 4f1c --metric loss"),
        ("invoke", {"name": "wine", "data": "$rows"}, "%dbml invoke wine $rows"),
        ("invoke", {"name": "wine", "data": '[{"a": 1}]'}, """%dbml invoke wine '[{"a": 1}]'"""),
    ],
)
def test_the_fields_make_a_line_that_the_grammar_reads(
    fake: FakeSession, name: str, values: dict[str, Any], line: str
) -> None:
    made = form(fake, name, rows=[1])
    fill(made, **values.copy())
    assert made.line == line
    assert escape(line) in made._line.value
    assert made.problem() == ""
    assert not made.button.disabled
    parse(COMMANDS[name], split(line.partition(name)[2], "%dbml"), {"rows": [1]})


def test_what_is_wrong_is_said_beside_the_field_while_typing(fake: FakeSession) -> None:
    made = form(fake, "deploy")
    assert made.button.disabled
    assert "still required: Model, Where, Endpoint" in made._message.value
    traffic = made.fields["--traffic"]
    traffic.control.value = "120"
    assert "✗ wants a percentage from 0 to 100, not &quot;120&quot;" in traffic.message.value
    assert "correct Percent of requests" in made._message.value
    traffic.control.value = "12"
    assert traffic.message.value == ""
    invoke = form(fake, "invoke")
    fill(invoke, name="wine", data="$nowhere")
    assert "$nowhere is not defined" in invoke.fields["DATA"].message.value


def test_messages_call_an_option_as_its_field_is_called(fake: FakeSession) -> None:
    line = Remedy("deploy", "wine/1", to="local", name="wine", traffic=100)
    fake.raises = BadCommand("--traffic 30 leaves 70 % of the requests to nobody.", remedies=[line])
    made = form(fake, "deploy")
    fill(made, model="wine/1", to="local", name="wine", traffic="30")
    made.run()
    finished(made)
    said = made.outcome.value
    assert "BadCommand: &quot;Percent of requests&quot; 30 leaves 70 %" in said
    assert f"try  {line}" in said, "a line to paste stays as it is"


def test_options_that_exclude_each_other_belong_to_different_purposes(fake: FakeSession) -> None:
    made = form(fake, "link")
    fill(made, local=".dbml")
    made.choose("servers")
    fill(made, databricks="http://127.0.0.1:5000", azureml="http://127.0.0.1:5001")
    assert made.line == "%dbml link --databricks http://127.0.0.1:5000 --azureml http://127.0.0.1:5001"
    made.choose("again")
    assert made.line == "%dbml link --again", "what is not shown is not on the line"
    assert not made.button.disabled
    made.choose("local")
    assert made.line == "%dbml link --local .dbml", "what was typed is kept"


def shown(made: CommandForm) -> set[str]:
    return {name for name, field in made.fields.items() if field.box.layout.display != "none"}


def test_only_what_matters_is_asked(fake: FakeSession) -> None:
    made = CommandForm(COMMANDS["deploy"], lambda: fake, {}, lambda *_: None, azure=lambda: False)  # type: ignore[arg-type,return-value]
    assert made.fields["--to"].control.value == "local", "a link without Azure ML has nowhere else"
    assert not shown(made) & {"--compute", "--instance-type", "--app-insights", "--model-name"}
    made = form(fake, "deploy")
    assert "--compute" not in shown(made)
    fill(made, to="aks")
    assert {"--compute", "--model-name", "--collect-data"} <= shown(made)
    assert "--instance-type" not in shown(made)
    fill(made, compute="cluster", to="online")
    assert "--compute" not in made.line
    made = CommandForm(COMMANDS["cleanup"], lambda: fake, {}, lambda *_: None, azure=lambda: False)  # type: ignore[arg-type,return-value]
    fill(made, kind="run")
    assert shown(made) == {"KIND", "NAME", "--dry-run", "--confirm"}
    assert "workspace" not in dict(made.fields["KIND"].control.options)


def test_what_a_command_would_refuse_is_refused_while_typing(fake: FakeSession) -> None:
    made = form(fake, "deploy")
    fill(made, model="wine/1", to="local", name="wi")
    assert "is no name for an endpoint" in made.fields["--name"].message.value
    assert made.button.disabled
    fill(made, name="Wine")
    assert not made.button.disabled
    fill(made, to="aci")
    assert "lower-case" in made.fields["--name"].problem()
    register = form(fake, "register")
    fill(register, name="a/b")
    assert "not a name for a registered model" in register.fields["NAME"].message.value


def test_what_failed_is_said_under_the_field_that_it_names(fake: FakeSession) -> None:
    fake.raises = ModelNotFound('no registered model "wien". Did you mean "wine"?')
    made = form(fake, "deploy")
    fill(made, model="wien", to="local", name="wine-one")
    made.run()
    finished(made)
    model = made.fields["MODEL"]
    eventually(lambda: "no registered model" in model.message.value, "the field says it", 10)
    fill(made, model="wine")
    assert model.message.value == ""


def test_enter_in_a_field_runs_the_line(fake: FakeSession) -> None:
    made = form(fake, "register")
    fill(made, name="wine")
    made.fields["NAME"].control._handle_custom_msg({"event": "submit"}, [])
    assert "✓ done in" in finished(made)
    assert fake.last("register")["name"] == "wine"


@pytest.mark.parametrize(
    ("name", "values", "call"),
    [
        ("link", {}, "dbml.link(local=True)"),
        (
            "deploy",
            {"model": "wine/1", "to": "local", "name": "wine", "traffic": "10"},
            'dbml.deploy("wine/1", to="local", name="wine", traffic=10)',
        ),
        ("compare", {"run": "last, 4f1c"}, 'dbml.compare("last", "4f1c")'),
        ("invoke", {"name": "wine", "data": "$rows"}, 'dbml.invoke("wine", rows)'),
        (
            "score",
            {"model": "wine/1", "input": "$rows", "output": "scored"},
            'scored = dbml.score("wine/1", data=rows).data',
        ),
    ],
)
def test_the_fields_make_a_python_call_too(
    fake: FakeSession, name: str, values: dict[str, Any], call: str
) -> None:
    made = form(fake, name, rows=[1])
    fill(made, **values)
    assert made.python == call
    assert escape(call) in made._line.value


class Publisher:
    """What sends a kernel's outputs, with the session that it sends by."""

    def __init__(self) -> None:
        self.parent_header = {"msg_id": "cell"}
        self.pub_socket, self.topic = object(), b"display_data"
        self.session = self
        self.sent: list[tuple[str, dict[str, Any], dict[str, str]]] = []

    def send(self, _socket: object, kind: str, content: dict[str, Any], **about: Any) -> None:
        self.sent.append((kind, content, about["parent"]))


def test_what_a_form_did_stays_below_the_panel_as_its_cell_s_output(
    fake: FakeSession, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher()
    monkeypatch.setattr(environment, "place", lambda _shell: "jupyter")
    for name in ("parent_header", "pub_socket", "topic", "session"):  # what a kernel's one has
        monkeypatch.setattr(shell.ip.display_pub, name, getattr(publisher, name), raising=False)
    made = form(fake, "models")
    for _ in range(2):
        made.run()
        assert "the result stands below the panel" in finished(made)
        made._last = ("", 0.0)
    assert made.outcome.value == ""
    (first, content, parent), (second, again, _) = publisher.sent
    assert (first, second) == ("display_data", "update_display_data"), "the same line takes its own place"
    assert content["transient"] == again["transient"]
    assert parent == {"msg_id": "cell"}, "it belongs to the panel's cell, not to the click"
    assert content["data"]["text/plain"].startswith("%dbml models\n")


def test_a_secret_is_refused_before_it_is_a_line(fake: FakeSession) -> None:
    made = form(fake, "link")
    made.choose("servers")
    secret = "dapi" + "0123456789abcdef" * 2
    fill(made, databricks=f"https://token:{secret}@host")
    assert made.button.disabled
    made.run()
    assert fake.calls == []


def test_a_form_calls_what_the_magic_calls(fake: FakeSession) -> None:
    ran: list[str] = []
    made = form(fake, "register", lambda command, result: ran.append(command.name))
    fill(made, name="wine", to="both")
    made.run()
    assert "✓ done in" in finished(made)
    assert fake.last("register")["to"] == "both"
    assert fake.last("register")["name"] == "wine"
    assert "Registered wine, a new model" in made.outcome.value
    eventually(lambda: ran == ["register"], "the panel is told", 10)


def test_an_error_is_shown_with_what_to_do(fake: FakeSession) -> None:
    fake.raises = NotPermitted(
        "403: the role AzureML Data Scientist is missing.", remedies=[Remedy("status")]
    )
    made = form(fake, "register")
    fill(made, name="wine")
    made.run()
    assert "✗ failed: %dbml register wine" in finished(made)
    assert 'role="alert"' in made.outcome.value
    assert "try  %dbml status" in made.outcome.value
    fake.raises = RuntimeError("ours")
    fill(made, name="wine2")
    made.run()
    finished(made)
    assert "RuntimeError: ours" in made.outcome.value
    assert "To report it" in made.outcome.value


def waits(let_go: threading.Event) -> None:
    """Return when it is let go."""
    let_go.wait(30)


def test_a_busy_form_takes_no_second_click(fake: FakeSession) -> None:
    let_go = threading.Event()
    fake.meanwhile = lambda call: waits(let_go) if call == "register" else None
    made = form(fake, "register")
    fill(made, name="wine")
    made.run()
    assert made.button.disabled
    assert all(field.control.disabled for field in made.fields.values())
    assert all(field._again.disabled for field in made.fields.values() if field.choices is not None)
    assert made._more.disabled
    eventually(lambda: "… running %dbml register wine" in made._message.value, "it says that it runs", 10)
    made.run()
    let_go.set()
    finished(made)
    made.run()  # the second half of a double click that came late
    assert [name for name, _ in fake.calls].count("register") == 1
    assert not made.button.disabled


def test_progress_is_shown_in_the_form_and_nowhere_else(
    fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go = threading.Event()
    fake.meanwhile = lambda call: waits(let_go) if call == "deploy" else None
    made = form(fake, "deploy")
    fill(made, model="wine/1", to="local", name="wine")
    made.run()
    eventually(lambda: "loading the model" in made._message.value, "the progress line is in the form", 10)
    let_go.set()
    assert "✓ done" in finished(made)
    assert capsys.readouterr().out == ""


def test_a_deletion_wants_the_name_typed_again(fake: FakeSession) -> None:
    made = form(fake, "undeploy")
    fill(made, name="wine")
    assert "this deletes wine: type wine once more" in made._message.value
    assert made.button.disabled
    fill(made, confirm="whine")
    made.run()
    assert fake.calls == []
    fill(made, confirm="wine")
    assert not made.button.disabled
    made.run()
    finished(made)
    assert fake.last("undeploy")["confirm"] == "wine"


def test_pruning_wants_the_name_of_the_workspace_that_loses_something(fake: FakeSession) -> None:
    made = form(fake, "sync")
    fill(made, way="repair", prune=True)
    assert not made.button.disabled, "without consent it shows what would go"
    made.fields["--confirm"].tick.value = True
    assert "type azureml under" in made._message.value
    assert made.button.disabled
    fill(made, confirm="azureml")
    assert made.line == "%dbml sync --repair --prune --confirm"
    assert not made.button.disabled
    fill(made, **{"from": "azureml"})
    assert "type databricks here" in made.fields["--confirm"].message.value
    assert "correct Type it to confirm" in made._message.value
    fill(made, way="discard", confirm="3")
    assert made.line == "%dbml sync --dead discard --confirm 3"


def test_what_would_go_can_be_seen_without_the_name_typed_again(fake: FakeSession) -> None:
    made = form(fake, "cleanup")
    fill(made, kind="endpoint", name="wine")
    assert made.button.disabled
    fill(made, dry_run=True)
    assert made.line == "%dbml cleanup endpoint wine --dry-run"
    assert not made.button.disabled
    fill(made, dry_run=False, confirm="wine")
    assert made.line == "%dbml cleanup endpoint wine --confirm wine"
    assert not made.button.disabled


def test_choices_follow_the_field_that_they_hang_on(fake: FakeSession) -> None:
    made = form(fake, "cleanup")
    made.seen()
    name = made.fields["NAME"]
    fill(made, kind="endpoint")
    eventually(lambda: name.control.options == ("wine",), "endpoints are offered", 10)
    fill(made, kind="experiment")
    eventually(lambda: name.control.options == ("wine", "two words"), "experiments are offered", 10)


def test_azure_s_choices_cascade_and_are_looked_up_when_asked_for(fake: FakeSession) -> None:
    made = form(fake, "link")
    made.choose("cloud")
    made.seen()
    profiles = made.fields["--databricks"].control
    wanted = ("databricks", "databricks://DEFAULT", "databricks://work")
    eventually(lambda: profiles.options == wanted, "profiles are offered", 10)
    assert not [name for name, _ in fake.calls if name.startswith("azure")], "nobody is signed in unasked"
    subscription = made.fields["--subscription"]
    subscription.look_up()
    eventually(lambda: subscription.control.options, "subscriptions are offered", 10)
    group, name = made.fields["--resource-group"].control, made.fields["--workspace"].control
    fill(made, subscription=subscription.control.options[0])
    eventually(lambda: group.options == ("ml", "other"), "resource groups are offered", 10)
    eventually(lambda: name.options == ("first", "second", "third"), "workspaces are offered", 10)
    fill(made, resource_group="ml")
    eventually(lambda: name.options == ("first", "second"), "those of the resource group are left", 10)


def test_choices_are_looked_up_in_the_background_when_the_form_is_seen(fake: FakeSession) -> None:
    made = form(fake, "deploy")
    assert made.fields["MODEL"].choices is not None
    assert made.fields["MODEL"].choices.state == "unasked"
    made.seen()
    eventually(lambda: made.fields["MODEL"].control.options == ("wine/1",), "models are offered", 10)
    eventually(lambda: made.fields["--name"].control.options == ("wine",), "endpoints are offered", 10)
    run = form(fake, "register")
    run.seen()
    eventually(lambda: run.fields["RUN"].control.options == ("last", "a" * 32), "runs are offered", 10)


def test_choices_that_cannot_be_looked_up_say_why_and_can_be_tried_again(fake: FakeSession) -> None:
    fake.raises = WorkspaceUnreachable("the databricks workspace is not reachable.")
    made = form(fake, "deploy")
    made.seen()
    model = made.fields["MODEL"]
    eventually(lambda: "✗ the choices cannot be looked up" in model.message.value, "it says so", 10)
    assert "not reachable" in model.message.value
    fake.raises = None
    model.look_up()
    eventually(lambda: model.control.options == ("wine/1",), "they are there", 10)
    assert model.message.value == ""


def test_the_panel_says_what_is_linked_and_makes_forms_when_they_are_shown(fake: FakeSession) -> None:
    fake.linked = False
    panel = Panel(COMMANDS, lambda: fake, {}, tab="link")  # type: ignore[arg-type,return-value]
    assert "Not linked" in panel.state.value
    assert set(panel._forms) == {"link"}
    made = panel.form("link")
    made.run()
    finished(made)
    eventually(lambda: "Linked: tracking to databricks and azureml" in panel.state.value, "it says so", 10)
    panel._tabs.value = "deploy"
    assert set(panel._forms) == {"link", "deploy"}


def rows() -> tuple[RunRow, ...]:
    return tuple(
        RunRow(
            f"{n:032x}", f"r{n}", "wine", "FINISHED", 1_700_000_000_000 + n, 1_700_000_001_000 + n,
            params={"depth": str(n), "seed": "1"}, metrics={"loss": 1 / (n + 1)},
        )
        for n in range(12)
    )  # fmt: skip


def drawn(place: Any) -> str:
    """Return what a widget of outputs shows."""
    return "".join(output["data"]["text/html"] for output in place.outputs)


def press(view: RunsView, what: str) -> None:
    """Press a head or a box of the table, as the page does."""
    view._pressed.value = f"{what} {len(view._pressed.value)}{time.monotonic()}"


def test_the_runs_view_sorts_filters_compares_and_draws(fake: FakeSession) -> None:
    fake.rows = rows()
    opened: list[tuple[str, Mapping[str, str]]] = []
    view = RunsView(lambda: fake, lambda *form: opened.append(form))  # type: ignore[arg-type,return-value]
    eventually(lambda: "12 of 12 runs" in view._shown.value, "the runs are there", 10)
    assert "≠ depth" in view._shown.value
    assert "seed" not in view._shown.value, "a param that does not differ is no column"
    depth = view._table.columns.index("depth")
    press(view, f"sort {depth}")
    assert 'aria-sort="ascending"' in view._shown.value
    press(view, f"sort {depth}")
    assert view._shown.value.index(">r11<") < view._shown.value.index(">r2<"), "numbers, not texts"
    assert 'aria-sort="descending"' in view._shown.value
    view._match.value = "loss<0.2"
    assert "7 of 12 runs" in view._shown.value
    assert drawn(view._scatter).count(": depth ") == 2 * 7, "in words, and in what the script is handed"
    view._match.value = "nowhere"
    assert "None of 12 runs matches" in view._shown.value
    view._match.value = ""
    eventually(lambda: not view._load.disabled, "it has loaded", 10)
    first, second = (row.run_id for row in fake.rows[6:8])
    press(view, f"run {first}")
    assert "1 run chosen" in view._said.value
    assert view._compare.disabled
    view._register.click()
    view._deploy.click()
    assert opened == [("register", {"RUN": first}), ("deploy", {"MODEL": first})]
    press(view, f"run {second}")
    assert view._deploy.disabled
    view._compare.click()
    eventually(lambda: "Compared 2 runs" in drawn(view._beside), "they are side by side", 10)
    press(view, f"run {second}")
    press(view, "run nobody")
    press(view, "sort 99")
    assert "1 run chosen" in view._said.value
    fake.raises = WorkspaceUnreachable("the databricks workspace is not reachable.")
    eventually(lambda: not view._load.disabled, "it has compared", 10)
    view.load()
    eventually(lambda: "not reachable" in view._message.value, "the failure is said", 10)
    eventually(lambda: not view._load.disabled, "it can be tried again", 10)


def test_a_run_that_is_chosen_opens_the_form_with_it(fake: FakeSession) -> None:
    panel = Panel(COMMANDS, lambda: fake, {}, tab="runs")  # type: ignore[arg-type,return-value]
    assert panel._forms == {}, "the table stands alone"
    panel.open("deploy", {"MODEL": "4f1c"})
    assert panel._tabs.value == "deploy"
    assert panel.form("deploy").fields["MODEL"].written == "4f1c"
    assert panel._inner.children == (panel.form("deploy").box,)


def test_without_widgets_the_panel_is_lines_to_type(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%dbml panel")
    shown = capsys.readouterr().out
    assert "What the panel's forms do, as lines to type:" in shown
    assert "%dbml register last wine " in shown
    with pytest.raises(BadCommand, match="wants one of link, runs"):
        shell.run("%dbml panel rnus")


def test_a_command_that_stands_alone_is_its_form_where_widgets_are_shown(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, fake: FakeSession
) -> None:
    monkeypatch.setattr(environment, "shows_widgets", lambda _shell: True)
    shown: list[PanelResult] = []
    monkeypatch.setattr("dbml_magics.notebook.display.show", shown.append)
    for line in ("link", "register", "deploy", "undeploy"):
        shell.run(f"%dbml {line}")
        (made,) = shown
        shown.clear()
        assert made.tab == tabs.tab_of(line)
        assert set(made.view._forms) == {line}
        assert "application/vnd.jupyter.widget-view+json" in made._repr_mimebundle_()
    shell.run("%dbml runs")
    assert isinstance(shown[0], RunsResult), "what stands alone well is no form"
    status = shell.run("status = %dbml link\nstatus")
    assert isinstance(status, LinkStatus), "a line whose value is used returns what it always did"
    assert isinstance(shell.run("runs = %dbml runs\nruns"), RunsResult)


def test_the_panel_is_a_python_call_too(fake: FakeSession) -> None:
    assert "%dbml deploy wine/1" in panel("deploy").text()
    with pytest.raises(BadCommand, match="there is no tab"):
        panel("nowhere")
