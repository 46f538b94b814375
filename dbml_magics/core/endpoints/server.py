"""The process behind a local endpoint: takes requests on 127.0.0.1 and shares them out among deployments.

Each deployment is one process or several (``worker``), so that two versions of a model's own code do not
meet, and one that dies takes no other with it. The server keeps its deployments in ``state.json`` and ends
when its folder is gone; with it end its workers. It imports neither MLflow nor pandas: it is there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dbml_magics.common import private_files
from dbml_magics.core import processes
from dbml_magics.core.endpoints import frames
from dbml_magics.core.endpoints.base import shared
from dbml_magics.core.endpoints.revision import Problem, Revision, shorten_log, write_log
from dbml_magics.core.endpoints.shapes import Deployed, RevisionSpec, ServerState

__all__ = ["BODY_LIMIT", "serve"]

BODY_LIMIT = 64 * 1024**2
"""The largest body in bytes that a local endpoint takes."""
_WATCH_S = 2.0
_CONNECTIONS = 1000  # at a time; the next one is refused
_BODY_S, _PART_S = 60.0, 15.0  # for a whole body, and for the next part of one
_CLOSE = {"Connection": "close"}  # what is still to come of a request is not waited for

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def serve(descriptor: int, folder: str) -> None:
    """Serve an endpoint on a bound socket until SIGTERM, or until its folder is gone."""
    import uvicorn

    from dbml_magics.core.endpoints.patience import Impatient

    endpoint = _Endpoint(Path(folder))
    config = uvicorn.Config(
        endpoint.app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        http=Impatient,
        limit_concurrency=_CONNECTIONS,
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    endpoint.end = lambda: setattr(server, "should_exit", True)
    server.run(sockets=[socket.socket(fileno=descriptor)])


class _Deployment:
    """A name under the endpoint, the revision that answers, and the one that is on its way."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log
        self.current: Revision | None = None
        self.coming: Revision | None = None
        self.failed: Revision | None = None  # the last one that did not become ready
        self.error: str | None = None
        self.created = int(time.time() * 1000)
        self.requests = 0
        self.failures = 0

    @property
    def state(self) -> str:
        if self.coming is not None:
            return "creating" if self.current is None else "updating"
        if self.current is None:
            return "failed"
        return self.current.state

    def shown(self) -> Deployed:
        revision = self.current or self.coming or self.failed
        pids = [i.process.pid for i in revision.instances if i.process is not None] if revision else []
        return {
            "name": self.name,
            "state": self.state,
            "error": self.error,
            "created": self.created,
            "requests": self.requests,
            "failures": self.failures,
            "pids": pids,
            "memory": sum(processes.memory_bytes(pid) for pid in _with_children(pids)),
            "told": _shown(revision),
            "coming": _shown(self.coming),
            "failed": _shown(self.failed),
        }


def _with_children(pids: list[int]) -> list[int]:
    """Return processes with all that come of them: behind a model that Spark runs there is a Java."""
    if not pids or not Path("/proc").is_dir():
        return pids
    children: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(each.name))
    found = list(pids)
    for pid in found:  # it grows as it goes
        found += children.get(pid, [])
    return found


def _shown(revision: Revision | None) -> RevisionSpec:
    """Return a revision's spec without the variables of its environment: some may be secret."""
    if revision is None:
        return {}
    spec = revision.spec.copy()
    spec.pop("environment", None)
    return spec


