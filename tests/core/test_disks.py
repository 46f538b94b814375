"""Disks: the journal on a local one wherever the notebook lies, and what happens when it fails."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.common import config, disks
from dbml_magics.core import session
from dbml_magics.core.outbox import queue_file, spool
from dbml_magics.core.outbox import spares as spares_module
from dbml_magics.core.outbox.spool import SMALL
from dbml_magics.core.outbox.state import State
from dbml_magics.core.remembered_links import remembered
from dbml_magics.errors import JournalDamaged, JournalFull
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    arrived,
    assert_written_once,
    child,
    dead_letters,
    finish,
    leftovers,
    link,
    own_id,
    runs_at,
    steps,
    sync,
)
from tests.infra import plain
from tests.infra.wait import eventually

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
fileserver:/export /mnt/shared nfs4 rw 0 0
//server/share /mnt/win\\040dows cifs rw 0 0
blobfuse2 /mnt/blobs fuse.blobfuse2 rw 0 0
tmpfs /mnt/blobs/local tmpfs rw 0 0
wsl /mnt/c 9p rw 0 0
overlay /mnt/overlay overlay rw 0 0
"""


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the table of mounts that this test's machine has."""
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    monkeypatch.setattr(disks, "MOUNTS", table)
    return table


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return an empty disk of 6 MB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("a disk can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def spares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the one other disk that this machine has."""
    place = tmp_path / "spare"
    place.mkdir(mode=0o700)
    monkeypatch.setattr(disks, "spare_folders", lambda: iter((place / "mine",)))
    for cached in (config._data_home, config._spare_folders):
        cached.cache_clear()
    yield place / "mine"
    for cached in (config._data_home, config._spare_folders):
        cached.cache_clear()


def fill(place: Path) -> Path:
    """Leave no byte free on a disk; returns the file that does it."""
    ballast = place / "ballast"
    with open(ballast, "ab", buffering=0) as out:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while out.write(b"x" * size):
                    pass
            except OSError:
                continue
    return ballast


# --- which disk


@pytest.mark.parametrize(
    ("path", "kind", "why"),
    [
        ("/home/me", "ext4", None),
        ("/mnt/shared/me", "nfs4", "a network disk (NFS)"),
        ("/mnt/sharedness", "ext4", None),
        ("/mnt/win dows/me", "cifs", "a network disk (SMB)"),
        ("/mnt/blobs", "fuse.blobfuse2", "a FUSE mount"),
        ("/mnt/blobs/local/me", "tmpfs", None),
        ("/mnt/c/Users/me", "9p", "a network disk"),
        ("/mnt/overlay", "overlay", None),
    ],
)
def test_the_kind_of_a_disk_is_that_of_the_innermost_mount(
    mounted: Path, path: str, kind: str, why: str | None
) -> None:
    assert disks.file_system(Path(path)) == kind
    assert disks.why_unfit(Path(path)) == why


def test_where_the_system_tells_no_mounts_every_disk_is_local(tmp_path: Path) -> None:
    assert disks.why_unfit(tmp_path, tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/Workspace/Users/me", "a Databricks workspace folder"),
        ("/Workspace/Repos/me/project", "a Databricks workspace folder"),
        ("/dbfs/home", "DBFS"),
        ("/Volumes/main/ml/x", "a Unity Catalog volume"),
    ],
)
def test_databricks_folders_are_known_by_name(
    monkeypatch: pytest.MonkeyPatch, mounted: Path, path: str, why: str
) -> None:
    assert disks.why_unfit(Path(path)) is None  # /Volumes is where macOS mounts its disks
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "16.4")
    assert disks.why_unfit(Path(path)) == why


def test_a_git_folder_is_none_for_a_journal_but_a_home_that_is_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "me" / "project"
    (project / ".git").mkdir(parents=True)
    (tmp_path / "me" / ".git").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert disks.why_unfit(project / ".dbml-home") == "a git folder"
    assert disks.why_unfit(tmp_path / "me" / ".local" / "share") is None


