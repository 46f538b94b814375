"""A made-up session, and a shell in which the extension is loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import IPython
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import dbml_magics
from tests.frontend.fakes import FakeSession


class Shell:
    """A shell whose cells raise what fails in them."""

    def __init__(self, ip: Any) -> None:
        self.ip = ip

    def run(self, cell: str) -> Any:
        """Run a cell; return the value of its last expression, or raise its error."""
        result = self.ip.run_cell(cell)
        result.raise_error()
        return result.result

    def __getitem__(self, name: str) -> Any:
        return self.ip.user_ns[name]


@pytest.fixture(scope="module")
def _ip() -> Iterator[Any]:
    InteractiveShell.clear_instance()
    # A shell that is reset collects garbage: a second for each test where MLflow and Spark are loaded, unless
    # what is there already is set apart.
    gc.freeze()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor" if IPython.version_info[0] >= 9 else "NoColor"
    ip = InteractiveShell.instance(config=config)
    yield ip
    InteractiveShell.clear_instance()
    gc.unfreeze()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Return a linked session in the place of the process's own."""
    session = FakeSession()
    session.install(monkeypatch.setattr)
    return session


@pytest.fixture
def shell(_ip: Any, fake: FakeSession) -> Iterator[Shell]:
    """Return a shell in which the extension is loaded."""
    _ip.reset(new_session=False)
    dbml_magics.load_ipython_extension(_ip)
    _ip.user_ns["fake"] = fake
    yield Shell(_ip)
    dbml_magics.unload_ipython_extension(_ip)
