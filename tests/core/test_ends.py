"""The end of a process: delivered within a bound, or said, failed for, and put where others find it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.runtime import handoff
from dbml_magics.errors import BadLink, DeliveryIncomplete
from tests.conftest import Proxies, Servers
from tests.core.linking import (
    arrived,
    assert_written_once,
    child,
    finish,
    leftovers,
    link,
    runs_at,
    steps,
    sync,
)
from tests.infra import plain
from tests.infra.wait import eventually

JOB = """
    import mlflow, sys
    import dbml_magics as dbml
    dbml.link(databricks={databricks!r}, azureml={azureml!r}, {wishes})
    mlflow.set_experiment({experiment!r})
    dbml.sync(timeout=60)
    print("ready", flush=True)
    sys.stdin.readline()
    with mlflow.start_run() as run:
        print(run.info.run_id, flush=True)
        for step in range(50):
            mlflow.log_metric("m", step, step=step)
        mlflow.log_param("p", 1)
        mlflow.log_text("t", "t.txt")
        mlflow.log_text("t" * 5000, "long.txt")
        {last}
    """


class Job:
    """A script that links, waits for a word, logs a run and ends."""

    def __init__(
        self, proxies: Proxies, experiment: str, home: Path, wishes: str = "", last: str = "pass"
    ) -> None:
        code = JOB.format(
            databricks=proxies.databricks.uri,
            azureml=proxies.azureml.uri,
            experiment=experiment,
            wishes=wishes,
            last=last,
        )
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", "\n".join(line[4:] for line in code.splitlines())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DBML_HOME": str(home), "DBML_EXIT_FLUSH": "5"},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1][-3000:]
        self.run_id = ""

    def go(self) -> None:
        """Let it log."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.run_id = self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Let it log and end; returns its exit code and what it said on standard error."""
        if not self.run_id:
            self.go()
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a folder that several machines see."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the data folder of another machine, on which this process goes on."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.setenv("DBML_HOME", str(place))
    return place


def spilled_job(
    proxies: Proxies, experiment: str, home: Path, shared: Path, wishes: str = "", last: str = "pass"
) -> tuple[str, str]:
    """Run a job that ends while the mirror is away; returns (run id, what it said)."""
    job = Job(proxies, experiment, home, f"spill={str(shared)!r}, {wishes}", last)
    with proxies.azureml.away():
        code, err = job.end()
    assert code == 0, err
    return job.run_id, err


def held(servers: Servers, run_id: str, experiment: str) -> dict[str, Any]:
    """Return the run, which both sides have alike and whole."""
    there = arrived(servers, run_id, experiment)
    assert steps(there, "m") == list(range(50))
    assert (there["status"], sorted(there["artifacts"]), there["params"]) == (
        "FINISHED",
        ["long.txt", "t.txt"],
        {"p": "1"},
    )
    return there


# --- --on-undelivered


