"""What the targets at Azure ML share: the workspace that is deployed to, and the model's version there."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException

from dbml_magics.common.hints import Remedy
from dbml_magics.core.azure.arm import as_error as arm_error
from dbml_magics.core.delivery.writers.ids import RUN_TAG
from dbml_magics.core.delivery.writers.versions import TWIN_TAG
from dbml_magics.core.destinations.errors import Unavailable, already_exists, is_missing
from dbml_magics.core.destinations.naming import azureml_model_name
from dbml_magics.core.endpoints.base import Order, Say
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
    "signature_of",
    "workspace_of",
]

_signatures: dict[str, Signature | None] = {}  # of a version, which never changes


def workspace_of(engine: Engine, written: str) -> AzuremlWorkspace:
    """Return the workspace to deploy to. Raises BadLink, which quotes the option ``written``."""
    from dbml_magics.core.destinations.azureml import AzuremlWorkspace

    there = engine.workspaces.get("azureml") if "azureml" in engine.link.used else None
    if isinstance(there, AzuremlWorkspace):
        return there
    why = "has no Azure ML workspace" if there is None else f"has {there.place} in Azure ML's place"
    raise BadLink(
        f"{written} deploys to Azure ML, and the link {why}.",
        remedies=[
            (Remedy("link", subscription="…", resource_group="…", workspace="…"), "links one; or"),
            (Remedy("deploy", "MODEL", to="local", name="NAME"), "on this machine, in the same format"),
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


def registered(engine: Engine, order: Order, say: Say) -> tuple[str, str, str | None]:
    """Return (name, version, note) of the order's model in Azure ML's registry, registered there if need be.

    The name is the one that Azure ML itself uses.

    The version there carries its twin's name and version and its run, and the twin carries the new one's.
    Raises NotPermitted, WorkspaceUnreachable, Refused.
    """
    found, store = order.model, engine.workspaces["azureml"].registry
    name = order.model_name or str(found.name)
    there = azureml_model_name(name)
    if found.workspace == "azureml" and found.name == name:
        return there, str(found.version), None
    say("looking for it in Azure ML")
    try:
        twin = f"{found.workspace}:{found.name}/{found.version}" if found.name else None
        known = _twin(engine, order, name, twin)
        if known is not None:
            return there, known, f"{found.label} is {there}/{known} in Azure ML"
        say("registering it in Azure ML")
        version = _register(engine, order, store, name, twin)
    except Unavailable as error:
        raise arm_error(error, workspace_of(engine, order.line).id) from error
    except MlflowException as error:
        raise as_error(engine, error, f"registering {found.label} in Azure ML") from error
    return there, version, f"{found.label} is registered in Azure ML as {there}/{version}"


def _twin(engine: Engine, order: Order, name: str, twin: str | None) -> str | None:
    """Return the version there that was made of the same one, or None."""
    run = order.model.run_id
    if twin is None and run is None:
        return None
    source = order.model.uri
    for version in _versions(engine.workspaces["azureml"].registry, name):
        if version.status != "READY":
            continue
        if twin is not None and version.tags.get(TWIN_TAG) == twin:
            return str(version.version)
        if twin is None and version.tags.get("dbml_model") == source:
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


def _register(engine: Engine, order: Order, store: AbstractStore, name: str, twin: str | None) -> str:
    workspace, found = engine.workspaces["azureml"], order.model
    stamp = f"{datetime.now(timezone.utc):%y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    source = f"azureml://artifacts/LocalUpload/{stamp}/model"
    workspace.artifacts(source).log_artifacts(str(order.files))
    try:
        store.create_registered_model(name)
    except MlflowException as error:
        if isinstance(error, Unavailable) or not already_exists(error):
            raise
    run = engine.state.identity("azureml", "run", found.run_id) if found.run_id else None
    tags = {"dbml_model": found.uri}
    if twin:
        tags[TWIN_TAG] = twin
    if found.run_id:
        tags[RUN_TAG] = found.run_id
    made = store.create_model_version(
        name, source, run.actual if run else None, [ModelVersionTag(k, v) for k, v in tags.items()]
    )
    if twin is not None and found.workspace is not None:
        _tell_twin(engine, found.workspace, str(found.name), str(found.version), f"{name}/{made.version}")
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
