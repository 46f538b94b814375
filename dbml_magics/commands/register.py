"""``%dbml register``: register the model of a run that is over."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.errors import BadCommand
from dbml_magics.parser import Command, Option, pair

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.registry import RegisterResult


def run(args: Namespace, session: Session) -> RegisterResult:
    """Register the run's model, in the link's registry or where ``--to`` says."""
    if args.run is None and re.fullmatch(r"last|[0-9a-f]{32}", args.name):
        raise BadCommand(
            "%dbml register needs the model's NAME after the run.", remedies=["%dbml register last wine"]
        )
    return session.register(
        args.run or "last",
        args.name,
        path=args.path,
        to=args.to,
        aliases=tuple(args.alias),
        tags=unique_tags(args.tag),
        require_delivered=args.require_delivered,
    )


def unique_tags(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Return the tags as a mapping; a key that is given twice is refused."""
    tags: dict[str, str] = {}
    for key, value in pairs:
        if key in tags:
            raise BadCommand("a tag's key is given twice.", remedies=["--tag stage=test --tag team=wine"])
        tags[key] = value
    return tags


COMMAND = Command(
    name="register",
    help="register a run's model in one registry or both",
    examples=(
        "%dbml register last wine",
        "%dbml register last wine --to both --alias champion --tag stage=test",
    ),
    run=run,
    options=(
        Option(
            "RUN",
            "a run id, the beginning of one, or last: the newest finished run here (the default)",
            metavar="RUN|last",
            optional_value=True,
            completes="run",
        ),
        Option("NAME", "the registered model's name; a new name makes version 1", completes="model"),
        Option("--path", "the model's path in the run, when it has several", metavar="PATH"),
        Option(
            "--to",
            "where (the link's registry by default)",
            choices=("databricks", "azureml", "both"),
            example="%dbml register last wine --to both",
        ),
        Option("--alias", "an alias for the new version", metavar="A", repeatable=True),
        Option(
            "--tag",
            "a tag of the new version",
            metavar="K=V",
            repeatable=True,
            convert=pair,
            example="%dbml register last wine --tag stage=test",
        ),
        Option("--require-delivered", "only when all of the run has arrived at every workspace"),
    ),
)
