"""MLflow's messages as a contract: what deviates from them is found, what keeps to them is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contracts.checker import Checker, Exchange
from tests.contracts.messages import MlflowContract

CREATE = "/api/2.0/mlflow/unity-catalog/model-versions/create"
GET = "/api/2.0/mlflow/unity-catalog/model-versions/get"


@pytest.fixture(scope="module")
def contract() -> MlflowContract:
    return MlflowContract()


def said(contract: MlflowContract, exchange: Exchange) -> list[str]:
    """Return what a checker, which allows nothing, says of an exchange."""
    checker = Checker(allowed=[], contracts=[contract])
    checker.check(exchange)
    return checker.unallowed


def version(sent: dict[str, Any], answered: dict[str, Any]) -> Exchange:
    """Return the creation of a version in Unity Catalog and its answer."""
    sent = {"name": "main.ml.wine", "source": "dbfs:/x", **sent}
    texts = json.dumps(sent).encode(), json.dumps({"model_version": answered}).encode()
    return Exchange("POST", CREATE, "", texts[0], 200, {}, texts[1])


def test_what_keeps_to_the_messages_is_no_deviation(contract: MlflowContract) -> None:
    answered = {
        "name": "main.ml.wine",
        "version": "1",
        "creation_timestamp": "1700000000000",
        "status": "READY",
        "tags": [{"key": "k", "value": "v"}],
    }
    assert said(contract, version({}, answered)) == []
    query = "name=main.ml.wine&version=1"
    assert said(contract, Exchange("GET", GET, query, b"", 200, {}, b'{"model_version": {}}')) == []


@pytest.mark.parametrize(
    ("sent", "answered", "expected"),
    [
        ({"stage": "Production"}, {}, "request: stage is unknown"),
        ({"source": 1}, {}, "request: source is no string"),
        ({"tags": [{"name": "k"}]}, {}, "request: tags[].name is unknown"),
        ({"tags": {"k": "v"}}, {}, "request: tags is no array"),
        ({}, {"status": "DONE"}, "answer: model_version.status has the unknown value 'DONE'"),
        ({}, {"creation_timestamp": "today"}, "answer: model_version.creation_timestamp is no integer"),
        ({}, {"current_stage": "None"}, "answer: model_version.current_stage is unknown"),
    ],
)
def test_what_deviates_from_a_message_is_found(
    contract: MlflowContract, sent: dict[str, Any], answered: dict[str, Any], expected: str
) -> None:
    assert said(contract, version(sent, answered)) == [f"POST {CREATE} {expected}"]


def test_a_query_names_fields_of_its_message(contract: MlflowContract) -> None:
    found = said(contract, Exchange("GET", GET, "name=a&version=1&vers=1", b"", 200, {}, b"{}"))
    assert found == [f"GET {GET} request: vers is unknown"]


def test_a_required_field_may_stand_in_the_path(contract: MlflowContract) -> None:
    path = "/api/2.0/mlflow/logged-models/m-1"
    assert said(contract, Exchange("GET", path, "", b"", 200, {}, b"{}")) == []
    body = json.dumps({"value": "1", "key": "loss"}).encode()
    lacking = Exchange("POST", "/api/2.0/mlflow/runs/log-metric", "", body, 200, {}, b"{}")
    names = {each.split("request: ")[1] for each in said(contract, lacking)}
    assert "timestamp is missing" in names
