"""What is recorded of Azure ML beyond MLflow's interface, measured where that is harmless."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import jwt
from azure.storage.blob import BlobBlock

from dbml_magics.core.azure import permissions
from dbml_magics.core.azure.arm import Arm
from dbml_magics.core.azure.diagnosis import Said
from dbml_magics.core.azure.making import Maker, Wish
from dbml_magics.core.azure.names import WorkspaceId
from dbml_magics.core.destinations.azureml_artifacts import AzuremlArtifacts
from dbml_magics.core.destinations.errors import classify_error
from dbml_magics.core.destinations.kinds import is_azureml
from dbml_magics.core.doctor.azure import allowed, may
from dbml_magics.core.doctor.probes.behaviour import repository, through
from dbml_magics.core.doctor.probes.facts import fact
from dbml_magics.core.doctor.probes.sandbox import Answer, Measured, NotMeasured, Probe, Sandbox
from dbml_magics.core.endpoints.rest import API
from dbml_magics.errors import DbmlError, NotPermitted

if TYPE_CHECKING:
    import requests
    from azure.storage.blob import BlobClient

    from dbml_magics.core.destinations.azureml import AzuremlWorkspace

__all__ = ["PROBES", "arm", "own"]

_WRITE = f"{permissions.ML}/workspaces/models/write"


def own(sandbox: Sandbox) -> AzuremlWorkspace:
    """Return the workspace; the probes of this module are Azure ML's."""
    assert is_azureml(sandbox.workspace)
    return sandbox.workspace


def arm(sandbox: Sandbox, method: str, path: str, **more: object) -> requests.Response:
    """Make one request of Resource Manager about a whole path, whatever is answered."""
    sign_in = own(sandbox).sign_in
    base = sign_in.cloud.resource_manager.rstrip("/")
    token = sign_in.get_token(sign_in.cloud.scope).token
    return sandbox.send(method, f"{base}{path}", token, params={"api-version": API}, **more)


def _said(response: requests.Response) -> Said:
    return Said.by(response.status_code, response.text)


# --- runs and experiments


def _run_id_chosen(sandbox: Sandbox) -> Measured:
    chosen = uuid.uuid4().hex
    tags = {"mlflow.runName": "probe"}
    try:
        made = sandbox.workspace.make_run_as(chosen, sandbox.experiment, int(time.time() * 1000), tags)
    except Exception as error:
        raise NotMeasured(f"run history does not answer: {classify_error(error)}") from error
    if made is None:
        return Measured("no run that MLflow's interface shows")
    sandbox.runs.append(made.info.run_id)
    return Measured("under the chosen id" if made.info.run_id == chosen else "under another id")


def _create_experiment(sandbox: Sandbox, name: str) -> Answer:
    sandbox.note("experiment", name)
    return sandbox.ask("POST", "experiments/create", {"name": name})


def _experiment_start(sandbox: Sandbox) -> Measured:
    answer = _create_experiment(sandbox, f"_{sandbox.name}")
    return Measured("taken" if answer.taken else "refused", "" if answer.taken else answer.said)


def _experiment_slash(sandbox: Sandbox) -> Measured:
    name = f"{sandbox.name}/x"
    made = _create_experiment(sandbox, name)
    if not made.taken:
        return Measured("refused", made.said)
    found = sandbox.ask("GET", "experiments/get-by-name", {"experiment_name": name})
    return Measured(f"taken, and {'found' if found.taken else 'not found'} by name")


# --- files


def _artifacts(sandbox: Sandbox) -> AzuremlArtifacts:
    found = repository(sandbox)
    if not isinstance(found, AzuremlArtifacts):
        raise NotMeasured("its files are not Azure ML's artifacts")
    return found


def _artifact_batch(sandbox: Sandbox) -> Measured:
    workspace = own(sandbox)
    creds = workspace.creds("history/v1.0")
    run = sandbox.run

    def take(count: int) -> bool:
        lead = uuid.uuid4().hex[:8]
        paths = [{"path": f"names/{lead}-{number}.txt"} for number in range(count)]
        url = f"{creds.host}/experimentids/{sandbox.experiment}/runs/{run}/artifacts/batch/metadata"
        return sandbox.send("POST", url, creds.token, json={"paths": paths}).status_code == 200

    return sandbox.largest(take, fact("azureml", "artifact-batch"))


