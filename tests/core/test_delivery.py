"""What is logged once arrives at both workspaces, equal; and is read back while it is on its way."""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.delivery.writers.overflow_files import ARTIFACT
from dbml_magics.core.outbox.lines import frame
from dbml_magics.core.outbox.spool import SMALL
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    LOG_BATCH,
    arrived,
    assert_written_once,
    both_sides,
    child,
    dead_letters,
    finish,
    last_is,
    leftovers,
    link,
    runs_at,
    steps,
    sync,
)
from tests.infra import plain
from tests.infra.wait import eventually

# --- everything of a run


def test_params_tags_and_metrics_of_every_kind_are_at_both(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Tags set, changed and deleted; NaN and infinities; equal times; negative steps; a point twice."""
    with mlflow.start_run(run_name="kinds", description="all of it") as run:
        mlflow.log_params({f"p{n}": n for n in range(130)})
        mlflow.log_param("same", 1)
        mlflow.log_param("same", 1)
        mlflow.set_tags({"kept": "a", "changed": "b", "gone": "c"})
        mlflow.set_tag("changed", "d")
        mlflow.delete_tag("gone")
        for step, value in enumerate([1.0, math.nan, math.inf, -math.inf, 0.0, 1e-300, -5]):
            mlflow.log_metric("odd", value, step=step, timestamp=1_700_000_000_000)
        mlflow.log_metric("odd", math.nan, step=1, timestamp=1_700_000_000_000)
        for step in (-3, -1, 0, 5, 5, 2):
            mlflow.log_metric("jumping", step * 0.5, step=step, timestamp=1_700_000_000_001)
        mlflow.log_metrics({f"key/{n} a.b-c_d": n / 7 for n in range(60)}, step=3)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert len(held["params"]) == 131
    assert (held["tags"]["kept"], held["tags"]["changed"]) == ("a", "d")
    assert "gone" not in held["tags"]
    values = {step: value for step, _, value in held["metrics"]["odd"]}
    assert len(held["metrics"]["odd"]) == 7
    assert all(
        last_is(values[s], v) for s, v in enumerate([1.0, math.nan, math.inf, -math.inf, 0.0, 1e-300, -5.0])
    )
    assert steps(held, "jumping") == [-3, -1, 0, 2, 5]
    assert len(held["metrics"]) == 62
    assert (held["status"], held["name"]) == ("FINISHED", "kinds")
    assert_written_once(linked)


def test_thousands_of_points_arrive_in_few_requests(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        for step in range(2500):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            if step % 10 == 0:
                mlflow.log_metrics({"a": step, "b": -step}, step=step)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert steps(held, "loss") == list(range(2500))
    assert steps(held, "b") == list(range(0, 2500, 10))
    assert_written_once(linked)
    assert all(proxy.count(LOG_BATCH) < 30 for proxy in linked)


def test_a_run_that_logs_steadily_is_gathered_longer(
    linked: Proxies, servers: Servers, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_LINGER", "0.05")
    count, over = 0, time.monotonic() + 3
    with mlflow.start_run() as run:
        while time.monotonic() < over:
            mlflow.log_metric("loss", 1 / (count + 1), step=count)
            count += 1
            time.sleep(0.005)
    sync()
    assert steps(arrived(servers, run.info.run_id, experiment_name), "loss") == list(range(count))
    for proxy in linked:  # 3 s of 0.05 s each would be some fifty
        assert proxy.count(LOG_BATCH) <= 20


@pytest.mark.full
@pytest.mark.parametrize("seen_from_afar", ["a file", "the end", "somebody waits"])
def test_what_is_seen_from_afar_is_not_gathered_long(
    linked: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
    seen_from_afar: str,
) -> None:
    monkeypatch.setenv("DBML_LINGER", "0.05")
    workers = session.current().engine("this test").workers.values()
    run = mlflow.start_run()

    def logs_steadily() -> bool:
        mlflow.log_metric("loss", 1.0, step=0, timestamp=1)
        return all(worker.scheduler.is_steady for worker in workers)

    eventually(logs_steadily, "both workers see that the run logs nothing but metrics")
    for worker in workers:
        worker.scheduler.unsteady()
        worker.scheduler.steady(time.monotonic() - 3600)
    monkeypatch.setenv("DBML_LINGER", "60" if seen_from_afar == "somebody waits" else "3")
    mlflow.log_metric("last", 1.0, step=0)
    if seen_from_afar == "somebody waits":
        sync(timeout=30)
    elif seen_from_afar == "the end":
        mlflow.end_run()
    else:
        mlflow.log_text("a line", "note.txt")

    def all_there() -> bool:
        sides = both_sides(servers, run.info.run_id, experiment_name)
        files, ended = seen_from_afar == "a file", seen_from_afar == "the end"
        return all(
            steps(side, "last") == [0]
            and (not files or "note.txt" in side["artifacts"])
            and (not ended or side["status"] == "FINISHED")
            for side in sides
        )

    eventually(all_there, f"{seen_from_afar} ends the gathering of 30 s", deadline=20)


def test_datasets_files_figures_and_tables_are_at_both(
    linked: Proxies, servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0.0, 1.0]})
    folder = tmp_path / "several"
    (folder / "below").mkdir(parents=True)
    (folder / "one.txt").write_text("one")
    (folder / "below" / "zwei ü.bin").write_bytes(os.urandom(70_000))
    (folder / "empty").write_bytes(b"")
    vanishing = tmp_path / "vanishing.txt"
    vanishing.write_text("as it was")
    with mlflow.start_run() as run:
        mlflow.log_input(mlflow.data.from_pandas(frame, name="data"), context="training")
        mlflow.log_artifact(str(vanishing), "files")
        vanishing.write_text("changed afterwards")
        vanishing.unlink()
        mlflow.log_artifacts(str(folder), "tree")
        mlflow.log_text("text", "notes/a.txt")
        mlflow.log_text("text changed", "notes/a.txt")
        mlflow.log_dict({"a": 1}, "conf.json")
        mlflow.log_table({"q": ["1"], "a": ["2"]}, "table.json")
        mlflow.log_table({"q": ["3"], "a": ["4"]}, "table.json")
        mlflow.log_figure(Figure(), "plots/figure.png")
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert [i["name"] for i in held["inputs"]] == ["data"]
    assert held["inputs"][0]["tags"] == {"mlflow.data.context": "training"}
    assert set(held["artifacts"]) == {
        "files/vanishing.txt",
        "tree/one.txt",
        "tree/below/zwei ü.bin",
        "tree/empty",
        "notes/a.txt",
        "conf.json",
        "table.json",
        "plots/figure.png",
    }
    twin = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
    reader = plain.client(servers.azureml.uri)
    file = reader.download_artifacts(twin, "files/vanishing.txt", str(tmp_path))
    assert Path(file).read_text() == "as it was"
    file = reader.download_artifacts(twin, "notes/a.txt", str(tmp_path))
    assert Path(file).read_text() == "text changed"


def test_nested_runs_know_their_parents_at_both(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with (
        mlflow.start_run(run_name="parent") as parent,
        mlflow.start_run(nested=True) as middle,
        mlflow.start_run(nested=True) as inner,
    ):
        mlflow.log_metric("m", 1)
    sync()
    for server in servers:
        ids = [plain.twin_id(server.uri, r.info.run_id, experiment_name) for r in (parent, middle, inner)]
        held = [plain.run(server.uri, each, files=False) for each in ids if each]
        assert [each["parent"] for each in held] == [None, *ids[:2]]
    assert runs_at(servers, experiment_name) == [3, 3]


def test_a_run_renamed_deleted_and_restored_later_is_so_at_both(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    client = MlflowClient()
    with mlflow.start_run(run_name="before") as run:
        pass
    sync()
    client.update_run(run.info.run_id, name="after")
    client.delete_run(run.info.run_id)
    with pytest.raises(MlflowException, match="deleted"):
        client.log_metric(run.info.run_id, "late", 1.0)
    sync()
    held = both_sides(servers, run.info.run_id, experiment_name)
    assert [(h["name"], h["lifecycle_stage"]) for h in held] == [("after", "deleted")] * 2
    client.restore_run(run.info.run_id)
    client.log_metric(run.info.run_id, "late", 1.0)
    sync()
    assert steps(arrived(servers, run.info.run_id, experiment_name), "late") == [0]


def test_experiments_are_tagged_renamed_deleted_and_restored_at_both(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    client = MlflowClient()
    made = client.create_experiment(experiment_name + "-x", tags={"team": "a"})
    client.set_experiment_tag(made, "stage", "one")
    client.set_experiment_tag(made, "gone", "soon")
    client.delete_experiment_tag(made, "gone")
    client.rename_experiment(made, experiment_name + "-y")
    client.delete_experiment(made)
    sync()
    found = [plain.client(s.uri).get_experiment_by_name(experiment_name + "-y") for s in servers]
    assert [e.lifecycle_stage for e in found] == ["deleted", "deleted"]
    assert [{k: e.tags.get(k) for k in ("team", "stage", "gone")} for e in found] == [
        {"team": "a", "stage": "one", "gone": None}
    ] * 2
    client.restore_experiment(made)
    client.create_run(made)
    sync()
    assert runs_at(servers, experiment_name + "-y") == [1, 1]


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_how_a_run_ended_is_known_at_both(
    linked: Proxies, servers: Servers, experiment_name: str, status: str
) -> None:
    client = MlflowClient()
    run = client.create_run(client.get_experiment_by_name(experiment_name).experiment_id)
    client.set_terminated(run.info.run_id, status, end_time=1_800_000_000_000)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert (held["status"], held["end_time"]) == (status, 1_800_000_000_000)


def test_mlflows_asynchronous_calls_arrive_too(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        for step in range(50):
            mlflow.log_metric("m", step, step=step, synchronous=False)
        mlflow.log_params({"a": 1}, synchronous=False).wait()
        mlflow.set_tag("t", "v", synchronous=False)
        mlflow.flush_async_logging()
        there = plain.run(servers.databricks.uri, run.info.run_id, files=False)
        assert (steps(there, "m"), there["params"]) == (list(range(50)), {"a": "1"})
        MlflowClient().log_batch(
            run.info.run_id,
            [Metric("b", 1.0, 1, 1)],
            [Param("c", "d")],
            [RunTag("e", "f")],
            synchronous=False,
        ).wait()
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert (held["params"]["c"], held["tags"]["t"], held["tags"]["e"]) == ("d", "v", "f")


@pytest.mark.full
def test_a_run_is_resumed_here_and_in_another_process(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 0, step=0)
    sync()
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_metric("m", 1, step=1)
        assert len(MlflowClient().get_metric_history(run.info.run_id, "m")) == 2
    finish(
        child(
            f"""
            import mlflow
            with mlflow.start_run(run_id={run.info.run_id!r}):
                mlflow.log_metric("m", 2, step=2)
                mlflow.set_tag("who", "child")
            """
        )
    )
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert (steps(held, "m"), held["tags"]["who"], held["status"]) == ([0, 1, 2], "child", "FINISHED")
    assert_written_once(linked)


@pytest.mark.full
def test_a_run_older_than_the_link_is_adopted_with_all_it_had(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The copy is interrupted twice: a run that was half copied is completed, not taken for whole."""
    before = plain.client(servers.databricks.uri)
    made = before.create_run(before.create_experiment(experiment_name), tags={"old": "tag"}, run_name="old")
    run_id = made.info.run_id
    before.log_param(run_id, "p", 1)
    for start in range(0, 2000, 1000):
        points = [Metric("m", s / 3, 1000 + s, s) for s in range(start, start + 1000)]
        before.log_batch(run_id, metrics=points)
    before.log_metric(run_id, "nan", math.nan, 5, 5)
    link(proxies)
    proxies.azureml.keep_bodies()
    proxies.azureml.drop(path="runs/create", times=1)
    proxies.azureml.half_batch(times=1)
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metric("m", 7.0, step=2000)
        mlflow.log_metric("new", 1.0)
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert steps(held, "m") == list(range(2001))
    assert (held["params"], held["tags"]["old"], held["name"]) == ({"p": "1"}, "tag", "old")
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(proxies)


# --- reads while things are on their way


def test_a_live_run_is_read_back_at_once(linked: Proxies, tmp_path: Path) -> None:
    """The primary is slow to take what is logged; what is read is whole all the same, and asks nobody."""
    client = MlflowClient()
    with mlflow.start_run() as run:
        sync()
        delay = linked.databricks.delay(1.0, path="log-batch|artifacts", method="POST|PUT")
        mlflow.log_param("p", 1)
        mlflow.set_tag("t", "v")
        for step in range(20):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_text("hello", "notes/hello.txt")
        read = client.get_run(run.info.run_id)
        assert (read.data.params, read.data.tags["t"], read.data.metrics) == ({"p": "1"}, "v", {"m": 19.0})
        assert [m.step for m in client.get_metric_history(run.info.run_id, "m")] == list(range(20))
        assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["notes"]
        assert [f.path for f in client.list_artifacts(run.info.run_id, "notes")] == ["notes/hello.txt"]
        assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/hello.txt") == "hello"
    read = client.get_run(run.info.run_id)
    assert (read.info.status, read.data.metrics) == ("FINISHED", {"m": 19.0})
    delay.clear()
    sync()
    read = client.get_run(run.info.run_id)
    assert (read.info.status, read.data.metrics, read.data.params) == ("FINISHED", {"m": 19.0}, {"p": "1"})
    file = client.download_artifacts(run.info.run_id, "notes/hello.txt", str(tmp_path))
    assert Path(file).read_text() == "hello"


def test_a_search_waits_for_what_was_just_logged(linked: Proxies, experiment_name: str) -> None:
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 3)
        mlflow.log_param("p", "yes")
        found = mlflow.search_runs(
            experiment_names=[experiment_name], filter_string="metrics.m > 2 and params.p = 'yes'"
        )
        assert list(found.run_id) == [run.info.run_id]


