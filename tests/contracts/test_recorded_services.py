"""Recorded answers of the services, replayed to what the package itself reads them with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core.azure import finding
from dbml_magics.core.azure.arm import Arm
from dbml_magics.core.azure.making import Maker, Wish
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.azure.wish import AzureWish
from dbml_magics.core.destinations import databricks_refusals, rest
from dbml_magics.core.destinations.azureml import AzuremlWorkspace
from dbml_magics.core.destinations.errors import (
    MissingEndpoint,
    Unavailable,
    already_exists,
    classify_error,
    is_missing,
)
from dbml_magics.core.destinations.naming import workspace_path
from dbml_magics.core.endpoints import managed_checks, scoring
from dbml_magics.core.endpoints.base import Address
from dbml_magics.core.endpoints.checks import likely_cause
from dbml_magics.core.endpoints.managed_api import ManagedApi, state_of, traffic_of
from dbml_magics.core.endpoints.rest import Answer, Rest, ServiceRefusal
from dbml_magics.errors import BadLink, NotPermitted, WorkspaceNotFound
from dbml_magics.results.endpoints import Endpoint
from tests.contracts.recorded import FACTS, Fact, filled, replays
from tests.databricks.conftest import ADA
from tests.standins.azure import AzureStandIn
from tests.standins.databricks import Databricks

ENDPOINT = {"location": "eastus2", "properties": {"authMode": "AMLToken"}}
JSON = {"Content-Type": "application/json; charset=utf-8"}


class Replay:
    """Recorded answers, put before the stand-in: everything else is answered by that."""

    def __init__(self, azure: AzureStandIn, workspace: str) -> None:
        self.proxy = azure.proxy
        scope = azure.scope(workspace)
        self.names = {
            "arm": azure.uri,
            "host": azure.uri.partition("://")[2],
            "subscription": azure.subscription,
            "group": azure.group,
            "group_path": scope.partition("/providers/")[0],
            "scope": scope,
            "workspace": workspace,
        }

    def answer(self, fact: Fact, path: str, method: str = "GET", body: Any = None) -> None:
        """Have the next request to this path answered as the fact has it, or with another body."""
        text = fact.text(self.names, body)
        self.proxy.answer(
            fact.status, {**(JSON if text else {}), **fact.sent(self.names)}, text, path=path, method=method
        )

    def polls(self, fact: Fact, path: str) -> None:
        """Have the next polls answered one after the other."""
        for each in fact.figures["polls"]:
            text = filled(each, self.names)
            self.proxy.answer(200, JSON, text, path=path, method="GET")

    def count(self, path: str, method: str = "GET") -> int:
        """Return how often a path was asked."""
        return self.proxy.count(path, method)


@pytest.fixture
def replay(signed_in: AzureStandIn) -> Replay:
    return Replay(signed_in, signed_in.workspace)


@pytest.fixture
def workspace(signed_in: AzureStandIn, names: dict[str, Any]) -> AzuremlWorkspace:
    """Return the workspace, signed in to, without a link."""
    return AzuremlWorkspace(finding.resolve(AzureWish(**names)))


@pytest.fixture
def service(workspace: AzuremlWorkspace) -> ManagedApi:
    return ManagedApi(Rest(workspace))


def operation_of(fact: Fact, answer: Answer | None, names: Mapping[str, str]) -> Answer:
    """Check what is read of the answer that began an operation, and return it."""
    assert answer is not None
    assert answer.status == fact.status
    assert answer.operation == fact.sent(names)["Azure-AsyncOperation"]
    assert not {each.lower() for each in fact.absent} & {each.lower() for each in answer.headers}
    assert [answer.pause(waited) for waited in (0.0, 8.0, 60.0)] == [0.5, 2.0, 5.0], "it names no pause"
    assert answer.limit == 30 * 60 + 300, "as long as the service says, and a little more"
    assert not answer.is_over
    assert answer.failure is None
    return answer


# --- managed endpoints


@replays("oe-put", "oe-put-signed", "lro-oe", "lro-oe-2025", "lro-signed")
@pytest.mark.parametrize(("put", "polls"), [("oe-put", "lro-oe"), ("oe-put-signed", "lro-oe-2025")])
def test_an_endpoint_that_is_put_is_waited_for_at_its_operation(
    service: ManagedApi, replay: Replay, put: str, polls: str
) -> None:
    fact = FACTS[put]
    replay.answer(fact, "/onlineEndpoints/wine$", "PUT")
    begun = operation_of(fact, service.put("wine", ENDPOINT), replay.names)
    assert (state_of(begun.body), begun.body["properties"]["scoringUri"]) == ("creating", None)
    replay.polls(FACTS[polls], "/mfeOperationsStatus/oe")
    assert service.rest.wait(begun, lambda: None) is None
    asked = replay.proxy.requests("/mfeOperationsStatus/oe")
    assert len(asked) == len(FACTS[polls].figures["polls"]), "no poll too many, none too few"
    if put == "oe-put-signed":
        signed = FACTS["lro-signed"].figures
        query = parse_qs(asked[0].query)
        assert list(query) == signed["query"]
        assert {key: len(query[key][0]) for key in signed["lengths"]} == signed["lengths"]
        assert len(str(begun.operation)) > 3000, "it is asked as it came, with its whole signature"


@replays("oe-delete", "oe-delete-null", "oe-delete-result")
@pytest.mark.parametrize("begun", ["oe-delete", "oe-delete-null"])
def test_a_deletion_ends_at_its_status_and_at_its_location(
    service: ManagedApi, replay: Replay, begun: str
) -> None:
    fact = FACTS[begun]
    replay.answer(fact, "/onlineEndpoints/wine$", "DELETE")
    answer = operation_of(fact, service.delete("wine"), replay.names)
    replay.polls(FACTS["lro-oe-2025"], "/mfeOperationsStatus/o")
    assert service.rest.wait(answer, lambda: None) is None
    at_location = Answer(answer.status, answer.body, {"Location": fact.sent(replay.names)["Location"]})
    replay.answer(FACTS["oe-delete-result"], "/mfeOperationResults/o")
    assert service.rest.wait(at_location, lambda: None) is None
    assert replay.count("/mfeOperationResults/o") == 1


@replays("dep-put", "dep-get")
def test_a_deployment_is_read_as_it_is_shown(service: ManagedApi, replay: Replay) -> None:
    fact = FACTS["dep-put"]
    replay.answer(fact, "/deployments/blue$", "PUT")
    begun = operation_of(fact, service.put("wine", {}, "blue"), replay.names)
    assert state_of(begun.body) == "updating"
    replay.answer(FACTS["dep-get"], "/deployments/blue$")
    shown = service.get("wine", "blue") or {}
    assert (state_of(shown), shown["sku"]["capacity"]) == ("ready", 3)


@replays("oe-get", "oe-list")
def test_endpoints_are_read_as_they_are_shown(service: ManagedApi, replay: Replay) -> None:
    replay.answer(FACTS["oe-get"], "/onlineEndpoints/wine$")
    shown = service.get("wine") or {}
    assert (state_of(shown), traffic_of(shown)) == ("ready", {"blue": 100})
    replay.answer(FACTS["oe-list"], "/onlineEndpoints$")
    assert service.listed() == []


@replays("score")
def test_predictions_are_read_with_the_deployment_that_made_them(replay: Replay) -> None:
    fact, key = FACTS["score"], {"Authorization": "Bearer key"}
    replay.proxy.answer(fact.status, fact.headers, fact.body, path="/score$", method="POST")
    address = Address(f"{replay.names['arm']}/score", lambda _: key, None, 1_500_000)
    endpoint = Endpoint("wine", "online", "ready", address.uri, "aml_token")
    rows = [[1.0, 2.0], [2.0, 1.0]]
    result = scoring.ask(endpoint, address, rows, None, None, lambda *_: None)
    assert result.deployment == "blue"
    assert list(result.predictions) == json.loads(fact.body)
    assert result.requests == 1


@replays("oe-token", "oe-keys", "logs")
def test_token_keys_and_log_are_read(service: ManagedApi, replay: Replay) -> None:
    replay.answer(FACTS["oe-token"], "/onlineEndpoints/wine/token$", "POST")
    assert service.secret("wine", "aml_token") == FACTS["oe-token"].body["accessToken"]
    replay.answer(FACTS["oe-keys"], "/onlineEndpoints/wine/listKeys$", "POST")
    assert service.secret("wine", "key") == "", "an endpoint of Entra ID's tokens has no keys"
    written = FACTS["logs"].body["content"].splitlines()
    for lines, first in ((3, "Container logs:"), (100, "Instance status:")):
        replay.answer(FACTS["logs"], "/deployments/blue/getLogs$", "POST")
        shown = service.log("wine", "blue", lines)
        assert shown[0] == first
        assert shown[-1] == written[-2], "blank lines at the end are none"
        assert "" not in shown


@replays("oe-token")
def test_the_stand_ins_token_lives_as_the_recorded_one(service: ManagedApi) -> None:
    service.put("wine", ENDPOINT)
    made = service.rest.arm("POST", "/onlineEndpoints/wine/token", action="token")
    assert made is not None
    fact = FACTS["oe-token"]
    assert made.body.keys() == fact.body.keys()
    hours = fact.figures["hours from the refresh to the end"]
    for shown in (made.body, fact.body):
        assert shown["expiryTimeUtc"] - shown["refreshAfterTimeUtc"] == pytest.approx(hours * 3600, abs=60)


@replays("oe-keys")
def test_the_stand_in_has_no_keys_where_the_service_shows_none(service: ManagedApi) -> None:
    auth = FACTS["oe-keys"].figures["authMode"]
    service.put("wine", {**ENDPOINT, "properties": {"authMode": auth}})
    shown = service.rest.arm("POST", "/onlineEndpoints/wine/listKeys", action="listKeys")
    assert shown is not None
    assert shown.body == FACTS["oe-keys"].body


@replays("usages", "vmsizes")
@pytest.mark.parametrize(
    ("size", "is_fine", "said"),
    [
        ("Standard_F4s_v2", False, "takes 8 vCPUs of standardFSv2Family (a fifth more, for upgrades), 0"),
        ("STANDARD_f4S_V2", False, "takes 8 vCPUs of standardFSv2Family"),
        ("Standard_D16as_v4", False, "takes 32 vCPUs of all families together"),
        ("Standard_D16ds_v4", False, "no managed endpoint runs on Standard_D16ds_v4"),
        ("Standard_DS9_v9", False, "eastus2 has no machine Standard_DS9_v9"),
        ("Standard_FX4mds", None, "the region does not say it for Standard_FX4mds"),
    ],
)
def test_quota_and_sizes_are_read(
    service: ManagedApi, replay: Replay, size: str, is_fine: bool | None, said: str
) -> None:
    replay.answer(FACTS["vmsizes"], "/locations/eastus2/vmSizes$")
    replay.answer(FACTS["usages"], "/locations/eastus2/usages$")
    check = managed_checks.quota(service.rest, "eastus2", size, 1, None)
    assert check.fine is is_fine
    assert said in check.said


@replays("usages", "vmsizes", "dep-get")
@pytest.mark.parametrize(("count", "is_fine"), [(3, True), (4, False)])
def test_what_the_deployment_before_holds_is_given_back(
    service: ManagedApi, replay: Replay, count: int, is_fine: bool
) -> None:
    """Three machines of four vCPUs hold all 16 of the family that are used: a fifth more is reserved."""
    replay.answer(FACTS["vmsizes"], "/locations/eastus2/vmSizes$")
    replay.answer(FACTS["usages"], "/locations/eastus2/usages$")
    before = FACTS["dep-get"].body
    check = managed_checks.quota(service.rest, "eastus2", "STANDARD_F4S_V2", count, before)
    assert check.fine is is_fine
    assert "16 are free" in check.said


# --- workspaces


@replays("ws-404")
def test_a_workspace_that_is_not_there_is_told(replay: Replay, names: dict[str, Any]) -> None:
    replay.answer(FACTS["ws-404"], "/workspaces/aml-ws$")
    with pytest.raises(WorkspaceNotFound) as missing:
        finding.resolve(AzureWish(**names))
    assert "no Azure ML workspace aml-ws in rg-ml" in "\n".join(missing.value.lines())


@replays("ws-get", "ws-delete", "ws-404")
def test_a_workspace_is_deleted_and_what_it_leaned_on_is_named_in_any_case(
    replay: Replay, names: dict[str, Any]
) -> None:
    name = names.pop("workspace")
    path = f"/workspaces/{name}$"
    fact = FACTS["ws-delete"]
    replay.answer(FACTS["ws-get"], path)
    replay.answer(fact, path, "DELETE")
    replay.polls(fact, "/workspaceOperationsStatus/")
    replay.polls(FACTS["ws-put"], "/workspaceOperationsStatus/")
    replay.answer(FACTS["ws-404"], path)
    done = dbml.cleanup("workspace", name, confirm=name, **names)
    assert [each.name for each in done.deleted] == [name]
    kept = "\n".join(done.stays)
    for each in ("amlwsstorage", "amlwskeyvault", "amlwsinsights"):
        assert each in kept
    assert "registries" not in kept, "an empty id is none"
    asked = replay.proxy.requests("/workspaceOperationsStatus/")
    assert [each.query.rpartition("type=")[2] for each in asked] == ["async", "async"]


@replays("ws-put", "ws-get-2025", "soft-deleted")
@pytest.mark.parametrize("is_kept", [False, True], ids=["made", "its name is kept"])
def test_a_workspace_is_made_or_its_operation_tells_why_not(
    replay: Replay, signed_in: AzureStandIn, names: dict[str, Any], is_kept: bool
) -> None:
    wanted = WorkspaceId(signed_in.subscription, signed_in.group, "fresh-ws")
    fresh = Replay(signed_in, wanted.name)
    maker = Maker(Arm(finding.signed_in(AzureWish()), signed_in.subscription))
    plan = maker.plan(Wish(wanted, "westeurope"))
    fact, path = FACTS["ws-put"], "/workspaces/fresh-ws$"
    fresh.answer(fact, path, "PUT")
    if is_kept:
        inner = {"code": FACTS["soft-deleted"].figures["code"], "message": FACTS["soft-deleted"].says}
        error = {
            "code": FACTS["soft-deleted"].figures["inside"],
            "message": "It failed.",
            "details": [inner],
        }
        failed = filled({"status": "Failed", "error": error}, fresh.names)
        fresh.proxy.answer(200, JSON, failed, path="/workspaceOperationsStatus/", method="GET")
        with pytest.raises(BadLink) as refused:
            maker.create(plan, wanted.name)
        assert "fresh-ws could not be made: " in refused.value.message
        assert "14 days" in "\n".join(refused.value.lines())
        return
    fresh.polls(fact, "/workspaceOperationsStatus/")
    for _ in range(2):  # once for the operation's result, once to find it
        fresh.answer(FACTS["ws-get-2025"], path)
    found = maker.create(plan, wanted.name)
    assert (found.id.name, found.location, found.host) == ("fresh-ws", "eastus2", fresh.names["host"])


@replays("ws-put", "ws-delete", "ws-get")
def test_the_stand_in_keeps_to_the_recorded_forms_of_workspaces(
    signed_in: AzureStandIn, workspace: AzuremlWorkspace
) -> None:
    def ask(method: str, url: str, **body: Any) -> requests.Response:
        return requests.request(
            method,
            url,
            headers={"Authorization": f"Bearer {signed_in.token()}"},
            verify=str(signed_in.bundle),
            timeout=20,
            **body,
        )

    where = f"{signed_in.uri}{signed_in.scope()}?api-version=2022-05-01"
    shown = ask("GET", where).json()["properties"]
    for key, value in FACTS["ws-get"].body["properties"].items():
        if isinstance(value, str) and "/providers/" in value and key in shown:
            kind = re.search(r"/providers/([^/]+/[^/]+)/", value)
            assert kind is not None
            assert f"/providers/{kind[1]}/" in shown[key], "in the service's own case"
    leaning = {key: shown[key] for key in ("storageAccount", "keyVault", "applicationInsights")}
    other = f"{signed_in.uri}{signed_in.scope('fresh-ws')}?api-version=2022-05-01"
    put = ask("PUT", other, json={"location": "eastus2", "properties": leaning})
    deleted = ask("DELETE", where)
    for fact, answer in ((FACTS["ws-put"], put), (FACTS["ws-delete"], deleted)):
        assert (answer.status_code, answer.text) == (fact.status, "")
        assert not {each.lower() for each in fact.absent} & {each.lower() for each in answer.headers}
        status, location = (answer.headers[key] for key in ("Azure-AsyncOperation", "Location"))
        assert "/workspaceOperationsStatus/" in status
        assert location == status.replace("&type=async", "&type=location")
        assert status != location
        polled = ask("GET", status)
        assert polled.json().keys() <= {"status", "percentComplete"}


# --- refusals of Azure


@replays("parent-404", "private-link", "private-link-2", "403-empty")
@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("parent-404", "the workspace aml-ws is not in rg-ml (any more)"),
        ("private-link", "refused from this network (502): the workspace is behind its private endpoint"),
        ("private-link-2", "refused from this network (403): the workspace is behind its private endpoint"),
        ("403-empty", "onlineEndpoints/write is missing"),
    ],
)
def test_a_refusal_of_the_whole_workspace_is_told_at_once(
    service: ManagedApi, replay: Replay, refusal: str, said: str
) -> None:
    fact = FACTS[refusal]
    body = {"error": {"code": "UserError", "message": fact.says}} if fact.says else fact.body
    replay.answer(fact, "/onlineEndpoints/wine$", "PUT", body)
    with pytest.raises(NotPermitted) as refused:
        service.put("wine", ENDPOINT)
    assert said in "\n".join(refused.value.lines())
    assert replay.count("/onlineEndpoints/wine$", "PUT") == 1


@replays("put-404")
def test_an_endpoint_that_the_service_cannot_find_is_refused_and_not_put_again(
    service: ManagedApi, replay: Replay
) -> None:
    replay.answer(FACTS["put-404"], "/onlineEndpoints/wine$", "PUT")
    with pytest.raises(ServiceRefusal) as refused:
        service.put("wine", ENDPOINT)
    assert refused.value.said.code == "NotFound"
    assert "another --name" in str(likely_cause([str(refused.value)]))
    assert replay.count("/onlineEndpoints/wine$", "PUT") == 1


@replays("logged-models-404")
def test_a_call_that_azure_ml_lacks_is_a_capability_and_no_outage(
    workspace: AzuremlWorkspace, replay: Replay
) -> None:
    replay.answer(FACTS["logged-models-404"], "/api/2.0/mlflow/logged-models$", "POST")
    with pytest.raises(MissingEndpoint):
        rest.request(workspace.creds(), "/api/2.0/mlflow/logged-models", "POST", json={})


@replays("403-empty")
def test_an_empty_403_of_azure_mls_mlflow_names_the_role(workspace: AzuremlWorkspace, replay: Replay) -> None:
    replay.answer(FACTS["403-empty"], "/api/2.0/mlflow/runs/get$")
    with pytest.raises(Unavailable) as refused:
        workspace.tracking.get_run("0" * 32)
    assert refused.value.denied
    assert "is missing; the smallest built-in role that has it is" in refused.value.reason


@replays("source-format", "limit-page")
@pytest.mark.parametrize(
    ("refusal", "path", "call"),
    [
        (
            "source-format",
            "/model-versions/create$",
            lambda w: w.registry.create_model_version("wine", "dummy-source"),
        ),
        ("limit-page", "/metrics/get-history$", lambda w: w.tracking.get_metric_history("0" * 32, "loss")),
    ],
)
def test_azure_mls_own_words_stay_the_refusals(
    workspace: AzuremlWorkspace, replay: Replay, refusal: str, path: str, call: Any
) -> None:
    fact = FACTS[refusal]
    code = fact.figures["error_code"]
    body = {
        "Error": {"Code": fact.figures.get("code", "UserError"), "Message": fact.says},
        "error_code": code,
    }
    replay.proxy.answer(400, JSON, filled(body, replay.names), path=path)
    with pytest.raises(MlflowException) as refused:
        call(workspace)
    settled = classify_error(refused.value)
    assert not isinstance(settled, Unavailable), "asking again changes nothing"
    assert (refused.value.error_code, fact.says in str(settled)) == (code, True)


@replays("artifact-conflict")
def test_a_file_that_the_run_has_gets_another_name(
    workspace: AzuremlWorkspace, replay: Replay, tmp_path: Path, experiment_name: str
) -> None:
    fact = FACTS["artifact-conflict"]
    experiment = workspace.tracking.create_experiment(experiment_name, None, [])
    run = workspace.tracking.create_run(experiment, "me", 1, [], "a run")
    repository = workspace.artifacts(run.info.artifact_uri)
    file = tmp_path / "notes.txt"
    file.write_text("the first")
    assert workspace.upload(repository, file, None) is None
    file.write_text("the second")
    error = {"error": {"code": fact.figures["code"], "message": fact.says}}
    body = {"artifacts": {}, "artifactContentInformation": {}, "errors": {"notes.txt": error}}
    path = "/artifacts/batch/metadata$"
    before = replay.count(path, "POST")
    replay.proxy.answer(200, JSON, filled(body, replay.names), path=path, method="POST")
    beside = workspace.upload(repository, file, None)
    assert beside not in (None, "notes.txt")
    assert replay.count(path, "POST") - before == 2, "the other name is tried at once"
    assert {each.path for each in repository.list_artifacts()} == {"notes.txt", beside}


# --- Databricks


@pytest.fixture
def client(adb: Databricks, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> MlflowClient:
    """Return MLflow's own client, signed in to Databricks."""
    monkeypatch.setenv("DATABRICKS_HOST", adb.uri)
    monkeypatch.setenv("DATABRICKS_TOKEN", adb.token(ADA))
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path_factory.mktemp("adb") / "databrickscfg"))
    return MlflowClient("databricks")


