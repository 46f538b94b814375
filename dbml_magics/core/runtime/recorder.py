"""The writing side: journals writes, folds them into the views of live queues and wakes delivery.

A ``log_metric`` passes through ``DbmlTrackingStore.log_metric`` → :meth:`Recorder.log_metric` →
:meth:`Journal.append`, and returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dbml_magics.core.model.operations import BATCHED, Operation, encoded_point
from dbml_magics.core.model.sendable import refuse_bad_text
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.lines import frame, line_of
from dbml_magics.core.run_view import Extra
from dbml_magics.core.runtime.disk_thread import DiskThread
from dbml_magics.core.runtime.live import LiveQueues
from dbml_magics.core.runtime.senders import Sender


class Recorder:
    """Journals the writes of one link.

    ``artifact_uri`` names the files of a ``run`` by its id; ``disk`` puts what is journaled onto the disk.
    """

    def __init__(
        self,
        journal: Journal,
        live: LiveQueues,
        artifact_uri: Callable[[str, str], str],
        disk: DiskThread,
    ) -> None:
        self._journal = journal
        self._live = live
        self._queues = live.queues
        self._artifact_uri = artifact_uri
        self._disk = disk
        self._senders: tuple[Sender, ...] = ()
        self._notify: tuple[Callable[[str], None], ...] = ()

    def wake(self, senders: Iterable[Sender]) -> None:
        """Wake these at each write from now on."""
        self._senders = tuple(senders)
        self._notify = tuple(sender.notify for sender in self._senders)

    def write(self, queue: str, op: Operation) -> None:
        """Journal one write of any kind, and fold it into the queue's view."""
        self.write_all(queue, [op])

    def write_all(self, queue: str, ops: Sequence[Operation], *, lasting: bool = False) -> None:
        """Journal writes with one append; fold them into the view; wake delivery.

        ``lasting`` ones are on the disk itself when this returns: what names something to the user must
        outlive the machine's power.
        """
        live = self._queues.get(queue)
        if live is None:
            with self._live.lock:  # a view that is being folded right now must not miss these lines
                live = self._queues.get(queue)
                if live is None:
                    self._append(queue, ops)
        if live is not None:
            with live.lock:
                file, start, end, stamped = self._append(queue, ops)
                if start != live.end or file != live.file:
                    self._live.catch_up(live, file, start)
                for op, stamp in stamped:
                    live.view.fold(op, stamp, self._artifact_uri("run", queue), (file, start, end))
                live.end = end
        if lasting:
            self._journal.sync_to_disk()
        gathered = all(isinstance(op, BATCHED) for op in ops)
        for sender in self._senders:
            if gathered:
                sender.notify(queue)
            else:
                sender.notify_soon(queue)
        if self._disk.thread is None:
            self._disk.start()

    def _append(
        self, queue: str, ops: Sequence[Operation]
    ) -> tuple[str, int, int, list[tuple[Operation, int]]]:
        """Stamp and append writes; returns (file, from byte, to byte, the writes with their stamps)."""
        stamped = [(op, self._journal.next_stamp(queue)) for op in ops]
        try:
            data = b"".join([line_of(op.encode(stamp)) for op, stamp in stamped])
        except UnicodeEncodeError:
            for op in ops:
                refuse_bad_text(op.label(), op.fields())
            raise
        file, end = self._journal.append(queue, data)
        return file, end - len(data), end, stamped

    def log_metric(
        self, run_id: str, key: str, value: float, timestamp: int, step: int, extra: Extra | None
    ) -> None:
        """Journal one point; the shortest way, since training calls it most."""
        live = self._queues.get(run_id)
        if live is None or live.view.run is None:
            live = self._live.open_run(run_id)
        encoded = live.keys.get(key) or self._live.know_key(run_id, key)
        tail = encoded_point(encoded, value, timestamp, step, extra)
        run, journal = live.view.run, self._journal
        assert run is not None
        with live.lock:
            line = frame(f"[{journal.next_stamp(run_id)}{tail}".encode())
            file, end = journal.append(run_id, line)
            if end - len(line) != live.end or file != live.file:
                self._live.catch_up(live, file, end - len(line))
            run.add_metric(key, value, timestamp, step, extra)
            live.end = end
        for notify in self._notify:
            notify(run_id)
        if self._disk.thread is None:
            self._disk.start()
