"""Where the code runs: Databricks, VS Code, Colab, Jupyter, a terminal or a plain script.

Nothing is imported to find out: an interpreter that has not imported IPython is not inside it.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

__all__ = ["Place", "has_kernel", "is_interactive", "place", "shell"]

Place = Literal["databricks", "vscode", "colab", "jupyter", "terminal", "script"]


def shell() -> Any:
    """Return the running IPython shell, or None outside IPython."""
    module = sys.modules.get("IPython.core.getipython")
    return None if module is None else module.get_ipython()


def has_kernel(running: Any) -> bool:
    """Tell whether a shell talks to a front end that shows HTML and updates what it showed."""
    return getattr(running, "kernel", None) is not None


def place(running: Any = None) -> Place:
    """Return where the code runs; ``running`` is the shell when the caller has it."""
    running = running if running is not None else shell()
    if running is None:
        return "script"
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return "databricks"
    if not has_kernel(running):
        return "terminal"
    if "google.colab" in sys.modules:
        return "colab"
    # VS Code starts its kernels from its own process, whose variables they inherit.
    if "VSCODE_PID" in os.environ or "VSCODE_CWD" in os.environ:
        return "vscode"
    return "jupyter"


def is_interactive(running: Any) -> bool:
    """Tell whether somebody may be reading: a kernel's front end, or a terminal that is one."""
    if running is None:
        return False
    return has_kernel(running) or (type(running).__name__ == "TerminalInteractiveShell" and _is_terminal())


def _is_terminal() -> bool:
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):  # closed or replaced streams
        return False
