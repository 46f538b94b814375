"""``%dbml status``: where tracking goes, what is on its way, how far behind."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="status",
    help="where tracking goes, what is still on its way, how far behind",
    examples=(Remedy("status"), Remedy("status", run="last"), Remedy("status", requests=True)),
    call=api.status,
    instead={"--run": api.receipt, "--requests": api.requests},
    options=(
        Option("--run", "one run's receipt: what was delivered where and when", metavar="R", completes="run"),
        Option("--requests", "how many requests of each kind were made, how long they took, how many failed"),
    ),
)
