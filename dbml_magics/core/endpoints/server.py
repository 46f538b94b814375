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

from dbml_magics.core import processes
from dbml_magics.core.endpoints import frames
from dbml_magics.core.endpoints.base import shared
from dbml_magics.core.endpoints.shapes import Deployed, RevisionSpec, ServerState

__all__ = ["BODY_LIMIT", "serve"]

BODY_LIMIT = 64 * 1024**2
"""The largest body in bytes that a local endpoint takes."""

_WAITING = 200  # requests that may wait for a deployment before the next one is refused with 429
_TIMEOUT_S = 60.0
_RESTARTS = 5  # of a deployment whose process died, before it stays down
_CALM_S = 60.0  # a process that lived so long died of something new
_LOG_LIMIT = 10 * 1024**2
_LOG_KEPT = 1024**2
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


class _Problem(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}


class _Channel:
    """One way to a worker, with one request on it at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, kind: int, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        self.writer.write(frames.request(kind, content_type, body))
        return await self.answer()

    async def answer(self) -> tuple[int, str, bytes]:
        head = await self.reader.readexactly(frames.ANSWER.size)
        length, named, status = frames.ANSWER.unpack(head)
        content_type = (await self.reader.readexactly(named)).decode("latin-1")
        return status, content_type, await self.reader.readexactly(length)


class _Instance:
    """One worker process of a revision."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.channels: list[_Channel] = []
        self.died = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def begin(self, spec: RevisionSpec, log: Path) -> None:
        """Start the process and wait until its model is loaded. Raises _Problem."""
        pairs = [socket.socketpair() for _ in range(int(spec["concurrency"]))]
        descriptors = [theirs.fileno() for _, theirs in pairs]
        code = "from dbml_magics.core.endpoints.worker import work; "
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.process = await asyncio.create_subprocess_exec(
                *processes.python(f"{code}work({descriptors!r}, {spec['files']!r})"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **_of_spark(spec), **spec.get("environment", {})},
                cwd=spec["files"],
                pass_fds=descriptors,
            )
        finally:
            os.close(out)
            for _, theirs in pairs:
                theirs.close()
        self.channels = [_Channel(*await asyncio.open_connection(sock=ours)) for ours, _ in pairs]
        try:
            await self.channels[0].answer()
        except (asyncio.IncompleteReadError, OSError):
            await self.process.wait()
            raise _Problem(500, "NOT_LOADED", f"its process ended with {self.process.returncode}") from None

    async def end(self) -> None:
        for channel in self.channels:
            channel.writer.close()
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 3.0)
            except asyncio.TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()


def _of_spark(spec: RevisionSpec) -> dict[str, str]:
    """Return the environment of a model that Spark runs: JAVA_HOME, the loopback address, no Spark UI."""
    if "java" not in spec:
        return {}
    found = {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_SUBMIT_ARGS": "--conf spark.ui.enabled=false pyspark-shell",
    }
    return {**found, **({"JAVA_HOME": spec["java"]} if spec["java"] else {})}


