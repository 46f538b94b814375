"""Doing once what may have been done before."""

from __future__ import annotations

from collections.abc import Callable

from mlflow.exceptions import MlflowException

from dbml_magics.core.delivery.writers.ports import Turns
from dbml_magics.core.destinations.errors import is_missing
from dbml_magics.core.outbox.creations import Creations


def was_tried(creations: Creations, role: str, visible: str, turns: Turns) -> bool:
    """Tell whether a creation was begun before, and its answer not seen; it may be under way yet."""
    tried = creations.is_begun(role, visible)
    if tried:
        turns.let_settle()
    return tried


def remove_once(remove: Callable[[], None], again: bool) -> None:
    """Remove something; ``again`` where it may be gone already."""
    try:
        remove()
    except MlflowException as error:
        if not again or not is_missing(error):
            raise
