"""Bugs that are planted in a process on purpose, to see that the random histories find them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

__all__ = ["BUGS", "plant"]


def _doubt_is_not_settled() -> None:
    """Have a batch that may have arrived sent again without asking for what is there."""
    from dbml_magics.core.delivery.writers.sender import Sender

    real = Sender.send

    def send(self, run, run_id, batch, in_doubt, rejected):  # type: ignore[no-untyped-def]
        real(self, run, run_id, batch, False, rejected)

    Sender.send = send  # type: ignore[method-assign]


def _sending_is_not_noted() -> None:
    """Have no note of a request that is under way, so that a successor knows nothing of it."""
    from dbml_magics.core.outbox.state import State

    State.mark_sending = lambda *_: None  # type: ignore[method-assign]


def _an_outage_loses_a_batch() -> None:
    """Take a batch that could not be sent for delivered."""
    from dbml_magics.core.delivery.writers.batches import Batches
    from dbml_magics.core.destinations.errors import Unavailable

    real = Batches.send

    def batch(self, *args, **options):  # type: ignore[no-untyped-def]
        try:
            return real(self, *args, **options)
        except Unavailable:
            return []

    Batches.send = batch  # type: ignore[method-assign]


def _the_wall_clock_orders_writes() -> None:
    """Stamp a write with the time alone, whatever was written before."""
    import time

    from dbml_magics.core.outbox.stamps import Stamps

    Stamps.next = lambda _: time.time_ns()  # type: ignore[assignment,method-assign]


def _what_was_left_is_not_in_doubt() -> None:
    """Take what another process has left for something that nobody can have sent."""
    from dbml_magics.core.runtime.doubt import Doubt

    Doubt.begin_delivery = lambda *_: None  # type: ignore[method-assign]


def _any_answer_counts() -> None:
    """Take whatever is answered with 200 for the service's word."""
    from dbml_magics.core.destinations import answers

    answers.read = lambda *_, **__: {}


def _two_turns_make_the_same_run() -> None:
    """Let no thread wait until another one has made what both need."""
    from dbml_magics.core.giving_way import OneAtATime

    OneAtATime.doing = lambda *_: nullcontext()  # type: ignore[method-assign,assignment]


BUGS: dict[str, Callable[[], None]] = {
    "doubt is not settled": _doubt_is_not_settled,
    "sending is not noted": _sending_is_not_noted,
    "an outage loses a batch": _an_outage_loses_a_batch,
    "the wall clock orders writes": _the_wall_clock_orders_writes,
    "any answer counts": _any_answer_counts,
    "two turns make the same run": _two_turns_make_the_same_run,
    "what was left is not in doubt": _what_was_left_is_not_in_doubt,
}


def plant(name: str) -> None:
    """Plant one of the bugs in this process."""
    BUGS[name]()
