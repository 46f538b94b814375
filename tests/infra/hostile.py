"""A server that lies, in front of a real one or by itself: what no workspace of ours would answer.

    with Hostile(server.uri) as hostile:
        rule = hostile.answer(WEB_PAGE, path="runs/log-batch$")       # in the service's place
        hostile.answer(redirect("https://login.example/"), method="PUT", times=1)
        hostile.rewrite(locations("file:///home/me"), path="runs/get$")  # the service's own answer, changed
        hostile.rewrite(endless_pages(), path="search$")
        hostile.answer(echo, path="runs/create$")                     # the caller's own words back to it
        rule.hits

    with Hostile() as elsewhere:    # no service behind it: it takes everything and notes who sent what
        elsewhere.secrets()

The newest rule that fits strikes. ``WRONG`` names answers that are no MLflow server's, for tests that try
them all. It runs in the test's own process, so a rule may be any function.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = [
    "EMPTY",
    "ERROR_IN_200",
    "HOLLOW",
    "WEB_PAGE",
    "WRONG",
    "Answer",
    "Hostile",
    "Request",
    "echo",
    "endless_pages",
    "json_answer",
    "locations",
    "redirect",
]

_PLACES = ("artifact_uri", "artifact_location", "source", "storage_location")
_SECRETS = ("authorization", "cookie", "proxy-authorization", "x-databricks-org-id")
_PER_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    target: str  # path and query; of a client that takes this for its proxy, the whole address
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        """Return the path alone."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        """Return the query's parameters."""
        return parse_qs(urlsplit(self.target).query)


@dataclass(frozen=True)
class Answer:
    """One answer to be given."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Answering = Callable[[Request], Answer]
Rewriting = Callable[[Request, Answer], Answer]


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return an answer of JSON."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def redirect(to: str, status: int = 302) -> Answer:
    """Return an answer that sends the caller elsewhere."""
    return Answer(status, b"", {"Location": to})


WEB_PAGE = Answer(200, b"<!doctype html><html><title>Sign in</title></html>", {"Content-Type": "text/html"})
EMPTY = Answer(200, b"", {"Content-Type": "application/json"})
HOLLOW = json_answer({})
ERROR_IN_200 = json_answer({"error_code": "INTERNAL_ERROR", "message": "the session is over"})
WRONG: dict[str, Answer] = {
    "a web page": WEB_PAGE,
    "nothing": EMPTY,
    "an error in a 200": ERROR_IN_200,
    "another service's JSON": json_answer({"status": "ok", "login": "https://login.example/"}),
    "a list": json_answer([]),
    "a text": json_answer("OK"),
    "plain words": Answer(200, b"200 OK", {"Content-Type": "text/plain"}),
    "half an object": Answer(200, b'{"run": {"info":', {"Content-Type": "application/json"}),
    "201 with a web page": Answer(201, WEB_PAGE.body, WEB_PAGE.headers),
    "202 and nothing": Answer(202),
    "204 from a gateway": Answer(204),
    **{f"a redirect ({status})": redirect("/sign-in", status) for status in (301, 302, 303, 307, 308)},
}
"""Answers by name that no MLflow server gives; a redirect leads to what answers 200 to anything."""


def echo(request: Request) -> Answer:
    """Refuse in the caller's own words: its credentials, path and body stand in the message."""
    said = f"{request.method} {request.target} {dict(request.headers)} {request.body[:500]!r}"
    return json_answer({"error_code": "INVALID_PARAMETER_VALUE", "message": said}, 400)


