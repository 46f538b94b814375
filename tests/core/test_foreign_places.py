"""Where a server says that its files are: no other host gets a token, no folder of this machine is obeyed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.errors import WouldRefuse
from dbml_magics.core.link import WorkspaceSpec
from tests.conftest import Servers
from tests.core.linking import dead_letters
from tests.infra import plain
from tests.infra.hostile import Hostile, locations
from tests.infra.wait import eventually

RUN = "0123456789abcdef0123456789abcdef"
REMOTE = "http://mlflow.example:5000"


@pytest.fixture
def hostile(servers: Servers) -> Iterator[Hostile]:
    with Hostile(servers.azureml.uri) as made:
        yield made


def refused(workspace: str, uri: str, role: str = "azureml") -> str:
    """Return why a workspace may not name a place of files; empty where it may."""
    try:
        connect(WorkspaceSpec(role, workspace)).artifacts(uri)
    except WouldRefuse as error:  # any other error would be tried for ever, or end what it is part of
        return str(error)
    return ""


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow-artifacts://elsewhere.example/1/a/artifacts",
        "mlflow-artifacts://elsewhere.example:5000/1/a/artifacts",
        "mlflow-artifacts://mlflow.example:5001/1/a/artifacts",
        "mlflow-artifacts://mlflow.example/1/a/artifacts",
        "mlflow-artifacts://mlflow.example:5000@elsewhere.example/1/a/artifacts",
        "mlflow-artifacts://user@mlflow.example:5000/1/a/artifacts",
        "MLFLOW-ARTIFACTS://elsewhere.example/1/a/artifacts",
        "http://elsewhere.example/api/2.0/mlflow-artifacts/artifacts/1",
        "HTTP://elsewhere.example/api/2.0/mlflow-artifacts/artifacts/1",
        "https://mlflow.example:5000/api/2.0/mlflow-artifacts/artifacts/1",
        "http://mlflow.example:5000@elsewhere.example/api/2.0/mlflow-artifacts/artifacts/1",
        "http://mlflow.example:5000\\@elsewhere.example/api/2.0/mlflow-artifacts/artifacts/1",
        "http://mlflow.example.elsewhere.example:5000/api/2.0/mlflow-artifacts/artifacts/1",
        "http://mlflow.example:5000/another/service",
        "http://mlflow.example:5000/api/2.0/mlflow-artifacts/artifacts-of-others/1",
        "http://[::1",
        "azureml://elsewhere.example/mlflow/v2.0/subscriptions/s/resourceGroups/g/experiments/e/runs/r/artifacts",
        "dbfs:/databricks/mlflow-tracking/1/a/artifacts",
        "dbfs://profile@databricks/mlflow/a",
        "runs:/0123/model",
        "models:/name/1",
        "dbml://link/runs/a/artifacts",
        "nobody-knows://this/place",
        "",
        "/etc",
        "etc/passwd",
        "file:///etc",
        "FILE:///etc",
        "file:/etc",
        "file://localhost/etc",
        " file:///etc",
        f"file:///srv/mlruns/1/{RUN}/artifacts",
        f"/srv/mlruns/1/{RUN}/artifacts",
        "c:/Users/me",
    ],
)
def test_a_remote_server_names_no_other_host_and_no_folder_of_this_machine(uri: str) -> None:
    assert refused(REMOTE, uri), f"{uri} was taken"


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow-artifacts:/1/a/artifacts",
        "mlflow-artifacts://mlflow.example:5000/1/a/artifacts",
        "mlflow-artifacts://MLFLOW.example:5000/1/a/artifacts",
        "http://mlflow.example:5000/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts",
        "http://MLflow.Example:5000/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts",
    ],
)
def test_a_servers_own_artifact_service_is_asked_with_the_roles_credentials(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_AZUREML_TOKEN", "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "global")
    repository = connect(WorkspaceSpec("azureml", REMOTE)).artifacts(uri)
    assert repository.artifact_uri == f"{REMOTE}/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts"
    assert repository._host_creds.token == "mine"


def test_object_stores_are_reached_by_their_own_clients() -> None:
    for uri in ("s3://bucket/a", "gs://bucket/a", "abfss://c@account.dfs.core.windows.net/a"):
        try:
            assert not refused(REMOTE, uri)
        except ImportError:
            continue  # the store's own client is not installed here


@pytest.mark.parametrize("uri", ["file:///etc", "/etc", "http://elsewhere.example/", "runs:/a/b", ""])
@pytest.mark.parametrize("workspace", ["databricks", "postgresql://db.example/mlflow"])
def test_no_remote_workspace_of_any_kind_names_a_folder_of_this_machine(workspace: str, uri: str) -> None:
    assert refused(workspace, uri, "databricks"), f"{uri} was taken from {workspace}"


def test_a_local_workspace_has_its_files_where_it_says(tmp_path: Path) -> None:
    spec = WorkspaceSpec("azureml", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for uri in (str(tmp_path / "files"), (tmp_path / "files").as_uri()):
        connect(spec).artifacts(uri)


def test_a_server_on_this_machine_may_name_a_runs_own_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = "http://127.0.0.1:5000"
    (tmp_path / "secret").mkdir()
    own = tmp_path / "mlruns" / "1" / RUN / "artifacts"
    assert not refused(here, str(own))
    assert not refused(here, own.as_uri())
    assert not refused(here, f"{own}/model")
    assert refused(here, str(tmp_path / "secret"))
    assert refused(here, f"{own}/../../../../secret"), "a path that leads out of the folder was taken"
    assert refused(here, f"{own.as_uri()}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret")
    own.parent.mkdir(parents=True)
    own.symlink_to(tmp_path / "secret")
    assert refused(here, str(own)), "a link that leads out of the folder was taken"
    monkeypatch.setenv("DBML_AZUREML_FILES", str(tmp_path / "shared"))
    assert not refused(REMOTE, str(tmp_path / "shared" / "1")), "the user names a folder that both mount"
    assert refused(REMOTE, str(tmp_path / "shared" / ".." / "secret"))


@pytest.mark.parametrize(
    "place",
    ["mlflow-artifacts://{0}/stolen", "http://{0}/api/2.0/mlflow-artifacts/artifacts/1", "http://{0}"],
)
def test_a_token_goes_to_no_host_that_a_run_names_and_the_rest_of_the_run_arrives(
    place: str,
    hostile: Hostile,
    servers: Servers,
    home: Path,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MLFLOW_TRACKING_TOKEN", "DBML_AZUREML_TOKEN", "DBML_DATABRICKS_TOKEN"):
        monkeypatch.setenv(name, f"{name}-secret")
    with Hostile() as elsewhere:
        hostile.rewrite(locations(place.format(elsewhere.netloc)), path="runs/(create|get|search)")
        dbml.link(databricks=servers.databricks.uri, azureml=hostile.uri)
        dbml.experiment(experiment_name)
        with mlflow.start_run() as run:
            mlflow.log_metric("m", 1.0)
            mlflow.log_text("kept", "notes.txt")
            mlflow.log_param("p", "v")
        dbml.sync(60)
        eventually(
            lambda: [(role, op[1]) for role, op, _ in dead_letters()] == [("azureml", "a")],
            "the file alone is put aside",
            show=dead_letters,
        )
        assert "another host" in dead_letters()[0][2]
        found = dbml.verify(experiment=experiment_name)
        assert len(found.differences) == 1, str(found)
        difference = found.differences[0]
        assert (difference.kind, difference.key) == ("artifact", "(all)")
        assert "another host" in str(difference.values["azureml"])
        (left,) = dbml.repair(experiment=experiment_name).remaining
        assert "none is read or written" in left.done
        assert elsewhere.requests == [], "the other host was asked"
        mirror = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
        assert mirror is not None
        held = plain.run(servers.azureml.uri, mirror)
        assert held["params"] == {"p": "v"}
        assert list(held["metrics"]) == ["m"]


def test_a_servers_local_folder_is_neither_written_nor_read(
    hostile: Hostile, servers: Servers, home: Path, experiment_name: str, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "id_rsa").write_text("PRIVATE KEY")
    hostile.rewrite(locations(victim.as_uri()), path="runs/(create|get|search)|logged-models")
    dbml.link(databricks=servers.databricks.uri, azureml=hostile.uri)
    dbml.experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_text("ssh-rsa", "authorized_keys")
    dbml.sync(60)
    eventually(lambda: len(dead_letters()) == 1, "the file is put aside", show=dead_letters)
    role, op, cause = dead_letters()[0]
    assert (role, op[2]["path"]) == ("azureml", "authorized_keys")
    assert "folder of this machine" in cause
    (difference,) = dbml.verify(experiment=experiment_name).differences
    assert "folder of this machine" in str(difference.values["azureml"])
    dbml.repair(experiment=experiment_name, source="azureml")
    assert [p.name for p in victim.iterdir()] == ["id_rsa"], "something was written there"
    assert "id_rsa" not in json.dumps(plain.run(servers.databricks.uri, run.info.run_id))


def test_a_server_without_artifact_service_is_linked_as_before(
    hostile: Hostile, servers: Servers, home: Path, experiment_name: str, tmp_path: Path
) -> None:
    """What ``mlflow server --default-artifact-root ./mlruns --no-serve-artifacts`` says of its runs."""
    root = tmp_path / "mlruns"
    hostile.rewrite(locations(root.as_uri(), keep_end=True), path="runs/(create|get|search)")
    dbml.link(databricks=servers.databricks.uri, azureml=hostile.uri)
    dbml.experiment(experiment_name)
    with mlflow.start_run():
        mlflow.log_text("kept", "notes.txt")
    dbml.sync(60)
    assert not dead_letters()
    assert [p.read_text() for p in root.rglob("notes.txt")] == ["kept"]
