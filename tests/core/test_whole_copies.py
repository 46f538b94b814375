"""Repair and the adopting of runs bring all that MLflow has of a run, and verify looks at all of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput, Metric

import dbml_magics as dbml
from tests.conftest import Proxies, Servers
from tests.core import linking
from tests.infra import plain
from tests.infra.servers import Server

MOMENT = 1_700_000_000_000


def dataset(name: str, context: str) -> DatasetInput:
    held = Dataset(name, f"{name}-1", "local", f'{{"uri": "{name}.csv"}}', '{"columns": 2}', '{"rows": 9}')
    return DatasetInput(held, [InputTag("mlflow.data.context", context), InputTag("split", "a")])


def whole_run(server: Server, experiment: str, *, deleted: bool = False) -> str:
    """Log a run that has one of everything with plain MLflow, beside the run of a model that it takes."""
    client = MlflowClient(server.uri)
    found = client.get_experiment_by_name(experiment)
    at = found.experiment_id if found else client.create_experiment(experiment)
    before = client.create_run(at, run_name="before").info.run_id
    taken = client.create_logged_model(at, "taken", before, {"from": "us"}, {"depth": "3"}, "forest")
    client.log_outputs(before, [LoggedModelOutput(taken.model_id, 4)])
    client.finalize_logged_model(taken.model_id, "READY")
    client.set_terminated(before)
    run = client.create_run(at, run_name="whole", tags={"team": "wine"}).info.run_id
    client.log_param(run, "rate", "0.1")
    client.log_metric(run, "loss", 0.5, MOMENT, 1)
    client.log_inputs(
        run, [dataset("train", "training"), dataset("test", "eval")], [LoggedModelInput(taken.model_id)]
    )
    made = [client.create_logged_model(at, name, run) for name in ("made", "failed")]
    client.log_outputs(run, [LoggedModelOutput(m.model_id, 7 + n) for n, m in enumerate(made)])
    points = [
        Metric("auc", 0.5 + step / 10, MOMENT + step, step, made[0].model_id, "test", "test-1")
        for step in range(3)
    ]
    points += [Metric("auc", 0.0, MOMENT, 9, taken.model_id), Metric("f1", 0.25, MOMENT, 0, made[0].model_id)]
    client.log_batch(run, points)
    client.finalize_logged_model(made[0].model_id, "READY")
    client.finalize_logged_model(made[1].model_id, "FAILED")
    client.set_terminated(run, "FAILED")
    if deleted:
        client.delete_run(run)
    return str(run)


def held(server: Server, experiment: str) -> dict[str, Any]:
    """Return all that a server has of an experiment's runs and logged models, under names in place of ids."""
    client = MlflowClient(server.uri)
    at = client.get_experiment_by_name(experiment)
    assert at is not None, f"{server.name} has no experiment {experiment}"
    runs = plain.runs(server.uri, experiment, files=False, deleted=True)
    models = client.search_logged_models([at.experiment_id], max_results=50)
    names = {run_id: run["name"] for run_id, run in runs.items()} | {m.model_id: m.name for m in models}

    def known(run: dict[str, Any]) -> dict[str, Any]:
        facts = plain.comparable(run)
        facts["outputs"] = sorted([names[model], step] for model, step in run["outputs"])
        facts["model_inputs"] = sorted(names[model] for model in run["model_inputs"])
        return facts

    def points(model: Any) -> list[Any]:
        return sorted(
            [
                m.key,
                m.step,
                m.timestamp,
                m.value,
                m.dataset_name or "",
                m.dataset_digest or "",
                names[m.run_id],
            ]
            for m in model.metrics or []
        )

    def model(each: Any) -> dict[str, Any]:
        facts = plain.logged_model(server.uri, each.model_id)
        own = {k: v for k, v in facts.items() if k not in ("model_id", "artifact_location", "source_run_id")}
        tags = {k: v for k, v in facts["tags"].items() if not k.startswith("dbml_")}
        return {**own, "tags": tags, "run": names.get(each.source_run_id), "metrics": points(each)}

    return {
        "experiment": (at.lifecycle_stage, at.tags),
        "runs": {run["name"]: known(run) for run in runs.values()},
        "models": {each.name: model(each) for each in models},
    }


def settled(experiment: str, **options: Any) -> None:
    """Check that a repair leaves nothing, a second one has nothing to do, and verify finds nothing."""
    done = dbml.repair(experiment=experiment, **options)
    assert not done.remaining, f"the repair leaves: {done}"
    again = dbml.repair(experiment=experiment, **options)
    assert not again.repaired + again.remaining, f"a second repair has nothing to do, but: {again}"
    found = dbml.verify(experiment=experiment, deep=True)
    assert found.equal, f"after a repair nothing differs, but: {found}"


