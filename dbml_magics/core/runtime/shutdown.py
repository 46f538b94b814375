"""The end of a process by a signal, and the code with which it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

from dbml_magics.common import environment
from dbml_magics.core.link import Link

LAST_WORDS_S = 2.0
"""How long a process that SIGTERM ends goes on: Jupyter kills a kernel 2.5 s after it, Docker after 10."""


class _Code:
    """Whether this process has to end with a code that says so."""

    fails = False


def fail() -> None:
    """Have the process end with a code that says so."""
    _Code.fails = True


def stopped(pid: int, role: str) -> str:
    """Return what is wrong where a process has a workspace's lease and does not move."""
    return f"process {pid} holds the delivery to {role} and does not move (stopped?)"


class _Failing:
    """Standard error, whose last flush fails: Python's documented way to a code of 120 at its end.

    ``os._exit`` would skip the exit handlers that are still to come (temporary folders, log files), and an
    exception in one of them changes nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        """Flush; fail when the interpreter does it for the last time."""
        if self._stream is not None:
            self._stream.flush()
        if sys.is_finalizing():
            raise OSError("writes are undelivered")


def settle_exit_code() -> None:
    """Have the process end with code 120 where a link says that undelivered writes are a failure.

    One that SIGTERM ends does so by the signal, though its code came to its end meanwhile.
    """
    if _Termination.thread is not None:
        _Termination.thread.join(2 * LAST_WORDS_S)
    if _Code.fails:
        sys.stderr = _Failing(sys.stderr)


def heed_sigterm(link: Link, end_runs: Callable[[], None]) -> None:
    """Let SIGTERM end the runs of this process by ``end_runs``, and the process by the signal as before.

    A script ends as by ``sys.exit`` where the link asks for something at the end: a signal's default action
    skips that. A handler of the user's own stays.
    """
    _Termination.end_runs = staticmethod(end_runs)
    if threading.current_thread() is not threading.main_thread():
        return
    found = signal.getsignal(signal.SIGTERM)
    wished = link.on_undelivered == "fail" or link.spill is not None
    if wished and environment.shell() is None and found in (signal.SIG_DFL, _die):
        signal.signal(signal.SIGTERM, _end)
    elif found is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _die)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    _Termination.came = True
    sys.exit(128 + number)


class _Termination:
    """Whether SIGTERM came, the thread that ends the process by it, and what it does before."""

    came = False
    end_runs: Callable[[], None] = staticmethod(lambda: None)
    thread: threading.Thread | None = None
    handler: int | None = None  # what heeds it in C, while the process forks


def is_terminated() -> bool:
    """Tell whether SIGTERM came: whatever ends a run from then on, it is KILLED."""
    return _Termination.came


def _die(number: int, _frame: FrameType | None) -> None:
    """End the process by the signal, once its runs have ended.

    A thread does it, since the code that the signal came amid may hold locks of ours: it goes on meanwhile.
    """
    signal.signal(number, signal.SIG_DFL)
    _Termination.came = True
    _Termination.thread = threading.Thread(target=_go, args=(number,), name="dbml-end", daemon=True)
    try:
        _Termination.thread.start()
    except RuntimeError:  # the interpreter is ending
        os.kill(os.getpid(), number)


def _go(number: int) -> None:
    try:
        work = threading.Thread(target=_Termination.end_runs, name="dbml-end-runs", daemon=True)
        work.start()
        work.join(LAST_WORDS_S)
    finally:
        os.kill(os.getpid(), number)


def before_fork() -> None:
    """Give SIGTERM its default action while the process forks, in whichever thread.

    A child that gets one before it has forgotten its parent's handler would lose it, and live on.
    """
    if signal.getsignal(signal.SIGTERM) in (_end, _die):
        _Termination.handler = _set_action(signal.SIGTERM, None)


def after_fork_in_parent() -> None:
    """Have SIGTERM heeded again."""
    if _Termination.handler is not None:
        _set_action(signal.SIGTERM, _Termination.handler)
        _Termination.handler = None


def _set_action(number: int, action: int | None) -> int | None:
    """Set a signal's action in C (None: the default one); returns the one before.

    Python's own function is the main thread's alone, and any thread may fork.
    """
    import ctypes

    setter = ctypes.pythonapi.PyOS_setsig
    setter.argtypes, setter.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    before: int | None = setter(number, action)
    return before


def after_fork() -> None:
    """In a forked child: a signal ends it as it would without the link, since its parent delivers."""
    _Code.fails = _Termination.came = False
    _Termination.thread = _Termination.handler = None
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) in (_end, _die):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
