"""No answer but the service's own counts as delivered: no sign-in page, redirect or other JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import (
    DatasetInput,
    ExperimentTag,
    LoggedModelOutput,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
    RunStatus,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.link import WorkspaceSpec
from tests.conftest import Servers
from tests.core.linking import arrived, dead_letters, sync
from tests.infra.hostile import HOLLOW, WEB_PAGE, WRONG, Hostile, redirect
from tests.infra.wait import eventually

API = "/api/2.0/mlflow/"
ARTIFACTS = "/mlflow-artifacts/artifacts"
WRONG_FILES = {
    name: answer
    for name, answer in WRONG.items()
    if name.startswith(("a web page", "a redirect", "201", "202", "204"))
}
"""What cannot be a file: any text or JSON may be one."""


@pytest.fixture
def hostile(servers: Servers) -> Iterator[Hostile]:
    with Hostile(servers.azureml.uri) as made:
        made.answer(HOLLOW, path="^/sign-in")
        yield made


@dataclass
class Call:
    """One call of a workspace: where it goes, and how it is made."""

    path: str
    make: Callable[[], Any]
    method: str = "POST"


def calls(workspace: Workspace, name: str, folder: Path) -> tuple[dict[str, Call], dict[str, Call]]:
    """Return the writes and the reads of an entity each, which are there."""
    store, registry = workspace.tracking, workspace.registry
    experiment = store.create_experiment(name, None, [])
    run = store.create_run(experiment, "me", 1, [RunTag("a", "b")], "run")
    run_id, files = run.info.run_id, workspace.artifacts(run.info.artifact_uri)
    file = folder / "notes.txt"
    file.write_text("notes")
    files.log_artifact(str(file), "there")
    model = store.create_logged_model(experiment, "model", run_id)
    registry.create_registered_model(name)
    version = str(registry.create_model_version(name, run.info.artifact_uri, run_id).version)
    dataset = DatasetInput(DatasetEntity("d", "digest", "local", "{}"), [])
    tag, mtag, vtag = ExperimentTag("k", "v"), RegisteredModelTag("k", "v"), ModelVersionTag("k", "v")
    batch = {"run_id": run_id, "metrics": [{"key": "m", "value": 1.0, "timestamp": 1, "step": 1}]}
    one = f"logged-models/{model.model_id}"
    ended = RunStatus.FINISHED
    writes = {
        "experiments/create": lambda: store.create_experiment(f"{name}-2", None, []),
        "experiments/set-experiment-tag": lambda: store.set_experiment_tag(experiment, tag),
        "experiments/delete-experiment-tag": lambda: store.delete_experiment_tag(experiment, "k"),
        "experiments/update": lambda: store.rename_experiment(experiment, f"{name}-3"),
        "experiments/delete": lambda: store.delete_experiment(experiment),
        "experiments/restore": lambda: store.restore_experiment(experiment),
        "runs/create": lambda: store.create_run(experiment, "me", 1, [], "other"),
        "runs/update": lambda: store.update_run_info(run_id, ended, 2, None),
        "runs/log-batch": lambda: store.send_batch(batch),
        "runs/delete-tag": lambda: store.delete_tag(run_id, "a"),
        "runs/delete": lambda: store.delete_run(run_id),
        "runs/restore": lambda: store.restore_run(run_id),
        "runs/log-inputs": lambda: store.log_inputs(run_id, [dataset]),
        "runs/outputs": lambda: store.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)]),
        "logged-models": lambda: store.create_logged_model(experiment, "other", run_id),
        f"{one}": lambda: store.finalize_logged_model(model.model_id, LoggedModelStatus.READY),
        f"{one}/tags": lambda: store.set_logged_model_tags(model.model_id, [LoggedModelTag("k", "v")]),
        f"{one}/tags/k": lambda: store.delete_logged_model_tag(model.model_id, "k"),
        f"{one}/params": lambda: store.log_logged_model_params(
            model.model_id, [LoggedModelParameter("k", "v")]
        ),
        "registered-models/create": lambda: registry.create_registered_model(f"{name}-2"),
        "registered-models/rename": lambda: registry.rename_registered_model(name, f"{name}-3"),
        "registered-models/update": lambda: registry.update_registered_model(name, "words"),
        "registered-models/delete": lambda: registry.delete_registered_model(name),
        "registered-models/set-tag": lambda: registry.set_registered_model_tag(name, mtag),
        "registered-models/delete-tag": lambda: registry.delete_registered_model_tag(name, "k"),
        "registered-models/alias": lambda: registry.set_registered_model_alias(name, "best", version),
        "model-versions/create": lambda: registry.create_model_version(name, run.info.artifact_uri, run_id),
        "model-versions/update": lambda: registry.update_model_version(name, version, "words"),
        "model-versions/transition-stage": lambda: registry.transition_model_version_stage(
            name, version, "Staging", False
        ),
        "model-versions/delete": lambda: registry.delete_model_version(name, version),
        "model-versions/set-tag": lambda: registry.set_model_version_tag(name, version, vtag),
        "model-versions/delete-tag": lambda: registry.delete_model_version_tag(name, version, "k"),
    }
    reads = {
        "runs/get": lambda: store.get_run(run_id),
        "runs/search": lambda: store.search_runs([experiment], "", 1),
        "experiments/get": lambda: store.get_experiment(experiment),
        "experiments/get-by-name": lambda: store.get_experiment_by_name(name),
        "experiments/search": lambda: store.search_experiments(max_results=1),
        "metrics/get-history": lambda: store.get_metric_history(run_id, "m", 10, None),
        f"{one}$": lambda: store.get_logged_model(model.model_id),
        "logged-models/search": lambda: store.search_logged_models([experiment]),
        "registered-models/get": lambda: registry.get_registered_model(name),
        "registered-models/search": lambda: registry.search_registered_models(f"name='{name}'"),
        "model-versions/get": lambda: registry.get_model_version(name, version),
        "model-versions/search": lambda: registry.search_model_versions(f"name='{name}'"),
        "model-versions/get-download-uri": lambda: registry.get_model_version_download_uri(name, version),
    }
    written = {path: Call(f"^{API}{path}$", make, "POST|PATCH|DELETE") for path, make in writes.items()}
    written["a file"] = Call(f"{ARTIFACTS}/", lambda: files.log_artifact(str(file), "other"), "PUT")
    read = {path: Call(f"^{API}{path.rstrip('$')}$", make, "GET|POST") for path, make in reads.items()}
    read["the files' list"] = Call(f"{ARTIFACTS}$", lambda: files.list_artifacts("there"), "GET")
    return written, read


def taken(hostile: Hostile, call: Call, wrong: Any) -> str | None:
    """Return what came of a call that was answered wrongly, or None: it counted as an outage."""
    with hostile.answer(wrong, path=call.path, method=call.method) as rule:
        try:
            got = call.make()
        except Exception as error:
            settled = classify_error(error)
            if not isinstance(settled, Unavailable):
                return f"{type(settled).__name__}: {str(settled)[:80]}"
            return None if settled.sent else "an outage before which nothing was sent"
        return f"done: {got!r}"[:80] if rule.hits else "never asked"


def check(hostile: Hostile, these: dict[str, Call], wrong: Any) -> None:
    """Check that every call tells a wrong answer as an outage whose write may have arrived."""
    found = {name: taken(hostile, call, wrong) for name, call in these.items()}
    believed = {name: what for name, what in found.items() if what is not None}
    assert not believed, f"{len(believed)} of {len(found)} calls took it for the workspace's: {believed}"
    assert not hostile.count("^/sign-in"), "a redirect was followed"


@pytest.mark.full(
    but=["a web page", "nothing", "an error in a 200", "204 from a gateway", "a redirect (302)"]
)
@pytest.mark.parametrize("kind", WRONG)
def test_no_call_takes_an_answer_that_is_not_mlflows(
    kind: str, hostile: Hostile, tmp_path: Path, experiment_name: str
) -> None:
    workspace = connect(WorkspaceSpec("azureml", hostile.uri))
    writes, reads = calls(workspace, experiment_name, tmp_path)
    check(hostile, {**writes, **reads}, WRONG[kind])


def test_an_entity_without_its_identity_is_no_answer(
    hostile: Hostile, tmp_path: Path, experiment_name: str
) -> None:
    workspace = connect(WorkspaceSpec("azureml", hostile.uri))
    writes, reads = calls(workspace, experiment_name, tmp_path)
    named = {name: call for name, call in writes.items() if name.endswith(("/create", "logged-models"))}
    named |= {name: call for name, call in reads.items() if "search" not in name and "history" not in name}
    named["runs/update"] = writes["runs/update"]
    del named["the files' list"]
    check(hostile, named, HOLLOW)


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_file_that_is_answered_by_a_web_page_is_not_taken_for_it(
    kind: str, hostile: Hostile, tmp_path: Path, experiment_name: str
) -> None:
    workspace = connect(WorkspaceSpec("azureml", hostile.uri))
    store = workspace.tracking
    run = store.create_run(store.create_experiment(experiment_name, None, []), "me", 1, [], "run")
    files = workspace.artifacts(run.info.artifact_uri)
    for name in ("notes.txt", "page.html"):
        (tmp_path / name).write_text("<html>mine</html>")
        files.log_artifact(str(tmp_path / name))
    target = tmp_path / "back"
    check(
        hostile,
        {"notes.txt": Call("/notes.txt$", lambda: files._download_file("notes.txt", str(target)), "GET")},
        WRONG_FILES[kind],
    )
    files._download_file("page.html", str(target))
    assert target.read_text() == "<html>mine</html>", "a page that the user logged is a file like any other"


def test_an_empty_answer_to_an_upload_counts_where_the_file_is_there(
    hostile: Hostile, tmp_path: Path, experiment_name: str
) -> None:
    """A gateway may take MLflow's headers away, or answer so by itself."""
    workspace = connect(WorkspaceSpec("azureml", hostile.uri))
    store = workspace.tracking
    run = store.create_run(store.create_experiment(experiment_name, None, []), "me", 1, [], "run")
    files = workspace.artifacts(run.info.artifact_uri)
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    with hostile.rewrite(lambda _, answer: type(answer)(answer.status, answer.body), method="PUT"):
        files.log_artifact(str(file), "below")
    assert [f.path for f in files.list_artifacts("below")] == ["below/notes.txt"]


