"""Model management v1: web services on container instances and on attached Kubernetes clusters."""

from __future__ import annotations

import json
import re
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from tests.standins.azure.access import Access
from tests.standins.azure.containers import Container, Containers
from tests.standins.azure.state import State, Workspace
from tests.standins.azure.tracking import workspace_of
from tests.standins.azure.web import ML, WORKSPACE, Call, Refusal, empty, ml_refusal, reply, route, utc

__all__ = ["Webservices"]

SERVICES = "/modelmanagement/v1.0" + WORKSPACE + "/services"
SERVICE = SERVICES + "/{service}"
OPERATION = WORKSPACE + "/operations/{operation}"
NAME = re.compile(r"[a-z][a-z0-9-]{1,30}[a-z0-9]")
CLUSTER = "aks-prod"  # the workspace's attached cluster


@dataclass
class Service:
    """A web service and its container."""

    name: str
    workspace: Workspace
    body: dict[str, Any]
    keys: list[str] = field(default_factory=lambda: [secrets.token_urlsafe(24) for _ in range(2)])
    tokens: set[str] = field(default_factory=set)
    active: Container | None = None
    coming: Container | None = None
    last: Container | None = None
    state: str = "Transitioning"
    error: dict[str, Any] | None = None
    ends: float = 0.0
    operation: str = field(default_factory=lambda: str(uuid.uuid4()))
    deleting: bool = False
    created: str = field(default_factory=utc)


def bad(message: str, code: str = "BadRequest", status: int = 400) -> Refusal:
    """Return a refusal in model management's words."""
    return ml_refusal(status, message, inner=code, component="modelmanagement")


