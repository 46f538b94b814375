"""Managed online endpoints: Resource Manager's side of them, and their scoring addresses."""

from __future__ import annotations

import json
import math
import random
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from tests.standins.azure.access import Access
from tests.standins.azure.arm import Arm
from tests.standins.azure.containers import Container, Containers
from tests.standins.azure.login import Login
from tests.standins.azure.state import State, Workspace
from tests.standins.azure.web import ML, WORKSPACE, Call, Refusal, arm_refusal, empty, reply, route, utc

__all__ = ["Online"]

ENDPOINTS = WORKSPACE + "/onlineEndpoints"
ENDPOINT = ENDPOINTS + "/{endpoint}"
DEPLOYMENT = ENDPOINT + "/deployments/{deployment}"
LOCATION = f"/subscriptions/{{subscription}}/providers/{ML}/locations/{{location}}"
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
MODEL = re.compile(
    r"(?P<workspace>/subscriptions/.+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.I
)
VERSIONS = ("2022-02-01-preview", "2022-05-01", "2023-04-01-preview", "2024-10-01")
# resource-limits-capacity.md: a request of a managed online endpoint has at most 1.5 MB
LARGEST_REQUEST = int(1.5 * 1024 * 1024)
SIZES = {  # name -> (family, vCPUs, GB)
    "Standard_DS2_v2": ("standardDSv2Family", 2, 7),
    "Standard_DS3_v2": ("standardDSv2Family", 4, 14),
    "Standard_F4s_v2": ("standardFSv2Family", 4, 8),
}
READ, WRITE = f"{ML}/workspaces/onlineEndpoints/read", f"{ML}/workspaces/onlineEndpoints/write"
DELETE = f"{ML}/workspaces/onlineEndpoints/delete"
DEP = f"{ML}/workspaces/onlineEndpoints/deployments"


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


