"""The proxy itself: forwards HTTP/1.1 to a server and breaks what it is told to. Standard library only.

Run as a script by :mod:`tests.infra.proxy`, which documents the faults. Orders come as one JSON object a line
on standard input, answers go to standard output; the end of standard input ends the process. With the file of
a certificate as a second argument it speaks TLS to its clients, never to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import re
import socket
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

# A file beside this one: the process runs isolated, so that it cannot import the package by mistake.
_spec = importlib.util.spec_from_file_location(
    "service_limits", Path(__file__).with_name("service_limits.py")
)
assert _spec is not None
assert _spec.loader is not None
service_limits: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(service_limits)

HOST = "127.0.0.1"
CHUNK = 1 << 18
BUFFERED = {"half", "limit"}  # faults that look into the request's body
ENDING = {"hang", "reset", "status", "missing"}  # faults that answer, or do not, in the service's place
AFTER = {"cut", "drop"}  # faults that strike once the service has answered


@dataclass
class Head:
    """The first line and the headers of a request or an answer."""

    first: tuple[str, str, str]
    headers: list[tuple[str, str]]
    raw: bytes

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def length(self) -> int:
        return int(self.get("content-length") or 0)

    @property
    def chunked(self) -> bool:
        return "chunked" in (self.get("transfer-encoding") or "").lower()


@dataclass
class Fault:
    """One rule: what to do to which requests, how often, until when."""

    id: int
    kind: str
    path: re.Pattern[str]
    method: re.Pattern[str]
    times: int | None
    over: float | None  # time.monotonic()
    options: dict[str, Any]
    hits: int = 0
    cleared: asyncio.Event = field(default_factory=asyncio.Event)
    enforcer: Any = None  # of limits
    rates: Any = None  # of a service's rates
    recent: list[float] = field(default_factory=list)  # for one rate for all

    def applies(self, method: str, path: str) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.over is not None and time.monotonic() >= self.over:
            return False
        return bool(self.path.search(path) and self.method.fullmatch(method))


class Broken(Exception):
    """The connection ends here; ``reset`` tells whether with a reset."""

    def __init__(self, reset: bool = True) -> None:
        self.reset = reset


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read up to the empty line; None when the peer closed the connection instead."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = raw[:-4].decode("latin-1").split("\r\n")
    first = lines[0].split(" ", 2)
    headers = [
        (name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])
    ]
    return Head(
        (first[0], first[1] if len(first) > 1 else "", first[2] if len(first) > 2 else ""), headers, raw
    )


async def body_of(
    reader: asyncio.StreamReader, head: Head, *, until_closed: bool = False
) -> AsyncIterator[bytes]:
    """Yield a body's bytes as they stand on the wire, chunk headers included, without gathering them."""
    if head.chunked:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line
            while size > 0:
                piece = await reader.read(min(size, CHUNK))
                if not piece:
                    raise Broken
                size -= len(piece)
                yield piece
            yield await reader.readuntil(b"\r\n")
            if line.split(b";")[0].strip(b"0 \r\n") == b"":
                return
    elif head.get("content-length") is not None:
        left = head.length
        while left > 0:
            piece = await reader.read(min(left, CHUNK))
            if not piece:
                raise Broken
            left -= len(piece)
            yield piece
    elif until_closed:
        while piece := await reader.read(CHUNK):
            yield piece


def plain_body(head: Head, raw: bytes) -> bytes:
    """Return a gathered body without the chunk headers."""
    if not head.chunked:
        return raw
    body, rest = b"", raw
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body, rest = body + rest[:size], rest[size + 2 :]
        if size == 0:
            break
    return body


