"""Charts in a browser: what they answer in a notebook of one's own, and the pictures that stay elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.jupyter import PATIENCE_MS, Jupyter, opened
from tests.browser.pages import violations

Keep = Callable[..., None]
WIDTHS = (600, 900, 1400)

# Results as commands return them: what is drawn does not depend on where the values come from.
COMPARED = """import math
from dbml_magics.results.compare import CompareResult, Curve
from dbml_magics.results.runs import RunRow

def curve(value, steps=240):
    values = tuple(value(step) for step in range(steps))
    odd = [step for step, each in enumerate(values) if not math.isfinite(each)]
    lost = float(odd[0]) if odd and odd[-1] == steps - 1 else None
    times = tuple(step / 2 for step in range(steps))
    return Curve(tuple(map(float, range(steps))), values, steps, len(odd), "step", times, lost)

names = ("forest", "boosted", "a run whose name goes on and on")
runs = tuple(
    RunRow(letter * 32, name, "wine", "FINISHED", 0, 2100, {"depth": letter}, {"loss": 0.1, "f1": 0.9})
    for letter, name in zip("abc", names)
)
curves = {
    "loss": (*(curve(lambda step, n=n: math.exp(-step / (30 + 20 * n))) for n in range(2)),
             curve(lambda step: math.nan if step > 180 else math.exp(-step / 90))),
    "f1": tuple(curve(lambda step, n=n: 1 - math.exp(-step / (30 + 20 * n))) for n in range(3)),
    "only": (Curve(), curve(lambda step: step * 100.0), Curve()),
}
CompareResult(runs, tuple(curves), curves)"""


def charts(page: Page | Locator) -> Locator:
    """Return the charts that answer."""
    return page.locator(".dbml-board figure svg[role=img]")


def pictures(page: Page | Locator) -> Locator:
    """Return the pictures of charts, without the legend's."""
    return page.locator("figure img[alt]")


def test_charts_answer_in_both_themes_and_all_widths(
    browser: Browser, jupyter: Jupyter, picture: Keep
) -> None:
    with opened(browser, jupyter, [COMPARED], width=1400) as notebook:
        notebook.run(0)
        output = notebook.outputs(0)
        expect(charts(output)).to_have_count(3)
        expect(pictures(output)).to_have_count(0)
        expect(output).to_contain_text("loss of a run whose name goes on and on diverged: NaN since step 181")
        loss, tip = charts(output).nth(0), output.locator(".dbml-tip").nth(0)
        loss.hover(position={"x": 200, "y": 80})
        for name in ("1 forest 0.", "2 boosted 0.", "3 a run whose name"):
            expect(tip).to_contain_text(name)
        expect(tip).to_contain_text(re.compile(r"^step \d+"))
        wide = loss.evaluate("each => each.getBoundingClientRect().width")
        loss.hover(position={"x": wide - 20, "y": 80})
        expect(tip).to_contain_text("NaN")
        _zoom(notebook.page, loss)
        expect(output.get_by_role("button", name="reset zoom")).to_be_visible()
        output.get_by_role("button", name="log axis").click()
        output.get_by_role("button", name="smoothing").click()
        expect(output.get_by_role("button", name="smoothing 0.6")).to_have_attribute("aria-pressed", "true")
        expect(loss.locator(".dbml-line").first.locator("path[stroke-opacity='0.3']")).to_have_count(1)
        output.get_by_role("button", name="time on x").click()
        expect(loss).to_contain_text("seconds")
        boosted = output.get_by_role("button", name="2 boosted")
        boosted.click()
        expect(boosted).to_have_attribute("aria-pressed", "true")
        expect(loss.locator(".dbml-line").nth(0)).to_have_attribute("opacity", "0.12")
        expect(loss.locator(".dbml-line").nth(1)).to_have_attribute("opacity", "1")
        picture(notebook.page, "set", notebook.cell(0))
        boosted.click()
        loss.focus()
        notebook.page.keyboard.press("ArrowRight")
        expect(tip).to_contain_text("seconds 0")
        for key in ("+", "0"):
            notebook.page.keyboard.press(key)
        expect(output.get_by_role("button", name="reset zoom")).to_be_hidden()
        for theme in ("light", "dark"):
            for width in WIDTHS:
                notebook.look(theme, width)
                box = charts(output).nth(0).bounding_box()
                assert box is not None
                assert box["x"] + box["width"] <= width
                assert violations(notebook.page, ".jp-OutputArea .dbml") == []
                picture(notebook.page, f"{theme}-{width}", notebook.cell(0))
        saved = notebook.save()
    with opened(browser, jupyter, [], path=notebook.path) as again:
        expect(charts(again.page)).to_have_count(3)  # opened again it answers without a kernel
    exported, _ = HTMLExporter().from_notebook_node(saved)  # type: ignore[no-untyped-call]
    assert exported.count("curve of") == 0
    assert "loss by step, on shared axes: 1 forest: from 1 to" in exported


def _zoom(page: Page, chart: Locator) -> None:
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 66)
    page.mouse.up()


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_an_untrusted_notebook_keeps_the_pictures(
    browser: Browser, jupyter: Jupyter, picture: Keep, app: str
) -> None:
    with opened(browser, jupyter, [COMPARED]) as notebook:
        notebook.run(0)
        expect(charts(notebook.page)).to_have_count(3)
        saved = notebook.save()
    saved.cells[0].source += "\n# a colleague's"  # no signature of ours fits
    folder = Path(jupyter.write([]))
    nbformat.write(saved, jupyter.root / folder)
    with opened(browser, jupyter, [], path=str(folder), app=app) as theirs:
        output = theirs.outputs(0)
        expect(pictures(output)).to_have_count(3)
        expect(charts(output)).to_have_count(0)
        assert output.locator(".dbml svg, .dbml script").count() == 0
        expect(output.locator("ul[aria-label=legend] li, ul li")).to_have_count(3)
        seen = output.locator("figure img").first.evaluate("each => [each.complete, each.naturalWidth]")
        assert seen == [True, 400]
        assert "axes: 1 forest: from 1 to" in str(output.locator("figure img").first.get_attribute("alt"))
        for theme in ("light", "dark"):
            for width in WIDTHS:
                theirs.look(theme, width)
                found = violations(theirs.page, ".jp-OutputArea .dbml")
                # The sanitizer takes away the tabindex that lets the keys scroll a wide table.
                assert [each for each in found if not each.startswith("scrollable-region-focusable")] == []
                picture(theirs.page, f"{app}-{theme}-{width}", theirs.cell(0))


def test_an_exported_page_answers_and_one_without_scripts_shows_the_pictures(
    browser: Browser, jupyter: Jupyter
) -> None:
    with opened(browser, jupyter, [COMPARED]) as notebook:
        notebook.run(0)
        output = notebook.save().cells[0].outputs[0]["data"]["text/html"]
    for scripts, answering, still in ((True, 3, 0), (False, 0, 3)):
        context = browser.new_context(java_script_enabled=scripts)
        page = context.new_page()
        page.set_content(f"<!doctype html><body>{output}")
        expect(charts(page)).to_have_count(answering, timeout=PATIENCE_MS)
        expect(pictures(page)).to_have_count(still)
        context.close()
