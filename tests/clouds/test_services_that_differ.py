"""The less usual pairs, rates and capabilities of the services: the same lines, and all of it arrives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from tests.clouds.conftest import MODES, Clouds
from tests.core.linking import child, finish
from tests.databricks.conftest import ADA
from tests.infra.service_limits import DATABRICKS_RATES, RateEnforcer

OTHER_PAIRS = [
    (track, registry)
    for track in ("both", "azureml", "databricks")
    for registry in ("both", "azureml", "databricks")
    if (track, registry) not in MODES
]


def logged_model() -> Any:
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    signature = infer_signature(np.array([[0.0]]), model.predict([[0.0]]))
    return mlflow.sklearn.log_model(
        model, name="model", pip_requirements=["scikit-learn"], signature=signature
    )


def predicted(uri: str) -> float:
    import mlflow

    return float(mlflow.pyfunc.load_model(uri).predict(np.array([[3.0]]))[0])


@pytest.mark.full
@pytest.mark.parametrize(("track", "registry"), OTHER_PAIRS)
def test_a_model_is_registered_where_its_run_is_not_too(
    both: Clouds, home: Path, experiment_name: str, track: str, registry: str
) -> None:
    import mlflow

    dbml.link(**both.wishes(track, registry))
    dbml.experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        logged_model()
    name = experiment_name.replace("-", "_")
    made = dbml.register("last", name)
    wanted = ["databricks", "azureml"] if registry == "both" else [registry]
    assert [v.workspace for v in made.versions] == wanted
    assert not any(dbml.sync(timeout=120).dead.values())
    assert predicted(f"models:/{name}/1") == pytest.approx(6.0)
    assert predicted(f"runs:/{run.info.run_id}/model") == pytest.approx(6.0)


@pytest.mark.full
def test_the_rates_of_databricks_are_kept_without_loss(
    both: Clouds, home: Path, experiment_name: str
) -> None:
    import mlflow

    both.adb.switches.rates = RateEnforcer(DATABRICKS_RATES)
    dbml.link(**both.wishes("both", "both"))
    dbml.experiment(experiment_name)
    runs = []
    for number in range(25):
        with mlflow.start_run(run_name=f"r{number}") as run:
            mlflow.log_param("number", number)
            for step in range(20):
                mlflow.log_metric("loss", 1 / (step + 1), step=step)
            mlflow.set_tag("team", "wine")
        runs.append(run.info.run_id)
    with mlflow.start_run():
        logged_model()
    dbml.register("last", experiment_name.replace("-", "_"))
    assert not any(dbml.sync(timeout=120).dead.values())
    assert max(both.adb.written.values()) == 1, "a point was written twice"
    for _ in range(10):  # more searches a second than the service takes
        found = mlflow.search_runs(output_format="list")
    assert len(found) == 26
    assert {run.info.run_id for run in found} >= set(runs)


@pytest.mark.full
@pytest.mark.parametrize(
    "lacking", [{"unity_catalog": False}, {"files_api": False}, {"half_batches": 3}], ids=str
)
def test_a_databricks_that_lacks_something_has_all_of_the_run(
    both: Clouds, home: Path, experiment_name: str, lacking: dict[str, Any]
) -> None:
    import mlflow

    for name, value in lacking.items():
        setattr(both.adb.switches, name, value)
    dbml.link(**both.wishes("both", "databricks"))
    dbml.experiment(experiment_name)
    with mlflow.start_run() as run:
        for step in range(30):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_text("hello", "notes/hello.txt")
        mlflow.log_text("refused by MLflow's own servers alone", "notes/a#1.txt")
        logged_model()
    plain = experiment_name.replace("-", "_")
    name = plain if lacking.get("unity_catalog") is False else f"main.ml.{plain}"
    dbml.register("last", name)
    assert not any(dbml.sync(timeout=120).dead.values())
    assert max(both.adb.written.values()) == 1, "a point was written twice"
    assert predicted(f"models:/{name}/1") == pytest.approx(6.0)
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/hello.txt") == "hello"
    notes = Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, "notes"))
    assert (notes / "a#1.txt").read_text() == "refused by MLflow's own servers alone"
    compared = dbml.verify(experiment=experiment_name)
    assert (compared.runs_compared, list(compared.differences)) == (1, [])
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")) == 30


@pytest.mark.full
def test_a_cloud_is_named_after_mlflow_and_azureml_were_imported(both: Clouds, home: Path) -> None:
    named = {**both.wishes("azureml", "azureml"), "cloud": both.azure.cloud}
    code = f"""
        import os
        address = os.environ.pop("ARM_CLOUD_METADATA_URL")
        os.environ.pop("AZUREML_CURRENT_CLOUD")
        import mlflow, azureml.core, azureml.mlflow
        os.environ["ARM_CLOUD_METADATA_URL"] = address
        import dbml_magics as dbml
        status = dbml.link(**{named!r})
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 1.0)
            mlflow.log_text("x", "a.txt")
        dbml.sync(timeout=60)
        text = mlflow.artifacts.load_text(f"runs:/{{run.info.run_id}}/a.txt")
        print(status.workspace.name, mlflow.get_run(run.info.run_id).data.metrics, text)
        """
    assert finish(child(code)).splitlines()[-1] == f"{both.azure.workspace} {{'loss': 1.0}} x"


def test_a_link_by_uri_has_the_workspaces_own_object_too(both: Clouds, home: Path) -> None:
    status = dbml.link(azureml=both.azure.tracking_uri(), track="azureml")
    assert status.workspace.name == both.azure.workspace
    assert status.workspace.get_mlflow_tracking_uri().startswith("azureml://")
    assert "MLFLOW_TRACKING_URI" in os.environ


def test_an_experiment_with_more_tags_than_azure_ml_takes_is_there_with_its_runs(
    both: Clouds, home: Path, experiment_name: str
) -> None:
    import mlflow

    dbml.link(**both.wishes())
    client = mlflow.MlflowClient()
    tags = {f"t{n:02}": "v" for n in range(60)} | {"long": "x" * 3000}
    own = client.create_experiment(f"/Users/{ADA}/{experiment_name}", tags=tags)
    with mlflow.start_run(experiment_id=own) as run:
        mlflow.log_metric("loss", 0.5)
    assert dbml.sync(timeout=120).dead["azureml"] == 61 - 49
    engine = sessions.current().engine("the test")
    causes = {letter[4] for letter in engine.state.dead("azureml")}
    assert causes == {
        "azureml takes 49 tags an experiment beside ours",
        "azureml takes 1,000 characters in an experiment's tag",
    }
    there = engine.workspaces["azureml"].tracking.get_experiment_by_name(experiment_name)
    assert there.tags.items() >= {f"t{n:02}": "v" for n in range(49)}.items()
    assert "long" not in there.tags
    found = engine.workspaces["azureml"].tracking.search_runs([there.experiment_id], "", 1)
    assert [(r.info.run_name, r.data.metrics) for r in found] == [(run.info.run_name, {"loss": 0.5})]
