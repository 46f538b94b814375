"""Container instances and Kubernetes clusters: services of the v1 kind, by azureml-mlflow's own client."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.destinations.kinds import is_azureml
from dbml_magics.core.endpoints import remembered, webservices
from dbml_magics.errors import BadCommand, DeploymentFailed, EndpointNotFound, NotConfirmed, NotDeployable
from tests.azure.serving import X
from tests.infra.wait import eventually
from tests.standins.azure import AzureStandIn

ML = "Microsoft.MachineLearningServices"


def message_of(error: pytest.ExceptionInfo[Any]) -> str:
    return "\n".join(error.value.lines())


@pytest.mark.full
def test_a_container_instance_is_deployed_asked_updated_and_ended(
    wine: list[Any], signed_in: AzureStandIn, capfd: pytest.CaptureFixture[str]
) -> None:
    before = os.getcwd()
    webservices._said.clear()
    made = dbml.deploy("served-wine/1", to="aci", name="wine-aci")
    assert (made.changed, made.endpoint.state, made.endpoint.auth) == ("deployed", "ready", "key")
    assert made.endpoint.deployments[0].model == "served-wine/1"
    assert "out of support since 30 June 2026" in made.text()
    assert "%dbml deploy served-wine/1 --to online --name wine-aci" in made.text()
    assert capfd.readouterr().out == "", "the client's dots are nobody's business"
    assert os.getcwd() == before
    assert signed_in.endpoints()["services"]["wine-aci"]["authEnabled"] is True, "off unless asked for"
    np.testing.assert_array_equal(dbml.invoke("wine-aci", X).predictions, wine[0].predict(X))
    updated = dbml.deploy("served-wine/2", to="aci", name="wine-aci")
    assert updated.changed == "updated"
    assert "out of support" not in updated.text(), "said once"
    np.testing.assert_array_equal(dbml.invoke("wine-aci", X).predictions, wine[1].predict(X))
    assert dbml.deploy("served-wine/2", to="aci", name="wine-aci").changed == "nothing"
    assert "endpoint wine-aci (aci) ready: served-wine/2" in sessions.current().status().text()
    assert any("completed" in line for line in dbml.logs("wine-aci"))
    with pytest.raises(BadCommand, match="neither --deployment nor --traffic"):
        dbml.deploy("served-wine/2", to="aci", name="wine-aci", traffic=50)
    with pytest.raises(NotConfirmed, match="with wine-aci"):
        dbml.undeploy("wine-aci")
    assert dbml.undeploy("wine-aci", confirm="wine-aci").whole
    assert not signed_in.endpoints()["services"]
    assert "wine-aci" not in sessions.current().status().text()


@pytest.mark.full
def test_a_cluster_takes_a_service_with_the_options_of_a_file(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    with pytest.raises(BadCommand, match="--compute names it"):
        dbml.deploy("served-wine/1", to="aks", name="wine-aks")
    with pytest.raises(NotDeployable, match="cluster: other is no compute of the workspace"):
        dbml.deploy("served-wine/1", to="aks", name="wine-aks", compute="other")
    config = tmp_path / "aks.yaml"
    config.write_text("autoScaler: {autoscaleEnabled: false}\nscoringTimeoutMs: 5000\n")
    made = dbml.deploy(
        "served-wine/1",
        to="aks",
        name="wine-aks",
        compute="aks-prod",
        config=config,
        instance_count=2,
        app_insights=True,
        collect_data=True,
    )
    assert made.endpoint.state == "ready"
    assert made.endpoint.deployments[0].count == 2
    sent = signed_in.endpoints()["services"]["wine-aks"]
    assert sent["computeName"] == "aks-prod"
    assert sent["scoringTimeoutMs"] == 5000
    assert sent["appInsightsEnabled"] is True
    assert sent["dataCollection"] == {"storageEnabled": True}
    np.testing.assert_array_equal(dbml.invoke("wine-aks", X, target="aks").predictions, wine[0].predict(X))


@pytest.mark.full
def test_a_failed_service_shows_its_log_and_leaves_nothing(wine: list[Any], signed_in: AzureStandIn) -> None:
    crash = ["ModuleNotFoundError: No module named 'xgboost'"]
    with signed_in.set(container_crash=crash), pytest.raises(DeploymentFailed) as failed:
        dbml.deploy("served-wine/1", to="aci", name="wine-aci")
    assert "AciDeploymentFailed" in message_of(failed)
    assert "likely cause: a missing package" in message_of(failed)
    assert "    ModuleNotFoundError: No module named 'xgboost'" in message_of(failed)
    action = f"{ML}/workspaces/services/aci/write"
    with signed_in.deny(action), pytest.raises(DeploymentFailed, match="services/aci/write"):
        dbml.deploy("served-wine/1", to="aci", name="wine-aci")


KILLED = """
import os
import dbml_magics as dbml
dbml.link(again=True)

