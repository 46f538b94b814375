"""Inside a run that somebody else began: it is mirrored with all that it has, and who began it ends it."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.plugin import job_run
from dbml_magics.errors import BadCommand
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    arrived,
    assert_written_once,
    child,
    finish,
    link,
    runs_at,
    steps,
    sync,
)
from tests.infra import plain
from tests.infra.servers import Server

JOB = """
    import mlflow
    with mlflow.start_run() as run:
        for step in range(5, 10):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_text("new", "new.txt")
        print(run.info.run_id, mlflow.get_run(run.info.run_id).info.status)
    """


def begun_elsewhere(server: Server, experiment: str) -> str:
    """Begin a run with plain MLflow, as a scheduler or another tool would, and leave it running."""
    client = plain.client(server.uri)
    run = client.create_run(client.create_experiment(experiment), run_name="theirs", tags={"by": "somebody"})
    for step in range(5):
        client.log_metric(run.info.run_id, "m", step, step=step)
    client.log_param(run.info.run_id, "p", "1")
    client.log_text(run.info.run_id, "old", "folder/old.txt")
    client.log_text(run.info.run_id, "top", "top.txt")
    return str(run.info.run_id)


def whole(servers: Servers, run_id: str, experiment: str, status: str = "RUNNING") -> None:
    """Check that both sides have all of the run, that of before included."""
    held = arrived(servers, run_id, experiment)
    assert (held["name"], held["status"], held["params"]) == ("theirs", status, {"p": "1"})
    assert steps(held, "m") == list(range(10))
    assert (sorted(held["artifacts"]), held["tags"]["by"]) == (
        ["folder/old.txt", "new.txt", "top.txt"],
        "somebody",
    )
    assert runs_at(servers, experiment) == [1, 1]


@pytest.mark.full
@pytest.mark.parametrize("ended", ["by its block", "at the end of the process"])
def test_a_jobs_own_run_is_mirrored_and_its_status_left_alone(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, ended: str
) -> None:
    run_id = begun_elsewhere(servers.databricks, experiment_name)
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    job = (
        JOB
        if ended.startswith("by")
        else JOB.replace("with mlflow.start_run() as run:", "run = mlflow.start_run()\n    if run:")
    )
    assert finish(child(job, MLFLOW_RUN_ID=run_id)) == f"{run_id} RUNNING"
    sync()
    whole(servers, run_id, experiment_name)
    assert_written_once(proxies)
    plain.client(servers.databricks.uri).set_terminated(run_id, "KILLED")
    assert mlflow.get_run(run_id).info.status == "KILLED"
    dbml.repair(run=run_id)
    whole(servers, run_id, experiment_name, "KILLED")


@pytest.mark.full
def test_a_run_that_began_at_the_mirror_comes_to_the_primary_under_its_own_id(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """An Azure ML job's run: its id is the one that the user goes on seeing."""
    run_id = begun_elsewhere(servers.azureml, experiment_name)
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    assert finish(child(JOB, MLFLOW_RUN_ID=run_id)) == f"{run_id} RUNNING"
    sync()
    whole(servers, run_id, experiment_name)
    there = plain.twin_id(servers.databricks.uri, run_id, experiment_name)
    assert there not in (None, run_id)
    assert plain.twin_id(servers.azureml.uri, run_id, experiment_name) == run_id
    assert_written_once(proxies)
    assert mlflow.get_run(run_id).data.metrics == {"m": 9.0}
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metric("again", 1)
    sync()
    assert runs_at(servers, experiment_name) == [1, 1]
    assert steps(arrived(servers, run_id, experiment_name), "again") == [0]


def test_a_run_that_goes_on_elsewhere_is_not_ended_by_who_joins_it(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    run_id = begun_elsewhere(servers.databricks, experiment_name)
    link(proxies)
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metric("joined", 1)
    mlflow.MlflowClient().update_run(run_id, name="renamed")
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], held["name"], steps(held, "joined")) == ("RUNNING", "renamed", [0])


def test_a_run_that_was_over_is_begun_anew_and_ended_by_who_resumes_it(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    run_id = begun_elsewhere(servers.databricks, experiment_name)
    plain.client(servers.databricks.uri).set_terminated(run_id, "FAILED")
    link(proxies)
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metric("resumed", 1)
        assert mlflow.get_run(run_id).info.status == "RUNNING"
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], steps(held, "resumed")) == ("FINISHED", [0])


