"""Many runs compared, and the same runs copied by ``sync --repair`` and by mlflow-export-import."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.infra.proxy import Proxy
from tests.infra.servers import Server, clean_environment

__all__ = ["Api", "Held", "export_import", "pair_of", "seed", "verified"]

_START = 1_700_000_000_000
NOTE = b"what this run was about\n" * 80


class Api:
    """MLflow's REST interface of a server, without MLflow."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.session = requests.Session()

    def post(self, call: str, **body: Any) -> dict[str, Any]:
        """Make a call that writes or searches."""
        answer = self.session.post(f"{self.uri}/api/2.0/mlflow/{call}", json=body, timeout=60)
        answer.raise_for_status()
        payload: dict[str, Any] = answer.json()
        return payload

    def get(self, call: str, **query: str) -> dict[str, Any]:
        """Make a call that reads."""
        answer = self.session.get(f"{self.uri}/api/2.0/mlflow/{call}", params=query, timeout=60)
        answer.raise_for_status()
        payload: dict[str, Any] = answer.json()
        return payload

    def experiment(self, name: str) -> str:
        """Make an experiment."""
        return str(self.post("experiments/create", name=name)["experiment_id"])

    def run(self, experiment: str, number: int, tags: dict[str, str], metrics: list[dict[str, Any]]) -> str:
        """Make a run that has ended, with points and params."""
        began = _START + number * 1000
        facts = [{"key": "mlflow.runName", "value": f"run-{number}"}]
        facts += [{"key": key, "value": value} for key, value in tags.items()]
        made = self.post("runs/create", experiment_id=experiment, start_time=began, tags=facts)["run"]["info"]
        run_id = str(made["run_id"])
        params = [{"key": f"p{n}", "value": str(number)} for n in range(5)]
        self.post("runs/log-batch", run_id=run_id, metrics=metrics, params=params)
        self.post("runs/update", run_id=run_id, status="FINISHED", end_time=began + 500)
        return run_id

    def put_file(self, experiment: str, run_id: str) -> None:
        """Give a run a file."""
        place = f"{self.uri}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts/note.txt"
        self.session.put(place, data=NOTE, timeout=60).raise_for_status()

    def runs(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the runs of an experiment."""
        found = self.get("experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"]
        token = ""
        while True:
            page = self.post("runs/search", experiment_ids=[found], max_results=500, page_token=token)
            yield from page.get("runs", [])
            token = page.get("next_page_token", "")
            if not token:
                return


def _metrics(number: int, names: int, points: int) -> list[dict[str, Any]]:
    return [
        {"key": f"m{n}", "value": number + n / 100 + step, "timestamp": _START + step, "step": step}
        for n in range(names)
        for step in range(points)
    ]


def pair_of(first: Server, second: Server, experiment: str, runs: int, metrics: int) -> None:
    """Put the same runs into two servers' databases, as a link would have delivered them.

    Past the servers: a million points by their interface would take longer than what is measured.
    """
    ids = [uuid.uuid4().hex for _ in range(runs)]
    for server, own in ((first, ids), (second, [uuid.uuid4().hex for _ in range(runs)])):
        place = int(Api(server.uri).experiment(experiment))
        with closing(sqlite3.connect(server.folder / "mlflow.db", timeout=60)) as database, database:
            _insert(database, place, own, ids if server is second else None, metrics)


def _insert(
    database: sqlite3.Connection, experiment: int, own: list[str], known: list[str] | None, metrics: int
) -> None:
    """Insert runs that have ended with a point of each metric (the tables of mlflow 3)."""

    def insert(table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ",".join("?" * (columns.count(",") + 1))
        database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)

    numbered = list(enumerate(own))
    insert(
        "runs",
        "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
        "source_version, lifecycle_stage, artifact_uri, experiment_id",
        (_run_row(experiment, n, run) for n, run in numbered),
    )
    tags = [("mlflow.runName", f"run-{n}", run) for n, run in numbered]
    tags += [("dbml_run_id", known[n], run) for n, run in numbered] if known else []
    insert("tags", "key, value, run_uuid", tags)
    insert(
        "params", "key, value, run_uuid", ((f"p{k}", str(n), run) for n, run in numbered for k in range(5))
    )
    for table in ("metrics", "latest_metrics"):
        insert(
            table,
            "key, value, timestamp, step, is_nan, run_uuid",
            ((f"m{k}", n + k / 100, _START, 0, 0, run) for n, run in numbered for k in range(metrics)),
        )


def _run_row(experiment: int, number: int, run: str) -> tuple[Any, ...]:
    began, place = _START + number * 1000, f"mlflow-artifacts:/{experiment}/{run}/artifacts"
    facts = (run, f"run-{number}", "UNKNOWN", "", "", "bench", "FINISHED", began, began + 500)
    return (*facts, "", "active", place, experiment)


def seed(uri: str, experiment: str, runs: int) -> None:
    """Make runs at a server, every fourth with the three that follow nested in it, each with a file."""
    api = Api(uri)
    here = api.experiment(experiment)
    parent = ""
    for number in range(runs):
        tags = {"team": "wine"}
        if number % 4:
            tags["mlflow.parentRunId"] = parent
        run_id = api.run(here, number, tags, _metrics(number, 5, 20))
        parent = parent if number % 4 else run_id
        api.put_file(here, run_id)


class Held:
    """What a server has of copied runs."""

    def __init__(self, uri: str, experiment: str, wanted: int) -> None:
        api = Api(uri)
        found = list(api.runs(experiment))
        ids = {run["info"]["run_id"] for run in found}
        self.runs = len(found)
        self.duplicates = max(0, self.runs - wanted)
        self.nested = sum(
            any(t["key"] == "mlflow.parentRunId" and t["value"] in ids for t in run["data"].get("tags", []))
            for run in found
        )
        self.files = 0
        for run in found:
            listed = api.get("artifacts/list", run_id=run["info"]["run_id"]).get("files", [])
            self.files += any(f["path"] == "note.txt" and int(f["file_size"]) == len(NOTE) for f in listed)


def export_import(folder: Path, source: Proxy, target: Proxy, experiment: str) -> dict[str, Any]:
    """Copy an experiment with mlflow-export-import; returns seconds, or why it could not be measured."""
    if importlib.util.find_spec("mlflow_export_import") is None:
        return {"absent": "mlflow-export-import is not installed (extra bench)"}
    out = folder / f"export-{time.monotonic_ns()}"
    began = time.monotonic()
    for proxy, module, words in (
        (source, "export_experiment", ["--experiment", experiment, "--output-dir", str(out)]),
        (target, "import_experiment", ["--experiment-name", experiment, "--input-dir", str(out)]),
    ):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", f"mlflow_export_import.experiment.{module}", *words],
            env=clean_environment(folder, {"MLFLOW_TRACKING_URI": proxy.uri}),
            capture_output=True,
            text=True,
            cwd=folder,
        )
        if done.returncode != 0:
            return {"error": f"{module}: {done.stderr[-300:]}"}
    return {"seconds": time.monotonic() - began}


# --- in the scenario's own process


def verified(scenario: dict[str, Any], say: Callable[..., None], turn: Callable[..., None]) -> None:
    """Link, then compare or copy; says how long it took, how many requests, how much memory it had."""
    import dbml_magics as dbml

    dbml.link(databricks=scenario["databricks"], azureml=scenario["azureml"])
    dbml.verify()  # imports what comparing needs
    turn("ready")
    with _peak() as memory:
        began = time.monotonic()
        if scenario["name"] == "copy":
            copied = dbml.repair(experiment=scenario["experiment"])
            facts = {"copied": copied.copied, "left": len(copied.remaining)}
        else:
            found = dbml.verify(experiment=scenario["experiment"])
            facts = {
                "runs": found.runs_compared,
                "differences": len(found.differences),
                "requests": found.requests,
                "least": found.least,
            }
        seconds = time.monotonic() - began
    say(seconds=seconds, memory=memory[0], **facts)


@contextmanager
def _peak() -> Iterator[list[float]]:
    """Give the most megabytes that the process gained inside the block."""
    import threading

    def resident() -> float:
        pages = Path("/proc/self/statm")
        if not pages.exists():
            return 0.0
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before, most, ended = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            most[0] = max(most[0], resident() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()
