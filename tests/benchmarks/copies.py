"""Many runs compared, and the same runs copied by ``sync --repair`` and by mlflow-export-import."""

from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.api import START, Api
from tests.benchmarks.turns import resident
from tests.infra.proxy import Proxy
from tests.infra.servers import Server, clean_environment

__all__ = ["Held", "export_import", "pair_of", "register", "seed", "verified"]

NOTE = b"what this run was about\n" * 80


def _metrics(number: int, names: int, points: int) -> list[dict[str, Any]]:
    return [
        {"key": f"m{n}", "value": number + n / 100 + step, "timestamp": START + step, "step": step}
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
            ((f"m{k}", n + k / 100, START, 0, 0, run) for n, run in numbered for k in range(metrics)),
        )


def _run_row(experiment: int, number: int, run: str) -> tuple[Any, ...]:
    began, place = START + number * 1000, f"mlflow-artifacts:/{experiment}/{run}/artifacts"
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
        run_id = api.begin(here, number, tags)
        api.log(run_id, _metrics(number, 5, 20), {f"p{n}": str(number) for n in range(5)})
        api.end(run_id, number)
        parent = parent if number % 4 else run_id
        api.put_file(here, run_id, "note.txt", NOTE)


def register(uri: str, experiment: str, count: int) -> None:
    """Register models at a server, each with two versions of a run's files and an alias."""
    api = Api(uri)
    run = next(api.runs(experiment))["info"]
    for number in range(count):
        name = f"{experiment}-{number}"
        api.post("registered-models/create", name=name)
        for _ in range(2):
            source = f"{run['artifact_uri']}/model"
            api.post("model-versions/create", name=name, source=source, run_id=run["run_id"])
        api.post("registered-models/alias", name=name, alias="best", version="1")


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
