"""Checks before a managed endpoint is created: outbound network access and quota for its machines."""

from __future__ import annotations

import math
from typing import TypedDict

from dbml_magics.core.azure import permissions
from dbml_magics.core.azure.arm import WorkspaceProperties
from dbml_magics.core.endpoints import scoring_container
from dbml_magics.core.endpoints.base import Order
from dbml_magics.core.endpoints.rest import Rest, ServiceRefusal
from dbml_magics.core.endpoints.shapes import ArmResource, Settings
from dbml_magics.errors import DbmlError
from dbml_magics.results.endpoints import Check

__all__ = ["container", "egress", "quota"]

_RESERVED = 1.2  # machines are counted with a fifth more, for upgrades (how-to-manage-quotas.md)
_TOTAL = "totaldedicatedcores"


class _Machine(TypedDict, total=False):
    name: str
    family: str
    vCPUs: int
    supportedComputeTypes: list[str]


class _Usage(TypedDict, total=False):
    name: dict[str, str]
    type: str
    limit: int
    currentValue: int


def container(order: Order) -> list[Check]:
    """Look whether the model's environment has what the endpoint's container imports when it starts."""
    missing = [] if order.add_packages else scoring_container.missing_packages(order.files)
    if missing:
        quoted = ", ".join(f'"{each}"' for each in missing)
        said = (
            f"the model's conda.yaml lacks {', '.join(missing)}, without which its container ends in 502 "
            f"(ResourceNotReady; as of {scoring_container.AS_OF})"
        )
        copied = (order.line.but(add_packages=True), "adds them to a copy of the model on the way, or")
        logged = (f"mlflow.….log_model(…, extra_pip_requirements=[{quoted}])", "logs the model with them")
        return [Check("container", said, False, (copied, logged))]
    doubtful = scoring_container.doubtful_mlflow(order.files)
    if doubtful is not None:
        said = f"{doubtful}: containers that end in 502 are reported of mlflow 3.7 and later"
        return [Check("container", said, None)]
    return [Check("container", "has what it needs")]


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
    """Look whether the region has the machine for endpoints and its quota room, where it can be asked.

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
    machines: list[_Machine] = found[0]
    machine = next((each for each in machines if _word(each.get("name")) == _word(size)), None)
    if machines and (machine is None or not _serves_endpoints(machine)):
        others = ", ".join(sorted(str(each.get("name")) for each in machines if _serves_endpoints(each))[:6])
        why = f"{region} has no machine {size}" if machine is None else f"no managed endpoint runs on {size}"
        return Check("size", f"{why}; in {region} they run on {others}, …", False)
    cores = int((machine or {}).get("vCPUs") or 0)
    held = 0
    if before is not None and _word(before["properties"].get("instanceType")) == _word(size):
        held = _reserved(int((before.get("sku") or {}).get("capacity") or 1)) * cores
    free = {_word(each["name"].get("value")): _free(each) + held for each in found[1] if _counts(each)}
    family = str((machine or {}).get("family") or "")
    if _word(family) not in free:
        return Check("quota", f"the region does not say it for {size}; {count} × {size}", None)
    wanted, left, of = _reserved(count) * cores, free[_word(family)], family
    if free.get(_TOTAL, left) < left:
        left, of = free[_TOTAL], "all families together"
    said = f"{count} × {size} takes {wanted} vCPUs of {of} (a fifth more, for upgrades), {left} are free"
    return Check("quota", said, wanted <= left)


def _reserved(count: int) -> int:
    return math.ceil(count * _RESERVED)


def _word(name: object) -> str:
    """Return a name as others compare with it: "Standard NCASv3_T4 Family" is "standardNCASv3_T4Family"."""
    return "".join(str(name).split()).lower()


def _serves_endpoints(machine: _Machine) -> bool:
    kinds = machine.get("supportedComputeTypes")
    return kinds is None or "mir" in map(_word, kinds)


def _counts(usage: _Usage) -> bool:
    """Tell whether a usage is of dedicated machines: each family is listed for low priority as well."""
    low_priority = "lowprioritycores" in str(usage.get("type")).lower()
    return bool(usage.get("name")) and not low_priority and int(usage.get("limit") or 0) >= 0


def _free(usage: _Usage) -> int:
    return int(usage.get("limit") or 0) - int(usage.get("currentValue") or 0)