@pytest.mark.full
def test_a_data_folder_on_a_network_disk_is_avoided_with_a_sentence(
    home: Path, spares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/home {home} nfs rw 0 0\n")
    monkeypatch.setattr(disks, "MOUNTS", table)
    linked = dbml.link(local=True)
    said = f"{home} is on a network disk (NFS), where no journal can be: links and journals are in {spares}"
    assert said in str(linked)
    with mlflow.start_run():
        mlflow.log_metric("m", 1)
    dbml.sync(60)
    assert [path.name for path in home.iterdir()] == ["tables"], "the link between tests alone"
    assert (spares / "links").stat().st_mode & 0o777 == 0o700
    session.current().unlink()
    assert dbml.link(again=True).uri == linked.uri


def test_a_data_folder_that_cannot_be_written_is_left_for_another(
    home: Path, spares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_HOME", "/proc/nothing-here")
    linked = dbml.link(local=True)
    assert "/proc/nothing-here cannot be written: links and journals are in" in str(linked)
    with mlflow.start_run():
        mlflow.log_metric("m", 1)
    dbml.sync(60)


def test_another_users_folder_in_a_shared_place_is_no_place(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    assert disks.is_own(theirs)
    theirs.chmod(0o777)
    assert not disks.is_own(theirs)
    link_to = tmp_path / "link"
    link_to.symlink_to(tmp_path)
    assert not disks.is_own(link_to)
    if os.getuid() == 0:
        theirs.chmod(0o700)
        os.chown(theirs, 12345, 12345)
        assert not disks.is_own(theirs)


# --- a disk that fails


def test_a_small_file_is_lent_on_another_disk_where_the_full_one_takes_a_folder_alone(
    small: Path, spares: Path, tmp_path: Path
) -> None:
    made = spool.Spool(spares_module.Spares(small / "link", [spares]))
    (small / "link" / "spool").mkdir(parents=True)
    (tmp_path / "before.txt").write_text("before")
    kept = spool.kept_small(tmp_path / "before.txt")
    assert kept is not None
    fill(small)
    with made.lent(kept, "before.txt", "azureml") as lent:
        assert lent is not None
        assert (lent.read_text(), lent.is_relative_to(spares)) == ("before", True)
    assert [*(small / "link" / "spool").iterdir()] == []


def test_a_training_goes_on_when_the_journals_disk_is_full_and_nothing_is_lost(
    home: Path,
    small: Path,
    spares: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DBML_HOME", str(small))
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    with mlflow.start_run() as run:
        for step in range(50):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_text("before", "before.txt")
        ballast = fill(small)
        for step in range(50, 400):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_params({f"p{n}": "v" * 200 for n in range(50)})
        mlflow.log_text("after", "after.txt")
        with proxies.azureml.status(503, path="mlflow-artifacts/artifacts/", method="PUT"):
            # What is delivered meanwhile frees bytes of the full disk, where the copy may fit: again, then.
            for _ in range(100):
                fill(small)
                mlflow.log_text("copied" * SMALL, "copied.txt")
                if any(path.is_file() for path in spares.rglob("spool/*")):
                    break
            else:
                pytest.fail("of 100 files written on a full disk, none was kept on the other disk")
        assert len(MlflowClient().get_metric_history(run.info.run_id, "m")) == 400
        with mlflow.start_run(nested=True) as child_run:
            mlflow.log_metric("m", 1)
    said = [record.getMessage() for record in caplog.records if "is full" in record.getMessage()]
    assert len(said) == 1, said
    assert f"Writes are kept in {spares}" in said[0]
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert steps(held, "m") == list(range(400))
    assert (len(held["params"]), sorted(held["artifacts"])) == (50, ["after.txt", "before.txt", "copied.txt"])
    assert not [path for path in spares.rglob("spool/*") if path.is_file()], "the copy has arrived"
    assert steps(arrived(servers, child_run.info.run_id, experiment_name), "m") == [0]
    assert_written_once(proxies)
    ballast.unlink()
    session.current().unlink()


@pytest.mark.full
def test_runs_begin_and_end_on_a_disk_that_stays_full(
    home: Path,
    small: Path,
    spares: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else takes each byte that comes free, so the state has to leave the disk, too."""
    monkeypatch.setenv("DBML_HOME", str(small))
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    ballast = fill(small)

    def is_elsewhere() -> bool:
        return any(spares.rglob("state-*.db"))

    begun: list[str] = []
    with mlflow.start_run() as long:
        step = 0
        until = time.monotonic() + 120
        while not (is_elsewhere() and len(begun) >= 5) and time.monotonic() < until:
            for _ in range(20):
                mlflow.log_metric("m", step, step=step)
                step += 1
            if len(begun) >= 2:
                fill(small)
            with mlflow.start_run(nested=True) as short:
                mlflow.log_metric("m", 0, step=0)
                mlflow.log_param("p", len(begun))
            begun.append(short.info.run_id)
        assert is_elsewhere(), "the state has left the full disk"
        sync()
        for _ in range(300):  # delivered one by one, that is beyond what a WAL takes
            mlflow.log_metric("m", step, step=step)
            step += 1
            time.sleep(0.005)
    sync()
    held = arrived(servers, long.info.run_id, experiment_name)
    assert (held["status"], steps(held, "m")) == ("FINISHED", list(range(step)))
    for number, run_id in enumerate(begun):
        held = arrived(servers, run_id, experiment_name)
        assert (held["status"], steps(held, "m"), held["params"]) == ("FINISHED", [0], {"p": str(number)})
    assert_written_once(proxies)
    ballast.unlink()
    with mlflow.start_run() as after:
        mlflow.log_metric("m", 1)
    eventually(lambda: not is_elsewhere(), "the state is back on its own disk")
    sync()
    arrived(servers, after.info.run_id, experiment_name)
    (own,) = small.glob("links/*/state.db")
    kept = State(own)
    assert {long.info.run_id, after.info.run_id, *begun} <= {run for run, _ in kept.recent_runs(2000)}
    kept.close()
    session.current().unlink()


def test_a_disk_that_turns_read_only_in_the_middle_of_a_run_costs_nothing(
    home: Path,
    spares: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    engine = session.current().engine("this test")
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 0, step=0)
        mlflow.log_text("before", "before.txt")
        turn_read_only(engine.link.home, engine.state, monkeypatch)
        for step in range(1, 50):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_param("p", 1)
        mlflow.log_text("after", "after.txt")
        mlflow.log_text("copied" * SMALL, "copied.txt")
    with mlflow.start_run() as second:
        mlflow.log_metric("m", 0, step=0)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert (held["status"], steps(held, "m")) == ("FINISHED", list(range(50)))
    assert (sorted(held["artifacts"]), held["params"]) == (
        ["after.txt", "before.txt", "copied.txt"],
        {"p": "1"},
    )
    assert arrived(servers, second.info.run_id, experiment_name)["status"] == "FINISHED"
    assert_written_once(proxies)
    assert list(spares.rglob("state-*.db"))
    session.current().unlink()


def turn_read_only(folder: Path, own: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be written below a folder from now on, by the journal or by the state."""

    def refuse(path: str) -> None:
        if os.path.realpath(path).startswith(os.path.realpath(folder)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def write(fd: int, data: bytes) -> int:
        refuse(os.readlink(f"/proc/self/fd/{fd}"))
        return os.write(fd, data)

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            refuse(os.fspath(path))
        return os.open(path, flags, *args, **kwargs)

    def mkdtemp(
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - its name there
    ) -> str:
        refuse(os.fspath(dir or tempfile.gettempdir()))
        return made(suffix, prefix, dir)

    made = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    changed = SimpleNamespace(**{**vars(os), "write": write, "open": opened})
    for module in (queue_file, spool):
        monkeypatch.setattr(module, "os", changed)
    assert own._db is not None
    own._db.execute("PRAGMA query_only=ON")


@pytest.mark.full
def test_what_a_dead_process_left_on_another_disk_is_delivered_by_the_next(
    home: Path,
    small: Path,
    spares: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DBML_HOME", str(small))
    monkeypatch.setattr(spares_module, "_LOOK_S", 3600.0)  # sync looks at once
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    session.current().unlink()
    with proxies.azureml.away():
        process = child(
            f"""
            import os, pathlib
            from dbml_magics.common import disks
            disks.spare_folders = lambda: iter((pathlib.Path({str(spares)!r}),))
            import mlflow, dbml_magics as dbml
            dbml.link(again=True)
            run = mlflow.start_run()
            print(run.info.run_id, flush=True)
            with open({str(small / "ballast")!r}, "ab", buffering=0) as out:
                for size in (1 << 16, 1 << 12, 1):
                    try:
                        while out.write(b"x" * size): pass
                    except OSError: pass
            for step in range(400):
                mlflow.log_metric("m", step, step=step)
            mlflow.log_text("t", "t.txt")
            mlflow.log_text("t" * {2 * SMALL}, "copied.txt")
            mlflow.end_run()
            os._exit(0)
            """,
            MLFLOW_EXPERIMENT_NAME=experiment_name,
        )
        run_id = finish(process)
    assert list(spares.rglob("*.jnl"))
    (small / "ballast").unlink()
    link(proxies)
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], steps(held, "m"), sorted(held["artifacts"])) == (
        "FINISHED",
        list(range(400)),
        ["copied.txt", "t.txt"],
    )
    eventually(
        lambda: not [path for path in spares.rglob("*") if path.is_file()], "the other disk is cleaned up"
    )


@pytest.mark.full
def test_a_limit_on_a_files_size_is_met_like_a_full_disk(
    home: Path, spares: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Not a byte of a line stays behind that was begun there."""
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    run_id = finish(
        child(
            f"""
            import pathlib, resource
            from dbml_magics.common import disks
            disks.spare_folders = lambda: iter((pathlib.Path({str(spares)!r}),))
            import mlflow
            client = mlflow.MlflowClient()
            with mlflow.start_run() as run:
                mlflow.log_metric("m", 0, step=0)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
                from dbml_magics.core.runtime.engines import known_engines
                (engine,) = known_engines()
                engine.journal.spares.folders = ()
                refused = 0
                for step in range(1, 40):
                    try:
                        mlflow.log_metric("m", step, step=step)
                    except Exception as error:
                        assert type(error).__name__ == "JournalFull", error
                        refused += 1
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                assert refused > 10, refused
                mlflow.log_param("refused", refused)
            print(run.info.run_id)
            """
        )
    )
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert len(steps(held, "m")) == 40 - int(held["params"]["refused"])


def test_a_full_spool_waits_for_room_and_then_says_its_limit(
    home: Path, proxies: Proxies, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_SPOOL_LIMIT", "10000")
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    with mlflow.start_run() as run:
        slow = proxies.azureml.delay(0.4, path="mlflow-artifacts", method="PUT")
        for number in range(4):
            mlflow.log_text("x" * 6000, f"{number}.txt")  # one fits, and the next waits for it
        slow.clear()
        sync()
        monkeypatch.setenv("DBML_SPOOL_WAIT", "0.5")
        with proxies.azureml.hang(path="mlflow-artifacts"):
            mlflow.log_text("x" * 6000, "4.txt")
            with pytest.raises(JournalFull, match="DBML_SPOOL_LIMIT"):
                mlflow.log_text("x" * 6000, "5.txt")
    sync()
    assert len(MlflowClient().list_artifacts(run.info.run_id)) == 5
    assert leftovers(home) == [] or all("/spool/" not in path for path in leftovers(home))


# --- a journal that is damaged, or of a newer release


def test_a_damaged_state_file_is_put_aside_and_nothing_of_the_journal_is_lost_or_doubled(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    session.current().unlink()
    with proxies.azureml.away():
        run_id = finish(
            child(
                """
                import mlflow, os, dbml_magics as dbml
                dbml.link(again=True)
                with mlflow.start_run() as run:
                    for step in range(30):
                        mlflow.log_metric("m", step, step=step)
                    mlflow.log_text("t", "t.txt")
                from dbml_magics.core import session
                session.current().engine("test").waiting.wait("databricks", None, 30)
                print(run.info.run_id, flush=True)
                os._exit(0)
                """,
                MLFLOW_EXPERIMENT_NAME=experiment_name,
            )
        )
    forget_engines()
    (damaged,) = home.glob("links/*/state.db")
    for end in ("-wal", "-shm"):
        Path(f"{damaged}{end}").unlink(missing_ok=True)
    whole = damaged.read_bytes()
    damaged.write_bytes(b"no database at all" + whole[18:])
    linked = link(proxies)
    assert "a new one was begun with what could be read" in str(linked)
    assert list(damaged.parent.glob("state.db.damaged-*"))
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], steps(held, "m"), list(held["artifacts"])) == (
        "FINISHED",
        list(range(30)),
        ["t.txt"],
    )
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(proxies)


def forget_engines() -> None:
    """Let this process have no engine, as if it had just begun."""
    from dbml_magics.core.runtime import engines

    for engine in engines.known_engines():
        for worker in engine.workers.values():
            worker.stop()
        engine.journal.close()
        engine.state.close()
        engines.discard(engine)


def test_what_can_be_read_of_a_damaged_state_is_kept(tmp_path: Path) -> None:
    kept = State(tmp_path / "state.db")
    for number in range(2000):
        kept.set_identity("azureml", "run", f"visible{number}", f"actual{number}")
    kept.experiments.note_active("7")
    kept.close()
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("PRAGMA journal_mode=DELETE")
    db.close()
    size = (tmp_path / "state.db").stat().st_size
    with open(tmp_path / "state.db", "r+b") as file:  # a bad block in the middle
        file.seek(size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))
    other = State(tmp_path / "state.db")
    with pytest.raises(JournalDamaged, match="cannot be read"):
        other.check()
    aside = other.mend()
    other.check()
    assert aside.exists()
    found = [other.identity("azureml", "run", f"visible{n}") for n in range(2000)]
    assert sum(identity is not None for identity in found) > 100
    assert all(i is None or i.actual == f"actual{n}" for n, i in enumerate(found))
    other.close()


def test_a_damaged_line_is_put_aside_and_the_rest_of_the_run_arrives(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    session.current().unlink()
    with proxies.databricks.away(), proxies.azureml.away():
        run_id = finish(
            child(
                """
                import mlflow, os, dbml_magics as dbml
                dbml.link(again=True)
                with mlflow.start_run() as run:
                    for step in range(30):
                        mlflow.log_metric("m", step, step=step)
                print(run.info.run_id, flush=True)
                os._exit(0)
                """,
                MLFLOW_EXPERIMENT_NAME=experiment_name,
            )
        )
    (file,) = home.glob(f"links/*/queues/{run_id}/*.jnl")
    lines = file.read_bytes().split(b"\n")
    where = next(n for n, line in enumerate(lines) if b'"m",10.0' in line)
    lines[where] = b"\x00" * len(lines[where])
    file.write_bytes(b"\n".join(lines) + b'[179,"m","m",99.0')  # and a torn last one
    link(proxies)
    done = dbml.sync(60)
    assert done.dead == {"databricks": 1, "azureml": 1}
    assert {cause for _, _, cause in dead_letters()} == {"this line of the journal is damaged"}
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], steps(held, "m")) == ("FINISHED", [n for n in range(30) if n != 10])
    dbml.discard_dead_letters(2)


@pytest.mark.full
def test_a_link_that_a_newer_release_wrote_is_left_alone_and_tracking_goes_on_beside_it(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    session.current().unlink()
    (newer,) = home.glob("links/*/state.db")
    forget_engines()
    with sqlite3.connect(newer) as db:
        db.execute("UPDATE meta SET v='999' WHERE k='format'")
    db.close()
    before = newer.read_bytes()
    said = finish(
        child(
            f"""
            import mlflow, dbml_magics as dbml
            print(dbml.link(again=True))
            mlflow.set_experiment({experiment_name!r})
            with mlflow.start_run() as run:
                mlflow.log_metric("m", 1)
            dbml.sync(timeout=60)
            print(run.info.run_id)
            """
        )
    )
    assert f"a newer dbml-magics has written {newer.parent}" in said
    assert "pip install --upgrade dbml-magics" in said
    arrived(servers, said.splitlines()[-1], experiment_name)
    assert newer.read_bytes() == before
    assert remembered(os.getcwd()).folder == os.getcwd()


# --- files


@pytest.mark.full
@pytest.mark.parametrize("as_it_was", ["", "short", "long " * 1000], ids=["empty", "short", "long"])
def test_a_file_that_is_changed_or_deleted_after_it_was_logged_arrives_as_it_was(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, tmp_path: Path, as_it_was: str
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    changed, deleted, folder = tmp_path / "changed.txt", tmp_path / "deleted.txt", tmp_path / "folder"
    folder.mkdir()
    for path in (changed, deleted, folder / "in.txt"):
        path.write_text(as_it_was)
    with proxies.databricks.away(), proxies.azureml.away(), mlflow.start_run() as run:
        mlflow.log_artifact(str(changed))
        mlflow.log_artifact(str(deleted))
        mlflow.log_artifacts(str(folder), "folder")
        changed.write_text("as it is now, which is longer")
        deleted.unlink()
        shutil.rmtree(folder)
        (listed,) = mlflow.artifacts.list_artifacts(f"{run.info.artifact_uri}/folder")
        assert (listed.path, listed.file_size) == ("folder/in.txt", len(as_it_was))
        for name in ("changed.txt", "deleted.txt", "folder/in.txt"):
            assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{name}") == as_it_was
    assert bool(list(home.glob("links/*/spool/*"))) == (len(as_it_was) > SMALL)
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert sorted(held["artifacts"]) == ["changed.txt", "deleted.txt", "folder/in.txt"]
    for server in servers:
        own = own_id(server.uri, run.info.run_id, experiment_name)
        client = plain.client(server.uri)
        for path in held["artifacts"]:
            got = Path(download(client, own, path, tmp_path / server.name))
            assert got.read_text() == as_it_was


def download(client: Any, run_id: str, path: str, into: Path) -> str:
    """Download one file with plain MLflow."""
    into.mkdir(exist_ok=True)
    return str(client.download_artifacts(run_id, path, str(into)))


@pytest.mark.full
def test_a_large_file_streams_through_with_bounded_memory(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    with open(large, "wb") as out:
        for _ in range(200):
            out.write(os.urandom(1 << 20))
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    session.current().unlink()
    run_id, grown = finish(
        child(
            f"""
            import resource, mlflow, dbml_magics as dbml
            dbml.link(again=True)
            with mlflow.start_run() as run:
                mlflow.log_text("small", "small.txt")
                dbml.sync(timeout=60)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                mlflow.log_artifact({str(large)!r})
            dbml.sync(timeout=100)
            print(run.info.run_id, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
            """,
            MLFLOW_EXPERIMENT_NAME=experiment_name,
        )
    ).split()
    assert int(grown) < 60, f"{grown} MB more for a file of 200 MB"
    held = arrived(servers, run_id, experiment_name)
    assert sorted(held["artifacts"]) == ["large.bin", "small.txt"]
    assert leftovers(home) == []
