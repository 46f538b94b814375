"""Import MLflow's server once, then fork a real server whenever one is asked for.

Run as a script by :mod:`tests.infra.servers`. Importing the server takes five seconds of processor time and
forking it a few milliseconds: that is what makes a pair of servers, and starting one again in the middle of a
test, cheap.

One JSON object a line: requests on standard input, answers on standard output. The end of standard input ends
this process and every server it forked; each server also watches a pipe that only the tests hold open, so
that none outlives them, however they end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


def without_plugins() -> None:
    """Hide every MLflow plugin: a server knows neither our package nor azureml's, and starts sooner."""
    import importlib.metadata

    every = importlib.metadata.entry_points

    def entry_points(**selection: Any) -> Any:
        if str(selection.get("group", "")).startswith("mlflow."):
            return importlib.metadata.EntryPoints(())
        return every(**selection)

    importlib.metadata.entry_points = entry_points


def fast_sqlite() -> None:
    """Let SQLite neither wait for the disk nor lock readers out: no power cut need be survived."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def relax(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()


def bound_socket(port: int) -> socket.socket:
    """Return a socket bound to the port (0: a free one) that shares it with other sockets of ours."""
    # Name the protocol: only where asyncio reads TCP, it turns Nagle's algorithm off (40 ms a request).
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


class Host:
    """The importing process: it makes a database to copy, and forks servers."""

    def __init__(self, root: Path, life: int) -> None:
        self.root = root
        self.life = life
        self.template = root / "template.db"
        self.holders: dict[int, socket.socket] = {}  # keep each port ours while its server is stopped
        self.children: set[int] = set()

    def prepare(self) -> None:
        """Import the server and make the empty database that each server's own is copied from."""
        # MLflow knows a server by uvicorn being loaded: otherwise its checks of the Host header are off.
        import uvicorn  # noqa: F401

        without_plugins()
        import mlflow.server.fastapi_app  # noqa: F401
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(f"sqlite:///{self.template}", "mlflow-artifacts:/").engine.dispose()
        fast_sqlite()

    def serve(self, folder: str, port: int) -> dict[str, Any]:
        """Fork a server that keeps everything in the folder; returns its port and process id."""
        where = Path(folder)
        (where / "artifacts").mkdir(parents=True, exist_ok=True)
        if not (where / "mlflow.db").exists():
            shutil.copy(self.template, where / "mlflow.db")
        if port not in self.holders:
            holder = bound_socket(port)
            port = holder.getsockname()[1]
            self.holders[port] = holder
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                self._be_a_server(where, port)
            finally:
                os._exit(1)
        self.children.add(pid)
        return {"port": port, "pid": pid}

    def _be_a_server(self, folder: Path, port: int) -> None:
        log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        threading.Thread(target=end_with, args=(self.life,), daemon=True).start()
        os.environ.update(
            _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{folder / 'mlflow.db'}",
            _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
            _MLFLOW_SERVER_ARTIFACT_DESTINATION=str(folder / "artifacts"),
            _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
        )
        import uvicorn
        from mlflow.server.fastapi_app import app

        # Connections stay open as long as the tests: one closed between two requests would look like a fault.
        config = uvicorn.Config(
            app, log_level="warning", timeout_keep_alive=3600, timeout_graceful_shutdown=1
        )
        listening = bound_socket(port)
        listening.listen(256)
        uvicorn.Server(config).run(sockets=[listening])
        os._exit(0)

    def end(self, pid: int, kill: bool) -> dict[str, Any]:
        """End one server by SIGTERM, or by SIGKILL if three seconds do not suffice or ``kill`` is set."""
        if pid in self.children:
            os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
            patience = time.monotonic() + 3
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > patience:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    break
                time.sleep(0.01)
            self.children.discard(pid)
        return {}

    def end_all(self) -> None:
        """End every server at once."""
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self.children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def end_with(life: int) -> None:
    """End this process when the other end of the pipe is closed."""
    os.read(life, 1)
    os._exit(0)


def main() -> None:
    root, life = Path(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log, not among the answers

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    host = Host(root, life)
    begun = time.monotonic()
    host.prepare()
    answer({"ready": True, "seconds": round(time.monotonic() - begun, 2)})
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            verb = asked.pop("do")
            answer(host.serve(**asked) if verb == "serve" else host.end(**asked))
    finally:
        host.end_all()


if __name__ == "__main__":
    main()
