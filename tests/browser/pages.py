"""The panel and the live view as a user handles them, and what an accessibility checker says of them."""

from __future__ import annotations

import re
from typing import Any

from axe_playwright_python.base import AXE_FILE_PATH  # type: ignore[import-untyped]
from playwright.sync_api import Locator, Page, expect

from dbml_magics.forms.words import ACTIONS, BROWSE, TITLES
from tests.browser.jupyter import PATIENCE_MS, OpenNotebook

LINKED = "%load_ext dbml_magics\n_ = get_ipython().run_line_magic('dbml', 'link --local')"
SERIOUS = ("serious", "critical")
_AXE = """selector => axe.run(selector, {resultTypes: ['violations']}).then(
  ({passes, violations}) => ({passes: passes.length, violations}))"""


class PanelPage:
    """A panel in the output of a cell."""

    def __init__(self, notebook: OpenNotebook, cell: int) -> None:
        self.notebook = notebook
        self.cell = notebook.cell(cell)
        self.box = self.cell.locator(".dbml-panel")
        expect(self.box).to_be_visible(timeout=PATIENCE_MS)

    def choose(self, tab: str, command: str | None = None) -> Locator:
        """Open a tab, and one of its commands; return the command's form."""
        button = self.box.locator(".dbml-tabs button").filter(has_text=re.compile(f"^{TITLES[tab]}$"))
        button.click()
        expect(button).to_have_class(re.compile("mod-active"))
        if command is not None:
            self.box.locator(".dbml-commands select").select_option(label=ACTIONS[command].title)
        form = self.box.locator(".dbml-runs") if command == BROWSE else self.form(command or tab)
        expect(form).to_be_visible()
        return form

    def choose_way(self, form: Locator, title: str) -> None:
        """Choose what a form is used for."""
        form.locator(".dbml-way select").select_option(label=title)

    def form(self, command: str) -> Locator:
        """Return a command's form."""
        return self.box.locator(f".dbml-form-{command}")

    def fill(self, form: Locator, **values: str) -> None:
        """Type into fields; a value ``yes`` ticks, a dropdown chooses."""
        for name, value in values.items():
            field = form.locator(f".dbml-{name.replace('_', '-')}")
            expect(field).to_be_visible()
            if value == "yes":
                field.locator("input[type=checkbox]").check()
            elif field.locator("select").count():
                field.locator("select").select_option(label=value)
            else:
                field.locator("input").fill(value)

    def field(self, form: Locator, name: str) -> Locator:
        """Return a field with its button and what is said of it."""
        return form.locator(f".dbml-field:has(.dbml-{name})")

    def expect_line(self, form: Locator, line: str) -> None:
        """Expect the form to show the line that it runs."""
        expect(form.locator(".dbml-line code")).to_have_text(line)

    def run(self, form: Locator, *, clicks: int = 1) -> None:
        """Press Run."""
        button = form.locator(".dbml-go")
        expect(button).to_be_enabled()
        button.click(click_count=clicks, delay=5)

    def done(self, form: Locator) -> Locator:
        """Wait until the form's line has run well; return the result: an output of the panel's cell."""
        expect(form.locator(".dbml-state")).to_contain_text("✓ done", timeout=PATIENCE_MS)
        line = form.locator(".dbml-line code").inner_text()
        kept = self.cell.locator(".jp-OutputArea-output")
        kept = kept.filter(has_not=self.notebook.page.locator(".dbml-panel"))
        return kept.filter(has_text=line).last

    def failed(self, form: Locator) -> Locator:
        """Wait until the form's line has failed; return what is said."""
        expect(form.locator(".dbml-state")).to_contain_text("✗ failed", timeout=PATIENCE_MS)
        return form.locator(".dbml-result [role=alert]")


def violations(page: Page, selector: str) -> list[str]:
    """Return what axe-core finds in a part of the page that is serious, after checking that it looked."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
    violated: dict[str, Any] = page.evaluate(_AXE, selector)
    assert violated["passes"], "axe-core looked at nothing"
    return [
        f"{found['id']}: {found['help']}: {[node['html'][:200] for node in found['nodes'][:3]]}"
        for found in violated["violations"]
        if found["impact"] in SERIOUS
    ]


def stray_scrollbars(part: Locator) -> list[str]:
    """Return what scrolls upwards in a part of the page, though nothing in it is longer than the page."""
    found: list[str] = part.locator("*").evaluate_all(
        """all => all.filter(el => {
          const style = getComputedStyle(el);
          return ['auto', 'scroll'].includes(style.overflowY) && el.scrollHeight > el.clientHeight + 1
            && el.clientHeight > 0 && !['SELECT', 'TEXTAREA'].includes(el.tagName);
        }).map(el => el.className)"""
    )
    return found