class Webservices:
    """The services of all workspaces, by name."""

    def __init__(self, state: State, access: Access, containers: Containers) -> None:
        self.state, self.access, self.containers = state, access, containers
        self.services: dict[tuple[str, str], Service] = {}

    def reset(self) -> None:
        self.services.clear()

    def _settle(self, service: Service) -> bool:
        if time.monotonic() < service.ends:
            return False
        if service.deleting:
            self.containers.end(service.active)
            self.services.pop((service.workspace.scope, service.name), None)
            return True
        coming = service.coming
        if coming is None:
            if service.error is not None:
                service.state = "Failed" if service.active is None else "Unhealthy"
            return True
        if not coming.settled:
            return False
        service.coming = None
        if coming.failure is None:
            self.containers.end(service.active)
            service.active, service.state = coming, "Healthy"
        else:
            service.state = "Failed"
            service.error = {
                "code": "AciDeploymentFailed",
                "statusCode": 400,
                "message": "Aci Deployment failed with exception: Your container application crashed. This "
                "may be caused by errors in your scoring file's init() function.",
            }
        return True

    def _service(self, call: Call) -> Service:
        workspace = workspace_of(self.state, call, "ml")
        found = self.services.get((workspace.scope, call.names["service"]))
        if found is not None:
            self._settle(found)
            found = self.services.get((workspace.scope, call.names["service"]))
        if found is None:
            message = f"NoSuchService: no service with id {call.names['service']} was found."
            raise bad(message, "NoSuchService", 404)
        return found

    @route("GET", WORKSPACE + "/computes/{compute}", f"{ML}/workspaces/computes/read")
    async def compute(self, call: Call) -> Response:
        """Show the attached cluster."""
        if call.names["compute"] != CLUSTER:
            message = f"The compute '{call.names['compute']}' was not found."
            raise Refusal(404, {"error": {"code": "ResourceNotFound", "message": message}})
        properties = {"computeType": "AKS", "provisioningState": "Succeeded"}
        return reply({"name": CLUSTER, "id": call.path, "properties": properties})

    @route("GET", SERVICES, f"{ML}/workspaces/services/read", words="ml")
    async def listing(self, call: Call) -> Response:
        """List the services of one kind."""
        workspace, kind = workspace_of(self.state, call, "ml"), call.query.get("computeType")
        for each in list(self.services.values()):
            self._settle(each)
        found = [
            each
            for (scope, _), each in self.services.items()
            if scope == workspace.scope and kind in (None, each.body["computeType"])
        ]
        return reply({"value": [self._shown(each) for each in found]})

    @route("GET", SERVICE, f"{ML}/workspaces/services/read", words="ml")
    async def show(self, call: Call) -> Response:
        """Show one service."""
        return reply(self._shown(self._service(call)))

    @route("POST", SERVICES, "", words="ml")
    async def create(self, call: Call) -> Response:
        """Begin a service."""
        workspace, asked = workspace_of(self.state, call, "ml"), await call.json()
        kind, name = asked.get("computeType"), str(asked.get("name"))
        if kind not in ("ACI", "AKS"):
            raise bad(f"computeType '{kind}' is not supported.")
        self.access.require(call, f"{ML}/workspaces/services/{kind.lower()}/write", "ml")
        if not NAME.fullmatch(name):
            raise bad(f"The service name '{name}' is invalid.")
        if (workspace.scope, name) in self.services:
            raise bad(f"Service {name} with the same name already exists.", "ServiceExists", 409)
        if kind == "AKS" and asked.get("computeName") != CLUSTER:
            raise bad(f"The compute '{asked.get('computeName')}' is not attached to the workspace.")
        if asked.get("authEnabled") is None:
            asked["authEnabled"] = kind == "AKS"
        service = Service(name, workspace, asked)
        await self._begin(service)
        self.services[workspace.scope, name] = service
        return self._accepted(service)

    async def _begin(self, service: Service) -> None:
        image = service.body.get("environmentImageRequest") or {}
        if not image.get("driverProgram") or not image.get("environment"):
            raise bad("environmentImageRequest needs a driverProgram and an environment.")
        for asset in image.get("assets") or []:
            origin, container, path = str(asset["url"]).removeprefix("aml://artifact/").split("/", 2)
            if path not in service.workspace.artifacts.get((origin, container), {}):
                raise bad(f"The asset {asset['url']} does not exist.")
        model, _, version = str((image.get("modelIds") or [""])[0]).partition(":")
        service.state, service.error = "Transitioning", None
        service.ends = time.monotonic() + self.state.switches.operation_seconds
        service.operation = str(uuid.uuid4())
        if self.state.switches.image_pull:
            service.error = {"code": "ImagePull", "message": self.state.switches.image_pull}
            return
        variables = (image["environment"].get("environmentVariables")) or {}
        names = {key: value for key, value in variables.items() if key != "AZUREML_ENTRY_SCRIPT"}
        service.coming = await self.containers.start(service.workspace, model, version, names)
        service.last = service.coming
        if service.coming is None:
            raise bad(f"Model with id {model}:{version} not found.", "ModelNotFound", 404)

    def _accepted(self, service: Service) -> Response:
        scope = service.workspace.scope
        where = f"{self.state.public}/api/modelmanagement/v1.0{scope}/operations/{service.operation}"
        pause = str(int(self.state.switches.poll_seconds * 1000))
        return empty(202, {"Operation-Location": where, "retry-after-ms": pause})

    @route("PATCH", SERVICE, "", words="ml")
    async def change(self, call: Call) -> Response:
        """Change a service by a JSON patch."""
        service = self._service(call)
        self.access.require(
            call, f"{ML}/workspaces/services/{service.body['computeType'].lower()}/write", "ml"
        )
        for change in await call.json():
            service.body[change["path"].strip("/").split("/")[0]] = change["value"]
        await self._begin(service)
        return self._accepted(service)

    @route("DELETE", SERVICE, "", words="ml")
    async def delete(self, call: Call) -> Response:
        """Delete a service; 204 where there is none."""
        try:
            service = self._service(call)
        except Refusal as refusal:
            if refusal.status == 404:
                return empty(204)
            raise
        self.access.require(
            call, f"{ML}/workspaces/services/{service.body['computeType'].lower()}/delete", "ml"
        )
        service.deleting, service.state = True, "Deleting"
        service.ends = time.monotonic() + self.state.switches.operation_seconds
        service.operation = str(uuid.uuid4())
        return self._accepted(service)

    @route("GET", "/modelmanagement/v1.0" + OPERATION, "", words="ml")
    @route("GET", "/modelmanagement/v1.0/" + OPERATION, "", words="ml")  # azureml-mlflow's, a slash too much
    async def operation(self, call: Call) -> Response:
        """Say how far a service is."""
        number = call.names["operation"]
        found = next((s for s in self.services.values() if s.operation == number), None)
        done = found is None or self._settle(found)
        failed = found is not None and found.state in ("Failed", "Unhealthy")
        return reply(
            {
                "id": number,
                "operationType": "Service",
                "state": "Running" if not done else "Failed" if failed else "Succeeded",
                "error": found.error if found is not None and done else None,
            },
            headers={"retry-after-ms": str(int(self.state.switches.poll_seconds * 1000))},
        )

    @route("POST", SERVICE + "/listkeys", f"{ML}/workspaces/services/read", words="ml")
    async def keys(self, call: Call) -> Response:
        """Show a service's keys."""
        service = self._service(call)
        return reply({"primaryKey": service.keys[0], "secondaryKey": service.keys[1]})

    @route("POST", SERVICE + "/token", f"{ML}/workspaces/services/read", words="ml")
    async def token(self, call: Call) -> Response:
        """Hand out a token, of a service on a cluster that asks for one."""
        service = self._service(call)
        if not service.body.get("aadAuthEnabled"):
            raise bad("The service does not use tokens.")
        made = secrets.token_urlsafe(32)
        service.tokens.add(made)
        return reply({"accessToken": made, "tokenType": "Bearer", "expiryOn": int(time.time()) + 3600}, 201)

    @route("GET", SERVICE + "/logs", f"{ML}/workspaces/services/read", words="ml")
    async def logs(self, call: Call) -> Response:
        """Return the end of the container's log."""
        service = self._service(call)
        lines = int(call.query.get("tail") or 100)
        return reply({"content": service.last.log(lines) if service.last else ""})

    def _shown(self, service: Service) -> dict[str, Any]:
        image = service.body["environmentImageRequest"]
        model, _, version = str(image["modelIds"][0]).partition(":")
        shown = {k: v for k, v in service.body.items() if k not in ("overwrite", "keys")}
        address = f"{self.state.public}/webservice/{service.name}"
        return {
            **shown,
            "id": service.name,
            "state": service.state,
            "operationId": service.operation,
            "error": service.error,
            "createdTime": service.created,
            "updatedTime": service.created,
            "createdBy": {"userObjectId": "1", "userTenantId": "2", "userName": "ada"},
            "location": "westeurope",
            "models": [{"id": f"{model}:{version}", "name": model, "version": int(version)}],
            "scoringUri": f"{address}/score" if service.active else None,
            "swaggerUri": f"{address}/swagger.json" if service.active else None,
        }

    @route("POST", "/webservice/{service}/score")
    async def score(self, call: Call) -> Response:
        """Answer with predictions."""
        name = call.names["service"]
        service = next((s for (_, n), s in self.services.items() if n == name), None)
        if service is None or service.active is None:
            raise Refusal(404, {"message": "There is no such service."})
        given = call.header("authorization").removeprefix("Bearer ")
        allowed: Any = service.tokens if service.body.get("aadAuthEnabled") else service.keys
        asks = service.body.get("authEnabled") or service.body.get("aadAuthEnabled")
        if asks and given not in allowed:
            raise Refusal(401, {"message": "The given key is not accepted."})
        status, answer = await service.active.ask(await call.request.body())
        return Response(answer, status, media_type="application/json")

    def as_json(self) -> dict[str, Any]:
        """Return what there is, for a test to look at."""
        found: dict[str, Any] = json.loads(json.dumps({s.name: s.body for s in self.services.values()}))
        return found
