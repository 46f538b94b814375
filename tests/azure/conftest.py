"""Azure on this machine, signed in to by the environment, and a folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.azure import clouds, identity
from tests.azure import serving
from tests.standins.azure import AzureStandIn


@pytest.fixture
def signed_in(azure: AzureStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AzureStandIn]:
    """Return Azure, with a service principal in this process's environment."""
    azure.install(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("DBML_HOME", str(tmp_path / "dbml"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    identity._shared.clear()  # each test's environment signs in anew
    clouds._read.clear()
    yield azure
    identity._shared.clear()


@pytest.fixture
def names(azure: AzureStandIn) -> dict[str, Any]:
    """Return the three names of the workspace, as the link takes them."""
    return {"subscription": azure.subscription, "resource_group": azure.group, "workspace": azure.workspace}


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """Return two fitted models that differ by ten."""
    return serving.fitted()


@pytest.fixture
def wine(signed_in: AzureStandIn, names: dict[str, Any], models: list[Any]) -> Iterator[list[Any]]:
    """Link to Azure ML alone, where the two models are versions 1 and 2 of ``served-wine``."""
    session = sessions.current()
    dbml.link(track="azureml", registry="azureml", **names)
    serving.register(models)
    yield models
    session.unlink()


@pytest.fixture
def shell(signed_in: AzureStandIn) -> Iterator[Any]:
    """Return a shell with the extension loaded, at Azure on this machine."""
    config = Config()
    config.HistoryManager.enabled = False
    found = InteractiveShell(config=config)
    found.run_line_magic("load_ext", "dbml_magics")
    yield found
    found.run_line_magic("unload_ext", "dbml_magics")
