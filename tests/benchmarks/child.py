"""What one benchmark's own process does; started by :mod:`tests.benchmarks.measure`, never by hand.

The scenario stands in the first argument as JSON. Lines of JSON on standard output are what it tells the
parent; where both must take turns, it waits for a line on standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

WARM_UP = 100


def say(**what: Any) -> None:
    """Tell the parent."""
    print(json.dumps(what), flush=True)


def turn(event: str, **what: Any) -> None:
    """Tell the parent and wait for its word."""
    say(event=event, **what)
    sys.stdin.readline()


def timed(call: Callable[[int], Any], count: int, first: int = 0) -> dict[str, float]:
    """Return the median and the 99th percentile of single calls in microseconds."""
    clock = time.perf_counter_ns
    samples = []
    for number in range(first, first + count):
        begun = clock()
        call(number)
        samples.append(clock() - begun)
    samples.sort()
    return {
        "median": samples[count // 2] / 1000,
        "p99": samples[min(count - 1, int(count * 0.99))] / 1000,
        "count": count,
    }


def calls_of(run_id: str, *, synchronous: bool | None = None) -> dict[str, Callable[[int], Any]]:
    """Return the calls that are measured, each as a function of the call's number."""
    import mlflow

    def log_metric(number: int) -> None:
        mlflow.log_metric("loss", 1 / (number + 1), step=number, synchronous=synchronous)

    def log_metric_of_run(number: int) -> None:
        mlflow.log_metric("named", 1 / (number + 1), step=number, run_id=run_id)

    def log_metrics(number: int) -> None:
        mlflow.log_metrics({f"m{i}": number / (i + 1) for i in range(10)}, step=number)

    def log_param(number: int) -> None:
        mlflow.log_param(f"p{number}", number)

    def log_text(number: int) -> None:
        mlflow.log_text("a line of text\n", f"notes/{number}.txt")

    return {
        "log_metric": log_metric,
        "log_metric(run_id=…)": log_metric_of_run,
        "log_metrics of 10": log_metrics,
        "log_param": log_param,
        "log_text": log_text,
    }


