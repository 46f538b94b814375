"""Which commands a tab has, and which of their options stand in front; all others follow by themselves."""

from __future__ import annotations

from collections.abc import Mapping

from dbml_magics.commands.grammar import Command, Option

__all__ = ["PRUNES", "TABS", "commands_of", "front", "is_needed", "needs_confirming", "tab_of"]

TABS: dict[str, tuple[str, ...]] = {
    "link": ("link", "status", "experiment", "sync", "doctor", "unlink", "cleanup"),
    "runs": ("runs", "compare"),
    "register": ("register", "models"),
    "deploy": ("deploy", "endpoints", "invoke", "logs", "undeploy"),
    "score": ("score",),
}
"""Tab -> its commands, the first one the tab's own; those that this version lacks are left out."""

_FRONT: dict[str, tuple[str, ...]] = {
    "link": (
        *("--local", "--again", "--subscription", "--resource-group", "--workspace"),
        *("--databricks", "--azureml", "--registry"),
    ),
    "runs": ("--experiment", "--filter", "--max"),
    "compare": ("RUN", "--metric"),
    "register": ("RUN", "NAME", "--to", "--alias"),
    "deploy": ("MODEL", "--to", "--name", "--traffic"),
    "score": ("MODEL", "--input", "--output"),
    "sync": ("--timeout", "--verify", "--repair"),
}
_DELETES = frozenset({"undeploy", "cleanup"})
PRUNES = frozenset({"sync"})
"""Commands that delete in a workspace what the other one lacks; its name is typed for that."""


def commands_of(tab: str, known: Mapping[str, Command]) -> list[Command]:
    """Return a tab's commands."""
    return [known[name] for name in TABS[tab] if name in known]


def tab_of(command: str) -> str | None:
    """Return the tab that has a command, if there is one."""
    return next((tab for tab, names in TABS.items() if command in names), None)


def front(command: Command) -> tuple[list[Option], list[Option]]:
    """Return the options that stand in front, and the others."""
    wanted = _FRONT.get(command.name)
    if wanted is None:
        return list(command.options), []
    ahead = [option for option in command.options if option.name in wanted or option.positional]
    return ahead, [option for option in command.options if option not in ahead]


def is_needed(option: Option) -> bool:
    """Tell whether the line cannot be without an option."""
    if option.positional:
        return not option.optional_value
    return option.required


def needs_confirming(command: Command) -> Option | None:
    """Return the option that holds the name typed again, for a command that deletes."""
    return command.flag("--confirm") if command.name in _DELETES else None
