"""What a tracked training asked of the servers, asked once more by this process beside an untracked one.

Servers on the training's own cores take processor time from it, which they would not take elsewhere. Beside
the same requests at the same moments, an untracked training pays for the servers too, and for no delivery.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence

from tests.infra.proxy import Proxy, Request

_DEADLINE_S = 60.0


class Traffic:
    """The requests of one training at each of the services."""

    def __init__(self, proxies: Sequence[Proxy], begun: float) -> None:
        """Take down what came to the proxies since ``begun`` (seconds since the epoch)."""
        self._begun = begun
        self._asked = [(proxy.port, [r for r in proxy.requests() if r.time >= begun]) for proxy in proxies]
        self.refused: list[str] = []

    @property
    def counts(self) -> list[int]:
        """Return how many requests each service had."""
        return [len(asked) for _, asked in self._asked]

    def replay(self) -> list[threading.Thread]:
        """Begin to ask the same at the same moments, of runs of our own; returns the threads that do.

        What a service answers with an error stands in ``refused``.
        """
        later = time.time() - self._begun
        threads = [
            threading.Thread(target=_ask, args=(port, asked, later, self.refused), daemon=True)
            for port, asked in self._asked
        ]
        for thread in threads:
            thread.start()
        return threads


def _ask(port: int, requests: list[Request], later: float, refused: list[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_DEADLINE_S)
    theirs, ours = _run_of(requests), ""
    for request in requests:
        time.sleep(max(0.0, request.time + later - time.time()))
        target, body = request.path + (f"?{request.query}" if request.query else ""), request.body
        if theirs and ours:
            target, body = target.replace(theirs, ours), body and body.replace(theirs, ours)
        connection.request(request.method, target, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            refused.append(f"{request.method} {target}: {response.status}")
        if request.path.endswith("/runs/create"):
            ours = json.loads(answer)["run"]["info"]["run_id"]
    connection.close()


def _run_of(requests: list[Request]) -> str:
    """Return the id of the run that a training's requests are about."""
    for request in requests:
        if request.body and request.path.endswith(("/runs/log-batch", "/runs/update")):
            return str(json.loads(request.body)["run_id"])
    return ""
