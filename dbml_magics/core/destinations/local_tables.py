"""The tables of a database here: MLflow makes them in a second, so later databases begin as a copy of theirs.

The copy stands in the folder of links, one for the version of MLflow that is installed, and has no experiment
in it: MLflow makes the default one anew, with the place for files that is the database's own.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mlflow.version import VERSION

from dbml_magics.common.config import data_home
from dbml_magics.common.disks import private_folder

T = TypeVar("T")
_tables_lock = threading.Lock()


@contextmanager
def making(lock_file: Path | None = None) -> Iterator[None]:
    """Let one thread (and one process, given a file to lock) at a time make a database's tables, quietly.

    Alembic keeps its context in a global, so two databases cannot be made side by side; and what it says
    while it makes an empty one is no news to anybody.
    """
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow.store.db.utils")]
    with _tables_lock, ExitStack() as stack:
        if lock_file is not None:
            handle = stack.enter_context(open(lock_file, "w"))
            fcntl.flock(handle, fcntl.LOCK_EX)
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def begun(database: Path, make: Callable[[], T]) -> T:
    """Make the store of a database, which begins with a copy of its tables where it has none yet.

    Called while :func:`making` holds the database's lock.
    """
    if database.exists():
        return make()
    kept = data_home() / "tables" / f"mlflow-{VERSION}.db"
    if _copy(kept, database):
        return make()
    made = make()
    with suppress(OSError, sqlite3.Error):  # the next database is made as this one was
        _keep(database, kept)
    return made


def _copy(kept: Path, database: Path) -> bool:
    part = database.with_name(f".{database.name}-{os.getpid()}")
    try:
        with open(kept, "rb") as source, open(part, "wb") as target:
            shutil.copyfileobj(source, target)
        with closing(sqlite3.connect(part)) as copy:
            if copy.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError(f"{kept} is damaged")
            copy.execute("SELECT version_num FROM alembic_version")
        part.replace(database)
    except (OSError, sqlite3.Error):
        part.unlink(missing_ok=True)
        return False
    return True


def _keep(database: Path, kept: Path) -> None:
    """Keep a new database's tables in place of those of other versions. Raises OSError, sqlite3.Error."""
    private_folder(kept.parent)
    part = kept.with_name(f".{kept.name}-{os.getpid()}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
            copy.execute("DELETE FROM experiments")
            copy.commit()
        part.replace(kept)
    finally:
        part.unlink(missing_ok=True)
    for other in kept.parent.glob("mlflow-*.db"):
        if other != kept:
            other.unlink(missing_ok=True)
