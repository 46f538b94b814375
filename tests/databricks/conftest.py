"""One Databricks workspace for all tests here, and how a user reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standins.azure import AzureStandIn
from tests.standins.databricks import Databricks

ADA = "ada@example.com"


@pytest.fixture
def signed_in(adb: Databricks, monkeypatch: pytest.MonkeyPatch) -> Databricks:
    """Return the workspace with Ada's token in the environment."""
    monkeypatch.setenv("DATABRICKS_HOST", adb.uri)
    monkeypatch.setenv("DATABRICKS_TOKEN", adb.token(ADA))
    return adb


@pytest.fixture
def both(
    signed_in: Databricks, azure: AzureStandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Return what links Ada's Databricks workspace and an Azure ML workspace, signed in to both."""
    from dbml_magics.core.azure import clouds, identity

    azure.install(monkeypatch, home.parent / "azure-home")
    identity._shared.clear()
    clouds._read.clear()
    yield {
        "databricks": "databricks",
        "azure": {
            "subscription": azure.subscription,
            "resource_group": azure.group,
            "workspace": azure.workspace,
        },
    }
    identity._shared.clear()


@pytest.fixture(autouse=True)
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the profiles are, a file of the test's own."""
    path = tmp_path / "databrickscfg"
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(path))
    return path
