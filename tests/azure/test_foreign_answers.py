"""Azure ML's files and run history: a sign-in page, a redirect or other JSON is no answer of theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from tests.infra.hostile import WRONG, Hostile
from tests.standins.azure import AzureStandIn

BODIES = {
    name: (answer.status, answer.body.decode())
    for name, answer in WRONG.items()
    if not name.startswith("a redirect")
}
NAMES = "artifacts/batch/metadata$"
HISTORY = "/experimentids/[^/]+/runs/[^/]+$"


@pytest.fixture
def link(signed_in: AzureStandIn, names: dict[str, Any]) -> Any:
    session = sessions.current()
    dbml.link(track="azureml", registry="azureml", **names)
    yield session
    if session.linked:
        session.unlink()


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


# azure-core leaves the connection of a download that is no blob to the collector of garbage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_files_are_answered_by_azure_ml_and_its_storage_alone(
    link: Any, signed_in: AzureStandIn, tmp_path: Path
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        mlflow.log_text("there", "there.txt")
    dbml.sync(timeout=30)
    repository = link.engine("the test").side("azureml").reader.repository(f"run:{run.info.run_id}")
    proxy, file, back = signed_in.proxy, tmp_path / "notes.txt", tmp_path / "back"
    for number, (name, (status, body)) in enumerate(BODIES.items()):
        file = tmp_path / f"notes{number}.txt"
        file.write_text("notes")
        put = lambda file=file: repository.put(str(file), None)  # noqa: E731 - one for each file
        with proxy.status(status, body=body, path=NAMES, method="POST"):
            assert_an_outage(put, f"the name's {name}")
        if status != 201:  # by which the storage itself answers, without a body
            with proxy.status(status, body=body, path=f"{file.name}$", method="PUT"):
                assert_an_outage(put, f"the storage's {name}")
        with proxy.status(status, body=body, path="there.txt$", method="GET"):
            assert_an_outage(lambda: repository._download_file("there.txt", str(back)), f"the file's {name}")
        repository.put(str(file), None)
    repository._download_file("there.txt", str(back))
    assert back.read_text() == "there"
    assert len([f for f in repository.list_artifacts() if f.path.startswith("notes")]) == len(BODIES)


def test_no_redirect_takes_a_file_or_a_token_to_another_host(
    link: Any, signed_in: AzureStandIn, tmp_path: Path
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        mlflow.log_text("there", "there.txt")
    dbml.sync(timeout=30)
    workspace = link.engine("the test").workspaces["azureml"]
    repository = link.engine("the test").side("azureml").reader.repository(f"run:{run.info.run_id}")
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    with Hostile() as elsewhere:
        for path in (NAMES, "notes.txt$"):
            with signed_in.proxy.redirect(f"{elsewhere.uri}/here", path=path):
                assert_an_outage(lambda: repository.put(str(file), None), path)
        with signed_in.proxy.redirect(f"{elsewhere.uri}/here", path="/api/2.0/mlflow/"):
            assert_an_outage(lambda: workspace.tracking.get_run("0" * 32), "a read")
        with signed_in.proxy.redirect(f"{elsewhere.uri}/here", path=HISTORY):
            assert_an_outage(lambda: workspace.make_run_as("0" * 32, "1", 1, {}), "a run of its history")
        assert elsewhere.requests == []


def test_a_run_is_made_by_run_history_alone(link: Any, signed_in: AzureStandIn) -> None:
    workspace = link.engine("the test").workspaces["azureml"]
    experiment = workspace.tracking.create_experiment("answers", None, [])
    for name, (status, body) in BODIES.items():
        with signed_in.proxy.status(status, body=body, path=HISTORY, method="PATCH"):
            assert_an_outage(lambda: workspace.make_run_as("1" * 32, experiment, 1, {}), name)
    assert not workspace.tracking.search_runs([experiment], "", 3), "a run was made in its stead"
