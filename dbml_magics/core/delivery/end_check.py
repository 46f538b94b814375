"""Compare an ended run with what its workspace acknowledged, and send what is missing again."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow.exceptions import MlflowException

from dbml_magics.common.log_records import logger
from dbml_magics.core.delivery.batching import Batch, within
from dbml_magics.core.delivery.items import items_of
from dbml_magics.core.delivery.progress import Host, Progress
from dbml_magics.core.delivery.writers.acknowledged import Missing
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.model.operations import LogBatch, Operation, UpdateRun, decode
from dbml_magics.core.run_view import TERMINAL

_log = logger(__name__)


def is_end(op: Operation) -> bool:
    """Tell whether a write ends its run."""
    return isinstance(op, UpdateRun) and op.status in TERMINAL


class EndCheck:
    """Checks one run at one workspace."""

    def __init__(self, host: Host, progress: Progress) -> None:
        self._host = host
        self._side = host.side
        self._progress = progress
        self._run = progress.queue

    def check(self, end: Operation) -> None:
        """Check the run that a write has ended. Raises Unavailable."""
        if not self._side.ids.is_tracked:
            return
        try:
            self._check(end)
        except Unavailable:
            if not self._host.is_stuck(self._run):
                raise
        except MlflowException as error:  # nobody may read it: what was acknowledged has to do
            _log.debug("run %s at %s could not be compared: %s", self._run, self._host.role, error)
        self._side.acknowledged.forget(self._side.ids.run_at(self._run))

    def _check(self, end: Operation) -> None:
        missing = self._side.batches.missing_at_end(self._run)
        if not missing:
            return
        _log.warning(
            "dbml_magics: %s acknowledged writes of run %s that it does not have (%s): sent again",
            self._host.role,
            self._run,
            missing,
        )
        self._send(missing, end)
        left = self._side.batches.missing_at_end(self._run)
        self._progress.state.receipts.note_resent(self._host.role, self._run, str(missing))
        if left:
            self._reject(left)

    def _send(self, missing: Missing, end: Operation) -> None:
        for points in self._points_of(missing.metrics):
            self._send_part(Batch(points))
        for part in within(Batch([], dict(missing.params), dict(missing.tags)), self._side.learned.limits):
            self._send_part(part)
        if missing.status:
            self._side.apply(self._run, end, True)

    def _send_part(self, part: Batch) -> None:
        for op, cause in self._side.batches.send(self._run, part, True):
            self._progress.reject(op.encode(), cause)

    def _points_of(self, metrics: frozenset[str]) -> Iterator[list[Point]]:
        """Yield what the journal has of some metrics of the run, as many points at a time as fit a batch."""
        journal, points, limit = (
            self._host.runtime.parts.journal,
            list[Point](),
            self._side.learned.limits.metrics,
        )
        for entry in journal.entries(self._run, journal.files(self._run), {}) if metrics else ():
            items = None if entry.line is None else items_of(decode(entry.line), self._host.role)
            points += [point for point in items.metrics if point[0] in metrics] if items else []
            while len(points) >= limit:
                yield points[:limit]
                points = points[limit:]
        if points:
            yield points

    def _reject(self, missing: Missing) -> None:
        """Put aside what a workspace goes on acknowledging without having it."""
        cause = f"{self._host.role} acknowledged it twice and did not have it when the run ended"
        if missing.params or missing.tags:
            lacking = LogBatch([], dict(missing.params), dict(missing.tags))
            self._progress.reject(lacking.encode(), cause)
        for points in self._points_of(missing.metrics):
            if absent := self._side.batches.absent(self._run, points):
                self._progress.reject(LogBatch(absent, {}, {}).encode(), cause)
