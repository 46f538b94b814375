"""Values that no workspace can be sent: refused at the call, before anything of them is kept; alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.outbox.lines import OLD_SUFFIX
from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, dead_letters, leftovers, steps, sync
from tests.infra import plain
from tests.infra.wait import eventually

BAD = os.fsdecode(b"caf\xe9.csv")  # what os.listdir gives for a Latin-1 name
MOST = 2**63 - 1


def log_everything_good(first: int) -> None:
    """Log ten points, a param and a tag."""
    for step in range(first, first + 10):
        mlflow.log_metric("good", step, step=step)
    mlflow.log_param(f"p{first}", "v")
    mlflow.set_tag(f"t{first}", "v")


def folder_with_a_bad_name() -> str:
    """Make a folder with three files, one of a name that is not UTF-8."""
    folder = Path("files")
    folder.mkdir(exist_ok=True)
    for name in ("a.txt", BAD, "z.txt"):
        (folder / name).write_text("x")
    return str(folder)


IN_A_RUN: dict[str, tuple[Callable[[MlflowClient, str], Any], str]] = {
    "step beyond int64": (lambda _, run: mlflow.log_metric("bad", 1.0, step=2**63), "step of metric 'bad'"),
    "step below int64": (
        lambda _, run: mlflow.log_metric("bad", 1.0, step=-(2**63) - 1),
        "step of metric 'bad'",
    ),
    "step of a known key": (
        lambda _, run: mlflow.log_metric("good", 1.0, step=2**70),
        "step of metric 'good'",
    ),
    "half a step": (lambda _, run: mlflow.log_metric("bad", 1.0, step=1.5), "step of metric 'bad'"),
    "step that is no number": (lambda c, run: c.log_batch(run, [Metric("bad", 1.0, 1, float("nan"))]), "bad"),
    "timestamp beyond int64": (
        lambda c, run: c.log_metric(run, "bad", 1.0, 2**63, 1),
        "timestamp of metric 'bad'",
    ),
    "timestamp in a batch": (
        lambda c, run: c.log_batch(run, [Metric("good", 5.0, 1, 99), Metric("bad", 1.0, 2**63, 1)]),
        "timestamp of metric 'bad'",
    ),
    "step in a batch of known keys": (
        lambda c, run: c.log_batch(run, [Metric("good", 5.0, 1, 99), Metric("good", 1.0, 1, 2**63)]),
        "step of metric 'good'",
    ),
    "param": (lambda _, run: mlflow.log_param("bad", BAD), "param bad"),
    "param's key": (lambda _, run: mlflow.log_param(BAD, "1"), "param"),
    "tag": (lambda _, run: mlflow.set_tag("bad", f"data/{BAD}"), "tag bad"),
    "tags": (lambda c, run: c.log_batch(run, [], [Param("fine", "1")], [RunTag("bad", BAD)]), "tag 'bad'"),
    "run's name": (lambda c, run: c.update_run(run, name=BAD), "name"),
    "end time": (lambda c, run: c.set_terminated(run, "FINISHED", 2**63), "end time"),
    "metric's key": (lambda _, run: mlflow.log_metric(f"m {BAD}", 1.0), "'name'"),
    "file's name": (lambda _, run: mlflow.log_artifacts(folder_with_a_bad_name()), "path of a file"),
    "artifact's folder": (lambda _, run: mlflow.log_text("x", f"{BAD}/a.txt"), "path of a file"),
    "dataset": (
        lambda _, run: mlflow.log_input(mlflow.data.from_numpy(np.ones(3), name=f"d {BAD}")),
        "input",
    ),
}
OUTSIDE: dict[str, Callable[[MlflowClient], Any]] = {
    "run's name": lambda c: mlflow.start_run(run_name=BAD),
    "tags of a run": lambda c: mlflow.start_run(tags={"path": BAD}),
    "key of a run's tag": lambda c: mlflow.start_run(tags={BAD: "1"}),
    "start time": lambda c: c.create_run("0", start_time=2**63),
    "experiment's name": lambda c: c.create_experiment(f"e {BAD}"),
    "experiment's tags": lambda c: c.create_experiment("with tags", tags={"path": BAD}),
    "logged model": lambda c: mlflow.create_external_model(name="m", params={"path": BAD}),
    "registered model": lambda c: c.create_registered_model("m", tags={"path": BAD}),
    "registered model's description": lambda c: c.create_registered_model("m", description=BAD),
}


@pytest.mark.parametrize("what", IN_A_RUN)
def test_a_value_that_cannot_be_sent_is_refused_at_the_call_and_costs_nothing_else(
    linked: Proxies, servers: Servers, experiment_name: str, what: str
) -> None:
    call, named = IN_A_RUN[what]
    with mlflow.start_run() as run:
        log_everything_good(0)
        with pytest.raises(MlflowException, match=named) as refusal:
            call(MlflowClient(), run.info.run_id)
        assert refusal.value.error_code == "INVALID_PARAMETER_VALUE"
        log_everything_good(10)
        mlflow.log_metric("good", 20, step=MOST)
        mlflow.log_metric("good", 21, step=np.int64(21))
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert steps(held, "good") == [*range(20), 21, MOST]
    assert {"p0", "p10"} <= set(held["params"])
    assert {"t0", "t10"} <= set(held["tags"])
    assert not held["artifacts"]
    assert "bad" not in {*held["metrics"], *held["params"], *held["tags"]}


@pytest.mark.parametrize("what", OUTSIDE)
def test_what_begins_something_with_such_a_value_is_refused_before_anybody_is_asked(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str, what: str
) -> None:
    for away in (False, True):
        for proxy in linked:
            proxy.refuse() if away else proxy.clear()
        with pytest.raises(MlflowException) as refusal:
            OUTSIDE[what](MlflowClient())
        assert refusal.value.error_code == "INVALID_PARAMETER_VALUE"
        assert mlflow.active_run() is None
    for proxy in linked:
        proxy.clear()
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1)
    sync()
    arrived(servers, run.info.run_id, experiment_name)
    eventually(lambda: leftovers(home) == [], "nothing is left", show=lambda: leftovers(home))


def test_logged_models_and_experiments_refuse_them_too(linked: Proxies, experiment_name: str) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment is not None
    with mlflow.start_run():
        model = mlflow.create_external_model(name="m")
    client.create_registered_model(experiment_name)
    calls: list[Callable[[], Any]] = [
        lambda: client.set_experiment_tag(experiment.experiment_id, "k", BAD),
        lambda: client.rename_experiment(experiment.experiment_id, BAD),
        lambda: client.set_logged_model_tags(model.model_id, {"k": BAD}),
        lambda: client.log_model_params(model.model_id, {"k": BAD}),
        lambda: client.set_registered_model_alias(experiment_name, BAD, "1"),
        lambda: client.set_registered_model_tag(experiment_name, "k", BAD),
        lambda: client.update_registered_model(experiment_name, BAD),
        lambda: client.create_model_version(experiment_name, "models:/m-1", tags={"k": BAD}),
    ]
    for call in calls:
        with pytest.raises(MlflowException) as refusal:
            call()
        assert refusal.value.error_code == "INVALID_PARAMETER_VALUE", refusal.value
    sync()


def test_an_old_run_whose_first_line_cannot_be_sent_begins_without_that(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The first release kept such a name and tag, and then tried for ever to begin the run."""
    engine = session.current().engine("this test")
    experiment = MlflowClient().get_experiment_by_name(experiment_name)
    assert experiment is not None
    run_id = "0123456789abcdef" * 2
    tags = {"path": BAD, BAD: "x", "good": "kept", "mlflow.runName": BAD, "mlflow.user": "me"}
    begun = {"experiment": experiment.experiment_id, "user": BAD, "start": 1790000000000, "tags": tags}
    old = [
        [1790000000000000001, "c", begun],
        [1790000000000000002, "m", "good", 1.0, 1790000000000, 1],
        [1790000000000000003, "u", {"status": "FINISHED", "end": 1790000000009, "name": None}],
    ]
    folder = engine.journal.folder(run_id)
    folder.mkdir(parents=True)
    (folder / f"1-ab-1{OLD_SUFFIX}").write_text("".join(json.dumps(op) + "\n" for op in old))
    dbml.sync(timeout=60)
    for server in servers:
        own = plain.twin_id(server.uri, run_id, experiment_name)
        assert own is not None, f"{server.name} has no run {run_id}"
        held = plain.run(server.uri, own)
        assert (held["status"], steps(held, "good"), held["tags"]["good"]) == ("FINISHED", [1], "kept")
    assert len(dead_letters("databricks")) == len(dead_letters("azureml")) == 3
    dbml.discard_dead_letters(6)


def test_old_lines_that_cannot_be_sent_are_dead_letters_and_nothing_else_is(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The first release kept such values: each is put aside alone, with what it was."""
    with linked.databricks.away(), linked.azureml.away():
        with mlflow.start_run() as run:
            log_everything_good(0)
        engine = session.current().engine("this test")
        folder = engine.journal.folder(run.info.run_id)
        old = [
            f'[1790000000000000001,"m","good",1.0,1790000000000,{2**63}]',
            f'[1790000000000000002,"b",[["good",1.0,1790000000000,77],["bad",1.0,{2**63},1]],{{}},{{}}]',
            '[1790000000000000003,"p","path","caf\\udce9.csv"]',
            '[1790000000000000004,"g","caf\\udce9","x"]',
            '[1790000000000000005,"m","good",1.0,1790000000000,78]',
        ]
        (folder / f"1-ab-1{OLD_SUFFIX}").write_text("\n".join(old) + "\n")
    dbml.sync(timeout=60)
    held = arrived(servers, run.info.run_id, experiment_name)
    assert steps(held, "good") == [*range(10), 78]
    assert len(dead_letters("databricks")) == len(dead_letters("azureml")) == 4
    dbml.discard_dead_letters(8)
