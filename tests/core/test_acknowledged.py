"""A run's end is compared with what was acknowledged: what a workspace said that it took, it has."""

from __future__ import annotations

import logging

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from tests.conftest import Proxies, Servers
from tests.core.linking import LOG_BATCH, arrived, both_sides, dead_letters, steps, sync
from tests.infra import plain


def log_a_run() -> str:
    with mlflow.start_run() as run:
        for step in range(40):
            mlflow.log_metric("m", step, step=step)
            mlflow.log_metric(f"m{step % 4}", step, step=step)
        mlflow.log_params({f"p{n}": n for n in range(6)})
        mlflow.set_tags({f"t{n}": n for n in range(6)})
    return str(run.info.run_id)


@pytest.mark.parametrize("role", ["databricks", "azureml"])
def test_what_a_workspace_acknowledged_and_dropped_is_sent_again(
    linked: Proxies, servers: Servers, experiment_name: str, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch of which half is written is answered 200, as MLflow's server does with what it cannot read."""
    fault = getattr(linked, role).half_batch(status=200, times=1)
    with caplog.at_level(logging.WARNING, "dbml_magics"):
        run_id = log_a_run()
        sync()
    assert fault.hits == 1
    held = arrived(servers, run_id, experiment_name)
    assert steps(held, "m") == list(range(40))
    assert {f"p{n}" for n in range(6)} <= set(held["params"])
    assert {f"t{n}" for n in range(6)} <= set(held["tags"])
    assert any("acknowledged writes of run" in record.message for record in caplog.records)
    receipt = dbml.receipt(run_id)
    assert "sent again" in str(receipt)


def test_what_a_workspace_never_has_though_it_acknowledges_it_is_put_aside_and_shown(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with linked.azureml.half_batch(status=200):
        run_id = log_a_run()
        done = dbml.sync(timeout=60)
    assert done.dead["azureml"] > 0
    assert not done.dead["databricks"]
    assert all("acknowledged it twice" in cause for _, _, cause in dead_letters("azureml"))
    primary, _ = both_sides(servers, run_id, experiment_name)
    assert steps(primary, "m") == list(range(40))
    dbml.retry_dead_letters(timeout=60)
    held = arrived(servers, run_id, experiment_name)
    assert {f"p{n}" for n in range(6)} <= set(held["params"])


def test_an_end_that_was_acknowledged_and_not_carried_out_is_sent_again(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    answer = '{"run_info": {"run_id": "x", "status": "FINISHED"}}'
    fault = linked.azureml.status(200, body=answer, path="runs/update$", times=1)
    run_id = log_a_run()
    sync()
    assert fault.hits == 1
    assert arrived(servers, run_id, experiment_name)["status"] == "FINISHED"


def test_an_ended_run_costs_one_look_at_each_workspace(linked: Proxies) -> None:
    with mlflow.start_run():
        mlflow.log_metric("m", 1)
        sync()
        for proxy in linked:
            proxy.reset_all()
        mlflow.log_metric("m", 2, step=2)
    sync()
    for proxy in linked:
        assert len(proxy.requests("runs/get$")) == 1, proxy.requests()
        assert len(proxy.requests(LOG_BATCH)) == 1


def test_edits_of_others_are_no_difference(linked: Proxies, servers: Servers, experiment_name: str) -> None:
    """Somebody edits a tag, adds a point and a param in the portal while the run goes on."""
    with mlflow.start_run() as run:
        mlflow.set_tag("edited", "ours")
        mlflow.set_tag("replaced", "first")
        mlflow.log_metric("m", 1, step=1)
        sync()
        mlflow.set_tag("replaced", "second")
        own = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
        assert own is not None
        portal = MlflowClient(servers.azureml.uri)
        portal.set_tag(own, "edited", "theirs")
        portal.log_metric(own, "m", 5, step=9)
    sync()
    assert not dead_letters()
    held = both_sides(servers, run.info.run_id, experiment_name)[1]
    assert (held["tags"]["edited"], held["tags"]["replaced"]) == ("theirs", "second")


@pytest.mark.full
def test_a_run_that_cannot_be_read_at_its_end_still_ends(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with linked.azureml.status(403, path="runs/get$"):
        run_id = log_a_run()
        dbml.sync(timeout=60)
    assert arrived(servers, run_id, experiment_name)["status"] == "FINISHED"


def test_values_that_are_not_finite_are_no_difference(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        for step, value in enumerate([1.0, float("nan"), float("inf"), float("-inf"), float("nan")]):
            mlflow.log_metric("m", value, step=step)
            mlflow.log_metric("same", value, step=1, timestamp=1790000000000)
    sync()
    assert len(arrived(servers, run.info.run_id, experiment_name)["metrics"]["m"]) == 5
    assert not (dbml.receipt(run.info.run_id).deliveries[1].notes)
