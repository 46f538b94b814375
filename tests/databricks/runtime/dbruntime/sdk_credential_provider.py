"""The notebook's own sign-in, as databricks-sdk takes it from the runtime."""

from __future__ import annotations

from collections.abc import Callable

from dbruntime import configured


def init_runtime_native_auth() -> tuple[str, Callable[[], dict[str, str]]]:
    """Return the workspace's address and what makes the headers of a request."""
    here = configured()
    return here["host"], lambda: {"Authorization": f"Bearer {here['token']}"}
