"""``%dbml unlink``: give MLflow back the URIs that it had."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.parser import Command

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.link import UnlinkResult


def run(_args: Namespace, session: Session) -> UnlinkResult:
    """Unlink, and return what was restored."""
    return session.unlink()


COMMAND = Command(
    name="unlink",
    help="restore the tracking URIs that were there before the link",
    examples=("%dbml unlink",),
    run=run,
    details="What is undelivered stays in the journal; linking again delivers it.",
)
