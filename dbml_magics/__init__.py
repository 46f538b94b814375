"""Jupyter magics that make an Azure Databricks and an Azure ML workspace one MLflow tracking server.

``%load_ext dbml_magics`` brings ``%dbml`` and ``%%track``; ``import dbml_magics as dbml`` brings the same as
Python calls. Neither imports MLflow nor a cloud's SDK: that happens with the first command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dbml_magics._version import __version__

if TYPE_CHECKING:
    from dbml_magics.api import (
        compare,
        dead_letters,
        discard_dead_letters,
        experiment,
        link,
        models,
        register,
        retry_dead_letters,
        runs,
        status,
        sync,
        track,
        ui,
        unlink,
    )
    from dbml_magics.errors import (
        AmbiguousRun,
        BadCommand,
        BadLink,
        BadName,
        BadUri,
        DbmlError,
        DeliveryIncomplete,
        EmptyCell,
        ExperimentNotFound,
        JournalDamaged,
        JournalError,
        JournalFull,
        ModelNotFound,
        NoModel,
        NotConfirmed,
        NothingRemembered,
        NotLinked,
        NotMlflow,
        NotPermitted,
        PlatformRefused,
        Refused,
        RunActive,
        RunNotFound,
        SecretRefused,
        ServerFailed,
        UndefinedVariable,
        WorkspaceUnreachable,
    )

__all__ = [
    "AmbiguousRun",
    "BadCommand",
    "BadLink",
    "BadName",
    "BadUri",
    "DbmlError",
    "DeliveryIncomplete",
    "EmptyCell",
    "ExperimentNotFound",
    "JournalDamaged",
    "JournalError",
    "JournalFull",
    "ModelNotFound",
    "NoModel",
    "NotConfirmed",
    "NotLinked",
    "NotMlflow",
    "NotPermitted",
    "NothingRemembered",
    "PlatformRefused",
    "Refused",
    "RunActive",
    "RunNotFound",
    "SecretRefused",
    "ServerFailed",
    "UndefinedVariable",
    "WorkspaceUnreachable",
    "__version__",
    "compare",
    "dead_letters",
    "discard_dead_letters",
    "experiment",
    "link",
    "load_ipython_extension",
    "models",
    "register",
    "retry_dead_letters",
    "runs",
    "status",
    "sync",
    "track",
    "ui",
    "unlink",
    "unload_ipython_extension",
]

_CALLS = frozenset(
    {
        "compare",
        "dead_letters",
        "discard_dead_letters",
        "experiment",
        "link",
        "models",
        "register",
        "retry_dead_letters",
        "runs",
        "status",
        "sync",
        "track",
        "ui",
        "unlink",
    }
)


def __getattr__(name: str) -> Any:
    """Import what is asked for at the first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("dbml_magics.api" if name in _CALLS else "dbml_magics.errors"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """Add ``%dbml`` and ``%%track`` to a shell, and mention a link that is remembered for this folder."""
    from dbml_magics.magics import DbmlMagics

    if isinstance(shell.magics_manager.registry.get("DbmlMagics"), DbmlMagics):
        return
    DbmlMagics(shell).install()
    _mention_remembered_link(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take all that was added to the shell away; the link, if there is one, stays."""
    loaded = shell.magics_manager.registry.get("DbmlMagics")
    if loaded is not None:
        loaded.remove()


def _mention_remembered_link(shell: Any) -> None:
    from dbml_magics import display, environment

    if not environment.is_interactive(shell):
        return
    import os

    from dbml_magics.core.link import remembered_hint

    hint = remembered_hint(os.getcwd())
    if hint:
        display.note(hint)
