"""Receipts: each run can prove what was delivered where and when, and registering can require it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import dbml_magics as dbml
from dbml_magics.core import receipts
from dbml_magics.core import session as sessions
from dbml_magics.core.runtime import engines
from dbml_magics.errors import DeliveryIncomplete
from tests.conftest import Proxies, Servers
from tests.core.linking import link, sync
from tests.infra import plain


def test_a_receipt_says_what_arrived_where_and_when(
    proxies: Proxies, servers: Servers, home: Path, experiment_name: str
) -> None:
    import mlflow

    began = int(time.time() * 1000)
    link(proxies)
    dbml.experiment(experiment_name)
    with mlflow.start_run(run_name="forest") as run:
        for step in range(30):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_params({"a": 1, "b": 2})
        mlflow.log_text("x", "x.txt")
    sync()
    receipt = dbml.receipt()
    assert receipt.run_id == run.info.run_id
    assert receipt.delivered
    assert not receipt.verified
    for delivery, server in zip(receipt.deliveries, servers, strict=True):
        assert delivery.arrived["points"] == 30
        assert delivery.arrived["params"] == 2
        assert delivery.arrived["files"] == 1
        assert delivery.first is not None
        assert delivery.last is not None
        assert began <= delivery.first <= delivery.last <= time.time() * 1000
        assert delivery.run_id == plain.twin_id(server.uri, run.info.run_id, experiment_name)
    assert "delivered to databricks and azureml" in str(receipt)
    assert json.loads(receipt.json())["deliveries"][1]["arrived"]["points"] == 30


def test_a_run_on_its_way_or_refused_has_no_full_receipt_and_is_not_registered(
    proxies: Proxies, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    monkeypatch.setattr(receipts, "_WAIT_S", 0.5)
    link(proxies)
    session = sessions.current()
    dbml.experiment(experiment_name)
    with mlflow.start_run() as run:
        fitted = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
        mlflow.sklearn.log_model(fitted, name="model", pip_requirements=["scikit-learn"])
    sync()
    with proxies.azureml.away():
        mlflow.MlflowClient().log_metric(run.info.run_id, "late", 1.0)
        waiting = dbml.receipt(run.info.run_id)
        assert not waiting.delivered
        assert waiting.deliveries[1].waiting == 1
        with pytest.raises(DeliveryIncomplete) as refused:
            dbml.register("last", experiment_name, require_delivered=True)
        assert "azureml: 1 write on the way" in str(refused.value)
        assert ("%dbml sync", "waits for the rest") in refused.value.remedies
    sync()
    engine = session.engine("this test")
    engine.state.reject("azureml", run.info.run_id, [1, "p", "k", "v"], "too long")
    with pytest.raises(DeliveryIncomplete, match="azureml: 1 write refused"):
        dbml.deploy("last", to="local", name="wine", require_delivered=True)
    engine.state.discard_dead(engine.state.dead_numbers("azureml"))
    registered = dbml.register("last", experiment_name, require_delivered=True)
    assert registered.versions[0].version == "1"


@pytest.mark.full
def test_a_run_of_another_machine_is_compared_instead(
    proxies: Proxies, servers: Servers, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    link(proxies)
    session = sessions.current()
    dbml.experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1.0)
    sync()
    engines.discard(session.engine("this test"))
    session.unlink()
    monkeypatch.setenv("DBML_HOME", str(home.parent / "another-machine"))
    link(proxies)
    receipt = dbml.receipt(run.info.run_id)
    assert receipt.verified
    assert receipt.delivered
    assert "equal at databricks and azureml" in str(receipt)
    client = plain.client(servers.azureml.uri)
    own = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
    client.set_tag(own, "edited", "there")
    edited = dbml.receipt(run.info.run_id)
    assert not edited.delivered
    with pytest.raises(DeliveryIncomplete, match="not all of run"):
        receipts.require(sessions.current().engine("this test"), run.info.run_id, "%dbml register")
