"""A proxy in front of a server that breaks what a test tells it to, and keeps a log of every request.

    with Proxy(server.uri) as proxy:
        proxy.delay(0.02)                                   # 20 ms a round trip, half of it each way
        with proxy.away():                                  # nobody listens at the port
            ...
        proxy.drop(path="runs/log-batch", times=1)          # written, but the answer is lost
        proxy.count(path="runs/log-batch")

Every fault takes ``path`` and ``method`` (regular expressions: searched for in the path, matched with the
method), ``times`` (only the next so many requests) and ``seconds`` (only for that long), lasts until it is
cleared otherwise, and is a context manager. A request meets all delays and the first other fault that applies
to it. The proxy lives in a process of its own: it takes nothing from the tests but the time to send an order.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.infra.orders import Orders
from tests.infra.service_limits import AZUREML_LIMITS, DATABRICKS_LIMITS, DATABRICKS_RATES, LIMIT_NAMES

__all__ = ["AZUREML_LIMITS", "DATABRICKS_LIMITS", "Fault", "Proxy", "Request", "basic"]


@dataclass(frozen=True)
class Request:
    """One request that came to the proxy."""

    number: int  # grows with each request
    method: str
    path: str
    query: str
    status: int | None  # None: the client got no whole answer
    received: int  # bytes of the request's body
    answered: int  # bytes of the answer's body
    time: float  # seconds since the epoch
    seconds: float  # until it was answered
    fault: str | None  # the fault that struck; delays are not named
    authorization: str | None
    body: str | None  # kept after keep_bodies() only
    left_out: int = 0  # half_batch: items that were not forwarded


class Fault:
    """A fault that lasts until it is cleared, or its times or seconds are over."""

    def __init__(self, proxy: Proxy, number: int) -> None:
        self._proxy = proxy
        self._number = number

    @property
    def hits(self) -> int:
        """Return how many requests it has struck (0 once it is cleared)."""
        return int(self._proxy._ask(do="hits", fault=self._number)["hits"])

    def clear(self) -> None:
        """End the fault."""
        self._proxy._ask(do="clear", fault=self._number)

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


class Away:
    """A proxy that refuses connections, until the block ends."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def __enter__(self) -> Away:
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.accept()


