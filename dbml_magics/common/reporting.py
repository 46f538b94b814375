"""How a defect of the package is reported."""

from __future__ import annotations

import platform

from dbml_magics._version import __version__

__all__ = ["how_to_report"]


def how_to_report() -> str:
    """Return how to report a defect of ours."""
    return f"To report it, send the traceback and this line to whoever gave you the package: {_versions()}"


def _versions() -> str:
    """Return the versions that a report has to name."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"dbml-magics {__version__}"]
    for package in ("mlflow", "ipython", "azureml-mlflow", "databricks-sdk"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join([*found, f"Python {platform.python_version()}", platform.system()])
