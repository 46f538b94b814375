"""The end of a process: what waits is delivered within the bound, the rest put away and reported."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from dbml_magics.common.config import exit_flush_seconds
from dbml_magics.common.hints import say
from dbml_magics.common.log_records import logger
from dbml_magics.core.delivery.lease import Watch
from dbml_magics.core.delivery.worker import DeliveryWorker
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.link import Link
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime import handoff, shutdown
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.retention import Retention
from dbml_magics.core.runtime.waiting import IN_TURN, Waiting

_log = logger(__name__)

_REST_S = 5.0  # how long a request that is under way may hold up the end, before what waits is put away


class ExitFlush:
    """Ends the delivery of one link in one process."""

    def __init__(
        self,
        journal: Journal,
        state: State,
        backlog: Backlog,
        waiting: Waiting,
        retention: Retention,
        health: Mapping[str, Health],
        workers: Mapping[str, DeliveryWorker],
    ) -> None:
        self._journal = journal
        self._state = state
        self._backlog = backlog
        self._waiting = waiting
        self._retention = retention
        self._health = health
        self._workers = workers
        self._pid = os.getpid()

    def after_fork(self) -> None:
        """In a forked child: what it writes is its own to deliver."""
        self._pid = os.getpid()

    def flush(self, link: Link) -> None:
        """Deliver within the bound; put what is left where the link says, and say so.

        What other living processes of the link log is theirs to see to.
        """
        if os.getpid() != self._pid:
            return
        self._journal.sync_to_disk()
        until = time.monotonic() + exit_flush_seconds()
        watches = {role: Watch(worker.lease) for role, worker in self._workers.items()}
        stopped = {role: self._flush_role(role, until, watches) for role in self._workers}
        left = {role: self._backlog.count(role, self._backlog.own_goal(role)) for role in self._workers}
        if not any(self._backlog.waiting(role)[0] for role in self._workers):
            for queue in self._journal.queues():
                self._retention.tidy(queue)
        self._journal.close()
        self._state.come_back(at_once=True)
        undelivered = {
            role: n for role, n in left.items() if n and (stopped[role] or not self._other_delivers(role))
        }
        if undelivered:
            self._tell(link, undelivered, {role: pid for role, pid in stopped.items() if pid is not None})
        for worker in self._workers.values():
            worker.halt()

    def _flush_role(self, role: str, until: float, watches: dict[str, Watch]) -> int | None:
        """Wait for what is this process's to see to; returns a holder of the lease that does not move.

        A workspace that is away was asked at least twice; the next process asks again.
        """
        worker, watch = self._workers[role], watches[role]
        holder: int | None = None

        def over() -> bool:
            nonlocal holder
            for each in watches.values():
                each.look()
            if not self._other_delivers(role):
                worker.lease.beat()
                return self._health[role].away or time.monotonic() >= until
            if watch.moved or watch.still is not None or time.monotonic() >= until:
                holder = watch.last_word()
                return True
            return False

        for _ in range(IN_TURN):
            if not self._waiting.wait(role, goal=self._backlog.own_goal(role), give_up=over):
                return holder
            if not self._backlog.own_goal(role):
                break
        return None

    def _other_delivers(self, role: str) -> bool:
        worker = self._workers[role]
        return not worker.has_lease and not worker.take_lease()

    # --- what is said

    def _tell(self, link: Link, undelivered: dict[str, int], holders: dict[str, int]) -> None:
        """Say what waits for which workspace and where; put it into the spill folder where there is one.

        ``holders`` are processes that have a workspace's lease and do not move.
        """
        reasons = {
            role: shutdown.stopped(holders[role], role) if role in holders else self._health[role].reason
            for role in undelivered
        }
        parts = [
            f"{count:,} {'writes wait' if count > 1 else 'write waits'} for {role}"
            + (f" ({reasons[role]})" if reasons[role] else "")
            for role, count in undelivered.items()
        ]
        where = self._where(link, list(holders.values()))
        if link.on_undelivered == "fail":
            shutdown.fail()
            _log.error("dbml_magics: undelivered: %s; nothing is lost, %s", ", ".join(parts), where)
            return
        for part in parts:
            _log.warning("dbml_magics: %s; nothing is lost, %s", part, where)

    def _where(self, link: Link, holders: list[int]) -> str:
        folder = link.folder or "the same folder"
        kept = f"they go out with `dbml-magics sync` in {folder} or with the next kernel that links here"
        if link.on_undelivered == "fail":
            kept = f"they are in {link.home}: {kept}"
        if holders:
            kept += f", once `kill -CONT {holders[0]}` lets that process go on or it has ended"
        if link.spill is None:
            return kept
        try:
            rests = not holders and self._waiting.rest(_REST_S)
            package = handoff.put(link, self._journal, self._state, self._backlog) if rests else None
        except Exception as error:  # whatever it is: the journal still has everything
            cause = getattr(error, "strerror", None) or error
            return f"but they could not be put into {link.spill} ({cause}): {kept}"
        if package is None and holders:
            return kept
        if package is None:
            return f"another process of the link still writes, and sees to them: {kept}"
        return f"they are in {package}: {say(handoff.command(link.spill))} delivers them, from any machine"
