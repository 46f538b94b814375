"""Both workspaces, one user who is signed in to both, and readers who have never heard of a link."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.core.azure import clouds, identity
from tests.clouds.native import Reader
from tests.databricks.conftest import ADA
from tests.standins.azure import AzureStandIn
from tests.standins.databricks import Databricks

MODES = [
    ("both", "databricks"),
    ("both", "azureml"),
    ("both", "both"),
    ("azureml", "azureml"),
    ("databricks", "databricks"),
]
"""Where runs go, and where models are registered."""


class Clouds:
    """The two workspaces, and the words that link them."""

    def __init__(self, adb: Databricks, azure: AzureStandIn) -> None:
        self.adb, self.azure = adb, azure

    def words(self, track: str, registry: str) -> str:
        """Return the options of ``%dbml link``, of the workspaces that are used alone."""
        azure = self.azure
        named = f"--subscription {azure.subscription} --resource-group {azure.group}"
        named += f" --workspace {azure.workspace}"
        used = {track, registry}
        words = ["--databricks databricks"] if used & {"both", "databricks"} else []
        words += [named] if used & {"both", "azureml"} else []
        return " ".join([*words, f"--track {track} --registry {registry}"])

    def wishes(self, track: str = "both", registry: str = "both") -> dict[str, Any]:
        """Return the same as the arguments of the Python call."""
        azure, used = self.azure, {track, registry}
        found: dict[str, Any] = {"track": track, "registry": registry}
        if used & {"both", "databricks"}:
            found["databricks"] = "databricks"
        if used & {"both", "azureml"}:
            found["subscription"] = azure.subscription
            found["resource_group"] = azure.group
            found["workspace"] = azure.workspace
        return found


@pytest.fixture
def both(
    adb: Databricks, azure: AzureStandIn, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Clouds]:
    """Return the two workspaces, signed in to by this process's environment."""
    monkeypatch.setenv("DATABRICKS_HOST", adb.uri)
    monkeypatch.setenv("DATABRICKS_TOKEN", adb.token(ADA))
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
    azure.install(monkeypatch, tmp_path / "azure-home")
    identity._shared.clear()
    clouds._read.clear()
    yield Clouds(adb, azure)
    identity._shared.clear()


@pytest.fixture(scope="session")
def _reader(_azure_standin: AzureStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(_azure_standin.environment(tmp_path_factory.mktemp("reader")))
    yield reader
    reader.close()


@pytest.fixture
def reader(both: Clouds, _reader: Reader) -> Reader:
    """Return a process with MLflow's own client, signed in to both workspaces."""
    azure = both.azure
    _reader.sign_in(both.adb.uri, both.adb.token(ADA), azure.tracking_uri())
    return _reader
