"""Processes that are killed, outages in which tokens run out: all arrives once, and no secret is anywhere."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from tests.clouds.conftest import Clouds
from tests.clouds.native import Reader
from tests.core.linking import child, finish, written_points
from tests.core.test_processes import SYNC, Killed, in_shell, no_lease_here
from tests.databricks.conftest import ADA
from tests.infra.wait import eventually
from tests.standins.azure.login import CLIENT_SECRET

MODEL_ARGUMENTS = {"name": "model", "pip_requirements": ["scikit-learn"]}
OTHERS = """
    import json, sys
    import mlflow
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(sys.argv[1]).experiment_id
    found = client.search_logged_models([experiment], filter_string="params.depth = '3'")
    everything = mlflow.search_logged_models([experiment], output_format="list")
    print(json.dumps({
        "found": [model.name for model in found],
        "all": sorted(model.name for model in everything),
        "params": {model.name: model.params for model in everything},
        "metrics": {model.name: [[m.key, m.value] for m in model.metrics or []] for model in everything},
        "got": sorted(client.get_logged_model(model.model_id).name for model in everything),
        "predictions": [float(mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict([[3.0]])[0])
                        for model in everything],
    }))
"""


def model() -> Any:
    """Return a model that doubles."""
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])


def once(counted: Counter[tuple[Any, ...]]) -> None:
    """Check that no point came twice."""
    twice = {point: n for point, n in counted.items() if n > 1}
    assert not twice, f"{len(twice)} points were written more than once: {list(twice.items())[:3]}"


def whole(killed: Killed, held: dict[str, Any]) -> None:
    """Check that a workspace has all that was acknowledged, and at most the one write that was under way."""
    got = [step for step, _ in held["history"]["loss"]]
    assert got in (killed.steps, [*killed.steps, len(killed.steps)])
    assert killed.params <= set(held["params"])
    assert len(held["params"]) <= len(killed.params) + 1
    assert not killed.files or "notes" in held["files"]


@pytest.mark.full
def test_trainings_and_deliverers_that_are_killed_lose_and_double_nothing(
    both: Clouds, reader: Reader, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at random moments, the tokens run out in between; somebody else finishes in the end."""
    chance = random.Random(time.time_ns())
    azure, adb, session = both.azure, both.adb, sessions.current()
    azure.proxy.keep_bodies()
    status = dbml.link(**both.wishes())
    dbml.experiment(experiment_name)
    dbml.sync(timeout=60)
    session.unlink()
    eventually(no_lease_here, "the leases were given back")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", status.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", experiment_name)
    killed = [Killed(chance.randrange(1, 600)) for _ in range(2)]
    azure.expire_tokens()
    azure.proxy.delay(0.03)
    for _ in range(2):
        before = azure.proxy.count(method="POST|PUT|PATCH", path="/mlflow/|/history/")
        wanted = before + chance.randrange(1, 5)
        process = child(SYNC)

        def is_under_way(wanted: int = wanted, process: subprocess.Popen[str] = process) -> bool:
            written = azure.proxy.count(method="POST|PUT|PATCH", path="/mlflow/|/history/")
            return written >= wanted or process.poll() is not None

        eventually(
            is_under_way,
            "the delivery is under way",
        )
        process.send_signal(signal.SIGKILL)
        process.communicate()
    azure.proxy.clear()
    azure.expire_tokens()
    done = in_shell("sync", "--timeout", "90")
    assert done.returncode == 0, done.stdout + done.stderr
    reader.sign_in_again()
    for each in killed:
        whole(each, reader.run("azureml", each.run_id))
        whole(each, reader.run("databricks", each.run_id))
    assert len(reader.runs("azureml", experiment_name)) == 2
    assert len(reader.runs("databricks", f"/Users/{ADA}/{experiment_name}")) == 2
    once(written_points(azure.proxy))
    assert max(adb.written.values()) == 1


