"""How one process asks one workspace: few at once, its rates by kind, Retry-After, live runs first.

Databricks counts requests a second for the whole workspace (learn.microsoft.com
azure/databricks/resources/limits); what a process keeps to, its colleagues do not pay for with 429s.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.traffic import Traffic
from dbml_magics.core.interrupts import deferred

_CALL = re.compile(r"/mlflow/(.+)$")
_SEARCHES = frozenset({"runs/search", "experiments/search", "experiments/list", "logged-models/search"})
_REGISTRY = ("registered-models", "model-versions", "unity-catalog")
_LONG_S = 2.0  # a longer wait is the caller's: it may have something else to do
_DEFAULT_HOLD_S = 1.0  # a 429 that does not say how long
_KEPT_FREE = 0.5  # of a second's requests, what back-fill leaves to live runs
_WINDOW_S = 1.05  # a second, and what requests catch up on each other on the way
_AT_ONCE = 10
_HEED_S = 0.1  # how long an interrupt is not heeded by who waits for its turn
"""Requests under way at once: as many as MLflow's client keeps connections (MLFLOW_HTTP_POOL_MAXSIZE).
A hundred threads that begin runs together jam an MLflow server on SQLite for a minute (MLflow 3.15)."""

_limiters: dict[tuple[str, tuple[tuple[str, float], ...]], RateLimiter] = {}
_backfilling: ContextVar[bool] = ContextVar("dbml_backfilling", default=False)


@contextmanager
def backfill() -> Iterator[None]:
    """Let what is asked inside yield to live runs: it takes only what they leave."""
    token = _backfilling.set(True)
    try:
        yield
    finally:
        _backfilling.reset(token)


def kind_of(endpoint: str) -> str:
    """Return which rate a call counts for: search, log-batch, registry or other; "" for no MLflow call."""
    found = _CALL.search(endpoint)
    if found is None:
        return ""
    call = found.group(1)
    if call.startswith(_REGISTRY):
        return "registry"
    if call in _SEARCHES:
        return "search"
    return "log-batch" if call == "runs/log-batch" else "other"


def limiter_at(place: str, rates: Mapping[str, float]) -> RateLimiter:
    """Return this process's one limiter of the workspace at a place, whichever of its links asks."""
    key = (place, tuple(sorted(rates.items())))
    return _limiters.get(key) or _limiters.setdefault(key, RateLimiter(rates))


class RateLimiter:
    """One for each workspace of a process (:func:`limiter_at`); every call is made within :meth:`turn`."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._rates = dict(rates)
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew, in a forked child: the lock may be held by a thread that is not here."""
        self.traffic = Traffic()
        self._turn = threading.Condition()
        self._buckets: dict[str, _Bucket] = {}
        self._under_way: set[object] = set()

    @contextmanager
    def turn(self, endpoint: str, patience: float) -> Iterator[None]:
        """Make one request inside, once :meth:`take` lets it."""
        request = object()
        try:
            self.take(endpoint, patience, request)
            yield
        finally:
            if kind_of(endpoint):
                with deferred(), self._turn:
                    self._under_way.discard(request)
                    self._turn.notify_all()

    def take(self, endpoint: str, patience: float, request: object = None) -> None:
        """Wait for one request's turn, at most ``patience`` seconds. Raises Unavailable if that is less."""
        kind = kind_of(endpoint)
        if not kind and not self._buckets:  # a file, and no service said 429 to one
            return
        live = not _backfilling.get()
        until = time.monotonic() + patience
        # An interrupt that came while a condition is taken or given back would leave it closed for all.
        with deferred() as interrupt, self._turn:
            bucket = self._bucket(kind)
            bucket.live += live
            try:
                while (pause := bucket.pause(live)) > 0 or (kind and len(self._under_way) >= _AT_ONCE):
                    if interrupt.raises:
                        return
                    held = bucket.held()
                    left = until - time.monotonic()
                    if pause > 0 and (held > _LONG_S or pause > left):
                        raise Unavailable(
                            "asks to be left alone for a while (429, too many requests)",
                            sent=False,
                            retry_after=max(held, pause),
                        )
                    if left <= 0:
                        raise Unavailable(f"has not answered {_AT_ONCE} requests yet", sent=False)
                    self._turn.wait(min(left, pause if pause > 0 else left, _HEED_S))
                bucket.spend()
                if kind:
                    self._under_way.add(request or object())
            finally:
                bucket.live -= live
                self._turn.notify_all()

    def hold(self, endpoint: str, seconds: float | None) -> None:
        """Ask no more of this kind for so long: the workspace said so with a 429."""
        with deferred(), self._turn:
            bucket = self._bucket(kind_of(endpoint))
            bucket.not_before = max(
                bucket.not_before, time.monotonic() + (_DEFAULT_HOLD_S if seconds is None else seconds)
            )

    def _bucket(self, kind: str) -> _Bucket:
        found = self._buckets.get(kind)
        if found is None:
            found = self._buckets[kind] = _Bucket(self._rates.get(kind))
        return found


class _Bucket:
    """The requests of one kind within the last second: as many as the service takes."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self.not_before = 0.0
        self.live = 0  # requests of live runs that wait
        self._recent: deque[float] = deque()

    def held(self) -> float:
        """Return for how many seconds the service wants no more."""
        return max(0.0, self.not_before - time.monotonic())

    def pause(self, live: bool) -> float:
        """Return how long to wait before the next request may go (0: it may)."""
        held = self.held()
        if held > 0 or self.rate is None:
            return held
        now, recent = time.monotonic(), self._recent
        while recent and recent[0] <= now - _WINDOW_S:
            recent.popleft()
        most = int(self.rate) if live else max(1, int(self.rate * (1 - _KEPT_FREE)))
        if len(recent) >= most:
            return max(recent[len(recent) - most] + _WINDOW_S - now, 0.001)
        return 0.0 if live or self.live == 0 else 0.02

    def spend(self) -> None:
        """Note that a request goes."""
        if self.rate is not None:
            self._recent.append(time.monotonic())
