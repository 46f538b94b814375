"""Jupyter magics that make an Azure Databricks and an Azure ML workspace one MLflow tracking server.

``%load_ext dbml_magics`` brings ``%dbml`` and ``%%track``; ``import dbml_magics as dbml`` brings the same as
Python calls. Neither imports MLflow nor a cloud's SDK: that happens with the first command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dbml_magics._version import __version__
from dbml_magics.common import hints

if TYPE_CHECKING:
    from dbml_magics.api import *
    from dbml_magics.errors import *
    from dbml_magics.notebook.panel import panel

__all__ = [
    "AmbiguousRun",
    "BadCommand",
    "BadData",
    "BadLink",
    "BadName",
    "BadUri",
    "CleanupIncomplete",
    "DbmlError",
    "DeliveryIncomplete",
    "DeploymentFailed",
    "EmptyCell",
    "EndpointNotFound",
    "ExperimentNotFound",
    "JournalDamaged",
    "JournalError",
    "JournalFull",
    "ModelNotFound",
    "NoModel",
    "NotConfirmed",
    "NotDeployable",
    "NotLinked",
    "NotMlflow",
    "NotPermitted",
    "NothingRemembered",
    "PlatformRefused",
    "Refused",
    "RunActive",
    "RunNotFound",
    "ScoringFailed",
    "SecretRefused",
    "ServerFailed",
    "SparkUnavailable",
    "UndefinedVariable",
    "WorkspaceNotFound",
    "WorkspaceUnreachable",
    "__version__",
    "cleanup",
    "compare",
    "dead_letters",
    "deploy",
    "discard_dead_letters",
    "doctor",
    "endpoints",
    "experiment",
    "invoke",
    "link",
    "load_ipython_extension",
    "logs",
    "models",
    "panel",
    "probe",
    "receipt",
    "register",
    "repair",
    "requests",
    "retry_dead_letters",
    "runs",
    "score",
    "status",
    "sync",
    "track",
    "ui",
    "undeploy",
    "unlink",
    "unload_ipython_extension",
    "verify",
]


class _Commands:
    """The commands' grammar, imported when a message first needs it."""

    def python(self, remedy: hints.Remedy) -> str:
        from dbml_magics.commands.remedies import python

        return python(remedy)

    def keyword(self, option: str) -> str:
        from dbml_magics.commands.remedies import keyword

        return keyword(option)


hints.derive_from(_Commands())


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "notebook.panel" if name == "panel" else "errors" if name[:1].isupper() else "api"
    return getattr(import_module(f"dbml_magics.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """Add ``%dbml`` and ``%%track`` to a shell; mention what an earlier kernel has left for this one."""
    from dbml_magics.notebook.magics import DbmlMagics

    if isinstance(shell.magics_manager.registry.get("DbmlMagics"), DbmlMagics):
        return
    DbmlMagics(shell).install()
    _mention_what_is_left(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take all that was added to the shell away; the link, if there is one, stays."""
    loaded = shell.magics_manager.registry.get("DbmlMagics")
    if loaded is not None:
        loaded.remove()


def _mention_what_is_left(shell: Any) -> None:
    from dbml_magics.common import environment
    from dbml_magics.notebook import display

    if not environment.is_interactive(shell):
        return
    import os

    from dbml_magics.common.config import data_home
    from dbml_magics.core.remembered_links import remembered_hint

    linked = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("dbml:")  # the link of a parent process
    hint = None if linked else remembered_hint(os.getcwd())
    if hint:
        display.note(hint)
    served = sorted(path.parent.name for path in (data_home() / "endpoints").glob("*/endpoint.json"))
    if served:
        display.note(f"Endpoints of yours on this machine: {', '.join(served)} (%dbml endpoints)")