class Online:
    """Endpoints by their names, which are unique in a region."""

    def __init__(self, state: State, access: Access, arm: Arm, login: Login, containers: Containers) -> None:
        self.state, self.access, self.arm, self.login = state, access, arm, login
        self.containers = containers
        self.endpoints: dict[str, Endpoint] = {}

    def reset(self) -> None:
        self.endpoints.clear()

    # What is asked of every call

    def _workspace(self, call: Call) -> Workspace:
        if call.query.get("api-version") not in VERSIONS:
            raise bad(f"The api-version '{call.query.get('api-version')}' is invalid.", "InvalidApiVersion")
        names = call.names
        found = self.state.workspace(names["subscription"], names["group"], names["workspace"])
        if found is None:
            raise bad(f"The workspace '{names['workspace']}' was not found.", "ResourceNotFound", 404)
        return found

    def _endpoint(self, call: Call) -> Endpoint:
        workspace = self._workspace(call)
        found = self.endpoints.get(call.names["endpoint"].lower())
        if found is not None and found.deleting and time.monotonic() >= found.ends:
            self._forget(found)
            found = None
        if found is None or found.workspace is not workspace:
            raise bad(f"Online endpoint '{call.names['endpoint']}' was not found.", "ResourceNotFound", 404)
        for deployment in found.deployments.values():
            self._settle(deployment)
        return found

    def _deployment(self, call: Call) -> tuple[Endpoint, Deployment]:
        endpoint = self._endpoint(call)
        found = endpoint.deployments.get(call.names["deployment"])
        if found is not None and found.state == "Deleting" and time.monotonic() >= found.ends:
            self._end(found)
            del endpoint.deployments[found.name]
            found = None
        if found is None:
            message = f"Deployment '{call.names['deployment']}' was not found in '{endpoint.name}'."
            raise bad(message, "ResourceNotFound", 404)
        return endpoint, found

    def _forget(self, endpoint: Endpoint) -> None:
        for deployment in endpoint.deployments.values():
            self._end(deployment)
        self.endpoints.pop(endpoint.name.lower(), None)

    def _end(self, deployment: Deployment) -> None:
        self.containers.end(deployment.active)
        self.containers.end(deployment.coming)

    def _free(self, what: Endpoint) -> None:
        if time.monotonic() < what.ends:
            message = f"Another operation is in progress on '{what.name}': wait until it has completed."
            raise bad(message, "Conflict", 409)

    def _settle(self, deployment: Deployment) -> bool:
        """Let what has started, or crashed, count; returns whether nothing is in progress any more."""
        coming = deployment.coming
        if time.monotonic() < deployment.ends:
            return False
        if coming is None:
            if deployment.error is not None and deployment.state != "Deleting":
                deployment.state = "Failed"
            return True
        if not coming.settled:
            return False
        deployment.coming = None
        if coming.failure is None:
            self.containers.end(deployment.active)
            deployment.active, deployment.state = coming, "Succeeded"
            return True
        deployment.state = "Failed"
        deployment.error = {
            "code": "ResourceNotReady",
            "message": "User container has crashed or terminated. Please see troubleshooting guide, "
            "available here: https://aka.ms/oe-tsg#error-resourcenotready",
        }
        return True

    # Endpoints

    @route("GET", ENDPOINTS, READ)
    async def listing(self, call: Call) -> Response:
        """List the workspace's endpoints, one a page."""
        workspace = self._workspace(call)
        found = [each for each in self.endpoints.values() if each.workspace is workspace]
        skip = int(call.query.get("$skip") or 0)
        answer: dict[str, Any] = {"value": [self._shown(each) for each in found[skip : skip + 1]]}
        if skip + 1 < len(found):
            version = call.query["api-version"]
            answer["nextLink"] = f"{self.state.public}{call.path}?api-version={version}&$skip={skip + 1}"
        return reply(answer)

    @route("GET", ENDPOINT, READ)
    async def show(self, call: Call) -> Response:
        """Show one endpoint."""
        return reply(self._shown(self._endpoint(call)))

    @route("PUT", ENDPOINT, WRITE)
    async def make(self, call: Call) -> Response:
        """Make an endpoint, or set all that it is."""
        workspace, name, asked = self._workspace(call), call.names["endpoint"], await call.json()
        properties = asked.get("properties") or {}
        if not NAME.fullmatch(name):
            raise bad(f"The endpoint name '{name}' is invalid: 3 to 32 letters, digits, hyphens.")
        if not asked.get("location"):
            raise bad("The location property is required for this definition.", "LocationRequired")
        if properties.get("authMode") not in ("Key", "AMLToken", "AADToken"):
            raise bad(f"authMode '{properties.get('authMode')}' is invalid.")
        known = self.endpoints.get(name.lower())
        if known is not None and known.workspace is not workspace:
            raise bad(f"The endpoint name '{name}' is in use in {asked['location']}.", "Conflict", 409)
        endpoint = known or Endpoint(name, workspace, asked)
        if known is not None:
            self._free(known)
            known.body = asked
        self._set_traffic(endpoint, properties)
        endpoint.working = "Updating" if known else "Creating"
        endpoint.ends = time.monotonic() + self.state.switches.operation_seconds
        self.endpoints[name.lower()] = endpoint
        return reply(self._shown(endpoint), 200 if known else 201, self._operation(call, endpoint))

    @route("PATCH", ENDPOINT, WRITE)
    async def change(self, call: Call) -> Response:
        """Change an endpoint's traffic, tags or identity."""
        endpoint, asked = self._endpoint(call), await call.json()
        self._free(endpoint)
        if asked.get("properties") and call.query["api-version"] != "2022-02-01-preview":
            raise bad("Only tags and identity can be changed so; the rest by PUT.")  # ARM schema, 2022-05-01
        self._set_traffic(endpoint, asked.get("properties") or {})
        endpoint.body = {**endpoint.body, **{k: asked[k] for k in ("tags", "identity") if k in asked}}
        endpoint.working = "Updating"
        endpoint.ends = time.monotonic() + self.state.switches.operation_seconds
        return reply(self._shown(endpoint), 202, self._operation(call, endpoint))

    def _set_traffic(self, endpoint: Endpoint, properties: dict[str, Any]) -> None:
        for key, whole in (("traffic", True), ("mirrorTraffic", False)):
            asked = properties.get(key)
            if asked is None:
                continue
            for name, share in asked.items():
                found = endpoint.deployments.get(name)
                if found is None:
                    raise bad(f"The traffic names the deployment '{name}', which does not exist.")
                if share and found.active is None:
                    raise bad(f"Traffic can not be assigned to deployment '{name}' in state {found.state}.")
            total = sum(asked.values())
            if whole and total not in (0, 100):
                raise bad(f"The traffic adds up to {total}: it must be 0 or 100.")
            if not whole and total > 50:
                raise bad("At most 50 percent of the traffic can be mirrored.")
            setattr(endpoint, "traffic" if whole else "mirror", dict(asked))

    @route("DELETE", ENDPOINT, DELETE)
    async def delete(self, call: Call) -> Response:
        """Delete an endpoint with its deployments."""
        try:
            endpoint = self._endpoint(call)
        except Refusal as refusal:
            if refusal.status == 404:
                return empty(204)
            raise
        self._free(endpoint)
        endpoint.deleting, endpoint.working = True, "Deleting"
        endpoint.ends = time.monotonic() + self.state.switches.operation_seconds
        return empty(202, self._operation(call, endpoint))

    def _operation(self, call: Call, what: Endpoint | Deployment) -> dict[str, str]:
        def check() -> tuple[bool, dict[str, str] | None]:
            if isinstance(what, Endpoint):
                return time.monotonic() >= what.ends, None
            done = self._settle(what)
            return done, what.error if done and what.state == "Failed" else None

        scope = f"/subscriptions/{call.names['subscription']}/providers/{ML}/locations/westeurope"
        return self.arm.waiting(self.arm.begin(scope, check=check))

    def _shown(self, endpoint: Endpoint) -> dict[str, Any]:
        asked = endpoint.body.get("properties") or {}
        busy = time.monotonic() < endpoint.ends
        address = f"{self.state.public}/inference/{endpoint.name}"
        return {
            "id": f"{endpoint.workspace.scope}/onlineEndpoints/{endpoint.name}",
            "name": endpoint.name,
            "type": f"{ML}/workspaces/onlineEndpoints",
            "location": endpoint.body.get("location"),
            "tags": endpoint.body.get("tags") or {},
            "kind": "Managed",
            "identity": endpoint.body.get("identity") or {"type": "SystemAssigned"},
            "systemData": {"createdAt": endpoint.created, "createdByType": "Application"},
            "properties": {
                "authMode": asked.get("authMode"),
                "description": asked.get("description"),
                "properties": asked.get("properties") or {},
                "publicNetworkAccess": asked.get("publicNetworkAccess") or "Enabled",
                "scoringUri": f"{address}/score",
                "swaggerUri": f"{address}/swagger.json",
                "traffic": endpoint.traffic,
                "mirrorTraffic": endpoint.mirror,
                "provisioningState": endpoint.working if busy else "Succeeded",
            },
        }

    @route("POST", ENDPOINT + "/listKeys", f"{ML}/workspaces/onlineEndpoints/listKeys/action")
    async def keys(self, call: Call) -> Response:
        """Show the keys of an endpoint that asks for one."""
        endpoint = self._endpoint(call)
        if (endpoint.body["properties"] or {}).get("authMode") != "Key":
            raise bad("The endpoint does not use keys.")
        return reply({"primaryKey": endpoint.keys[0], "secondaryKey": endpoint.keys[1]})

    @route("POST", ENDPOINT + "/regenerateKeys", f"{ML}/workspaces/onlineEndpoints/regenerateKeys/action")
    async def new_keys(self, call: Call) -> Response:
        """Make a new key."""
        endpoint = self._endpoint(call)
        which = 0 if (await call.json()).get("keyType") == "Primary" else 1
        endpoint.keys[which] = secrets.token_urlsafe(24)
        return empty(202, self._operation(call, endpoint))

    @route("POST", ENDPOINT + "/token", f"{ML}/workspaces/onlineEndpoints/token/action")
    async def token(self, call: Call) -> Response:
        """Hand out a token of an endpoint that asks for one of Azure ML."""
        endpoint = self._endpoint(call)
        if (endpoint.body["properties"] or {}).get("authMode") != "AMLToken":
            raise bad("The endpoint does not use tokens of Azure ML.")
        made = secrets.token_urlsafe(32)
        endpoint.tokens.add(made)
        until = int(time.time()) + 3600
        return reply(
            {"accessToken": made, "expiryTimeUtc": until, "refreshAfterTimeUtc": until, "tokenType": "Bearer"}
        )

    # Deployments

    @route("GET", ENDPOINT + "/deployments", f"{DEP}/read")
    async def deployments(self, call: Call) -> Response:
        """List an endpoint's deployments."""
        endpoint = self._endpoint(call)
        now = time.monotonic()
        gone = [d for d in endpoint.deployments.values() if d.state == "Deleting" and now >= d.ends]
        for each in gone:
            self._end(each)
            del endpoint.deployments[each.name]
        return reply({"value": [self._told(endpoint, each) for each in endpoint.deployments.values()]})

    @route("GET", DEPLOYMENT, f"{DEP}/read")
    async def deployment(self, call: Call) -> Response:
        """Show one deployment."""
        return reply(self._told(*self._deployment(call)))

    @route("PUT", DEPLOYMENT, f"{DEP}/write")
    async def deploy(self, call: Call) -> Response:
        """Make a deployment, or take another model or size for it; what answers goes on until then."""
        return await self._begin(call, await call.json())

    @route("PATCH", DEPLOYMENT, f"{DEP}/write")
    async def update(self, call: Call) -> Response:
        """Change what the body names, as azureml-mlflow's client does."""
        _, known = self._deployment(call)
        asked = await call.json()
        if asked.get("properties") and call.query["api-version"] != "2022-02-01-preview":
            raise bad("Only tags and sku can be changed so; the rest by PUT.")  # ARM schema, 2022-05-01
        given = {k: v for k, v in (asked.get("properties") or {}).items() if v is not None}
        body = {**known.body, **{k: asked[k] for k in ("sku", "tags") if asked.get(k)}}
        body["properties"] = {**known.body["properties"], **given}
        return await self._begin(call, body, 202)

    async def _begin(self, call: Call, asked: dict[str, Any], status: int | None = None) -> Response:
        endpoint, name = self._endpoint(call), call.names["deployment"]
        properties = asked.get("properties") or {}
        if time.monotonic() < endpoint.ends:
            raise bad(f"The endpoint '{endpoint.name}' is {endpoint.working}.", "Conflict", 409)
        known = endpoint.deployments.get(name)
        if known is not None and not self._settle(known):
            message = f"Another operation is in progress on the deployment '{name}'."
            raise bad(message, "Conflict", 409)
        model = self._checked(name, asked, properties)
        capacity = int((asked.get("sku") or {}).get("capacity") or 1)
        self._refuse_quota(endpoint.workspace, properties["instanceType"], capacity, endpoint, name)
        container = None
        failure = self.state.switches.image_pull
        if not failure:
            container = await self.containers.start(
                endpoint.workspace,
                model["name"],
                model["version"],
                properties.get("environmentVariables") or {},
            )
            if container is None:
                message = f"The model {model['name']}:{model['version']} does not exist in the workspace."
                raise bad(message, "ModelNotFound")
        deployment = known or Deployment(name, asked)
        deployment.body, deployment.error = asked, None
        deployment.coming = container
        deployment.last = container or deployment.last
        deployment.state = "Updating" if known else "Creating"
        deployment.ends = time.monotonic() + self.state.switches.operation_seconds
        if failure:
            deployment.error = {"code": "ImageBuildFailure", "message": failure}
        endpoint.deployments[name] = deployment
        headers = self._operation(call, deployment)
        return reply(self._told(endpoint, deployment), status or (200 if known else 201), headers)

    def _checked(self, name: str, asked: dict[str, Any], properties: dict[str, Any]) -> re.Match[str]:
        """Return the parts of the model's id, or refuse the body."""
        if not NAME.fullmatch(name):
            raise bad(f"The deployment name '{name}' is invalid: 3 to 32 letters, digits, hyphens.")
        if not asked.get("location"):
            raise bad("The location property is required for this definition.", "LocationRequired")
        if properties.get("endpointComputeType") != "Managed":
            raise bad("endpointComputeType is required.")
        model = MODEL.fullmatch(str(properties.get("model") or ""))
        if model is None:
            raise bad(f"The model '{properties.get('model')}' is not a model's resource id.")
        if properties.get("instanceType") not in SIZES:
            raise bad(f"The instance type '{properties.get('instanceType')}' is not supported.")
        timeout = (properties.get("requestSettings") or {}).get("requestTimeout")
        if timeout is not None and not re.fullmatch(r"PT[\d.]+(S|M)", str(timeout)):
            raise bad(f"requestTimeout '{timeout}' is not an ISO 8601 duration.")
        collected = (properties.get("dataCollector") or {}).get("collections") or {}
        for key, each in collected.items():
            if each.get("dataCollectionMode") not in ("Enabled", "Disabled"):
                raise bad(f"dataCollectionMode of the collection '{key}' is invalid.")
        return model

    def _refuse_quota(
        self, workspace: Workspace, size: str, count: int, endpoint: Endpoint, name: str
    ) -> None:
        family, cores, _ = SIZES[size]
        used = self._used(family, without=(endpoint, name))
        needed = math.ceil(count * 1.2) * cores  # 20 % more for upgrades (how-to-manage-quotas.md)
        limit = self.state.switches.quota_cores
        if used + needed > limit:
            message = (
                f"Not enough quota available for {size} in SubscriptionId {workspace.subscription}. Current "
                f"usage/limit: {used}/{limit}. Additional needed: {needed} Please see troubleshooting guide, "
                "available here: https://aka.ms/oe-tsg#error-outofquota"
            )
            raise bad(message, "OutOfQuota")

    def _used(self, family: str, without: tuple[Endpoint, str] | None = None) -> int:
        total = 0
        for endpoint in self.endpoints.values():
            for deployment in endpoint.deployments.values():
                if without is not None and (endpoint, deployment.name) == without:
                    continue
                kind, cores, _ = SIZES[deployment.body["properties"]["instanceType"]]
                count = int((deployment.body.get("sku") or {}).get("capacity") or 1)
                total += math.ceil(count * 1.2) * cores if kind == family else 0
        return total

    def _told(self, endpoint: Endpoint, deployment: Deployment) -> dict[str, Any]:
        self._settle(deployment)
        return {
            "id": f"{endpoint.workspace.scope}/onlineEndpoints/{endpoint.name}/deployments/{deployment.name}",
            "name": deployment.name,
            "type": f"{ML}/workspaces/onlineEndpoints/deployments",
            "location": deployment.body.get("location"),
            "tags": deployment.body.get("tags") or {},
            "sku": deployment.body.get("sku") or {"name": "Default", "capacity": 1},
            "systemData": {"createdAt": deployment.created},
            "properties": {
                **deployment.body["properties"],
                "provisioningState": deployment.state,
            },
        }

    @route("DELETE", DEPLOYMENT, f"{DEP}/delete")
    async def remove(self, call: Call) -> Response:
        """Delete a deployment that gets no traffic."""
        try:
            endpoint, deployment = self._deployment(call)
        except Refusal as refusal:
            if refusal.status == 404:
                return empty(204)
            raise
        if endpoint.traffic.get(deployment.name):
            message = f"Cannot delete deployment '{deployment.name}': it has non-zero traffic."
            raise bad(message)
        if not self._settle(deployment):
            raise bad(f"Another operation is in progress on '{deployment.name}'.", "Conflict", 409)
        endpoint.traffic.pop(deployment.name, None)
        deployment.state = "Deleting"
        deployment.ends = time.monotonic() + self.state.switches.operation_seconds
        return empty(202, self._operation(call, deployment))

    @route("POST", DEPLOYMENT + "/getLogs", f"{DEP}/getLogs/action")
    async def logs(self, call: Call) -> Response:
        """Return the end of a container's log."""
        _, deployment = self._deployment(call)
        asked = await call.json()
        if asked.get("containerType") not in ("StorageInitializer", "InferenceServer", None):
            raise bad(f"containerType '{asked.get('containerType')}' is invalid.")
        found = deployment.last
        return reply({"content": found.log(int(asked.get("tail") or 100)) if found else ""})

    # What can be asked beforehand

    @route("GET", LOCATION + "/vmSizes", f"{ML}/locations/vmsizes/read")
    async def sizes(self, call: Call) -> Response:
        """List the machines."""
        return reply(
            {
                "value": [
                    {"name": name, "family": family, "vCPUs": cores, "memoryGB": memory, "gpus": 0}
                    for name, (family, cores, memory) in SIZES.items()
                ]
            }
        )

    @route("GET", LOCATION + "/usages", f"{ML}/locations/usages/read")
    async def usages(self, call: Call) -> Response:
        """List what is used of each family's quota."""
        names = dict.fromkeys(family for family, _, _ in SIZES.values())
        return reply(
            {
                "value": [
                    {
                        "id": f"{call.path}/{family}",
                        "type": f"{ML}/usages",
                        "unit": "Count",
                        "currentValue": self._used(family),
                        "limit": self.state.switches.quota_cores,
                        "name": {"value": family, "localizedValue": f"{family} Cluster Dedicated vCPUs"},
                    }
                    for family in names
                ]
            }
        )

    # Scoring

    def _admit(self, call: Call) -> Endpoint:
        endpoint = self.endpoints.get(call.names["endpoint"].lower())
        if endpoint is None or endpoint.deleting:
            raise Refusal(404, {"message": "There is no such endpoint."})
        for deployment in endpoint.deployments.values():
            self._settle(deployment)
        given = call.header("authorization").removeprefix("Bearer ")
        mode = (endpoint.body["properties"] or {}).get("authMode")
        if mode == "AADToken":
            # how-to-authenticate-online-endpoint.md: a token for Azure ML, not for Resource Manager
            self.login.check(call, "arm", "https://ml.azure.com")
        elif given not in (endpoint.keys if mode == "Key" else endpoint.tokens):
            reason = "key_auth_access_denied" if mode == "Key" else "token_auth_access_denied"
            raise Refusal(401, {"message": reason}, {"ms-azureml-model-error-reason": reason})
        return endpoint

    def _chosen(self, call: Call, endpoint: Endpoint) -> Deployment:
        wanted = call.header("azureml-model-deployment")
        if wanted:
            found = endpoint.deployments.get(wanted)
            if found is None:
                raise Refusal(404, {"message": f"Specified deployment '{wanted}' does not exist"})
            return found
        shares = {name: share for name, share in endpoint.traffic.items() if share}
        if not shares:
            raise Refusal(404, {"message": "No deployment of the endpoint gets any traffic"})
        name = random.choices(list(shares), list(shares.values()))[0]
        return endpoint.deployments[name]

    @route("POST", "/inference/{endpoint}/score")
    async def score(self, call: Call) -> Response:
        """Answer with a deployment's predictions."""
        endpoint = self._admit(call)
        body = await call.request.body()
        if len(body) > LARGEST_REQUEST:
            raise Refusal(413, {"message": "The request is too large."})
        chosen = self._chosen(call, endpoint)
        if chosen.active is None:
            raise Refusal(503, {"message": "The deployment is not ready."})
        status, answer = await chosen.active.ask(body)
        headers = {"azureml-model-deployment": chosen.name}
        return Response(answer, status, headers, media_type="application/json")

    @route("GET", "/inference/{endpoint}/swagger.json")
    async def swagger(self, call: Call) -> Response:
        """Describe the format, in little."""
        endpoint = self._admit(call)
        return reply({"openapi": "3.0.0", "info": {"title": endpoint.name}, "components": {"schemas": {}}})

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self.endpoints.values())

    def as_json(self) -> dict[str, Any]:
        """Return what there is, for a test to look at: bodies as they were sent."""
        for endpoint in [e for e in self if e.deleting and time.monotonic() >= e.ends]:
            self._forget(endpoint)
        shown = {
            e.name: {
                "body": e.body,
                "traffic": e.traffic,
                "mirror": e.mirror,
                "deployments": {d.name: d.body for d in e.deployments.values()},
            }
            for e in self
        }
        found: dict[str, Any] = json.loads(json.dumps(shown))
        return found
