"""IPython's display of a cell's last value, which passes over a result that is shown already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from dbml_magics.results.base import Result

__all__ = ["DisplayHookFilter"]

# A name, since importing the results takes a third of the time that loading the extension may take.
_RESULT = "dbml_magics.results.base.Result"


class DisplayHookFilter:
    """Keeps the display hook from showing a result again that its magic showed already.

    The magic returns its result, and the hook shows what the last expression of a cell returns. The filter
    is a formatter for :class:`Result` in one shell: it swallows the one display that follows
    :meth:`pass_over`.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._formatter = shell.display_formatter.ipython_display_formatter
        self._skip: Result | None = None

    def install(self) -> None:
        """Put the filter in front of the shell's formatters."""
        self._formatter.for_type(_RESULT, self._swallow)

    def remove(self) -> None:
        """Take the filter away."""
        self._formatter.pop(_RESULT, None)

    def pass_over(self, result: Result | None) -> None:
        """Name the result that was shown just now; None forgets it."""
        self._skip = result

    def _swallow(self, result: Result) -> None:
        skip, self._skip = self._skip, None
        if skip is not result:
            raise NotImplementedError  # IPython goes on with the ordinary formatters
