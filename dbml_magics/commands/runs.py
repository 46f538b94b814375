"""``%dbml runs``: list an experiment's runs."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.parser import Command, Option, positive_integer

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.runs import RunsResult


def run(args: Namespace, session: Session) -> RunsResult:
    """Return the runs that match."""
    order = [column.strip() for column in (args.order_by or "").split(",") if column.strip()]
    return session.runs(args.experiment, filter=args.filter or "", order_by=order, max_results=args.max or 20)


COMMAND = Command(
    name="runs",
    help="list the experiment's runs, newest first",
    examples=(
        "%dbml runs --max 5",
        '%dbml runs --filter "metrics.accuracy > 0.9" --order-by "metrics.accuracy DESC"',
        "runs = %dbml runs",
    ),
    run=run,
    details="runs = %dbml runs keeps the result and shows nothing; runs.to_pandas() makes a DataFrame of it.",
    options=(
        Option("--experiment", "another experiment than the active one", metavar="E", completes="experiment"),
        Option(
            "--filter",
            "MLflow's search syntax, in quotes",
            metavar="F",
            example='%dbml runs --filter "metrics.loss < 1"',
        ),
        Option(
            "--order-by",
            "columns with ASC or DESC, commas between them, in quotes",
            metavar="O",
            example='%dbml runs --order-by "metrics.loss ASC"',
        ),
        Option(
            "--max",
            "how many at most (20 by default)",
            metavar="N",
            convert=positive_integer,
            example="%dbml runs --max 5",
        ),
    ),
)
