"""Real kernels on a real link: children of a process that has a run, and their ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from jupyter_client.manager import start_new_kernel

import dbml_magics as dbml
from dbml_magics.core import session
from tests.core.linking import sync
from tests.frontend.test_kernel import PATIENCE, ROOT, Kernel
from tests.infra.wait import eventually

THREADS = """
import mlflow, threading
def fold(name, ends):
    mlflow.start_run(run_name=name)
    if ends:
        mlflow.end_run()
for name, ends in ("ended", True), ("left", False):
    thread = threading.Thread(target=fold, args=(name, ends))
    thread.start()
    thread.join()
"""


@pytest.fixture
def child(home: Path, experiment_name: str) -> Iterator[Kernel]:
    """Return a kernel with this process's link and run in its environment: a loop of notebooks."""
    dbml.link(local=True)
    mlflow.set_experiment(experiment_name)
    run = mlflow.start_run(run_name="parent")
    environment = {
        **os.environ,
        "MLFLOW_RUN_ID": run.info.run_id,
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(home),
    }
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(Path.cwd()), env=environment)
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.mark.full
def test_a_child_kernel_is_linked_and_leaves_its_parent_s_run_alone(
    child: Kernel, experiment_name: str
) -> None:
    parent = mlflow.active_run()
    assert parent is not None
    loaded = child.run("%load_ext dbml_magics")
    assert (loaded.status, loaded.shown) == ("ok", []), "nothing about a link that could be taken up"
    reply = child.run("%dbml status")
    assert reply.status == "ok", reply.traceback
    assert "running     parent" in reply.shown[-1]

    reply = child.run("%%track mine\nimport mlflow\nmlflow.log_metric('child', 1)")
    assert reply.status == "ok", reply.traceback
    assert reply.shown[-1].startswith("Run parent  RUNNING in")
    assert "who began it names and ends it; the name mine is left out" in reply.shown[-1]
    reply = child.run(f"%%track fold --nested\n{THREADS}")
    assert reply.status == "ok", reply.traceback
    assert reply.shown[-1].startswith("Run fold  FINISHED in")
    assert "beside  ended, left" in reply.shown[-1]
    assert "left goes on: %%track --unended end ends such runs with the cell's" in reply.shown[-1]
    assert "left" in child.run("%dbml status").shown[-1]
    reply = child.run(f"%%track more --nested --unended end\n{THREADS.replace('left', 'later')}")
    assert "beside  ended, later" in reply.shown[-1]
    assert "goes on" not in reply.shown[-1]
    assert child.run("%dbml sync").status == "ok"

    # What a scheduler or a container sends: the run ends, and the kernel by the signal.
    pid = int(child.value("__import__('os').getpid()"))
    child.client.execute("%%track stopped\nprint('begun', flush=True)\nimport time\ntime.sleep(60)")
    while child.client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "begun\n":
        pass
    assert "running" in str(session.current().status())
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not child.manager.is_alive(), "the kernel ends by SIGTERM")

    status = str(session.current().status())
    assert "running     parent" in status, "and no run of a kernel that is gone"
    mlflow.end_run()
    sync()
    listed = mlflow.search_runs([], output_format="list", search_all_experiments=True)
    found = {run.info.run_name: run for run in listed}
    assert {name: run.info.status for name, run in found.items()} == {
        "parent": "FINISHED",
        "fold": "FINISHED",
        "more": "FINISHED",
        "ended": "FINISHED",  # twice
        "left": "KILLED",
        "later": "FINISHED",
        "stopped": "KILLED",
    }
    for name, run in found.items():
        nested = run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        assert nested == (name in ("fold", "more")), name
        assert run.info.end_time is not None, name
    assert found["parent"].data.metrics == {"child": 1.0}
