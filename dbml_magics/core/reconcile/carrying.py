"""Carrying params, tags, points and files of runs and logged models to the target, as its limits allow."""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dbml_magics.core.delivery.batching import Batch, within
from dbml_magics.core.delivery.writers.sender import Sending
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.core.destinations.rest import call_timeout
from dbml_magics.core.mlflow_private import download_file
from dbml_magics.core.model.operations import LogMetric, LogParam, Operation, SetTag
from dbml_magics.core.reconcile.files import Files, FileVersion, beside
from dbml_magics.core.reconcile.repairing import Repairing
from dbml_magics.core.run_view import Mark, mark

_OVERFLOW_S = 60.0  # for the file of what a workspace does not take
_ITEMS: dict[type[Operation], str] = {LogMetric: "metric", LogParam: "param", SetTag: "tag"}


class Carrier:
    """Sends what a comparison found lacking at the target, in as few requests as there can be."""

    def __init__(self, repairing: Repairing) -> None:
        self.repairing, self.state = repairing, repairing.state
        self.source, self.target = repairing.source, repairing.target
        self.causes: dict[str, dict[tuple[str, str], str]] = {}  # run -> (kind, key) -> why it was refused

    # --- params, tags and points

    def send(self, key: str, run_id: str, batch: Batch) -> None:
        """Send params, tags and points of one run. Raises MlflowException listing refused items."""
        side = self.target.side
        if self.state.identity(self.target.role, "run", key) is None:
            side.ids.remember_run(key, self.target.get_run(run_id))
        so_far = Sending()
        for part in within(side.overflow.split_by_limits(key, run_id, batch), side.learned.limits):
            self.repairing.write(partial(side.sender.send, key, run_id, part, False, so_far))
        if rejected := so_far.rejected:
            causes = self.causes.setdefault(key, {})
            causes |= {(_ITEMS[op.kind], op.key): cause for op, cause in rejected}
            raise MlflowException.invalid_parameter_value("; ".join(cause for _, cause in rejected))

    def send_points(
        self,
        key: str,
        source: Run,
        target: Run,
        lacking: Mapping[str, Counter[Mark] | None],
        batch: Batch | None = None,
    ) -> None:
        """Send the points that the target lacks (None: all of a metric), streamed from the source.

        What is left of the last batch goes with ``batch``, which holds params and tags to be sent as well.
        """
        waiting = batch or Batch()
        refused: list[str] = []

        def flush() -> None:
            nonlocal waiting
            full, waiting = waiting, Batch()
            try:
                self.send(key, target.info.run_id, full)
            except MlflowException as error:
                if isinstance(classify_error(error), Unavailable):
                    raise
                refused.append(str(error.message))

        for name, some in lacking.items():
            left = None if some is None else Counter(some)
            for metric in self.source.history(source.info.run_id, name):
                if left is not None:
                    point = mark(metric.value, metric.timestamp, metric.step)
                    if left[point] <= 0:
                        continue
                    left[point] -= 1
                waiting.metrics.append((metric.key, metric.value, metric.timestamp, metric.step))
                if len(waiting.metrics) >= self.target.side.learned.limits.metrics:
                    flush()
        if len(waiting):
            flush()
        if refused:
            raise MlflowException.invalid_parameter_value("; ".join(refused))

    def write_overflow(self, key: str) -> None:
        """Write a run's overflow file now, rather than leave it to delivery."""
        overflow = self.target.side.overflow
        if key not in overflow.files.unwritten():
            return
        with call_timeout(_OVERFLOW_S):
            overflow.write_due(lambda run: run != key, at_once=True)
        if key not in overflow.files.unwritten() and self.state.run(key) is None:
            overflow.clear(key)  # nobody will end it: what stands in its file need not be kept here

    # --- files

    def put(self, repository: ArtifactRepository, owner: str, path: str, ours: Files, theirs: Files) -> None:
        """Carry a file's newest content over; where a file is written once it goes beside the older ones.

        An older content that is the same must not do: the newest would stay another.
        """
        goal, there = path, theirs.get(path)
        if there is not None and self.target.writes_once:
            taken = {held.path for held in theirs.values()}
            number = there.number + 1
            while beside(path, number) in taken:
                number += 1
            goal = beside(path, number)
            self.state.renamed_files.note(owner, self.target.role, path, goal)
        self._carry(repository, ours.get(path, FileVersion(None, path)).path, owner, goal)

    def _carry(self, repository: ArtifactRepository, path: str, owner: str, goal: str) -> None:
        """Download one file and upload it under another path, its ids those that the user knows."""
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as renamed:
            file = self.source.ask(partial(download_file, repository, path, folder))
            if file.name != posixpath.basename(goal):
                file = file.rename(Path(renamed, posixpath.basename(goal)))
            if file.name == "MLmodel":
                file.write_text(self._visible_ids(file.read_text(encoding="utf-8")), encoding="utf-8")
            self.repairing.write(lambda: self.target.side.files.upload(owner, goal, file))

    def _visible_ids(self, text: str) -> str:
        """Replace the source's own ids of runs and models in an MLmodel by those that the user knows."""

        def known(found: re.Match[str]) -> str:
            lead, own = found.group(1), found.group(2)
            kind = "run" if lead.startswith("run_id") else "model"
            visible = self.state.visible(self.source.role, kind, own)
            if visible is None and kind == "run":
                visible = self.source.key_of(own)
            return lead + (visible or own)

        return re.sub(r"(?m)^((?:run_id|model_id|model_uuid): )(\S+)$", known, text)