def _write_link(sandbox: Sandbox) -> Measured:
    anew = through(lambda: _artifacts(sandbox).links_are_given_anew("probe-link.txt"))
    return Measured("given anew" if anew else "not given anew")


def _blob_blocks(sandbox: Sandbox) -> Measured:
    kept = through(lambda: _artifacts(sandbox).blocks_outlive_their_name("probe-blocks.bin", _block))
    return Measured("they stay" if kept else "they are gone")


def _block(blob: BlobClient) -> list[BlobBlock]:
    name = base64.b64encode(b"00000000").decode()
    blob.stage_block(name, b"x" * 1000, length=1000)
    return [BlobBlock(name)]


def _storage_words(sandbox: Sandbox) -> Measured:
    url = through(lambda: _artifacts(sandbox).account_address("probe-storage.txt"))
    said = _said(sandbox.send("GET", url, params={"comp": "list"}))
    # The doctor takes AuthorizationFailure for a firewall; whoever can log files must not see that.
    firewall = said.code == "AuthorizationFailure"
    return Measured("a firewall's words" if firewall else "no firewall's words", f"{said.status} {said.code}")


# --- sign-in


def _token_life(sandbox: Sandbox) -> Measured:
    workspace = own(sandbox)
    token = workspace.sign_in.get_token(workspace.sign_in.cloud.scope).token
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        return Measured(int(claims["exp"]) - int(claims["iat"]))
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        raise NotMeasured("the token does not say how long it lives") from error


def _register(sandbox: Sandbox, token: str) -> requests.Response:
    name = f"{sandbox.name}-refused"
    sandbox.note("model", name)
    url = f"{own(sandbox).creds().host}/api/2.0/mlflow/registered-models/create"
    return sandbox.send("POST", url, token, json={"name": name})


def _bad_token(sandbox: Sandbox) -> Measured:
    said = _said(_register(sandbox, "none.of.yours"))
    return Measured(str(said.status), f"{said.code} {'in' if said.message else 'without'} words")


def _role_words(sandbox: Sandbox) -> Measured:
    try:
        lacks = not may(allowed(own(sandbox)), _WRITE)
    except Exception as error:
        raise NotMeasured(f"the permissions cannot be listed: {classify_error(error)}") from error
    if not lacks:
        raise NotMeasured("this sign-in may write models: sign in with a role that may not")
    response = _register(sandbox, own(sandbox).creds().token)
    said = _said(response)
    if said.status != 403:
        return Measured(str(said.status), said.code)
    named = permissions.action_in(said.message) is not None
    return Measured(
        "names the action" if named else "no body" if not response.text else "other words", said.code
    )


# --- Resource Manager


def _workspace_shape(sandbox: Sandbox) -> Measured:
    response = arm(sandbox, "GET", own(sandbox).id.path)
    if response.status_code != 200:
        raise NotMeasured(f"the workspace cannot be read: {_said(response).status} {_said(response).code}")
    properties = response.json().get("properties") or {}
    there = {
        "a tracking URI of version 1.0": "/mlflow/v1.0/" in str(properties.get("mlFlowTrackingUri")),
        "a discovery URL": str(properties.get("discoveryUrl")).startswith("https://"),
    }
    lacks = [what for what, found in there.items() if not found]
    return Measured(f"lacks {' and '.join(lacks)}" if lacks else "both")


def _absent(below: str) -> Callable[[Sandbox], Measured]:
    def measure(sandbox: Sandbox) -> Measured:
        where = own(sandbox).id
        path = WorkspaceId(where.subscription, where.group, sandbox.name).path
        said = _said(arm(sandbox, "GET", f"{path}{below}"))
        if said.status in (401, 403):
            raise NotMeasured(f"this sign-in may not ask: {said.status} {said.code}")
        return Measured(f"{said.status} {said.code}", said.message)

    return measure


