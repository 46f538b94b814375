"""How Azure ML makes, changes and deletes an endpoint: one without a deployment, so no machine runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dbml_magics.core.doctor.probes.azure import arm, own
from dbml_magics.core.doctor.probes.sandbox import Measured, NotMeasured, Probe, Sandbox

if TYPE_CHECKING:
    import requests

__all__ = ["PROBES"]

_POLL_S = 2.0
_ENDED = ("succeeded", "failed", "canceled")


def _path(sandbox: Sandbox) -> str:
    return f"{own(sandbox).id.path}/onlineEndpoints/{sandbox.name}"


def _put(sandbox: Sandbox, **tags: str) -> requests.Response:
    found = arm(sandbox, "GET", own(sandbox).id.path)
    region = found.json().get("location") if found.status_code == 200 else None
    if not region:
        raise NotMeasured("the workspace's region cannot be read")
    sandbox.note("endpoint", sandbox.name)
    body = {
        "location": region,
        "identity": {"type": "SystemAssigned"},
        "tags": tags,
        "properties": {"authMode": "Key"},
    }
    response = arm(sandbox, "PUT", _path(sandbox), json=body)
    if response.status_code >= 300:
        raise NotMeasured(f"no endpoint can be made: {response.status_code} {response.text}")
    return response


def _made(sandbox: Sandbox) -> None:
    """Make the endpoint once, and note what was answered."""
    if "endpoint" in sandbox.learnt:
        return
    response = _put(sandbox)
    headers = response.headers
    there = [name for name in ("Azure-AsyncOperation", "Location") if name in headers]
    words = "both" if len(there) == 2 else there[0] if there else "neither"
    uri = (response.json().get("properties") or {}).get("scoringUri")
    sandbox.learnt |= {
        "endpoint": str(response.status_code),
        "endpoint-headers": f"{words}, {'with' if 'Retry-After' in headers else 'no'} Retry-After",
        "endpoint-uri": "null" if uri is None else "there",
        "endpoint-operation": str(headers.get("Azure-AsyncOperation", "")),
    }
    sandbox.learnt["endpoint-running"] = _state(sandbox)


def _state(sandbox: Sandbox) -> str:
    """Return the state of the operation that makes the endpoint, or of the endpoint where there is none."""
    address = sandbox.learnt.get("endpoint-operation", "")
    base = own(sandbox).sign_in.cloud.resource_manager.rstrip("/")
    if address.startswith(f"{base}/"):  # no token of ours goes anywhere else
        sign_in = own(sandbox).sign_in
        response = sandbox.send("GET", address, sign_in.get_token(sign_in.cloud.scope).token)
        return str(response.json().get("status") or "") if response.status_code < 300 else ""
    return ""


def _ready(sandbox: Sandbox) -> None:
    """Wait until nothing is under way at the endpoint."""
    _made(sandbox)
    while True:
        response = arm(sandbox, "GET", _path(sandbox))
        if response.status_code == 200:
            state = str((response.json().get("properties") or {}).get("provisioningState"))
            if state.lower() in _ENDED:
                return
        time.sleep(min(_POLL_S, sandbox.left()))


def _noted(name: str, key: str) -> Probe:
    """Return the probe of what was answered when the endpoint was made."""

    def measure(sandbox: Sandbox) -> Measured:
        _made(sandbox)
        return Measured(sandbox.learnt[key] or "none")

    return Probe(name, measure, 120.0)


def _update(sandbox: Sandbox) -> Measured:
    _ready(sandbox)
    return Measured(str(_put(sandbox, probe="again").status_code))


def _keys(sandbox: Sandbox) -> Measured:
    _ready(sandbox)
    response = arm(sandbox, "POST", f"{_path(sandbox)}/listKeys")
    if response.status_code != 200:
        return Measured(f"answers {response.status_code}")
    there = [name for name in ("primaryKey", "secondaryKey") if response.json().get(name)]
    return Measured({2: "two keys", 1: "one key"}.get(len(there), "no key"))


def _delete(sandbox: Sandbox) -> Measured:
    _ready(sandbox)
    return Measured(str(arm(sandbox, "DELETE", _path(sandbox)).status_code))


PROBES: tuple[Probe, ...] = (
    _noted("endpoint-put", "endpoint"),
    _noted("endpoint-operation", "endpoint-headers"),
    _noted("endpoint-scoring-uri", "endpoint-uri"),
    _noted("endpoint-running", "endpoint-running"),
    Probe("endpoint-update", _update, 600.0),
    Probe("endpoint-keys", _keys, 600.0),
    Probe("endpoint-delete", _delete, 600.0),
)
