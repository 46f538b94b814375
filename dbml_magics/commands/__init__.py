"""The sub-commands of ``%dbml``, one file each, and the table that dispatches to them."""

from __future__ import annotations

from dbml_magics.commands import (
    cleanup,
    compare,
    deploy,
    doctor,
    endpoints,
    experiment,
    invoke,
    link,
    logs,
    models,
    panel,
    register,
    runs,
    score,
    status,
    sync,
    track,
    ui,
    undeploy,
    unlink,
)
from dbml_magics.commands import help as help_command
from dbml_magics.commands.grammar import Command

__all__ = ["COMMANDS", "TRACK"]

TRACK: Command = track.COMMAND

COMMANDS: dict[str, Command] = {
    module.COMMAND.name: module.COMMAND
    for module in (
        link,
        unlink,
        status,
        experiment,
        runs,
        compare,
        register,
        models,
        deploy,
        endpoints,
        invoke,
        logs,
        undeploy,
        score,
        sync,
        cleanup,
        doctor,
        ui,
    )
}
COMMANDS["panel"] = panel.command(COMMANDS)
COMMANDS["help"] = help_command.command(COMMANDS, TRACK)
