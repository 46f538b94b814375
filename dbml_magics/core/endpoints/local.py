"""The target on this machine: a scoring server on 127.0.0.1 that goes on when the kernel ends.

Each endpoint has a folder of its own (0700) in the user's data folder: its address, its key, its deployments'
files and logs. It belongs to the user, not to a link, so any later kernel finds it, and ``undeploy`` ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import secrets
import shutil
import socket
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from dbml_magics.common.config import data_home
from dbml_magics.common.hints import Remedy
from dbml_magics.common.hints import say as said_to_reader
from dbml_magics.common.redaction import remember_secrets
from dbml_magics.core import processes
from dbml_magics.core.endpoints import settings
from dbml_magics.core.endpoints.base import (
    ENDPOINT_NAME,
    Address,
    Order,
    Say,
    Target,
    combined_state,
    failed,
    only,
    with_share,
)
from dbml_magics.core.endpoints.shapes import (
    Deployed,
    RevisionSpec,
    ServerFile,
    ServerState,
    Settings,
    json_object,
)
from dbml_magics.core.endpoints.swagger import describe
from dbml_magics.core.endpoints.waiting import Patience, lock
from dbml_magics.core.model.mlmodel import Signature
from dbml_magics.errors import BadCommand, DeploymentFailed, SparkUnavailable
from dbml_magics.results.endpoints import Check, Deployment, Endpoint
from dbml_magics.results.text import size

__all__ = ["LocalTarget", "home"]

_CODE = "from dbml_magics.core.endpoints.server import serve; "
_LOADED_S, _LOCKED_S = 3600.0, 3900.0  # until a model is loaded, and until another process has done so
_BEGIN_S = 60.0  # until the server itself answers: half a second on an idle machine
_LOG_LINES = 12
_REQUEST_LIMIT = 16 * 1024**2
_ELSEWHERE = frozenset(settings.MANAGED) - {
    "auth_mode",
    "description",
    "environment_variables",
    "instance_count",
    "properties",
    "request_settings",
    "tags",
    "type",
}


def home() -> Path:
    """Return the folder of the local endpoints."""
    return data_home() / "endpoints"


class _Server:
    """An endpoint's own process, as its folder remembers it."""

    def __init__(self, folder: Path, kept: ServerFile) -> None:
        self.folder = folder
        self.kept = kept

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.kept['port']}"

    @property
    def runs(self) -> bool:
        return processes.runs(int(self.kept.get("pid") or 0), str(self.kept.get("started") or ""))

    def ask(
        self, method: str = "GET", path: str = "", body: object = None, timeout: float = 10.0
    ) -> ServerState:
        """Ask the server as its owner. Raises OSError when it does not answer."""
        question = urllib.request.Request(
            f"{self.address}/admin{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.kept['owner']}"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(question, timeout=timeout) as answer:
            state: ServerState = json_object(answer.read())
            return state

    def state(self) -> ServerState | None:
        """Return the server's state, or None when it does not run or does not answer."""
        if not self.runs:
            return None
        try:
            return self.ask(timeout=3.0)
        except (OSError, ValueError):
            return None

    def last_state(self) -> ServerState:
        """Return the state that the server saved last."""
        try:
            state: ServerState = json_object((self.folder / "state.json").read_text())
            return state
        except (OSError, ValueError):
            return {"traffic": {}, "deployments": []}

    def end(self) -> None:
        processes.end(int(self.kept.get("pid") or 0), str(self.kept.get("started") or ""))


class LocalTarget(Target):
    """Scoring servers on this machine."""

    name = "local"
    legal = settings.MANAGED

    # --- reading

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of that name, or None."""
        server = _read(name)
        return None if server is None else _shown(server)

    def endpoints(self) -> list[Endpoint]:
        """Return this user's endpoints on this machine, those that have stopped too."""
        found = sorted(path.parent.name for path in home().glob("*/endpoint.json"))
        return [shown for name in found if (shown := self.endpoint(name)) is not None]

    def logs(self, name: str, deployment: str, lines: int) -> tuple[list[str], str | None]:
        """Return the last lines of a deployment's log, and its file."""
        path = home() / name / "logs" / f"{deployment}.log"
        return _tail(path, lines), str(path)

    def address(self, endpoint: Endpoint, deployment: str | None) -> Address:
        """Return how the endpoint is asked."""
        server = _read(endpoint.name)
        kept: ServerFile = server.kept if server is not None else {}
        remember_secrets(kept.get("key"))
        headers = {"Authorization": f"Bearer {kept['key']}"} if kept.get("key") else {}
        if deployment is not None:
            headers["azureml-model-deployment"] = deployment
        return Address(
            uri=endpoint.uri or "",
            headers=lambda _fresh: dict(headers),
            signature=_signature(server, deployment),
            limit=_REQUEST_LIMIT,
            direct=True,
        )

    # --- deploying

    def checks(self, order: Order) -> list[Check]:
        """Look whether this Python has the packages, and which options mean nothing here."""
        from dbml_magics.core.endpoints import checks

        found = [*checks.here(order.files), *_java(order)]
        elsewhere = sorted(_ELSEWHERE & order.settings.keys()) + ["add_packages"] * order.add_packages
        if elsewhere:
            found.append(Check("options", f"{', '.join(elsewhere)} means nothing on this machine", None))
        return found

    def deploy(self, order: Order, say: Say) -> tuple[str, str]:
        """Serve a model in a process of its own. Raises DeploymentFailed, BadCommand."""
        _refuse_bad(order.settings)
        with _locked(order.name, say):
            server = _read(order.name)
            new = server is None
            if server is None or not server.runs:
                say("starting the server")
                server = _start(order, server)
            try:
                return self._deploy(server, order, say)
            except (DeploymentFailed, BadCommand):
                if new and not server.ask()["deployments"]:
                    _forget(server)
                raise

    def _deploy(self, server: _Server, order: Order, say: Say) -> tuple[str, str]:
        state = server.ask()
        known = {each["name"]: each for each in state["deployments"]}
        name = order.deployment or only(server.name, list(known), order.line)
        before = known.get(name)
        share = _share(order, name, state["traffic"])
        spec = _spec(server, name, order, share, before["told"] if before is not None else {})
        same = before is not None and before["told"].get("digest") == spec["digest"] and not before["error"]
        if same and before is not None and before["state"] != "failed":
            return name, self._only_traffic(server, name, order, state, say)
        _tidy(server, state)
        shutil.move(str(order.files), spec["files"])
        server.ask("PUT", f"/deployments/{quote(name)}", spec)
        changed = "deployed" if before is None else "updated"
        if order.wait:
            try:
                _wait(server, name, order, say)
            except DeploymentFailed:
                if before is None:
                    server.ask("DELETE", f"/deployments/{quote(name)}", timeout=60)
                raise
        return name, changed

    def _only_traffic(self, server: _Server, name: str, order: Order, state: ServerState, say: Say) -> str:
        if order.wait:
            _wait(server, name, order, say)
        wanted = (
            state["traffic"]
            if order.traffic is None
            else with_share(state["traffic"], name, order.traffic, order.line)
        )
        if wanted == state["traffic"]:
            return "nothing"
        server.ask("PUT", "/traffic", wanted)
        return "traffic"

    def remove(self, endpoint: Endpoint, deployment: str | None, say: Say) -> None:
        """End one deployment, or the endpoint; nothing of it is left then."""
        with _locked(endpoint.name, say):
            server = _read(endpoint.name)
            if server is None:
                return
            if deployment is None:
                say("ending its processes")
                _forget(server)
                return
            server.ask("DELETE", f"/deployments/{quote(deployment)}", timeout=60)
            _tidy(server, server.ask())


# --- what is kept


@contextlib.contextmanager
def _locked(name: str, say: Say) -> Iterator[None]:
    """Let one process at a time change an endpoint; the next one says that it waits."""
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home() / f".{name.lower()}.lock"
    with lock(path, name, _LOCKED_S, lambda: say("waiting for another process that changes it")):
        yield


def _read(name: str) -> _Server | None:
    if not ENDPOINT_NAME.fullmatch(name):
        return None  # nor is it a path to anywhere else
    folder = home() / name
    try:
        kept: ServerFile = json_object((folder / "endpoint.json").read_text())
        kept["port"] = int(kept["port"])
        return _Server(folder, kept) if {"key", "owner"} <= kept.keys() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(folder: Path, kept: ServerFile) -> None:
    _private(folder / "endpoint.json", json.dumps(kept))
    if kept.get("key"):
        _private(folder / "key", str(kept["key"]))


def _private(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    os.replace(temporary, path)


def _start(order: Order, before: _Server | None) -> _Server:
    """Start an endpoint's server, at its old address where that is free. Raises DeploymentFailed."""
    folder = home() / order.name
    for part in (folder, folder / "logs", folder / "models"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    auth = order.settings.get("auth_mode") or (before.kept.get("auth") if before else None) or "key"
    with _bound(before) as bound:
        kept: ServerFile = {
            "port": bound.getsockname()[1],
            "auth": auth,
            "key": None if auth == "none" else (before and before.kept["key"]) or secrets.token_urlsafe(32),
            "owner": secrets.token_urlsafe(32),
            "created": before.kept["created"] if before else int(time.time() * 1000),
        }
        _write(folder, kept)
        log = folder / "logs" / ".server.log"
        pid, started = processes.spawn(
            processes.python(f"{_CODE}serve({bound.fileno()}, {str(folder)!r})"),
            log=log,
            folder=folder,
            environment=processes.bare_environment(),
            descriptors=[bound.fileno()],
        )
    kept["pid"], kept["started"] = pid, started
    _write(folder, kept)
    server = _Server(folder, kept)
    try:
        until = time.monotonic() + _BEGIN_S
        while server.runs and time.monotonic() < until:
            with contextlib.suppress(OSError):
                server.ask(timeout=5.0)
                return server
            time.sleep(0.02)
    except BaseException:  # interrupted: the user was not shown the endpoint, so nothing of it stays
        server.end()
        if before is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    server.end()
    lines = _tail(log, _LOG_LINES)
    if before is None:
        shutil.rmtree(folder, ignore_errors=True)
    raise _failed(order, "its server did not start", lines)


@contextlib.contextmanager
def _bound(before: _Server | None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", int(before.kept["port"]) if before else 0))
        except OSError:
            bound.bind(("127.0.0.1", 0))
        yield bound


def _forget(server: _Server) -> None:
    server.end()
    shutil.rmtree(server.folder, ignore_errors=True)


def _tidy(server: _Server, state: ServerState) -> None:
    """Remove the files of models that are not served any more."""
    revisions = [spec for each in state["deployments"] for spec in (each["told"], each["coming"]) if spec]
    used = {Path(spec["files"]).name for spec in revisions}
    for path in (server.folder / "models").iterdir():
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def _tail(path: Path, lines: int) -> list[str]:
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            end = log.tell()
            log.seek(max(0, end - 400 * lines - 4096))
            found = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line for line in found if line.strip()][-lines:]


# --- the spec of a revision


def _refuse_bad(given: Settings) -> None:
    auth = given.get("auth_mode", "key")
    if auth not in ("key", "none"):
        raise BadCommand(
            f"a local endpoint asks for a key, or for nothing (auth_mode: none); not for {str(auth)[:30]!r}.",
            remedies=[("auth_mode: key", "in the config file")],
        )
    asked = given.get("request_settings") or {}
    numbers = {
        "instance_count": given.get("instance_count", 1),
        **(asked if isinstance(asked, dict) else {"": ""}),
    }
    for key, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadCommand(
                f"{key or 'request_settings'} wants whole numbers from 1 on.",
                remedies=[("request_settings: {request_timeout_ms: 5000}", "in the config file")],
            )
    if not isinstance(given.get("environment_variables") or {}, dict):
        raise BadCommand(
            "environment_variables wants NAME: value.",
            remedies=[("environment_variables: {OMP_NUM_THREADS: 1}", "in the config file")],
        )


def _share(order: Order, name: str, traffic: Mapping[str, int]) -> int | None:
    """Return the percent that a deployment gets when it is ready; None leaves the traffic as it is."""
    if order.traffic is not None:
        with_share(traffic, name, order.traffic, order.line)
        return order.traffic
    return None if any(traffic.values()) else 100


def _spec(server: _Server, name: str, order: Order, share: int | None, before: RevisionSpec) -> RevisionSpec:
    """Return a deployment's next revision; what the line does not name stays as it was before."""
    given = order.settings
    asked = given.get("request_settings") or {}
    environment = {str(k): str(v) for k, v in (given.get("environment_variables") or {}).items()}
    spec: RevisionSpec = {
        "instances": before.get("instances", 1),
        "concurrency": before.get("concurrency", 1),
        "timeout_s": before.get("timeout_s", 60.0),
    }
    if "instance_count" in given:
        spec["instances"] = int(given["instance_count"])
    if "max_concurrent_requests_per_instance" in asked:
        spec["concurrency"] = int(asked["max_concurrent_requests_per_instance"])
    if "request_timeout_ms" in asked:
        spec["timeout_s"] = float(asked["request_timeout_ms"]) / 1000
    # Values may be secret, so the server alone has them; these marks tell whether one is another.
    marks = {key: _mark(server, f"{key}={value}") for key, value in environment.items()}
    variables = {**before.get("variables", {}), **marks}
    digest = json.dumps([order.model.identity, spec, variables], sort_keys=True)
    signature = order.mlmodel.get("signature")
    spec |= {
        "model": order.model.label,
        "digest": hashlib.sha256(digest.encode()).hexdigest(),
        "files": str(server.folder / "models" / f"{name}-{uuid.uuid4().hex[:8]}"),
        "environment": environment,
        "variables": variables,
        "inherits": True,
        "signature": signature,
        "swagger": describe(server.name, order.model.version or "1", signature),
        "share": share,
    }
    if _is_sparks(order):
        from dbml_magics.core.scoring.spark import find_java

        home = find_java()
        spec["java"] = None if home is None else str(home)
    return spec


def _mark(server: _Server, text: str) -> str:
    return hmac.new(str(server.kept["owner"]).encode(), text.encode(), "sha256").hexdigest()[:16]


def _is_sparks(order: Order) -> bool:
    return "spark" in (order.mlmodel.get("flavors") or {})


def _java(order: Order) -> list[Check]:
    """Look whether there is a Java for a model that Spark runs."""
    if not _is_sparks(order) or importlib.util.find_spec("pyspark") is None:
        return []  # that pyspark is missing is said of the packages
    from dbml_magics.core.scoring.spark import find_java

    try:
        home = find_java()
    except SparkUnavailable as error:
        install = "".join(f": {line}" for line, _ in error.remedies[:1])
        return [Check("java", f"{error.message.rstrip('.')}{install}", False)]
    return [Check("java", "the one on the path" if home is None else str(home))]


def _wait(server: _Server, name: str, order: Order, say: Say) -> None:
    """Wait until a deployment is ready. Raises DeploymentFailed with the end of its log."""
    patience = Patience(_LOADED_S)
    while True:
        state = server.state()
        each = next((d for d in (state or {}).get("deployments", ()) if d["name"] == name), None)
        if state is None or each is None:
            raise _failed(
                order, "its server ended", _tail(server.folder / "logs" / ".server.log", _LOG_LINES)
            )
        if each["state"] in ("ready", "restarting") and not each["error"]:
            return
        if each["state"] not in ("creating", "updating"):
            lines = _tail(server.folder / "logs" / f"{name}.log", _LOG_LINES)
            raise _failed(order, each["error"] or "its process died too often", lines)
        if not patience.waits(0.05, lambda: say("loading the model")):
            lines = _tail(server.folder / "logs" / f"{name}.log", _LOG_LINES)
            raise _failed(order, f"loading the model took longer than {patience.limit}", lines)


def _failed(order: Order, why: str, lines: list[str]) -> DeploymentFailed:
    return failed(order.model.label, order.name, "local", order.line, why, lines)


# --- what is shown


def _signature(server: _Server | None, deployment: str | None) -> Signature | None:
    """Return the signature that an endpoint's deployments share, or the named one's."""
    state = (
        (server.state() or server.last_state()) if server is not None else {"deployments": [], "traffic": {}}
    )
    asked = [
        each["told"].get("signature")
        for each in state["deployments"]
        if each["told"] and (each["name"] == deployment if deployment else state["traffic"].get(each["name"]))
    ]
    return asked[0] if asked and all(each == asked[0] for each in asked) else None


def _shown(server: _Server) -> Endpoint:
    state = server.state()
    stopped = state is None
    state = state or server.last_state()
    deployments = tuple(
        _deployment(each, state["traffic"], server.folder, stopped=stopped) for each in state["deployments"]
    )
    notes = []
    if stopped:
        again = said_to_reader(Remedy("deploy", "MODEL", to="local", name=server.name))
        notes = [f"its process has ended (a restart of the machine, perhaps); {again} starts it again"]
    return Endpoint(
        name=server.name,
        target="local",
        state="stopped" if stopped else combined_state(deployments),
        uri=f"{server.address}/score",
        auth=str(server.kept.get("auth") or "key"),
        deployments=deployments,
        created=int(server.kept.get("created") or 0),
        key_file=str(server.folder / "key") if server.kept.get("key") else None,
        notes=tuple(notes),
    )


def _deployment(each: Deployed, traffic: Mapping[str, int], folder: Path, *, stopped: bool) -> Deployment:
    from dbml_magics.core.endpoints.checks import likely_cause
    from dbml_magics.core.workspace_uri import masked

    spec = each["told"]
    coming = (each["coming"] or {}).get("model")
    failed_one = (each.get("failed") or {}).get("model")
    error, lines = each["error"], []
    if error:
        lines = [masked(line) for line in _tail(folder / "logs" / f"{each['name']}.log", _LOG_LINES)]
        if failed_one and failed_one != spec.get("model"):
            error = f"the update to {failed_one} failed: {error}"
    return Deployment(
        name=each["name"],
        model=str(spec.get("model") or "?"),
        state="stopped" if stopped else each["state"],
        traffic=int(traffic.get(each["name"], 0)),
        size="" if stopped or not each["memory"] else size(each["memory"] // max(1, len(each["pids"]))),
        count=0 if stopped else int(spec.get("instances") or 1),
        created=int(each["created"]),
        error=error,
        cause=likely_cause([*lines, error]) if error else None,
        log=tuple(lines),
        coming=coming if coming != spec.get("model") else None,
        requests=int(each["requests"]),
    )
