"""Python and the packages: check their versions by metadata alone.

Nothing is imported here; whether a package can be imported is tried in a child process (:mod:`.imports`).
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from dbml_magics._version import __version__
from dbml_magics.common import hints
from dbml_magics.results.doctor import Finding

__all__ = ["PACKAGES", "python", "requirements", "versions"]

PACKAGES = ("mlflow", "azureml-mlflow", "azureml-core", "databricks-sdk", "ipython", "ipywidgets")
_OPTIONAL = ("pyspark",)
_OLDEST, _NEWEST = (3, 10), (3, 13)
_OUR_GROUPS = {
    "mlflow.tracking_store": "the link's tracking store",
    "mlflow.model_registry_store": "the link's registry",
    "mlflow.artifact_repository": "the link's files",
}
# Why a version that does not fit matters, with the thread that tells.
_WHY = {
    ("azureml-mlflow", "mlflow-skinny"): "logging breaks: azure-sdk-for-python#42626, #43661",
    ("azureml-mlflow", "mlflow"): "logging breaks: azure-sdk-for-python#42626, #43661",
    ("mlflow", "mlflow-skinny"): "MLflow's two halves are of different versions",
    ("mlflow", "mlflow-tracing"): "MLflow's parts are of different versions",
    ("dbml-magics", "mlflow"): "the newest MLflow that azureml-mlflow admits is the cap",
}


def python() -> Iterator[Finding]:
    """Look at the interpreter."""
    found, system = sys.version_info[:2], f"{platform.python_version()} on {platform.system()}"
    if not _OLDEST <= found <= _NEWEST:
        yield Finding(
            "python",
            "Python",
            "broken",
            f"{system}; azureml-core and pyspark have releases for 3.10 to 3.13",
            "python3.11 -m venv .venv",
            "then install into it",
        )
    elif sys.platform == "win32":
        yield Finding("python", "system", "broken", "Windows lacks the journal's file locks", *hints.WSL)
    else:
        yield Finding("python", "Python", cause=f"{system}, {platform.machine()}")


def versions() -> Iterator[Finding]:
    """Look at which packages are there, and at what MLflow finds of ours."""
    yield Finding("packages", "dbml-magics", cause=__version__)
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            yield Finding("packages", name, "broken", "not installed", f"%pip install {name}")
    yield from _mlflow_pair()
    yield from _entry_points()
    yield from _cluster_spark()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _mlflow_pair() -> Iterator[Finding]:
    """Look at MLflow beside azureml-mlflow: the pair that breaks most often."""
    mlflow, plugin = _version("mlflow"), _version("azureml-mlflow")
    if mlflow is None or plugin is None:
        return
    models = "logged models of MLflow 3 at Azure ML go through the link (azure-sdk-for-python#44896)"
    yield Finding("packages", "mlflow and azureml-mlflow", cause=f"{mlflow} and {plugin}; {models}")


def _entry_points() -> Iterator[Finding]:
    for group, what in _OUR_GROUPS.items():
        ours = [point for point in metadata.entry_points(group=group) if point.name == "dbml"]
        if not ours:
            yield Finding(
                "packages",
                f"plugin point {group}",
                "broken",
                f"MLflow does not find {what}: the package is on the path, and not installed",
                "%pip install .",
                "in the package's checkout; then restart the kernel",
            )
            return
        if len({point.value for point in ours}) > 1:
            yield Finding(
                "packages",
                f"plugin point {group}",
                "warning",
                f"two packages say that they are {what}",
                "%pip uninstall -y dbml-magics",
                "as often as it finds one, then install again",
            )
            return
    stores = {point.name for point in metadata.entry_points(group="mlflow.tracking_store")}
    azure = ", azureml: too" if "azureml" in stores else ""
    yield Finding("packages", "plugin points", cause=f"MLflow finds the scheme dbml:{azure}")


def _cluster_spark() -> Iterator[Finding]:
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        return
    try:
        installer = (metadata.distribution("pyspark").read_text("INSTALLER") or "").strip()
    except metadata.PackageNotFoundError:
        return
    if installer in ("pip", "uv"):
        yield Finding(
            "packages",
            "pyspark",
            "warning",
            "pip has put a PySpark beside the cluster's own",
            "%pip uninstall -y pyspark",
            "then restart Python: dbutils.library.restartPython()",
        )


def requirements() -> Iterator[Finding]:
    """Compare the packages' requirements with the installed versions."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name
    except ImportError:
        yield Finding("packages", "packaging", "broken", "not installed", "%pip install packaging")
        return
    clashes = 0
    for name in ("dbml-magics", *PACKAGES, *_OPTIONAL, "mlflow-skinny"):
        try:
            asked = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in asked:
            try:
                need = Requirement(line)
            except InvalidRequirement:
                continue
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            have = _version(need.name)
            if have is not None and need.specifier.contains(have, prereleases=True):
                continue
            clashes += 1
            wanted = str(need.specifier)
            why = _WHY.get((canonicalize_name(name), canonicalize_name(need.name)), "")
            seen = f"{have} is installed" if have else "it is not installed"
            yield Finding(
                "packages",
                f"{name} wants {need.name}{wanted}",
                "warning" if have else "broken",
                f"{seen}{f'; {why}' if why else ''}",
                f'%pip install "{need.name}{wanted}"',
                "then restart the kernel",
            )
    if not clashes:
        pinned = [r for r in (metadata.requires("azureml-core") or []) if re.match(r"packaging", r)]
        note = f" (azureml-core holds back {pinned[0].partition(';')[0].strip()})" if pinned else ""
        yield Finding("packages", "versions", cause=f"fit together{note}")
