"""The forms of JSON that endpoints read and write: Resource Manager's resources, states on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

if TYPE_CHECKING:
    from dbml_magics.core.model.mlmodel import Signature

__all__ = [
    "Arguments",
    "ArmProperties",
    "ArmResource",
    "Deployed",
    "FailedDeployment",
    "ImageRequest",
    "PendingDeployment",
    "RegisteredModel",
    "Remembered",
    "Resources",
    "RevisionSpec",
    "ServerFile",
    "ServerState",
    "Settings",
    "Sku",
    "SystemData",
    "WebService",
    "json_object",
]


def json_object(text: str | bytes) -> Any:
    """Read a JSON object, for a variable of the form that it has. Raises ValueError, TypeError."""
    return dict(json.loads(text))


Settings: TypeAlias = Mapping[str, Any]
"""What a config file and the common options say, a key each; whoever uses a key checks its value."""

# --- Resource Manager


class Sku(TypedDict, total=False):
    """How many machines a deployment has."""

    name: str
    capacity: int


class SystemData(TypedDict, total=False):
    """Who made a resource, and when."""

    createdAt: str


class ArmProperties(TypedDict, total=False):
    """What is read of the properties of an online endpoint or deployment."""

    authMode: str
    instanceType: str
    mirrorTraffic: dict[str, int]
    model: str
    provisioningState: str
    scoringUri: str
    traffic: dict[str, int]


class ArmResource(TypedDict, total=False):
    """An online endpoint or deployment as Resource Manager shows it."""

    identity: dict[str, object]
    location: str
    name: str
    properties: ArmProperties
    sku: Sku
    systemData: SystemData
    tags: dict[str, str]


class RegisteredModel(TypedDict, total=False):
    """A model that a web service was made of."""

    name: str
    version: str


class Resources(TypedDict, total=False):
    """What a container of a web service holds."""

    cpu: float
    memoryInGB: float


class ImageRequest(TypedDict, total=False):
    """What the image of a web service was made of."""

    modelIds: list[str]


class WebService(TypedDict, total=False):
    """A service on container instances or a cluster, as model management (v1) shows it."""

    aadAuthEnabled: bool
    authEnabled: bool
    computeName: str
    computeType: str
    containerResourceRequirements: Resources
    createdTime: str
    environmentImageRequest: ImageRequest
    error: dict[str, object]
    models: list[RegisteredModel]
    name: str
    numReplicas: int
    operationId: str
    scoringUri: str
    state: str


# --- what this machine remembers of endpoints in the cloud


class Arguments(TypedDict):
    """The arguments of a command."""

    values: list[str]
    options: dict[str, str | bool | list[str]]


class _UnderWay(TypedDict, total=False):
    doing: str
    operation: str | None
    limit: float  # seconds that the operation may take
    waits: dict[str, float]  # what is waited for -> since when
    made: bool  # the endpoint was asked for
    put: bool
    again: Arguments


class PendingDeployment(_UnderWay):
    """What is left to do for a deployment."""

    deployment: str
    label: str
    line: str
    new: bool
    new_endpoint: bool
    endpoint: dict[str, object] | None
    body: dict[str, object]
    traffic: int | None
    mirror: dict[str, int] | None
    wait: bool
    pid: int
    started: str | None


class FailedDeployment(TypedDict):
    """Why a deployment that nobody waited for failed."""

    why: str
    label: str
    log: list[str]


class Remembered(TypedDict, total=False):
    """The file of one endpoint in the cloud."""

    workspace: str
    target: str
    name: str
    pid: int  # of the process that makes a web service
    started: str | None
    began: float
    seen: float
    endpoint: dict[str, Any]  # an Endpoint's fields
    pending: dict[str, PendingDeployment]
    failed: dict[str, FailedDeployment]


# --- the server of a local endpoint


class ServerFile(TypedDict, total=False):
    """``endpoint.json``: how an endpoint's server is reached."""

    auth: str
    created: int
    key: str | None
    owner: str
    pid: int
    port: int
    started: str | None


class RevisionSpec(TypedDict, total=False):
    """What the server is to do for one revision of a deployment."""

    concurrency: int
    digest: str
    environment: dict[str, str]
    files: str
    inherits: bool
    instances: int
    java: str | None
    model: str
    share: int | None
    signature: Signature | None
    swagger: dict[str, object]
    timeout_s: float
    variables: dict[str, str]


class Deployed(TypedDict):
    """How the server shows one deployment."""

    name: str
    state: str
    error: str | None
    created: int
    requests: int
    failures: int
    pids: list[int]
    memory: int
    told: RevisionSpec
    coming: RevisionSpec
    failed: RevisionSpec


class ServerState(TypedDict, total=False):
    """How the server shows the endpoint; ``state.json`` too."""

    traffic: dict[str, int]
    deployments: list[Deployed]
    memory: int
