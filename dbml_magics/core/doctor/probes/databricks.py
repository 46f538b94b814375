"""What is recorded of Databricks beyond MLflow's interface, measured where that is harmless."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from dbml_magics.common import environment
from dbml_magics.core.destinations.kinds import is_databricks
from dbml_magics.core.doctor.probes.behaviour import repository
from dbml_magics.core.doctor.probes.facts import fact
from dbml_magics.core.doctor.probes.sandbox import Answer, Measured, NotMeasured, Probe, Sandbox

if TYPE_CHECKING:
    from dbml_magics.core.destinations.databricks import DatabricksWorkspace

__all__ = ["PROBES"]

_OWN_TAGS = (
    *("mlflow.ownerId", "mlflow.ownerEmail", "mlflow.experiment.sourceName", "mlflow.experimentType"),
)
_UC = "/api/2.0/mlflow/unity-catalog/"
_FILES = "/api/2.0/fs/files/WorkspaceInternal/Mlflow/Artifacts/"


def _own(sandbox: Sandbox) -> DatabricksWorkspace:
    assert is_databricks(sandbox.workspace)
    return sandbox.workspace


# --- experiments


def _create(sandbox: Sandbox, name: str) -> Answer:
    sandbox.note("experiment", name)
    return sandbox.ask("POST", "experiments/create", {"name": name})


def _found(sandbox: Sandbox, name: str) -> bool:
    return sandbox.ask("GET", "experiments/get-by-name", {"experiment_name": name}).taken


def _experiment_prefix(sandbox: Sandbox) -> Measured:
    plain = sandbox.workspace.experiment_name(f"{sandbox.name}-prefix")
    whole = f"/Workspace{plain}"
    sandbox.note("experiment", plain)
    made = _create(sandbox, whole)
    if not made.taken:
        return Measured("refused", made.said)
    if not _found(sandbox, plain) or _found(sandbox, whole):
        return Measured("kept")
    again = _create(sandbox, whole)
    there = again.code == "RESOURCE_ALREADY_EXISTS"
    return Measured("stripped" if there else "stripped, and made again otherwise", again.said)


def _experiment_exists(sandbox: Sandbox) -> Measured:
    name = sandbox.workspace.experiment_name(sandbox.name)
    sandbox.experiment  # noqa: B018 - made at the first look
    answer = _create(sandbox, name)
    return Measured("taken" if answer.taken else answer.code or str(answer.status), answer.message)


def _experiment_path(sandbox: Sandbox) -> Measured:
    answer = _create(sandbox, sandbox.name)
    if answer.taken:
        return Measured("taken")
    named = "absolute path" in answer.message
    return Measured("an absolute path" if named else "other words", answer.said)


def _experiment_tags(sandbox: Sandbox) -> Measured:
    found = sandbox.must("GET", "experiments/get", {"experiment_id": sandbox.experiment})["experiment"]
    keys = {each["key"] for each in found.get("tags") or []}
    lacks = [key for key in _OWN_TAGS if key not in keys]
    return Measured(f"lacks {', '.join(lacks)}" if lacks else "all four")


def _node_id(sandbox: Sandbox) -> Measured:
    answer = sandbox.ask("GET", "experiments/get", {"experiment_id": "0"})
    if answer.taken:
        raise NotMeasured("an experiment with the id 0 is there")
    named = "Node ID" in answer.message and "does not exist" in answer.message
    return Measured("names the node" if named else "other words", answer.said)


def _notebook_experiment(sandbox: Sandbox) -> Measured:
    place = environment.databricks()
    if place is None or place.notebook is None:
        raise NotMeasured("this is no Databricks notebook")
    status = sandbox.must("GET", "/api/2.0/workspace/get-status", {"path": place.notebook})
    found = sandbox.ask("GET", "experiments/get", {"experiment_id": str(status.get("object_id"))})
    if not found.taken:
        return Measured("another id", found.said)
    same = found.body["experiment"]["name"] == place.notebook
    return Measured("the notebook's own" if same else "another path")


def _permission_levels(sandbox: Sandbox) -> Measured:
    answer = sandbox.ask("GET", f"/api/2.0/permissions/experiments/{sandbox.experiment}")
    readable = answer.taken and bool((answer.body or {}).get("access_control_list"))
    return Measured("readable" if readable else "not readable", "" if readable else answer.said)


# --- files and sign-in


def _files_way(sandbox: Sandbox) -> Measured:
    uri = str(repository(sandbox).artifact_uri)
    experiment, _, run = uri.removeprefix("dbfs:/databricks/mlflow-tracking/").partition("/")
    creds = _own(sandbox).signed_in()
    if creds.token is None:
        raise NotMeasured("this way to sign in shows no token to ask with")
    url = f"{creds.host}{_FILES}{experiment}/Runs/{run}/probe-way.txt"
    status = sandbox.send("PUT", url, creds.token, params={"overwrite": "true"}, data=b"x").status_code
    if status in (200, 204):
        return Measured("Files API")
    asked = {"run_id": sandbox.run, "path": ["probe-way.txt"]}
    signed = sandbox.ask("POST", "artifacts/credentials-for-write", asked)
    return Measured("signed URLs" if signed.taken else "neither", f"the Files API answers {status}")


def _with_token(sandbox: Sandbox, token: str) -> tuple[int, str]:
    url = f"{_own(sandbox).config.host}/api/2.0/mlflow/experiments/search?max_results=1"
    response = sandbox.send("GET", url, token)
    return response.status_code, response.text


def _bad_token(sandbox: Sandbox) -> Measured:
    status, text = _with_token(sandbox, "dapi" + "0" * 32)
    words = " Invalid access token" if "Invalid access token" in text else ""
    return Measured(f"{status}{words}")


def _bad_oauth(sandbox: Sandbox) -> Measured:
    status, _ = _with_token(sandbox, "eyJhbGciOiJSUzI1NiJ9.eyJub25lIjoxfQ.none")
    return Measured(str(status))


def _token_life(sandbox: Sandbox) -> Measured:
    workspace = _own(sandbox)
    if workspace.config.auth_type == "pat":
        raise NotMeasured("the sign-in is a personal access token, which does not say how long it lives")
    workspace.sign_in_anew()  # a token that is fresh has all of its life before it
    config = workspace.config
    try:
        until = config.oauth_token().expiry
        left = (until - datetime.now(until.tzinfo)).total_seconds()
    except Exception as error:  # databricks-sdk's, by the way of signing in
        raise NotMeasured(f"the sign-in ({config.auth_type}) does not say how long it lives") from error
    return Measured(round(left / 60) * 60)


# --- Unity Catalog, in a schema that the user names


def _catalog_model(sandbox: Sandbox) -> str:
    if "catalog-model" not in sandbox.learnt:
        name = f"{sandbox.schema}.{sandbox.name.replace('-', '_')}"
        sandbox.note("catalog-model", name)
        sandbox.must("POST", _UC + "registered-models/create", {"name": name})
        sandbox.learnt["catalog-model"] = name
    return sandbox.learnt["catalog-model"]


def _catalog_tag(sandbox: Sandbox, key: str, value: str = "v") -> bool:
    asked = {"name": _catalog_model(sandbox), "key": key, "value": value}
    return sandbox.ask("POST", _UC + "registered-models/set-tag", asked).taken


def _catalog_tag_keys(sandbox: Sandbox) -> Measured:
    taken = [key for key in ("a_b", "a.b", "a,b", "a-b", "a=b", "a/b", "a:b") if _catalog_tag(sandbox, key)]
    return Measured(" ".join(taken) or "none")


def _catalog_tag_length(sandbox: Sandbox) -> Measured:
    return sandbox.largest(
        lambda length: _catalog_tag(sandbox, "k" * length), fact("databricks", "catalog-tag-length")
    )


def _catalog_tag_value(sandbox: Sandbox) -> Measured:
    return sandbox.largest(
        lambda length: _catalog_tag(sandbox, "long", "v" * length), fact("databricks", "catalog-tag-value")
    )


def _catalog_aliases(sandbox: Sandbox) -> Measured:
    asked = {"name": _catalog_model(sandbox), "alias": "none"}
    answer = sandbox.ask("GET", _UC + "registered-models/alias", asked)
    absent = answer.code in ("ENDPOINT_NOT_FOUND", "FEATURE_DISABLED")
    return Measured("absent" if absent else "there", "" if answer.taken else answer.said)


def _catalog_privileges(sandbox: Sandbox) -> Measured:
    name = quote(_catalog_model(sandbox), safe="")
    call = "/api/2.1/unity-catalog/effective-permissions"
    answer = sandbox.ask("GET", f"{call}/function/{name}")
    return Measured("function") if answer.taken else Measured("refused as a function", answer.said)


PROBES: tuple[Probe, ...] = (
    Probe("experiment-prefix", _experiment_prefix),
    Probe("experiment-exists", _experiment_exists),
    Probe("experiment-path", _experiment_path),
    Probe("experiment-own-tags", _experiment_tags),
    Probe("node-id", _node_id),
    Probe("notebook-experiment", _notebook_experiment),
    Probe("permission-levels", _permission_levels),
    Probe("files-way", _files_way),
    Probe("bad-token", _bad_token),
    Probe("bad-oauth", _bad_oauth),
    Probe("token-life", _token_life),
    Probe("catalog-tag-keys", _catalog_tag_keys),
    Probe("catalog-tag-length", _catalog_tag_length),
    Probe("catalog-tag-value", _catalog_tag_value),
    Probe("catalog-aliases", _catalog_aliases),
    Probe("catalog-privileges", _catalog_privileges),
)
