"""A workspace restored from a backup: ids that the link remembers mean somebody else's experiment by then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.outbox.state import State
from dbml_magics.results.reconcile import ABSENT, LOST, RepairResult, VerifyResult
from tests.conftest import Proxies, Servers
from tests.core import linking
from tests.infra import plain
from tests.infra.hostile import Answer, Hostile, Request
from tests.infra.servers import Server
from tests.infra.wait import eventually


class Backup:
    """What a server had; ``restore`` puts it back, and ``meanwhile`` nobody answers."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        server.stop()
        shutil.copytree(server.folder, folder)
        server.start()

    def restore(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.server.stop()
        meanwhile()
        for file in self.server.folder.glob("*.db*"):
            file.unlink()
        for file in self.folder.glob("*.db*"):
            shutil.copy(file, self.server.folder)
        self.server.start()


def state() -> State:
    return session.current().engine("this test").state


def a_run(name: str, **metrics: float) -> str:
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_param("who", name)
        for key, value in (metrics or {"loss": 0.5}).items():
            mlflow.log_metric(key, value)
        mlflow.log_text(name, "notes.txt")
    return str(run.info.run_id)


def strangers(client: MlflowClient, wanted: str, name: str) -> str:
    """Let somebody else make experiments until one has the id ``wanted``."""
    for number in range(20):
        if client.create_experiment(f"{name}-{number}" if number else name) == wanted:
            return f"{name}-{number}" if number else name
    raise AssertionError(f"the server did not give the id {wanted} again")


def kinds(result: VerifyResult | RepairResult) -> set[tuple[str, str]]:
    found = (
        result.differences if isinstance(result, VerifyResult) else [r.difference for r in result.remaining]
    )
    return {(d.kind, d.key) for d in found}


@pytest.fixture
def clients(servers: Servers) -> tuple[MlflowClient, MlflowClient]:
    """Return plain clients of both workspaces, which know nothing of the link."""
    return MlflowClient(servers.databricks.uri), MlflowClient(servers.azureml.uri)


def restored(
    side: int, name: str, proxies: Proxies, servers: Servers, folder: Path, *, logged: bool = True
) -> tuple[str, str, str]:
    """Link, log, restore one side and let its id be given again; returns (run, its id there, the other)."""
    linking.link(proxies)
    backup = Backup(servers[side], folder / "backup")
    dbml.experiment(name)
    run = a_run("ours") if logged else ""
    dbml.sync(60)
    there = MlflowClient(servers[side].uri)
    own = there.get_experiment_by_name(name).experiment_id
    backup.restore(lambda: mlflow.search_experiments())
    return run, own, strangers(there, own, f"theirs-of-{name}")


@pytest.mark.full
def test_a_reused_id_of_the_primary_renames_nothing_and_prunes_nothing_until_a_person_says_so(
    home: object,
    proxies: Proxies,
    servers: Servers,
    clients: tuple[MlflowClient, MlflowClient],
    experiment_name: str,
    tmp_path: Path,
) -> None:
    run, own, theirs = restored(0, experiment_name, proxies, servers, tmp_path)
    primary, mirror = clients
    twin = plain.twin_id(servers.azureml.uri, run, experiment_name)
    assert twin is not None
    found = dbml.verify()
    assert (LOST, "experiment") in kinds(found), f"the experiment is lost at the primary: {found}"
    lost = next(
        d for d in found.differences if (d.kind, d.key, d.name) == (LOST, "experiment", experiment_name)
    )
    assert theirs in str(lost.databricks), "what has its id now is named"
    assert [d.run for d in found.differences if (d.kind, d.key) == (LOST, "run")] == [run]
    assert not [d for d in found.differences if d.kind == "experiment" and d.key == "name"], str(found)

    for prune, confirm in ((False, False), (True, False), (True, True)):
        done = dbml.repair(experiment=experiment_name, prune=prune, confirm=confirm)
        assert {(LOST, "experiment"), (LOST, "run")} <= kinds(done), f"{prune=}, {confirm=}: {done}"
        words = [r.done for r in done.remaining if r.difference.kind == LOST]
        assert all(
            "--from azureml" in said or "from='azureml'" in said or "source=" in said for said in words
        )
    assert mirror.get_experiment_by_name(experiment_name) is not None, "the mirror's keeps its name"
    assert mirror.get_run(twin).info.lifecycle_stage == "active", "the only copy of a run is not deleted"
    assert primary.get_experiment(own).name == theirs
    assert not primary.search_runs([own]), "nothing of ours is in it"

    back = dbml.repair(experiment=experiment_name, source="azureml")
    assert not [r for r in back.remaining if r.difference.kind != LOST], str(back)
    linking.arrived(servers, run, experiment_name)
    after = dbml.verify(experiment=experiment_name)
    assert after.equal, f"what a person asked for is done: {after}"
    assert mlflow.get_run(run).data.params == {"who": "ours"}, "and the run has the id that people know"
    assert primary.get_experiment(own).name == theirs


@pytest.mark.full
def test_what_is_logged_on_after_a_restore_goes_to_no_other_experiment(
    home: object,
    proxies: Proxies,
    servers: Servers,
    clients: tuple[MlflowClient, MlflowClient],
    experiment_name: str,
    tmp_path: Path,
) -> None:
    _, own, theirs = restored(0, experiment_name, proxies, servers, tmp_path)
    primary, mirror = clients
    run = a_run("later")  # its experiment's id is still the active one
    dbml.sync(60)
    assert not primary.search_runs([own]), "a run of ours is in somebody else's experiment"
    linking.arrived(servers, run, experiment_name)
    assert [e.name for e in mirror.search_experiments() if e.name.startswith("theirs")] == []
    assert mlflow.get_run(run).info.experiment_id == own, "the id that the user knows means the user's own"

    mlflow.set_experiment(theirs)  # through the link theirs is another one, whatever its number
    other = a_run("for them")
    dbml.sync(60)
    assert [r.info.run_name for r in primary.search_runs([own])] == ["for them"]
    linking.arrived(servers, other, theirs)
    known = sorted(e.name for e in mlflow.search_experiments() if experiment_name in e.name)
    assert known == sorted(e.name for e in primary.search_experiments() if experiment_name in e.name)
    mlflow.set_experiment(experiment_name)
    third = a_run("once more ours")
    dbml.sync(60)
    linking.arrived(servers, third, experiment_name)
    assert len(primary.search_runs([own])) == 1


@pytest.mark.full
def test_another_process_that_goes_on_after_a_restore_mixes_nothing(
    home: object,
    proxies: Proxies,
    servers: Servers,
    clients: tuple[MlflowClient, MlflowClient],
    experiment_name: str,
    tmp_path: Path,
) -> None:
    _, own, _ = restored(0, experiment_name, proxies, servers, tmp_path)
    code = """
        import mlflow, dbml_magics as dbml
        dbml.link(again=True)
        with mlflow.start_run(run_name="of a child") as run:
            mlflow.log_metric("x", 1)
        dbml.sync(60)
        print(run.info.run_id)
    """
    run = linking.finish(linking.child(code, MLFLOW_EXPERIMENT_ID=own)).split()[-1]
    assert not clients[0].search_runs([own]), "a run of ours is in somebody else's experiment"
    linking.arrived(servers, run, experiment_name)


@pytest.mark.full
def test_what_waited_during_a_restore_goes_to_no_other_experiment(
    home: object,
    proxies: Proxies,
    servers: Servers,
    clients: tuple[MlflowClient, MlflowClient],
    experiment_name: str,
    tmp_path: Path,
) -> None:
    linking.link(proxies)
    backup = Backup(servers.databricks, tmp_path / "backup")
    dbml.experiment(experiment_name)
    dbml.sync(60)
    own = clients[0].get_experiment_by_name(experiment_name).experiment_id
    with proxies.databricks.away():
        run = a_run("begun while it was away")
        backup.restore()
        strangers(clients[0], own, f"theirs-of-{experiment_name}")
    dbml.sync(60)
    assert not clients[0].search_runs([own]), "a run of ours is in somebody else's experiment"
    linking.arrived(servers, run, experiment_name)


def test_a_restored_mirror_gets_its_runs_again_in_an_experiment_of_their_own(
    home: object,
    proxies: Proxies,
    servers: Servers,
    clients: tuple[MlflowClient, MlflowClient],
    experiment_name: str,
    tmp_path: Path,
) -> None:
    run, own, theirs = restored(1, experiment_name, proxies, servers, tmp_path)
    primary, mirror = clients
    assert {(LOST, "experiment"), (LOST, "run")} <= kinds(dbml.verify(experiment=experiment_name))
    done = dbml.repair(experiment=experiment_name)
    assert [(r.difference.kind, r.difference.run) for r in done.repaired] == [(LOST, run)], str(done)
    linking.arrived(servers, run, experiment_name)
    later = a_run("later")
    dbml.sync(60)
    linking.arrived(servers, later, experiment_name)
    assert mirror.get_experiment(own).name == theirs
    assert not mirror.search_runs([own])
    assert primary.get_experiment_by_name(experiment_name) is not None
    assert dbml.verify(experiment=experiment_name).equal


@pytest.mark.full
def test_another_experiment_of_the_same_name_is_not_taken_for_the_lost_one_until_it_is_named(
    home: object,
    proxies: Proxies,
    servers: Servers,
    clients: tuple[MlflowClient, MlflowClient],
    experiment_name: str,
    tmp_path: Path,
) -> None:
    linking.link(proxies)
    backup = Backup(servers.databricks, tmp_path / "backup")
    dbml.experiment(experiment_name)
    run = a_run("ours")
    dbml.sync(60)
    primary, mirror = clients
    backup.restore(lambda: mlflow.search_experiments())
    theirs = primary.create_experiment(experiment_name)
    stranger = primary.create_run(theirs, run_name="a stranger's").info.run_id
    primary.set_experiment_tag(theirs, "owner", "somebody else")

    done = dbml.repair(experiment=experiment_name)
    assert {(LOST, "experiment"), (LOST, "run")} <= kinds(done), str(done)
    assert not done.repaired, f"nothing is mixed: {done}"
    ours = mirror.get_experiment_by_name(experiment_name)
    assert [r.info.run_name for r in mirror.search_runs([ours.experiment_id])] == ["ours"]
    assert "owner" not in ours.tags
    words = [r.done for r in done.remaining if r.difference.run == stranger]
    assert any("experiment" in said and "yours" in said for said in words), f"the way out is named: {done}"

    dbml.experiment(experiment_name)  # a person's word
    back = dbml.repair(experiment=experiment_name, source="azureml")
    assert run in [r.difference.run for r in back.repaired], str(back)
    dbml.repair(experiment=experiment_name)
    linking.arrived(servers, run, experiment_name)
    assert dbml.verify(experiment=experiment_name).equal
    assert len(primary.search_runs([theirs])) == 2


@pytest.mark.full
@pytest.mark.parametrize("replaced", [False, True], ids=["renamed", "replaced"])
def test_what_an_older_link_remembers_is_completed_at_first_sight_unless_it_is_another_one(
    home: object,
    proxies: Proxies,
    servers: Servers,
    clients: tuple[MlflowClient, MlflowClient],
    experiment_name: str,
    tmp_path: Path,
    replaced: bool,
) -> None:
    linking.link(proxies)
    backup = Backup(servers.databricks, tmp_path / "backup")
    dbml.experiment(experiment_name)
    run = a_run("ours")
    dbml.sync(60)
    primary, mirror = clients
    own = primary.get_experiment_by_name(experiment_name).experiment_id
    for role in ("databricks", "azureml"):  # as a link of before has it
        known = state().identity(role, "experiment", own)
        assert known is not None
        state().set_identity(role, "experiment", own, known.actual)
    session.current().engine("this test").side("databricks").experiments._looked.clear()
    if replaced:
        backup.restore()
        strangers(primary, own, f"theirs-of-{experiment_name}")
    else:
        primary.rename_experiment(own, f"new-{experiment_name}")
    found = dbml.verify()
    of_ours = {(d.kind, d.key) for d in found.differences if experiment_name in d.name or d.run == run}
    if replaced:
        assert of_ours >= {(LOST, "experiment"), (LOST, "run")}, str(found)
        assert ("experiment", "name") not in of_ours
        return
    assert of_ours == {("experiment", "name")}, f"a rename is a rename: {found}"
    known_there = state().identity("databricks", "experiment", own)
    assert known_there is not None
    assert known_there.extra["created"] == primary.get_experiment(own).creation_time
    dbml.repair()
    assert mirror.get_experiment_by_name(f"new-{experiment_name}") is not None


def test_a_run_whose_id_means_another_one_is_neither_mended_nor_pruned(
    home: object, servers: Servers, experiment_name: str
) -> None:
    with Hostile(servers.databricks.uri) as hostile:
        dbml.link(databricks=hostile.uri, azureml=servers.azureml.uri)
        dbml.experiment(experiment_name)
        run = a_run("ours")
        dbml.sync(60)

        def another(_: Request, answer: Answer) -> Answer:
            payload = json.loads(answer.body)
            for each in [*payload.get("runs", []), *([payload["run"]] if "run" in payload else [])]:
                if each["info"]["run_id"] == run:
                    each["info"]["start_time"] += 1_000_000
                    each["info"]["run_name"] = "somebody else's"
                    each["data"] = {"params": [{"key": "theirs", "value": "1"}]}
            return Answer(answer.status, json.dumps(payload).encode(), answer.headers)

        hostile.rewrite(another, path="runs/(search|get)$")
        done = dbml.repair(experiment=experiment_name, prune=True, confirm=True)
        assert kinds(done) == {(LOST, "run")}, str(done)
        assert not done.repaired
        values: Any = done.remaining[0].difference
        assert "somebody else's" in str(values.databricks)
        assert values.azureml is not ABSENT
    mirror = MlflowClient(servers.azureml.uri)
    twin = plain.twin_id(servers.azureml.uri, run, experiment_name)
    assert twin is not None
    assert mirror.get_run(twin).data.params == {"who": "ours"}


def test_an_experiment_whose_new_name_is_on_its_way_is_not_taken_for_another_one(
    home: object, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """It is renamed while the mirror is away: what is known is looked at anew once that answers."""
    linking.link(proxies)
    client = MlflowClient()
    made = client.create_experiment(experiment_name)
    dbml.sync(60)
    known = state().identity("azureml", "experiment", made)
    assert known is not None
    state().set_identity("azureml", "experiment", made, known.actual)  # as a link of before has it
    with proxies.azureml.away():
        for number in (1, 2):
            client.rename_experiment(made, f"{experiment_name}-{number}")
        engine = session.current().engine("this test")
        eventually(lambda: engine.health["azureml"].away, "the link notices that the mirror is away")
    dbml.sync(60)
    for server in servers:
        held = MlflowClient(server.uri).search_experiments(filter_string=f"name LIKE '{experiment_name}%'")
        assert [each.name for each in held] == [f"{experiment_name}-2"], f"{server.name} has {held}"
