"""``%dbml endpoints``: what is deployed, and what it leaves running."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy


def from_target(example: Remedy) -> Option:
    """Return the option that names a target, with an example of its command."""
    return Option(
        "--from",
        "the target, where two have an endpoint of that name",
        choices=("local", "aci", "aks", "online"),
        example=example.but(from_="local"),
        parameter="target",
    )


COMMAND = Command(
    name="endpoints",
    help="list the endpoints, or show one with its deployments and their traffic",
    examples=(Remedy("endpoints"), Remedy("endpoints", "wine")),
    call=api.endpoints,
    needs_link=False,
    options=(
        Option("NAME", "an endpoint", completes="endpoint"),
        from_target(Remedy("endpoints")),
    ),
)
