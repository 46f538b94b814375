"""``%dbml sync``: wait until everything is delivered; see to what was refused."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option, positive_integer
from dbml_magics.commands.running import call
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.errors import BadCommand, DeliveryIncomplete
from dbml_magics.results.text import count

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import Result

_QUIET_S = 2.0  # without a word on how far comparing is


def run(args: Namespace, output: Output) -> Result:
    """Wait with one progress line; an interrupt ends the waiting and loses nothing."""
    _refuse_strays(args)
    if args.dead == "discard":
        return call(COMMAND, args, output)
    if args.verify or args.repair:
        return _compare(args, output)
    try:
        return call(COMMAND, args, output)
    except KeyboardInterrupt:
        raise (_retrying() if args.dead else _waiting()) from None


def _compare(args: Namespace, output: Output) -> Result:
    with output.progress() as progress:
        began = time.monotonic()

        def counted(amount: int, what: str) -> None:
            seconds = time.monotonic() - began
            if seconds >= _QUIET_S:  # the first one's count would stand there as the last word
                progress.say(f"{amount:,} {what} · {amount / seconds:,.1f} a second")

        try:
            if args.repair:
                return call(COMMAND, args, output, confirm=args.confirm is not None, progress=counted)
            return call(COMMAND, args, output, progress=counted)
        except KeyboardInterrupt:
            raise DeliveryIncomplete(
                "interrupted; what was copied or corrected so far stays, and nothing is half done that the "
                "next time would not complete.",
                remedies=[
                    (Remedy("sync", repair=True), "goes on"),
                    (Remedy("sync", verify=True), "what differs now"),
                ],
            ) from None


_OF_COMPARING = ("experiment", "all", "since", "deep")
_OF_REPAIR = ("from", "prune")


def _refuse_strays(args: Namespace) -> None:
    """Refuse options that mean nothing without another one."""
    compares = args.verify or args.repair
    for names, belongs in ((_OF_COMPARING, compares), (_OF_REPAIR, args.repair)):
        given = next((name for name in names if getattr(args, name)), None)
        if given is not None and not belongs:
            to = "--repair" if names is _OF_REPAIR else "--verify and --repair"
            example = Remedy("sync", repair=names is _OF_REPAIR, verify=names is _OF_COMPARING)
            line = corrected(example, dead=None, **example.options)
            raise BadCommand(f"--{given} belongs to {to}.", remedies=[line])
    if args.dead is None and args.run is not None and not compares:
        raise BadCommand(
            "--run narrows --dead, --verify or --repair; syncing waits for all runs.",
            remedies=[
                corrected(Remedy("sync", verify=True, run=args.run), verify=True),
                corrected(Remedy("sync", dead="list", run=args.run), dead="list"),
            ],
        )
    if args.dead == "discard" and args.confirm is True:
        raise BadCommand(
            "--confirm wants to know how many writes are given up.",
            remedies=[corrected(Remedy("sync", dead="list"), dead="list", confirm=None)],
        )
    if args.dead != "discard" and args.confirm is not None and not args.prune:
        raise BadCommand(
            "--confirm belongs to --dead discard and to --prune.",
            remedies=[corrected(Remedy("sync"), confirm=None)],
        )
    if args.dead in ("list", "discard") and args.timeout is not None:
        raise BadCommand(
            f"--timeout is for waiting, and --dead {args.dead} does not wait.",
            remedies=[corrected(Remedy("sync", dead=args.dead), timeout=None)],
        )


def _retrying() -> DeliveryIncomplete:
    return DeliveryIncomplete(
        "interrupted; what is on its way again goes on, and what is refused again stays listed.",
        remedies=[(Remedy("sync", dead="list"), "how far it is")],
    )


def _waiting() -> DeliveryIncomplete:
    waiting = [f"{count(d.pending, 'write')} for {d.name}" for d in api.status().destinations if d.pending]
    return DeliveryIncomplete(
        f"interrupted with {' and '.join(waiting) or 'nothing'} on the way; nothing is lost.",
        remedies=[(Remedy("sync"), "go on waiting"), (Remedy("status"), "how far it is")],
    )


COMMAND = Command(
    name="sync",
    help="wait until everything is delivered; compare the two workspaces, and make them alike",
    examples=(
        Remedy("sync", timeout="60"),
        Remedy("sync"),
        Remedy("sync", verify=True),
        Remedy("sync", repair=True, since="7d"),
        Remedy("sync", dead="list"),
    ),
    call=api.sync,
    instead={
        "--dead list": api.dead_letters,
        "--dead retry": api.retry_dead_letters,
        "--dead discard": api.discard_dead_letters,
        "--verify": api.verify,
        "--repair": api.repair,
    },
    run=run,
    details=(
        "Interrupting the kernel (Ctrl-C in a terminal) ends the waiting; delivery goes on.\n"
        "A write that a workspace refuses for good is put aside, and the rest goes on: --dead list shows\n"
        "such writes with their causes, --dead retry tries them again, --dead discard gives them up.\n"
        "--verify compares the workspaces run by run and changes nothing; --repair makes the mirror like\n"
        "the primary, adding and correcting, and copies runs that it lacks. Both look at the runs since the\n"
        "link was made; --all, --experiment and --since choose others: so older runs are brought over. What\n"
        "was edited in the mirror's portal alone is carried to the primary. --prune deletes what is left.\n"
        "--spill PATH delivers what jobs that were linked with --spill PATH left there, on any machine that\n"
        "has the same workspaces linked; two that try at once do not both deliver it."
    ),
    options=(
        Option(
            "--timeout",
            "how many seconds to wait at most (no end by default)",
            metavar="S",
            example=Remedy("sync", timeout="60"),
        ),
        Option(
            "--spill",
            "deliver what other processes of such a link left in a shared folder, then wait as always",
            metavar="PATH",
            example=Remedy("sync", spill="/Volumes/main/ml/dbml"),
            excludes=("--dead", "--verify", "--repair"),
        ),
        Option(
            "--dead",
            "see to the writes that were refused for good",
            choices=("list", "retry", "discard"),
            example=Remedy("sync", dead="list"),
        ),
        Option(
            "--verify",
            "compare the two workspaces run by run, and change nothing",
            excludes=("--repair", "--dead"),
        ),
        Option(
            "--repair",
            "make the mirror like the primary, and copy the runs that it lacks",
            excludes=("--verify", "--dead"),
        ),
        Option("--deep", "compare every metric's whole history, and ask for every run's files"),
        Option(
            "--experiment",
            "compare one experiment's runs, older ones too",
            metavar="E",
            completes="experiment",
        ),
        Option("--run", "one run's alone (also with --dead)", metavar="R", completes="run"),
        Option("--all", "compare all experiments' runs, older ones too", parameter="everything"),
        Option(
            "--since",
            "compare runs that began since then: a date, or 7d, 12h, 2w",
            metavar="T",
            example=Remedy("sync", verify=True, since="7d"),
        ),
        Option(
            "--from",
            "with --repair: the workspace that the other one is made like",
            choices=("databricks", "azureml"),
            example=Remedy("sync", repair=True, from_="azureml"),
            parameter="source",
        ),
        Option(
            "--prune", "with --repair: also delete what the other has not; names it first, wants --confirm"
        ),
        Option(
            "--confirm",
            "with --dead discard: how many writes are given up; with --prune: that it may delete",
            metavar="N",
            optional_value=True,
            convert=positive_integer,
            example=Remedy("sync", dead="discard", confirm="3"),
        ),
    ),
)
