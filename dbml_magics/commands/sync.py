"""``%dbml sync``: wait until everything is delivered."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import display
from dbml_magics.errors import DeliveryIncomplete
from dbml_magics.parser import Command, Option, seconds

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results import SyncResult


def run(args: Namespace, session: Session) -> SyncResult:
    """Wait with one progress line; an interrupt ends the waiting and loses nothing."""
    with display.Progress() as progress:
        try:
            return session.sync(args.timeout, progress=progress.update)
        except KeyboardInterrupt:
            raise _interrupted(session) from None


def _interrupted(session: Session) -> DeliveryIncomplete:
    from dbml_magics.rendering import count

    waiting = [
        f"{count(d.pending, 'write')} for {d.name}" for d in session.status().destinations if d.pending
    ]
    return DeliveryIncomplete(
        f"interrupted with {' and '.join(waiting) or 'nothing'} on the way; nothing is lost.",
        remedies=[("%dbml sync", "go on waiting"), ("%dbml status", "how far it is")],
    )


COMMAND = Command(
    name="sync",
    help="wait until everything is delivered, and say what was",
    examples=("%dbml sync --timeout 60", "%dbml sync"),
    run=run,
    details="Interrupting the kernel (Ctrl-C in a terminal) ends the waiting; delivery goes on.",
    options=(
        Option(
            "--timeout",
            "how many seconds to wait at most (no end by default)",
            metavar="S",
            convert=seconds,
            example="%dbml sync --timeout 60",
        ),
    ),
)
