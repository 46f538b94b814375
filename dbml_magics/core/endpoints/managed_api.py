"""The calls of managed online endpoints at Resource Manager, and what a resource says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from dbml_magics.core.azure import permissions
from dbml_magics.core.endpoints import managed_body
from dbml_magics.core.endpoints.rest import Answer, Rest, ServiceRefusal, refused
from dbml_magics.core.endpoints.shapes import ArmResource

__all__ = ["ManagedApi", "state_of", "traffic_of"]

_ENDPOINTS = f"{permissions.ML}/workspaces/onlineEndpoints"
_DEPLOYMENTS = f"{_ENDPOINTS}/deployments"
_STATES = {"succeeded": "ready", "canceled": "failed"}


class ManagedApi:
    """Endpoints and deployments of one workspace, each call with the Azure action that it needs."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest

    def get(self, name: str, deployment: str | None = None) -> ArmResource | None:
        """Return an endpoint, or a deployment of it; None where there is none."""
        action = f"{_kind(deployment)}/read"
        try:
            answer = self.rest.arm("GET", _path(name, deployment), action=action)
        except ServiceRefusal as error:
            raise refused(error, name) from error
        shown: ArmResource | None = answer.body if answer is not None else None
        return shown

    def listed(self) -> list[ArmResource]:
        """Return the workspace's endpoints."""
        return self.rest.pages("/onlineEndpoints", action=f"{_ENDPOINTS}/read")

    def deployments(self, name: str) -> list[ArmResource]:
        """Return an endpoint's deployments."""
        return self.rest.pages(f"{_path(name)}/deployments", action=f"{_DEPLOYMENTS}/read")

    def put(self, name: str, body: object, deployment: str | None = None) -> Answer | None:
        """Begin to create or replace an endpoint, or a deployment of it. Raises ServiceRefusal."""
        return self.rest.arm("PUT", _path(name, deployment), body, action=f"{_kind(deployment)}/write")

    def put_traffic(self, name: str, shown: ArmResource, **what: dict[str, int]) -> Answer | None:
        """Begin to set an endpoint's traffic, or what is mirrored. Raises ServiceRefusal."""
        return self.put(name, managed_body.changed_endpoint(shown, **what))

    def delete(self, name: str, deployment: str | None = None) -> Answer | None:
        """Begin to delete an endpoint, or a deployment of it. Raises ServiceRefusal."""
        return self.rest.arm("DELETE", _path(name, deployment), action=f"{_kind(deployment)}/delete")

    def every_one(self, name: str, traffic: Mapping[str, int]) -> dict[str, int]:
        """Return the traffic with every deployment in it, also those that get none: nothing is left open."""
        return {each["name"]: traffic.get(each["name"], 0) for each in self.deployments(name)}

    def log(self, name: str, deployment: str, lines: int) -> list[str]:
        """Return the last lines of a deployment's container."""
        asked = {"containerType": "InferenceServer", "tail": lines}
        written = str(self._post(name, "getLogs", asked, deployment).get("content") or "")
        return [line for line in written.splitlines() if line.strip()][-lines:]

    def secret(self, name: str, auth: str) -> str:
        """Return the key or the token of Azure ML that an endpoint asks for."""
        what, field = ("listKeys", "primaryKey") if auth == "key" else ("token", "accessToken")
        return str(self._post(name, what).get(field) or "")

    def _post(
        self, name: str, what: str, body: object = None, deployment: str | None = None
    ) -> dict[str, object]:
        action = f"{_kind(deployment)}/{what}/action"
        try:
            answer = self.rest.arm("POST", f"{_path(name, deployment)}/{what}", body, action=action)
        except ServiceRefusal as error:
            raise refused(error, name) from error
        return dict(answer.body) if answer is not None else {}


def _path(name: str, deployment: str | None = None) -> str:
    under = "" if deployment is None else f"/deployments/{quote(deployment)}"
    return f"/onlineEndpoints/{quote(name)}{under}"


def _kind(deployment: str | None) -> str:
    return _ENDPOINTS if deployment is None else _DEPLOYMENTS


def state_of(shown: ArmResource) -> str:
    """Return the state of an endpoint or a deployment: ready, creating, updating, deleting or failed."""
    word = str((shown.get("properties") or {}).get("provisioningState") or "").lower()
    return _STATES.get(word, word)


def traffic_of(shown: ArmResource | None) -> dict[str, int]:
    """Return the percents of an endpoint's requests that are not 0."""
    shares = ((shown or {}).get("properties") or {}).get("traffic") or {}
    return {str(name): int(share) for name, share in shares.items() if share}
