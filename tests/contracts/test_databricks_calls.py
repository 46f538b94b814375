"""Databricks' calls as public tests have them: the stand-in answers so, and the product reads it so.

``databricks_calls.json`` has a line a call: its status, error code, words and fields, with the source. A
line whose answer is ``ordered`` is one that the stand-in gives on request alone: it is there for the product.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import requests
from mlflow.exceptions import MlflowException

from dbml_magics.core.destinations import rest
from dbml_magics.core.destinations.databricks import DatabricksWorkspace
from dbml_magics.core.destinations.errors import (
    MissingEndpoint,
    Unavailable,
    already_exists,
    classify_error,
    is_missing,
)
from dbml_magics.core.link import WorkspaceSpec
from tests.standins.databricks import Databricks

TABLE = json.loads((Path(__file__).parent / "databricks_calls.json").read_text("utf-8"))
USER = "ada@example.com"


class Stage:
    """What the lines ask of: one user's calls at the stand-in, and what earlier answers named."""

    def __init__(self, adb: Databricks, name: str) -> None:
        self.adb = adb
        self.token = adb.token(USER)
        self.known = {"user": USER, "name": name, "under": name.replace("-", "_").lower()}

    def filled(self, value: Any) -> Any:
        """Return a value with the names in braces replaced."""
        if isinstance(value, dict):
            return {self.filled(key): self.filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each) for each in value]
        if not isinstance(value, str):
            return value
        return re.sub(r"\{(\w+)\}", lambda found: self.known.get(found[1], found[0]), value)

    def address(self, line: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
        """Return method, path and query of a line."""
        method, _, target = str(self.filled(line["call"])).partition(" ")
        found = urlsplit(target)
        return method, quote(found.path), dict(parse_qsl(found.query))

    def ask(self, line: dict[str, Any]) -> requests.Response:
        """Make a line's call as it stands."""
        method, path, query = self.address(line)
        return requests.request(
            method,
            self.adb.uri + path,
            params=query,
            json=self.filled(line.get("body")),
            data=line.get("text"),
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=10,
        )

    def give(self, what: str) -> None:
        """Put something there before a call."""
        match what:
            case "a notebook":
                self.known["notebook"] = self.adb.add_notebook(f"/Users/{USER}/{self.known['name']}")
            case "permissions hidden":
                self.adb.acl_hidden = True
            case "no metastore":
                self.adb.switches.unity_catalog = False
            case _:
                line = TABLE["stage"][what]
                answer = self.ask(line)
                assert answer.status_code in (200, 204), f"{what}: {answer.text}"
                for name, place in line.get("keep", {}).items():
                    self.known[name] = str(at(answer.json(), place))

    def order(self, line: dict[str, Any]) -> None:
        """Have the stand-in answer the next call as the line says, where it would not by itself."""
        if "ordered" not in line:
            return
        body = self.filled(line["ordered"])
        path = re.escape(self.address(line)[1]) + "$"
        # The stand-in sends bytes as they are: a text in the table is an answer that is no JSON.
        self.adb.fail(path, line["status"], body.encode() if isinstance(body, str) else body)


def at(value: Any, place: str) -> Any:
    """Return what stands at a dotted place; a tag as ``key=value``, nothing where there is none."""
    for step in place.split("."):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError):
            return None
    if isinstance(value, dict) and set(value) <= {"key", "value"} and "key" in value:
        return f"{value['key']}={value.get('value', '')}"
    return value


def reading(error: Exception) -> set[str]:
    """Return what the product takes an error for."""
    found = classify_error(error)
    if isinstance(found, MissingEndpoint) or getattr(found, "error_code", "") == "ENDPOINT_NOT_FOUND":
        return {"no such call"}
    if isinstance(found, Unavailable):
        if not found.denied:
            return {"away"}
        return {"signed out" if "sign-in is over" in found.reason else "denied"}
    taken = {"refused"}
    taken |= {"missing"} if is_missing(found) else set()
    taken |= {"exists"} if already_exists(found) else set()
    lacking = getattr(found, "error_code", "") in ("FEATURE_DISABLED", "NOT_IMPLEMENTED")
    return taken | ({"lacking"} if lacking else set())


def workspace() -> DatabricksWorkspace:
    """Return the product's own workspace, signed in as the environment says."""
    return DatabricksWorkspace(WorkspaceSpec("databricks", "databricks"))


