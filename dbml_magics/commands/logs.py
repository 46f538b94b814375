"""``%dbml logs``: what a deployment has written."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.commands.endpoints import from_target
from dbml_magics.parser import Command, Option, positive_integer

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.endpoints import LogsResult


def run(args: Namespace, session: Session) -> LogsResult:
    """Return the last lines."""
    return session.logs(
        args.name, deployment=args.deployment, lines=args.lines or 50, target=getattr(args, "from")
    )


COMMAND = Command(
    name="logs",
    help="show the last lines that an endpoint's deployment has written",
    examples=("%dbml logs wine", "%dbml logs wine --deployment green --lines 200"),
    run=run,
    needs_link=False,
    options=(
        Option("NAME", "an endpoint", completes="endpoint"),
        Option("--deployment", "a deployment (the one with the most traffic by default)", metavar="D"),
        Option(
            "--lines",
            "how many (50 by default)",
            metavar="N",
            convert=positive_integer,
            example="%dbml logs wine --lines 200",
        ),
        from_target("%dbml logs wine"),
    ),
)
