"""The panel in JupyterLab and Notebook 7: the whole journey by forms, and what is said when it fails."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, expect

from dbml_magics.forms.tabs import TABS
from tests.browser.jupyter import LOOKS, PATIENCE_MS, Jupyter, opened
from tests.browser.pages import LINKED, PanelPage, stray_scrollbars, violations
from tests.standins.azure import AzureStandIn

Keep = Callable[..., None]
PANEL_LOOKS = (*LOOKS, ("light", 600), ("dark", 600))

TRAIN = """%%track forest
import mlflow
import pandas as pd

def predict(model_input):
    return model_input["x"] * 2

rows = pd.DataFrame({"x": [1.0, 21.0]})
mlflow.log_params({"depth": 3})
for step in range(20):
    mlflow.log_metric("loss", 1 / (step + 1), step=step)
_ = mlflow.pyfunc.log_model(
    name="model",
    python_model=predict,
    signature=mlflow.models.infer_signature(rows, predict(rows)),
    pip_requirements=["mlflow"],
)"""
MANY_RUNS = """import mlflow
for depth in range(5):
    with mlflow.start_run(run_name=f"r{depth}"):
        mlflow.log_params({"depth": depth, "seed": 1})
        for step in range(20):
            mlflow.log_metric("loss", (depth + 1) / (step + 1), step=step)"""


def test_the_whole_journey_goes_by_forms(browser: Browser, jupyter: Jupyter, picture: Keep) -> None:
    cells = ["%load_ext dbml_magics\n%dbml link", TRAIN, "%dbml panel register", "%dbml deploy"]
    with opened(browser, jupyter, cells, width=1400) as notebook:
        notebook.run(0)
        panel = PanelPage(notebook, 0)
        expect(panel.box.locator(".dbml-linked")).to_contain_text("Not linked")
        link = panel.form("link")
        panel.expect_line(link, "%dbml link --local")
        link.locator(".dbml-local input").press("Enter")
        expect(panel.done(link)).to_contain_text("Linked: tracking to both")
        expect(panel.box.locator(".dbml-linked")).to_contain_text("tracking to databricks and azureml")
        picture(notebook.page, "link", panel.box)

        notebook.run(1)
        expect(notebook.outputs(1)).to_contain_text("FINISHED Run forest")

        notebook.run(2)
        panel = PanelPage(notebook, 2)
        register = panel.form("register")
        expect(register.locator("datalist option").first).to_have_attribute("value", "last")
        panel.fill(register, name="wine")
        panel.expect_line(register, "%dbml register wine")
        panel.run(register, clicks=2)
        expect(panel.done(register)).to_contain_text("Registered wine, a new model")
        models = panel.choose("register", "models")
        panel.fill(models, name="wine")
        panel.run(models)
        versions = panel.done(models).locator("tbody tr")
        expect(versions).to_have_count(1)  # a double click registers once

        notebook.run(3)  # a command that stands alone is its form
        panel = PanelPage(notebook, 3)
        deploy = panel.form("deploy")
        expect(deploy.locator(".dbml-model option")).to_have_attribute("value", "wine/1", timeout=PATIENCE_MS)
        expect(deploy.locator(".dbml-compute")).to_be_hidden()  # the link has no cloud
        panel.fill(deploy, model="wine/1", name="wi", traffic="120")
        expect(deploy).to_contain_text("a percentage from 0 to 100")
        expect(panel.field(deploy, "name").locator(".dbml-message")).to_contain_text("3 to 32 letters")
        expect(deploy.locator(".dbml-go")).to_be_disabled()
        picture(notebook.page, "refused", panel.box)
        panel.fill(deploy, name="wine", traffic="")
        panel.run(deploy)
        expect(deploy.locator(".dbml-state")).to_contain_text("… running %dbml deploy wine/1")
        for control in (".dbml-name input", ".dbml-field button", ".dbml-more button, button.dbml-more"):
            expect(deploy.locator(control).first).to_be_disabled()
        picture(notebook.page, "busy", panel.box)
        expect(panel.done(deploy)).to_contain_text("wine")
        picture(notebook.page, "deployed", notebook.cell(3))

        invoke = panel.choose("deploy", "invoke")
        panel.fill(invoke, name="wine", data="$rows")
        panel.run(invoke)
        expect(panel.done(invoke)).to_contain_text("42")

        undeploy = panel.choose("deploy", "undeploy")
        panel.fill(undeploy, name="wine")
        expect(undeploy.locator(".dbml-state")).to_contain_text("type wine once more")
        expect(undeploy.locator(".dbml-go")).to_be_disabled()
        panel.fill(undeploy, confirm="wine")
        panel.run(undeploy)
        panel.done(undeploy)
        endpoints = panel.choose("deploy", "endpoints")
        panel.run(endpoints)
        expect(panel.done(endpoints)).not_to_contain_text("wine/1")

        cleanup = panel.choose("link", "cleanup")
        panel.fill(cleanup, kind="model", name="wine", confirm="wine")
        panel.run(cleanup)
        panel.done(cleanup)
        picture(notebook.page, "cleaned-up", panel.box)
        kept = notebook.save().cells[3].outputs
        texts = ["".join(each.data.get("text/plain", "")) for each in kept if "data" in each]
        assert any(text.startswith("%dbml deploy wine/1 --to local --name wine\n") for text in texts)
        assert any("42" in text for text in texts if text.startswith("%dbml invoke"))


def test_a_line_goes_into_a_cell_and_to_the_clipboard(
    browser: Browser, jupyter: Jupyter, picture: Keep
) -> None:
    with opened(browser, jupyter, [LINKED, "%dbml panel runs", "1 + 1"], width=1400) as notebook:
        notebook.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        notebook.run(0)
        notebook.run(1)
        panel = PanelPage(notebook, 1)
        runs = panel.choose("runs", "runs")
        panel.fill(runs, filter="metrics.loss < 0.5")
        line = "%dbml runs --filter 'metrics.loss < 0.5'"
        panel.expect_line(runs, line)
        clipboard = "() => navigator.clipboard.readText()"
        for button, text in (("Copy", line), ("Copy as Python", 'dbml.runs(filter="metrics.loss < 0.5")')):
            runs.get_by_role("button", name=button, exact=True).click()
            expect(runs.locator(".dbml-told")).to_have_text(f"{button.replace('Copy', 'Copied')}.")
            assert notebook.page.evaluate(clipboard) == text
        runs.get_by_role("button", name="Insert as cell").click()
        expect(runs.locator(".dbml-told")).to_have_text("A cell below has it.")
        picture(notebook.page, "inserted")
        assert [cell.source for cell in notebook.save().cells][1:] == ["%dbml panel runs", line, "1 + 1"]


def test_keys_that_are_pressed_in_the_panel_are_no_commands_of_the_notebook(
    browser: Browser, jupyter: Jupyter, picture: Keep
) -> None:
    with opened(browser, jupyter, [LINKED, MANY_RUNS, "%dbml panel runs", "1 + 1"], width=600) as notebook:
        keyboard = notebook.page.keyboard
        for cell in range(3):
            notebook.run(cell)
        panel = PanelPage(notebook, 2)
        expect(panel.box.locator(".dbml-table")).to_contain_text("5 of 5 runs")
        panel.box.locator(".dbml-commands select").focus()
        for key in "xabm":  # cut, insert above and below, make it text
            keyboard.press(key)
        expect(notebook.page.locator(".jp-CodeCell")).to_have_count(4)
        for box in range(2):
            panel.box.locator("tbody input").nth(box).focus()
            keyboard.press("Space")
        compare = panel.box.locator("button.dbml-compare")
        expect(compare).to_be_enabled()
        compare.focus()
        keyboard.press("Enter")
        expect(panel.box.locator(".dbml-compared")).to_contain_text("Compared 2 runs", timeout=PATIENCE_MS)
        expect(compare).to_be_focused()

        runs = panel.choose("runs", "runs")
        most = runs.locator(".dbml-max input")
        runs.locator(".dbml-more").focus()
        keyboard.press("Enter")
        expect(most).to_be_visible()
        most.fill("3")
        keyboard.press("Escape")
        expect(most).to_be_focused()
        keyboard.press("Enter")
        expect(panel.done(runs)).to_contain_text("Runs of Default")
        expect(most).to_be_focused()
        keyboard.press("Control+s")
        expect(notebook.page.locator(".jp-CodeCell")).to_have_count(4)
        picture(notebook.page, "600", panel.box)


@pytest.mark.full
def test_the_runs_are_sorted_filtered_compared_and_drawn(
    browser: Browser, jupyter: Jupyter, picture: Keep
) -> None:
    with opened(browser, jupyter, [LINKED, MANY_RUNS, "%dbml panel runs"], app="notebook") as notebook:
        notebook.run_all()
        panel = PanelPage(notebook, 2)
        table = panel.box.locator(".dbml-table")
        expect(table).to_contain_text("5 of 5 runs")
        head = table.get_by_role("button", name="depth")
        head.click()
        expect(table.locator("th[aria-sort=ascending]")).to_contain_text("≠ depth ▲")
        expect(head).to_be_focused()
        notebook.page.keyboard.press("Enter")
        expect(table.locator("th[aria-sort]")).to_contain_text("≠ depth ▼")
        expect(head).to_be_focused()
        panel.box.locator(".dbml-match input").fill("loss<0.2")
        expect(table).to_contain_text("3 of 5 runs")
        expect(panel.box.locator(".dbml-scatter svg circle")).to_have_count(3)
        boxes = table.locator("tbody input")
        boxes.nth(0).check()
        boxes.nth(1).check()
        expect(panel.box.locator(".dbml-runs")).to_contain_text("2 runs chosen")
        panel.box.locator("button.dbml-compare").click()
        expect(panel.box.locator(".dbml-compared")).to_contain_text("Compared 2 runs", timeout=PATIENCE_MS)
        expect(panel.box.locator(".dbml-compared figure svg").first).to_be_visible()
        for theme, width in PANEL_LOOKS:
            notebook.look(theme, width)
            assert violations(notebook.page, ".dbml-panel") == []
            assert stray_scrollbars(panel.box) == []
            picture(notebook.page, f"{theme}-{width}", panel.box)
        notebook.look("light", 1400)
        boxes.nth(1).uncheck()
        panel.box.locator("button.dbml-deploy").click()
        expect(panel.form("deploy").locator(".dbml-model input")).not_to_have_value("")


@pytest.mark.full
def test_every_form_is_accessible_in_both_themes_and_widths(
    browser: Browser, jupyter: Jupyter, picture: Keep
) -> None:
    with opened(browser, jupyter, [LINKED, "%dbml panel score"], width=1400) as notebook:
        notebook.run_all()
        page = notebook.page
        panel = PanelPage(notebook, 1)
        found = []
        for theme, width in PANEL_LOOKS:
            notebook.look(theme, width, 1800)
            for tab, commands in TABS.items():
                for command in commands:
                    form = panel.choose(tab, command if len(commands) > 1 else None)
                    if command == tab:
                        picture(page, f"{tab}-{theme}-{width}", panel.box)
                    if (more := form.locator(".dbml-more")).is_visible():
                        if more.inner_text() == "More options":
                            more.click()
                        expect(more).to_have_text("Fewer options")
                    found += [f"{command}, {width}: scrolls {each}" for each in stray_scrollbars(panel.box)]
                    assert _buttons_stand_beside_their_fields(form) == []
                    violated = violations(page, ".dbml-panel")
                    found += [f"{command}, {theme}, {width}: {each}" for each in violated]
                    if command in ("sync", "link"):
                        picture(page, f"{command}-all-{theme}-{width}", panel.box)
            unlabelled = panel.box.locator("input, select, button").evaluate_all(
                "all => all.filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel"
                " || e.title)).length"
            )
            assert unlabelled == 0
        assert found == []
        panel.choose("register")
        panel.form("register").locator(".dbml-name input").focus()
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => [document.activeElement.closest('.dbml-form-register') !== null,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert focused == [True, "solid"], "the next control of the form has the focus, and it is seen"
        saved = notebook.save()
    # Who exports it sees the panel as text: no widget's state was saved with it.
    exported, _ = HTMLExporter().from_notebook_node(saved)  # type: ignore[no-untyped-call]
    assert "as lines to type:" in exported
    assert "<code>%dbml score wine/1" in exported


def _buttons_stand_beside_their_fields(form: Locator) -> list[str]:
    """Return the fields whose button to look choices up is not at the height of the input itself."""
    strays: list[str] = form.locator(".dbml-row:has(button)").evaluate_all(
        """rows => rows.filter(row => row.offsetParent).filter(row => {
          const input = row.querySelector('input:not([type=checkbox]), select').getBoundingClientRect();
          const button = row.querySelector('button').getBoundingClientRect();
          return button.left < input.right - 1 || Math.abs(button.top - input.top) > 8;
        }).map(row => row.textContent)"""
    )
    return strays


class _Forbidding(BaseHTTPRequestHandler):
    """A server that permits nothing."""

    def _refuse(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = _refuse  # noqa: N815 - the standard library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def forbidding() -> Iterator[str]:
    """Return the address of a server that answers 403."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.full
