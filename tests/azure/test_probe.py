"""``%dbml doctor --probe`` at Azure ML: each line tells whether the service does what is recorded of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import requests

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.results.probes import ProbeReport
from tests.infra.probe_faults import Answer, Fault, Faults, asked, beside, in_force, refused
from tests.infra.wait import eventually
from tests.standins.azure import AzureStandIn
from tests.standins.azure.login import CLIENT_SECRET
from tests.standins.azure.state import ADB

ML = "Microsoft.MachineLearningServices"
OPERATIONS = "mfeOperationsStatus|operationStatuses"
ENDPOINT = "/onlineEndpoints/dbml-probe-[^/]*$"


def limits(**figures: int) -> Fault:
    def fault(azure: AzureStandIn) -> AbstractContextManager[None]:
        return azure.limits(**figures)

    return fault


def switched(**switches: Any) -> Fault:
    def fault(azure: AzureStandIn) -> AbstractContextManager[None]:
        return azure.set(**switches)

    return fault


def without_a_role(azure: AzureStandIn) -> AbstractContextManager[None]:
    return azure.deny(f"{ML}/workspaces/models/write", "application")


def resource(**properties: Any) -> dict[str, Any]:
    return {"location": "westeurope", "properties": properties}


def usage(kind: str, name: str) -> dict[str, Any]:
    return {"type": f"{ML}/{kind}", "limit": 6, "currentValue": 0, "name": {"value": name}}


def portal(parameter: str) -> Fault:
    """Have a Databricks workspace with that parameter, until the stand-in is reset."""

    def fault(azure: AzureStandIn) -> AbstractContextManager[None]:
        there = (
            f"{azure.scope().rpartition('/providers/')[0]}/providers/Microsoft.Databricks/workspaces/{ADB}"
        )
        answer = requests.patch(
            f"{azure.uri}{there}?api-version=2023-02-01",
            json={"properties": {"parameters": {parameter: {"value": azure.scope()}}}},
            headers={"Authorization": f"Bearer {azure.token()}"},
            timeout=30,
        )
        assert answer.status_code == 200
        return nullcontext()

    return fault


FORM = "Model source from file must be in the following format: azureml://artifacts/<origin>/<container>/<prefix>"
NESTED = {"error": {"code": "ParentResourceNotFound", "message": "Can not perform requested operation"}}

# Where the stand-in by itself does not what is recorded of the service.
AGREES: Faults = {
    "metric-key": Answer("log-batch", content=r'"key": "[^"]{251,255}"'),
    "blob-blocks": switched(blocks_stay=True),
    "version-source": Answer("model-versions/create", 400, {"message": FORM}, "dummy-source"),
    "parent-absent": Answer("/dbml-probe-[^/]*/onlineEndpoints", 404, NESTED),
    "portal-link": portal("amlWorkspaceId"),
}
ROLE: Faults = {"role-words": without_a_role}

DIFFERS: Faults = {
    "batch-metrics": limits(batch_metrics=150),
    "metric-names": limits(metric_names=30),
    "run-params": limits(run_params=150),
    "run-tags": limits(run_tags=40),
    "tag-key": limits(tag_key=90),
    "tag-value": limits(tag_value=700),
    "param-key": refused("log-batch", r'"params": \[\{"key": "[^"]{200,}'),
    "param-value": refused("log-batch", r'"value": "[^"]{4000,}'),
    "metric-key": refused("log-batch", r'"metrics": \[\{"key": "[^"]{200,}'),
    "value-unit": refused("log-batch", r"\\u00e9"),
    "run-name": refused("runs/update", r'"run_name": "x{100,}'),
    "run-description": refused("set-tag", '"value": "x{500,}'),
    "experiment-tag-key": refused("set-experiment-tag", '"key": "x{200,}'),
    "experiment-tag-value": refused("set-experiment-tag", '"value": "x{800,}'),
    "experiment-tags": refused("set-experiment-tag", r'"key": "k([3-9]\d|\d{3,})"'),
    "experiment-name": limits(experiment_name=100),
    "experiment-start": Answer("experiments/create", body={"experiment_id": "1"}, content='"name": "_'),
    "history-page": limits(history_page=500),
    "artifact-batch": refused("batch/metadata", r"(?:[^}]*\}){52}"),
    "param-again": Answer("log-batch", content='"key": "q"'),
    "order-by": Answer("runs/search", content="order_by"),
    "filter-or": Answer("runs/search", content=" OR "),
    "inputs": switched(inputs=False),
    "run-id-chosen": switched(run_ids="refused"),
    "logged-models": switched(logged_models=True),
    "files-twice": switched(write_once=False),
    "write-link": switched(write_links=False),
    "blob-blocks": switched(blocks_stay=False),
    "model-names": Answer("registered-models/create", body={}, content=r"-a\.b"),
    "model-rename": Answer("registered-models/rename"),
    "model-aliases": switched(aliases=True),
    "model-search-tags": Answer("registered-models/search"),
    "model-search-like": Answer("registered-models/search"),
    "model-tag-key": refused("registered-models/set-tag"),
    "version-source": Answer("model-versions/create", content="dummy-source"),
    "version-state": Answer(
        "model-versions/create",
        body={"model_version": {"status": "PENDING_REGISTRATION"}},
        content='version"',
    ),
    "workspace-absent": Answer("/workspaces/dbml-probe-[^/]*$", 404, NESTED),
    "parent-absent": Answer("/dbml-probe-[^/]*/onlineEndpoints", 400, NESTED),
    "portal-link": portal("amlTarget"),
    "studio-pages": Answer("^/studio/|^/runs/", 404),
    "create-shape": Answer("/validate$", 400, {"error": {"code": "InvalidTemplate", "message": "no"}}),
    "usages": Answer("/usages$", body={"value": [usage("vmFamily/dedicatedCores/usages", "DSv2")]}),
    "vm-sizes": Answer("/vmSizes$", body={"value": [{"name": "S", "supportedComputeTypes": ["AmlCompute"]}]}),
}
# Faults that others would meet too, so each is in force by itself.
ALONE: Faults = {
    "batch-words": refused("log-batch"),
    "points-twice": Answer("get-history", body={"metrics": [{}, {}, {}]}),
    "history-lag": Answer("get-history", body={"metrics": []}, seconds=6),
    "run-read": Answer("runs/get", body={"run": {"info": {"experiment_id": "1"}, "data": {}}}),
    "search-lag": switched(search_lag=125.0),
    "experiment-with-runs": Answer("experiments/delete", times=1),
    "experiment-slash": Answer(
        "get-by-name", body={"experiment": {"experiment_id": "1", "lifecycle_stage": "deleted"}}, times=1
    ),
    "artifact-uri": Answer("runs/get", body={"run": {"info": {"artifact_uri": "azureml://x"}}}, times=2),
    "storage-words": switched(storage_firewall=True),
    "files": Answer("/artifacts$", body={"value": []}, method="GET"),
    "bad-token": Answer("registered-models/create", 403, {}),
    "role-words": Answer("registered-models/create", 403, {"error_code": "X", "message": "no"}),
    "token-life": switched(token_lifetime=1800.0),
    "workspace-shape": Answer("/workspaces/aml-ws$", body=resource(), method="GET"),
}
ENDPOINTS: Faults = {
    "endpoint-put": Answer(ENDPOINT, 200, resource(), method="PUT"),
    "endpoint-operation": Answer(ENDPOINT, 201, resource(), method="PUT"),
    "endpoint-scoring-uri": Answer(ENDPOINT, 201, resource(scoringUri="x"), method="PUT"),
    "endpoint-running": Answer(OPERATIONS, body={"status": "Creating"}),
    "endpoint-update": Answer(ENDPOINT, 200, resource(), '"again"', method="PUT"),
    "endpoint-keys": Answer("/listKeys$", body={"primaryKey": "x"}),
    "endpoint-delete": Answer(ENDPOINT, 200, method="DELETE", times=1),
}


def link(names: dict[str, Any]) -> None:
    dbml.link(track="azureml", registry="azureml", **names)


def nothing_is_left(report: ProbeReport, azure: AzureStandIn) -> None:
    assert report.left == ()
    workspace = sessions.current().engine("this test").workspaces["azureml"]
    there = [e.name for e in workspace.tracking.search_experiments(max_results=900)]
    assert not [name for name in there if "dbml-probe" in name]
    models = [m.name for m in workspace.registry.search_registered_models(max_results=900)]
    assert not [name for name in models if "dbml-probe" in name]
    eventually(  # its deletion was accepted, and takes a while
        lambda: not [name for name in azure.endpoints()["online"] if "dbml-probe" in name],
        "the endpoint to be gone",
    )


def test_every_fact_has_a_fault() -> None:
    assert set(DIFFERS) | set(ALONE) == asked("azureml")
    assert set(ENDPOINTS) == asked("azureml", option="endpoint")


def test_no_name_and_no_id_of_the_workspace_is_in_the_report(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    link(names)
    workspace = sessions.current().engine("this test").workspaces["azureml"]
    token = workspace.sign_in.get_token("x").token  # type: ignore[attr-defined]
    planted = {
        "log-inputs": [*names.values(), signed_in.tenant, CLIENT_SECRET],
        "registered-models/search": [signed_in.scope(), "amlwsstorage", ADB],
        "registered-models/set-tag": [token, signed_in.uri.partition("//")[2]],
    }
    faults: Faults = {
        path: Answer(
            path,
            400,
            {"message": f"it says no: {', '.join(said)}, storage account amlwsstorage, workspace {ADB}"},
        )
        for path, said in planted.items()
    }
    only = ["inputs", "model-search-tags", "model-tag-key", "workspace-absent", "artifact-uri"]
    with in_force(faults, signed_in):
        report = dbml.probe(confirm="probe", only=only)
    assert set(beside(report, True)) == {"inputs", "model-tag-key"}
    words = {row.fact: row.more for row in report}
    assert (
        words["inputs"]
        == "400 it says no: ID, GROUP, WORKSPACE, ID, ***, storage account NAME, workspace NAME"
    )
    for path in Path.cwd().glob("dbml-probe-*"):
        text = path.read_text().lower()
        assert "says no" in text
        assert not [name for each in planted.values() for name in each if name.lower() in text]


@pytest.mark.full
def test_a_service_that_does_what_is_recorded_is_confirmed(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    link(names)
    with in_force(AGREES, signed_in):
        report = dbml.probe(confirm="probe")
    assert set(beside(report, True)) == {"role-words"}, str(report)
    nothing_is_left(report, signed_in)
    with in_force(ROLE, signed_in):
        report = dbml.probe(confirm="probe", only=["role-words"])
    assert beside(report, True) == {}


@pytest.mark.full
def test_a_service_that_differs_in_everything_is_told_so(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    link(names)
    with in_force(DIFFERS, signed_in):
        report = dbml.probe(confirm="probe", only=sorted(DIFFERS))
    assert beside(report, False) == {}, str(report)
    nothing_is_left(report, signed_in)


@pytest.mark.full(but=["bad-token", "history-lag", "experiment-slash"])
@pytest.mark.parametrize("fact", ALONE)
def test_a_service_that_differs_in_one_thing_is_told_so(
    fact: str, signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    link(names)
    stack = in_force(ROLE if fact == "role-words" else {}, signed_in)
    if fact == "token-life":
        sessions.current().engine("this test").workspaces["azureml"].sign_in.forget_token()  # type: ignore[attr-defined]
    with stack, in_force({fact: ALONE[fact]}, signed_in):
        report = dbml.probe(confirm="probe", only=[fact])
    assert beside(report, False) == {}, str(report)
    nothing_is_left(report, signed_in)


@pytest.mark.full
def test_an_endpoint_that_is_made_as_recorded_is_confirmed(
    signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    link(names)
    with signed_in.set(operation_seconds=5.0):  # the probe looks at an operation that goes on
        report = dbml.probe(confirm="probe", endpoint=True, only=sorted(ENDPOINTS))
    assert beside(report, True) == {}, str(report)
    nothing_is_left(report, signed_in)


@pytest.mark.full
@pytest.mark.parametrize("fact", ENDPOINTS)
def test_an_endpoint_that_is_made_otherwise_is_told_so(
    fact: str, signed_in: AzureStandIn, names: dict[str, Any]
) -> None:
    link(names)
    with in_force({fact: ENDPOINTS[fact]}, signed_in):
        report = dbml.probe(confirm="probe", endpoint=True, only=[fact])
    assert beside(report, False) == {}, str(report)
    nothing_is_left(report, signed_in)
