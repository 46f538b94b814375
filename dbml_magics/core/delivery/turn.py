"""One queue's turn: its next lines, gathered into batches where they can be, each carried out and settled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbml_magics.core.delivery.batching import Batch, Rejected, within
from dbml_magics.core.delivery.containers import Containers
from dbml_magics.core.delivery.items import counted, is_plain, items_of, without_repeats
from dbml_magics.core.delivery.progress import OF_THIS_MACHINE, Host, Progress
from dbml_magics.core.delivery.single_writes import SingleWrites
from dbml_magics.core.destinations.errors import Blocked, Unavailable
from dbml_magics.core.mlflow_private import without_bars
from dbml_magics.core.model.operations import LogBatch, Operation, decode, point_of
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.outbox.lines import Entry

_BATCHES = 4  # of points that a turn takes, before another queue has its own
_SLICE = 50  # lines read at a stretch before the training's thread gets the interpreter
_BREATH_S = 0.001  # and for how long: a training that logs without a pause keeps most of its core
_NOTHING: dict[str, str] = {}


class Turn:
    """The next part of one queue on its way to one workspace."""

    def __init__(self, host: Host, containers: Containers, queue: str) -> None:
        self._host = host
        self._side = host.side
        self._queue = queue
        self._containers = containers
        self._progress = Progress(host, queue)
        self._single = SingleWrites(host, containers, self._progress)
        self._batch = Batch()
        self._sizes: dict[str, int] = {}

    @without_bars()
    def take(self) -> bool:
        """Deliver a part of the queue; True when more is left. Raises Unavailable."""
        limits = self._side.learned.limits
        ends_from, ends_at = _BATCHES * limits.metrics, (_BATCHES + 1) * limits.metrics
        for handled, entry in enumerate(self._lines(), start=1):
            if handled % _SLICE == 0:
                self._host.runtime.parts.clock.sleep(_BREATH_S)  # the training gets the interpreter's lock
            if not self._add_to_batch(entry):
                self._flush()
                self._host.check_may_send()
                self._single.carry_out(entry)
            if handled >= ends_from and (self._is_full() or handled >= ends_at):
                self._flush()
                return True
        self._flush()
        self._progress.pass_torn_ends(self._sizes)
        return False

    def _lines(self) -> Iterator[Entry]:
        """Yield the queue's next lines, those too that come while a batch is sent and another is filled."""
        progress, journal, more = self._progress, self._host.runtime.parts.journal, True
        while more:
            sent = progress.offsets.copy()
            self._sizes = journal.files(self._queue)
            waits_from = self._containers.limit(self._queue)  # after the sizes: it holds for them all
            for entry in journal.entries(self._queue, self._sizes, progress.offsets | progress.ends):
                if waits_from is not None and entry.order[0] > waits_from:
                    self._flush()
                    raise Blocked("waits for a change of its experiment", on=LINK_QUEUE)
                yield entry
            # What is left of a batch after others may be full by now: the training has logged on meanwhile.
            more = progress.count > 0 and progress.offsets != sent

    # --- gathering a batch

    def _add_to_batch(self, entry: Entry) -> bool:
        if entry.line is None:
            return False
        point = point_of(entry.line)
        if point is not None and is_plain(point):  # the usual write: a training's every step is one
            self._make_room(1, 0, 0, entry.end - entry.start, _NOTHING)
            self._batch.metrics.append(point)
            self._progress.take(entry)
            return True
        items = items_of(decode(entry.line), self._host.role)
        if items is None:
            return False
        size = len(entry.text) or entry.end - entry.start
        self._make_room(len(items.metrics), len(items.params), len(items.tags), size, items.params)
        self._batch.metrics.extend(items.metrics)
        self._batch.params.update(items.params)
        self._batch.tags.update(items.tags)
        self._progress.take(entry)
        return True

    def _make_room(self, points: int, params: int, tags: int, size: int, new_params: dict[str, str]) -> None:
        if not self._progress.count:
            return
        limits, batch = self._side.learned.limits, self._batch
        changed = bool(new_params) and any(batch.params.get(k, v) != v for k, v in new_params.items())
        if (
            len(batch.metrics) + points > limits.metrics
            or len(batch.params) + params > limits.params
            or len(batch.tags) + tags > limits.tags
            or len(batch) + points + params + tags > limits.items
            # The wire's form is at most twice the journal's.
            or 2 * (self._progress.bytes + size) > limits.body_bytes
            or changed
        ):
            self._flush()

    def _is_full(self) -> bool:
        limits, batch = self._side.learned.limits, self._batch
        return not self._progress.count or len(batch.metrics) >= min(limits.metrics, limits.items)

    # --- sending it

    def _flush(self) -> None:
        progress, batch = self._progress, self._batch
        if not progress.count:
            return
        self._host.check_may_send()
        if len(batch):
            batch.metrics = without_repeats(batch.metrics)
            rejected: Sequence[tuple[Operation, str]]
            try:
                rejected = self._send()
            except (Unavailable, OSError, *OF_THIS_MACHINE):
                raise
            except Exception as error:
                # Not an item is refused but all of them: the run cannot be made there, say.
                cause = progress.cause_to_reject(error, "writes")
                rejected = [(LogBatch(batch.metrics, batch.params, batch.tags), cause)]
            progress.kinds.update(counted(batch))
            for op, cause in rejected:
                progress.reject(op.encode(), cause)
                if (items := items_of(op, self._host.role)) is not None:
                    progress.kinds.subtract(counted(items))
        progress.done()
        self._batch = Batch()

    def _send(self) -> Rejected:
        self._side.batches.make_ready(self._queue)
        in_doubt = self._progress.settle_doubt()
        before = self._progress.mark_sending()
        rejected: Rejected = []
        stuck = self._host.is_stuck(self._queue)
        for number, part in enumerate(within(self._batch, self._side.learned.limits)):
            try:
                rejected += self._side.batches.send(self._queue, part, in_doubt, in_pieces=stuck)
            except Unavailable as error:
                if number == 0 and not error.sent:
                    self._progress.unmark(before)
                raise
        return rejected