@pytest.mark.full
def test_a_search_during_an_outage_says_once_what_is_missing(
    linked: Proxies, experiment_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow.start_run():
        mlflow.log_metric("m", 1)
    sync()
    # The mirror answers while the primary is away, and it lacks what it will not take yet.
    with linked.databricks.away(), linked.azureml.status(503, path="runs/log-batch"):
        with mlflow.start_run() as run:
            mlflow.log_metric("m", 2)
        with caplog.at_level(logging.WARNING, logger="dbml_magics"):
            for _ in range(3):
                found = mlflow.search_runs(experiment_names=[experiment_name], output_format="list")
        assert len(found) >= 1
        messages = [r.getMessage() for r in caplog.records if "missing" in r.getMessage()]
        assert len(messages) == 1
        assert "still on their way to azureml" in messages[0]
    sync()
    found = mlflow.search_runs(experiment_names=[experiment_name], output_format="list")
    assert {r.info.run_id for r in found} >= {run.info.run_id}


@pytest.mark.full
def test_what_mlflow_would_refuse_is_refused_at_once(linked: Proxies) -> None:
    client = MlflowClient()
    with mlflow.start_run() as run:
        run_id = run.info.run_id
        mlflow.log_param("p", 1)
        sync()
        with linked.databricks.away(), linked.azureml.away():
            with pytest.raises(MlflowException, match="Changing param values is not allowed"):
                mlflow.log_param("p", 2)
            with pytest.raises(MlflowException, match="Changing param values is not allowed"):
                mlflow.log_params({"q": 1, "p": 2})
            with pytest.raises(MlflowException, match="Invalid value"):
                mlflow.log_metric("bad*key", 1)
            with pytest.raises(MlflowException, match=r"exceeds|length"):
                mlflow.log_metric("k" * 300, 1)
            with pytest.raises(MlflowException):
                mlflow.log_metric("m", None)
            with pytest.raises(MlflowException):
                client.set_tag(run_id, "", "v")
            with pytest.raises(MlflowException, match="No tag"):
                mlflow.delete_tag("never set")
            client.delete_run(run_id)
            with pytest.raises(MlflowException, match="deleted"):
                client.log_metric(run_id, "m", 1.0)
            client.restore_run(run_id)
        sync()
        with pytest.raises(MlflowException, match="not found"):
            client.log_metric("f" * 32, "m", 1.0)
        with pytest.raises(MlflowException, match="not found"):
            client.get_run("f" * 32)
    sync()


# --- refusals


def test_one_refused_point_does_not_hold_back_the_rest(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The mirror does not like one metric; it is put aside there, alone, with the cause."""
    refusal = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no metric of that name"}'
    linked.azureml.status(400, path=LOG_BATCH, content='"c"', body=refusal)
    with mlflow.start_run() as run:
        for step in range(100):
            mlflow.log_metrics({"a": step, "b": -step}, step=step)
        mlflow.log_metric("c", 1)
        mlflow.log_param("after", "it")
        mlflow.log_metric("a", 100, step=100)
    dbml.sync(timeout=60)
    primary, mirror = both_sides(servers, run.info.run_id, experiment_name)
    assert set(primary["metrics"]) == {"a", "b", "c"}
    assert {k: len(v) for k, v in mirror["metrics"].items()} == {"a": 101, "b": 100}
    assert (mirror["params"], mirror["status"]) == ({"after": "it"}, "FINISHED")
    ((role, op, cause),) = dead_letters()
    assert (role, op[1], op[2]) == ("azureml", "m", "c")
    assert "no metric of that name" in cause
    status = session.current().status()
    assert [d.dead for d in status.destinations] == [0, 1]
    assert_written_once(linked)


def test_a_param_that_a_server_has_otherwise_is_put_aside_alone(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        sync()
        twin = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
        plain.client(servers.azureml.uri).log_param(twin, "p7", "somebody else's")
        mlflow.log_params({f"p{n}": n for n in range(20)})
        mlflow.log_metric("m", 1)
    dbml.sync(timeout=60)
    primary, mirror = both_sides(servers, run.info.run_id, experiment_name)
    assert len(primary["params"]) == len(mirror["params"]) == 20
    assert mirror["params"]["p7"] == "somebody else's"
    assert steps(mirror, "m") == [0]
    ((role, op, cause),) = dead_letters()
    assert (role, op[1:3]) == ("azureml", ["p", "p7"])
    assert "p7" in cause


def test_a_run_whose_tag_the_mirror_refuses_is_there_with_as_much_of_it_as_the_mirror_takes(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    linked.azureml.limit({"tag_value": 1000}, wording="azureml")
    with mlflow.start_run(tags={"long": "x" * 3000, "short": "y"}, description="z" * 2000) as run:
        mlflow.log_metric("m", 1)
        mlflow.set_tag("also long", "x" * 1500)
    with mlflow.start_run() as other:
        mlflow.log_metric("m", 1)
    dbml.sync(timeout=60)
    primary, mirror = both_sides(servers, run.info.run_id, experiment_name)
    for side, most in ((primary, 3000), (mirror, 1000)):
        found = {key: len(side["tags"][key]) for key in ("long", "short", "also long")}
        assert found == {"long": most, "short": 1, "also long": min(most, 1500)}
    assert (steps(mirror, "m"), mirror["status"]) == ([0], "FINISHED")
    file = plain.client(servers.azureml.uri).download_artifacts(mirror["run_id"], ARTIFACT)
    assert set(json.loads(Path(file).read_text())["tags"]) == {"long", "also long", "mlflow.note.content"}
    assert dead_letters() == []
    arrived(servers, other.info.run_id, experiment_name)


def test_a_run_that_the_mirror_will_not_have_holds_back_no_other(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    refused = linked.azureml.status(
        400, path="runs/create", body='{"error_code": "RESOURCE_LIMIT_EXCEEDED", "message": "full"}'
    )
    with mlflow.start_run():
        mlflow.log_metric("m", 1)
        mlflow.log_text("t", "t.txt")
    dbml.sync(timeout=60)
    refused.clear()
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 2)
    dbml.sync(timeout=60)
    arrived(servers, run.info.run_id, experiment_name)
    causes = [(role, cause) for role, _, cause in dead_letters()]
    assert causes
    assert all(role == "azureml" and "full" in cause for role, cause in causes)


def test_an_answer_that_is_no_mlflow_error_is_a_refusal_all_the_same(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Azure's gateways answer 4xx in words of their own; such a write is put aside, not sent for ever."""
    with mlflow.start_run() as run:
        sync()
        with linked.azureml.status(413, path=LOG_BATCH, body="<html>too large</html>"):
            mlflow.log_metric("m", 1)
            mlflow.log_param("p", 1)
            dbml.sync(timeout=60)
        with linked.azureml.status(
            400, path="artifacts/", method="PUT", body='{"error": {"code": "UserError"}}'
        ):
            mlflow.log_text("t", "t.txt")
            dbml.sync(timeout=60)
        mlflow.log_metric("m", 2, step=1)
    dbml.sync(timeout=60)
    primary, mirror = both_sides(servers, run.info.run_id, experiment_name)
    assert (steps(primary, "m"), list(primary["artifacts"])) == ([0, 1], ["t.txt"])
    assert (steps(mirror, "m"), mirror["artifacts"], mirror["status"]) == ([1], {}, "FINISHED")
    assert {(op[1], role) for role, op, _ in dead_letters()} == {(c, "azureml") for c in "mpa"}


def test_the_size_of_batches_is_learnt_from_a_refusal(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    linked.azureml.limit({"metrics": 200}, wording="azureml")
    with mlflow.start_run() as run:
        for step in range(3000):
            mlflow.log_metric("m", step, step=step)
    sync()
    assert steps(arrived(servers, run.info.run_id, experiment_name), "m") == list(range(3000))
    refused = [r for r in linked.azureml.requests(LOG_BATCH) if r.status == 400]
    assert len(refused) <= 2
    assert_written_once(linked)


@pytest.mark.full
def test_a_rate_limit_is_obeyed(linked: Proxies, servers: Servers, experiment_name: str) -> None:
    linked.azureml.rate(5, retry_after=1, path="/mlflow/runs/")
    ids = []
    for n in range(8):
        with mlflow.start_run() as run:
            mlflow.log_metric("m", n)
        ids.append(run.info.run_id)
    sync()
    assert runs_at(servers, experiment_name) == [8, 8]
    for run_id in ids:
        arrived(servers, run_id, experiment_name, files=False)
    assert_written_once(linked)


# --- sync mode


def test_sync_mode_waits_for_the_primary_and_raises_its_error(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies, mode="sync")
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        proxies.azureml.hang(path="log-batch")
        mlflow.log_metric("m", 1)
        mlflow.log_text("t", "t.txt")
        there = plain.run(servers.databricks.uri, run.info.run_id)
        assert (steps(there, "m"), list(there["artifacts"])) == ([0], ["t.txt"])
        plain.client(servers.databricks.uri).log_param(run.info.run_id, "p", "somebody else's")
        with pytest.raises(MlflowException, match=r"(?s)databricks refused the write.*p"):
            mlflow.log_param("p", "mine")
        mlflow.log_metric("m", 2, step=1)
        with proxies.databricks.away(), pytest.raises(MlflowException, match="databricks"):
            mlflow.log_metric("m", 3, step=2)
        eventually(lambda: not session.current().status().destinations[0].away, "the primary is back")
        mlflow.log_metric("m", 4, step=3)
    proxies.azureml.clear()
    dbml.sync(timeout=60)
    primary, mirror = both_sides(servers, run.info.run_id, experiment_name)
    assert steps(primary, "m") == steps(mirror, "m") == [0, 1, 2, 3]


# --- what is on the disk


def test_files_are_the_users_own_and_gone_once_everything_arrived(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with linked.azureml.away(), mlflow.start_run():
        mlflow.log_metric("m", 1)
        mlflow.log_text("hello" * SMALL, "notes/hello.txt")
        assert any("/spool/" in path for path in leftovers(home))
        for path in home.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:o}"
    sync()
    eventually(lambda: leftovers(home) == [], "nothing is left", show=lambda: leftovers(home))


def test_copies_that_no_write_names_are_cleaned_up(home: Path, linked: Proxies) -> None:
    """Left by a process that was killed between its copy of a file and the journal, an hour ago."""
    with mlflow.start_run():
        mlflow.log_text("hello" * SMALL, "hello.txt")
        sync()
        (spool,) = home.glob("links/*/spool")
        dead, fresh = spool / "1-4194305-abc", spool / "2-4194305-abc"
        for copy in (dead, fresh):
            copy.write_text("orphan")
        os.utime(dead, (time.time() - 3600, time.time() - 3600))
    sync()
    eventually(lambda: not dead.exists(), "the orphan is gone")
    assert fresh.exists()


@pytest.mark.full
def test_a_damaged_journal_loses_the_damaged_lines_alone(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Three damaged lines in the middle of a dead process's file, and a torn one at its end."""
    script = """
        import mlflow, os, signal
        with mlflow.start_run() as run:
            for step in range(10):
                mlflow.log_metric("m", step, step=step)
            print(run.info.run_id, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    with linked.databricks.hang(path="log-batch"), linked.azureml.hang(path="log-batch|runs/create"):
        process = child(script, DBML_EXIT_FLUSH="0")
        out, _ = process.communicate(timeout=120)
        run_id = out.strip()
        (file,) = home.glob(f"links/*/queues/{run_id}/*.jnl")
        lines = file.read_bytes().splitlines(keepends=True)
        where = [n for n, line in enumerate(lines) if b'"m"' in line]
        lines[where[3]] = b'\x00\xff"m"' + b"\n"
        lines[where[5]] = frame(b'[17,"m"]')
        lines[where[7]] = frame(b'[17,"m",{"a":1},2,3,4]')
        # While nobody takes a write yet: this process delivers what the dead one left.
        file.write_bytes(b"".join(lines) + b'1d3fa0c2 [1763900000000000000,"m","m",10.0,17')
    assert len(mlflow.get_run(run_id).data.metrics) <= 1
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metric("m", 11, step=11)
    dbml.sync(timeout=60)
    held = both_sides(servers, run_id, experiment_name)
    assert [steps(h, "m") for h in held] == [[0, 1, 2, 4, 6, 8, 9, 11]] * 2
    assert sorted({role for role, _, _ in dead_letters()}) == ["azureml", "databricks"]
    assert all("damaged" in cause for _, _, cause in dead_letters())
    eventually(lambda: leftovers(home) == [], "nothing is left", show=lambda: leftovers(home))


def test_a_log_call_takes_no_network_at_all(linked: Proxies) -> None:
    with mlflow.start_run():
        mlflow.log_metric("m", 0)
        sync()
        for proxy in linked:
            proxy.hang()
        began = time.monotonic()
        for step in range(1000):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_param("p", 1)
        mlflow.log_text("t", "t.txt")
        took = time.monotonic() - began
        for proxy in linked:
            proxy.clear()
    assert took < 4
    sync()
