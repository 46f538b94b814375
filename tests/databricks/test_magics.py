"""The magics at Databricks, as a user types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.databricks.conftest import ADA
from tests.infra.service_limits import DATABRICKS_LIMITS
from tests.infra.wait import eventually
from tests.standins.databricks import ORGANIZATION, Databricks

TRAIN = """
import mlflow
import numpy as np
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
for step in range(3):
    mlflow.log_metric("loss", 1 / (step + 1), step=step)
"""
LOG = """
signature = infer_signature(np.array([[0.0]]), model.predict([[0.0]]))
mlflow.sklearn.log_model(model, name="model", signature=signature, pip_requirements=["scikit-learn"])
"""


@pytest.fixture
def value(signed_in: Databricks, home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what runs a cell and returns the value of its last line."""
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "dbml_magics")

    def run(cell: str) -> Any:
        *lines, last = cell.strip().split("\n")
        if last.startswith("%dbml"):
            lines, last = [*lines, f"got = {last}"], "got"
        done = shell.run_cell("\n".join([*lines, last]))
        assert done.success, f"{cell} failed:\n{''.join(capsys.readouterr())}"
        return shell.user_ns.get("got")

    yield run
    shell.run_line_magic("unload_ext", "dbml_magics")


def test_every_magic_runs_at_databricks_alone_and_leads_to_its_pages(
    value: Any, signed_in: Databricks, experiment_name: str
) -> None:
    home = signed_in.uri
    status = value("%dbml link --databricks databricks --track databricks")
    assert status.destinations[0].page == f"{home}/ml/experiments"
    made = value(f"%dbml experiment {experiment_name}")
    assert made.names == {"databricks": f"/Users/{ADA}/{experiment_name}"}
    page = f"{home}/?o={ORGANIZATION}#mlflow/experiments/{made.experiment_id}"
    assert made.links == {"databricks": page}
    value(f"%%track first\n{TRAIN}{LOG}")
    value(f"%%track second\n{TRAIN}")
    assert not value("%dbml sync --timeout 60").dead["databricks"]
    runs = value("%dbml runs --order-by 'attributes.start_time ASC'")
    assert [row.name for row in runs] == ["first", "second"]
    first, second = (row.run_id for row in runs)
    assert runs[0].links == {"databricks": f"{page}/runs/{first}"}
    shown = str(value(f"%dbml compare {first[:12]} {second[:12]} --metric loss"))
    assert "first" in shown
    assert "second" in shown
    name = f"main.ml.{experiment_name.replace('-', '_')[:40]}"
    registered = value(f"%dbml register {first[:12]} {name} --alias champion --tag team=wine")
    pages = f"{home}/explore/data/models/{name.replace('.', '/')}/version/1?o={ORGANIZATION}"
    assert registered.versions[0].page == pages
    assert pages in str(value(f"%dbml models {name}"))
    plain = value(f"%dbml register {first[:12]} {experiment_name}")
    assert plain.versions[0].page == f"{home}/?o={ORGANIZATION}#mlflow/models/{experiment_name}/versions/1"
    listed = value("%dbml models")
    assert {name, experiment_name} <= {version.name for version in listed.versions}
    assert f"{home}/ml/experiments" in str(value("%dbml ui"))
    assert not value("%dbml sync --dead list").letters
    assert "Tracking to databricks only" in str(value("%dbml status"))
    value("%dbml unlink")


@pytest.mark.full
def test_what_was_changed_at_databricks_is_found_and_repaired_in_azure_ml(
    value: Any, both: dict[str, Any], experiment_name: str
) -> None:
    import mlflow

    azure = both["azure"]
    names = (
        f"--subscription {azure['subscription']} --resource-group {azure['resource_group']} "
        f"--workspace {azure['workspace']}"
    )
    value(f"%dbml link --databricks databricks {names} --registry both")
    value(f"%dbml experiment {experiment_name}")
    value(f"%%track changed\n{TRAIN}{LOG}")
    name = f"main.ml.{experiment_name.replace('-', '_')[:40]}"
    run = value(f"%dbml register last {name} --alias champion").run_id
    value("%dbml sync --timeout 60")
    verify = f"%dbml sync --verify --experiment {experiment_name}"
    assert value(verify).differences == ()
    native = mlflow.MlflowClient("databricks", registry_uri="databricks-uc")
    native.set_tag(run, "reviewed", "yes")
    native.set_registered_model_alias(name, "candidate", 1)
    native.set_model_version_tag(name, "1", "stage_of", "life")
    found = {(d.kind, d.key) for d in value(verify).differences}
    assert {("tag", "reviewed"), ("alias", "candidate"), ("version", "tag stage_of")} <= found
    repaired = value(f"%dbml sync --repair --from databricks --experiment {experiment_name}")
    assert not repaired.remaining
    assert value(verify).differences == ()
    there = {v.workspace: v for v in value(f"%dbml models {name}").versions}["azureml"]
    assert set(there.aliases) == {"champion", "candidate"}
    assert there.tags["stage_of"] == "life"


def test_a_model_that_may_not_be_made_waits_and_says_which_privilege_it_needs(
    value: Any, signed_in: Databricks, experiment_name: str
) -> None:
    value("%dbml link --databricks databricks --track databricks")
    value(f"%dbml experiment {experiment_name}")
    value(f"%%track only\n{TRAIN}{LOG}")
    name = f"main.ml.{experiment_name.replace('-', '_')[:40]}"
    signed_in.deny(ADA, "unity-catalog/registered-models/create", f"{ADA} does not have CREATE MODEL")
    waiting = value(f"%dbml register last {name}")
    assert waiting.versions[0].status == "PROVISIONAL"
    assert "USE CATALOG, USE SCHEMA and CREATE MODEL on the schema" in str(waiting)
    value(f"%%track goes-on\n{TRAIN}")
    signed_in.allow_all()
    assert not value("%dbml sync --timeout 90").dead["databricks"]
    assert [v.version for v in value(f"%dbml models {name}").versions] == ["1"]


@pytest.mark.full
def test_a_version_waits_while_the_workspace_has_too_many_in_registration(
    value: Any, signed_in: Databricks, experiment_name: str
) -> None:
    value("%dbml link --databricks databricks --track databricks")
    value(f"%dbml experiment {experiment_name}")
    value(f"%%track only\n{TRAIN}{LOG}")
    assert not value("%dbml sync --timeout 60").dead["databricks"]
    name = f"main.ml.{experiment_name.replace('-', '_')[:40]}"
    signed_in.switches.pending_versions = DATABRICKS_LIMITS["pending_versions"]
    waiting = value(f"%dbml register last {name}")
    assert waiting.versions[0].status == "PROVISIONAL"
    assert "takes no version while 20 are being registered" in str(waiting)
    eventually(lambda: len(signed_in.requests("model-versions/create")) >= 2, "it is tried again")
    value(f"%%track goes-on\n{TRAIN}")
    signed_in.switches.pending_versions = 0
    assert not value("%dbml sync --timeout 90").dead["databricks"]
    assert [v.version for v in value(f"%dbml models {name}").versions] == ["1"]
    assert len(signed_in.requests("model-versions/create")) < 30, "it is asked every few seconds"
