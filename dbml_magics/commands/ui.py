"""``%dbml ui``: MLflow's own UI of each workspace."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="ui",
    help="open MLflow's own UI of each workspace",
    examples=(Remedy("ui"), Remedy("ui", stop=True)),
    call=api.ui,
    details=(
        "For a workspace in a file (--local, sqlite) a server is started on 127.0.0.1, which keeps\n"
        "running after the notebook: until --stop, or 8 hours without a request. It asks for no\n"
        "password: other users of this machine can open it too. Other workspaces have pages of their own."
    ),
    options=(Option("--stop", "end the servers that were started"),),
)
