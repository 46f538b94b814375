"""What a line makes of a managed deployment: whether it changes, what it may not change, and the new body."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from dbml_magics.common.hints import Remedy
from dbml_magics.core.endpoints import managed_body
from dbml_magics.core.endpoints.base import Order
from dbml_magics.core.endpoints.managed_api import state_of, traffic_of
from dbml_magics.core.endpoints.shapes import ArmResource, Settings
from dbml_magics.errors import BadCommand

__all__ = [
    "LABEL",
    "VERSION",
    "There",
    "body_of",
    "properties_after",
    "refuse_bad",
    "refuse_create_only",
    "serves_already",
    "size_and_count",
]

LABEL, VERSION = "dbml_model", "dbml_version"
"""Tags of a deployment: what the user called its model, and the version at Azure ML that this was."""


@dataclass(frozen=True)
class There:
    """What a line finds at the service."""

    endpoint: ArmResource | None
    deployments: Mapping[str, ArmResource]
    name: str  # of the deployment that the line means

    @property
    def before(self) -> ArmResource | None:
        """Return the deployment that the line would replace; one that is deleted lets the new one wait."""
        found = self.deployments.get(self.name)
        return None if found is None or state_of(found) == "deleting" else found


def serves_already(before: ArmResource, wanted: Mapping[str, object], order: Order) -> bool:
    """Tell whether a deployment is already what is wanted of it."""
    count = order.settings.get("instance_count")
    shown = {**(before.get("properties") or {})}
    for key in managed_body.CREATE_ONLY.keys() & wanted.keys() & shown.keys():
        if _alike(shown[key], wanted[key]):
            shown[key] = wanted[key]
    held = int((before.get("sku") or {}).get("capacity") or 1)
    return (
        state_of(before) == "ready" and managed_body.includes(shown, dict(wanted)) and count in (None, held)
    )


def size_and_count(before: ArmResource | None, order: Order) -> tuple[str, int]:
    """Return the machine and how many: the line's, else those that there are, else the default."""
    held = ((before or {}).get("properties") or {}).get("instanceType")
    size = held or order.settings.get("instance_type") or managed_body.DEFAULT_SIZE
    count = order.settings.get("instance_count") or ((before or {}).get("sku") or {}).get("capacity") or 1
    return str(size), int(count)


def body_of(
    before: ArmResource | None,
    wanted: Mapping[str, object],
    order: Order,
    location: str,
    version: str,
) -> dict[str, object]:
    """Return the body that creates a deployment; settings that the line does not name stay."""
    size, count = size_and_count(before, order)
    properties = {
        "endpointComputeType": "Managed",
        **properties_after(before, wanted),
        "instanceType": size,
    }
    tags = {**((before or {}).get("tags") or {}), **(order.settings.get("tags") or {})}
    return {
        "location": location,
        "sku": {"name": "Default", "capacity": count},
        "tags": {**tags, LABEL: order.model.label, VERSION: version},
        "properties": properties,
    }


def properties_after(before: ArmResource | None, wanted: Mapping[str, object]) -> dict[str, object]:
    """Return the properties that a deployment shall have, without the service's own of the one before."""
    kept: dict[str, object] = {
        k: v for k, v in ((before or {}).get("properties") or {}).items() if v is not None
    }
    kept.pop("provisioningState", None)
    tagged = kept.get("properties")
    if isinstance(tagged, dict):
        kept["properties"] = {k: v for k, v in tagged.items() if k != "AzureAsyncOperationUri"}
    return managed_body.merged(kept, wanted)


def _alike(one: object, other: object) -> bool:
    return str(one).lower() == str(other).lower()  # sizes compare without case


def refuse_create_only(before: ArmResource, there: There, order: Order) -> None:
    """Raise BadCommand for an update that the service would leave undone, with the way to do it."""
    wanted = managed_body.deployment_properties(order.settings)
    held: dict[str, object] = {**(before.get("properties") or {})}
    changed = [
        f"{key} {held[rest]} to {wanted[rest]}"
        for rest, key in managed_body.CREATE_ONLY.items()
        if rest in wanted and held.get(rest) is not None and not _alike(held[rest], wanted[rest])
    ]
    if not changed:
        return
    name = there.name
    other = next(
        beside
        for number in itertools.count(2)
        if (beside := f"{name[:28].rstrip('-')}-{number}") not in there.deployments
    )
    traffic = 100 if traffic_of(there.endpoint).get(name) else order.traffic
    ended = Remedy("undeploy", order.name, from_="online", deployment=name, confirm=order.name)
    raise BadCommand(
        f"deployment {name} cannot change {', '.join(changed)}: Azure ML takes that when a deployment is "
        "made and not afterwards. Another deployment can have it.",
        remedies=[
            (
                order.line.but(deployment=other, traffic=traffic),
                "makes it and moves the requests to it; then",
            ),
            (ended, "ends the one before"),
        ],
    )


def refuse_bad(given: Settings) -> None:
    """Raise BadCommand for numbers that make no sense, before anybody is asked."""
    count = given.get("instance_count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise BadCommand(
            "instance_count wants a whole number from 1 on.",
            remedies=[("instance_count: 1", "in the config file")],
        )
    mirror = given.get("mirror_traffic") or {}
    if not isinstance(mirror, dict) or any(
        not isinstance(v, int) or not 0 <= v <= 50 for v in mirror.values()
    ):
        raise BadCommand(
            "mirror_traffic wants deployment: percent, at most 50.",
            remedies=[("mirror_traffic: {green: 10}", "in the config file")],
        )
