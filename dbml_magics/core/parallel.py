"""Asking a workspace several things at a time, and for a page while the one before is looked at."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from dbml_magics.core.runtime.engine import Engine

AT_ONCE = 10
"""Requests at a time: as many as a process may have under way at a workspace."""
T = TypeVar("T")
A = TypeVar("A")


def workers(engine: Engine) -> int:
    """Return how many things are asked for at a time: one of a database file."""
    return 1 if any(engine.workspaces[role].spec.local for role in engine.link.tracked) else AT_ONCE


def in_parallel(workers: int, work: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
    """Yield ``work`` of each item in order, some at a time, holding no more than those in memory."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="dbml-compare") as pool:
        pending: deque[Future[T]] = deque()
        try:
            for item in items:
                # What is asked in the pool yields to live runs, too: a thread has no context of its own.
                pending.append(pool.submit(copy_context().run, work, item))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """Yield items which a thread takes meanwhile, at most so many ahead; it ends with the iterator."""
    held: queue.Queue[tuple[T] | Exception | None] = queue.Queue(most)
    left = threading.Event()

    def put(item: tuple[T] | Exception | None) -> None:
        while not left.is_set():
            try:
                held.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def take() -> None:
        try:
            for item in items:
                put((item,))
                if left.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)

    thread = threading.Thread(target=copy_context().run, args=(take,), name="dbml-ahead", daemon=True)
    thread.start()
    try:
        while (item := held.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item[0]
    finally:
        left.set()
        thread.join()
