"""What the targets at Azure ML share: the workspace that is deployed to, and the model's version there."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException

from dbml_magics.common.hints import Remedy, amended, corrected, is_typed
from dbml_magics.core.azure.arm import as_error as arm_error
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.versions import TWIN_TAG
from dbml_magics.core.destinations.errors import Unavailable, already_exists, is_missing
from dbml_magics.core.destinations.naming import azureml_model_name
from dbml_magics.core.endpoints.base import Order, Say
from dbml_magics.core.endpoints.environment_files import add_pip_packages
from dbml_magics.core.endpoints.scoring_container import copy_of, missing_packages
from dbml_magics.core.model.mlmodel import Signature
from dbml_magics.core.runs import as_error
from dbml_magics.errors import BadCommand, BadLink, BadName, DbmlError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.model_registry.abstract_store import AbstractStore

    from dbml_magics.core.destinations.azureml import AzuremlWorkspace
    from dbml_magics.core.runtime.engine import Engine

__all__ = [
    "check_registrable",
    "milliseconds",
    "registered",
    "served_by",
    "signature_of",
    "workspace_of",
]

_COPY_TAG, _PACKAGES_TAG = "dbml_copy_of", "dbml_packages"

_signatures: dict[str, Signature | None] = {}  # of a version, which never changes


def workspace_of(engine: Engine, written: str) -> AzuremlWorkspace:
    """Return the workspace to deploy to. Raises BadLink, which quotes the option ``written``."""
    from dbml_magics.core.destinations.azureml import AzuremlWorkspace

    there = engine.workspaces.get("azureml") if "azureml" in engine.link.used else None
    if isinstance(there, AzuremlWorkspace):
        return there
    why = "has no Azure ML workspace" if there is None else f"has {there.place} in Azure ML's place"
    here = corrected(Remedy("deploy", "MODEL", to="local", name="NAME"), to="local", compute=None)
    own = (here, "on this machine, in the same format")
    for command in ("endpoints", "logs", "invoke", "undeploy"):
        if is_typed(command):
            own = (amended(command, "NAME", from_="local"), "on this machine")
    raise BadLink(
        f"{written} is at Azure ML, and the link {why}.",
        remedies=[
            (Remedy("link", subscription="…", resource_group="…", workspace="…"), "links one; or"),
            own,
        ],
    )


def check_registrable(order: Order) -> None:
    """Raise BadCommand or BadName where the model cannot be named at Azure ML as the line says."""
    found = order.model
    if order.model_name is not None and azureml_model_name(order.model_name) != order.model_name:
        raise BadName(
            f"--model-name {order.model_name!r}: Azure ML takes letters, digits, - and _, at most 255.",
            remedies=[
                (
                    order.line.but(model_name=azureml_model_name(order.model_name)),
                    "for example",
                )
            ],
        )
    if found.name is None and order.model_name is None:
        raise BadCommand(
            f"{found.label} is registered nowhere, and Azure ML deploys registered models.",
            remedies=[(order.line.but(model_name="NAME"), "registers it there on the way")],
        )


@dataclass(frozen=True)
class _Registration:
    """How a model that is not at Azure ML as it shall be served is registered there."""

    name: str
    marks: Mapping[str, str]  # tags by which it is found again; none: it cannot be
    tags: Mapping[str, str]
    packages: Sequence[str] = ()  # that its environment files get on the way
    twin: str | None = None


def _registration(order: Order) -> _Registration | None:
    """Return what is to be registered; None where the order's own version is served as it is."""
    found = order.model
    packages = missing_packages(order.files) if order.add_packages else []
    twin = f"{found.workspace}:{found.name}/{found.version}" if found.name else None
    name = order.model_name or str(found.name)
    run = {RUN_TAG: found.run_id} if found.run_id else {}
    if packages:
        marks = {_COPY_TAG: twin or found.uri, _PACKAGES_TAG: " ".join(packages)}
        return _Registration(order.model_name or copy_of(name), marks, {**marks, **run}, packages)
    if found.workspace == "azureml" and found.name == name:
        return None
    source = {"dbml_model": found.uri}
    if twin is not None:
        return _Registration(name, {TWIN_TAG: twin}, {**source, TWIN_TAG: twin, **run}, twin=twin)
    return _Registration(name, source if found.run_id else {}, {**source, **run})


def served_by(engine: Engine, order: Order) -> tuple[str, str] | None:
    """Return (name, version) at Azure ML of what the order serves, or None where it is not there yet.

    The name is the one that Azure ML itself uses. Raises NotPermitted, WorkspaceUnreachable, Refused.
    """
    wanted = _registration(order)
    if wanted is None:
        return azureml_model_name(str(order.model.name)), str(order.model.version)
    with _as_commands_fail(engine, order):
        known = _known(engine, wanted)
    return None if known is None else (azureml_model_name(wanted.name), known)


