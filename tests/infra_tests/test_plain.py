"""The readers show all that a workspace holds, and a fresh process sees the same."""

from __future__ import annotations

import math
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from tests.conftest import Servers
from tests.infra import plain
from tests.infra.wait import eventually

DOUBLER = """
import mlflow
import pandas as pd

class Doubler(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):
        return model_input["x"] * 2

mlflow.models.set_model(Doubler())
"""


def test_a_run_is_read_wholly_and_alike_by_a_fresh_process(servers: Servers, experiment_name: str) -> None:
    uri = servers.databricks.uri
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_name)
    with (
        mlflow.start_run(run_name="parent") as parent,
        mlflow.start_run(run_name="child", nested=True) as child,
    ):
        mlflow.log_params({"depth": 3, "name": "x"})
        for step in range(5):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metric("odd", math.nan)
        mlflow.set_tag("who", "me")
        mlflow.log_text("hello", "a/b.txt")
        mlflow.log_input(mlflow.data.from_numpy(np.ones((2, 2)), name="ones"), context="training")

    held = plain.run(uri, child.info.run_id)
    assert held["parent"] == parent.info.run_id
    assert held["params"] == {"depth": "3", "name": "x"}
    assert [step for step, *_ in held["metrics"]["loss"]] == [0, 1, 2, 3, 4]
    assert held["last"]["odd"] == "nan"
    assert list(held["artifacts"]) == ["a/b.txt"]
    assert held["inputs"][0]["tags"] == {"mlflow.data.context": "training"}
    assert set(plain.runs(uri, experiment_name)) == {parent.info.run_id, child.info.run_id}
    assert plain.comparable(held)["nested"]
    assert plain.in_child("run", uri, child.info.run_id) == held


@pytest.mark.full
def test_a_model_loads_where_our_package_cannot_be_imported(
    servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    (tmp_path / "doubler.py").write_text(DOUBLER)
    uri = servers.azureml.uri
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        made = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(tmp_path / "doubler.py"),
            pip_requirements=["mlflow"],
            registered_model_name=experiment_name,
        )
    (model,) = plain.logged_models(uri, run.info.run_id)
    assert plain.logged_model(uri, model["model_id"], files=True)["files"].keys() >= {"MLmodel"}
    (version,) = plain.model_versions(uri, experiment_name)
    assert version["run_id"] == run.info.run_id
    MlflowClient(uri, uri).set_registered_model_alias(experiment_name, "best", "1")
    held = plain.registered_model(uri, experiment_name)
    assert held is not None
    assert held["aliases"] == {"best": "1"}
    assert plain.registered_model(uri, "no-such-model") is None
    assert plain.load_model_natively(
        f"models:/{experiment_name}@best", uri, [[1.0], [2.5]], columns=["x"]
    ) == [2.0, 5.0]
    assert made.model_id == model["model_id"]


def test_waiting_in_vain_says_what_was_expected() -> None:
    with pytest.raises(
        AssertionError, match=r"expected within 0 s: the moon; the last look gave 0\nseen instead: 'x'"
    ):
        eventually(lambda: 0, "the moon", 0, show=lambda: "x")

    def unsure() -> bool:
        raise AssertionError("2 != 3")

    with pytest.raises(AssertionError, match="2 != 3"):
        eventually(unsure, "three points", 0)
