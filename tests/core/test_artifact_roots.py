"""Files by the URIs of what owns them, wherever MLflow cuts such a URI; compared with MLflow over http."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking.artifact_utils import _upload_artifact_to_uri

import dbml_magics as dbml
from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, dead_letters, link, sync
from tests.core.modelling import ANSWERS, log_linear, predicted
from tests.infra import plain

REFUSED = "refused"

ENDS = ("", "/", "/.", "/deep/", "/deep//er", "/a.txt", "/MLmodel")
ASTRAY = ("/nothing", "/../x")
PATHS = (None, ".", "./deep", "deep/", "deep/er/b.txt", "MLmodel")
OUTSIDE = ("..", "/deep")
OWN = ("run", "model", "version")
"""The URIs that are the link's own; MLflow makes the others into these."""


def outcome_of(ask: Callable[[], Any]) -> Any:
    """Return an answer; a refusal is one, in whatever words."""
    try:
        return ask()
    except (MlflowException, requests.HTTPError):
        return REFUSED


def downloaded(download: Callable[..., str], path: str | None) -> tuple[str, list[str]]:
    """Return where a download said it put the files, and the files, as paths below its target folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.relpath(download(path, dst_path=folder), folder)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return place, sorted(path.relative_to(folder).as_posix() for path in files)


def listed(ask: Callable[[str | None], list[Any]], path: str | None) -> list[tuple[str, bool]]:
    """Return what a listing says of each file but its size: an MLmodel names its own server."""
    return [(file.path, file.is_dir) for file in ask(path)]


def flavors(uri: str) -> list[str]:
    """Return the flavours of a model by its description."""
    return [*mlflow.models.get_model_info(uri).flavors]


def answers(places: dict[str, str]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each question about some URIs with its answer."""
    files = mlflow.artifacts
    for name, uri in places.items():
        for end in (*ENDS, *ASTRAY):
            yield (name, end, "list"), outcome_of(partial(listed, files.list_artifacts, uri + end))
            yield (
                (name, end, "download"),
                outcome_of(partial(downloaded, files.download_artifacts, uri + end)),
            )
        repository = get_artifact_repository(uri)
        for path in (*PATHS, *OUTSIDE) if name in OWN else ():
            yield (
                (name, path, "repository list"),
                outcome_of(partial(listed, repository.list_artifacts, path)),
            )
            ask = partial(downloaded, repository.download_artifacts, path)
            yield (name, path, "repository download"), outcome_of(ask)
        for end in ("", "/") if name not in ("run", "runs") else ():
            yield (name, end, "info"), outcome_of(partial(flavors, uri + end))


def loaded(places: dict[str, str]) -> dict[str, Any]:
    """Return what the models answer that are loaded by some URIs."""
    own = {name: uri for name, uri in places.items() if name in ("model", "version")}
    return {name: outcome_of(partial(predicted, uri)) for name, uri in own.items()}


def logged(experiment: str) -> tuple[str, dict[str, str], Any]:
    """Log files and a model; returns the run's id, the URIs of what it has, and the model."""
    mlflow.set_experiment(experiment)
    with mlflow.start_run() as run:
        mlflow.log_text("a", "a.txt")
        mlflow.log_text("b", "deep/er/b.txt")
        info = log_linear()
    run_id, model = run.info.run_id, mlflow.get_logged_model(info.model_id)
    places = {
        "run": mlflow.get_run(run_id).info.artifact_uri,
        "model": model.artifact_location,
        "runs": f"runs:/{run_id}",
        "runs model": f"runs:/{run_id}/model",
        "models": f"models:/{info.model_id}",
    }
    return run_id, places, info


def version(info: Any, name: str) -> dict[str, str]:
    """Register a model; returns the URIs of the version."""
    made = mlflow.register_model(info.model_uri, name)
    return {
        "version": MlflowClient().get_model_version_download_uri(name, made.version),
        "models version": f"models:/{name}/{made.version}",
    }


@pytest.fixture
def at_a_server(servers: Servers, experiment_name: str) -> dict[tuple[Any, ...], Any]:
    """Return the answers of plain MLflow over http."""
    mlflow.set_tracking_uri(servers.databricks.uri)
    mlflow.set_registry_uri(servers.databricks.uri)
    _, places, info = logged(f"{experiment_name}-plain")
    found = dict(answers({**places, **version(info, f"{experiment_name} plain")}))
    assert loaded(places) == {"model": ANSWERS}
    assert found["run", "", "download"] == ("artifacts", ["artifacts/a.txt", "artifacts/deep/er/b.txt"])
    return found


