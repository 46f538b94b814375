"""``%dbml status``: where tracking goes, what is on its way, how far behind."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.parser import Command, Option

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.delivery import Receipt
    from dbml_magics.results.link import LinkStatus


def run(args: Namespace, session: Session) -> LinkStatus | Receipt:
    """Return the link's state, or a run's receipt; asks no workspace."""
    return session.status() if args.run is None else session.receipt(args.run)


COMMAND = Command(
    name="status",
    help="where tracking goes, what is still on its way, how far behind",
    examples=("%dbml status", "%dbml status --run last"),
    run=run,
    options=(
        Option("--run", "one run's receipt: what was delivered where and when", metavar="R", completes="run"),
    ),
)
