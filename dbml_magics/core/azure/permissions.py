"""Which Azure action a call needs, and the smallest built-in role that has it.

The source is Microsoft's "Manage access to Azure Machine Learning workspaces" (learn.microsoft.com,
azure/machine-learning/how-to-assign-roles) and the definitions of the built-in roles
(azure/role-based-access-control/built-in-roles): AzureML Data Scientist has every action below a workspace
but compute, keys and the workspace itself; Reader has every read.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

ML = "Microsoft.MachineLearningServices"
_WS = f"{ML}/workspaces"

DATA_SCIENTIST = "AzureML Data Scientist"
READER = "Reader"
CONTRIBUTOR = "Contributor"

# The first pattern that fits an action says its role and where it is given; a * stands for anything.
_ROLES: tuple[tuple[str, str, str], ...] = (
    ("*/register/action", CONTRIBUTOR, "subscription"),
    (f"{_WS}/write", CONTRIBUTOR, "resource group"),
    (f"{_WS}/delete", CONTRIBUTOR, "resource group"),
    (f"{_WS}/listkeys/action", CONTRIBUTOR, "workspace"),
    (f"{_WS}/computes*/read", READER, "workspace"),
    (f"{_WS}/computes/*", "AzureML Compute Operator", "workspace"),
    (f"{_WS}/read", READER, "workspace"),
    (f"{_WS}/*/read", READER, "workspace"),
    (f"{_WS}/*", DATA_SCIENTIST, "workspace"),
    (f"{ML}/locations/*", READER, "subscription"),
    ("microsoft.storage/*/blobs/read", "Storage Blob Data Reader", "storage account"),
    ("microsoft.storage/*/blobs/*", "Storage Blob Data Contributor", "storage account"),
    ("microsoft.databricks/workspaces/read", READER, "Databricks workspace"),
    ("microsoft.resources/*/read", READER, "subscription"),
    ("microsoft.resources/*", CONTRIBUTOR, "subscription"),
    ("*/read", READER, "resource group"),
    ("*", CONTRIBUTOR, "resource group"),
)

# What MLflow's REST calls of Azure ML need, by their first two words; the rest of a family needs its write.
_CALLS: tuple[tuple[str, str], ...] = (
    ("experiments/delete", "experiments/delete"),
    ("experiments/get*", "experiments/read"),
    ("experiments/search", "experiments/read"),
    ("experiments/*", "experiments/write"),
    ("runs/delete", "experiments/runs/delete"),
    ("runs/get", "experiments/runs/read"),
    ("runs/search", "experiments/runs/read"),
    ("metrics/*", "experiments/runs/read"),
    ("runs/*", "experiments/runs/write"),
    ("logged-models*", "experiments/runs/write"),
    ("registered-models/get*", "models/read"),
    ("registered-models/search", "models/read"),
    ("registered-models/*", "models/write"),
    ("model-versions/delete", "models/versions/delete"),
    ("model-versions/get*", "models/versions/read"),
    ("model-versions/search", "models/versions/read"),
    ("model-versions/*", "models/versions/write"),
)

_NAMED = re.compile(r"perform action '([^']+)'")


@dataclass(frozen=True)
class Need:
    """What a command needs: purpose, Azure action, smallest role; docs/permissions.md sums it up."""

    command: str
    what: str
    action: str

    @property
    def role(self) -> tuple[str, str]:
        """Return (role, where it is given)."""
        return smallest_role(self.action)


NEEDS: tuple[Need, ...] = (
    Need("%dbml link", "find the workspace", f"{_WS}/read"),
    Need("%dbml link", "read runs, experiments, models", f"{_WS}/experiments/runs/read"),
    Need("%dbml link --create", "make the workspace", f"{_WS}/write"),
    Need(
        "%dbml link --create",
        "make its resource group",
        "Microsoft.Resources/subscriptions/resourceGroups/write",
    ),
    Need("%dbml link --create", "register Azure ML once in a subscription", f"{ML}/register/action"),
    Need("%dbml cleanup workspace", "delete the workspace", f"{_WS}/delete"),
    Need(
        "%dbml cleanup resource-group",
        "delete a resource group with all in it",
        "Microsoft.Resources/subscriptions/resourceGroups/delete",
    ),
    Need("%%track, mlflow.log_*", "log runs", f"{_WS}/experiments/runs/write"),
    Need("%dbml experiment", "make experiments", f"{_WS}/experiments/write"),
    Need("mlflow.log_artifact", "register a run's files", f"{_WS}/experiments/runs/write"),
    Need(
        "mlflow.log_artifact",
        "write them, where links carry the caller's own rights",
        "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
    ),
    Need("%dbml register", "register models", f"{_WS}/models/write"),
    Need("%dbml models", "read the registry", f"{_WS}/models/read"),
    Need("%dbml deploy --to online", "make managed endpoints", f"{_WS}/onlineEndpoints/write"),
    Need("%dbml deploy --to online", "make their deployments", f"{_WS}/onlineEndpoints/deployments/write"),
    Need("%dbml deploy --to aci", "make web services", f"{_WS}/services/aci/write"),
    Need("%dbml endpoints", "read managed endpoints", f"{_WS}/onlineEndpoints/read"),
    Need("%dbml endpoints", "read web services", f"{_WS}/services/read"),
    Need("%dbml invoke", "read an endpoint's key", f"{_WS}/onlineEndpoints/listKeys/action"),
    Need("%dbml logs", "read a container's log", f"{_WS}/onlineEndpoints/deployments/getLogs/action"),
    Need("%dbml undeploy", "delete managed endpoints", f"{_WS}/onlineEndpoints/delete"),
)


def action_in(message: str) -> str | None:
    """Return the action that Azure's own refusal names, or None."""
    found = _NAMED.search(message)
    return found.group(1) if found else None


def action_of(method: str, endpoint: str) -> str:
    """Return the action that a call of Azure ML's services needs, for a refusal that does not name it."""
    path = endpoint.partition("?")[0].lower()
    call = path.partition("/mlflow/")[2].strip("/") if "/api/2.0/mlflow/" in path else ""
    if call == "registered-models/alias" and method == "GET":
        return f"{_WS}/models/read"
    for pattern, needed in _CALLS:
        if call and fnmatch.fnmatchcase(call, pattern):
            return f"{_WS}/{needed}"
    if "/artifacts" in path:
        return f"{_WS}/experiments/runs/{'read' if method == 'GET' else 'write'}"
    return f"{_WS}/experiments/runs/{'read' if method in ('GET', 'HEAD') else 'write'}"


def smallest_role(action: str) -> tuple[str, str]:
    """Return (the smallest built-in role that has an action, where it is given)."""
    for pattern, role, where in _ROLES:
        if fnmatch.fnmatchcase(action.lower(), pattern.lower()):
            return role, where
    raise AssertionError("the last pattern fits everything")


def assignment(role: str, scope: str) -> str:
    """Return the az command with which an owner assigns a role."""
    return f'az role assignment create --role "{role}" --assignee USER --scope {scope}'
