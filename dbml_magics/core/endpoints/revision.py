"""A revision of a local deployment: a model, its worker processes, and the requests shared out among them.

Each process is a ``worker`` with several channels, so that a model's own code meets no other's, and one that
dies takes no other with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable
from pathlib import Path

from dbml_magics.core import processes
from dbml_magics.core.endpoints import frames
from dbml_magics.core.endpoints.shapes import RevisionSpec

_WAITING = 200  # requests that may wait for a deployment before the next one is refused with 429
_RESTARTS = 5  # of a deployment whose process died, before it stays down
_CALM_S = 60.0  # a process that lived so long died of something new
_LOG_LIMIT = 10 * 1024**2
_LOG_KEPT = 1024**2


class Problem(Exception):
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
        """Start the process and wait until its model is loaded. Raises Problem."""
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
            raise Problem(500, "NOT_LOADED", f"its process ended with {self.process.returncode}") from None

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


class Revision:
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
        """Start its processes and wait until all are ready. Raises Problem; none is left behind then."""
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
            write_log(self.log, f"ERROR the process ended with {instance.process.returncode}")
            if instance.died > _RESTARTS:
                write_log(self.log, f"ERROR it ended {instance.died} times and is not started again")
                return
            await asyncio.sleep(0.1 * 2**instance.died)
            with contextlib.suppress(Problem):
                await instance.begin(self.spec, self.log)
                self._offer(instance)

    @property
    def state(self) -> str:
        """Return ready, restarting or failed."""
        if any(instance.alive for instance in self.instances):
            return "ready"
        return "failed" if all(i.died > _RESTARTS for i in self.instances) else "restarting"

    async def ask(self, kind: int, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        """Return a worker's answer. Raises Problem."""
        if self.waiting >= _WAITING:
            raise Problem(
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
            raise Problem(408, "TIMED_OUT", f"the model took longer than {seconds:g} s") from None
        except (
            asyncio.CancelledError
        ):  # the caller hung up: the model goes on, and nobody else gets its answer
            self._keep(self._give_back_later(asked, instance, channel))
            raise
        except (asyncio.IncompleteReadError, OSError):
            self.busy -= 1
            raise Problem(
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
                    raise Problem(503, "DEPLOYMENT_DOWN", "the deployment's process has died too often")
                left = until - time.monotonic()
                try:
                    found = await asyncio.wait_for(self.idle.get(), min(left, 1.0))
                except asyncio.TimeoutError:
                    if time.monotonic() >= until:
                        raise Problem(
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


def write_log(path: Path, text: str) -> None:
    """Append a line to a deployment's log, where the disk takes it."""
    with contextlib.suppress(OSError):
        out = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(out, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())
        finally:
            os.close(out)


def shorten_log(path: Path) -> None:
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
