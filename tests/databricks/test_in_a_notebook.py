"""Inside Databricks: the notebook's workspace, its own experiment, its autologging, its kind of compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dbml_magics.common import environment
from tests.core.linking import child, finish
from tests.databricks.conftest import ADA
from tests.standins.databricks import Databricks

RUNTIME = Path(__file__).parent / "runtime"


@pytest.fixture
def notebook(adb: Databricks, home: Path, experiment_name: str) -> dict[str, str]:
    """Return the environment of Ada's notebook on a dedicated cluster."""
    path = f"/Users/{ADA}/{experiment_name}"
    token = adb.token(ADA)
    here = {"host": adb.uri, "token": token, "notebook_path": path, "notebook_id": adb.add_notebook(path)}
    return {
        "PYTHONPATH": str(RUNTIME),
        "DATABRICKS_RUNTIME_VERSION": "15.4",
        "FAKE_DATABRICKS": json.dumps(here),
        "DBML_HOME": str(home),
    }


def typed(cells: str, notebook: dict[str, str]) -> dict[str, Any]:
    """Run cells (parted by empty lines) in IPython, in a process that takes itself for a notebook's."""
    code = f"""
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in {cells.split(chr(10) * 2)!r}:
    shell.run_cell(cell).raise_error()
print(json.dumps(shell.user_ns["told"]))
"""
    found: dict[str, Any] = json.loads(finish(child(code, cwd=None, **notebook), 240).splitlines()[-1])
    return found


@pytest.mark.full
def test_a_bare_link_is_to_the_notebooks_workspace_and_runs_go_to_its_own_experiment(
    adb: Databricks, notebook: dict[str, str]
) -> None:
    here = json.loads(notebook["FAKE_DATABRICKS"])
    output = typed(
        """%load_ext dbml_magics

link = %dbml link

%%track first
import mlflow
mlflow.log_metric("loss", 0.5, step=1)

run = mlflow.last_active_run()
sync = %dbml sync
runs = %dbml runs
told = {
    "track": link.track, "uri": link.destinations[0].uri, "experiment": run.info.experiment_id,
    "runs": [row.name for row in runs.rows], "page": link.destinations[0].page, "notes": link.notes,
}""",
        notebook,
    )
    assert (output["track"], output["uri"]) == ("databricks", "databricks")
    assert output["experiment"] == here["notebook_id"], "the notebook's own experiment is the default"
    assert output["runs"] == ["first"]
    assert sum(adb.written.values()) == 1
    assert not any("disk" in note for note in output["notes"]), "a dedicated cluster keeps its disk"


@pytest.mark.full
def test_a_run_that_begins_while_the_workspace_is_away_goes_to_the_notebooks_experiment_afterwards(
    adb: Databricks, notebook: dict[str, str]
) -> None:
    here = json.loads(notebook["FAKE_DATABRICKS"])
    code = """
        import os, sys, json
        import mlflow
        import dbml_magics as dbml
        os.environ["DBML_IDENTITY_BUDGET"] = "1"
        dbml.link()
        print("linked", flush=True)
        sys.stdin.readline()
        with mlflow.start_run(run_name="alone") as run:
            mlflow.log_metric("m", 1.0)
        print(run.info.experiment_id != {known!r}, flush=True)
        sys.stdin.readline()
        assert not dbml.sync(timeout=60).dead["databricks"]
        print(mlflow.search_runs(experiment_ids=[{known!r}])["tags.mlflow.runName"].tolist(), flush=True)
    """
    process = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-W",
            "ignore",
            "-c",
            textwrap.dedent(code.format(known=here["notebook_id"])),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **notebook},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline().strip() == "linked", process.communicate()[1][-2000:]
    adb.fail(
        "/api/2.0/mlflow/(experiments|runs)", 503, {"error_code": "TEMPORARILY_UNAVAILABLE"}, times=10_000
    )
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline().strip() == "True", process.communicate()[1][-2000:]
    adb.reset()
    out, err = process.communicate("\n", timeout=120)
    assert process.returncode == 0, err[-3000:]
    assert out.strip().endswith("['alone']")


