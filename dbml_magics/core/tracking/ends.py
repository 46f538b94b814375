"""The end of a process: what is said of writes that wait, where they go, and the exit code."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from dbml_magics import environment
from dbml_magics.hints import say
from dbml_magics.log_records import logger

if TYPE_CHECKING:
    from dbml_magics.core.link import Link
    from dbml_magics.core.tracking.engine import Engine

_log = logger(__name__)

_REST_S = 5.0  # how long a request that is under way may hold up the end, before what waits is put away


class _Code:
    """Whether this process has to end with a code that says so."""

    fails = False


def stopped(pid: int, role: str) -> str:
    """Return what is wrong where a process has a workspace's lease and does not move."""
    return f"process {pid} holds the delivery to {role} and does not move (stopped?)"


def tell(engine: Engine, undelivered: dict[str, int], holders: dict[str, int]) -> None:
    """Say what waits for which workspace and where; put it into the spill folder where there is one.

    ``holders`` are processes that have a workspace's lease and do not move.
    """
    link = engine.link
    reasons = {
        role: stopped(holders[role], role) if role in holders else engine.lines[role].reason
        for role in undelivered
    }
    parts = [
        f"{count:,} {'writes wait' if count > 1 else 'write waits'} for {role}"
        + (f" ({reasons[role]})" if reasons[role] else "")
        for role, count in undelivered.items()
    ]
    where = _where(engine, list(holders.values()))
    if link.on_undelivered == "fail":
        _Code.fails = True
        _log.error("dbml_magics: undelivered: %s; nothing is lost, %s", ", ".join(parts), where)
        return
    for part in parts:
        _log.warning("dbml_magics: %s; nothing is lost, %s", part, where)


def _where(engine: Engine, holders: list[int]) -> str:
    link = engine.link
    folder = link.folder or "the same folder"
    kept = f"they go out with `dbml-magics sync` in {folder} or with the next kernel that links here"
    if link.on_undelivered == "fail":
        kept = f"they are in {link.home}: {kept}"
    if holders:
        kept += f", once `kill -CONT {holders[0]}` lets that process go on or it has ended"
    if link.spill is None:
        return kept
    from dbml_magics.core.tracking import spill

    try:
        package = spill.put(engine) if not holders and engine.rest(_REST_S) else None
    except Exception as error:  # whatever it is: the journal still has everything
        cause = getattr(error, "strerror", None) or error
        return f"but they could not be put into {link.spill} ({cause}): {kept}"
    if package is None and holders:
        return kept
    if package is None:
        return f"another process of the link still writes, and sees to them: {kept}"
    return f"they are in {package}: {say(spill.command(link.spill))} delivers them, from any machine"


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
    """Have the process end with code 120 where a link says that undelivered writes are a failure."""
    if _Code.fails:
        sys.stderr = _Failing(sys.stderr)


def heed_sigterm(link: Link) -> None:
    """Let SIGTERM end a script as ``sys.exit`` does, where the link asks for something at the end.

    A signal's default action skips the end altogether. A handler of the user's own stays, and a notebook's
    kernel has its own way of ending.
    """
    wished = link.on_undelivered == "fail" or link.spill is not None
    if not wished or threading.current_thread() is not threading.main_thread():
        return
    if environment.shell() is None and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    sys.exit(128 + number)


def after_fork() -> None:
    """In a forked child: a signal ends it as it would without the link, since its parent delivers."""
    _Code.fails = False
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
