"""Verify and repair in front of a server that lies about one thing: that is reported, the others go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import mlflow
import pytest
import requests
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.errors import DbmlError
from dbml_magics.results.reconcile import UNREAD
from tests.conftest import Servers
from tests.core import linking
from tests.core.modelling import log_linear
from tests.infra import plain
from tests.infra.hostile import WRONG, Answer, Hostile, Request, Rewriting, Rule, endless_pages

SOON_S = 90.0


@pytest.fixture
def hostile(servers: Servers) -> Iterator[Hostile]:
    with Hostile(servers.databricks.uri) as server:
        yield server


@pytest.fixture
def runs(home: object, hostile: Hostile, servers: Servers, experiment_name: str) -> tuple[str, str]:
    """Return two runs that both workspaces have; the first shall have its trouble, the second is edited."""
    dbml.link(databricks=hostile.uri, azureml=servers.azureml.uri, registry="both")
    dbml.experiment(experiment_name)
    found = []
    for name in ("troubled", "fine"):
        with mlflow.start_run(run_name=name) as run:
            mlflow.log_param("who", name)
            for step in range(3):
                mlflow.log_metric("loss", step, step=step)
            mlflow.log_text(name, "notes/a.txt")
            mlflow.log_text(name, "b.txt")
        found.append(str(run.info.run_id))
    linking.sync()
    MlflowClient(servers.databricks.uri).set_tag(found[1], "team", "wine")
    return found[0], found[1]


def of_run(run: str, change: Callable[[dict[str, Any]], None]) -> Rewriting:
    """Rewrite what is answered about one run, in a search too."""

    def rewritten(_: Request, answer: Answer) -> Answer:
        payload = json.loads(answer.body)
        for each in [*payload.get("runs", []), *([payload["run"]] if "run" in payload else [])]:
            if each["info"]["run_id"] == run:
                change(each)
        return Answer(answer.status, json.dumps(payload).encode(), answer.headers)

    return rewritten


def endless(hostile: Hostile, path: str) -> Rule:
    """Let a listing give its first page for ever, and say each time that another one follows."""
    again = endless_pages()

    def first_page(request: Request) -> Answer:
        parts = urlsplit(request.target)
        query = [(k, v) for k, v in parse_qsl(parts.query) if k != "page_token"]
        body = request.body
        if body:
            body = json.dumps({k: v for k, v in json.loads(body).items() if k != "page_token"}).encode()
        address = f"{hostile.upstream}{parts.path}?{urlencode(query)}"
        given = requests.request(
            request.method, address, data=body, headers={"Content-Type": "application/json"}
        )
        return again(request, Answer(given.status_code, given.content, {"Content-Type": "application/json"}))

    return hostile.answer(first_page, path=path, method="GET|POST")


def at(place: str) -> Callable[[dict[str, Any]], None]:
    return lambda payload: payload["info"].__setitem__("artifact_uri", place)


def lists(run: str, *files: dict[str, Any]) -> Callable[[Request, Answer], Answer]:
    """List other files than one run has."""

    def rewritten(request: Request, answer: Answer) -> Answer:
        if run not in str(request.query):
            return answer
        return Answer(200, json.dumps({"files": files}).encode(), {"Content-Type": "application/json"})

    return rewritten


def trouble(run: str, how: str, hostile: Hostile) -> None:
    folder = f"runs/{run}"
    if how.startswith(("http", "ftp", "dbfs", "weird", "mlflow", "file", "no place")):
        hostile.rewrite(of_run(run, at("" if how == "no place" else how)), path="runs/(get|search)$")
    elif how == "a folder listed as a file":
        listed = lists(run, {"path": "notes", "is_dir": False, "file_size": 3}, {"path": "notes/a.txt"})
        hostile.rewrite(listed, path="mlflow-artifacts/artifacts$")
    elif how == "a folder in itself":
        listed = lists(run, {"path": "x", "is_dir": True}, {"path": "../x", "is_dir": True})
        hostile.rewrite(listed, path="mlflow-artifacts/artifacts$")
    elif how == "an endless history":
        hostile.rewrite(
            of_run(run, lambda payload: payload["data"]["metrics"][0].__setitem__("value", 77)), path="runs/"
        )
        endless(hostile, "metrics/get-history$")
    else:
        assert how in WRONG, how

        def wrong(request: Request, answer: Answer) -> Answer:
            return WRONG[how] if run in str(request.query) or folder in request.path else answer

        hostile.rewrite(wrong, path="mlflow-artifacts/")


PLACES = [
    "http://127.0.0.1:9/nowhere",
    "http://127.0.0.1:9",
    "https://user@:x/",
    "ftp://127.0.0.1:9/x",
    "dbfs:/nowhere",
    "weird-scheme://x/y",
    "mlflow-artifacts://127.0.0.1:9/x",
    "mlflow-artifacts:/../../etc",
    "file:///proc/self/environ",
    "no place",
]
LISTINGS = ["a folder listed as a file", "a folder in itself", "an endless history"]


@pytest.mark.full(but=[PLACES[0], "a web page"])
@pytest.mark.parametrize("how", [*PLACES, *LISTINGS, *WRONG])
def test_one_runs_trouble_stays_that_runs(
    runs: tuple[str, str], hostile: Hostile, servers: Servers, experiment_name: str, how: str
) -> None:
    troubled, fine = runs
    trouble(troubled, how, hostile)
    began = time.monotonic()
    found = dbml.verify(experiment=experiment_name)
    assert ("tag", "team") in {(d.kind, d.key) for d in found.differences if d.run == fine}, str(found)
    assert {d.run for d in found.differences} <= {troubled, fine}, str(found)
    for each in found.differences:
        assert each.kind != UNREAD or (each.cause and each.cause in str(found)), f"a cause is shown: {found}"
    done = dbml.repair(experiment=experiment_name)
    assert ("tag", "team") in {(r.difference.kind, r.difference.key) for r in done.repaired}, str(done)
    assert {r.difference.run for r in (*done.repaired, *done.remaining)} <= {troubled, fine}, str(done)
    assert time.monotonic() - began < SOON_S, f"{how}: it took {time.monotonic() - began:.0f} s"
    twin = plain.twin_id(servers.azureml.uri, fine, experiment_name)
    assert twin is not None
    assert MlflowClient(servers.azureml.uri).get_run(twin).data.tags["team"] == "wine"


LISTED = {
    "experiments": "experiments/search$",
    "runs": "runs/search$",
    "logged models": "logged-models/search$",
    "registered models": "registered-models/search$",
    "versions": "model-versions/search$",
    "histories": "metrics/get-history$",
    "files": "mlflow-artifacts/artifacts$",
}


@pytest.mark.full(but=["runs"])
@pytest.mark.parametrize("what", LISTED)
def test_endless_pages_end(
    runs: tuple[str, str], hostile: Hostile, servers: Servers, experiment_name: str, what: str
) -> None:
    name = experiment_name.replace("/", "-")
    with mlflow.start_run():
        log_linear("model", registered_model_name=name)
    linking.sync()
    rule = endless(hostile, LISTED[what])
    began = time.monotonic()
    for work in (dbml.verify, dbml.repair):
        if what == "experiments":  # without it nothing can be compared
            with pytest.raises(DbmlError, match="does not end"):
                work(experiment=experiment_name)
            continue
        payload: Any = work(experiment=experiment_name, deep=True)
        assert what == "files" or "does not end" in str(payload), f"{what}: {payload}"
        entries = payload.differences if work is dbml.verify else [r.difference for r in payload.remaining]
        assert not [d for d in entries if d.kind in ("run", "version", "model") and not d.key], (
            f"{what}: what is not listed to its end does not count as lacking: {payload}"
        )
    assert rule.hits
    hostile.clear()
    assert time.monotonic() - began < SOON_S, f"it took {time.monotonic() - began:.0f} s"
    here, there = (len(plain.model_versions(server.uri, name)) for server in servers)
    assert (here, there) == (1, 1), "nothing was registered twice"
    assert linking.runs_at(servers, experiment_name) == [3, 3], "no run was copied"


@pytest.mark.full
def test_a_workspace_that_is_away_still_ends_it_with_words(
    runs: tuple[str, str], hostile: Hostile, experiment_name: str
) -> None:
    hostile.answer(Answer(503), path="")
    with pytest.raises(DbmlError, match="databricks"):
        dbml.verify(experiment=experiment_name, timeout=1)
