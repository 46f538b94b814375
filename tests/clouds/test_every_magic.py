"""Every magic of the main job at both clouds, in every mode; and each workspace read by its own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from dbml_magics.core import session as sessions
from tests.clouds.conftest import MODES, Clouds
from tests.clouds.native import Reader
from tests.databricks.conftest import ADA

CELL = """%%track {name} --params depth --tag team=ml --register {model}
import mlflow, numpy as np
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression
depth = 3
for step in range(5):
    mlflow.log_metric("loss", 1 / (step + 1), step=step)
mlflow.log_text("hello", "notes/hello.txt")
fitted = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
mlflow.sklearn.log_model(
    fitted, name="model", pip_requirements=["scikit-learn"],
    signature=infer_signature(np.array([[0.0]]), fitted.predict([[0.0]])))
"""


@pytest.fixture
def shell(both: Clouds) -> Iterator[InteractiveShell]:
    found = InteractiveShell()
    found.run_line_magic("load_ext", "dbml_magics")
    yield found
    found.run_line_magic("unload_ext", "dbml_magics")


@pytest.mark.full
@pytest.mark.parametrize(("track", "registry"), MODES)
def test_every_magic_runs_and_each_workspace_has_its_share_natively(
    both: Clouds,
    reader: Reader,
    shell: InteractiveShell,
    track: str,
    registry: str,
    experiment_name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(cell: str) -> str:
        done = shell.run_cell(cell)
        shown = "".join(capsys.readouterr())
        assert done.success, f"{cell} failed:\n{shown}"
        return shown

    def value(line: str) -> Any:
        run(f"got = {line}")
        return shell.user_ns["got"]

    tracked = ["databricks", "azureml"] if track == "both" else [track]
    registries = ["databricks", "azureml"] if registry == "both" else [registry]
    model = experiment_name.replace("_", "-")
    shown = run(f"%dbml link {both.words(track, registry)}")
    assert "Linked: tracking to" in shown
    made = value(f"%dbml experiment {experiment_name}")
    assert set(made.names) == set(tracked)
    if "databricks" in tracked:
        assert made.names["databricks"] == f"/Users/{ADA}/{experiment_name}"
    for name in ("first", "second"):
        assert "FINISHED" in run(CELL.format(name=name, model=model))
    run("%dbml sync --timeout 90")
    rows = value("%dbml runs --order-by 'metrics.loss ASC'").rows
    assert {row.name for row in rows} == {"first", "second"}
    first, second = (next(row for row in rows if row.name == name) for name in ("first", "second"))
    assert set(first.links) == set(tracked), "a link to its page in each workspace"
    assert "loss" in run(f"%dbml compare {first.run_id} {second.run_id}")
    registered = value(f"%dbml register {second.run_id} {model} --alias champion --tag stage_of=life")
    assert [version.workspace for version in registered.versions] == registries
    assert {version.version for version in registered.versions} == {"3"}
    listed = value(f"%dbml models {model}").versions
    assert {(v.workspace, v.version) for v in listed} == {(r, n) for r in registries for n in "123"}
    assert all(version.page for version in listed)
    assert model in run("%dbml models")
    assert "Tracking to" in run("%dbml status")
    assert not value("%dbml sync --dead list").letters
    assert [page.url for page in value("%dbml ui").pages if page.url]
    if track == "both":
        checked = value(f"%dbml sync --verify --experiment {experiment_name}")
        assert checked.runs_compared == 2
        assert not checked.differences, str(checked)

    link = sessions.current().engine("the test")
    ids = {role: link.side(role).ids.run_at(first.run_id) for role in tracked}
    run("%dbml unlink")
    assert "Linked" in run("%dbml link --again")
    run("%dbml unlink")

    for role in tracked:
        models = [f"runs:/{ids[role]}/model", *([f"models:/{model}/1"] if role in registries else [])]
        held = reader.run(role, ids[role], tuple(models))
        assert held["status"] == "FINISHED"
        assert held["params"] == {"depth": "3"}
        assert held["history"]["loss"] == [[n, pytest.approx(1 / (n + 1))] for n in range(5)]
        assert {"notes"} <= set(held["files"])
        assert held["tags"]["team"] == "ml"
        assert held["tags"]["dbml_run_id"] == first.run_id
        assert held["predictions"] == {uri: [pytest.approx(6.0)] for uri in models}
    for role in registries:
        version = reader.version(role, model, "3")
        assert version["tags"]["stage_of"] == "life"
        assert version["tags"]["dbml_run_id"] == second.run_id
        if registry == "both":
            other = "azureml" if role == "databricks" else "databricks"
            assert version["tags"]["dbml_twin"] == f"{other}:{model}/3"
