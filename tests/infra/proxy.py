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
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.infra.servers import clean_environment

__all__ = ["AZUREML_LIMITS", "DATABRICKS_LIMITS", "Fault", "Proxy", "Request", "basic"]

# azure-ai-docs resource-limits-capacity.md, mlflow#11462, azure-sdk-for-python#35685
AZUREML_LIMITS: dict[str, int] = {
    "metrics": 250,
    "metric_names": 50,
    "run_params": 200,
    "run_tags": 50,
    "tag_key": 100,
    "tag_value": 1000,
}
# docs.databricks.com log-batch, Azure Databricks resource limits
DATABRICKS_LIMITS: dict[str, int] = {
    "metrics": 1000,
    "params": 100,
    "tags": 100,
    "items": 1000,
    "body": 1_000_000,
    "run_params": 1600,
    "run_tags": 1600,
}
LIMIT_NAMES = {
    *("metrics", "params", "tags", "items", "body"),  # a batch; body in bytes
    *("metric_names", "run_params", "run_tags"),  # a run
    *("tag_key", "tag_value"),  # characters
}


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


def basic(user: str, password: str) -> str:
    """Return the Authorization header of a user and password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Proxy:
    """A proxy in front of the server at ``upstream``; reached at ``uri``."""

    def __init__(self, upstream: str) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                str(Path(__file__).with_name("_proxy_process.py")),
                urlsplit(upstream).netloc,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(Path(tempfile.gettempdir())),
            start_new_session=True,  # Ctrl-C is for the tests; the end of standard input ends the proxy
        )
        self.port = int(self._read()["port"])

    @property
    def uri(self) -> str:
        """Return the address of the service as a client behind the proxy sees it."""
        return f"http://127.0.0.1:{self.port}"

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                "the proxy's process ended; its traceback stands in the captured standard error"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, **order: Any) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            return self._read()

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

    @contextmanager
    def away(self, how: str = "closed") -> Iterator[None]:
        """Refuse connections for the length of the block."""
        self.refuse(how)
        try:
            yield
        finally:
            self.accept()

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
        path: str = "",
        method: str = ".*",
        times: int | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """Answer in the service's place; the default body is MLflow's JSON for errors."""
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
        """Forward the first half of a batch's metrics, params and tags, then answer ``status``."""
        return self._fault("half", path, method, times, seconds, status=status)

    def limit(
        self, limits: Mapping[str, int], *, wording: str = "databricks", path: str = "/mlflow/runs/"
    ) -> Fault:
        """Answer 400 to what breaks a limit, in the words of ``databricks`` or ``azureml``.

        A batch's: metrics, params, tags, items, body (bytes). A run's: metric_names, run_params, run_tags. A
        tag's length: tag_key, tag_value (characters).
        """
        if unknown := set(limits) - LIMIT_NAMES:
            raise ValueError(f"no such limits: {sorted(unknown)}")
        return self._fault("limit", path, "POST|PATCH", None, None, limits=dict(limits), wording=wording)

    def rate(self, per_second: int, *, retry_after: float = 1, path: str = "") -> Fault:
        """Answer 429 with Retry-After to what exceeds so many requests within a second."""
        return self._fault("rate", path, ".*", None, None, per_second=per_second, retry_after=retry_after)

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

    def close(self) -> None:
        """End the proxy's process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
