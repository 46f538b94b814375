"""``%dbml doctor --probe`` at Databricks: each line tells whether the service does what is recorded of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.results.probes import ProbeReport
from tests.databricks.conftest import ADA
from tests.infra.probe_faults import Answer, Fault, Faults, asked, beside, in_force, refused
from tests.infra.proxy import Proxy
from tests.infra.service_limits import DATABRICKS_DOCUMENTED
from tests.standins.databricks import Databricks

API = "/api/2.0/mlflow/"
SCHEMA = "main.ml"


@pytest.fixture
def front(signed_in: Databricks, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Return a proxy in front of the workspace, to which this process is signed in."""
    with Proxy(signed_in.uri) as proxy:
        monkeypatch.setenv("DATABRICKS_HOST", proxy.uri)
        yield proxy
        proxy.clear()
        sessions.current().unlink()


def at_notebook(monkeypatch: pytest.MonkeyPatch, adb: Databricks) -> None:
    """Be in a Databricks notebook."""
    path = f"/Users/{ADA}/probing"
    context = SimpleNamespace(notebookPath=path, workspaceUrl=None, isInJob=False)
    module = SimpleNamespace(get_context=lambda: context)
    monkeypatch.setitem(sys.modules, "dbruntime", SimpleNamespace(databricks_repl_context=module))
    monkeypatch.setitem(sys.modules, "dbruntime.databricks_repl_context", module)
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    adb.add_notebook(path)


def own_tags(*keys: str) -> Answer:
    tags = [{"key": key, "value": "x"} for key in keys]
    body = {"experiment": {"experiment_id": "1", "name": "x", "tags": tags}}
    return Answer("experiments/get$", body=body, method="GET")


@contextmanager
def both(*faults: Fault, service: Any) -> Iterator[None]:
    with in_force({str(number): fault for number, fault in enumerate(faults)}, service):
        yield


def several(*faults: Fault) -> Fault:
    def fault(service: Any) -> AbstractContextManager[None]:
        return both(*faults, service=service)

    return fault


MISSING = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Could not find experiment"}

# What the service does to one that signs in by a personal token, outside a notebook, without the option.
ELSEWHERE = {"token-life", "notebook-experiment"}

DIFFERS: Faults = {
    "batch-metrics": refused("log-batch", r'"metrics": \[(?:[^}]*\}){601}'),
    "batch-params": refused("log-batch", r'"params": \[(?:[^}]*\}){70}'),
    "batch-tags": refused("log-batch", r'"tags": \[(?:[^}]*\}){70}'),
    "batch-bytes": Answer("log-batch", content="x{5900}(?:.|\n)*x{7900}"),
    "tag-key": refused("log-batch", r'"tags": \[\{"key": "[^"]{200,}'),
    "tag-value": refused("log-batch", r'"value": "[^"]{7000,7890}"|"value": "[^"]{7910,}'),
    "param-key": refused("log-batch", r'"params": \[\{"key": "[^"]{200,}'),
    "param-value": refused("log-batch", r'"value": "[^"]{250,5800}"|"value": "[^"]{5910,6500}"'),
    "metric-key": refused("log-batch", r'"metrics": \[\{"key": "[^"]{200,}'),
    "value-unit": refused("log-batch", r"\\u00e9"),
    "set-tag-value": refused("runs/set-tag", r'"value": "x{7000,}'),
    "wide-tag-key": refused("runs/set-tag", r'"key": "(?:\\u00e9){126,}'),
    "model-metrics": refused("log-batch", r'"m7\d\d"'),
    "param-again": Answer("log-batch", content='"key": "q"'),
    "order-by": refused("runs/search", "order_by"),
    "filter-or": Answer("runs/search", content=" OR "),
    "inputs": refused("runs/log-inputs"),
    "experiment-path": refused("experiments/create", '"name": "dbml-probe'),
    "experiment-prefix": Answer("experiments/create", body={"experiment_id": "1"}, content="/Workspace/"),
    "registry-aliases": Answer("/mlflow/registered-models/alias"),
    "version-source": Answer("model-versions/create", content="dummy-source"),
    "version-state": Answer(
        "model-versions/create", body={"model_version": {"status": "FAILED_REGISTRATION"}}, content='version"'
    ),
    "permission-levels": refused("/permissions/experiments/"),
    "catalog-tag-keys": Answer("unity-catalog/registered-models/set-tag", content=r'"key": "a\.b"'),
    "catalog-tag-length": refused("unity-catalog/registered-models/set-tag", '"key": "k{100,}'),
    "catalog-tag-value": refused("unity-catalog/registered-models/set-tag", '"value": "v{500,}'),
    "catalog-aliases": Answer(
        "unity-catalog/registered-models/alias", 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "x"}
    ),
    "catalog-privileges": refused("effective-permissions/function"),
}
# Faults that others would meet too, so each is in force by itself.
ALONE: Faults = {
    "batch-items": refused("log-batch", r"(?:[^}]*\}){701}"),
    "batch-words": refused("log-batch"),
    "run-params": refused("log-batch", r'"params": \[(?:[^}]*\}){45}'),
    "run-tags": refused("log-batch", r'"tags": \[(?:[^}]*\}){45}'),
    "history-page": refused("get-history", times=1),
    "points-twice": Answer("get-history", body={"metrics": [{}, {}, {}]}),
    "run-read": Answer("runs/get", body={"run": {"info": {"experiment_id": "1"}, "data": {}}}),
    "history-lag": Answer("get-history", body={"metrics": []}, seconds=6),
    "search-lag": Answer("runs/search", body={"runs": []}, seconds=20),
    "experiment-with-runs": refused("experiments/delete", times=1),
    "experiment-exists": several(
        Answer("experiments/create", body={"experiment_id": "1"}, times=1),
        Answer("experiments/create", 400, {"error_code": "X", "message": "x"}),
    ),
    "experiment-own-tags": own_tags("mlflow.ownerId"),
    "node-id": refused("experiments/get$", method="GET"),
    "logged-models": Answer("/logged-models$", 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "x"}),
    "artifact-uri": Answer("runs/get", body={"run": {"info": {"artifact_uri": "s3://x"}}}, times=2),
    "files": Answer("/fs/directories/", body={"contents": []}, method="GET"),
    "files-twice": Answer("twice.txt", 204, "", "^two$"),
    "files-way": several(
        Answer("/fs/files/", 403, MISSING, method="PUT"), refused("artifacts/credentials-for-write")
    ),
    "bad-token": Answer("experiments/search", 401, {"message": "x"}, method="GET"),
    "bad-oauth": Answer("experiments/search", 400, {"message": "x"}, method="GET"),
}
BY_PLACE = {"notebook-experiment", "token-life"}
"""Facts whose faults are no answers: tests of their own have them."""


