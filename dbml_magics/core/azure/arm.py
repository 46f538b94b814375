"""Azure Resource Manager: find a workspace, explain why one is missing.

Everything goes through azure-mgmt-resource with the link's own sign-in, once a request: what fails is said at
once, with the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypedDict, TypeVar
from urllib.parse import urlsplit

import requests

from dbml_magics.common.hints import Remedy, amended, corrected
from dbml_magics.core import hosts
from dbml_magics.core.azure import diagnosis, permissions
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.errors import (
    BadLink,
    DbmlError,
    NotPermitted,
    WorkspaceNotFound,
    WorkspaceUnreachable,
)

if TYPE_CHECKING:
    from azure.core.pipeline import PipelineRequest
    from azure.mgmt.resource import ResourceManagementClient
    from azure.mgmt.resource.resources.models import GenericResource, ResourceGroup

    from dbml_magics.core.azure.identity import SignIn

T = TypeVar("T")

TIMEOUT_S = 20.0
ML_API = "2022-05-01"
_DATABRICKS = "Microsoft.Databricks/workspaces"


class WorkspaceProperties(TypedDict, total=False):
    """The properties of an Azure ML workspace in Resource Manager that this package reads."""

    applicationInsights: str
    containerRegistry: str
    discoveryUrl: str
    keyVault: str
    managedNetwork: Mapping[str, object]
    mlFlowTrackingUri: str
    privateEndpointConnections: list[object]
    publicNetworkAccess: str
    storageAccount: str
    tenantId: str


@dataclass(frozen=True)
class Found:
    """A workspace as Resource Manager and its own discovery show it."""

    id: WorkspaceId
    host: str
    studio: str | None
    location: str = ""
    tenant: str | None = None

    @property
    def uri(self) -> str:
        """Return its tracking URI."""
        return self.id.uri(self.host)


def client_settings(sign_in: SignIn) -> dict[str, object]:
    """Return how azure-mgmt-resource's clients ask: the cloud's own host, once, following no redirect."""
    host = sign_in.cloud.resource_manager
    return {
        "base_url": host,
        "credential_scopes": [sign_in.cloud.scope],
        "retry_total": 0,
        "permit_redirects": False,
        "proxies": hosts.past_proxies(host) or None,
        "connection_timeout": TIMEOUT_S,
        "read_timeout": TIMEOUT_S,
        "raw_request_hook": partial(_stay_at, host),
    }


def _stay_at(host: str, request: PipelineRequest) -> None:
    """Refuse to go on elsewhere, with our token, where an answer names another host for an operation."""
    from azure.core.exceptions import ServiceRequestError

    if not is_own_host(host, request.http_request.url):
        raise ServiceRequestError(
            f"it names another host to go on at, {urlsplit(request.http_request.url).netloc}"
        )


def is_own_host(host: str, url: str) -> bool:
    """Tell whether an address is the cloud's Resource Manager, or that of one of its regions."""
    own, asked = urlsplit(host), urlsplit(url)
    regional = (asked.hostname or "").endswith(f".{own.hostname}") and asked.scheme == own.scheme
    return (asked.scheme, asked.netloc) == (own.scheme, own.netloc) or regional


