"""Azure Resource Manager: subscriptions, groups, providers, resources, and operations that take a while."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from tests.standins.azure.access import Access
from tests.standins.azure.state import OTHER_SUBSCRIPTION, SUBSCRIPTION, TENANT, State, resource
from tests.standins.azure.web import ML, Call, Refusal, arm_refusal, empty, reply, route, utc

__all__ = ["Arm"]

GROUP_PATH = "/subscriptions/{subscription}/resourceGroups/{group}"
RESOURCE_PATH = GROUP_PATH + "/providers/{namespace}/{kind}/{name}"
WORKSPACE_NAME = re.compile(r"[a-zA-Z0-9][\w-]{1,31}")  # 2-32: resource-limits-capacity.md

MFE = "mfeOperationsStatus"  # of the front end of managed endpoints
OF_WORKSPACES = "workspaceOperationsStatus"
# An address since 2024 has 3.2 KB, whose parts t, c (a certificate), s and h sign it
# (WorkspaceCleanRemoveOnlineEndpoint.Recording.json, CreateScenarioTest.Recording.json).
SIGNATURE = f"t={'6' * 18}&c=MIIH{'x' * 2571}&s={'y' * 342}&h={'z' * 43}"
QUERIES = {
    MFE: f"api-version=2024-10-01&{SIGNATURE}",
    OF_WORKSPACES: f"api-version=2022-05-01&type=async&{SIGNATURE}",
}
RESULTS = {"operationStatuses": "operationResults", MFE: "mfeOperationResults"}

SOFT_DELETED = "Soft-deleted workspace exists. Please purge or recover it. https://aka.ms/wsoftdelete"


def _result_at(where: str) -> str:
    """Return where an operation's result is found, by where its status is."""
    for status, result in RESULTS.items():
        where = where.replace(f"/{status}/", f"/{result}/")
    return where.replace("&type=async", "&type=location")