def test_failures_are_said_in_the_panel(
    browser: Browser, jupyter: Jupyter, forbidding: str, picture: Keep
) -> None:
    with opened(browser, jupyter, ["%load_ext dbml_magics\n%dbml panel link"], width=900) as notebook:
        notebook.run(0)
        panel = PanelPage(notebook, 0)
        link = panel.form("link")

        def seen(name: str) -> None:
            """Keep a picture of what is shown, in both themes, and have it checked."""
            for theme in ("dark", "light"):
                notebook.look(theme, 900)
                assert violations(notebook.page, ".dbml-panel") == []
                picture(notebook.page, f"{name}-{theme}", panel.box)

        panel.choose_way(link, "Two MLflow servers")
        panel.fill(link, databricks=forbidding, azureml="sqlite:///azureml.db")
        panel.run(link)
        noted = panel.failed(link)
        expect(noted).to_contain_text("NotPermitted: ")
        expect(noted).to_contain_text("403")
        expect(noted).to_contain_text("try  %env DBML_DATABRICKS_TOKEN")
        seen("not-permitted")
        panel.fill(link, databricks="http://127.0.0.1:9", azureml="http://127.0.0.1:19")
        panel.run(link)
        expect(panel.failed(link)).to_contain_text("WorkspaceUnreachable: ")
        seen("away")

        panel.choose_way(link, "On this machine, without a cloud")
        panel.run(link)
        panel.done(link)
        deploy = panel.choose("deploy")
        panel.fill(deploy, model="wien/1", name="wine")
        panel.run(deploy)
        expect(panel.failed(deploy)).to_contain_text("ModelNotFound")

        notebook.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.context.sessionContext.restartKernel()"
        )
        expect(panel.box).to_have_class(re.compile("jupyter-widgets-disconnected"), timeout=PATIENCE_MS)
        mark = "el => getComputedStyle(el, '::before').content"
        assert "kernel is gone" in panel.box.evaluate(mark)
        marks = panel.box.locator(".jupyter-widgets-disconnected").evaluate_all(f"all => all.map({mark})")
        assert set(marks) == {"none"}, "one message, and no mark at each widget"
        dead = "all => all.filter(el => getComputedStyle(el).pointerEvents !== 'none').length"
        assert panel.box.locator("button, input, select").evaluate_all(dead) == 0
        seen("gone")


