"""``%dbml undeploy``: end an endpoint, or one deployment of it."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.endpoints import from_target
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="undeploy",
    help="end an endpoint, or one deployment of it",
    examples=(Remedy("undeploy", "wine"), Remedy("undeploy", "wine", deployment="green")),
    call=api.undeploy,
    needs_link=False,
    details="A cloud endpoint's name is wanted once more: --confirm NAME. Registered models stay.",
    options=(
        Option("NAME", "an endpoint", completes="endpoint"),
        from_target(Remedy("undeploy", "wine")),
        Option("--deployment", "this one alone; the endpoint goes on", metavar="D"),
        Option("--confirm", "the endpoint's name, for a cloud target", metavar="NAME"),
    ),
)