def with_body(head: Head, body: bytes) -> bytes:
    """Return the request with another body."""
    kept = [(k, v) for k, v in head.headers if k.lower() not in {"content-length", "transfer-encoding"}]
    lines = [" ".join(head.first), *(f"{k}: {v}" for k, v in kept), f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def answer_bytes(status: int, body: bytes, headers: dict[str, str]) -> bytes:
    """Return an answer of the proxy's own."""
    lines = [f"HTTP/1.1 {status} Fault", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def error_body(code: str, message: str) -> bytes:
    return json.dumps({"error_code": code, "message": message}).encode()


def halves(raw: bytes) -> tuple[bytes, int]:
    """Return the request with the first half of each of its lists, and how many items are left out."""
    asked = json.loads(raw)
    left_out = 0
    for name in ("metrics", "params", "tags"):
        items = asked.get(name) or []
        keep = (len(items) + 1) // 2
        left_out += len(items) - keep
        if items:
            asked[name] = items[:keep]
    return json.dumps(asked).encode(), left_out


class Proxy:
    """Everything of one proxy: its listening socket, its faults, its log."""

    def __init__(self, upstream: str, certificate: str | None = None) -> None:
        self.upstream = upstream
        self.tls: ssl.SSLContext | None = None
        if certificate is not None:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(certificate)
        self.faults: list[Fault] = []
        self.log: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)
        self.authorization: str | None = None
        self.keep_bodies: re.Pattern[str] | None = None
        self.connections: set[asyncio.StreamWriter] = set()
        self.resetting = False  # accept, then reset
        self.server: asyncio.Server | None = None
        # Bound but never listening: keeps the port ours while connections are to be refused.
        self.holder = self._socket(0)
        self.port: int = self.holder.getsockname()[1]

    @staticmethod
    def _socket(port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((HOST, port))
        return bound

    # Orders

    async def listen(self) -> dict[str, Any]:
        self.resetting = False
        if self.server is None:
            self.server = await asyncio.start_server(
                self.connection, sock=self._socket(self.port), limit=1 << 20, backlog=256, ssl=self.tls
            )
        return {"port": self.port}

    async def refuse(self, how: str) -> dict[str, Any]:
        if how == "closed":
            if self.server is not None:
                self.server.close()
                self.server = None
        else:
            self.resetting = True
        for writer in list(self.connections):
            abort(writer)
        return {}

    async def fault(
        self,
        kind: str,
        path: str,
        method: str,
        times: int | None,
        seconds: float | None,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        over = None if seconds is None else time.monotonic() + seconds
        made = Fault(next(self.numbers), kind, re.compile(path), re.compile(method), times, over, options)
        if kind == "limit":
            made.enforcer = service_limits.Enforcer(options["limits"], options["wording"])
        elif kind == "rate" and "rates" in options:
            made.rates = service_limits.RateEnforcer(options["rates"])
        self.faults.append(made)
        return {"id": made.id}

    async def hits(self, fault: int) -> dict[str, Any]:
        return {"hits": next((each.hits for each in self.faults if each.id == fault), 0)}

    async def clear(self, fault: int | None = None) -> dict[str, Any]:
        for each in list(self.faults):
            if fault is None or each.id == fault:
                self.faults.remove(each)
                each.cleared.set()
        if fault is None:
            self.authorization = None
            self.keep_bodies = None
            await self.listen()
        return {}

    async def require(self, authorization: str | None) -> dict[str, Any]:
        self.authorization = authorization
        return {}

    async def bodies(self, path: str | None) -> dict[str, Any]:
        self.keep_bodies = None if path is None else re.compile(path)
        return {}

    async def requests(self, since: int) -> dict[str, Any]:
        return {"requests": [entry for entry in self.log if entry["number"] > since]}

    async def forget(self) -> dict[str, Any]:
        self.log.clear()
        return {}

    async def target(self, upstream: str) -> dict[str, Any]:
        self.upstream = upstream
        return {}

    # Traffic

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.resetting:
            abort(writer)
            return
        self.connections.add(writer)
        link = Upstream(self)
        try:
            while (head := await read_head(reader)) is not None:
                if not await Exchange(self, reader, writer, link, head).run():
                    break
        except Broken as broken:
            if broken.reset:
                abort(writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            abort(writer)
        finally:
            self.connections.discard(writer)
            link.close()
            writer.close()


class Upstream:
    """The connection to the service that belongs to one connection of a client's."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.address = ""

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the streams, connected anew when the service closed them or the target changed."""
        stale = self.reader is None or self.reader.at_eof() or self.address != self.proxy.upstream
        if stale or self.reader is None or self.writer is None:
            self.close()
            self.address = self.proxy.upstream
            host, _, port = self.address.partition(":")
            try:
                self.reader, self.writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
            except OSError:
                raise Broken from None
        return self.reader, self.writer

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: Upstream,
        head: Head,
    ) -> None:
        self.proxy, self.reader, self.writer, self.link, self.head = proxy, reader, writer, link, head
        target = urlsplit(head.first[1])
        self.method, self.path = head.first[0], target.path
        self.begun = time.monotonic()
        self.entry: dict[str, Any] = {
            "number": next(proxy.numbers),
            "method": self.method,
            "path": target.path,
            "query": target.query,
            "status": None,
            "received": 0,
            "answered": 0,
            "time": time.time(),
            "seconds": 0.0,
            "fault": None,
            "authorization": head.get("authorization"),
            "body": None,
        }
        self.creating: Any = None  # who counts the tags of the run that this request makes
        proxy.log.append(self.entry)

    async def run(self) -> bool:
        """Forward the request and its answer; returns whether the connection may be used again."""
        try:
            return await self._run()
        finally:
            self.entry["seconds"] = round(time.monotonic() - self.begun, 4)

    async def _run(self) -> bool:
        delays: list[Fault] = []
        struck: Fault | None = None
        for fault in self.proxy.faults:
            if not fault.applies(self.method, self.path):
                continue
            if fault.kind == "delay":
                fault.hits += 1
                delays.append(fault)
            elif struck is None:
                struck = await self._strikes(fault)
        pause = sum(fault.options["total"] for fault in delays) / 2
        if struck is not None:
            struck.hits += 1
            self.entry["fault"] = struck.kind
        required = self.proxy.authorization
        kept = await self._gathered(struck)
        if pause:
            await asyncio.sleep(pause)
        if required is not None and self.entry["authorization"] != required:
            self.entry["fault"] = "unauthorized"
            return await self._answer(
                401, error_body("UNAUTHENTICATED", "Credential missing or wrong."), {}, pause, kept
            )
        if struck is not None and struck.kind in ENDING:
            return await self._instead(struck, pause, kept)
        if struck is not None and struck.kind == "rate":
            headers = {"Retry-After": str(struck.options["retry_after"]), "Content-Type": "application/json"}
            return await self._answer(
                429, error_body("REQUEST_LIMIT_EXCEEDED", "Too many requests."), headers, pause, kept
            )
        if struck is not None and struck.kind == "limit":
            message = struck.options["complaint"]
            body = error_body(service_limits.code_of(message), message)
            return await self._answer(400, body, {"Content-Type": "application/json"}, pause, kept)
        if struck is not None and struck.kind == "half":
            await self._half(kept or b"")
            status = struck.options["status"]
            body = b"{}" if status == 200 else error_body("INTERNAL_ERROR", "half of it was written")
            return await self._answer(status, body, {"Content-Type": "application/json"}, pause, kept)
        return await self._forward(struck, pause, kept)

    async def _strikes(self, fault: Fault) -> Fault | None:
        """Return the fault if it befalls this request; limits and rates look closer than at the path."""
        if fault.kind == "rate":
            if fault.rates is not None:
                wait = fault.rates.retry_after(self.method, self.path)
                fault.options["retry_after"] = wait
                return None if wait is None else fault
            now = time.monotonic()
            fault.recent = [moment for moment in fault.recent if moment > now - 1]
            if len(fault.recent) < fault.options["per_second"]:
                fault.recent.append(now)
                return None
        elif fault.kind == "limit":
            if self.method == "GET":
                asked = parse_qs(self.entry["query"]).get("max_results", ["0"])[0]
                complaint = fault.enforcer.page_complaint(int(asked))
            else:
                body = await self._gathered(fault)
                complaint = fault.enforcer.complaint(self.path, body or b"")
            if complaint is None:
                if self.path.endswith("/runs/create"):
                    self.creating = fault.enforcer
                return None
            fault.options["complaint"] = complaint
        elif fault.options.get("content") is not None:
            body = await self._gathered(fault)
            if not re.search(fault.options["content"].encode(), body or b""):
                return None
        return fault

    async def _gathered(self, fault: Fault | None) -> bytes | None:
        """Gather the request's body where somebody wants to look into it; None where it streams through."""
        wanted = fault is not None and (fault.kind in BUFFERED or fault.options.get("content") is not None)
        keep = self.proxy.keep_bodies
        if not wanted and not (keep is not None and keep.search(self.path)):
            return getattr(self, "_body", None)
        if not hasattr(self, "_body"):
            raw = b"".join([piece async for piece in body_of(self.reader, self.head)])
            self._body = plain_body(self.head, raw)
            self.entry["received"] = len(self._body)
        if keep is not None and keep.search(self.path):
            self.entry["body"] = self._body.decode("utf-8", "replace")
        return self._body

    async def _discard(self, kept: bytes | None) -> None:
        if kept is None:
            async for piece in body_of(self.reader, self.head):
                self.entry["received"] += len(piece)

    async def _answer(
        self, status: int, body: bytes, headers: dict[str, str], pause: float, kept: bytes | None
    ) -> bool:
        await self._discard(kept)
        if pause:
            await asyncio.sleep(pause)
        self.entry["status"] = status
        self.entry["answered"] = len(body)
        self.writer.write(answer_bytes(status, b"" if self.method == "HEAD" else body, headers))
        await self.writer.drain()
        return True

    async def _instead(self, fault: Fault, pause: float, kept: bytes | None) -> bool:
        if fault.kind == "reset":
            raise Broken
        if fault.kind == "hang":
            await self._discard(kept)
            gone = asyncio.ensure_future(self.reader.read(1))
            cleared = asyncio.ensure_future(fault.cleared.wait())
            await asyncio.wait({gone, cleared}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            cleared.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
            raise Broken
        options = fault.options
        return await self._answer(
            options["status"], options["body"].encode(), options["headers"], pause, kept
        )

    async def _half(self, body: bytes) -> None:
        changed, left_out = halves(body)
        self.entry["left_out"] = left_out
        upstream, service = await self.link.open()
        service.write(with_body(self.head, changed))
        await service.drain()
        answer = await self._head_of_answer(upstream)
        async for _ in self._body_of_answer(upstream, answer):
            pass

    async def _head_of_answer(self, upstream: asyncio.StreamReader) -> Head:
        answer = await read_head(upstream)
        while answer is not None and answer.first[1] == "100":
            answer = await read_head(upstream)
        if answer is None:
            raise Broken  # the service died while it was answering
        return answer

    def _body_of_answer(self, upstream: asyncio.StreamReader, answer: Head) -> AsyncIterator[bytes]:
        if self.method == "HEAD" or answer.first[1] in {"204", "304"}:
            return body_of(upstream, Head(answer.first, [], b""))
        return body_of(upstream, answer, until_closed=True)

    async def _forward(self, struck: Fault | None, pause: float, kept: bytes | None) -> bool:
        upstream, service = await self.link.open()
        if (self.head.get("expect") or "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if kept is not None:
            service.write(with_body(self.head, kept))
        else:
            service.write(self.head.raw)
            async for piece in body_of(self.reader, self.head):
                self.entry["received"] += len(piece)
                service.write(piece)
                await service.drain()
        await service.drain()
        answer = await self._head_of_answer(upstream)
        self.entry["status"] = int(answer.first[1])
        body = self._body_of_answer(upstream, answer)
        if self.creating is not None and self.entry["status"] == 200:
            raw = b"".join([piece async for piece in body])
            self.creating.note_created(kept or b"", plain_body(answer, raw))
            body = _again(raw)
        if struck is not None and struck.kind in AFTER:
            whole = b"".join([piece async for piece in body])
            if struck.kind == "cut":
                self.writer.write(answer.raw + whole[: len(whole) // 2])
                await self.writer.drain()
            self.entry["status"] = None
            raise Broken(reset=struck.kind == "drop")
        if pause:
            await asyncio.sleep(pause)
        self.writer.write(answer.raw)
        async for piece in body:
            self.entry["answered"] += len(piece)
            self.writer.write(piece)
            await self.writer.drain()
        await self.writer.drain()
        ends = (
            "close" in (answer.get("connection") or "").lower() + (self.head.get("connection") or "").lower()
        )
        endless = (
            answer.get("content-length") is None
            and not answer.chunked
            and answer.first[1] not in {"204", "304"}
        )
        return not ends and not (endless and self.method != "HEAD")


async def _again(raw: bytes) -> AsyncIterator[bytes]:
    """Yield a body that was gathered."""
    yield raw


def abort(writer: asyncio.StreamWriter) -> None:
    """Close the connection with a reset, as a crashed or vanished peer would."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main() -> None:
    proxy = Proxy(*sys.argv[1:])
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)

    def answer(value: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    answer(await proxy.listen())
    while line := await orders.readline():
        asked = json.loads(line)
        answer(await getattr(proxy, asked.pop("do"))(**asked))
    # At once: connections that are still open would each be cancelled with a traceback.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