@pytest.mark.full
def test_databricks_own_autologging_serves_a_tracked_cell_that_asks_and_is_itself_again_afterwards(
    adb: Databricks, notebook: dict[str, str]
) -> None:
    output = typed(
        """import mlflow
from sklearn.linear_model import LinearRegression
mlflow.autolog(exclusive=True, silent=True, log_models=False)  # as Databricks does when a notebook begins
%load_ext dbml_magics
%dbml link

%%track quiet
LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])

quiet = mlflow.last_active_run().data.params

%%track asked --autolog
LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])

asked = mlflow.last_active_run()
from mlflow.utils.autologging_utils import get_autologging_config
told = {
    "quiet": quiet, "asked": asked.data.params,
    "models": len(asked.outputs.model_outputs) if asked.outputs else 0,
    "exclusive": get_autologging_config("mlflow", "exclusive"),
    "disable": get_autologging_config("mlflow", "disable"),
}""",
        notebook,
    )
    assert output["quiet"] == {}, "Databricks leaves runs of start_run() alone"
    assert output["asked"]["fit_intercept"] == "True"
    assert output["models"] == 0, "what Databricks was told of models still holds"
    assert (output["exclusive"], output["disable"]) == (True, False)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what lets this process take itself for one in Databricks."""
    for name in ("DATABRICKS_ENV_VERSION", "SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED", "DB_IS_JOB_CLUSTER"):
        monkeypatch.delenv(name, raising=False)

    def be(variables: dict[str, str], **context: Any) -> environment.DatabricksPlace:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        context_there = SimpleNamespace(get_context=lambda: SimpleNamespace(**context))
        monkeypatch.setitem(sys.modules, "dbruntime", SimpleNamespace(databricks_repl_context=context_there))
        monkeypatch.setitem(sys.modules, "dbruntime.databricks_repl_context", context_there)
        found = environment.databricks()
        assert found is not None
        return found

    return be


@pytest.mark.parametrize(
    ("variables", "context", "title", "keeps", "says"),
    [
        ({"DATABRICKS_RUNTIME_VERSION": "15.4"}, {}, "Databricks, dedicated compute", True, "driver is here"),
        (
            {"DATABRICKS_RUNTIME_VERSION": "15.4", "SPARK_CONNECT_MODE_ENABLED": "1"},
            {"isInJob": False},
            "Databricks, standard compute",
            True,
            "no sc",
        ),
        (
            {"DATABRICKS_RUNTIME_VERSION": "client.4.1", "SPARK_REMOTE": "unix:///x"},
            {},
            "Databricks, serverless compute",
            False,
            "AvailableNow",
        ),
        (
            {"DATABRICKS_ENV_VERSION": "4"},
            {},
            "Databricks, serverless compute",
            False,
            "no cluster libraries",
        ),
        (
            {"DATABRICKS_RUNTIME_VERSION": "16.1"},
            {"isInJob": True},
            "Databricks, dedicated compute, in a job",
            False,
            "the local disk goes",
        ),
        (
            {"DATABRICKS_RUNTIME_VERSION": "16.1", "DB_IS_JOB_CLUSTER": "TRUE"},
            {},
            "Databricks, dedicated compute, in a job",
            False,
            "the local disk goes",
        ),
    ],
)
def test_each_kind_of_compute_is_known_with_what_differs_there(
    runtime: Any, variables: dict[str, str], context: dict[str, Any], title: str, keeps: bool, says: str
) -> None:
    there = runtime(
        variables, workspaceUrl="adb-1.2.azuredatabricks.net", notebookPath="/Users/a/n", **context
    )
    assert there.title == title
    assert there.keeps_its_disk == keeps
    assert there.host == "https://adb-1.2.azuredatabricks.net"
    assert any(says in line for line in environment.differences())


def test_databricks_connect_is_known_by_the_notebooks_spark() -> None:
    builder = SimpleNamespace(metadata=lambda: [("x-databricks-cluster-id", "0101")])
    spark = SimpleNamespace(client=SimpleNamespace(_builder=builder))
    assert environment.uses_databricks_connect(SimpleNamespace(user_ns={"spark": spark}))
    assert "Databricks Connect" in environment.differences(SimpleNamespace(user_ns={"spark": spark}))[0]
    assert not environment.uses_databricks_connect(SimpleNamespace(user_ns={}))


def test_a_classic_spark_session_is_no_databricks_connect() -> None:
    from pyspark.sql import SparkSession

    # Without a Java machine: a session's class alone raises where it is asked for a client.
    spark = SparkSession.__new__(SparkSession)
    with pytest.raises(Exception, match="ONLY_SUPPORTED_WITH_SPARK_CONNECT"):
        spark.client
    assert not environment.uses_databricks_connect(SimpleNamespace(user_ns={"spark": spark}))


def test_a_job_asks_nobody_whatever_its_compute(runtime: Any) -> None:
    kernel = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True), user_ns={})
    runtime({"DATABRICKS_RUNTIME_VERSION": "client.4.1"}, isInJob=True)
    assert not environment.is_attended(kernel)
    runtime({"DATABRICKS_RUNTIME_VERSION": "client.4.1"}, isInJob=False)
    assert environment.is_attended(kernel)
