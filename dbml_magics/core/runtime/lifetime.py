"""Whether somebody is linked; a link that was left closes its files once everything is delivered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dbml_magics.core.destinations.base import Workspace
from dbml_magics.core.outbox.journal import Journal
from dbml_magics.core.outbox.provenance import Witness
from dbml_magics.core.outbox.state import State


class Lifetime:
    """Keeps a link's files open while they are needed."""

    def __init__(
        self,
        journal: Journal,
        state: State,
        witnesses: Mapping[str, Witness],
        workspaces: Mapping[str, Workspace],
        at_rest: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._state = state
        self._witnesses = witnesses
        self._workspaces = workspaces
        self._at_rest = at_rest
        self.retired = False
        """Nobody is linked any more: threads end once everything is delivered."""

    def retire(self) -> None:
        """Note that nobody is linked any more."""
        self.retired = True
        self.close_if_left()

    def close_if_left(self) -> None:
        """Close a retired link's files once nothing is in flight; later access reopens them."""
        if self.retired and self._at_rest():
            self._state.rest()
            self._journal.close()
            for witness in self._witnesses.values():
                witness.close()
            for workspace in self._workspaces.values():
                workspace.close_idle()
