"""A real kernel that runs cells."""

from __future__ import annotations

from typing import Any

__all__ = ["Kernel"]

_DEADLINE_S = 600.0


class Kernel:
    """A new kernel; ``seen`` are the messages of its last cell."""

    def __init__(self) -> None:
        from jupyter_client.manager import start_new_kernel

        self._manager, self._client = start_new_kernel(kernel_name="python3")
        self.seen: list[dict[str, Any]] = []

    def run(self, code: str) -> str:
        """Run a cell; returns what it printed."""
        self.seen.clear()
        reply = self._client.execute_interactive(code, timeout=_DEADLINE_S, output_hook=self.seen.append)
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"{reply['content'].get('ename')}: {reply['content'].get('evalue')}")
        return "".join(m["content"]["text"] for m in self.seen if m["msg_type"] == "stream")

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
