"""``%dbml link``: make two workspaces one tracking URI."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.commands.running import call
from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.core.azure.identity_names import METHODS
from dbml_magics.errors import BadCommand, NotLinked

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import Result

_WAYS = ("--local", "--databricks", "--azureml", "--again")
_TWO_URIS = Remedy("link", databricks="databricks", azureml="http://127.0.0.1:5000")
_AZURE = Remedy("link", subscription="ID", resource_group="RG", workspace="WS")
_NOT_AZURE = ("--local", "--again")
_PLAIN = ("track", "registry", "mode", "on_undelivered", "spill")
_AZURE_NAMES = (
    *("subscription", "resource_group", "workspace", "cloud", "auth"),
    *("create", "location", "tag", "storage_account", "key_vault", "confirm"),
)


def run(args: Namespace, output: Output) -> Result:
    """Link as asked; without options, return what is linked now."""
    settings = any(getattr(args, name) for name in _PLAIN)
    azure = any(getattr(args, name) for name in _AZURE_NAMES)
    if args.again and (settings or azure):
        raise BadCommand(
            "--again takes up the remembered link as it was; the other options belong to a new one.",
            remedies=[Remedy("link", again=True)],
        )
    named = (args.again, args.local, args.databricks, args.azureml, args.config)
    if azure or any(name not in (None, False) for name in named):
        return call(COMMAND, args, output, prompt=output.note)
    from dbml_magics.core import session

    linked = session.current().linked
    if environment.databricks() is not None and (settings or not linked):
        return call(COMMAND, args, output)  # the notebook's own workspace
    if settings:
        raise BadCommand(
            "%dbml link needs the workspaces to link.",
            remedies=[
                corrected(way, **way.options) for way in (Remedy("link", local=True), _AZURE, _TWO_URIS)
            ],
        )
    if not linked:
        raise NotLinked("%dbml link without options")
    return api.status()


def _others(name: str) -> tuple[str, ...]:
    return tuple(way for way in _WAYS if way != name)


COMMAND = Command(
    name="link",
    help="link two workspaces; without options, show what is linked now",
    examples=(
        Remedy("link", local=True),
        _AZURE.but(databricks="databricks"),
        _TWO_URIS,
        Remedy("link", again=True),
    ),
    call=api.link,
    bare=api.status,
    run=run,
    needs_link=False,
    at_once="linking: MLflow and the workspaces are being opened",
    details=(
        "An Azure ML workspace has three names (--subscription, --resource-group, --workspace), which\n"
        "--config reads from Azure ML's config.json or a team's dbml.toml; a host that such a file names\n"
        "for the first time is named, and wants --confirm HOST. --auth says how to sign in; by default\n"
        "what fits here is taken, and said. In a Databricks notebook the Databricks side is the\n"
        "notebook's own workspace unless another is named, and a bare %dbml link links it. --create makes\n"
        "the Azure ML workspace: it shows what that makes, and wants the name typed.\n"
        "A process ends when it has delivered what it logged, or after 20 seconds (DBML_EXIT_FLUSH); the\n"
        "rest waits on this machine. Where the disk goes with the job, --spill puts it into a folder that\n"
        "stays, and --on-undelivered fail has the job fail."
    ),
    options=(
        Option(
            "--local",
            "two workspaces in a folder on this machine (.dbml by default), no cloud",
            metavar="DIR",
            example=Remedy("link", local=".dbml"),
            excludes=(*_others("--local"), "--subscription", "--config"),
        ),
        Option(
            "--databricks",
            "the Databricks side: databricks, databricks://PROFILE, or any MLflow tracking URI",
            metavar="URI",
            completes="profile",
            example=Remedy("link", track="databricks", databricks="databricks://PROFILE"),
            excludes=("--local", "--again"),
        ),
        Option(
            "--azureml",
            "the Azure ML side: azureml://…, or any MLflow tracking URI",
            metavar="URI",
            example=Remedy("link", track="azureml", azureml="http://127.0.0.1:5000"),
            excludes=("--local", "--again", "--subscription"),
        ),
        Option(
            "--subscription",
            "the Azure ML workspace's subscription (its id)",
            metavar="ID",
            completes="subscription",
            example=_AZURE,
            excludes=("--local", "--again", "--azureml"),
        ),
        Option(
            "--resource-group",
            "the Azure ML workspace's own resource group",
            metavar="RG",
            completes="resource group",
            example=_AZURE,
            excludes=_NOT_AZURE,
        ),
        Option(
            "--workspace",
            "the Azure ML workspace's name",
            metavar="WS",
            completes="workspace",
            example=_AZURE,
            excludes=_NOT_AZURE,
        ),
        Option(
            "--config",
            "Azure ML's config.json or a team's dbml.toml (by default looked for from this folder upwards)",
            metavar="PATH",
            example=Remedy("link", config="dbml.toml"),
            excludes=("--local", "--again"),
        ),
        Option(
            "--cloud",
            "the Azure cloud: AzureCloud, AzureUSGovernment, AzureChinaCloud, or a private one's name",
            metavar="NAME",
            example=_AZURE.but(cloud="AzureChinaCloud"),
            excludes=_NOT_AZURE,
        ),
        Option(
            "--auth",
            "how to sign in to Azure",
            choices=METHODS,
            example=_AZURE.but(auth="cli"),
            excludes=_NOT_AZURE,
        ),
        Option(
            "--track",
            "where runs go (both by default)",
            choices=("both", "azureml", "databricks"),
            example=Remedy("link", local=True, track="both"),
        ),
        Option(
            "--registry",
            "where models are registered",
            choices=("databricks", "azureml", "both"),
            example=Remedy("link", local=True, registry="both"),
        ),
        Option(
            "--mode",
            "journal: never wait for a workspace (the default); sync: wait for its answer to each write",
            choices=("journal", "sync"),
            example=Remedy("link", local=True, mode="journal"),
        ),
        Option(
            "--on-undelivered",
            "a process that ends with writes undelivered: warn (the default), or fail (exit code 120)",
            choices=("warn", "fail"),
            example=Remedy("link", local=True, on_undelivered="fail"),
            excludes=("--again",),
        ),
        Option(
            "--spill",
            "a shared folder that takes what is undelivered at the end (%dbml sync --spill delivers it)",
            metavar="PATH",
            example=Remedy("link", local=True, spill="/Volumes/main/ml/dbml"),
            excludes=("--again",),
        ),
        Option("--create", "make the Azure ML workspace, after showing what that makes", excludes=_NOT_AZURE),
        Option(
            "--location",
            "with --create: the Azure region",
            metavar="L",
            example=_AZURE.but(create=True, location="L"),
            excludes=_NOT_AZURE,
        ),
        Option(
            "--tag",
            "with --create: a tag on each resource, KEY=VALUE (may be repeated)",
            metavar="K=V",
            parameter="tags",
            example=_AZURE.but(create=True, tag=["team=ml"]),
            excludes=_NOT_AZURE,
        ),
        Option(
            "--storage-account",
            "with --create: an existing storage account, by its resource id",
            metavar="ID",
            example=_AZURE.but(create=True, storage_account="ID"),
            excludes=_NOT_AZURE,
        ),
        Option(
            "--key-vault",
            "with --create: an existing key vault, by its resource id",
            metavar="ID",
            example=_AZURE.but(create=True, key_vault="ID"),
            excludes=_NOT_AZURE,
        ),
        Option(
            "--confirm",
            "typed: with --create the workspace's name, with --config a host that the file names",
            metavar="NAME",
            example=Remedy("link", config="dbml.toml", confirm="mlflow.example.com"),
            excludes=_NOT_AZURE,
        ),
        Option("--again", "take up the link remembered for this folder", excludes=_others("--again")),
    ),
)
