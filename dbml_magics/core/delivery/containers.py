"""Order between queues: what contains others waits for what is on its way to them, and they for it.

An experiment's deletion, restoration or new name stands in the link's own queue, the runs and models in it in
queues of their own; a model's deletion stands in its run's queue, while other runs may have named the model.
Stamps order all writes of a link: such a write goes out once every earlier one of its contents has, and no
later one of theirs goes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dbml_magics.core.delivery.ports import Runtime
from dbml_magics.core.destinations.errors import Blocked
from dbml_magics.core.model.operations import ChangeExperiment, DeleteModel, Operation, read_as
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.outbox.lines import Entry

MOVES_CONTENTS = frozenset({"delete", "restore", "rename"})


class Containers:
    """What waits for what at one workspace."""

    def __init__(self, runtime: Runtime, role: str) -> None:
        self._runtime = runtime
        self._role = role

    def limit(self, queue: str) -> int | None:
        """Return the stamp from which a queue's writes wait for their experiment's, or None."""
        if queue == LINK_QUEUE or not self._runtime.backlog.is_waiting(self._role, LINK_QUEUE):
            return None
        moved = self._runtime.experiments.in_queue(queue) - {None}
        stamps = (
            entry.stamp
            for entry in self._waiting(LINK_QUEUE)
            if _experiment_moved(read_as(ChangeExperiment, entry.line)) in moved
        )
        return min(stamps, default=None)

    def before(self, queue: str, op: Operation, stamp: int) -> Iterator[Blocked]:
        """Yield what a write contains that has not arrived, and was written before it."""
        experiment = _experiment_moved(op)
        if experiment is not None:
            contents: Iterable[str] = self._runtime.experiments.contents_of(experiment, self._role)
        elif isinstance(op, DeleteModel):
            contents = [q for q in self._runtime.models.queues_naming(op.model) if q != queue]
        else:
            return
        for other in contents:
            if any(entry.stamp < stamp for entry in self._waiting(other)):
                yield Blocked(f"waits for what was written before it to {_name(other)}", on=other)

    def _waiting(self, queue: str) -> Iterator[Entry]:
        parts = self._runtime.parts
        return parts.journal.beyond(queue, parts.state.cursors(self._role, queue))


def _experiment_moved(op: Operation | None) -> str | None:
    """Return the experiment that a write deletes, restores or renames."""
    return op.id if isinstance(op, ChangeExperiment) and op.do in MOVES_CONTENTS else None


def _name(queue: str) -> str:
    return f"model {queue}" if queue.startswith("m-") else f"run {queue[:8]}"
