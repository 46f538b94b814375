"""What the stand-in knows: subscriptions, resources, workspaces, and how the service behaves today."""

from __future__ import annotations

import fnmatch
import itertools
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.standins.azure.web import ML, arm_refusal

__all__ = [
    "ADB",
    "ADB_GROUP",
    "GROUP",
    "LIMITS",
    "LOCATION",
    "OTHER_SUBSCRIPTION",
    "SUBSCRIPTION",
    "SUFFIX",
    "TENANT",
    "WORKSPACE_NAME",
    "Denial",
    "RunBook",
    "State",
    "Switches",
    "Workspace",
]

TENANT = "7e57ab1e-0000-4000-8000-00000000da7a"
SUBSCRIPTION = "5ab5c41b-0000-4000-8000-000000000001"
OTHER_SUBSCRIPTION = "5ab5c41b-0000-4000-8000-000000000002"
GROUP = "rg-ml"
WORKSPACE_NAME = "aml-ws"
ADB = "adb-ws"
ADB_GROUP = "databricks-rg-adb-ws-k3x2v7qhw4mzs"  # managed by the Databricks workspace
LOCATION = "westeurope"
SUFFIX = "core.windows.test"  # the storage suffix of this cloud

# azure-ai-docs resource-limits-capacity.md; params: azure-sdk-for-python#35685; history page: mlflow#10694;
# names of experiments: azureml-core, azureml/_base_sdk_common/common.py; files a request: ultralytics#3223
LIMITS: dict[str, int] = {
    "batch_metrics": 250,
    "metric_names": 50,
    "metric_rows": 1_000_000,
    "run_tags": 50,
    "tag_key": 100,
    "tag_value": 1000,
    "run_params": 200,
    "run_name": 256,
    "run_description": 5000,
    "run_inputs": 200,
    "experiment_name": 255,
    "experiment_tags": 50,
    "experiment_tag_key": 250,
    "experiment_tag_value": 1000,
    "artifact_path": 5000,
    "artifacts_batch": 100,
    "model_files": 1500,
    "history_page": 999,
}


@dataclass
class Switches:
    """How the service behaves; each can be set from a test (``azure.set(name=value)``)."""

    logged_models: bool = False  # azure-sdk-for-python#44896
    outputs: bool = False  # runs/outputs
    inputs: bool = True  # runs/log-inputs
    aliases: bool = False
    run_ids: str = "taken"  # chosen by the caller: taken, refused, renamed, hidden from MLflow, or absent
    search_lag: float = 0.0  # seconds until runs/search shows a metric (azure-sdk-for-python#39198)
    token_lifetime: float = 3600.0  # of tokens signed from now on
    sas_lifetime: float = 3600.0  # of links signed from now on
    write_links: bool = True  # False: no call that hands out one more link to write an artifact
    write_once: bool = True  # False: an artifact that is there can be written again
    blocks_stay: bool = False  # a blob's uncommitted blocks outlive the deletion of its artifact's name
    storage_firewall: bool = False  # blobs are refused, everything else passes
    storage_public: bool = True  # False: 409 for whoever does not come through a private endpoint
    storage_role: bool = True  # False: whoever signed the links may neither read nor write blobs
    private_link_status: int = 403  # azure-docs#90426: 502 as well
    private_link: bool = False  # the workspaces' own services are refused from this network
    forbidden_body: bool = True  # False: 403 of MLflow calls without a body (azure-sdk-for-python#31429)
    throttle: int | None = None  # MLflow requests a second; None is without limit
    operation_seconds: float = 0.1  # how long a long-running operation takes
    operations_at: str = ""  # another host that answers name for operations
    pages_at: str = ""  # another host that listings name for their next page
    delete_by_location: bool = False  # deletions of managed endpoints name Location alone
    parent_missing: bool = False  # writes below the workspace: Resource Manager does not find it
    endpoint_unfindable: bool = False  # endpoints cannot be made: azure-cli-extensions#7107, #7660
    operation_timeout: str = "PT30M"  # x-ms-async-operation-timeout of managed endpoints
    endpoint_stuck: bool = False  # operations on managed endpoints never end
    poll_seconds: float = 0.05  # what the service tells clients to wait between polls
    egress: bool = True  # False: containers cannot install packages when they start
    container_crash: tuple[str, ...] = ()  # what containers print before they crash, from now on
    image_pull: str = ""  # why the image of a deployment cannot be had, from now on
    quota_cores: int = 24  # of each family of machines, for online endpoints
    total_cores: int = 100  # of all families together
    public_network: bool = True  # False: the workspace is behind its private endpoint alone


