"""Whether packages can be imported: tried in a child process, so that one which crashes ends no kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import TypedDict

from dbml_magics.common.hints import Remedy
from dbml_magics.core import processes
from dbml_magics.results.doctor import Finding

__all__ = ["MODULES", "look"]

MODULES: dict[str, str] = {
    "mlflow": "mlflow",
    "azureml.mlflow": "azureml-mlflow",
    "azureml.core": "azureml-core",
    "azure.identity": "azure-identity",
    "databricks.sdk": "databricks-sdk",
    "IPython": "ipython",
    "ipywidgets": "ipywidgets",
    "pyspark": "pyspark",
}
"""The modules to import, each with its package."""

_CLOUDS = ("ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD", "DATABRICKS_RUNTIME_VERSION")
"""What importing itself looks at."""

_OPTIONAL = frozenset({"pyspark"})
_CHILD = """
import importlib, json, os, sys, time, warnings
warnings.simplefilter("ignore")
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
def tell(what):
    out.write(json.dumps(what) + "\\n")
    out.flush()
for name in sys.argv[1:]:
    tell({"begins": name})
    began = time.perf_counter()
    try:
        importlib.import_module(name)
        why = ""
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"
    tell({"name": name, "seconds": time.perf_counter() - began, "why": why})
os._exit(0)
"""


def look(until: float, modules: Sequence[str] | None = None) -> Iterator[Finding]:
    """Import each package in a child process, until ``until`` (of ``time.monotonic``)."""
    asked = list(MODULES if modules is None else modules)
    asked = [name for name in asked if name not in _OPTIONAL or _is_installed(name)]
    for name in [name for name in asked if name in sys.modules]:
        asked.remove(name)
        yield Finding("packages", MODULES.get(name, name), cause=f"{_release(name)}, imported here already")
    while asked:
        reports, died = _try(asked, until)
        for each in reports:
            asked.remove(each["name"])
            yield _judged(each["name"], float(each["seconds"]), str(each["why"]))
        if died is not None and asked:
            name = asked.pop(0)
            yield Finding("packages", MODULES.get(name, name), *died, _again(name), "installs it anew")
        if asked and (died is None or time.monotonic() >= until):
            for name in asked:
                late = "its import was not tried: the time was up"
                yield Finding("packages", MODULES.get(name, name), "warning", late, Remedy("doctor"), "again")
            return


class _Report(TypedDict):
    """A line of the child about one import."""

    name: str
    seconds: float
    why: str


def _try(names: Sequence[str], until: float) -> tuple[list[_Report], tuple[str, str] | None]:
    """Return a child process's reports of imports, and (level, why) of the import that ended it."""
    child = subprocess.Popen(
        [*processes.python(_CHILD), *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**processes.bare_environment(), **processes.allowed(os.environ, *_CLOUDS, leads=("MLFLOW_",))},
        text=True,
    )
    late = False
    try:
        out, _ = child.communicate(timeout=max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.kill()
        out, _ = child.communicate()
        late = True
    lines: list[_Report] = [json.loads(line) for line in (out or "").splitlines() if line.startswith("{")]
    reports = [line for line in lines if "name" in line]
    if len(reports) == len(names):
        return reports, None
    if late:
        begun = any("begins" in line for line in lines[-1:])
        why = ("warning", "its import had not ended when the time was up")
        return reports, why if begun else None
    return reports, ("broken", f"importing it ends the process ({_end(child.returncode)})")


def _end(returned: int) -> str:
    if returned >= 0:
        return f"exit code {returned}"
    try:
        return signal.Signals(-returned).name
    except ValueError:
        return f"signal {-returned}"


def _judged(name: str, seconds: float, why: str) -> Finding:
    package = MODULES.get(name, name)
    if not why:
        return Finding("packages", package, cause=f"{_release(name)}, imported in {seconds:.1f} s")
    if "ARM_CLOUD_METADATA_URL" in os.environ and "azureml" in why + name:
        return Finding(
            "packages",
            package,
            "broken",
            f"cannot be imported ({why}); ARM_CLOUD_METADATA_URL names a cloud that does not answer, perhaps",
            "%env ARM_CLOUD_METADATA_URL",
            "shows it; unset it before the notebook starts",
        )
    return Finding("packages", package, "broken", f"cannot be imported ({why})", _again(name), "anew")


def _again(name: str) -> str:
    return f"%pip install --force-reinstall {MODULES.get(name, name)}"


def _release(name: str) -> str:
    try:
        return metadata.version(MODULES.get(name, name))
    except metadata.PackageNotFoundError:
        return "not installed by pip"


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