class Arm:
    """The control plane; every caller needs a token, and the action of what is asked."""

    def __init__(self, state: State, access: Access) -> None:
        self.state, self.access = state, access

    # Long-running operations

    def begin(
        self,
        scope: str,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        check: Callable[[], tuple[bool, Any]] | None = None,
        *,
        kind: str = "operationStatuses",
        prefix: str = "",
    ) -> str:
        """Begin an operation that ends by time; returns where its status is found.

        ``check``, where there is one, tells whether it is over, and its error. ``kind`` is the part of the
        address that tells the services apart, ``prefix`` stands before the operation's number.
        """
        number = f"{prefix}{uuid.uuid4()}"
        self.state.operations[number] = {
            "ends": time.monotonic() + self.state.switches.operation_seconds,
            "result": result,
            "error": error,
            "check": check,
            "began": utc(),
            "kind": kind,
        }
        where = self.state.switches.operations_at or self.state.public
        query = QUERIES.get(kind, "api-version=2022-05-01")
        return f"{where}{scope}/{kind}/{number}?{query}"

    def waiting(self, where: str) -> dict[str, str]:
        """Return the headers that tell a client how to wait for an operation.

        In milliseconds: azure-core takes ``Retry-After: 0`` for unset and then waits half a minute. Managed
        endpoints and workspaces name no pause.
        """
        location = {"Location": _result_at(where)}
        if any(f"/{kind}/" in where for kind in QUERIES):
            return {"Azure-AsyncOperation": where, **location}
        pause = str(int(self.state.switches.poll_seconds * 1000))
        return {"Azure-AsyncOperation": where, **location, "x-ms-retry-after-ms": pause}

    def status(self, number: str) -> dict[str, Any]:
        found = self.state.operations.get(number)
        if found is None:
            raise arm_refusal(404, "NotFound", f"The operation '{number}' could not be found.")
        running = {
            "status": "Updating" if found["kind"] == MFE else "InProgress",
            "startTime": found["began"],
            "endTime": "0001-01-01T00:00:00+00:00",
            "percentComplete": 0.0,
        }
        if time.monotonic() < found["ends"]:
            return running
        if found["check"] is not None:
            done, found["error"] = found["check"]()
            if not done:
                return running
        over = {**running, "endTime": utc()}
        if found["kind"] != MFE:  # which leaves it at 0
            over["percentComplete"] = 100.0
        if found["error"]:
            return {**over, "status": "Failed", "error": found["error"]}
        return {**over, "status": "Succeeded"}

    @route("GET", "/{scope*}/operationStatuses/{number}", "")
    @route("GET", "/{scope*}/workspaceOperationsStatus/{number}", "")
    @route("GET", "/{scope*}/mfeOperationsStatus/{number}", "")
    async def operation_status(self, call: Call) -> Response:
        """Say how far an operation is; ``type=location`` asks for the result of a workspace's."""
        self._signed(call)
        number = call.names["number"]
        status = self.status(number)
        if self.state.operations[number]["kind"] != OF_WORKSPACES:
            return reply({"id": call.path, "name": number, **status})
        if call.query.get("type") == "location":
            return await self.operation_result(call)
        progress = {} if status["status"] == "InProgress" else {"percentComplete": 100.0}
        errors = {"error": status["error"]} if "error" in status else {}
        return reply({"status": status["status"], **progress, **errors})

    def _signed(self, call: Call) -> None:
        kinds = ("/mfeoperations", "/workspaceoperations")
        if any(each in call.path.lower() for each in kinds) and not all(call.query.get(k) for k in "tcsh"):
            raise arm_refusal(400, "InvalidSignature", "The operation's address is not whole.")

    @route("GET", "/{scope*}/operationResults/{number}", "")
    @route("GET", "/{scope*}/mfeOperationResults/{number}", "")
    async def operation_result(self, call: Call) -> Response:
        """Give what an operation made: 202 until it is over."""
        self._signed(call)
        number = call.names["number"]
        status = self.status(number)
        if status["status"] not in ("Failed", "Succeeded"):
            return empty(202, self.waiting(f"{self.state.public}{call.path}?{call.request.url.query}"))
        if status["status"] == "Failed":
            raise Refusal(400, {"error": status["error"]})
        operation = self.state.operations[number]
        if operation["kind"] == MFE:  # the last exchange of WorkspaceCleanRemoveOnlineEndpoint.Recording.json
            return reply({"id": call.path, "name": number, **status})
        made = operation["result"]
        return empty(204) if made is None else reply(made)

    # Subscriptions and tenants

    @route("GET", "/subscriptions", "Microsoft.Resources/subscriptions/read")
    async def subscriptions(self, call: Call) -> Response:
        """List the caller's subscriptions."""
        return reply({"value": [self._subscription(each) for each in self.state.providers]})

    @route("GET", "/subscriptions/{subscription}", "Microsoft.Resources/subscriptions/read")
    async def subscription(self, call: Call) -> Response:
        """Show one subscription."""
        return reply(self._subscription(self.state.subscription(call.names["subscription"])))

    @route("GET", "/subscriptions/{subscription}/locations", "Microsoft.Resources/subscriptions/read")
    async def locations(self, call: Call) -> Response:
        """List where resources can be made."""
        self.state.subscription(call.names["subscription"])
        names = {"westeurope": "West Europe", "northeurope": "North Europe", "eastus": "East US"}
        return reply({"value": [{"name": name, "displayName": shown} for name, shown in names.items()]})

    @route("GET", "/tenants", "")
    async def tenants(self, call: Call) -> Response:
        """List the caller's tenants."""
        return reply({"value": [{"id": f"/tenants/{TENANT}", "tenantId": TENANT}]})

    def _subscription(self, number: str) -> dict[str, Any]:
        shown = {SUBSCRIPTION: "Contoso ML", OTHER_SUBSCRIPTION: "Contoso sandbox"}
        return {
            "id": f"/subscriptions/{number}",
            "subscriptionId": number,
            "tenantId": TENANT,
            "displayName": shown[number],
            "state": "Enabled",
        }

    # Providers

    @route(
        "GET", "/subscriptions/{subscription}/providers/{namespace}", "Microsoft.Resources/subscriptions/read"
    )
    async def provider(self, call: Call) -> Response:
        """Show whether a resource provider is registered."""
        return reply(self._provider(call.names["subscription"], call.names["namespace"]))

    @route("GET", "/subscriptions/{subscription}/providers", "Microsoft.Resources/subscriptions/read")
    async def all_providers(self, call: Call) -> Response:
        """List the resource providers."""
        number = self.state.subscription(call.names["subscription"])
        names = self.state.providers[number]
        return reply({"value": [self._provider(number, namespace) for namespace in names]})

    @route("POST", "/subscriptions/{subscription}/providers/{namespace}/register", "*/register/action")
    async def register(self, call: Call) -> Response:
        """Begin to register a resource provider."""
        number, namespace = self.state.subscription(call.names["subscription"]), call.names["namespace"]
        self.access.require(call, f"{namespace}/register/action", "arm")
        if self.state.provider(number, namespace) != "Registered":
            ends = time.monotonic() + self.state.switches.operation_seconds
            self.state.providers[number][namespace.lower()] = ("Registering", ends)
        return reply(self._provider(number, namespace))

    def _provider(self, subscription: str, namespace: str) -> dict[str, Any]:
        number = self.state.subscription(subscription)
        return {
            "id": f"/subscriptions/{number}/providers/{namespace}",
            "namespace": namespace,
            "registrationState": self.state.provider(number, namespace),
            "registrationPolicy": "RegistrationRequired",
            "resourceTypes": [
                {
                    "resourceType": kind,
                    "locations": ["West Europe", "North Europe", "East US"],
                    "apiVersions": ["2022-05-01", "2020-01-01"],
                }
                for kind in ("workspaces", "storageAccounts", "vaults", "components")
            ],
        }

    # Resource groups

    @route(
        "GET",
        "/subscriptions/{subscription}/resourceGroups",
        "Microsoft.Resources/subscriptions/resourceGroups/read",
    )
    async def groups(self, call: Call) -> Response:
        """List the resource groups of a subscription."""
        number = self.state.subscription(call.names["subscription"])
        return reply({"value": [g for (owner, _), g in self.state.groups.items() if owner == number]})

    @route("GET HEAD", GROUP_PATH, "Microsoft.Resources/subscriptions/resourceGroups/read")
    async def group(self, call: Call) -> Response:
        """Show a resource group; HEAD tells 204 or 404."""
        if call.method == "HEAD":
            number, name = call.names["subscription"].lower(), call.names["group"].lower()
            return empty(204 if (number, name) in self.state.groups else 404)
        return reply(self.state.group(call.names["subscription"], call.names["group"]))

    @route("PUT", GROUP_PATH, "Microsoft.Resources/subscriptions/resourceGroups/write")
    async def make_group(self, call: Call) -> Response:
        """Make a resource group, or change its tags."""
        number, name = self.state.subscription(call.names["subscription"]), call.names["group"]
        asked = await call.json()
        if not re.fullmatch(r"[-\w.()]{1,90}", name) or name.endswith("."):
            raise arm_refusal(400, "InvalidResourceGroup", f"The resource group name '{name}' is not valid.")
        known = self.state.groups.get((number, name.lower()))
        if known is not None and known["location"] != asked.get("location", known["location"]):
            message = (
                f"Invalid resource group location '{asked['location']}'. The Resource group already exists "
                f"in location '{known['location']}'."
            )
            raise arm_refusal(409, "InvalidResourceGroupLocation", message)
        made = known or self.state.add_group(number, name, asked.get("location", "westeurope"))
        made["tags"] = asked.get("tags", made["tags"])
        return reply(made, 200 if known else 201)

    @route("DELETE", GROUP_PATH, "Microsoft.Resources/subscriptions/resourceGroups/delete")
    async def delete_group(self, call: Call) -> Response:
        """Delete a group with everything in it; a managed group goes with its owner alone."""
        subscription, name = call.names["subscription"], call.names["group"]
        group = self.state.group(subscription, name)
        if group.get("managedBy"):
            message = (
                f"The resource group '{name}' is managed by '{group['managedBy']}' and has a deny "
                "assignment: delete its owner instead."
            )
            raise arm_refusal(403, "DenyAssignmentAuthorizationFailed", message)
        for what in self.state.in_group(subscription, name):
            self._remove(what)
        del self.state.groups[subscription.lower(), name.lower()]
        return empty(202, self.waiting(self.begin(f"/subscriptions/{subscription}")))

    @route("POST", GROUP_PATH + "/providers/Microsoft.Resources/deployments/{name}/validate", "")
    async def validate(self, call: Call) -> Response:
        """Check a template, and make nothing of it."""
        self.access.require(call, "Microsoft.Resources/deployments/validate/action", "arm")
        self.state.group(call.names["subscription"], call.names["group"])
        asked = await call.json()
        template = asked.get("properties", {}).get("template") or {}
        made: set[str] = set()
        for each in template.get("resources") or []:
            missing = [key for key in ("type", "apiVersion", "name", "location") if not each.get(key)]
            if missing:
                message = f"Deployment template validation failed: '{missing[0]}' is missing in a resource."
                raise arm_refusal(400, "InvalidTemplate", message)
            where = f"/subscriptions/{call.names['subscription']}/resourceGroups/{call.names['group']}"
            made.add(f"{where}/providers/{each['type']}/{each['name']}".lower())
            self._check_name(each["type"], each["name"])
            if each["type"].lower() == f"{ML}/workspaces".lower():
                given = each.get("properties") or {}
                for key in ("storageAccount", "keyVault", "applicationInsights"):
                    leaned = str(given.get(key, "")).lower()
                    if leaned not in made | set(self.state.resources):
                        message = f"Unable to get the {key} {given.get(key)}: it does not exist."
                        raise arm_refusal(400, "InvalidTemplateDeployment", message)
        return reply({"properties": {"provisioningState": "Succeeded"}})

    # Resources

    @route(
        "GET", "/subscriptions/{subscription}/resources", "Microsoft.Resources/subscriptions/resources/read"
    )
    async def all_resources(self, call: Call) -> Response:
        """List the resources of a subscription."""
        number = self.state.subscription(call.names["subscription"])
        return reply({"value": self._listed(call, self.state.in_group(number))})

    @route(
        "GET", GROUP_PATH + "/resources", "Microsoft.Resources/subscriptions/resourceGroups/resources/read"
    )
    async def resources(self, call: Call) -> Response:
        """List the resources of a group."""
        self.state.group(call.names["subscription"], call.names["group"])
        found = self.state.in_group(call.names["subscription"], call.names["group"])
        return reply({"value": self._listed(call, found)})

    def _listed(self, call: Call, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return resources as a listing shows them, without properties; $filter knows type and name."""
        wanted = {
            key.lower(): value.lower()
            for key, value in re.findall(
                r"(resourceType|name) eq '([^']*)'", call.query.get("$filter", ""), re.I
            )
        }
        kept = [
            what
            for what in found
            if wanted.get("resourcetype", what["type"].lower()) == what["type"].lower()
            and wanted.get("name", what["name"].lower()) == what["name"].lower()
        ]
        return [{key: value for key, value in what.items() if key != "properties"} for what in kept]

    @route("GET", "/subscriptions/{subscription}/providers/{namespace}/{kind}", "")
    @route("GET", GROUP_PATH + "/providers/{namespace}/{kind}", "")
    async def of_a_kind(self, call: Call) -> Response:
        """List the resources of one type, in a subscription or a group."""
        kind = f"{call.names['namespace']}/{call.names['kind']}"
        self.access.require(call, f"{kind}/read", "arm")
        group = call.names.get("group")
        if group:
            self.state.group(call.names["subscription"], group)
        found = self.state.in_group(self.state.subscription(call.names["subscription"]), group)
        return reply({"value": [what for what in found if what["type"].lower() == kind.lower()]})

    @route("GET HEAD", RESOURCE_PATH, "")
    async def resource(self, call: Call) -> Response:
        """Show one resource."""
        self.access.require(call, self._action(call, "read"), "arm")
        found = self._found(call)
        if found["type"] == f"{ML}/workspaces" and not self.state.switches.public_network:
            return reply({**found, "properties": {**found["properties"], "publicNetworkAccess": "Disabled"}})
        return reply(found)

    @route("PUT", RESOURCE_PATH, "")
    async def make_resource(self, call: Call) -> Response:
        """Make a resource: the answer is there at once, the resource when its operation is over."""
        names = call.names
        self.access.require(call, self._action(call, "write"), "arm")
        number = self.state.subscription(names["subscription"])
        self.state.group(number, names["group"])
        if self.state.provider(number, names["namespace"]) != "Registered":
            message = (
                f"The subscription is not registered to use namespace '{names['namespace']}'. See "
                "https://aka.ms/rps-not-found for how to register subscriptions."
            )
            raise arm_refusal(409, "MissingSubscriptionRegistration", message)
        asked = await call.json()
        kind = f"{names['namespace']}/{names['kind']}"
        if not asked.get("location"):
            raise arm_refusal(
                400, "LocationRequired", "The location property is required for this definition."
            )
        if kind.lower() == f"{ML}/workspaces".lower():
            return self._accept_workspace(call, asked)
        self._check_name(kind, names["name"])
        properties = {**asked.get("properties", {}), "provisioningState": "Succeeded"}
        known = {key: asked[key] for key in ("sku", "kind", "identity") if key in asked}
        made = self.state.add(
            resource(
                number,
                names["group"],
                kind,
                names["name"],
                properties,
                location=asked["location"],
                tags=asked.get("tags"),
                **known,
            )
        )
        where = self.begin(f"/subscriptions/{number}/providers/{names['namespace']}", result=made)
        creating = {**made, "properties": {**made["properties"], "provisioningState": "Creating"}}
        return reply(creating, 201, self.waiting(where))

    def _accept_workspace(self, call: Call, asked: dict[str, Any]) -> Response:
        """Accept a workspace with 202; that a deleted one has its name is told by the operation alone.

        ResourceModules#3596: BadRequest inside ResourceDeploymentFailure.
        """
        known = self.state.workspaces.get(call.path.lower())
        error = made = None
        if known is not None and known.deleted:
            inner = {"code": "BadRequest", "message": SOFT_DELETED}
            message = (
                "The resource write operation failed to complete successfully, because it reached terminal "
                "provisioning state 'Failed'."
            )
            error = {"code": "ResourceDeploymentFailure", "message": message, "details": [inner]}
        else:
            made = self._make_workspace(call, asked)
        scope = f"/subscriptions/{call.names['subscription']}/providers/{ML}/locations/{asked['location']}"
        where = self.begin(scope, result=made, error=error, kind=OF_WORKSPACES)
        return empty(202, self.waiting(where))

    def _check_name(self, kind: str, name: str) -> None:
        rules = {
            "microsoft.storage/storageaccounts": (r"[a-z0-9]{3,24}", "AccountNameInvalid"),
            "microsoft.keyvault/vaults": (
                r"[a-zA-Z](?!.*--)[a-zA-Z0-9-]{1,22}[a-zA-Z0-9]",
                "VaultNameNotValid",
            ),
        }
        rule = rules.get(kind.lower())
        if rule and not re.fullmatch(rule[0], name):
            raise arm_refusal(400, rule[1], f"{name} is not a valid name for {kind}.")

    def _make_workspace(self, call: Call, asked: dict[str, Any]) -> dict[str, Any]:
        names, properties = call.names, asked.get("properties", {})
        name = names["name"]
        if not WORKSPACE_NAME.fullmatch(name):
            message = (
                f"Workspace name {name} is invalid: between 2 and 32 characters, letters, digits, - and _."
            )
            raise arm_refusal(400, "ValidationError", message)
        missing = [
            key for key in ("storageAccount", "keyVault", "applicationInsights") if not properties.get(key)
        ]
        if missing:
            raise arm_refusal(400, "ValidationError", "Missing dependent resources in workspace json")
        for key in ("storageAccount", "keyVault", "applicationInsights", "containerRegistry"):
            given = properties.get(key)
            if given and given.lower() not in self.state.resources:
                raise arm_refusal(
                    400, "ValidationError", f"Unable to get the {key} {given}: it does not exist."
                )
        key = f"{call.path}".lower()
        known = self.state.workspaces.get(key)
        if known is not None:
            known.resource["tags"] = asked.get("tags", known.resource["tags"])
            return known.resource
        if not self.state.spares:
            raise arm_refusal(500, "StandInExhausted", "No MLflow server is left: start more spares.")
        made = self.state.new_workspace(
            names["subscription"], names["group"], name, self.state.spares.pop(0), asked
        )
        return made.resource

    @route("PATCH", RESOURCE_PATH, "")
    async def change_resource(self, call: Call) -> Response:
        """Change a resource's tags and properties."""
        self.access.require(call, self._action(call, "write"), "arm")
        found, asked = self._found(call), await call.json()
        found["tags"] = asked.get("tags", found["tags"])
        found["properties"].update(asked.get("properties", {}))
        return reply(found)

    @route("DELETE", RESOURCE_PATH, "")
    async def delete_resource(self, call: Call) -> Response:
        """Delete a resource; a workspace softly, unless ``forceToPurge=true``."""
        self.access.require(call, self._action(call, "delete"), "arm")
        key = call.path.rstrip("/").lower()
        purge = call.query.get("forceToPurge", "").lower() == "true"
        softly = self.state.workspaces.get(key)
        if softly is not None and softly.deleted and purge:
            self._purge(key)
            return empty(202, self.waiting(self.begin(f"/subscriptions/{call.names['subscription']}")))
        what = self.state.resources.get(key)
        if what is None:
            return empty(204)
        self._remove(what)
        if purge:
            self._purge(key)
        scope = f"/subscriptions/{call.names['subscription']}/providers/{call.names['namespace']}"
        if what["type"].lower() == f"{ML}/workspaces".lower():
            where = self.begin(f"{scope}/locations/{what['location']}", kind=OF_WORKSPACES)
        else:
            where = self.begin(scope)
        waiting = self.waiting(where)
        if call.query.get("api-version") == "2020-01-01":
            waiting["Retry-After"] = "0"  # azureml-core's own poller, which knows whole seconds alone
        return empty(202, waiting)

    def _purge(self, key: str) -> None:
        workspace = self.state.workspaces.get(key)
        if workspace is not None and workspace is not self.state.first:
            del self.state.workspaces[key]

    def _remove(self, what: dict[str, Any]) -> None:
        key = what["id"].lower()
        self.state.resources.pop(key, None)
        if key in self.state.workspaces:
            self.state.workspaces[key].deleted = True
        managed = what["properties"].get("managedResourceGroupId")
        if managed:
            _, _, subscription, _, group = managed.split("/")
            for each in self.state.in_group(subscription, group):
                self.state.resources.pop(each["id"].lower(), None)
            self.state.groups.pop((subscription.lower(), group.lower()), None)

    def _action(self, call: Call, verb: str) -> str:
        return f"{call.names['namespace']}/{call.names['kind']}/{verb}"

    def _found(self, call: Call) -> dict[str, Any]:
        names = call.names
        self.state.group(names["subscription"], names["group"])
        found = self.state.resources.get(call.path.rstrip("/").lower())
        if found is None:
            message = (
                f"The Resource '{names['namespace']}/{names['kind']}/{names['name']}' under resource group "
                f"'{names['group']}' was not found. For more details please go to "
                "https://aka.ms/ARMResourceNotFoundFix"
            )
            raise arm_refusal(404, "ResourceNotFound", message)
        return found
