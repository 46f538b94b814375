"""``%%track``: train in a run that begins and ends with the cell. What runs it is in ``cells.py``."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option, names, positive_integer
from dbml_magics.commands.running import need_link
from dbml_magics.common.hints import Remedy
from dbml_magics.errors import EmptyCell

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.core.track import Track


def has_code(body: str) -> bool:
    """Tell whether anything but blank lines and comments is there."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in body.splitlines())


def check(body: str) -> None:
    """Raise EmptyCell when there is nothing to run below the first line."""
    if not has_code(body):
        raise EmptyCell(
            "%%track stands above nothing: the cell has no code to run.",
            remedies=[(Remedy("track"), "on the first line, the code that trains below it")],
        )


def begin(args: Namespace, session: Session, body: str) -> Track:
    """Begin the run that a cell asks for."""
    need_link(Remedy("track"))
    return session.begin_track(
        args.run_name,
        experiment=args.experiment,
        autolog=True if args.autolog else False if args.no_autolog else None,
        tags=dict(args.tag),
        nested=args.nested,
        register=args.register,
        source=body if args.source else None,
        unended=args.unended or "leave",
        total=args.total,
    )


COMMAND = Command(
    name="track",
    prefix="%%",
    call=api.track,
    help="run this cell as an MLflow run, and sum it up",
    examples=(
        Remedy("track", "forest", autolog=True),
        Remedy("track", "forest", params="depth,rate", register="wine"),
    ),
    details=(
        "--params logs the values that the variables have when the cell ends. A failing cell ends its\n"
        "run FAILED, an interrupted one KILLED, and neither registers a model. It fails by whatever IPython\n"
        "shows as an error, also what %run, %%capture, %%bash or a cell in the cell shows and passes on to\n"
        "nobody. The exit code of !command is none: raise an error by it (assert _exit_code == 0).\n"
        "%%time and %%capture can stand on the line above.\n"
        "The run has begun when the cell's code does: log to it, or begin children of it with\n"
        "mlflow.start_run(nested=True). Runs that its threads begin beside it are named in the summary.\n"
        "Where MLFLOW_RUN_ID names the run of another process, the cell joins that one and leaves its name\n"
        "and its end to who began it; --nested begins a child of it."
    ),
    options=(
        Option("RUN_NAME", "the run's name (MLflow makes one up by default)", parameter="name"),
        Option("--experiment", "another experiment than the active one", metavar="E", completes="experiment"),
        Option("--autolog", "switch MLflow's autologging on for this cell", excludes=("--no-autolog",)),
        Option("--no-autolog", "switch it off for this cell", excludes=("--autolog",), parameter="autolog"),
        Option(
            "--params",
            "variables whose values at the end of the cell are logged as params",
            metavar="a,b",
            convert=names,
            example=Remedy("track", params="depth,rate"),
            completes="names",
        ),
        Option(
            "--tag",
            "a tag of the run",
            metavar="K=V",
            parameter="tags",
            example=Remedy("track", tag=["stage=test"]),
        ),
        Option("--nested", "make it a child of the run that is active already"),
        Option(
            "--register",
            "register the run's model under this name at the end",
            metavar="NAME",
            completes="model",
        ),
        Option(
            "--unended",
            "runs that begin beside it (in threads, say) and have not ended when the cell has (leave)",
            choices=("leave", "end"),
            example=Remedy("track", unended="end"),
        ),
        Option(
            "--total",
            "steps that the run is to have: the live view tells the time left (as it does by a bar of tqdm)",
            metavar="N",
            convert=positive_integer,
            example=Remedy("track", total=1000),
        ),
        Option("--source", "log the cell's text with the run, secrets masked"),
    ),
)
