"""``%dbml doctor`` at Databricks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.doctor import imports
from dbml_magics.results.doctor import DoctorResult, Finding
from tests.databricks.conftest import ADA
from tests.standins.databricks import Databricks


@pytest.fixture(autouse=True)
def _nothing_is_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MODULES", {"mlflow": "mlflow"})


def about(result: DoctorResult, what: str) -> Finding:
    found = [f for f in result if f.area == "databricks" and f.what == what]
    assert len(found) == 1, f"{what}: {found}\n{result}"
    return found[0]


def test_a_workspace_that_works_is_fine(signed_in: Databricks, home: Path, experiment_name: str) -> None:
    import mlflow

    dbml.link(databricks="databricks", track="databricks")
    dbml.experiment(experiment_name)
    with mlflow.start_run():
        mlflow.log_text("x", "x.txt")
    dbml.sync(timeout=60)
    result = dbml.doctor()
    assert not result.broken, str(result)
    assert about(result, "sign-in").cause == f"pat, as {ADA}"
    for what in ("API", "registry", "network", "clock", "files"):
        assert about(result, what).level == "fine", str(result)
    assert signed_in.token(ADA) not in result.json()


def test_a_sign_in_that_is_gone_names_the_command(
    signed_in: Databricks, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = sessions.current()
    dbml.link(databricks="databricks", track="databricks")
    session.unlink()
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi" + "0" * 32)
    result = dbml.doctor()
    refused = about(result, "sign-in")
    assert refused.level == "broken"
    assert refused.command == "databricks auth login"
    assert "dapi" + "0" * 32 not in result.json()


# --- what the caller may do, command by command


def at_databricks(result: DoctorResult, what: str) -> list[Finding]:
    return [f for f in result if f.area == "databricks" and f.what == what]


@pytest.fixture
def experiment(signed_in: Databricks, home: Path, experiment_name: str) -> Iterator[str]:
    """Return the id of an experiment of Ada's that the link writes to."""
    import mlflow

    session = sessions.current()
    dbml.link(databricks="databricks", track="databricks")
    dbml.experiment(experiment_name)
    yield str(mlflow.tracking.fluent._active_experiment_id)
    session.unlink()


def test_whoever_may_do_everything_reads_for_which_commands(experiment: str, signed_in: Databricks) -> None:
    signed_in.log.clear()
    (finding,) = at_databricks(dbml.doctor(), "permissions")
    assert finding.level == "fine"
    assert "for %dbml runs, %%track, %dbml cleanup experiment" in finding.cause
    writes = [r for r in signed_in.requests(method="POST|PUT|PATCH|DELETE") if "search" not in r.path]
    assert not writes, "the doctor changes nothing"


def test_reading_alone_names_the_command_that_wants_more_and_what_gives_it(
    experiment: str, signed_in: Databricks
) -> None:
    signed_in.levels[experiment] = {ADA: "CAN_READ", "bob@example.com": "CAN_MANAGE"}
    result = dbml.doctor()
    (missing,) = at_databricks(result, "%%track")
    assert missing.level == "warning"
    assert "wants CAN EDIT, and CAN READ is to " + ADA in missing.cause
    assert missing.command == (
        f"databricks permissions update experiments {experiment} --json "
        f'\'{{"access_control_list": [{{"user_name": "{ADA}", "permission_level": "CAN_EDIT"}}]}}\''
    )
    (fine,) = at_databricks(result, "permissions")
    assert fine.cause.endswith("for %dbml runs")


def test_what_a_group_was_given_counts(experiment: str, signed_in: Databricks) -> None:
    signed_in.levels[experiment] = {"science": "CAN_EDIT"}
    assert at_databricks(dbml.doctor(), "%%track")
    signed_in.groups[ADA] = ["science"]
    assert not at_databricks(dbml.doctor(), "%%track")


