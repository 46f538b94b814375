"""Metrics, params and tags of runs: what delivery gathered of them, taken to one workspace.

A batch that may have arrived before (its sender died, its answer was lost) comes ``in_doubt``: the workspace
is asked what it has before anything is sent. Metrics append, so they are compared with the history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dbml_magics.core.clock import Clock
from dbml_magics.core.delivery.batching import Batch, Rejected
from dbml_magics.core.delivery.writers.acknowledged import Acknowledged, Missing
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.in_doubt import PointsThere, latest_of, model_of
from dbml_magics.core.delivery.writers.model_emulation import ModelEmulation
from dbml_magics.core.delivery.writers.overflow import Overflow
from dbml_magics.core.delivery.writers.sender import Sender, Sending
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import Unavailable, classify_error, time_and_again
from dbml_magics.core.destinations.protocol import Point

_ISOLATED_TRIES = 3  # times that a write is tried alone, each after another that went through
_ISOLATED_PAUSE_S = 0.3
_MANY = 8  # items failing alone, none of the others arriving: the service's trouble, not the items'


@dataclass(eq=False)
class Batches(Writer):
    """Takes gathered metrics, params and tags to one workspace."""

    clock: Clock
    points: PointsThere
    overflow: Overflow
    acknowledged: Acknowledged
    sender: Sender
    emulation: ModelEmulation

    def send(self, queue: str, batch: Batch, in_doubt: bool, *, in_pieces: bool = False) -> Rejected:
        """Send metrics, params and tags of one run; returns what was refused, with the cause.

        Raises Unavailable.

        ``in_pieces`` is for a batch that fails time and again though the workspace answers: what of it goes
        on failing alone, while the rest and others go through, is returned as refused.
        """
        if not self.ids.is_tracked:
            return []
        so_far = Sending()
        try:
            run_id = self.ids.run_at(queue)
            if not in_doubt:
                self.points.forget(run_id)
            batch.tags = self.ids.own_tags(batch.tags)
            of_models = [p for p in batch.metrics if model_of(p)]
            if self.points.kept_of(of_models):
                batch.metrics = self.points.without_copies(run_id, batch.metrics)
            fitting = self.overflow.split_by_limits(queue, run_id, batch)
            if in_pieces:
                self._send_in_pieces(queue, run_id, fitting, so_far)
            else:
                self.sender.send(queue, run_id, fitting, in_doubt, so_far)
            kept = self.points.kept_of(of_models)
            self.emulation.note_metrics([p for p in of_models if p[4][0] in kept])
        except Exception as error:
            classified = classify_error(error)
            if isinstance(classified, Unavailable) and so_far.has_left:
                classified.sent = True  # a part of the batch did arrive
            raise classified from error
        return so_far.rejected

    def missing_at_end(self, queue: str) -> Missing:
        """Return what of a run was acknowledged here and is not here; asks once. Raises Unavailable."""
        try:
            found = self.destination.get_run(self.ids.run_at(queue))
            return self.acknowledged.missing(found, latest_of(found))
        except Exception as error:
            raise classify_error(error) from error

    def absent(self, queue: str, points: list[Point]) -> list[Point]:
        """Return those of a run's points that are not here. Raises Unavailable."""
        try:
            run_id = self.ids.run_at(queue)
            self.points.forget(run_id)
            return self.points.missing(run_id, points)
        except Exception as error:
            raise classify_error(error) from error

    def probe(self, queue: str) -> None:
        """Write what is there already: whether writes to a run go through at all. Raises Unavailable."""
        self.sender.send_once(self.ids.run_at(queue), Batch(tags={RUN_TAG: queue}), Sending())

    def retry_in_isolation(self, queue: str, attempt: Callable[[], object]) -> Unavailable | None:
        """Try a write that fails, each time after one that goes through; returns how it went on failing.

        Raises Unavailable when the others fail too: it is not this write's fault then.
        """
        failure = None
        for again in range(_ISOLATED_TRIES):
            if again:
                self.clock.sleep(_ISOLATED_PAUSE_S)
            self.probe(queue)
            try:
                attempt()
                return None
            except Exception as error:
                classified = classify_error(error)
                if not isinstance(classified, Unavailable) or not (classified.sent or classified.denied):
                    raise classified from error
                failure = classified
        return failure

    def _send_in_pieces(self, run: str, run_id: str, batch: Batch, so_far: Sending) -> None:
        self.probe(run)
        parts, alone, arrived = [batch], list[Batch](), 0
        while parts:
            part = parts.pop(0)
            try:
                self.sender.send(run, run_id, part, True, so_far)
                arrived += 1
            except Exception as error:
                classified = classify_error(error)
                if not isinstance(classified, Unavailable) or not (classified.sent or classified.denied):
                    raise classified from error
                if len(part) > 1:
                    parts[:0] = part.halves()
                    continue
                alone.append(part)
                if len(alone) > _MANY and not arrived:  # it is not the items that are at fault
                    raise classified from error
        for part in alone:
            failure = self.retry_in_isolation(run, partial(self.sender.send, run, run_id, part, True, so_far))
            if failure is not None and (not part.metrics or self.points.missing(run_id, part.metrics)):
                so_far.rejected.append((part.one(), time_and_again(failure)))

    def make_ready(self, queue: str) -> None:
        """Make sure that the run of a queue is here, before it is asked what of a batch is in doubt."""
        try:
            if self.ids.is_tracked:
                self.ids.run_at(queue)
        except Exception as error:
            raise classify_error(error) from error