def locations(place: str, *, keep_end: bool = False) -> Rewriting:
    """Rewrite every place of files in an answer to ``place``, with the run's own end if so wished."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(each) for each in value]
        if not isinstance(value, dict):
            return value
        found = {key: changed(each) for key, each in value.items()}
        for key in _PLACES:
            if isinstance(found.get(key), str):
                end = "/".join(found[key].rsplit("/", 3)[1:])
                found[key] = f"{place.rstrip('/')}/{end}" if keep_end else place
        return found

    return _of_json(lambda _, payload: changed(payload))


def endless_pages(token: str = "once more") -> Rewriting:
    """Say of every page of a listing that another one follows, always by the same token."""
    return _of_json(
        lambda _, payload: {**payload, "next_page_token": token} if isinstance(payload, dict) else payload
    )


def _of_json(change: Callable[[Request, Any], Any]) -> Rewriting:
    def rewritten(request: Request, answer: Answer) -> Answer:
        try:
            payload = json.loads(answer.body)
        except ValueError:
            return answer
        body = json.dumps(change(request, payload)).encode()
        return Answer(answer.status, body, answer.headers)

    return rewritten


@dataclass
class Rule:
    """What is answered to which requests, and how often it was."""

    path: re.Pattern[str]
    method: re.Pattern[str]
    answer: Answering | None
    rewrite: Rewriting | None
    left: int | None
    hits: int = 0
    cleared: bool = False

    def clear(self) -> None:
        """End the rule."""
        self.cleared = True

    def __enter__(self) -> Rule:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


class Hostile:
    """The server; with a certificate (a PEM file of a key and its chain) it speaks TLS to its clients."""

    def __init__(self, upstream: str | None = None, certificate: Path | None = None) -> None:
        self.upstream = upstream
        self.requests: list[Request] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hostile = self
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def netloc(self) -> str:
        """Return its host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def uri(self) -> str:
        """Return its address."""
        return f"{self._scheme}://{self.netloc}"

    def answer(
        self, answer: Answer | Answering, *, path: str = "", method: str = ".*", times: int | None = None
    ) -> Rule:
        """Answer requests (regular expressions, searched for in the path) in the service's place."""
        made = answer if callable(answer) else (lambda _: answer)
        return self._rule(Rule(re.compile(path), re.compile(method), made, None, times))

    def rewrite(
        self, rewrite: Rewriting, *, path: str = "", method: str = ".*", times: int | None = None
    ) -> Rule:
        """Let the service answer, and change what it says."""
        return self._rule(Rule(re.compile(path), re.compile(method), None, rewrite, times))

    def _rule(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.insert(0, rule)
        return rule

    def clear(self) -> None:
        """End every rule and forget every request."""
        with self._lock:
            self._rules, self.requests = [], []

    def count(self, path: str = "", method: str = ".*") -> int:
        """Return how many requests came."""
        return sum(
            1 for r in list(self.requests) if re.search(path, r.path) and re.fullmatch(method, r.method)
        )

    def secrets(self) -> list[str]:
        """Return every credential that was shown to it."""
        return [r.headers[name] for r in list(self.requests) for name in _SECRETS if name in r.headers]

    def respond(self, request: Request) -> Answer:
        """Return the answer to one request."""
        with self._lock:
            self.requests.append(request)
            rule = next((rule for rule in self._rules if self._strikes(rule, request)), None)
            if rule is not None:
                rule.hits += 1
        if rule is not None and rule.answer is not None:
            return rule.answer(request)
        answer = self._forwarded(request) if self.upstream is not None else HOLLOW
        return answer if rule is None or rule.rewrite is None else rule.rewrite(request, answer)

    def _strikes(self, rule: Rule, request: Request) -> bool:
        if rule.cleared or (rule.left is not None and rule.hits >= rule.left):
            return False
        return bool(rule.path.search(request.path) and rule.method.fullmatch(request.method))

    def _forwarded(self, request: Request) -> Answer:
        assert self.upstream is not None
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=60)
        try:
            # Signed links are made of the host as it was asked for.
            left_out = _PER_HOP if request.headers.get("host") == self.netloc else (*_PER_HOP, "host")
            headers = {k: v for k, v in request.headers.items() if k not in left_out}
            split = urlsplit(request.target)
            target = split.path + (f"?{split.query}" if split.query else "")
            connection.request(request.method, target, request.body, headers)
            answer = connection.getresponse()
            kept_headers = {k: v for k, v in answer.getheaders() if k.lower() not in _PER_HOP}
            return Answer(answer.status, answer.read(), kept_headers)
        except OSError:
            return Answer(502, b"")
        finally:
            connection.close()

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hostile: Hostile


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self._body(headers))
        answer = self.server.hostile.respond(request)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        empty = answer.status in (204, 304) or self.command == "HEAD"
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if not empty:
            self.wfile.write(answer.body)

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base's name
        """Say nothing: what came is in the list of requests."""
