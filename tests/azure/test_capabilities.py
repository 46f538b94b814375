"""What Azure ML has and lacks, and learns in time: the same lines of a user's work all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from tests.standins.azure import AzureStandIn

ROW = [[3.0]]


@pytest.fixture
def link(signed_in: AzureStandIn, names: dict[str, Any], experiment_name: str) -> Iterator[Any]:
    """Return what links to Azure ML alone, where the test's experiment is set."""
    session = sessions.current()

    def again() -> sessions.Session:
        if session.linked:
            session.unlink()
        dbml.link(track="azureml", registry="azureml", **names)
        dbml.experiment(experiment_name)
        return session

    yield again
    if session.linked:
        session.unlink()


def log_model(name: str, **more: Any) -> Any:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    return mlflow.sklearn.log_model(model, name=name, pip_requirements=["scikit-learn"], **more)


def predicted(uri: str) -> list[float]:
    return [round(float(x), 6) for x in mlflow.pyfunc.load_model(uri).predict(np.array(ROW))]


def dead(session: Any) -> list[Any]:
    return list(session.engine("the test").state.dead(None))


def lacks(session: Any) -> str:
    return " ".join(session.status().destinations[0].lacks)


def at_azure(session: Any) -> Any:
    """Return the workspace's own store."""
    return session.engine("the test").workspaces["azureml"].tracking


@pytest.mark.full
def test_a_service_with_logged_models_runs_the_same_lines_natively(
    link: Any, signed_in: AzureStandIn
) -> None:
    with signed_in.set(logged_models=True, outputs=True):
        session = link()
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 0.5)
            info = log_model("tree", registered_model_name="native-tree")
            mlflow.log_metric("acc", 0.9, model_id=info.model_id)
        dbml.sync(timeout=60)
        assert signed_in.proxy.count(path="logged-models") > 0
        native = at_azure(session).get_run(run.info.run_id)
        assert "dbml_models" not in native.data.tags, "nothing is kept for a service that has all"
        assert len(native.outputs.model_outputs) == 1
        for uri in (f"runs:/{run.info.run_id}/tree", info.model_uri, "models:/native-tree/1"):
            assert predicted(uri) == [6.0]
        [found] = mlflow.search_logged_models(filter_string="name = 'tree'", output_format="list")
        assert {m.key: m.value for m in found.metrics} == {"loss": 0.5, "acc": 0.9}
        assert not dead(session)
        assert "logged models" not in lacks(session)


@pytest.mark.full
def test_a_service_with_logged_models_but_without_outputs_loses_no_model(
    link: Any, signed_in: AzureStandIn
) -> None:
    with signed_in.set(logged_models=True, outputs=False):
        session = link()
        with mlflow.start_run() as run:
            info = log_model("tree")
            again = log_model("tree")
        dbml.sync(timeout=60)
        assert not dead(session)
        assert "outputs" in lacks(session)
        assert "no logged models" not in lacks(session)
        assert mlflow.get_logged_model(info.model_id).status == "READY"
        assert at_azure(session).get_logged_model(info.model_id).name == "tree", "the service has it"
        for uri in (info.model_uri, again.model_uri, f"runs:/{run.info.run_id}/tree"):
            assert predicted(uri) == [6.0]
        outputs = mlflow.get_run(run.info.run_id).outputs.model_outputs
        assert {o.model_id for o in outputs} == {info.model_id, again.model_id}


@pytest.mark.full
def test_what_a_service_learned_is_used_from_the_next_link_on_and_kept_models_stay(
    link: Any, signed_in: AzureStandIn
) -> None:
    session = link()
    with mlflow.start_run() as before:
        kept = log_model("kept", registered_model_name="learned")
        mlflow.log_metric("acc", 0.5, model_id=kept.model_id)
    dbml.sync(timeout=60)
    assert "no logged models" in lacks(session)
    with signed_in.set(logged_models=True, outputs=True):
        session = link()
        with mlflow.start_run() as after:
            native = log_model("native", registered_model_name="learned")
            mlflow.log_metric("acc", 0.75, model_id=native.model_id)
            mlflow.log_metric("f1", 0.25, model_id=kept.model_id)
        mlflow.set_logged_model_tags(kept.model_id, {"stage": "old"})
        dbml.sync(timeout=60)
        assert not dead(session)
        assert "no logged models" not in lacks(session)
        assert at_azure(session).get_logged_model(native.model_id).name == "native"
        found = {m.name: m for m in mlflow.search_logged_models(output_format="list")}
        assert set(found) == {"kept", "native"}
        assert {m.key: m.value for m in found["kept"].metrics} == {"acc": 0.5, "f1": 0.25}
        [only] = mlflow.search_logged_models(filter_string="metrics.acc > 0.6", output_format="list")
        assert only.model_id == native.model_id
        assert mlflow.get_logged_model(kept.model_id).tags["stage"] == "old"
        assert [o.model_id for o in mlflow.get_run(before.info.run_id).outputs.model_outputs] == [
            kept.model_id
        ]
        names: tuple[str, ...] = (kept.model_uri, f"runs:/{before.info.run_id}/kept", "models:/learned/1")
        names += (native.model_uri, f"runs:/{after.info.run_id}/native", "models:/learned/2")
        for uri in names:
            assert predicted(uri) == [6.0]
        made = mlflow.register_model(kept.model_uri, "learned")
        assert predicted(f"models:/learned/{made.version}") == [6.0]


