"""Run each scenario in a process of its own, against two servers behind proxies, and gather the figures."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import copies, limits
from tests.benchmarks.api import Api
from tests.benchmarks.report import Figure, Row, Section
from tests.benchmarks.scale import TEN, Scale
from tests.benchmarks.stage import Child, figures_of, problem, verdict
from tests.benchmarks.traffic import Traffic
from tests.infra.proxy import Proxy

# What the figures are held against.
FLOOR_RATIO = 2.5  # median of log_metric, as a multiple of the floor, at every distance and in an outage
P99_US = 500.0
POINTS_RATIO = 1.3  # 20,000 points at both workspaces, 20 ms away, as a multiple of the limit
REQUESTS = {1000: 21, 250: 81}  # for them, by what the service takes in a batch
MEMORY_MB = 30.0
COPY_RATIO = 1.5  # copying runs, as a multiple of ten connections that make the same
LOAD_EXT_MS = 50.0
HEAVY = ("mlflow", "azureml", "databricks", "pyspark", "pandas")
POINTS_DEADLINE = 120.0
TRAINING_RATIO = 1.05
VERIFY_MB = 250.0  # gained while any number of runs is compared: a page of each side at a time
SCORE_RATIO = 1.3  # a million rows of a linear model, as a multiple of a map that does nothing
SCORE_ROWS = 1_000_000


IN_TURN = "the limit, the same batches one after the other"
REPAIR = "%dbml sync --repair"
TIMES = ("the first time", "again")


class Bench(Scale):
    """All sections, on two servers with a proxy in front of each."""

    def log_metric(self) -> Section:
        """One mlflow.log_metric: the link at each distance and in an outage, beside what else there is."""
        sizes = self.sizes
        section = Section(
            "one mlflow.log_metric",
            ("× floor", "median µs", "p99 µs", f"required: ≤ {FLOOR_RATIO} × floor, p99 < {P99_US:.0f} µs"),
        )
        counts = {"log_metric": sizes.calls}
        measured = self._run("floor", self._scenario("floor", calls=counts))
        lowest = measured.get("floor", {}).get("log_metric")
        section.add(_call_row("a store that does nothing (the floor)", measured, lowest, lowest, held=False))
        for near, far in sizes.distances:
            label = f"linked to two workspaces, {near} and {far} ms away"
            measured = self._run(label, self._linked((near, far), counts))
            section.add(
                _call_row(
                    label,
                    measured,
                    *_floor_and(measured),
                    held=True,
                )
            )
        label = "linked, both workspaces away"
        measured = self._run(label, self._linked((20, 60), counts, outage=True), self._cut_off)
        section.add(_call_row(label, measured, *_floor_and(measured), held=True))
        for distance in (20, 60):
            label = f"plain MLflow, one workspace {distance} ms away"
            few = {"log_metric": sizes.rest_calls}
            measured = self._run(label, self._scenario("rest", (distance, 0), calls=few))
            section.add(
                _call_row(
                    label,
                    measured,
                    *_floor_and(measured),
                    held=False,
                )
            )
        label = "MLflow's async logging, one workspace 20 ms away"
        few = {"log_metric": sizes.async_calls}
        measured = self._run(label, self._scenario("rest", (20, 0), calls=few, asynchronous=True))
        section.add(_call_row(label, measured, *_floor_and(measured), held=False))
        few = {"log_metric": sizes.wandb_calls}
        measured = self._run("wandb offline", self._scenario("wandb", calls=few))
        section.add(
            _call_row(
                "wandb offline (run.log)",
                measured,
                *_floor_and(measured),
                held=False,
            )
        )
        return section

    def _linked(self, distances: tuple[int, int], calls: dict[str, int], **more: Any) -> dict[str, Any]:
        return self._scenario("linked", distances, calls=calls, blocks=self.sizes.blocks, **more)

    def _cut_off(self) -> None:
        for proxy in self.proxies:
            proxy.refuse()

    def other_calls(self) -> Section:
        """The other calls of the fluent API, through the link and on the floor."""
        section = Section(
            "other calls, linked",
            (
                "× floor",
                "median µs",
                "p99 µs",
                "the floor's p99",
                f"required: ≤ {FLOOR_RATIO} × floor, p99 < {P99_US:.0f} µs",
            ),
        )
        for place, outage in (("20 and 60 ms away", False), ("both away", True)):
            scenario = self._linked((20, 60), self.sizes.others, outage=outage)
            seen = self._run(f"other calls, {place}", scenario, self._cut_off if outage else None)
            for name in self.sizes.others:
                lowest, measured = figures_of(seen, "floor", name), figures_of(seen, "measured", name)
                label = f"mlflow.{name}, {place}"
                # MLflow's own temporary file is as slow as the disk: the floor's slowest stand beside.
                row = _call_row(label, seen, lowest, measured, held=True, name=name, floor_p99=True)
                section.add(row)
        return section

    def live(self) -> Section:
        """One log_metric in a tracked cell of a kernel, with the live view and without."""
        calls, metrics = self.sizes.live_calls, 50
        section = Section(
            f"{calls:,} calls of log_metric over {metrics} metrics in a tracked cell",
            ("× without", "median µs", "p99 µs", "seconds in all", "updates shown"),
        )
        scenario = self._scenario("live", (20, 60), calls=calls, metrics=metrics, pairs=self.sizes.pairs)
        seen = self._run("the live view, on and off in turn", scenario)
        plain = seen.get("without")
        for label, name in (("without the live view", "without"), ("with the live view", "live")):
            measured = seen.get(name)
            if not plain or not measured:
                section.add(Row(label, problem=problem(seen)))
                continue
            ratio = median(a["total"] / b["total"] for a, b in zip(measured, plain, strict=True))
            values = [median(each[key] for each in measured) for key in ("median", "p99", "total", "updates")]
            places = (1, 0, 2, 0)
            figures = [Figure(value, place) for value, place in zip(values, places, strict=True)]
            section.add(Row(label, (Figure(ratio, 2), *figures)))
        return section

    def training(self) -> Section:
        """Trainings that use the whole machine, with a metric each round, tracked and untracked in turn."""
        sizes = self.sizes
        section = Section(
            f"a training of {sizes.rounds} rounds, tracked and not, in turn",
            (
                "× untracked",
                "× untracked beside the same requests",
                "seconds",
                "requests",
                f"required: ≤ {TRAINING_RATIO}",
            ),
        )
        trainings: list[tuple[str, str, int, tuple[str, ...]]] = [
            (
                "lightgbm",
                f"LightGBM, {os.cpu_count()} threads, {rows:,} rows",
                rows,
                ("floor", "linked", "rest"),
            )
            for rows in sizes.trained_rows
        ]
        trainings += [
            ("python", f"plain Python, {rows // 50:,} rows", rows, ("floor", "linked"))
            for rows in sizes.trained_rows
        ]
        for training, title, rows, backends in trainings:
            for backend in backends:
                label = f"{title}, {BACKENDS[backend]}"
                scenario = self._scenario(
                    "training",
                    (20, 60),
                    training=training,
                    backend=backend,
                    rounds=sizes.rounds,
                    rows=rows,
                    repeats=1 if backend == "rest" else sizes.pairs,
                    busied=backend == "linked",
                )
                with self.host.stepping_back():  # what delivery costs is asked, not what a server does
                    measured, requests = self._train(label, scenario)
                section.add(_training_row(label, measured, requests))
        return section

    def _train(self, label: str, scenario: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Run a training; returns what it tells, and how many requests the last tracked one took."""
        self.progress(label)
        traffic: Traffic | None = None
        threads: list[threading.Thread] = []
        arm, begun = "", 0.0
        for proxy in self.proxies:
            proxy.keep_bodies("")
        with Child(self.folder, scenario) as child:
            while "event" in (report := child.read()):
                if report["event"] != "over":
                    arm, begun = report["event"], time.time()
                    threads = traffic.replay() if arm == "busied" and traffic is not None else []
                else:
                    if arm == "tracked":
                        traffic = Traffic(self.proxies, begun)
                    for thread in threads:
                        thread.join()
                child.go()
        for proxy in self.proxies:
            proxy.keep_bodies(None)
        if traffic is not None and traffic.refused:
            return {"error": f"asked once more: {traffic.refused[0]}"}, []
        return report, traffic.counts if traffic is not None else []

    def points(self) -> Section:
        """Many points until both workspaces have them all, beside a script that posts the same batches."""
        count = self.sizes.points
        section = Section(
            f"{count:,} points, both workspaces 20 ms away",
            ("seconds until visible", "× the limit", "requests", "memory MB", "seconds to log", "required"),
        )
        for batch, most in REQUESTS.items():
            label = f"a service that takes {batch:,} a batch"
            limit = self._watch_points(f"{label}: {IN_TURN}", count, batch, POINTS_DEADLINE, "limits")
            seen = self._watch_points(f"{count:,} points, {label}", count, batch, POINTS_DEADLINE)
            if limit.problem or seen.problem:
                section.add(Row(label, problem=limit.problem or seen.problem))
                continue
            # The requests are for 20,000 points; fewer points may cost no more.
            ratio = seen.visible / limit.visible
            good = ratio <= POINTS_RATIO and max(seen.requests) <= most and seen.memory <= MEMORY_MB
            required = f"≤ {POINTS_RATIO} ×, {most} each, {MEMORY_MB:.0f} MB: {verdict(good)}"
            lowest = (Figure(limit.visible, 1), Figure(), Figure(text=limit.sent))
            section.add(Row(f"{label}: {IN_TURN}", lowest))
            section.add(
                Row(
                    label,
                    (
                        Figure(seen.visible, 1),
                        Figure(ratio, 2),
                        Figure(text=seen.sent),
                        Figure(seen.memory, 1),
                        Figure(seen.logging, 2),
                        Figure(text=required),
                    ),
                )
            )
        return section

    def million(self) -> Section:
        """A million points of one run: what a point costs, and what is left behind."""
        count = self.sizes.million
        section = Section(
            f"{count:,} points in one run, both workspaces 20 ms away",
            ("µs a point", "seconds until visible", "requests", "memory MB", "journal MB", "afterwards"),
        )
        label = "a service that takes 1,000 a batch"
        seen = self._watch_points(f"{count:,} points", count, 1000, self.sizes.million_deadline)
        if seen.problem:
            section.add(Row(label, problem=seen.problem))
        else:
            section.add(
                Row(
                    label,
                    (
                        Figure(seen.logging / count * 1e6, 1),
                        Figure(seen.visible, 1),
                        Figure(text=seen.sent),
                        Figure(seen.memory, 1),
                        Figure(seen.journal, 1),
                        Figure(seen.left, 1),
                    ),
                )
            )
        return section

    def _watch_points(
        self, label: str, count: int, batch: int, deadline: float, script: str = "child"
    ) -> Seen:
        self.progress(label)
        scenario = self._scenario("points", (20, 20), points=count, batch=batch)
        if batch != 1000:
            for proxy in self.proxies:
                proxy.limit({"metrics": batch})
        with Child(self.folder, scenario, script) as child:
            report = child.read()
            if report.get("event") != "ready":
                return Seen(problem=problem(report))
            journal = Path(report["journal"])
            for proxy in self.proxies:
                proxy.forget()
            watchers = [Watcher(server.uri, scenario["experiment"], count) for server in self.servers]
            before = highest = child.memory()
            most = 0.0
            child.go()
            begun = time.time()
            waiting = list(watchers)
            while waiting and time.time() - begun < deadline:
                time.sleep(0.1)
                highest = max(highest, child.memory())
                most = max(most, _megabytes(journal))
                waiting = [watcher for watcher in waiting if not watcher.look()]
            report = child.read()
            sent = tuple(proxy.count() for proxy in self.proxies)
            child.go()
            if waiting or "begun" not in report:
                arrived = ", ".join(f"{watcher.seen:,}" for watcher in watchers)
                return Seen(problem=f"after {deadline:.0f} s the workspaces had {arrived} points")
            last = child.read()
            left = _megabytes(journal)
            child.go()
            if last.get("event") != "delivered":
                return Seen(problem=problem(last))
        return Seen(
            visible=max(watcher.complete for watcher in watchers) - report["begun"],
            logging=report["ended"] - report["begun"],
            requests=sent,
            memory=(highest - before) / 2**20,
            journal=most,
            left=left,
        )

    def load_ext(self) -> Section:
        """Loading the extension in fresh interpreters."""
        section = Section("%load_ext dbml_magics", ("ms", "heavy modules imported", "modules", "required"))
        label = f"median of {self.sizes.interpreters} fresh interpreters"
        measured = [
            self._run("%load_ext", {"name": "load_ext", "heavy": HEAVY})
            for _ in range(self.sizes.interpreters)
        ]
        failed = next((each for each in measured if "seconds" not in each), None)
        if failed is not None:
            section.add(Row(label, problem=problem(failed)))
            return section
        took = median(each["seconds"] for each in measured) * 1000
        heavy = sorted({name for each in measured for name in each["heavy"]})
        good = took < LOAD_EXT_MS and not heavy
        section.add(
            Row(
                label,
                (
                    Figure(took, 1),
                    Figure(text=", ".join(heavy) or "none"),
                    Figure(measured[0]["modules"], 0),
                    Figure(text=f"< {LOAD_EXT_MS:.0f} ms, none: {verdict(good)}"),
                ),
            )
        )
        return section

    def deploy(self) -> Section:
        """A model served by deploy and by mlflow models serve, and what the same clients see of each."""
        section = Section(
            "one model served (2 rows a request)",
            (
                "s to first answer",
                "p50 ms, 1 client",
                "p99",
                "requests/s",
                "p50 ms, 8 clients",
                "p99",
                "requests/s",
            ),
        )
        measured = self._run("deploy", {"name": "deploy", "requests": self.sizes.served})
        keys = ("ready", *(f"{key}_{n}" for n in (1, 8) for key in ("p50", "p99", "rate")))
        for server, label in (("mlflow", "mlflow models serve"), ("local", "%dbml deploy --to local")):
            if server not in measured:
                section.add(Row(label, problem=problem(measured)))
                continue
            figures = (Figure(measured[server][k], 0 if k.startswith("rate") else 1) for k in keys)
            section.add(Row(label, tuple(figures)))
        if {"mlflow", "local"} <= measured.keys():
            ratios = tuple(Figure(measured["local"][key] / measured["mlflow"][key], 2) for key in keys)
            section.add(Row("the second as a multiple of the first", ratios))
        return section

    def verify(self) -> Section:
        """Two workspaces with many runs compared: in how much memory, with how many requests."""
        runs, metrics = self.sizes.compared_runs, self.sizes.compared_metrics
        section = Section(
            f"{runs:,} runs with {metrics} metrics each, at both workspaces",
            ("seconds", "runs/s", "requests", "least possible", "memory MB", "required"),
        )
        scenario = self._scenario("verify")
        self.progress(f"making {runs:,} runs at two servers")
        copies.pair_of(*self.servers, scenario["experiment"], runs, metrics)
        measured = self._run(f"comparing {runs:,} runs", scenario)
        if "seconds" not in measured:
            section.add(Row("%dbml sync --verify", problem=problem(measured)))
            return section
        good = measured["runs"] == runs and not measured["differences"] and measured["memory"] <= VERIFY_MB
        section.add(
            Row(
                "%dbml sync --verify",
                (
                    Figure(measured["seconds"], 1),
                    Figure(runs / measured["seconds"], 0),
                    Figure(measured["requests"], 0),
                    Figure(measured["least"], 0),
                    Figure(measured["memory"], 0),
                    Figure(text=f"all equal, ≤ {VERIFY_MB:.0f} MB: {verdict(good)}"),
                ),
            )
        )
        return section

    def copying(self) -> Section:
        """The same runs copied by ``sync --repair``, by bare requests, and by mlflow-export-import."""
        runs = self.sizes.copied_runs
        nested = runs - (runs + 3) // 4
        section = Section(
            f"{runs} runs copied, {nested} of them nested, each with a file",
            (
                "seconds",
                "× the limit",
                "requests",
                "a run",
                "memory MB",
                "runs there",
                "duplicates",
                "nesting kept",
                "files kept",
                f"required: ≤ {COPY_RATIO} × the limit",
            ),
        )
        scenario = self._scenario("copy")
        source, mirror = self.proxies
        self.progress(f"making {runs} runs at one server")
        copies.seed(self.servers[0].uri, scenario["experiment"], runs)
        target = self.host.start(f"copies-{next(self._numbers)}")
        lowest = 0.0

        def row(label: str, measured: dict[str, Any], uri: str, asked: int, name: str) -> None:
            nonlocal lowest
            if "seconds" not in measured:
                section.add(Row(label, problem=problem(measured), absent="absent" in measured))
                return
            held, seconds = copies.Held(uri, name, runs), measured["seconds"]
            lowest = lowest or seconds
            required = verdict(seconds <= COPY_RATIO * lowest) if label == f"{REPAIR}, {TIMES[0]}" else ""
            section.add(
                Row(
                    label,
                    (
                        Figure(seconds, 1),
                        Figure(seconds / lowest, 2),
                        Figure(asked, 0),
                        Figure(asked / runs, 1),
                        Figure(measured.get("memory"), 0),
                        Figure(held.runs, 0),
                        Figure(held.duplicates, 0),
                        Figure(text=f"{held.nested:,} of {nested:,}"),
                        Figure(text=f"{held.files:,} of {runs:,}"),
                        Figure(text=required),
                    ),
                )
            )

        with Proxy(target.uri) as other:
            experiment = scenario["experiment"]
            limit = {**scenario, "azureml": other.uri}
            measured = self._run("copying, the limit", limit, self._forget, "limits")
            asked = source.count() + other.count()
            row(TEN, measured, target.uri, asked, experiment + limits.COPY)

            def ours() -> dict[str, Any]:
                return self._run("copying", scenario, self._forget)

            def theirs() -> dict[str, Any]:
                return copies.export_import(self.folder, source, other, experiment)

            for label, far, uri, copy in (
                (REPAIR, mirror, self.servers[1].uri, ours),
                ("mlflow-export-import", other, target.uri, theirs),
            ):
                for number in TIMES:
                    self.progress(f"{label}, {number}")
                    self._forget()
                    other.forget()
                    measured = copy()
                    row(f"{label}, {number}", measured, uri, source.count() + far.count(), experiment)
                    if "seconds" not in measured:
                        break
        return section

    def score(self) -> Section:
        """A linear model over many rows: by score, by spark_udf, by a map that does nothing, in pandas."""
        section = Section(
            "a linear model of 8 columns, Spark on this machine",
            ("seconds", "rows/s", "× the map", "memory gained MB", "required: ≤ 1.3 × the map, ≤ spark_udf"),
        )
        rows = self.sizes.scored
        measured = self._run("score", {"name": "score", "rows": rows, "repeats": self.sizes.scored_repeats})
        labels = {
            "floor": "mapInPandas that does nothing",
            "score": "%dbml score",
            "spark_udf": "mlflow.pyfunc.spark_udf",
            "pandas": "the model in memory, on one pandas frame",
        }
        for amount in rows:
            found = measured.get("measured", {}).get(str(amount))
            if found is None:
                section.add(Row(f"{amount:,} rows", problem=problem(measured)))
                continue
            for way, label in labels.items():
                took = found[way]["seconds"]
                ratio = took / found["floor"]["seconds"]
                fine = ratio <= SCORE_RATIO and took <= found["spark_udf"]["seconds"]
                verdict = ("met" if fine else "MISSED") if way == "score" and amount == SCORE_ROWS else ""
                figures = (Figure(took, 2), Figure(amount / took), Figure(ratio, 2))
                row = (*figures, Figure(found[way]["memory"]), Figure(text=verdict))
                section.add(Row(f"{amount:,} rows, {label}", row))
        return section

    def everything(self) -> list[Section]:
        """Measure all sections."""
        return [getattr(self, name)() for name in SECTIONS]


