"""Searches by what the link alone names: its ids after an outage, and the places of files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.core.plugin.filters import by_path
from dbml_magics.errors import BadCommand
from tests.conftest import Proxies, Servers
from tests.core.linking import link, sync
from tests.infra import plain
from tests.infra.mlflow_version import NEW_ANSWERS


@pytest.mark.parametrize(
    "field", ["name", "NAME", "`name`", "attribute.name", 'attributes."name"', "attr.name"]
)
@pytest.mark.parametrize("rest", [" = '", '!="', " ILIKE '"])
def test_a_filter_names_experiments_by_the_path_that_databricks_keeps(field: str, rest: str) -> None:
    end = f"/Users/me/wine{rest[-1]} AND tags.a = 'b'"
    assert by_path(f"{field}{rest}/Workspace{end}") == f"{field}{rest}{end}"


@pytest.mark.parametrize(
    "where",
    [
        "tags.name = '/Workspace/Users/me'",
        "tags.`name` = '/Workspace/Users/me'",
        "tag.file_name = '/Workspace/Users/me'",
        "name = '/Workspaces/me'",
        None,
    ],
)
def test_what_is_no_experiments_path_stays_in_a_filter(where: str | None) -> None:
    assert by_path(where) == where


@pytest.mark.full
def test_filters_name_runs_models_and_places_as_the_link_shows_them(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    experiment_id = mlflow.set_experiment(experiment_name).experiment_id
    client = MlflowClient()
    with proxies.databricks.away():  # the primary will know the first run and its model by other ids
        first = client.create_run(experiment_id, run_name="first")
        run_id, files = first.info.run_id, first.info.artifact_uri
        model = client.create_logged_model(experiment_id, "made", source_run_id=run_id)
        client.log_param(run_id, "own", run_id)
        client.log_metric(run_id, "m", 1.0, model_id=model.model_id)
    client.create_run(experiment_id, tags={"mlflow.parentRunId": run_id, "other": run_id}, run_name="second")
    client.create_logged_model(experiment_id, "alone")
    sync()
    assert files == client.get_run(run_id).info.artifact_uri
    name, place = experiment_name, client.get_logged_model(model.model_id).artifact_location
    client.create_registered_model(name)
    client.create_model_version(name, f"{files}/folder", run_id)
    client.create_model_version(name, "s3://bucket/elsewhere")
    shown = client.get_logged_model(model.model_id).metrics
    assert [(point.model_id, point.run_id) for point in shown] == [(model.model_id, run_id)]

    for where, names in {
        f"attributes.artifact_uri = '{files}'": ["first"],
        f'artifact_uri = "{files}"': ["first"],
        f"attributes.artifact_uri != '{files}'": ["second"],
        f"attributes.artifact_uri LIKE '{files}%'": ["first"],
        "attributes.artifact_uri LIKE 'dbml://%'": ["first", "second"],
        f"attributes.run_id = '{run_id}'": ["first"],
        f"attributes.run_id IN ('{run_id}')": ["first"],
        f"attributes.run_id != '{run_id}' AND artifact_uri != '{files}'": ["second"],
        f"tags.`mlflow.parentRunId` = '{run_id}'": ["second"],
        f"tags.other = '{run_id}'": ["second"],
        f"params.own = '{run_id}' AND attributes.run_id = '{run_id}'": ["first"],
    }.items():
        found = client.search_runs([experiment_id], where)
        assert sorted(run.info.run_name for run in found) == names, where
    for where, names in {
        f"artifact_location = '{place}'": ["made"],
        f"attributes.artifact_location != '{place}'": ["alone"],
        f"model_id = '{model.model_id}'": ["made"],
        f"source_run_id = '{run_id}'": ["made"],
    }.items():
        assert [each.name for each in client.search_logged_models([experiment_id], where)] == names, where
    for where, versions in {
        f"source_path = '{files}/folder'": ["1"],
        f"source_path = 'runs:/{run_id}/folder'": ["1"],
        f"run_id = '{run_id}' AND name = '{name}'": ["1"],
        f"run_id IN ('{run_id}')": ["1"],
        f"name = '{name}'": ["2", "1"],
    }.items():
        assert [each.version for each in client.search_model_versions(where)] == versions, where
    client.create_registered_model(f"{name}-of-model")
    for model_id in (None, model.model_id):
        client.create_model_version(f"{name}-of-model", f"models:/{model.model_id}", model_id=model_id)
    payload = client.get_logged_model(model.model_id).tags["mlflow.modelVersions"]
    assert [each["version"] for each in json.loads(payload)] == [2], "only a version that names its model"


POINTS: dict[str, list[float]] = {
    "nan": [math.nan],
    "was nan": [math.nan, 3.0],
    "became nan": [3.0, math.nan],
    "none": [],
    "minus": [-1.0],
    "zero": [0.0],
    "half": [0.5],
    "largest": [math.inf],
}
"""Runs and models by name, and the points of their metric."""
FOUND = {
    "metrics.m < 1": ["half", "minus", "zero"],
    "metrics.m >= 0": ["half", "largest", "was nan", "zero"],
    "metrics.m = 0": ["zero"],
    "metrics.m != 5": ["became nan", "half", "largest", "minus", "nan", "was nan", "zero"],
    "metrics.m != 5 AND metrics.m < 1": ["half", "minus", "zero"],
    "metric.`m` < 1 AND attributes.status = 'RUNNING'": ["half", "minus", "zero"],
}
UPWARDS = ["minus", "zero", "half", "was nan", "largest"]
DOWNWARDS = ["largest", "was nan", "half", "zero", "minus"]
"""Those with a number; the others follow."""


def test_nan_fulfils_no_comparison_but_unequal_and_comes_last(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    client = MlflowClient()
    experiment_id = client.create_experiment(experiment_name)
    for name, points in POINTS.items():
        run_id = client.create_run(experiment_id, run_name=name).info.run_id
        for step, point in enumerate(points):
            client.log_metric(run_id, "m", point, step=step)
    sync()
    nobodys = client.search_runs([experiment_id], "metrics.m = 0 AND metrics.m = 5")
    assert [run.info.run_name for run in nobodys] == []
    for where, names in FOUND.items():
        found = client.search_runs([experiment_id], where)
        assert sorted(run.info.run_name for run in found) == names, where
    at_a_server = plain.client(servers.databricks.uri).search_runs([experiment_id], "metrics.m = 0")
    assert len(at_a_server) == (1 if NEW_ANSWERS else 3), "MLflow's older servers compare 0 for NaN"
    pages, token = list[list[str]](), None
    while token or not pages:
        page = client.search_runs(
            [experiment_id], "metrics.m < 1", max_results=2, order_by=["metrics.m DESC"], page_token=token
        )
        pages.append([run.info.run_name for run in page])
        token = page.token
    assert pages[:2] == [["half", "zero"], ["minus"]]
    for way, names in {"ASC": UPWARDS, "DESC": DOWNWARDS}.items():
        found = client.search_runs([experiment_id], order_by=[f"metrics.m {way}"])
        assert [run.info.run_name for run in found][: len(names)] == names, way


@pytest.mark.full
def test_nan_of_models_that_are_on_their_way(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    client = MlflowClient()
    experiment_id = client.create_experiment(experiment_name)
    sync()
    with proxies.databricks.away(), proxies.azureml.away():
        for name, points in POINTS.items():
            run_id = client.create_run(experiment_id, run_name=name).info.run_id
            model = client.create_logged_model(experiment_id, name.replace(" ", "-"), source_run_id=run_id)
            for step, point in enumerate(points):
                client.log_metric(run_id, "m", point, step=step, model_id=model.model_id)
        for where, names in FOUND.items():
            if "status" not in where:
                models = client.search_logged_models([experiment_id], where)
                assert sorted(each.name.replace("-", " ") for each in models) == names, where
        for upwards, names in ((True, UPWARDS), (False, DOWNWARDS)):
            models = client.search_logged_models(
                [experiment_id], order_by=[{"field_name": "metrics.m", "ascending": upwards}]
            )
            assert len(models) == len(POINTS)
            assert [each.name.replace("-", " ") for each in models][: len(names)] == names, upwards


def test_a_list_without_runs_says_what_none_of_them_fits(home: Path, tmp_path: Path) -> None:
    dbml.link(local=str(tmp_path / "workspaces"))
    mlflow.set_experiment("wine")
    assert str(dbml.runs(filter="metrics.loss < 0.1")).startswith("No runs in wine\n")
    for _ in range(2):
        with mlflow.start_run():
            mlflow.log_metric("loss", 0.5)
        sync()
    assert str(dbml.runs(filter="metrics.loss < 0.1")) == (
        "No run fits metrics.loss < 0.1; 2 runs are in wine\nsee  %dbml runs"
    )
    assert str(dbml.runs(filter="metrics.loss < 0.1", experiment="wine")).endswith(
        "see  %dbml runs --experiment wine"
    )
    with pytest.raises(BadCommand, match="refused the search") as refused:
        dbml.runs(filter="metrics.loss <")
    assert [command for command, _ in refused.value.remedies] == [
        "%dbml runs --filter \"metrics.loss < 0.5 and params.depth = '3'\""
    ]