EXPECTED = {
    "missing": {"refused", "missing"},
    "exists": {"refused", "exists"},
    "lacking": {"refused", "lacking"},
}


@pytest.fixture
def stage(adb: Databricks, experiment_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(adb, experiment_name)
    monkeypatch.setenv("DATABRICKS_HOST", adb.uri)
    monkeypatch.setenv("DATABRICKS_TOKEN", made.token)
    yield made
    adb.unknown[:] = [call for call in adb.unknown if not call.endswith("/never")]


@pytest.mark.parametrize("line", TABLE["calls"], ids=[line["says"] for line in TABLE["calls"]])
def test_a_call_is_answered_and_read_as_its_source_has_it(stage: Stage, line: dict[str, Any]) -> None:
    for what in line.get("given", ()):
        stage.give(what)
    stage.order(line)
    answer = stage.ask(line)
    statuses = line["status"] if isinstance(line["status"], list) else [line["status"]]
    assert answer.status_code in statuses, answer.text
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if "code" in line:
        assert body["error_code"] == line["code"]
    assert stage.filled(line.get("words", "")) in str(body.get("message", ""))
    for place, pattern in line.get("fields", {}).items():
        found = at(body, place)
        if pattern is None:
            assert found is None, place
            continue
        known = {name: re.escape(value) for name, value in stage.known.items()}
        wanted = re.sub(r"\{(\w+)\}", lambda name: known.get(name[1], name[0]), pattern)  # noqa: B023
        assert re.fullmatch(wanted, str(found)), f"{place} is {found!r}: {answer.text}"
    for header, pattern in line.get("headers", {}).items():
        assert re.fullmatch(pattern, answer.headers.get(header, "")), answer.headers
    if taken := line.get("takes"):
        assert read(stage, line) == EXPECTED.get(taken, {taken})


def read(stage: Stage, line: dict[str, Any]) -> set[str]:
    """Return what the product takes a line's answer for, asked by its own client."""
    stage.order(line)
    method, path, query = stage.address(line)
    sent: dict[str, Any] = (
        {"data": line["text"]} if "text" in line else {"json": stage.filled(line.get("body"))}
    )
    creds = workspace().creds()
    with pytest.raises(MlflowException) as caught:
        rest.own_call(creds, path, method, "nothing", params=query, **sent)
    return reading(caught.value)


def test_who_has_no_metastore_is_told_of_the_other_registry(stage: Stage) -> None:
    stage.give("no metastore")
    with pytest.raises(MlflowException, match="to use the legacy Workspace Model Registry") as caught:
        workspace().registry.create_registered_model("main.ml.iris")
    assert "METASTORE_DOES_NOT_EXIST" in str(caught.value)
    assert reading(caught.value) == EXPECTED["lacking"]


def test_a_name_of_two_levels_is_refused_with_mlflows_hint(stage: Stage) -> None:
    catalog = workspace().registry.catalog
    with pytest.raises(
        MlflowException, match=r"set the Model Registry URI to 'databricks' \(legacy\)"
    ) as caught:
        catalog.create_registered_model("ml.iris")
    assert reading(caught.value) == {"refused"}


@pytest.mark.parametrize("status", [400, 409])
def test_an_upload_that_the_files_api_refuses_is_no_outage(stage: Stage, tmp_path: Path, status: int) -> None:
    code = {400: "INVALID_PARAMETER_VALUE", 409: "ALREADY_EXISTS"}[status]
    for what in ("experiment", "run"):
        stage.give(what)
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    there = workspace()
    run = there.tracking.get_run(stage.known["run"])
    # databricks/cli, libs/filer/files_client_test.go deleteDirectoryWithError
    details = [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "FILES_API_DIRECTORY_IS_NOT_EMPTY"}
    ]
    stage.adb.fail("/fs/files/", status, {"error_code": code, "message": "test error", "details": details})
    with pytest.raises(MlflowException) as caught:
        there.artifacts(run.info.artifact_uri).log_artifact(str(file))
    assert "refused" in reading(caught.value)
    assert "test error" in str(caught.value)


def test_each_line_names_its_source() -> None:
    for line in TABLE["calls"]:
        text, where = line["source"]
        assert where
        assert text in TABLE["sources"]
