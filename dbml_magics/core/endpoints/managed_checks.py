"""Checks before a managed endpoint is created: outbound network access and quota for its machines."""

from __future__ import annotations

import math
from typing import TypedDict

from dbml_magics.core.azure import permissions
from dbml_magics.core.azure.arm import WorkspaceProperties
from dbml_magics.core.endpoints.rest import Rest, ServiceRefusal
from dbml_magics.core.endpoints.shapes import ArmResource, Settings
from dbml_magics.errors import DbmlError
from dbml_magics.results.endpoints import Check

__all__ = ["egress", "quota"]

_RESERVED = 1.2  # machines are counted with a fifth more, for upgrades (how-to-manage-quotas.md)


class _Usage(TypedDict, total=False):
    name: dict[str, str]
    limit: int
    currentValue: int


def egress(workspace: WorkspaceProperties, given: Settings) -> Check:
    """Look whether the container can install the model's packages: it does so when it starts.

    ``workspace`` are the workspace's properties, ``given`` the settings of the deployment.
    """
    isolation = str((workspace.get("managedNetwork") or {}).get("isolationMode") or "")
    if str(given.get("egress_public_network_access") or "").lower() == "disabled":
        said = "disabled by the config file: the container could not install the model's packages"
        return Check("egress", said, False)
    if isolation == "AllowOnlyApprovedOutbound":
        said = "approved addresses alone: the package index must be among them (outbound rules)"
        return Check("egress", said, None)
    if str(workspace.get("publicNetworkAccess") or "").lower() == "disabled":
        said = (
            "the workspace is behind its private endpoint: the container installs the model's packages when "
            "it starts, and needs a way to the package index"
        )
        return Check("egress", said, None)
    return Check("egress", "open")


def quota(rest: Rest, region: str, size: str, count: int, before: ArmResource | None) -> Check:
    """Look whether the region's quota has room for the machines, where it can be asked.

    ``before`` is the deployment that the new one replaces: what it holds is given back.
    """
    where = f"/subscriptions/{rest.id.subscription}/providers/{permissions.ML}/locations/{region}"
    found = []
    for what in ("vmSizes", "usages"):
        action = f"{permissions.ML}/locations/{what.lower()}/read"
        try:
            answer = rest.arm("GET", f"{where}/{what}", action=action)
        except (DbmlError, ServiceRefusal):
            return Check("quota", f"could not be asked; {count} × {size}", None)
        found.append(answer.body.get("value") or [] if answer is not None else [])
    known = {str(each.get("name")): each for each in found[0]}
    if known and size not in known:
        return Check(
            "size", f"{region} has no machine {size}; it has {', '.join(sorted(known)[:6])}, …", False
        )
    family = str((known.get(size) or {}).get("family") or "")
    of = [each for each in found[1] if family and _family(each) == family.lower()]
    if not of:
        return Check("quota", f"the region does not say it for {size}; {count} × {size}", None)
    cores = int(known[size].get("vCPUs") or 0)
    wanted = math.ceil(count * _RESERVED) * cores
    held = 0
    if before is not None and str(before["properties"].get("instanceType")) == size:
        held = math.ceil(int((before.get("sku") or {}).get("capacity") or 1) * _RESERVED) * cores
    free = int(of[0].get("limit") or 0) - int(of[0].get("currentValue") or 0) + held
    said = f"{count} × {size} takes {wanted} vCPUs of {family} (a fifth more, for upgrades), {free} are free"
    return Check("quota", said, wanted <= free)


def _family(usage: _Usage) -> str:
    return str((usage.get("name") or {}).get("value")).lower()