def test_a_service_that_takes_no_inputs_has_the_rest_of_the_run(link: Any, signed_in: AzureStandIn) -> None:
    with signed_in.set(inputs=False):
        session = link()
        with mlflow.start_run() as run:
            mlflow.log_input(mlflow.data.from_numpy(np.ones((2, 1)), name="wine"))
            mlflow.log_metric("loss", 0.5)
        dbml.sync(timeout=60)
        assert not dead(session), "a known lack is no dead letter"
        assert "no inputs" in lacks(session)
        native = at_azure(session).get_run(run.info.run_id)
        assert (native.data.metrics, native.info.status) == ({"loss": 0.5}, "FINISHED")


def test_aliases_are_the_services_own_where_it_has_them(link: Any, signed_in: AzureStandIn) -> None:
    with signed_in.set(aliases=True):
        link()
        with mlflow.start_run():
            log_model("tree", registered_model_name="aliased")
        client = MlflowClient()
        client.set_registered_model_alias("aliased", "champion", "1")
        dbml.sync(timeout=60)
        assert signed_in.proxy.count(path="registered-models/alias") > 0
        assert client.get_registered_model("aliased").aliases == {
            "champion": 1
        } or client.get_registered_model("aliased").aliases == {"champion": "1"}
        assert not client.get_registered_model("aliased").tags, (
            "no tag of ours where the alias is the service's"
        )
        assert predicted("models:/aliased@champion") == [6.0]
        client.delete_registered_model_alias("aliased", "champion")
        dbml.sync(timeout=60)
        assert client.get_registered_model("aliased").aliases == {}


@pytest.mark.full
def test_autolog_of_a_grid_search_and_of_lightgbm_arrives_whole(link: Any, signed_in: AzureStandIn) -> None:
    import lightgbm
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    session = link()
    rows, target = load_iris(return_X_y=True, as_frame=True)
    mlflow.sklearn.autolog(silent=True)
    try:
        with mlflow.start_run() as grid:
            GridSearchCV(LogisticRegression(max_iter=300), {"C": [0.1, 1.0]}, cv=3).fit(rows, target)
    finally:
        mlflow.sklearn.autolog(disable=True)
    mlflow.lightgbm.autolog(silent=True)
    try:
        with mlflow.start_run() as boosted:
            lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1).fit(rows, target)
    finally:
        mlflow.lightgbm.autolog(disable=True)
    dbml.sync(timeout=120)
    assert not dead(session)
    found = at_azure(session).get_run(grid.info.run_id)
    assert {"best_cv_score", "training_f1_score", "training_score"} <= set(found.data.metrics)
    assert found.data.params["best_C"]
    where = f"tags.mlflow.parentRunId = '{grid.info.run_id}'"
    assert len(mlflow.search_runs(filter_string=where, output_format="list")) == 2
    for run in (grid, boosted):
        files = {f.path for f in MlflowClient().list_artifacts(run.info.run_id)}
        assert "model" in files
        loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
        assert len(loaded.predict(rows[:2])) == 2
    assert {"feature_importance_gain.json", "feature_importance_split.png"} <= files


