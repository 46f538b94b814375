"""Managed online endpoints: Resource Manager's side of them, and their scoring addresses."""

from __future__ import annotations

import json
import random
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from tests.standins.azure.access import Access
from tests.standins.azure.arm import MFE, Arm
from tests.standins.azure.containers import Containers
from tests.standins.azure.login import Login
from tests.standins.azure.region import BY_NAME, FOR_CLUSTERS, Deployment, Endpoint, Region, bad, size_of
from tests.standins.azure.state import State, Workspace
from tests.standins.azure.web import ML, WORKSPACE, Call, Refusal, empty, reply, route

__all__ = ["Online"]

ENDPOINTS = WORKSPACE + "/onlineEndpoints"
ENDPOINT = ENDPOINTS + "/{endpoint}"
DEPLOYMENT = ENDPOINT + "/deployments/{deployment}"
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
MODEL = re.compile(
    r"(?P<workspace>/subscriptions/.+)/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.I
)
VERSIONS = ("2022-02-01-preview", "2022-05-01", "2023-04-01-preview", "2025-12-01")
# resource-limits-capacity.md: a request of a managed online endpoint has at most 1.5 MB
LARGEST_REQUEST = int(1.5 * 1024 * 1024)
READ, WRITE = f"{ML}/workspaces/onlineEndpoints/read", f"{ML}/workspaces/onlineEndpoints/write"
DELETE = f"{ML}/workspaces/onlineEndpoints/delete"
CREATE_ONLY = ("instanceType",)  # mfe.json, 2024-10-01 and 2025-12-01: x-ms-mutability create, read
DEP = f"{ML}/workspaces/onlineEndpoints/deployments"