class _Revision:
    """One version of a deployment: a model, and the processes that serve it."""

    def __init__(self, spec: RevisionSpec, log: Path) -> None:
        self.spec, self.log = spec, log
        self.instances: list[_Instance] = []
        self.idle: asyncio.Queue[tuple[_Instance, _Channel]] = asyncio.Queue()
        self.waiting = 0
        self.busy = 0
        self.over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Start its processes and wait until all are ready. Raises _Problem; none is left behind then."""
        self.instances = [_Instance() for _ in range(int(self.spec["instances"]))]
        done = await asyncio.gather(
            *(i.begin(self.spec, self.log) for i in self.instances), return_exceptions=True
        )
        for failure in done:
            if isinstance(failure, BaseException):
                await self.end()
                raise failure
        for instance in self.instances:
            self._offer(instance)
            self._watch(instance)

    def _offer(self, instance: _Instance) -> None:
        for channel in instance.channels:
            self.idle.put_nowait((instance, channel))

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch(self, instance: _Instance) -> None:
        self._keep(self._restart(instance))

    async def _restart(self, instance: _Instance) -> None:
        """Start a process again that died by itself, as a container would be."""
        while not self.over and instance.process is not None:
            began = time.monotonic()
            await instance.process.wait()
            if self.over:
                return
            instance.died = 1 if time.monotonic() - began > _CALM_S else instance.died + 1
            _log(self.log, f"ERROR the process ended with {instance.process.returncode}")
            if instance.died > _RESTARTS:
                _log(self.log, f"ERROR it ended {instance.died} times and is not started again")
                return
            await asyncio.sleep(0.1 * 2**instance.died)
            with contextlib.suppress(_Problem):
                await instance.begin(self.spec, self.log)
                self._offer(instance)

    @property
    def state(self) -> str:
        if any(instance.alive for instance in self.instances):
            return "ready"
        return "failed" if all(i.died > _RESTARTS for i in self.instances) else "restarting"

    async def ask(self, kind: int, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        """Return a worker's answer. Raises _Problem."""
        if self.waiting >= _WAITING:
            raise _Problem(
                429, "TOO_MANY_REQUESTS", "too many requests wait for this deployment", {"Retry-After": "1"}
            )
        seconds = float(self.spec["timeout_s"])
        until = time.monotonic() + seconds
        instance, channel = await self._channel(until)
        self.busy += 1
        asked = asyncio.ensure_future(channel.ask(kind, content_type, body))
        try:
            answer = await asyncio.wait_for(asyncio.shield(asked), max(0.0, until - time.monotonic()))
        except asyncio.TimeoutError:
            self._keep(self._give_back_later(asked, instance, channel))
            raise _Problem(408, "TIMED_OUT", f"the model took longer than {seconds:g} s") from None
        except (
            asyncio.CancelledError
        ):  # the caller hung up: the model goes on, and nobody else gets its answer
            self._keep(self._give_back_later(asked, instance, channel))
            raise
        except (asyncio.IncompleteReadError, OSError):
            self.busy -= 1
            raise _Problem(
                502, "DEPLOYMENT_DIED", "the deployment's process ended while it answered"
            ) from None
        self.busy -= 1
        self.idle.put_nowait((instance, channel))
        return answer

    async def _channel(self, until: float) -> tuple[_Instance, _Channel]:
        with contextlib.suppress(asyncio.QueueEmpty):
            found = self.idle.get_nowait()
            if found[0].alive and found[1] in found[0].channels:
                return found
        self.waiting += 1
        try:
            while True:
                if self.state == "failed":
                    raise _Problem(503, "DEPLOYMENT_DOWN", "the deployment's process has died too often")
                left = until - time.monotonic()
                try:
                    found = await asyncio.wait_for(self.idle.get(), min(left, 1.0))
                except asyncio.TimeoutError:
                    if time.monotonic() >= until:
                        raise _Problem(
                            503, "BUSY", "no process of the deployment was free in time", {"Retry-After": "1"}
                        ) from None
                    continue
                if found[0].alive and found[1] in found[0].channels:
                    return found
        finally:
            self.waiting -= 1

    async def _give_back_later(
        self, asked: asyncio.Future[tuple[int, str, bytes]], instance: _Instance, channel: _Channel
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await asked
            self.idle.put_nowait((instance, channel))
        self.busy -= 1

    async def end(self, patience: float = 0.0) -> None:
        """End its processes, after what they are answering, for as long as ``patience`` seconds."""
        self.over = True
        until = time.monotonic() + patience
        while self.busy + self.waiting and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await asyncio.gather(*(instance.end() for instance in self.instances))


class _Deployment:
    """A name under the endpoint, the revision that answers, and the one that is on its way."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log
        self.current: _Revision | None = None
        self.coming: _Revision | None = None
        self.failed: _Revision | None = None  # the last one that did not become ready
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


def _shown(revision: _Revision | None) -> RevisionSpec:
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
        except _Problem as problem:
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
                _shorten(deployment.log)
            await asyncio.sleep(_WATCH_S)
        self.end()

    def _note(self, name: str, scope: _Message, status: int, milliseconds: float, size: int) -> None:
        deployment = self.deployments.get(name)
        if deployment is None:
            return
        deployment.requests += 1
        deployment.failures += status >= 400
        level = "INFO" if status < 400 else "ERROR"
        _log(
            deployment.log,
            f"{level} {scope['method']} {scope['path']} {status} {milliseconds:.1f} ms {size} bytes",
        )

    # --- what is asked

    async def _answer(
        self, scope: _Message, headers: dict[str, str], receive: _Receive, named: list[str]
    ) -> tuple[int, str, bytes]:
        # A page of the web whose name is made to point at this machine is not to reach it.
        if headers.get("host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            raise _Problem(421, "WRONG_HOST", "this server answers on 127.0.0.1 alone")
        path, method = scope["path"].rstrip("/") or "/", scope["method"]
        if path.startswith("/admin"):
            self._only(headers, self._owner)
            return await self._admin(method, path, await _body(headers, receive))
        if method == "GET" and path in ("/", "/ping", "/health"):
            if not any(d.current is not None and d.state == "ready" for d in self.deployments.values()):
                raise _Problem(503, "NOT_READY", "no deployment is ready")
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
            raise _Problem(
                404, "NOT_FOUND", "there are /score, /invocations, /swagger.json, /health and /version"
            )
        if method != "POST":
            raise _Problem(405, "USE_POST", f"{path} takes POST", {"Allow": "POST"})
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
            raise _Problem(401, "UNAUTHORIZED", "the key is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def _chosen(self, headers: dict[str, str], named: list[str] | None = None) -> _Revision:
        """Return the revision that answers: of the deployment that is asked for, else by traffic."""
        name = headers.get("azureml-model-deployment")
        if name is None:
            shares = [(n, share) for n, share in self.traffic.items() if share > 0 and n in self.deployments]
            if not shares:
                raise _Problem(503, "NO_TRAFFIC", "no deployment of this endpoint gets traffic")
            names, weights = zip(*shares, strict=True)
            name = names[0] if len(names) == 1 else random.choices(names, weights)[0]
        deployment = self.deployments.get(name)
        if deployment is None:
            raise _Problem(404, "NO_SUCH_DEPLOYMENT", f"this endpoint has no deployment {name[:64]}")
        if named is not None:
            named.append(name)
        if deployment.current is None:
            raise _Problem(503, "NOT_READY", f"deployment {name} is {deployment.state}", {"Retry-After": "1"})
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
            raise _Problem(404, "NOT_FOUND", path)
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
        temporary = self.folder / f"state.{os.getpid()}"
        with (
            contextlib.suppress(OSError),
            os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out,
        ):
            json.dump(state, out)
            os.replace(temporary, self.folder / "state.json")

    def _begin(self, name: str, spec: RevisionSpec) -> None:
        log = self.folder / "logs" / f"{name}.log"
        deployment = self.deployments.get(name)
        if deployment is None:
            deployment = self.deployments[name] = _Deployment(name, log)
        if deployment.coming is not None:
            raise _Problem(409, "IN_PROGRESS", f"deployment {name} is being brought up already")
        before = deployment.current or deployment.failed
        if spec.pop("inherits", False) and before is not None:
            spec["environment"] = {**before.spec.get("environment", {}), **spec.get("environment", {})}
        deployment.coming, deployment.error = _Revision(spec, log), None
        task = asyncio.ensure_future(self._bring_up(deployment, deployment.coming))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self, deployment: _Deployment, revision: _Revision) -> None:
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
    """Return the whole body. Raises _Problem when it is too large."""
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > BODY_LIMIT:
        raise _Problem(413, "TOO_LARGE", f"a request may have {BODY_LIMIT:,} bytes", _CLOSE)
    parts: list[bytes] = []
    size = 0
    until = time.monotonic() + _BODY_S
    while True:
        try:
            left = min(_PART_S, until - time.monotonic())
            message = await asyncio.wait_for(receive(), max(0.0, left))
        except asyncio.TimeoutError:
            raise _Problem(408, "TOO_SLOW", "the body did not come in time", _CLOSE) from None
        if message["type"] == "http.disconnect":
            raise _Problem(499, "HUNG_UP", "the caller hung up")
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_LIMIT:
            raise _Problem(413, "TOO_LARGE", f"a request may have {BODY_LIMIT:,} bytes", _CLOSE)
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _log(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        out = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(out, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())
        finally:
            os.close(out)


def _shorten(path: Path) -> None:
    """Keep the end of a log that has grown too long; its writers append, so they go on behind it."""
    with contextlib.suppress(OSError):
        size = path.stat().st_size
        if size <= _LOG_LIMIT:
            return
        with path.open("rb+") as log:
            log.seek(size - _LOG_KEPT)
            kept = log.read().partition(b"\n")[2]
            log.seek(0)
            log.write(kept)
            log.truncate()
