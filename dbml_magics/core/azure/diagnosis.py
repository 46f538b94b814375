"""Diagnose Azure's refusals: the cause, the missing action and role, the remedy.

A workspace that refuses everything (signed out, no role, private link, deleted) is away: writes wait until it
is put right. Only a refusal of the one write is a refusal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException, RestException

from dbml_magics.common.hints import Remedy
from dbml_magics.core.azure import permissions
from dbml_magics.core.destinations.errors import Unavailable

if TYPE_CHECKING:
    import requests

    from dbml_magics.core.azure.identity import SignIn
    from dbml_magics.core.azure.names import WorkspaceId

_PRIVATE = re.compile(r"private (link|endpoint)|public network access|request from public network", re.I)
_UNREGISTERED = re.compile(r"not registered to use namespace '([^']+)'")
_PARENT = re.compile(r"parent resource '([^']+)'", re.I)
_GONE = re.compile(
    r"workspace (was )?not found|unable to find workspace|soft.?deleted|has been deleted", re.I
)


@dataclass(frozen=True)
class Said:
    """Status, error code and message of an answer of any Azure service."""

    status: int
    code: str
    message: str

    @classmethod
    def by(cls, status: int, body: str) -> Said:
        """Read a body: Resource Manager's, Azure ML's services', its MLflow's, or a storage account's XML."""
        try:
            body_fields = json.loads(body)
        except ValueError:
            return cls(status, _element("Code", body), _element("Message", body))
        if not isinstance(body_fields, dict):
            return cls(status, "", "")
        error = body_fields.get("error") or body_fields.get("Error")
        error = error if isinstance(error, dict) else {}
        code = str(body_fields.get("error_code") or error.get("code") or error.get("Code") or "")
        message = body_fields.get("message") or error.get("message") or error.get("Message") or ""
        said = [str(message), *details(error)]
        return cls(status, code, " ".join(" ".join(part for part in said if part).split()))


def details(error: Mapping[str, object], depth: int = 0) -> list[str]:
    """Return the codes and messages within an error: the outermost often says only that it failed."""
    found: list[str] = []
    listed = error.get("details")
    for each in listed if isinstance(listed, list) and depth < 5 else []:
        if isinstance(each, dict) and (each.get("code") or each.get("message")):
            found += [f"({each.get('code')}: {each.get('message')})", *details(each, depth + 1)]
    return found


def _element(name: str, xml: str) -> str:
    found = re.search(rf"<{name}>([^<]+)", xml)
    return found.group(1).strip() if found else ""


def judge(
    sign_in: SignIn, workspace: WorkspaceId, response: requests.Response, method: str, endpoint: str
) -> Exception | None:
    """Return the error behind a response other than 200, or None where its status is all there is."""
    away = kept_out(sign_in, workspace, response, method, endpoint)
    if away is not None:
        return away
    said = Said.by(response.status_code, response.text)
    if said.message and 400 <= said.status < 500 and said.status not in (408, 429) and said.code:
        # Azure ML's MLflow names its fields otherwise, and MLflow's client would show the whole body.
        refused: Exception = RestException({"error_code": said.code, "message": said.message})
        return refused if isinstance(refused, MlflowException) else None
    return None


def kept_out(
    sign_in: SignIn, workspace: WorkspaceId, response: requests.Response, method: str, endpoint: str
) -> Unavailable | None:
    """Return why the workspace refuses every request of this user, or None where it does not."""
    said = Said.by(response.status_code, response.text)
    away = trouble(said, workspace, permissions.action_of(method, endpoint))
    if away is not None and said.status == 401:
        sign_in.forget_token()
        away.remedies = tuple(sign_in.remedies())
    return away


def is_private(said: Said) -> bool:
    """Tell whether it is a private link that refuses: with 403, and by some gateways with 502."""
    return bool(_PRIVATE.search(said.message))


def trouble(said: Said, workspace: WorkspaceId, action: str) -> Unavailable | None:
    """Return why the workspace takes nothing from this user now, or None where it is another matter."""
    if is_private(said):
        return private_link(said, workspace)
    if said.status == 401:
        expired = "expir" in f"{said.code} {said.message}".lower()
        tenant = "tenant" in f"{said.code} {said.message}".lower()
        why = (
            "the sign-in has expired" if expired else "it is of another tenant" if tenant else "not signed in"
        )
        return Unavailable(f"{why} (401)", sent=False, denied=True)
    if said.status == 403:
        return no_role(said, workspace, action)
    parent = _PARENT.search(said.message) if said.code == "ParentResourceNotFound" else None
    misses_parent = parent is not None and parent[1].rpartition("/")[2].lower() == workspace.name.lower()
    if (said.status == 404 and _GONE.search(said.message)) or said.code in _NO_WORKSPACE or misses_parent:
        return gone(workspace)
    if "MissingSubscriptionRegistration" in said.code or _UNREGISTERED.search(said.message):
        return unregistered(said, workspace)
    return None


