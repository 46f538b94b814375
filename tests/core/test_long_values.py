"""Params and tags longer than MLflow takes: its servers have them cut, a file of the run has them whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag

import dbml_magics as dbml
from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, both_sides, dead_letters, link, sync
from tests.infra import plain

PARAM, TAG = 6000, 8000  # characters that MLflow takes


def long_values(experiment: str) -> str:
    """Log long values through each call that takes them; returns the run's id."""
    client = MlflowClient()
    experiment_id = mlflow.set_experiment(experiment).experiment_id
    run_id = client.create_run(experiment_id, tags={"made": "made " * 2400, "short": "s"}).info.run_id
    client.log_param(run_id, "param", "p" * 7000)
    client.set_tag(run_id, "tag", "t" * 12_000)
    with mlflow.start_run(run_id=run_id):
        mlflow.log_params({"params": ["q"] * 3000, "fits": "f" * PARAM})
        mlflow.set_tags(
            {"tags": {"u": "u" * 9000}, "fits": "f" * TAG, "shrinks": "x" * 9000, "goes": "y" * 9000}
        )
    batch: dict[str, Any] = {"params": [Param("batch", "é" * 6001)], "tags": [RunTag("batch", "ü" * 8001)]}
    client.log_batch(run_id, **batch)
    client.set_tag(run_id, "shrinks", "short again")
    client.delete_tag(run_id, "goes")
    return str(run_id)


def kept(server: Any, run_id: str, experiment: str) -> dict[str, Any]:
    """Return the params and tags of the file in which a workspace has what it does not take whole."""
    reader, own = plain.client(server.uri), plain.twin_id(server.uri, run_id, experiment)
    found = json.loads(Path(reader.download_artifacts(own, "dbml/overflow.json")).read_text("utf-8"))
    return {kind: found[kind] for kind in ("params", "tags")}


def values(held: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return a run's params, and its tags without MLflow's and ours."""
    own = {k: v for k, v in held["tags"].items() if not k.startswith(("mlflow.", "dbml_"))}
    return {"params": held["params"], "tags": own}


@pytest.mark.parametrize("cut_by_mlflow", ["true", "false"])
def test_a_long_value_is_cut_at_a_server_as_mlflow_cuts_it_and_kept_whole_in_the_runs_file(
    home: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
    cut_by_mlflow: str,
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    reference = plain.run(servers.databricks.uri, long_values(f"{experiment_name}-plain"), files=False)
    assert len(reference["params"]["param"]) == PARAM, "a server cuts"
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", cut_by_mlflow)  # the link refuses neither way
    link(proxies)
    run_id = long_values(experiment_name)
    whole = {
        "params": {"param": "p" * 7000, "params": str(["q"] * 3000), "batch": "é" * 6001},
        "tags": {
            "made": "made " * 2400,
            "tag": "t" * 12_000,
            "tags": str({"u": "u" * 9000}),
            "batch": "ü" * 8001,
        },
    }
    sync()
    held = arrived(servers, run_id, experiment_name, files=False)
    # A server on SQLite cuts no tag that a run is made with; one on PostgreSQL refuses it.
    reference["tags"]["made"] = reference["tags"]["made"][:TAG]
    assert values(held) == values(reference)
    for server in servers:
        found = kept(server, run_id, experiment_name)
        for kind, expected in whole.items():
            lengths = {key: len(value) for key, value in found[kind].items()}
            assert found[kind] == expected, f"the file's {kind} at {server.name} have {lengths} characters"
    notes = str(dbml.status()) + str(dbml.receipt(run_id))
    for role in ("databricks", "azureml"):
        assert (
            f"{role} takes 6,000 characters in a param: params batch, param, params are in its file" in notes
        )
        assert f"{role} takes 8,000 characters in a tag: tags batch, made, tag and 1 more are" in notes
    # What the server shows is the beginning of what is logged again: MLflow compares what it has cut.
    MlflowClient().log_param(run_id, "param", "p" * 7000)
    with pytest.raises(mlflow.MlflowException, match="Changing param values is not allowed"):
        MlflowClient().log_param(run_id, "param", "other")
    sync()
    assert dead_letters() == []
    assert dbml.verify(experiment=experiment_name).differences == ()


def test_a_long_value_that_each_service_takes_less_of_is_the_same_to_verify(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    proxies.azureml.limit({"param_value": 500, "tag_value": 1000}, wording="azureml")
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_param("long", "p" * 7000)
        mlflow.set_tag("long", "t" * 9000)
    sync()
    primary, mirror = both_sides(servers, run.info.run_id, experiment_name)
    assert (len(primary["params"]["long"]), len(mirror["params"]["long"])) == (PARAM, 500)
    assert (len(primary["tags"]["long"]), len(mirror["tags"]["long"])) == (TAG, 1000)
    assert kept(servers.azureml, run.info.run_id, experiment_name)["params"] == {"long": "p" * 7000}
    assert dbml.verify(experiment=experiment_name).differences == ()