@pytest.mark.parametrize("source", ["databricks", "azureml"])
def test_a_repair_copies_runs_and_models_with_all_that_they_have(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, source: str
) -> None:
    ours, theirs = servers if source == "databricks" else servers[::-1]
    whole_run(ours, experiment_name)
    linking.link(proxies)
    settled(experiment_name, source=source)
    assert held(theirs, experiment_name) == held(ours, experiment_name)


@pytest.mark.full
@pytest.mark.parametrize("deleted", ["run", "experiment"])
def test_what_is_deleted_and_has_a_model_stays_deleted_in_the_copy(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, deleted: str
) -> None:
    whole_run(servers.databricks, experiment_name, deleted=True)
    client = MlflowClient(servers.databricks.uri)
    at = client.get_experiment_by_name(experiment_name).experiment_id
    client.set_experiment_tag(at, "mlflow.note.content", "about wine")
    if deleted == "experiment":
        client.delete_experiment(at)
    linking.link(proxies)
    settled(experiment_name)
    there = held(servers.azureml, experiment_name)
    assert there == held(servers.databricks, experiment_name)
    assert there["runs"]["whole"]["lifecycle_stage"] == "deleted"


@pytest.mark.full
@pytest.mark.parametrize("source", ["databricks", "azureml"])
def test_what_one_workspace_alone_was_told_of_a_run_is_found_and_brought_over(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, source: str
) -> None:
    """Each thing that MLflow can be told of a run beside its params, tags, points and files."""
    linking.link(proxies)
    dbml.experiment(experiment_name)
    with mlflow.start_run(run_name="pair") as run:
        mlflow.log_metric("n", math.nan, step=1, timestamp=MOMENT)
        mlflow.log_input(mlflow.data.from_numpy(np.zeros(2), name="both"), context="training")
        known = mlflow.create_external_model("known")
    with mlflow.start_run(run_name="gone") as gone:
        pass
    mlflow.delete_run(gone.info.run_id)
    dbml.sync(60)
    assert dbml.verify(experiment=experiment_name).equal
    ours, theirs = servers if source == "databricks" else servers[::-1]
    client = MlflowClient(ours.uri)
    own, deleted = (plain.twin_id(ours.uri, each.info.run_id, experiment_name) for each in (run, gone))
    at = client.get_experiment_by_name(experiment_name).experiment_id
    (model,) = client.search_logged_models([at])
    older = client.create_logged_model(at, "older", deleted)
    client.log_inputs(own, [dataset("late", "eval")], [LoggedModelInput(older.model_id)])
    client.log_outputs(own, [LoggedModelOutput(older.model_id, 3)])
    client.log_batch(
        own, [Metric("auc", 0.5, MOMENT, step, model.model_id, "late", "late-1") for step in (1, 2)]
    )
    client.restore_run(deleted)
    client.log_metric(deleted, "recall", 0.5, MOMENT, 1, model_id=older.model_id)
    client.delete_run(deleted)

    found = dbml.verify(experiment=experiment_name)
    key = known.model_id
    assert {(d.kind, d.key) for d in found.differences} >= {
        ("dataset", "late late-1"),
        ("input", older.model_id),
        ("output", older.model_id),
        ("model", f"{key} metric auc on late late-1"),
        ("metric", "recall"),
    }, str(found)
    settled(experiment_name, source=source)
    assert held(theirs, experiment_name) == held(ours, experiment_name)


@pytest.mark.full
@pytest.mark.parametrize("began", ["databricks", "azureml"])
def test_a_run_that_goes_on_through_a_link_brings_all_that_it_had(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, began: str
) -> None:
    ours, theirs = servers if began == "databricks" else servers[::-1]
    run = whole_run(ours, experiment_name)
    linking.link(proxies)
    with mlflow.start_run(run_id=run):
        mlflow.log_metric("more", 1.0)
    linking.sync()
    assert held(theirs, experiment_name) == held(ours, experiment_name)
    same = dbml.verify(experiment=experiment_name, deep=True)
    assert same.equal, str(same)


def test_a_deleted_parent_comes_along_deleted(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """A nested run is logged: the run that it hangs on is copied, and is no more alive than before."""
    parent = whole_run(servers.databricks, experiment_name, deleted=True)
    linking.link(proxies)
    dbml.experiment(experiment_name)
    with mlflow.start_run(run_name="child", tags={"mlflow.parentRunId": parent}):
        pass
    linking.sync()
    assert held(servers.azureml, experiment_name) == held(servers.databricks, experiment_name)
