"""What a forked child finds of the locks that its parent's threads held."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable

from dbml_magics.common.fork_locks import ForkLock
from dbml_magics.core.azure.clouds import named
from dbml_magics.core.azure.identity import SignIn

OPEN_WITHIN_S = 20.0


def test_a_lock_that_another_thread_holds_is_open_in_a_forked_child() -> None:
    sign_in, free = SignIn("cli", named("AzureCloud")), threading.Event()
    sign_in.forget_token()  # takes the lock, and lets it go
    held = threading.Event()

    def hold() -> None:
        with sign_in._lock:
            held.set()
            free.wait(OPEN_WITHIN_S)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(OPEN_WITHIN_S)
        assert _in_child(sign_in.forget_token) == 0, "the child waited for a thread that only its parent has"
    finally:
        free.set()
        holder.join()


def test_a_lock_keeps_other_threads_out_and_lets_its_own_in_again() -> None:
    lock, order = ForkLock(), list[str]()

    def other() -> None:
        with lock:
            order.append("other")

    with lock, lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.1)
        order.append("own")
    thread.join()
    assert order == ["own", "other"]


def _in_child(work: Callable[[], object]) -> int:
    """Return how a forked child ends that does something: 0, or the signal of its alarm."""
    with warnings.catch_warnings():  # 3.12 warns of a fork beside threads, which is what is tried here
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(int(OPEN_WITHIN_S))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
