"""Whatever a workspace does, user code goes on; afterwards everything is at both sides, once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.delivery import scheduler
from dbml_magics.core.outbox.spool import SMALL
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    LOG_BATCH,
    arrived,
    assert_written_once,
    both_sides,
    dead_letters,
    is_away,
    is_well,
    leftovers,
    link,
    own_id,
    runs_at,
    steps,
    sync,
)
from tests.core.modelling import log_linear
from tests.infra import plain
from tests.infra.faults import begin
from tests.infra.proxy import Fault
from tests.infra.wait import eventually

BUDGET_S = 5.0
MARGIN_S = 6.0  # two cores that others use too


@pytest.fixture
def linked(linked: Proxies) -> Proxies:
    """Return the proxies of a link whose experiment both workspaces have."""
    sync()
    return linked


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a write that fails time and again be looked at after two seconds instead of fifteen."""
    monkeypatch.setattr(scheduler, "_ISOLATED_S", 2.0)
    monkeypatch.setattr(scheduler, "_ISOLATED_PAUSE_S", 0.5)


def train(first: int, last: int) -> None:
    """Log a little of everything, as a training loop would."""
    for step in range(first, last):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({"a": step, "b": -step}, step=step)
    mlflow.log_param(f"p{first}", first)
    mlflow.set_tag("at", str(first))
    mlflow.log_text(f"text {first}", f"notes/{first}.txt")


