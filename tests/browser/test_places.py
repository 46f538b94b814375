"""Results as other places show them: each place's way with an output's HTML, played in pages of its kind."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dbml_magics.results.base import Result
from dbml_magics.results.compare import CompareResult, Curve
from dbml_magics.results.endpoints import DeployResult
from dbml_magics.results.live import FinishedRun, LiveMetric
from dbml_magics.results.registry import ModelsResult
from dbml_magics.results.runs import MetricSummary, RunsResult
from tests.frontend.fakes import ENDPOINT
from tests.frontend.test_results import LINK, ROW, SUMMARY, VERSION

Keep = Callable[..., None]


def _curve(pace: float) -> Curve:
    steps = tuple(float(step) for step in range(200))
    return Curve(steps, tuple(math.exp(-step / pace) for step in steps), 200, times=steps)


ROWS = (ROW, replace(ROW, run_id="b" * 32, name="boosted", params={"depth": "8"}))
RUN = replace(SUMMARY, metrics=(MetricSummary("loss", 0.1, 200, _curve(30).values),))
# Each with words that its reader has to find.
RESULTS: list[tuple[Result, str]] = [
    (LINK, "tracking to both"),
    (
        FinishedRun(RUN, (LiveMetric("loss", 0.1, _curve(30)), LiveMetric("f1", 0.9, _curve(60)))),
        "Run forest",
    ),
    (RUN, "Run forest"),
    (RunsResult(ROWS, "wine"), "Runs of wine"),
    (
        CompareResult(ROWS, ("loss", "f1"), {key: (_curve(30), _curve(60)) for key in ("loss", "f1")}),
        "Compared 2 runs",
    ),
    (ModelsResult(None, (VERSION,)), "champion"),
    (DeployResult(ENDPOINT, "wine", "wine/1", 4.0), "Deployed wine/1"),
]
CHARTS = 4  # two of the run, two of the comparison

# VS Code sets an output's HTML and runs its scripts afterwards, each at the output's end
# (microsoft/vscode, extensions/notebook-renderers/src/index.ts: domEval).
_LIKE_VS_CODE = """outputs => outputs.forEach(output => {
  const element = document.createElement('div');
  element.innerHTML = output;
  document.body.append(element);
  for (const script of [...element.getElementsByTagName('script')]) {
    const made = document.createElement('script');
    made.text = script.innerText;
    element.appendChild(made).remove();
  }
})"""
_WITHOUT_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PLAIN = "body {margin: 8px; font-family: sans-serif} :root {color-scheme: light dark}"


def _forms() -> list[str]:
    shown = [result._repr_html_() for result, _ in RESULTS]
    return [each for each in shown if each is not None]


def _framed(outputs: list[str], sandbox: str, policy: str = "") -> str:
    """Return a page that shows each output in a frame of its own, as Colab and Databricks do."""
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    page = "<!doctype html>{}<style>{}</style><body>{}"
    frames = [
        f'<iframe sandbox="{sandbox}" style="width:100%;height:420px;border:0" '
        f'srcdoc="{html.escape(page.format(meta, _PLAIN, output))}"></iframe>'
        for output in outputs
    ]
    return page.format("", _PLAIN, "".join(frames))


def _open(browser: Browser, theme: str, content: str) -> Page:
    context = browser.new_context(
        viewport={"width": 900, "height": 3200}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    page.set_content(content)
    return page


def _count(parts: list[Locator], selector: str) -> int:
    return sum(part.locator(selector).count() for part in parts)


def _frames(page: Page) -> list[Locator]:
    places = page.locator("iframe")
    bodies = [places.nth(place).content_frame.locator("body") for place in range(places.count())]
    for body, (_, words) in zip(bodies, RESULTS, strict=True):
        expect(body).to_contain_text(words)
    return bodies


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_frame_of_its_own_shows_charts_that_answer_or_pictures(
    browser: Browser, picture: Keep, theme: str
) -> None:
    page = _open(browser, theme, _framed(_forms(), "allow-scripts"))
    bodies = _frames(page)
    expect(bodies[1].locator(".dbml-board figure svg[role=img]")).to_have_count(2)
    assert _count(bodies, ".dbml-board figure svg[role=img]") == CHARTS
    picture(page, f"scripts-{theme}")
    page.context.close()
    page = _open(browser, theme, _framed(_forms(), "", _WITHOUT_SCRIPTS))
    bodies = _frames(page)
    assert _count(bodies, ".dbml-board figure img[alt]") == CHARTS
    assert _count(bodies, "svg") == 0
    shown = bodies[1].locator("figure img").first
    assert shown.evaluate("each => each.decode().then(() => each.naturalWidth)") == 400
    picture(page, f"no-scripts-{theme}")
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_answer_where_scripts_run_at_the_end_of_the_output(
    browser: Browser, picture: Keep, theme: str
) -> None:
    page = _open(browser, theme, f"<!doctype html><style>{_PLAIN}</style><body>")
    page.evaluate(_LIKE_VS_CODE, _forms())
    expect(page.locator(".dbml-board figure svg[role=img]")).to_have_count(CHARTS)
    bars = page.locator(".dbml-bar")
    expect(bars).to_have_count(2)
    for place in range(2):
        assert bars.nth(place).evaluate("each => each.parentElement.className") == "dbml-board"
    picture(page, f"end-{theme}")
    two = "".join(form for form in _forms() if "<script" in form)
    page.evaluate(_LIKE_VS_CODE, [f"<div>{two}</div>"])  # several boards in one output
    expect(page.locator(".dbml-board figure svg[role=img]")).to_have_count(2 * CHARTS)
    assert page.locator(".dbml-board > .dbml-bar").count() == 4
    page.context.close()


def test_a_page_that_keeps_words_and_pictures_alone_shows_no_garbage(browser: Browser, picture: Keep) -> None:
    """GitHub takes scripts, SVG, styles, classes and ids away (jupyter/nbviewer#450, folium#583)."""
    stripped = []
    for form in _forms():
        form = re.sub(r"<(script|svg|style)\b.*?</\1>", "", form, flags=re.DOTALL)
        stripped.append(re.sub(r' (style|class|id|tabindex|role)="[^"]*"', "", form))
    page = _open(browser, "light", f"<!doctype html><body>{'<hr>'.join(stripped)}")
    words = page.locator("body").inner_text()
    for _, told in RESULTS:
        assert told in words
    for code in ("function", "=>", "{", "</", "base64", "NaN", "undefined"):
        assert code not in words, code
    assert page.locator("figure img[alt]").count() == CHARTS
    picture(page, "words")
    page.context.close()