class _Endpoint:
    """The endpoint: its deployments, their shares of the traffic, and the HTTP that leads to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = json.loads((folder / "endpoint.json").read_text())
        self._key: str | None = kept["key"]
        self._owner: str = kept["owner"]
        self.deployments: dict[str, _Deployment] = {}
        self.traffic: dict[str, int] = {}
        self.end: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()

    def _resume(self) -> None:
        """Restart the deployments that the server's last process had."""
        try:
            state = json.loads((self.folder / "state.json").read_text())
        except (OSError, ValueError):
            return
        self.traffic = {str(name): int(share) for name, share in state["traffic"].items()}
        for each in state["deployments"]:
            if each["told"] and Path(each["told"]["files"]).is_dir():
                # No file has the variables of its environment: it has none until the next deployment.
                spec: RevisionSpec = each["told"].copy()
                spec["share"], spec["variables"] = None, {}
                self._begin(each["name"], spec)

    # --- ASGI

    async def app(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        named: list[str] = []
        extra: dict[str, str] = {}
        try:
            status, content_type, body = await self._answer(scope, headers, receive, named)
        except Problem as problem:
            status, content_type, extra = problem.status, "application/json", problem.headers
            body = json.dumps({"error_code": problem.code, "message": problem.message}).encode()
        if named:
            extra = {**extra, "azureml-model-deployment": named[0]}
            self._note(named[0], scope, status, (time.perf_counter() - began) * 1000, len(body))
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type.encode("latin-1")),
                    (b"content-length", str(len(body)).encode()),
                    *((k.lower().encode(), v.encode("latin-1", "replace")) for k, v in extra.items()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: _Receive, send: _Send) -> None:
        await receive()
        self._resume()
        watch = asyncio.ensure_future(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        revisions = [r for d in self.deployments.values() for r in (d.current, d.coming) if r is not None]
        await asyncio.gather(*(revision.end() for revision in revisions))
        await send({"type": "lifespan.shutdown.complete"})

    async def _watch(self) -> None:
        """End with the folder, and keep the logs from growing without end."""
        while (self.folder / "endpoint.json").exists():
            for deployment in list(self.deployments.values()):
                shorten_log(deployment.log)
            await asyncio.sleep(_WATCH_S)
        self.end()

    def _note(self, name: str, scope: _Message, status: int, milliseconds: float, size: int) -> None:
        deployment = self.deployments.get(name)
        if deployment is None:
            return
        deployment.requests += 1
        deployment.failures += status >= 400
        level = "INFO" if status < 400 else "ERROR"
        write_log(
            deployment.log,
            f"{level} {scope['method']} {scope['path']} {status} {milliseconds:.1f} ms {size} bytes",
        )

    # --- what is asked

    async def _answer(
        self, scope: _Message, headers: dict[str, str], receive: _Receive, named: list[str]
    ) -> tuple[int, str, bytes]:
        # A page of the web whose name is made to point at this machine is not to reach it.
        if headers.get("host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            raise Problem(421, "WRONG_HOST", "this server answers on 127.0.0.1 alone")
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        if path.startswith("/admin"):
            self._only(headers, self._owner)
            return await self._admin(method, path, await _body(headers, receive))
        if method == "GET" and path in ("/", "/ping", "/health"):
            if not any(d.current is not None and d.state == "ready" for d in self.deployments.values()):
                raise Problem(503, "NOT_READY", "no deployment is ready")
            return 200, "text/plain", b"Healthy\n"
        if self._key is not None:
            self._only(headers, self._key)
        if method == "GET" and path == "/version":
            from importlib.metadata import version

            return 200, "text/plain", version("mlflow").encode()
        if method == "GET" and path == "/swagger.json":
            spec = self._chosen(headers).spec
            return 200, "application/json", json.dumps(spec.get("swagger") or {}).encode()
        if path not in ("/score", "/invocations"):
            raise Problem(
                404, "NOT_FOUND", "there are /score, /invocations, /swagger.json, /health and /version"
            )
        if method != "POST":
            raise Problem(405, "USE_POST", f"{path} takes POST", {"Allow": "POST"})
        body = await _body(headers, receive)
        revision = self._chosen(headers, named)  # not before: an update ends one that nobody asks yet
        content_type = headers.get("content-type", "application/json")
        json_asked = content_type.partition(";")[0].strip() == "application/json"
        # Either address takes either format: what the body says counts.
        azureml = json_asked and body.lstrip()[:1] == b"{" and b'"input_data"' in body
        azureml = azureml or (path == "/score" and json_asked and not _is_mlflow(body))
        return await revision.ask(frames.AZUREML if azureml else frames.MLFLOW, content_type, body)

    def _only(self, headers: dict[str, str], key: str) -> None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
            raise Problem(401, "UNAUTHORIZED", "the key is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def _chosen(self, headers: dict[str, str], named: list[str] | None = None) -> Revision:
        """Return the revision that answers: of the deployment that is asked for, else by traffic."""
        name = headers.get("azureml-model-deployment")
        if name is None:
            shares = [(n, share) for n, share in self.traffic.items() if share > 0 and n in self.deployments]
            if not shares:
                raise Problem(503, "NO_TRAFFIC", "no deployment of this endpoint gets traffic")
            names, weights = zip(*shares, strict=True)
            name = names[0] if len(names) == 1 else random.choices(names, weights)[0]
        deployment = self.deployments.get(name)
        if deployment is None:
            raise Problem(404, "NO_SUCH_DEPLOYMENT", f"this endpoint has no deployment {name[:64]}")
        if named is not None:
            named.append(name)
        if deployment.current is None:
            raise Problem(503, "NOT_READY", f"deployment {name} is {deployment.state}", {"Retry-After": "1"})
        return deployment.current

    # --- what its owner asks

    async def _admin(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        parts = [unquote(part) for part in path.split("/")[2:]]
        if method == "PUT" and parts[:1] == ["deployments"] and len(parts) == 2:
            self._begin(parts[1], json.loads(body))
        elif method == "DELETE" and parts[:1] == ["deployments"] and len(parts) == 2:
            await self._remove(parts[1])
        elif method == "PUT" and parts == ["traffic"]:
            self.traffic = {
                str(name): int(share) for name, share in json.loads(body).items() if int(share) > 0
            }
        elif method != "GET" or parts:
            raise Problem(404, "NOT_FOUND", path)
        state = self._state()
        if method != "GET":
            self._keep_state(state)
        return 200, "application/json", json.dumps(state).encode()

    def _state(self) -> ServerState:
        return {
            "traffic": self.traffic,
            "deployments": [deployment.shown() for deployment in self.deployments.values()],
            "memory": processes.memory_bytes(os.getpid()),
        }

    def _keep_state(self, state: ServerState) -> None:
        with contextlib.suppress(OSError):
            private_files.write(self.folder / "state.json", state)

    def _begin(self, name: str, spec: RevisionSpec) -> None:
        log = self.folder / "logs" / f"{name}.log"
        deployment = self.deployments.get(name)
        if deployment is None:
            deployment = self.deployments[name] = _Deployment(name, log)
        if deployment.coming is not None:
            raise Problem(409, "IN_PROGRESS", f"deployment {name} is being brought up already")
        before = deployment.current or deployment.failed
        if spec.pop("inherits", False) and before is not None:
            spec["environment"] = {**before.spec.get("environment", {}), **spec.get("environment", {})}
        deployment.coming, deployment.error = Revision(spec, log), None
        task = asyncio.ensure_future(self._bring_up(deployment, deployment.coming))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self, deployment: _Deployment, revision: Revision) -> None:
        """Put a new revision in the place of the old one once it is ready; a failure leaves the old one."""
        try:
            await revision.begin()
        except Exception as error:
            deployment.coming, deployment.failed = None, revision
            deployment.error = str(error)
        else:
            old, deployment.current, deployment.coming = deployment.current, revision, None
            deployment.failed = None
            share = revision.spec.get("share")
            if share is not None:
                self.traffic = shared(self.traffic, deployment.name, int(share))
            if old is not None:
                self._keep_state(self._state())
                await old.end(patience=30.0)
        finally:
            self._keep_state(self._state())

    async def _remove(self, name: str) -> None:
        deployment = self.deployments.pop(name, None)
        self.traffic.pop(name, None)
        for revision in (deployment.current, deployment.coming) if deployment is not None else ():
            if revision is not None:
                await revision.end(patience=5.0)


def _is_mlflow(body: bytes) -> bool:
    return any(key in body[:200] for key in (b'"dataframe_', b'"instances"', b'"inputs"'))


async def _body(headers: dict[str, str], receive: _Receive) -> bytes:
    """Return the whole body. Raises Problem when it is too large."""
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > BODY_LIMIT:
        raise Problem(413, "TOO_LARGE", f"a request may have {BODY_LIMIT:,} bytes", _CLOSE)
    parts: list[bytes] = []
    size = 0
    until = time.monotonic() + _BODY_S
    while True:
        try:
            left = min(_PART_S, until - time.monotonic())
            message = await asyncio.wait_for(receive(), max(0.0, left))
        except asyncio.TimeoutError:
            raise Problem(408, "TOO_SLOW", "the body did not come in time", _CLOSE) from None
        if message["type"] == "http.disconnect":
            raise Problem(499, "HUNG_UP", "the caller hung up")
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_LIMIT:
            raise Problem(413, "TOO_LARGE", f"a request may have {BODY_LIMIT:,} bytes", _CLOSE)
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
