"""Unmodified users of MLflow on a linked URI: what they log is at both workspaces, for plain MLflow."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from tests.core.test_link import in_child
from tests.infra import plain
from tests.infra.wait import eventually

# What scikit-learn, LightGBM and MLflow's import hooks say about each other's versions.
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore:_ImportHookChainedLoader:ImportWarning"
)


@pytest.fixture
def linked(home: Path, proxies: Any, experiment_name: str) -> Iterator[Any]:
    """Link two servers and set an experiment."""
    made = dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri)
    mlflow.set_experiment(experiment_name)
    yield made
    mlflow.autolog(disable=True, silent=True)


def at_both(linked: Any, experiment: str) -> list[dict[str, dict[str, Any]]]:
    """Sync, and return {name: run} at each workspace, which must say the same."""
    dbml.sync(90)
    found = [plain.runs(d.uri, experiment) for d in linked.destinations]
    named = []
    for runs, d in zip(found, linked.destinations, strict=True):
        names = {run_id: run["name"] for run_id, run in runs.items()}
        shown = {}
        for run in runs.values():
            shown[run["name"]] = {
                **plain.comparable(run),
                "parent": names.get(run["parent"]),
                "models": [
                    {k: m[k] for k in ("name", "type", "status", "params")}
                    for m in plain.logged_models(d.uri, run["run_id"])
                ],
            }
            # The MLmodel file names its run: it differs by nature.
            shown[run["name"]]["artifacts"] = {
                path: "" if path.endswith("MLmodel") else digest for path, digest in run["artifacts"].items()
            }
        assert len(shown) == len(runs), "each run of these tests has a name of its own"
        named.append(shown)
    assert named[0] == named[1]
    return named


def iris() -> tuple[Any, Any]:
    """Return a small data set."""
    from sklearn.datasets import load_iris

    found: tuple[Any, Any] = load_iris(return_X_y=True, as_frame=True)
    return found


def test_a_plain_loop(linked: Any, experiment_name: str) -> None:
    with mlflow.start_run(run_name="loop", tags={"stage": "test"}, description="a loop"):
        mlflow.log_params({"rate": 0.1, "depth": 3})
        for step in range(300):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            if step % 10 == 0:
                mlflow.log_metrics({"train": step, "test": step / 2}, step=step)
        mlflow.log_dict({"a": 1}, "config/a.json")
        mlflow.set_tag("note", "done")
    found, _ = at_both(linked, experiment_name)
    run = found["loop"]
    assert [point[0] for point in run["metrics"]["loss"]] == list(range(300))
    assert len(run["metrics"]["train"]) == 30
    assert run["params"] == {"rate": "0.1", "depth": "3"}
    assert run["tags"]["stage"] == "test"
    assert run["tags"]["mlflow.note.content"] == "a loop"
    assert list(run["artifacts"]) == ["config/a.json"]


@pytest.mark.full
def test_sklearn_autolog_of_a_grid_search(linked: Any, experiment_name: str) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    x, y = iris()
    mlflow.sklearn.autolog(log_input_examples=False, silent=True)
    try:
        with mlflow.start_run(run_name="search") as parent:
            GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 2, 3]}, cv=3).fit(x, y)
    finally:
        mlflow.sklearn.autolog(disable=True)
    found, _ = at_both(linked, experiment_name)
    children = [run for name, run in found.items() if name != "search"]
    assert len(children) == 3
    assert all(run["parent"] == "search" and run["status"] == "FINISHED" for run in children)
    assert sorted(run["params"]["max_depth"] for run in children) == ["1", "2", "3"]
    assert "best_cv_score" in found["search"]["last"]
    models = [model["name"] for model in found["search"]["models"]]
    assert "best_estimator" in models
    for d in linked.destinations:
        twin = plain.twin_id(d.uri, parent.info.run_id, experiment_name)
        assert twin is not None
        model = next(m for m in plain.logged_models(d.uri, twin) if m["name"] == "best_estimator")
        assert plain.load_model_natively(
            f"models:/{model['model_id']}", d.uri, x.head(3).to_numpy().tolist(), columns=list(x.columns)
        ) == [0, 0, 0]


@pytest.mark.full
def test_lightgbm_autolog(linked: Any, experiment_name: str) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    x, y = iris()
    mlflow.lightgbm.autolog(silent=True)
    try:
        with mlflow.start_run(run_name="boost"):
            data = lightgbm.Dataset(x, label=(y == 1).astype(int))
            lightgbm.train(
                {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "num_threads": 1},
                data,
                num_boost_round=8,
                valid_sets=[data],
                valid_names=["train"],
            )
    finally:
        mlflow.lightgbm.autolog(disable=True)
    found, _ = at_both(linked, experiment_name)
    run = found["boost"]
    assert len(run["metrics"]["train-binary_logloss"]) == 8
    assert run["params"]["objective"] == "binary"
    assert [m["type"] for m in run["models"]] == [run["models"][0]["type"]]
    assert any("feature_importance" in path for path in run["artifacts"])


@pytest.mark.full
def test_a_script_as_a_child_process(linked: Any, experiment_name: str, tmp_path: Path) -> None:
    in_child(
        """
        import mlflow
        with mlflow.start_run(run_name="script"):
            with mlflow.start_run(run_name="inner", nested=True):
                mlflow.log_metric("loss", 0.5)
            mlflow.log_param("who", "script")
            mlflow.log_text("x" * 1000, "big.txt")
        """,
        cwd=tmp_path,
    )
    found, _ = at_both(linked, experiment_name)
    assert sorted(found) == ["inner", "script"]
    assert found["inner"]["parent"] == "script"
    assert list(found["script"]["artifacts"]) == ["big.txt"]


@pytest.mark.full
def test_joblib_workers_log_into_the_parents_run(linked: Any, experiment_name: str) -> None:
    out = in_child(
        f"""
        import joblib, mlflow, os

        def work(run_id, worker):
            client = mlflow.MlflowClient()
            for step in range(20):
                client.log_metric(run_id, f"loss_{{worker}}", step / 2, step=step)
            client.log_param(run_id, f"pid_{{worker}}", os.getpid())

        with mlflow.start_run(run_name="parallel") as run:
            joblib.Parallel(n_jobs=2)(joblib.delayed(work)(run.info.run_id, n) for n in range(4))
        print(run.info.run_id, {experiment_name!r})
        """
    )
    assert out
    found, _ = at_both(linked, experiment_name)
    assert list(found) == ["parallel"]
    run = found["parallel"]
    assert all(len(run["metrics"][f"loss_{n}"]) == 20 for n in range(4))
    assert len(run["params"]) == 4
    assert run["status"] == "FINISHED"


def test_nested_runs_three_deep(linked: Any, experiment_name: str) -> None:
    with mlflow.start_run(run_name="a"), mlflow.start_run(run_name="b", nested=True):
        with mlflow.start_run(run_name="c", nested=True):
            mlflow.log_metric("loss", 1)
        mlflow.log_metric("loss", 2)
    found, _ = at_both(linked, experiment_name)
    assert {name: run["parent"] for name, run in found.items()} == {"a": None, "b": "a", "c": "b"}


def test_a_resumed_run_goes_on_in_the_same_run(linked: Any, experiment_name: str) -> None:
    with mlflow.start_run(run_name="resumed") as run:
        mlflow.log_metric("loss", 1.0, step=0)
    dbml.sync(60)  # all of it has left the journal
    with mlflow.start_run(run_id=run.info.run_id):
        assert mlflow.active_run().data.metrics == {"loss": 1.0}
        mlflow.log_metric("loss", 0.5, step=1)
        mlflow.set_tag("again", "yes")
    assert [m.value for m in MlflowClient().get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5]
    found, _ = at_both(linked, experiment_name)
    assert [point[2] for point in found["resumed"]["metrics"]["loss"]] == [1.0, 0.5]
    assert found["resumed"]["tags"]["again"] == "yes"
    assert found["resumed"]["status"] == "FINISHED"


def test_search_runs_gives_the_usual_data_frame(linked: Any, experiment_name: str) -> None:
    for number in range(3):
        with mlflow.start_run(run_name=f"run {number}"):
            mlflow.log_param("number", number)
            mlflow.log_metric("loss", number / 10)
    frame = mlflow.search_runs(
        experiment_names=[experiment_name],
        filter_string="metrics.loss < 0.15",
        order_by=["metrics.loss DESC"],
    )
    assert list(frame["params.number"]) == ["1", "0"]
    assert list(frame["metrics.loss"]) == [0.1, 0.0]
    assert set(frame["status"]) == {"FINISHED"}
    assert frame["artifact_uri"].str.startswith("dbml://").all()


def test_an_explicit_client(linked: Any, experiment_name: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=linked.uri)
    experiment = client.get_experiment_by_name(experiment_name)
    run = client.create_run(experiment.experiment_id, run_name="client", tags={"a": "1"})
    run_id = run.info.run_id
    client.log_batch(
        run_id,
        metrics=[mlflow.entities.Metric("loss", 0.5, 1_700_000_000_000, 3)],
        params=[mlflow.entities.Param("depth", "2")],
        tags=[mlflow.entities.RunTag("b", "2")],
    )
    (tmp_path / "file.txt").write_text("content")
    client.log_artifact(run_id, str(tmp_path / "file.txt"), "folder")
    client.delete_tag(run_id, "a")
    assert [f.path for f in client.list_artifacts(run_id, "folder")] == ["folder/file.txt"]
    client.update_run(run_id, name="renamed")
    client.set_terminated(run_id, "FAILED", end_time=1_700_000_000_999)
    found, _ = at_both(linked, experiment_name)
    run = found["renamed"]
    assert run["metrics"] == {"loss": [[3, 1_700_000_000_000, 0.5]]}
    assert (run["status"], run["end_time"]) == ("FAILED", 1_700_000_000_999)
    assert "a" not in run["tags"]
    assert run["tags"]["b"] == "2"
    client.delete_run(run_id)
    dbml.sync(60)
    for d in linked.destinations:
        assert plain.runs(d.uri, experiment_name) == {}
        (kept,) = plain.runs(d.uri, experiment_name, deleted=True).values()
        assert kept["lifecycle_stage"] == "deleted"
    client.restore_run(run_id)
    assert list(at_both(linked, experiment_name)[0]) == ["renamed"]


def test_asynchronous_logging(linked: Any, experiment_name: str) -> None:
    with mlflow.start_run(run_name="async"):
        operations = [mlflow.log_metric("loss", n, step=n, synchronous=False) for n in range(20)]
        mlflow.log_param("depth", 1, synchronous=False).wait()
        for operation in operations:
            operation.wait()
    mlflow.flush_async_logging()
    found, _ = at_both(linked, experiment_name)
    assert len(found["async"]["metrics"]["loss"]) == 20
    assert found["async"]["params"] == {"depth": "1"}


def test_tracing_goes_to_the_primary(
    linked: Any, experiment_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    @mlflow.trace  # type: ignore[untyped-decorator]
    def answer(question: str) -> str:
        return question.upper()

    with mlflow.start_run(run_name="traced"):
        assert answer("what") == "WHAT"
    mlflow.flush_trace_async_logging()
    assert [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []
    primary, mirror = (d.uri for d in linked.destinations)

    def traces(uri: str) -> list[Any]:
        client = plain.client(uri)
        experiment = client.get_experiment_by_name(experiment_name)
        return [] if experiment is None else list(client.search_traces(locations=[experiment.experiment_id]))

    (trace,) = eventually(lambda: traces(primary), "the primary has the trace")
    assert trace.data.spans[0].name == "answer"
    assert mlflow.get_trace(trace.info.trace_id).data.spans[0].outputs == "WHAT"
    dbml.sync(60)
    assert traces(mirror) == []


def test_log_input_with_a_data_frame(linked: Any, experiment_name: str) -> None:
    import pandas as pd

    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0.0, 1.0, 0.0]})
    with mlflow.start_run(run_name="data"):
        mlflow.log_input(mlflow.data.from_pandas(frame, name="points", targets="y"), context="training")
        mlflow.log_table(frame, "table.json")
    found, _ = at_both(linked, experiment_name)
    (given,) = found["data"]["inputs"]
    assert given["name"] == "points"
    assert given["tags"] == {"mlflow.data.context": "training"}
    assert '"num_rows": 3' in given["profile"]
    assert "table.json" in found["data"]["artifacts"]


def test_figures_and_images(linked: Any, experiment_name: str) -> None:
    import numpy as np

    with mlflow.start_run(run_name="pictures"):
        mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "black.png")
        mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), key="steps", step=1)
        mlflow.log_artifacts(str(Path(__file__).parents[1] / "infra"), "infra")
    found, _ = at_both(linked, experiment_name)
    paths = found["pictures"]["artifacts"]
    assert "black.png" in paths
    assert "infra/plain.py" in paths
    assert sum(path.startswith("images/steps") for path in paths) >= 1


@pytest.mark.skipif(importlib.util.find_spec("psutil") is None, reason="psutil is not installed")
def test_system_metrics(linked: Any, experiment_name: str) -> None:
    mlflow.set_system_metrics_sampling_interval(0.05)
    try:
        with mlflow.start_run(run_name="system", log_system_metrics=True) as run:
            eventually(
                lambda: any(
                    key.startswith("system/") for key in mlflow.get_run(run.info.run_id).data.metrics
                ),
                "a system metric is logged",
            )
    finally:
        mlflow.set_system_metrics_sampling_interval(None)
    found, _ = at_both(linked, experiment_name)
    assert any(key.startswith("system/cpu") for key in found["system"]["last"])


@pytest.mark.full
def test_autolog_of_everything_at_once(linked: Any, experiment_name: str) -> None:
    run_id = in_child(
        """
        import mlflow
        from sklearn.datasets import load_iris
        from sklearn.linear_model import LogisticRegression

        mlflow.autolog(silent=True)
        LogisticRegression(max_iter=200).fit(*load_iris(return_X_y=True))
        print(mlflow.last_active_run().info.run_id)
        """
    ).splitlines()[-1]
    found, _ = at_both(linked, experiment_name)
    (kept,) = found.values()
    assert kept["status"] == "FINISHED"
    assert "training_score" in kept["last"]
    rows = iris()[0].head(2).to_numpy()
    assert mlflow.sklearn.load_model(f"runs:/{run_id}/model").predict(rows).tolist() == [0, 0]


def test_a_models_life(linked: Any, experiment_name: str) -> None:
    """Log, find, tag, set an alias, load by run and by registered name, as the documentation does it."""
    from sklearn.linear_model import LinearRegression

    name = f"model-{experiment_name}"
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    with mlflow.start_run(run_name="trained") as run:
        info = mlflow.sklearn.log_model(model, name="line", registered_model_name=name, input_example=[[1.0]])
        mlflow.log_metric("score", 0.9, model_id=info.model_id)
    client = MlflowClient()
    client.set_registered_model_alias(name, "champion", "1")
    client.set_logged_model_tags(info.model_id, {"reviewed": "yes"})
    for uri in (
        f"models:/{name}/1",
        f"models:/{name}@champion",
        info.model_uri,
        f"runs:/{run.info.run_id}/line",
    ):
        assert mlflow.sklearn.load_model(uri).predict([[2.0]]).round(6).tolist() == [4.0]
    (found,) = mlflow.search_logged_models(
        filter_string=f"source_run_id = '{run.info.run_id}'", output_format="list"
    )
    assert (found.model_id, found.tags["reviewed"]) == (info.model_id, "yes")
    dbml.sync(60)
    for d in linked.destinations:
        twin = plain.twin_id(d.uri, run.info.run_id, experiment_name)
        assert twin is not None
        (kept,) = plain.logged_models(d.uri, twin)
        assert kept["status"] == "READY"
        assert kept["tags"]["reviewed"] == "yes"
        assert [m[0] for m in kept["metrics"]] == ["score"]
    registered = plain.registered_model(linked.destinations[0].uri, name)
    assert registered is not None
    assert registered["aliases"] == {"champion": "1"}
    assert plain.registered_model(linked.destinations[1].uri, name) is None


def test_code_that_reads_while_it_logs(linked: Any, experiment_name: str) -> None:
    with mlflow.start_run(run_name="reader") as run:
        mlflow.log_metric("loss", 1.0, step=0)
        assert mlflow.get_run(run.info.run_id).data.metrics == {"loss": 1.0}
        mlflow.log_text("hello", "a.txt")
        assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/a.txt") == "hello"
        assert mlflow.artifacts.list_artifacts(run_id=run.info.run_id)[0].path == "a.txt"
        assert (
            Path(mlflow.artifacts.download_artifacts(mlflow.get_artifact_uri("a.txt"))).read_text() == "hello"
        )
        mlflow.log_param("depth", 1)
        with pytest.raises(mlflow.MlflowException, match="Changing param values is not allowed"):
            mlflow.log_param("depth", 2)
    found, _ = at_both(linked, experiment_name)
    assert found["reader"]["params"] == {"depth": "1"}