SECTIONS = (
    "log_metric",
    "other_calls",
    "points",
    "million",
    "hundred",
    "short_runs",
    "sweep",
    "training",
    "live",
    "load_ext",
    "first",
    "reading",
    "deploy",
    "verify",
    "copying",
    "score",
)
BACKENDS = {
    "floor": "a store that does nothing (the floor)",
    "linked": "linked to two workspaces, 20 and 60 ms away",
    "rest": "plain MLflow, one workspace 20 ms away",
}


@dataclass(frozen=True)
class Seen:
    """What was seen of many points on their way; seconds and megabytes."""

    visible: float = 0.0
    logging: float = 0.0
    requests: tuple[int, ...] = ()
    memory: float = 0.0
    journal: float = 0.0
    left: float = 0.0
    problem: str = ""

    @property
    def sent(self) -> str:
        """Return the requests at each side."""
        return " + ".join(f"{number:,}" for number in self.requests)


def _megabytes(folder: Path) -> float:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            pass  # cleaned away while we looked
    return total / 2**20


class Watcher:
    """Looks, past the proxy, for the points of the one run of an experiment."""

    def __init__(self, uri: str, experiment: str, points: int) -> None:
        self.api = Api(uri)
        self.points = points
        self.seen = 0
        self.complete = 0.0
        (self.run,) = (run["info"]["run_id"] for run in self.api.runs(experiment))

    def look(self) -> bool:
        """Return whether every point is there; asks for the whole history only once the last step is."""
        data = self.api.get("runs/get", run_id=self.run)["run"]["data"]
        last = next((metric for metric in data.get("metrics", []) if metric["key"] == "loss"), None)
        looked = time.time()
        if last is None:
            return False
        self.seen = int(last.get("step", 0)) + 1
        if self.seen < self.points:
            return False
        self.seen = sum(1 for _ in self.api.history(self.run, "loss"))
        self.complete = looked
        return self.seen == self.points


