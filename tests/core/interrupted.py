"""Runs that interrupts come amid, what of them was acknowledged, and whether both sides have it, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlflow
from mlflow import MlflowClient

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.run_view import TERMINAL
from tests.infra import plain
from tests.infra.interrupts import is_of_interrupt

__all__ = ["Story"]


@dataclass
class Acknowledged:
    """What was logged to a run by calls that returned."""

    run_id: str
    points: set[tuple[str, int]] = field(default_factory=set)
    params: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


class Story:
    """Begins runs with ``dbml.track``, logs all kinds of things to them, and ends them.

    One that ``goes_on`` catches an interrupt in a call and goes on with the same run.
    """

    def __init__(self, experiment: str, *, goes_on: bool, points: int = 3) -> None:
        self.experiment = experiment
        self.runs: list[Acknowledged] = []
        self._goes_on = goes_on
        self._points = points
        self._number = 0

    def tell(self) -> None:
        """Make one run."""
        self._number += 1
        with dbml.track(f"run-{self._number}") as tracked:
            run = Acknowledged(tracked.run_id)
            self.runs.append(run)
            self._log(run)

    def _log(self, run: Acknowledged) -> None:
        for step in range(self._points):
            value = step / 7 if step % 5 else float("nan")
            self._call(partial(mlflow.log_metric, "m", value, step=step), run.points, ("m", step))
        for step in range(2):
            both = {"a": step / 3, "b": step / 5}
            known = [(key, step) for key in both]
            self._call(partial(mlflow.log_metrics, both, step=step), run.points, *known)
        self._call(lambda: mlflow.log_metric("m", 1.0, step=self._points), run.points, ("m", self._points))
        self._call(lambda: mlflow.log_params({"p": 1, "q": 2}), run.params, "p", "q")
        self._call(lambda: mlflow.set_tag("t", "x"), run.tags, "t")
        self._call(lambda: mlflow.log_text("small", "small.txt"), run.files, "small.txt")
        self._call(lambda: mlflow.log_text("large" * 1000, "large.txt"), run.files, "large.txt")
        self._call(lambda: self.look(run))

    def _call(self, call: Callable[[], Any], acknowledged: Any = None, *what: Any) -> None:
        try:
            call()
        except BaseException as error:
            if not self._goes_on or not is_of_interrupt(error):
                raise
            return
        if acknowledged is not None:
            acknowledged.update(what)

    def look(self, run: Acknowledged) -> None:
        """Check what the link itself says of a run that goes on."""
        client = MlflowClient()
        found = client.get_run(run.run_id)
        assert found.info.status == "RUNNING", f"the link says that run {run.run_id} is {found.info.status}"
        self._check_points(
            run, lambda key: [m.step for m in client.get_metric_history(run.run_id, key)], "the link"
        )
        lacking = (run.params - found.data.params.keys()) | (run.tags - found.data.tags.keys())
        assert not lacking, f"the link lacks {lacking} of run {run.run_id}"
        files = {file.path for file in client.list_artifacts(run.run_id)}
        assert run.files <= files, f"the link lacks {run.files - files} of run {run.run_id}"

    def _check_points(self, run: Acknowledged, steps_of: Callable[[str], list[int]], who: str) -> None:
        for key in ("m", "a", "b"):
            counted = Counter(steps_of(key)) if any(k == key for k, _ in run.points) else Counter()
            lacking = {step for k, step in run.points if k == key} - counted.keys()
            assert not lacking, f"{who} lacks steps {lacking} of {key} of run {run.run_id}"
            twice = {step: n for step, n in counted.items() if n > 1}
            assert not twice, f"{who} has steps of {key} of run {run.run_id} more than once: {twice}"

    def check(self) -> int:
        """Check that no run goes on, and that both sides have all that was acknowledged, once.

        Returns how many runs there are.
        """
        assert mlflow.active_run() is None, "a run is active though its block is over"
        done = dbml.sync(120)
        assert not any(done.dead.values()), f"put aside: {done.dead}"
        engine = session.current().engine("this test")
        found = []
        for role in engine.link.used:
            uri = engine.link.spec(role).uri
            runs = plain.runs(uri, self.experiment, files=False)
            going_on = {run_id for run_id, run in runs.items() if run["status"] not in TERMINAL}
            assert not going_on, f"{len(going_on)} of {len(runs)} runs at {role} were never ended: {going_on}"
            twins = {run["tags"].get("dbml_run_id"): run for run in runs.values()}
            for run in self.runs:
                assert run.run_id in twins, f"{role} has no run {run.run_id}"
                self._check_run(run, uri, twins[run.run_id], role)
            found.append(len(runs))
        assert len(set(found)) == 1, f"the sides have unlike numbers of runs: {found}"
        return found[0]

    def _check_run(self, run: Acknowledged, uri: str, held: dict[str, Any], role: str) -> None:
        self._check_points(run, lambda key: [step for step, _, _ in held["metrics"].get(key, [])], role)
        lacking = (run.params - held["params"].keys()) | (run.tags - held["tags"].keys())
        lacking |= run.files - {file.path for file in plain.client(uri).list_artifacts(held["run_id"])}
        assert not lacking, f"{role} lacks {lacking} of run {run.run_id}"
