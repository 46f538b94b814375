"""``%dbml experiment``: set the experiment on both sides."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="experiment",
    help="set the experiment on both sides, each in its own naming rule",
    examples=(Remedy("experiment", "wine"),),
    call=api.experiment,
    options=(
        Option("NAME", "a plain name; Databricks gets it below your user's folder", completes="experiment"),
    ),
)
