"""What a worker tells the scheduler, and what the scheduler answers: values, and nothing that acts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dbml_magics.core.destinations.errors import Blocked, Unavailable
from dbml_magics.core.model.operations import Operation

# --- events


@dataclass(frozen=True)
class Woken:
    """The worker begins a round: whether somebody waits for it, and what the circuit breaker says."""

    urgent: bool = False
    pause: float = 0.0
    """Seconds in which the destination is not asked."""
    troubled: bool = False
    """It did not answer of late, and may be asked again now."""


@dataclass(frozen=True)
class MoreDue:
    """More queues are due while a round goes on: whether somebody waits, and what the breaker says."""

    urgent: bool = False
    pause: float = 0.0
    troubled: bool = False


@dataclass(frozen=True)
class TurnOver:
    """A queue's turn in the round is over: whether ``more`` of it is left, and what the breaker says."""

    queue: str
    more: bool
    pause: float = 0.0
    troubled: bool = False


@dataclass(frozen=True)
class Delivered:
    """A part of a queue was delivered."""

    queue: str


@dataclass(frozen=True)
class Failed:
    """A queue could not be delivered."""

    queue: str
    error: Unavailable


@dataclass(frozen=True)
class Answered:
    """The destination answers: the queue that failed before has trouble of its own."""

    failed: Failed


@dataclass(frozen=True)
class Stumbled:
    """This machine, or a fault of ours, kept a queue from being delivered."""

    queue: str


@dataclass(frozen=True)
class Passed:
    """A write went through."""

    op: Operation


@dataclass(frozen=True)
class Arrived:
    """So many writes of a queue have arrived or were put aside, all of them this process's ``own`` or not."""

    queue: str
    count: int
    own: bool


Event = Woken | MoreDue | TurnOver | Delivered | Failed | Answered | Stumbled | Passed | Arrived


# --- instructions


@dataclass(frozen=True)
class Deliver:
    """Give a queue its turn, and report it as over."""

    queue: str


@dataclass(frozen=True)
class Ping:
    """Ask whether the destination answers at all; report that it does where a failure is ``about`` it."""

    about: Failed | None = None


@dataclass(frozen=True)
class Rest:
    """Wait so long; begin the next round then, at once for those who wait where it is ``urgent``."""

    seconds: float
    urgent: bool = False


Instruction = Deliver | Ping | Rest


# --- questions about one write, and their answers


@dataclass(frozen=True)
class WriteFailed:
    """A write that is no part of a batch could not be carried out."""

    queue: str
    op: Operation
    error: Unavailable


@dataclass(frozen=True)
class WriteBlocked:
    """A write comes after what is in another queue; nothing of it has been sent."""

    queue: str
    op: Operation
    by: Blocked


@dataclass(frozen=True)
class LetterFailed:
    """A dead letter that was tried again could not be carried out; ``held`` ones are tried by themselves."""

    queue: str
    error: Unavailable
    held: bool


@dataclass(frozen=True)
class Fault:
    """What is under way raised an error that is none of the destination's."""

    queue: str
    ends: dict[str, int]


Question = WriteFailed | WriteBlocked | LetterFailed | Fault


class Verdict(Enum):
    """What becomes of a write that was not carried out."""

    GO_ON = "it is carried out now: what goes before it can go no further"
    TRY_LATER = "it waits, and its queue with it"
    MOVE_APART = "it waits in a queue of its own"
    HOLD = "it is a dead letter that is tried by itself, provided that the destination answers now"
    TRY_ALONE = "it is tried in isolation, each time after a write that goes through"
    REJECT = "it is a dead letter"
    GIVE_UP = "it is a dead letter, though others of its kind may fail like it"
