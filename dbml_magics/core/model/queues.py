"""The names of the queues that are no run's and no logged model's."""

from __future__ import annotations

LINK_QUEUE = "link"
"""Experiments, and the tags by which the versions of one registration name each other."""
HELD_QUEUE = "held"
"""Files that are tried again by themselves: in its run's queue, a registration may wait for one of them."""
REGISTRY_QUEUE = "registry"
"""Every registry write but registrations, which travel behind the files of their runs."""


def registration_queue(key: str) -> str:
    """Return the queue in which a registration waits apart from its run."""
    return f"registration-{key}"
