"""Settings: argument, then environment, then default; every name and unit in one place.

A setting that is secret is never shown, written or put into a URI; it is read from the environment at the
moment of use, so a renewed token is taken up by a running kernel.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DELIVERY_TIMEOUT_S",
    "EXIT_FLUSH_S",
    "IDENTITY_BUDGET_S",
    "LINGER_S",
    "SEARCH_WAIT_S",
    "Credentials",
    "credentials",
    "data_home",
    "exit_flush_seconds",
    "role_variable",
    "spool_limit_bytes",
]

IDENTITY_BUDGET_S = 5.0
"""How long user code waits, per outage, for a workspace to name a run, experiment, model or version."""

SEARCH_WAIT_S = 5.0
"""How long a search waits for the primary's queue before it answers without the rest."""

LINGER_S = 0.4
"""How long delivery gathers writes into a batch before it sends them."""

DELIVERY_TIMEOUT_S = 30.0
"""How long one delivery request may take; a slower answer is a doubt that is settled by asking."""

EXIT_FLUSH_S = 20.0
"""How long the end of a process waits for delivery (``DBML_EXIT_FLUSH`` overrides it)."""

_SPOOL_LIMIT = 20 * 1024**3


def data_home() -> Path:
    """Return the folder on a local disk for links and journals (``DBML_HOME`` overrides it).

    Databricks keeps home directories and notebook folders on network mounts; ``/local_disk0`` is local there.
    """
    chosen = os.environ.get("DBML_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if os.environ.get("DATABRICKS_RUNTIME_VERSION") and os.path.isdir("/local_disk0"):
        return Path("/local_disk0/dbml-magics")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "dbml-magics"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "dbml-magics"


def exit_flush_seconds() -> float:
    """Return how many seconds the end of a process waits for delivery."""
    return _number("DBML_EXIT_FLUSH", EXIT_FLUSH_S)


def spool_limit_bytes() -> int:
    """Return how many bytes of artifacts may wait on disk (``DBML_SPOOL_LIMIT`` overrides 20 GB)."""
    return int(_number("DBML_SPOOL_LIMIT", _SPOOL_LIMIT))


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        return default
    return value if value >= 0 else default


@dataclass(frozen=True)
class Credentials:
    """What an http(s) workspace is shown; hidden in every repr."""

    username: str | None = None
    password: str | None = None
    token: str | None = None

    def __repr__(self) -> str:
        shown = "token" if self.token else "username and password" if self.username else "none"
        return f"Credentials({shown})"


def role_variable(role: str, what: str) -> str:
    """Return the environment variable for one role's secret, e.g. ``DBML_AZUREML_TOKEN``."""
    return f"DBML_{role.upper()}_{what.upper()}"


def credentials(role: str) -> Credentials:
    """Read one role's credentials for an http(s) workspace from the environment.

    Only the role's own variables count: MLFLOW_TRACKING_TOKEN would go to any http(s) tracking URI, and a
    link has two of them.
    """
    return Credentials(
        username=os.environ.get(role_variable(role, "username")) or None,
        password=os.environ.get(role_variable(role, "password")) or None,
        token=os.environ.get(role_variable(role, "token")) or None,
    )
