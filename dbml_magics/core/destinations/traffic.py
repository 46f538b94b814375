"""The requests of each kind that this process has made of a workspace, how long they took and what failed."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from dbml_magics.core.interrupts import deferred

_API = re.compile(r"(?:/ajax-api|/api)/\d\.\d/(?:mlflow/)?(.+)")
_FILES = "mlflow-artifacts/"
_ID = re.compile(r"(?<=/)(?=[^/]*\d)[^/]{8,}")  # of a run, model or experiment in a path


@dataclass
class Tally:
    """The requests of one kind: how many, the seconds that they took together, how many were not done."""

    requests: int = 0
    seconds: float = 0.0
    failed: int = 0


class Traffic:
    """The requests of a process to one workspace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}

    def note(self, method: str, url: str, seconds: float, status: int) -> None:
        """Count a request; ``status`` is 0 where no answer came."""
        call = call_of(method, url)
        with deferred(), self._lock:
            tally = self._tallies.setdefault(call, Tally())
            tally.requests += 1
            tally.seconds += seconds
            tally.failed += not 200 <= status < 300

    def tallies(self) -> dict[str, Tally]:
        """Return {call: its requests}, as they are now."""
        with deferred(), self._lock:
            return {call: replace(tally) for call, tally in self._tallies.items()}


def call_of(method: str, url: str) -> str:
    """Return what a request asks for, without the ids in its path: ``POST runs/log-batch``."""
    path = urlsplit(url).path
    found = _API.search(path)
    call = found.group(1) if found is not None else path.strip("/")
    if call.startswith(_FILES):
        call = _FILES + call.removeprefix(_FILES).partition("/")[0]
    return f"{method} {_ID.sub('…', call)}"
