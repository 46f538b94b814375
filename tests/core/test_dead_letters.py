"""``%dbml sync --dead``: what a workspace refused is listed, tried again, or given up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.model.operations import RetryDeadLetter, decode
from dbml_magics.core.outbox.spool import SMALL
from dbml_magics.core.outbox.state import State
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    LOG_BATCH,
    arrived,
    assert_written_once,
    both_sides,
    child,
    finish,
    leftovers,
    link,
    steps,
)
from tests.infra import plain
from tests.infra.wait import eventually

REFUSAL = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "not on a Monday"})


def refused_points(linked: Proxies, names: int = 1) -> str:
    """Log a run whose last metrics the mirror refuses (and nothing afterwards); returns its id."""
    with linked.azureml.status(400, path=LOG_BATCH, content='"late', body=REFUSAL):
        with mlflow.start_run(run_name="forest") as run:
            mlflow.log_metric("loss", 0.5, step=0)
            dbml.sync(60)
            for n in range(names):
                mlflow.log_metric(f"late{n}", float(n), step=3)
        dbml.sync(60)
    return str(run.info.run_id)


def copies(home: Path) -> list[str]:
    """Return the artifacts' copies in the spool."""
    return [path for path in leftovers(home) if "/spool/" in path]


def test_nothing_refused_is_told_as_such(linked: Proxies) -> None:
    assert str(dbml.dead_letters()) == "No write was refused"
    assert "nothing to try again" in str(dbml.retry_dead_letters())
    assert "nothing to discard" in str(dbml.discard_dead_letters())


def test_a_refused_write_is_listed_and_tried_again_at_its_workspace_alone(
    linked: Proxies, servers: Servers, experiment_name: str, home: Path
) -> None:
    run_id = refused_points(linked, 2)
    found = dbml.dead_letters()
    assert [(d.workspace, d.run_id, d.run, d.what) for d in found] == [
        ("azureml", run_id, "forest", "metric late0 at step 3"),
        ("azureml", run_id, "forest", "metric late1 at step 3"),
    ]
    assert all(letter.cause and not letter.trying for letter in found)
    assert "%dbml sync --dead list shows what was refused" in str(dbml.status())
    sent = linked.databricks.count(LOG_BATCH)
    done = dbml.retry_dead_letters(run_id[:8])
    assert (dict(done.arrived), done.refused, done.waiting) == ({"azureml": 2}, (), ())
    assert "Tried 2 writes again: 2 arrived (azureml 2 writes)" in str(done)
    assert len(dbml.dead_letters()) == 0
    dbml.sync(60)
    assert linked.databricks.count(LOG_BATCH) == sent, "the other workspace has had them"
    assert set(arrived(servers, run_id, experiment_name)["metrics"]) == {"loss", "late0", "late1"}
    assert_written_once(linked)
    eventually(lambda: leftovers(home) == [], "nothing is left in the journal")


def test_what_is_refused_again_comes_back_with_its_cause(linked: Proxies) -> None:
    run_id = refused_points(linked)
    (before,) = dbml.dead_letters()
    with linked.azureml.status(400, path=LOG_BATCH, body=REFUSAL):
        done = dbml.retry_dead_letters()
    assert done.arrived == {}
    (again,) = done.refused
    assert (again.number, again.run_id, again.what) == (before.number, run_id, before.what)
    assert "not on a Monday" in again.cause
    assert again.at > before.at
    assert "✗ azureml  forest" in str(done)
    assert len(dbml.dead_letters(run_id)) == 1


