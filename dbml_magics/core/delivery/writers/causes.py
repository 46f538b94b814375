"""Why a workspace does not take a write, in words."""

from __future__ import annotations

from dbml_magics.core.destinations.errors import Unavailable, clean


def time_and_again(failure: Unavailable, *, alone: bool = True) -> str:
    """Return the cause of a write that goes on failing, ``alone`` where others went through meanwhile."""
    return f"{cause_of(failure)}, time and again" + (", while other writes went through" if alone else "")


def cause_of(error: BaseException) -> str:
    """Return a refusal's cause in one line."""
    text = " ".join(clean(str(error)).split())
    return text if len(text) <= 500 else text[:497] + "…"
