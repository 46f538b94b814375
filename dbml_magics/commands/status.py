"""``%dbml status``: where tracking goes, what is on its way, how far behind."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.parser import Command

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results import LinkStatus


def run(_args: Namespace, session: Session) -> LinkStatus:
    """Return the link's state; asks no workspace."""
    return session.status()


COMMAND = Command(
    name="status",
    help="where tracking goes, what is still on its way, how far behind",
    examples=("%dbml status",),
    run=run,
)
