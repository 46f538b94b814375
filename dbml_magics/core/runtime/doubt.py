"""What puts the journal in doubt: a damaged state, a restored folder, writes that another process left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dbml_magics.common.log_records import logger
from dbml_magics.core.link import Link
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.provenance import Witness, place_of
from dbml_magics.core.outbox.state import State
from dbml_magics.core.outbox.tables import FORMAT, format_of
from dbml_magics.errors import JournalDamaged

_log = logger(__name__)


class Doubt:
    """Marks writes that may have arrived unknown to the state, so that delivery asks before it sends them."""

    def __init__(self, link: Link, journal: Journal, state: State, witnesses: Mapping[str, Witness]) -> None:
        self._link = link
        self._journal = journal
        self._state = state
        self._witnesses = witnesses

    def open_state(self, take_leases: Callable[[], bool]) -> None:
        """Look at the state file; what is left of a damaged one begins a new one. Raises JournalError.

        ``take_leases`` tells whether no other process delivers: who does has the file open, and only where
        nobody does may it be put aside.
        """
        state = self._state
        state.on_loss = self._doubt_all
        if not state.path.exists():
            return
        try:
            state.check()
        except JournalDamaged as error:
            if format_of(state.path) > FORMAT or not take_leases():
                raise
            aside = state.mend()
            for witness in self._witnesses.values():
                witness.note(0)
            self._doubt_all()
            repaired = (
                f"{error.message[:-1]}: it is {aside} now, and a new one was begun with what could be read"
            )
            state.link_notes.note_repaired(repaired)
            _log.warning("dbml_magics: %s; whether a write that waits has arrived is asked first", repaired)

    def _doubt_all(self) -> None:
        """Have delivery ask whether what is in the journal has arrived, and count anew what has."""
        for queue in self._journal.queues():
            for role in self._link.used:
                self._state.mark_sending(role, queue, self._journal.files(queue))
            self._state.receipts.forget(queue)

    def begin_delivery(self, role: str) -> None:
        """Put in doubt what this process has not written itself and delivers from now on to a workspace.

        Whoever had the lease before may have sent it: on another machine, in a copy of this folder, or here
        before the folder was restored. Called before the first write is sent under a lease.
        """
        journal, state = self._journal, self._state
        if not journal.queues():
            return
        place, noted = place_of(self._link.home, state.path), self._witnesses[role].noted()
        known = state.link_notes.place(role)
        restored = noted > state.steps(role)
        if restored:
            older = (
                f"the link's folder {self._link.home} is older than what was delivered from it to {role} "
                f"(was it restored, or a part of it lost?): {role} is asked what it has before more is sent"
            )
            state.link_notes.note_repaired(older)
            _log.warning("dbml_magics: %s", older)
        everything = restored or known not in (None, place)
        cursors = state.all_cursors(role)
        for queue in journal.queues():
            reached = cursors.get(queue, {})
            left = {
                file: size
                for file, size in journal.files(queue).items()
                if size > reached.get(file, 0)
                and not journal.is_own(file)
                and (everything or journal.is_left(queue, file))
            }
            if left:
                state.mark_sending(role, queue, left)
        if known != place:
            state.link_notes.note_place(role, place)
