"""Many runs and the first one: each row beside its limit, a script that makes the requests it needs alone."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

from tests.benchmarks import copies
from tests.benchmarks.api import Api
from tests.benchmarks.report import Figure, Row, Section
from tests.benchmarks.stage import Child, Stage, figures_of, problem, verdict

__all__ = ["TEN", "Scale"]

HUNDRED_RATIO = 1.5  # of the limit, for runs that are begun together, and for a sweep
BEHIND_S = 3.0  # at the end of short runs, 60 ms away
READING_RATIO = 1.3
FIRST_RATIO = 1.2  # of the sum of MLflow's imports
FEW_POINTS = 20  # of a short run
DEADLINE_S = 1200.0
TEN = "the limit, ten connections that post the same"
WRITES = "runs/(create|log-batch|update)$"
GOALS = {"run": "first tracked run", "model": "first registered model", "answer": "a local endpoint's answer"}


class Scale(Stage):
    """The sections about many runs."""

    def _beside(self, name: str, distances: tuple[int, int], **more: Any) -> tuple[dict[str, Any], str]:
        """Measure a limit; returns what it tells, and its requests at each workspace."""
        scenario = self._scenario(name, distances, **more)
        return self._run(f"{name}, the limit", scenario, self._forget, "limits"), self._sent()

    def hundred(self) -> Section:
        """Many runs at once."""
        runs, points = self.sizes.runs, self.sizes.points_of_run
        section = Section(
            f"{runs} runs of {points} points",
            (
                "µs a point",
                "× floor",
                "s to start",
                "s until delivered",
                "× the limit",
                "requests",
                f"required: ≤ {HUNDRED_RATIO} × the limit",
            ),
        )
        for label, threads, each in (
            ("all at once, a thread each", runs, points),
            ("the same points in one run", 1, runs * points),
        ):
            limit, asked = self._beside("hundred", (20, 60), runs=threads, points=each)
            scenario = self._scenario("hundred", (20, 60), runs=threads, points=each)
            measured = self._run(f"{runs} runs, {label}", scenario, self._forget)
            lowest = figures_of(measured, "floor")
            if lowest is None or "logging" not in measured or "delivering" not in limit:
                section.add(Row(label, problem=problem(limit if "error" in limit else measured)))
                continue
            least, took = limit["delivering"], measured["delivering"]
            lowest_row = (Figure(), Figure(), Figure(), Figure(least, 1), Figure(), Figure(text=asked))
            section.add(Row(f"{label}: {TEN}", lowest_row))
            point = measured["logging"] / (threads * each) * 1e6
            section.add(
                Row(
                    label,
                    (
                        Figure(point, 0),
                        Figure(point / lowest["median"], 1),
                        Figure(measured["starting"], 1),
                        Figure(took, 1),
                        Figure(took / least, 2),
                        Figure(text=self._sent()),
                        Figure(text=verdict(took <= HUNDRED_RATIO * least)),
                    ),
                )
            )
        return section

    def short_runs(self) -> Section:
        """Short runs one after the other: how far behind the workspaces are when the last one ends."""
        runs = self.sizes.runs
        section = Section(
            f"{runs} runs of {FEW_POINTS} points one after the other, 20 and 60 ms away",
            ("s to log", "s the primary is behind", "s the mirror is behind", "requests", "required"),
        )
        required = f"the mirror ≤ {BEHIND_S:.0f} s"
        for script, label in (("limits", TEN), ("child", "linked")):
            scenario = self._scenario(
                "short_runs", (20, 60), runs=runs, points=FEW_POINTS, deadline=DEADLINE_S
            )
            measured = self._run(f"short runs, {label}", scenario, self._forget, script)
            if "logged" not in measured:
                section.add(Row(label, problem=problem(measured)))
                continue
            begun, logged = measured["begun"], measured["logged"]
            written = [[r for r in p.requests(WRITES) if r.time >= begun] for p in self.proxies]
            behind = [max(0.0, max(r.time + r.seconds for r in each) - logged) for each in written]
            lacks = self._lacking(scenario["experiment"], runs)
            if lacks:
                section.add(Row(label, problem=lacks))
                continue
            held = f"{required}: {verdict(behind[1] <= BEHIND_S)}" if script == "child" else ""
            figures = (Figure(logged - begun, 1), *(Figure(each, 1) for each in behind))
            section.add(Row(label, (*figures, Figure(text=self._sent()), Figure(text=held))))
        return section

    def _lacking(self, experiment: str, runs: int) -> str:
        """Return in words what a workspace lacks of so many ended runs, past the proxies."""
        for server in self.servers:
            ended = [
                run
                for run in Api(server.uri).runs(experiment)
                if run["info"]["status"] == "FINISHED"
                and any(
                    m["key"] == "loss" and m["step"] == FEW_POINTS - 1 for m in run["data"].get("metrics", [])
                )
            ]
            if len(ended) != runs:
                return f"{server.name} has {len(ended)} of {runs} runs"
        return ""

    def sweep(self) -> Section:
        """Short runs in several processes of one link, and what one of them holds meanwhile."""
        runs, processes = self.sizes.swept_runs, self.sizes.swept_by
        section = Section(
            f"{runs:,} runs of {FEW_POINTS} points in {processes} processes, 20 and 60 ms away",
            (
                "s to log",
                "s until delivered",
                "× the limit",
                "requests",
                "MB of a process at the beginning / middle / end",
                "threads",
                "files",
                f"required: ≤ {HUNDRED_RATIO} × the limit",
            ),
        )
        limit, asked = self._beside("sweep", (20, 60), runs=runs, points=FEW_POINTS)
        if "delivering" not in limit:
            section.add(Row(TEN, problem=problem(limit)))
            return section
        least = limit["delivering"]
        section.add(Row(TEN, (Figure(), Figure(least, 1), Figure(), Figure(text=asked))))
        scenario = self._scenario(
            "sweep", (20, 60), runs=runs // processes, points=FEW_POINTS, deadline=DEADLINE_S
        )
        reports = self._together(f"a sweep of {runs:,} runs", scenario, processes)
        failed = next((each for each in reports if "resources" not in each), None)
        lacks = self._lacking(scenario["experiment"], runs // processes * processes) if failed is None else ""
        if failed is not None or lacks:
            section.add(Row("linked", problem=lacks or problem(failed or {})))
            return section
        took = max(each["delivering"] for each in reports)
        held = reports[0]["resources"]
        section.add(
            Row(
                "linked",
                (
                    Figure(max(each["logging"] for each in reports), 1),
                    Figure(took, 1),
                    Figure(took / least, 2),
                    Figure(text=self._sent()),
                    *(
                        Figure(text=" / ".join(f"{moment[what]:.0f}" for moment in held))
                        for what in ("MB", "threads", "files")
                    ),
                    Figure(text=verdict(took <= HUNDRED_RATIO * least)),
                ),
            )
        )
        return section

    def _together(self, label: str, scenario: dict[str, Any], processes: int) -> list[dict[str, Any]]:
        """Play a scenario in several processes of one link; returns what each tells."""
        self.progress(label)
        with ExitStack() as stack:
            start = partial(Child, self.folder, scenario, place=scenario["experiment"])
            children = [stack.enter_context(start()) for _ in range(processes)]
            reports = [child.read() for child in children]
            if any("event" not in report for report in reports):
                for child in children:
                    child.process.kill()
                return reports
            self._forget()
            for child in children:
                child.go()
            return [child.read() for child in children]

    def reading(self) -> Section:
        """The commands that read, where there are many runs, beside the requests that they need."""
        runs, models = self.sizes.compared_runs, self.sizes.models
        section = Section(
            f"{runs:,} runs and {models} registered models at both, 20 and 60 ms away",
            (
                "ms",
                "× the limit",
                "requests",
                "least possible",
                f"required: ≤ {READING_RATIO} × the limit",
            ),
        )
        self.progress(f"making {runs:,} runs at two servers")
        scenario = self._scenario("reading", (20, 60), repeats=self.sizes.repeats)
        copies.pair_of(*self.servers, scenario["experiment"], runs, 5)
        for server in self.servers:
            copies.register(server.uri, scenario["experiment"], models)
        least, fewest = self._commands("reading, the limit", scenario, "limits")
        took, asked = self._commands("reading", {**scenario, "known": runs}, "child")
        for name in ("status", "runs", "models", "compare"):
            label = f"%dbml {name}"
            if name not in took.get("measured", {}) or (name != "status" and "measured" not in least):
                section.add(Row(label, problem=problem(took if "error" in took else least)))
                continue
            spent, lowest = took["measured"][name], least["measured"].get(name)
            ratio = (Figure(spent / lowest, 2), verdict(spent <= READING_RATIO * lowest)) if lowest else None
            counts = Figure(asked[name], 1), Figure(fewest.get(name, 0), 1)
            figures = (Figure(spent, 1), ratio[0] if ratio else Figure(), *counts)
            section.add(Row(label, (*figures, Figure(text=ratio[1] if ratio else ""))))
        return section

    def _commands(
        self, label: str, scenario: dict[str, Any], script: str
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Play a scenario that tells of each command when it begins and is over; counts a call's requests."""
        self.progress(label)
        counts: dict[str, float] = {}
        name = ""
        with Child(self.folder, scenario, script) as child:
            while "event" in (report := child.read()):
                if report["event"] == "over":
                    counts[name] = self._requests() / scenario["repeats"]
                else:
                    name = report["event"]
                    self._forget()
                child.go()
        return report, counts

    def first(self) -> Section:
        """A new kernel up to the first run, model and answer, beside what MLflow imports until then."""
        section = Section(
            "a new kernel, from %load_ext with a local link",
            ("s", "s of MLflow's imports", "× these", f"required: ≤ {FIRST_RATIO} ×"),
        )
        seen: dict[str, list[dict[str, Any]]] = {"limits": [], "child": []}
        for _ in range(self.sizes.firsts):
            for script, reports in seen.items():
                reports.append(self._run(f"first, {script}", {"name": "first"}, script=script))
        failed = next((r for reports in seen.values() for r in reports if "seconds" not in r), None)
        if failed is not None:
            section.add(Row("a new kernel", problem=problem(failed)))
            return section
        for goal, label in GOALS.items():
            least, took = (median(r["seconds"][goal] for r in reports) for reports in seen.values())
            ratio = took / least
            figures = (Figure(took, 2), Figure(least, 2), Figure(ratio, 2))
            section.add(Row(f"to {label}", (*figures, Figure(text=verdict(ratio <= FIRST_RATIO)))))
        return section
