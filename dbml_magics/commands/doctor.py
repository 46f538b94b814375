"""``%dbml doctor``: what is wrong, and the command that mends it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.commands.running import call, need_link
from dbml_magics.common.hints import Remedy, amended
from dbml_magics.errors import BadCommand

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import Result


_OF_PROBE = ("confirm", "endpoint", "schema", "only")


def run(args: Namespace, output: Output) -> Result:
    """Look at everything, or measure the services; what is wrong is in the result."""
    if args.probe:
        need_link(Remedy("doctor", probe=True))
    elif stray := next((name for name in _OF_PROBE if getattr(args, name)), None):
        raise BadCommand(f"--{stray} belongs to --probe.", remedies=[amended("doctor", probe=True)])
    return call(COMMAND, args, output)


COMMAND = Command(
    name="doctor",
    help="look for what is wrong: packages, sign-in, permissions, network, disk, notebook",
    examples=(
        Remedy("doctor"),
        Remedy("doctor", json=True),
        Remedy("doctor", probe=True, confirm="probe"),
    ),
    call=api.doctor,
    instead={"--probe": api.probe},
    run=run,
    needs_link=False,
    details=(
        "Each line is fine, a warning or broken, with the cause and the command that mends it. Nothing\n"
        "is changed anywhere, and it ends within half a minute. Without a link it looks at this machine,\n"
        "and at the link that is remembered for the folder.\n"
        "--probe compares the link's services with what is recorded of them, fact by fact. It says first\n"
        "what it makes, and wants --confirm probe; it deletes all of it, starts no compute, and sends\n"
        "nothing to anybody. docs/probe.md says what is in its report, and how to send it."
    ),
    options=(
        Option("--json", "show it as JSON, for whoever helps you; no secret is in it"),
        Option("--probe", "compare the services with what is recorded of them, and write a report"),
        Option("--confirm", "the word probe: go on, after what it makes was shown", metavar="probe"),
        Option("--endpoint", "probe an endpoint too: one without a deployment, which costs some minutes"),
        Option("--schema", "probe Unity Catalog too, by a model in this schema", metavar="CATALOG.SCHEMA"),
        Option("--only", "probe this fact alone (several: --only once for each)", metavar="FACT"),
    ),
)
