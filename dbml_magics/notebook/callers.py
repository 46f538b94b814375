"""The code that calls a magic, and the names that it sees: a cell's, a function's, a script's of ``%run``.

IPython hands the locals of the caller to line magics alone, and knows nothing of a script's names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["frame", "names", "script", "within_script"]

_PARTS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})  # of a function: names are its own


def frame() -> FrameType | None:
    """Return the frame of the code that the magic stands in, beyond IPython's own and ours."""
    found: FrameType | None = sys._getframe(1)
    while found is not None:
        if str(found.f_globals.get("__name__", "")).partition(".")[0] not in ("dbml_magics", "IPython"):
            return found
        found = found.f_back
    return None


def names(shell: InteractiveShell, caller: FrameType | None) -> dict[str, object]:
    """Return all that the caller sees: the notebook's names, its own module's, its own."""
    known = dict(shell.user_ns)
    if caller is None:
        return known
    parts = [caller]
    while parts[-1].f_code.co_name in _PARTS and parts[-1].f_back is not None:
        parts.append(parts[-1].f_back)
    for part in reversed(parts):
        known |= {**part.f_globals, **part.f_locals}
    return known


def script(shell: InteractiveShell, caller: FrameType | None) -> dict[str, object] | None:
    """Return the names of the script that calls, where ``%run`` runs it in names of its own."""
    main = vars(sys.modules["__main__"])
    own = caller is not None and caller.f_globals is main and main is not shell.user_global_ns
    return main if own else None


@contextmanager
def within_script(shell: InteractiveShell, names_of_script: dict[str, object] | None) -> Iterator[None]:
    """Have the shell run cells in a script's names; None leaves it as it is."""
    if names_of_script is None:
        yield
        return
    module, space = shell.user_module, shell.user_ns
    # What IPython keeps beside the user's names (In, Out, _), and its display of values wants.
    kept = {n: space[n] for n in shell.user_ns_hidden if n in space and n not in names_of_script}
    names_of_script.update(kept)
    try:
        shell.user_module, shell.user_ns = sys.modules["__main__"], names_of_script
        yield
    finally:
        shell.user_module, shell.user_ns = module, space
        for name in kept:
            names_of_script.pop(name, None)
