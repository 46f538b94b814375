"""``%dbml endpoints``: what is deployed, and what it leaves running."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.parser import Command, Option

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.base import Result


def from_target(line: str) -> Option:
    """Return the option that names a target; ``line`` is the example's beginning."""
    return Option(
        "--from",
        "the target, where two have an endpoint of that name",
        choices=("local", "aci", "aks", "online"),
        example=f"{line} --from local",
    )


def run(args: Namespace, session: Session) -> Result:
    """Return the endpoints, or the named one."""
    return session.endpoints(args.name, target=getattr(args, "from"))


COMMAND = Command(
    name="endpoints",
    help="list the endpoints, or show one with its deployments and their traffic",
    examples=("%dbml endpoints", "%dbml endpoints wine"),
    run=run,
    needs_link=False,
    options=(
        Option("NAME", "an endpoint", optional_value=True, completes="endpoint"),
        from_target("%dbml endpoints"),
    ),
)