def words(fact: Fact) -> re.Pattern[str]:
    """Return what the words of a fact look for: what a source leaves out may be anything."""
    return re.compile(".*".join(re.escape(part.strip()) for part in fact.says.split("…")), re.S)


def refused_by(client: MlflowClient, call: str, *args: Any) -> MlflowException:
    with pytest.raises(MlflowException) as refused:
        getattr(client, call)(*args)
    return refused.value


@replays("experiment-exists", "experiment-tags", "experiment-path", "node-id")
def test_databricks_experiments(client: MlflowClient, experiment_name: str) -> None:
    given = f"/Workspace/Users/{ADA}/{experiment_name}"
    made = client.get_experiment(client.create_experiment(given))
    assert made.name == workspace_path(given)
    tags = FACTS["experiment-tags"].figures
    assert set(tags["tags"]) <= made.tags.keys()
    assert made.tags["mlflow.experimentType"] == tags["mlflow.experimentType"]
    again = refused_by(client, "create_experiment", given)
    exists = FACTS["experiment-exists"]
    assert already_exists(again)
    assert again.error_code == exists.figures["error_code"]
    assert words(exists).search(again.message)
    plain = refused_by(client, "create_experiment", "wine")
    assert words(FACTS["experiment-path"]).search(plain.message)
    assert not isinstance(classify_error(plain), Unavailable)
    gone = refused_by(client, "create_run", "0")
    assert words(FACTS["node-id"]).search(gone.message)
    assert is_missing(gone)


@replays("adb-403")
def test_a_token_that_databricks_does_not_know_ends_the_sign_in(adb: Databricks) -> None:
    fact = FACTS["adb-403"]
    answer = requests.get(
        f"{adb.uri}/api/2.0/mlflow/experiments/get?experiment_id=1",
        headers={"Authorization": "Bearer dapi-unknown"},
        timeout=20,
    )
    assert (answer.status_code, answer.json()) == (fact.status, fact.body)
    away = databricks_refusals.judge("databricks", answer, "GET", "/api/2.0/mlflow/experiments/get")
    assert isinstance(away, Unavailable)
    assert away.reason == "the sign-in is over (403: Invalid access token.)"
