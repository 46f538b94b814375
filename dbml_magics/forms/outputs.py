"""The outputs of the cell that shows the panel: what its forms did, kept when the notebook is saved."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from dbml_magics.common import environment
from dbml_magics.results.html import code

if TYPE_CHECKING:
    from dbml_magics.results.base import Result

__all__ = ["CellOutputs"]


class CellOutputs:
    """Outputs below the panel, also after its cell has ended.

    A click reaches the kernel by a message of its own, and a front end drops what is displayed in answer to
    it. So each output is sent as one of the cell's.
    """

    def __init__(self) -> None:
        shell = environment.shell()
        # Tried with JupyterLab and Notebook; elsewhere the forms show their results themselves.
        self._shell = shell if environment.place(shell) == "jupyter" else None
        self._parent = {} if self._shell is None else getattr(self._shell.display_pub, "parent_header", {})
        self._shown: dict[str, str] = {}

    def put(self, line: str, result: Result) -> bool:
        """Show a line's result, in the place of its last one; tell whether there is such a place."""
        publisher: Any = None if self._shell is None else self._shell.display_pub
        if self._shell is None or not self._parent or getattr(publisher, "pub_socket", None) is None:
            return False
        data, metadata = self._shell.display_formatter.format(result)
        if not data:
            return False
        data["text/plain"] = f"{line}\n{data.get('text/plain', '')}"
        if "text/html" in data:
            data["text/html"] = f'<div style="margin-top:8px">{code(line)}</div>{data["text/html"]}'
        kind = "update_display_data" if line in self._shown else "display_data"
        place = self._shown.setdefault(line, uuid.uuid4().hex)
        content = {"data": data, "metadata": metadata, "transient": {"display_id": place}}
        publisher.session.send(
            publisher.pub_socket, kind, content, parent=self._parent, ident=publisher.topic
        )
        return True
