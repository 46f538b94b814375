"""Settings: argument, then environment, then default; every name and unit in one place.

A setting that is secret is never shown, written or put into a URI; it is read from the environment at the
moment of use, so a renewed token is taken up by a running kernel.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dbml_magics.common import disks
from dbml_magics.common.redaction import remember_secrets

__all__ = [
    "DELIVERY_TIMEOUT_S",
    "EXIT_FLUSH_S",
    "IDENTITY_BUDGET_S",
    "LINGER_S",
    "LONGEST_PAUSE_S",
    "SCORE_HERE_ROWS",
    "SEARCH_WAIT_S",
    "SPOOL_WAIT_S",
    "Credentials",
    "credentials",
    "data_home",
    "data_home_note",
    "exit_flush_seconds",
    "identity_budget_seconds",
    "linger_seconds",
    "live_views",
    "longest_pause_seconds",
    "passed_variables",
    "role_variable",
    "score_here_rows",
    "spare_homes",
    "spool_limit_bytes",
    "spool_wait_seconds",
]

IDENTITY_BUDGET_S = 5.0
"""How long user code waits, per outage, for a workspace to name a run, experiment, model or version
(``DBML_IDENTITY_BUDGET`` overrides it)."""

SEARCH_WAIT_S = 5.0
"""How long a search waits for the primary's queue before it answers without the rest."""

LINGER_S = 0.4
"""How long delivery gathers writes into a batch before it sends them (``DBML_LINGER`` overrides it)."""

LONGEST_PAUSE_S = 15.0
"""The longest pause between two tries of a workspace that is away (``DBML_LONGEST_PAUSE`` overrides it)."""

DELIVERY_TIMEOUT_S = 30.0
"""How long one delivery request may take; a slower answer is a doubt that is settled by asking."""

EXIT_FLUSH_S = 20.0
"""How long the end of a process waits for delivery (``DBML_EXIT_FLUSH`` overrides it)."""

SPOOL_WAIT_S = 30.0
"""How long ``log_artifact`` waits for room in a full spool (``DBML_SPOOL_WAIT`` overrides it)."""

SCORE_HERE_ROWS = 1_000_000
"""How many rows of a pandas DataFrame are scored in this process rather than by Spark (``DBML_SCORE_HERE``
overrides it)."""

_SPOOL_LIMIT = 20 * 1024**3


def passed_variables() -> tuple[str, ...]:
    """Return the names of variables that processes which run models get too (``DBML_PASS=NAME,NAME``)."""
    return tuple(name for name in re.split(r"[\s,]+", os.environ.get("DBML_PASS", "")) if name)


def data_home() -> Path:
    """Return the folder on a local disk for links and journals (``DBML_HOME`` overrides it).

    Where that is no place for a journal, another one on this machine is taken: :func:`data_home_note`.
    """
    return _data_home(*_place_of_home())[0]


def data_home_note() -> str | None:
    """Return why the folder for links and journals is another one than it would be, or None."""
    return _data_home(*_place_of_home())[1]


def spare_homes() -> tuple[Path, ...]:
    """Return the folders that take writes while :func:`data_home`'s disk does not, in that order."""
    home = data_home()
    return tuple(folder for folder in _spare_folders(*_place_of_home()) if folder != home)


def _place_of_home() -> tuple[Path, Path, int]:
    return _wished_home(), disks.MOUNTS, os.getuid() if sys.platform != "win32" else 0


@lru_cache(maxsize=8)
def _data_home(wished: Path, mounts: Path, uid: int) -> tuple[Path, str | None]:
    unfit = disks.why_unfit(wished)
    if unfit is None and disks.can_be_written(wished):
        return wished, None
    spare = next((f for f in _spare_folders(wished, mounts, uid) if disks.can_be_written(f)), None)
    if spare is None:
        return wished, None
    why = f"is on {unfit}, where no journal can be" if unfit else "cannot be written"
    return spare, f"{wished} {why}: links and journals are in {spare} (DBML_HOME names another local folder)"


@lru_cache(maxsize=8)
def _spare_folders(_wished: Path, _mounts: Path, _uid: int) -> tuple[Path, ...]:
    return tuple(disks.spare_folders())


def _wished_home() -> Path:
    """Return where links and journals belong.

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


def identity_budget_seconds() -> float:
    """Return how many seconds user code waits, per outage, for a workspace to name something."""
    return _number("DBML_IDENTITY_BUDGET", IDENTITY_BUDGET_S)


def linger_seconds() -> float:
    """Return how many seconds delivery gathers writes into a batch before it sends them."""
    return _number("DBML_LINGER", LINGER_S)


def live_views() -> bool:
    """Tell whether a tracked cell shows its run while it goes on (``DBML_LIVE=0`` switches that off)."""
    return os.environ.get("DBML_LIVE", "1").strip().lower() not in ("0", "false", "no", "off")


def longest_pause_seconds() -> float:
    """Return the longest pause in seconds between two tries of a workspace that is away."""
    return _number("DBML_LONGEST_PAUSE", LONGEST_PAUSE_S)


def score_here_rows() -> int:
    """Return how many rows of a pandas DataFrame are scored in this process."""
    return int(_number("DBML_SCORE_HERE", SCORE_HERE_ROWS))


def spool_limit_bytes() -> int:
    """Return how many bytes of artifacts may wait on disk (``DBML_SPOOL_LIMIT`` overrides 20 GB)."""
    return int(_number("DBML_SPOOL_LIMIT", _SPOOL_LIMIT))


def spool_wait_seconds() -> float:
    """Return how many seconds ``log_artifact`` waits for room in a full spool."""
    return _number("DBML_SPOOL_WAIT", SPOOL_WAIT_S)


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
    found = Credentials(
        username=os.environ.get(role_variable(role, "username")) or None,
        password=os.environ.get(role_variable(role, "password")) or None,
        token=os.environ.get(role_variable(role, "token")) or None,
    )
    remember_secrets(found.token)
    remember_secrets(found.password, username=found.username or "")
    return found
