"""``%dbml experiment``: set the experiment on both sides."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.parser import Command, Option

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.link import ExperimentResult


def run(args: Namespace, session: Session) -> ExperimentResult:
    """Set the experiment that runs go to."""
    return session.experiment(args.name)


COMMAND = Command(
    name="experiment",
    help="set the experiment on both sides, each in its own naming rule",
    examples=("%dbml experiment wine",),
    run=run,
    options=(
        Option("NAME", "a plain name; Databricks gets it below your user's folder", completes="experiment"),
    ),
)
