"""The target ``online``: Azure ML's managed online endpoints.

A deployment is three steps of the service (endpoint, deployment, traffic), minutes each. What is left of them
is kept in the endpoint's record, for each deployment of it, so whoever comes next, this process or another,
goes on where one ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import quote

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
from dbml_magics.core.endpoints.remembered import Record, locked, records
from dbml_magics.core.endpoints.rest import Answer, Rest, ServiceRefusal, every, refused, words
from dbml_magics.core.endpoints.shapes import ArmResource, FailedDeployment, PendingDeployment, Settings
from dbml_magics.core.link import masked
from dbml_magics.core.model.mlmodel import Signature
from dbml_magics.errors import BadCommand, DbmlError, DeploymentFailed, NotPermitted, Refused
from dbml_magics.results.endpoints import Check, Deployment, Endpoint

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["OnlineTarget"]

_WS = f"{permissions.ML}/workspaces"
_READ, _WRITE = f"{_WS}/onlineEndpoints/read", f"{_WS}/onlineEndpoints/write"
_DEPLOYMENTS = f"{_WS}/onlineEndpoints/deployments"
_MODEL = re.compile(r"/models/([^/]+)/versions/([^/]+)$", re.IGNORECASE)
_STATES = {"succeeded": "ready", "canceled": "failed"}
_LOG_LINES = 12
_REQUEST_LIMIT = int(1.5 * 1024**2)  # resource-limits-capacity.md, managed online endpoints
_AAD_SCOPE = "https://ml.azure.com/.default"
# azure-ai-ml, _azure_environments: whom a token is for in the other clouds.
_AAD_SCOPES = {
    "AzureChinaCloud": "https://ml.azure.cn/.default",
    "AzureUSGovernment": "https://ml.azure.us/.default",
}
_LABEL, _VERSION = "dbml_model", "dbml_version"  # tags of a deployment: what the user called its model

_keys: dict[tuple[str, str], str] = {}  # (endpoint's id, how it asks) -> its key or token, this process long
_going: set[str] = set()  # records that a thread of this process goes on with


class _Workspace(TypedDict, total=False):
    location: str
    properties: WorkspaceProperties


class _Failure(TypedDict, total=False):
    error: str
    cause: str | None
    log: tuple[str, ...]


@dataclass(frozen=True)
class _Step:
    """What is being done, and how long the service wants to be left alone."""

    doing: str
    pause: float


class OnlineTarget(Target):
    """Managed online endpoints of the link's workspace."""

    name = "online"
    legal = settings.ONLINE

    def __init__(self, engine: Engine, written: str) -> None:
        self.engine = engine
        self.workspace = azureml.workspace_of(engine, written)
        self.rest = Rest(self.workspace)

    # --- reading

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of that name, or None; a deployment that was begun goes a step further."""
        record = self._record(name)
        self._go_on(record)
        shown = self._get(name)
        if shown is None:
            return self._begun(record)
        return self._seen(record, shown)

    def endpoints(self) -> list[Endpoint]:
        """Return all of the workspace's managed endpoints."""
        for record in records(self.workspace.id.path, self.name):
            self._go_on(record)
        found = self.rest.pages("/onlineEndpoints", action=_READ)
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
        try:
            answer = self.rest.arm(
                "POST",
                f"{_path(name, deployment)}/getLogs",
                {"containerType": "InferenceServer", "tail": lines},
                action=f"{_DEPLOYMENTS}/getLogs/action",
            )
        except ServiceRefusal as error:
            raise refused(error, name) from error
        written = str(answer.body.get("content") or "") if answer is not None else ""
        return [line for line in written.splitlines() if line.strip()][-lines:], None

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
            what, field = ("listKeys", "primaryKey") if endpoint.auth == "key" else ("token", "accessToken")
            try:
                answer = self.rest.arm(
                    "POST", f"{_path(endpoint.name)}/{what}", action=f"{_WS}/onlineEndpoints/{what}/action"
                )
            except ServiceRefusal as error:
                raise refused(error, endpoint.name) from error
            _keys[place] = str((answer.body if answer else {}).get(field) or "")
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
        """Look at the model's name there, the way out of a private workspace, and the quota."""
        azureml.check_registrable(order)
        _refuse_bad(order.settings)
        managed_body.endpoint_body(order.settings, "")
        managed_body.deployment_properties(order.settings)
        shown = self._workspace_shown()
        before = self._before(order)
        region = str(order.settings.get("location") or shown.get("location") or "")
        found = [
            managed_checks.egress(shown.get("properties") or {}, order.settings),
            managed_checks.quota(self.rest, region, *_size(before, order), before),
        ]
        late = managed_body.only_of_endpoint(order.settings)
        if late and self._get(order.name) is not None:
            found.append(
                Check("options", f"{', '.join(late)} of an endpoint that exists stay as they are", None)
            )
        return found

    def _workspace_shown(self) -> _Workspace:
        try:
            answer = self.rest.arm("GET", action=f"{_WS}/read")
        except ServiceRefusal as error:
            raise refused(error, self.workspace.id.name) from error
        empty: _Workspace = {}
        return answer.body if answer is not None else empty

    def _before(self, order: Order) -> ArmResource | None:
        """Return the deployment that the line would replace."""
        if self._get(order.name) is None:
            return None
        known = {each["name"]: each for each in self._deployments(order.name)}
        return known.get(order.deployment or only(order.name, list(known), order.line))

    # --- deploying

    def deploy(self, order: Order, say: Say) -> tuple[str, str]:
        """Deploy under the endpoint, made if need be. Raises DeploymentFailed, BadCommand, NotPermitted."""
        shown = self._get(order.name)
        known = {each["name"]: each for each in self._deployments(order.name)} if shown is not None else {}
        name = order.deployment or only(order.name, list(known), order.line)
        before = known.get(name)
        if before is not None and _state(before) == "deleting":
            before = None  # the service lets the new one wait for its end
        traffic = _traffic(shown)
        if order.traffic is not None:
            with_share(traffic, name, order.traffic)
        model, version, note = azureml.registered(self.engine, order, say)
        if note:
            order.notes.append(note)
        wanted = managed_body.deployment_properties(order.settings)
        wanted["model"] = f"{self.workspace.id.path}/models/{model}/versions/{version}"
        record = self._record(order.name)
        if before is not None and _same(before, wanted, order):
            return name, self._only_traffic(order, name, shown or {}, say)
        location = str((shown or {}).get("location") or "") or self._location(order)
        replaced = self._remember(
            record,
            {
                "deployment": name,
                "label": order.model.label,
                "line": order.line,
                "again": {"values": [*order.line.values], "options": dict(order.line.options)},
                "new": before is None,
                "new_endpoint": shown is None,
                "endpoint": managed_body.endpoint_body(order.settings, location) if shown is None else None,
                "body": _body(before, wanted, order, location, f"{model}/{version}"),
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
                self._until_done(record, name, say)
            except KeyboardInterrupt:  # it goes on by itself, so what becomes of it is kept for later
                with locked(record):
                    pending = record.of_deployments("pending").get(name)
                    record.put("pending", name, pending and {**pending, "wait": False})
                raise
        else:
            try:
                with locked(record):
                    self._advance(record, name)
            except (DeploymentFailed, NotPermitted):  # raised now, so no later command has to say it
                record.put("failed", name, None)
                raise
            self._begin(record)
        return name, "deployed" if before is None else "updated"

    def _remember(self, record: Record, pending: PendingDeployment) -> str | None:
        """Save a pending deployment; returns the label of the pending one that it replaces, if any."""
        name = pending["deployment"]
        with locked(record):
            record.write(began=record.read().get("began") or time.time())
            record.put("failed", name, None)
            before = record.of_deployments("pending").get(name)
            if before is not None:
                # What was new for the one before is new still: it was never ready.
                pending["new"] = pending["new"] or before["new"]
                pending["new_endpoint"] = pending["new_endpoint"] or before["new_endpoint"]
            record.put("pending", name, pending)
        return None if before is None or before["label"] == pending["label"] else str(before["label"])

    def _location(self, order: Order) -> str:
        return str(order.settings.get("location") or self._workspace_shown().get("location") or "")

    def _only_traffic(self, order: Order, name: str, shown: ArmResource, say: Say) -> str:
        before = _traffic(shown)
        wanted = before if order.traffic is None else with_share(before, name, order.traffic)
        if wanted == before:
            return "nothing"
        every_one = self._every_one(order.name, wanted)
        try:
            answer = self._put_traffic(order.name, shown, traffic=every_one)
            error = self.rest.wait(answer, lambda: say("setting the traffic"))
        except ServiceRefusal as refusal:
            raise failed(order.model.label, order.name, self.name, order.line, str(refusal), []) from refusal
        if error:
            raise failed(order.model.label, order.name, self.name, order.line, words(error), [])
        return "traffic"

    def _every_one(self, name: str, traffic: Mapping[str, int]) -> dict[str, int]:
        """Return the traffic with every deployment in it, also those that get none: nothing is left open."""
        return {each["name"]: traffic.get(each["name"], 0) for each in self._deployments(name)}

    def _put_traffic(self, name: str, shown: ArmResource, **what: dict[str, int]) -> Answer | None:
        body = managed_body.changed_endpoint(shown, **what)
        return self.rest.arm("PUT", _path(name), body, action=_WRITE)

    def _begin(self, record: Record) -> None:
        """Take the next steps, and leave the others to a thread: this process's, while it lives."""
        with locked(record):
            steps = self._steps(record)
            if not steps or str(record.path) in _going:
                return
            _going.add(str(record.path))

        def go_on() -> None:
            try:
                self._until_none_is_left(record)
            except Exception:  # it is tried again by whoever asks for the endpoint next
                _going.discard(str(record.path))

        threading.Thread(target=go_on, name=f"dbml-deploy-{record.name}", daemon=True).start()

    def _until_none_is_left(self, record: Record) -> None:
        while True:
            with locked(record):
                steps = self._steps(record)
                if not steps:  # under the lock: what is remembered after this begins a thread of its own
                    _going.discard(str(record.path))
                    return
            every(min(step.pause for step in steps), lambda: None)

    def _steps(self, record: Record) -> list[_Step]:
        """Advance each deployment that no process waits for; the record keeps failures."""
        found = []
        for name, pending in record.of_deployments("pending").items():
            if pending["wait"] and processes.runs(int(pending["pid"]), str(pending["started"])):
                continue
            with contextlib.suppress(DeploymentFailed, NotPermitted, BadCommand):
                step = self._advance(record, name)
                found += [step] if step is not None else []
        return found

    def _until_done(self, record: Record, name: str, say: Say) -> None:
        while True:
            with locked(record):
                step = self._advance(record, name)
            if step is None:
                return
            doing = step.doing
            every(step.pause, lambda said=doing: say(said))  # type: ignore[misc]

    def _go_on(self, record: Record) -> None:
        """Resume deployments that another process, or a thread that ended, has begun."""
        if str(record.path) not in _going and record.of_deployments("pending"):
            self._begin(record)

    def _advance(self, record: Record, name: str) -> _Step | None:
        """Advance a pending deployment by one step; None when it is complete.

        Raises DeploymentFailed, NotPermitted, BadCommand.
        """
        pending = record.of_deployments("pending").get(name)
        if not pending:
            return None
        try:
            step = self._next(record, pending)
        except ServiceRefusal as error:
            if error.said.status == 409:  # somebody else's operation, or our own from before
                return _Step("waiting for another operation to end", 2.0)
            raise self._given_up(record, pending, str(error)) from error
        except (NotPermitted, BadCommand) as error:
            if isinstance(error, NotPermitted):  # BadCommand is about its traffic: it is ready without any
                self._clean_up(record, pending)
            self._over(record, pending, error.message)
            raise
        if step is None:
            record.put("pending", name, None)
        return step

    def _next(self, record: Record, pending: PendingDeployment) -> _Step | None:
        if operation := pending.get("operation"):
            answer = self.rest.operation(operation)
            if answer is not None and answer.failure:
                raise self._given_up(record, pending, words(answer.failure))
            if answer is not None and answer.state != "succeeded":
                return _Step(pending["doing"], pending["pause"])
            pending["operation"] = None
            record.put("pending", pending["deployment"], pending)
        shown = self._get(record.name)
        if shown is None:
            if pending["endpoint"] is None:
                raise self._given_up(record, pending, "the endpoint was deleted meanwhile")
            answer = self.rest.arm("PUT", _path(record.name), pending["endpoint"], action=_WRITE)
            return self._under_way(record, pending, answer, "creating the endpoint")
        state = _state(shown)
        if state == "failed":
            raise self._given_up(record, pending, "the endpoint could not be created")
        if state != "ready":
            return _Step(f"{state} the endpoint", 2.0)
        if not pending.get("put"):
            where = _path(record.name, pending["deployment"])
            answer = self.rest.arm("PUT", where, pending["body"], action=f"{_DEPLOYMENTS}/write")
            pending["put"] = True
            return self._under_way(record, pending, answer, "starting the deployment")
        return self._traffic_step(record, pending, shown)

    def _traffic_step(self, record: Record, pending: PendingDeployment, shown: ArmResource) -> _Step | None:
        made = self._get(record.name, pending["deployment"])
        state = _state(made or {})
        if made is None or state == "failed":
            raise self._given_up(record, pending, "it did not become ready")
        if state != "ready":
            return _Step(f"{state} the deployment", 2.0)
        before = _traffic(shown)
        percent = pending["traffic"]
        if percent is None and not any(before.values()):
            earlier = next(iter(record.of_deployments("pending")))
            if earlier != pending["deployment"]:  # the first one of an endpoint gets the requests
                return _Step(f"waiting for {earlier}", 2.0)
            percent = 100
        wanted = before if percent is None else with_share(before, pending["deployment"], percent)
        what: dict[str, dict[str, int]] = {}
        if wanted != before:
            what["traffic"] = {
                each["name"]: wanted.get(each["name"], 0) for each in self._deployments(record.name)
            }
        mirror = pending.get("mirror")
        if mirror and mirror != (shown["properties"].get("mirrorTraffic") or {}):
            what["mirrorTraffic"] = mirror
        if not what:
            return None
        return self._under_way(
            record, pending, self._put_traffic(record.name, shown, **what), "setting the traffic"
        )

    def _under_way(
        self, record: Record, pending: PendingDeployment, answer: Answer | None, doing: str
    ) -> _Step:
        pending["operation"] = answer.operation if answer else None
        pending["doing"], pending["pause"] = doing, answer.pause if answer else 2.0
        record.put("pending", pending["deployment"], pending)
        return _Step(doing, float(pending["pause"]))

    def _given_up(self, record: Record, pending: PendingDeployment, why: str) -> DeploymentFailed:
        """Return why the deployment failed, with its container's last lines; delete what it created."""
        lines: list[str] = []
        if pending.get("put"):
            with contextlib.suppress(DbmlError):
                lines = self.logs(record.name, pending["deployment"], _LOG_LINES)[0]
        error = failed(pending["label"], record.name, self.name, _again(pending), why, lines)
        if pending["wait"]:
            self._clean_up(record, pending)
        self._over(record, pending, error.message.splitlines()[0], lines)
        return error

    def _over(self, record: Record, pending: PendingDeployment, why: str, lines: Sequence[str] = ()) -> None:
        """Drop a pending deployment; keep the cause for a caller who did not wait."""
        name = pending["deployment"]
        record.put("pending", name, None)
        if not pending["wait"]:
            failure: FailedDeployment = {
                "why": why,
                "label": pending["label"],
                "log": [masked(line) for line in lines],
            }
            record.put("failed", name, failure)

    def _clean_up(self, record: Record, pending: PendingDeployment) -> None:
        """Delete the resources of a failed deployment; an update's old model keeps serving."""
        with contextlib.suppress(DbmlError, ServiceRefusal):
            names = {d["name"] for d in self._deployments(record.name)} | {*record.of_deployments("pending")}
            if pending["new_endpoint"] and not names - {pending["deployment"]}:
                self.rest.arm("DELETE", _path(record.name), action=f"{_WS}/onlineEndpoints/delete")
            elif pending["new"]:
                where = _path(record.name, pending["deployment"])
                self.rest.arm("DELETE", where, action=f"{_DEPLOYMENTS}/delete")

    # --- ending

    def remove(self, endpoint: Endpoint, deployment: str | None, say: Say) -> None:
        """Delete one deployment, or the endpoint with all that it has."""
        record = self._record(endpoint.name)
        try:
            with locked(record):
                self._drop(record, deployment)
            if deployment is None:
                answer = self.rest.arm("DELETE", _path(endpoint.name), action=f"{_WS}/onlineEndpoints/delete")
            else:
                shown = self._get(endpoint.name)
                if shown is not None and _traffic(shown).get(deployment):
                    # Only the last one may get requests here, and the service deletes none that does.
                    none = self._every_one(endpoint.name, {})
                    self.rest.wait(
                        self._put_traffic(endpoint.name, shown, traffic=none),
                        lambda: say("taking its traffic away"),
                    )
                where = _path(endpoint.name, deployment)
                answer = self.rest.arm("DELETE", where, action=f"{_DEPLOYMENTS}/delete")
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

    def _get(self, name: str, deployment: str | None = None) -> ArmResource | None:
        try:
            answer = self.rest.arm(
                "GET", _path(name, deployment), action=_READ if deployment is None else f"{_DEPLOYMENTS}/read"
            )
        except ServiceRefusal as error:
            raise refused(error, name) from error
        shown: ArmResource | None = answer.body if answer is not None else None
        return shown

    def _deployments(self, name: str) -> list[ArmResource]:
        return self.rest.pages(f"{_path(name)}/deployments", action=f"{_DEPLOYMENTS}/read")

    def _seen(self, record: Record, shown: ArmResource) -> Endpoint:
        kept = record.read()
        properties = shown.get("properties") or {}
        errors, pending = record.of_deployments("failed"), record.of_deployments("pending")
        made = self._deployments(str(shown["name"]))
        never = errors.keys() - {each["name"] for each in made}
        deployments = (
            *(_deployment(each, _traffic(shown), errors) for each in made),
            *(_never_made(name, errors[name]) for name in sorted(never)),
        )
        state = _state(shown)
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
            page=self.workspace.endpoint_page(str(shown["name"])),
            notes=tuple(
                f"{name} gets a copy of {share} % of the requests" for name, share in mirrored.items()
            ),
        )
        record.saw(endpoint)
        return endpoint


def _path(name: str, deployment: str | None = None) -> str:
    under = "" if deployment is None else f"/deployments/{quote(deployment)}"
    return f"/onlineEndpoints/{quote(name)}{under}"


def _state(shown: ArmResource) -> str:
    word = str((shown.get("properties") or {}).get("provisioningState") or "").lower()
    return _STATES.get(word, word)


def _traffic(shown: ArmResource | None) -> dict[str, int]:
    shares = ((shown or {}).get("properties") or {}).get("traffic") or {}
    return {str(name): int(share) for name, share in shares.items() if share}


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
    label = tags.get(_LABEL) if tags.get(_VERSION) == version else None
    state = _state(each)
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


def _same(before: ArmResource, wanted: Mapping[str, object], order: Order) -> bool:
    """Tell whether a deployment is already what is wanted of it."""
    count = order.settings.get("instance_count")
    held = int((before.get("sku") or {}).get("capacity") or 1)
    return (
        _state(before) == "ready"
        and managed_body.includes(before.get("properties") or {}, dict(wanted))
        and count in (None, held)
    )


def _size(before: ArmResource | None, order: Order) -> tuple[str, int]:
    """Return the machine and how many: the line's, else those that there are, else the default."""
    held = ((before or {}).get("properties") or {}).get("instanceType")
    size = order.settings.get("instance_type") or held or managed_body.DEFAULT_SIZE
    count = order.settings.get("instance_count") or ((before or {}).get("sku") or {}).get("capacity") or 1
    return str(size), int(count)


def _again(pending: PendingDeployment) -> str:
    """Return the command that deploys once more; a record of an earlier version has its line alone."""
    again = pending.get("again")
    return pending["line"] if again is None else Remedy("deploy", *again["values"], **again["options"])


def _body(
    before: ArmResource | None,
    wanted: Mapping[str, object],
    order: Order,
    location: str,
    version: str,
) -> dict[str, object]:
    """Return the body that creates a deployment; settings that the line does not name stay."""
    kept = {k: v for k, v in ((before or {}).get("properties") or {}).items() if v is not None}
    kept.pop("provisioningState", None)
    size, count = _size(before, order)
    properties = {
        "endpointComputeType": "Managed",
        **managed_body.merged(kept, wanted),
        "instanceType": size,
    }
    tags = {**((before or {}).get("tags") or {}), **(order.settings.get("tags") or {})}
    return {
        "location": location,
        "sku": {"name": "Default", "capacity": count},
        "tags": {**tags, _LABEL: order.model.label, _VERSION: version},
        "properties": properties,
    }


def _refuse_bad(given: Settings) -> None:
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
