"""The live view in a browser: it moves while the cell runs, stops it, and stays in a saved notebook."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, expect

from tests.browser.jupyter import LOOKS, PATIENCE_MS, Jupyter, opened
from tests.browser.pages import LINKED, violations

Keep = Callable[..., None]

# It logs until the test has seen enough: a file says so.
UNTIL_TOLD = """%%track forest
print("it begins")
import math, pathlib, time
import mlflow
import numpy as np
mlflow.log_params({"depth": 3, "rate": 0.1})
mlflow.log_image(np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8), "plots/noise.png")
mlflow.log_text("a note", "note.txt")
step = 0
while not pathlib.Path("enough").exists():
    step += 1
    mlflow.log_metrics({"loss": math.exp(-step / 50), "accuracy": 1 - math.exp(-step / 80)}, step=step)
    time.sleep(0.02)"""
MUCH = """%%track wide
import math, pathlib, time
import mlflow
for step in range(200):
    mlflow.log_metrics({f"metric_{n:02}": math.sin(step / 20 + n) for n in range(50)}, step=step)
while not pathlib.Path("enough").exists():
    time.sleep(0.02)"""
ENDLESS = """%%track endless
import time
import mlflow
while True:
    mlflow.log_metric("loss", 1.0)
    time.sleep(0.02)"""


def _top(place: Locator) -> float:
    """Return how far down the page something stands."""
    box = place.bounding_box()
    assert box is not None, "it is to be seen"
    return box["y"]


@pytest.mark.full
def test_a_running_cell_is_watched_and_its_charts_stay(
    browser: Browser, jupyter: Jupyter, picture: Keep
) -> None:
    with opened(browser, jupyter, [LINKED, UNTIL_TOLD], width=1400) as notebook:
        notebook.run(0)
        notebook.begin(1)
        view = notebook.outputs(1)
        expect(view).to_contain_text("RUNNING as of", timeout=PATIENCE_MS)
        expect(view).to_contain_text(re.compile(r"as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d · Run forest, "))
        expect(view).to_contain_text(re.compile(r"step \d+, .* a second"))
        expect(view).to_contain_text(re.compile(r"loss [\d.]+ "))
        stop = notebook.cell(1).locator(".dbml-stop")
        expect(stop).to_be_visible(timeout=PATIENCE_MS)
        assert _top(stop) < _top(view.locator("figure").first), "Stop stands above what grows"
        printed = view.get_by_text("it begins", exact=True)
        assert _top(view.locator("figure").first) < _top(printed), (
            "what the cell prints stands together below"
        )
        image = view.get_by_role("img", name="logged image plots/noise.png")
        expect(image).to_be_visible()
        assert image.evaluate("it => it.naturalWidth") > 0, "it is an image that a browser shows"
        expect(view).to_contain_text("artifacts: note.txt 6 B, plots/noise.png")
        expect(view).to_contain_text("databricks")
        expect(view).to_contain_text("params: depth 3, rate 0.1")
        curve = view.locator("figure svg[aria-label^='curve of loss']")
        seen = curve.get_attribute("aria-label")
        expect(curve).not_to_have_attribute("aria-label", str(seen))  # it grows
        log = view.get_by_role("button", name="log axis")
        log.click()
        curve.hover(position={"x": 150, "y": 60})
        expect(view.locator(".dbml-tip").first).to_contain_text("loss")
        before = curve.get_attribute("aria-label")
        expect(curve).not_to_have_attribute("aria-label", str(before))
        expect(curve.get_by_text("100", exact=True)).to_be_visible()  # the axis grows too
        expect(log).to_have_attribute("aria-pressed", "true")  # what the reader set outlasts an update
        expect(view.locator(".dbml-tip").first).to_be_visible()
        for theme, width in LOOKS:
            notebook.look(theme, width)
            assert violations(notebook.page, ".jp-OutputArea .dbml") == []
            picture(notebook.page, f"running-{theme}-{width}", notebook.cell(1))
        (notebook.file.parent / "enough").touch()
        notebook.wait_for_end(1)
        expect(view).to_contain_text("FINISHED Run forest in")
        expect(log).to_have_attribute("aria-pressed", "true")
        expect(curve).to_be_visible()
        expect(image).to_be_visible()
        expect(view.locator(".dbml-stop")).to_have_count(0)
        picture(notebook.page, "finished", notebook.cell(1))
        saved = notebook.save()
    kinds = {kind for output in saved.cells[1].outputs for kind in output.get("data", {})}
    assert kinds == {"text/plain", "text/html"}, "nothing that needs a kernel is saved"
    page, _ = HTMLExporter().from_notebook_node(saved)  # type: ignore[no-untyped-call]
    assert "curve of loss" in page
    with opened(browser, jupyter, [], path=notebook.path) as again:
        expect(again.page.locator("figure svg[aria-label^='curve of loss']")).to_be_visible(
            timeout=PATIENCE_MS
        )


@pytest.mark.full
@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_stop_interrupts_the_cell(browser: Browser, jupyter: Jupyter, picture: Keep, app: str) -> None:
    with opened(browser, jupyter, [LINKED, ENDLESS], app=app, theme="dark", width=900) as notebook:
        notebook.run(0)
        notebook.begin(1)
        stop = notebook.cell(1).locator(".dbml-stop")
        expect(stop).to_be_visible(timeout=PATIENCE_MS)
        picture(notebook.page, "running", notebook.cell(1))
        stop.click()
        notebook.wait_for_end(1)
        expect(notebook.outputs(1)).to_contain_text("KILLED Run endless in")
        expect(notebook.outputs(1)).to_contain_text("KeyboardInterrupt")


@pytest.mark.full
def test_fifty_metrics_and_ten_thousand_points_stay_readable(
    browser: Browser, jupyter: Jupyter, picture: Keep
) -> None:
    with opened(browser, jupyter, [LINKED, MUCH], width=1400) as notebook:
        notebook.run(0)
        notebook.begin(1)
        view = notebook.outputs(1)
        expect(view).to_contain_text("200 points", timeout=PATIENCE_MS)
        expect(view.locator("figure")).to_have_count(8)
        expect(view.locator("li")).to_have_count(42)
        last = view.locator("li").last
        expect(last).to_contain_text("metric_49")
        height = view.evaluate("el => el.getBoundingClientRect().height")
        assert height < 1000, "all of it fits a screen or so"
        shown = view.locator("figure svg").first
        expect(shown).to_have_attribute("aria-label", re.compile("over steps 0 to 199$"))
        for theme, width in LOOKS:
            notebook.look(theme, width)
            assert violations(notebook.page, ".jp-OutputArea .dbml") == []
            picture(notebook.page, f"running-{theme}-{width}", notebook.cell(1))
        (notebook.file.parent / "enough").touch()
        notebook.wait_for_end(1)
