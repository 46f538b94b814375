"""Files at Azure ML, outages with tokens that run out, roles that are taken away, and no secret anywhere."""

from __future__ import annotations

import filecmp
import importlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.errors import Unavailable
from tests.infra.wait import eventually
from tests.standins.azure import AzureStandIn
from tests.standins.azure.login import CLIENT_SECRET

psutil = importlib.import_module("psutil")  # which comes without types
ML = "Microsoft.MachineLearningServices"


@pytest.fixture
def link(signed_in: AzureStandIn, names: dict[str, Any]) -> Any:
    session = sessions.current()
    dbml.link(track="azureml", registry="azureml", **names)
    yield session
    if session.linked:
        session.unlink()


def repository(session: Any, run_id: str) -> Any:
    """Return the workspace's own repository of a run's files."""
    engine = session.engine("the test")
    return engine.side("azureml").reader.repository(f"run:{run_id}")


def test_files_are_listed_by_whole_names_with_sizes_and_written_once(
    link: Any, signed_in: AzureStandIn, tmp_path: Path
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        mlflow.log_text("one", "model/a.txt")
        mlflow.log_text("other", "model-x/b.txt")
        mlflow.log_text("", "empty.txt")
    dbml.sync(timeout=30)
    there = repository(link, run.info.run_id)
    assert [(f.path, f.file_size) for f in there.list_artifacts("model")] == [("model/a.txt", 3)]
    assert [(f.path, f.is_dir) for f in there.list_artifacts()] == [
        ("empty.txt", False),
        ("model", True),
        ("model-x", True),
    ]
    assert Path(there.download_artifacts("empty.txt", str(tmp_path))).read_text() == ""
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/model/a.txt") == "one"
    local = tmp_path / "a.txt"
    local.write_text("one")
    assert there.put(str(local), "model") == "model/a.txt", "the same content again is the same file"
    local.write_text("two")
    assert there.put(str(local), "model") == "model/a~2.txt", "another content goes beside the first"
    assert there.put(str(local), "model") == "model/a~2.txt"


def test_a_second_content_is_said_in_the_runs_summary(link: Any) -> None:
    import mlflow

    track = link.begin_track("twice")
    mlflow.log_text("first", "notes.txt")
    dbml.sync(timeout=30)
    mlflow.log_text("second", "notes.txt")
    dbml.sync(timeout=30)
    summary = track.end()
    assert any("notes~2.txt" in note for note in summary.notes)


def test_a_large_file_goes_in_blocks_and_an_aborted_one_is_begun_anew(
    link: Any, signed_in: AzureStandIn, tmp_path: Path
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        pass
    dbml.sync(timeout=30)
    there = repository(link, run.info.run_id)
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(20 * 1024 * 1024 + 7))
    assert there._name("large.bin"), "a process named the file and died before its bytes came"
    before = signed_in.proxy.count(path="large.bin")
    assert there.put(str(large), None) == "large.bin"
    assert signed_in.proxy.count(path="large.bin") - before >= 4, "three blocks and their list"
    back = there.download_artifacts("large.bin", str(tmp_path / "back"))
    assert Path(back).read_bytes() == large.read_bytes()


@pytest.mark.parametrize("size", [10, 20 * 1024 * 1024])
def test_a_link_that_runs_out_is_renewed(
    link: Any, signed_in: AzureStandIn, tmp_path: Path, size: int
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        pass
    dbml.sync(timeout=30)
    there = repository(link, run.info.run_id)
    file = tmp_path / "late.bin"
    file.write_bytes(os.urandom(size))
    with signed_in.set(sas_lifetime=0.0):
        expired = there._name("late.bin")
    there._write("late.bin", expired, str(file))
    assert there.size("late.bin") == size


@pytest.mark.full
@pytest.mark.parametrize("write_links", [True, False], ids=["anew", "by taking the name back"])
def test_a_file_whose_links_run_out_several_times_on_the_way_arrives(
    link: Any, signed_in: AzureStandIn, tmp_path: Path, write_links: bool
) -> None:
    import mlflow

    large = tmp_path / "slow.bin"
    large.write_bytes(os.urandom(36 * 1024 * 1024))
    signed_in.proxy.delay(0.5, path=r"slow\.bin$")
    with mlflow.start_run() as run, signed_in.set(sas_lifetime=1.2, write_links=write_links):
        mlflow.log_artifact(str(large))
        if write_links:
            dbml.sync(timeout=60)
            assert signed_in.proxy.count(path="/write") >= 2, "more than one link ran out"
            assert not signed_in.proxy.count(method="DELETE"), "and nothing was taken back for the next one"
        else:  # each new link costs what was sent: it waits for better times, but it is not given up
            eventually(lambda: link.status().destinations[0].last_error, "status says why")
            assert "run out" in str(link.status().destinations[0].last_error)
    signed_in.proxy.clear()
    dbml.sync(timeout=60)
    assert not link.status().destinations[0].dead
    there = repository(link, run.info.run_id)
    back = there.download_artifacts("slow.bin", str(tmp_path / "back"))
    assert Path(back).read_bytes() == large.read_bytes()
    assert [f.path for f in there.list_artifacts()] == ["slow.bin"]


@pytest.mark.full
def test_a_file_over_100_mb_goes_and_comes_back_in_bounded_memory(
    link: Any, signed_in: AzureStandIn, tmp_path: Path
) -> None:
    import mlflow

    large, piece = tmp_path / "huge.bin", os.urandom(1024 * 1024)
    with large.open("wb") as file:
        for number in range(120):
            file.write(number.to_bytes(4, "big") + piece[4:])
    small = tmp_path / "large.bin"
    small.write_bytes(piece * 20)
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(small))  # what it takes to send any file in blocks is there by then
    dbml.sync(timeout=60)
    mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/large.bin", dst_path=str(tmp_path / "back"))
    process, over, most = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        mlflow.MlflowClient().log_artifact(run.info.run_id, str(large))
        dbml.sync(timeout=120)
        back = mlflow.artifacts.download_artifacts(
            f"runs:/{run.info.run_id}/huge.bin", dst_path=str(tmp_path / "back")
        )
    finally:
        over.set()
        watching.join()
    assert filecmp.cmp(back, large, shallow=False)
    assert most[0] < 90e6, f"it took {most[0] / 1e6:.0f} MB, of a file of 120"


def test_a_storage_firewall_is_told_apart_from_a_missing_role(
    link: Any, signed_in: AzureStandIn, tmp_path: Path
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        pass
    dbml.sync(timeout=30)
    there = repository(link, run.info.run_id)
    file = tmp_path / "f.txt"
    file.write_text("x")
    with signed_in.set(storage_firewall=True), pytest.raises(Unavailable) as caught:
        there.put(str(file), None)
    assert "firewall" in caught.value.reason
    with signed_in.set(storage_public=False), pytest.raises(Unavailable) as caught:
        there.put(str(file), None)
    assert "firewall" in caught.value.reason, "PublicAccessNotPermitted is 409"
    with signed_in.set(storage_role=False), pytest.raises(Unavailable) as caught:
        there.put(str(file), "b")
    assert "Storage Blob Data Contributor" in caught.value.reason
    assert there.put(str(file), None) == "f.txt"


@pytest.mark.full
def test_a_role_that_is_missing_to_write_files_is_named_after_every_try(
    link: Any, signed_in: AzureStandIn
) -> None:
    import mlflow

    with mlflow.start_run(), signed_in.set(storage_role=False):
        mlflow.log_text("x", "a.txt")
        before = signed_in.proxy.count(path="a.txt")
        eventually(
            lambda: signed_in.proxy.count(path="a.txt") - before >= 3,
            "it was tried again, by the name it has",
        )
        said = str(link.status())
        assert "Storage Blob Data Contributor" in said
        assert "blobs/write" in said
        assert "Reader" not in said
    dbml.sync(timeout=60)


def test_behind_a_storage_firewall_the_rest_of_the_run_passes_at_once_and_the_file_follows(
    link: Any, signed_in: AzureStandIn
) -> None:
    import mlflow

    with signed_in.set(storage_firewall=True):
        began = time.monotonic()
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 1.0)
            mlflow.log_text("x", "a.txt")
            mlflow.log_metric("loss", 2.0, step=1)
        store = connect(link.engine("the test").link.spec("azureml")).tracking
        there = eventually(lambda: _ended(store, link, run.info.run_id), "the run has ended there")
        assert there.data.metrics == {"loss": 2.0}
        assert time.monotonic() - began < 8, "metrics and params pass, as status says"
        said = eventually(lambda: _with(str(link.status()), "firewall"), "status says why the file does not")
        assert said is not None
        assert "1 file" in said
        assert not link.status().destinations[0].dead
    dbml.sync(timeout=60)
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/a.txt") == "x"


def _ended(store: Any, link: Any, run_id: str) -> Any:
    try:
        found = store.get_run(link.engine("the test").side("azureml").ids.run_at(run_id))
    except MlflowException:
        return None
    return found if found.info.status == "FINISHED" else None


def _with(text: str, word: str) -> str | None:
    return text if word in text else None


def test_an_outage_in_which_the_tokens_run_out_loses_and_doubles_nothing(
    link: Any, signed_in: AzureStandIn
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        for step in range(20):
            mlflow.log_metric("loss", float(step), step=step)
        dbml.sync(timeout=30)
        with signed_in.proxy.away():
            for step in range(20, 60):
                mlflow.log_metric("loss", float(step), step=step)
            eventually(lambda: link.status().destinations[0].away, "the workspace counts as away")
        signed_in.expire_tokens()
    dbml.sync(timeout=60)
    store = connect(link.engine("the test").link.spec("azureml")).tracking
    points = store.get_metric_history(run.info.run_id, "loss")
    assert sorted(p.value for p in points) == [float(n) for n in range(60)]
    assert link.status().destinations[0].dead == 0


def test_a_role_that_is_taken_away_in_the_middle_of_a_run_is_an_outage_with_a_reason(
    link: Any, signed_in: AzureStandIn
) -> None:
    import mlflow

    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
        dbml.sync(timeout=30)
        with signed_in.deny(f"{ML}/workspaces/experiments/runs/write"):
            mlflow.log_metric("loss", 2.0, step=1)
            reason = eventually(lambda: link.status().destinations[0].last_error, "status says why")
            assert "AzureML Data Scientist" in reason
            assert link.status().destinations[0].pending
        dbml.sync(timeout=60)
    dbml.sync(timeout=30)
    assert link.status().destinations[0].dead == 0
    assert mlflow.get_run(run.info.run_id).data.metrics == {"loss": 2.0}


def test_no_secret_is_on_disk_or_in_what_is_shown(
    link: Any, signed_in: AzureStandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    with mlflow.start_run():
        mlflow.log_text("hello", "a/b.txt")
    dbml.sync(timeout=30)
    status = link.status()
    shown = f"{status}{status.html()}{status.uri}{capsys.readouterr()}"
    token = link.engine("the test").workspaces["azureml"].sign_in.get_token().token
    secrets = [CLIENT_SECRET, token, token.rpartition(".")[2], "sig="]
    kept = {f: f.read_bytes() for f in (tmp_path / "dbml").rglob("*") if f.is_file()}
    assert kept, "a link keeps files"
    for secret in secrets:
        assert secret not in shown
        assert not [f for f, data in kept.items() if secret.encode() in data], f"{secret[:6]}… is on disk"
    left = [f for f in kept if f.exists()]  # what was delivered is tidied away meanwhile
    assert not [f for f in left if f.stat().st_mode & 0o077], "what is kept is the user's alone"
