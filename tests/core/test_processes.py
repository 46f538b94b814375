"""Threads, forks, workers, two kernels, a kill: what was acknowledged arrives at both sides, once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import line_of
from dbml_magics.core.runtime import live
from tests.conftest import Proxies, Servers
from tests.core.histories import World
from tests.core.linking import (
    LOG_BATCH,
    arrived,
    assert_written_once,
    both_sides,
    child,
    finish,
    leftovers,
    runs_at,
    steps,
    sync,
    written_points,
)
from tests.infra import plain
from tests.infra.actors import ActorHost
from tests.infra.proxy import Proxy
from tests.infra.wait import eventually

TRAINING = """
    import itertools, mlflow, time
    with mlflow.start_run(run_name="killed") as run:
        print(run.info.run_id, flush=True)
        for step in itertools.count():
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            print(step, flush=True)
            time.sleep(0.001)
            if step % 50 == 0:
                mlflow.log_param(f"p{step}", step)
                print("p", step, flush=True)
            if step % 100 == 0:
                mlflow.log_text(str(step).ljust(step * 30), f"notes/{step}.txt")
                print("a", step, flush=True)
    """
SYNC = "import sys; from dbml_magics.__main__ import main; sys.exit(main(['sync', '--timeout', '60']))"


@pytest.fixture
def linked(linked: Proxies) -> Proxies:
    """Return the proxies of a link whose experiment both workspaces have."""
    sync()
    return linked


def in_shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m dbml_magics`` in the link's folder, as from a shell that knows nothing of the link."""
    known = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID")
    return subprocess.run(
        [sys.executable, "-m", "dbml_magics", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={k: v for k, v in os.environ.items() if k not in known},
        check=False,
    )


class Killed:
    """A training process that was killed, and what it had been told is kept."""

    def __init__(self, after: int) -> None:
        process = child(TRAINING)
        assert process.stdout is not None
        self.run_id = process.stdout.readline().strip()
        assert self.run_id, process.communicate()[1][-4000:]
        said = []
        for line in process.stdout:
            said.append(line)
            if len(said) == after:
                process.send_signal(signal.SIGKILL)
        process.communicate()
        whole = [line.split() for line in said if line.endswith("\n")]
        self.steps = [int(words[0]) for words in whole if len(words) == 1]
        self.params = {f"p{words[1]}" for words in whole if words[0] == "p"}
        self.files = {f"notes/{words[1]}.txt" for words in whole if words[0] == "a"}

    def check(self, servers: Servers, experiment: str) -> None:
        """Check that both sides have all of it, and at most the one write that was under way besides."""
        held = arrived(servers, self.run_id, experiment)
        got = steps(held, "loss")
        assert got in (self.steps, [*self.steps, len(self.steps)])
        assert self.params <= set(held["params"])
        assert len(held["params"]) <= len(self.params) + 1
        assert self.files <= set(held["artifacts"])


# --- kill -9


def test_a_killed_training_loses_nothing_that_was_acknowledged(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Killed at random moments, while this process, another one or nobody has the lease."""
    chance = random.Random(time.time_ns())
    uri = session.current().engine("this test").link.uri
    session.current().unlink()
    eventually(lambda: no_lease_here(), "the leases were given back")
    killed = []
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ["MLFLOW_EXPERIMENT_NAME"] = experiment_name
    try:
        for _ in range(3):
            killed.append(Killed(chance.randrange(1, 1000)))
    finally:
        del os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_EXPERIMENT_NAME"]
    done = in_shell("sync", "--timeout", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    for each in killed:
        each.check(servers, experiment_name)
    assert runs_at(servers, experiment_name) == [3, 3]
    assert_written_once(linked)
    # A copy of a file that was not acknowledged yet stays for a minute, in case its writer lives.
    assert [path for path in leftovers(home) if "/queues/" in path] == []
    assert len(leftovers(home)) <= 3


def no_lease_here() -> bool:
    """Tell whether the engines of this process deliver no more."""
    from dbml_magics.core.runtime.engines import known_engines

    return not any(worker.has_lease for engine in known_engines() for worker in engine.workers.values())


@pytest.mark.full
def test_a_killed_replay_repeats_nothing(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Whoever replays the journal is killed in the middle, again and again; then somebody finishes."""
    chance = random.Random(time.time_ns())
    ids = []
    with linked.databricks.away(), linked.azureml.away():
        for _ in range(3):
            with mlflow.start_run() as run:
                for step in range(1500):
                    mlflow.log_metrics({"a": step, "b": -step}, step=step)
                mlflow.log_text("t", "t.txt")
                with mlflow.start_run(nested=True):
                    mlflow.log_metric("m", 1)
            ids.append(run.info.run_id)
        session.current().unlink()
        release_leases()
    for proxy in linked:
        proxy.delay(0.05)
    for _ in range(3):
        before = linked.azureml.count(method="POST|PUT|PATCH")
        process = child(SYNC)
        wanted = before + chance.randrange(1, 6)
        until_written(linked.azureml, wanted, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for proxy in linked:
        proxy.clear()
        proxy.keep_bodies()
    done = in_shell("sync", "--timeout", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    for run_id in ids:
        held = arrived(servers, run_id, experiment_name)
        assert steps(held, "a") == steps(held, "b") == list(range(1500))
        assert list(held["artifacts"]) == ["t.txt"]
    assert runs_at(servers, experiment_name) == [6, 6]
    assert_written_once(linked)
    assert leftovers(home) == []


def until_written(proxy: Proxy, wanted: int, process: subprocess.Popen[str]) -> None:
    """Wait until a workspace has been asked for as many writes, or the process that asks has ended."""
    eventually(
        lambda: proxy.count(method="POST|PUT|PATCH") >= wanted or process.poll() is not None,
        "the replay is under way",
    )


def release_leases() -> None:
    """Let this process deliver no more, as if it had ended."""
    from dbml_magics.core.runtime.engines import known_engines

    for engine in known_engines():
        for worker in engine.workers.values():
            worker.stop()
        engine.journal.close()


@pytest.mark.full
def test_the_other_kernel_takes_over_from_a_killed_one(
    linked: Proxies, servers: Servers, experiment_name: str, home: Path
) -> None:
    uri = session.current().engine("this test").link.uri
    session.current().unlink()
    eventually(no_lease_here, "the leases were given back")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ["MLFLOW_EXPERIMENT_NAME"] = experiment_name
    processes = []
    lines: dict[str, list[str]] = {}
    readers = []
    try:
        for name in ("killed", "going on"):
            process = child(TRAINING.replace("killed", name))
            processes.append(process)
            assert process.stdout is not None
            run_id = process.stdout.readline().strip()
            printed: list[str] = []
            lines[run_id] = printed
            # A pipe that nobody reads would stop them.
            reader = threading.Thread(target=printed.extend, args=(iter(process.stdout.readline, ""),))
            reader.start()
            readers.append(reader)
            if name == "killed":  # it has the leases
                twin = eventually(
                    partial(plain.twin_id, servers.azureml.uri, run_id, experiment_name),
                    "the first kernel delivers",
                )
        first_id, second_id = lines
        eventually(lambda: all(len(printed) > 200 for printed in lines.values()), "both train")
        processes[0].send_signal(signal.SIGKILL)
        own = eventually(
            lambda: plain.twin_id(servers.azureml.uri, second_id, experiment_name), "the second delivers now"
        )
        reached = len(lines[second_id]) // 2
        eventually(
            lambda: len(steps(plain.run(servers.azureml.uri, own, files=False), "loss")) > reached,
            "the second goes on delivering",
        )
        eventually(
            lambda: (
                len(steps(plain.run(servers.azureml.uri, twin, files=False), "loss"))
                >= sum(line.strip().isdigit() for line in lines[first_id])
            ),
            "the second delivers what the first left",
        )
    finally:
        for process, reader in zip(processes, readers, strict=True):
            process.kill()
            reader.join()
            process.communicate()
        del os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_EXPERIMENT_NAME"]
    done = in_shell("sync", "--timeout", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    for run_id in (first_id, second_id):
        count = sum(line.strip().isdigit() for line in lines[run_id])
        assert len(steps(arrived(servers, run_id, experiment_name), "loss")) in (count, count + 1)
    assert_written_once(linked)


@pytest.mark.full
def test_what_a_killed_process_had_sent_and_is_under_way_is_not_sent_again(
    proxies: Proxies, servers: Servers, actor_host: ActorHost, tmp_path: Path, experiment_name: str
) -> None:
    """The service sees the request a while after its sender died; asked at once, it knows of nothing."""
    world = World(servers, proxies, actor_host, tmp_path / "world", experiment_name, print)
    try:
        first, second = world.start(), world.start()
        world.tell(first, world.experiment())
        world.tell(first, world.create(world.experiments[0], None, {}))
        first.do("sync", timeout=60)
        assert first.do("leases") == ["databricks", "azureml"]
        slow = [proxy.delay(2, path=LOG_BATCH) for proxy in proxies]
        world.tell(first, world.batch(world.runs[0], "0.5", "text"))
        eventually(lambda: all(delay.hits for delay in slow), "both workspaces were sent a batch")
        world.kill(first, [])
        second.do("sync", timeout=60)
        world.peace()
    finally:
        world.close()


# --- many writers of one run


@pytest.mark.full
def test_a_run_that_another_process_restored_takes_writes_again(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    client = MlflowClient()
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1)
    client.delete_run(run.info.run_id)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        client.set_tag(run.info.run_id, "too", "early")
    finish(child(f"import mlflow; mlflow.MlflowClient().restore_run({run.info.run_id!r})"))
    client.set_tag(run.info.run_id, "after", "it")
    sync()
    assert arrived(servers, run.info.run_id, experiment_name)["tags"]["after"] == "it"


@pytest.mark.full
def test_a_file_that_comes_within_one_tick_of_the_disks_clock_is_seen(
    linked: Proxies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's time is the kernel's tick: another process's new file may leave it as it is."""
    monkeypatch.setattr(live, "_TICK_NS", 3600 * 10**9)  # whatever comes now comes within a tick
    engine = session.current().engine("this test")
    other = Journal(engine.journal.root)
    with linked.databricks.away(), linked.azureml.away(), mlflow.start_run() as run:
        mlflow.set_tag("mine", "1")
        assert mlflow.get_run(run.info.run_id).data.tags["mine"] == "1"
        folder = engine.journal.folder(run.info.run_id)
        before = folder.stat()
        theirs = [other.next_stamp(run.info.run_id), "g", "theirs", "2"]
        other.append(run.info.run_id, line_of(theirs))
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert mlflow.get_run(run.info.run_id).data.tags["theirs"] == "2"
        other.close()
    sync()


def test_threads_log_to_one_run(linked: Proxies, servers: Servers, experiment_name: str) -> None:
    client = MlflowClient()
    with mlflow.start_run() as run:

        def work(number: int) -> None:
            for step in range(200):
                client.log_metric(run.info.run_id, f"m{number}", step, step=step)
            client.set_tag(run.info.run_id, f"t{number}", "done")
            client.log_text(run.info.run_id, str(number), f"{number}.txt")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(mlflow.get_run(run.info.run_id).data.metrics) == 8
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert all(steps(held, f"m{n}") == list(range(200)) for n in range(8))
    assert all(held["tags"][f"t{n}"] == "done" for n in range(8))
    assert len(held["artifacts"]) == 8
    assert_written_once(linked)


@pytest.mark.full
def test_a_hundred_runs_at_once_in_one_process(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    client = MlflowClient()
    experiment_id = client.get_experiment_by_name(experiment_name).experiment_id
    together = threading.Barrier(100)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            run_id = client.create_run(experiment_id, run_name=f"{number}").info.run_id
            together.wait(120)  # all hundred are begun before the first goes on
            for step in range(20):
                client.log_metric(run_id, "m", number + step, step=step)
            client.log_param(run_id, "number", number)
            client.set_terminated(run_id)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    sync()
    for server in servers:
        held = plain.client(server.uri).search_runs(
            [plain.client(server.uri).get_experiment_by_name(experiment_name).experiment_id], max_results=200
        )
        assert sorted(int(run.info.run_name) for run in held) == list(range(100))
        assert all(run.data.params["number"] == run.info.run_name for run in held)
        assert all(run.data.metrics["m"] == int(run.info.run_name) + 19 for run in held)
        assert {run.info.status for run in held} == {"FINISHED"}
    for proxy in linked:
        assert len(written_points(proxy)) == 2000
    assert_written_once(linked)


@pytest.mark.full
def test_sync_does_not_wait_for_what_another_process_goes_on_logging(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    endless = """
    import sys, time, mlflow
    with mlflow.start_run():
        print("begun", flush=True)
        while True:
            mlflow.log_metric("m", 1.0)
            time.sleep(0.005)
    """
    other = child(endless)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        with mlflow.start_run() as run:
            mlflow.log_metric("mine", 1.0)
        dbml.sync(timeout=60)
        mlflow.flush_async_logging()
        assert other.poll() is None, "the other process was still logging"
        arrived(servers, run.info.run_id, experiment_name)
    finally:
        other.kill()
        other.communicate()


@pytest.mark.full
def test_a_tag_that_another_process_set_can_be_removed(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    client = MlflowClient()
    with mlflow.start_run() as run:
        finish(child(f"import mlflow; mlflow.MlflowClient().set_tag({run.info.run_id!r}, 'theirs', '1')"))
        client.delete_tag(run.info.run_id, "theirs")
        with pytest.raises(MlflowException, match="No tag with name: nobodys"):
            client.delete_tag(run.info.run_id, "nobodys")
    sync()
    assert "theirs" not in arrived(servers, run.info.run_id, experiment_name)["tags"]


def log_from_worker(run_id: str, number: int) -> int:
    """Log to the parent's run, in a worker process."""
    client = MlflowClient()
    for step in range(50):
        client.log_metric(run_id, f"w{number}", step / 7, step=step)
    client.log_param(run_id, f"p{number}", number)
    client.log_text(run_id, str(number), f"{number}.txt")
    return os.getpid()


@pytest.mark.full
def test_joblib_workers_log_to_the_parents_run(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    joblib = pytest.importorskip("joblib")
    with mlflow.start_run() as run:
        mlflow.log_metric("own", 1)
        pids = joblib.Parallel(n_jobs=2, backend="loky")(
            joblib.delayed(log_from_worker)(run.info.run_id, n) for n in range(4)
        )
        assert os.getpid() not in pids
        assert len(mlflow.get_run(run.info.run_id).data.metrics) == 5
        assert len(MlflowClient().get_metric_history(run.info.run_id, "w3")) == 50
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert all(steps(held, f"w{n}") == list(range(50)) for n in range(4))
    assert (len(held["params"]), len(held["artifacts"])) == (4, 4)
    assert_written_once(linked)
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_children_log_to_the_parents_run(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Forked in the middle of delivery, again and again: no lock of the parent's stays closed in a child."""
    context = multiprocessing.get_context("fork")
    with mlflow.start_run() as run:
        children = []
        for number in range(8):
            for step in range(100):
                mlflow.log_metric("own", step, step=100 * number + step)
            session.current().engine("this test").workers["azureml"].hurry()
            process = context.Process(target=log_from_worker, args=(run.info.run_id, number))
            process.start()
            children.append(process)
        for process in children:
            process.join(60)
            assert process.exitcode == 0
        assert len(mlflow.get_run(run.info.run_id).data.metrics) == 9
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert all(steps(held, f"w{n}") == list(range(50)) for n in range(8))
    assert steps(held, "own") == list(range(800))
    assert (len(held["params"]), len(held["artifacts"])) == (8, 8)
    assert_written_once(linked)


def begin_in(experiment: str, at_once: Any) -> None:
    """In a worker: begin a run in an experiment that all workers name at once."""
    at_once.wait(60)
    mlflow.set_experiment(experiment)
    with mlflow.start_run():
        mlflow.log_metric("own", os.getpid())


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("primary", ["there", "away"])
def test_forked_workers_that_name_a_new_experiment_at_once_are_all_in_it(
    linked: Proxies, servers: Servers, experiment_name: str, primary: str
) -> None:
    context, name = multiprocessing.get_context("fork"), f"{experiment_name}-workers"
    at_once = context.Barrier(6)
    linked.databricks.delay(0.05)  # all have asked for it before the first one makes it
    with contextlib.ExitStack() as outage:
        if primary == "away":
            outage.enter_context(linked.databricks.away())
        workers = [context.Process(target=begin_in, args=(name, at_once)) for _ in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(90)
            assert worker.exitcode == 0
    sync()
    assert runs_at(servers, name) == [6, 6]
    assert runs_at(servers, experiment_name) == [0, 0]
    for server in servers:
        same = [e for e in plain.client(server.uri).search_experiments() if e.name.startswith(name)]
        assert len(same) == 1, f"experiments of that name at {server.name}"


def log_from_spark(run_id: str, flush: bool) -> Callable[[Iterator[int]], Iterator[int]]:
    """Return what logs each number of a partition; on a machine whose disk ends with it, it flushes."""

    def work(numbers: Iterator[int]) -> Iterator[int]:
        import mlflow
        from mlflow import MlflowClient

        client = MlflowClient()
        for number in numbers:
            for step in range(20):
                client.log_metric(run_id, f"part{number}", step, step=step)
            client.log_text(run_id, str(number), f"parts/{number}.txt")
            yield os.getpid()
        if flush:
            mlflow.flush_async_logging()

    return work


@pytest.mark.full
def test_spark_workers_log_to_the_drivers_run(
    spark: Any,
    home: Path,
    linked: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On this machine, and as executors on others, whose disk ends with them: they deliver by themselves.

    Spark is older than the link, as on Databricks: its own environment knows of none.
    """
    away = tmp_path / "executor"
    away.mkdir()
    with mlflow.start_run() as run:
        context = spark.sparkContext
        here, there = log_from_spark(run.info.run_id, False), log_from_spark(run.info.run_id, True)
        pids = context.parallelize(range(4), 2).mapPartitions(here).collect()
        assert os.getpid() not in pids
        monkeypatch.setitem(context.environment, "DBML_HOME", str(away))
        context.parallelize(range(4, 8), 2).mapPartitions(there).collect()
        left = [path for path in away.glob("links/*/queues/*/*") if path.stat().st_size]
    sync()
    held = arrived(servers, run.info.run_id, experiment_name)
    assert all(steps(held, f"part{n}") == list(range(20)) for n in range(8))
    assert len(held["artifacts"]) == 8
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(linked)
    shutil.rmtree(away)  # its machine is gone, and nothing with it
    assert all(path.name.endswith(".jnl") for path in left)
    session.current().unlink()
    assert "MLFLOW_TRACKING_URI" not in context.environment, "later tasks track where they did before"


# --- the end of a process


def test_a_script_that_ends_has_delivered(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """Its last line is a log call: MLflow's own exit handler ends the run, and that end arrives too."""
    run_id = finish(
        child(
            """
            import mlflow
            run = mlflow.start_run(run_name="script")
            for step in range(300):
                mlflow.log_metric("m", step, step=step)
            mlflow.log_text("t", "t.txt")
            print(run.info.run_id)
            """
        )
    )
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], steps(held, "m"), list(held["artifacts"])) == (
        "FINISHED",
        list(range(300)),
        ["t.txt"],
    )


def test_a_script_on_its_own_has_delivered_when_it_ends(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    script = f"""
        import mlflow
        import dbml_magics as dbml
        dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        mlflow.set_experiment({experiment_name!r})
        run = mlflow.start_run()
        mlflow.log_metric("m", 1)
        mlflow.log_text("t", "t.txt")
        print(run.info.run_id)
        """
    run_id = finish(child(script))
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], list(held["artifacts"])) == ("FINISHED", ["t.txt"])
    assert leftovers(home) == []


@pytest.mark.full
def test_a_script_that_ends_in_an_outage_says_what_waits(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    script = f"""
        import mlflow, sys
        import dbml_magics as dbml
        dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        mlflow.set_experiment({experiment_name!r})
        dbml.sync(timeout=60)
        print("ready", flush=True)
        sys.stdin.readline()
        with mlflow.start_run() as run:
            mlflow.log_metric("m", 1)
        print(run.info.run_id)
        """
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", "\n".join(line[8:] for line in script.splitlines())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with proxies.databricks.away(), proxies.azureml.away():
        out, err = process.communicate("go\n", timeout=60)
        assert process.returncode == 0, err
        assert err.count("nothing is lost") == 2, err
        assert "dbml-magics sync" in err
        shown = in_shell("status")
        assert shown.returncode == 0, shown.stderr
        assert "connection refused" in shown.stdout
    done = in_shell("sync", "--timeout", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    arrived(servers, out.strip(), experiment_name)
    assert leftovers(home) == []


@pytest.mark.full
@pytest.mark.parametrize("where", ["in the log call's wake", "in the run's creation"])
def test_a_script_that_ends_while_nothing_answers_ends_all_the_same(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str, where: str
) -> None:
    path = "log-batch|runs/update" if where.startswith("in the log") else ""
    with linked.databricks.hang(path=path), linked.azureml.hang(path=path):
        process = child(
            """
            import mlflow
            run = mlflow.start_run()
            mlflow.log_metric("m", 1)
            mlflow.log_text("t", "t.txt")
            print(run.info.run_id, flush=True)
            """,
            DBML_EXIT_FLUSH="1",
        )
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    sync()
    held = arrived(servers, out.strip(), experiment_name)
    assert (held["status"], steps(held, "m"), list(held["artifacts"])) == ("FINISHED", [0], ["t.txt"])
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(linked)


@pytest.mark.full
def test_a_child_that_is_cut_off_leaves_its_writes_to_the_parent(
    linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    """A child that has nothing but the environment ends without its exit handlers, as workers do."""
    run_id = finish(
        child(
            """
            import mlflow, os
            with mlflow.start_run() as run:
                mlflow.log_metric("m", 1)
                mlflow.log_text("t", "t.txt")
            print(run.info.run_id, flush=True)
            os._exit(0)
            """
        )
    )
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert (held["status"], list(held["artifacts"])) == ("FINISHED", ["t.txt"])


@pytest.mark.full
def test_a_shell_shows_and_delivers_what_a_dead_kernel_left(
    home: Path, linked: Proxies, servers: Servers, experiment_name: str
) -> None:
    with linked.azureml.away():
        with mlflow.start_run() as run:
            mlflow.log_metric("m", 1)
        assert session.current().engine("this test").waiting.wait("databricks", None, 30)
        session.current().unlink()
        release_leases()
        shown = in_shell("status")
        assert shown.returncode == 0, shown.stderr
        assert "azureml" in shown.stdout
        failed = in_shell("sync", "--timeout", "1")
        assert failed.returncode == 1
        assert "nothing is lost" in failed.stderr
    done = in_shell("sync")
    assert done.returncode == 0, done.stdout + done.stderr
    arrived(servers, run.info.run_id, experiment_name)
    assert both_sides(servers, run.info.run_id, experiment_name)[1]["status"] == "FINISHED"
    assert linked.azureml.count(LOG_BATCH) >= 1
