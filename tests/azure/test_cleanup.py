"""``%dbml cleanup`` of workspaces and resource groups: asked of Resource Manager, and checked there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import dbml_magics as dbml
from dbml_magics.core import remembered_links
from dbml_magics.core import session as sessions
from dbml_magics.errors import BadCommand, CleanupIncomplete, NotConfirmed, RunActive
from dbml_magics.results.cleanup import CleanupResult
from tests.standins.azure import AzureStandIn
from tests.standins.azure.state import ADB, ADB_GROUP

STORAGE = "Microsoft.Storage/storageAccounts"


@pytest.fixture
def linked(signed_in: AzureStandIn, names: dict[str, Any]) -> Iterator[AzureStandIn]:
    """Return Azure, with a link to its workspace alone."""
    dbml.link(track="azureml", registry="azureml", **names)
    yield signed_in
    if sessions.current().linked:
        sessions.current().unlink()


def cleaned(kind: str, name: str, **more: Any) -> CleanupResult:
    return dbml.cleanup(kind, name, **more)


def there(azure: AzureStandIn, path: str) -> bool:
    """Ask Resource Manager whether a resource is there, without the package."""
    response = requests.get(
        f"{azure.uri}{path}?api-version=2022-05-01",
        headers={"Authorization": f"Bearer {azure.token()}"},
        verify=str(azure.bundle),
        timeout=20,
    )
    assert response.status_code in (200, 404), response.text
    return response.status_code == 200


def own(azure: AzureStandIn) -> dict[str, str]:
    """Return the workspace's own resources: the word for each, and its id."""
    response = requests.get(
        f"{azure.uri}{azure.scope()}?api-version=2022-05-01",
        headers={"Authorization": f"Bearer {azure.token()}"},
        verify=str(azure.bundle),
        timeout=20,
    )
    payload = response.json()["properties"]
    return {key: payload[key] for key in ("storageAccount", "keyVault", "containerRegistry")}


def test_a_workspace_goes_and_its_link_with_it_while_its_storage_stays(linked: AzureStandIn) -> None:
    resources = own(linked)
    shown = cleaned("workspace", linked.workspace, dry_run=True)
    assert [i.name for i in shown.of("to go")] == [linked.workspace]
    storage = resources["storageAccount"].rpartition("/")[2]
    assert any(storage in line and "files of runs and models" in line for line in shown.stays)
    with pytest.raises(NotConfirmed, match=r"MachineLearningServices/workspaces aml-ws"):
        cleaned("workspace", linked.workspace)
    assert there(linked, linked.scope())
    done = cleaned("workspace", linked.workspace, confirm=linked.workspace)
    assert [i.name for i in done.deleted] == [linked.workspace]
    assert not there(linked, linked.scope())
    assert there(linked, resources["storageAccount"])
    assert not sessions.current().linked
    assert not remembered_links.is_remembered(str(Path.cwd()))
    assert any(note.startswith("unlinked") for note in done.notes)


def test_what_a_workspace_leaned_on_goes_when_it_is_named(linked: AzureStandIn) -> None:
    resources = own(linked)
    registry = resources["containerRegistry"].rpartition("/")[2]
    with pytest.raises(BadCommand, match="none of the workspace's own resources"):
        cleaned("workspace", linked.workspace, also=("another",))
    done = cleaned("workspace", linked.workspace, also=(registry,), confirm=linked.workspace)
    assert [i.name for i in done.deleted] == [linked.workspace, registry]
    assert not there(linked, resources["containerRegistry"])


def test_a_failure_is_told_with_the_role_and_the_same_line_goes_on(linked: AzureStandIn) -> None:
    resources = own(linked)
    storage = resources["storageAccount"].rpartition("/")[2]
    with linked.deny(f"{STORAGE}/delete"), pytest.raises(CleanupIncomplete) as caught:
        cleaned("workspace", linked.workspace, also=(storage,), confirm=linked.workspace)
    result: Any = caught.value.result
    assert [i.name for i in result.deleted] == [linked.workspace]
    assert f"{STORAGE}/delete" in result.failed[0].why
    assert "az role assignment create" in caught.value.remedies[0][0]
    assert there(linked, resources["storageAccount"])


def test_a_refusal_deletes_nothing_and_keeps_the_link(linked: AzureStandIn) -> None:
    action = "Microsoft.MachineLearningServices/workspaces/delete"
    with linked.deny(action), pytest.raises(CleanupIncomplete):
        cleaned("workspace", linked.workspace, confirm=linked.workspace)
    assert there(linked, linked.scope())
    assert sessions.current().linked


def test_an_active_run_keeps_its_workspace(linked: AzureStandIn, experiment_name: str) -> None:
    import mlflow

    dbml.experiment(experiment_name)
    with mlflow.start_run(), pytest.raises(RunActive):
        cleaned("workspace", linked.workspace, confirm=linked.workspace)
    dbml.sync(timeout=60)


def test_a_group_with_other_resources_is_refused_until_each_is_named(linked: AzureStandIn) -> None:
    with pytest.raises(NotConfirmed) as caught:
        cleaned("resource-group", linked.group, confirm=linked.group)
    said = "\n".join(caught.value.lines())
    assert f"{ADB} (Microsoft.Databricks/workspaces)" in said
    assert f"--also {ADB}" in said
    assert there(linked, linked.scope())
    with pytest.raises(BadCommand, match="is not in the resource group"):
        cleaned("resource-group", linked.group, also=("nothing-of-that-name",))
    shown = cleaned("resource-group", linked.group, also=(ADB,), dry_run=True)
    named = {i.name for i in shown}
    assert {linked.group, linked.workspace, ADB, ADB_GROUP, "dbmanagedidentity"} <= named
    done = cleaned("resource-group", linked.group, also=(ADB,), confirm=linked.group)
    assert linked.group in {i.name for i in done.deleted}
    assert not there(linked, f"/subscriptions/{linked.subscription}/resourceGroups/{linked.group}")
    assert not sessions.current().linked
    again = cleaned("resource-group", linked.group, confirm=linked.group, subscription=linked.subscription)
    assert "it is gone already" in str(again)


def test_a_managed_group_is_its_owners(linked: AzureStandIn) -> None:
    with pytest.raises(BadCommand, match="managed resource group of the Databricks workspace"):
        cleaned("resource-group", ADB_GROUP, confirm=ADB_GROUP)