@contextmanager
def took_at_most(seconds: float) -> Iterator[None]:
    """Check that a block took no longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"it took {took:.1f} s"


FAULTS = (
    "closed port",
    "accepted and reset",
    "hang",
    "503",
    "500",
    "writes' answers dropped",
    "half a batch",
    "signed out",
)


def struck_roles(who: str) -> tuple[str, ...]:
    """Return the roles that a parameter of a test names."""
    return ("databricks", "azureml") if who == "both" else (who,)


def until_noticed(fault: AbstractContextManager[Any], role: str) -> None:
    """Wait until a fault has struck; an outage, until delivery knows of it."""
    if isinstance(fault, Fault):
        eventually(lambda: fault.hits, "the fault has struck")
    else:
        eventually(lambda: not is_well(role), "the outage was noticed")


@pytest.mark.full(but=["hang-databricks", "closed port-both"])
@pytest.mark.parametrize(
    ("fault", "who"),
    [(fault, who) for fault in FAULTS for who in ("databricks", "azureml")]
    + [("closed port", "both"), ("hang", "both"), ("writes' answers dropped", "both")],
)
def test_a_fault_in_the_middle_of_a_run_costs_nothing(
    linked: Proxies, servers: Servers, experiment_name: str, fault: str, who: str
) -> None:
    struck = list(linked) if who == "both" else [getattr(linked, who)]
    with mlflow.start_run() as run:
        train(0, 30)
        faults = [begin(fault, proxy) for proxy in struck]
        for each in faults:
            each.__enter__()
        with took_at_most(3):
            train(30, 60)
            assert mlflow.get_run(run.info.run_id).data.metrics["a"] == 59.0
        engine = session.current().engine("this test")
        for role, proxy in zip(("databricks", "azureml"), linked, strict=True):
            if proxy not in struck:  # the one that is well gets everything meanwhile
                assert engine.waiting.wait(role, None, 30), f"{role} waits for the other one"
        for each, role in zip(faults, struck_roles(who), strict=True):
            until_noticed(each, role)
        for each in faults:
            each.__exit__(None, None, None)
        train(60, 90)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert all(steps(held, key) == list(range(90)) for key in ("loss", "a", "b"))
    assert held["params"] == {"p0": "0", "p30": "30", "p60": "60"}
    assert set(held["artifacts"]) == {f"notes/{n}.txt" for n in (0, 30, 60)}
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(linked)


@pytest.mark.full
@pytest.mark.parametrize("how", ["closed port", "hang", "writes' answers dropped"])
def test_a_run_that_begins_and_ends_in_an_outage_of_both(
    linked: Proxies, servers: Servers, experiment_name: str, how: str
) -> None:
    """Its id is provisional; on delivery it and its child are made under ids of the workspaces', once."""
    with begin(how, linked.databricks), begin(how, linked.azureml), took_at_most(BUDGET_S + MARGIN_S):
        with mlflow.start_run(run_name="outer") as outer:
            train(0, 20)
            with mlflow.start_run(nested=True) as inner:
                mlflow.log_metric("m", 1)
            assert mlflow.get_run(inner.info.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id
        assert mlflow.get_run(outer.info.run_id).info.status == "FINISHED"
    sync()
    held = arrived(servers, outer.info.run_id, experiment_name)
    assert (held["name"], held["status"], steps(held, "a")) == ("outer", "FINISHED", list(range(20)))
    assert held["tags"]["dbml_run_id"] == outer.info.run_id
    child = arrived(servers, inner.info.run_id, experiment_name)
    assert child["parent"] == held["run_id"]
    assert runs_at(servers, experiment_name) == [2, 2]
    assert_written_once(linked)
    # The ids that the user has go on being good, in every kind of read and write.
    assert mlflow.get_run(outer.info.run_id).data.metrics["a"] == 19.0
    assert mlflow.get_run(inner.info.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id
    found = mlflow.search_runs(
        experiment_names=[experiment_name],
        filter_string=f"tags.mlflow.parentRunId = '{outer.info.run_id}'",
        output_format="list",
    )
    assert [r.info.run_id for r in found] == [inner.info.run_id]
    assert mlflow.artifacts.load_text(f"runs:/{outer.info.run_id}/notes/0.txt") == "text 0"
    with mlflow.start_run(run_id=outer.info.run_id):
        mlflow.log_metric("a", 20, step=20)
        with mlflow.start_run(nested=True) as late:
            pass
    sync()
    assert steps(arrived(servers, outer.info.run_id, experiment_name), "a") == list(range(21))
    assert arrived(servers, late.info.run_id, experiment_name)["parent"] == held["run_id"]


@pytest.mark.full
def test_a_dozen_runs_in_one_outage_cost_one_budget(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    ids = []
    with linked.databricks.hang(), took_at_most(BUDGET_S + MARGIN_S):
        for n in range(12):
            with mlflow.start_run(run_name=f"short {n}") as run:
                mlflow.log_metric("m", n)
            ids.append(run.info.run_id)
    sync()
    assert runs_at(servers, experiment_name) == [12, 12]
    for n, run_id in enumerate(ids):
        assert arrived(servers, run_id, experiment_name, files=False)["name"] == f"short {n}"
    assert_written_once(linked)


@pytest.mark.full
def test_an_experiment_made_in_an_outage(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    with proxies.databricks.away(), proxies.azureml.away(), took_at_most(2 * (BUDGET_S + MARGIN_S)):
        made = mlflow.set_experiment(experiment_name)
        assert mlflow.set_experiment(experiment_name).experiment_id == made.experiment_id
        mlflow.set_experiment_tag("team", "a")
        with mlflow.start_run() as run:
            mlflow.log_metric("m", 1)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert held["experiment"] == experiment_name
    tags = [plain.client(s.uri).get_experiment_by_name(experiment_name).tags["team"] for s in servers]
    assert tags == ["a", "a"]
    assert mlflow.get_run(run.info.run_id).info.experiment_id == made.experiment_id
    assert mlflow.get_experiment(made.experiment_id).name == experiment_name
    found = mlflow.search_runs([made.experiment_id], output_format="list")
    assert [r.info.run_id for r in found] == [run.info.run_id]
    assert mlflow.set_experiment(experiment_name).name == experiment_name
    with mlflow.start_run() as second:
        pass
    sync()
    arrived(servers, second.info.run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [2, 2]


@pytest.mark.full
def test_traces_of_an_experiment_that_was_made_in_an_outage(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The user goes on with the provisional ids of experiment and run; the primary has its own."""
    link(proxies)
    with proxies.databricks.away(), proxies.azureml.away():
        made = mlflow.set_experiment(experiment_name)
        with mlflow.start_run() as begun:
            pass
    sync()
    with mlflow.start_run(run_id=begun.info.run_id):

        @mlflow.trace  # type: ignore[untyped-decorator]
        def answer(question: str) -> str:
            return question.upper()

        answer("why?")
    mlflow.flush_trace_async_logging()
    client = MlflowClient()

    def found() -> list[Any]:
        return list(client.search_traces(locations=[made.experiment_id]))

    (trace,) = eventually(found, "the trace is found by the id that the user has")
    assert trace.info.experiment_id == made.experiment_id
    assert trace.info.trace_metadata["mlflow.sourceRun"] == begun.info.run_id
    own = plain.client(servers.databricks.uri)
    there = own.get_experiment_by_name(experiment_name).experiment_id
    (held,) = own.search_traces(locations=[there])
    twin = plain.twin_id(servers.databricks.uri, begun.info.run_id, experiment_name)
    assert held.info.trace_metadata["mlflow.sourceRun"] == twin
    assert client.get_trace(trace.info.trace_id).info.experiment_id == made.experiment_id


@pytest.mark.full
def test_a_primary_that_never_had_the_experiment_gets_it_and_not_anothers(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Both count their experiments from 1: the mirror's id must not be taken for the primary's."""
    plain.client(servers.azureml.uri).create_experiment(experiment_name)
    link(proxies)
    with proxies.databricks.away():
        mlflow.set_experiment(experiment_name)
        with mlflow.start_run() as run:
            mlflow.log_metric("m", 1)
    sync()
    arrived(servers, run.info.run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [1, 1]


@pytest.mark.full
def test_an_experiment_is_known_while_a_mirror_that_lacks_it_answers_for_the_primary(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    name = f"{experiment_name}-new"
    with linked.azureml.status(500, path="experiments/create"):
        made = mlflow.set_experiment(name)
        assert session.current().engine("this test").waiting.wait("databricks", timeout=60)
        with linked.databricks.away():
            assert mlflow.set_experiment(name).experiment_id == made.experiment_id
            linked.azureml.forget()
            found = MlflowClient().get_experiment_by_name(name)
            assert found is not None
            assert found.experiment_id == made.experiment_id
            assert MlflowClient().get_experiment_by_name(f"{name}-not") is None
            assert linked.azureml.count("experiments/get-by-name") > 0, "the mirror was to be asked"
            assert MlflowClient().search_logged_models([made.experiment_id]) == []
            assert MlflowClient().search_runs([made.experiment_id]) == []
            with mlflow.start_run() as run:
                mlflow.log_metric("m", 1.0)
    sync()
    for held in both_sides(servers, run.info.run_id, name):
        assert (held["status"], steps(held, "m")) == ("FINISHED", [0])


@pytest.mark.full
@pytest.mark.parametrize("fault", ["closed port", "hang", "writes' answers dropped"])
def test_a_logged_model_made_in_an_outage(
    linked: Proxies, servers: Servers, experiment_name: str, fault: str
) -> None:
    client = MlflowClient()
    experiment_id = client.get_experiment_by_name(experiment_name).experiment_id
    with begin(fault, linked.databricks), mlflow.start_run() as run:
        made = client.create_logged_model(
            experiment_id, name="m", source_run_id=run.info.run_id, tags={"a": "b"}, params={"p": "1"}
        )
        mlflow.log_metric("acc", 0.5, step=1, model_id=made.model_id)
        client.finalize_logged_model(made.model_id, "READY")
        client.set_logged_model_tags(made.model_id, {"late": "tag"})
        assert client.get_logged_model(made.model_id).status == "READY"
    sync()
    for server in servers:
        found = plain.client(server.uri).search_logged_models(
            [plain.client(server.uri).get_experiment_by_name(experiment_name).experiment_id]
        )
        assert [(m.name, str(m.status.value), m.tags["late"]) for m in found] == [("m", "READY", "tag")]
        assert [(m.key, m.value) for m in found[0].metrics] == [("acc", 0.5)]
        assert found[0].source_run_id == plain.twin_id(server.uri, run.info.run_id, experiment_name)
    assert client.get_logged_model(made.model_id).name == "m"
    assert runs_at(servers, experiment_name) == [1, 1]


@pytest.mark.full(but=["runs/create-3"])
@pytest.mark.parametrize(
    ("path", "times"),
    [
        ("runs/create", 1),
        ("runs/create", 3),
        ("experiments/create", 2),
        ("logged-models$", 2),
        (LOG_BATCH, 1),
        (LOG_BATCH, 3),
    ],
)
def test_lost_answers_make_nothing_twice(
    linked: Proxies, servers: Servers, experiment_name: str, path: str, times: int
) -> None:
    client = MlflowClient()
    for proxy in linked:
        proxy.drop(path=path, method="POST", times=times)
    name = experiment_name + "-other"
    experiment_id = client.create_experiment(name)
    run = client.create_run(experiment_id)
    client.create_logged_model(experiment_id, name="model", source_run_id=run.info.run_id)
    client.log_metric(run.info.run_id, "nan", float("nan"), step=1)
    client.log_metric(run.info.run_id, "m", 1.0, step=1)
    client.set_terminated(run.info.run_id)
    sync()
    held = arrived(servers, run.info.run_id, name)
    assert (steps(held, "m"), steps(held, "nan")) == ([1], [1])
    assert runs_at(servers, name) == [1, 1]
    for server in servers:
        reader = plain.client(server.uri)
        found = reader.search_logged_models([reader.get_experiment_by_name(name).experiment_id])
        assert [m.name for m in found] == ["model"]
    assert_written_once(linked)


@pytest.mark.full
def test_a_lost_answer_and_then_an_outage_make_no_second_run(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The run was made there and its answer lost; by the next try the port is closed, and the budget goes."""
    linked.databricks.drop(path="runs/create", times=1)
    linked.databricks.reset(path="runs/search")
    linked.databricks.reset(path="experiments/search")
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1)
    linked.databricks.clear()
    linked.databricks.keep_bodies()
    sync()
    arrived(servers, run.info.run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [1, 1]


def test_doubt_outlasts_a_closed_port(linked: Proxies, servers: Servers, experiment_name: str) -> None:
    """A batch was written and its answer lost; then nobody listens: the next try is known to be unsent."""
    for proxy in linked:
        proxy.drop(path=LOG_BATCH, times=1)
    with mlflow.start_run() as run:
        for step in range(50):
            mlflow.log_metric("m", step, step=step)
        for proxy in linked:
            eventually(partial(proxy.count, LOG_BATCH), "the batch was sent")
            proxy.refuse()
        mlflow.log_metric("m", 50, step=50)
        for role in ("databricks", "azureml"):
            eventually(partial(is_away, role), f"{role} is known to be away")
        for proxy in linked:
            proxy.accept()
    sync()
    assert steps(arrived(servers, run.info.run_id, experiment_name), "m") == list(range(51))
    assert_written_once(linked)


def test_the_second_part_of_a_large_write_fails(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """One log call of 1,000 points, of which a workspace takes 200 at a time and then is gone."""
    linked.azureml.limit({"metrics": 200}, wording="azureml")
    with mlflow.start_run() as run:
        mlflow.log_metrics({f"k{n}": n for n in range(900)}, step=1)
        eventually(
            lambda: sum(r.status == 200 for r in linked.azureml.requests(LOG_BATCH)) >= 2,
            "two parts were sent",
        )
        linked.azureml.refuse()
        mlflow.log_metric("after", 1)
        linked.azureml.accept()
    sync()
    for server in servers:
        twin = plain.twin_id(server.uri, run.info.run_id, experiment_name)
        metrics = plain.client(server.uri).get_run(twin).data.metrics
        assert metrics == {**{f"k{n}": n for n in range(900)}, "after": 1}
    assert_written_once(linked)


def test_trouble_with_one_run_holds_back_no_other(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Uploads are refused with 403 by the storage's firewall: metrics of other runs pass all the same."""
    denied = linked.azureml.status(403, path="mlflow-artifacts")
    with mlflow.start_run() as first:
        mlflow.log_text("t", "t.txt")
    with mlflow.start_run() as second:
        mlflow.log_metric("m", 1)
    twin = eventually(
        lambda: plain.twin_id(servers.azureml.uri, second.info.run_id, experiment_name), "the second is there"
    )
    eventually(
        lambda: plain.run(servers.azureml.uri, twin, files=False)["status"] == "FINISHED",
        "it has ended there",
    )
    denied.clear()
    sync()
    arrived(servers, first.info.run_id, experiment_name)
    arrived(servers, second.info.run_id, experiment_name)


@pytest.mark.full
def test_a_poisonous_write_is_put_aside_and_holds_up_nothing(
    linked: Proxies, servers: Servers, experiment_name: str, impatient: None
) -> None:
    """One point, one param and the run's new name crash the service (500) for ever; all the rest arrives."""
    for content in ('"poison', "bad name"):
        linked.azureml.status(500, path="/mlflow/runs/", content=content)
    with mlflow.start_run() as run:
        for step in range(20):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_metric("poison", 1)
        mlflow.log_param("poisoned", 1)
        mlflow.log_param("p", 1)
        MlflowClient().update_run(run.info.run_id, name="bad name")
        for step in range(20, 40):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_text("t", "t.txt")
    dbml.sync(timeout=120)
    primary, mirror = both_sides(servers, run.info.run_id, experiment_name)
    assert set(primary["metrics"]) == {"m", "poison"}
    assert (steps(mirror, "m"), mirror["status"]) == (list(range(40)), "FINISHED")
    assert (mirror["params"], list(mirror["artifacts"])) == ({"p": "1"}, ["t.txt"])
    put_aside = {(role, op[1]) for role, op, _ in dead_letters()}
    assert put_aside == {("azureml", "m"), ("azureml", "p"), ("azureml", "u")}
    assert all("500" in cause and "time and again" in cause for _, _, cause in dead_letters())
    linked.azureml.clear()
    assert dbml.retry_dead_letters().arrived == {"azureml": 3}
    arrived(servers, run.info.run_id, experiment_name)
    assert_written_once(linked)


@pytest.mark.full
def test_a_call_that_fails_for_everybody_is_no_poison(
    linked: Proxies, servers: Servers, experiment_name: str, impatient: None
) -> None:
    """log-batch answers 500 to all while searches pass: nothing is put aside, however long it lasts."""
    broken = linked.azureml.status(500, path=LOG_BATCH)
    with mlflow.start_run() as run:
        for step in range(10):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_text("t", "t.txt")
    worker = session.current().engine("this test").workers["azureml"]
    eventually(lambda: worker.is_stuck(run.info.run_id), "it was tried time and again")
    hits = broken.hits
    eventually(lambda: broken.hits > hits + 1, "and is tried still")
    shown = session.current().status().destinations[1]
    assert "500" in str(shown.last_error)
    assert shown.since is not None
    assert "since" in shown.state()
    assert dead_letters() == []
    broken.clear()
    sync()
    arrived(servers, run.info.run_id, experiment_name)
    assert_written_once(linked)


@pytest.mark.full
def test_a_storage_that_refuses_uploads_does_not_hold_up_the_run(
    linked: Proxies, servers: Servers, experiment_name: str, impatient: None
) -> None:
    """403 from the storage's firewall: metrics and status arrive, the files when it opens, by themselves."""
    denied = linked.azureml.status(403, path="mlflow-artifacts", method="PUT")
    with mlflow.start_run() as run:
        for n in range(5):
            mlflow.log_text(f"text {n}".ljust(n * SMALL), f"notes/{n}.txt")
        mlflow.log_metric("m", 1)
    twin = eventually(
        lambda: plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name), "the run is there"
    )
    eventually(
        lambda: plain.run(servers.azureml.uri, twin, files=False)["status"] == "FINISHED",
        "it has ended there",
    )
    status = session.current().status()
    assert (status.destinations[1].held, status.destinations[1].dead) == (5, 0)
    assert "5 files not taken now, tried again later" in str(status)
    assert all(letter.held and "403" in letter.cause for letter in dbml.dead_letters())
    assert "5 files not taken now, tried again by themselves; everything else goes on" in str(
        dbml.dead_letters()
    )
    assert len(dbml.sync(timeout=60).remaining) == 2, "it ends, the files are tried once more"
    assert session.current().status().destinations[1].held == 5
    denied.clear()
    sync()
    assert set(arrived(servers, run.info.run_id, experiment_name)["artifacts"]) == {
        f"notes/{n}.txt" for n in range(5)
    }


@pytest.mark.full
def test_one_file_that_is_refused_waits_alone_and_its_model_with_it(
    linked: Proxies, servers: Servers, experiment_name: str, impatient: None
) -> None:
    """A version is not registered from half of its files; the rest of the run and other runs go on."""
    session.current().unlink()
    link(linked, registry="both")
    mlflow.set_experiment(experiment_name)
    denied = linked.azureml.status(403, path="artifacts/.*/data.bin", method="PUT")
    with mlflow.start_run() as run:
        mlflow.log_text("x", "model/data.bin")
        mlflow.log_text("flavors: {}", "model/MLmodel")
        mlflow.log_text("other", "other.txt")
        mlflow.log_metric("m", 1)
    client = MlflowClient()
    client.create_registered_model(experiment_name)
    client.create_model_version(experiment_name, f"runs:/{run.info.run_id}/model", run.info.run_id)
    held = session.current().engine("this test").workers["azureml"].held
    eventually(lambda: len(held.numbers()) == 1, "the file is held")
    twin = own_id(servers.azureml.uri, run.info.run_id, experiment_name)
    eventually(
        lambda: plain.run(servers.azureml.uri, twin)["status"] == "FINISHED", "the run has ended there"
    )
    assert set(plain.artifacts(servers.azureml.uri, twin)) == {"model/MLmodel", "other.txt"}
    assert plain.client(servers.azureml.uri).search_model_versions(f"name='{experiment_name}'") == []
    denied.clear()
    sync()
    assert len(plain.client(servers.azureml.uri).search_model_versions(f"name='{experiment_name}'")) == 1
    arrived(servers, run.info.run_id, experiment_name)


@pytest.mark.full
def test_a_mirror_that_needs_the_primary_says_so_and_goes_on_with_the_rest(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """A run older than the link has to be read at the primary, which is away; a new run does not."""
    before = plain.client(servers.databricks.uri)
    old = before.create_run(before.get_experiment_by_name(experiment_name).experiment_id)
    mlflow.get_run(old.info.run_id)
    with linked.databricks.away():
        MlflowClient().log_metric(old.info.run_id, "m", 1.0)
        with mlflow.start_run() as new:
            mlflow.log_metric("m", 2)
        twin = eventually(
            lambda: plain.twin_id(servers.azureml.uri, new.info.run_id, experiment_name),
            "the new run is there",
        )
        eventually(
            lambda: plain.run(servers.azureml.uri, twin, files=False)["status"] == "FINISHED", "it ended"
        )
        assert not session.current().status().destinations[1].away
    sync()
    arrived(servers, old.info.run_id, experiment_name)
    arrived(servers, new.info.run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [2, 2]


def test_servers_that_crash_and_come_back_have_everything_once(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        train(0, 30)
        servers.azureml.kill()
        train(30, 60)
        servers.azureml.start()
        train(60, 90)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert steps(held, "loss") == list(range(90))
    assert_written_once(linked)
    eventually(lambda: leftovers(home) == [], "nothing is left", show=lambda: leftovers(home))


def test_experiments_are_found_by_the_names_that_the_user_knows(home: Path) -> None:
    """A workspace with a naming rule of its own calls them otherwise."""
    dbml.link(local=True, track="azureml", registry="azureml")
    for name in ("/Users/ann@example.com/iris", "/Users/bob@example.com/iris", "wine"):
        mlflow.set_experiment(name)
    client = MlflowClient()

    def found(where: str, **options: Any) -> list[str]:
        return [e.name for e in client.search_experiments(filter_string=where, **options)]

    assert found("name = '/Users/ann@example.com/iris'") == ["/Users/ann@example.com/iris"]
    assert found("name LIKE '/Users/%'", order_by=["name DESC"]) == [
        "/Users/bob@example.com/iris",
        "/Users/ann@example.com/iris",
    ]
    first = client.search_experiments(filter_string="name LIKE '/Users/%'", max_results=1)
    second = client.search_experiments(
        filter_string="name LIKE '/Users/%'", max_results=1, page_token=first.token
    )
    assert {first[0].name, second[0].name} == set(found("name LIKE '%iris'"))


@pytest.mark.full
def test_a_model_is_registered_while_nobody_answers(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """MLflow lists the run's files first; they are known here, be they on their way or not."""
    link(proxies, registry="both")
    mlflow.set_experiment(experiment_name)
    sync()
    with mlflow.start_run() as run:
        mlflow.log_text("t", "t.txt")
        sync()
        with proxies.databricks.away(), proxies.azureml.away():
            log_linear()
            assert [f.path for f in MlflowClient().list_artifacts(run.info.run_id)] == ["t.txt"]
            mlflow.register_model(f"runs:/{run.info.run_id}/model", experiment_name)
    sync()
    arrived(servers, run.info.run_id, experiment_name)
    assert [len(plain.model_versions(s.uri, experiment_name)) for s in servers] == [1, 1]
