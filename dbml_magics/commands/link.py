"""``%dbml link``: make two workspaces one tracking URI."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.errors import BadCommand, NotLinked
from dbml_magics.parser import Command, Option

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results import LinkStatus

_WAYS = ("--local", "--databricks", "--azureml", "--again")
_TWO_URIS = "%dbml link --databricks databricks --azureml http://127.0.0.1:5000"


def run(args: Namespace, session: Session) -> LinkStatus:
    """Link as asked; without options, return what is linked now."""
    settings = {name: getattr(args, name) for name in ("track", "registry", "mode") if getattr(args, name)}
    if args.again:
        if settings:
            raise BadCommand(
                "--again takes up the remembered link as it was; the other options belong to a new one.",
                remedies=["%dbml link --again"],
            )
        return session.link(again=True)
    if args.local is None and args.databricks is None and args.azureml is None:
        if settings:
            raise BadCommand(
                "%dbml link needs the workspaces to link.", remedies=["%dbml link --local", _TWO_URIS]
            )
        if not session.linked:
            raise NotLinked("%dbml link without options")
        return session.status()
    return session.link(local=args.local, databricks=args.databricks, azureml=args.azureml, **settings)


def _others(name: str) -> tuple[str, ...]:
    return tuple(way for way in _WAYS if way != name)


COMMAND = Command(
    name="link",
    help="link two workspaces; without options, show what is linked now",
    examples=("%dbml link --local", _TWO_URIS, "%dbml link --again"),
    run=run,
    needs_link=False,
    options=(
        Option(
            "--local",
            "two workspaces in a folder on this machine (.dbml by default), no cloud",
            metavar="DIR",
            optional_value=True,
            example="%dbml link --local .dbml",
            excludes=_others("--local"),
        ),
        Option(
            "--databricks",
            "the Databricks side: databricks, databricks://PROFILE, or any MLflow tracking URI",
            metavar="URI",
            example="%dbml link --track databricks --databricks databricks://PROFILE",
            excludes=("--local", "--again"),
        ),
        Option(
            "--azureml",
            "the Azure ML side: azureml://…, or any MLflow tracking URI",
            metavar="URI",
            example="%dbml link --track azureml --azureml http://127.0.0.1:5000",
            excludes=("--local", "--again"),
        ),
        Option(
            "--track",
            "where runs go (both by default)",
            choices=("both", "azureml", "databricks"),
            example="%dbml link --local --track both",
        ),
        Option(
            "--registry",
            "where models are registered",
            choices=("databricks", "azureml", "both"),
            example="%dbml link --local --registry both",
        ),
        Option(
            "--mode",
            "journal: never wait for a workspace (the default); sync: wait for its answer to each write",
            choices=("journal", "sync"),
            example="%dbml link --local --mode journal",
        ),
        Option("--again", "take up the link remembered for this folder", excludes=_others("--again")),
    ),
)
