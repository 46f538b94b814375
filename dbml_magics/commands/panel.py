"""``%dbml panel``: the forms, in one panel; where no widget works, the same in text."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common import environment
from dbml_magics.common.hints import Remedy

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.core.session import Session
    from dbml_magics.results.panel import PanelResult

TABS = ("link", "runs", "register", "deploy", "score")


def panel(
    commands: Mapping[str, Command], session: Session, tab: str, command: str | None = None
) -> PanelResult:
    """Return the panel open at a tab (and one of its commands), or its text form."""
    from dbml_magics.forms import tabs
    from dbml_magics.results.panel import PanelResult

    linked = api.status() if session.linked else None
    lines = tuple(
        (each.examples[0], each.help)
        for name in TABS
        if name == tab or command is None
        for each in tabs.commands_of(name, commands)
    )
    shell = environment.shell()
    if not environment.shows_widgets(shell):
        return PanelResult(tab, lines, linked)
    from dbml_magics.forms.panel import Panel

    made = Panel(commands, lambda: session, shell.user_ns, tab=tab, command=command)
    return PanelResult(tab, lines, linked, made)


def command(commands: Mapping[str, Command]) -> Command:
    """Return the command that shows the forms of ``commands``."""

    def run(args: Namespace, _output: Output) -> PanelResult:
        from dbml_magics.core import session

        linked = session.current()
        return panel(commands, linked, args.tab or ("runs" if linked.linked else "link"))

    return Command(
        name="panel",
        help="the forms: link, look at runs, register, deploy, score, with the line that each of them runs",
        examples=(Remedy("panel"), Remedy("panel", "runs")),
        run=run,
        needs_link=False,
        details=(
            "A form shows the magic line that it makes, to be copied, and runs that line. Without widgets\n"
            "(a terminal, a notebook that nobody watches) the panel is a list of lines to type."
        ),
        options=(
            Option(
                "TAB",
                "the tab that is open",
                choices=TABS,
                optional_value=True,
                example=Remedy("panel", "runs"),
            ),
        ),
    )
