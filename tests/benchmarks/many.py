"""What the processes of :mod:`tests.benchmarks.scale` do: many runs, the commands that read them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import dbml_magics as dbml
from tests.benchmarks.kernel import Kernel
from tests.benchmarks.turns import commands, resources, say, turn

__all__ = ["first", "reading", "short_runs", "sweep"]


def _linked(scenario: dict[str, Any]) -> None:
    """Link the two workspaces, and let both have a run, so that nothing is done for the first time later."""
    import mlflow

    dbml.link(databricks=scenario["databricks"], azureml=scenario["azureml"])
    mlflow.set_experiment(scenario["experiment"])
    with mlflow.start_run():
        mlflow.log_metric("warm", 0.0)
    dbml.sync(timeout=scenario["deadline"])


def _one_run(number: int, points: int) -> None:
    import mlflow

    with mlflow.start_run(run_name=f"run-{number}"):
        for step in range(points):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)


def short_runs(scenario: dict[str, Any]) -> None:
    """Log runs one after the other; the proxies see when the last write of them arrived."""
    _linked(scenario)
    turn("ready")
    begun = time.time()
    for number in range(scenario["runs"]):
        _one_run(number, scenario["points"])
    logged = time.time()
    dbml.sync(timeout=scenario["deadline"])
    say(begun=begun, logged=logged)


def sweep(scenario: dict[str, Any]) -> None:
    """Log this process's share of a sweep; tells what it held at the beginning, in the middle, at the end."""
    _linked(scenario)
    turn("ready")
    begun, runs, held = time.time(), scenario["runs"], [resources()]
    for number in range(runs):
        _one_run(number, scenario["points"])
        if number + 1 == (runs + 1) // 2:
            held.append(resources())
    logged = time.time()
    dbml.sync(timeout=scenario["deadline"])
    say(logging=logged - begun, delivering=time.time() - begun, resources=[*held, resources()])


def reading(scenario: dict[str, Any]) -> None:
    """Call what reads, in a link that knows all these runs."""
    from dbml_magics.core import session

    dbml.link(databricks=scenario["databricks"], azureml=scenario["azureml"])
    dbml.experiment(scenario["experiment"])
    state = session.current().engine("the benchmark").state
    for role in ("databricks", "azureml"):
        for number in range(scenario["known"]):
            state.set_identity(role, "run", f"{number:032x}", f"{number:032x}", artifacts="", start=number)
    ids = [row.run_id for row in dbml.runs(max_results=2)]
    calls: dict[str, Callable[[], object]] = {
        "status": dbml.status,
        "runs": dbml.runs,
        "models": dbml.models,
        "compare": partial(dbml.compare, *ids),
    }
    commands(calls, scenario["repeats"])


_CELLS = {
    "run": """
%load_ext dbml_magics
%dbml link --local
import mlflow
with mlflow.start_run():
    mlflow.log_metric("loss", 0.5)
""",
    "model": """
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
with mlflow.start_run():
    mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
%dbml register last first
""",
    "answer": """
%dbml deploy first/1 --to local --name first
import dbml_magics as dbml
assert len(dbml.invoke("first", [[0.5]])) == 1
""",
}


def first(_scenario: dict[str, Any]) -> None:
    """Track, register and serve in a new kernel; tells the seconds from the first cell up to each.

    On a machine that has linked before: MLflow makes the tables of a database once a machine and version.
    """
    with TemporaryDirectory() as elsewhere:
        before = ["-c", "import dbml_magics as dbml; dbml.link(local=True)"]
        subprocess.run([sys.executable, *before], cwd=elsewhere, check=True, capture_output=True)
    with Kernel() as kernel:
        seconds, begun = {}, time.perf_counter()
        for goal, cell in _CELLS.items():
            kernel.run(cell)
            seconds[goal] = time.perf_counter() - begun
        kernel.run("%dbml undeploy first")
    say(seconds=seconds)
