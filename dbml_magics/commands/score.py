"""``%dbml score``: a model over a table, files, a DataFrame or a stream."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.commands.invoke import params_option
from dbml_magics.commands.running import call
from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.errors import BadCommand

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import Result

_EXAMPLE = Remedy("score", "wine/1", input="$frame")


def run(args: Namespace, output: Output) -> Result:
    """Score with one progress line; ``--output NAME`` is a variable of the notebook."""
    variable = args.output if args.output is not None and args.output.isidentifier() else None
    if variable is not None and args.mode is not None:
        raise BadCommand(
            f"--mode is about a table or files, and {variable} is a variable of the notebook.",
            remedies=[
                (corrected(_EXAMPLE, output=f"default.{variable}"), "a table is named with its schema"),
                (corrected(_EXAMPLE, mode=None), "the variable gets the predictions"),
            ],
        )
    result = call(COMMAND, args, output, **({} if variable is None else {"output": None}))
    from dbml_magics.results.scoring import KEPT, ScoreResult

    if variable is None:
        if not isinstance(result, ScoreResult) or not result.lazy:
            return result
        return replace(result, keeping=corrected(_EXAMPLE, output=KEPT))
    environment.assign(variable, getattr(result, "data", result))
    return replace(result, variable=variable) if isinstance(result, ScoreResult) else result


COMMAND = Command(
    name="score",
    help="score a table, files, a DataFrame or a stream with a model",
    examples=(
        _EXAMPLE,
        Remedy("score", "wine@champion", input="ml.harvest", where="country = 'PT'", output="ml.scored"),
        Remedy("score", "last", input="rows.parquet", output="scored", as_="quality"),
        Remedy("score", "wine/1"),
    ),
    call=api.score,
    run=run,
    details=(
        "MODEL is name/version, name@alias, a name (its newest version), a run (its model; by id or\n"
        "name), or any URI.\n"
        "Its signature says which columns it is given, by name; all others stay as they are.\n"
        "--input is a table, a path (parquet, csv, json; delta where Spark has it) or $name of a DataFrame:\n"
        "of Spark, a stream too, or of pandas, which is scored in this process while it is small.\n"
        "--output is a table with its schema (ml.scored), a path (it has a / or ends in .parquet, .csv,\n"
        ".json or .delta), or the name of a variable. Without it the result's .data has the predictions.\n"
        "A stream is written on and on, with its checkpoint beside the output; result.query is Spark's own.\n"
        'Without --input the result is a function: frame.withColumn("prediction", udf()).'
    ),
    options=(
        Option("MODEL", "the model", completes="deployable"),
        Option("--input", "what to score", metavar="TABLE|PATH|$VAR", completes="variable", parameter="data"),
        Option("--where", "a condition in SQL: only these rows", metavar="COND"),
        Option(
            "--columns",
            "the columns that the model is given, in its order, where their names are others",
            metavar="a,b",
        ),
        Option("--output", "where the predictions go", metavar="TABLE|PATH|VAR"),
        Option(
            "--mode",
            "what happens to an output that is there already (nothing is overwritten unasked)",
            choices=("append", "overwrite"),
            example=_EXAMPLE.but(output="ml.scored", mode="append"),
        ),
        Option("--as", "the name of the new column (prediction)", metavar="COLUMN", parameter="column"),
        Option("--result-type", "its Spark type (the signature's): double, 'array<double>'", metavar="T"),
        Option(
            "--on-error",
            "rows that the model refuses: fail the job, or get null",
            choices=("fail", "null"),
            example=_EXAMPLE.but(on_error="null"),
        ),
        Option(
            "--checkpoint", "where a stream remembers how far it came (beside the output)", metavar="PATH"
        ),
        Option("--available-now", "of a stream, what there is now; then it ends"),
        params_option(_EXAMPLE),
    ),
)
