"""The requests that were made of each workspace, by kind."""

from __future__ import annotations

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core.destinations.traffic import call_of
from tests.conftest import Proxies


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", "/api/2.0/mlflow/runs/log-batch", "POST runs/log-batch"),
        ("GET", "/api/2.0/mlflow/runs/get?run_id=0123456789abcdef", "GET runs/get"),
        ("GET", "/api/2.0/mlflow/logged-models/m-0123456789abcdef", "GET logged-models/…"),
        ("PATCH", "/api/2.0/mlflow/logged-models/m-0123456789abcdef/tags", "PATCH logged-models/…/tags"),
        (
            "PUT",
            "/api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef/artifacts/a/b.txt",
            "PUT mlflow-artifacts/artifacts",
        ),
        ("POST", "/api/3.0/mlflow/traces", "POST traces"),
        ("GET", "/version", "GET version"),
    ],
)
def test_a_request_is_counted_by_what_it_asks_for_without_ids(method: str, path: str, call: str) -> None:
    for place in ("http://127.0.0.1:5000", "https://adb-1.azuredatabricks.net"):
        assert call_of(method, place + path) == call


def test_requests_are_counted_at_each_workspace_with_those_that_failed(
    linked: Proxies, experiment_name: str
) -> None:
    def made(role: str, call: str) -> tuple[int, int]:
        found = [each for each in dbml.requests().calls if (each.workspace, each.call) == (role, call)]
        return (found[0].requests, found[0].failed) if found else (0, 0)

    before = {role: made(role, "POST runs/log-batch") for role in ("databricks", "azureml")}
    with linked.azureml.status(503, path="runs/log-batch$", times=2) as fault:
        with mlflow.start_run():
            mlflow.log_metric("loss", 1.0)
        dbml.sync(60)
        assert fault.hits == 2
    after = {role: made(role, "POST runs/log-batch") for role in ("databricks", "azureml")}
    assert after["databricks"][1] == before["databricks"][1]
    assert after["databricks"][0] > before["databricks"][0]
    assert after["azureml"][1] == before["azureml"][1] + 2
    shown = str(dbml.requests())
    assert "POST runs/log-batch" in shown
    assert "since this kernel began" in shown
    assert "POST runs/log-batch" in dbml.requests().html()


def test_a_local_link_makes_no_requests(home: object) -> None:
    dbml.link(local=True)
    with mlflow.start_run():
        mlflow.log_metric("loss", 1.0)
    dbml.sync(60)
    assert "No request was made" in str(dbml.requests())