def _floor_and(seen: dict[str, Any]) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    return figures_of(seen, "floor"), figures_of(seen, "measured")


def _training_row(label: str, measured: dict[str, Any], requests: list[int]) -> Row:
    rows = measured.get("rows")
    if rows is None:
        return Row(label, problem=problem(measured), absent="absent" in measured)
    plain = median(row["tracked"] / row["untracked"] for row in rows)
    seconds = Figure(median(row["tracked"] for row in rows), 2)
    if "busied" not in rows[0]:
        return Row(label, (Figure(plain, 2), Figure(), seconds, Figure(), Figure()))
    beside = median(row["tracked"] / row["busied"] for row in rows)
    sent = Figure(text=" + ".join(map(str, requests)))
    met = Figure(text=verdict(beside <= TRAINING_RATIO))
    return Row(label, (Figure(plain, 2), Figure(beside, 2), seconds, sent, met))


def _call_row(
    label: str,
    measured_there: dict[str, Any],
    lowest: dict[str, float] | None,
    measured: dict[str, float] | None,
    *,
    held: bool,
    name: str = "log_metric",
    floor_p99: bool = False,
) -> Row:
    if lowest is None or measured is None:
        return Row(label, problem=problem(measured_there), absent="absent" in measured_there)
    ratio = measured_there.get("ratio", {}).get(name, measured["median"] / lowest["median"])
    good = ratio <= FLOOR_RATIO and measured["p99"] < P99_US
    return Row(
        label,
        (
            Figure(ratio, 1),
            Figure(measured["median"], 0),
            Figure(measured["p99"], 0),
            *([Figure(lowest["p99"], 0)] if floor_p99 else []),
            Figure(text=verdict(good) if held else ""),
        ),
    )


def machine() -> str:
    """Return one line about what the figures were measured on."""
    import importlib.metadata
    import platform

    parts = [f"{os.cpu_count()} cores", f"Python {platform.python_version()}"]
    parts += [f"{name} {importlib.metadata.version(name)}" for name in ("mlflow", "ipython")]
    return ", ".join(parts)
