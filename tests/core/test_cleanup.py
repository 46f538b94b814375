"""``%dbml cleanup`` of runs, experiments and models: shown, confirmed, deleted on both sides, told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.errors import BadCommand, CleanupIncomplete, DbmlError, NotConfirmed, RunActive
from dbml_magics.results.cleanup import CleanupResult
from tests.conftest import Proxies, Servers
from tests.core.linking import link, sync
from tests.infra import plain


def cleaned(kind: str, name: str, **more: Any) -> CleanupResult:
    return dbml.cleanup(kind, name, **more)


def stages(servers: Servers, experiment: str) -> list[set[str]]:
    """Return the life-cycle stages of an experiment's runs at each workspace, deleted ones too."""
    return [
        {run["lifecycle_stage"] for run in plain.runs(s.uri, experiment, files=False, deleted=True).values()}
        for s in servers
    ]


def two_runs(proxies: Proxies, experiment: str, **wishes: Any) -> list[str]:
    import mlflow

    link(proxies, **wishes)
    dbml.experiment(experiment)
    made = []
    for number in range(2):
        with mlflow.start_run(run_name=f"run-{number}") as run:
            mlflow.log_metric("m", number)
            made.append(run.info.run_id)
    sync()
    return made


def test_a_run_goes_from_both_workspaces_once_its_name_is_typed(
    proxies: Proxies, servers: Servers, home: Path, experiment_name: str
) -> None:
    first, second = two_runs(proxies, experiment_name)
    shown = cleaned("run", first[:12], dry_run=True)
    assert [(i.where, i.what, i.state) for i in shown] == [
        ("databricks", "run", "to go"),
        ("azureml", "run", "to go"),
    ]
    assert "would delete 2 things; nothing was deleted" in str(shown)
    assert any("mlflow gc" in line for line in shown.stays)
    with pytest.raises(NotConfirmed) as refused:
        cleaned("run", first[:12])
    said = "\n".join(refused.value.lines())
    assert f"databricks run run-0 {first[:8]}" in said
    assert f"%dbml cleanup run {first[:12]} --confirm run-0" in said
    with pytest.raises(NotConfirmed, match="--confirm is 'wrong'"):
        cleaned("run", first[:12], confirm="wrong")
    assert stages(servers, experiment_name) == [{"active"}, {"active"}]
    for too_little in ("last", first[:7], second):
        with pytest.raises(NotConfirmed):
            cleaned("run", "last" if too_little == "last" else first, confirm=too_little)
    done = cleaned("run", first[:12], confirm=first[:8])
    assert len(done.deleted) == 2
    assert [len(plain.runs(s.uri, experiment_name, files=False)) for s in servers] == [1, 1]
    again = cleaned("run", first, confirm=first)
    assert str(again).startswith("Nothing to clean up of run run-0: it is gone already")
    assert not sync().dead["azureml"]
    assert len(cleaned("run", "last", confirm="run-1").deleted) == 2


def test_an_experiment_goes_with_its_runs_and_a_failure_is_told_and_mended(
    proxies: Proxies, servers: Servers, home: Path, experiment_name: str
) -> None:
    two_runs(proxies, experiment_name)
    with proxies.azureml.status(403, path="runs/delete$"), pytest.raises(CleanupIncomplete) as caught:
        cleaned("experiment", experiment_name, confirm=experiment_name)
    result: Any = caught.value.result
    assert [(i.where, i.what) for i in result.deleted] == [
        ("databricks", "run"),
        ("databricks", "run"),
        ("databricks", "experiment"),
    ]
    assert [i.what for i in result.failed] == ["run", "run", "experiment"]
    assert "not permitted" in result.failed[0].why or "403" in result.failed[0].why
    assert "kept, since not all that is in it could go" in str(caught.value)
    assert caught.value.remedies[-1][0].endswith(f"--confirm {experiment_name}")
    done = cleaned("experiment", experiment_name, confirm=experiment_name)
    assert [(i.where, i.what) for i in done.deleted] == [
        ("azureml", "run"),
        ("azureml", "run"),
        ("azureml", "experiment"),
    ]
    assert any(i.where == "databricks" and i.state == "gone already" for i in done)
    assert stages(servers, experiment_name) == [{"deleted"}, {"deleted"}]


