"""Models logged through the link: whole at both workspaces, and loaded by any of their names anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core import session
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
    model_files,
    no_trace_of_the_link,
    predicted,
    rounded,
    run_with_model,
    sync,
)
from tests.infra import plain
from tests.infra.proxy import basic


@pytest.fixture(params=["servers", "local"])
def linked(request: pytest.FixtureRequest, home: Path) -> Any:
    """Link two workspaces, registering in both; return the status."""
    if request.param == "local":
        return dbml.link(local=True, registry="both")
    proxies = request.getfixturevalue("proxies")
    return dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="both")


@pytest.fixture
def both(home: Path, proxies: Any) -> Any:
    """Link the two servers, registering in both; return the proxies."""
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="both")
    return proxies


def at_each(status: Any, run_id: str, experiment: str) -> list[tuple[str, str]]:
    """Return (URI, the run's id there) of each workspace."""
    found = []
    for workspace in status.destinations:
        run = plain.twin_id(workspace.uri, run_id, experiment)
        assert run is not None, f"{workspace.name} has no such run"
        found.append((workspace.uri, run))
    return found


# --- what each workspace has


@pytest.mark.full(but=["local"])
def test_a_logged_model_is_whole_at_both_workspaces_and_each_loads_it_without_us(
    linked: Any, experiment_name: str
) -> None:
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_param("depth", 3)
        info = log_linear(
            params={"solver": "svd"},
            tags={"team": "wine"},
            input_example=np.array(ROWS),
            registered_model_name=experiment_name,
        )
        MlflowClient().set_registered_model_alias(experiment_name, "champion", "1")
    sync()
    assert dead() == []

    places = []
    sets = []
    for uri, run_id in at_each(linked, run.info.run_id, experiment_name):
        held = plain.run(uri, run_id)
        assert held["status"] == "FINISHED"
        [[model_id, _step]] = held["outputs"]
        model = plain.logged_model(uri, model_id)
        assert (model["name"], model["status"], model["source_run_id"]) == ("model", "READY", run_id)
        assert model["params"] == {"depth": "3", "solver": "svd"}
        assert model["tags"]["team"] == "wine"
        assert model["metrics"] == [["loss", 0, 0.5, None, None]]
        files = model_files(uri, model_id)
        sets.append(set(files))
        written = mlmodel(files)
        assert (written["run_id"], written["model_id"]) == (run_id, model_id)
        assert written["artifact_path"] == model["artifact_location"]
        assert no_trace_of_the_link(files)
        [version] = plain.model_versions(uri, experiment_name)
        assert (version["version"], version["run_id"], version["status"]) == ("1", run_id, "READY")
        assert version["aliases"] == ["champion"]
        assert "dbml:" not in version["source"]
        names = (
            f"runs:/{run_id}/model",
            f"models:/{model_id}",
            f"models:/{experiment_name}/1",
            f"models:/{experiment_name}@champion",
        )
        places += [[uri, uri, name] for name in names]
    assert sets[0] == sets[1]
    assert {"MLmodel", "input_example.json", "requirements.txt"} <= sets[0]
    assert rounded(plain.in_child("predictions_at", places, ROWS)) == [ANSWERS] * 8
    assert predicted(info.model_uri) == ANSWERS


def _log_lightgbm() -> Any:
    import lightgbm

    rng = np.random.default_rng(1)
    data = rng.random((60, 1))
    booster = lightgbm.train(
        {"objective": "regression", "verbosity": -1, "num_threads": 1},
        lightgbm.Dataset(data, label=2 * data[:, 0] + 1),
        num_boost_round=5,
    )
    mlflow.lightgbm.log_model(booster, name="trees", pip_requirements=["lightgbm"])
    return list(np.asarray(booster.predict(np.array(ROWS))))


def _log_pyfunc() -> Any:
    class Doubled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return (np.asarray(model_input)[:, 0] * 2 + 1).tolist()

    mlflow.pyfunc.log_model(name="function", python_model=Doubled(), pip_requirements=["numpy"])
    return ANSWERS


@pytest.mark.full
def test_models_of_other_libraries_load_at_both_workspaces_too(both: Any, experiment_name: str) -> None:
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        trees = _log_lightgbm()
        answers = _log_pyfunc()
        loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/trees")
        assert list(loaded.predict(np.array(ROWS))) == pytest.approx(trees)
    sync()
    assert dead() == []
    places = []
    for proxy in both:
        there = plain.twin_id(proxy.uri, run.info.run_id, experiment_name)
        places += [[proxy.uri, proxy.uri, f"runs:/{there}/{name}"] for name in ("trees", "function")]
    found = plain.in_child("predictions_at", places, ROWS)
    assert found[0] == found[2] == pytest.approx(trees)
    assert found[1] == found[3] == answers


def test_autologging_leaves_the_model_at_both_workspaces(
    both: Any, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.models.infer_pip_requirements", lambda *_, **__: PLAIN_REQUIREMENTS)
    mlflow.set_experiment(experiment_name)
    mlflow.sklearn.autolog(silent=True)
    try:
        with mlflow.start_run() as run:
            linear()
    finally:
        mlflow.sklearn.autolog(disable=True)
    sync()
    assert dead() == []
    for proxy in both:
        there = str(plain.twin_id(proxy.uri, run.info.run_id, experiment_name))
        held = plain.run(proxy.uri, there)
        assert held["params"]["fit_intercept"] == "True"
        assert "training_score" in held["last"]
        [model] = plain.logged_models(proxy.uri, there)
        assert (model["name"], model["status"]) == ("model", "READY")
        assert ["training_score", 0, 1.0] in [m[:3] for m in model["metrics"]]
        assert "MLmodel" in model_files(proxy.uri, model["model_id"])


# --- spark

_NO_SPARK = importlib.util.find_spec("pyspark") is None


@pytest.mark.full
@pytest.mark.skipif(_NO_SPARK, reason="pyspark is not installed (the extra 'spark')")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_spark_model_is_whole_at_both_workspaces_and_registered_in_both(
    both: Any, experiment_name: str, spark: Any, tmp_path: Path
) -> None:
    from pyspark.ml.linalg import Vectors
    from pyspark.ml.regression import LinearRegression

    rows = [(Vectors.dense([0.0]), 1.0), (Vectors.dense([1.0]), 3.0)]
    frame = spark.createDataFrame(rows, ["features", "label"])
    fitted = LinearRegression(maxIter=5).fit(frame)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        # MLflow 3.15 keeps Spark's models as MLflow 2 did: in the run's artifacts.
        info = mlflow.spark.log_model(
            fitted, "spark", pip_requirements=["pyspark"], registered_model_name=experiment_name
        )

    def answers(model_uri: str) -> list[float]:
        loaded = mlflow.spark.load_model(model_uri, dfs_tmpdir=str(tmp_path / "dfs"))
        return [round(r.prediction, 3) for r in loaded.transform(frame).collect()]

    for name in (info.model_uri, f"runs:/{run.info.run_id}/spark", f"models:/{experiment_name}/1"):
        assert answers(name) == [1.0, 3.0]
    sync()
    assert dead() == []
    for proxy in both:
        there = str(plain.twin_id(proxy.uri, run.info.run_id, experiment_name))
        [version] = plain.model_versions(proxy.uri, experiment_name)
        assert (version["version"], version["run_id"]) == ("1", there)
        for place, where in (
            ("run", f"{plain.client(proxy.uri).get_run(there).info.artifact_uri}/spark"),
            ("version", version["source"]),
        ):
            files = files_at(proxy.uri, where)
            assert mlmodel(files)["run_id"] == there
            assert no_trace_of_the_link(files)
            folder = tmp_path / f"{there}-{place}"
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            assert answers(str(folder)) == [1.0, 3.0]


# --- through the link


@pytest.mark.full
def test_a_model_is_loaded_by_all_its_names_while_its_files_are_still_on_their_way(
    both: Any, experiment_name: str
) -> None:
    mlflow.set_experiment(experiment_name)
    for proxy in both:
        proxy.status(503, path="mlflow-artifacts/artifacts/", method="PUT")
    with mlflow.start_run() as run:
        info = log_linear()
        run_id, model_id = run.info.run_id, info.model_id
        began = time.monotonic()
        assert predicted(f"models:/{model_id}") == ANSWERS
        assert time.monotonic() - began < 3
        assert predicted(f"runs:/{run_id}/model") == ANSWERS
        assert predicted(info.model_uri) == ANSWERS
        assert mlflow.models.get_model_info(f"models:/{model_id}").run_id == run_id
        assert mlflow.models.get_model_info(f"runs:/{run_id}/model").model_id == model_id
        listed = mlflow.artifacts.list_artifacts(f"models:/{model_id}")
        assert "MLmodel" in [f.path for f in listed]
        local = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/model")
        assert Path(local, "MLmodel").is_file()
        assert MlflowClient().get_logged_model(model_id).status == "READY"
    assert session.current().status().destinations[0].pending > 0
    for proxy in both:
        proxy.clear()
    sync()
    assert predicted(f"runs:/{run_id}/model") == ANSWERS
    assert dead() == []


@pytest.mark.full
def test_a_model_is_found_while_the_mirror_that_lacks_it_answers_for_the_primary(
    both: Any, experiment_name: str
) -> None:
    """The primary has the model and is away; what waits for the mirror is not missing from its answers."""
    experiment = mlflow.set_experiment(experiment_name)
    sync()
    both.azureml.status(500, path="logged-models$", method="POST")
    with mlflow.start_run() as run:
        info = log_linear()
    assert session.current().engine("this test").waiting.wait("databricks", timeout=120)
    with both.databricks.away():
        found = MlflowClient().search_logged_models([experiment.experiment_id])
        assert [model.model_id for model in found] == [info.model_id]
        assert MlflowClient().get_logged_model(info.model_id).status == "READY"
        assert both.azureml.count("logged-models/search") > 0, "the mirror was to be asked"
        mlflow.register_model(f"runs:/{run.info.run_id}/model", experiment_name)
    both.azureml.clear()
    sync()
    assert dead() == []
    for proxy in both:
        own = plain.twin_id(proxy.uri, run.info.run_id, experiment_name)
        (version,) = plain.model_versions(proxy.uri, experiment_name)
        assert version["run_id"] == own


@pytest.mark.full
def test_another_process_that_has_only_the_uri_loads_the_model_by_all_its_names(
    both: Any, experiment_name: str
) -> None:
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model(registered_model_name=experiment_name)
    mlflow.log_text("a note", "notes/a.txt", run_id=run_id)
    [output] = MlflowClient().get_run(run_id).outputs.model_outputs
    MlflowClient().set_registered_model_alias(experiment_name, "champion", "1")
    names = [
        f"runs:/{run_id}/model",
        f"models:/{output.model_id}",
        f"models:/{experiment_name}/1",
        f"models:/{experiment_name}@champion",
        f"models:/{experiment_name}/latest",
    ]
    for uri in names:
        assert predicted(uri) == ANSWERS, uri
    both.azureml.refuse()  # the mirror is not needed
    answer = in_kernel(
        f"""
        found = [mlflow.pyfunc.load_model(u).predict(np.array({ROWS})).round(6).tolist() for u in {names}]
        listed = [f.path for f in mlflow.artifacts.list_artifacts(run_id="{run_id}")]
        text = mlflow.artifacts.load_text("runs:/{run_id}/notes/a.txt")
        answer = [found, listed, text, mlflow.models.get_model_info("{names[2]}").run_id]
        """,
        MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
        MLFLOW_REGISTRY_URI=mlflow.get_tracking_uri(),
        DBML_EXIT_FLUSH="1",
    )
    both.azureml.accept()
    assert answer == [[ANSWERS] * 5, ["notes"], "a note", run_id]


def test_a_model_that_was_logged_without_a_run_is_at_both_workspaces(both: Any, experiment_name: str) -> None:
    mlflow.set_experiment(experiment_name)
    info = log_linear("alone", tags={"a": "b"})
    assert mlflow.active_run() is None
    sync()
    for proxy in both:
        client = plain.client(proxy.uri)
        experiment = client.get_experiment_by_name(experiment_name).experiment_id
        [model] = client.search_logged_models([experiment])
        assert (model.name, model.status, model.source_run_id or None) == ("alone", "READY", None)
        assert model.tags["a"] == "b"
        assert mlmodel(model_files(proxy.uri, model.model_id))["model_id"] == model.model_id
    assert predicted(info.model_uri) == ANSWERS


def test_what_is_said_of_a_logged_model_later_is_said_at_both_workspaces(
    both: Any, experiment_name: str
) -> None:
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        model = mlflow.initialize_logged_model(name="external", tags={"a": "1"}, params={"p": "1"})
        mlflow.log_metric("loss", 0.25, model_id=model.model_id)
    mlflow.set_logged_model_tags(model.model_id, {"b": "2", "c": "3"})
    mlflow.delete_logged_model_tag(model.model_id, "c")
    mlflow.log_model_params({"q": "2"}, model_id=model.model_id)
    mlflow.finalize_logged_model(model.model_id, "FAILED")
    sync()
    for proxy in both:
        there = str(plain.twin_id(proxy.uri, run.info.run_id, experiment_name))
        client = plain.client(proxy.uri)
        experiment = client.get_run(there).info.experiment_id
        [found] = client.search_logged_models([experiment])
        held = plain.logged_model(proxy.uri, found.model_id)
        assert held["status"] == "FAILED"
        assert {k: v for k, v in held["tags"].items() if k in "abc"} == {"a": "1", "b": "2"}
        assert held["params"] == {"p": "1", "q": "2"}
        assert held["metrics"] == [["loss", 0, 0.25, None, None]]
    MlflowClient().delete_logged_model(model.model_id)
    sync()
    for proxy in both:
        client = plain.client(proxy.uri)
        experiment = client.get_experiment_by_name(experiment_name).experiment_id
        assert client.search_logged_models([experiment]) == []
    with pytest.raises(MlflowException):
        mlflow.get_logged_model(model.model_id)
    assert dead() == []


def test_a_folder_with_a_model_of_some_other_server_is_logged_as_it_is(
    both: Any, experiment_name: str, tmp_path: Path
) -> None:
    (tmp_path / "foreign").mkdir()
    foreign = "artifact_path: model\nmodel_id: m-0123\nrun_id: 11112222333344445555666677778888\n"
    (tmp_path / "foreign" / "MLmodel").write_text(foreign)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(tmp_path / "foreign"), "foreign")
    sync()
    assert dead() == []
    for proxy in both:
        there = str(plain.twin_id(proxy.uri, run.info.run_id, experiment_name))
        assert list(plain.artifacts(proxy.uri, there)) == ["foreign/MLmodel"]


# --- artifacts

NAMES = ["with space.txt", "ünïcödé-文.txt", "100%.txt", "a+b&c=d.txt"]
ODD_NAMES = ["what?.txt"]  # MLflow's own clients can list it, but not always read it


@pytest.mark.full
def test_files_of_any_name_and_place_arrive_as_they_are(
    linked: Any, experiment_name: str, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    deep = tree / "/".join(f"folder {n}" for n in range(12))
    deep.mkdir(parents=True)
    (deep / "deep.txt").write_text("deep")
    (tree / "empty.txt").touch()
    for name in NAMES:
        (tree / name).write_text(name)
    for n in range(300):
        (tree / f"small-{n:03d}.txt").write_text(str(n))
    wanted = {p.relative_to(tree).as_posix(): p.read_bytes() for p in tree.rglob("*") if p.is_file()}

    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(tree), "tree")
        for name in ODD_NAMES:
            (tmp_path / name).write_text(name)
            mlflow.log_artifact(str(tmp_path / name), "odd folder")
        through = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="tree")
        assert {p.relative_to(through).as_posix() for p in Path(through).rglob("*") if p.is_file()} == set(
            wanted
        )
    sync()
    assert dead() == []
    for uri, run_id in at_each(linked, run.info.run_id, experiment_name):
        reader, listed = plain.client(uri), {}
        folders = ["tree", "odd folder"]
        while folders:
            for entry in reader.list_artifacts(run_id, folders.pop()):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    listed[entry.path] = entry.file_size or 0
        sizes = {f"tree/{p}": len(c) for p, c in wanted.items()}
        assert listed == sizes | {f"odd folder/{name}": len(name) for name in ODD_NAMES}
    again = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="tree")
    assert {
        p.relative_to(again).as_posix(): p.read_bytes() for p in Path(again).rglob("*") if p.is_file()
    } == wanted


