"""Every fault at every stage of a run, for longer than the run lasts: the run goes on, all arrives, once."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from dbml_magics.core.outbox.spool import SMALL
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    arrived,
    assert_written_once,
    dead_letters,
    is_well,
    leftovers,
    link,
    own_id,
    runs_at,
    steps,
    sync,
)
from tests.core.modelling import log_linear
from tests.infra import plain
from tests.infra.faults import begin
from tests.infra.proxy import Proxy
from tests.infra.wait import eventually

BUDGET_S = 1.5
STAGES = ("start", "log", "artifact", "log_model", "register", "end")


FAULTS = (
    "closed port",
    "reset",
    "hang",
    "500",
    "503",
    "429",
    "answers dropped",
    "writes' answers dropped",
    "half a batch",
    "flapping",
)


class Strike:
    """The fault of a case, which begins at one stage of a run and lasts until it is told to end."""

    def __init__(self, proxies: list[Proxy], fault: str) -> None:
        self.proxies, self.fault = proxies, fault
        self._stack = ExitStack()

    def begin(self) -> None:
        for proxy in self.proxies:
            self._stack.enter_context(begin(self.fault, proxy))

    def end(self) -> None:
        self._stack.close()

    def __enter__(self) -> Strike:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()  # a test that fails in the middle leaves no fault to the next one


def journey(stage: str, strike: Strike, model: str) -> str:
    """Train, log everything, register the model; the fault begins at ``stage``. Returns the run's id."""

    def at(name: str) -> None:
        if name == stage:
            strike.begin()

    at("start")
    with mlflow.start_run(run_name=stage) as run:
        at("log")
        for step in range(30):
            mlflow.log_metrics({"a": step, "b": -step}, step=step)
        mlflow.log_param("stage", stage)
        at("artifact")
        mlflow.log_text(stage, "notes/stage.txt")
        mlflow.log_text(stage * SMALL, "notes/more.txt")
        at("log_model")
        log_linear()
        at("register")
        mlflow.register_model(f"runs:/{run.info.run_id}/model", model)
        mlflow.log_metric("a", 30, step=30)
        at("end")
    return str(run.info.run_id)


CASES = [
    ("closed port", "both"),
    ("reset", "both"),
    ("hang", "databricks"),
    ("500", "databricks"),
    ("503", "azureml"),
    ("429", "both"),
    ("answers dropped", "databricks"),
    ("writes' answers dropped", "both"),
    ("half a batch", "azureml"),
    ("flapping", "both"),
]
"""Each fault once; ``DBML_TEST_EXAMPLES`` has each of them at either workspace and at both."""
if "DBML_TEST_EXAMPLES" in os.environ:
    CASES = [(fault, who) for fault in FAULTS for who in ("databricks", "azureml", "both")]


@pytest.mark.full
@pytest.mark.parametrize(("fault", "who"), CASES)
def test_a_fault_from_one_stage_on_costs_nothing(
    home: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    who: str,
) -> None:
    monkeypatch.setenv("DBML_IDENTITY_BUDGET", str(BUDGET_S))
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies, registry="both")
    mlflow.set_experiment(experiment_name)
    sync()
    runs = {}
    with Strike(list(proxies) if who == "both" else [getattr(proxies, who)], fault) as strike:
        for stage in STAGES:
            runs[stage] = journey(stage, strike, experiment_name)
            strike.end()
            for role in ("databricks", "azureml"):  # the next run begins in peace
                eventually(partial(is_well, role), f"{role} is back")
    sync(120)
    assert dead_letters() == []
    for stage, run_id in runs.items():
        held = arrived(servers, run_id, experiment_name)
        assert (held["name"], held["status"], steps(held, "a")) == (stage, "FINISHED", list(range(31)))
    assert runs_at(servers, experiment_name) == [len(STAGES)] * 2
    for server in servers:
        own = [own_id(server.uri, run_id, experiment_name) for run_id in runs.values()]
        versions = plain.model_versions(server.uri, experiment_name)
        assert sorted(v["run_id"] for v in versions) == sorted(own), "each run's model is registered once"
        assert all("dbml_twin" in v["tags"] for v in versions)
        models = [plain.logged_models(server.uri, run_id) for run_id in own]
        assert [len(of_run) for of_run in models] == [1] * len(STAGES)
        assert all(model["status"] == "READY" for (model,) in models)
    assert_written_once(proxies)
    eventually(lambda: leftovers(home) == [], "nothing is left", show=lambda: leftovers(home))


@pytest.mark.full
def test_a_workspace_that_says_when_to_come_again_is_left_alone_until_then(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        sync()
        proxies.azureml.forget()
        with proxies.azureml.status(429, path="log-batch", retry_after=2):
            mlflow.log_metric("m", 1.0)
            eventually(lambda: proxies.azureml.count("log-batch") >= 3, "azureml is tried three times")
        asked = [request.time for request in proxies.azureml.requests("log-batch")]
        mlflow.log_metric("m", 2.0, step=1)
    between = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert min(between) >= 1.9, f"seconds between two tries of azureml, which asked for 2: {between}"
    sync()
    assert steps(arrived(servers, run.info.run_id, experiment_name), "m") == [0, 1]


@pytest.mark.full
def test_a_thousand_short_runs_in_one_outage_cost_one_budget(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies, track="databricks")
    mlflow.set_experiment(experiment_name)
    sync()
    client = MlflowClient()
    experiment_id = client.get_experiment_by_name(experiment_name).experiment_id
    waits = []
    with proxies.databricks.hang():
        for n in range(1000):
            began = time.monotonic()
            run = client.create_run(experiment_id, run_name=f"short {n}")
            client.log_metric(run.info.run_id, "m", n)
            client.set_terminated(run.info.run_id)
            waits.append(time.monotonic() - began)
    long = [seconds for seconds in waits if seconds > 2]
    assert len(long) <= 1, f"runs that waited: {long}"
    sync(300)
    found = plain.client(servers.databricks.uri).search_runs(
        [experiment_id], max_results=2000, order_by=["start_time ASC"]
    )
    assert len(found) == 1000
    assert sorted(run.data.metrics["m"] for run in found) == [float(n) for n in range(1000)]
    assert {run.info.status for run in found} == {"FINISHED"}


@pytest.mark.full
def test_where_naming_runs_alone_fails_many_runs_cost_one_budget(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """runs/create answers 500 while searches pass: the workspace is not away, still nobody waits twice."""
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    client = MlflowClient()
    experiment_id = client.get_experiment_by_name(experiment_name).experiment_id
    waits = []
    with proxies.databricks.status(500, path="runs/create"):
        for n in range(20):
            began = time.monotonic()
            run = client.create_run(experiment_id)
            client.log_metric(run.info.run_id, "m", n)
            client.set_terminated(run.info.run_id)
            waits.append(time.monotonic() - began)
    assert sum(waits) < 5 + 1 + 6, f"runs waited {sum(waits):.1f} s"
    sync()
    assert runs_at(servers, experiment_name) == [20, 20]
