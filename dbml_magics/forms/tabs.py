"""Which forms a tab has, which of a command's options each shows, and when they matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dbml_magics.commands.grammar import Command, Option

__all__ = [
    "PRUNES",
    "TABS",
    "Way",
    "choices_where",
    "commands_of",
    "is_needed",
    "matters",
    "needs_confirming",
    "tab_of",
    "ways_of",
]

TABS: dict[str, tuple[str, ...]] = {
    "link": ("link", "status", "experiment", "sync", "doctor", "unlink", "cleanup"),
    "runs": ("runs", "compare"),
    "register": ("register", "models"),
    "deploy": ("deploy", "endpoints", "invoke", "logs", "undeploy"),
    "score": ("score",),
}
"""Tab -> its commands, the first one the tab's own; those that this version lacks are left out."""


@dataclass(frozen=True)
class Way:
    """One purpose of a command: the options that it is given by itself, and those that its form asks for."""

    name: str
    title: str
    given: Mapping[str, str] = field(default_factory=dict)  # option -> its value, "" where it needs none
    ahead: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()  # under "More options"


_OF_LINK = ("--track", "--mode", "--on-undelivered", "--spill")
_OF_CREATE = ("--create", "--location", "--tag", "--storage-account", "--key-vault", "--confirm")
_OF_COMPARING = ("--run", "--all", "--since", "--deep")
_WAYS: dict[str, tuple[Way, ...]] = {
    "link": (
        Way(
            "local", "On this machine, without a cloud", {"--local": ""}, ("--local", "--registry"), _OF_LINK
        ),
        Way(
            "cloud",
            "Azure Databricks and Azure ML",
            {},
            ("--subscription", "--resource-group", "--workspace", "--databricks", "--registry"),
            ("--auth", "--cloud", *_OF_LINK, *_OF_CREATE),
        ),
        Way("servers", "Two MLflow servers", {}, ("--databricks", "--azureml", "--registry"), _OF_LINK),
        Way(
            "file",
            "As a configuration file says",
            {"--config": ""},
            ("--config", "--databricks", "--registry"),
            ("--auth", "--confirm", *_OF_LINK),
        ),
        Way("again", "As this folder was linked last", {"--again": ""}),
    ),
    "sync": (
        Way("wait", "Wait until everything is delivered", {}, ("--timeout",), ("--spill",)),
        Way("verify", "Compare the workspaces", {"--verify": ""}, ("--experiment",), _OF_COMPARING),
        Way(
            "repair",
            "Make the mirror like the primary",
            {"--repair": ""},
            ("--experiment", "--from", "--prune", "--confirm"),
            _OF_COMPARING,
        ),
        Way("list", "List the writes that were refused", {"--dead": "list"}, ("--run",)),
        Way("retry", "Try the refused writes again", {"--dead": "retry"}, ("--run", "--timeout")),
        Way("discard", "Give the refused writes up", {"--dead": "discard"}, ("--run", "--confirm")),
    ),
}
_AHEAD: dict[str, tuple[str, ...]] = {
    "runs": ("--experiment", "--filter", "--max"),
    "compare": ("RUN", "--metric"),
    "register": ("RUN", "NAME", "--to", "--alias"),
    "deploy": ("MODEL", "--to", "--name", "--compute", "--instance-type", "--traffic"),
    "invoke": ("NAME", "DATA"),
    "score": ("MODEL", "--input", "--output"),
    "doctor": ("--probe", "--confirm"),
    "status": ("--run",),
}

_YES = ("yes",)
_ANY: tuple[str, ...] = ()
_CLOUD = ("aci", "aks", "online")
_AZURE_KINDS = ("endpoint", "workspace", "resource-group")
_WHERE: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("deploy", "--compute"): ("--to", ("aks",)),
    ("deploy", "--instance-type"): ("--to", ("online",)),
    ("deploy", "--instance-count"): ("--to", ("local", "aks", "online")),
    ("deploy", "--app-insights"): ("--to", _CLOUD),
    ("deploy", "--collect-data"): ("--to", ("aks", "online")),
    ("deploy", "--add-packages"): ("--to", ("online",)),
    ("deploy", "--model-name"): ("--to", _CLOUD),
    ("cleanup", "--also"): ("KIND", ("workspace", "resource-group")),
    ("cleanup", "--subscription"): ("KIND", _AZURE_KINDS),
    ("cleanup", "--resource-group"): ("KIND", _AZURE_KINDS),
    ("cleanup", "--cloud"): ("KIND", _AZURE_KINDS),
    ("cleanup", "--auth"): ("KIND", _AZURE_KINDS),
    ("doctor", "--confirm"): ("--probe", _YES),
    ("doctor", "--endpoint"): ("--probe", _YES),
    ("doctor", "--schema"): ("--probe", _YES),
    ("doctor", "--only"): ("--probe", _YES),
    ("score", "--mode"): ("--output", _ANY),
    ("score", "--checkpoint"): ("--output", _ANY),
    **{("link", name): ("--create", _YES) for name in _OF_CREATE[1:-1]},
}
"""An option of a command -> the field that it belongs to, and the values with which it matters."""

_AZURE_ONLY = frozenset(
    {("cleanup", name) for name in ("--also", "--subscription", "--resource-group", "--cloud", "--auth")}
    | {(command, "--from") for command in ("endpoints", "invoke", "logs", "undeploy")}
)
_WITHOUT_AZURE = {
    ("deploy", "--to"): ("local",),
    ("cleanup", "KIND"): ("endpoint", "model", "run", "experiment"),
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


def ways_of(command: Command) -> tuple[Way, ...]:
    """Return what a command's form can be used for; most have one purpose."""
    if command.name in _WAYS:
        return _WAYS[command.name]
    names = [option.name for option in command.options]
    wanted = _AHEAD.get(command.name, tuple(names))
    ahead = [option.name for option in command.options if option.name in wanted or option.positional]
    ahead += ["--confirm"] if command.name in _DELETES and "--confirm" not in ahead else []
    return (Way(command.name, "", {}, tuple(ahead), tuple(name for name in names if name not in ahead)),)


def matters(command: Command, option: Option, values: Mapping[str, str], *, azure: bool) -> bool:
    """Tell whether an option means anything beside the other values, on a link with Azure ML or without."""
    key = command.name, option.name
    if not azure and key in _AZURE_ONLY:
        return False
    if key == ("link", "--confirm"):
        return bool(values.get("--create") or values.get("--config"))
    if key == ("sync", "--confirm"):
        return bool(values.get("--prune")) or values.get("--dead") == "discard"
    where = _WHERE.get(key)
    if where is None:
        return True
    name, wanted = where
    value = values.get(name, "")
    return value in wanted if wanted else bool(value)


def choices_where(
    command: Command, option: Option, offered: tuple[str, ...], *, azure: bool
) -> tuple[str, ...]:
    """Return the choices of an option that a link has."""
    return offered if azure else _WITHOUT_AZURE.get((command.name, option.name), offered)


def is_needed(option: Option) -> bool:
    """Tell whether the line cannot be without an option."""
    if option.positional:
        return not option.optional_value
    return option.required


def needs_confirming(command: Command) -> Option | None:
    """Return the option that holds the name typed again, for a command that deletes."""
    return command.flag("--confirm") if command.name in _DELETES else None
