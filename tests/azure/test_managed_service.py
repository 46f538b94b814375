"""What managed endpoints do by others' recordings and reports, and what a link makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.endpoints import remembered
from dbml_magics.core.endpoints import rest as rests
from dbml_magics.core.endpoints.azureml import workspace_of
from dbml_magics.core.endpoints.managed_api import ManagedApi, state_of
from dbml_magics.core.endpoints.rest import Rest, ServiceRefusal
from dbml_magics.errors import BadCommand, DeploymentFailed, NotDeployable, NotPermitted, Refused
from tests.azure.serving import X, log
from tests.contracts.plugin import settle
from tests.infra.wait import eventually
from tests.standins.azure import AzureStandIn

ENDPOINT = {"location": "westeurope", "properties": {"authMode": "Key"}}


@pytest.fixture
def bare(wine: list[Any]) -> str:
    """Return a registered model whose environment has what MLflow itself writes, and nothing else."""
    client = mlflow.MlflowClient()
    if not client.search_model_versions("name='bare-wine'"):
        mlflow.set_experiment("served")
        log(wine[0], registered_model_name="bare-wine", needed=False)
        dbml.sync(60)
    return "bare-wine/1"


def api() -> ManagedApi:
    """Return the service's own calls, past every check of ours."""
    return ManagedApi(Rest(workspace_of(sessions.current().engine("the test"), "the test")))


def deploy(model: str = "served-wine/1", **options: Any) -> Any:
    return dbml.deploy(model, **{"to": "online", "name": "wine", **options})


def message_of(error: pytest.ExceptionInfo[Any]) -> str:
    return "\n".join(error.value.lines())


def put_raw(service: ManagedApi, model: str, **properties: Any) -> None:
    """Ask the service for an endpoint ``wine`` with a deployment ``wine``, and wait until it is over."""
    name, version = model.split("/")
    service.put("wine", ENDPOINT)
    eventually(lambda: state_of(service.get("wine") or {}) == "ready", "the endpoint to be there")
    body = {
        "location": "westeurope",
        "sku": {"name": "Default", "capacity": 1},
        "properties": {
            "endpointComputeType": "Managed",
            "instanceType": "Standard_DS3_v2",
            "model": f"{service.rest.id.path}/models/{name}/versions/{version}",
            **properties,
        },
    }
    service.put("wine", body, "wine")
    over = ("ready", "failed")
    eventually(lambda: state_of(service.get("wine", "wine") or {}) in over, "the deployment to be over", 60)


@pytest.mark.full
def test_the_service_crashes_a_container_without_its_own_packages_and_the_log_is_explained(
    bare: str, signed_in: AzureStandIn
) -> None:
    service = api()
    put_raw(service, bare)
    assert state_of(service.get("wine", "wine") or {}) == "failed"
    lines = service.log("wine", "wine", 20)
    assert "/opt/miniconda/bin/python: No module named azureml_inference_server_http" in lines
    assert "likely cause: the container of a managed endpoint needs azureml-inference-server-http" in (
        dbml.logs("wine").text()
    )


