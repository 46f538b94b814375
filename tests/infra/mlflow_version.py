"""What MLflow's servers answer otherwise since a version: tests expect the answers of the one installed."""

from __future__ import annotations

import mlflow
from packaging.version import Version

NEW_ANSWERS = Version(mlflow.__version__) >= Version("3.17")
"""A NaN equals another one in a batch and none of a filter's numbers, an alias goes with its version, and a
model version of a logged model or of another version is looked up before it is made."""