_NO_WORKSPACE = frozenset({"ResourceGroupNotFound", "SubscriptionNotFound", "WorkspaceNotFound"})


def private_link(said: Said, workspace: WorkspaceId) -> Unavailable:
    """Return that the workspace takes no requests from this network."""
    return Unavailable(
        f"refused from this network ({said.status}): the workspace is behind its private endpoint",
        sent=False,
        denied=True,
        remedies=(
            (
                Remedy("link", again=True),
                "from a machine in the workspace's virtual network, or",
            ),
            (
                f"az ml workspace update --name {workspace.name} --resource-group {workspace.group} "
                "--public-network-access Enabled",
                f"by an owner ({permissions.CONTRIBUTOR})",
            ),
        ),
    )


def no_role(said: Said, workspace: WorkspaceId, action: str) -> Unavailable:
    """Return which action is missing and the smallest role that has it."""
    action = permissions.action_in(said.message) or action
    role, where = permissions.smallest_role(action)
    scope = {
        "subscription": f"/subscriptions/{workspace.subscription}",
        "resource group": workspace.group_path,
    }
    return Unavailable(
        f"not permitted ({said.status}): {action} is missing; the smallest built-in role that has it is "
        f"{role}, on the {where}",
        sent=False,
        denied=True,
        remedies=(
            (permissions.assignment(role, scope.get(where, workspace.path)), "by an owner; then link again"),
            (Remedy("link", again=True), "a role that was given takes up to five minutes to count"),
        ),
    )


def gone(workspace: WorkspaceId) -> Unavailable:
    """Return that the workspace is not there (any more)."""
    return Unavailable(
        f"the workspace {workspace.name} is not in {workspace.group} (any more); it may be softly deleted",
        sent=False,
        denied=True,
        remedies=(
            (
                "https://portal.azure.com, Azure Machine Learning, Recently deleted",
                f"recovers it within 14 days ({permissions.CONTRIBUTOR} on the resource group), or",
            ),
            (Remedy("link", subscription="…", resource_group="…", workspace="…"), "another workspace"),
        ),
    )


def unregistered(said: Said, workspace: WorkspaceId) -> Unavailable:
    """Return that the subscription has not registered the provider."""
    found = _UNREGISTERED.search(said.message)
    namespace = found.group(1) if found else permissions.ML
    return Unavailable(
        f"the subscription is not registered to use {namespace}; that needs {namespace}/register/action "
        f"({permissions.CONTRIBUTOR} on the subscription)",
        sent=False,
        denied=True,
        remedies=(
            (
                f"az provider register --namespace {namespace} --wait "
                f"--subscription {workspace.subscription}",
                "once; then link again",
            ),
        ),
    )


def storage(said: Said, account: str, writing: bool) -> Unavailable | None:
    """Return why a storage account refuses a blob, or None where it is another matter.

    A firewall answers AuthorizationFailure, a missing role AuthorizationPermissionMismatch, a link that has
    run out AuthenticationFailed (learn.microsoft.com, rest/api/storageservices/common-rest-api-error-codes).
    """
    if said.code in ("AuthorizationFailure", "IpAuthorizationError", "PublicAccessNotPermitted"):
        return Unavailable(
            f"the storage account {account} refuses this network (its firewall); metrics and params pass",
            sent=False,
            denied=True,
            apart=True,
            remedies=(
                (
                    f"az storage account network-rule add --account-name {account} --ip-address YOUR_IP",
                    f"by an owner ({permissions.CONTRIBUTOR} on it), or work inside its network",
                ),
            ),
        )
    if said.code in ("AuthorizationPermissionMismatch", "AuthorizationResourceTypeMismatch"):
        verb = "write" if writing else "read"
        action = f"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/{verb}"
        role, _ = permissions.smallest_role(action)
        return Unavailable(
            f"not permitted to {verb} files in the storage account {account}: {action} is missing; the "
            f"smallest built-in role that has it is {role}, on the storage account",
            sent=False,
            denied=True,
            apart=True,
            remedies=((permissions.assignment(role, f"(the storage account {account})"), "by an owner"),),
        )
    return None
