"""Wait for what happens in the background, and say what did not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


def eventually(
    condition: Callable[[], T | None],
    what: str,
    deadline: float = 60.0,
    *,
    show: Callable[[], Any] | None = None,
) -> T:
    """Return ``condition()`` as soon as it is true.

    ``what`` completes the sentence "within 60 s, …" in the failure ("the mirror has all 100 points"). An
    AssertionError that the condition raises counts as "not yet" and is told at the end; any other error is a
    failure at once. ``show`` is called for the failure's message (a status, a request log).
    """
    over = time.monotonic() + deadline
    pause = 0.005
    while True:
        last: Any
        try:
            last = condition()
            if last:
                return last  # type: ignore[no-any-return]
        except AssertionError as not_yet:
            last = not_yet
        if time.monotonic() > over:
            seen = "" if show is None else f"\nseen instead: {show()!r}"
            raise AssertionError(f"expected within {deadline:g} s: {what}; the last look gave {last!r}{seen}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
