"""Sending metrics, params and tags of one run, and bisecting what a workspace refuses of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.batching import Batch, Rejected, wire_bytes, within
from dbml_magics.core.delivery.writers.acknowledged import Acknowledged
from dbml_magics.core.delivery.writers.in_doubt import PointsThere
from dbml_magics.core.delivery.writers.overflow import Overflow
from dbml_magics.core.delivery.writers.writer import Writer
from dbml_magics.core.destinations.errors import Unavailable, cause_of, classify_error
from dbml_magics.core.destinations.limits import names_a_limit
from dbml_magics.core.destinations.protocol import Point
from dbml_magics.core.run_view import Mark, mark

_UNSENDABLE = (UnicodeError, OverflowError, RecursionError)  # of a request that could not be made


@dataclass
class Sending:
    """What has come of a batch so far."""

    rejected: Rejected = field(default_factory=list)
    has_left: bool = False
    """Something of it has left this machine."""


@dataclass(eq=False)
class Sender(Writer):
    """Sends batches to one workspace."""

    points: PointsThere
    overflow: Overflow
    acknowledged: Acknowledged

    def send(self, run: str, run_id: str, batch: Batch, in_doubt: bool, so_far: Sending) -> bool:
        """Send a batch, split where the workspace refuses it; what comes of it is added to ``so_far``.

        Returns whether it was taken as a whole, in one request. Raises Unavailable.
        """
        size = len(batch)
        if in_doubt and batch.metrics:
            batch.metrics = self.points.missing(run_id, batch.metrics)
        if not len(batch):
            return False
        try:
            self.send_once(run_id, batch, so_far)
        except Exception as error:
            self.points.forget(run_id)
            refusal = classify_error(error)
            if isinstance(error, _UNSENDABLE):
                refusal = MlflowException.invalid_parameter_value(f"it cannot be sent ({cause_of(error)})")
            if not isinstance(refusal, MlflowException) or isinstance(refusal, Unavailable):
                raise refusal from error
        else:
            marks: dict[str, list[Mark]] = {}
            for point in batch.metrics:
                marks.setdefault(point[0], []).append(mark(*point[1:4]))
            self.acknowledged.batch(run_id, batch, marks)
            self.points.note_sent(run_id, marks)
            self.overflow.sent(run, batch)
            return len(batch) == size
        said = str(refusal)
        lowered = self.learned.limits.lowered(said, len(batch.metrics)) or (
            self.learned.limits.lowered_body(said, wire_bytes(batch)) if len(batch) > 1 else None
        )
        if lowered is not None:
            self.learned.limits = lowered
            if batch.metrics:  # a part may be there; asked once for the whole, not for each part
                batch.metrics = self.points.missing(run_id, batch.metrics)
            for part in within(batch, lowered):
                self.send(run, run_id, part, False, so_far)
        elif len(batch) > 1:
            self._send_halves(run, run_id, batch, so_far)
        elif not batch.metrics or self.points.missing(run_id, batch.metrics):
            # (A NaN that is there already is refused by MLflow's own server: it has arrived.)
            if not names_a_limit(said, refusal.error_code, wire_bytes(batch)):
                so_far.rejected.append((batch.one(), cause_of(refusal)))
            elif self.overflow.learn(run, run_id, batch, said):
                self.send(run, run_id, batch, True, so_far)
        return False

    def _send_halves(self, run: str, run_id: str, batch: Batch, so_far: Sending) -> None:
        """Send a refused batch in two; where each is taken as it is, the size was what was refused."""
        size, taken = len(batch), True
        # A refused batch may have been written in part (docs.databricks.com): ask for each half.
        for half in batch.halves():
            own = len(half)
            # What the first half taught of the run's limits holds for the second.
            fitting = self.overflow.split_by_limits(run, run_id, half)
            taken &= len(fitting) == own
            taken &= self.send(run, run_id, fitting, True, so_far)
        lowered = self.learned.limits.halved(size) if taken and len(batch.metrics) == size else None
        if lowered is not None:
            self.learned.limits = lowered

    def send_once(self, run_id: str, batch: Batch, so_far: Sending) -> None:
        """Send a batch as it is. Raises Unavailable, or the workspace's refusal."""
        try:
            # In place, without a call for each: of 1,000 points nearly all have nothing to translate.
            points = [p if len(p) == 4 else (*p[:4], self._extra(p)) for p in batch.metrics]
            self.destination.log_batch(run_id, points, batch.params, batch.tags)
        except Exception as error:
            classified = classify_error(error)
            so_far.has_left |= not isinstance(classified, Unavailable) or classified.sent
            raise classified from error
        so_far.has_left = True

    def _extra(self, point: Point) -> tuple[str | None, str | None, str | None]:
        if len(point) < 5 or point[4] is None:
            return None, None, None
        model_id, name, digest = point[4]
        if not self.learned.has_logged_models:
            return None, None, None
        actual = self.ids.model_at(model_id).actual if model_id else None
        kept = self.ids.emulated.keeps(model_id) if model_id else not self.learned.has_logged_models
        return (None, None, None) if kept else (actual, name, digest)

    # --- what other writers send with it

    def complete_tags(self, run: str, made: Run, tags: dict[str, str]) -> None:
        """Give a run that an earlier try made the tags that it lacks; a deleted one takes none."""
        if made.info.lifecycle_stage == LifecycleStage.DELETED:
            return
        lacking = {key: value for key, value in tags.items() if made.data.tags.get(key) != value}
        self.send_or_reject(run, made.info.run_id, Batch(tags=lacking), False)

    def set_run_tag(self, run: str, run_id: str, key: str, value: str) -> None:
        """Set a tag of ours on a run; a run that has as many as the service takes gives one of its own up."""
        self.send_or_reject(run, run_id, Batch(tags={key: value}), False)

    def send_or_reject(self, run: str, run_id: str, batch: Batch, in_doubt: bool) -> None:
        """Send as much as fits of what a run is given; what the workspace refuses is put aside."""
        so_far = Sending()
        for part in within(self.overflow.split_by_limits(run, run_id, batch), self.learned.limits):
            self.send(run, run_id, part, in_doubt, so_far)
        for op, cause in so_far.rejected:
            self.state.reject(self.role, run, op.encode(), cause)

    def add_points(self, run: str, points: list[Point]) -> None:
        """Add those of some points of a run, or of its models, that are not here."""
        run_id = self.ids.run_at(run)
        self.points.forget(run_id)
        try:
            self.send_or_reject(run, run_id, Batch(points), True)
        finally:  # no turn of that run forgets them
            self.points.forget(run_id)
