"""``%dbml logs``: what a deployment has written."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.endpoints import from_target
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="logs",
    help="show the last lines that an endpoint's deployment has written",
    examples=(Remedy("logs", "wine"), Remedy("logs", "wine", deployment="green", lines="200")),
    call=api.logs,
    needs_link=False,
    options=(
        Option("NAME", "an endpoint", completes="endpoint"),
        Option("--deployment", "a deployment (the one with the most traffic by default)", metavar="D"),
        Option(
            "--lines",
            "how many (50 by default)",
            metavar="N",
            example=Remedy("logs", "wine", lines="200"),
        ),
        from_target(Remedy("logs", "wine")),
    ),
)