@pytest.mark.full
def test_a_job_that_shall_fail_on_undelivered_writes_does_and_says_what_and_where(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    job = Job(proxies, experiment_name, home, "on_undelivered='fail'")
    with proxies.azureml.away():
        code, err = job.end()
    assert code == 120, err
    (line,) = [line for line in err.splitlines() if "undelivered:" in line]
    assert "writes wait for azureml (not reachable (connection refused))" in line
    assert "databricks" not in line.partition("nothing is lost")[0]
    assert str(home / "links") in line
    assert "dbml-magics sync" in line
    link(proxies)
    sync()
    held(servers, job.run_id, experiment_name)
    assert leftovers(home) == []


@pytest.mark.full
def test_a_job_that_delivered_everything_ends_with_0(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    job = Job(proxies, experiment_name, home, "on_undelivered='fail'")
    code, err = job.end()
    assert (code, "undelivered" in err) == (0, False), err
    held(servers, job.run_id, experiment_name)


@pytest.mark.full
def test_exit_handlers_that_come_after_ours_run_in_a_job_that_fails(
    home: Path, proxies: Proxies, experiment_name: str, tmp_path: Path
) -> None:
    """A temporary folder of the job's is cleaned up all the same."""
    script = f"""
        import atexit
        atexit.register(lambda: print("the first handler ran last", flush=True))
        import mlflow, sys, dbml_magics as dbml
        uris = dict(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        dbml.link(**uris, on_undelivered="fail")
        mlflow.set_experiment({experiment_name!r})
        mlflow.log_metric("m", 1)
        """
    link(proxies)
    mlflow.set_experiment(experiment_name)
    sync()
    session.current().unlink()
    with proxies.azureml.away():
        process = child(script, DBML_EXIT_FLUSH="3")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 120, err
    assert out.endswith("the first handler ran last\n")


@pytest.mark.full
def test_a_child_process_obeys_the_links_wish(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """It has nothing but MLFLOW_TRACKING_URI, and its parent's home may be another's."""
    link(proxies, on_undelivered="fail")
    mlflow.set_experiment(experiment_name)
    sync()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    session.current().unlink()
    eventually(no_lease_here, "the leases were given back")
    with proxies.azureml.away():
        process = child(
            "import mlflow\nwith mlflow.start_run():\n    mlflow.log_metric('m', 1)",
            MLFLOW_TRACKING_URI=uri,
            MLFLOW_EXPERIMENT_NAME=experiment_name,
            DBML_EXIT_FLUSH="3",
        )
        _, err = process.communicate(timeout=60)
    assert process.returncode == 120, err
    link(proxies)
    sync()
    assert runs_at(servers, experiment_name) == [1, 1]


def no_lease_here() -> bool:
    """Tell whether the engines of this process deliver no more."""
    from dbml_magics.core.runtime.engines import known_engines

    return not any(worker.has_lease for engine in known_engines() for worker in engine.workers.values())


# --- other processes of the link


HOLDER = """
    import mlflow, os, sys
    import dbml_magics as dbml
    dbml.link(databricks={databricks!r}, azureml={azureml!r}, on_undelivered="fail")
    mlflow.set_experiment({experiment!r})
    with mlflow.start_run():
        mlflow.log_metric("m", 1.0)
        dbml.sync(timeout=60)
        print("delivers", flush=True)
        for word in sys.stdin:
            if word == "end\\n":
                break
            mlflow.log_metric("m", 2.0, step=int(word))
            print("logged", flush=True)
        print("ends", flush=True)
    """


class Holder:
    """A process that delivers to both workspaces, and goes on."""

    def __init__(self, proxies: Proxies, experiment: str) -> None:
        code = HOLDER.format(
            databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, experiment=experiment
        )
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DBML_EXIT_FLUSH": "5"},
        )
        self.hear("delivers")

    def say(self, word: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        heard = self.process.stdout.readline()
        assert heard == f"{word}\n", (heard, self.process.communicate()[1][-3000:])

    def end(self) -> tuple[int, str]:
        """Let it end; returns its exit code and what it said."""
        self.say("end")
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.mark.full
def test_a_holder_of_the_delivery_that_was_stopped_is_named_and_what_waits_is_undelivered(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    holder = Holder(proxies, experiment_name)
    pid = holder.process.pid
    job = Job(proxies, experiment_name, home, "on_undelivered='fail'")
    os.kill(pid, signal.SIGSTOP)
    try:
        code, err = job.end()
        assert code == 120, err
        (line,) = [line for line in err.splitlines() if "undelivered:" in line]
        for role in ("databricks", "azureml"):
            assert f"process {pid} holds the delivery to {role} and does not move (stopped?)" in line
        assert f"kill -CONT {pid}" in line
        link(proxies)
        assert f"process {pid} holds the delivery to databricks and does not move" in str(
            session.current().status()
        )
        with pytest.raises(DeliveryIncomplete, match=f"process {pid} holds the delivery") as unending:
            dbml.sync()
        assert (f"kill -CONT {pid}", "in a terminal: lets it go on") in unending.value.remedies
    finally:
        os.kill(pid, signal.SIGCONT)
    sync()
    held(servers, job.run_id, experiment_name)
    assert "does not move" not in str(session.current().status())
    assert holder.end()[0] == 0


@pytest.mark.full
def test_a_holder_of_the_delivery_that_goes_on_delivers_for_a_job_that_ends(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """It is known to go on by what it counts, also while a request of its hangs."""
    holder = Holder(proxies, experiment_name)
    job = Job(proxies, experiment_name, home, "on_undelivered='fail'")
    with proxies.azureml.hang(path="log-batch"):
        code, err = job.end()
    assert (code, "undelivered" in err) == (0, False), err
    assert holder.end()[0] == 0
    held(servers, job.run_id, experiment_name)


@pytest.mark.full
def test_what_another_living_process_goes_on_logging_is_not_a_jobs_undelivered(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The job delivers for both when the workspace goes away; its own writes have arrived."""
    job = Holder(proxies, experiment_name)
    other = Holder(proxies, experiment_name)
    with proxies.azureml.away():
        for step in range(20):
            other.say(step)
            other.hear("logged")
        code, err = job.end()
        assert code == 120, err  # its run's end waits
        (line,) = [line for line in err.splitlines() if "undelivered:" in line]
        assert "1 write waits for azureml" in line, "the job's own, none of the 20 of the other process"
    assert other.end()[0] == 0
    link(proxies)
    sync()
    assert runs_at(servers, experiment_name) == [2, 2]


# --- --spill


def test_what_a_job_could_not_deliver_is_delivered_once_from_another_machine(
    home: Path, elsewhere: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    for proxy in proxies:
        proxy.keep_bodies()
    run_id, said = spilled_job(proxies, experiment_name, home, shared)
    (package,) = shared.iterdir()
    assert f"they are in {package}" in said
    assert f'dbml.sync(spill="{shared}") delivers them, from any machine' in said
    assert package.stat().st_mode & 0o777 == 0o600
    assert leftovers(home) == []
    linked = link(proxies, spill=shared)
    assert f"1 package of undelivered writes in {shared}" in str(linked)
    done = dbml.sync(60, spill=shared)
    assert "Delivered 1 package of other processes' writes" in str(done)
    held(servers, run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(proxies)
    assert list(shared.iterdir()) == []
    assert [path for path in (elsewhere / "taken").iterdir() if path.is_dir()] == []


@pytest.mark.full
def test_a_package_holds_no_secret(
    home: Path, shared: Path, proxies: Proxies, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBML_DATABRICKS_TOKEN", "token-of-databricks")
    monkeypatch.setenv("DBML_AZUREML_PASSWORD", "password-of-azureml")
    monkeypatch.setenv("DBML_AZUREML_USERNAME", "me")
    _, said = spilled_job(proxies, experiment_name, home, shared)
    (package,) = shared.iterdir()
    for secret in ("token-of-databricks", "password-of-azureml"):
        assert secret not in said
        assert secret.encode() not in package.read_bytes()


@pytest.mark.full
def test_a_run_that_nobody_has_named_yet_is_taken_up_whole(
    home: Path, elsewhere: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The primary was away too: experiment, run and model have provisional names alone."""
    job = Job(
        proxies,
        experiment_name,
        home,
        f"spill={str(shared)!r}",
        last="mlflow.set_tag('mlflow.note.content', 'kept'); "
        "mlflow.MlflowClient().create_experiment('e-' + run.info.run_id)",
    )
    with proxies.azureml.away(), proxies.databricks.away():
        code, err = job.end()
    assert code == 0, err
    link(proxies)
    done = dbml.sync(60, spill=shared)
    assert (done.taken, done.left) == (1, ())
    held(servers, job.run_id, experiment_name)
    assert runs_at(servers, f"e-{job.run_id}") == [0, 0]
    assert runs_at(servers, experiment_name) == [1, 1]


@pytest.mark.full
def test_two_takers_do_not_both_deliver(
    home: Path,
    elsewhere: Path,
    shared: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
) -> None:
    for proxy in proxies:
        proxy.keep_bodies()
    runs = [spilled_job(proxies, experiment_name, home, shared)[0] for _ in range(2)]
    taker = f"""
        import dbml_magics as dbml
        dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        done = dbml.sync(timeout=60, spill={str(shared)!r})
        print(done.taken, len(done.left))
        """
    takers = []
    for number in range(3):
        (tmp_path / f"machine{number}").mkdir()
        takers.append(child(taker, DBML_HOME=str(tmp_path / f"machine{number}")))
    output = [tuple(int(n) for n in finish(process).split()) for process in takers]
    assert sum(taken for taken, _ in output) == 2, output
    for run_id in runs:
        held(servers, run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [2, 2]
    assert_written_once(proxies)
    assert list(shared.iterdir()) == []


@pytest.mark.full
def test_a_taker_that_runs_out_of_time_leaves_the_package_to_the_next(
    home: Path, elsewhere: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    for proxy in proxies:
        proxy.keep_bodies()
    run_id, _ = spilled_job(proxies, experiment_name, home, shared)
    link(proxies)
    with (
        proxies.azureml.status(503, path="log-batch"),
        pytest.raises(DeliveryIncomplete, match="remain; it stays there"),
    ):
        dbml.sync(3, spill=shared)
    (package,) = shared.iterdir()
    assert package.suffix == ".tar"
    assert [path for path in (elsewhere / "taken").iterdir() if path.is_dir()] == []
    assert dbml.sync(60, spill=shared).taken == 1
    held(servers, run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(proxies)


@pytest.mark.full
def test_a_taker_that_is_killed_goes_on_and_keeps_others_away_until_then(
    home: Path,
    elsewhere: Path,
    shared: Path,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for proxy in proxies:
        proxy.keep_bodies()
    run_id, _ = spilled_job(proxies, experiment_name, home, shared)
    taker = f"""
        import dbml_magics as dbml
        dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        print(dbml.sync(timeout=60, spill={str(shared)!r}).taken)
        """
    dying = tmp_path / "dying"
    dying.mkdir()
    with proxies.azureml.hang(path="artifacts|runs/update"):
        process = child(taker, DBML_HOME=str(dying))
        eventually(
            lambda: proxies.azureml.count("log-batch", method="POST") > 0 or process.poll() is not None,
            "the taker delivers",
        )
        process.send_signal(signal.SIGKILL)
        process.communicate()
    link(proxies)
    done = dbml.sync(60, spill=shared)
    (line,) = done.left
    assert done.taken == 0
    assert f"if that machine is gone for good, delete {next(shared.glob('*.claim'))}" in line
    assert finish(child(taker, DBML_HOME=str(dying))) == "1"
    held(servers, run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [1, 1]
    assert_written_once(proxies)
    assert list(shared.iterdir()) == []


@pytest.mark.full
def test_a_package_for_other_workspaces_is_left_alone(
    home: Path, elsewhere: Path, shared: Path, proxies: Proxies, experiment_name: str, tmp_path: Path
) -> None:
    """A package does not decide who gets this user's tokens."""
    spilled_job(proxies, experiment_name, home, shared)
    dbml.link(local=str(tmp_path / "two"))
    done = dbml.sync(20, spill=shared)
    assert done.taken == 0
    assert "and this link is not" in done.left[0]
    assert [path.suffix for path in shared.iterdir()] == [".tar"]


@pytest.mark.full
def test_a_package_that_was_cut_off_on_its_way_is_not_taken_for_whole(
    home: Path, elsewhere: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    run_id, _ = spilled_job(proxies, experiment_name, home, shared)
    (package,) = shared.iterdir()
    whole = package.read_bytes()
    package.write_bytes(whole[: whole.index(b"end.json") - 100])
    link(proxies)
    done = dbml.sync(20, spill=shared)
    (line,) = done.left
    assert done.taken == 0
    assert line.startswith(f"{package} is left as it is, and nothing of it was sent: it is not whole")
    package.write_bytes(whole)
    assert dbml.sync(60, spill=shared).taken == 1
    held(servers, run_id, experiment_name)


@pytest.mark.full
def test_a_job_that_is_killed_while_it_puts_its_writes_away_neither_loses_nor_doubles_them(
    home: Path, elsewhere: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Once before the package is whole, once between that and the deletion of what it holds."""
    for proxy in proxies:
        proxy.keep_bodies()
    patch = (
        "import os; from dbml_magics.core.runtime import handoff; "
        "handoff.{what} = lambda *a: os.kill(os.getpid(), 9)"
    )
    runs = []
    for what in ("_add_file", "_forget"):
        job = Job(proxies, experiment_name, home, f"spill={str(shared)!r}", patch.format(what=what))
        with proxies.azureml.away():
            code, err = job.end()
        assert code == -signal.SIGKILL, err
        runs.append(job.run_id)
    assert sorted(path.suffix for path in shared.iterdir()) == [".part", ".tar"]
    link(proxies)
    assert dbml.sync(60, spill=shared).taken == 1
    session.current().unlink()
    back = "import dbml_magics as dbml; dbml.link(again=True); dbml.sync(timeout=60)"
    finish(child(back, DBML_HOME=str(home)))  # on the machine that died
    for run_id in runs:
        held(servers, run_id, experiment_name)
    assert runs_at(servers, experiment_name) == [2, 2]
    assert_written_once(proxies)
    eventually(lambda: leftovers(home) == [], "the journal is empty", show=lambda: leftovers(home))


@pytest.mark.full
def test_a_folder_that_went_away_costs_nothing_but_a_sentence(
    home: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    job = Job(proxies, experiment_name, home, f"spill={str(shared)!r}")
    shared.rmdir()
    with proxies.azureml.away():
        code, err = job.end()
    assert code == 0, err
    assert f"could not be put into {shared} (No such file or directory)" in err
    link(proxies)
    sync()
    held(servers, job.run_id, experiment_name)


@pytest.mark.full
def test_sigterm_ends_a_job_that_spills_as_an_end_does(
    home: Path, elsewhere: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """A scheduler's cancel: the run is ended, what waits is put away, the code says which signal it was."""
    job = Job(
        proxies,
        experiment_name,
        home,
        f"spill={str(shared)!r}",
        "print('logged', flush=True); import time; time.sleep(60)",
    )
    with proxies.azureml.away():
        job.go()
        assert job.process.stdout is not None
        assert job.process.stdout.readline() == "logged\n"
        job.process.send_signal(signal.SIGTERM)
        code, err = job.end()
    assert code == 128 + signal.SIGTERM, err
    assert "delivers them, from any machine" in err
    link(proxies)
    assert dbml.sync(60, spill=shared).taken == 1
    there = arrived(servers, job.run_id, experiment_name)
    assert (there["status"], steps(there, "m")) == ("KILLED", list(range(50)))


RUNS = """
    import threading, time, mlflow, dbml_magics as dbml
    dbml.link(databricks={databricks!r}, azureml={azureml!r})
    mlflow.set_experiment({experiment!r})
    dbml.sync(timeout=60)
    def beside():
        mlflow.start_run(run_name="of a thread")
        mlflow.log_metric("m", 1)
        began.set()
        time.sleep(60)
    began = threading.Event()
    with dbml.track("tracked"):
        threading.Thread(target=beside, daemon=True).start()
        began.wait()
        mlflow.start_run(run_name="nested", nested=True)
        print("logged", flush=True)
        for step in range(100_000):
            mlflow.log_metric("m", step, step=step)
            time.sleep(0.001)
    """


@pytest.mark.full
def test_sigterm_ends_the_runs_of_a_process_and_the_process_as_it_always_did(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    uris = {"databricks": proxies.databricks.uri, "azureml": proxies.azureml.uri}
    process = child(RUNS.format(experiment=experiment_name, **uris))
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n", process.communicate()[1][-3000:]
    with proxies.azureml.away():
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM, err
        assert time.monotonic() - begun < 30, "it does not wait for a workspace"
    link(proxies)
    sync()
    for server in servers:
        found = plain.runs(server.uri, experiment_name, files=False)
        statuses = {run["name"]: (run["status"], run["end_time"] is not None) for run in found.values()}
        assert statuses == dict.fromkeys(("tracked", "nested", "of a thread"), ("KILLED", True)), server.name


def test_a_forked_child_that_is_terminated_ends_no_run_of_its_parent(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        heeds = signal.getsignal(signal.SIGTERM)
        for _ in range(10):  # most of them before they have come to anything of their own
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join(30)
            assert process.exitcode == -signal.SIGTERM, "it dies by the first signal, however early"
        assert signal.getsignal(signal.SIGTERM) is heeds is not signal.SIG_DFL
        assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"


@pytest.mark.full
def test_a_handler_of_the_users_own_stays(home: Path, shared: Path, tmp_path: Path) -> None:
    said = finish(
        child(
            f"""
            import signal, dbml_magics as dbml
            signal.signal(signal.SIGTERM, mine := lambda *_: None)
            dbml.link(local={str(tmp_path / "two")!r}, spill={str(shared)!r})
            print(signal.getsignal(signal.SIGTERM) is mine)
            """
        )
    )
    assert said == "True"


@pytest.mark.full
def test_a_process_that_ends_beside_a_living_one_leaves_delivery_to_it(
    home: Path, shared: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies, spill=shared)
    mlflow.set_experiment(experiment_name)
    sync()
    with proxies.azureml.away():
        run_id = finish(
            child(
                """
                import mlflow
                with mlflow.start_run() as run:
                    for step in range(50):
                        mlflow.log_metric("m", step, step=step)
                    mlflow.log_param("p", 1)
                    mlflow.log_text("t", "t.txt")
                    mlflow.log_text("t" * 5000, "long.txt")
                print(run.info.run_id)
                """
            )
        )
        assert list(shared.iterdir()) == []
    sync()
    held(servers, run_id, experiment_name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dbfs:/Volumes/x", "takes the path of a folder"),
        ("", "takes the path of a folder"),
        ("file", "is a file, and --spill needs a folder"),
        ("/proc/nowhere", "cannot be written"),
    ],
)
def test_a_spill_folder_that_cannot_be_one_is_refused(home: Path, given: str, said: str) -> None:
    Path("file").touch()
    with pytest.raises(BadLink, match=said):
        dbml.link(local=True, spill=given)


def test_a_folder_without_packages_or_none_at_all(home: Path, shared: Path) -> None:
    dbml.link(local=True)
    assert dbml.sync(20, spill=shared).taken == 0
    (shared / "dbml-1-a.tar").write_bytes(b"not a package")
    packages, (refused,) = handoff.packages(shared)
    assert packages == []
    assert refused.startswith(f"{shared}/dbml-1-a.tar is left as it is")
    with pytest.raises(BadLink, match="cannot be read"):
        dbml.sync(20, spill=shared / "nowhere")


# --- other ends


@pytest.mark.full
def test_an_interpreter_that_ends_in_another_thread_of_the_training_has_delivered(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """The main thread is over at once; the thread that it began logs on."""
    script = f"""
        import threading, time, mlflow, dbml_magics as dbml
        dbml.link(databricks={proxies.databricks.uri!r}, azureml={proxies.azureml.uri!r})
        mlflow.set_experiment({experiment_name!r})
        client = mlflow.MlflowClient()
        run = mlflow.start_run()
        print(run.info.run_id, flush=True)
        def work():
            time.sleep(0.5)
            for step in range(20):
                client.log_metric(run.info.run_id, "late", step, step=step)
        threading.Thread(target=work).start()
        """
    run_id = finish(child(script))
    there = arrived(servers, run_id, experiment_name)
    assert (there["status"], steps(there, "late")) == ("FINISHED", list(range(20)))
