"""Order between queues: what contains others waits for what is on its way to them, and they for it.

An experiment's deletion, restoration or new name stands in the link's own queue, the runs and models in it in
queues of their own; a model's deletion stands in its run's queue, while other runs may have named the model.
Stamps order all writes of a link: such a write goes out once every earlier one of its contents has, and no
later one of theirs goes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dbml_magics.core.destinations.errors import Blocked
from dbml_magics.core.tracking.journal import LINK_QUEUE, Entry

if TYPE_CHECKING:
    from dbml_magics.core.tracking.engine import Engine

MOVES_CONTENTS = frozenset({"delete", "restore", "rename"})


class Containers:
    """What waits for what at one workspace."""

    def __init__(self, engine: Engine, role: str) -> None:
        self.engine = engine
        self.role = role

    def limit(self, queue: str) -> int | None:
        """Return the stamp from which a queue's writes wait for their experiment's, or None."""
        engine = self.engine
        if queue == LINK_QUEUE or not engine.is_waiting(self.role, LINK_QUEUE):
            return None
        experiments = engine.experiments_in(queue)
        stamps = (
            entry.order[0]
            for entry in self._waiting(LINK_QUEUE)
            if entry.op is not None and (moved := _experiment_moved(entry.op)) and moved in experiments
        )
        return min(stamps, default=None)

    def await_contents(self, queue: str, op: list[Any]) -> None:
        """Let what a write contains go first. Raises Blocked while it cannot."""
        experiment = _experiment_moved(op)
        if experiment is not None:
            contents: Iterable[str] = self.engine.contents_of(experiment, self.role)
        elif op[1] == "X":
            contents = [q for q in self.engine.queues_naming(op[2]) if q != queue]
        else:
            return
        for other in contents:
            if any(entry.order[0] < op[0] for entry in self._waiting(other)):
                raise Blocked(f"waits for what was written before it to {_name(other)}", on=other)

    def _waiting(self, queue: str) -> Iterator[Entry]:
        cursors = self.engine.state.cursors(self.role, queue)
        reached = {file: offset for file, (offset, _) in cursors.items()}
        return iter(self.engine.journal.entries(queue, self.engine.journal.files(queue), reached))


def _experiment_moved(op: list[Any]) -> str | None:
    """Return the experiment that a write deletes, restores or renames."""
    try:
        return str(op[2]["id"]) if op[1] == "e" and op[2]["do"] in MOVES_CONTENTS else None
    except (IndexError, KeyError, TypeError):  # a damaged line, which delivery puts aside
        return None


def _name(queue: str) -> str:
    return f"model {queue}" if queue.startswith("m-") else f"run {queue[:8]}"
