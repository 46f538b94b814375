"""A Jupyter server of the tests' own, and notebooks open in it as a user has them.

One server serves JupyterLab and Notebook 7; its settings are in a folder of its own. Nothing but 127.0.0.1 is
asked for: the browser's resolver knows no other name, and each page keeps a list of what it requested.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import Browser, Locator, Page, expect

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
HIDES = ["--hide-scrollbars"]
"""What Playwright adds by itself: a user sees scrollbars, so the tests do."""
PATIENCE_MS = 120_000
LOOKS = (("light", 1400), ("light", 900), ("dark", 900), ("dark", 1400))
"""The themes and window widths that everything is looked at in."""
_LEFT_OUT = ("MLFLOW_", "_MLFLOW", "DBML_", "JUPYTER", "DATABRICKS_", "ARM_", "AZURE")
_TRACKER = {"windowingMode": "none", "recordTiming": False}


class Jupyter:
    """A server with JupyterLab and Notebook 7."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.root = folder / "notebooks"
        self.root.mkdir()
        self.token = secrets.token_hex(8)
        self.port = _free_port()
        self._numbers = itertools.count(1)
        self._write_settings()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_LEFT_OUT)}
        places = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "DBML_HOME": "home",
        }
        self.environment = {
            **kept,
            **{name: str(folder / place) for name, place in places.items()},
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            **(variables or {}),
        }
        self.log = folder / "jupyter.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *self._options()],
                env=self.environment,
                cwd=self.root,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _options(self) -> list[str]:
        return [
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.root}",
            "--LabApp.news_url=",
            "--LabApp.expose_app_in_browser=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ]

    def _write_settings(self) -> None:
        settings = {
            "notebook-extension/tracker.jupyterlab-settings": _TRACKER,
            "docmanager-extension/plugin.jupyterlab-settings": {"autosave": False},
            "apputils-extension/notification.jupyterlab-settings": {
                "fetchNews": "false",
                "checkForUpdates": False,
            },
        }
        for name, content in settings.items():
            path = self.folder / "settings" / "@jupyterlab" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until it answers."""
        until = time.monotonic() + seconds
        url = f"http://127.0.0.1:{self.port}/api?token={self.token}"
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"Jupyter did not start:\n{self.log.read_text()[-2000:]}")

    def close(self) -> None:
        """End it with its kernels."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def write(self, cells: Sequence[str]) -> str:
        """Write a notebook in a folder of its own and return its path below the root."""
        folder = self.root / f"n{next(self._numbers)}"
        folder.mkdir()
        notebook: Any = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        path = folder / "notebook.ipynb"
        nbformat.write(notebook, path)
        return str(path.relative_to(self.root))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_KERNEL_READY = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const session = panel && panel.context && panel.context.sessionContext.session;
  const kernel = session && session.kernel;
  return Boolean(kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle');
}"""
_RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
_RUN_ONE = """(index) => {
  const panel = window.jupyterapp.shell.currentWidget;
  panel.content.activeCellIndex = index;
  panel.content.deselectAll();
  window.jupyterapp.commands.execute('notebook:run-cell');
}"""
_ALL_RAN = r"""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')]
  .every(prompt => /\[\d+\]:/.test(prompt.textContent))"""
_ONE_RAN = r"""(index) => /\[\d+\]:/.test(
  document.querySelectorAll('.jp-CodeCell')[index].querySelector('.jp-InputArea-prompt').textContent)"""


_CHANGE_THEME = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
_HAS_THEME = "light => document.body.dataset.jpThemeLight === light"


class OpenNotebook:
    """A notebook in a page of the browser."""

    def __init__(self, page: Page, jupyter: Jupyter, path: str) -> None:
        self.page = page
        self.jupyter = jupyter
        self.path = path

    @property
    def file(self) -> Path:
        """Return the notebook's file."""
        return self.jupyter.root / self.path

    def look(self, theme: str, width: int, height: int = 900) -> None:
        """Look at it in a theme (``light`` or ``dark``) and in a window so wide and high.

        The server keeps the theme that was chosen last, so each page chooses its own.
        """
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate(_CHANGE_THEME, f"JupyterLab {theme.capitalize()}")
        self.page.wait_for_function(_HAS_THEME, arg="false" if theme == "dark" else "true")

    def wait_for_kernel(self) -> None:
        """Wait until the kernel is there and idle."""
        self.page.wait_for_function(_KERNEL_READY, timeout=PATIENCE_MS)

    def run_all(self) -> None:
        """Run all cells, and wait until all have ended."""
        self.begin_all()
        self.page.wait_for_function(_ALL_RAN, timeout=PATIENCE_MS)

    def begin_all(self) -> None:
        """Begin to run all cells."""
        self.wait_for_kernel()
        self.page.evaluate(_RUN_ALL)

    def run(self, index: int) -> None:
        """Run one cell to its end."""
        self.begin(index)
        self.page.wait_for_function(_ONE_RAN, arg=index, timeout=PATIENCE_MS)

    def begin(self, index: int) -> None:
        """Begin to run one cell."""
        self.page.evaluate(_RUN_ONE, index)

    def wait_for_end(self, index: int) -> None:
        """Wait until a cell has ended."""
        self.page.wait_for_function(_ONE_RAN, arg=index, timeout=PATIENCE_MS)

    def cell(self, index: int) -> Locator:
        """Return a cell."""
        return self.page.locator(".jp-CodeCell").nth(index)

    def outputs(self, index: int) -> Locator:
        """Return a cell's outputs."""
        return self.cell(index).locator(".jp-OutputArea")

    def command(self, name: str) -> None:
        """Run one of JupyterLab's commands."""
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)

    def save(self) -> Any:
        """Save the notebook and return it."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.file, as_version=4)


@contextmanager
def opened(
    browser: Browser,
    jupyter: Jupyter,
    cells: Sequence[str],
    *,
    app: str = "lab",
    theme: str = "light",
    width: int = 1200,
    path: str | None = None,
) -> Iterator[OpenNotebook]:
    """Open a notebook with the given cells; fails when its page asks for anything but 127.0.0.1."""
    path = path or jupyter.write(cells)
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if theme == "dark" else "light"
    )
    context.set_default_timeout(PATIENCE_MS)
    requested: list[str] = []
    context.on("request", lambda request: requested.append(request.url))
    page = context.new_page()
    page.on("websocket", lambda socket: requested.append(socket.url))
    try:
        base = f"http://127.0.0.1:{jupyter.port}"
        name = path.replace("/", "-").removesuffix(".ipynb")
        place = f"lab/workspaces/{name}/tree/{path}" if app == "lab" else f"notebooks/{path}"
        page.goto(f"{base}/{place}?token={jupyter.token}" + ("&reset" if app == "lab" else ""))
        expect(page.locator(".jp-Notebook")).to_be_visible(timeout=PATIENCE_MS)
        shown = OpenNotebook(page, jupyter, path)
        shown.look(theme, width)
        shown.wait_for_kernel()
        yield shown
        outside = sorted({u for u in requested if not _is_local(u)})
        assert not outside, f"the page asked for {outside}"
    finally:
        page.evaluate("() => window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.shutdown?.()")
        context.close()


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "about") or parts.hostname == "127.0.0.1"