@dataclass
class Denial:
    """Actions (``*`` is a wildcard, as in a role definition) that a principal (None: all) may not take."""

    id: int
    action: str
    principal: str | None

    def strikes(self, action: str, principal: str) -> bool:
        """Return whether it takes an action from a principal."""
        return self.principal in (None, principal) and fnmatch.fnmatchcase(
            action.lower(), self.action.lower()
        )


@dataclass
class RunBook:
    """What is in a run, as far as its limits are concerned."""

    metrics: dict[str, int] = field(default_factory=dict)  # name -> rows
    written: dict[str, float] = field(default_factory=dict)  # name -> when the newest row came
    params: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)


@dataclass
class Workspace:
    """One Azure ML workspace and the MLflow server that keeps its runs."""

    subscription: str
    group: str
    name: str
    upstream: str  # the MLflow server's address
    resource: dict[str, Any]  # as Azure Resource Manager shows it
    deleted: bool = False  # softly: the name stays taken
    experiments: dict[str, str] = field(default_factory=dict)  # GUID -> the MLflow server's id
    run_ids: dict[str, str] = field(default_factory=dict)  # id chosen by a caller -> the MLflow server's
    hidden: set[str] = field(default_factory=set)  # runs (the server's ids) that MLflow's clients do not see
    books: dict[str, RunBook] = field(default_factory=dict)  # the MLflow server's run id -> what is in it
    artifacts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @property
    def guid(self) -> str:
        return str(self.resource["properties"]["workspaceId"])

    @property
    def scope(self) -> str:
        return str(self.resource["id"])

    @property
    def account(self) -> str:
        """The name of its storage account."""
        return str(self.resource["properties"]["storageAccount"]).rsplit("/", 1)[-1]

    def guid_of(self, experiment: str) -> str:
        """Return the GUID under which clients know an experiment of the MLflow server."""
        guid = str(uuid.uuid5(uuid.UUID(self.guid), experiment))
        self.experiments[guid] = experiment
        return guid

    def book(self, run: str) -> RunBook:
        return self.books.setdefault(run, RunBook())


