"""Databricks' own interfaces (files, signed links, Unity Catalog): no other answer is taken for theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.link import WorkspaceSpec
from tests.databricks.conftest import ADA
from tests.infra.hostile import HOLLOW, WRONG, Answer, Hostile
from tests.standins.databricks import Databricks

FILES = "^/api/2.0/fs/files/"
NOT_FILES = {
    **{name: answer for name, answer in WRONG.items() if name not in ("nothing", "204 from a gateway")},
    "an error of its own in a 200": Answer(200, b'{"error_code": "PERMISSION_DENIED"}'),
}
"""The Files API itself answers an upload by 204, or by 200 and nothing."""


@pytest.fixture
def hostile(adb: Databricks, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    with Hostile(adb.uri) as made:
        made.answer(HOLLOW, path="^/sign-in")
        monkeypatch.setenv("DATABRICKS_HOST", made.uri)
        monkeypatch.setenv("DATABRICKS_TOKEN", adb.token(ADA))
        yield made


@pytest.fixture
def files(hostile: Hostile, experiment_name: str) -> tuple[Any, Any]:
    """Return the workspace and the repository of a run's files."""
    workspace = connect(WorkspaceSpec("databricks", "databricks"))
    store = workspace.tracking
    experiment = store.create_experiment(f"/Users/{ADA}/{experiment_name}", None, [])
    run = store.create_run(experiment, "me", 1, [], "run")
    return workspace, workspace.artifacts(run.info.artifact_uri)


def assert_an_outage(make: Callable[[], Any], name: str) -> None:
    """Check that what a call was answered by counts as an outage, after which the write may have arrived."""
    try:
        got = make()
    except Exception as error:
        settled = classify_error(error)
        assert isinstance(settled, Unavailable), f"{name}: {settled!r}"
        assert settled.sent, f"{name}: {settled.reason} counts as if nothing had been sent"
        return
    raise AssertionError(f"{name} was taken for the workspace's answer: {got!r}")


@pytest.mark.parametrize("size", [5, 200_000])
def test_an_upload_is_answered_by_the_files_api_itself(
    hostile: Hostile, files: tuple[Any, Any], tmp_path: Path, size: int
) -> None:
    _, repository = files
    file = tmp_path / "notes.bin"
    file.write_bytes(b"x" * size)
    for name, answer in NOT_FILES.items():
        with hostile.answer(answer, path=FILES, method="PUT") as rule:
            assert_an_outage(lambda: repository.log_artifact(str(file), "a"), name)
            assert rule.hits, name
    assert not hostile.count("^/sign-in"), "a redirect was followed"
    repository.log_artifact(str(file), "a")
    assert [(f.path, f.file_size) for f in repository.list_artifacts("a")] == [("a/notes.bin", size)]


@pytest.mark.full
def test_an_upload_by_a_signed_link_counts_where_the_file_is_there(
    hostile: Hostile, adb: Databricks, files: tuple[Any, Any], tmp_path: Path
) -> None:
    adb.switches.files_api = False
    _, repository = files
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    for name, answer in WRONG.items():
        with hostile.answer(answer, path="^/storage/", method="PUT") as rule:
            assert_an_outage(lambda: repository.log_artifact(str(file), "a"), f"the storage's {name}")
            assert rule.hits, name
        with hostile.answer(answer, path="/credentials-for-write$") as rule:
            assert_an_outage(lambda: repository.log_artifact(str(file), "a"), f"the links' {name}")
            assert rule.hits, name
    repository.log_artifact(str(file), "a")
    assert [f.path for f in repository.list_artifacts("a")] == ["a/notes.txt"]


def test_folders_names_and_the_catalog_are_answered_by_databricks_itself(
    hostile: Hostile, files: tuple[Any, Any], experiment_name: str
) -> None:
    workspace, _ = files
    registry, store = workspace.registry, workspace.tracking
    model = f"main.ml.{experiment_name.replace('-', '_').lower()}"
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        "a folder": (
            "/workspace/mkdirs$",
            lambda: store.create_experiment(f"/Users/{ADA}/new/{experiment_name}", None, []),
        ),
        "a model of the catalog": (
            "/unity-catalog/registered-models/create$",
            lambda: registry.create_registered_model(model),
        ),
        "a model": ("/registered-models/create$", lambda: registry.create_registered_model(experiment_name)),
    }
    for name, answer in WRONG.items():
        for what, (path, make) in calls.items():
            with hostile.answer(answer, path=path) as rule:
                assert_an_outage(make, f"{what}: {name}")
                assert rule.hits, f"{what}: {name}"
        with hostile.answer(answer, path="scim/v2/Me$"):
            workspace._me = None
            assert_an_outage(workspace.me, f"the user's name: {name}")
    assert not hostile.count("^/sign-in"), "a redirect was followed"


def test_a_token_is_shown_to_no_host_but_the_workspaces(
    hostile: Hostile, files: tuple[Any, Any], tmp_path: Path
) -> None:
    workspace, repository = files
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    with Hostile() as elsewhere:
        hostile.answer(Answer(307, b"", {"Location": f"{elsewhere.uri}/here"}))
        assert_an_outage(lambda: repository.log_artifact(str(file)), "an upload")
        assert_an_outage(lambda: workspace.tracking.get_run("0" * 32), "a read")
        assert elsewhere.requests == []
