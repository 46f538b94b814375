"""Azure Resource Manager: find a workspace, explain why one is missing, create one.

Everything goes through azure-mgmt-resource with the link's own sign-in, once a request: what fails is said at
once, with the way out.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypedDict, TypeVar
from urllib.parse import urlsplit

import requests

from dbml_magics.common.hints import Argument, Remedy
from dbml_magics.core import hosts
from dbml_magics.core.azure import diagnosis, permissions
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.errors import (
    BadLink,
    DbmlError,
    NotConfirmed,
    NotPermitted,
    WorkspaceNotFound,
    WorkspaceUnreachable,
)

if TYPE_CHECKING:
    from azure.core.pipeline import PipelineRequest
    from azure.mgmt.resource import ResourceManagementClient
    from azure.mgmt.resource.resources.models import DeploymentValidateResult, GenericResource, ResourceGroup

    from dbml_magics.core.azure.identity import SignIn

T = TypeVar("T")
Progress = Callable[[int, int, str], None]

_TIMEOUT_S = 20.0
_OPERATION_S = 900.0
_POLL_S = 0.5  # where the service does not say how long to wait
_ML_API = "2022-05-01"
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
        "connection_timeout": _TIMEOUT_S,
        "read_timeout": _TIMEOUT_S,
        "raw_request_hook": partial(_stay_at, host),
    }


def _stay_at(host: str, request: PipelineRequest) -> None:
    """Refuse to go on elsewhere, with our token, where an answer names another host for an operation."""
    from azure.core.exceptions import ServiceRequestError

    own, asked = urlsplit(host), urlsplit(request.http_request.url)
    regional = (asked.hostname or "").endswith(f".{own.hostname}") and asked.scheme == own.scheme
    if (asked.scheme, asked.netloc) != (own.scheme, own.netloc) and not regional:
        raise ServiceRequestError(f"it names another host to go on at, {asked.netloc}")


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
                    (Remedy("link", "…", cloud="NAME"), "if the workspace is in another cloud"),
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
        resource = self.ask(lambda c: c.resources.get_by_id(workspace.path, _ML_API), workspace, read)
        if resource is None:
            raise self._not_found(workspace)
        return found(workspace, properties_of(resource), str(resource.location or ""), self.sign_in)

    def _not_found(self, workspace: WorkspaceId) -> DbmlError:
        """Return why there is no such workspace: the two usual mistakes, a deleted one, a near name."""
        group = self._group(workspace)
        managed = managed_by_databricks(group)
        others = self._machine_learning_workspaces(workspace)
        remedies = [(Remedy("link", **w.options), "") for w in _nearest(workspace, others)]
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
        create = (Remedy("link", **workspace.options, create=True), "makes it, after showing what")
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

    def _group(self, workspace: WorkspaceId) -> ResourceGroup | None:
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

    # --- making

    def plan(self, wish: Wish) -> Plan:
        """Plan the resources of a new workspace; changes nothing. Raises BadLink, NotPermitted, …"""
        workspace = wish.workspace
        group = self._group(workspace)
        managed = managed_by_databricks(group)
        if group is not None and managed is not None:
            raise BadLink(
                f"{workspace.group} is the managed resource group of the Databricks workspace {managed}: "
                "nothing of yours can be made in it.",
                remedies=[wish.line(_elsewhere(workspace), str(group.location))],
            )
        location = wish.location or (str(group.location) if group is not None else None)
        if location is None:
            raise BadLink(
                f"the resource group {workspace.group} does not exist, and a new one needs a place.",
                remedies=[wish.line(location="westeurope")],
            )
        for name, given in (("--storage-account", wish.storage_account), ("--key-vault", wish.key_vault)):
            if given is not None:
                self._must_exist(name, given, workspace)
        steps = _steps(wish, location, self.sign_in.tenant)
        if group is None:
            steps.insert(
                0, Step("resource group", workspace.group, workspace.group_path, "", {"location": location})
            )
        self._must_be_registered(workspace, steps)
        return Plan(wish, location, tuple(steps))

    def _must_exist(self, option: str, given: str, workspace: WorkspaceId) -> None:
        kind = _KINDS[option]
        if not re.fullmatch(
            rf"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/{kind}/[^/]+", given, re.I
        ):
            raise BadLink(
                f"{option} is {given!r}, and it takes a resource's whole id.",
                remedies=[(f"az resource list --resource-type {kind} --query [].id", "lists them")],
            )
        found = self.ask(lambda c: c.resources.get_by_id(given, _APIS[kind]), workspace, f"{kind}/read")
        if found is None:
            raise BadLink(
                f"{option}: {given} does not exist.",
                remedies=[(f"az resource list --resource-type {kind} --query [].id", "lists them")],
            )

    def _must_be_registered(self, workspace: WorkspaceId, steps: Sequence[Step]) -> None:
        for namespace in dict.fromkeys(step.kind.partition("/")[0] for step in steps if "/" in step.kind):
            provider = self.ask(
                lambda c, n=namespace: c.providers.get(n),  # type: ignore[misc]
                workspace,
                "Microsoft.Resources/subscriptions/providers/read",
            )
            if provider is not None and provider.registration_state not in ("Registered", "Registering"):
                said = diagnosis.Said(409, "MissingSubscriptionRegistration", f"use namespace '{namespace}'")
                said = diagnosis.Said(409, said.code, f"not registered to {said.message}")
                raise as_error(diagnosis.unregistered(said, workspace), workspace)

    def create(self, plan: Plan, confirm: str | None, progress: Progress | None = None) -> Found:
        """Create the plan's resources one after the other. Raises NotConfirmed, CreationFailed.

        What exists already is brought to the same state, so a second try goes on where the first one ended.
        """
        workspace = plan.wish.workspace
        self._refuse_taken_name(plan)
        if confirm != workspace.name:
            raise NotConfirmed(
                plan.description + (f"\n--confirm is {confirm!r}; nothing was made." if confirm else ""),
                remedies=[(plan.command.but(confirm=workspace.name), "makes it")],
            )
        for number, step in enumerate(plan.steps):
            if progress is not None:
                progress(number, len(plan.steps), f"making the {step.what} {step.name}")
            self._make(step, plan.wish, plan.steps[:number])
        if progress is not None:
            progress(len(plan.steps), len(plan.steps), f"the workspace {workspace.name} is there")
        return self.find(workspace)

    def _refuse_taken_name(self, plan: Plan) -> None:
        """Raise BadLink for the name of a deleted workspace, before its other resources are created.

        Resource Manager's validation of a template asks the service; what else it says, and that it may not
        be asked, is left to the making itself.
        """
        workspace = plan.wish.workspace
        if not plan.steps[0].kind:
            return  # a group that is not there yet has no deleted workspace either
        try:
            why = self.validate(plan, f"dbml-{hashlib.sha256(workspace.path.encode()).hexdigest()[:12]}")
        except DbmlError:
            return
        if _SOFT in why:
            raise BadLink(
                f"the Azure ML workspace {workspace.name} cannot be made: {_kept_by_deleted(workspace)}. "
                "Nothing was made.",
                remedies=_other_name(plan.wish),
            )

    def validate(self, plan: Plan, name: str) -> str:
        """Return why Resource Manager would refuse a plan as the template ``name``, or nothing.

        Nothing is made. Raises NotPermitted, WorkspaceUnreachable.
        """
        workspace = plan.wish.workspace
        deployment = {"properties": {"mode": "Incremental", "template": template_of(plan)}}

        def check(client: ResourceManagementClient) -> DeploymentValidateResult | None:
            begun = client.deployments.begin_validate(
                workspace.group, name, deployment, polling_interval=_POLL_S
            )
            begun.wait(_TIMEOUT_S)
            return begun.result() if begun.done() else None

        try:
            checked = self.ask(check, workspace, "Microsoft.Resources/deployments/validate/action")
        except BadLink as error:
            return error.message
        if checked is None:
            return "it did not say in time, or the resource group is not there"
        refusal = checked.error
        return f"{refusal.code}: {refusal.message}" if refusal is not None else ""

    def _make(self, step: Step, wish: Wish, made: Sequence[Step]) -> None:
        workspace = wish.workspace

        def put(client: ResourceManagementClient) -> object:
            if not step.kind:
                return client.resource_groups.create_or_update(workspace.group, step.body)
            operation = client.resources.begin_create_or_update_by_id(
                step.id, step.api, step.body, polling_interval=_POLL_S
            )
            operation.wait(_OPERATION_S)
            if not operation.done():
                raise TimeoutError(f"not finished within {_OPERATION_S / 60:g} minutes")
            return operation.result()

        try:
            self.ask(
                put, workspace, f"{step.kind or 'Microsoft.Resources/subscriptions/resourceGroups'}/write"
            )
        except (DbmlError, TimeoutError) as error:
            there = ", ".join(f"{each.what} {each.name}" for each in made)
            soft = _SOFT in str(error)
            why = _kept_by_deleted(workspace) if soft else str(error).rstrip(".")
            remedies = list(getattr(error, "remedies", ())) or [
                ("the same line again", "goes on where this ended; what exists stays as it is")
            ]
            if soft:
                remedies = _other_name(wish)
            kind = type(error) if isinstance(error, NotPermitted) else BadLink
            raise kind(
                f"the {step.what} {step.name} could not be made: {why}. Made before: {there or 'nothing'}.",
                remedies=remedies,
            ) from error


@dataclass(frozen=True)
class Wish:
    """A workspace to be made."""

    workspace: WorkspaceId
    location: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    storage_account: str | None = None
    key_vault: str | None = None
    rest: Mapping[str, Argument] = field(default_factory=dict)
    """The command's other options, such as ``databricks`` and ``registry``."""

    def line(self, workspace: WorkspaceId | None = None, location: str | None = None) -> Remedy:
        """Return the command that was written, without its confirmation; elsewhere, where that is given."""
        return Remedy(
            "link",
            **(workspace or self.workspace).options,
            **self.rest,
            create=True,
            location=location or self.location or None,
            tag=[f"{key}={value}" for key, value in self.tags.items()],
            storage_account=self.storage_account or None,
            key_vault=self.key_vault or None,
        )