def test_a_model_without_the_containers_packages_is_refused_before_anything_is_made_and_a_copy_serves(
    bare: str, wine: list[Any], signed_in: AzureStandIn
) -> None:
    with pytest.raises(NotDeployable) as refused:
        deploy(bare)
    assert (
        "✗ container: the model's conda.yaml lacks azureml-inference-server-http, azureml-contrib-services, "
        "azureml-ai-monitoring, without which its container ends in 502"
    ) in message_of(refused)
    assert f"%dbml deploy {bare} --to online --name wine --add-packages" in message_of(refused)
    assert "extra_pip_requirements=" in message_of(refused)
    with pytest.raises(BadCommand, match="--add-packages is for online"):
        deploy(bare, to="aci", add_packages=True)
    assert not signed_in.endpoints()["online"], "nothing was made"
    client = mlflow.MlflowClient()
    assert not client.search_model_versions("name='bare-wine-online'"), "nor registered"
    made = deploy(bare, add_packages=True)
    assert "a copy of bare-wine/1 with azureml-inference-server-http" in made.text()
    assert made.endpoint.deployment("wine").model == "bare-wine/1 (bare-wine-online/1 there)"
    np.testing.assert_array_equal(dbml.invoke("wine", X).predictions, wine[0].predict(X))
    copied, own = (
        yaml.safe_load(Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1/conda.yaml")).read_text())
        for name in ("bare-wine-online", "bare-wine")
    )
    added = ["azureml-inference-server-http", "azureml-contrib-services", "azureml-ai-monitoring"]
    assert copied["dependencies"][-1]["pip"] == [*own["dependencies"][-1]["pip"], *added]
    tags = client.get_model_version("bare-wine-online", "1").tags
    assert tags["dbml_copy_of"] == "azureml:bare-wine/1"
    assert "dbml_twin" not in tags, "other files, so no twin"
    assert deploy(bare, add_packages=True).changed == "nothing", "nor is it registered twice"
    beside = deploy(bare, add_packages=True, deployment="green")
    assert f"%dbml deploy {bare} --to online --name wine --add-packages --deployment green --traffic" in (
        beside.text()
    )
    with pytest.raises(dbml.BadCommand) as first:
        dbml.undeploy("wine", deployment="wine", confirm="wine")
    line = f"%dbml deploy {bare} --to online --name wine --add-packages --deployment green --traffic 100"
    assert line in message_of(first)


@pytest.mark.full
def test_a_container_that_serves_already_gets_its_traffic_without_being_checked_again(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    deploy(deployment="blue")
    deploy("served-wine/2", deployment="green")
    with signed_in.set(quota_cores=1):
        moved = deploy("served-wine/2", deployment="green", traffic=100)
    assert (moved.changed, moved.endpoint.traffic) == ("traffic", {"blue": 0, "green": 100})


@pytest.mark.parametrize(
    ("switch", "raised", "said"),
    [
        ("parent_missing", NotPermitted, "the workspace aml-ws is not in rg-ml (any more)"),
        (
            "endpoint_unfindable",
            DeploymentFailed,
            "likely cause: the service still keeps the name of an endpoint that was deleted",
        ),
    ],
)
def test_404_for_a_put_ends_the_deployment_with_the_services_words(
    wine: list[Any], signed_in: AzureStandIn, switch: str, raised: type[dbml.DbmlError], said: str
) -> None:
    before = signed_in.proxy.count(method="PUT", path="/onlineEndpoints/wine")
    with signed_in.set(**{switch: True}), pytest.raises(raised) as failed:
        deploy()
    assert said in message_of(failed)
    assert signed_in.proxy.count(method="PUT", path="/onlineEndpoints/wine") - before == 1, (
        "and it is not asked again"
    )
    assert not remembered.records()[0].of_deployments("pending")


def test_an_operation_that_never_ends_is_given_up(
    wine: list[Any], signed_in: AzureStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed_in.set(endpoint_stuck=True):
        deploy(wait=False)
        record = remembered.records()[0]
        pending = record.of_deployments("pending")["wine"]
        assert pending["limit"] == 30 * 60 + 300, "as long as the service says, and a little more"
        long_ago = {what: since - 7200 for what, since in pending["waits"].items()}
        record.put("pending", "wine", {**pending, "waits": long_ago})
        eventually(lambda: "took longer" in dbml.endpoints("wine").text(), "it to be given up")
    assert "creating the endpoint took longer than 35 minutes" in dbml.endpoints("wine").text()
    monkeypatch.setattr(rests, "_GRACE_S", 0.0)
    with signed_in.set(endpoint_stuck=True, operation_timeout="PT1S"), pytest.raises(Refused) as refused:
        dbml.undeploy("wine", confirm="wine")
    assert "could not delete it: NotFinished: it took longer than" in message_of(refused)


def test_a_deletion_that_names_location_alone_ends(wine: list[Any], signed_in: AzureStandIn) -> None:
    deploy()
    with signed_in.set(delete_by_location=True, operation_seconds=0.7):
        assert dbml.undeploy("wine", confirm="wine").whole
    assert not signed_in.endpoints()["online"]


def test_a_put_is_answered_as_it_was_recorded(wine: list[Any], signed_in: AzureStandIn) -> None:
    service = api()
    for state in ("Creating", "Updating"):
        with signed_in.set(operation_seconds=1.0):
            answer = service.put("wine", ENDPOINT)
            assert answer is not None
            assert (answer.status, answer.body["properties"]["scoringUri"]) == (201, None)
            assert answer.body["properties"]["provisioningState"] == state
            assert answer.headers["Location"].endswith(f"/onlineEndpoints/wine?api-version={rests.API}")
            assert not {"Retry-After", "x-ms-retry-after-ms"} & {*answer.headers}
            where = answer.headers["Azure-AsyncOperation"]
            assert "/locations/westeurope/mfeOperationsStatus/oe:" in where
            assert len(where) > 3000, "since 2024 it is signed"
            polled = service.rest.operation(where)
            assert polled is not None
            assert (polled.body["status"], polled.is_over) == ("Updating", False)
        assert service.rest.wait(answer, lambda: None) is None
        assert str((service.get("wine") or {})["properties"]["scoringUri"]).endswith("/inference/wine/score")


def test_quota_counts_dedicated_cores_of_the_family_and_of_all_and_sizes_compare_without_case(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    with signed_in.set(total_cores=7), pytest.raises(NotDeployable) as refused:
        deploy()
    assert "takes 8 vCPUs of all families together (a fifth more, for upgrades), 7 are free" in message_of(
        refused
    )
    with signed_in.set(quota_cores=6), pytest.raises(NotDeployable) as refused:
        deploy(instance_type="Standard_NC4as_T4_v3")
    assert (
        "takes 8 vCPUs of Standard NCASv3_T4 Family (a fifth more, for upgrades), 6 are free"
        in message_of(refused)
    )
    with pytest.raises(NotDeployable) as refused:
        deploy(instance_type="Standard_D16ds_v4")
    assert (
        "no managed endpoint runs on Standard_D16ds_v4; in westeurope they run on Standard_DS2"
        in message_of(refused)
    )
    assert "Standard_D16ds_v4" not in message_of(refused).partition("they run on")[2].partition("\n")[0]
    assert not signed_in.endpoints()["online"]
    made = deploy(instance_type="standard_ds2_V2")
    assert made.endpoint.deployment("wine").size == "Standard_DS2_V2"
    assert deploy(instance_type="STANDARD_DS2_V2").changed == "nothing"


def test_an_update_leaves_the_machine_as_it_is_so_another_one_is_refused_with_the_way_to_it(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    deploy(instance_type="Standard_DS2_v2")
    raw: dict[str, Any] = dict(api().get("wine", "wine") or {})
    asked: dict[str, Any] = {key: raw[key] for key in ("location", "sku", "tags")}
    asked["properties"] = {**raw["properties"], "instanceType": "Standard_F4s_v2"}
    del asked["properties"]["provisioningState"]
    settle(signed_in.deviations())
    api().put("wine", asked, "wine")
    found = signed_in.deviations()
    assert [each.partition(" request: ")[2] for each in found["unallowed"]] == [
        "properties.instanceType is create-only and changed"
    ]
    settle({**found, "unallowed": []})
    eventually(lambda: state_of(api().get("wine", "wine") or {}) == "ready", "the update to end")
    kept = (api().get("wine", "wine") or {})["properties"]
    assert kept["instanceType"] == "Standard_DS2_V2", "the service says nothing, and changes nothing"
    before = signed_in.proxy.count(method="PUT", path="/deployments/")
    with pytest.raises(BadCommand) as refused:
        deploy("served-wine/2", instance_type="Standard_F4s_v2")
    assert signed_in.proxy.count(method="PUT", path="/deployments/") == before, "nothing was sent"
    assert "cannot change instance_type Standard_DS2_V2 to Standard_F4s_v2" in message_of(refused)
    line, ending = (str(command) for command, _ in refused.value.remedies)
    assert line == (
        "%dbml deploy served-wine/2 --to online --name wine --instance-type Standard_F4s_v2 "
        "--deployment wine-2 --traffic 100"
    )
    assert ending == "%dbml undeploy wine --from online --deployment wine --confirm wine"
    moved = deploy("served-wine/2", instance_type="Standard_F4s_v2", deployment="wine-2", traffic=100)
    assert moved.endpoint.traffic == {"wine": 0, "wine-2": 100}
    dbml.undeploy("wine", target="online", deployment="wine", confirm="wine")
    np.testing.assert_array_equal(dbml.invoke("wine", X).predictions, wine[1].predict(X))


def test_a_data_collector_without_collections_is_refused(
    wine: list[Any], signed_in: AzureStandIn, tmp_path: Path
) -> None:
    config = tmp_path / "deploy.yaml"
    config.write_text("data_collector: {rolling_rate: day}\n")
    with pytest.raises(BadCommand, match="names no collections"):
        deploy(config=config)
    assert not signed_in.endpoints()["online"]
    with pytest.raises(ServiceRefusal, match="Required property 'collections'"):
        put_raw(api(), "served-wine/1", dataCollector={"rollingRate": "Day"})
    deploy(deployment="blue", collect_data=True)
    made = deploy("served-wine/2", deployment="blue", config=config)
    assert made.changed == "updated", "those that it has stay"
    kept: dict[str, Any] = {**(api().get("wine", "blue") or {})["properties"]}
    assert kept["dataCollector"]["rollingRate"] == "Day"
    assert set(kept["dataCollector"]["collections"]) == {"model_inputs", "model_outputs"}
    assert "AzureAsyncOperationUri" not in str(signed_in.endpoints()["online"]["wine"]["deployments"])


def test_a_private_link_that_answers_502_is_told_at_once(wine: list[Any], signed_in: AzureStandIn) -> None:
    before = signed_in.proxy.count(path="/services")
    with signed_in.set(private_link=True, private_link_status=502):
        found = dbml.endpoints(target="aci")
    assert "the workspace is behind its private endpoint" in found.text()
    assert signed_in.proxy.count(path="/services") - before == 1, "it is no outage that passes"


def test_a_list_that_goes_on_elsewhere_is_not_taken_for_whole(
    wine: list[Any], signed_in: AzureStandIn
) -> None:
    service = api()
    for name in ("wine", "other"):
        service.put(name, ENDPOINT)
    assert len(service.listed()) == 2
    with signed_in.set(pages_at="https://elsewhere.test"):
        assert "online could not be asked: azureml: the rest of a list" in dbml.endpoints().text()