def test_a_search_right_after_delivery_has_the_metrics_that_the_service_does_not_show_yet(
    link: Any, signed_in: AzureStandIn
) -> None:
    with signed_in.set(search_lag=60.0):
        session = link()
        losses = {}
        for number, loss in enumerate((0.3, 0.1, 0.2)):
            with mlflow.start_run(run_name=f"r{number}") as run:
                mlflow.log_metric("loss", 9.0, step=0)
                mlflow.log_metric("loss", loss, step=1)
            losses[run.info.run_id] = {"loss": loss}
        with mlflow.start_run(run_name="none"):
            mlflow.log_param("depth", 3)
        dbml.sync(timeout=60)
        [own] = {mlflow.get_run(run).info.experiment_id for run in losses}
        native = at_azure(session)._searched([own], None, 1, 10, None, None)
        assert not any(run.data.metrics for run in native), "the service itself shows none of them yet"

        def searched(**wishes: Any) -> list[Any]:
            return [run.data.metrics for run in mlflow.search_runs(output_format="list", **wishes)]

        assert len(searched()) == 4
        assert {
            run.info.run_id: run.data.metrics for run in mlflow.search_runs(output_format="list")
        }.items() >= (losses.items())
        assert searched(order_by=["metrics.loss ASC"])[:3] == [{"loss": 0.1}, {"loss": 0.2}, {"loss": 0.3}]
        assert searched(filter_string="metrics.loss < 0.25", order_by=["metrics.loss DESC"]) == [
            {"loss": 0.2},
            {"loss": 0.1},
        ]
        assert searched(filter_string="metrics.loss > 5") == [], "as the run is now, not as it was"
        assert searched(filter_string="params.depth = '3'") == [{}]
        client, tokens, seen = MlflowClient(), None, []
        while True:  # page by page, also where the order is made here
            page = client.search_runs([own], "metrics.loss < 1", max_results=2, page_token=tokens)
            seen += [run.data.metrics["loss"] for run in page]
            tokens = page.token
            if not tokens:
                break
        assert sorted(seen) == [0.1, 0.2, 0.3]
        rows = dbml.runs(order_by=["metrics.loss ASC"]).rows
        assert [row.metrics for row in rows][:2] == [{"loss": 0.1}, {"loss": 0.2}]


def test_an_experiment_is_renamed_to_a_legal_name_and_never_to_another(
    link: Any, signed_in: AzureStandIn, experiment_name: str
) -> None:
    session = link()
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment_name)
    with pytest.raises(mlflow.exceptions.MlflowException, match="Experiment name must be"):
        at_azure(session).rename_experiment(found.experiment_id, "no such name, é")
    client.rename_experiment(found.experiment_id, f"/Users/ada/{experiment_name} é")
    dbml.sync(timeout=60)
    assert not dead(session)
    own = at_azure(session).get_experiment(found.experiment_id).name
    assert re.fullmatch(r"[A-Za-z0-9_-]+", own)


def test_azure_ml_takes_names_of_experiments_that_begin_with_a_letter_or_a_digit(
    link: Any, signed_in: AzureStandIn, experiment_name: str
) -> None:
    session = link()
    own = at_azure(session)
    for refused in (f"_{experiment_name}", f"-{experiment_name}", "x" * 256):
        with pytest.raises(mlflow.exceptions.MlflowException, match="Experiment name must be"):
            own.create_experiment(refused)
    ids = {}
    for name in (f"_{experiment_name}", f"__{experiment_name}", f"{experiment_name}-{'x' * 300}", "_-_"):
        there = dbml.experiment(name).names["azureml"]
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}", there)
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 0.5)
        ids[name] = run.info.experiment_id
    dbml.sync(timeout=60)
    assert not dead(session)
    assert len(set(ids.values())) == 4, "two names are two experiments"
    client = MlflowClient()
    for name, experiment_id in ids.items():
        assert client.get_experiment(experiment_id).name == name
        assert client.get_experiment_by_name(name).experiment_id == experiment_id


def test_more_than_200_datasets_or_5000_characters_of_a_path_cost_azure_ml_nothing_else(
    link: Any, signed_in: AzureStandIn
) -> None:
    session = link()
    path = "/".join("p" * 99 for _ in range(51))
    datasets = [DatasetInput(Dataset(f"wine{n:03}", "d", "code", "{}")) for n in range(202)]
    client = MlflowClient()
    with mlflow.start_run() as run:
        client.log_inputs(run.info.run_id, datasets[:150])
        client.log_inputs(run.info.run_id, datasets)
        mlflow.log_text("t", f"{path}/t.txt")
        mlflow.log_text("t", "short.txt")
        mlflow.log_metric("loss", 0.5)
    dbml.sync(timeout=120)
    assert sorted(letter[4] for letter in dead(session)) == [
        "azureml takes 200 input datasets a run: 2 of these are left out",
        "azureml takes 5,000 characters in a file's path",
    ]
    found = at_azure(session).get_run(run.info.run_id)
    there = sorted(d.dataset.name for d in found.inputs.dataset_inputs)
    assert there == [f"wine{n:03}" for n in range(200)]
    assert (found.data.metrics, found.info.status) == ({"loss": 0.5}, "FINISHED")
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["short.txt"]
    with pytest.raises(mlflow.exceptions.MlflowException, match="Limit=200, Size=201"):
        at_azure(session).log_inputs(run.info.run_id, datasets[200:201])


def test_azure_ml_registers_files_from_its_own_places_alone(
    link: Any, signed_in: AzureStandIn, experiment_name: str
) -> None:
    session = link()
    registry = session.engine("the test").workspaces["azureml"].registry
    registry.create_registered_model(experiment_name)
    with pytest.raises(mlflow.exceptions.MlflowException, match="Model source from file must be in the"):
        registry.create_model_version(experiment_name, "dummy-source", None)
