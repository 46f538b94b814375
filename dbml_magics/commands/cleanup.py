"""``%dbml cleanup``: delete what is not wanted any more, after showing all that goes."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="cleanup",
    help="delete an endpoint, model, run, experiment, workspace or resource group, after showing all of it",
    examples=(
        Remedy("cleanup", "experiment", "wine", dry_run=True),
        Remedy("cleanup", "experiment", "wine", confirm="wine"),
        Remedy("cleanup", "workspace", "ml-test", also=["mltestregistry"], confirm="ml-test"),
    ),
    call=api.cleanup,
    needs_link=False,
    details=(
        "Runs, experiments and models go from both workspaces of the link. Everything that goes is listed\n"
        "first, and the name has to be typed again. What fails is said, and the same line goes on there.\n"
        "A resource group that holds anything that is not the Azure ML workspace's own is refused unless\n"
        "each such resource is named by --also."
    ),
    options=(
        Option(
            "KIND",
            "what it is",
            metavar="endpoint|model|run|experiment|workspace|resource-group",
            completes="kind",
        ),
        Option("NAME", "its name; for a run also its id, the beginning of one, or last", completes="of kind"),
        Option("--dry-run", "show what would go, and delete nothing"),
        Option(
            "--confirm",
            "the name again (for a run its name, or its id's first 8 characters): delete it",
            metavar="NAME",
        ),
        Option(
            "--also",
            "a resource of the workspace's (or another one in the group) that goes too",
            metavar="NAME",
        ),
        Option("--subscription", "of a workspace that is not the link's", metavar="ID"),
        Option("--resource-group", "of a workspace that is not the link's", metavar="RG"),
        Option("--cloud", "its Azure cloud", metavar="NAME"),
        Option("--auth", "the way to sign in, as for link", metavar="METHOD"),
    ),
)
