"""One run id: a run has at Azure ML the id that Databricks gave it, where the service lets it be chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from tests.infra.wait import eventually
from tests.standins.azure import AzureStandIn

ONE_ID = "a run has one id: azureml keeps it under the one that databricks gave it"
TWO_IDS = "azureml gives each run an id of its own"


@pytest.fixture
def link(signed_in: AzureStandIn, names: dict[str, Any], tmp_path: Path) -> Iterator[Any]:
    """Return a session linked to a database as Databricks, and to Azure ML as its mirror."""
    session = sessions.current()
    dbml.link(databricks=f"sqlite:///{tmp_path}/databricks.db", **names)
    dbml.experiment(f"/Users/ada@contoso.test/{tmp_path.name}")
    yield session
    if session.linked:
        session.unlink()


def at_azure(session: Any, run_id: str) -> Any:
    """Return the run as Azure ML's own interface has it, by the id that it has there."""
    engine = session.engine("the test")
    identity = engine.state.identity("azureml", "run", run_id)
    assert identity is not None, f"the run {run_id} is at Azure ML"
    return engine.workspaces["azureml"].tracking.get_run(identity.actual)


def track(session: Any, **begun: Any) -> str:
    import mlflow

    with mlflow.start_run(**begun) as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_param("depth", 3)
        mlflow.log_text("hello", "notes.txt")
    dbml.sync(timeout=60)
    return str(run.info.run_id)


def test_a_run_has_the_id_that_databricks_gave_it(link: Any, signed_in: AzureStandIn) -> None:
    run_id = track(link, run_name="first", tags={"team": "ml"})
    found = at_azure(link, run_id)
    assert found.info.run_id == run_id
    assert found.info.run_name == "first"
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 0.5}
    assert found.data.params == {"depth": "3"}
    assert found.data.tags["team"] == "ml"
    assert abs(found.info.start_time - dbml.runs().rows[0].start_time) < 2
    assert f"/runs/{run_id}/artifacts" in found.info.artifact_uri
    side = link.engine("the test").side("azureml")
    assert [f.path for f in side.reader.repository(f"run:{run_id}").list_artifacts()] == ["notes.txt"]
    assert ONE_ID in link.status().notes
    second = track(link)
    assert at_azure(link, second).info.run_id == second
    assert signed_in.proxy.count(method="POST", path="runs/create") == 0


def test_a_nested_run_has_its_own_id_and_its_parents(link: Any) -> None:
    import mlflow

    with mlflow.start_run() as parent, mlflow.start_run(nested=True) as child:
        mlflow.log_metric("loss", 1.0)
    dbml.sync(timeout=60)
    found = at_azure(link, child.info.run_id)
    assert found.info.run_id == child.info.run_id
    assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.full
@pytest.mark.parametrize("how", ["refused", "absent", "hidden", "renamed"])
def test_where_the_service_names_runs_the_tag_says_which_is_which(
    link: Any, signed_in: AzureStandIn, how: str
) -> None:
    with signed_in.set(run_ids=how):
        first, second = track(link), track(link)
    for run_id in (first, second):
        found = at_azure(link, run_id)
        assert found.info.run_id != run_id
        assert found.data.tags["dbml_run_id"] == run_id
        assert found.data.metrics == {"loss": 0.5}
        assert found.info.status == "FINISHED"
    assert any(TWO_IDS in note for note in link.status().notes)
    asked = signed_in.proxy.count(method="PATCH", path="/history/")
    assert asked <= 2, "asked with the first run, and never again"
    engine = link.engine("the test")
    store = engine.workspaces["azureml"].tracking
    experiment = at_azure(link, first).info.experiment_id
    assert len(store.search_runs([experiment], "", 3)) == 2 + (how == "hidden"), "each run is there once"


@pytest.mark.full
def test_a_creation_whose_answer_was_lost_makes_one_run(link: Any, signed_in: AzureStandIn) -> None:
    with signed_in.proxy.drop(method="PATCH", path="/history/", times=2):
        run_id = track(link)
    found = at_azure(link, run_id)
    assert found.info.run_id == run_id
    store = link.engine("the test").workspaces["azureml"].tracking
    assert len(store.search_runs([found.info.experiment_id], "", 3)) == 1
    assert found.data.tags["dbml_run_id"] == run_id


@pytest.mark.full
def test_a_history_service_that_fails_keeps_no_run_from_being_made(
    link: Any, signed_in: AzureStandIn
) -> None:
    with signed_in.proxy.status(500, method="PATCH", path="/history/"):
        run_id = track(link)
    assert at_azure(link, run_id).data.metrics == {"loss": 0.5}


@pytest.mark.full
def test_a_run_begun_in_an_outage_has_its_provisional_id_for_good(
    signed_in: AzureStandIn, names: dict[str, Any], tmp_path: Path
) -> None:
    import mlflow

    session = sessions.current()
    dbml.link(track="azureml", registry="azureml", **names)
    dbml.experiment(f"/Users/ada@contoso.test/{tmp_path.name}")
    with signed_in.proxy.away():
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 0.5)
        eventually(lambda: session.status().destinations[0].away, "the workspace counts as away")
    dbml.sync(timeout=60)
    assert at_azure(session, run.info.run_id).info.run_id == run.info.run_id
    session.unlink()
