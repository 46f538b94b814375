"""A link's folder that was restored, copied, or lost a part of itself: what waits in it arrives once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.outbox import provenance
from tests.conftest import Proxies, Servers
from tests.core.histories import SETTINGS
from tests.core.linking import arrived, assert_written_once, link, runs_at, steps
from tests.infra import plain
from tests.infra.actors import Actor, ActorHost
from tests.infra.wait import eventually


class World:
    """Processes on one link, one after another."""

    def __init__(self, host: ActorHost, home: Path, proxies: Proxies, experiment: str) -> None:
        self.host, self.home, self.experiment = host, home, experiment
        self.uris = {"databricks": proxies.databricks.uri, "azureml": proxies.azureml.uri}
        first = self.process()
        self.experiment_id = first.do("create_experiment", name=experiment, tags={})
        first.do("sync", timeout=60)
        first.leave()

    def process(self, home: Path | None = None) -> Actor:
        """Start a process on the link."""
        actor = self.host.start(home or self.home, self.home.parent / "work", **SETTINGS)
        actor.do("link", **self.uris)
        return actor

    def log_a_run(self, name: str) -> str:
        """Log a run of 300 points, a param and a file in a process that is then killed."""
        actor = self.process()
        (run_id,) = actor.do(
            "train",
            experiment=self.experiment_id,
            name=name,
            label=name,
            inner=None,
            points=[("m", str(step), 1790000000000 + step, step) for step in range(300)],
            params={"p": "1"},
        )
        actor.kill()
        return str(run_id)

    def deliver(self, home: Path | None = None) -> None:
        """Have a new process deliver everything."""
        actor = self.process(home)
        actor.do("sync", timeout=60)
        actor.leave()

    def deliver_to_the_primary(self, servers: Servers, run_id: str) -> None:
        """Have a new process deliver a run to the primary, and kill it."""
        actor = self.process()
        uri = servers.databricks.uri
        eventually(
            lambda: plain.run(uri, run_id, files=False)["status"] == "FINISHED",
            f"the primary has the whole run {run_id}",
        )
        actor.kill()


@pytest.fixture
def world(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, actor_host: ActorHost
) -> World:
    for proxy in proxies:
        proxy.keep_bodies()
    return World(actor_host, home, proxies, experiment_name)


def assert_there_once(world: World, proxies: Proxies, servers: Servers, *run_ids: str) -> None:
    """Check that both workspaces have just these runs, each with all of its points, sent once."""
    assert runs_at(servers, world.experiment) == [len(run_ids)] * 2
    for run_id in run_ids:
        assert steps(arrived(servers, run_id, world.experiment), "m") == list(range(300))
    assert_written_once(proxies)


def copy_to(there: Path, home: Path) -> None:
    shutil.copytree(home, there, symlinks=True)


def put_back(home: Path, backup: Path) -> None:
    shutil.rmtree(home)
    shutil.copytree(backup, home, symlinks=True)


def put_back_in_place(home: Path, backup: Path) -> None:
    """Restore each file into the file that is there, as ``cp -a`` does: their inodes stay."""
    for path in home.rglob("*"):
        if path.is_file() and not (backup / path.relative_to(home)).exists():
            path.unlink()
    shutil.copytree(backup, home, symlinks=True, dirs_exist_ok=True)


def lose(*names: str) -> Callable[[Path, Path], None]:
    """Return what puts the journal back but loses these files of the state."""

    def lost(home: Path, backup: Path) -> None:
        put_back(home, backup)
        for name in names:
            for path in home.glob(f"links/*/{name}"):
                path.unlink()

    return lost


def only_the_state(home: Path, backup: Path) -> None:
    for path in backup.glob("links/*/state.db*"):
        shutil.copy2(path, home / path.relative_to(backup))


HARM: dict[str, Callable[[Path, Path], None]] = {
    "put back": put_back,
    "put back in place": put_back_in_place,
    "put back, its state lost": lose("state.db", "state.db-wal", "state.db-shm"),
    "put back, its wal lost": lose("state.db-wal", "state.db-shm"),
    "put back, state and counts lost": lose("state.db*", "*.count", "*.lease"),
}


@pytest.mark.full
@pytest.mark.parametrize("harm", HARM)
def test_a_folder_that_is_older_than_its_deliveries_doubles_nothing(
    home: Path, proxies: Proxies, servers: Servers, world: World, tmp_path: Path, harm: str
) -> None:
    """Backed up while all of one run waits, and the mirror's part of another; delivered; put back."""
    backup = tmp_path / "backup"
    with proxies.azureml.away():
        named = world.log_a_run("named by the primary")
        world.deliver_to_the_primary(servers, named)
        with proxies.databricks.away():
            provisional = world.log_a_run("named here")
        copy_to(backup, home)
    world.deliver()
    HARM[harm](home, backup)
    world.deliver()
    assert_there_once(world, proxies, servers, named, provisional)


@pytest.mark.full
def test_a_copy_on_another_machine_and_the_original_deliver_once(
    home: Path, proxies: Proxies, servers: Servers, world: World, tmp_path: Path
) -> None:
    with proxies.azureml.away(), proxies.databricks.away():
        run_id = world.log_a_run("one")
    clone = tmp_path / "clone"
    copy_to(clone, home)
    world.deliver(clone)
    world.deliver()
    assert_there_once(world, proxies, servers, run_id)


@pytest.mark.full
def test_a_state_that_is_older_than_its_journal_is_told_of(
    home: Path, proxies: Proxies, servers: Servers, world: World, tmp_path: Path
) -> None:
    """The state alone is put back: all of the journal is in doubt, and status says why."""
    with proxies.azureml.away():
        first = world.log_a_run("first")
        backup = tmp_path / "backup"
        copy_to(backup, home)
        second = world.log_a_run("second")
        world.deliver_to_the_primary(servers, second)
    only_the_state(home, backup)
    link(proxies, registry="both")
    dbml.sync(timeout=60)
    assert any("older than what was delivered" in note for note in session.current().status().notes)
    assert_there_once(world, proxies, servers, first, second)


def test_what_names_a_run_to_the_user_is_on_the_disk_first(
    home: Path, proxies: Proxies, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with mlflow.start_run() as run:
        assert any(run.info.run_id in path for path in synced)
        synced.clear()
        model = mlflow.create_external_model(name="m")
        assert any(run.info.run_id in path for path in synced), f"{model.model_id} was named before"


def test_a_copy_and_a_restored_file_are_another_place(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    (home / "state.db").write_text("state")
    shutil.copytree(home, copy)
    here = provenance.place_of(home, home / "state.db")
    assert here == provenance.place_of(home, home / "state.db")
    assert here != provenance.place_of(copy, copy / "state.db")
    (home / "new").write_text("state")
    os.replace(home / "new", home / "state.db")
    assert here != provenance.place_of(home, home / "state.db")
