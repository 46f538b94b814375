"""Tasks of a Spark that began before the link: they learn of it with their code.

Spark's own process has the environment of its start, and its workers have that one's; on Databricks it is
there before any notebook. What stands in the context's ``environment`` goes to workers with each function.
"""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["tell_tasks"]

_TOLD = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DBML_HOME")


def tell_tasks() -> None:
    """Have functions that are sent to Spark's workers from now on track where this process does.

    Does nothing where there is no Spark context in this process (Spark Connect has none).
    """
    pyspark: Any = sys.modules.get("pyspark")  # where nobody has imported it, there is no context
    context = getattr(getattr(pyspark, "SparkContext", None), "_active_spark_context", None)
    if context is None:
        return
    for name in _TOLD:
        value = os.environ.get(name)
        if value is None:
            context.environment.pop(name, None)
        else:
            context.environment[name] = value