@pytest.mark.full
def test_each_uri_has_the_files_that_it_has_at_a_server_under_the_same_paths(
    home: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
    at_a_server: dict[tuple[Any, ...], Any],
) -> None:
    link(proxies)

    def assert_as_at_a_server(when: str, places: dict[str, str]) -> None:
        for question, answer in answers(places):
            assert answer == at_a_server[question], f"{question} of the link, {when}"
        assert set(map(str, loaded(places).values())) == {str(ANSWERS)}

    for proxy in proxies:
        proxy.status(503, path="mlflow-artifacts/artifacts/", method="PUT")
    run_id, places, info = logged(experiment_name)
    assert_as_at_a_server("its files on their way", places)
    for proxy in proxies:
        proxy.clear()
    sync()
    assert_as_at_a_server("delivered", {**places, **version(info, f"{experiment_name} linked")})
    # The folder that holds "artifacts" is one to MLflow, which puts a file below whatever it cuts off.
    (tmp_path / "c.txt").write_text("c")
    for uri in (places["run"], f"{places['run']}/deep"):
        _upload_artifact_to_uri(str(tmp_path / "c.txt"), uri)
    above = places["run"].removesuffix("/artifacts")
    assert listed(mlflow.artifacts.list_artifacts, above) == [(f"{run_id}/artifacts", True)]
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert sorted(held["artifacts"]) == ["a.txt", "c.txt", "deep/c.txt", "deep/er/b.txt"]


NAMES = {
    "a b.txt": True,
    "a%20b.txt": False,  # a server decodes it, and it overwrites the one before
    "100%.txt": True,
    "%zz.txt": True,
    "x%2fy.txt": False,
    "per%25.txt": False,
    "tab\t.txt": False,
    "line\n.txt": False,
    "\x7f.txt": False,
    " leading.txt": False,
    "a ; b + c.txt": True,
    "back\\slash.txt": True,
    "a#b.txt": False,
    "deep#/c.txt": False,
    "what?": False,
    "end;": False,
    "folder?/d.txt": False,
}
"""Names of files, and whether a server has and lists them as they are."""