def resource(
    subscription: str, group: str, sort: str, name: str, properties: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """Return a resource of a sort (``Microsoft.Storage/storageAccounts``) as Resource Manager shows it."""
    scope = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{sort}/{name}"
    return {
        "id": scope,
        "name": name,
        "type": sort,
        "location": more.pop("location", LOCATION),
        "tags": more.pop("tags", None) or {},
        "properties": properties,
        **more,
    }


class State:
    """Everything that a reset puts back to the beginning, and the spare MLflow servers."""

    def __init__(self) -> None:
        self.public = ""  # the address that clients know
        self.spares: list[str] = []  # MLflow servers of workspaces yet to be made
        self.home: str = ""  # the MLflow server of the workspace that is there from the beginning
        self.numbers = itertools.count(1)
        self.first: Workspace | None = None
        self.reset()

    def reset(self) -> None:
        """Be as new, but keep what is in the first workspace: runs, models, artifacts."""
        self.switches = Switches()
        self.limits = dict(LIMITS)
        self.denials: list[Denial] = []
        self.unknown: list[str] = []
        self.tokens_from = 0.0  # tokens signed before are refused as expired
        self.groups: dict[tuple[str, str], dict[str, Any]] = {}
        self.resources: dict[str, dict[str, Any]] = {}  # lower-case id -> resource
        self.workspaces: dict[str, Workspace] = {}  # lower-case id -> workspace
        self.providers: dict[str, dict[str, tuple[str, float]]] = {}  # subscription -> namespace -> state
        self.operations: dict[str, dict[str, Any]] = {}
        self._seed()

    def _seed(self) -> None:
        for subscription in (SUBSCRIPTION, OTHER_SUBSCRIPTION):
            self.providers[subscription] = {}
        for namespace in (
            *(ML, "Microsoft.Databricks", "Microsoft.Storage", "Microsoft.KeyVault", "Microsoft.Insights"),
            *("Microsoft.OperationalInsights", "Microsoft.ContainerRegistry", "Microsoft.Resources"),
            *("Microsoft.Authorization", "Microsoft.ContainerInstance", "Microsoft.ContainerService"),
        ):
            self.providers[SUBSCRIPTION][namespace.lower()] = ("Registered", 0.0)
        self.add_group(SUBSCRIPTION, GROUP)
        adb = resource(
            SUBSCRIPTION,
            GROUP,
            "Microsoft.Databricks/workspaces",
            ADB,
            {
                "managedResourceGroupId": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{ADB_GROUP}",
                "workspaceId": "4242424242424242",
                "workspaceUrl": "adb-4242424242424242.2.azuredatabricks.test",
                "provisioningState": "Succeeded",
                "parameters": {},
            },
            sku={"name": "premium"},
        )
        self.add(adb)
        self.add_group(SUBSCRIPTION, ADB_GROUP, managed_by=adb["id"])
        for kind, name in (
            ("Microsoft.Storage/storageAccounts", "dbstoragek3x2v7qhw4mzs"),
            ("Microsoft.ManagedIdentity/userAssignedIdentities", "dbmanagedidentity"),
            ("Microsoft.Network/networkSecurityGroups", "workers-sg"),
        ):
            self.add(resource(SUBSCRIPTION, ADB_GROUP, kind, name, {"provisioningState": "Succeeded"}))
        if self.first is None:
            if not self.home:
                return
            self.first = self.new_workspace(SUBSCRIPTION, GROUP, WORKSPACE_NAME, self.home)
        else:
            self.first.resource = self._workspace_resource(SUBSCRIPTION, GROUP, WORKSPACE_NAME, {})
            self.first.deleted = False
            self._keep(self.first)

    # Groups and resources

    def add_group(
        self, subscription: str, name: str, location: str = LOCATION, *, managed_by: str | None = None
    ) -> dict[str, Any]:
        group: dict[str, Any] = {
            "id": f"/subscriptions/{subscription}/resourceGroups/{name}",
            "name": name,
            "type": "Microsoft.Resources/resourceGroups",
            "location": location,
            "tags": {},
            "properties": {"provisioningState": "Succeeded"},
        }
        if managed_by:
            group["managedBy"] = managed_by
        self.groups[subscription.lower(), name.lower()] = group
        return group

    def add(self, what: dict[str, Any]) -> dict[str, Any]:
        if what["type"].lower() == "microsoft.storage/storageaccounts":
            blob = f"{self.public}/{what['name']}.blob.{SUFFIX}/"
            what["properties"].setdefault("primaryEndpoints", {"blob": blob})
        self.resources[what["id"].lower()] = what
        return what

    def group(self, subscription: str, name: str) -> dict[str, Any]:
        """Return a resource group or refuse."""
        self.subscription(subscription)
        found = self.groups.get((subscription.lower(), name.lower()))
        if found is None:
            raise arm_refusal(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        return found

    def subscription(self, subscription: str) -> str:
        """Return a subscription's id or refuse."""
        if subscription.lower() not in self.providers:
            raise arm_refusal(
                404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found."
            )
        return subscription.lower()

    def in_group(self, subscription: str, group: str | None = None) -> list[dict[str, Any]]:
        """Return the resources of a group, or of a subscription."""
        prefix = f"/subscriptions/{subscription}/" + (f"resourcegroups/{group}/" if group else "")
        return [what for key, what in self.resources.items() if key.startswith(prefix.lower())]

    # Workspaces

    def new_workspace(
        self, subscription: str, group: str, name: str, upstream: str, more: dict[str, Any] | None = None
    ) -> Workspace:
        made = Workspace(
            subscription,
            group,
            name,
            upstream,
            self._workspace_resource(subscription, group, name, more or {}),
        )
        self._keep(made)
        return made

    def _keep(self, workspace: Workspace) -> None:
        self.workspaces[workspace.scope.lower()] = workspace
        self.add(workspace.resource)

    def _workspace_resource(
        self, subscription: str, group: str, name: str, more: dict[str, Any]
    ) -> dict[str, Any]:
        """Return a workspace's resource; what it leans on is made where ``more`` does not name it."""
        short = re.sub(r"[^a-z0-9]", "", name.lower())[:16]
        given = dict(more.get("properties") or {})
        for key, kind, called in (
            ("storageAccount", "Microsoft.Storage/storageAccounts", f"{short}storage"),
            ("keyVault", "Microsoft.KeyVault/vaults", f"{short}keyvault"),
            ("applicationInsights", "Microsoft.Insights/components", f"{short}insights"),
            ("containerRegistry", "Microsoft.ContainerRegistry/registries", f"{short}registry"),
        ):
            if key not in given and not more:
                made = resource(subscription, group, kind, called, {"provisioningState": "Succeeded"})
                given[key] = self.add(made)["id"]
        for key, own in (("keyVault", "Microsoft.Keyvault"), ("applicationInsights", "Microsoft.insights")):
            if key in given:  # in the service's own case, whatever was put: CreateScenarioTest.Recording.json
                given[key] = re.sub(f"/{own}/", f"/{own}/", given[key], flags=re.IGNORECASE)
        guid = str(uuid.uuid5(uuid.UUID(TENANT), f"{subscription}/{group}/{name}".lower()))
        scope = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{ML}/workspaces/{name}"
        properties = {
            "friendlyName": name,
            "description": "",
            **given,
            "workspaceId": guid,
            "tenantId": TENANT,
            "discoveryUrl": f"{self.public}/discovery",
            "mlFlowTrackingUri": f"azureml://{self.public.split('://')[-1]}/mlflow/v1.0{scope}",
            "hbiWorkspace": False,
            "provisioningState": "Succeeded",
            "publicNetworkAccess": "Enabled",
        }
        return resource(
            subscription,
            group,
            f"{ML}/workspaces",
            name,
            properties,
            location=more.get("location", LOCATION),
            tags=more.get("tags"),
            sku={"name": "Basic", "tier": "Basic"},
            identity=more.get("identity")
            or {"type": "SystemAssigned", "principalId": guid, "tenantId": TENANT},
        )

    def workspace(self, subscription: str, group: str, name: str) -> Workspace | None:
        """Return the workspace, or None where there is none or it is softly deleted."""
        key = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{ML}/workspaces/{name}".lower()
        found = self.workspaces.get(key)
        return None if found is None or found.deleted else found

    def delete_first(self, deleted: bool) -> None:
        """Delete the first workspace softly, or recover it."""
        assert self.first is not None
        self.first.deleted = deleted
        if deleted:
            self.resources.pop(self.first.scope.lower(), None)
        else:
            self._keep(self.first)

    def provider(self, subscription: str, namespace: str) -> str:
        """Return the registration state of a resource provider."""
        state, when = self.providers[subscription.lower()].get(namespace.lower(), ("NotRegistered", 0.0))
        return "Registered" if state == "Registering" and time.monotonic() >= when else state
