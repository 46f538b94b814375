"""A folder that release 0.1 left behind, with both workspaces away: opened, delivered, and once.

``first_release/`` is such a folder's journal as it stood on disk, and its state as SQL: two runs and a nested
one that had ended, one that was killed, files, a dataset, a logged model, a registered version with its alias
and a write that had been refused. Release 0.1 wrote them; nothing of them is made by today's code.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import Proxies, Servers
from tests.core.histories import SETTINGS
from tests.core.linking import arrived, assert_written_once, steps
from tests.infra import plain
from tests.infra.actors import Actor, ActorHost

LEFT = Path(__file__).parent / "first_release"
PARENT, CHILD = "fca2e4314da74dc9ac00ca4799a6da3f", "22a1cd9e3589494fbec814256b8467d3"
FAILED, KILLED = "3b4bc04940124cf28d025d9cc46177e8", "7271193036f24d8695dbc1867a77bde6"
COPIED = "18ece207f1d7b4f2-366-c87ae123"  # notes/long.txt
NAMES = ("older", "wine-older")  # of its experiment and its registered model


@pytest.fixture
def opened(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, actor_host: ActorHost
) -> Iterator[Actor]:
    """Return a process of today on a link whose folder is the one that release 0.1 left."""

    def process() -> Actor:
        actor = actor_host.start(home, home.parent / "work", **SETTINGS)
        actor.do(
            "link", databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, registry="databricks"
        )
        return actor

    for proxy in proxies:
        proxy.keep_bodies()
    process().leave()  # the link's own folder, named for these servers
    (place,) = (home / "links").iterdir()
    put_there(place, experiment_name)
    today = process()
    yield today
    today.leave()


def put_there(place: Path, experiment: str) -> None:
    """Put what release 0.1 left in the place of what a link's folder has, under another experiment's name."""

    def renamed(text: str) -> str:
        return text.replace("wine-older", f"wine-{experiment}").replace("older", experiment)

    for path in (*place.glob("state.db*"), *place.glob("queues/*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in LEFT.glob("queues/*/*"):
        there = place / path.relative_to(LEFT)
        there.parent.mkdir(mode=0o700, parents=True)
        there.write_text(renamed(path.read_text()))
        there.chmod(0o600)
    with closing(sqlite3.connect(place / "state.db")) as db:
        db.executescript(renamed((LEFT / "state.sql").read_text()))
    os.chmod(place / "state.db", 0o600)
    (place / "spool").mkdir(mode=0o700, exist_ok=True)
    (place / "spool" / COPIED).write_text("long " * 4000)


def test_everything_that_waited_arrives_at_both_workspaces_once(
    opened: Actor, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    opened.do("sync", timeout=120)
    held = {run: arrived(servers, run, experiment_name) for run in (PARENT, CHILD, FAILED, KILLED)}
    assert_written_once(proxies)
    found = opened.do("verify", experiment=experiment_name, deep=True)
    assert (found["compared"], found["differences"]) == (4, []), found["text"]
    parent = held[PARENT]
    assert parent["params"] == {"depth": "3", "lr": "0.1"}
    assert parent["tags"]["team"] == "wine"
    assert parent["tags"]["mlflow.note.content"] == "a note"
    assert "gone" not in parent["tags"], "a tag that was deleted before the process ended is deleted"
    assert steps(parent, "loss") == list(range(20))
    assert {"nan", "inf", "a", "b"} <= parent["metrics"].keys()
    assert set(parent["artifacts"]) >= {"notes/hello.txt", "notes/long.txt"}
    assert held[CHILD]["tags"]["mlflow.parentRunId"] == parent["run_id"]
    assert [held[run]["status"] for run in (PARENT, CHILD, FAILED)] == ["FINISHED", "FINISHED", "FAILED"]
    assert steps(held[KILLED], "m") == [1]


def test_its_model_is_registered_with_its_alias(
    opened: Actor, servers: Servers, experiment_name: str
) -> None:
    opened.do("sync", timeout=120)
    registry = MlflowClient(servers.databricks.uri, servers.databricks.uri)
    version = registry.get_model_version_by_alias(f"wine-{experiment_name}", "champion")
    assert version.version == "1"
    run = plain.twin_id(servers.databricks.uri, PARENT, experiment_name)
    assert version.run_id == run
    for server in servers:
        own = plain.twin_id(server.uri, PARENT, experiment_name)
        assert own is not None
        experiment = MlflowClient(server.uri).get_run(own).info.experiment_id
        (model,) = MlflowClient(server.uri).search_logged_models([experiment])
        assert (model.name, model.source_run_id, model.params) == ("model", own, {"p": "1"})
        assert model.tags["t"] == "2"


def test_a_write_that_it_had_put_aside_can_be_sent_again(
    opened: Actor, servers: Servers, experiment_name: str
) -> None:
    ((role, queue, _, cause),) = opened.do("dead")
    assert (role, queue, cause) == ("azureml", PARENT, "it was refused")
    opened.do("retry", timeout=120)
    assert opened.do("dead") == []
    own = plain.twin_id(servers.azureml.uri, PARENT, experiment_name)
    assert own is not None
    assert plain.run(servers.azureml.uri, own, files=False)["tags"]["refused"] == "x"
