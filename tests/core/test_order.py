"""The order of writes of several processes on one run, whatever their clocks say."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.conftest import Proxies, Servers
from tests.core.histories import SETTINGS
from tests.core.linking import arrived, sync
from tests.infra.actors import Actor, ActorHost


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def other(home: Path, linked: Proxies, actor_host: ActorHost) -> Actor:
    """Another process of the link."""
    actor = actor_host.start(home, home.parent / "work", **SETTINGS)
    actor.do("link", databricks="", azureml="", again=True)
    return actor


@pytest.mark.full(but=["True--3"])
@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("ended", [True, False])
def test_what_another_process_writes_later_stands_though_its_clock_is_hours_off(
    linked: Proxies, servers: Servers, experiment_name: str, other: Actor, hours: int, ended: bool
) -> None:
    """Nothing is delivered meanwhile, so that the writes of both processes wait side by side."""
    client = MlflowClient()
    with linked.databricks.status(503, path="runs/(log-batch|update)"), linked.azureml.away():
        run_id = mlflow.start_run(run_name="first").info.run_id
        mlflow.set_tags({"changed": "first", "removed": "first"})
        mlflow.log_text("first", "file.txt")
        if ended:
            mlflow.end_run()
        other.do("clock", hours=hours)
        other.do("tag", run=run_id, key="changed", value="later")
        other.do("untag", run=run_id, key="removed")
        other.do("text", run=run_id, path="file.txt", content="later")
        other.do("rename", run=run_id, name="later")
        here = client.get_run(run_id)
        assert (here.data.tags["changed"], here.info.run_name) == ("later", "later")
        assert "removed" not in here.data.tags
        assert mlflow.artifacts.load_text(f"runs:/{run_id}/file.txt") == "later"
        client.set_tag(run_id, "changed", "again here")
        assert client.get_run(run_id).data.tags["changed"] == "again here"
    mlflow.end_run()
    other.leave()
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert held["tags"]["changed"] == "again here"
    assert held["tags"]["mlflow.runName"] == "later"
    assert "removed" not in held["tags"]
    assert client.get_run(run_id).data.tags["changed"] == "again here"
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/file.txt") == "later"


def test_two_processes_that_take_turns_see_and_leave_the_last_word(
    linked: Proxies, servers: Servers, experiment_name: str, other: Actor
) -> None:
    """The clock of one of them is three hours slow, and then fast."""
    client = MlflowClient()
    with linked.databricks.status(503, path="runs/(log-batch|update)"), linked.azureml.away():
        run_id = mlflow.start_run().info.run_id
        for turn, hours in enumerate([-3, -3, 3, -3, 3, -3]):
            client.set_tag(run_id, "turn", f"mine {turn}")
            other.do("clock", hours=hours)
            other.do("tag", run=run_id, key="turn", value=f"theirs {turn}")
            assert client.get_run(run_id).data.tags["turn"] == f"theirs {turn}"
        other.kill()
    mlflow.end_run()
    sync()
    assert arrived(servers, run_id, experiment_name)["tags"]["turn"] == "theirs 5"


def test_several_runs_are_on_their_way_at_a_time_and_each_in_its_order(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    proxy, count, seconds = linked.azureml, 9, 1.0
    proxy.keep_bodies("runs/(log-batch|update)$")
    runs = []
    with proxy.away():
        for number in range(count):
            with mlflow.start_run(run_name=f"run {number}") as run:
                mlflow.log_metric("m", number)
            runs.append(run.info.run_id)
    with proxy.delay(seconds, path="runs/create$"):
        sync()
    created = [request.time for request in proxy.requests("runs/create$")][-count:]
    # The first one looks whether the outage is over; the others go together.
    together = sum(time < created[1] + seconds for time in created[1:])
    assert 1 < together <= 8, f"{together} runs were being made at the same time"
    order: dict[str, list[str]] = {}
    for request in proxy.requests("runs/(log-batch|update)$"):
        order.setdefault(json.loads(request.body or "")["run_id"], []).append(request.path.rpartition("/")[2])
    assert [*order.values()] == [["log-batch", "update"]] * count
    for run_id in runs:
        held = arrived(servers, run_id, experiment_name)
        assert (held["status"], len(held["metrics"]["m"])) == ("FINISHED", 1)
