"""Ids of what no workspace has named yet."""

from __future__ import annotations

import secrets

__all__ = ["names_nothing_yet", "provisional"]

_PROVISIONAL = "900000"  # experiment ids are numbers to MLflow; no server counts this far


def provisional() -> str:
    """Return an id for an experiment that its workspace has not named, or whose own id means another one."""
    return _PROVISIONAL + str(secrets.randbelow(10**12)).zfill(12)


def names_nothing_yet(experiment_id: str) -> bool:
    """Tell whether an experiment's id is provisional: no workspace knows it."""
    return experiment_id.startswith(_PROVISIONAL)
