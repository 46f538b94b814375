"""The targets ``aci`` and ``aks``: web services of Azure ML's v1 kind, by azureml-mlflow's own client.

The client runs in a process of its own (``webservice_child``) and begins the deployment; how it goes, keys,
logs and its end are asked of the service here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dbml_magics.common.hints import Remedy
from dbml_magics.common.redaction import remember_secrets
from dbml_magics.core import processes
from dbml_magics.core.azure import permissions
from dbml_magics.core.endpoints import azureml, settings
from dbml_magics.core.endpoints.base import Address, Order, Say, Target, failed
from dbml_magics.core.endpoints.checks import likely_cause
from dbml_magics.core.endpoints.remembered import Record, records
from dbml_magics.core.endpoints.rest import Rest, ServiceRefusal, refused, words
from dbml_magics.core.endpoints.shapes import Settings, WebService
from dbml_magics.core.endpoints.waiting import Patience
from dbml_magics.core.workspace_uri import masked
from dbml_magics.errors import BadCommand, DbmlError, DeploymentFailed, Refused
from dbml_magics.results.endpoints import Check, Deployment, Endpoint

if TYPE_CHECKING:
    from dbml_magics.core.runtime.engine import Engine

__all__ = ["WebserviceTarget"]

_WS = f"{permissions.ML}/workspaces"
_READ = f"{_WS}/services/read"
_STATES = {"healthy": "ready", "transitioning": "creating", "unhealthy": "failed", "unschedulable": "failed"}
_LOG_LINES = 12
_REQUEST_LIMIT = 16 * 1024**2  # no limit is documented; what is larger than this goes in several requests
_READY_S = 3900.0  # until a service answers, its image's build included
_DELETED_S = 1800.0
_GRACE_S = 900.0  # after its begin, in which a service may appear that nobody waits for any more
_KEPT = ("ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD")  # where the clouds are
_SUPPORT = (
    "{0} is of Azure ML's v1 services, whose SDK is out of support since 30 June 2026; what is deployed goes "
    "on working. The same on a managed endpoint: {1}"
)

_keys: dict[str, str] = {}
_said: set[str] = set()  # the targets whose end of support this process has announced


class WebserviceTarget(Target):
    """Web services of one kind: container instances, or an attached Kubernetes cluster."""

    def __init__(self, engine: Engine, name: str, written: str) -> None:
        self.engine, self.name = engine, name
        self.legal = settings.ACI if name == "aci" else settings.AKS
        self.workspace = azureml.workspace_of(engine, written)
        self.rest = Rest(self.workspace)

    # --- reading

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the service of that name and kind, one that is being created too, or None."""
        shown = self._get(name)
        if shown is None or str(shown.get("computeType")).lower() != self.name:
            return self._begun(self._record(name))
        return self._with_log(self._seen(shown))

    def _begun(self, record: Record) -> Endpoint | None:
        """Return a service that is being created and not listed yet; forget one that is gone."""
        kept = record.read()
        began = float(kept.get("began") or 0)
        waits = time.time() - began < _GRACE_S or processes.runs(
            int(kept.get("pid") or 0), str(kept.get("started") or "")
        )
        if not kept or "endpoint" in kept or not waits:
            record.forget()
            return None
        note = "it was begun from here, and the service does not show it yet"
        created = int(began * 1000)
        return Endpoint(record.name, self.name, "creating", None, "key", created=created, notes=(note,))

    def _with_log(self, endpoint: Endpoint) -> Endpoint:
        """Return a service that failed with the last lines of its container."""
        each = endpoint.deployments[0]
        if each.state != "failed":
            return endpoint
        lines: list[str] = []
        with contextlib.suppress(DbmlError):
            lines = [masked(line) for line in self.logs(endpoint.name, each.name, _LOG_LINES)[0]]
        why = each.error or "it did not become healthy"
        failed = replace(each, error=why, cause=likely_cause([*lines, why]), log=tuple(lines))
        return replace(endpoint, deployments=(failed,))

    def endpoints(self) -> list[Endpoint]:
        """Return all services of this kind, and those that are only begun."""
        try:
            answer = self.rest.data(
                "GET", f"/services?computeType={self.name.upper()}&expand=true", action=_READ
            )
        except ServiceRefusal as error:
            raise refused(error, self.name) from error
        found = [self._seen(each) for each in (answer.body.get("value") or [] if answer else [])]
        names = {each.name.lower() for each in found}
        begun = [
            endpoint
            for record in records(self.workspace.id.path, self.name)
            if record.name.lower() not in names and (endpoint := self._begun(record)) is not None
        ]
        return [*found, *begun]

    def logs(self, name: str, deployment: str, lines: int) -> tuple[list[str], str | None]:
        """Return the last lines of the service's container."""
        del deployment  # a service is one
        try:
            answer = self.rest.data("GET", f"/services/{quote(name)}/logs?tail={lines}", action=_READ)
        except ServiceRefusal as error:
            raise refused(error, name) from error
        written = str(answer.body.get("content") or "") if answer is not None else ""
        return [line for line in written.splitlines() if line.strip()][-lines:], None

    def address(self, endpoint: Endpoint, deployment: str | None) -> Address:
        """Return how the service is asked."""
        del deployment
        registered = endpoint.deployments[0].registered if endpoint.deployments else None
        return Address(
            uri=endpoint.uri or "",
            headers=lambda fresh: self._headers(endpoint, fresh),
            signature=azureml.signature_of(self.engine, *registered) if registered else None,
            limit=_REQUEST_LIMIT,
        )

    def _headers(self, endpoint: Endpoint, fresh: bool) -> dict[str, str]:
        if endpoint.auth == "none":
            return {}
        place = f"{self.workspace.id.path}/{endpoint.name}"
        if fresh or place not in _keys:
            key = endpoint.auth == "key"
            what, field = ("listkeys", "primaryKey") if key else ("token", "accessToken")
            try:
                answer = self.rest.data("POST", f"/services/{quote(endpoint.name)}/{what}", action=_READ)
            except ServiceRefusal as error:
                raise refused(error, endpoint.name) from error
            _keys[place] = str((answer.body if answer else {}).get(field) or "")
            remember_secrets(_keys[place])
        return {"Authorization": f"Bearer {_keys[place]}"}

    # --- deploying

    def checks(self, order: Order) -> list[Check]:
        """Check the model's name, the cluster, and the options that this kind of service lacks."""
        azureml.check_registrable(order)
        if order.deployment is not None or order.traffic is not None:
            bare = order.line.but(deployment=None, traffic=None)
            raise BadCommand(
                f"{self.name} has one model under a name: neither --deployment nor --traffic.",
                remedies=[(bare, "replaces the model there"), (_instead(order), "has both")],
            )
        kind = str(order.settings.get("computeType") or self.name).lower()
        if kind != self.name:
            raise BadCommand(
                f"the config file is for {kind}, and the line says --to {self.name}.",
                remedies=[(f"computeType: {self.name}", "in the config file, or leave it out")],
            )
        if self.name == "aci":
            return []
        cluster = order.settings.get("computeTargetName")
        if not cluster:
            raise BadCommand(
                "aks deploys to a cluster that is attached to the workspace: --compute names it.",
                remedies=[(order.line.but(compute="CLUSTER"), "for example")],
            )
        try:
            found = self.rest.arm(
                "GET", f"/computes/{quote(str(cluster))}", action=f"{_WS}/computes/{cluster}/read"
            )
        except ServiceRefusal as error:
            raise refused(error, str(cluster)) from error
        properties = (found.body.get("properties") or {}) if found is not None else {}
        if found is None or str(properties.get("computeType")).upper() != "AKS":
            why = "is no compute of the workspace" if found is None else f"is {properties.get('computeType')}"
            return [Check("cluster", f"{cluster} {why}: aks wants an attached cluster", False)]
        return [
            Check(
                "cluster",
                f"{cluster} is attached",
                properties.get("provisioningState") == "Succeeded" or None,
            )
        ]

    def deploy(self, order: Order, say: Say) -> tuple[str, str]:
        """Deploy by azureml-mlflow's client. Raises DeploymentFailed, BadCommand, NotPermitted."""
        before = self._get(order.name)
        if before is not None and str(before.get("computeType")).lower() != self.name:
            raise BadCommand(
                f"{order.name} is a web service on {before.get('computeType')} already.",
                remedies=[(order.line.but(name=f"{order.name}-2"), "another name")],
            )
        if self.name not in _said:
            _said.add(self.name)
            order.notes.append(_SUPPORT.format(self.name, _instead(order)))
        name, version, note = azureml.registered(self.engine, order, say)
        if note:
            order.notes.append(note)
        given = {key: value for key, value in order.settings.items() if key != "computeType"}
        if before is not None and _same(before, f"{name}:{version}", given):
            return order.name, "nothing"
        record = self._record(order.name)
        record.write(began=time.time(), endpoint=None if before is None else record.read().get("endpoint"))
        try:
            self._ask_client(order, f"models:/{name}/{version}", given, before is not None, say)
            if order.wait:
                self._wait(order, say)
        except DeploymentFailed:
            if before is None:
                with contextlib.suppress(DbmlError, ServiceRefusal):
                    self.rest.data("DELETE", f"/services/{quote(order.name)}", action=self._action("delete"))
                record.forget()
            raise
        return order.name, "deployed" if before is None else "updated"

    def _ask_client(self, order: Order, model: str, given: Settings, update: bool, say: Say) -> None:
        """Have the client begin it, in a process of its own."""
        config = {**given, "computeType": self.name, "async": True}
        if not update and not config.get("tokenAuthEnabled"):
            config.setdefault("authEnabled", True)  # container instances ask for nothing unless asked to
        elif update:
            config.setdefault("authEnabled", True)  # the client wants something to change besides the model
        asked = {
            "uri": self.workspace.uri,
            "host_url": f"https://{self.workspace.host}",
            "subscription": self.workspace.id.subscription,
            "group": self.workspace.id.group,
            "workspace": self.workspace.id.name,
            "cloud": self.workspace.sign_in.cloud.name,
            "name": order.name,
            "model": model,
            "config": config,
            "update": update,
        }
        with tempfile.TemporaryDirectory() as folder:
            with _started(Path(folder), self.workspace.uri) as child:
                # The client goes on for a while when this process is killed, and may begin it yet.
                self._record(order.name).write(pid=child.pid, started=processes.start_of(child.pid))
                reply = self._converse(child, asked, say)
            if "failed" in reply:
                written = (Path(folder) / "log").read_text(errors="replace").splitlines()
                lines = [] if reply["failed"] else written[-_LOG_LINES:]
                why = reply["failed"] or "azureml-mlflow's client ended without an answer"
                raise failed(order.model.label, order.name, self.name, order.line, why, lines)

    def _converse(
        self, child: subprocess.Popen[str], asked: Mapping[str, object], say: Say
    ) -> dict[str, str]:
        """Send the client its order and answer its requests for tokens until it is done."""
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(asked) + "\n")
        child.stdin.flush()
        say("preparing the image")
        deadline = threading.Timer(_READY_S, child.kill)  # a client that hangs ends, and so does its output
        deadline.start()
        try:
            for line in child.stdout:
                message = dict(json.loads(line))
                if "token" not in message:
                    return message
                say("preparing the image")
                token = self.workspace.sign_in.get_token(*message["token"])
                child.stdin.write(json.dumps({"token": token.token, "expires": token.expires_on}) + "\n")
                child.stdin.flush()
        finally:
            deadline.cancel()
        return {"failed": ""}

    def _wait(self, order: Order, say: Say) -> None:
        """Wait until the service answers. Raises DeploymentFailed with the end of its log."""
        patience, pause = Patience(_READY_S), 5.0
        while True:
            shown = self._get(order.name) or {}
            number = str(shown.get("operationId") or "")
            state = str(shown.get("state") or "").lower()
            error = shown.get("error")
            answer = self.rest.data("GET", f"/operations/{quote(number)}", action=_READ) if number else None
            if answer is not None:  # the service itself says "healthy" of the model before, too
                pause = answer.pause(patience.waited)
                status = str(answer.body.get("state") or "").lower()
                state = {"succeeded": "healthy", "failed": "failed"}.get(status, "transitioning")
                error = answer.body.get("error") or error
            if state == "healthy":
                return
            if state in ("failed", "unhealthy", "unschedulable") or not shown:
                lines: list[str] = []
                with contextlib.suppress(DbmlError):
                    lines = self.logs(order.name, order.name, _LOG_LINES)[0]
                why = words(error) or "it did not become healthy"
                raise failed(order.model.label, order.name, self.name, order.line, why, lines)
            if not patience.waits(pause, lambda: say("starting the container")):
                why = f"starting the container took longer than {patience.limit}"
                raise failed(order.model.label, order.name, self.name, order.line, why, [])

    # --- ending

    def remove(self, endpoint: Endpoint, deployment: str | None, say: Say) -> None:
        """Delete the service."""
        del deployment
        path = f"/services/{quote(endpoint.name)}"
        try:
            answer = self.rest.data("DELETE", path, action=self._action("delete"))
            patience = Patience(_DELETED_S)
            while self._get(endpoint.name) is not None:
                pause = answer.pause(patience.waited) if answer is not None else 0.0
                if not patience.waits(pause, lambda: say("deleting")):
                    raise Refused(
                        f"Azure ML was asked to delete {endpoint.name}, and has not within {patience.limit}.",
                        remedies=[(Remedy("endpoints", endpoint.name), "shows how it is")],
                    )
        except ServiceRefusal as error:
            raise refused(error, endpoint.name) from error
        self._record(endpoint.name).forget()

    # --- what the service shows

    def _action(self, verb: str) -> str:
        return f"{_WS}/services/{self.name}/{verb}"

    def _record(self, name: str) -> Record:
        return Record(self.workspace.id.path, self.name, name)

    def _get(self, name: str) -> WebService | None:
        try:
            answer = self.rest.data("GET", f"/services/{quote(name)}?expand=true", action=_READ)
        except ServiceRefusal as error:
            raise refused(error, name) from error
        shown: WebService | None = answer.body if answer is not None else None
        return shown

    def _seen(self, shown: WebService) -> Endpoint:
        name, word = str(shown["name"]), str(shown.get("state") or "").lower()
        state = _STATES.get(word, word)
        model, _, version = _model_of(shown).partition(":")
        size = shown.get("containerResourceRequirements") or {}
        held = [f"{size['cpu']:g} CPU"] if size.get("cpu") else []
        held += [f"{size['memoryInGB']:g} GB"] if size.get("memoryInGB") else []
        created = azureml.milliseconds(shown.get("createdTime"))
        token = shown.get("aadAuthEnabled")
        endpoint = Endpoint(
            name=name,
            target=self.name,
            state=state,
            uri=shown.get("scoringUri"),
            auth="aml_token" if token else "key" if shown.get("authEnabled") else "none",
            deployments=(
                Deployment(
                    name=name,
                    model=f"{model}/{version}",
                    state=state,
                    traffic=100,
                    size=", ".join(held),
                    count=int(shown.get("numReplicas") or 1),
                    created=created,
                    error=words(shown.get("error")) if state == "failed" else None,
                    registered=(model, version),
                ),
            ),
            created=created,
            page=self.workspace.pages.endpoint(name),
        )
        self._record(name).saw(endpoint)
        return endpoint


