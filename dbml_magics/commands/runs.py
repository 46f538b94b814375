"""``%dbml runs``: list an experiment's runs."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="runs",
    help="list the experiment's runs, newest first",
    examples=(
        Remedy("runs", max="5"),
        Remedy("runs", filter="metrics.accuracy > 0.9", order_by="metrics.accuracy DESC"),
        "runs = %dbml runs",
    ),
    call=api.runs,
    details="runs = %dbml runs keeps the result and shows nothing; runs.to_pandas() makes a DataFrame of it.",
    options=(
        Option("--experiment", "another experiment than the active one", metavar="E", completes="experiment"),
        Option(
            "--filter",
            "MLflow's search syntax, in quotes",
            metavar="F",
            example=Remedy("runs", filter="metrics.loss < 1"),
        ),
        Option(
            "--order-by",
            "columns with ASC or DESC, commas between them, in quotes",
            metavar="O",
            listed=True,
            example=Remedy("runs", order_by="metrics.loss ASC"),
        ),
        Option(
            "--max",
            "how many at most (20 by default)",
            metavar="N",
            parameter="max_results",
            example=Remedy("runs", max="5"),
        ),
    ),
)
