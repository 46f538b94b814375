"""What a registration answers: the registry's own entity, or its refusal, as plain MLflow over http."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.conftest import Proxies, Servers
from tests.core.linking import link, sync
from tests.infra import plain

UNKNOWN = "0" * 32
OWN = ("creation_timestamp", "last_updated_timestamp", "deployment_job_state", "name", "tags")


def answers(experiment: str, name: str, foreign: str) -> dict[str, Any]:
    """Register versions of many sources; returns each answer, or the code of the refusal."""
    client = MlflowClient()
    mlflow.set_experiment(experiment)
    with mlflow.start_run() as run:
        mlflow.log_text("no model", "folder/a.txt")
    run_id, files = run.info.run_id, mlflow.get_run(run.info.run_id).info.artifact_uri
    asked: dict[str, tuple[str, str | None, str | None]] = {
        "of a model that is missing": ("s3://bucket/x", None, None),
        "of no run": ("s3://bucket/x", None, None),
        "of the run's files": (files, run_id, None),
        "of a folder of the run": (f"{files}/folder", run_id, None),
        "of a folder that is not there": (f"{files}/nothing", run_id, None),
        "of a run of another server": ("s3://bucket/x", foreign, None),
        "of files here and another server's run": (files, foreign, None),
        "of a run that nobody has": ("s3://bucket/x", UNKNOWN, None),
        "of what is no run's id": ("s3://bucket/x", "none/of/them", None),
        "of a local folder": ("/nowhere", None, None),
        "of an unknown logged model": ("s3://bucket/x", None, f"m-{UNKNOWN}"),
        "of a version": (f"models:/{name}/1", None, None),
        "of a version that is not there": (f"models:/{name}/7", None, None),
        "of nothing": ("", None, None),
        "of no place": ("no place", None, None),
        "of a place above another": ("s3://bucket/../x", None, None),
        "after those": ("s3://bucket/x", None, None),
    }
    found: dict[str, Any] = {}
    for what, (source, run_of, model_id) in asked.items():
        try:
            made = client.create_model_version(
                name, source, run_of, {"a": "1"}, "http://run", "said", model_id=model_id
            )
        except MlflowException as error:
            found[what] = error.error_code
        else:
            assert made.tags["a"] == "1", what
            assert dict(made) == dict(client.get_model_version(name, made.version)), what
            fields = {key: value for key, value in dict(made).items() if key not in OWN}
            shown = {run_id: "the run", foreign: "the other run", name: "the model"}
            fields["run_id"] = shown.get(made.run_id, made.run_id)
            fields["source"] = re.sub(r"^.*/artifacts", "files", made.source).replace(name, "the model")
            found[what] = fields
        if what == "of a model that is missing":
            client.create_registered_model(name)
    return found


def test_a_registration_answers_what_the_registry_says_of_it(
    home: Path,
    proxies: Proxies,
    servers: Servers,
    server_host: Any,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # plain MLflow asks for minutes after a 500
    other = plain.client(server_host.start("another").uri)
    foreign = other.create_run(other.create_experiment(experiment_name)).info.run_id
    mlflow.set_tracking_uri(servers.databricks.uri)
    mlflow.set_registry_uri(servers.databricks.uri)
    reference = answers(f"{experiment_name}-plain", f"{experiment_name}-plain", foreign)
    link(proxies, registry="both")
    found = answers(experiment_name, experiment_name, foreign)
    for what, expected in reference.items():
        assert found[what] == expected, f"a version {what}"
    sync()  # what was refused at the call is nowhere put aside
    for server in servers:
        held = plain.model_versions(server.uri, experiment_name)
        assert len(held) == sum(isinstance(answer, dict) for answer in found.values()), server.name
