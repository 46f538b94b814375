"""Secrets and neighbours: each server sees its own credentials, and nobody's link is another's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.common import config, disks
from dbml_magics.core import link as links
from dbml_magics.core import remembered_links, session, workspace_uri
from dbml_magics.errors import NothingRemembered, SecretRefused
from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, child, finish, link, sync

OF_MLFLOW = {
    "MLFLOW_TRACKING_TOKEN": "token-of-another-server",
    "MLFLOW_TRACKING_USERNAME": "user-of-another-server",
    "MLFLOW_TRACKING_PASSWORD": "password-of-another-server",
    "DATABRICKS_TOKEN": "dapi-of-a-databricks-workspace",
    "AZURE_CLIENT_SECRET": "secret-of-a-service-principal",
}


@pytest.mark.full
def test_mlflows_own_token_goes_to_neither_server_whoever_asks(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the notebook, a child with nothing but the URI, or a shell; not where a role has none."""
    for name, value in OF_MLFLOW.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DBML_AZUREML_TOKEN", "token-of-azureml")
    proxies.azureml.require("Bearer token-of-azureml")
    link(proxies, registry="both")
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1)
        mlflow.log_text("t", "t.txt")
    mlflow.MlflowClient().create_registered_model(f"model-{experiment_name}")
    finish(child(f"import mlflow; mlflow.MlflowClient().log_metric({run.info.run_id!r}, 'child', 1)"))
    sync()
    without = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    asked = subprocess.run(
        [sys.executable, "-m", "dbml_magics", "sync"], capture_output=True, text=True, env=without, check=True
    )
    arrived(servers, run.info.run_id, experiment_name)
    assert {r.authorization for r in proxies.databricks.requests()} == {None}
    assert {r.authorization for r in proxies.azureml.requests()} == {"Bearer token-of-azureml"}
    kept = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file()) + asked.stdout.encode()
    secrets = [v for k, v in OF_MLFLOW.items() if not k.endswith("USERNAME")]  # a run says who began it
    assert not [secret for secret in (*secrets, "token-of-azureml") if secret.encode() in kept]


def test_a_server_that_sends_its_callers_on_tells_the_other_one_no_token(
    home: Path, proxies: Proxies, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "token-of-databricks")
    link(proxies, track="databricks", registry="databricks")
    fault = proxies.databricks.redirect(f"{proxies.azureml.uri}/api/2.0/mlflow/experiments/search", times=1)
    assert mlflow.search_experiments(max_results=1), "it is asked again where it is, as after an outage"
    assert fault.hits == 1
    assert not proxies.azureml.requests()


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2@127.0.0.1:5000",
        "https://hunter2@mlflow.example.com",
        "postgresql://me:hunter2@host/db",
        "http://127.0.0.1:5000/?token=hunter2",
    ],
)
def test_a_secret_in_a_uri_is_refused_and_never_said_again(
    home: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On the line, in a file, in a link's URI that somebody wrote by hand."""
    from urllib.parse import quote

    Path("dbml.toml").write_text(f'[databricks]\nuri = "{uri}"\n')
    by_hand = (
        f"dbml://x?track=databricks&registry=databricks&mode=journal&folder=/&databricks={quote(uri, '')}"
    )
    said = []
    for attempt in (
        lambda: dbml.link(databricks=uri, track="databricks"),
        lambda: dbml.link(config=True, track="databricks"),
        lambda: links.from_uri(by_hand),
    ):
        with pytest.raises(SecretRefused) as refused:
            attempt()
        said.append("\n".join(refused.value.lines()))
    assert "hunter2" not in "".join([*said, caplog.text])
    assert "hunter2" not in workspace_uri.masked(uri)
    assert not [p for p in home.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]


def test_a_remembered_link_that_others_may_write_is_not_taken_up(home: Path) -> None:
    dbml.link(local=True)
    session.current().unlink()
    (kept,) = home.glob("remembered/*.json")
    kept.chmod(0o666)
    assert remembered_links.remembered_hint(os.getcwd()) is None
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)
    kept.chmod(0o600)
    elsewhere = kept.with_name("elsewhere")
    shutil.move(kept, elsewhere)
    kept.symlink_to(elsewhere)
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_in_ones_own_folder_is_not_taken_up(home: Path) -> None:
    dbml.link(local=True)
    session.current().unlink()
    (kept,) = home.glob("remembered/*.json")
    os.chown(kept, 12345, 12345)
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)


def test_a_cloned_repository_brings_no_link_along(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as a data folder of its own, nor as one that DBML_HOME names inside it."""
    clone = Path.cwd()
    (clone / ".git").mkdir()
    planted = {"folder": str(clone), "uri": "dbml://x?databricks=http://evil.example.com&folder=/", "at": 1}
    for place in (".dbml", ".dbml-magics", ".local/share/dbml-magics", "home"):
        folder = clone / place / "remembered"
        folder.mkdir(parents=True)
        (folder / remembered_links._remembered_file(str(clone)).name).write_text(json.dumps(planted))
    assert remembered_links.remembered_hint(str(clone)) is None
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)
    spare = tmp_path / "spare"
    monkeypatch.setattr(disks, "spare_folders", lambda: iter((spare,)))
    config._data_home.cache_clear()
    config._spare_folders.cache_clear()
    monkeypatch.setenv("DBML_HOME", str(clone / "home"))
    assert config.data_home() == spare
    assert "is on a git folder" in str(config.data_home_note())
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)
    config._data_home.cache_clear()
    config._spare_folders.cache_clear()


def test_a_link_of_another_folder_is_not_this_ones(home: Path, tmp_path: Path) -> None:
    dbml.link(local=True)
    session.current().unlink()
    (kept,) = home.glob("remembered/*.json")
    other = tmp_path / "other"
    other.mkdir()
    os.chdir(other)
    shutil.copy(kept, remembered_links._remembered_file(os.getcwd()))
    with pytest.raises(NothingRemembered):
        dbml.link(again=True)
