"""What each writer of a workspace is made with."""

from __future__ import annotations

from dataclasses import dataclass

from dbml_magics.core.delivery.writers.ids import Ids
from dbml_magics.core.delivery.writers.learned import Learned
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.giving_way import OneAtATime
from dbml_magics.core.outbox.state import State


@dataclass(eq=False)
class Writer:
    """Carries one family of writes out at one workspace."""

    role: str
    destination: Destination
    learned: Learned
    state: State
    ids: Ids
    """Of the workspace, in which the user's ids are translated."""
    alone: OneAtATime
    """What one thread at a time does there."""
