"""The backlog: what of the journal is still on its way to a workspace."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State

Goal = dict[str, dict[str, int]]
"""What shall have arrived: of each queue its files, and their sizes."""


class Backlog:
    """Compares the journal of one link with how far delivery to each workspace is.

    ``overflowing`` gives the runs whose overflow file has yet to be written at the workspace of a role.
    """

    def __init__(self, journal: Journal, state: State, overflowing: Callable[[str], Collection[str]]) -> None:
        self._journal = journal
        self._state = state
        self.overflowing = overflowing

    def is_waiting(self, role: str, queue: str) -> bool:
        """Tell whether anything of a queue is still on its way to a workspace."""
        files = self._journal.files(queue)
        if not files:
            return False
        cursors = self._state.cursors(role, queue)
        return any(size > cursors.get(file, (0, 0))[0] for file, size in files.items())

    def queues(self, role: str) -> list[str]:
        """Return the queues of which something is on its way to a workspace."""
        return [queue for queue in self._journal.queues() if self.is_waiting(role, queue)]

    def waiting(self, role: str) -> tuple[int, float]:
        """Return how many writes wait for a workspace, and the oldest one's age in seconds."""
        cursors = self._state.all_cursors(role)
        count, oldest = 0, None
        for queue in self._journal.queues():
            n, stamp = self._journal.count_waiting(queue, cursors.get(queue, {}))
            count += n
            if stamp is not None:
                oldest = stamp if oldest is None else min(oldest, stamp)
        count += len(self.overflowing(role))
        return count, max(0.0, time.time() - oldest / 1e9) if oldest is not None else 0.0

    def goal(self, queues: Iterable[str] | None = None) -> Goal:
        """Return what is journaled now."""
        self._journal.spares.rescan()
        names = self._journal.queues() if queues is None else queues
        return {queue: self._journal.files(queue) for queue in names}

    def own_goal(self, role: str) -> Goal:
        """Return what is this process's to see to: what it wrote, and what processes that ended left."""
        goal = {}
        for queue, files in self.goal().items():
            own = {
                file: size
                for file, size in self.left(role, queue, files).items()
                if self._journal.is_own(file) or self._journal.is_left(queue, file)
            }
            if own:
                goal[queue] = own
        return goal

    def left(self, role: str, queue: str, files: dict[str, int]) -> dict[str, int]:
        """Return those of a queue's files of which not as much as given has arrived."""
        cursors = self._state.cursors(role, queue)
        there = self._journal.files(queue)
        return {f: s for f, s in files.items() if f in there and s > cursors.get(f, (0, 0))[0]}

    def left_of(self, role: str, goal: Goal) -> Goal:
        """Return what of a goal has not arrived."""
        return {queue: left for queue, files in goal.items() if (left := self.left(role, queue, files))}

    def count(self, role: str, goal: Goal) -> int:
        """Return how many writes of a goal wait for a workspace, the rows of overflow files with them."""
        count = len(self.overflowing(role))
        for queue, files in goal.items():
            cursors = self._state.cursors(role, queue)
            for file, size in files.items():
                start = cursors.get(file, (0, 0))[0]
                count += sum(1 for _ in self._journal.read(queue, file, start, size))
        return count
