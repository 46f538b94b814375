"""What Azure calls a workspace: its resource id, its tracking URI, and their parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from dbml_magics.common.hints import Argument

_WORKSPACE = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<group>[^/]+)"
    r"/providers/microsoft\.machinelearningservices/workspaces/(?P<name>[^/?]+)",
    re.IGNORECASE,
)
_SUBSCRIPTION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_GROUP = re.compile(r"[\w.()-]{1,90}(?<!\.)\Z")
# resource-limits-capacity.md and azureml-core's own check: 2-32 characters.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,31}\Z")


@dataclass(frozen=True)
class WorkspaceId:
    """An Azure ML workspace by subscription, resource group and name."""

    subscription: str
    group: str
    name: str

    @property
    def path(self) -> str:
        """Return the resource id, as Azure's clients write it."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"
        )

    @property
    def group_path(self) -> str:
        """Return the resource group's id."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    @property
    def studio_id(self) -> str:
        """Return what the studio's addresses call it (azureml-core's _portal.py)."""
        return f"/subscriptions/{self.subscription}/resourcegroups/{self.group}/workspaces/{self.name}"

    @property
    def options(self) -> dict[str, Argument]:
        """Return the options of a command that name it."""
        return {"subscription": self.subscription, "resource_group": self.group, "workspace": self.name}

    def uri(self, host: str) -> str:
        """Return its tracking URI, as ``Workspace.get_mlflow_tracking_uri`` gives it."""
        return f"azureml://{host}/mlflow/v2.0{self.path}"


def of_uri(uri: str) -> tuple[str, WorkspaceId] | None:
    """Return (host, workspace) of an ``azureml://`` tracking URI, or None where it names no workspace."""
    split = urlsplit(uri)
    found = _WORKSPACE.search(split.path)
    if split.scheme != "azureml" or not split.netloc or found is None:
        return None
    return split.netloc, WorkspaceId(found["subscription"], found["group"], found["name"])


def troubles(subscription: str, group: str, name: str) -> list[str]:
    """Return what is wrong with the three names, a line each."""
    found = []
    if not _SUBSCRIPTION.match(subscription):
        found.append(f"--subscription is {subscription!r}, and a subscription's id is a GUID")
    if not _GROUP.match(group):
        found.append(
            f"--resource-group is {group!r}: 1-90 letters, digits, _ - . ( ), not ending in a period"
        )
    if not _NAME.match(name):
        found.append(f"--workspace is {name!r}: 2-32 letters, digits, _ -, beginning with a letter or digit")
    return found
