"""What a region holds of managed endpoints: the endpoints by name, their machines, and the quota of cores."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from tests.standins.azure.containers import Container
from tests.standins.azure.state import State, Workspace
from tests.standins.azure.web import ML, Call, Refusal, arm_refusal, reply, route, utc

__all__ = ["BY_NAME", "FOR_CLUSTERS", "Deployment", "Endpoint", "Region", "bad", "size_of"]

LOCATION = f"/subscriptions/{{subscription}}/providers/{ML}/locations/{{location}}"
SIZES = {  # name -> (family, vCPUs, GB); the families are spelled as in Get-AzMLServiceUsage.Recording.json
    "Standard_DS2_v2": ("standardDSv2Family", 2, 7),
    "Standard_DS3_v2": ("standardDSv2Family", 4, 14),
    "Standard_F4s_v2": ("standardFSv2Family", 4, 8),
    "Standard_NC4as_T4_v3": ("Standard NCASv3_T4 Family", 4, 28),
    "Standard_D16ds_v4": ("standardDDSv4Family", 16, 64),
}
FOR_CLUSTERS = ("Standard_D16ds_v4",)  # without MIR: no managed endpoint runs on it (…VMSize.Recording.json)
BY_NAME = {name.lower(): name for name in SIZES}  # sizes compare without case


def size_of(properties: dict[str, Any]) -> str:
    """Return the size of a deployment as the table spells it."""
    return BY_NAME[str(properties["instanceType"]).lower()]


@dataclass
class Deployment:
    """A deployment, the container that answers, and the one that shall take its place."""

    name: str
    body: dict[str, Any]
    state: str = "Creating"
    active: Container | None = None
    coming: Container | None = None
    last: Container | None = None  # whose log is shown
    ends: float = 0.0
    error: dict[str, str] | None = None
    created: str = field(default_factory=utc)


@dataclass
class Endpoint:
    """An endpoint, its keys and deployments."""

    name: str
    workspace: Workspace
    body: dict[str, Any]
    traffic: dict[str, int] = field(default_factory=dict)
    mirror: dict[str, int] = field(default_factory=dict)
    keys: list[str] = field(default_factory=lambda: [secrets.token_urlsafe(24) for _ in range(2)])
    tokens: set[str] = field(default_factory=set)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    working: str = "Creating"
    ends: float = 0.0
    deleting: bool = False
    created: str = field(default_factory=utc)


def bad(message: str, code: str = "BadRequest", status: int = 400) -> Refusal:
    """Return a refusal of a request that makes no sense."""
    return arm_refusal(status, code, message)


class Region:
    """Endpoints by their names, which are unique in a region, and what of its cores they use."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.endpoints: dict[str, Endpoint] = {}

    def refuse_quota(
        self, workspace: Workspace, size: str, count: int, endpoint: Endpoint, name: str
    ) -> None:
        family, cores, _ = SIZES[BY_NAME[size.lower()]]
        used = self._used(family, without=(endpoint, name))
        needed = math.ceil(count * 1.2) * cores  # 20 % more for upgrades (how-to-manage-quotas.md)
        limit = self.state.switches.quota_cores
        total, all_used = self.state.switches.total_cores, self._used(None, without=(endpoint, name))
        if used + needed > limit or all_used + needed > total:
            message = (
                f"Not enough quota available for {size} in SubscriptionId {workspace.subscription}. Current "
                f"usage/limit: {used}/{limit}. Additional needed: {needed} Please see troubleshooting guide, "
                "available here: https://aka.ms/oe-tsg#error-outofquota"
            )
            raise bad(message, "OutOfQuota")

    def _used(self, family: str | None, without: tuple[Endpoint, str] | None = None) -> int:
        total = 0
        for endpoint in self.endpoints.values():
            for deployment in endpoint.deployments.values():
                if without is not None and (endpoint, deployment.name) == without:
                    continue
                kind, cores, _ = SIZES[size_of(deployment.body["properties"])]
                count = int((deployment.body.get("sku") or {}).get("capacity") or 1)
                total += math.ceil(count * 1.2) * cores if family in (None, kind) else 0
        return total

    @route("GET", LOCATION + "/vmSizes", f"{ML}/locations/vmsizes/read")
    async def sizes(self, call: Call) -> Response:
        """List the machines, and what each may be used for."""
        return reply(
            {
                "value": [
                    {
                        "name": name,
                        "family": family,
                        "vCPUs": cores,
                        "memoryGB": memory,
                        "gpus": 0,
                        "supportedComputeTypes": [
                            "AmlCompute",
                            "ComputeInstance",
                            *([] if name in FOR_CLUSTERS else ["MIR"]),
                        ],
                    }
                    for name, (family, cores, memory) in SIZES.items()
                ]
            }
        )

    @route("GET", LOCATION + "/usages", f"{ML}/locations/usages/read")
    async def usages(self, call: Call) -> Response:
        """List what is used of the region's cores and of each family's, twice: low priority has no limit."""
        families = dict.fromkeys(family for family, _, _ in SIZES.values())
        switches = self.state.switches

        def usage(kind: str, name: str, used: int, limit: int) -> dict[str, Any]:
            shown = {"value": name, "localizedValue": f"{name} vCPUs"}
            kinds = {"unit": "Count", "currentValue": used, "limit": limit, "name": shown}
            return {**kinds, "type": f"{ML}/{kind}/usages", "id": call.path}

        low = "vmFamily/lowPriorityCores"
        dedicated = "vmFamily/dedicatedCores"
        return reply(
            {
                "value": [
                    usage("totalClusters", "TotalClusters", 3, 200),
                    usage(
                        "totalDedicatedCores", "TotalDedicatedCores", self._used(None), switches.total_cores
                    ),
                    *(usage(low, family, 0, -1) for family in families),
                    *(usage(dedicated, each, self._used(each), switches.quota_cores) for each in families),
                ]
            }
        )
