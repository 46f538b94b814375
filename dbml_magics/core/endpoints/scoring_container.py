"""What the container of a managed endpoint needs beside the model's own packages.

Azure ML deploys an MLflow model without any code of the user: a server and a scoring script of the service
run in the environment that the model's conda.yaml describes, so it must contain what those two import. The
service changes them without notice. This file is the one place to edit then: what is checked before a
deployment, what ``--add-packages`` adds and how a container's log is explained all follow from the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from dbml_magics.core.destinations.naming import azureml_model_name
from dbml_magics.core.endpoints.environment_files import package_name, read_conda, read_requirements

__all__ = [
    "AS_OF",
    "NEEDS",
    "OPTION",
    "Need",
    "copy_of",
    "doubtful_mlflow",
    "is_copy",
    "is_needed",
    "missing_packages",
    "packages_with",
]

OPTION = "--add-packages"
AS_OF = "June 2026"


@dataclass(frozen=True)
class Need:
    """A package that the container imports when it starts."""

    package: str
    module: str
    imported_by: str
    sources: str
    also_in: tuple[str, ...] = ()  # packages that require this one


NEEDS = (
    Need(
        "azureml-inference-server-http",
        "azureml_inference_server_http",
        "it is the server itself",
        "MicrosoftLearning/mslearn-aml-cli#5",
        also_in=("azureml-defaults",),  # azureml-defaults 1.62.0, Requires-Dist
    ),
    Need(
        "azureml-contrib-services",
        "azureml.contrib.services",
        "the server, in its versions 1.3.0 to 1.3.4",
        "Azure/azureml-examples#3928, #4009, #4034",
    ),
    Need(
        "azureml-ai-monitoring",
        "azureml.ai.monitoring",
        "the service's scoring script, everywhere since 19 May 2026",
        "Azure/azureml-examples#3902, #3904, #3923, #4008, #4031",
    ),
)

# azureml-examples#3873: containers with mlflow 3.7.0 and later end in 502; #4051: with any mlflow 3. In both
# reports azureml-ai-monitoring may have been missing too, so the check warns and does not refuse.
_DOUBTFUL = Version("3.7")


def missing_packages(files: Path) -> list[str]:
    """Return the packages that the container needs and the model's environment does not name.

    The image is built by conda.yaml; requirements.txt counts where there is none.
    """
    named = {package_name(line) for line in _environment(files)}
    return [need.package for need in NEEDS if not named & {need.package, *need.also_in}]


def doubtful_mlflow(files: Path) -> str | None:
    """Return the requirement that brings an MLflow of which broken containers are reported, or None."""
    for line in _environment(files):
        if package_name(line) in ("mlflow", "mlflow-skinny") and _allows_doubtful(line):
            return line
    return None


def _allows_doubtful(line: str) -> bool:
    try:
        specifier = Requirement(line).specifier
        pinned = [Version(each.version) for each in specifier if each.operator in ("==", "===")]
    except (InvalidRequirement, InvalidVersion):
        return False  # "==3.*", or conda's own form
    newest = Version(f"{_DOUBTFUL.major}.999")
    return pinned[0] >= _DOUBTFUL if pinned else specifier.contains(newest)


def _environment(files: Path) -> Sequence[str]:
    conda, _ = read_conda(files)
    return [*conda.packages, *conda.pip] if (files / "conda.yaml").exists() else read_requirements(files)


def copy_of(name: str) -> str:
    """Return the name of a model's copies whose environment has what the container needs."""
    return f"{name}-online"


def is_copy(name: str, label: str) -> bool:
    """Tell whether a model at Azure ML is such a copy of the version that a user calls so."""
    return name == azureml_model_name(copy_of(label.rpartition("/")[0]))


def is_needed(line: str) -> bool:
    """Tell whether a requirement is there for the container alone: nothing on this machine imports it."""
    return package_name(line) in {need.package for need in NEEDS}


def packages_with(module: str) -> list[str]:
    """Return the table's packages that contain a module which a container's log misses."""
    return [need.package for need in NEEDS if f"{need.module}.".startswith(f"{module}.")]
