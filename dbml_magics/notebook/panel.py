"""The Python twin of ``%dbml panel``; apart from the others, since the forms are made of all commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbml_magics.common.hints import Remedy
from dbml_magics.errors import BadCommand

if TYPE_CHECKING:
    from dbml_magics.results.panel import PanelResult

__all__ = ["panel"]


def panel(tab: str = "link") -> PanelResult:
    """Return the panel with the forms, open at a tab (link, runs, register, deploy or score).

    Where no widget works it is a list of the lines that the forms would make.
    """
    from dbml_magics.commands import COMMANDS
    from dbml_magics.commands import panel as command
    from dbml_magics.core import session

    if tab not in command.TABS:
        raise BadCommand(
            f"there is no tab {tab!r}: {', '.join(command.TABS)}.", remedies=[Remedy("panel", "link")]
        )
    return command.panel(COMMANDS, session.current(), tab)
