"""``%dbml undeploy``: end an endpoint, or one deployment of it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import display
from dbml_magics.commands.endpoints import from_target
from dbml_magics.parser import Command, Option

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.endpoints import UndeployResult


def run(args: Namespace, session: Session) -> UndeployResult:
    """End it; a cloud endpoint wants its name typed again."""
    with display.Progress() as progress:
        return session.undeploy(
            args.name,
            target=getattr(args, "from"),
            deployment=args.deployment,
            confirm=args.confirm,
            progress=progress.say,
        )


COMMAND = Command(
    name="undeploy",
    help="end an endpoint, or one deployment of it",
    examples=("%dbml undeploy wine", "%dbml undeploy wine --deployment green"),
    run=run,
    needs_link=False,
    details="A cloud endpoint's name is wanted once more: --confirm NAME. Registered models stay.",
    options=(
        Option("NAME", "an endpoint", completes="endpoint"),
        from_target("%dbml undeploy wine"),
        Option("--deployment", "this one alone; the endpoint goes on", metavar="D"),
        Option("--confirm", "the endpoint's name, for a cloud target", metavar="NAME"),
    ),
)