def test_a_name_that_a_server_refuses_is_told_and_holds_up_nothing_else(
    both: Any, experiment_name: str, tmp_path: Path
) -> None:
    (tmp_path / "refused.txt").write_text("its own rule forbids this name")
    answer = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid path"})
    for proxy in both:
        proxy.status(400, body=answer, path="refused.txt", method="PUT")
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "refused.txt"))
        mlflow.log_text("after", "after.txt")
    sync()
    for proxy in both:
        there = str(plain.twin_id(proxy.uri, run.info.run_id, experiment_name))
        assert list(plain.artifacts(proxy.uri, there)) == ["after.txt"]
    assert [d.dead for d in session.current().status().destinations] == [1, 1]
    assert [entry[3][2]["path"] for entry in dead()] == ["refused.txt"] * 2


@pytest.mark.full
def test_what_a_file_held_when_it_was_logged_arrives_whatever_becomes_of_it_then(
    both: Any, experiment_name: str, tmp_path: Path
) -> None:
    mlflow.set_experiment(experiment_name)
    changed, deleted, folder = tmp_path / "changed.txt", tmp_path / "deleted.txt", tmp_path / "folder"
    with mlflow.start_run() as run:
        for proxy in both:
            proxy.status(503, path="mlflow-artifacts/artifacts/", method="PUT")
        changed.write_text("first")
        deleted.write_text("kept")
        folder.mkdir()
        (folder / "in.txt").write_text("inside")
        mlflow.log_artifact(str(changed))
        mlflow.log_artifact(str(deleted))
        mlflow.log_artifact(str(folder))
        changed.write_text("second, never logged")
        deleted.unlink()
        shutil.rmtree(folder)
        mlflow.log_text("one", "twice.txt")
        mlflow.log_text("two", "twice.txt")
        assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/twice.txt") == "two"
        for proxy in both:
            proxy.clear()
    sync()
    for proxy in both:
        there = str(plain.twin_id(proxy.uri, run.info.run_id, experiment_name))
        client = plain.client(proxy.uri)
        held = {
            path: Path(client.download_artifacts(there, path, str(tmp_path))).read_text()
            for path in plain.artifacts(proxy.uri, there)
        }
        assert held == {
            "changed.txt": "first",
            "deleted.txt": "kept",
            "folder/in.txt": "inside",
            "twice.txt": "two",
        }
    with pytest.raises((FileNotFoundError, OSError)), mlflow.start_run():
        mlflow.log_artifact(str(tmp_path / "never-there.txt"))


