"""What ``%dbml panel`` returns: its widgets where they are shown, else the lines that they would make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dbml_magics.common.hints import say
from dbml_magics.results.base import Result
from dbml_magics.results.html import code, html_table, panel
from dbml_magics.results.link import LinkStatus

__all__ = ["PanelResult"]


@dataclass(frozen=True, repr=False)
class PanelResult(Result):
    """The panel."""

    tab: str
    lines: tuple[tuple[str, str], ...]  # what its forms do, as lines: (line, what it does)
    linked: LinkStatus | None = None
    view: Any = field(default=None, compare=False)  # the widgets, where they are shown

    def _headline(self) -> str:
        if self.linked is None:
            return "Not linked. What the panel's forms do, as lines to type:"
        return "What the panel's forms do, as lines to type:"

    def text(self) -> str:
        """Return the lines that the forms make."""
        shown = [(say(line), what) for line, what in self.lines]
        width = max(len(line) for line, _ in shown)
        return "\n".join([self._headline(), *(f"  {line.ljust(width)}   {what}" for line, what in shown)])

    def html(self) -> str:
        """Return the same as a table."""
        rows = [(code(say(line)), what) for line, what in self.lines]
        return panel(html_table(self._headline(), ("line", "what it does"), rows))

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        forms: dict[str, object] = {"text/plain": self.text(), "text/html": self.html()}
        if self.view is not None:
            made = self.view.box._repr_mimebundle_()
            widget = made[0] if isinstance(made, tuple) else made
            forms.update({kind: value for kind, value in widget.items() if kind.startswith("application/")})
        return forms