@contextlib.contextmanager
def _started(folder: Path, uri: str) -> Iterator[subprocess.Popen[str]]:
    """Start the client's process in a folder of its own; it ends with the block."""
    environment = {
        **processes.bare_environment(),
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_REGISTRY_URI": uri,
        "TMPDIR": str(folder),
    }
    code = processes.python("from dbml_magics.core.endpoints.webservice_child import main; main()")
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(
            code,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            cwd=folder,
            text=True,
        )
    try:
        yield child
    finally:
        if child.poll() is None and sys.exc_info()[0] is not None:
            child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _instead(order: Order) -> str:
    """Return the line that does the same at a managed endpoint, whose config files have other keys."""
    from dbml_magics.common.hints import say

    return say(order.line.but(config=None, compute=None, to="online"))


def _model_of(shown: WebService) -> str:
    models = shown.get("models") or []
    if models and models[0].get("name"):
        return f"{models[0]['name']}:{models[0].get('version')}"
    ids = (shown.get("environmentImageRequest") or {}).get("modelIds") or []
    return str(ids[0]) if ids else "?"


def _same(before: WebService, model: str, given: Settings) -> bool:
    from dbml_magics.core.endpoints.managed_body import includes

    healthy = str(before.get("state")).lower() == "healthy"
    wanted = {key: value for key, value in given.items() if key != "computeTargetName"}
    return healthy and _model_of(before) == model and includes(dict(before), wanted)
