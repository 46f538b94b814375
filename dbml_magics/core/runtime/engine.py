"""One engine a link and process: it composes what tracks to the link's workspaces."""

from __future__ import annotations

import random
import time
import weakref
from collections.abc import Callable

from dbml_magics.core.clock import SYSTEM, Clock
from dbml_magics.core.delivery.lanes import Lanes, lanes_to
from dbml_magics.core.delivery.lease import Lease
from dbml_magics.core.delivery.ports import Runtime
from dbml_magics.core.delivery.worker import DeliveryWorker
from dbml_magics.core.delivery.writers.ports import Queues
from dbml_magics.core.delivery.writers.side import LinkParts, Side
from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.destinations.connecting import connect
from dbml_magics.core.destinations.health import Health
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.link import Link, WorkspaceSpec
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.state import State
from dbml_magics.core.runtime import handoff
from dbml_magics.core.runtime.asking import Asking
from dbml_magics.core.runtime.backlog import Backlog
from dbml_magics.core.runtime.disk_thread import DiskThread
from dbml_magics.core.runtime.doubt import Doubt
from dbml_magics.core.runtime.exit_flush import ExitFlush
from dbml_magics.core.runtime.known import KnownExperiments, KnownModels
from dbml_magics.core.runtime.lifetime import Lifetime
from dbml_magics.core.runtime.live import LiveQueues
from dbml_magics.core.runtime.own_files import OwnFiles
from dbml_magics.core.runtime.own_runs import OwnRuns
from dbml_magics.core.runtime.recorder import Recorder
from dbml_magics.core.runtime.retention import Retention
from dbml_magics.core.runtime.run_reads import RunReads
from dbml_magics.core.runtime.thumbnails import Thumbnails
from dbml_magics.core.runtime.visible_ids import VisibleIds
from dbml_magics.core.runtime.waiting import Waiting

made: weakref.WeakSet[Engine] = weakref.WeakSet()
"""All engines of this process."""


class Engine:
    """Everything that a link needs in one process.

    One that delivers what another process left (``link.taken``) shares the workspaces of this process's
    ``own``.
    """

    def __init__(
        self,
        link: Link,
        own: Engine | None = None,
        *,
        connect: Callable[[WorkspaceSpec], Workspace] = connect,
        clock: Clock = SYSTEM,
        chance: random.Random | None = None,
        lanes: Callable[[Destination, str], Lanes] = lanes_to,
    ) -> None:
        self.link = link
        self.clock, self.chance = clock, chance or random.Random()
        self.began = time.time()
        self.journal = journal = Journal(link.home, link.spares)
        self.state = state = State(link.home / "state.db", link.spares)
        self.workspaces: dict[str, Workspace] = {
            role: connect(link.spec(role)) if own is None else own.workspaces[role] for role in link.used
        }
        self.health: dict[str, Health] = {
            role: Health(clock, self.chance) if own is None else own.health[role] for role in link.used
        }
        self.witnesses = {role: journal.witness(role, n) for n, role in enumerate(link.used, start=1)}
        state.on_step = lambda role, count: self.witnesses[role].note(count)
        self.workers: dict[str, DeliveryWorker] = {}

        sides, health, senders = self.side, self.health, self.workers
        self.backlog = backlog = Backlog(journal, state, lambda role: sides(role).overflow.files.unwritten())
        self.ids = ids = VisibleIds(link, state, lambda role, own: sides(role).experiments.visible(own))
        self.live = live = LiveQueues(journal, ids.artifact_uri, lambda run: self.runs.base_of(run))
        self.experiments = experiments = KnownExperiments(link, state, live, backlog)
        self.asking = asking = Asking(link, health, sides)
        self.models = models = KnownModels(state, live, ids, asking)
        self.lifetime = lifetime = Lifetime(journal, state, self.witnesses, self.workspaces, self._is_at_rest)
        self._disk = DiskThread(journal, state, lifetime)
        self.recorder = recorder = Recorder(journal, live, ids.artifact_uri, self._disk)
        self.files = files = OwnFiles(link, ids)
        self.own_runs = OwnRuns(journal, state, recorder, self.live)
        self.thumbnails = Thumbnails()
        self.doubt = doubt = Doubt(link, journal, state, self.witnesses)
        self.retention = retention = Retention(
            link, journal, state, live, backlog, health, senders, self._forget_overflow
        )
        self.runs = RunReads(link, state, health, live, backlog, ids, asking, sides)
        self.waiting = Waiting(link, state, backlog, health, senders, self._overflow_under_way)
        self.exit_flush = ExitFlush(journal, state, backlog, self.waiting, retention, health, self.workers)
        queues = Queues(
            recorder.write, live.creation_of, live.queue_view, backlog.is_waiting, backlog.left, files.of
        )
        parts = LinkParts(
            link, self.workspaces, health, state, journal, queues, clock, lambda role: sides(role).reader
        )
        runtime = Runtime(
            parts, self.chance, recorder, backlog, retention, doubt, lifetime, experiments, models, lanes
        )
        for role in link.used:
            self.workers[role] = DeliveryWorker(role, runtime, Lease(link.home / f"{role}.lease"))
        self.recorder.wake(self.workers.values())
        made.add(self)
        self.doubt.open_state(lambda: all(worker.take_lease() for worker in self.workers.values()))
        handoff.settle(link, journal, state)

    def side(self, role: str) -> Side:
        """Return one workspace's ids and writers."""
        return self.workers[role].side

    @property
    def primary(self) -> Side:
        """Return the side at which runs are named."""
        return self.side(self.link.primary)

    def link_began(self) -> float:
        """Return when this link was made on this machine, in seconds since the epoch."""
        began = self.state.link_notes.began()
        if began is None:
            began = self.began
            self.state.link_notes.note_began(began)
        return began

    def after_fork(self) -> None:
        """In a forked child: everything that holds a file, a connection or a thread begins anew."""
        self.journal.after_fork()
        self.state.forget_connection()
        for workspace in self.workspaces.values():
            workspace.forget_connections()
        for worker in self.workers.values():
            worker.after_fork()
        for part in (self._disk, self.live, self.own_runs, self.exit_flush):
            part.after_fork()

    def _is_at_rest(self) -> bool:
        return all(worker.at_rest for worker in self.workers.values())

    def _overflow_under_way(self, role: str) -> set[str]:
        return self.side(role).overflow.files.on_their_way()

    def _forget_overflow(self, queue: str) -> None:
        for worker in self.workers.values():
            worker.side.overflow.clear(queue)
