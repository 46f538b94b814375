"""The lines of a notebook that deploys, asks and ends: the same on this machine and at a managed endpoint."""

from __future__ import annotations

import json
from typing import Any

import mlflow
import numpy as np
import pytest

import dbml_magics as dbml
from dbml_magics.core.endpoints import online
from tests.azure.serving import MODEL, X
from tests.standins.azure import AzureStandIn
from tests.test_notebooks import NOTEBOOKS


@pytest.mark.full
@pytest.mark.parametrize(("to", "confirm"), [("local", ""), ("online", " --confirm wine")])
def test_the_same_three_lines_serve_a_model_here_and_at_a_managed_endpoint(
    wine: list[Any],
    shell: Any,
    signed_in: AzureStandIn,
    capsys: pytest.CaptureFixture[str],
    to: str,
    confirm: str,
) -> None:
    def run(cell: str, *, fails: bool = False) -> str:
        done = shell.run_cell(cell)
        shown = "".join(capsys.readouterr())
        assert done.success is not fails, f"{cell}:\n{shown}"
        return shown

    shell.user_ns["bottles"] = X
    shown = run(f"%dbml deploy {MODEL}/1 --to {to} --name wine")
    assert f"Deployed {MODEL}/1 to wine on {to}" in shown
    assert "checked" in shown
    run("answer = %dbml invoke wine $bottles")
    answer = shell.user_ns["answer"]
    np.testing.assert_array_equal(answer.predictions, wine[0].predict(X))
    assert list(answer.predictions.index) == list(X.index)
    if confirm:
        assert "age" in run("%dbml endpoints wine")
        refused = run("%dbml undeploy wine", fails=True)
        assert "NotConfirmed: endpoint wine on online would be deleted, with wine" in refused
        assert "Traceback" not in refused
    assert f"Undeployed wine from {to}: wine" in run(f"%dbml undeploy wine{confirm}")
    assert not signed_in.endpoints()["online"]
    refused = run(f"%dbml deploy {MODEL} --to online --name wine", fails=True)
    assert "BadCommand: a cloud deployment wants an explicit version" in refused


@pytest.mark.full
def test_the_notebook_s_lines_serve_its_model_at_a_managed_endpoint_with_two_words_changed(
    shell: Any,
    signed_in: AzureStandIn,
    names: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(cell: str) -> str:
        done = shell.run_cell(cell)
        shown = "".join(capsys.readouterr())
        assert done.success, f"{cell}:\n{shown}"
        return shown

    cells = json.loads((NOTEBOOKS / "serve-and-score.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]

    def cell(beginning: str) -> str:
        return next(source for source in code if source.startswith(beginning))

    monkeypatch.setattr(online, "_keys", {})  # no other test's key for this name
    dbml.link(track="azureml", registry="azureml", **names)
    run(cell("import logging"))
    run(cell("%%track forest"))
    # Azure ML keeps the models of other tests: the notebook's is the newest of its name there.
    version = max(int(v.version) for v in mlflow.MlflowClient().search_model_versions("name='wine'"))
    deploy = cell("%dbml deploy wine/1 --to local")
    run(deploy.replace("--to local", "--to online --add-packages").replace("wine/1", f"wine/{version}"))
    run(cell("bottles ="))
    assert "True" in run(cell("(answer.predictions =="))
    assert signed_in.proxy.count(path="/inference/wine/score") == 1, "the managed endpoint has answered"
    run(cell("%dbml undeploy wine") + " --confirm wine")
    assert not signed_in.endpoints()["online"]