@dataclass(frozen=True)
class Step:
    """One resource of a plan."""

    what: str
    name: str
    id: str
    kind: str
    body: dict[str, object]

    @property
    def api(self) -> str:
        """Return the version of the resource type's interface."""
        return _APIS[self.kind]


@dataclass(frozen=True)
class Plan:
    """What making a workspace makes."""

    wish: Wish
    location: str
    steps: tuple[Step, ...]

    @property
    def command(self) -> Remedy:
        """Return the command that was written, without its confirmation."""
        return self.wish.line(location=self.location)

    @property
    def description(self) -> str:
        """Return the plan in lines, for people."""
        wish = self.wish
        lines = [f"this would make, in {self.location}:"]
        lines += [f"  {step.what:<24} {step.name}" for step in self.steps]
        if wish.storage_account:
            lines.append(f"  {'existing storage account':<24} {wish.storage_account}")
        if wish.key_vault:
            lines.append(f"  {'existing key vault':<24} {wish.key_vault}")
        if wish.tags:
            lines.append(f"  {'tags on each':<24} " + ", ".join(f"{k}={v}" for k, v in wish.tags.items()))
        return "\n".join([*lines, "A workspace itself costs nothing; what is kept in its storage does."])


_SOFT = "oft-deleted workspace"  # aka.ms/wsoftdelete
_KINDS = {
    "--storage-account": "Microsoft.Storage/storageAccounts",
    "--key-vault": "Microsoft.KeyVault/vaults",
}
_APIS = {
    "Microsoft.Storage/storageAccounts": "2022-09-01",
    "Microsoft.KeyVault/vaults": "2022-07-01",
    "Microsoft.OperationalInsights/workspaces": "2022-10-01",
    "Microsoft.Insights/components": "2020-02-02",
    f"{permissions.ML}/workspaces": _ML_API,
}


