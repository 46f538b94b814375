"""The run that was begun for this process; ``mlflow.start_run`` takes it out of the environment.

Imports no MLflow: it is read as MLflow's plugins are loaded.
"""

from __future__ import annotations

import os

JOB_RUN = os.environ.get("MLFLOW_RUN_ID")


def _look_again() -> None:
    """In a forked child: its parent may have named a run for it since its own beginning."""
    global JOB_RUN
    JOB_RUN = os.environ.get("MLFLOW_RUN_ID", JOB_RUN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look_again)
