"""Processes that log through a link as a test tells them: several at once, and killed at any moment.

with ActorHost() as host:
    actor = host.start(home, folder)
    actor.do("link", databricks=…, azureml=…)
    actor.send("metric", run=…, key="loss", value="0.5", stamp=1, step=1)
    answered, unanswered = actor.kill()         # what of the orders sent was acknowledged
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.infra.acting import COUNT
from tests.infra.orders import Orders
from tests.infra.servers import clean_environment, tail

__all__ = ["Actor", "ActorHost", "OrderFailed"]

DEADLINE_S = 120.0
_numbers = itertools.count(1)


class OrderFailed(AssertionError):
    """An order raised in the actor; the message holds its traceback."""


class Actor:
    """A process of a link; answers come in the order of what was sent."""

    def __init__(self, connection: socket.socket, folder: Path, log: Path, counter: Path) -> None:
        self._connection = connection
        self.patience(DEADLINE_S)
        self._lines = connection.makefile("rb")
        self.folder, self._log, self._counter = folder, log, counter
        self.pending: list[dict[str, Any]] = []
        self.pid = int(self._read()["pid"])

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise AssertionError(f"no answer within {self._deadline:g} s to {self.pending[:1]}") from None
        if not line.endswith(b"\n"):
            raise EOFError(f"the actor ended; {self.pending[:1]} was not answered{tail(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def patience(self, seconds: float) -> None:
        """Set how long an answer is waited for."""
        self._deadline = seconds
        self._connection.settimeout(seconds)

    def send(self, do: str, **order: Any) -> None:
        """Send an order without waiting for its answer."""
        self.pending.append({"do": do, **order})
        self._connection.sendall(json.dumps(self.pending[-1]).encode() + b"\n")

    def answer(self) -> Any:
        """Return the answer to the oldest order that has none. Raises OrderFailed."""
        answer = self._read()
        order = self.pending.pop(0)
        if "error" in answer:
            raise OrderFailed(f"{order} raised {answer['error']}\n{answer['trace']}")
        return answer["ok"]

    def do(self, do: str, **order: Any) -> Any:
        """Send an order and return its answer. Raises OrderFailed."""
        assert not self.pending, "answers are waited for in order"
        self.send(do, **order)
        return self.answer()

    def count(self) -> int:
        """Return how far ``points`` has come: the first step that was not acknowledged."""
        data = self._counter.read_bytes()
        return int(COUNT.unpack(data)[0]) if len(data) == COUNT.size else 0

    def kill(self) -> list[dict[str, Any]]:
        """Kill the process; returns the answers that it had still given, to the oldest orders pending.

        Of the rest of ``pending`` the first may have been obeyed, those after it were not.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        answers = []
        with contextlib.suppress(EOFError, OSError):  # nothing more can be read where an answer was late
            while True:
                answers.append(self._read())
                self.pending.pop(0)
        self.close()
        return answers

    def leave(self) -> None:
        """End the process as a script ends: what waits is flushed, within the bound."""
        self._connection.shutdown(socket.SHUT_WR)
        assert not self._lines.read(), "answers were not waited for"
        self.close()
        until = time.monotonic() + DEADLINE_S
        while self.alive():
            assert time.monotonic() < until, f"the process did not end within {DEADLINE_S:g} s"
            time.sleep(0.005)

    def alive(self) -> bool:
        """Tell whether the process is there."""
        return Path(f"/proc/{self.pid}").exists()

    def memory(self) -> int:
        """Return how many bytes of memory the process has for itself."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def threads(self) -> int:
        """Return how many threads the process has."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def descriptors(self) -> int:
        """Return how many files and connections the process has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def log(self) -> str:
        """Return what the process printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._connection.close()


class ActorHost(Orders):
    """Starts actors, each within milliseconds: MLflow is imported once, here, and they are forks."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dbml-actors-"))
        root = Path(__file__).resolve().parents[2]
        super().__init__(
            ["-W", "ignore", "-m", "tests.infra.acting"],
            cwd=root,
            environment=clean_environment(self._folder, environment),
        )
        self._path = str(self._folder / "s")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self._path)
        self._listening.listen()
        self._listening.settimeout(DEADLINE_S)
        self._read()

    def start(self, home: Path, folder: Path, **environment: str) -> Actor:
        """Start an actor whose links live in ``home`` and whose working directory is ``folder``."""
        number = next(_numbers)
        log, counter = self._folder / f"{number}.log", self._folder / f"{number}.count"
        given = {"DBML_HOME": str(home), **environment}
        self._ask(
            socket=self._path, folder=str(folder), log=str(log), counter=str(counter), environment=given
        )
        connection, _ = self._listening.accept()
        return Actor(connection, folder, log, counter)

    def close(self) -> None:
        """End the process and every actor."""
        super().close()
        self._listening.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> ActorHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
