"""What a Databricks runtime has of this name, as far as MLflow and databricks-sdk ask; for child processes.

The tests say by environment variables what the runtime would know by itself (``FAKE_DATABRICKS``, a JSON
object).
"""

from __future__ import annotations

import json
import os
from typing import Any


def configured() -> dict[str, Any]:
    """Return what the test says of the notebook."""
    known: dict[str, Any] = json.loads(os.environ["FAKE_DATABRICKS"])
    return known


class UserNamespaceInitializer:
    """What a notebook's namespace begins with: nothing, here."""

    @classmethod
    def getOrCreate(cls) -> UserNamespaceInitializer:  # noqa: N802 - the runtime's own name
        """Return the one that there is."""
        return cls()

    def get_namespace_globals(self) -> dict[str, Any]:
        """Return the names."""
        return {}