def test_levels_that_are_not_shown_are_no_fault(experiment: str, signed_in: Databricks) -> None:
    signed_in.acl_hidden = True
    (finding,) = at_databricks(dbml.doctor(), "permissions")
    assert finding.level == "fine"
    assert "not shown to you for the experiment" in finding.cause


def test_a_notebooks_own_experiment_goes_by_the_notebooks_permissions(
    signed_in: Databricks, home: Path, experiment_name: str
) -> None:
    path = f"/Users/{ADA}/{experiment_name}"
    number = signed_in.add_notebook(path)
    signed_in.levels[number] = {ADA: "CAN_RUN"}
    session = sessions.current()
    dbml.link(databricks="databricks", track="databricks")
    dbml.experiment(path)
    result = dbml.doctor()
    session.unlink()
    (missing,) = at_databricks(result, "%%track")
    assert "wants CAN EDIT, and CAN RUN is" in missing.cause
    assert f"permissions update notebooks {number} " in missing.command


def registered(name: str) -> None:
    """Register a model of one run under a name, and wait until it is there."""
    import mlflow
    from mlflow.models import infer_signature

    class Doubles(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input):  # type: ignore[no-untyped-def]
            return model_input * 2

    import pandas as pd

    frame = pd.DataFrame({"x": [1.0, 2.0]})
    with warnings.catch_warnings(), mlflow.start_run():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.log_model(
            name="model",
            python_model=Doubles(),
            signature=infer_signature(frame, frame),
            pip_requirements=["pandas"],
        )
    dbml.register("last", name)
    dbml.sync(timeout=60)


def test_a_model_of_the_registry_that_may_only_be_read(
    experiment: str, signed_in: Databricks, experiment_name: str
) -> None:
    registered(experiment_name)
    signed_in.model_levels[experiment_name] = "CAN_READ"
    result = dbml.doctor()
    (missing,) = at_databricks(result, "%dbml register")
    assert f"not permitted to register a version: the model {experiment_name} wants CAN EDIT" in missing.cause
    assert missing.command.startswith("databricks permissions update registered-models ")
    assert any(
        f"{experiment_name}: for %dbml models" in f.cause for f in at_databricks(result, "permissions")
    )


def test_privileges_of_unity_catalog_are_asked_where_they_apply(
    experiment: str, signed_in: Databricks, experiment_name: str
) -> None:
    name = f"main.ml.{experiment_name.replace('-', '_')}"
    registered(name)
    mine = dbml.doctor()
    assert any(f.cause.startswith(f"{name}: for ") for f in at_databricks(mine, "permissions")), str(mine)
    assert not mine.warnings or not at_databricks(mine, "%dbml score, %dbml deploy")

    signed_in.owners = {name: "bob@example.com", "main.ml": ADA}
    signed_in.grants = {"main": {"account users": ["USE_CATALOG"]}, name: {ADA: ["EXECUTE"]}}
    theirs = dbml.doctor()
    assert not at_databricks(theirs, "%dbml score, %dbml deploy")
    hidden = [f for f in at_databricks(theirs, "permissions") if "not shown to you" in f.cause]
    assert [f"CREATE MODEL VERSION on {name}" in f.cause for f in hidden] == [True]
    assert {f.level for f in hidden} == {"fine"}

    signed_in.grants = {"main": {"account users": ["USE_CATALOG"]}}
    without = dbml.doctor()
    (missing,) = at_databricks(without, "%dbml score, %dbml deploy")
    assert f"EXECUTE on {name} in Unity Catalog is given neither to {ADA} nor to a group" in missing.cause
    assert missing.command == f"GRANT EXECUTE ON MODEL {name} TO `{ADA}`"

    signed_in.owners = {name: ADA, "main.ml": "science"}
    signed_in.groups[ADA] = ["science"]
    signed_in.grants = {}
    (catalog,) = at_databricks(dbml.doctor(), "%dbml models")
    assert catalog.command == f"GRANT USE CATALOG ON CATALOG main TO `{ADA}`"
