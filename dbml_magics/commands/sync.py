"""``%dbml sync``: wait until everything is delivered; see to what was refused."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import display
from dbml_magics.errors import BadCommand, DeliveryIncomplete
from dbml_magics.parser import Command, Option, positive_integer, seconds

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results import Result


def run(args: Namespace, session: Session) -> Result:
    """Wait with one progress line; an interrupt ends the waiting and loses nothing."""
    _refuse_strays(args)
    if args.dead == "list":
        return session.dead_letters(args.run)
    if args.dead == "discard":
        return session.discard_dead_letters(args.confirm, run=args.run)
    if args.dead == "retry":
        return _retry(args, session)
    with display.Progress() as progress:
        try:
            return session.sync(args.timeout, progress=progress.update)
        except KeyboardInterrupt:
            raise _interrupted(session) from None


def _retry(args: Namespace, session: Session) -> Result:
    with display.Progress() as progress:
        try:
            return session.retry_dead_letters(args.run, timeout=args.timeout, progress=progress.update)
        except KeyboardInterrupt:
            raise DeliveryIncomplete(
                "interrupted; what is on its way again goes on, and what is refused again stays listed.",
                remedies=[("%dbml sync --dead list", "how far it is")],
            ) from None


def _refuse_strays(args: Namespace) -> None:
    """Refuse options that mean nothing without another one."""
    if args.dead is None and args.run is not None:
        raise BadCommand(
            "--run narrows --dead; syncing waits for all runs.",
            remedies=["%dbml sync --dead list --run last"],
        )
    if args.dead != "discard" and args.confirm is not None:
        raise BadCommand("--confirm belongs to --dead discard.", remedies=["%dbml sync --dead discard"])
    if args.dead in ("list", "discard") and args.timeout is not None:
        raise BadCommand(
            f"--timeout is for waiting, and --dead {args.dead} does not wait.",
            remedies=[f"%dbml sync --dead {args.dead}"],
        )


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
    examples=("%dbml sync --timeout 60", "%dbml sync", "%dbml sync --dead list"),
    run=run,
    details=(
        "Interrupting the kernel (Ctrl-C in a terminal) ends the waiting; delivery goes on.\n"
        "A write that a workspace refuses for good is put aside, and the rest goes on: --dead list shows\n"
        "such writes with their causes, --dead retry tries them again, --dead discard gives them up."
    ),
    options=(
        Option(
            "--timeout",
            "how many seconds to wait at most (no end by default)",
            metavar="S",
            convert=seconds,
            example="%dbml sync --timeout 60",
        ),
        Option(
            "--dead",
            "see to the writes that were refused for good",
            choices=("list", "retry", "discard"),
            example="%dbml sync --dead list",
        ),
        Option("--run", "with --dead: one run's alone", metavar="R", completes="run"),
        Option(
            "--confirm",
            "with --dead discard: how many writes are given up",
            metavar="N",
            convert=positive_integer,
            example="%dbml sync --dead discard --confirm 3",
        ),
    ),
)
