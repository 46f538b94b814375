"""``%dbml endpoints``: what is deployed, and what it leaves running."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.parser import Command, Option


def from_target(line: str) -> Option:
    """Return the option that names a target; ``line`` is the example's beginning."""
    return Option(
        "--from",
        "the target, where two have an endpoint of that name",
        choices=("local", "aci", "aks", "online"),
        example=f"{line} --from local",
        parameter="target",
    )


COMMAND = Command(
    name="endpoints",
    help="list the endpoints, or show one with its deployments and their traffic",
    examples=("%dbml endpoints", "%dbml endpoints wine"),
    call=api.endpoints,
    needs_link=False,
    options=(
        Option("NAME", "an endpoint", completes="endpoint"),
        from_target("%dbml endpoints"),
    ),
)