class Arm:
    """The resource manager, for one subscription and one sign-in."""

    def __init__(self, sign_in: SignIn, subscription: str) -> None:
        self.sign_in = sign_in
        self.subscription = subscription
        self._client: ResourceManagementClient | None = None

    @property
    def client(self) -> ResourceManagementClient:
        """Return azure-mgmt-resource's client."""
        if self._client is None:
            from azure.mgmt.resource import ResourceManagementClient

            self._client = ResourceManagementClient(
                self.sign_in, self.subscription, **client_settings(self.sign_in)
            )
        return self._client

    def ask(
        self, question: Callable[[ResourceManagementClient], T], workspace: WorkspaceId, action: str
    ) -> T | None:
        """Ask once; None where it does not exist. Raises NotPermitted, WorkspaceUnreachable, BadLink."""
        from azure.core.exceptions import AzureError, HttpResponseError

        try:
            return question(self.client)
        except Unavailable as error:  # of the sign-in
            raise as_error(error, workspace) from error
        except HttpResponseError as error:
            said = diagnosis.Said.by(error.status_code or 0, error.response.text() if error.response else "")
            if said.status == 404 and said.code != "SubscriptionNotFound":
                return None
            if said.code in ("SubscriptionNotFound", "InvalidSubscriptionId"):
                raise self.no_subscription(workspace) from error
            away = diagnosis.trouble(said, workspace, action)
            if away is None:
                raise BadLink(f"Azure refused it ({said.code or said.status}): {said.message}") from error
            raise as_error(away, workspace) from error
        except AzureError as error:
            classified = classify_error(error)
            reason = classified.reason if isinstance(classified, Unavailable) else str(classified)
            raise WorkspaceUnreachable(
                f"Azure Resource Manager ({self.sign_in.cloud.resource_manager}) does not answer: "
                f"{reason[:160]}{hosts.through(self.sign_in.cloud.resource_manager)}.",
                remedies=[
                    (
                        f"curl -sSI {self.sign_in.cloud.resource_manager}",
                        "from this machine: is it reachable?",
                    ),
                    (
                        amended("link", "…", cloud="NAME"),
                        "if the workspace is in another cloud",
                    ),
                ],
            ) from error

    def no_subscription(self, workspace: WorkspaceId) -> DbmlError:
        """Return that the subscription is not there for this sign-in."""
        return WorkspaceNotFound(
            f"no subscription {workspace.subscription} for this sign-in ({self.sign_in.description}).",
            remedies=[
                ("az account list --output table", "lists those that az's sign-in sees"),
                ("AZURE_TENANT_ID=…", "in the environment, if the subscription is of another tenant"),
            ],
        )

    # --- finding

    def find(self, workspace: WorkspaceId) -> Found:
        """Return the workspace. Raises WorkspaceNotFound (suggesting near names), NotPermitted."""
        read = f"{permissions.ML}/workspaces/read"
        resource = self.ask(lambda c: c.resources.get_by_id(workspace.path, ML_API), workspace, read)
        if resource is None:
            raise self._not_found(workspace)
        return found(workspace, properties_of(resource), str(resource.location or ""), self.sign_in)

    def _not_found(self, workspace: WorkspaceId) -> DbmlError:
        """Return why there is no such workspace: the two usual mistakes, a deleted one, a near name."""
        group = self.group(workspace)
        managed = managed_by_databricks(group)
        others = self._machine_learning_workspaces(workspace)
        remedies = [
            (corrected(Remedy("link", **w.options), **w.options), "") for w in _nearest(workspace, others)
        ]
        if managed is not None:
            return WorkspaceNotFound(
                f"{workspace.group} is the managed resource group of the Databricks workspace {managed}: "
                "nothing of yours can be in it. --resource-group is the Azure ML workspace's own.",
                remedies=remedies
                or [("az ml workspace list --output table", "lists the Azure ML workspaces")],
            )
        if self._is_databricks(workspace):
            return WorkspaceNotFound(
                f"{workspace.name} is a Databricks workspace; --workspace is the Azure ML workspace's name.",
                remedies=remedies
                or [("az ml workspace list --output table", "lists the Azure ML workspaces")],
            )
        create = (
            corrected(Remedy("link", **workspace.options, create=True), create=True),
            "makes it, after showing what",
        )
        if group is None:
            return WorkspaceNotFound(
                f"no resource group {workspace.group} in the subscription {workspace.subscription}.",
                remedies=[*remedies, create],
            )
        return WorkspaceNotFound(
            f"no Azure ML workspace {workspace.name} in {workspace.group}; a deleted one keeps its name for "
            "14 days and can be recovered in the portal.",
            remedies=[*remedies, create],
        )

    def group(self, workspace: WorkspaceId) -> ResourceGroup | None:
        """Return the workspace's resource group, or None. Raises as :meth:`ask`."""
        return self.ask(
            lambda c: c.resource_groups.get(workspace.group),
            workspace,
            "Microsoft.Resources/subscriptions/resourceGroups/read",
        )

    def _listed(self, workspace: WorkspaceId, kind: str) -> list[GenericResource]:
        """Return the subscription's resources of a type, as far as this sign-in may see them."""
        try:
            listed = self.ask(
                lambda c: list(c.resources.list(filter=f"resourceType eq '{kind}'")),
                workspace,
                f"{kind}/read",
            )
        except DbmlError:
            return []
        return listed or []

    def _machine_learning_workspaces(self, workspace: WorkspaceId) -> list[WorkspaceId]:
        listed = self._listed(workspace, f"{permissions.ML}/workspaces")
        return [WorkspaceId(self.subscription, str(r.id).split("/")[4], str(r.name)) for r in listed]

    def _is_databricks(self, workspace: WorkspaceId) -> bool:
        return any(
            str(r.name).lower() == workspace.name.lower() for r in self._listed(workspace, _DATABRICKS)
        )

    def linked_in_portal(self, workspace: WorkspaceId) -> str | None:
        """Return the name of the Databricks workspace that the portal linked to this one, or None.

        The link is a parameter of the Databricks workspace (ARM schema of Microsoft.Databricks/workspaces).
        """
        for each in self.databricks_workspaces(workspace):
            parameters = (each.properties or {}).get("parameters") or {}
            linked = (parameters.get("amlWorkspaceId") or {}).get("value")
            if str(linked or "").lower() == workspace.path.lower():
                return str(each.name)
        return None

    def databricks_workspaces(self, workspace: WorkspaceId) -> Iterator[GenericResource]:
        """Yield the subscription's Databricks workspaces that this sign-in may read, some 20 of them."""
        for listed in self._listed(workspace, _DATABRICKS)[:20]:
            try:
                each = self.ask(
                    lambda c, i=listed.id: c.resources.get_by_id(i, "2023-02-01"),  # type: ignore[misc]
                    workspace,
                    f"{_DATABRICKS}/read",
                )
            except DbmlError:
                continue
            if each is not None:
                yield each


