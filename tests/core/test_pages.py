"""The addresses of the workspaces' pages, and MLflow's own UI in the place of those that a file lacks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import processes, session
from dbml_magics.core.azure.studio import StudioPages
from dbml_magics.core.destinations.pages import DatabricksPages, MlflowPages, Pages
from dbml_magics.core.link import WorkspaceSpec

AML = (
    "azureml://westeurope.api.azureml.ms/mlflow/v1.0/subscriptions/00000000-0000-0000-0000-000000000001/"
    "resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
)
WSID = "?wsid=/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/rg/workspaces/ws"


@pytest.mark.parametrize(
    ("pages", "run", "artifact", "version"),
    [
        (
            MlflowPages("http://127.0.0.1:5000/"),
            "http://127.0.0.1:5000/#/experiments/7/runs/ab",
            "http://127.0.0.1:5000/#/experiments/7/runs/ab/artifacts/plots/a%20b.png",
            "http://127.0.0.1:5000/#/models/a%2Fb/versions/3",
        ),
        (
            DatabricksPages("https://adb-1.azuredatabricks.net", "42"),
            "https://adb-1.azuredatabricks.net/?o=42#mlflow/experiments/7/runs/ab",
            "https://adb-1.azuredatabricks.net/?o=42#mlflow/experiments/7/runs/ab/artifactPath/plots/a%20b.png",
            "https://adb-1.azuredatabricks.net/?o=42#mlflow/models/a/b/versions/3",
        ),
        (
            StudioPages(WorkspaceSpec("azureml", AML)),
            f"https://ml.azure.com/runs/ab{WSID}",
            None,
            f"https://ml.azure.com/model/a/b:3/details{WSID}",
        ),
    ],
    ids=["mlflow", "databricks", "azureml"],
)
def test_each_service_has_pages_of_its_own(
    pages: Pages, run: str, artifact: str | None, version: str
) -> None:
    assert pages.run("7", "ab") == run
    assert pages.artifact("7", "ab", "plots/a b.png") == artifact
    assert pages.version("a/b", "3") == version


def test_a_version_in_a_catalog_has_its_page_there() -> None:
    page = DatabricksPages("https://adb", None).version("main.ml.wine", "3")
    assert page == "https://adb/explore/data/models/main/ml/wine/version/3"


def test_a_local_link_has_the_pages_of_the_ui_that_runs(home: Path) -> None:
    dbml.link(local=True)
    with dbml.track("seen") as run:
        mlflow.log_text("hello", "note.txt")
    assert run.summary is not None
    assert run.summary.links == {}, "there is no server"
    assert run.summary.artifact_links == {"note.txt": {}}
    dbml.sync(60)
    engine = session.current().engine("this test")
    servers = {
        role: {"pid": os.getpid(), "started": processes.start_of(os.getpid()), "port": port}
        for role, port in (("databricks", 5001), ("azureml", 5002))
    }
    (engine.link.home / "ui.json").write_text(json.dumps(servers))
    try:
        links = dbml.runs()[0].links
        with dbml.track("again") as again:
            mlflow.log_text("hello", "note.txt")
    finally:
        (engine.link.home / "ui.json").unlink()
    assert links["databricks"].startswith("http://127.0.0.1:5001/#/experiments/")
    assert links["databricks"].endswith(f"/runs/{run.run_id}")
    mirrored = engine.state.identity("azureml", "run", run.run_id)
    assert mirrored is not None
    assert links["azureml"].endswith(f"/runs/{mirrored.actual}")
    assert again.summary is not None
    there = again.summary.artifact_links["note.txt"]["databricks"]
    assert there == f"{again.summary.links['databricks']}/artifacts/note.txt"
