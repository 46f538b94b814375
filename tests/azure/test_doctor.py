"""``%dbml doctor`` at Azure ML: sign-in, permissions, storage, private link and the portal's link."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.doctor import imports
from dbml_magics.results.doctor import DoctorResult, Finding
from tests.standins.azure import AzureStandIn
from tests.standins.azure.login import CLIENT_SECRET
from tests.standins.azure.state import ADB

ML = "Microsoft.MachineLearningServices"
API = "?api-version=2022-05-01"


@pytest.fixture
def linked(
    signed_in: AzureStandIn, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureStandIn]:
    """Return Azure, with a link to its workspace alone."""
    monkeypatch.setattr(imports, "MODULES", {"mlflow": "mlflow"})
    dbml.link(track="azureml", registry="azureml", **names)
    yield signed_in
    sessions.current().unlink()


def about(result: DoctorResult, what: str) -> Finding:
    found = [f for f in result if f.area == "azureml" and f.what == what]
    assert len(found) == 1, f"{what}: {found}\n{result}"
    return found[0]


def changed(azure: AzureStandIn, path: str, body: dict[str, Any]) -> None:
    """Change a resource as its owner would in the portal."""
    import requests

    response = requests.patch(
        f"{azure.uri}{path}{API}",
        json=body,
        headers={"Authorization": f"Bearer {azure.token()}"},
        verify=str(azure.bundle),
        timeout=20,
    )
    assert response.ok, response.text


def test_all_is_fine_and_nothing_was_changed(linked: AzureStandIn) -> None:
    linked.proxy.forget()
    result = dbml.doctor()
    assert not result.broken, str(result)
    assert "service principal" in about(result, "sign-in").cause
    for what in ("API", "registry", "network", "clock", "permissions", "private link", "portal link"):
        assert about(result, what).level == "fine", str(result)
    able = about(result, "permissions").cause
    assert "%%track" in able
    assert "%dbml register" in able
    assert about(result, _storage(result)).milliseconds
    assert CLIENT_SECRET not in result.json()
    writes = linked.proxy.requests(method="(PUT|PATCH|DELETE)")
    assert not writes, "the doctor changes nothing"


def _storage(result: DoctorResult) -> str:
    return next(f.what for f in result if f.what.startswith("storage "))


def test_a_missing_role_is_named_for_the_command_that_needs_it(linked: AzureStandIn) -> None:
    with linked.deny(f"{ML}/workspaces/models/write"):
        result = dbml.doctor()
    missing = about(result, "%dbml register")
    assert missing.level == "warning"
    assert f"{ML}/workspaces/models/write is missing" in missing.cause
    assert missing.command.startswith('az role assignment create --role "AzureML Data Scientist"')
    assert "%dbml register" not in about(result, "permissions").cause


def test_a_storage_firewall_is_told_apart_from_the_api(linked: AzureStandIn) -> None:
    with linked.set(storage_firewall=True):
        result = dbml.doctor()
    closed = about(result, _storage(result))
    assert closed.level == "broken"
    assert "its firewall refuses this network" in closed.cause
    assert "network-rule add" in closed.command
    assert about(result, "API").level == "fine"


def test_a_private_workspace_and_a_link_of_the_portal_are_said(linked: AzureStandIn) -> None:
    adb = f"/subscriptions/{linked.subscription}/resourceGroups/{linked.group}/providers/"
    adb += f"Microsoft.Databricks/workspaces/{ADB}"
    parameters = {"amlWorkspaceId": {"value": linked.scope()}}
    changed(linked, adb, {"properties": {"parameters": parameters}})
    changed(linked, linked.scope(), {"properties": {"publicNetworkAccess": "Disabled"}})
    with linked.set(private_link=True):
        result = dbml.doctor()
    assert about(result, "API").level == "broken"
    assert "private endpoint" in about(result, "API").cause
    assert "public network access is disabled" in about(result, "private link").cause
    twice = about(result, "portal link")
    assert twice.level == "warning"
    assert ADB in twice.cause
    assert "--track databricks" in twice.command
