"""Inside an Azure ML job: its run is that side's run, mirrored to Databricks, and its status is the job's."""

from __future__ import annotations

import json
import os
import textwrap
from typing import Any

import pytest

from tests.clouds.conftest import Clouds
from tests.clouds.native import Reader
from tests.core.linking import child, finish
from tests.databricks.conftest import ADA

JOB = """
    import json
    import dbml_magics as dbml
    status = dbml.link(**{wishes!r})
    import mlflow
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5, step=1)
        mlflow.log_text("hello", "notes/hello.txt")
    dbml.sync(timeout=120)
    print(json.dumps({{"run": run.info.run_id, "notes": status.notes, "status": str(dbml.status())}}))
"""


@pytest.mark.full
def test_the_jobs_run_is_adopted_with_the_jobs_own_identity(
    both: Clouds, reader: Reader, experiment_name: str
) -> None:
    azure = both.azure
    job = reader.begin("azureml", experiment_name)  # as the service begins it, before the script starts
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AZURE_TENANT", "AZURE_CLIENT"))}
    variables = {
        **environment,
        **azure.sign_in("app-service"),  # what the compute has: an identity of its own
        "MLFLOW_TRACKING_URI": azure.tracking_uri(),
        "MLFLOW_RUN_ID": job,
        "AZUREML_RUN_ID": job,
        "MLFLOW_EXPERIMENT_NAME": experiment_name,
    }
    hidden = [name for name in os.environ if name not in environment]
    wishes: dict[str, Any] = both.wishes("both", "databricks")
    code = JOB.format(wishes=wishes)
    code = f"import os\nfor name in {hidden!r}:\n    os.environ.pop(name, None)\n" + textwrap.dedent(code)
    said = json.loads(finish(child(code, cwd=None, **variables)).splitlines()[-1])
    assert said["run"] == job
    assert any("a managed identity (an Azure ML job)" in note for note in said["notes"])
    held = reader.run("azureml", job)
    assert held["status"] == "RUNNING", "the job ends it"
    assert held["metrics"] == {"before": 1.0, "loss": 0.5}
    assert "notes" in held["files"]
    (twin,) = reader.runs("databricks", f"/Users/{ADA}/{experiment_name}")
    there = reader.run("databricks", twin)
    assert there["tags"]["dbml_run_id"] == job
    assert there["metrics"] == {"before": 1.0, "loss": 0.5}
    assert "notes" in there["files"]
    assert len(reader.runs("azureml", experiment_name)) == 1
