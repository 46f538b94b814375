"""A link to the two servers through the proxies, and what arrived behind it, counted without the package."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.results.delivery import SyncResult
from dbml_magics.results.link import LinkStatus
from tests.conftest import Proxies, Servers
from tests.infra import plain
from tests.infra.proxy import Proxy, Request

LOG_BATCH = "runs/log-batch$"


def link(proxies: Proxies, **wishes: Any) -> LinkStatus:
    """Link the two servers, each behind its proxy."""
    assert "DBML_HOME" in os.environ, (
        "a test that links asks for the fixture home: a user's own stays as it is"
    )
    return dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, **wishes)


def sync(timeout: float = 60) -> SyncResult:
    """Wait until everything has arrived at both sides, and check that nothing was put aside."""
    done = dbml.sync(timeout=timeout)
    assert not any(done.dead.values()), f"put aside: {dead_letters()}"
    return done


def dead_letters(role: str | None = None) -> list[tuple[str, Any, str]]:
    """Return (workspace, write, cause) of everything that was put aside."""
    state = session.current().engine("this test").state
    return [(dest, op, cause) for _, dest, _, op, cause, _ in state.dead(role)]


def is_well(role: str) -> bool:
    """Tell whether nothing is known that keeps a workspace from answering."""
    return session.current().engine("this test").health[role].reason is None


def is_away(role: str) -> bool:
    """Tell whether a workspace is known to be away."""
    return session.current().engine("this test").health[role].away


def own_id(uri: str, run_id: str, experiment: str) -> str:
    """Return a workspace's own id of the run that the user knows as ``run_id``, which it has to have."""
    own = plain.twin_id(uri, run_id, experiment)
    assert own is not None, f"{uri} has no run {run_id}"
    return own


def both_sides(servers: Servers, run_id: str, experiment: str, *, files: bool = True) -> list[dict[str, Any]]:
    """Return the run that the user knows as ``run_id`` as each workspace holds it, the primary first."""
    return [plain.run(server.uri, own_id(server.uri, run_id, experiment), files=files) for server in servers]


def arrived(servers: Servers, run_id: str, experiment: str, *, files: bool = True) -> dict[str, Any]:
    """Check that both workspaces hold the same of a run, and return it as the primary holds it."""
    primary, mirror = both_sides(servers, run_id, experiment, files=files)
    there, here = plain.comparable(mirror), plain.comparable(primary)
    differing = {k: (there.get(k), here.get(k)) for k in {*there, *here} if there.get(k) != here.get(k)}
    assert not differing, f"mirror and primary differ: {differing}"
    return primary


def runs_at(servers: Servers, experiment: str) -> list[int]:
    """Return how many runs each workspace has in an experiment."""
    return [len(plain.runs(server.uri, experiment, files=False, deleted=True)) for server in servers]


def written_points(proxy: Proxy) -> Counter[tuple[Any, ...]]:
    """Count how often each point of a metric was written at the service, whatever it made of a second time.

    MLflow's own server keeps a point that comes twice once; Databricks would show it twice. The proxy must
    have been told to keep bodies.
    """
    return Counter({point: len(requests) for point, requests in _writing(proxy).items()})


def _writing(proxy: Proxy) -> dict[tuple[Any, ...], list[Request]]:
    """Return the requests that wrote each point of a metric at the service."""
    found: dict[tuple[Any, ...], list[Request]] = {}
    for request in proxy.requests(LOG_BATCH):
        if request.body is None or not (
            request.status == 200 if request.fault is None else request.fault in ("drop", "cut", "half")
        ):
            continue
        asked = json.loads(request.body)
        points = asked.get("metrics") or []
        if request.fault == "half":
            points = points[: (len(points) + 1) // 2]
        for p in points:
            # log_model logs a run's points once more, for the model.
            point = (asked["run_id"], p["key"], p["step"], p["timestamp"], str(p["value"]), p.get("model_id"))
            found.setdefault(point, []).append(request)
    return found


def assert_written_once(proxies: Proxies) -> None:
    """Check that no point was written twice at any of the two services."""
    for proxy in proxies:
        twice = {point: requests for point, requests in _writing(proxy).items() if len(requests) > 1}
        told = [
            f"{point} at {[(f'{r.time:.3f}', r.seconds, r.status, r.fault) for r in requests]}"
            for point, requests in list(twice.items())[:3]
        ]
        assert not twice, f"{len(twice)} points were written more than once: {told}"


def steps(held: dict[str, Any], key: str) -> list[int]:
    """Return the steps of a metric's points."""
    return [step for step, _, _ in held["metrics"].get(key, [])]


def last_is(value: float | str, expected: float) -> bool:
    """Tell whether a value read from a server is ``expected``; infinity is the largest float there."""
    if math.isnan(expected):
        return value == "nan"
    return isinstance(value, float) and (value == expected or abs(value) > 1e308)


def child(code: str, *, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start a script as a child process that has the link's environment, its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "ignore", "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> str:
    """Wait for a child's end and return what it printed."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-4000:]
    return out.strip()


def leftovers(home: Path) -> list[str]:
    """Return what is left in the journal and the spool."""
    kept = [*home.glob("links/*/queues/*/*"), *home.glob("links/*/spool/*")]
    return sorted(str(path.relative_to(home)) for path in kept)
