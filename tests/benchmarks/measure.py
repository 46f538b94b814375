"""Run each scenario in a process of its own, against two servers behind proxies, and gather the figures."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import requests

from tests.benchmarks.report import Figure, Row, Section
from tests.infra.proxy import Proxy
from tests.infra.servers import ServerHost, clean_environment

ROOT = Path(__file__).resolve().parents[2]

# What the figures are held against.
FLOOR_RATIO = 2.5  # median of log_metric, as a multiple of the floor, at every distance and in an outage
P99_US = 500.0
VISIBLE_S = 10.0  # 20,000 points at both workspaces, 20 ms away
REQUESTS = {1000: 30, 200: 110}  # for them, by what the service takes in a batch
MEMORY_MB = 30.0
LOAD_EXT_MS = 50.0
HEAVY = ("mlflow", "azureml", "databricks", "pyspark", "pandas")
POINTS_DEADLINE = 120.0


@dataclass(frozen=True)
class Sizes:
    """How much of each thing is done."""

    calls: int = 20_000
    rest_calls: int = 100
    async_calls: int = 2_000
    wandb_calls: int = 5_000
    others: dict[str, int] = field(
        default_factory=lambda: {
            "log_metric(run_id=…)": 5000,
            "log_metrics of 10": 2000,
            "log_param": 500,
            "log_text": 200,
        }
    )
    points: int = 20_000
    rounds: int = 500
    interpreters: int = 7
    distances: tuple[tuple[int, int], ...] = ((0, 0), (20, 60), (60, 20))
    quick: bool = False


QUICK = Sizes(
    calls=300,
    rest_calls=5,
    async_calls=50,
    wandb_calls=50,
    others={"log_metric(run_id=…)": 20, "log_metrics of 10": 20, "log_param": 20, "log_text": 5},
    points=2_000,
    rounds=20,
    interpreters=1,
    distances=((20, 60),),
    quick=True,
)


class Child:
    """A scenario's process: lines of JSON come from it, and it waits for ours where both take turns."""

    def __init__(self, folder: Path, scenario: dict[str, Any]) -> None:
        place = Path(tempfile.mkdtemp(dir=folder))
        (place / "work").mkdir()
        self.log = place / "log"
        extra = {
            "PYTHONPATH": str(ROOT),
            "DBML_HOME": str(place / "home"),
            "IPYTHONDIR": str(place / "ipython"),
            "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.child", json.dumps(scenario)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=place / "work",
                env=clean_environment(place, extra),
                text=True,
            )

    def read(self) -> dict[str, Any]:
        """Return the next thing that the scenario tells."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                told: dict[str, Any] = json.loads(line)
                return told
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
        told = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True
        )
        return int(told.stdout) * 1024

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


class Bench:
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

    def __enter__(self) -> Bench:
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
        self, label: str, scenario: dict[str, Any], between: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        self.progress(label)
        with Child(self.folder, scenario) as child:
            told = child.read()
            if "event" in told:
                if between is not None:
                    between()
                child.go()
                told = child.read()
        return told

    # Sections

    def log_metric(self) -> Section:
        """One mlflow.log_metric: the link at each distance and in an outage, beside what else there is."""
        sizes = self.sizes
        section = Section(
            "one mlflow.log_metric",
            ("× floor", "median µs", "p99 µs", f"required: ≤ {FLOOR_RATIO} × floor, p99 < {P99_US:.0f} µs"),
        )
        counts = {"log_metric": sizes.calls}
        told = self._run("floor", self._scenario("floor", calls=counts))
        lowest = told.get("floor", {}).get("log_metric")
        section.add(_call_row("a store that does nothing (the floor)", told, lowest, lowest, held=False))
        for near, far in sizes.distances:
            label = f"linked to two workspaces, {near} and {far} ms away"
            told = self._run(label, self._scenario("linked", (near, far), calls=counts))
            section.add(_call_row(label, told, _of(told, "floor"), _of(told, "measured"), held=True))
        label = "linked, both workspaces away"
        told = self._run(label, self._scenario("linked", (20, 60), calls=counts, outage=True), self._cut_off)
        section.add(_call_row(label, told, _of(told, "floor"), _of(told, "measured"), held=True))
        for distance in (20, 60):
            label = f"plain MLflow, one workspace {distance} ms away"
            few = {"log_metric": sizes.rest_calls}
            told = self._run(label, self._scenario("rest", (distance, 0), calls=few))
            section.add(_call_row(label, told, _of(told, "floor"), _of(told, "measured"), held=False))
        label = "MLflow's async logging, one workspace 20 ms away"
        few = {"log_metric": sizes.async_calls}
        told = self._run(label, self._scenario("rest", (20, 0), calls=few, asynchronous=True))
        section.add(_call_row(label, told, _of(told, "floor"), _of(told, "measured"), held=False))
        few = {"log_metric": sizes.wandb_calls}
        told = self._run("wandb offline", self._scenario("wandb", calls=few))
        section.add(
            _call_row("wandb offline (run.log)", told, _of(told, "floor"), _of(told, "measured"), held=False)
        )
        return section

    def _cut_off(self) -> None:
        for proxy in self.proxies:
            proxy.refuse()

    def other_calls(self) -> Section:
        """The other calls of the fluent API, through the link and on the floor."""
        section = Section(
            "other calls, linked, 20 and 60 ms away", ("× floor", "median µs", "p99 µs", "floor µs")
        )
        label = "other calls"
        told = self._run(label, self._scenario("linked", (20, 60), calls=self.sizes.others))
        for name in self.sizes.others:
            lowest, measured = _of(told, "floor", name), _of(told, "measured", name)
            if lowest is None or measured is None:
                section.add(Row(f"mlflow.{name}", problem=_problem(told)))
                continue
            section.add(
                Row(
                    f"mlflow.{name}",
                    (
                        Figure(measured["median"] / lowest["median"], 1),
                        Figure(measured["median"], 0),
                        Figure(measured["p99"], 0),
                        Figure(lowest["median"], 0),
                    ),
                )
            )
        return section

    def training(self) -> Section:
        """A real training with a metric each round."""
        rounds = self.sizes.rounds
        section = Section(f"LightGBM, {rounds} rounds with a metric each", ("× without logging", "seconds"))
        bare: float | None = None
        for backend, label in (
            ("bare", "without logging"),
            ("floor", "a store that does nothing (the floor)"),
            ("linked", "linked to two workspaces, 20 and 60 ms away"),
            ("rest", "plain MLflow, one workspace 20 ms away"),
        ):
            scenario = self._scenario("training", (20, 60), backend=backend, rounds=rounds)
            told = self._run(f"LightGBM, {label}", scenario)
            seconds = told.get("seconds")
            if seconds is None:
                section.add(Row(label, problem=_problem(told), absent="absent" in told))
                continue
            bare = bare or seconds
            section.add(Row(label, (Figure(seconds / bare, 2), Figure(seconds, 2))))
        return section

    def points(self) -> Section:
        """Many points until both workspaces have them all."""
        count = self.sizes.points
        section = Section(
            f"{count:,} points, both workspaces 20 ms away",
            ("seconds until visible", "requests", "memory MB", "seconds to log", "required"),
        )
        for batch in (1000, 200):
            label = f"a service that takes {batch:,} a batch"
            self.progress(f"{count:,} points, {label}")
            scenario = self._scenario("points", (20, 20), points=count)
            if batch != 1000:
                for proxy in self.proxies:
                    proxy.limit({"metrics": batch})
            with Child(self.folder, scenario) as child:
                section.add(self._points_row(label, child, scenario["experiment"], batch))
        return section

    def _points_row(self, label: str, child: Child, experiment: str, batch: int) -> Row:
        told = child.read()
        if told.get("event") != "ready":
            return Row(label, problem=_problem(told))
        for proxy in self.proxies:
            proxy.forget()
        watchers = [Watcher(server.uri, experiment, self.sizes.points) for server in self.servers]
        before = highest = child.memory()
        child.go()
        begun = time.time()
        waiting = list(watchers)
        while waiting and time.time() - begun < POINTS_DEADLINE:
            time.sleep(0.1)
            highest = max(highest, child.memory())
            waiting = [watcher for watcher in waiting if not watcher.look()]
        told = child.read()
        sent = [proxy.count() for proxy in self.proxies]
        child.go()
        if waiting or "begun" not in told:
            arrived = ", ".join(f"{watcher.seen:,}" for watcher in watchers)
            return Row(label, problem=f"after {POINTS_DEADLINE:.0f} s the workspaces had {arrived} points")
        seconds = max(watcher.complete for watcher in watchers) - told["begun"]
        memory = (highest - before) / 2**20
        # The limits are for 20,000 points; fewer points may cost no more.
        good = seconds <= VISIBLE_S and max(sent) <= REQUESTS[batch] and memory <= MEMORY_MB
        return Row(
            label,
            (
                Figure(seconds, 1),
                Figure(text=" + ".join(str(number) for number in sent)),
                Figure(memory, 1),
                Figure(told["ended"] - told["begun"], 2),
                Figure(
                    text=f"≤ {VISIBLE_S:.0f} s, {REQUESTS[batch]} each, {MEMORY_MB:.0f} MB: {_verdict(good)}"
                ),
            ),
        )

    def load_ext(self) -> Section:
        """Loading the extension in fresh interpreters."""
        section = Section("%load_ext dbml_magics", ("ms", "heavy modules imported", "modules", "required"))
        label = f"median of {self.sizes.interpreters} fresh interpreters"
        told = [
            self._run("%load_ext", {"name": "load_ext", "heavy": HEAVY})
            for _ in range(self.sizes.interpreters)
        ]
        failed = next((each for each in told if "seconds" not in each), None)
        if failed is not None:
            section.add(Row(label, problem=_problem(failed)))
            return section
        took = median(each["seconds"] for each in told) * 1000
        heavy = sorted({name for each in told for name in each["heavy"]})
        good = took < LOAD_EXT_MS and not heavy
        section.add(
            Row(
                label,
                (
                    Figure(took, 1),
                    Figure(text=", ".join(heavy) or "none"),
                    Figure(told[0]["modules"], 0),
                    Figure(text=f"< {LOAD_EXT_MS:.0f} ms, none: {_verdict(good)}"),
                ),
            )
        )
        return section

    def everything(self) -> list[Section]:
        """Measure all sections."""
        return [self.log_metric(), self.other_calls(), self.points(), self.training(), self.load_ext()]


class Watcher:
    """Looks, past the proxy, for the points of the one run of an experiment."""

    def __init__(self, uri: str, experiment: str, points: int) -> None:
        self.api = f"{uri}/api/2.0/mlflow"
        self.points = points
        self.seen = 0
        self.complete = 0.0
        self.session = requests.Session()
        found = self._get("experiments/get-by-name", experiment_name=experiment)["experiment"]
        search = {"experiment_ids": [found["experiment_id"]]}
        answer = self.session.post(f"{self.api}/runs/search", json=search, timeout=30).json()
        (self.run,) = (run["info"]["run_id"] for run in answer["runs"])

    def _get(self, call: str, **query: str) -> dict[str, Any]:
        answer = self.session.get(f"{self.api}/{call}", params=query, timeout=60)
        answer.raise_for_status()
        held: dict[str, Any] = answer.json()
        return held

    def look(self) -> bool:
        """Return whether every point is there; asks for the whole history only once the last step is."""
        data = self._get("runs/get", run_id=self.run)["run"]["data"]
        last = next((metric for metric in data.get("metrics", []) if metric["key"] == "loss"), None)
        looked = time.time()
        if last is None:
            return False
        self.seen = int(last.get("step", 0)) + 1
        if self.seen < self.points:
            return False
        self.seen = len(self._get("metrics/get-history", run_id=self.run, metric_key="loss")["metrics"])
        self.complete = looked
        return self.seen == self.points


def _of(told: dict[str, Any], what: str, name: str = "log_metric") -> dict[str, float] | None:
    measured: dict[str, float] | None = told.get(what, {}).get(name)
    return measured


def _problem(told: dict[str, Any]) -> str:
    text = str(told.get("absent") or told.get("error") or f"it told {told} instead")
    return re.sub(r"\s+", " ", text)[:200]


def _verdict(good: bool) -> str:
    return "met" if good else "MISSED"


def _call_row(
    label: str,
    told: dict[str, Any],
    lowest: dict[str, float] | None,
    measured: dict[str, float] | None,
    *,
    held: bool,
) -> Row:
    if lowest is None or measured is None:
        return Row(label, problem=_problem(told), absent="absent" in told)
    ratio = measured["median"] / lowest["median"]
    good = ratio <= FLOOR_RATIO and measured["p99"] < P99_US
    return Row(
        label,
        (
            Figure(ratio, 1),
            Figure(measured["median"], 0),
            Figure(measured["p99"], 0),
            Figure(text=_verdict(good) if held else ""),
        ),
    )


def machine() -> str:
    """Return one line about what the figures were measured on."""
    import importlib.metadata
    import platform

    parts = [f"{os.cpu_count()} cores", f"Python {platform.python_version()}"]
    parts += [f"{name} {importlib.metadata.version(name)}" for name in ("mlflow", "ipython")]
    return ", ".join(parts)
