"""What is assumed of Azure ML beyond its limits (the README's table), measured where that is harmless."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import requests
from azure.storage.blob import BlobBlock

from dbml_magics.core import hosts
from dbml_magics.core.azure import permissions
from dbml_magics.core.azure.arm import Arm, Wish
from dbml_magics.core.azure.diagnosis import Said
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.destinations.azureml_artifacts import AzuremlArtifacts
from dbml_magics.core.destinations.errors import classify_error
from dbml_magics.core.destinations.kinds import is_azureml
from dbml_magics.core.doctor.azure import allowed, may
from dbml_magics.core.doctor.probes.sandbox import Measured, NotMeasured, Probe, Sandbox
from dbml_magics.errors import DbmlError, NotPermitted

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

    from dbml_magics.core.destinations.azureml import AzuremlWorkspace

__all__ = ["PROBES"]

_CALL_S = 30.0


def _workspace(sandbox: Sandbox) -> AzuremlWorkspace:
    """Return the workspace; the probes of this module are Azure ML's."""
    assert is_azureml(sandbox.workspace)
    return sandbox.workspace


def _run_id_chosen(sandbox: Sandbox) -> Measured:
    chosen = uuid.uuid4().hex
    tags = {"mlflow.runName": "probe"}
    try:
        made = sandbox.workspace.make_run_as(chosen, sandbox.experiment, int(time.time() * 1000), tags)
    except Exception as error:
        raise NotMeasured(f"run history does not answer: {classify_error(error)}") from error
    if made is None:
        return Measured("run history makes no run that MLflow's interface shows", agrees=False)
    same = made.info.run_id == chosen
    return Measured("the run has the chosen id" if same else "the run has another id", agrees=same)


def _blob_blocks(sandbox: Sandbox) -> Measured:
    run = sandbox.must("GET", "runs/get", {"run_id": sandbox.run})["run"]
    repository = sandbox.workspace.artifacts(run["info"]["artifact_uri"])
    if not isinstance(repository, AzuremlArtifacts):
        raise NotMeasured("its files are not Azure ML's artifacts")
    kept = repository.blocks_outlive_their_name("probe-blocks.bin", _block)
    return Measured("they stay, and can be committed" if kept else "they are gone", agrees=kept)


def _block(blob: BlobClient) -> list[BlobBlock]:
    name = base64.b64encode(b"00000000").decode()
    blob.stage_block(name, b"x" * 1000, length=1000)
    return [BlobBlock(name)]


def _refusal_words(sandbox: Sandbox) -> Measured:
    """Be refused: for a role that lacks, where one does, else for a token that is none."""
    workspace = _workspace(sandbox)
    lacking = ""
    try:
        if not may(allowed(workspace), f"{permissions.ML}/workspaces/models/write"):
            lacking = f"{permissions.ML}/workspaces/models/write"
    except Exception as error:
        raise NotMeasured(f"the permissions cannot be listed: {classify_error(error)}") from error
    creds = workspace.creds()
    token = creds.token if lacking else "none.of.yours"
    response = hosts.session().post(
        f"{creds.host}/api/2.0/mlflow/registered-models/create",
        json={"name": f"{sandbox.name}-refused"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=_CALL_S,
        allow_redirects=False,
    )
    said = Said.by(response.status_code, response.text)
    if not lacking:
        words = f"a token that is none: {said.status} {said.code} {'in' if said.message else 'without'} words"
        return Measured(f"{words}; this sign-in lacks no role, so no 403 was seen", said.status == 401)
    named = permissions.action_in(said.message) is not None
    words = (
        f"a role that lacks: {said.status} {said.code}, {'names' if named else 'does not name'} the action"
    )
    return Measured(words, agrees=said.status == 403)


def _portal_link(sandbox: Sandbox) -> Measured:
    workspace = _workspace(sandbox)
    arm = Arm(workspace.sign_in, workspace.id.subscription)
    found: set[str] = set()
    amount = 0
    try:
        for each in arm.databricks_workspaces(workspace.id):
            amount += 1
            found |= set((each.properties or {}).get("parameters") or {})
    except DbmlError as error:
        raise NotMeasured(error.message) from error
    if not amount:
        raise NotMeasured("no Databricks workspace of the subscription can be seen")
    linked = "amlWorkspaceId" in found
    names = ", ".join(sorted(found)) or "none"
    return Measured(f"parameters of the Databricks workspaces: {names}", agrees=True if linked else None)


def _studio_pages(sandbox: Sandbox) -> Measured:
    page = sandbox.workspace.page(sandbox.experiment, sandbox.run)
    if page is None:
        raise NotMeasured("the studio's address is not known")
    try:
        response = hosts.session().get(page, timeout=_CALL_S, allow_redirects=False)
    except requests.RequestException as error:
        raise NotMeasured(f"the studio does not answer: {classify_error(error)}") from error
    words = f"the run's page answers {response.status_code} without a sign-in; open one to see it"
    return Measured(words, agrees=None if response.status_code < 400 else False)


def _create_shape(sandbox: Sandbox) -> Measured:
    """Have Resource Manager check what ``--create`` would make; validating makes nothing."""
    own = _workspace(sandbox).id
    arm = Arm(_workspace(sandbox).sign_in, own.subscription)
    try:
        plan = arm.plan(Wish(WorkspaceId(own.subscription, own.group, sandbox.name)))
    except DbmlError as error:
        raise NotMeasured(error.message) from error
    try:
        why = arm.validate(plan, sandbox.name)
    except NotPermitted as error:
        raise NotMeasured("this sign-in may not validate a deployment in the group") from error
    return Measured(why or "Resource Manager finds it valid", not why)


def _storage_words(sandbox: Sandbox) -> Measured:
    run = sandbox.must("GET", "runs/get", {"run_id": sandbox.run})["run"]
    repository = sandbox.workspace.artifacts(run["info"]["artifact_uri"])
    if not isinstance(repository, AzuremlArtifacts):
        raise NotMeasured("its files are not Azure ML's artifacts")
    url = repository.account_address("probe-storage.txt")
    response = hosts.session().get(url, params={"comp": "list"}, timeout=_CALL_S, allow_redirects=False)
    said = Said.by(response.status_code, response.text)
    # The doctor takes AuthorizationFailure for a firewall; whoever can log files must not see that.
    return Measured(
        f"anybody's request: {said.status} {said.code}", agrees=said.code != "AuthorizationFailure"
    )


def _probe(name: str, asks: str, assumed: str, measure: Callable[[Sandbox], Measured]) -> Probe:
    return Probe(name, asks, ("azureml",), lambda _: assumed, measure)


PROBES: tuple[Probe, ...] = (
    _probe("run-id-chosen", "a run under an id of the caller's", "taken", _run_id_chosen),
    _probe("blob-blocks", "uncommitted blocks after their name's deletion", "they stay", _blob_blocks),
    _probe("refusal-words", "how a refusal is worded", "the status, at least", _refusal_words),
    _probe("portal-link", "how the portal's link shows", "amlWorkspaceId", _portal_link),
    _probe("studio-pages", "a run's page in the studio", "/runs/ID?wsid=", _studio_pages),
    _probe("create-shape", "what --create would make", "valid", _create_shape),
    _probe("storage-words", "a storage account asked by anybody", "no firewall's words", _storage_words),
)
