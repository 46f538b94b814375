"""``%dbml models``: list registered models, or one model's versions."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from dbml_magics.parser import Command, Option

if TYPE_CHECKING:
    from dbml_magics.core.session import Session
    from dbml_magics.results.registry import ModelsResult


def run(args: Namespace, session: Session) -> ModelsResult:
    """Return the models, or the versions of the one that is named."""
    return session.models(args.name)


COMMAND = Command(
    name="models",
    help="list the registered models, or one model's versions at each workspace",
    examples=("%dbml models", "%dbml models wine"),
    run=run,
    options=(Option("NAME", "a registered model", optional_value=True, completes="model"),),
)
