"""``%dbml compare``: runs side by side, with their curves."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.commands.running import call
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.errors import BadCommand

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import Result


def run(args: Namespace, output: Output) -> Result:
    """Compare the runs, on the metrics that are named or on those that tell most."""
    if len(args.run) < 2:
        raise BadCommand(
            "%dbml compare needs two runs or more.",
            remedies=[
                (Remedy("runs"), "lists the runs with their ids"),
                (corrected(Remedy("compare", *args.run, "4f1c"), *args.run, "4f1c"), "for example"),
            ],
        )
    return call(COMMAND, args, output)


COMMAND = Command(
    name="compare",
    help="set runs side by side: their params, their metrics, their curves",
    examples=(
        Remedy("compare", "last", "4f1c"),
        Remedy("compare", "last", "4f1c", "9ab0", metric=["loss", "accuracy"]),
    ),
    call=api.compare,
    run=run,
    details="The runs may be live, and of different experiments. to_pandas() of the result has every metric.",
    options=(
        Option(
            "RUN",
            "two runs or more: a run's id, the beginning of one, its name, or last",
            metavar="RUN RUN…",
            completes="run",
            parameter="given",
        ),
        Option(
            "--metric", "a metric to show (by default those that tell most)", metavar="M", parameter="metrics"
        ),
    ),
)