def _portal_link(sandbox: Sandbox) -> Measured:
    workspace = own(sandbox)
    found: set[str] = set()
    amount = 0
    try:
        for each in Arm(workspace.sign_in, workspace.id.subscription).databricks_workspaces(workspace.id):
            amount += 1
            found |= set((each.properties or {}).get("parameters") or {})
    except DbmlError as error:
        raise NotMeasured(error.message) from error
    if not amount:
        raise NotMeasured("no Databricks workspace of the subscription can be seen")
    if "amlWorkspaceId" in found:
        return Measured("amlWorkspaceId")
    named = [name for name in sorted(found) if "aml" in name.lower() or "machinelearning" in name.lower()]
    if named:
        return Measured("another parameter", ", ".join(named))
    raise NotMeasured("no Databricks workspace of the subscription is linked in the portal")


def _studio_pages(sandbox: Sandbox) -> Measured:
    pages = sandbox.workspace.pages
    page = None if pages is None else pages.run(sandbox.experiment, sandbox.run)
    if page is None:
        raise NotMeasured("the studio's address is not known")
    status = sandbox.send("GET", page).status_code
    return Measured("answers" if status < 400 else f"answers {status}", f"{status} without a sign-in")


def _create_shape(sandbox: Sandbox) -> Measured:
    """Have Resource Manager check what ``--create`` would make; validating makes nothing."""
    where = own(sandbox).id
    maker = Maker(Arm(own(sandbox).sign_in, where.subscription))
    try:
        plan = maker.plan(Wish(WorkspaceId(where.subscription, where.group, sandbox.name)))
        why = maker.validate(plan, sandbox.name)
    except NotPermitted as error:
        raise NotMeasured("this sign-in may not validate a deployment in the group") from error
    except DbmlError as error:
        raise NotMeasured(error.message) from error
    return Measured("not valid" if why else "valid", why)


def _at_location(sandbox: Sandbox, what: str) -> list[dict[str, object]]:
    where = own(sandbox)
    found = arm(sandbox, "GET", where.id.path)
    region = str(found.json().get("location") or "") if found.status_code == 200 else ""
    if not region:
        raise NotMeasured("the workspace's region cannot be read")
    path = f"/subscriptions/{where.id.subscription}/providers/{permissions.ML}/locations/{region}/{what}"
    response = arm(sandbox, "GET", path)
    if response.status_code != 200:
        raise NotMeasured(f"{what} cannot be read: {response.status_code} {_said(response).code}")
    return list(response.json().get("value") or [])


def _usages(sandbox: Sandbox) -> Measured:
    entries = _at_location(sandbox, "usages")
    names = [str((each.get("name") or {}).get("value")) for each in entries]  # type: ignore[attr-defined]
    twice = any(names.count(name) > 1 for name in names)
    total = "TotalDedicatedCores" in names
    found = f"{'twice' if twice else 'once'}, and {'a' if total else 'no'} total"
    kinds = {str(each.get("type", "")).rpartition(f"{permissions.ML}/")[2] for each in entries}
    return Measured(found, ", ".join(sorted(kinds)[:4]))


def _vm_sizes(sandbox: Sandbox) -> Measured:
    entries = _at_location(sandbox, "vmSizes")
    kinds = {str(kind) for each in entries for kind in each.get("supportedComputeTypes") or ()}  # type: ignore[attr-defined]
    return Measured("MIR" if "MIR" in kinds else "no MIR", ", ".join(sorted(kinds)))


PROBES: tuple[Probe, ...] = (
    Probe("run-id-chosen", _run_id_chosen),
    Probe("experiment-start", _experiment_start),
    Probe("experiment-slash", _experiment_slash),
    Probe("artifact-batch", _artifact_batch),
    Probe("write-link", _write_link),
    Probe("blob-blocks", _blob_blocks),
    Probe("storage-words", _storage_words),
    Probe("token-life", _token_life),
    Probe("bad-token", _bad_token),
    Probe("role-words", _role_words),
    Probe("workspace-shape", _workspace_shape),
    Probe("workspace-absent", _absent("")),
    Probe("parent-absent", _absent("/onlineEndpoints/none")),
    Probe("portal-link", _portal_link),
    Probe("studio-pages", _studio_pages),
    Probe("create-shape", _create_shape, 120.0),
    Probe("usages", _usages),
    Probe("vm-sizes", _vm_sizes),
)
