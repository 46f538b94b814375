"""The engines of this process, one a link, and what becomes of them when the process forks or ends."""

from __future__ import annotations

import os
import threading
import time

from dbml_magics.common.log_records import logger
from dbml_magics.core import mlflow_private
from dbml_magics.core.link import Link, from_uri
from dbml_magics.core.runtime import shutdown
from dbml_magics.core.runtime.engine import Engine, made

_log = logger(__name__)

_engines: dict[str, Engine] = {}
_lock = threading.Lock()


def engine_for(uri: str) -> Engine:
    """Return this process's engine for a ``dbml:`` URI."""
    return engine_of(from_uri(uri))


def engine_of(link: Link) -> Engine:
    """Return this process's engine for a link: one, whatever the mode, as its journal and leases are one."""
    with _lock:
        engine = _engines.get(link.key)
        if engine is None:
            engine = _engines[link.key] = Engine(link)
            heed_sigterm(link)
        return engine


def engine_by_key(key: str) -> Engine | None:
    """Return this process's engine for the link of that key, if it has one."""
    return _engines.get(key)


def known_engines() -> list[Engine]:
    """Return all engines of this process."""
    return list(_engines.values())


def register(engine: Engine) -> None:
    """Let an engine that was made apart be found by its link's key."""
    with _lock:
        _engines[engine.link.key] = engine


def discard(engine: Engine) -> None:
    """Forget the engine of a link that could not be made."""
    with _lock:
        _engines.pop(engine.link.key, None)


# --- the end of the process


def flush_all_at_exit() -> None:
    """Deliver what waits, within the bound, when the process ends."""
    _end_terminated()
    for engine in known_engines():
        engine.exit_flush.flush(engine.link)
    shutdown.settle_exit_code()


def heed_sigterm(link: Link) -> None:
    """Let SIGTERM end the runs of this process as KILLED, as far as the link and the user let it."""
    shutdown.heed_sigterm(link, _end_runs)


def _end_runs() -> None:
    """End the runs of this process, on this disk first, then at the workspaces that answer."""
    ended = _end_terminated()
    until = time.monotonic() + shutdown.LAST_WORDS_S
    for engine, runs in ended:
        answering = [role for role in engine.link.used if not engine.health[role].away]
        engine.waiting.wait_at(dict.fromkeys(answering, runs), max(0.0, until - time.monotonic()))


def _end_terminated() -> list[tuple[Engine, list[str]]]:
    """Where SIGTERM came, end the runs of this process that go on, as KILLED; returns them."""
    if not shutdown.is_terminated():
        return []
    active = [run.info.run_id for stack in mlflow_private.active_runs().values() for run in stack]
    ended = [(engine, engine.own_runs.open_runs(active)) for engine in known_engines()]
    for engine, runs in ended:
        for run_id in runs:
            try:
                engine.own_runs.end_run(run_id, "KILLED")
            except Exception:
                _log.debug("run %s could not be ended", run_id, exc_info=True)
        engine.journal.sync_to_disk()
    return ended


# --- forks


_held = threading.local()


def _before_fork() -> None:
    """Let no thread be inside SQLite while the process forks: its locks would stay closed in the child."""
    _held.states = sorted((engine.state for engine in tuple(_engines.values())), key=id)
    for state in _held.states:
        state.lock.acquire()
    shutdown.before_fork()


def _after_fork_in_parent() -> None:
    shutdown.after_fork_in_parent()
    for state in getattr(_held, "states", []):
        state.lock.release()
    _held.states = []


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _held.states = []
    shutdown.after_fork()
    for engine in list(made):
        engine.after_fork()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