def measure(counts: dict[str, int], run_id: str, settle: Callable[[], Any], **options: Any) -> dict[str, Any]:
    """Measure calls of the active run; ``settle`` lets the background rest before each kind of call."""
    known = calls_of(run_id, **options)
    measured = {}
    for name, count in counts.items():
        warm_up = min(WARM_UP, count // 4)
        timed(known[name], warm_up or 1)
        settle()
        measured[name] = timed(known[name], count, warm_up or 1)
    return measured


def link(scenario: dict[str, Any]) -> Callable[[], Any]:
    """Link the two workspaces; returns what waits until everything is delivered."""
    from dbml_magics.core import session

    current = session.current()
    current.link(databricks=scenario["databricks"], azureml=scenario["azureml"])
    return lambda: current.sync(timeout=120)


def nothing() -> None:
    """Let nothing settle: there is no background, or it is part of what is measured."""


def floor(scenario: dict[str, Any]) -> dict[str, Any]:
    """Measure MLflow on the store that does nothing."""
    import mlflow

    from tests.benchmarks import floor as store

    store.use()
    with mlflow.start_run() as run:
        return measure(scenario["calls"], run.info.run_id, nothing)


def linked(scenario: dict[str, Any]) -> None:
    """Measure calls through the link, beside the floor in the same process a moment before."""
    import mlflow

    lowest = floor(scenario)
    settle = link(scenario)
    mlflow.set_experiment(scenario["experiment"])
    run = mlflow.start_run()
    mlflow.log_metric("warm", 0.0)
    settle()
    if scenario.get("outage"):
        turn("cut off the workspaces")
        settle = nothing
    say(floor=lowest, measured=measure(scenario["calls"], run.info.run_id, settle))


def rest(scenario: dict[str, Any]) -> None:
    """Measure plain MLflow's calls to one workspace, answered one by one or in MLflow's own background."""
    import mlflow

    lowest = floor(scenario)
    mlflow.set_tracking_uri(scenario["databricks"])
    mlflow.set_registry_uri(scenario["databricks"])
    mlflow.set_experiment(scenario["experiment"])
    run = mlflow.start_run()
    synchronous = not scenario.get("asynchronous", False)
    measured = measure(scenario["calls"], run.info.run_id, nothing, synchronous=synchronous)
    say(floor=lowest, measured=measured)


def wandb(scenario: dict[str, Any]) -> None:
    """Measure wandb offline, if it is installed."""
    lowest = floor(scenario)
    try:
        library: Any = importlib.import_module("wandb")
    except ImportError:
        say(absent="wandb is not installed (extra: bench)")
        return
    os.environ["WANDB_SILENT"] = "true"
    run = library.init(mode="offline", project="bench", dir=os.getcwd())
    count = scenario["calls"]["log_metric"]
    timed(lambda number: run.log({"loss": 1 / (number + 1)}, step=number), WARM_UP)
    measured = timed(lambda number: run.log({"loss": 1 / (number + 1)}, step=number), count, WARM_UP)
    run.finish()  # ends wandb's own process
    say(floor=lowest, measured={"log_metric": measured})


def points(scenario: dict[str, Any]) -> None:
    """Log many points of one metric; the parent watches them arrive, counts requests and reads the memory."""
    import mlflow

    settle = link(scenario)
    mlflow.set_experiment(scenario["experiment"])
    mlflow.start_run()
    for step in range(WARM_UP):
        mlflow.log_metric("warm", 1 / (step + 1), step=step)
    settle()
    turn("ready")
    begun = time.time()
    for step in range(scenario["points"]):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    turn("logged", begun=begun, ended=time.time())


def training(scenario: dict[str, Any]) -> None:
    """Train a LightGBM model with one metric logged each round; says the seconds that it took."""
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: the machine lacks libgomp
        say(absent=f"lightgbm cannot be imported: {error}")
        return
    import mlflow
    import numpy as np

    rounds = scenario["rounds"]
    backend = scenario["backend"]
    settle: Callable[[], Any] = nothing
    if backend == "linked":
        settle = link(scenario)
    elif backend == "rest":
        mlflow.set_tracking_uri(scenario["databricks"])
        mlflow.set_registry_uri(scenario["databricks"])
    else:
        from tests.benchmarks import floor as store

        store.use()
    if backend in {"linked", "rest"}:
        mlflow.set_experiment(scenario["experiment"])
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 20))
    y = x[:, 0] * 2 + x[:, 1] ** 2 + random.normal(size=2000)

    def log(environment: Any) -> None:
        _, name, value, _ = environment.evaluation_result_list[0]
        mlflow.log_metric(name, value, step=environment.iteration)

    def train(count: int, callbacks: list[Any]) -> float:
        data = lightgbm.Dataset(x, y)
        # One thread, so that the other core is free for what happens in the background on a small machine.
        settings = {"objective": "l2", "num_threads": 1, "verbosity": -1, "seed": 0}
        begun = time.perf_counter()
        lightgbm.train(settings, data, count, valid_sets=[data], callbacks=callbacks)
        return time.perf_counter() - begun

    mlflow.start_run()
    callbacks = [] if backend == "bare" else [log]
    train(min(20, rounds), callbacks)
    settle()
    say(seconds=train(rounds, callbacks))


def load_ext(scenario: dict[str, Any]) -> None:
    """Load the extension into a fresh IPython; says how long it took and which heavy modules it imported."""
    shell: Any = importlib.import_module("IPython.core.interactiveshell").InteractiveShell.instance()
    before = set(sys.modules)
    begun = time.perf_counter()
    shell.run_line_magic("load_ext", "dbml_magics")
    seconds = time.perf_counter() - begun
    loaded = {name.split(".")[0] for name in set(sys.modules) - before}
    say(
        seconds=seconds, heavy=sorted(loaded & set(scenario["heavy"])), modules=len(set(sys.modules) - before)
    )


SCENARIOS: dict[str, Callable[[dict[str, Any]], None]] = {
    "linked": linked,
    "rest": rest,
    "wandb": wandb,
    "points": points,
    "training": training,
    "load_ext": load_ext,
    "floor": lambda scenario: say(floor=floor(scenario)),
}


def main() -> None:
    scenario = json.loads(sys.argv[1])
    try:
        SCENARIOS[scenario["name"]](scenario)
    except Exception as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    # The figures are told: what still waits for delivery in this throw-away place is nobody's.
    os._exit(0)


if __name__ == "__main__":
    main()