def test_a_name_that_a_server_would_change_is_refused_at_the_call(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    mlflow.set_experiment(f"{experiment_name}-plain")

    def log_all() -> tuple[str, dict[str, str]]:
        refused = {}
        with mlflow.start_run() as run:
            for number, name in enumerate(NAMES):
                file = tmp_path / str(number) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(name)
                try:
                    mlflow.log_artifacts(str(tmp_path / str(number)))
                except (MlflowException, requests.HTTPError) as error:
                    refused[name] = str(error)
        return run.info.run_id, refused

    kept = {name for name, stays in NAMES.items() if stays}
    reference, _ = log_all()
    reader = plain.client(servers.databricks.uri)
    assert {file.path for file in reader.list_artifacts(reference)} & NAMES.keys() == kept
    overwritten = Path(reader.download_artifacts(reference, "a b.txt"))
    assert overwritten.read_text() == "a%20b.txt", "a server decodes the name of another file"
    link(proxies)
    mlflow.set_experiment(experiment_name)
    run_id, refused = log_all()
    assert set(refused) == {*NAMES} - kept
    for name, cause in refused.items():
        assert f"the file {name!r} cannot be logged" in cause
        assert "rename it" in cause
    sync()
    held = arrived(servers, run_id, experiment_name)["artifacts"]
    assert held == {name: hashlib.sha256(name.encode()).hexdigest() for name in kept}


UNLISTED = ("c:\\x.txt", "\\\\host\\share\\x.txt", "file:x.txt", "deep/c:\\x.txt")
"""Names of files that a server takes, and for which MLflow's client then lists nothing of their folder."""


@pytest.mark.parametrize("name", UNLISTED)
def test_a_name_that_hides_its_folder_is_refused_at_the_call(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, name: str
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    client = MlflowClient()
    run = client.create_run(client.create_experiment(f"{experiment_name}-plain")).info.run_id
    client.log_text(run, "x", name)
    with pytest.raises(MlflowException, match="Invalid path"):
        client.list_artifacts(run, os.path.dirname(name))
    link(proxies)
    client = MlflowClient()
    run = client.create_run(mlflow.set_experiment(experiment_name).experiment_id).info.run_id
    model = client.create_logged_model(client.get_run(run).info.experiment_id, name="m").model_id
    file = Path("files", name)
    file.parent.mkdir(parents=True)
    file.write_text("x")
    calls: list[Callable[[], Any]] = [
        lambda: client.log_text(run, "x", name),
        lambda: client.log_artifacts(run, "files"),
        lambda: client.log_model_artifacts(model, "files"),
    ]
    for call in calls:
        with pytest.raises(MlflowException) as refused:
            call()
        assert f"the file {name!r} cannot be logged under its name" in refused.value.message
        assert "rename it" in refused.value.message
    client.log_text(run, "x", "x.txt")
    sync()
    assert list(arrived(servers, run, experiment_name)["artifacts"]) == ["x.txt"]


def test_a_name_that_looks_like_a_uri_is_listed_as_it_is(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    client = MlflowClient()
    run = client.create_run(mlflow.set_experiment(experiment_name).experiment_id).info.run_id
    names = ["HTTP:x.txt", "Loss: train.txt"]
    for name in names:
        client.log_text(run, name, f"C:/{name}")
    for _ in range(2):
        assert [file.path for file in client.list_artifacts(run, "C:")] == [f"C:/{name}" for name in names]
        assert mlflow.artifacts.load_text(f"runs:/{run}/C:/{names[1]}") == names[1]
        sync()
    compared = dbml.verify(experiment=experiment_name)
    assert (compared.runs_compared, list(compared.differences)) == (1, [])


IN_THE_WAY = ("one.txt/x.txt", "one.txt/y/z.txt", "sub", "sub/deep", "sub/deep/a.txt/q")
"""Files below a file, and files where a folder is."""


def in_the_way(run_id: str) -> dict[str, Any]:
    """Log files that cannot be where they shall be; returns what each was answered."""
    client = MlflowClient()
    return {path: outcome_of(partial(client.log_text, run_id, "x", path)) for path in IN_THE_WAY}


@pytest.mark.full
def test_a_file_below_a_file_or_over_a_folder_is_refused_alone(
    home: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # plain MLflow asks for minutes after a 500

    def begun() -> tuple[str, str]:
        client = MlflowClient()
        run = client.create_run(mlflow.set_experiment(experiment_name).experiment_id).info
        for path in ("one.txt", "sub/deep/a.txt"):
            client.log_text(run.run_id, "x", path)
        return run.run_id, run.experiment_id

    mlflow.set_tracking_uri(servers.databricks.uri)
    older, _ = begun()
    reference = in_the_way(older)
    assert set(reference.values()) == {REFUSED}
    link(proxies)
    MlflowClient().set_tag(older, "taken", "up")
    sync()
    with proxies.databricks.away(), proxies.azureml.away():  # nobody can say that these are in the way
        MlflowClient().set_tag(older, "waits", "here")
        MlflowClient().log_text(older, "x", "one.txt/late.txt")
        MlflowClient().log_text(older, "x", "free.txt")
    dbml.sync(timeout=60)
    put_aside = {(role, op[1], op[2]["path"]) for role, op, _ in dead_letters()}
    assert put_aside == {(role, "a", "one.txt/late.txt") for role in ("databricks", "azureml")}
    assert in_the_way(older) == reference, "of a run that was begun without the link"

    run_id, experiment = begun()
    assert in_the_way(run_id) == reference, "of a run that is on its way"
    model = MlflowClient().create_logged_model(experiment, "own", source_run_id=run_id)
    own = b"x: 1\r\n# not MLflow's\r\n"
    (tmp_path / "MLmodel").write_bytes(own)
    MlflowClient().log_model_artifact(model.model_id, str(tmp_path / "MLmodel"))
    MlflowClient().log_artifact(run_id, str(tmp_path / "MLmodel"))
    dbml.sync(timeout=60)
    assert len(dead_letters()) == len(put_aside), "what is refused at the call is not put aside"
    digest = hashlib.sha256(own).hexdigest()
    held = arrived(servers, run_id, experiment_name)["artifacts"]
    assert held["MLmodel"] == digest, "a user's own file of that name"
    assert {*held} == {"one.txt", "sub/deep/a.txt", "MLmodel"}
    for server in servers:
        reader = plain.client(server.uri)
        where = reader.get_experiment_by_name(experiment_name).experiment_id
        (found,) = reader.search_logged_models([where])
        mlflow.set_tracking_uri(server.uri)
        file = get_artifact_repository(found.artifact_location).download_artifacts("MLmodel", str(tmp_path))
        assert Path(file).read_bytes() == own, f"a user's own file of that name, at {server.name}"
