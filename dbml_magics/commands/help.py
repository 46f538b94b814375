"""``%dbml help``: what there is, or what one command takes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbml_magics.commands.grammar import Command, Option, columns, command_help
from dbml_magics.commands.parser import find_command
from dbml_magics.common.hints import Remedy

if TYPE_CHECKING:
    from dbml_magics.commands.output import Output
    from dbml_magics.results.base import HelpText


def overview(commands: Mapping[str, Command], track: Command) -> HelpText:
    """Return the usage line and the list of commands."""
    from dbml_magics.results.base import HelpText

    return HelpText(overview_text(commands, track))


def overview_text(commands: Mapping[str, Command], track: Command) -> str:
    """Return the usage line and the list of commands as a text."""
    each = [*commands.values(), track]
    rows = columns([(command.prog, command.help) for command in each], indent="  ")
    return "\n".join(
        [
            "usage: %dbml COMMAND [options]",
            "",
            *rows,
            "",
            "Each shows what it takes: %dbml link --help, %dbml help link, %dbml link?",
            "result = %dbml COMMAND keeps what it returns and shows nothing.",
            "$name in a value is a variable's value (exp-$fold, ${fold}_a); $$ is a $, and",
            "{{name}} is {name}. A # that begins a word begins a remark; a \\ at a line's end",
            "continues it on the next.",
        ]
    )


def _about(name: str) -> Remedy:
    return Remedy("help", name)


def command(commands: Mapping[str, Command], track: Command) -> Command:
    """Return the command that tells of ``commands``, of itself too once they hold it, and of ``track``."""

    def run(args: Namespace, _output: Output) -> HelpText:
        from dbml_magics.results.base import HelpText

        if args.command is None:
            return overview(commands, track)
        if args.command in ("track", "%%track"):
            return HelpText(command_help(track))
        return HelpText(command_help(find_command(args.command, commands, _about)))

    return Command(
        name="help",
        help="list the commands, or show what one takes",
        examples=(Remedy("help", "link"), Remedy("help")),
        run=run,
        needs_link=False,
        options=(Option("COMMAND", "a command's name", optional_value=True, completes="command"),),
    )
