"""A workspace without logged models (Azure ML, MLflow 2): MLflow 3's model calls work all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from tests.core.modelling import (
    ANSWERS,
    PLAIN_REQUIREMENTS,
    ROWS,
    dead,
    files_at,
    in_kernel,
    linear,
    log_linear,
    mlmodel,
    no_trace_of_the_link,
    predicted,
    rounded,
    run_with_model,
    sync,
)
from tests.infra import plain

ROLES = ["mirror", "primary", "alone"]


@pytest.fixture(params=ROLES)
def lacking(request: pytest.FixtureRequest, home: Path, proxies: Any, experiment_name: str) -> Any:
    """Link with a workspace that has no logged models; return the proxy in front of it."""
    if request.param == "primary":
        proxies.databricks.without_logged_models()
        dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="both")
        found = proxies.databricks
    else:
        proxies.azureml.without_logged_models()
        found = proxies.azureml
        if request.param == "alone":
            dbml.link(azureml=proxies.azureml.uri, track="azureml")
        else:
            dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="both")
    mlflow.set_experiment(experiment_name)
    return found


@pytest.fixture
def alone(home: Path, proxies: Any, experiment_name: str) -> Any:
    """Link with one workspace, which has no logged models; return its proxy."""
    proxies.azureml.without_logged_models()
    dbml.link(azureml=proxies.azureml.uri, track="azureml")
    mlflow.set_experiment(experiment_name)
    return proxies.azureml


def _files_of(proxy: Any, run_id: str, folder: str) -> dict[str, bytes]:
    return files_at(proxy.uri, f"{plain.client(proxy.uri).get_run(run_id).info.artifact_uri}/{folder}")


@pytest.mark.full(but=["primary"])
def test_a_model_is_logged_loaded_and_registered_by_all_its_names(lacking: Any, experiment_name: str) -> None:
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_param("depth", 3)
        info = log_linear(
            params={"solver": "svd"}, tags={"team": "wine"}, registered_model_name=experiment_name
        )
        assert predicted(info.model_uri) == ANSWERS
    run_id = run.info.run_id
    made = mlflow.register_model(f"runs:/{run_id}/model", experiment_name)
    assert made.version == "2"
    assert mlflow.register_model(f"models:/{info.model_id}", experiment_name).version == "3"
    assert dbml.register(run_id, experiment_name).versions[0].version == "4"
    sync()
    assert dead() == []

    there = str(plain.twin_id(lacking.uri, run_id, experiment_name))
    held = plain.run(lacking.uri, there)
    assert held["last"] == {"loss": 0.5}
    assert held["outputs"] == []
    assert held["tags"]["dbml_models"] == f"{info.model_id}=model"
    [classic] = json.loads(held["tags"]["mlflow.log-model.history"])
    assert (classic["artifact_path"], classic["run_id"]) == ("model", there)
    files = _files_of(lacking, there, "model")
    assert {"MLmodel", "requirements.txt", "conda.yaml"} <= set(files)
    assert (mlmodel(files)["run_id"], mlmodel(files)["artifact_path"]) == (there, "model")
    assert no_trace_of_the_link(files)
    held_versions = plain.model_versions(lacking.uri, experiment_name)
    assert [v["version"] for v in held_versions] == ["1", "2", "3", "4"]
    assert {v["run_id"] for v in held_versions} == {there}
    assert all(v["source"].endswith("/artifacts/model") for v in held_versions)
    names = [f"runs:/{there}/model", f"models:/{experiment_name}/1", f"models:/{experiment_name}/3"]
    places = [[lacking.uri, lacking.uri, name] for name in names]
    assert rounded(plain.in_child("predictions_at", places, ROWS)) == [ANSWERS] * 3

    for name in (info.model_uri, f"runs:/{run_id}/model", f"models:/{experiment_name}/4"):
        assert predicted(name) == ANSWERS
    assert mlflow.models.get_model_info(f"models:/{experiment_name}/1").model_id
    assert [o.model_id for o in MlflowClient().get_run(run_id).outputs.model_outputs] == [info.model_id]
    assert "MLmodel" in {f.path for f in mlflow.artifacts.list_artifacts(info.model_uri)}
    model = mlflow.get_logged_model(info.model_id)
    assert (model.name, model.status, model.source_run_id) == ("model", "READY", run_id)
    assert model.params == {"depth": "3", "solver": "svd"}
    assert model.tags["team"] == "wine"
    assert [(m.key, m.value) for m in model.metrics] == [("loss", 0.5)]


def test_logged_models_are_searched_filtered_sorted_changed_and_deleted(
    lacking: Any, experiment_name: str
) -> None:
    ids = {}
    for number in (1, 2, 3):
        with mlflow.start_run():
            model = mlflow.initialize_logged_model(
                name=f"model-{number}", tags={"odd": str(number % 2)}, params={"n": str(number)}
            )
            mlflow.log_metric("loss", 1 / number, model_id=model.model_id)
            mlflow.finalize_logged_model(model.model_id, "READY")
            ids[model.model_id] = number
    experiment = mlflow.get_experiment_by_name(experiment_name).experiment_id

    def found(where: str | None = None, **options: Any) -> list[int]:
        models = MlflowClient().search_logged_models([experiment], filter_string=where, **options)
        return [ids[m.model_id] for m in models]

    assert sorted(found()) == [1, 2, 3]
    assert found("name = 'model-2'") == [2]
    assert sorted(found("tags.odd = '1'")) == [1, 3]
    assert found("params.n = '3'") == [3]
    assert sorted(found("metrics.loss < 0.9")) == [2, 3]
    ascending = [{"field_name": "metrics.loss", "ascending": True}]
    assert found(order_by=ascending) == [3, 2, 1]
    assert found(order_by=[{"field_name": "metrics.loss", "ascending": False}]) == [1, 2, 3]
    page = MlflowClient().search_logged_models([experiment], max_results=2, order_by=ascending)
    rest = MlflowClient().search_logged_models(
        [experiment], max_results=2, order_by=ascending, page_token=page.token
    )
    assert [ids[m.model_id] for m in [*page, *rest]] == [3, 2, 1]

    first, second, third = ids
    mlflow.set_logged_model_tags(first, {"new": "tag"})
    mlflow.delete_logged_model_tag(first, "odd")
    mlflow.log_model_params({"later": "yes"}, model_id=first)
    MlflowClient().delete_logged_model(second)
    sync()
    assert dead() == []
    changed = mlflow.get_logged_model(first)
    assert {k: v for k, v in changed.tags.items() if k in ("new", "odd")} == {"new": "tag"}
    assert changed.params == {"n": "1", "later": "yes"}
    assert sorted(found()) == [1, 3]
    with pytest.raises(MlflowException, match="not found"):
        mlflow.get_logged_model(second)
    assert third in ids


@pytest.mark.full
def test_every_kind_of_model_loads_there_without_us(
    alone: Any, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightgbm

    monkeypatch.setattr("mlflow.models.infer_pip_requirements", lambda *_, **__: PLAIN_REQUIREMENTS)

    class Twice(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return (np.asarray(model_input)[:, 0] * 2 + 1).tolist()

    data = np.linspace(0, 1, 60).reshape(-1, 1)
    trees = lightgbm.train(
        {"objective": "regression", "verbosity": -1, "num_threads": 1},
        lightgbm.Dataset(data, label=data[:, 0]),
        num_boost_round=3,
    )
    mlflow.sklearn.autolog(silent=True)
    try:
        with mlflow.start_run() as run:
            linear()
            mlflow.lightgbm.log_model(trees, name="trees", pip_requirements=["lightgbm"])
            mlflow.pyfunc.log_model(name="twice", python_model=Twice(), pip_requirements=["numpy"])
    finally:
        mlflow.sklearn.autolog(disable=True)
    sync()
    assert dead() == []
    held = plain.run(alone.uri, run.info.run_id)
    assert held["params"]["fit_intercept"] == "True"
    assert "training_score" in held["last"]
    places = [
        [alone.uri, alone.uri, f"runs:/{run.info.run_id}/{name}"] for name in ("model", "trees", "twice")
    ]
    answers = plain.in_child("predictions_at", places, ROWS)
    assert rounded([answers[0]]) == [ANSWERS]
    assert answers[1] == pytest.approx(np.asarray(trees.predict(np.array(ROWS))))
    assert answers[2] == ANSWERS


def test_two_models_of_one_name_and_one_without_a_run_are_all_kept(alone: Any, experiment_name: str) -> None:
    with mlflow.start_run() as run:
        first = log_linear()
        second = log_linear()
    lonely = log_linear("alone")
    sync()
    assert dead() == []
    run_id = run.info.run_id
    for info in (first, second, lonely):
        assert predicted(info.model_uri) == ANSWERS
        assert mlflow.get_logged_model(info.model_id).status == "READY"
    assert predicted(f"runs:/{run_id}/model") == ANSWERS
    folders = {f.path for f in plain.client(alone.uri).list_artifacts(run_id) if f.is_dir}
    assert {"model", "model-2"} <= folders
    found = MlflowClient().search_logged_models(
        [mlflow.get_experiment_by_name(experiment_name).experiment_id]
    )
    assert {m.model_id for m in found} == {first.model_id, second.model_id, lonely.model_id}
    assert mlflow.get_logged_model(lonely.model_id).source_run_id is None
    made = mlflow.register_model(lonely.model_uri, experiment_name)
    assert made.version == "1"
    assert predicted(f"models:/{experiment_name}/1") == ANSWERS


def test_a_run_with_many_models_has_one_short_tag_and_none_is_lost(alone: Any, experiment_name: str) -> None:
    with mlflow.start_run() as run:
        made = [mlflow.initialize_logged_model(name=f"model-{n}").model_id for n in range(30)]
    sync()
    held = plain.run(alone.uri, run.info.run_id, files=False)
    assert len(held["tags"]["dbml_models"]) <= 1000
    assert {key for key in held["tags"] if key.startswith("dbml_")} == {"dbml_models", "dbml_run_id"}
    experiment = mlflow.get_experiment_by_name(experiment_name).experiment_id
    found = MlflowClient().search_logged_models([experiment], max_results=100)
    assert {m.model_id for m in found} == set(made)


@pytest.mark.full
def test_another_machine_finds_and_uses_the_models(alone: Any, experiment_name: str, tmp_path: Path) -> None:
    run_id = run_with_model(tags={"team": "wine"})
    [output] = MlflowClient().get_run(run_id).outputs.model_outputs
    sync()
    experiment = mlflow.get_experiment_by_name(experiment_name).experiment_id
    answer = in_kernel(
        f"""
        client = mlflow.MlflowClient()
        model = mlflow.get_logged_model("{output.model_id}")
        found = client.search_logged_models(["{experiment}"], filter_string="tags.team = 'wine'")
        loaded = [
            mlflow.pyfunc.load_model(uri).predict(np.array({ROWS})).round(6).tolist()
            for uri in ("models:/{output.model_id}", "runs:/{run_id}/model")
        ]
        mlflow.set_logged_model_tags("{output.model_id}", {{"seen": "yes"}})
        version = mlflow.register_model("models:/{output.model_id}", "{experiment_name}").version
        answer = [
            model.name, str(model.status), model.source_run_id, dict(model.tags)["team"],
            [m.model_id for m in found], loaded, version,
            [o.model_id for o in client.get_run("{run_id}").outputs.model_outputs],
        ]
        """,
        MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
        MLFLOW_REGISTRY_URI=mlflow.get_tracking_uri(),
        DBML_HOME=str(tmp_path / "elsewhere"),
    )
    model_id = output.model_id
    assert answer == ["model", "READY", run_id, "wine", [model_id], [ANSWERS] * 2, "1", [model_id]]
    [version] = plain.model_versions(alone.uri, experiment_name)
    assert version["run_id"] == run_id


@pytest.mark.full
def test_a_model_loads_before_its_files_have_arrived(alone: Any, experiment_name: str) -> None:
    alone.status(503, path="mlflow-artifacts/artifacts/", method="PUT")
    with mlflow.start_run() as run:
        info = log_linear()
        assert predicted(info.model_uri) == ANSWERS
        assert predicted(f"runs:/{run.info.run_id}/model") == ANSWERS
    alone.clear()
    alone.without_logged_models()
    sync()
    assert predicted(f"runs:/{run.info.run_id}/model") == ANSWERS
    assert dead() == []


def test_what_a_workspace_has_is_found_by_asking_it(
    home: Path, proxies: Any, experiment_name: str, tmp_path: Path
) -> None:
    dbml.link(azureml=proxies.azureml.uri, track="azureml")
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model()
    sync()
    [model] = plain.logged_models(proxies.azureml.uri, run_id)
    assert (model["name"], model["status"]) == ("model", "READY")
    held = plain.run(proxies.azureml.uri, run_id)
    assert "dbml_models" not in held["tags"]
    assert held["artifacts"] == {}
