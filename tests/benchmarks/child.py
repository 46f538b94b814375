"""What one benchmark's own process does; started by :mod:`tests.benchmarks.measure`, never by hand.

The scenario stands in the first argument as JSON. Lines of JSON on standard output are what it tells the
parent; where both must take turns, it waits for a line on standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dbml_magics as dbml
from tests.benchmarks.turns import Scenarios, play, say, turn

WARM_UP = 100
BEGUN_WITHIN_S = 120.0  # a hundred runs, on a machine that is busy


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
    dbml.link(databricks=scenario["databricks"], azureml=scenario["azureml"])
    return lambda: dbml.sync(timeout=120)


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
    """Measure calls through the link and on the floor in turn, in the same process: noise strikes both."""
    import mlflow

    from tests.benchmarks import floor as store

    settle = link(scenario)
    ours = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_experiment(scenario["experiment"])
    run = mlflow.start_run()
    mlflow.log_metric("warm", 0.0)
    settle()
    if scenario.get("outage"):
        turn("cut off the workspaces")
        settle = nothing
    store.use()
    samples: dict[str, dict[str, list[dict[str, float]]]] = {"floor": {}, "measured": {}}
    for name, count in scenario["calls"].items():
        call = calls_of(run.info.run_id)[name]
        first = 0
        for block in range(-1, scenario["blocks"]):  # the first block warms up
            size = count if block >= 0 else min(WARM_UP, count)
            settle()
            mlflow.set_tracking_uri(store.URI)
            mlflow.set_registry_uri(store.URI)
            with mlflow.start_run(nested=True) as lowest:
                floor_call = calls_of(lowest.info.run_id)[name]
                low = timed(floor_call, size, first)
            mlflow.set_tracking_uri(ours[0])
            mlflow.set_registry_uri(ours[1])
            high = timed(call, size, first)
            first += size
            if block >= 0:
                samples["floor"].setdefault(name, []).append(low)
                samples["measured"].setdefault(name, []).append(high)
    say(
        ratio={
            name: middle(
                [m["median"] / f["median"] for f, m in zip(samples["floor"][name], blocks, strict=True)]
            )
            for name, blocks in samples["measured"].items()
        },
        **{
            what: {
                name: {key: middle([block[key] for block in blocks]) for key in blocks[0]}
                for name, blocks in of.items()
            }
            for what, of in samples.items()
        },
    )


def middle(values: list[float]) -> float:
    """Return the median."""
    return sorted(values)[len(values) // 2]


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
    turn("ready", journal=str(journal_of_link()))
    begun = time.time()
    for step in range(scenario["points"]):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    turn("logged", begun=begun, ended=time.time())
    mlflow.end_run()
    settle()
    turn("delivered")


def journal_of_link() -> Path:
    """Return the folder that holds the link's journal."""
    from dbml_magics.core import session

    return session.current().engine("the benchmark").link.home


def hundred(scenario: dict[str, Any]) -> None:
    """Log to many runs at once, one a thread; says how long logging took, and until all had arrived."""
    import mlflow

    lowest = floor({"calls": {"log_metric": 2000}})
    settle = link(scenario)
    mlflow.set_experiment(scenario["experiment"])
    with mlflow.start_run():
        mlflow.log_metric("warm", 0.0)
    settle()
    turn("ready")
    together = threading.Barrier(scenario["runs"] + 1, timeout=BEGUN_WITHIN_S)
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            with mlflow.start_run(run_name=f"run-{number}"):
                together.wait()
                for step in range(scenario["points"]):
                    mlflow.log_metric("loss", 1 / (step + 1), step=step)
        except BaseException as error:
            failed.append(error)
            together.abort()  # nobody waits for a run that did not begin

    threads = [threading.Thread(target=one, args=(number,)) for number in range(scenario["runs"])]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):
        together.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    logged = time.perf_counter()
    settle()
    settled = time.perf_counter()
    say(floor=lowest, starting=started - begun, logging=logged - started, delivering=settled - begun)


def training(scenario: dict[str, Any]) -> None:
    """Train with and without tracking in turn; says the seconds of each."""
    rounds = scenario["rounds"]
    backend = scenario["backend"]
    try:
        train = TRAININGS[scenario["training"]](rounds, scenario["rows"])
    except (ImportError, OSError) as error:  # OSError: the machine lacks libgomp
        say(absent=f"lightgbm cannot be imported: {error}")
        return
    import mlflow

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

    def log(name: str, value: float, step: int) -> None:
        mlflow.log_metric(name, value, step=step)

    # "busied" is untracked, while the parent asks of the servers what the last tracked one asked.
    arms = ["tracked", "untracked", *(["busied"] if scenario["busied"] else [])]
    rows = []
    for number in range(-1, scenario["repeats"]):  # the first one warms up
        seconds = {}
        for arm in arms:
            settle()
            if scenario["busied"]:
                turn(arm)
            begun = time.perf_counter()
            if arm == "tracked":
                with mlflow.start_run():
                    train(log)
            else:
                train(None)
            seconds[arm] = time.perf_counter() - begun
            if scenario["busied"]:
                turn("over")
        if number >= 0:
            rows.append(seconds)
            arms = [*arms[1:], arms[0]]
    say(rows=rows)


