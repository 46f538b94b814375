"""The magics at Azure ML, as a user types them, and another process on the same link."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.standins.azure import AzureStandIn

CHILD = """
import mlflow
with mlflow.start_run(run_name="child") as run:
    mlflow.log_metric("loss", 0.5)
print(run.info.run_id)
"""


@pytest.mark.full
def test_every_magic_of_the_main_job_runs_at_azure_ml_alone(
    shell: Any, signed_in: AzureStandIn, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(cell: str) -> str:
        done = shell.run_cell(cell)
        shown = "".join(capsys.readouterr())
        assert done.success, f"{cell} failed:\n{shown}"
        return shown

    names = (
        f"--subscription {signed_in.subscription} --resource-group {signed_in.group} "
        f"--workspace {signed_in.workspace}"
    )
    shown = run(f"%dbml link {names} --track azureml --registry azureml --auth service-principal")
    assert f"{signed_in.workspace} in {signed_in.group}" in shown
    assert "signed in to with a service principal" in shown
    run("%dbml experiment /Users/ada@contoso.test/magic")
    shown = run("%%track magic --tag team=ml\nimport mlflow\nmlflow.log_metric('loss', 0.25)")
    assert "FINISHED" in shown
    assert f"{signed_in.uri}/studio/runs/" in shown
    run("%dbml sync --timeout 60")
    assert "magic" in run("%dbml runs --order-by 'metrics.loss ASC'")
    run("%dbml models")
    assert "Tracking to azureml only" in run("%dbml status")
    # A child gets MLFLOW_TRACKING_URI alone, and signs in by the same environment.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run("%dbml sync --timeout 60")
    assert "child" in run("%dbml runs")
    run("%dbml unlink")


def test_every_result_leads_to_its_page_in_the_workspaces_own_studio(
    shell: Any, signed_in: AzureStandIn, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The addresses are azureml-core's own: its object says what the pages of this workspace are."""
    from azureml.core import Experiment
    from azureml.core._portal import HasWorkspacePortal

    def value(line: str) -> Any:
        done = shell.run_cell(f"got = {line}")
        assert done.success, f"{line} failed:\n{''.join(capsys.readouterr())}"
        return shell.user_ns["got"]

    status = value(
        f"%dbml link --subscription {signed_in.subscription} --resource-group {signed_in.group} "
        f"--workspace {signed_in.workspace} --track azureml --registry azureml"
    )
    workspace = status.workspace
    end = HasWorkspacePortal(workspace).get_portal_url().partition("?")[2]
    assert f"tid={signed_in.tenant}" in end
    studio = f"{signed_in.uri}/studio"
    assert status.destinations[0].page == f"{studio}/experiments?{end}"
    assert status.destinations[0].page in str(status)

    made = value(f"%dbml experiment /Users/ada@contoso.test/{tmp_path.name}")
    like = Experiment(workspace, made.names["azureml"], _id=made.experiment_id, _create_in_cloud=False)
    page = like.get_portal_url()
    assert made.links == {"azureml": page}
    assert page in str(made)
    assert page.replace("&", "&amp;") in made.html()

    shell.run_cell("%%track paged\nimport mlflow\nmlflow.log_metric('loss', 0.25)")
    runs = value("%dbml runs")
    run = f"{studio}/runs/{runs[0].run_id}?{end}"
    assert runs[0].links == {"azureml": run}
    assert run in str(runs[0])
    assert run.replace("&", "&amp;") in runs.html()
    assert page in str(runs)
    shell.run_cell("%dbml sync --timeout 60")
    shell.run_cell(
        "class M(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, model_input: list[float]) -> list[float]:\n"
        "        return model_input\n"
        "with mlflow.start_run():\n"
        "    mlflow.pyfunc.log_model(name='model', python_model=M(), pip_requirements=['mlflow'])"
    )
    name = f"m-{tmp_path.name}"[:60].replace("_", "-")
    registered = value(f"%dbml register last {name}")
    model = f"{studio}/model/{name}:1/details?{end}"
    assert registered.versions[0].page == model
    assert model in str(registered)
    assert model.replace("&", "&amp;") in value(f"%dbml models {name}").html()
    value("%dbml unlink")
