"""The servers are real, keep what they were told, and end with the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from tests.conftest import Servers
from tests.infra import plain
from tests.infra.servers import ServerHost, clean_environment
from tests.infra.wait import eventually

ROOT = Path(__file__).parents[2]


def test_the_pair_are_two_workspaces_that_know_nothing_of_each_other(
    servers: Servers, experiment_name: str
) -> None:
    client = MlflowClient(servers.databricks.uri, servers.databricks.uri)
    run = client.create_run(client.create_experiment(experiment_name))
    client.log_text(run.info.run_id, "hello", "notes/hello.txt")

    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert list(plain.artifacts(servers.databricks.uri, run.info.run_id)) == ["notes/hello.txt"]
    assert plain.runs(servers.azureml.uri, experiment_name) == {}


def test_a_server_that_was_killed_comes_back_at_its_address_with_its_runs(server_host: ServerHost) -> None:
    server = server_host.start("short-lived")
    uri = server.uri
    client = MlflowClient(uri, uri)
    run = client.create_run("0")

    server.kill()
    with pytest.raises(requests.ConnectionError, match="refused"):
        requests.get(f"{uri}/health", timeout=5)
    server.start()

    assert server.uri == uri
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    server.stop()


@pytest.mark.full
def test_servers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from tests.infra.servers import ServerHost\n"
        "host = ServerHost()\n"
        "server = host.start('orphan')\n"
        "print(server.pid, host._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**clean_environment(tmp_path), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)

    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    eventually(lambda: not any(alive(pid) for pid in pids), "the servers end with their parent", 20)


def test_no_setting_of_the_user_reaches_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "MLFLOW_TRACKING_URI",
        "DBML_HOME",
        "AZUREML_RUN_ID",
        "ARM_CLOUD_METADATA_URL",
        "PYTHONPATH",
    ):
        monkeypatch.setenv(name, "leak")
    assert "leak" not in clean_environment(tmp_path).values()


def alive(pid: int) -> bool:
    """Tell whether the process runs; one that waits to be reaped by init does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
