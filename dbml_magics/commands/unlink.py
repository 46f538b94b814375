"""``%dbml unlink``: give MLflow back the URIs that it had."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="unlink",
    help="restore the tracking URIs that were there before the link",
    examples=(Remedy("unlink"),),
    call=api.unlink,
    needs_link=False,
    details="What is undelivered stays in the journal; linking again delivers it.",
)
