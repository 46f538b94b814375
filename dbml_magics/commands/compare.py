"""``%dbml compare``: runs side by side, with their curves."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.errors import BadCommand
from dbml_magics.parser import Command, Option

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.compare import CompareResult


def run(args: Namespace, session: Session) -> CompareResult:
    """Compare the runs, on the metrics that are named or on those that tell most."""
    if len(args.run) < 2:
        raise BadCommand(
            "%dbml compare needs two runs or more.",
            remedies=[
                ("%dbml runs", "lists the runs with their ids"),
                ("%dbml compare last 4f1c", "for example"),
            ],
        )
    return session.compare(*args.run, metrics=tuple(args.metric))


COMMAND = Command(
    name="compare",
    help="set runs side by side: their params, their metrics, their curves",
    examples=("%dbml compare last 4f1c", "%dbml compare last 4f1c 9ab0 --metric loss --metric accuracy"),
    run=run,
    details="The runs may be live, and of different experiments. to_pandas() of the result has every metric.",
    options=(
        Option(
            "RUN",
            "two runs or more: a run id, the beginning of one, or last",
            metavar="RUN RUN…",
            repeatable=True,
            completes="run",
        ),
        Option(
            "--metric", "a metric to show (by default those that tell most)", metavar="M", repeatable=True
        ),
    ),
)
