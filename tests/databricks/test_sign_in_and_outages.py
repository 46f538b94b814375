"""Databricks takes back a token, a secret or a permission, does not answer, or the process is killed."""

from __future__ import annotations

import configparser
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.destinations import databricks_refusals, rest
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.errors import NotPermitted
from tests.core.linking import child, finish
from tests.databricks.conftest import ADA
from tests.infra.proxy import Proxy
from tests.infra.wait import eventually
from tests.standins.databricks import Databricks


def profile(file: Path, host: str, client: str, secret: str) -> None:
    """Write the profile ``team`` of a service principal."""
    profiles = configparser.ConfigParser()
    profiles["team"] = {
        "host": host,
        "client_id": client,
        "client_secret": secret,
        "auth_type": "oauth-m2m",
    }
    with file.open("w") as out:
        profiles.write(out)


def linked(experiment: str, databricks: str = "databricks") -> sessions.Session:
    """Link Databricks alone and set the experiment."""
    session = sessions.current()
    dbml.link(databricks=databricks, track="databricks")
    dbml.experiment(experiment)
    return session


def trouble() -> str:
    """Return what the status says of Databricks."""
    return sessions.current().status().destinations[0].last_error or ""


def points(adb: Databricks) -> list[int]:
    """Return the steps that arrived, after checking that each arrived once."""
    assert not adb.written or max(adb.written.values()) == 1, "a point was written twice"
    return sorted(step for _, _, step, *_ in adb.written)


def test_a_revoked_secret_holds_up_delivery_until_the_profile_has_a_new_one(
    adb: Databricks, home: Path, config_file: Path, experiment_name: str
) -> None:
    import mlflow

    client, secret = adb.principal("robot@example.com")
    profile(config_file, adb.uri, client, secret)
    linked(experiment_name, "databricks://team")
    with mlflow.start_run():
        mlflow.log_metric("m", 0.0, step=0)
        dbml.sync(timeout=60)
        adb.revoke(client)
        for step in range(1, 6):
            mlflow.log_metric("m", 1.0, step=step)
        eventually(lambda: "invalid_client" in trouble(), "the status says that the secret is not taken")
        mlflow.log_text("kept", "notes.txt")
    fresh = adb.renew(client)
    profile(config_file, adb.uri, client, fresh)
    assert not dbml.sync(timeout=90).dead["databricks"]
    assert points(adb) == list(range(6))
    for kept in (f for f in home.rglob("*") if f.is_file()):
        assert not any(s.encode() in kept.read_bytes() for s in (secret, fresh)), f"{kept} holds the secret"


def test_a_token_that_ends_in_the_middle_of_a_run_is_an_outage_until_there_is_another(
    signed_in: Databricks, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    linked(experiment_name)
    with mlflow.start_run():
        dbml.sync(timeout=60)
        signed_in.expire()
        began = time.monotonic()
        for step in range(5):
            mlflow.log_metric("m", 1.0, step=step)
        assert time.monotonic() - began < 5, "logging waited for the workspace"
        mlflow.log_text("kept", "notes.txt")
        eventually(lambda: "the sign-in is over" in trouble(), "the status says why nothing moves")
    with mlflow.start_run(run_name="during"):
        mlflow.log_metric("m", 1.0, step=9)
    monkeypatch.setenv("DATABRICKS_TOKEN", signed_in.token(ADA))
    assert not dbml.sync(timeout=90).dead["databricks"]
    assert points(signed_in) == [0, 1, 2, 3, 4, 9]
    assert any(path.endswith("/notes.txt") for path in signed_in.files)


def test_a_sign_in_that_does_not_answer_costs_no_more_than_the_call_may_take(
    adb: Databricks, home: Path, config_file: Path
) -> None:
    client, secret = adb.principal("robot@example.com")
    profile(config_file, adb.uri, client, secret)
    session = sessions.current()
    dbml.link(databricks="databricks://team", track="databricks")
    spec = session.engine("the test").link.spec("databricks")
    workspace: Any = connect(spec)
    adb.switches.token_delay = 3.0
    began = time.monotonic()
    with rest.call_timeout(0.3), pytest.raises(Unavailable, match="does not answer"):
        workspace.creds()
    assert time.monotonic() - began < 2.5
    adb.switches.token_delay = 0.0
    with rest.call_timeout(20):
        assert workspace.creds().token.startswith("eyJ"), "the attempt that was under way is taken up"


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("POST", "/api/2.0/mlflow/runs/create", "CAN EDIT on the experiment"),
        ("POST", "/api/2.0/mlflow/runs/search", "CAN READ on the experiment"),
        ("GET", "/api/2.0/mlflow/runs/get", "CAN READ on the experiment"),
        ("POST", "/api/2.0/mlflow/experiments/create", "CAN MANAGE on the experiment's folder"),
        ("POST", "/api/2.0/workspace/mkdirs", "CAN MANAGE on the experiment's folder"),
        ("PUT", "/api/2.0/fs/files/WorkspaceInternal/Mlflow/Artifacts/1/x", "CAN EDIT on the experiment"),
        ("POST", "/api/2.0/mlflow/model-versions/create", "CAN EDIT on the registered model"),
        ("GET", "/api/2.0/mlflow/registered-models/search", "CAN READ on the registered model"),
        ("POST", "/api/2.0/mlflow/unity-catalog/registered-models/create", "CREATE MODEL on the schema"),
        ("GET", "/api/2.0/mlflow/unity-catalog/model-versions/get", "EXECUTE on the model"),
    ],
)
def test_each_call_names_the_permission_that_it_needs(method: str, path: str, needed: str) -> None:
    assert str(databricks_refusals.permission_for(method, path)).endswith(needed)


