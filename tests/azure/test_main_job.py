"""The main job at Azure ML, through its real clients: link, track, register, read back natively."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from tests.standins.azure import AzureStandIn

NATIVE = """
import json, os, re, sys
import mlflow
import numpy as np
from azure.identity import ClientSecretCredential
from azureml.mlflow._common._cloud.cloud import _get_cloud_or_default
from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader as Loader
from azureml.mlflow._internal.utils import ServiceContext
from mlflow import MlflowClient
uri, run_id, name = sys.argv[1:4]
tenant, client, secret = (os.environ["AZURE_" + k] for k in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET"))
_, sub, _, group, _, _, _, ws = uri.rstrip("?").split("/mlflow/v2.0/")[1].split("/")
Loader.add_service_context(uri, ServiceContext(
    "https://" + uri.split("/")[2], sub, ws, group, cloud=_get_cloud_or_default(),
    auth=ClientSecretCredential(tenant, client, secret, disable_instance_discovery=True)))
mlflow.set_tracking_uri(uri); mlflow.set_registry_uri(uri)
client = MlflowClient()
run = client.get_run(run_id)
files = sorted(f.path for f in client.list_artifacts(run_id))
model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
versions = [(v.name, v.version, v.run_id, v.tags) for v in client.search_model_versions(f"name='{name}'")]
registered = mlflow.pyfunc.load_model(f"models:/{name}/{versions[0][1]}")
print(json.dumps({
    "metrics": run.data.metrics, "params": run.data.params, "tags": run.data.tags, "status": run.info.status,
    "files": files, "versions": versions,
    "predictions": [float(x) for x in model.predict(np.array([[3.0]]))],
    "registered": [float(x) for x in registered.predict(np.array([[3.0]]))],
    "history": [m.value for m in
        client._tracking_client.store.get_metric_history(run_id, "loss", max_results=500)],
}))
"""


def natively(azure: AzureStandIn, home: Path, run_id: str, name: str) -> dict[str, Any]:
    """Read a run and its models with azureml-mlflow alone, in a process that has never heard of a link."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NATIVE, azure.tracking_uri(), run_id, name],
        env=azure.environment(home),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"MLflow's own client fails at the workspace:\n{done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_a_run_with_its_model_is_at_azure_ml_as_its_own_client_expects(
    signed_in: AzureStandIn, names: dict[str, Any], tmp_path: Path, experiment_name: str
) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    session = sessions.current()
    status = dbml.link(track="azureml", registry="azureml", **names)
    assert any("service principal" in note for note in status.notes), "link says how it signs in"
    mlflow.set_experiment(f"/Users/ada@contoso.test/{experiment_name}")
    track = session.begin_track("forest", params={"depth": 3})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_text("hello", "notes/hello.txt")
    mlflow.sklearn.log_model(
        LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), name="model", pip_requirements=["scikit-learn"]
    )
    summary = track.end()
    dbml.sync(timeout=60)
    version = dbml.register(track.run_id, experiment_name, aliases=("champion",)).versions[0]

    found = natively(signed_in, tmp_path / "native", summary.run_id, experiment_name)
    assert found["status"] == "FINISHED"
    assert found["params"] == {"depth": "3"}
    assert len(found["history"]) == 5
    assert {"model", "notes"} <= set(found["files"])
    assert found["predictions"] == pytest.approx([6.0])
    assert found["registered"] == pytest.approx([6.0])
    assert version.version == "1"
    assert summary.links["azureml"].startswith(f"{signed_in.uri}/studio/runs/")

    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias(experiment_name, "champion").version == "1", "the alias is ours"
    assert client.get_registered_model(experiment_name).aliases == {"champion": "1"}
    model_id = client.search_logged_models(
        [client.get_experiment_by_name(f"/Users/ada@contoso.test/{experiment_name}").experiment_id]
    )[0].model_id
    assert float(mlflow.pyfunc.load_model(f"models:/{model_id}").predict([[3.0]])[0]) == pytest.approx(6.0)
    rows = dbml.runs(order_by=["metrics.loss DESC"]).rows
    assert [row.run_id for row in rows] == [summary.run_id], "sorted here, since Azure ML cannot"
    session.unlink()


@pytest.mark.full
def test_a_mirror_gets_every_run_and_version_with_its_twin(
    signed_in: AzureStandIn, names: dict[str, Any], tmp_path: Path
) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    session = sessions.current()
    there = f"sqlite:///{tmp_path}/databricks.db"
    dbml.link(databricks=there, registry="both", **names)
    dbml.experiment("/Users/ada@contoso.test/mirrored")
    track = session.begin_track("twin")
    mlflow.log_metric("loss", 0.25, step=1)
    mlflow.sklearn.log_model(
        LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), name="model", pip_requirements=["scikit-learn"]
    )
    track.end()
    result = dbml.register(track.run_id, "twins")
    dbml.sync(timeout=60)
    versions = {v.workspace: v for v in dbml.models("twins").versions}
    assert versions["azureml"].twin == "databricks:twins/1"
    assert versions["databricks"].twin == "azureml:twins/1"
    assert result.name == "twins"
    identity = session.engine("the test").state.identity("azureml", "run", track.run_id)
    assert identity is not None
    found = natively(signed_in, tmp_path / "native", identity.actual, "twins")
    assert found["predictions"] == pytest.approx([6.0])
    assert found["registered"] == pytest.approx([6.0])
    assert found["tags"].get("dbml_run_id", track.run_id) == track.run_id
    session.unlink()
