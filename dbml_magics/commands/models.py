"""``%dbml models``: list registered models, or one model's versions."""

from __future__ import annotations

from dbml_magics import api
from dbml_magics.commands.grammar import Command, Option
from dbml_magics.common.hints import Remedy

COMMAND = Command(
    name="models",
    help="list the registered models, or one model's versions at each workspace",
    examples=(Remedy("models"), Remedy("models", "wine")),
    call=api.models,
    options=(Option("NAME", "a registered model", completes="model"),),
)