Log = Callable[[str, float, int], None]


def lightgbm_training(rounds: int, rows: int) -> Callable[[Log | None], None]:
    """Return a LightGBM training on all cores, with a metric a round."""
    import lightgbm
    import numpy as np

    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 30))
    y = x[:, 0] * 2 + x[:, 1] ** 2 + random.normal(size=len(x))
    settings = {"objective": "l2", "num_threads": os.cpu_count(), "verbosity": -1, "seed": 0}

    def train(log: Log | None) -> None:
        def tell(environment: Any) -> None:
            _, name, value, _ = environment.evaluation_result_list[0]
            if log is not None:
                log(name, value, environment.iteration)

        data = lightgbm.Dataset(x, y)
        lightgbm.train(settings, data, rounds, valid_sets=[data], callbacks=[tell])

    return train


def python_training(rounds: int, size: int) -> Callable[[Log | None], None]:
    """Return a training in plain Python, which never lets go of the interpreter, with a metric a round."""
    import random

    source = random.Random(0)
    rows = [[source.gauss(0, 1) for _ in range(10)] for _ in range(size // 50)]
    truth = [row[0] * 2 - row[1] for row in rows]

    def train(log: Log | None) -> None:
        weights = [0.0] * 10
        for step in range(rounds):
            loss = 0.0
            for row, target in zip(rows, truth, strict=True):
                error = sum(w * x for w, x in zip(weights, row, strict=True)) - target
                loss += error * error
                for column, x in enumerate(row):
                    weights[column] -= 0.0001 * error * x
            if log is not None:
                log("loss", loss, step)

    return train


TRAININGS = {"lightgbm": lightgbm_training, "python": python_training}


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


def deploy(scenario: dict[str, Any]) -> None:
    """Serve a model here and with MLflow's own server; says how soon each answers, and how fast."""
    from tests.benchmarks import serving

    say(**serving.measure(scenario))


_LIVE_CELL = """
%%track live
import json, os, time
import mlflow
clock, samples = time.perf_counter_ns, []
for number in range({calls}):
    key = f"m{{number % {metrics}}}"
    begun = clock()
    mlflow.log_metric(key, 1 / (number + 1), step=number // {metrics})
    samples.append(clock() - begun)
told = {{"total": sum(samples) / 1e9}}
samples.sort()
told.update(median=samples[len(samples) // 2] / 1000, p99=samples[int(len(samples) * 0.99)] / 1000)
print("told", json.dumps(told))
"""


def live(scenario: dict[str, Any]) -> None:
    """Measure calls in tracked cells of a real kernel, with the live view and without, in turn."""
    from tests.benchmarks.kernel import Kernel

    with Kernel() as kernel:
        run = kernel.run
        run("%load_ext dbml_magics\nimport os, mlflow")
        run(f"%dbml link --databricks {scenario['databricks']} --azureml {scenario['azureml']}")
        run(f"%dbml experiment {scenario['experiment']}")
        cell = _LIVE_CELL.format(calls=scenario["calls"], metrics=scenario["metrics"]).lstrip()
        run(cell.replace(str(scenario["calls"]), str(WARM_UP)))
        samples: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
        for _ in range(scenario["pairs"]):
            for switch, measured in samples.items():
                run(f"os.environ['DBML_LIVE'] = '{switch}'\n%dbml sync")
                printed = run(cell)
                figures = json.loads(printed.partition("told ")[2].splitlines()[0])
                figures["updates"] = sum(m["msg_type"] == "update_display_data" for m in kernel.seen)
                measured.append(figures)
    say(without=samples["0"], live=samples["1"])


def many(scenario: dict[str, Any]) -> None:
    """Log many runs, or read them; or go through what a new kernel does first."""
    from tests.benchmarks import many as scenarios

    getattr(scenarios, scenario["name"])(scenario)


def compared(scenario: dict[str, Any]) -> None:
    """Compare two workspaces, or copy one to the other."""
    from tests.benchmarks import copies

    copies.verified(scenario, say, turn)


def score(scenario: dict[str, Any]) -> None:
    """Score many rows in each way; says how long each took, and what memory it held."""
    from tests.benchmarks import scoring

    say(measured=scoring.measure(scenario))


SCENARIOS: Scenarios = {
    "linked": linked,
    "rest": rest,
    "wandb": wandb,
    "points": points,
    "hundred": hundred,
    "training": training,
    "load_ext": load_ext,
    "deploy": deploy,
    "live": live,
    "verify": compared,
    "copy": compared,
    "short_runs": many,
    "sweep": many,
    "reading": many,
    "first": many,
    "score": score,
    "floor": lambda scenario: say(floor=floor(scenario)),
}


if __name__ == "__main__":
    play(SCENARIOS)