def _steps(wish: Wish, location: str, tenant: str | None) -> list[Step]:
    """Return the resources of a workspace in the order in which they need each other.

    Microsoft's own templates make the same ones (azure-quickstart-templates, machine-learning-workspace).
    """
    workspace = wish.workspace
    short = re.sub(r"[^a-z0-9]", "", workspace.name.lower())[:12]
    mark = hashlib.sha256(workspace.path.lower().encode()).hexdigest()[:8]
    steps: list[Step] = []

    def step(what: str, type_: str, name: str, properties: dict[str, object], **more: object) -> str:
        path = f"{workspace.group_path}/providers/{type_}/{name}"
        body = {"location": location, "tags": dict(wish.tags), "properties": properties, **more}
        steps.append(Step(what, name, path, type_, body))
        return path

    storage = wish.storage_account or step(
        "storage account",
        "Microsoft.Storage/storageAccounts",
        f"{short}{mark}",
        {"supportsHttpsTrafficOnly": True, "allowBlobPublicAccess": False, "minimumTlsVersion": "TLS1_2"},
        sku={"name": "Standard_LRS"},
        kind="StorageV2",
    )
    vault = wish.key_vault or step(
        "key vault",
        "Microsoft.KeyVault/vaults",
        f"kv{short}{mark}",
        {
            "tenantId": tenant,
            "sku": {"family": "A", "name": "standard"},
            "accessPolicies": [],
            "enableSoftDelete": True,
        },
    )
    logs = step(
        "log analytics workspace",
        "Microsoft.OperationalInsights/workspaces",
        f"log-{short}{mark}",
        {"sku": {"name": "PerGB2018"}, "retentionInDays": 30},
    )
    insights = step(
        "application insights",
        "Microsoft.Insights/components",
        f"ai-{short}{mark}",
        {"Application_Type": "web", "WorkspaceResourceId": logs},
        kind="web",
    )
    step(
        "Azure ML workspace",
        f"{permissions.ML}/workspaces",
        workspace.name,
        {
            "friendlyName": workspace.name,
            "storageAccount": storage,
            "keyVault": vault,
            "applicationInsights": insights,
        },
        identity={"type": "SystemAssigned"},
        sku={"name": "Basic", "tier": "Basic"},
    )
    return steps


