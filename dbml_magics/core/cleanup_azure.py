"""Cleaning up Azure ML workspaces and resource groups: asked of Resource Manager, and checked there.

azureml-core's own deletion swallows what fails and leaves the container registry (azureml-core 1.61), so each
resource is deleted by itself, waited for, and looked for again afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dbml_magics.common.hints import Argument, Remedy, corrected
from dbml_magics.core import remembered_links
from dbml_magics.core.azure import names, permissions
from dbml_magics.core.azure.arm import Arm, managed_by_databricks, properties_of
from dbml_magics.core.azure.finding import AzureWish, sign_in_for, signed_in
from dbml_magics.core.cleanup_plan import Plan, Step
from dbml_magics.core.destinations.kinds import is_azureml
from dbml_magics.core.session import Session
from dbml_magics.errors import BadCommand, BadLink, NotConfirmed, RunActive, WorkspaceNotFound
from dbml_magics.results.cleanup import CleanupItem
from dbml_magics.results.text import count, listing

if TYPE_CHECKING:
    from azure.core.polling import LROPoller
    from azure.mgmt.resource import ResourceManagementClient
    from azure.mgmt.resource.resources.models import GenericResource

    from dbml_magics.core.destinations.azureml import AzuremlWorkspace

__all__ = ["plan"]

_DELETION_S = 1800.0
_POLL_S = 0.5
_ML_WORKSPACE = f"{permissions.ML}/workspaces"
_WORKSPACE_API = "2022-05-01"
# A workspace's own resources, by the property that names each (ARM schema of the workspace).
_OWN = ("storageAccount", "keyVault", "applicationInsights", "containerRegistry")
_BILLED = {
    "microsoft.storage/storageaccounts": "files of runs and models, by size",
    "microsoft.keyvault/vaults": "by operations",
    "microsoft.insights/components": "what it keeps, by size",
    "microsoft.operationalinsights/workspaces": "logs, by size",
    "microsoft.containerregistry/registries": "a fixed price a day, and images by size",
}
_EXAMPLE = Remedy("cleanup", "workspace", "WS", subscription="ID", resource_group="RG")


def plan(
    session: Session, kind: str, name: str, also: Sequence[str], azure: Mapping[str, str | None]
) -> Plan:
    """Return what deleting a workspace or a resource group takes; changes nothing.

    Raises BadCommand, NotConfirmed (for a group with resources that are nobody's of the workspace),
    WorkspaceNotFound, NotPermitted, WorkspaceUnreachable.
    """
    linked = _linked(session)
    arm = _arm(linked, azure)
    options: dict[str, Argument] = {"also": also} if also else {}
    options |= {
        key: azure[key] for key in ("subscription", "resource_group", "cloud", "auth") if azure.get(key)
    }
    if kind == "workspace":
        group = azure.get("resource_group") or (linked.id.group if linked is not None else None)
        if group is None:
            raise BadCommand(f"which resource group is {name} in?", remedies=[(_EXAMPLE, "names it")])
        made = _workspace(session, arm, names.WorkspaceId(arm.subscription, str(group), name), also)
    else:
        made = _group(session, arm, name, also, linked)
    made.options = options
    return made


def _linked(session: Session) -> AzuremlWorkspace | None:
    """Return the link's Azure ML workspace, or None."""
    if not session.linked:
        return None
    workspaces = session.engine(Remedy("cleanup")).workspaces.values()
    return next((w for w in workspaces if is_azureml(w)), None)


def _arm(linked: AzuremlWorkspace | None, azure: Mapping[str, str | None]) -> Arm:
    subscription = azure.get("subscription") or (linked.id.subscription if linked is not None else None)
    if subscription is None:
        raise BadCommand(
            "no Azure ML workspace is linked, so the subscription has to be named.",
            remedies=[(_EXAMPLE, "names it"), ("az account list --output table", "lists subscriptions")],
        )
    if linked is not None and not azure.get("cloud") and not azure.get("auth"):
        return Arm(sign_in_for(linked.spec), str(subscription))
    return Arm(signed_in(AzureWish(cloud=azure.get("cloud"), auth=azure.get("auth"))), str(subscription))


def _get(arm: Arm, where: names.WorkspaceId, path: str, api: str, kind: str) -> GenericResource | None:
    return arm.ask(lambda c: c.resources.get_by_id(path, api), where, f"{kind}/read")


# --- one workspace


def _workspace(session: Session, arm: Arm, where: names.WorkspaceId, also: Sequence[str]) -> Plan:
    found = _get(arm, where, where.path, _WORKSPACE_API, _ML_WORKSPACE)
    if found is None:
        if also:
            raise WorkspaceNotFound(
                f"no workspace {where.name} in {where.group}, so nothing tells what else was its own.",
                remedies=[(Remedy("cleanup", "resource-group", where.group), "with what is in it")],
            )
        kept = [CleanupItem("azure", _ML_WORKSPACE, where.name, "gone already")]
        return Plan("workspace", where.name, [], kept)
    own = _own(arm, where, properties_of(found))
    unknown = [each for each in also if each.lower() not in {_short(i).lower() for i in own}]
    if unknown:
        raise BadCommand(
            f"{unknown[0]} is none of the workspace's own resources ({', '.join(map(_short, own))}).",
            remedies=[(Remedy("cleanup", "workspace", where.name, dry_run=True), "lists them")],
        )
    _refuse_active(session, where)
    going = [each for each in own if _short(each).lower() in {a.lower() for a in also}]
    staying = [each for each in own if each not in going]
    steps = [_step(arm, where, where.path, _ML_WORKSPACE)]
    steps += [_step(arm, where, each, _kind(each)) for each in going]
    kept = [
        CleanupItem("azure", _kind(each), _short(each), "stays", f"--also {_short(each)} deletes it")
        for each in staying
    ]
    notes = [
        "deleted softly: it keeps its name, and can be recovered in the portal, for 14 days",
        *_undelivered(session, where),
    ]
    return Plan(
        "workspace",
        where.name,
        steps,
        kept,
        _billed(staying),
        notes,
        after=lambda: _unlink(session, where),
    )


def _own(arm: Arm, where: names.WorkspaceId, properties: Mapping[str, object]) -> list[str]:
    """Return the ids of a workspace's own resources, with the logs behind its insights."""
    found = [str(properties[key]) for key in _OWN if properties.get(key)]
    for each in list(found):
        if _kind(each).lower() == "microsoft.insights/components":
            insights = _get(arm, where, each, "2020-02-02", _kind(each))
            logs = (insights.properties or {}).get("WorkspaceResourceId") if insights is not None else None
            if logs:
                found.append(str(logs))
    return found


def _billed(ids: Sequence[str]) -> list[str]:
    return [
        f"{_kind(each).rpartition('/')[2]} {_short(each)} ({_BILLED[_kind(each).lower()]})"
        for each in ids
        if _kind(each).lower() in _BILLED
    ]


def _refuse_active(session: Session, where: names.WorkspaceId | None) -> None:
    """Refuse to delete a workspace under an active run, as unlinking does."""
    import sys

    linked = _linked(session)
    if linked is None or (where is not None and linked.id.path.lower() != where.path.lower()):
        return
    run = sys.modules["mlflow"].active_run() if "mlflow" in sys.modules else None
    if run is not None:
        raise RunActive(
            f"run {run.info.run_name} is active, and goes to this workspace.",
            remedies=[("mlflow.end_run()", "then clean up again")],
        )


def _undelivered(session: Session, where: names.WorkspaceId) -> list[str]:
    linked = _linked(session)
    if linked is None or linked.id.path.lower() != where.path.lower():
        return []
    amount, _ = session.engine(Remedy("cleanup")).backlog.waiting(linked.role)
    lost = [f"{count(amount, 'write')} on the way there would never arrive"] if amount else []
    return ["the link of this notebook to it is ended", *lost]


def _unlink(session: Session, where: names.WorkspaceId) -> list[str]:
    """End the link to a workspace that is gone, and forget it for its folder."""
    linked = _linked(session)
    if linked is None or linked.id.path.lower() != where.path.lower():
        return []
    link = session.engine(Remedy("cleanup")).link
    restored = session.unlink()
    remembered_links.forget(link)
    return [f"unlinked: MLflow tracks to {restored.tracking_uri} again"]


# --- a resource group


def _group(
    session: Session, arm: Arm, name: str, also: Sequence[str], linked: AzuremlWorkspace | None
) -> Plan:
    where = names.WorkspaceId(arm.subscription, name, "any")
    read = "Microsoft.Resources/subscriptions/resourceGroups/read"
    group = arm.ask(lambda c: c.resource_groups.get(name), where, read)
    if group is None:
        return Plan(
            "resource-group", name, [], [CleanupItem("azure", "resource group", name, "gone already")]
        )
    owner = managed_by_databricks(group)
    if owner is not None:
        raise BadCommand(
            f"{name} is the managed resource group of the Databricks workspace {owner}; it goes with that.",
            remedies=[
                (Remedy("cleanup", "resource-group", help=True), "names the group that the workspace is in")
            ],
        )
    resources = arm.ask(lambda c: list(c.resources.list_by_resource_group(name)), where, read) or []
    workspaces = [r for r in resources if str(r.type).lower() == _ML_WORKSPACE.lower()]
    ours = _whose(workspaces, linked)
    own: set[str] = set()
    for each in ours:
        found = _get(arm, where, str(each.id), _WORKSPACE_API, _ML_WORKSPACE)
        own |= {str(each.id).lower()}
        own |= {i.lower() for i in _own(arm, where, properties_of(found) if found is not None else {})}
    foreign = [r for r in resources if str(r.id).lower() not in own]
    _refuse_unnamed(name, foreign, also, resources)
    for each in workspaces:
        _refuse_active(session, names.WorkspaceId(arm.subscription, name, str(each.name)))
    inside = [CleanupItem("azure", str(r.type), str(r.name), "goes with it") for r in resources]
    inside += _managed(arm, where, foreign)
    outside = [i for i in own if f"/resourcegroups/{name.lower()}/" not in i]
    notes = [] if workspaces else ["no Azure ML workspace is in it"]
    notes += [n for w in workspaces for n in _undelivered(session, _of(arm, name, w))]

    def forget() -> list[str]:
        return [note for w in workspaces for note in _unlink(session, _of(arm, name, w))]

    step = Step(CleanupItem("azure", "resource group", name), lambda: _delete_group(arm, where, name))
    return Plan("resource-group", name, [step], inside, _billed(outside), notes, after=forget)


def _of(arm: Arm, group: str, workspace: GenericResource) -> names.WorkspaceId:
    return names.WorkspaceId(arm.subscription, group, str(workspace.name))


def _whose(workspaces: Sequence[GenericResource], linked: AzuremlWorkspace | None) -> list[GenericResource]:
    """Return the workspace that the group is cleaned up for: the link's, else the only one."""
    if linked is not None:
        found = [w for w in workspaces if str(w.id).lower() == linked.id.path.lower()]
        if found:
            return found
    return list(workspaces) if len(workspaces) == 1 else []


def _refuse_unnamed(
    name: str, foreign: Sequence[GenericResource], also: Sequence[str], all_: Sequence[GenericResource]
) -> None:
    """Refuse a group with resources that are not the workspace's, unless each is named."""
    named = {each.lower() for each in also}
    left = [r for r in foreign if str(r.name).lower() not in named]
    unknown = [each for each in also if each.lower() not in {str(r.name).lower() for r in all_}]
    if unknown:
        raise BadCommand(
            f"{unknown[0]} is not in the resource group {name}.",
            remedies=[(f"az resource list --resource-group {name} --output table", "lists what is")],
        )
    if not left:
        return
    listed = listing([f"{r.name} ({r.type})" for r in left], 12)
    every = [*also, *(str(r.name) for r in left)]
    whole = corrected(
        Remedy("cleanup", "resource-group", name, also=every, dry_run=True),
        also=every,
        dry_run=True,
        confirm=None,
    )
    raise NotConfirmed(
        f"{name} holds {count(len(left), 'resource')} that {'is' if len(left) == 1 else 'are'} not the "
        f"workspace's: {listed}. Each has to be named; nothing is deleted.",
        remedies=[
            (whole, "shows all that would go"),
            (Remedy("cleanup", "workspace", "NAME"), "deletes the workspace alone"),
        ],
    )


def _managed(arm: Arm, where: names.WorkspaceId, foreign: Sequence[GenericResource]) -> list[CleanupItem]:
    """Return what goes along elsewhere: a Databricks workspace takes its managed resource group with it."""
    found: list[CleanupItem] = []
    for each in foreign:
        if str(each.type).lower() != "microsoft.databricks/workspaces":
            continue
        whole = _get(arm, where, str(each.id), "2023-02-01", str(each.type))
        properties = (whole.properties if whole is not None else None) or {}
        group = str(properties.get("managedResourceGroupId") or "").rpartition("/")[2]
        if not group:
            continue
        listed = arm.ask(
            lambda c, g=group: list(c.resources.list_by_resource_group(g)),  # type: ignore[misc]
            where,
            "Microsoft.Resources/subscriptions/resourceGroups/read",
        )
        found.append(CleanupItem("azure", "managed resource group", group, "goes with it"))
        found += [CleanupItem("azure", str(r.type), str(r.name), "goes with it") for r in listed or []]
    return found


# --- deleting, and looking whether it is gone


def _step(arm: Arm, where: names.WorkspaceId, path: str, kind: str) -> Step:
    return Step(CleanupItem("azure", kind, _short(path)), lambda: _delete(arm, where, path, kind))


def _wait(deletion: LROPoller) -> None:
    """Wait for a deletion; one that failed raises what the service said of it."""
    deletion.wait(_DELETION_S)
    if deletion.done():
        deletion.result()


def _delete(arm: Arm, where: names.WorkspaceId, path: str, kind: str) -> None:
    api = _api(arm, where, kind)

    def delete(client: ResourceManagementClient) -> None:
        _wait(client.resources.begin_delete_by_id(path, api, polling_interval=_POLL_S))

    arm.ask(delete, where, f"{kind}/delete")
    if _get(arm, where, path, api, kind) is not None:
        raise BadLink(f"Azure took the deletion of {_short(path)}, and it is still there")


def _delete_group(arm: Arm, where: names.WorkspaceId, name: str) -> None:
    def delete(client: ResourceManagementClient) -> None:
        _wait(client.resource_groups.begin_delete(name, polling_interval=_POLL_S))

    arm.ask(delete, where, "Microsoft.Resources/subscriptions/resourceGroups/delete")
    read = "Microsoft.Resources/subscriptions/resourceGroups/read"
    if arm.ask(lambda c: c.resource_groups.check_existence(name), where, read):
        raise BadLink(f"Azure took the deletion of {name}, and it is still there")


def _api(arm: Arm, where: names.WorkspaceId, kind: str) -> str:
    """Return a version of a resource type's interface; Resource Manager knows them all."""
    if kind == _ML_WORKSPACE:
        return _WORKSPACE_API
    namespace, _, type_ = kind.partition("/")
    provider = arm.ask(
        lambda c: c.providers.get(namespace), where, "Microsoft.Resources/subscriptions/providers/read"
    )
    for each in getattr(provider, "resource_types", None) or []:
        versions = [v for v in each.api_versions or [] if "preview" not in v] or list(each.api_versions or [])
        if str(each.resource_type).lower() == type_.lower() and versions:
            return str(max(versions))
    return "2022-09-01"


def _kind(path: str) -> str:
    parts = path.split("/")
    return f"{parts[6]}/{parts[7]}"


def _short(path: str) -> str:
    return path.rpartition("/")[2]