def linked(adb: Databricks) -> None:
    dbml.link(databricks="databricks", track="databricks")


def nothing_is_left(report: ProbeReport, adb: Databricks) -> None:
    assert report.left == ()
    assert adb.token(ADA) not in Path(report.file).read_text()
    workspace = sessions.current().engine("this test").workspaces["databricks"]
    there = [e.name for e in workspace.tracking.search_experiments(max_results=900)]
    assert not [name for name in there if "dbml-probe" in name]


def test_every_fact_has_a_fault() -> None:
    every = asked("databricks") | asked("databricks", option="schema")
    assert set(DIFFERS) | set(ALONE) | BY_PLACE == every


@pytest.mark.full
def test_a_service_that_does_what_is_recorded_is_confirmed(front: Proxy, signed_in: Databricks) -> None:
    linked(signed_in)
    report = dbml.probe(confirm="probe", schema=SCHEMA)
    assert set(beside(report, True)) == ELSEWHERE, str(report)
    nothing_is_left(report, signed_in)


@pytest.mark.full
def test_a_service_that_differs_in_everything_is_told_so(front: Proxy, signed_in: Databricks) -> None:
    linked(signed_in)
    with in_force(DIFFERS, front):
        report = dbml.probe(confirm="probe", schema=SCHEMA, only=sorted(DIFFERS))
    assert beside(report, False) == {}, str(report)


@pytest.mark.full(but=["bad-token", "run-read", "files-way"])
@pytest.mark.parametrize("fact", ALONE)
def test_a_service_that_differs_in_one_thing_is_told_so(
    fact: str, front: Proxy, signed_in: Databricks
) -> None:
    linked(signed_in)
    with in_force({fact: ALONE[fact]}, front):
        report = dbml.probe(confirm="probe", only=[fact])
    assert beside(report, False) == {}, str(report)
    if fact not in ("experiment-own-tags", "node-id"):
        nothing_is_left(report, signed_in)


def signed_in_by_oauth(adb: Databricks, monkeypatch: pytest.MonkeyPatch) -> None:
    client, secret = adb.principal(ADA)
    monkeypatch.delenv("DATABRICKS_TOKEN")
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", client)
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", secret)


@pytest.mark.full
@pytest.mark.parametrize(("seconds", "confirmed"), [(3600.5, True), (1800.0, False)])
def test_the_life_of_an_oauth_token_is_measured(
    seconds: float, confirmed: bool, front: Proxy, signed_in: Databricks, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in_by_oauth(signed_in, monkeypatch)
    signed_in.switches.token_lifetime = seconds
    linked(signed_in)
    report = dbml.probe(confirm="probe", only=["token-life"])
    assert [row.confirmed for row in report if row.fact == "token-life"] == [confirmed], str(report)


@pytest.mark.full
def test_a_notebook_tells_its_own_experiment(
    front: Proxy, signed_in: Databricks, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(signed_in)
    at_notebook(monkeypatch, signed_in)
    only = ["notebook-experiment"]
    assert beside(dbml.probe(confirm="probe", only=only), True) == {}
    with in_force({"x": Answer("experiments/get$", 404, MISSING, method="GET")}, front):
        report = dbml.probe(confirm="probe", only=["notebook-experiment"])
    assert beside(report, False) == {}


def test_lengths_that_databricks_documents_are_measured_where_it_has_them(
    signed_in: Databricks, home: Path
) -> None:
    """The page on batches says 250 characters, the one on tags 250 bytes of a key and 64 KB of a value."""
    signed_in.limit(DATABRICKS_DOCUMENTED)
    linked(signed_in)
    only = ["param-value", "tag-value", "set-tag-value", "wide-tag-key"]
    report = dbml.probe(confirm="probe", only=only)
    found = {row.fact: (row.found, row.confirmed) for row in report if row.fact in only}
    assert found == {
        "param-value": ("250", False),
        "tag-value": ("250", False),
        "set-tag-value": ("8,000", True),
        "wide-tag-key": ("125", False),
    }
    nothing_is_left(report, signed_in)
