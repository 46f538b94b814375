"""One Jupyter server and one browser for all tests of this folder, and pictures of what they looked like."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.browser.jupyter import FLAGS, HIDES, PATIENCE_MS, Jupyter
from tests.conftest import SCREENSHOTS

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Return a Chromium; a machine without one skips these tests, except where everything is checked."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        reason = "no Chromium on this machine (apt-get install chromium)"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=PATIENCE_MS / 4)
    # Ended with this folder's tests: while it lives, no other event loop can run in this thread.
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=FLAGS, ignore_default_args=HIDES)
        yield started
        started.close()


@pytest.fixture(scope="package")
def jupyter(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """Return a Jupyter server that serves JupyterLab and Notebook 7."""
    started = Jupyter(tmp_path_factory.mktemp("jupyter"))
    try:
        started.wait()
        yield started
    finally:
        started.close()


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return what keeps a picture under a name: of a part of the page, all of it, or of the window."""

    def keep(page: Page, name: str, part: Locator | None = None) -> None:
        folder = Path(os.environ[SCREENSHOTS])
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{re.sub(r'[^A-Za-z0-9-]+', '_', request.node.name).strip('_')}-{name}.png"
        if part is None:
            page.screenshot(path=path)
            return
        before = page.viewport_size
        assert before is not None
        # A window as high as the part: the notebook scrolls within it, and would cut the picture.
        height = part.evaluate("el => Math.ceil(el.getBoundingClientRect().height)") + 260
        if height > before["height"]:
            page.set_viewport_size({"width": before["width"], "height": height})
        part.scroll_into_view_if_needed()
        part.screenshot(path=path)
        if height > before["height"]:
            page.set_viewport_size(before)

    return keep
