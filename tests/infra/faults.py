"""The catalogue of faults of a server and of the way to it, from which each test of outages takes its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from tests.infra.proxy import Proxy

WRITES = "POST|PUT|PATCH"
ERROR_IN_200 = '{"error_code": "INTERNAL_ERROR", "message": "not written"}'


class Begun(Protocol):
    """A fault that has begun: it ends with its block, or when its proxy is cleared."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None: ...


class Flapping:
    """A port that closes and opens again several times a second, until the block ends."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self._over = proxy, threading.Event()
        self._thread = threading.Thread(target=self._flap)
        self._thread.start()

    def _flap(self) -> None:
        while not self._over.wait(0.15):
            with self._proxy.away("reset" if int(time.monotonic()) % 2 else "closed"):
                self._over.wait(0.2)

    def __enter__(self) -> Flapping:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


FAULTS: dict[str, Callable[[Proxy, str], Begun]] = {
    "closed port": lambda proxy, path: proxy.away(),
    "accepted and reset": lambda proxy, path: proxy.away("reset"),
    "reset": lambda proxy, path: proxy.reset(path=path),
    "hang": lambda proxy, path: proxy.hang(path=path),
    "slow": lambda proxy, path: proxy.delay(0.1, path=path),
    "answers dropped": lambda proxy, path: proxy.drop(path=path),
    "writes' answers dropped": lambda proxy, path: proxy.drop(path=path, method=WRITES),
    "one answer dropped": lambda proxy, path: proxy.drop(path=path, method=WRITES, times=1),
    "answers cut": lambda proxy, path: proxy.cut(path=path, times=3),
    "half a batch": lambda proxy, path: proxy.half_batch(),
    "500": lambda proxy, path: proxy.status(500, path=path),
    "503": lambda proxy, path: proxy.status(503, retry_after=1, path=path),
    "429": lambda proxy, path: proxy.status(429, retry_after=1, path=path),
    "signed out": lambda proxy, path: proxy.status(401, path=path),
    "a sign-in page": lambda proxy, path: proxy.status(200, body="<html>sign in</html>", path=path),
    "an empty 200": lambda proxy, path: proxy.status(200, body="", path=path),
    "an error in a 200": lambda proxy, path: proxy.status(200, body=ERROR_IN_200, path=path),
}
"""Name -> what begins it at the requests whose path has ``path`` in it (a closed port: at all)."""


def begin(fault: str, proxy: Proxy, path: str = "") -> Begun:
    """Begin a fault of the catalogue, or a flapping port, at a proxy."""
    return Flapping(proxy) if fault == "flapping" else FAULTS[fault](proxy, path)
