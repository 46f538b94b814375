"""The limit of what a row can reach: the same work by nothing but the requests that it needs.

A script of its own for each such row, without this package and without MLflow, started by
:mod:`tests.benchmarks.measure` in a process of its own beside the row's.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from tests.benchmarks.api import Api
from tests.benchmarks.api import points as points_of
from tests.benchmarks.turns import Scenarios, commands, play, say, turn

CONNECTIONS = 10
BATCH = 1000
T = TypeVar("T")


class Connections:
    """Threads with a connection of their own to each of some services."""

    def __init__(self, *uris: str, count: int = CONNECTIONS) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._uris = uris
        self._own = threading.local()

    def submit(self, work: Callable[..., T]) -> Future[T]:
        """Let one of the threads do something with its connections."""
        return self._pool.submit(self._do, work)

    def _do(self, work: Callable[..., T]) -> T:
        if not hasattr(self._own, "apis"):
            self._own.apis = [Api(uri) for uri in self._uris]
        return work(*self._own.apis)


def finished(futures: Iterable[Future[T]]) -> list[T]:
    """Wait until everything is done; returns what came of it."""
    return [future.result() for future in futures]


def both(scenario: dict[str, Any], count: int = CONNECTIONS) -> tuple[list[Connections], list[str]]:
    """Return connections to both workspaces, and a new experiment at each."""
    uris = scenario["databricks"], scenario["azureml"]
    experiments = [Api(uri).experiment(scenario["experiment"]) for uri in uris]
    return [Connections(uri, count=count) for uri in uris], experiments


def send(api: Api, run_id: str, count: int, batch: int = BATCH) -> None:
    """Send the points of a run, one batch after the other."""
    for first in range(0, count, batch):
        api.log(run_id, points_of("loss", first, min(first + batch, count)))


def whole_run(experiment: str, number: int, count: int, api: Api) -> None:
    """Make a run, send its points and end it."""
    run_id = api.begin(experiment, number)
    send(api, run_id, count)
    api.end(run_id, number)


def points(scenario: dict[str, Any]) -> None:
    """Send the points of one run to both, the batches of each one after the other."""
    services, experiments = both(scenario, 1)
    begin = [partial(_begin, e) for e in experiments]
    runs = finished(s.submit(b) for s, b in zip(services, begin, strict=True))
    turn("ready", journal=".")
    begun = time.time()

    def post(run_id: str, api: Api) -> None:
        send(api, run_id, scenario["points"], scenario["batch"])

    finished(s.submit(partial(post, run)) for s, run in zip(services, runs, strict=True))
    turn("logged", begun=begun, ended=time.time())
    turn("delivered")


def _begin(experiment: str, api: Api) -> str:
    return api.begin(experiment, 0)


def runs(scenario: dict[str, Any]) -> None:
    """Make whole runs at both, ten at a time at each."""
    services, experiments = both(scenario)
    turn("ready")
    begun = time.perf_counter()
    finished(
        service.submit(partial(whole_run, experiment, number, scenario["points"]))
        for number in range(scenario["runs"])
        for service, experiment in zip(services, experiments, strict=True)
    )
    say(delivering=time.perf_counter() - begun)


def short_runs(scenario: dict[str, Any]) -> None:
    """Make runs at the first one after the other; all else of them is sent by ten connections to each."""
    (first, second), (here, there) = both(scenario)
    count, api, sent = scenario["points"], Api(scenario["databricks"]), []
    turn("ready")
    begun = time.time()
    for number in range(scenario["runs"]):
        sent.append(first.submit(partial(_rest_of, api.begin(here, number), number, count)))
        sent.append(second.submit(partial(whole_run, there, number, count)))
    logged = time.time()
    finished(sent)
    say(begun=begun, logged=logged)


def _rest_of(run_id: str, number: int, count: int, api: Api) -> None:
    send(api, run_id, count)
    api.end(run_id, number)


def reading(scenario: dict[str, Any]) -> None:
    """Ask what the commands that read have to know, all that can be asked at once at once."""
    first, second = (Connections(scenario[role]) for role in ("databricks", "azureml"))
    experiment = Api(scenario["databricks"]).get(
        "experiments/get-by-name", experiment_name=scenario["experiment"]
    )["experiment"]["experiment_id"]

    def listed(api: Api) -> list[dict[str, Any]]:
        found = api.post("runs/search", experiment_ids=[experiment], max_results=20)
        return list(found["runs"])

    def paged(call: str, api: Api) -> None:
        query = {"max_results": "100"}
        while token := api.get(call, **query).get("next_page_token"):
            query["page_token"] = token

    def models() -> None:
        """Ask each registry for its models, whose aliases come with them, and for their versions."""
        calls = ("registered-models/search", "model-versions/search")
        finished(s.submit(partial(paged, call)) for s in (first, second) for call in calls)

    def one(run_id: str, api: Api) -> dict[str, Any]:
        run: dict[str, Any] = api.get("runs/get", run_id=run_id)["run"]
        return run

    def points_of_metric(run_id: str, key: str, api: Api) -> int:
        return len(list(api.history(run_id, key)))

    ids = [run["info"]["run_id"] for run in first.submit(listed).result()[:2]]

    def compare() -> None:
        """Ask for each run, then for each history."""
        found = finished(first.submit(partial(one, run_id)) for run_id in ids)
        finished(
            first.submit(partial(points_of_metric, run["info"]["run_id"], metric["key"]))
            for run in found
            for metric in run["data"]["metrics"]
        )

    runs = partial(_at, first, listed)
    commands({"runs": runs, "models": models, "compare": compare}, scenario["repeats"])


def _at(service: Connections, work: Callable[..., T]) -> T:
    return service.submit(work).result()


def copying(scenario: dict[str, Any]) -> None:
    """Copy runs, ten at a time: create, histories, a batch, the files, end; parents before their children."""
    pool = Connections(scenario["databricks"], scenario["azureml"])
    source, target = Api(scenario["databricks"]), Api(scenario["azureml"])
    turn("ready")
    begun = time.monotonic()
    there = target.experiment(scenario["experiment"] + COPY)
    found = list(source.runs(scenario["experiment"]))
    own: dict[str, str] = {}
    for nested in (False, True):
        some = [run for run in found if (PARENT in _tags(run)) is nested]
        futures = [pool.submit(partial(_copy, run, there, own)) for run in some]
        own |= zip((run["info"]["run_id"] for run in some), finished(futures), strict=True)
    say(seconds=time.monotonic() - begun)


COPY = "-copy"
"""What the name of a copied experiment ends in."""
PARENT = "mlflow.parentRunId"


def _tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def _copy(run: dict[str, Any], experiment: str, own: dict[str, str], source: Api, target: Api) -> str:
    info, data, tags = run["info"], run["data"], _tags(run)
    if PARENT in tags:
        tags[PARENT] = own[tags[PARENT]]
    facts = [{"key": key, "value": value} for key, value in tags.items()]
    made = target.post(
        "runs/create", experiment_id=experiment, start_time=int(info["start_time"]), tags=facts
    )
    copied = str(made["run"]["info"]["run_id"])
    points = [p for m in data.get("metrics", []) for p in source.history(info["run_id"], m["key"])]
    params = {param["key"]: param["value"] for param in data.get("params", [])}
    for first in range(0, len(points), BATCH):
        target.log(copied, points[first : first + BATCH], params if first == 0 else {})
    for file in source.get("artifacts/list", run_id=info["run_id"]).get("files", []):
        content = source.get_file(info["experiment_id"], info["run_id"], file["path"])
        target.put_file(experiment, copied, file["path"], content)
    target.post("runs/update", run_id=copied, status=info["status"], end_time=int(info["end_time"]))
    return copied


IMPORTS = {
    "run": (
        "mlflow",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
    ),
    "model": ("sklearn.linear_model", "mlflow.sklearn", "mlflow.models", "skops.io"),
    "answer": ("mlflow.pyfunc", "mlflow.sklearn", "mlflow.pyfunc.scoring_server", "skops.io"),
}
"""What MLflow imports until then; the last ones are a server's, in a process of its own."""


def first(scenario: dict[str, Any]) -> None:
    """Import what MLflow needs to track a run, to log a model and to serve it; tells when each is done."""
    begun, seconds = time.perf_counter(), {}
    for goal in ("run", "model"):
        for module in IMPORTS[goal]:
            importlib.import_module(module)
        seconds[goal] = time.perf_counter() - begun
    subprocess.run([sys.executable, "-c", f"import {', '.join(IMPORTS['answer'])}"], check=True)
    say(seconds={**seconds, "answer": time.perf_counter() - begun})


SCENARIOS: Scenarios = {
    "points": points,
    "hundred": runs,
    "sweep": runs,
    "short_runs": short_runs,
    "reading": reading,
    "copy": copying,
    "first": first,
}

if __name__ == "__main__":
    play(SCENARIOS)
