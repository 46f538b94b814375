"""Records of the cloud endpoints deployed from this machine; ``status`` shows them without a request.

A record is written before anything is made, so an interrupted or killed deployment is known to the next
kernel; with it goes what is left to do for each deployment, until it is done, and why one has failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, overload

from dbml_magics.common import private_files
from dbml_magics.common.config import data_home
from dbml_magics.core.endpoints.shapes import FailedDeployment, PendingDeployment, Remembered, json_object
from dbml_magics.core.endpoints.waiting import lock
from dbml_magics.results.endpoints import Deployment, Endpoint

__all__ = ["Record", "all_of", "is_known", "locked", "records"]

_LOCKED_S = 900.0  # one step of a deployment, its requests tried again, takes a few minutes at most

_Part = Literal["pending", "failed"]


def _home() -> Path:
    return data_home() / "endpoints" / ".cloud"


class Record:
    """What is remembered of one endpoint at one workspace."""

    def __init__(self, workspace: str, target: str, name: str) -> None:
        self.workspace, self.target, self.name = workspace, target, name
        mark = hashlib.sha256(workspace.lower().encode()).hexdigest()[:12]
        self.path = _home() / f"{mark}-{target}-{name.lower()}.json"

    def read(self) -> Remembered:
        """Return the record, empty where there is none."""
        try:
            kept: Remembered = json_object(self.path.read_text())
            return kept
        except (OSError, ValueError):
            return {}

    def write(self, **fields: object) -> None:
        """Remember something more (None forgets it)."""
        with _held(self, ".write"):
            self._keep({**self.read(), **fields})

    def put(self, what: _Part, deployment: str, value: object) -> None:
        """Remember something of one deployment (None forgets it); the others' stays."""
        with _held(self, ".write"):
            if value is None and not self.path.exists():
                return
            of_all = {**self.of_deployments(what), deployment: value}
            of_all = {name: each for name, each in of_all.items() if each is not None}
            self._keep({**self.read(), what: of_all or None})

    @overload
    def of_deployments(self, what: Literal["pending"]) -> dict[str, PendingDeployment]: ...

    @overload
    def of_deployments(self, what: Literal["failed"]) -> dict[str, FailedDeployment]: ...

    @overload
    def of_deployments(self, what: _Part) -> Mapping[str, PendingDeployment | FailedDeployment]: ...

    def of_deployments(self, what: _Part) -> Mapping[str, PendingDeployment | FailedDeployment]:
        """Return one part of the record by deployment, in the order in which they began."""
        return dict(self.read().get(what) or {})

    def _keep(self, fields: Mapping[str, object]) -> None:
        kept = {key: value for key, value in fields.items() if value is not None}
        whose = {"workspace": self.workspace, "target": self.target, "name": self.name}
        private_files.write(self.path, {**kept, **whose})

    def endpoint(self) -> tuple[Endpoint, float]:
        """Return the endpoint as it was last seen, and when."""
        kept = self.read()
        shown = dict(kept.get("endpoint") or {})
        deployments = tuple(
            Deployment(**{**each, "log": tuple(each.get("log") or ())})
            for each in shown.pop("deployments", ())
        )
        notes = tuple(shown.pop("notes", ()))
        began = int(float(kept.get("began") or 0) * 1000)
        endpoint = (
            Endpoint(**{**shown, "deployments": deployments, "notes": notes})
            if shown
            else Endpoint(self.name, self.target, "begun", None, "key", created=began)
        )
        return endpoint, float(kept.get("seen") or kept.get("began") or 0)

    def saw(self, endpoint: Endpoint) -> None:
        """Remember how an endpoint was last seen; one that was not deployed from here is not remembered."""
        if self.path.exists():
            self.write(seen=time.time(), endpoint=dataclasses.asdict(endpoint))

    def forget(self) -> None:
        """Forget it: it is gone."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(record: Record) -> Iterator[None]:
    """Let one process, or thread, at a time go on with an endpoint's deployments."""
    with _held(record, ".lock"):
        yield


@contextlib.contextmanager
def _held(record: Record, suffix: str) -> Iterator[None]:
    _home().mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock(record.path.with_suffix(suffix), record.name, _LOCKED_S, lambda: None):
        yield


def records(workspace: str | None = None, target: str | None = None) -> list[Record]:
    """Return the records of one workspace and target, or all."""
    found = []
    for path in sorted(_home().glob("*.json")):
        try:
            content = json.loads(path.read_text())
            record = Record(content["workspace"], content["target"], content["name"])
        except (OSError, ValueError, KeyError):
            continue
        if workspace in (None, record.workspace) and target in (None, record.target):
            found.append(record)
    return found


def all_of() -> list[tuple[Endpoint, str, float]]:
    """Return (endpoint as it was last seen, workspace, when) of everything remembered."""
    found = []
    for record in records():
        endpoint, seen = record.endpoint()
        found.append((endpoint, record.workspace, seen))
    return found


def is_known(name: str) -> bool:
    """Tell whether an endpoint of that name was deployed from this machine to a cloud."""
    return any(record.name.lower() == name.lower() for record in records())