@pytest.mark.full
def test_files_of_before_come_along_after_an_outage_of_either_side(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    run_id = begun_elsewhere(servers.databricks, experiment_name)
    link(proxies)
    with proxies.azureml.away(), mlflow.start_run(run_id=run_id):
        for step in range(5, 10):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_text("new", "new.txt")
    proxies.azureml.status(503, path="mlflow-artifacts", times=2)
    proxies.databricks.status(503, path="mlflow-artifacts", method="GET", times=1)
    sync()
    whole(servers, run_id, experiment_name)


LOOP = """
    import os, mlflow
    import dbml_magics as dbml
    {}
    """
_RUNNING = ("RUNNING", None, "parent")
CHILDREN = {
    "plain": """
    own = os.environ["MLFLOW_RUN_ID"]
    with mlflow.start_run(run_name="mine"):
        mlflow.log_metric("child", 1)
    with mlflow.start_run(run_id=own):
        mlflow.log_metric("child", 2)
    os.environ["MLFLOW_RUN_ID"] = own
    mlflow.start_run()  # and ends with the process
    """,
    "tracked": """
    own = os.environ["MLFLOW_RUN_ID"]
    with dbml.track("mine", experiment="elsewhere") as run:
        mlflow.log_metric("child", 3)
    print(run.summary)
    os.environ["MLFLOW_RUN_ID"] = own
    try:
        with dbml.track("mine") as run:
            1 / 0
    except ZeroDivisionError:
        print(run.summary)
    """,
}


@pytest.mark.full
def test_a_child_process_s_end_leaves_its_parent_s_run_alone(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Loops of notebooks and jobs: who began the run names and ends it, and goes on with it."""
    link(proxies)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run(run_name="parent") as run:
        mlflow.log_metric("m", 0, step=0)
        for how, code in CHILDREN.items():
            said = finish(child(LOOP.format(code), MLFLOW_RUN_ID=run.info.run_id))
            there = mlflow.get_run(run.info.run_id)
            assert (there.info.status, there.info.end_time, there.info.run_name) == _RUNNING, how
            assert "running     parent" in str(session.current().status()), how
        assert said.count("Run parent  RUNNING in") == 2, said
        assert "who began it names and ends it; the name mine and --experiment elsewhere are left out" in said
        for part in ("FINISHED", "FAILED"):
            assert f"the run is RUNNING and goes on; this cell's part of it is {part}" in said
        mlflow.log_metric("m", 1, step=1)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert (held["name"], held["status"], steps(held, "m")) == ("parent", "FINISHED", [0, 1])
    assert len(steps(held, "child")) == 3
    assert runs_at(servers, experiment_name) == [1, 1]


@pytest.mark.full
def test_a_child_process_nests_under_its_parent_s_run_when_asked(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    nests = """
        import os, mlflow
        import dbml_magics as dbml
        for name in ("fold-1", "fold-2"):
            with dbml.track(name, nested=True) as run:
                mlflow.log_metric("child", 1)
            print(run.run_id, run.summary.status, run.summary.name)
        print(os.environ["MLFLOW_RUN_ID"])
        """
    with mlflow.start_run(run_name="parent") as run:
        said = finish(child(nests, MLFLOW_RUN_ID=run.info.run_id)).splitlines()
        assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"
    assert said[-1] == run.info.run_id, "it is still there for who joins the run"
    for line, name in zip(said[:-1], ("fold-1", "fold-2"), strict=True):
        run_id, *facts = line.split()
        assert facts == ["FINISHED", name]
        assert mlflow.get_run(run_id).data.tags["mlflow.parentRunId"] == run.info.run_id
    sync()
    assert runs_at(servers, experiment_name) == [3, 3]


@pytest.mark.full
def test_a_run_whose_process_was_killed_runs_no_more_and_is_ended_by_who_resumes_it(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    dies = """
        import os, mlflow
        run = mlflow.start_run(run_name="dies")
        mlflow.log_metric("m", 0, step=0)
        print(run.info.run_id, flush=True)
        {}
        os.kill(os.getpid(), 9)
        """
    process = child(
        dies.format("import time; time.sleep(600)"),
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    assert "running     dies" in str(session.current().status())
    process.kill()
    process.communicate()
    assert "running" not in str(session.current().status()), "nobody runs it any more"
    said = finish(
        child(
            LOOP.format("with dbml.track('resumed') as run: pass\n    print(run.summary)"),
            MLFLOW_RUN_ID=run_id,
        )
    )
    assert said.startswith("Run resumed  FINISHED in")
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert (held["name"], held["status"]) == ("resumed", "FINISHED")


def test_a_run_that_cannot_be_joined_is_named_with_the_ways_on(
    home: Path, proxies: Proxies, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    monkeypatch.setattr(job_run, "JOB_RUN", None)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    for _ in range(2):
        with pytest.raises(
            BadCommand, match=f"MLFLOW_RUN_ID names run {'0' * 32}, which cannot be joined"
        ) as no:
            session.current().begin_track("mine")
        assert no.value.remedies[0][0] == "%%track --nested"
    assert os.environ["MLFLOW_RUN_ID"] == "0" * 32, "nothing is begun apart by a second try"


def test_a_child_process_is_linked_by_its_environment(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    made = link(proxies)
    mlflow.set_experiment(experiment_name)
    said = finish(
        child(
            """
            import os, mlflow
            import dbml_magics as dbml
            print(dbml.status().uri)
            print(dbml.experiment(os.environ["NAME"]).created)
            with dbml.track("child"):
                mlflow.log_metric("m", 1)
            print([row.name for row in dbml.runs()], sum(dbml.sync(timeout=60).remaining.values()))
            dbml.unlink()
            try:
                dbml.status()
            except dbml.NotLinked:
                print("unlinked", mlflow.get_tracking_uri().startswith("dbml:"))
            """,
            NAME=experiment_name,
        )
    ).splitlines()
    assert said == [made.uri, "False", "['child'] 0", "unlinked False"]


def test_a_run_that_exists_nowhere_is_still_not_found(home: Path, proxies: Proxies) -> None:
    link(proxies)
    with pytest.raises(mlflow.MlflowException, match="not found"):
        mlflow.start_run(run_id="0" * 32)
