"""Spark's Python daemon with what scoring needs imported: its workers are forked and begin at once.

Only the Spark that is started here for the user has it (``spark.python.daemon.module``).
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings

__all__: list[str] = []

if __name__ == "__main__":
    # Spark reads the daemon's port from its standard output, where no import may write.
    with warnings.catch_warnings(), contextlib.suppress(ImportError), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        for name in ("mlflow.pyfunc", "pandas", "pyarrow.compute"):
            importlib.import_module(name)
        importlib.import_module("skops.io")  # reads scikit-learn models, and is slow to come
    from pyspark.daemon import manager

    manager()
