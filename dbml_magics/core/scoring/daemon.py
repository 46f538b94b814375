"""Spark's Python daemon with scoring's imports done: its workers are forked and start at once.

They run models, so they get a list of the environment, without secrets (``processes.allowed``), and import
from the current folder what no package has: a model may have been pickled by reference to a module there.

Only the Spark that is started here for the user has it (``spark.python.daemon.module``). It starts a daemon
for each environment that functions are sent with; those of SQL, which models are, say so in theirs.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__: list[str] = []

_OF_SQL = "SPARK_SIMPLIFIED_TRACEBACK"  # set for SQL's functions alone, as spark.py has Spark do
_SPARKS = ("SPARK_", "PYSPARK_", "PYTHON_", "ARROW_", "MLFLOW_", "DBML_")


class _Beside(importlib.abc.MetaPathFinder):
    """Find modules of a folder that no other finder knows.

    (At the end of the path they would still come before namespace packages, as ``azure`` is.)
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module is, if the folder has it."""
        return PathFinder.find_spec(fullname, [self.folder], target) if path is None else None


def isolate() -> None:
    """Leave what a model does not need: secrets, and modules of the current folder before packages."""
    from dbml_magics.common.config import passed_variables
    from dbml_magics.core import processes

    own = ("PYTHON_WORKER_FACTORY_SECRET", "SPARK_AUTH_SOCKET_TIMEOUT")
    kept = processes.allowed(os.environ, *own, *passed_variables(), leads=_SPARKS)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]
    sys.meta_path.append(_Beside(os.getcwd()))


if __name__ == "__main__":
    isolate()
    # A daemon for RDDs, which createDataFrame makes of rows, would keep its first task waiting for nothing.
    wanted = ("mlflow.pyfunc", "pandas", "pyarrow.compute", "skops.io") if _OF_SQL in os.environ else ()
    # Spark reads the daemon's port from its standard output, where no import may write.
    with warnings.catch_warnings(), contextlib.suppress(ImportError), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        for name in wanted:  # skops, which not everybody has, reads scikit-learn models
            importlib.import_module(name)
    from pyspark.daemon import manager

    manager()
