"""Who shows the runs of ``with dbml.track(...)`` blocks: a front end says so when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dbml_magics.core.track import Track
    from dbml_magics.results.runs import TrackSummary

__all__ = ["BlockView", "show_blocks", "view_of"]


class BlockView(Protocol):
    """What shows a tracked block's run while it goes on."""

    def end(self, summary: TrackSummary | None) -> None:
        """Show the summary in its place."""


class _Shown:
    view: Callable[[Track], BlockView | None] | None = None


def show_blocks(view: Callable[[Track], BlockView | None] | None) -> None:
    """Have a front end show tracked blocks from now on; None: nothing shows them."""
    _Shown.view = view


def view_of(track: Track) -> BlockView | None:
    """Begin to show a block's run, where a front end does."""
    return None if _Shown.view is None else _Shown.view(track)
