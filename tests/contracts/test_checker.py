"""The checker finds every kind of deviation, and says nothing of what keeps to the contract."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.checker import DATA, Checker, Exchange, read_allowed
from tests.contracts.plugin import stale

WORKSPACE = (
    "/subscriptions/5ab5c41b-0000-4000-8000-000000000001/resourceGroups/rg/providers/"
    "Microsoft.MachineLearningServices/workspaces/aml"
)
ENDPOINT = f"{WORKSPACE}/onlineEndpoints/wine"
DEPLOYMENT = f"{ENDPOINT}/deployments/blue"
VERSION = "2025-12-01"
HEADERS = {"Azure-AsyncOperation": "https://127.0.0.1/o", "x-ms-async-operation-timeout": "PT30M"}
BODY: dict[str, Any] = {
    "location": "westeurope",
    "sku": {"name": "Default", "capacity": 1},
    "properties": {
        "endpointComputeType": "Managed",
        "model": f"{WORKSPACE}/models/wine/versions/1",
        "instanceType": "Standard_DS3_v2",
        "requestSettings": {"requestTimeout": "PT5S"},
        "environmentVariables": None,
    },
}
ANSWER = {**BODY, "id": DEPLOYMENT, "name": "blue"}


def changed(body: dict[str, Any], place: str, value: Any = None) -> dict[str, Any]:
    """Return a body with a field set, or without it."""
    made = copy.deepcopy(body)
    *outer, key = place.split(".")
    inner = made
    for name in outer:
        inner = inner[name]
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return made


def put(
    body: Any = BODY,
    status: int = 201,
    *,
    answer: Any = ANSWER,
    version: str = VERSION,
    headers: dict[str, str] = HEADERS,
    path: str = DEPLOYMENT,
) -> Exchange:
    """Return the PUT of a deployment and its answer."""
    sent, answered = json.dumps(body).encode(), json.dumps(answer).encode()
    return Exchange("PUT", path, f"api-version={version}", sent, status, headers, answered)


def said(*exchanges: Exchange) -> list[str]:
    """Return what a fresh checker, which allows nothing, says of exchanges, without the operation's name."""
    checker = Checker(allowed=[])
    for each in exchanges:
        checker.check(each)
    lead = f"{VERSION} PUT W/onlineEndpoints/{{endpointName}}/deployments/{{deploymentName}} "
    return [each.removeprefix(lead) for each in checker.unallowed]


def test_what_keeps_to_the_contract_is_counted_and_that_is_all() -> None:
    checker = Checker(allowed=[])
    checker.check(put())
    checker.check(put(status=200, headers={}))
    assert checker.taken() == {"counts": {"checked": 2}, "unallowed": []}


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("properties.instanceTyp", "x", "properties.instanceTyp is unknown"),
        ("colour", "red", "colour is unknown"),
        ("location", None, "location is missing"),
        ("properties", None, "properties is missing"),
        ("sku", {"capacity": 1}, "sku.name is missing"),
        ("properties.provisioningState", "Succeeded", "properties.provisioningState is read-only"),
        ("id", DEPLOYMENT, "id is read-only"),
        ("sku.tier", "Golden", "sku.tier has the unknown value 'Golden'"),
        (
            "properties.endpointComputeType",
            "ACI",
            "properties.endpointComputeType has the unknown value 'ACI'",
        ),
        (
            "properties.dataCollector",
            {"rollingRate": "Day"},
            "properties.dataCollector.collections is missing",
        ),
        ("sku.capacity", "1", "sku.capacity is no integer"),
        ("tags", {"a": 1}, "tags.a is no string"),
    ],
)
def test_a_request_that_deviates_is_found(place: str, value: Any, expected: str) -> None:
    assert said(put(changed(BODY, place, value))) == [f"request: {expected}"]


def test_a_duration_of_another_form_is_found() -> None:
    (found,) = said(put(changed(BODY, "properties.requestSettings.requestTimeout", "5000ms")))
    assert found.startswith("request: properties.requestSettings.requestTimeout is no ^")


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        (put(status=202), "answer: status 202, of [200, 201]"),
        (put(headers={"azure-asyncOperation": "x"}),
         "answer: 201 has no header x-ms-async-operation-timeout"),
        (put(answer=changed(ANSWER, "location")), "answer: location is missing"),
        (put(answer=changed(ANSWER, "properties.ready", True)), "answer: properties.ready is unknown"),
        (put(answer=changed(ANSWER, "properties.provisioningState", "InProgress")), "answer: properties."
         "provisioningState has the unknown value 'InProgress'"),
        (put(version="2024-10-01"), "2024-10-01 PUT W/onlineEndpoints/{endpointName}/deployments/"
         "{deploymentName} this api-version has no contract"),
        (put(path=f"{ENDPOINT}/slots/blue"), f"no contract and no area for PUT {ENDPOINT}/slots/blue"),
    ],
)  # fmt: skip
def test_an_answer_or_a_call_that_deviates_is_found(exchange: Exchange, expected: str) -> None:
    assert said(exchange) == [expected]


def test_an_update_may_not_change_what_is_create_only() -> None:
    larger = put(changed(BODY, "properties.instanceType", "Standard_DS4_v2"), 200, headers={})
    expected = ["request: properties.instanceType is create-only and changed"]
    assert said(put(), larger) == expected
    assert said(put(), larger, larger) == expected, "the service keeps what it accepted"
    other = put(changed(BODY, "properties.model", "azureml:wine:2"), 200, headers={})
    assert said(put(), other) == [], "the model may change"
    refused = put(changed(BODY, "properties.instanceType", "Standard_DS4_v2"), 400)
    assert said(put(), refused) == [], "what the service refuses changes nothing"
    shouted = put(changed(BODY, "location", "West Europe"), 200, headers={})
    assert said(put(), shouted) == []
    gone = Exchange("DELETE", ENDPOINT, f"api-version={VERSION}", b"", 204, {}, b"")
    assert said(put(), gone, larger) == []


def test_a_line_allows_what_it_names_and_is_stale_where_nothing_did(tmp_path: Path) -> None:
    path = tmp_path / "allowed.txt"
    path.write_text(
        "# a comment\n"
        "area | GET /weather | no description is published\n"
        r"deviation | .* answer: status 202, of \[200, 201\] | known" + "\n"
        "full deviation | .* request: colour is unknown | only a long test does it\n"
    )
    lines = read_allowed(path)
    checker = Checker(allowed=lines)
    checker.check(put(status=202))
    taken = checker.taken()
    assert taken["unallowed"] == []
    area, _, colour = (line.key for line in lines)
    assert stale(lines, taken["counts"], full=False) == [area]
    assert stale(lines, taken["counts"], full=True) == [area, colour]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_a_contract_names_its_source_and_every_type_that_it_uses(path: Path) -> None:
    facts = json.loads(path.read_text())
    assert {"source", "date", "licence", "made by"} == set(facts["about"])
    known = {
        *facts["types"],
        *facts["enums"],
        "string",
        "integer",
        "number",
        "boolean",
        "time",
        "duration",
        "any",
    }
    used = {each[key].removeprefix("page ") for each in facts["operations"] for key in ("body", "answer")}
    used |= {kind for each in facts["types"].values() for kind in each.get("kinds", {}).values()}
    for each in facts["types"].values():
        used |= {written.split()[0].strip("[]{}") for written in each["fields"].values()}
    assert used - known <= {""}
    assert all(each["success"] for each in facts["operations"])
