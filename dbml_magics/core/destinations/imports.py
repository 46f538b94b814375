"""What lets threads of ours import, or not, while the user's code is inside MLflow's import hooks.

``mlflow.autolog()`` and ``mlflow.models.evaluate()`` register hooks; for a library that is there already
MLflow 3.15 fires the hook at once and holds its lock meanwhile, while the hook imports. Each import of
another thread holds Python's import lock and asks MLflow's finder, which waits for MLflow's lock: neither
ever goes on. (The hooks of a library that is imported later are fired outside of the lock, by
``notify_module_loaded``, for the same reason.)
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from types import CellType, ModuleType

from mlflow.utils import import_hooks

from dbml_magics.common.log_records import logger

_log = logger(__name__)
_ABSENT = ("dbruntime", "dbruntime.databricks_repl_context")
_lock = threading.Lock()
_done = False


def let_threads_import() -> None:
    """Make imports of any thread safe against MLflow's hooks, and spare each request a vain one; once."""
    global _done
    if _done:
        return
    with _lock:
        if not _done:
            _know_absent()
            for register in (import_hooks.register_post_import_hook, import_hooks.register_import_error_hook):
                if not fire_outside_lock(register):
                    _log.debug("MLflow's %s is another one: left as it is", register)
            _done = True


def _know_absent() -> None:
    """Have Python know that Databricks' runtime is not here: MLflow tries to import it at each request."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ or "dbruntime" in sys.modules:
        return
    if find_spec("dbruntime") is None:
        for name in _ABSENT:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's word for: not to be had


def fire_outside_lock(register: Callable[..., None]) -> bool:
    """Have one of MLflow's ``register…_hook`` fire hooks when it has let its lock go.

    The lock and the function below are cells of MLflow's decorator: replaced there, whoever imported the
    decorated function by name has the new one too. Returns False where MLflow is built otherwise.
    """
    cells = dict(zip(register.__code__.co_freevars, register.__closure__ or (), strict=False))
    inner, lock = cells.get("f"), cells.get("lock")
    if not isinstance(inner, CellType) or not isinstance(lock, CellType):
        return False
    inner.cell_contents = _outside(inner.cell_contents, lock.cell_contents)
    lock.cell_contents = nullcontext()
    return True


def _outside(register: Callable[..., None], lock: AbstractContextManager[object]) -> Callable[..., None]:
    @functools.wraps(register)
    def registered(hook: str | Callable[[ModuleType], None], name: str, overwrite: bool = True) -> None:
        call: Callable[[ModuleType], None] = (
            import_hooks._create_import_hook_from_string(hook) if isinstance(hook, str) else hook
        )
        registering, due = True, list[ModuleType]()

        def later(module: ModuleType) -> None:
            if registering:
                due.append(module)
            else:
                call(module)

        if hasattr(call, "__name__"):
            later.__name__ = call.__name__  # by which MLflow knows the same hook again
        with lock:
            register(later, name, overwrite)
            registering = False
        for module in due:
            call(module)

    return registered
