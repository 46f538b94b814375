"""Check a model before anything is created: one line per check, an error where it cannot work."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from dbml_magics.core.endpoints import scoring_container
from dbml_magics.core.endpoints.environment_files import (
    package_name,
    pip_requirements,
    read_conda,
    read_requirements,
)
from dbml_magics.core.model.mlmodel import MLmodel
from dbml_magics.errors import NotDeployable
from dbml_magics.results.endpoints import Check

__all__ = ["here", "likely_cause", "of_files", "refuse"]

# Not on any public package index, or of use inside a Databricks runtime alone.
_DATABRICKS_ONLY = frozenset(
    {
        "databricks-automl",
        "databricks-feature-store",
        "databricks-runtime",
        "dbutils",
        "feature-store",
        "mlflow-dbstore",
        "pyspark-dbutils",
        "sparkdl",
    }
)
_DATABRICKS_PLACES = re.compile(
    r"(?:^|[\s@:])(?:file:/+)?(?:dbfs:|/dbfs/|/Workspace/|/Volumes/|/databricks/)"
)
_DATABRICKS_BUILD = re.compile(r"\+(?:db|databricks)|\.dbr", re.IGNORECASE)
_OLDEST, _NEWEST = (3, 8), (3, 13)


def of_files(files: Path, mlmodel: MLmodel, *, cloud: bool) -> list[Check]:
    """Look at the model's files, what it requires, its Python and its signature."""
    flavor = (mlmodel.get("flavors") or {}).get("python_function")
    if flavor is None:
        have = ", ".join(mlmodel.get("flavors") or {}) or "none"
        return [Check("files", f"no python_function flavor (it has {have}): it cannot be served", False)]
    missing = [path for path in _named_files(flavor) if not (files / path).exists()]
    if missing:
        return [Check("files", f"{', '.join(missing)} named in MLmodel is not there", False)]
    found = [Check("files", f"{sum(1 for p in files.rglob('*') if p.is_file())} files")]
    conda, problem = read_conda(files)
    # Azure ML builds the image by conda.yaml, and requirements.txt may say something else.
    wanted = list(dict.fromkeys([*read_requirements(files), *conda.pip, *conda.packages]))
    strange = [line for line in [*wanted, *conda.channels] if _is_databricks_only(line)]
    if problem is not None:
        found.append(Check("packages", problem, False if cloud else None))
    elif strange:
        said = f"{', '.join(strange)} exists on Databricks alone"
        found.append(Check("packages", said, False if cloud else None))
    elif not wanted and cloud:
        found.append(
            Check("packages", "neither conda.yaml nor requirements.txt: the image lacks its packages", False)
        )
    found.append(_python(flavor, cloud=cloud))
    if mlmodel.get("signature"):
        found.append(Check("signature", "present"))
    else:
        found.append(
            Check("signature", "none: what is sent cannot be checked; log the model with signature=…", None)
        )
    return found


def here(files: Path) -> list[Check]:
    """Check that this Python has the packages that the model requires."""
    absent, other = [], []
    for line in pip_requirements(files):
        if scoring_container.is_needed(line):
            continue
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            absent.append(line)
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            other.append(f"{line} (here {installed})")
    if absent:
        quoted = " ".join(f"'{line}'" for line in absent)
        return [
            Check(
                "packages here",
                f"{', '.join(absent)} not installed: %pip install {quoted}",
                False,
                ((f"%pip install {quoted}", ""),),
            )
        ]
    if other:
        return [Check("packages here", f"the model was made with {', '.join(other)}", None)]
    packages = read_conda(files)[0].packages
    if packages and not pip_requirements(files):
        said = f"not looked at: conda.yaml asks conda alone for {', '.join(packages[:5])}"
        return [Check("packages here", said, None)]
    return [Check("packages here", "all installed")]


def _is_databricks_only(line: str) -> bool:
    return (
        package_name(line) in _DATABRICKS_ONLY
        or bool(_DATABRICKS_PLACES.search(line))
        or bool(_DATABRICKS_BUILD.search(line.partition("==")[2]))
    )


def _named_files(flavor: Mapping[str, object]) -> list[str]:
    return [
        str(flavor[key]) for key in ("model_path", "data", "python_model") if isinstance(flavor.get(key), str)
    ]


def _python(flavor: Mapping[str, object], *, cloud: bool) -> Check:
    made = str(flavor.get("python_version") or "")
    parts = tuple(int(part) for part in re.findall(r"\d+", made)[:2])
    if len(parts) < 2:
        return Check("python", "the model does not say its version", None)
    if cloud and not _OLDEST <= parts <= _NEWEST:
        return Check("python", f"{made} is no version that the images have", False)
    if not cloud and parts != sys.version_info[:2]:
        return Check("python", f"the model was made with {made}, here is {platform.python_version()}", None)
    return Check("python", made)


def refuse(checks: Sequence[Check], label: str, line: str) -> None:
    """Raise NotDeployable when something cannot work; nothing has been created then."""
    bad = [check for check in checks if check.fine is False]
    if not bad:
        return
    lines = [f"{label} cannot be deployed as it is; nothing was created."]
    lines += [f"  {check.line()}" for check in bad]
    ways = [way for check in bad for way in check.remedies]
    raise NotDeployable("\n".join(lines), remedies=[*ways, (line, "then again")])


def _absent_module(module: str) -> str:
    packages = scoring_container.packages_with(module)
    if not packages:
        return f"a missing package: log the model with it among pip_requirements ({module})"
    return (
        f"the container of a managed endpoint needs {', '.join(packages)} in the model's conda.yaml "
        f"(as of {scoring_container.AS_OF}): {scoring_container.OPTION} adds it"
    )


_CAUSES: tuple[tuple[str, str | Callable[[str], str]], ...] = (
    (  # before the packages that pip then misses
        r"ConnectTimeout|Temporary failure in name resolution|Network is unreachable",
        "no way out to the network: a package index cannot be reached",
    ),
    (r"No module named '?([\w.]+)", _absent_module),
    (r"ImportError: (.{0,120})", "a package of another version: {0}"),
    (r"No matching distribution found for (\S+)", "a package that the index does not have ({0})"),
    (
        r"Could not find a version that satisfies the requirement (\S+)",
        "a package that cannot be installed ({0})",
    ),
    (
        r"Can't get attribute|unpickl|incompatible (?:dtype|pickle)",
        "packages of other versions than the model's",
    ),
    (
        r"ImagePull|pull access denied|manifest unknown|ErrImage",
        "the image cannot be pulled: the registry's access",
    ),
    (
        r"InferencingClientCallFailed",  # azure-cli-extensions#7107, #7660
        "the service still keeps the name of an endpoint that was deleted: another --name, or later",
    ),
    (r"[Qq]uota", "not enough quota: ask for more, or take fewer or smaller instances"),
    (r"Failed to enforce schema|[Ss]chema", "input that does not have the model's schema"),
    (r"MemoryError|OOMKilled|out of memory|ended with -9", "not enough memory"),
    (r"No such file or directory: '?([^'\n]{1,120})", "a file that is not with the model ({0})"),
    (r"ended with -11|Segmentation fault", "a crash in a package's native code"),
)


def likely_cause(lines: Sequence[str]) -> str | None:
    """Return the likely cause of a failure by the last lines of a log, or None."""
    text = "\n".join(lines)
    for pattern, cause in _CAUSES:
        found = re.search(pattern, text)
        if found:
            return cause.format(*found.groups()) if isinstance(cause, str) else cause(*found.groups())
    return None
