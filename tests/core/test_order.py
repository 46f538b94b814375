"""The order of writes of several processes on one run, whatever their clocks say."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, child, finish, link, sync

SET_BACK = """
    import time
    real, real_ns = time.time, time.time_ns
    time.time, time.time_ns = lambda: real() + {hours} * 3600, lambda: real_ns() + {hours} * 3600 * 10**9
    """
LATER = """
    import mlflow
    client = mlflow.MlflowClient()
    run = {run!r}
    client.set_tag(run, "changed", "later")
    client.delete_tag(run, "removed")
    client.log_text(run, "later", "file.txt")
    client.update_run(run, name="later")
    print(client.get_run(run).data.tags["changed"], client.get_run(run).info.run_name, flush=True)
    """


@pytest.fixture
def linked(home: Path, proxies: Proxies, experiment_name: str) -> Proxies:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    return proxies


@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("ended", [True, False])
def test_what_another_process_writes_later_stands_though_its_clock_is_hours_off(
    linked: Proxies, servers: Servers, experiment_name: str, hours: int, ended: bool
) -> None:
    """Nothing is delivered meanwhile, so that the writes of both processes wait side by side."""
    client = MlflowClient()
    with linked.databricks.hang(path="runs/(log-batch|update)"), linked.azureml.hang():
        run_id = mlflow.start_run(run_name="first").info.run_id
        mlflow.set_tags({"changed": "first", "removed": "first"})
        mlflow.log_text("first", "file.txt")
        if ended:
            mlflow.end_run()
        script = SET_BACK.format(hours=hours) + LATER.format(run=run_id)
        assert finish(child(script, DBML_EXIT_FLUSH="0")) == "later later"
        here = client.get_run(run_id)
        assert (here.data.tags["changed"], here.info.run_name) == ("later", "later")
        assert "removed" not in here.data.tags
        assert mlflow.artifacts.load_text(f"runs:/{run_id}/file.txt") == "later"
        client.set_tag(run_id, "last", "here")
    client.set_tag(run_id, "changed", "again here")
    assert client.get_run(run_id).data.tags["changed"] == "again here"
    mlflow.end_run()
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert held["tags"]["changed"] == "again here"
    assert held["tags"]["mlflow.runName"] == "later"
    assert "removed" not in held["tags"]
    assert client.get_run(run_id).data.tags["changed"] == "again here"
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/file.txt") == "later"


def test_two_processes_that_take_turns_see_and_leave_the_last_word(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The clock of one of them is three hours slow."""
    script = (
        SET_BACK.format(hours=-3)
        + """
    import mlflow, sys
    client = mlflow.MlflowClient()
    run = {run!r}
    for line in sys.stdin:
        client.set_tag(run, "turn", line.strip())
        print(client.get_run(run).data.tags["turn"], flush=True)
    """
    )
    client = MlflowClient()
    with linked.databricks.hang(path="runs/(log-batch|update)"), linked.azureml.hang():
        run_id = mlflow.start_run().info.run_id
        other = subprocess.Popen(
            [sys.executable, "-u", "-W", "ignore", "-c", textwrap.dedent(script.format(run=run_id))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdin is not None
        assert other.stdout is not None
        for turn in range(5):
            client.set_tag(run_id, "turn", f"mine {turn}")
            other.stdin.write(f"theirs {turn}\n")
            other.stdin.flush()
            assert other.stdout.readline().strip() == f"theirs {turn}"
            assert client.get_run(run_id).data.tags["turn"] == f"theirs {turn}"
        other.kill()
        other.communicate()
    mlflow.end_run()
    sync()
    assert arrived(servers, run_id, experiment_name)["tags"]["turn"] == "theirs 4"
