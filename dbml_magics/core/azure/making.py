"""Plan and create an Azure ML workspace with the resources that it needs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Argument, Remedy
from dbml_magics.core.azure import diagnosis, permissions
from dbml_magics.core.azure.arm import ML_API, TIMEOUT_S, Arm, Found, as_error, managed_by_databricks
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.errors import BadLink, DbmlError, NotConfirmed, NotPermitted

if TYPE_CHECKING:
    from azure.mgmt.resource import ResourceManagementClient
    from azure.mgmt.resource.resources.models import DeploymentValidateResult

__all__ = ["Maker", "Plan", "Progress", "Step", "Wish", "template_of"]

Progress = Callable[[int, int, str], None]

_OPERATION_S = 900.0
_POLL_S = 0.5  # where the service does not say how long to wait


class Maker:
    """Makes workspaces in one subscription, with one sign-in."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm

    def plan(self, wish: Wish) -> Plan:
        """Plan the resources of a new workspace; changes nothing. Raises BadLink, NotPermitted, …"""
        workspace = wish.workspace
        group = self.arm.group(workspace)
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
        steps = _steps(wish, location, self.arm.sign_in.tenant)
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
        found = self.arm.ask(lambda c: c.resources.get_by_id(given, _APIS[kind]), workspace, f"{kind}/read")
        if found is None:
            raise BadLink(
                f"{option}: {given} does not exist.",
                remedies=[(f"az resource list --resource-type {kind} --query [].id", "lists them")],
            )

    def _must_be_registered(self, workspace: WorkspaceId, steps: Sequence[Step]) -> None:
        for namespace in dict.fromkeys(step.kind.partition("/")[0] for step in steps if "/" in step.kind):
            provider = self.arm.ask(
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
        return self.arm.find(workspace)

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
            begun.wait(TIMEOUT_S)
            return begun.result() if begun.done() else None

        try:
            checked = self.arm.ask(check, workspace, "Microsoft.Resources/deployments/validate/action")
        except BadLink as error:
            return error.message
        if checked is None:
            return "it did not say in time, or the resource group is not there"
        refusal = checked.error
        return f"{refusal.code}: {refusal.message}" if refusal is not None else ""

    def _make(self, step: Step, wish: Wish, made: Sequence[Step]) -> None:
        workspace = wish.workspace

        def put(client: ResourceManagementClient) -> bool:
            if not step.kind:
                client.resource_groups.create_or_update(workspace.group, step.body)
                return True
            operation = client.resources.begin_create_or_update_by_id(
                step.id, step.api, step.body, polling_interval=_POLL_S
            )
            operation.wait(_OPERATION_S)
            if not operation.done():
                raise TimeoutError(f"not finished within {_OPERATION_S / 60:g} minutes")
            operation.result()
            return True

        action = f"{step.kind or 'Microsoft.Resources/subscriptions/resourceGroups'}/write"
        try:
            if self.arm.ask(put, workspace, action) is None:
                raise BadLink(f"Resource Manager does not find where it would be, {workspace.group} (404)")
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
    f"{permissions.ML}/workspaces": ML_API,
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
