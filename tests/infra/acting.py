"""A process that imports MLflow once and forks actors, each of which logs through the link as it is ordered.

Run as a module by :mod:`tests.infra.actors`. One JSON object a line: on standard input the orders to fork
an actor, on an actor's own connection what it shall do. An actor answers an order when MLflow's
call has returned, which is when the link has acknowledged it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNT = struct.Struct("<q")


def linear() -> Any:
    """Return a fitted model of y = 2 x + 1."""
    import numpy as np
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]))


def _client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient()


class Actor:
    """What an actor can do; each method is an order, its arguments the order's."""

    def __init__(self, counter: Path) -> None:
        # Written after each point that was acknowledged; the page cache outlives a kill.
        self._counter = os.open(counter, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def plant(self, bug: str) -> None:
        """Plant a bug in this process."""
        from tests.infra.planted import plant

        plant(bug)

    def link(self, databricks: str, azureml: str, registry: str = "both", again: bool = False) -> str:
        """Link the two workspaces, or take up the link of this folder; returns the link's URI."""
        from mlflow.tracking import fluent

        import dbml_magics as dbml

        if again:
            linked = dbml.link(again=True)
        else:
            linked = dbml.link(databricks=databricks, azureml=azureml, registry=registry)
        # The link goes on with its last experiment; runs of any are taken up here.
        fluent._active_experiment_id = None
        return linked.uri

    # --- experiments

    def create_experiment(self, name: str, tags: dict[str, str]) -> str:
        return str(_client().create_experiment(name, tags=tags))

    def tag_experiment(self, experiment: str, key: str, value: str) -> None:
        _client().set_experiment_tag(experiment, key, value)

    def rename_experiment(self, experiment: str, name: str) -> None:
        _client().rename_experiment(experiment, name)

    def delete_experiment(self, experiment: str) -> None:
        _client().delete_experiment(experiment)

    def restore_experiment(self, experiment: str) -> None:
        _client().restore_experiment(experiment)

    # --- runs

    def create_run(self, experiment: str, name: str, tags: dict[str, str], parent: str | None) -> str:
        nested = {} if parent is None else {"mlflow.parentRunId": parent}
        made = _client().create_run(experiment, run_name=name, tags={**tags, **nested})
        return str(made.info.run_id)

    def train(
        self,
        experiment: str,
        name: str,
        label: str,
        inner: str | None,
        points: list[Any],
        params: dict[str, str],
    ) -> list[str]:
        """Make a whole run, as a training does, perhaps with another in it; returns their ids."""
        import mlflow

        ids = []
        with mlflow.start_run(experiment_id=experiment, run_name=name, tags={"label": label}) as run:
            ids.append(run.info.run_id)
            mlflow.log_params(params)
            for key, value, stamp, step in points:
                mlflow.log_metric(key, float(value), step=step, timestamp=stamp)
            if inner is not None:
                options = {"run_name": inner, "tags": {"label": inner}}
                with mlflow.start_run(experiment_id=experiment, nested=True, **options) as child:
                    ids.append(child.info.run_id)
                    mlflow.log_metric("inner", 1.0, step=1, timestamp=1)
            mlflow.log_text(label, "trained.txt")
        return ids

    def resume(self, run: str, point: list[Any]) -> None:
        """Take a run up once more, log a point, and end it."""
        import mlflow

        key, value, stamp, step = point
        with mlflow.start_run(run_id=run):
            mlflow.log_metric(key, float(value), step=step, timestamp=stamp)

    def metric(self, run: str, key: str, value: str, stamp: int, step: int) -> None:
        _client().log_metric(run, key, float(value), timestamp=stamp, step=step)

    def points(self, run: str, key: str, first: int, count: int, pause: float = 0.0) -> list[float]:
        """Log as many points, counting those acknowledged in the counter; returns each call's seconds."""
        client, seconds = _client(), []
        for step in range(first, first + count):
            began = time.perf_counter()
            client.log_metric(run, key, step / 7, timestamp=step, step=step)
            seconds.append(time.perf_counter() - began)
            os.pwrite(self._counter, COUNT.pack(step + 1), 0)
            if pause:
                time.sleep(pause)
        return seconds

    def batch(self, run: str, points: list[Any], params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        _client().log_batch(
            run,
            [Metric(key, float(value), stamp, step) for key, value, stamp, step in points],
            [Param(k, v) for k, v in params.items()],
            [RunTag(k, v) for k, v in tags.items()],
        )

    def param(self, run: str, key: str, value: str) -> None:
        _client().log_param(run, key, value)

    def tag(self, run: str, key: str, value: str) -> None:
        _client().set_tag(run, key, value)

    def fork(self, run: str, point: list[Any], tag: str, value: str) -> None:
        """Log a point and a tag in a forked child, while delivery may be at work here."""
        pid = os.fork()
        if pid == 0:
            failed = 1
            try:
                key, number, stamp, step = point
                _client().log_metric(run, key, float(number), timestamp=stamp, step=step)
                _client().set_tag(run, tag, value)
                failed = 0
            finally:
                os._exit(failed)
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"the forked child ended with {status}")

    def dataset(self, run: str, name: str, digest: str) -> None:
        from mlflow.entities import Dataset, DatasetInput

        _client().log_inputs(run, datasets=[DatasetInput(Dataset(name, digest, "local", f"/data/{name}"))])

    def untag(self, run: str, key: str) -> None:
        _client().delete_tag(run, key)

    def text(self, run: str, path: str, content: str) -> None:
        _client().log_text(run, content, path)

    def end(self, run: str, status: str) -> None:
        _client().set_terminated(run, status)

    def rename(self, run: str, name: str) -> None:
        _client().update_run(run, name=name)

    def delete(self, run: str) -> None:
        _client().delete_run(run)

    def restore(self, run: str) -> None:
        _client().restore_run(run)

    def model(self, run: str, name: str) -> str:
        """Log a model in a run, which is taken up for it and ended; returns the model's id."""
        import mlflow

        with mlflow.start_run(run_id=run):
            made = mlflow.sklearn.log_model(linear(), name=name, pip_requirements=["scikit-learn"])
        return str(made.model_id)

    def register(self, run: str, model: str, name: str) -> str:
        import mlflow

        return str(mlflow.register_model(f"runs:/{run}/{model}", name).version)

    # --- the clock

    def clock(self, hours: float) -> None:
        """Set this process's clock so many hours off the machine's."""
        if not hasattr(self, "_real_clock"):
            self._real_clock = time.time, time.time_ns
        real, real_ns = self._real_clock
        time.time = lambda: real() + 3600 * hours
        time.time_ns = lambda: real_ns() + int(3600 * hours) * 10**9

    # --- the link

    def leases(self) -> list[str]:
        """Return the roles of the workspaces that this process delivers to."""
        from dbml_magics.core import session

        workers = session.current().engine("the test").workers
        return [role for role, worker in workers.items() if worker.has_lease]

    def report(self) -> dict[str, Any]:
        """Return what delivery from this process has to say, for whoever wonders why it takes so long."""
        from dbml_magics.core import session

        engine = session.current().engine("the test")
        held = {}
        for role, worker in engine.workers.items():
            queues = [queue for queue in engine.journal.queues() if engine.backlog.is_waiting(role, queue)]
            held[role] = {
                "lease": worker.has_lease,
                "waiting": engine.backlog.waiting(role),
                "queues": {queue: worker.scheduler.paused(queue) for queue in queues[:5]},
                "line": [worker.health.reason, worker.health.pause()],
                "trouble": worker.scheduler.trouble,
            }
        return held

    def sync(self, timeout: float) -> None:
        import dbml_magics as dbml

        dbml.sync(timeout)

    def dead(self) -> list[list[Any]]:
        """Return (workspace, run, write, cause) of what was put aside."""
        from dbml_magics.core import session

        state = session.current().engine("the test").state
        return [[role, queue, op, cause] for _, role, queue, op, cause, _ in state.dead()]

    def retry(self, timeout: float) -> None:
        import dbml_magics as dbml

        dbml.retry_dead_letters(timeout=timeout)

    def verify(self, experiment: str, deep: bool = False) -> dict[str, Any]:
        """Return the differences, each as [kind, key, run, at databricks, at azureml]."""
        import dbml_magics as dbml

        found = dbml.verify(experiment=experiment, deep=deep)
        rows = [[d.kind, d.key, d.run, repr(d.databricks), repr(d.azureml)] for d in found.differences]
        return {"compared": found.runs_compared, "differences": rows, "text": str(found)}

    def repair(self, experiment: str, source: str | None = None) -> dict[str, Any]:
        """Repair; returns what was repaired and what remains, each as [kind, key, run]."""
        import dbml_magics as dbml

        done = dbml.repair(experiment=experiment, source=source, deep=True)

        def rows_of(which: Any) -> list[list[Any]]:
            return [[r.difference.kind, r.difference.key, r.difference.run] for r in which]

        return {
            "repaired": rows_of(done.repaired),
            "remaining": rows_of(done.remaining),
            "copied": done.copied,
            "text": str(done),
        }


def act(connection: socket.socket, counter: Path) -> None:
    """Do what is ordered until the other end closes the connection."""
    actor = Actor(counter)
    with connection, connection.makefile("rwb") as lines:

        def say(**said: Any) -> None:
            lines.write(json.dumps(said).encode() + b"\n")
            lines.flush()

        say(pid=os.getpid())
        for line in lines:
            order = json.loads(line)
            what: Callable[..., Any] = getattr(actor, order.pop("do"))
            try:
                say(ok=what(**order))
            except Exception as error:
                say(error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def _be_an_actor(order: dict[str, Any]) -> None:
    """Turn this forked process into an actor in its own folder; returns when it shall end."""
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    errors = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(order["socket"])
    act(connection, Path(order["counter"]))


def main() -> None:
    """Fork an actor at each order; the end of the orders ends them all."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a killed actor leaves no zombie that seems to live
    import mlflow
    import mlflow.sklearn

    with tempfile.TemporaryDirectory() as folder:  # what MLflow imports late, all actors shall have
        mlflow.sklearn.save_model(linear(), Path(folder, "model"), pip_requirements=["scikit-learn"])
    gc.collect()
    gc.freeze()  # an actor that ends need not look at all of that
    answers.write('{"ready": true}\n')
    answers.flush()
    children = set()
    # Read unbuffered: what waits here must not be read by a child as well.
    while line := _line():
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _be_an_actor(order)
            # What a script's end does, without a second of taking MLflow's modules to pieces.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            os._exit(0)
        children.add(pid)
        answers.write(json.dumps({"pid": pid}) + "\n")
        answers.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _line() -> bytes:
    got = b""
    while not got.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        got += byte
    return got


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
