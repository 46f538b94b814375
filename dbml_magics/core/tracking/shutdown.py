"""The end of a process: what is said of writes that wait, where they go, and the exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dbml_magics.common import environment
from dbml_magics.common.hints import say
from dbml_magics.common.log_records import logger
from dbml_magics.core import mlflow_private
from dbml_magics.core.tracking.leaving import LinkHere

if TYPE_CHECKING:
    from dbml_magics.core.link import Link

_log = logger(__name__)

_REST_S = 5.0  # how long a request that is under way may hold up the end, before what waits is put away
_LAST_WORDS_S = 2.0  # Jupyter kills a kernel 2.5 s after its SIGTERM, Docker a container after 10


class _Code:
    """Whether this process has to end with a code that says so."""

    fails = False


class _Process:
    """The links whose runs this process ends where SIGTERM comes."""

    links: Callable[[], Iterable[LinkHere]] = staticmethod(tuple)


def end_runs_of(links: Callable[[], Iterable[LinkHere]]) -> None:
    """Have the runs of this process's links ended where SIGTERM comes."""
    _Process.links = staticmethod(links)


def stopped(pid: int, role: str) -> str:
    """Return what is wrong where a process has a workspace's lease and does not move."""
    return f"process {pid} holds the delivery to {role} and does not move (stopped?)"


def tell(here: LinkHere, undelivered: dict[str, int], holders: dict[str, int]) -> None:
    """Say what waits for which workspace and where; put it into the spill folder where there is one.

    ``holders`` are processes that have a workspace's lease and do not move.
    """
    link = here.link
    reasons = {
        role: stopped(holders[role], role) if role in holders else here.health[role].reason
        for role in undelivered
    }
    parts = [
        f"{count:,} {'writes wait' if count > 1 else 'write waits'} for {role}"
        + (f" ({reasons[role]})" if reasons[role] else "")
        for role, count in undelivered.items()
    ]
    where = _where(here, list(holders.values()))
    if link.on_undelivered == "fail":
        _Code.fails = True
        _log.error("dbml_magics: undelivered: %s; nothing is lost, %s", ", ".join(parts), where)
        return
    for part in parts:
        _log.warning("dbml_magics: %s; nothing is lost, %s", part, where)


def _where(here: LinkHere, holders: list[int]) -> str:
    link = here.link
    folder = link.folder or "the same folder"
    kept = f"they go out with `dbml-magics sync` in {folder} or with the next kernel that links here"
    if link.on_undelivered == "fail":
        kept = f"they are in {link.home}: {kept}"
    if holders:
        kept += f", once `kill -CONT {holders[0]}` lets that process go on or it has ended"
    if link.spill is None:
        return kept
    from dbml_magics.core.tracking import handoff

    try:
        package = handoff.put(here) if not holders and here.rest(_REST_S) else None
    except Exception as error:  # whatever it is: the journal still has everything
        cause = getattr(error, "strerror", None) or error
        return f"but they could not be put into {link.spill} ({cause}): {kept}"
    if package is None and holders:
        return kept
    if package is None:
        return f"another process of the link still writes, and sees to them: {kept}"
    return f"they are in {package}: {say(handoff.command(link.spill))} delivers them, from any machine"


class _Failing:
    """Standard error, whose last flush fails: Python's documented way to a code of 120 at its end.

    ``os._exit`` would skip the exit handlers that are still to come (temporary folders, log files), and an
    exception in one of them changes nothing.
    """

    def __init__(self, stream: Any) -> None:
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
        _Termination.thread.join(2 * _LAST_WORDS_S)
    if _Code.fails:
        sys.stderr = _Failing(sys.stderr)


def heed_sigterm(link: Link) -> None:
    """Let SIGTERM end the runs of this process as KILLED, and the process by the signal as before.

    A script ends as by ``sys.exit`` where the link asks for something at the end: a signal's default action
    skips that. A handler of the user's own stays.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    found = signal.getsignal(signal.SIGTERM)
    wished = link.on_undelivered == "fail" or link.spill is not None
    if wished and environment.shell() is None and found in (signal.SIG_DFL, _die):
        signal.signal(signal.SIGTERM, _end)
    elif found is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _die)


def _end(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    _Termination.came = True
    sys.exit(128 + number)


class _Termination:
    """Whether SIGTERM came, and the thread that ends the process by it."""

    came = False
    thread: threading.Thread | None = None
    handler: int | None = None  # what heeds it in C, while the process forks


def is_terminated() -> bool:
    """Tell whether SIGTERM came: whatever ends a run from then on, it is KILLED."""
    return _Termination.came


def _die(number: int, _frame: Any) -> None:
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
        work = threading.Thread(target=_end_runs, name="dbml-end-runs", daemon=True)
        work.start()
        work.join(_LAST_WORDS_S)
    finally:
        os.kill(os.getpid(), number)


def _end_runs() -> None:
    """End the runs of this process, on this disk first, then at the workspaces that answer."""
    ended = end_terminated()
    until = time.monotonic() + _LAST_WORDS_S
    for here, runs in ended:
        for role in here.link.used if runs else ():
            if not here.health[role].away:
                here.wait(role, runs, max(0.0, until - time.monotonic()))


def end_terminated() -> list[tuple[LinkHere, list[str]]]:
    """Where SIGTERM came, end the runs of this process that go on, as KILLED; returns them."""
    if not _Termination.came:
        return []
    active = [run.info.run_id for stack in mlflow_private.active_runs().values() for run in stack]
    ended = [(here, here.open_runs(active)) for here in _Process.links()]
    for here, runs in ended:
        for run_id in runs:
            try:
                here.end_run(run_id, "KILLED")
            except Exception:
                _log.debug("run %s could not be ended", run_id, exc_info=True)
        here.journal.sync_to_disk()
    return ended


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
