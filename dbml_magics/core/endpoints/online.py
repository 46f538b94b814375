"""The target ``online``: Azure ML's managed online endpoints.

A deployment is three steps of the service, minutes each (``rollout``); ``managed_api`` makes the calls.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from dbml_magics.common.hints import Remedy
from dbml_magics.common.redaction import remember_secrets
from dbml_magics.core import processes
from dbml_magics.core.azure import permissions
from dbml_magics.core.azure.arm import WorkspaceProperties
from dbml_magics.core.endpoints import azureml, managed_body, managed_checks, settings
from dbml_magics.core.endpoints.base import (
    Address,
    Order,
    Say,
    Target,
    combined_state,
    failed,
    only,
    with_share,
)
from dbml_magics.core.endpoints.checks import likely_cause
from dbml_magics.core.endpoints.managed_api import ManagedApi, state_of, traffic_of
from dbml_magics.core.endpoints.managed_update import (
    LABEL,
    VERSION,
    There,
    body_of,
    properties_after,
    refuse_bad,
    refuse_create_only,
    serves_already,
    size_and_count,
)
from dbml_magics.core.endpoints.remembered import Record, locked, records
from dbml_magics.core.endpoints.rest import Rest, ServiceRefusal, refused, words
from dbml_magics.core.endpoints.rollout import Rollouts
from dbml_magics.core.endpoints.shapes import ArmResource, FailedDeployment
from dbml_magics.core.model.mlmodel import Signature
from dbml_magics.errors import DeploymentFailed, NotPermitted, Refused
from dbml_magics.results.endpoints import Check, Deployment, Endpoint

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["OnlineTarget"]

_WS = f"{permissions.ML}/workspaces"
_MODEL = re.compile(r"/models/([^/]+)/versions/([^/]+)$", re.IGNORECASE)
_REQUEST_LIMIT = int(1.5 * 1024**2)  # resource-limits-capacity.md, managed online endpoints
_AAD_SCOPE = "https://ml.azure.com/.default"
# azure-ai-ml, _azure_environments: whom a token is for in the other clouds.
_AAD_SCOPES = {
    "AzureChinaCloud": "https://ml.azure.cn/.default",
    "AzureUSGovernment": "https://ml.azure.us/.default",
}

_keys: dict[tuple[str, str], str] = {}  # (endpoint's id, how it asks) -> its key or token, this process long


class _Workspace(TypedDict, total=False):
    location: str
    properties: WorkspaceProperties


class _Failure(TypedDict, total=False):
    error: str
    cause: str | None
    log: tuple[str, ...]


class OnlineTarget(Target):
    """Managed online endpoints of the link's workspace."""

    name = "online"
    legal = settings.ONLINE

    def __init__(self, engine: Engine, written: str) -> None:
        self.engine = engine
        self.workspace = azureml.workspace_of(engine, written)
        self.rest = Rest(self.workspace)
        self.api = ManagedApi(self.rest)
        self.rollouts = Rollouts(self.api, self.name)

    # --- reading

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of that name, or None; a deployment that was begun goes a step further."""
        record = self._record(name)
        self.rollouts.go_on(record)
        shown = self.api.get(name)
        if shown is None:
            return self._begun(record)
        return self._seen(record, shown)

    def endpoints(self) -> list[Endpoint]:
        """Return all of the workspace's managed endpoints."""
        for record in records(self.workspace.id.path, self.name):
            self.rollouts.go_on(record)
        found = self.api.listed()
        names = {str(each["name"]).lower() for each in found}
        begun = [
            endpoint
            for record in records(self.workspace.id.path, self.name)
            if record.name.lower() not in names and (endpoint := self._begun(record)) is not None
        ]
        return [*(self._seen(self._record(str(each["name"])), each) for each in found), *begun]

    def _begun(self, record: Record) -> Endpoint | None:
        """Return an endpoint that is not there yet, or could not be made; forget one that is gone."""
        with locked(record):
            kept, errors = record.read(), record.of_deployments("failed")
            pending = record.of_deployments("pending")
            if not pending and not errors:
                record.forget()
                return None
        return Endpoint(
            record.name,
            self.name,
            "creating" if pending else "failed",
            None,
            "key",
            deployments=()
            if pending
            else tuple(_never_made(name, failure) for name, failure in errors.items()),
            created=int(float(kept.get("began") or 0) * 1000),
        )

    def logs(self, name: str, deployment: str, lines: int) -> tuple[list[str], str | None]:
        """Return the last lines of a deployment's container."""
        return self.api.log(name, deployment, lines), None

    def address(self, endpoint: Endpoint, deployment: str | None) -> Address:
        """Return how the endpoint is asked."""

        def headers(fresh: bool) -> dict[str, str]:
            own = {"Authorization": f"Bearer {self._key(endpoint, fresh)}"}
            return own if deployment is None else {**own, "azureml-model-deployment": deployment}

        return Address(
            uri=endpoint.uri or "",
            headers=headers,
            signature=self._signature(endpoint, deployment),
            limit=_REQUEST_LIMIT,
        )

    def _key(self, endpoint: Endpoint, fresh: bool) -> str:
        if endpoint.auth == "aad_token":
            return self.rest.token(_AAD_SCOPES.get(self.workspace.sign_in.cloud.name, _AAD_SCOPE))
        place = (f"{self.workspace.id.path}/{endpoint.name}", endpoint.auth)
        if fresh or place not in _keys:
            _keys[place] = self.api.secret(endpoint.name, endpoint.auth)
            remember_secrets(_keys[place])
        return _keys[place]

    def _signature(self, endpoint: Endpoint, deployment: str | None) -> Signature | None:
        """Return the signature that the deployments which answer share, or the named one's."""
        asked = [
            azureml.signature_of(self.engine, *each.registered)
            for each in endpoint.deployments
            if each.registered and (each.name == deployment if deployment else each.traffic)
        ]
        return asked[0] if asked and all(each == asked[0] for each in asked) else None

    # --- before anything is created

    def checks(self, order: Order) -> list[Check]:
        """Look at the model's name there, and at what a new container would need.

        A deployment that already serves the model as it shall be is not looked at: it works.
        """
        azureml.check_registrable(order)
        refuse_bad(order.settings)
        managed_body.endpoint_body(order.settings, "")
        there = self._there(order)
        before = there.before
        managed_body.refuse_incomplete(
            properties_after(before, managed_body.deployment_properties(order.settings))
        )
        if before is not None:
            if self._serves(before, order):
                return []
            refuse_create_only(before, there, order)
        shown = self._workspace_shown()
        region = str(order.settings.get("location") or shown.get("location") or "")
        found = [
            *managed_checks.container(order),
            managed_checks.egress(shown.get("properties") or {}, order.settings),
            managed_checks.quota(self.rest, region, *size_and_count(before, order), before),
        ]
        late = managed_body.only_of_endpoint(order.settings)
        if late and there.endpoint is not None:
            found.append(
                Check("options", f"{', '.join(late)} of an endpoint that exists stay as they are", None)
            )
        return found

    def _serves(self, before: ArmResource, order: Order) -> bool:
        model = azureml.served_by(self.engine, order)
        return model is not None and serves_already(before, self._wanted(order, *model), order)

    def _wanted(self, order: Order, model: str, version: str) -> dict[str, object]:
        """Return the properties that the line names of a deployment."""
        there = f"{self.workspace.id.path}/models/{model}/versions/{version}"
        return {**managed_body.deployment_properties(order.settings), "model": there}

    def _workspace_shown(self) -> _Workspace:
        try:
            answer = self.rest.arm("GET", action=f"{_WS}/read")
        except ServiceRefusal as error:
            raise refused(error, self.workspace.id.name) from error
        empty: _Workspace = {}
        return answer.body if answer is not None else empty

    def _there(self, order: Order) -> There:
        """Return what the line finds under its endpoint's name. Raises BadCommand where it is ambiguous."""
        endpoint = self.api.get(order.name)
        listed = self.api.deployments(order.name) if endpoint is not None else []
        known = {each["name"]: each for each in listed}
        return There(endpoint, known, order.deployment or only(order.name, list(known), order.line))

    # --- deploying

    def deploy(self, order: Order, say: Say) -> tuple[str, str]:
        """Deploy under the endpoint, made if need be. Raises DeploymentFailed, BadCommand, NotPermitted."""
        there = self._there(order)
        shown, name, before = there.endpoint, there.name, there.before
        traffic = traffic_of(shown)
        if order.traffic is not None:
            with_share(traffic, name, order.traffic, order.line)
        model, version, note = azureml.registered(self.engine, order, say)
        if note:
            order.notes.append(note)
        wanted = self._wanted(order, model, version)
        record = self._record(order.name)
        if before is not None and serves_already(before, wanted, order):
            return name, self._only_traffic(order, name, shown or {}, say)
        location = str((shown or {}).get("location") or "") or self._location(order)
        replaced = self.rollouts.remember(
            record,
            {
                "deployment": name,
                "label": order.model.label,
                "line": order.line,
                "again": {"values": [*order.line.values], "options": dict(order.line.options)},
                "new": before is None,
                "new_endpoint": shown is None,
                "endpoint": managed_body.endpoint_body(order.settings, location) if shown is None else None,
                "body": body_of(before, wanted, order, location, f"{model}/{version}"),
                "traffic": order.traffic,
                "mirror": order.settings.get("mirror_traffic"),
                "wait": order.wait,
                "pid": os.getpid(),
                "started": processes.start_of(os.getpid()),
            },
        )
        if replaced:
            order.notes.append(f"it takes the place of {replaced}, which was still on its way to {name}")
        if order.wait:
            try:
                self.rollouts.until_done(record, name, say)
            except KeyboardInterrupt:  # it goes on by itself, so what becomes of it is kept for later
                with locked(record):
                    pending = record.of_deployments("pending").get(name)
                    record.put("pending", name, pending and {**pending, "wait": False})
                raise
        else:
            try:
                with locked(record):
                    self.rollouts.advance(record, name)
            except (DeploymentFailed, NotPermitted):  # raised now, so no later command has to say it
                record.put("failed", name, None)
                raise
            self.rollouts.begin(record)
        return name, "deployed" if before is None else "updated"

    def _location(self, order: Order) -> str:
        return str(order.settings.get("location") or self._workspace_shown().get("location") or "")

    def _only_traffic(self, order: Order, name: str, shown: ArmResource, say: Say) -> str:
        before = traffic_of(shown)
        wanted = before if order.traffic is None else with_share(before, name, order.traffic, order.line)
        if wanted == before:
            return "nothing"
        every_one = self.api.every_one(order.name, wanted)
        try:
            answer = self.api.put_traffic(order.name, shown, traffic=every_one)
            error = self.rest.wait(answer, lambda: say("setting the traffic"))
        except ServiceRefusal as refusal:
            raise failed(order.model.label, order.name, self.name, order.line, str(refusal), []) from refusal
        if error:
            raise failed(order.model.label, order.name, self.name, order.line, words(error), [])
        return "traffic"

    # --- ending

    def remove(self, endpoint: Endpoint, deployment: str | None, say: Say) -> None:
        """Delete one deployment, or the endpoint with all that it has."""
        record = self._record(endpoint.name)
        try:
            with locked(record):
                self._drop(record, deployment)
            if deployment is None:
                answer = self.api.delete(endpoint.name)
            else:
                shown = self.api.get(endpoint.name)
                if shown is not None and traffic_of(shown).get(deployment):
                    # Only the last one may get requests here, and the service deletes none that does.
                    none = self.api.every_one(endpoint.name, {})
                    self.rest.wait(
                        self.api.put_traffic(endpoint.name, shown, traffic=none),
                        lambda: say("taking its traffic away"),
                    )
                answer = self.api.delete(endpoint.name, deployment)
            error = self.rest.wait(answer, lambda: say("deleting"))
        except ServiceRefusal as refusal:
            raise refused(refusal, endpoint.name) from refusal
        if error:
            raise Refused(
                f"Azure ML could not delete it: {words(error)}.",
                remedies=[(Remedy("endpoints", endpoint.name), "shows what is left")],
            )
        if deployment is None:
            record.forget()

    def _drop(self, record: Record, deployment: str | None) -> None:
        """Drop the pending and failed state of one deployment, or of all."""
        if not record.path.exists():
            return
        for what in ("pending", "failed"):
            for name in record.of_deployments(what) if deployment is None else [deployment]:
                record.put(what, name, None)

    # --- what the service shows

    def _record(self, name: str) -> Record:
        return Record(self.workspace.id.path, self.name, name)

    def _seen(self, record: Record, shown: ArmResource) -> Endpoint:
        kept = record.read()
        properties = shown.get("properties") or {}
        errors, pending = record.of_deployments("failed"), record.of_deployments("pending")
        made = self.api.deployments(str(shown["name"]))
        never = errors.keys() - {each["name"] for each in made}
        deployments = (
            *(_deployment(each, traffic_of(shown), errors) for each in made),
            *(_never_made(name, errors[name]) for name in sorted(never)),
        )
        state = state_of(shown)
        if state == "ready":
            state = combined_state(deployments)
            if pending and state in ("empty", "ready"):
                state = "creating" if not deployments else "updating"
        auth = {rest: own for own, rest in managed_body.AUTH.items()}
        mirrored = {k: v for k, v in (properties.get("mirrorTraffic") or {}).items() if v}
        endpoint = Endpoint(
            name=str(shown["name"]),
            target=self.name,
            state=state,
            uri=properties.get("scoringUri"),
            auth=auth.get(str(properties.get("authMode")), str(properties.get("authMode")).lower()),
            deployments=deployments,
            created=azureml.milliseconds((shown.get("systemData") or {}).get("createdAt"))
            or int(float(kept.get("began") or 0) * 1000),
            page=self.workspace.pages.endpoint(str(shown["name"])),
            notes=tuple(
                f"{name} gets a copy of {share} % of the requests" for name, share in mirrored.items()
            ),
        )
        record.saw(endpoint)
        return endpoint


