"""What each section stands on: two servers behind proxies, and a process of its own for each scenario."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.benchmarks.sampler import VARIABLE
from tests.benchmarks.sizes import Sizes
from tests.infra.proxy import Proxy
from tests.infra.servers import ServerHost, clean_environment

__all__ = ["ROOT", "Child", "Stage", "figures_of", "problem", "verdict"]

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A scenario's process: lines of JSON come from it, and it waits for ours where both take turns."""

    def __init__(
        self, folder: Path, scenario: dict[str, Any], script: str = "child", place: str = ""
    ) -> None:
        """Start it in a ``place`` of its own, or in one of that name that others have as well."""
        own = Path(tempfile.mkdtemp(dir=folder))
        there = folder / place if place else own
        (there / "work").mkdir(parents=True, exist_ok=True)
        self.log = own / "log"
        extra = {
            "PYTHONPATH": str(ROOT),
            "DBML_HOME": str(there / "home"),
            "IPYTHONDIR": str(there / "ipython"),
            "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
            **{key: value for key, value in os.environ.items() if key == VARIABLE},
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.benchmarks.{script}", json.dumps(scenario)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=there / "work",
                env=clean_environment(there, extra),
                text=True,
            )

    def read(self) -> dict[str, Any]:
        """Return the next thing that the scenario tells."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                written: dict[str, Any] = json.loads(line)
                return written
        return {"error": f"the process ended with {self.process.wait()}: {self.log.read_text()[-500:]}"}

    def go(self) -> None:
        """Let a waiting scenario go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm")
        if pages.exists():
            return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        done = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True
        )
        return int(done.stdout) * 1024

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        # Each end of a pipe is closed after the process: a full pipe must not keep it from ending.
        if self.process.poll() is None:
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Stage:
    """Two servers, a proxy in front of each, and the scenarios."""

    def __init__(self, sizes: Sizes, progress: Callable[[str], None]) -> None:
        self.sizes = sizes
        self.progress = progress
        self._folder = tempfile.TemporaryDirectory(prefix="dbml-bench-")
        self.folder = Path(self._folder.name)
        self.host = ServerHost()
        self.servers = self.host.start_pair()
        self.proxies = tuple(Proxy(server.uri) for server in self.servers)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self.proxies:
            proxy.close()
        self.host.close()
        self._folder.cleanup()

    def _scenario(self, name: str, distances: tuple[int, int] = (0, 0), **more: Any) -> dict[str, Any]:
        """Set the proxies' distances (milliseconds) and return a scenario with an experiment of its own."""
        for proxy, distance in zip(self.proxies, distances, strict=True):
            proxy.reset_all()
            if distance:
                proxy.delay(distance / 1000)
        primary, mirror = self.proxies
        experiment = f"bench-{next(self._numbers)}"
        return {
            "name": name,
            "databricks": primary.uri,
            "azureml": mirror.uri,
            "experiment": experiment,
            **more,
        }

    def _run(
        self,
        label: str,
        scenario: dict[str, Any],
        between: Callable[[], None] | None = None,
        script: str = "child",
    ) -> dict[str, Any]:
        self.progress(label)
        with Child(self.folder, scenario, script) as child:
            report = child.read()
            if "event" in report:
                if between is not None:
                    between()
                child.go()
                report = child.read()
        return report

    def _forget(self) -> None:
        for proxy in self.proxies:
            proxy.forget()

    def _requests(self) -> int:
        """Return how many requests came to both since the last :meth:`_forget`."""
        return sum(proxy.count() for proxy in self.proxies)

    def _sent(self) -> str:
        """Return the same at each."""
        return " + ".join(f"{proxy.count():,}" for proxy in self.proxies)


def figures_of(
    measured_there: dict[str, Any], what: str, name: str = "log_metric"
) -> dict[str, float] | None:
    """Return the figures of one kind of call, if it was measured."""
    measured: dict[str, float] | None = measured_there.get(what, {}).get(name)
    return measured


def problem(measured: dict[str, Any]) -> str:
    """Return in one line why something was not measured."""
    text = str(measured.get("absent") or measured.get("error") or f"it printed {measured} instead")
    return re.sub(r"\s+", " ", text)[:200]


def verdict(good: bool) -> str:
    """Return in a word whether a requirement is met."""
    return "met" if good else "MISSED"