def registered(engine: Engine, order: Order, say: Say) -> tuple[str, str, str | None]:
    """Return (name, version, note) of the order's model in Azure ML's registry, registered there if need be.

    The name is the one that Azure ML itself uses. A version there carries its twin's name and version and its
    run, and the twin carries the new one's; a copy with more packages is nobody's twin.
    Raises NotPermitted, WorkspaceUnreachable, Refused.
    """
    label, wanted = order.model.label, _registration(order)
    if wanted is None:
        return azureml_model_name(str(order.model.name)), str(order.model.version), None
    there = azureml_model_name(wanted.name)
    with _as_commands_fail(engine, order):
        say("looking for it in Azure ML")
        known = _known(engine, wanted)
        if known is None:
            say("registering it in Azure ML")
            version = _register(engine, order, wanted)
    added = f" with {', '.join(wanted.packages)}" if wanted.packages else ""
    if known is not None:
        return there, known, f"{label}{added} is {there}/{known} in Azure ML"
    what = f"a copy of {label}{added}" if wanted.packages else label
    return there, version, f"{what} is registered in Azure ML as {there}/{version}"


@contextlib.contextmanager
def _as_commands_fail(engine: Engine, order: Order) -> Iterator[None]:
    """Raise the errors of the registry as those of a command."""
    try:
        yield
    except Unavailable as error:
        raise arm_error(error, workspace_of(engine, order.line).id) from error
    except MlflowException as error:
        raise as_error(engine, error, f"registering {order.model.label} in Azure ML") from error


def _known(engine: Engine, wanted: _Registration) -> str | None:
    """Return the version there that carries the registration's marks, or None."""
    if not wanted.marks:
        return None
    for version in _versions(engine.workspaces["azureml"].registry, wanted.name):
        if version.status == "READY" and wanted.marks.items() <= dict(version.tags).items():
            return str(version.version)
    return None


def _versions(store: AbstractStore, name: str) -> list[ModelVersion]:
    try:
        found = store.search_model_versions(f"name='{name}'", max_results=1000)
    except MlflowException as error:
        if isinstance(error, Unavailable) or not is_missing(error):
            raise
        return []
    return sorted(found, key=lambda version: -int(version.version))


def _register(engine: Engine, order: Order, wanted: _Registration) -> str:
    workspace, found = engine.workspaces["azureml"], order.model
    stamp = f"{datetime.now(timezone.utc):%y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    source = f"azureml://artifacts/LocalUpload/{stamp}/model"
    if wanted.packages:
        add_pip_packages(order.files, wanted.packages)
    workspace.artifacts(source).log_artifacts(str(order.files))
    store = workspace.registry
    try:
        store.create_registered_model(wanted.name)
    except MlflowException as error:
        if isinstance(error, Unavailable) or not already_exists(error):
            raise
    run = engine.state.identity("azureml", "run", found.run_id) if found.run_id else None
    tags = [ModelVersionTag(k, v) for k, v in wanted.tags.items()]
    made = store.create_model_version(wanted.name, source, run.actual if run else None, tags)
    if wanted.twin is not None and found.workspace is not None:
        twin = f"{wanted.name}/{made.version}"
        _tell_twin(engine, found.workspace, str(found.name), str(found.version), twin)
    return str(made.version)


def _tell_twin(engine: Engine, role: str, name: str, version: str, twin: str) -> None:
    """Let the version that was deployed name the new one, unless it has a twin, or must not be written."""
    store = engine.workspaces[role].registry
    try:
        if TWIN_TAG not in store.get_model_version(name, version).tags:
            store.set_model_version_tag(name, version, ModelVersionTag(TWIN_TAG, f"azureml:{twin}"))
    except (MlflowException, DbmlError):
        return  # the other way round, the lineage stands in Azure ML


def signature_of(engine: Engine, name: str, version: str) -> Signature | None:
    """Return the signature in the MLmodel of a version in Azure ML, or None where nobody can read it."""
    key = f"{engine.link.key}:{name}/{version}"
    if key not in _signatures:
        try:
            workspace = engine.workspaces["azureml"]
            uri = workspace.registry.get_model_version_download_uri(name, version)
            model = yaml.safe_load(Path(workspace.artifacts(uri).download_artifacts("MLmodel")).read_text())
            _signatures[key] = model.get("signature")
        except (MlflowException, DbmlError, OSError, ValueError, yaml.YAMLError, AttributeError):
            return None
    return _signatures[key]


def milliseconds(written: object) -> int:
    """Parse Azure's timestamps into milliseconds since 1970; 0 where there is none."""
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(written)).replace("Z", "+00:00"))
    except ValueError:
        return 0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)
