"""``%dbml invoke``: ask an endpoint for predictions."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.endpoints import from_target
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy


def params_option(example: Remedy) -> Option:
    """Return ``--params``, with an example of its command."""
    return Option(
        "--params",
        "the prediction's params, which the model's signature names",
        metavar="JSON|$VAR",
        completes="variable",
        example=example.but(params='{"temperature": 0.5}'),
    )


COMMAND = Command(
    name="invoke",
    help="ask an endpoint for predictions, in the shape of the data",
    examples=(
        Remedy("invoke", "wine", "$rows"),
        Remedy("invoke", "wine", '{"columns": ["alcohol", "hue"], "data": [[12.9, 1.04]]}'),
        Remedy("invoke", "wine", "rows.csv", deployment="green"),
    ),
    call=api.invoke,
    needs_link=False,
    details=(
        "DATA is $name of a DataFrame, Series, array, list or dict of the notebook, JSON in single quotes,\n"
        "or a file (.json, .jsonl, .csv, .parquet). It is checked against the model's signature before it\n"
        "is sent, the key is added by itself, and what is too large for one request goes in several.\n"
        "result = %dbml invoke wine $rows keeps the answer; result.predictions has the shape of the data.\n"
        "Tried again: a refused connection, 429 and 503. Not tried again: what the model may have begun."
    ),
    options=(
        Option("NAME", "an endpoint", completes="endpoint"),
        Option("DATA", "what to predict from", completes="variable"),
        Option("--deployment", "a deployment, whatever its traffic", metavar="D"),
        params_option(Remedy("invoke", "wine", "$rows")),
        from_target(Remedy("invoke", "wine", "$rows")),
    ),
)