class Online:
    """Endpoints by their names, which are unique in a region."""

    def __init__(self, state: State, access: Access, arm: Arm, login: Login, containers: Containers) -> None:
        self.state, self.access, self.arm, self.login = state, access, arm, login
        self.containers = containers
        self.region = Region(state)
        self.endpoints = self.region.endpoints

    def reset(self) -> None:
        self.endpoints.clear()

    # What is asked of every call

    def _workspace(self, call: Call) -> Workspace:
        if call.query.get("api-version") not in VERSIONS:
            raise bad(f"The api-version '{call.query.get('api-version')}' is invalid.", "InvalidApiVersion")
        names = call.names
        found = self.state.workspace(names["subscription"], names["group"], names["workspace"])
        if found is None:
            raise bad(
                f"The Resource '{ML}/workspaces/{names['workspace']}' under resource group "
                f"'{names['group']}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
                "ResourceNotFound",
                404,
            )
        if self.state.switches.parent_missing and call.method != "GET":
            # MicrosoftLearning/mslearn-azure-ml#27
            raise bad(
                "Can not perform requested operation on nested resource. Parent resource "
                f"'{names['workspace']}' not found.",
                "ParentResourceNotFound",
                404,
            )
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
            "message": "User container has crashed or terminated: Liveness probe failed: HTTP probe failed "
            "with statuscode: 502. Please see troubleshooting guide, available here: "
            "https://aka.ms/oe-tsg#error-resourcenotready",
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
            where = self.state.switches.pages_at or self.state.public
            answer["nextLink"] = f"{where}{call.path}?api-version={version}&$skip={skip + 1}"
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
            raise bad(
                "There is already an endpoint with this name, Endpoint name needs to be unique within a "
                "region. Try some other name."
            )  # azureml-examples#1931
        if self.state.switches.endpoint_unfindable and known is None:
            inner = {"code": "InferencingClientCallFailed", "message": '{{"title":"Not Found"}}'}
            said = {
                "code": "NotFound",
                "message": "The specified resource was not found.",
                "details": [inner],
            }
            raise Refusal(404, {"error": said})
        endpoint = known or Endpoint(name, workspace, asked)
        if known is not None:
            self._free(known)
            known.body = asked
        self._set_traffic(endpoint, properties)
        endpoint.working = "Updating" if known else "Creating"
        endpoint.ends = time.monotonic() + self.state.switches.operation_seconds
        self.endpoints[name.lower()] = endpoint
        shown = self._shown(endpoint)
        shown["properties"]["scoringUri"] = None  # the recording of azure-ai-ml's tests, at an update too
        return reply(shown, 201, {**self._operation(call, endpoint), **self._of_put(call)})

    def _of_put(self, call: Call) -> dict[str, str]:
        """Return the headers of a PUT's answer beside its operation; there is no Retry-After."""
        return {"Location": str(call.request.url)}

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
        return self._deletion(call, endpoint)

    def _deletion(self, call: Call, what: Endpoint | Deployment) -> Response:
        headers = self._operation(call, what)
        if self.state.switches.delete_by_location:  # as the interface declares it since 2024-10-01
            del headers["Azure-AsyncOperation"]
        return empty(202, headers)

    def _operation(self, call: Call, what: Endpoint | Deployment) -> dict[str, str]:
        def check() -> tuple[bool, dict[str, str] | None]:
            if self.state.switches.endpoint_stuck:
                return False, None
            if isinstance(what, Endpoint):
                return time.monotonic() >= what.ends, None
            done = self._settle(what)
            return done, what.error if done and what.state == "Failed" else None

        scope = f"/subscriptions/{call.names['subscription']}/providers/{ML}/locations/westeurope"
        kind = "oe" if isinstance(what, Endpoint) else "od"
        prefix = f"{kind}:{self._workspace(call).guid}:"
        headers = self.arm.waiting(self.arm.begin(scope, check=check, kind=MFE, prefix=prefix))
        return {**headers, "x-ms-async-operation-timeout": self.state.switches.operation_timeout}

    def _shown(self, endpoint: Endpoint) -> dict[str, Any]:
        asked = endpoint.body.get("properties") or {}
        busy = time.monotonic() < endpoint.ends
        address = f"{self.state.public}/inference/{endpoint.name}"
        made = not busy or endpoint.working != "Creating"
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
                "scoringUri": f"{address}/score" if made else None,
                "swaggerUri": f"{address}/swagger.json" if made else None,
                "traffic": endpoint.traffic,
                "mirrorTraffic": endpoint.mirror,
                "provisioningState": endpoint.working if busy else "Succeeded",
            },
        }

    @route("POST", ENDPOINT + "/listKeys", f"{ML}/workspaces/onlineEndpoints/listKeys/action")
    async def keys(self, call: Call) -> Response:
        """Show the keys of an endpoint; one that asks for tokens has none."""
        endpoint = self._endpoint(call)
        if (endpoint.body["properties"] or {}).get("authMode") != "Key":
            return reply({"primaryKey": None, "secondaryKey": None})  # …OnlineEndpointKey.Recording.json
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
        # Get-AzMLWorkspaceOnlineEndpointToken.Recording.json
        until, refresh = (int(time.time()) + hours * 3600 for hours in (24, 12))
        times = {"expiryTimeUtc": until, "refreshAfterTimeUtc": refresh}
        return reply({"accessToken": made, "tokenType": "Bearer", **times})

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
        self.region.refuse_quota(endpoint.workspace, properties["instanceType"], capacity, endpoint, name)
        container = None
        failure = self.state.switches.image_pull
        if not failure:
            container = await self.containers.start(
                endpoint.workspace,
                model["name"],
                model["version"],
                properties.get("environmentVariables") or {},
                managed=True,
            )
            if container is None:
                message = f"The model {model['name']}:{model['version']} does not exist in the workspace."
                raise bad(message, "ModelNotFound")
        deployment = known or Deployment(name, asked)
        if known is not None:  # create-only, and silently left as it is: AML-Kubernetes#247
            for key in CREATE_ONLY:
                properties[key] = known.body["properties"][key]
        deployment.body, deployment.error = asked, None
        deployment.coming = container
        deployment.last = container or deployment.last
        deployment.state = "Updating" if known else "Creating"
        deployment.ends = time.monotonic() + self.state.switches.operation_seconds
        if failure:
            deployment.error = {"code": "ImageBuildFailure", "message": failure}
        endpoint.deployments[name] = deployment
        headers = self._operation(call, deployment)
        if status is None:
            headers |= self._of_put(call)
        told = self._told(endpoint, deployment)
        told["properties"]["properties"] = {
            **(told["properties"].get("properties") or {}),
            "AzureAsyncOperationUri": headers.get("Azure-AsyncOperation"),
        }
        return reply(told, status or 201, headers)

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
        size = BY_NAME.get(str(properties.get("instanceType")).lower())
        if size is None or size in FOR_CLUSTERS:
            raise bad(f"The instance type '{properties.get('instanceType')}' is not supported.")
        timeout = (properties.get("requestSettings") or {}).get("requestTimeout")
        if timeout is not None and not re.fullmatch(r"PT[\d.]+(S|M)", str(timeout)):
            raise bad(f"requestTimeout '{timeout}' is not an ISO 8601 duration.")
        collected = (properties.get("dataCollector") or {}).get("collections") or {}
        if properties.get("dataCollector") is not None and not collected:
            raise bad("Required property 'collections' not found in JSON. Path 'properties.dataCollector'.")
        for key, each in collected.items():
            if each.get("dataCollectionMode") not in ("Enabled", "Disabled"):
                raise bad(f"dataCollectionMode of the collection '{key}' is invalid.")
        return model

    def _told(self, endpoint: Endpoint, deployment: Deployment) -> dict[str, Any]:
        self._settle(deployment)
        return {
            "id": f"{endpoint.workspace.scope}/onlineEndpoints/{endpoint.name}/deployments/{deployment.name}",
            "name": deployment.name,
            "type": f"{ML}/workspaces/onlineEndpoints/deployments",
            "location": deployment.body.get("location"),
            "tags": deployment.body.get("tags") or {},
            "kind": "Managed",
            "sku": {"tier": "Standard", **(deployment.body.get("sku") or {"name": "Default", "capacity": 1})},
            "systemData": {"createdAt": deployment.created},
            "properties": {
                **deployment.body["properties"],
                # The service spells sizes in its own way, as Standard_DS2_V2 in the recording of dep-put.
                "instanceType": size_of(deployment.body["properties"]).replace("_v", "_V"),
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
        return self._deletion(call, deployment)

    @route("POST", DEPLOYMENT + "/getLogs", f"{DEP}/getLogs/action")
    async def logs(self, call: Call) -> Response:
        """Return the end of a container's log."""
        _, deployment = self._deployment(call)
        asked = await call.json()
        if asked.get("containerType") not in ("StorageInitializer", "InferenceServer", None):
            raise bad(f"containerType '{asked.get('containerType')}' is invalid.")
        found = deployment.last
        return reply({"content": found.log(int(asked.get("tail") or 100)) if found else ""})

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