def test_a_large_file_costs_no_memory_of_its_size(both: Any, experiment_name: str, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as out:
        for _ in range(50):
            out.write(os.urandom(1 << 20))
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_text("small", "small.txt")
        sync()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mlflow.log_artifact(str(big))
        sync()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 25, f"{grown:.0f} MB"
    for proxy in both:
        there = str(plain.twin_id(proxy.uri, run.info.run_id, experiment_name))
        sizes = {f.path: f.file_size for f in plain.client(proxy.uri).list_artifacts(there)}
        assert sizes["big.bin"] == 50 << 20


# --- credentials


def test_each_workspace_is_shown_its_own_credentials_and_no_other(
    home: Path, proxies: Any, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "token-for-databricks")
    monkeypatch.setenv("DBML_AZUREML_USERNAME", "me")
    monkeypatch.setenv("DBML_AZUREML_PASSWORD", "password-for-azureml")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-some-other-server")
    proxies.databricks.require("Bearer token-for-databricks")
    proxies.azureml.require(basic("me", "password-for-azureml"))
    dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="both")
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model(registered_model_name=experiment_name)
    mlflow.log_text("hello", "hello.txt", run_id=run_id)
    sync()
    assert dead() == []
    assert predicted(f"models:/{experiment_name}/1") == ANSWERS
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/hello.txt") == "hello"
    for proxy, own in zip(
        proxies, ("Bearer token-for-databricks", basic("me", "password-for-azureml")), strict=True
    ):
        seen = proxy.requests()
        assert any("mlflow-artifacts" in r.path and r.method == "PUT" for r in seen)
        assert {r.authorization for r in seen} == {own}
        assert {r.status for r in seen} & {401, 403} == set()
    kept = [p for p in home.rglob("*") if p.is_file()]
    secrets = (b"token-for-databricks", b"password-for-azureml", b"token-of-some-other-server")
    assert not [p for p in kept if any(secret in p.read_bytes() for secret in secrets)]