@pytest.mark.full
def test_an_outage_in_which_the_tokens_run_out_costs_no_run_file_or_model(
    both: Clouds,
    reader: Reader,
    home: Path,
    experiment_name: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    azure, session = both.azure, sessions.current()
    caplog.set_level(logging.DEBUG)
    azure.proxy.keep_bodies(path="/mlflow/|/history/|/artifact/")
    dbml.link(**both.wishes("both", "azureml"))
    dbml.experiment(experiment_name)
    name = experiment_name.replace("_", "-")
    with azure.set(token_lifetime=3.0, sas_lifetime=2.0):
        azure.expire_tokens()
        with mlflow.start_run() as first:
            mlflow.log_metric("loss", 1.0, step=0)
            dbml.sync(timeout=60)
            tokens = [session.engine("the test").workspaces["azureml"].sign_in.get_token().token]  # type: ignore[attr-defined]
            with azure.proxy.away():
                for step in range(1, 50):
                    mlflow.log_metric("loss", 1 / step, step=step)
                mlflow.log_text("hello", "notes/hello.txt")
                mlflow.sklearn.log_model(model(), **MODEL_ARGUMENTS)
                mlflow.end_run()
                with mlflow.start_run() as second:
                    mlflow.log_metric("loss", 0.5, step=0)
                    mlflow.sklearn.log_model(model(), registered_model_name=name, **MODEL_ARGUMENTS)
                eventually(
                    lambda: next(d for d in session.status().destinations if d.name == "azureml").away,
                    "the workspace counts as away",
                )
                shown = f"{session.status()}{session.status().html()}"
                eventually(lambda: time.time() > expiry(tokens[0]), "the token has run out in the outage")
            azure.expire_tokens()
        dbml.sync(timeout=90)
        tokens.append(session.engine("the test").workspaces["azureml"].sign_in.get_token().token)  # type: ignore[attr-defined]
    assert not any(d.dead for d in session.status().destinations)
    shown += f"{session.status()}{session.status().uri}{dbml.runs()}{dbml.models(name)}"
    side = session.engine("the test").side("azureml")
    reader.sign_in_again()
    ids = [side.ids.run_at(run.info.run_id) for run in (first, second)]
    held = reader.run("azureml", ids[0], (f"runs:/{ids[0]}/model",))
    assert [step for step, _ in held["history"]["loss"]] == list(range(50))
    assert {"model", "notes"} <= set(held["files"])
    held = reader.run("azureml", ids[1], (f"runs:/{ids[1]}/model", f"models:/{name}/1"))
    assert all(found == [pytest.approx(6.0)] for found in held["predictions"].values())
    once(written_points(azure.proxy))
    session.unlink()

    # No secret: neither on disk, nor shown, logged, or written to a workspace.
    signatures = [token.rpartition(".")[2] for token in tokens]
    secrets = [CLIENT_SECRET, os.environ["DATABRICKS_TOKEN"], *tokens, *signatures, "sig="]
    asked = [request.body or "" for request in azure.proxy.requests("/mlflow/|/history/|/artifact/")]
    own = [r.getMessage() for r in caplog.records if r.name.startswith(("dbml", "mlflow"))]
    texts = {"shown": shown, "printed": "".join(capsys.readouterr())}
    texts |= {"sent": "\n".join(asked), "logged": "\n".join(own)}
    kept = {str(f): f.read_bytes() for f in [*home.rglob("*"), *Path.cwd().rglob("*")] if f.is_file()}
    assert any("links" in place for place in kept), "a link keeps files"
    for secret in secrets:
        found = [place for place, text in texts.items() if secret in text]
        found += [place for place, data in kept.items() if secret.encode() in data]
        assert not found, f"{secret[:6]}… is in {found}"
    assert not [f for f in home.rglob("*") if f.is_file() and f.stat().st_mode & 0o077], "the user's alone"


def expiry(token: str) -> float:
    """Return when a token runs out."""
    import jwt

    return float(jwt.decode(token, options={"verify_signature": False})["exp"])


@pytest.mark.full
@pytest.mark.parametrize("where", ["this machine", "another machine"])
def test_another_process_finds_and_loads_the_models_that_azure_ml_has_no_word_for(
    both: Clouds, home: Path, where: str, experiment_name: str, tmp_path: Path
) -> None:
    import mlflow

    session = sessions.current()
    status = dbml.link(**both.wishes("azureml", "azureml"))
    dbml.experiment(experiment_name)
    for depth in (3, 4):
        with mlflow.start_run():
            mlflow.log_metric("loss", 1 / depth)
            mlflow.sklearn.log_model(
                model(), name=f"tree-{depth}", params={"depth": depth}, pip_requirements=["scikit-learn"]
            )
    dbml.sync(timeout=60)
    variables = {"MLFLOW_TRACKING_URI": status.uri}
    if where == "another machine":
        other = tmp_path / "other-home"
        other.mkdir()
        variables["DBML_HOME"] = str(other)
    code = OTHERS.replace("sys.argv[1]", repr(experiment_name))
    found = json.loads(finish(child(code, cwd=None, **variables)).splitlines()[-1])
    assert found["found"] == ["tree-3"], "searched by a param, here"
    assert found["all"] == found["got"] == ["tree-3", "tree-4"]
    assert found["params"] == {"tree-3": {"depth": "3"}, "tree-4": {"depth": "4"}}
    assert found["predictions"] == [pytest.approx(6.0)] * 2
    session.unlink()
