"""Managed online endpoints: real models behind the deployments, through the commands of the link."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.endpoints import managed_body, remembered
from dbml_magics.errors import (
    BadCommand,
    BadData,
    BadLink,
    BadName,
    DeploymentFailed,
    EndpointNotFound,
    NotConfirmed,
    NotDeployable,
    NotPermitted,
)
from tests.azure.serving import X, log
from tests.infra.wait import eventually
from tests.standins.azure import AzureStandIn

ML = "Microsoft.MachineLearningServices"


def deploy(model: str = "served-wine/1", name: str = "wine", **options: Any) -> Any:
    return dbml.deploy(model, to="online", name=name, **options)


def sent(azure: AzureStandIn, name: str = "wine") -> dict[str, Any]:
    """Return what the service has of an endpoint."""
    found: dict[str, Any] = azure.endpoints()["online"][name]
    return found


def predicted(**options: Any) -> np.ndarray[Any, Any]:
    return np.asarray(dbml.invoke("wine", X, **options).predictions)


def shown(name: str = "wine") -> Any:
    """Return an endpoint as ``endpoints`` shows it."""
    return dbml.endpoints(name)


def message_of(error: pytest.ExceptionInfo[Any]) -> str:
    return "\n".join(error.value.lines())


def test_the_lines_that_deploy_here_deploy_to_a_managed_endpoint(
    wine: list[Any], signed_in: AzureStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    before = os.getcwd()
    made = deploy(progress=lines.append)
    assert (made.changed, made.endpoint.state, made.endpoint.traffic) == ("deployed", "ready", {"wine": 100})
    assert made.endpoint.deployment("wine").model == "served-wine/1"
    assert "1 × Standard_DS3_V2" in made.text(), "what it leaves running, as the service spells it"
    assert made.endpoint.page.startswith(f"{signed_in.uri}/studio/endpoints/realtime/wine/detail?wsid=")
    assert any("wine on online  starting the deployment" in line for line in lines), lines
    found = dbml.invoke("wine", X)
    assert isinstance(found.predictions, pd.Series)
    assert list(found.predictions.index) == list("xyz")
    np.testing.assert_array_equal(found.predictions, wine[0].predict(X))
    assert found.deployment == "wine"
    properties = sent(signed_in)["body"]["properties"]
    assert properties["authMode"] == "Key", "authentication is on"
    assert requests.post(made.uri, json={}, verify=str(signed_in.bundle), timeout=20).status_code == 401
    assert "POST" in "\n".join(dbml.logs("wine")), "the container's own log"
    assert capsys.readouterr().out == "", "the core prints nothing"
    assert os.getcwd() == before
    again = deploy()
    assert again.changed == "nothing"
    status = sessions.current().status().text()
    assert "endpoint wine (online) ready: served-wine/1, 1 × Standard_DS3_V2" in status
    assert "dbml undeploy wine --confirm wine" in status


@pytest.mark.full
def test_green_stands_beside_blue_takes_over_and_gives_back_by_one_line_each(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    deploy(deployment="blue")
    made = deploy("served-wine/2", deployment="green")
    assert made.endpoint.traffic == {"blue": 100, "green": 0}
    assert any("green gets 0 % of the requests until" in note for note in made.notes), made.notes
    blue, green = (model.predict(X) for model in wine)
    np.testing.assert_array_equal(predicted(), blue)
    np.testing.assert_array_equal(predicted(deployment="green"), green)
    moved = deploy("served-wine/2", deployment="green", traffic=100)
    assert (moved.changed, moved.endpoint.traffic) == ("traffic", {"blue": 0, "green": 100})
    np.testing.assert_array_equal(predicted(), green)
    deploy(deployment="blue", traffic=100)
    np.testing.assert_array_equal(predicted(), blue)
    shared = deploy("served-wine/2", deployment="green", traffic=30)
    assert sent(signed_in)["traffic"] == {"blue": 70, "green": 30}
    assert shared.endpoint.traffic == {"blue": 70, "green": 30}
    with pytest.raises(BadCommand, match="wine has the deployments blue, green: which one"):
        deploy("served-wine/2")
    with pytest.raises(BadCommand, match="green gets 30 %") as refused:
        dbml.undeploy("wine", deployment="green", confirm="wine")
    assert "%dbml deploy served-wine/1 --to online --name wine --deployment blue --traffic 100" in message_of(
        refused
    )
    deploy(deployment="blue", traffic=100)
    with pytest.raises(NotConfirmed, match="deployment green of endpoint wine on online would be") as unsure:
        dbml.undeploy("wine", deployment="green")
    assert "--deployment green --confirm wine" in message_of(unsure)
    gone = dbml.undeploy("wine", deployment="green", confirm="wine")
    assert (gone.whole, gone.deployments) == (False, ("green",))
    assert shown().traffic == {"blue": 100}


@pytest.mark.full
def test_an_update_keeps_what_the_line_does_not_name_and_answers_all_the_while(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    config = tmp_path / "deploy.yaml"
    config.write_text(
        "instance_type: Standard_F4s_v2\ninstance_count: 2\nrequest_settings: {request_timeout_ms: 5000}\n"
        "environment_variables: {OMP_NUM_THREADS: 1}\ntags: {team: ml}\n"
    )
    deploy(config=config, app_insights=True, collect_data=True)
    first = sent(signed_in)["deployments"]["wine"]
    with signed_in.set(operation_seconds=1.5):
        made = deploy("served-wine/2", wait=False)
        assert not made.waited
        np.testing.assert_array_equal(predicted(), wine[0].predict(X), "the old model answers until then")
        eventually(
            lambda: shown().deployment("wine").model == "served-wine/2" and shown().state == "ready",
            "the update to end",
        )
    np.testing.assert_array_equal(predicted(), wine[1].predict(X))
    second = sent(signed_in)["deployments"]["wine"]
    assert second["sku"] == first["sku"] == {"name": "Default", "capacity": 2}
    for properties in (first["properties"], second["properties"]):
        assert properties["instanceType"] == "Standard_F4s_v2"
        assert properties["requestSettings"] == {"requestTimeout": "PT5S"}
        assert properties["environmentVariables"] == {"OMP_NUM_THREADS": "1"}
        assert properties["appInsightsEnabled"] is True
        collected = properties["dataCollector"]["collections"]
        assert {name: each["dataCollectionMode"] for name, each in collected.items()} == {
            "model_inputs": "Enabled",
            "model_outputs": "Enabled",
        }
    assert second["tags"]["team"] == "ml"


@pytest.mark.full
def test_a_crash_shows_the_containers_last_lines_and_leaves_nothing(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    crash = ["Traceback (most recent call last):", "ModuleNotFoundError: No module named 'lightgbm'"]
    with signed_in.set(container_crash=crash), pytest.raises(DeploymentFailed) as failed:
        deploy()
    assert "served-wine/1 was not deployed to wine on online: ResourceNotReady" in message_of(failed)
    assert "likely cause: a missing package" in message_of(failed)
    assert "    ModuleNotFoundError: No module named 'lightgbm'" in message_of(failed)
    eventually(lambda: not signed_in.endpoints()["online"] or not dbml.endpoints(), "nothing to be left")
    deploy(deployment="blue")
    with signed_in.set(container_crash=crash), pytest.raises(DeploymentFailed):
        deploy("served-wine/2", deployment="green")
    eventually(lambda: list(shown().traffic) == ["blue"], "green to be taken away")
    np.testing.assert_array_equal(predicted(), wine[0].predict(X), "blue never knew")
    with signed_in.set(container_crash=crash), pytest.raises(DeploymentFailed, match="lightgbm"):
        deploy("served-wine/2", deployment="blue")
    np.testing.assert_array_equal(predicted(), wine[0].predict(X), "the old model goes on")


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        (
            {"image_pull": "Failed to pull image: pull access denied for workspace.azurecr.test/model"},
            "likely cause: the image cannot be pulled",
        ),
        ({"egress": False}, "likely cause: no way out to the network"),
    ],
)
def test_a_failure_says_its_likely_cause(
    wine: list[Any], signed_in: AzureStandIn, switches: dict[str, Any], said: str
) -> None:
    with signed_in.set(**switches), pytest.raises(DeploymentFailed) as failed:
        deploy()
    assert said in message_of(failed)


@pytest.mark.full
def test_quota_is_asked_before_anything_is_made_and_its_refusal_leaves_nothing(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    with signed_in.set(quota_cores=6):
        with pytest.raises(NotDeployable) as refused:
            deploy()
        assert "1 × Standard_DS3_v2 takes 8 vCPUs of standardDSv2Family" in message_of(refused)
        assert "6 are free" in message_of(refused)
        assert not signed_in.endpoints()["online"]
        with signed_in.deny(f"{ML}/locations/usages/read"), pytest.raises(DeploymentFailed) as failed:
            deploy()
        assert "OutOfQuota: Not enough quota available for Standard_DS3_v2" in message_of(failed)
        assert "likely cause: not enough quota" in message_of(failed)
        eventually(lambda: not dbml.endpoints(), "the new endpoint to be taken away")
        assert deploy(instance_type="Standard_DS2_v2").endpoint.state == "ready"
    with pytest.raises(NotDeployable, match="westeurope has no machine Standard_Huge"):
        deploy(name="huge", instance_type="Standard_Huge")


def test_a_missing_role_is_named_and_what_was_begun_is_taken_away(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    with signed_in.deny(f"{ML}/workspaces/onlineEndpoints/write"), pytest.raises(NotPermitted) as refused:
        deploy()
    assert f"{ML}/workspaces/onlineEndpoints/write is missing" in message_of(refused)
    assert "AzureML Data Scientist" in message_of(refused)
    action = f"{ML}/workspaces/onlineEndpoints/deployments/write"
    with signed_in.deny(action), pytest.raises(NotPermitted, match="onlineEndpoints/deployments/write"):
        deploy()
    eventually(lambda: not dbml.endpoints(), "the empty endpoint to be taken away")
    assert not remembered.records()
    deploy()
    action = f"{ML}/workspaces/onlineEndpoints/listKeys/action"
    with signed_in.deny(action), pytest.raises(NotPermitted, match="listKeys/action is missing"):
        dbml.invoke("wine", X)


KILLED = """
import os, sys
import dbml_magics as dbml
dbml.link(again=True)
dbml.deploy("served-wine/1", to="online", name="orphan", wait=False)
print("begun", flush=True)
os._exit(9)
"""


@pytest.mark.full
def test_a_killed_kernel_leaves_no_orphan_that_status_does_not_show(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    with signed_in.set(operation_seconds=2.0):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", KILLED],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert "begun" in done.stdout, done.stderr[-3000:]
    assert not sent(signed_in, "orphan")["deployments"], "the kernel died between two steps"
    assert "endpoint orphan (online)" in sessions.current().status().text()
    eventually(lambda: shown("orphan").state == "ready", "endpoints to go on with it")
    assert shown("orphan").traffic == {"orphan": 100}
    np.testing.assert_array_equal(dbml.invoke("orphan", X).predictions, wine[0].predict(X))
    with pytest.raises(NotConfirmed) as unsure:
        dbml.undeploy("orphan")
    assert "endpoint orphan on online would be deleted, with orphan (served-wine/1)" in message_of(unsure)
    assert "%dbml undeploy orphan --from online --confirm orphan" in message_of(unsure)
    assert dbml.undeploy("orphan", confirm="orphan").whole
    assert not signed_in.endpoints()["online"]
    assert "orphan" not in sessions.current().status().text()


@pytest.mark.full
def test_what_fails_after_no_wait_is_shown_by_endpoints(wine: list[Any], signed_in: AzureStandIn) -> None:
    with signed_in.set(container_crash=["MemoryError"]):
        deploy(wait=False)
        eventually(lambda: getattr(shown().deployment("wine"), "error", None), "the failure to be told")
    failed = shown().deployment("wine")
    assert (shown().state, failed.state) == ("failed", "failed")
    assert "ResourceNotReady" in str(failed.error)
    assert (failed.model, failed.cause, failed.log[-1]) == (
        "served-wine/1",
        "not enough memory",
        "MemoryError",
    )
    assert "  likely cause: not enough memory" in shown().text()
    assert "    MemoryError" in shown().text()
    assert "MemoryError" in shown().html()
    assert "MemoryError" in list(dbml.logs("wine"))
    made = deploy()
    assert made.endpoint.state == "ready"
    assert made.endpoint.deployment("wine").error is None


@pytest.mark.full
def test_two_deployments_that_nobody_waits_for_both_arrive(wine: list[Any], signed_in: AzureStandIn) -> None:
    with signed_in.set(operation_seconds=1.0):
        deploy(deployment="blue", wait=False)
        deploy("served-wine/2", deployment="green", wait=False)
        eventually(
            lambda: (e := shown()).state == "ready" and len(e.deployments) == 2, "both to be there", 60
        )
    assert shown().traffic == {"blue": 100, "green": 0}, "the first one gets the requests"
    np.testing.assert_array_equal(predicted(), wine[0].predict(X))
    np.testing.assert_array_equal(predicted(deployment="green"), wine[1].predict(X))
    with signed_in.set(operation_seconds=1.0):
        deploy("served-wine/2", deployment="blue", wait=False)
        again = deploy("served-wine/1", deployment="blue", wait=False)
        assert "it takes the place of served-wine/2, which was still on its way to blue" in again.text()
        eventually(
            lambda: (e := shown()).state == "ready" and e.deployment("blue").model == "served-wine/1",
            "the later line to be done",
        )
    assert shown().traffic == {"blue": 100, "green": 0}


@pytest.mark.full
def test_one_that_fails_beside_another_is_shown_and_the_other_arrives(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    with signed_in.set(operation_seconds=1.0):
        with signed_in.set(image_pull="manifest unknown"):
            deploy(deployment="blue", wait=False)
            eventually(lambda: "blue" in sent(signed_in)["deployments"], "blue to be begun", 60)
        deploy("served-wine/2", deployment="green", wait=False)
        eventually(lambda: shown().traffic.get("green") == 100, "green to get the requests", 60)
    failed = shown().deployment("blue")
    assert (failed.state, failed.cause) == ("failed", "the image cannot be pulled: the registry's access")
    assert "manifest unknown" in failed.error
    np.testing.assert_array_equal(predicted(), wine[1].predict(X))


@pytest.mark.full
def test_data_is_checked_before_it_is_sent_split_when_large_and_the_key_is_renewed(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    deploy()
    before = signed_in.proxy.count(path="/inference/wine/score")
    with pytest.raises(BadData, match="rate"):
        dbml.invoke("wine", X[["depth"]])
    assert signed_in.proxy.count(path="/inference/wine/score") == before, "nothing was sent"
    predicted()
    token = signed_in.credential().get_token(f"{signed_in.uri}/.default").token
    scope = f"{signed_in.uri}{signed_in.scope()}/onlineEndpoints/wine/regenerateKeys?api-version=2025-12-01"
    renewed = requests.post(
        scope,
        json={"keyType": "Primary"},
        headers={"Authorization": f"Bearer {token}"},
        verify=str(signed_in.bundle),
        timeout=20,
    )
    assert renewed.status_code == 202
    np.testing.assert_array_equal(predicted(), wine[0].predict(X), "a new key is asked for by itself")
    many = pd.DataFrame(np.random.default_rng(0).random((60_000, 2)), columns=["depth", "rate"])
    found = dbml.invoke("wine", many)
    assert found.requests > 1, "a request of a managed endpoint has at most 1.5 MB"
    # In pieces, the processor sums up in another order.
    np.testing.assert_allclose(found.predictions, wine[0].predict(many), rtol=1e-14)


@pytest.mark.full
def test_a_model_of_another_registry_is_registered_on_the_way_with_its_lineage(
    signed_in: AzureStandIn, names: dict[str, Any], models: list[Any], tmp_path: Path
) -> None:
    session = sessions.current()
    there = f"sqlite:///{tmp_path}/databricks.db"
    dbml.link(databricks=there, registry="databricks", **names)
    mlflow.set_experiment("/Users/ada@contoso.test/lineage")
    logged = log(models[0], registered_model_name="main.wines.red")
    dbml.sync(60)
    with pytest.raises(BadCommand, match="wants an explicit version"):
        deploy("main.wines.red")
    made = deploy("main.wines.red/1")
    assert "main.wines.red/1 is registered in Azure ML as main--wines--red/1" in made.text()
    assert made.endpoint.deployment("wine").model == "main.wines.red/1 (main--wines--red/1 there)"
    np.testing.assert_array_equal(predicted(), models[0].predict(X))
    engine = session.engine("the test")
    twin = engine.workspaces["azureml"].registry.get_model_version("main.wines.red", "1")
    run = engine.state.identity("azureml", "run", logged.run_id)
    assert run is not None
    assert twin.tags["dbml_twin"] == "databricks:main.wines.red/1"
    assert twin.tags["dbml_run_id"] == logged.run_id
    assert twin.run_id == run.actual
    own = mlflow.MlflowClient().get_model_version("main.wines.red", "1")
    assert own.tags["dbml_twin"] == "azureml:main.wines.red/1"
    assert deploy("main.wines.red/1").changed == "nothing", "and it is not registered twice"
    other = deploy("main.wines.red/1", name="reds", model_name="reds")
    assert "as reds/1" in other.text()
    with pytest.raises(BadCommand, match="is registered nowhere") as nameless:
        deploy(logged.run_id)
    assert "--model-name NAME" in message_of(nameless)
    run_model = deploy(logged.run_id, name="by-run", model_name="by-run")
    assert "by-run/1" in run_model.text()
    with signed_in.set(quota_cores=48):
        deploy("main.wines.red/1", name="by-run", model_name="by-run", deployment="green")
    with pytest.raises(BadCommand, match="give them to another one first") as refused:
        dbml.undeploy("by-run", deployment="by-run")
    line = "%dbml deploy main.wines.red/1 --to online --name by-run --model-name by-run"
    assert f"{line} --deployment green --traffic 100" in message_of(refused)
    with pytest.raises(BadName, match="letters, digits, - and _"):
        deploy("main.wines.red/1", model_name="no.dots")


@pytest.mark.full
def test_a_model_that_is_registered_in_both_is_deployed_by_its_twin(
    signed_in: AzureStandIn, names: dict[str, Any], models: list[Any], tmp_path: Path
) -> None:
    session = sessions.current()
    dbml.link(databricks=f"sqlite:///{tmp_path}/databricks.db", registry="both", **names)
    mlflow.set_experiment("/Users/ada@contoso.test/both")
    log(models[0], registered_model_name="main.wines.white")
    dbml.sync(60)
    made = deploy("main.wines.white/1", name="white")
    assert "registered in Azure ML as" not in made.text(), "it was there already"
    assert made.endpoint.deployment("white").model.startswith("main.wines.white/1")
    np.testing.assert_array_equal(dbml.invoke("white", X).predictions, models[0].predict(X))
    registry = session.engine("the test").workspaces["azureml"].registry
    assert len(registry.search_model_versions("name='main.wines.white'")) == 1


def test_an_endpoint_that_asks_for_an_entra_token_gets_one(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    config = tmp_path / "deploy.yaml"
    config.write_text("auth_mode: aad_token\n")
    assert deploy(config=config).endpoint.auth == "aad_token"
    np.testing.assert_array_equal(predicted(), wine[0].predict(X))


def test_a_line_to_try_again_has_every_option_that_was_given(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    deploy(deployment="blue")
    config = tmp_path / "a config.yaml"
    config.write_text("tags: {team: ml}\n")
    with signed_in.set(container_crash=["MemoryError"]), pytest.raises(DeploymentFailed) as failed:
        deploy("served-wine/2", deployment="green", config=config, instance_count=2, traffic=20)
    assert failed.value.remedies[0][0] == (
        f"%dbml deploy served-wine/2 --to online --name wine --deployment green --config '{config}' "
        "--instance-count 2 --traffic 20"
    )
    eventually(lambda: shown().traffic == {"blue": 100}, "the service to have deleted what failed")


@pytest.mark.full
def test_options_are_checked_and_a_private_workspace_is_mentioned(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    config = tmp_path / "deploy.yaml"
    config.write_text("instance_tpye: Standard_DS3_v2\n")
    with pytest.raises(BadCommand, match="Did you mean instance_type"):
        deploy(config=config)
    config.write_text("auth_mode: none\n")
    with pytest.raises(BadCommand, match="a key, an aml_token or an aad_token"):
        deploy(config=config)
    config.write_text("egress_public_network_access: disabled\n")
    with pytest.raises(NotDeployable, match="could not install the model's packages"):
        deploy(config=config)
    with pytest.raises(BadName, match="no name for a deployment"):
        deploy(deployment="x")
    assert not signed_in.endpoints()["online"]
    config.write_text("auth_mode: aml_token\n")
    with signed_in.set(public_network=False):
        made = deploy(config=config)
    assert "behind its private endpoint" in made.text()
    assert made.endpoint.auth == "aml_token"
    np.testing.assert_array_equal(predicted(), wine[0].predict(X))
    with pytest.raises(EndpointNotFound, match="Did you mean 'wine'"):
        dbml.invoke("wien", X)


def test_a_link_without_azure_ml_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    dbml.link(local=True)
    with pytest.raises(BadLink, match=r"the link has .* in Azure ML's place") as refused:
        deploy()
    assert "--to local" in message_of(refused)


def test_a_config_file_becomes_what_the_service_takes() -> None:
    given = {
        "liveness_probe": {"initial_delay": 30, "period": 10, "failure_threshold": 3},
        "scale_settings": {"type": "target_utilization", "min_instances": 1, "polling_interval": 10},
        "request_settings": {"max_queue_wait_ms": 500, "max_concurrent_requests_per_instance": 2},
        "data_collector": {"collections": {"request": {"enabled": "False"}}, "sampling_rate": 0.5},
    }
    assert managed_body.deployment_properties(given) == {
        "livenessProbe": {"failureThreshold": 3, "initialDelay": "PT30S", "period": "PT10S"},
        "scaleSettings": {"scaleType": "TargetUtilization", "minInstances": 1, "pollingInterval": "PT10S"},
        "requestSettings": {"maxConcurrentRequestsPerInstance": 2, "maxQueueWait": "PT0.5S"},
        "dataCollector": {
            "collections": {"request": {"dataCollectionMode": "Disabled", "samplingRate": 0.5}}
        },
    }
    for wrong in (
        {"request_settings": {"request_timeout_ms": "soon"}},
        {"liveness_probe": {"period": 0.5, "failure_threshold": 0}},
        {"scale_settings": {"type": "sometimes"}},
        {"data_collector": {"sampling_rate": 0.5}},
        {"data_collector": {"collections": {"request": {"sampling_rate": 2}}}},
    ):
        with pytest.raises(BadCommand):
            managed_body.deployment_properties(wrong)


def test_an_update_keeps_what_a_section_does_not_name() -> None:
    before = managed_body.deployment_properties(
        {
            "request_settings": {"request_timeout_ms": 5000, "max_queue_wait_ms": 300},
            "scale_settings": {"type": "target_utilization", "min_instances": 1, "max_instances": 3},
            "data_collector": {"collections": {"model_inputs": {"sampling_rate": 0.1}}},
            "environment_variables": {"A": 1, "B": 2},
        }
    )
    wanted = managed_body.deployment_properties(
        {
            "request_settings": {"max_queue_wait_ms": 400},
            "scale_settings": {"max_instances": 5},
            "data_collector": {"collections": {"model_outputs": True}},
            "environment_variables": {"B": 3},
        }
    )
    found: Any = managed_body.merged(before, wanted)
    assert found["requestSettings"] == {"requestTimeout": "PT5S", "maxQueueWait": "PT0.4S"}
    assert found["scaleSettings"] == {"scaleType": "TargetUtilization", "minInstances": 1, "maxInstances": 5}
    assert found["dataCollector"]["collections"] == {
        "model_inputs": {"dataCollectionMode": "Enabled", "samplingRate": 0.1},
        "model_outputs": {"dataCollectionMode": "Enabled"},
    }
    assert found["environmentVariables"] == {"A": "1", "B": "3"}
    fixed = managed_body.deployment_properties({"scale_settings": {"type": "default"}})
    assert managed_body.merged(found, fixed)["scaleSettings"] == {"scaleType": "Default"}, (
        "nothing is left over"
    )
