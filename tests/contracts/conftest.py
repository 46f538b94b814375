"""Azure for the replays, as the tests of Azure sign in to it."""

from __future__ import annotations

from tests.azure.conftest import names, signed_in

__all__ = ["names", "signed_in"]
