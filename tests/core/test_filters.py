"""Searches by what the link alone names: its ids after an outage, and the places of files."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow import MlflowClient

from tests.conftest import Proxies, Servers
from tests.core.linking import link, sync


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
    client.create_run(experiment_id, tags={"mlflow.parentRunId": run_id, "other": run_id}, run_name="second")
    client.create_logged_model(experiment_id, "alone")
    sync()
    assert files == client.get_run(run_id).info.artifact_uri
    name, place = experiment_name, client.get_logged_model(model.model_id).artifact_location
    client.create_registered_model(name)
    client.create_model_version(name, f"{files}/folder", run_id)
    client.create_model_version(name, "s3://bucket/elsewhere")

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
        f"run_id = '{run_id}' AND name = '{name}'": ["1"],
        f"run_id IN ('{run_id}')": ["1"],
        f"name = '{name}'": ["2", "1"],
    }.items():
        assert [each.version for each in client.search_model_versions(where)] == versions, where