def progress(line):
    if "preparing the image" in line:
        print("begun", flush=True)
        os._exit(9)

dbml.deploy("served-wine/1", to="aci", name="orphan-aci", progress=progress)
"""


@pytest.mark.full
def test_a_killed_kernels_service_is_shown_until_nothing_can_come_of_it(
    wine: list[Any], signed_in: AzureStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "begun" in done.stdout, done.stderr[-3000:]
    found: Any = dbml.endpoints("orphan-aci")
    assert found.state in ("creating", "ready")
    assert "endpoint orphan-aci (aci)" in sessions.current().status().text(), "asking has not forgotten it"
    every: Any = dbml.endpoints()
    assert "orphan-aci" in [each.name for each in every]
    if "orphan-aci" in signed_in.endpoints()["services"]:
        return  # the client was quicker than its end
    monkeypatch.setattr(webservices, "_GRACE_S", 0.0)

    def is_forgotten() -> bool:
        try:
            dbml.endpoints("orphan-aci")
        except EndpointNotFound:
            return True
        return False

    eventually(is_forgotten, "the client has ended and the service never began")
    assert "orphan-aci" not in sessions.current().status().text()


@pytest.mark.full
def test_what_is_only_begun_can_be_undeployed(wine: list[Any], signed_in: AzureStandIn) -> None:
    workspace = sessions.current().engine("the test").workspaces["azureml"]
    assert is_azureml(workspace)
    record = remembered.Record(workspace.id.path, "aci", "begun-aci")
    record.write(began=time.time())
    with pytest.raises(EndpointNotFound, match="begun-aci on aci is creating"):
        dbml.invoke("begun-aci", X)
    assert dbml.undeploy("begun-aci", confirm="begun-aci").whole
    assert "begun-aci" not in sessions.current().status().text()


@pytest.mark.full
def test_a_container_instance_that_nobody_waits_for_arrives_or_shows_why_not(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    with signed_in.set(operation_seconds=1.0):
        begun = dbml.deploy("served-wine/1", to="aci", name="wine-aci", wait=False)
    assert not begun.waited
    eventually(lambda: dbml.endpoints("wine-aci").state == "ready", "it is ready")  # type: ignore[union-attr]
    np.testing.assert_array_equal(dbml.invoke("wine-aci", X).predictions, wine[0].predict(X))
    with signed_in.set(container_crash=["MemoryError"]):
        dbml.deploy("served-wine/1", to="aci", name="broken-aci", wait=False)
        failed: Any = eventually(
            lambda: e if (e := dbml.endpoints("broken-aci")).state == "failed" else None,  # type: ignore[union-attr]
            "its failure is shown",
        )
    assert "likely cause: not enough memory" in failed.text()
    assert "    MemoryError" in failed.text()


@pytest.mark.full
def test_authentication_is_off_or_by_token_when_a_file_says_so(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    config = tmp_path / "deploy.yaml"
    config.write_text("authEnabled: false\n")
    bare = dbml.deploy("served-wine/1", to="aci", name="open-aci", config=config)
    assert bare.endpoint.auth == "none"
    assert "anybody who reaches the address may ask" in bare.text()
    np.testing.assert_array_equal(dbml.invoke("open-aci", X).predictions, wine[0].predict(X))
    config.write_text("tokenAuthEnabled: true\nauthEnabled: false\n")
    token = dbml.deploy("served-wine/1", to="aks", name="token-aks", compute="aks-prod", config=config)
    assert token.endpoint.auth == "aml_token"
    np.testing.assert_array_equal(dbml.invoke("token-aks", X).predictions, wine[0].predict(X))


@pytest.mark.full
def test_the_line_for_a_managed_endpoint_has_the_options_that_it_takes(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    config = tmp_path / "deploy.yaml"
    config.write_text("containerResourceRequirements: {cpu: 1, memoryInGB: 2}\n")
    webservices._said.clear()
    made = dbml.deploy(
        "served-wine/1", to="aci", name="wine-aci", model_name="other", config=config, app_insights=True
    )
    assert any(
        note.endswith(
            "%dbml deploy served-wine/1 --to online --name wine-aci --model-name other --app-insights"
        )
        for note in made.notes
    ), made.notes
    with pytest.raises(BadCommand) as both:
        dbml.deploy("served-wine/1", to="aci", name="wine-aci", deployment="green", traffic=5)
    assert both.value.remedies[0][0] == "%dbml deploy served-wine/1 --to aci --name wine-aci"
    with pytest.raises(BadCommand, match="is a web service on") as other:
        dbml.deploy("served-wine/1", to="aks", name="wine-aci", compute="aks-prod")
    assert "--name wine-aci-2" in message_of(other)
    assert "served-wine/1" in message_of(other)