def basic(user: str, password: str) -> str:
    """Return the Authorization header of a user and password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Proxy(Orders):
    """A proxy in front of the server at ``upstream``; reached at ``uri``.

    With a ``certificate`` (a PEM file of a private key and its chain) clients reach it by HTTPS.
    """

    def __init__(self, upstream: str, certificate: Path | None = None) -> None:
        script = Path(__file__).with_name("_proxy_process.py")
        netloc = urlsplit(upstream).netloc
        super().__init__(["-I", str(script), netloc, *([] if certificate is None else [str(certificate)])])
        self.scheme = "http" if certificate is None else "https"
        self.port = int(self._read()["port"])

    @property
    def uri(self) -> str:
        """Return the address of the service as a client behind the proxy sees it."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def _fault(
        self, kind: str, path: str, method: str, times: int | None, seconds: float | None, **options: Any
    ) -> Fault:
        answer = self._ask(
            do="fault", kind=kind, path=path, method=method, times=times, seconds=seconds, options=options
        )
        return Fault(self, answer["id"])

    # The whole service

    def refuse(self, how: str = "closed") -> None:
        """Refuse connections: ``closed`` (nobody listens) or ``reset`` (accepted first); reset open ones."""
        self._ask(do="refuse", how=how)

    def accept(self) -> None:
        """Take connections again."""
        self._ask(do="listen")

    def away(self, how: str = "closed") -> Away:
        """Refuse connections from now on, until the block ends."""
        self.refuse(how)
        return Away(self)

    def target(self, upstream: str) -> None:
        """Forward to another server from the next request on."""
        self._ask(do="target", upstream=urlsplit(upstream).netloc)

    def require(self, authorization: str | None) -> None:
        """Answer 401 to requests whose Authorization header is not this one (None: take every request)."""
        self._ask(do="require", authorization=authorization)

    def clear(self) -> None:
        """End every fault and every demand, and take connections."""
        self._ask(do="clear")

    # Faults

    def delay(
        self,
        total: float,
        *,
        path: str = "",
        method: str = ".*",
        times: int | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """Add ``total`` seconds to each round trip, half before the service sees it and half after."""
        return self._fault("delay", path, method, times, seconds, total=total)

    def hang(
        self, *, path: str = "", method: str = ".*", times: int | None = None, seconds: float | None = None
    ) -> Fault:
        """Take the request and never answer; the connection is reset when the fault is cleared."""
        return self._fault("hang", path, method, times, seconds)

    def reset(
        self, *, path: str = "", method: str = ".*", times: int | None = None, seconds: float | None = None
    ) -> Fault:
        """Reset the connection before the service sees anything of the request."""
        return self._fault("reset", path, method, times, seconds)

    def cut(
        self, *, path: str = "", method: str = ".*", times: int | None = None, seconds: float | None = None
    ) -> Fault:
        """Let the service answer, pass half of the answer's body on, and close the connection."""
        return self._fault("cut", path, method, times, seconds)

    def drop(
        self, *, path: str = "", method: str = ".*", times: int | None = None, seconds: float | None = None
    ) -> Fault:
        """Let the service do what was asked, then reset the connection in place of its answer."""
        return self._fault("drop", path, method, times, seconds)

    def status(
        self,
        status: int,
        *,
        retry_after: float | None = None,
        body: str | None = None,
        content: str | None = None,
        path: str = "",
        method: str = ".*",
        times: int | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """Answer in the service's place; the default body is MLflow's JSON for errors.

        ``content`` is searched for in the request's body: only what has it is struck.
        """
        headers = {"Content-Type": "application/json"}
        if retry_after is not None:
            headers["Retry-After"] = f"{retry_after:g}"
        text = json.dumps(
            {"error_code": "TEMPORARILY_UNAVAILABLE", "message": f"answered {status} by the proxy"}
        )
        return self._fault(
            "status",
            path,
            method,
            times,
            seconds,
            status=status,
            headers=headers,
            body=text if body is None else body,
            content=content,
        )

    def answer(
        self,
        status: int,
        headers: Mapping[str, str],
        body: str,
        *,
        path: str = "",
        method: str = ".*",
        times: int | None = 1,
    ) -> Fault:
        """Answer in the service's place as a recording does, once; several take their turns."""
        return self._fault(
            "status", path, method, times, None, status=status, headers=dict(headers), body=body
        )

    def redirect(self, to: str, *, path: str = "", times: int | None = None) -> Fault:
        """Send callers to another address."""
        return self._fault(
            "status", path, ".*", times, None, status=307, headers={"Location": to}, body="", content=None
        )

    def missing(self, *prefixes: str) -> Fault:
        """Answer 404 with an empty body below these paths, as a service without that part of MLflow does."""
        path = "^(" + "|".join(prefixes) + ")"
        return self._fault("status", path, ".*", None, None, status=404, headers={}, body="")

    def without_logged_models(self) -> Fault:
        """Be a service without logged models, as Azure ML is (azure-sdk-for-python#44896)."""
        return self.missing("/api/2.0/mlflow/logged-models", "/api/2.0/mlflow/runs/outputs")

    def half_batch(
        self,
        *,
        status: int = 500,
        path: str = "runs/log-batch$",
        method: str = ".*",
        times: int | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """Forward the first half of a batch's metrics, params and tags, then answer ``status``.

        With 200, the service says that it took all of it.
        """
        return self._fault("half", path, method, times, seconds, status=status)

    def limit(
        self,
        limits: Mapping[str, int],
        *,
        wording: str = "databricks",
        path: str = "/mlflow/(runs|metrics/get)",
    ) -> Fault:
        """Answer 400 to what breaks a limit, in the words of ``databricks`` or ``azureml``.

        ``silent`` names no limit.

        Their names stand in :data:`tests.infra.service_limits.LIMIT_NAMES`.
        """
        if unknown := set(limits) - LIMIT_NAMES:
            raise ValueError(f"no such limits: {sorted(unknown)}")
        return self._fault("limit", path, "GET|POST|PATCH", None, None, limits=dict(limits), wording=wording)

    def rate(self, per_second: int, *, retry_after: float = 1, path: str = "") -> Fault:
        """Answer 429 with Retry-After to what exceeds so many requests within a second."""
        return self._fault("rate", path, ".*", None, None, per_second=per_second, retry_after=retry_after)

    def rates(self, per_second: Mapping[str, float] = DATABRICKS_RATES, *, path: str = "") -> Fault:
        """Answer 429 with Retry-After to what exceeds a service's rates, each for its kind of request."""
        return self._fault("rate", path, ".*", None, None, rates=dict(per_second))

    # The log

    def keep_bodies(self, path: str | None = "runs/log-batch$") -> None:
        """Keep the bodies of requests to these paths in the log (None: no longer)."""
        self._ask(do="bodies", path=path)

    def requests(self, path: str = "", method: str = ".*", *, since: int = 0) -> list[Request]:
        """Return the requests seen, oldest first; ``since`` is the number of the last one already known."""
        every = (Request(**entry) for entry in self._ask(do="requests", since=since)["requests"])
        return [r for r in every if re.search(path, r.path) and re.fullmatch(method, r.method)]

    def count(self, path: str = "", method: str = ".*", *, since: int = 0) -> int:
        """Return how many requests were seen."""
        return len(self.requests(path, method, since=since))

    def forget(self) -> None:
        """Empty the log."""
        self._ask(do="forget")

    def reset_all(self) -> None:
        """Be as new: no faults, an empty log."""
        self.clear()
        self.forget()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