@pytest.mark.full
def test_a_gateway_that_knows_no_page_is_no_service_that_lacks_a_call(
    hostile: Hostile, tmp_path: Path, experiment_name: str
) -> None:
    workspace = connect(WorkspaceSpec("azureml", hostile.uri))
    writes, reads = calls(workspace, experiment_name, tmp_path)
    page = type(WEB_PAGE)(404, b"<html>404 Not Found</html>", WEB_PAGE.headers)
    with hostile.answer(page):
        for name, call in {**writes, **reads}.items():
            assert taken(hostile, call, page) is None, f"{name} was taken for one that the service lacks"


LINES: dict[str, tuple[str, str]] = {
    "runs/create": (f"^{API}runs/create$", "POST"),
    "log-batch": (f"^{API}runs/log-batch$", "POST"),
    "log-inputs": (f"^{API}runs/log-inputs$", "POST"),
    "a file": (f"{ARTIFACTS}/", "PUT"),
    "runs/update": (f"^{API}runs/update$", "POST"),
    "registered-models/create": (f"^{API}registered-models/create$", "POST"),
}


@pytest.mark.full
@pytest.mark.parametrize("kind", ["a web page", "nothing", "an error in a 200", "a redirect (307)", "hollow"])
def test_what_a_sign_in_page_answered_arrives_once_it_is_gone(
    kind: str, hostile: Hostile, servers: Servers, home: Path, experiment_name: str
) -> None:
    wrong = {**WRONG, "hollow": HOLLOW}[kind]
    dbml.link(databricks=servers.databricks.uri, azureml=hostile.uri, registry="both")
    dbml.experiment(experiment_name)
    sync()
    rules = {
        name: hostile.answer(wrong, path=path, method=method, times=1)
        for name, (path, method) in LINES.items()
        if kind != "hollow" or name.endswith("create")
    }
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1.0, step=0)
        mlflow.log_param("p", "v")
        mlflow.set_tag("t", "v")
        mlflow.log_input(mlflow.data.from_numpy(__import__("numpy").zeros(3), name="zeros"))
        mlflow.log_text("kept", "notes.txt")
    mlflow.MlflowClient().create_registered_model(experiment_name)
    eventually(lambda: all(rule.hits for rule in rules.values()), "each wrong answer was given", 90)
    sync(timeout=120)
    held = arrived(servers, run.info.run_id, experiment_name)
    assert held["metrics"]["m"][0][0] == 0
    assert not dead_letters()


def test_redirects_take_neither_a_write_nor_a_token_to_another_host(
    hostile: Hostile, servers: Servers, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_AZUREML_TOKEN", "azureml-secret")
    with Hostile() as elsewhere:
        dbml.link(databricks=servers.databricks.uri, azureml=hostile.uri)
        dbml.experiment(experiment_name)
        rule = hostile.answer(redirect(f"{elsewhere.uri}/sign-in?token=x", 307))
        with mlflow.start_run() as run:
            mlflow.log_metric("m", 1.0)
            mlflow.log_text("kept", "notes.txt")
        eventually(lambda: rule.hits >= 2, "the workspace was asked")
        said = eventually(
            lambda: session.current().status().destinations[1].last_error, "the status says why it waits"
        )
        assert elsewhere.netloc in said
        assert "token=x" not in said, "the address of a redirect may carry a secret"
        rule.clear()
        sync(timeout=120)
        arrived(servers, run.info.run_id, experiment_name)
        assert elsewhere.requests == []