def properties_of(workspace: GenericResource) -> WorkspaceProperties:
    """Return the properties of an Azure ML workspace's resource."""
    properties: WorkspaceProperties = workspace.properties
    return properties or {}


def found(workspace: WorkspaceId, properties: WorkspaceProperties, location: str, sign_in: SignIn) -> Found:
    """Return a workspace's host and studio, from its own properties and its discovery."""
    discovered = discovery(properties.get("discoveryUrl"))
    host = _host(discovered.get("api")) or _host(properties.get("mlFlowTrackingUri"))
    if host is None:
        raise WorkspaceUnreachable(
            f"the workspace {workspace.name} does not say where its services are: its discovery is silent.",
            remedies=[
                (Remedy("link", azureml="azureml://…"), "the URI that ws.get_mlflow_tracking_uri() prints")
            ],
        )
    studio = discovered.get("studio") or sign_in.cloud.studio
    return Found(workspace, host, studio, location, properties.get("tenantId"))


def discovery(url: object) -> dict[str, str]:
    """Return a workspace's services by name (no token is asked for), or nothing where none answers."""
    if not isinstance(url, str) or not url.startswith("https://"):
        return {}
    try:
        services = hosts.session().get(url, timeout=TIMEOUT_S).json()
    except (requests.RequestException, ValueError):
        return {}
    return (
        {k: v.rstrip("/") for k, v in services.items() if isinstance(v, str)}
        if isinstance(services, dict)
        else {}
    )


def _host(url: str | None) -> str | None:
    return str(url).partition("://")[2].partition("/")[0] or None if url else None


def managed_by_databricks(group: ResourceGroup | None) -> str | None:
    """Return the name of the Databricks workspace that owns a resource group, or None."""
    owner = str(getattr(group, "managed_by", None) or "")
    return owner.rpartition("/")[2] if f"/{_DATABRICKS}/".lower() in owner.lower() else None


def _nearest(workspace: WorkspaceId, others: Sequence[WorkspaceId]) -> list[WorkspaceId]:
    near = set(difflib.get_close_matches(workspace.name, [w.name for w in others], n=2, cutoff=0.6))
    likely = [w for w in others if w.group.lower() == workspace.group.lower() or w.name in near]
    return (likely or list(others))[:3]


def as_error(away: Unavailable, workspace: WorkspaceId) -> DbmlError:
    """Return why Azure takes nothing from this user, as an error of a command."""
    if away.denied:
        return NotPermitted(
            f"Azure, for the workspace {workspace.name}: {away.reason}.", remedies=away.remedies
        )
    return WorkspaceUnreachable(f"the workspace {workspace.name} is {away.reason}.", remedies=away.remedies)
