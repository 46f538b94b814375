"""What every stand-in is made of: routes, a log of requests, faults, and a real MLflow server behind.

    class Weather(Service):
        @route("GET", "/cities/(?P<city>[^/]+)")
        def city(self, call: Call) -> Answer:
            return Answer({"name": call.args["city"]})

A route that nobody wrote answers 404 and is remembered in ``unknown``: a test that ends with one there has
met a call of the real client that the stand-in does not know.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import urllib3

from tests.contracts.checker import Checker, Exchange

__all__ = ["Answer", "Call", "Entry", "Refusal", "Service", "Upstream", "route"]


@dataclass
class Call:
    """One request as a route sees it."""

    method: str
    path: str  # unquoted, without the query
    raw_path: str  # as it came, with the query
    query: dict[str, str]
    headers: Message[str, str]
    body: bytes
    args: dict[str, str] = field(default_factory=dict)
    user: str = ""
    routed: bool = False  # a route answered it, not an ordered fault

    @property
    def json(self) -> dict[str, Any]:
        """Return the body as an object; what a GET has in its query counts too."""
        read = json.loads(self.body) if self.body else {}
        return {**self.query, **read} if isinstance(read, dict) else dict(self.query)


@dataclass
class Answer:
    """What a route answers: an object as JSON, text or bytes as they are."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """Return the body as it goes out."""
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class Refusal(Exception):
    """An answer that ends a route at once."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.answer = Answer(body, status, dict(headers or {}))


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    method: str
    path: str
    query: str
    status: int
    user: str
    time: float  # seconds since the epoch
    received: int  # bytes


Handler = Callable[[Any, Call], Answer]
T = TypeVar("T", bound=Handler)


def route(method: str, pattern: str) -> Callable[[T], T]:
    """Mark a method as the route of ``method`` (a regular expression) and a path (likewise, whole)."""

    def mark(handler: T) -> T:
        handler.__dict__.setdefault("routes", []).append((method, pattern))
        return handler

    return mark


class Upstream:
    """The real server behind a stand-in."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._pool = urllib3.PoolManager(maxsize=16, retries=False, timeout=60)

    def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, content_type: str = ""
    ) -> Answer:
        """Forward one request and return what the server answers."""
        headers = {"Content-Type": content_type or "application/json"}
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        got = self._pool.request(method, self.uri + path, body=data, headers=headers)
        kind = got.headers.get("Content-Type", "application/json")
        return Answer(got.data, got.status, {"Content-Type": kind})

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


class Service:
    """A stand-in's server; reached at ``uri`` from the constructor to :meth:`close`."""

    ignore_case = False  # of paths

    contracts: Checker | None = None  # what exchanges are held against

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.latency = 0.0  # seconds before each answer
        self.log: list[Entry] = []
        self.unknown: list[str] = []
        self._faults: list[tuple[re.Pattern[str], list[Refusal]]] = []
        self._lock = threading.RLock()
        self._routes = list(self._find_routes())
        self._server = _Server(self)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.uri = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        # A short poll: it is what the end of a stand-in waits for.
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _find_routes(self) -> Iterable[tuple[re.Pattern[str], re.Pattern[str], Handler]]:
        flags = re.IGNORECASE if self.ignore_case else 0
        for name in dir(type(self)):
            handler = getattr(type(self), name)
            for method, pattern in getattr(handler, "routes", ()):
                yield re.compile(method), re.compile(pattern, flags), handler

    def close(self) -> None:
        """Stop listening, end every connection."""
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()

    # --- what a test asks and orders

    def requests(self, path: str = "", method: str = "") -> list[Entry]:
        """Return the requests whose path holds ``path`` and whose method is ``method`` (expressions)."""
        with self._lock:
            found = list(self.log)
        return [e for e in found if re.search(path, e.path) and re.fullmatch(method or ".*", e.method)]

    def fail(self, path: str, status: int, body: Any, times: int = 1, **headers: str) -> None:
        """Answer the next requests whose path holds ``path`` with an error of the service's."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self._lock:
            self._faults.append((re.compile(path), [Refusal(status, body, named)] * times))

    def reset(self) -> None:
        """Forget the log, the faults and the unknown routes; what the service holds stays."""
        with self._lock:
            self.log.clear()
            self.unknown.clear()
            self._faults.clear()
            self.latency = 0.0

    # --- answering

    def answer(self, call: Call) -> Answer:
        """Answer one request; every outcome is logged."""
        if self.latency:
            time.sleep(self.latency)
        try:
            found = self._answer(call)
        except Refusal as refusal:
            found = refusal.answer
        query = urlsplit(call.raw_path).query
        if self.contracts is not None and call.routed:
            self.contracts.check(
                Exchange(
                    *(call.method, call.path, query, call.body),
                    *(found.status, found.headers, found.data),
                )
            )
        with self._lock:
            self.log.append(
                Entry(call.method, call.path, query, found.status, call.user, time.time(), len(call.body))
            )
        return found

    def _answer(self, call: Call) -> Answer:
        with self._lock:
            for pattern, left in self._faults:
                if left and pattern.search(call.path):
                    raise left.pop()
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(call.path)
            if match and method.fullmatch(call.method):
                call.routed = True
                call.args = {k: v for k, v in match.groupdict().items() if v is not None}
                self.admit(call, handler)
                return handler(self, call)
        with self._lock:
            self.unknown.append(f"{call.method} {call.path}")
        return self.missing(call)

    def admit(self, call: Call, handler: Handler) -> None:
        """Raise Refusal for a caller that may not do this; a stand-in says who may."""

    def missing(self, call: Call) -> Answer:
        """Answer a route that nobody wrote."""
        return Answer({"error_code": "ENDPOINT_NOT_FOUND", "message": f"No API found for {call.path}"}, 404)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, service: Service) -> None:
        self.service = service
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    server: _Server

    def _serve(self) -> None:
        split = urlsplit(self.path)
        call = Call(
            self.command,
            unquote(split.path),
            self.path,
            dict(parse_qsl(split.query, keep_blank_values=True)),
            self.headers,
            self._body(),
        )
        try:
            answer = self.server.service.answer(call)
        except Exception as error:  # a fault of the stand-in's own shall be read in the test's failure
            answer = Answer({"error_code": "INTERNAL_ERROR", "message": f"stand-in: {error!r}"}, 500)
        data = answer.data
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", **answer.headers}
        if "Content-Length" not in headers:
            headers["Content-Length"] = str(len(data))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing; the service keeps a log."""