@pytest.mark.full
def test_azure_s_choices_cascade_and_say_when_they_cannot_be_looked_up(
    browser: Browser, jupyter: Jupyter, azure: AzureStandIn, tmp_path: Path, picture: Keep
) -> None:
    cells = [
        "import json, os, pathlib\nos.environ.update(json.loads(pathlib.Path('azure.json').read_text()))",
        "%load_ext dbml_magics\n%dbml link",
    ]
    path = jupyter.write(cells)
    variables = {**azure.settings(tmp_path / "home"), **azure.sign_in()}
    (jupyter.root / path).with_name("azure.json").write_text(json.dumps(variables))
    with opened(browser, jupyter, [], path=path) as notebook:
        notebook.run(0)
        notebook.run(1)
        panel = PanelPage(notebook, 1)
        link = panel.form("link")
        panel.choose_way(link, "Azure Databricks and Azure ML")
        subscription, group, workspace = (
            panel.field(link, name) for name in ("subscription", "resource-group", "workspace")
        )

        def offered(field: Locator, value: str) -> None:
            expect(field.locator(f"datalist option[value='{value}']")).to_have_count(1, timeout=PATIENCE_MS)

        with azure.proxy.away():
            subscription.locator("button").click()
            seen = subscription.locator(".dbml-message")
            expect(seen).to_contain_text("✗ the choices cannot be looked up", timeout=PATIENCE_MS)
            expect(seen).to_contain_text("not reachable")
            picture(notebook.page, "failing", panel.box)
        with azure.proxy.hang(path="subscriptions"):
            subscription.locator("button").click()
            expect(subscription.locator(".dbml-hint")).to_contain_text("… looking up the choices")
            expect(subscription.locator("button .fa-spin")).to_be_visible()
            picture(notebook.page, "loading", panel.box)
        subscription.locator("button").click()  # the answer to the question before it is passed over
        offered(subscription, azure.subscription)
        expect(seen).to_have_text("")

        panel.fill(link, subscription=azure.subscription)
        offered(group, azure.group)
        offered(workspace, azure.workspace)
        panel.fill(link, resource_group=azure.group)
        with azure.proxy.away():
            workspace.locator("button").click()
            seen = workspace.locator(".dbml-message")
            expect(seen).to_contain_text("✗ the choices cannot be looked up", timeout=PATIENCE_MS)
            assert violations(notebook.page, ".dbml-panel") == []
        workspace.locator("button").click()
        expect(seen).to_have_text("", timeout=PATIENCE_MS)
        offered(workspace, azure.workspace)
        panel.fill(link, workspace=azure.workspace)
        link.locator(".dbml-more").click()
        panel.fill(link, track="azureml", registry="azureml")
        picture(notebook.page, "chosen", panel.box)
        panel.run(link)
        expect(panel.done(link)).to_contain_text("Linked: tracking to azureml")
