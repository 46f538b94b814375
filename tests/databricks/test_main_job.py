"""The main job at Databricks, through its real clients: link, track, register, read back natively."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.errors import DbmlError
from tests.databricks.conftest import ADA
from tests.infra.servers import Server, ServerHost
from tests.standins.databricks import ORGANIZATION, Databricks

NATIVE = """
import json, sys
import mlflow
import numpy as np
from mlflow import MlflowClient
run_id, name, registry = sys.argv[1:4]
mlflow.set_tracking_uri("databricks"); mlflow.set_registry_uri(registry)
client = MlflowClient()
run = client.get_run(run_id)
version = client.get_model_version(name, "1")
print(json.dumps({
    "metrics": run.data.metrics, "params": run.data.params, "status": run.info.status,
    "experiment": client.get_experiment(run.info.experiment_id).name,
    "files": sorted(f.path for f in client.list_artifacts(run_id)),
    "text": mlflow.artifacts.load_text(run.info.artifact_uri + "/notes/hello.txt"),
    "tags": version.tags, "run": version.run_id,
    "predictions": [float(x) for uri in (f"runs:/{run_id}/model", f"models:/{name}/1")
        for x in mlflow.pyfunc.load_model(uri).predict(np.array([[3.0]]))],
}))
"""


def natively(adb: Databricks, run_id: str, name: str, registry: str) -> dict[str, Any]:
    """Read a run and its models with MLflow's own client, in a process that has never heard of a link."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DBML_"))}
    environment.update(DATABRICKS_HOST=adb.uri, DATABRICKS_TOKEN=adb.token(ADA), MLFLOW_DISABLE_TELEMETRY="1")
    environment.pop("DATABRICKS_CONFIG_FILE", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NATIVE, run_id, name, registry],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"MLflow's own client fails at the workspace:\n{done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def other_side(server_host: ServerHost) -> Server:
    """Return a plain MLflow server for the other role."""
    return server_host.start("databricks-other")


@pytest.mark.full(but=["both-catalog"])
@pytest.mark.parametrize("registry", ["workspace", "catalog"])
@pytest.mark.parametrize("track", ["databricks", "both"])
def test_a_run_with_its_model_is_at_databricks_as_its_own_client_expects(
    signed_in: Databricks, other_side: Server, home: Path, track: str, registry: str, experiment_name: str
) -> None:
    import mlflow
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    session = sessions.current()
    sides = {"databricks": "databricks", **({"azureml": other_side.uri} if track == "both" else {})}
    dbml.link(**sides, track=track)  # type: ignore[arg-type]
    made = dbml.experiment(experiment_name)
    assert made.names["databricks"] == f"/Users/{ADA}/{experiment_name}"
    plain = experiment_name.replace("-", "_")
    name = f"main.ml.{plain}" if registry == "catalog" else plain
    tracked = session.begin_track("forest", params={"depth": 3})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_text("hello", "notes/hello.txt")
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    mlflow.sklearn.log_model(
        model,
        name="model",
        pip_requirements=["scikit-learn"],
        signature=infer_signature(np.array([[0.0]]), model.predict([[0.0]])),
    )
    summary = tracked.end()
    registered = dbml.register("last", name)
    assert [(v.name, v.version) for v in registered.versions] == [(name, "1")]
    assert not any(dbml.sync(timeout=60).dead.values())
    assert summary.links["databricks"].startswith(f"{signed_in.uri}/?o={ORGANIZATION}#mlflow/experiments/")
    assert len(signed_in.requests("databricks-config")) < 12, "discovery is asked for once, not at each call"
    own = summary.links["databricks"].rpartition("/")[2]
    held = natively(signed_in, own, name, "databricks-uc" if registry == "catalog" else "databricks")
    assert held["metrics"] == {"loss": pytest.approx(0.2)}
    assert held["params"] == {"depth": "3"}
    assert held["status"] == "FINISHED"
    assert held["experiment"] == f"/Users/{ADA}/{experiment_name}"
    assert held["text"] == "hello"
    assert held["predictions"] == [pytest.approx(6.0)] * 2
    assert held["tags"]["dbml_run_id"] == summary.run_id
    assert held["run"] == own
    assert max(signed_in.written.values()) == 1, "a point was written twice"
    loaded = mlflow.pyfunc.load_model(f"models:/{name}/1")
    assert float(loaded.predict(np.array([[3.0]]))[0]) == pytest.approx(6.0)
    assert [v.version for v in dbml.models(name).versions] == ["1"]


def test_a_profile_reaches_its_own_workspace_and_makes_the_folders_of_an_experiment(
    adb: Databricks, home: Path, config_file: Path, experiment_name: str
) -> None:
    import mlflow

    client_id, secret = adb.principal("robot@example.com")
    profiles = configparser.ConfigParser()
    profiles["DEFAULT"] = {"host": "http://127.0.0.1:9", "token": "of-another-workspace"}
    profiles["team"] = {
        "host": adb.uri,
        "client_id": client_id,
        "client_secret": secret,
        "auth_type": "oauth-m2m",
    }
    with config_file.open("w") as out:
        profiles.write(out)
    dbml.link(databricks="databricks://team", track="databricks")
    path = f"/Users/robot@example.com/deep/folder/{experiment_name}"
    dbml.experiment(path)
    with mlflow.start_run():
        mlflow.log_text("x", "x.txt")
        mlflow.log_metric("m", 1.0)
    assert path in adb.nodes
    assert not dbml.sync(timeout=60).dead["databricks"]
    assert any(p.endswith("/x.txt") for p in adb.files), "the file went to the profile's workspace"
    for kept in (f for f in home.rglob("*") if f.is_file()):
        assert secret.encode() not in kept.read_bytes(), f"{kept} holds the secret"


def test_a_model_without_a_signature_is_refused_for_the_catalog_and_a_missing_sign_in_is_said(
    signed_in: Databricks, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    session = sessions.current()
    dbml.link(databricks="databricks", track="databricks")
    dbml.experiment(experiment_name)
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), name="m", pip_requirements=["scikit-learn"]
        )
    with pytest.raises(DbmlError, match="signature"):
        dbml.register("last", f"main.ml.{experiment_name.replace('-', '_')}")
    dbml.sync(timeout=60)
    session.unlink()
    monkeypatch.delenv("DATABRICKS_HOST")
    monkeypatch.delenv("DATABRICKS_TOKEN")
    with pytest.raises(DbmlError) as caught:
        dbml.link(databricks="databricks://nobody", track="databricks")
    assert caught.value.remedies, "the error names the next command"
