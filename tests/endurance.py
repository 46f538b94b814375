"""Many runs and many files in one process: its memory, threads and file descriptors stay flat.

    python -m tests.endurance --runs 2000 --files 10000

Prints a line every so often, and ends with an error where both workspaces do not have everything once, or
where the process has grown. What it logs is delivered while it logs on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

from tests.conftest import Servers
from tests.core.linking import leftovers
from tests.infra import plain
from tests.infra.servers import ServerHost

POINTS = 20
GROWTH_MB = 60.0  # between a tenth of the runs and their end
GROWTH_OPEN = 300  # meanwhile: the files of 256 runs that are not delivered yet stay open
GROWTH_LEFT = 24  # once everything is delivered


def figures() -> tuple[float, int, int]:
    """Return the process's own memory in MB, its threads and its open descriptors."""
    status = Path("/proc/self/status").read_text()
    memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return memory / 1024, threading.active_count(), len(os.listdir("/proc/self/fd"))


def report(what: str, began: float) -> tuple[float, int, int]:
    """Print the figures."""
    found = figures()
    took = time.monotonic() - began
    print(
        f"{took:7.1f} s  {what:24}  {found[0]:7.1f} MB  {found[1]:3} threads  {found[2]:4} open", flush=True
    )
    return found


def log_runs(number: int, began: float) -> None:
    """Log short runs, one after the other. Raises AssertionError where the process grows."""
    import mlflow

    early = None
    for n in range(number):
        with mlflow.start_run(run_name=f"run {n}"):
            for step in range(POINTS):
                mlflow.log_metric("m", step, step=step)
            mlflow.log_param("n", n)
        if (n + 1) % max(number // 10, 1) == 0:
            now = report(f"{n + 1} runs", began)
            early = early or now
    assert early is not None
    assert now[0] - early[0] < GROWTH_MB, f"memory grew from {early[0]:.0f} to {now[0]:.0f} MB"
    assert now[1] - early[1] <= 4, f"threads grew from {early[1]} to {now[1]}"
    assert now[2] - early[2] <= GROWTH_OPEN, f"open descriptors grew from {early[2]} to {now[2]}"


def log_files(number: int, began: float) -> str:
    """Log small files to one run, a tenth of them too large for a journal line; returns the run's id."""
    import mlflow

    with mlflow.start_run(run_name="files") as run:
        for n in range(number):
            mlflow.log_text(f"{n}" + "." * (6000 if n % 10 == 0 else 0), f"folder{n % 20}/{n}.txt")
            if (n + 1) % max(number // 4, 1) == 0:
                report(f"{n + 1} files", began)
    return str(run.info.run_id)


def main() -> None:
    """Log, deliver, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--files", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ.update(DBML_HOME=f"{place}/home", MLFLOW_DISABLE_TELEMETRY="true")
        Path(place, "work").mkdir()
        os.chdir(f"{place}/work")
        host = ServerHost()
        try:
            endure(Servers(*host.start_pair()), Path(place, "home"), asked.runs, asked.files)
        finally:
            os.chdir("/")
            host.close()


def endure(servers: Servers, home: Path, runs: int, files: int) -> None:
    """Log runs and files on a link to two servers, and compare both with what was logged."""
    import mlflow

    import dbml_magics as dbml

    began = time.monotonic()
    dbml.link(databricks=servers.databricks.uri, azureml=servers.azureml.uri)
    mlflow.set_experiment("endurance")
    first = report("linked", began)
    log_runs(runs, began)
    file_run = log_files(files, began)
    dbml.sync(timeout=3600)
    last = report("delivered", began)
    assert last[2] - first[2] <= GROWTH_LEFT, f"{last[2] - first[2]} descriptors are left open"
    for server in servers:
        found = plain.runs(server.uri, "endurance", files=False)
        assert len(found) == runs + 1, f"{server.name} has {len(found)} runs, {runs + 1} were logged"
        short = [
            run["name"]
            for run in found.values()
            if run["name"] != "files" and len(run["metrics"]["m"]) != POINTS
        ]
        assert not short, f"{server.name} lacks points of {short[:5]}"
        own = plain.twin_id(server.uri, file_run, "endurance")
        assert own is not None
        listed = len(plain.run(server.uri, own)["artifacts"])
        assert listed == files, f"{server.name} has {listed} files, {files} were logged"
    dbml.unlink()
    left = leftovers(home)
    assert not left, f"the journal has {left[:5]} though everything is delivered"
    report("compared", began)
    print("equal at both workspaces, once; nothing left")


if __name__ == "__main__":
    main()