def template_of(plan: Plan) -> dict[str, object]:
    """Return a plan as a template of Resource Manager's."""
    own = {step.id for step in plan.steps}
    resources = []
    for step in plan.steps:
        if not step.kind:
            continue  # a resource group is made before any template
        needed = [id_ for id_ in own if id_ != step.id and id_ in json.dumps(step.body)]
        resources.append(
            {"type": step.kind, "apiVersion": step.api, "name": step.name, **step.body, "dependsOn": needed}
        )
    schema = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    return {"$schema": schema, "contentVersion": "1.0.0.0", "resources": resources}


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
        services = hosts.session().get(url, timeout=_TIMEOUT_S).json()
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


def _elsewhere(workspace: WorkspaceId, *, name: bool = False) -> WorkspaceId:
    if name:
        return WorkspaceId(workspace.subscription, workspace.group, f"{workspace.name[:30]}-2")
    return WorkspaceId(workspace.subscription, f"rg-{workspace.name}", workspace.name)


def _kept_by_deleted(workspace: WorkspaceId) -> str:
    return f"a deleted workspace keeps the name {workspace.name} for 14 days: recover or purge it"


def _other_name(wish: Wish) -> list[tuple[str, str]]:
    """Return the remedies for a name that a soft-deleted workspace still occupies."""
    portal = "https://portal.azure.com, Azure Machine Learning, Recently deleted"
    other = wish.line(_elsewhere(wish.workspace, name=True))
    return [(portal, "recovers or purges it"), (other, "another name")]


def as_error(away: Unavailable, workspace: WorkspaceId) -> DbmlError:
    """Return why Azure takes nothing from this user, as an error of a command."""
    if away.denied:
        return NotPermitted(
            f"Azure, for the workspace {workspace.name}: {away.reason}.", remedies=away.remedies
        )
    return WorkspaceUnreachable(f"the workspace {workspace.name} is {away.reason}.", remedies=away.remedies)