def _never_made(name: str, failure: FailedDeployment) -> Deployment:
    """Return a deployment that the service has not, because it could not be made."""
    return Deployment(name=name, model=str(failure["label"]), state="failed", count=0, **_failure(failure))


def _failure(failure: FailedDeployment | None) -> _Failure:
    if failure is None:
        return {}
    lines = tuple(failure["log"])
    return {"error": failure["why"], "cause": likely_cause([*lines, failure["why"]]), "log": lines}


def _deployment(
    each: ArmResource, traffic: Mapping[str, int], errors: Mapping[str, FailedDeployment]
) -> Deployment:
    properties, tags = each.get("properties") or {}, each.get("tags") or {}
    found = _MODEL.search(str(properties.get("model") or ""))
    version = f"{found.group(1)}/{found.group(2)}" if found else str(properties.get("model") or "?")
    label = tags.get(LABEL) if tags.get(VERSION) == version else None
    state = state_of(each)
    return Deployment(
        name=str(each["name"]),
        model=version if label in (None, version) else f"{label} ({version} there)",
        state=state,
        traffic=int(traffic.get(str(each["name"]), 0)),
        size=str(properties.get("instanceType") or ""),
        count=int((each.get("sku") or {}).get("capacity") or 1),
        created=azureml.milliseconds((each.get("systemData") or {}).get("createdAt")),
        registered=(found.group(1), found.group(2)) if found else None,
        **_failure(errors.get(str(each["name"]))),
    )