def test_a_permission_that_is_taken_away_and_given_back_costs_time_and_nothing_else(
    signed_in: Databricks, home: Path, experiment_name: str
) -> None:
    import mlflow

    linked(experiment_name)
    with mlflow.start_run():
        dbml.sync(timeout=60)
        signed_in.deny(ADA, "runs/", f"{ADA} does not have Edit permissions on experiment")
        mlflow.log_metric("m", 1.0, step=1)
        eventually(lambda: "CAN EDIT on the experiment" in trouble(), "the status names the permission")
    signed_in.allow_all()
    assert not dbml.sync(timeout=90).dead["databricks"]
    assert points(signed_in) == [1]


def test_linking_without_a_permission_says_which_and_what_to_do(signed_in: Databricks, home: Path) -> None:
    signed_in.deny(ADA, "experiments/", "No permission")
    with pytest.raises(NotPermitted, match="CAN READ on the experiment") as caught:
        dbml.link(databricks="databricks", track="databricks")
    assert caught.value.remedies


TRAINING = """
import os, sys, time
import mlflow
import dbml_magics as dbml
dbml.link(databricks="databricks", track="databricks")
dbml.experiment(sys.argv[1])
with mlflow.start_run(run_name="killed") as run:
    print(run.info.run_id, flush=True)
    for step in range(100000):
        mlflow.log_metric("m", 1.0, step=step)
        if step % 50 == 0:
            mlflow.log_text("kept", f"notes/{step}.txt")
        print(step, flush=True)
        time.sleep(0.002)
"""


@pytest.mark.full
def test_a_killed_training_and_a_token_that_expires_in_an_outage_lose_nothing_at_databricks(
    adb: Databricks, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(adb.uri) as proxy:
        token = adb.token(ADA)
        process = child(
            f"import sys; sys.argv[1:] = [{experiment_name!r}]\n{TRAINING}",
            DATABRICKS_HOST=proxy.uri,
            DATABRICKS_TOKEN=token,
            DBML_LONGEST_PAUSE="1",
        )
        assert process.stdout is not None
        process.stdout.readline()
        eventually(lambda: bool(adb.written), "the first points arrive", 90)
        with proxy.away():
            while int(process.stdout.readline()) < 150:
                pass
            os.kill(process.pid, signal.SIGKILL)
            left = process.stdout.read().rpartition("\n")[0].split()  # whole lines
            acknowledged = int(left[-1]) if left else 150
            process.communicate()
            adb.expire()
        monkeypatch.setenv("DATABRICKS_HOST", proxy.uri)
        monkeypatch.setenv("DATABRICKS_TOKEN", adb.token(ADA))
        dbml.link(again=True)
        assert not dbml.sync(timeout=120).dead["databricks"]
        found = points(adb)
    assert found[: acknowledged + 1] == list(range(acknowledged + 1)), "an acknowledged point is missing"
    assert len(found) <= acknowledged + 3
    notes = [p for p in adb.files if "/notes/" in p]
    assert len(notes) >= acknowledged // 50


@pytest.mark.full
def test_the_shell_command_delivers_what_a_notebook_left_with_the_environments_own_sign_in(
    signed_in: Databricks, home: Path, experiment_name: str
) -> None:
    code = """
        import mlflow, os
        import dbml_magics as dbml
        os.environ["DBML_EXIT_FLUSH"] = "0"
        dbml.link(databricks="databricks", track="databricks")
        dbml.experiment({name!r})
        with mlflow.start_run():
            mlflow.log_metric("m", 1.0, step=7)
        os._exit(0)
    """
    finish(child(code.format(name=experiment_name)))
    out = finish(
        child("import sys, dbml_magics.__main__ as m; sys.exit(m.main(['sync', '--timeout', '60']))")
    )
    assert points(signed_in) == [7], out
