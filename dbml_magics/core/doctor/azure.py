"""An Azure ML workspace beyond MLflow: its resource, what the user may do there, its storage, its links."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import requests

from dbml_magics.common.hints import Remedy
from dbml_magics.core import hosts
from dbml_magics.core.azure import permissions
from dbml_magics.core.azure.arm import Arm, WorkspaceProperties, properties_of
from dbml_magics.core.azure.diagnosis import Said
from dbml_magics.core.doctor.answering import CALL_S, not_fine, reach
from dbml_magics.errors import DbmlError
from dbml_magics.results.doctor import Finding

if TYPE_CHECKING:
    from dbml_magics.core.destinations.azureml import AzuremlWorkspace

__all__ = ["allowed", "checks", "may"]

_PERMISSIONS_API = "2022-04-01"
_RARE = ("%dbml link --create", "%dbml cleanup")  # what an owner does
_STORAGE_API = "2022-09-01"


def checks(workspace: AzuremlWorkspace) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
    """Return the checks of an Azure ML workspace, by name."""
    return [
        ("permissions", lambda: _permissions(workspace)),
        ("storage", lambda: _resource(workspace)),
        ("portal link", lambda: _portal_link(workspace)),
    ]


def _arm(workspace: AzuremlWorkspace) -> Arm:
    return Arm(workspace.sign_in, workspace.id.subscription)


# --- what the user may do


def allowed(workspace: AzuremlWorkspace) -> list[dict[str, list[str]]]:
    """Return the caller's permissions at a workspace, an entry a role, as Resource Manager lists them."""
    sign_in = workspace.sign_in
    response = hosts.session().get(
        f"{sign_in.cloud.resource_manager.rstrip('/')}{workspace.id.path}"
        "/providers/Microsoft.Authorization/permissions",
        params={"api-version": _PERMISSIONS_API},
        headers={"Authorization": f"Bearer {sign_in.get_token(sign_in.cloud.scope).token}"},
        timeout=CALL_S,
        allow_redirects=False,
    )
    response.raise_for_status()
    return list(response.json().get("value") or [])


def may(entries: list[dict[str, list[str]]], action: str) -> bool:
    """Tell whether one of the roles grants an action (``*`` in a role is a wildcard)."""

    def fits(patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)

    return any(fits(e.get("actions") or []) and not fits(e.get("notActions") or []) for e in entries)


def _permissions(workspace: AzuremlWorkspace) -> Iterator[Finding]:
    try:
        entries = allowed(workspace)
    except Exception as error:
        yield not_fine(workspace, "permissions", error, "warning")
        return
    fine: dict[str, None] = {}
    lacking: set[str] = set()
    for need in permissions.NEEDS:
        at_workspace = need.action.lower().startswith(f"{permissions.ML}/workspaces/".lower())
        if not at_workspace or need.command.startswith(_RARE):
            continue  # given elsewhere than at the workspace, where this question was asked
        if may(entries, need.action):
            fine[need.command] = None
            continue
        lacking.add(need.command)
        role, _ = need.role
        yield Finding(
            workspace.role,
            need.command,
            "broken" if need.command == "%dbml link" else "warning",
            f"not permitted to {need.what}: {need.action} is missing; the smallest role is {role}",
            permissions.assignment(role, workspace.id.path),
            "by an owner",
        )
    able = [command for command in fine if command not in lacking]
    if able:
        yield Finding(workspace.role, "permissions", cause=f"for {', '.join(able)}")


# --- the resource, its network and its storage


def _resource(workspace: AzuremlWorkspace) -> Iterator[Finding]:
    arm, read = _arm(workspace), f"{permissions.ML}/workspaces/read"
    try:
        found = arm.ask(lambda c: c.resources.get_by_id(workspace.id.path, "2022-05-01"), workspace.id, read)
    except DbmlError as error:
        yield not_fine(workspace, "resource", error, "warning")
        return
    if found is None:
        why = f"{workspace.id.name} is not in {workspace.id.group} (any more)"
        yield Finding(
            workspace.role, "resource", "broken", why, Remedy("link", help=True), "another workspace"
        )
        return
    properties = properties_of(found)
    yield _private_link(workspace, properties)
    yield from _storage(workspace, arm, properties.get("storageAccount"))


def _private_link(workspace: AzuremlWorkspace, properties: WorkspaceProperties) -> Finding:
    closed = str(properties.get("publicNetworkAccess", "Enabled")).lower() == "disabled"
    endpoints = properties.get("privateEndpointConnections") or []
    if closed:
        why = "public network access is disabled: it answers inside its virtual network alone"
        return Finding(workspace.role, "private link", cause=why)
    also = f"; {len(endpoints)} private endpoints beside it" if endpoints else ""
    return Finding(workspace.role, "private link", cause=f"not needed: open to public networks{also}")


def _storage(workspace: AzuremlWorkspace, arm: Arm, account: str | None) -> Iterator[Finding]:
    """Look at the storage account apart: metrics may pass while files are refused."""
    if not account:
        return
    name = account.rpartition("/")[2]
    blobs = f"https://{name}.blob.{workspace.sign_in.cloud.storage_suffix}/"
    try:
        found = arm.ask(
            lambda c: c.resources.get_by_id(account, _STORAGE_API),
            workspace.id,
            "Microsoft.Storage/storageAccounts/read",
        )
        if found is not None:
            blobs = ((found.properties or {}).get("primaryEndpoints") or {}).get("blob") or blobs
    except DbmlError:
        pass  # its usual address will do: reading the account is no right that logging needs
    findings = list(reach(workspace.role, f"storage {name}", blobs, again=2))
    if any(each.level == "broken" for each in findings):
        yield from findings
        return
    refused = _firewall(blobs)
    if refused is None:
        yield from findings
        return
    yield Finding(
        workspace.role,
        f"storage {name}",
        "broken",
        f"its firewall refuses this network ({refused}); metrics and params pass, files do not",
        f"az storage account network-rule add --account-name {name} --ip-address YOUR_IP",
        "by an owner, or work inside its network",
    )


def _firewall(blobs: str) -> str | None:
    """Return the code of a firewall's refusal, or None: anybody's request is refused, but otherwise so."""
    try:
        response = hosts.session().get(blobs, params={"comp": "list"}, timeout=CALL_S, allow_redirects=False)
    except requests.RequestException:
        return None
    said = Said.by(response.status_code, response.text)
    return said.code if said.status == 403 and said.code == "AuthorizationFailure" else None


def _portal_link(workspace: AzuremlWorkspace) -> Iterator[Finding]:
    linked = _arm(workspace).linked_in_portal(workspace.id)
    if linked is None:
        yield Finding(workspace.role, "portal link", cause="none: runs are there once")
        return
    yield Finding(
        workspace.role,
        "portal link",
        "warning",
        f"the Databricks workspace {linked} tracks here by itself: tracked to both, runs are there twice",
        Remedy("link", databricks="databricks", track="databricks"),
        "leaves it to the portal",
    )
