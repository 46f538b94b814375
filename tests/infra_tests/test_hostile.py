"""The hostile server does what it says."""

from __future__ import annotations

import json

import requests

from tests.conftest import Servers
from tests.infra.hostile import WEB_PAGE, WRONG, Hostile, echo, endless_pages, locations, redirect

SEARCH = "/api/2.0/mlflow/experiments/search"


def test_without_rules_it_passes_everything_on(servers: Servers) -> None:
    with Hostile(servers.databricks.uri) as hostile:
        asked = {"max_results": 1}
        there = requests.post(servers.databricks.uri + SEARCH, json=asked, timeout=30)
        assert requests.post(hostile.uri + SEARCH, json=asked, timeout=30).json() == there.json()


def test_a_rule_answers_in_the_services_place_as_often_as_was_said(servers: Servers) -> None:
    with Hostile(servers.databricks.uri) as hostile:
        rule = hostile.answer(WEB_PAGE, path="search$", method="POST", times=1)
        first, second = (requests.post(hostile.uri + SEARCH, json={"max_results": 1}) for _ in range(2))
        assert first.content == WEB_PAGE.body
        assert "experiments" in second.json()
        assert rule.hits == 1


def test_answers_are_rewritten(servers: Servers) -> None:
    with Hostile(servers.databricks.uri) as hostile:
        hostile.rewrite(locations("file:///tmp/elsewhere"), path="search$")
        payload = requests.post(hostile.uri + SEARCH, json={"max_results": 1}).json()
        assert payload["experiments"][0]["artifact_location"] == "file:///tmp/elsewhere"
        hostile.rewrite(endless_pages(), path="search$")
        payload = requests.post(hostile.uri + SEARCH, json={"max_results": 1}).json()
        assert payload["next_page_token"] == "once more"


def test_it_notes_the_credentials_that_it_is_shown_and_echoes_them() -> None:
    with Hostile() as elsewhere, Hostile() as hostile:
        hostile.answer(redirect(elsewhere.uri, 307), path="^/away")
        hostile.answer(echo, path="^/echo")
        requests.put(
            hostile.uri + "/away", data=b"file", headers={"X-Databricks-Org-Id": "secret"}, timeout=10
        )
        assert elsewhere.secrets() == ["secret"]
        assert elsewhere.requests[0].body == b"file"
        said = requests.post(hostile.uri + "/echo", headers={"Authorization": "Bearer t"}, timeout=10)
        assert "Bearer t" in json.loads(said.text)["message"]


def test_no_wrong_answer_is_one_of_mlflows() -> None:
    for answer in WRONG.values():
        assert answer.status != 200 or answer.body != b"{}"