def test_of_a_batch_that_was_refused_as_a_whole_what_can_arrive_does(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with mlflow.start_run() as run:
        dbml.sync(60)
        twin = plain.twin_id(servers.azureml.uri, run.info.run_id, experiment_name)
        plain.client(servers.azureml.uri).log_param(twin, "taken", "somebody else's")
    dbml.sync(60)
    engine = session.current().engine("this test")
    points = [["loss", 0.5, 1, 0], ["loss", 0.25, 2, 1]]
    whole = [0, "b", points, {"taken": "mine", "free": "1"}, {"tag": "x"}]
    engine.state.reject("azureml", run.info.run_id, whole, "no such run")
    (letter,) = dbml.dead_letters()
    assert letter.what == "2 points of loss, param taken, param free, tag tag"
    done = dbml.retry_dead_letters()
    (left,) = done.refused
    assert (left.number, left.what) == (letter.number, "param taken")
    mirror = both_sides(servers, run.info.run_id, experiment_name)[1]
    assert mirror["params"] == {"taken": "somebody else's", "free": "1"}
    assert steps(mirror, "loss") == [0, 1]


def test_a_refused_artifact_keeps_its_copy_until_it_has_arrived_or_is_given_up(
    linked: Proxies, servers: Servers, experiment_name: str, home: Path
) -> None:
    with linked.azureml.status(400, path="mlflow-artifacts", method="PUT", body=REFUSAL):
        with mlflow.start_run() as run:
            mlflow.log_text("hello", "notes/hello.txt")
            mlflow.log_text("bye" * SMALL, "notes/bye.txt")
        dbml.sync(60)
    assert [letter.what for letter in dbml.dead_letters()] == [
        "artifact notes/hello.txt",
        "artifact notes/bye.txt",
    ]
    assert len(copies(home)) == 1, "the larger one's copy waits in the spool"
    for path, text in (("hello", "hello"), ("bye", "bye" * SMALL)):
        assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/{path}.txt") == text
    assert dbml.retry_dead_letters().arrived == {"azureml": 2}
    assert sorted(arrived(servers, run.info.run_id, experiment_name)["artifacts"]) == [
        "notes/bye.txt",
        "notes/hello.txt",
    ]
    assert copies(home) == []
    with linked.azureml.status(400, path="mlflow-artifacts", method="PUT", body=REFUSAL):
        with mlflow.start_run():
            mlflow.log_text("hello", "hello.txt")
            mlflow.log_text("hello" * SMALL, "long.txt")
        dbml.sync(60)
    assert len(copies(home)) == 1
    dbml.discard_dead_letters(2)
    assert copies(home) == []


def test_a_refused_registration_is_made_when_it_is_tried_again(linked: Proxies, experiment_name: str) -> None:
    dbml.unlink()
    link(linked, registry="both")
    with mlflow.start_run() as run:
        mlflow.log_text("flavors: {}", "model/MLmodel")
    dbml.sync(60)
    client = mlflow.MlflowClient()
    with linked.azureml.status(400, path="model-versions/create", body=REFUSAL):
        client.create_registered_model(experiment_name)
        client.create_model_version(experiment_name, f"runs:/{run.info.run_id}/model", run.info.run_id)
        dbml.sync(60)
    (letter,) = dbml.dead_letters()
    assert letter.what == f"the registration of {experiment_name}"
    assert dbml.retry_dead_letters().arrived == {"azureml": 1}
    dbml.sync(60)
    assert {version.workspace for version in dbml.models(experiment_name)} == {"databricks", "azureml"}


def test_an_away_workspace_is_not_waited_for_and_gets_it_later(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    run_id = refused_points(linked)
    with linked.azureml.away():
        done = dbml.retry_dead_letters(timeout=30)
        assert [letter.trying for letter in done.waiting] == [True]
        assert "they go out when it answers" in str(done)
        assert "on its way once more" in str(dbml.dead_letters())
        assert len(dbml.retry_dead_letters(timeout=0).waiting) == 1, "one line is enough"
    dbml.sync(60)
    assert len(dbml.dead_letters()) == 0
    assert steps(arrived(servers, run_id, experiment_name), "late0") == [3]
    assert_written_once(linked)


def test_a_crash_while_it_is_tried_again_neither_loses_nor_doubles_it(
    linked: Proxies, servers: Servers, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = refused_points(linked)
    settle, crashes = State.settle_dead, [OSError("the disk went away")]

    def crash(state: State, number: int, refused: Any) -> None:
        if crashes:
            raise crashes.pop()
        settle(state, number, refused)

    monkeypatch.setattr(State, "settle_dead", crash)
    engine = session.current().engine("this test")
    number = dbml.dead_letters()[0].number
    with linked.azureml.drop(path=LOG_BATCH, times=1):
        engine.recorder.write(run_id, RetryDeadLetter("azureml", number))
        engine.recorder.write(run_id, RetryDeadLetter("azureml", number))  # asked for twice
        assert dbml.retry_dead_letters().arrived == {"azureml": 1}
    dbml.sync(60)
    assert not crashes
    assert len(dbml.dead_letters()) == 0
    assert steps(arrived(servers, run_id, experiment_name), "late0") == [3]
    assert_written_once(linked)


@pytest.mark.full
def test_another_process_that_was_killed_after_asking_has_asked(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    run_id = refused_points(linked)
    script = f"""
        import os
        import dbml_magics as dbml
        from dbml_magics.core import session
        from dbml_magics.core.model.operations import RetryDeadLetter
        dbml.link(again=True)
        engine = session.current().engine("this test")
        engine.recorder.write({run_id!r}, RetryDeadLetter("azureml", {dbml.dead_letters()[0].number}))
        os._exit(0)
    """
    finish(child(script))
    dbml.sync(60)
    assert len(dbml.dead_letters()) == 0
    assert steps(arrived(servers, run_id, experiment_name), "late0") == [3]


def test_giving_up_wants_the_count_typed(linked: Proxies, servers: Servers, experiment_name: str) -> None:
    run_id = refused_points(linked, 3)
    for wrong in (None, 2):
        with pytest.raises(dbml.NotConfirmed, match="3 refused writes would be given up for good") as refused:
            dbml.discard_dead_letters(wrong, run="last")
        assert "azureml  forest" in str(refused.value)
        assert "metric late2 at step 3" in str(refused.value)
        assert refused.value.remedies[0][0] == "%dbml sync --dead discard --run last --confirm 3"
    assert len(dbml.dead_letters()) == 3
    engine = session.current().engine("this test")
    with linked.azureml.away():
        engine.recorder.write(run_id, RetryDeadLetter("azureml", dbml.dead_letters()[0].number))
        assert "Discarded 3 refused writes" in str(dbml.discard_dead_letters(3))
    dbml.sync(60)
    assert set(both_sides(servers, run_id, experiment_name)[1]["metrics"]) == {"loss"}
    with pytest.raises(dbml.RunNotFound) as unknown:
        dbml.dead_letters("f" * 32)
    assert unknown.value.remedies


def test_a_damaged_line_cannot_be_tried_again_and_says_so(linked: Proxies) -> None:
    engine = session.current().engine("this test")
    engine.state.reject("azureml", "link", [0, "?", "{{{"], "this line of the journal is damaged")
    done = dbml.retry_dead_letters()
    assert "1 line of the journal is damaged and cannot be tried again" in str(done)
    (letter,) = dbml.dead_letters()
    assert (letter.what, letter.run_id, letter.where) == ("a damaged line of the journal", None, "—")
    assert len(dbml.discard_dead_letters(1).letters) == 1


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ([0, "p", "depth", "4"], "param depth"),
        ([0, "g", "note", "x"], "tag note"),
        ([0, "G", "note"], "the removal of tag note"),
        ([0, "t", ["azureml"], "k", "v"], "tag k"),
        ([0, "b", [], {f"p{n}": "" for n in range(5)}, {}], "param p0, param p1, param p2, 2 more params"),
        ([0, "u", {}], "the run's status or name"),
        ([0, "L", {"name": "net"}], "model net"),
        ([0, "W", {"do": "version_tag", "name": "wine"}], "version tag of model wine"),
        ([0, "e", {"do": "rename", "id": "900"}], "rename of an experiment"),
        ([0, "m"], "a write (m)"),
    ],
)
def test_every_write_has_words(op: list[Any], words: str) -> None:
    assert decode(op).describe() == words
