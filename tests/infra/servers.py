"""Start real MLflow servers on this machine, stop them, start them again.

    with ServerHost() as host:
        server = host.start("databricks")
        MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)

Each has a SQLite database and serves its artifacts itself (``mlflow-artifacts:``), listens on 127.0.0.1 and
keeps its port while it is stopped. None outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["Server", "ServerHost", "clean_environment", "tail"]

START_DEADLINE = (
    180.0  # seconds; importing MLflow takes six on an idle machine and many more on a crowded one
)
FOREIGN = (
    "MLFLOW_",
    "_MLFLOW",
    "DBML_",
    "ARM_",
    "AZUREML_",
    "AZURE_",
    "DATABRICKS_",
    "SPARK_",
    "PYTHON",
    "COV_",
)


def clean_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what would reach MLflow, azureml, Databricks or our package.

    ``home`` becomes HOME, so that no file of the user's is read or written either.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    environment.update(
        HOME=str(home),
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        **(extra or {}),
    )
    return environment


def tail(log: Path, lines: int = 40) -> str:
    """Return the end of a log for an error message."""
    text = log.read_text(errors="replace") if log.exists() else "(no log was written)"
    return "\n".join(["", f"--- {log} ---", *text.splitlines()[-lines:]])


class Server:
    """One MLflow server; ``uri`` stays the same when it is stopped and started again."""

    def __init__(self, host: ServerHost, name: str, folder: Path) -> None:
        self._host = host
        self.name = name
        self.folder = folder
        self.port = 0
        self.pid: int | None = None

    @property
    def uri(self) -> str:
        """Return the tracking URI, which is the registry URI too."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Return the file that the server writes its log to."""
        return self.folder / "server.log"

    def start(self, *, wait: bool = True) -> Server:
        """Start the server, with all that it had when it was stopped; ``wait`` until it answers."""
        if self.pid is None:
            answer = self._host.ask(do="serve", folder=str(self.folder), port=self.port)
            self.port, self.pid = answer["port"], answer["pid"]
        if wait:
            self.wait_until_ready()
        return self

    def stop(self) -> None:
        """End the server as an administrator would: requests under way are finished."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        if self.pid is not None:
            self._host.ask(do="end", pid=self.pid, kill=kill)
            self.pid = None

    def wait_until_ready(self, deadline: float = START_DEADLINE) -> None:
        """Return when ``/health`` answers; raises RuntimeError with the log after ``deadline`` seconds."""
        over = time.monotonic() + deadline
        while time.monotonic() < over:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        raise RuntimeError(
            f"the MLflow server {self.name} did not answer within {deadline:.0f} s{tail(self.log)}"
        )


class ServerHost:
    """The process that forks servers; ``seconds`` is what its import of MLflow took.

    Made in the background: the constructor returns at once and the first ``start`` waits for it.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dbml-servers-"))
        self.seconds: float | None = None
        self._log = self.root / "host.log"
        self._lock = threading.Lock()
        self._servers: list[Server] = []
        home = self.root / "home"
        home.mkdir()
        # Nobody writes into this pipe: the servers end when its other end, ours, is closed.
        life, self._life = os.pipe()
        extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "TMPDIR": str(self.root)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    str(Path(__file__).with_name("_server_host.py")),
                    str(self.root),
                    str(life),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(home, extra),
                cwd=self.root,
                pass_fds=[life],
                start_new_session=True,  # Ctrl-C is for the tests, which then end the servers
            )
        os.close(life)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request to the host process and return its answer."""
        with self._lock:
            if self.seconds is None:
                self.seconds = float(self._read()["seconds"])
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that forks MLflow servers ended{tail(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self, name: str, *, wait: bool = True) -> Server:
        """Start a new, empty server."""
        server = Server(self, name, self.root / f"{len(self._servers)}-{name}")
        self._servers.append(server)
        return server.start(wait=wait)

    def start_pair(self) -> tuple[Server, Server]:
        """Start two empty servers at the same time, the primary's first."""
        primary, mirror = self.start("databricks", wait=False), self.start("azureml", wait=False)
        primary.wait_until_ready()
        mirror.wait_until_ready()
        return primary, mirror

    @contextmanager
    def stepping_back(self) -> Iterator[None]:
        """Let the servers have only the processor time that nobody else wants, as if they were elsewhere.

        Who is not root cannot take that back: they stay so.
        """
        os.setpriority(os.PRIO_PGRP, self._process.pid, 19)
        try:
            yield
        finally:
            with suppress(PermissionError):
                os.setpriority(os.PRIO_PGRP, self._process.pid, 0)

    def close(self) -> None:
        """End every server and remove what they kept."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        os.close(self._life)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> ServerHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