def test_an_active_run_is_not_deleted_under_its_code(
    proxies: Proxies, home: Path, experiment_name: str
) -> None:
    import mlflow

    two_runs(proxies, experiment_name)
    with mlflow.start_run() as run:
        for kind, name in (("run", run.info.run_id), ("experiment", experiment_name)):
            dbml.sync(timeout=30)
            with pytest.raises(RunActive):
                cleaned(kind, name, confirm=name)


def test_writes_that_are_on_their_way_are_waited_for_or_said(
    proxies: Proxies, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from dbml_magics.core import cleanup_tracking

    monkeypatch.setattr(cleanup_tracking, "_WAIT_S", 0.5)
    first, _ = two_runs(proxies, experiment_name)
    with proxies.azureml.away():
        mlflow.MlflowClient().set_tag(first, "k", "v")
        with pytest.raises(DbmlError, match="still on their way to azureml"):
            cleaned("run", first, confirm=first)
    sync()


def test_a_model_goes_from_both_registries_with_its_versions(
    proxies: Proxies, home: Path, experiment_name: str
) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    link(proxies, registry="both")
    dbml.experiment(experiment_name)
    name = experiment_name
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    with mlflow.start_run():
        mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
    dbml.register("last", name)
    dbml.register("last", name)
    sync()
    done = cleaned("model", name, confirm=name)
    assert [(i.where, i.name) for i in done.deleted] == [
        (role, each) for role in ("databricks", "azureml") for each in (*_versions(done, role), name)
    ]
    assert len(done.deleted) == 6
    with pytest.raises(DbmlError, match="no registered model"):
        cleaned("model", name, confirm=name)


def _versions(done: CleanupResult, role: str) -> list[str]:
    return [i.name for i in done if i.where == role and i.what == "version"]


def test_a_workspace_that_is_away_deletes_nothing_anywhere(
    proxies: Proxies, servers: Servers, home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbml_magics.core.reconcile import readers

    monkeypatch.setattr(readers, "_TRIES", 1)
    two_runs(proxies, experiment_name)
    with proxies.azureml.away(), pytest.raises(DbmlError, match="nothing is deleted"):
        cleaned("experiment", experiment_name, confirm=experiment_name)
    assert stages(servers, experiment_name) == [{"active"}, {"active"}]


@pytest.mark.full
def test_an_endpoint_goes_with_its_deployments(proxies: Proxies, home: Path, experiment_name: str) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    link(proxies)
    dbml.experiment(experiment_name)
    with mlflow.start_run():
        fitted = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
        mlflow.sklearn.log_model(fitted, name="model", pip_requirements=["scikit-learn"])
    dbml.deploy("last", to="local", name="wine")
    try:
        with pytest.raises(NotConfirmed, match="local endpoint wine"):
            cleaned("endpoint", "wine")
        done = cleaned("endpoint", "wine", confirm="wine")
    finally:
        if len(dbml.endpoints()):  # type: ignore[arg-type]
            dbml.undeploy("wine")
    assert [(i.what, i.state) for i in done] == [("endpoint", "deleted"), ("deployment", "deleted")]


def test_what_cannot_be_cleaned_up_says_what_can(home: Path) -> None:
    with pytest.raises(BadCommand, match="Did you mean experiment"):
        cleaned("experimnt", "wine")
    with pytest.raises(BadCommand, match="--also belongs to workspace"):
        cleaned("run", "last", also=("x",))
    with pytest.raises(BadCommand, match="the subscription has to be named"):
        cleaned("workspace", "ml")


@pytest.mark.full
def test_nothing_is_said_to_be_billed_of_files_on_this_machine(home: Path, experiment_name: str) -> None:
    import mlflow

    import dbml_magics as dbml

    dbml.link(local=True)
    dbml.experiment(experiment_name)
    with mlflow.start_run(run_name="here"):
        mlflow.log_text("one", "a.txt")
    dbml.sync(60)
    shown = cleaned("run", "last", dry_run=True)
    assert not shown.stays
    assert "billed" not in str(shown)
    assert any("on this machine" in note for note in shown.notes)
