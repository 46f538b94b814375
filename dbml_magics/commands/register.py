"""``%dbml register``: register the model of a run that is over."""

from __future__ import annotations

import re
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
    """Register the run's model, in the link's registry or where ``--to`` says."""
    if args.run is None and re.fullmatch(r"last|[0-9a-f]{32}", args.name):
        raise BadCommand(
            "%dbml register needs the model's NAME after the run.",
            remedies=[(corrected(Remedy("register", args.name, "wine"), args.name, "wine"), "for example")],
        )
    return call(COMMAND, args, output, run=args.run or "last")


COMMAND = Command(
    name="register",
    help="register a run's model in one registry or both",
    examples=(
        Remedy("register", "last", "wine"),
        Remedy("register", "last", "wine", to="both", alias=["champion"], tag=["stage=test"]),
    ),
    call=api.register,
    run=run,
    options=(
        Option(
            "RUN",
            "a run's id, the beginning of one, its name, or last: the newest finished run here (the default)",
            metavar="RUN|last",
            optional_value=True,
            otherwise="last",
            completes="run",
        ),
        Option("NAME", "the registered model's name; a new name makes version 1", completes="model"),
        Option("--path", "the model's path in the run, when it has several", metavar="PATH"),
        Option(
            "--to",
            "where (the link's registry by default)",
            choices=("databricks", "azureml", "both"),
            example=Remedy("register", "last", "wine", to="both"),
        ),
        Option("--alias", "an alias for the new version", metavar="A", parameter="aliases"),
        Option(
            "--tag",
            "a tag of the new version",
            metavar="K=V",
            parameter="tags",
            example=Remedy("register", "last", "wine", tag=["stage=test"]),
        ),
        Option("--require-delivered", "only when all of the run has arrived at every workspace"),
    ),
)
