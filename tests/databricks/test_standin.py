"""The stand-in under MLflow's own client and databricks-sdk: what the service takes, it takes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.databricks.conftest import ADA
from tests.infra.service_limits import DATABRICKS_RATES, RateEnforcer
from tests.standins.databricks import Databricks


@pytest.fixture
def client(signed_in: Databricks) -> Any:
    """Return MLflow's own client of the workspace and of Unity Catalog."""
    from mlflow import MlflowClient

    return MlflowClient("databricks", registry_uri="databricks-uc")


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    """Return the error code and text of a call that the service refuses."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as caught:
        call(*args, **kwargs)
    return f"{caught.value.error_code}: {caught.value.message}"


@pytest.mark.parametrize("files_api", [True, False], ids=["files-api", "signed-urls"])
def test_mlflow_keeps_runs_files_and_models_there(
    signed_in: Databricks, files_api: bool, experiment_name: str, tmp_path: Path
) -> None:
    import mlflow
    from mlflow.models import infer_signature

    signed_in.switches.files_api = files_api
    signed_in.switches.catalog_files_api = files_api
    mlflow.set_tracking_uri("databricks")
    mlflow.set_registry_uri("databricks-uc")
    mlflow.set_experiment(f"/Users/{ADA}/{experiment_name}")

    class Doubles(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input):  # type: ignore[no-untyped-def]
            return model_input * 2

    import pandas as pd

    frame = pd.DataFrame({"x": [1.0, 2.0]})
    name = f"main.ml.{experiment_name.replace('-', '_')}"
    with warnings.catch_warnings(), mlflow.start_run() as run:
        warnings.simplefilter("ignore")
        mlflow.log_metric("loss", 0.5)
        mlflow.log_text("hello", "notes/hello.txt")
        mlflow.log_text("", "notes/empty.txt")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=Doubles(),
            signature=infer_signature(frame, frame),
            pip_requirements=["pandas"],
            registered_model_name=name,
        )
    root = run.info.artifact_uri
    assert root.startswith("dbfs:/databricks/mlflow-tracking/")
    assert mlflow.artifacts.load_text(f"{root}/notes/hello.txt") == "hello"
    assert mlflow.artifacts.load_text(f"{root}/notes/empty.txt") == ""
    client = mlflow.MlflowClient()
    assert [f.path for f in client.list_artifacts(run.info.run_id, "notes")] == [
        "notes/empty.txt",
        "notes/hello.txt",
    ]
    client.set_registered_model_alias(name, "champion", 1)
    client.set_model_version_tag(name, "1", "dbml_key", "k")
    assert client.get_model_version(name, "1").tags == {"dbml_key": "k"}
    assert client.get_model_version(name, "1").status == "READY"
    for uri in (logged.model_uri, f"models:/{name}@champion", f"runs:/{run.info.run_id}/model"):
        assert list(mlflow.pyfunc.load_model(uri).predict(frame)["x"]) == [2.0, 4.0]

    mlflow.set_registry_uri("databricks")
    made = mlflow.register_model(logged.model_uri, experiment_name)
    assert list(mlflow.pyfunc.load_model(f"models:/{made.name}/1").predict(frame)["x"]) == [2.0, 4.0]
    assert (signed_in.requests("credentials-for-write") == []) == files_api


def test_traces_are_kept_by_signed_urls(signed_in: Databricks, experiment_name: str) -> None:
    import mlflow

    mlflow.set_tracking_uri("databricks")
    made = mlflow.set_experiment(f"/Users/{ADA}/{experiment_name}")
    with mlflow.start_span("answer") as span:
        span.set_inputs({"question": 1})
    mlflow.flush_trace_async_logging()
    found = mlflow.search_traces(locations=[made.experiment_id], return_type="list")
    assert [t.data.spans[0].inputs for t in found] == [{"question": 1}]


def test_experiments_are_paths_in_folders_that_exist(client: Any, experiment_name: str) -> None:
    assert "must be an absolute path" in refused(client.create_experiment, "iris")
    said = refused(client.create_experiment, f"/Users/{ADA}/no-folder/{experiment_name}")
    assert said.startswith("RESOURCE_DOES_NOT_EXIST")
    client.create_experiment(f"/Users/{ADA}/{experiment_name}")
    assert "already exists" in refused(client.create_experiment, f"/Users/{ADA}/{experiment_name}")
    assert "Node ID 0" in refused(client.create_run, "0")
    made = client.create_experiment(f"/Workspace/Users/{ADA}/{experiment_name}-2")
    found = client.get_experiment(made)
    assert found.name == f"/Users/{ADA}/{experiment_name}-2"
    assert found.tags["mlflow.experimentType"] == "MLFLOW_EXPERIMENT"
    assert found.tags["mlflow.ownerId"].isdigit()
    assert client.get_experiment_by_name(f"/Workspace/Users/{ADA}/{experiment_name}-2") is None
    said = refused(client.create_experiment, f"/Workspace/Users/{ADA}/{experiment_name}-2")
    assert said.startswith("RESOURCE_ALREADY_EXISTS")


def test_the_limits_of_the_service_hold(
    client: Any, adb: Databricks, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.entities import Metric

    run = client.create_run(client.create_experiment(f"/Users/{ADA}/{experiment_name}")).info.run_id
    store: Any = client._tracking_client.store
    many = [Metric("m", float(n), 1, n) for n in range(1001)]
    assert "at most 1000 metrics" in refused(store.log_batch, run, many, [], [])
    adb.switches.half_batches = 1
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "INTERNAL_ERROR" in refused(store.log_batch, run, many[:10], [], [])
    assert len(client.get_metric_history(run, "m")) == 5, "half of a batch that failed is there"
    adb.switches.rates = RateEnforcer({**DATABRICKS_RATES, "search": 0})
    # Not by MLflow's client: databricks-sdk waits for as long as it is told, for five minutes.
    search = f"{adb.uri}/api/2.0/mlflow/experiments/search"
    headers = {"Authorization": f"Bearer {adb.token(ADA)}"}
    payload = requests.post(search, json={"max_results": 1}, headers=headers, timeout=10)
    assert (payload.status_code, payload.headers["Retry-After"]) == (429, "1")


def test_no_more_versions_are_taken_than_may_be_in_registration(
    client: Any, adb: Databricks, experiment_name: str
) -> None:
    name = f"main.ml.{experiment_name.replace('-', '_')}"
    create = f"{adb.uri}/api/2.0/mlflow/unity-catalog"
    headers = {"Authorization": f"Bearer {adb.token(ADA)}"}
    requests.post(f"{create}/registered-models/create", json={"name": name}, headers=headers, timeout=10)
    adb.switches.pending_versions = 18
    asked = {"name": name, "source": "dbfs:/somewhere"}
    payload = [
        requests.post(f"{create}/model-versions/create", json=asked, headers=headers, timeout=10)
        for _ in range(3)
    ]
    assert [answer.status_code for answer in payload] == [200, 200, 400]
    assert payload[2].json()["error_code"] == "RESOURCE_LIMIT_EXCEEDED"
    mlflow_registry = f"{adb.uri}/api/2.0/mlflow/model-versions/create"
    adb.switches.pending_versions = 20
    refused_too = requests.post(mlflow_registry, json=asked, headers=headers, timeout=10)
    assert refused_too.json()["error_code"] == "RESOURCE_LIMIT_EXCEEDED"


def test_unity_catalog_wants_three_levels_legal_tags_and_a_signature(
    client: Any, adb: Databricks, experiment_name: str, tmp_path: Path
) -> None:
    name = f"main.ml.{experiment_name.replace('-', '_')}"
    assert "all three levels" in refused(client.create_registered_model, "iris")
    client.create_registered_model(name)
    assert "Tag key" in refused(client.set_registered_model_tag, name, "mlflow.key", "v")
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {}}\n")
    assert "signature" in refused(client.create_model_version, name, str(tmp_path))
    adb.switches.unity_catalog = False
    assert "to use the legacy Workspace Model Registry" in refused(client.create_registered_model, "a.b.c")


def test_tokens_end_and_permissions_are_told_apart(
    adb: Databricks, monkeypatch: pytest.MonkeyPatch, experiment_name: str
) -> None:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.errors import PermissionDenied, Unauthenticated

    client_id, secret = adb.principal("robot@example.com")
    monkeypatch.setenv("DATABRICKS_HOST", adb.uri)
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", client_id)
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", secret)
    workspace = WorkspaceClient()
    assert workspace.current_user.me().user_name == "robot@example.com"
    adb.expire()
    with pytest.raises(Unauthenticated, match="expired"):
        workspace.current_user.me()
    adb.switches.token_lifetime = 0.0
    issued = adb.tokens_issued
    fresh = WorkspaceClient()
    with pytest.raises(Unauthenticated):
        fresh.current_user.me()
    assert adb.tokens_issued > issued
    adb.deny(ADA, "workspace/mkdirs", f"{ADA} does not have Manage permissions on /Shared")
    other = WorkspaceClient(host=adb.uri, token=adb.token(ADA), auth_type="pat")
    with pytest.raises(PermissionDenied, match="Manage"):
        other.workspace.mkdirs("/Shared/team")


def test_an_unknown_route_is_loud(adb: Databricks) -> None:
    headers = {"Authorization": f"Bearer {adb.token(ADA)}"}
    found = requests.get(f"{adb.uri}/api/2.0/mlflow/never-heard-of", headers=headers, timeout=10)
    assert found.status_code == 404
    assert adb.unknown == ["GET /api/2.0/mlflow/never-heard-of"]
    adb.unknown.clear()
