"""What a refusal of Databricks means: its cause, the permission level that is missing, what to do next.

Levels and privileges as in learn.microsoft.com azure/databricks/security/auth/access-control and
azure/databricks/data-governance/unity-catalog/manage-privileges/privileges.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow.exceptions import RestException

from dbml_magics.common.hints import Remedy
from dbml_magics.core.destinations.errors import Unavailable

if TYPE_CHECKING:
    import requests


class Permission(NamedTuple):
    """What a call needs, and on what."""

    level: str
    on: str

    def __str__(self) -> str:
        return f"{self.level} on {self.on}"


_READ = Permission("CAN READ", "the experiment")
_EDIT = Permission("CAN EDIT", "the experiment")
_MANAGE = Permission("CAN MANAGE", "the experiment")
_FOLDER = Permission("CAN MANAGE", "the experiment's folder")
_READ_MODEL = Permission("CAN READ", "the registered model")
_EDIT_MODEL = Permission("CAN EDIT", "the registered model")
_STAGES = Permission("CAN MANAGE STAGING VERSIONS (or PRODUCTION VERSIONS)", "the registered model")
_MANAGE_MODEL = Permission("CAN MANAGE", "the registered model")
_UC = "USE CATALOG, USE SCHEMA and "
_UC_CREATE = Permission(_UC + "CREATE MODEL", "the schema")
_UC_VERSION = Permission(_UC + "CREATE MODEL VERSION (or its ownership)", "the model")
_UC_TAG = Permission(_UC + "APPLY TAG", "the model")
_UC_OWN = Permission(_UC + "MANAGE (or its ownership)", "the model")
_UC_READ = Permission(_UC + "EXECUTE", "the model")

# (methods, path, what it needs); the first that fits.
PERMISSIONS: tuple[tuple[str, str, Permission], ...] = (
    ("POST", r"/workspace/mkdirs", _FOLDER),
    ("POST", r"/unity-catalog/registered-models/create", _UC_CREATE),
    ("POST|DELETE", r"/unity-catalog/.*/(set-tag|delete-tag)", _UC_TAG),
    (
        "POST",
        r"/unity-catalog/(model-versions/(create|finalize|generate-temporary)|permissions)",
        _UC_VERSION,
    ),
    ("POST|PATCH|DELETE", r"/unity-catalog/", _UC_OWN),
    ("GET", r"/unity-catalog/|/fs/.*/Models/", _UC_READ),
    ("POST", r"/registered-models/create", Permission("the entitlement Workspace access", "the workspace")),
    ("POST", r"/model-versions/transition-stage", _STAGES),
    ("POST|DELETE", r"/registered-models/(rename|delete)$|/model-versions/delete$", _MANAGE_MODEL),
    ("POST|PATCH|DELETE", r"/(registered-models|model-versions)/", _EDIT_MODEL),
    ("GET", r"/(registered-models|model-versions)/", _READ_MODEL),
    ("POST", r"/experiments/(create|update)", _FOLDER),
    ("POST", r"/experiments/(delete|restore)", _MANAGE),
    ("POST", r"/(experiments|runs|logged-models|traces)/(search|get)", _READ),
    ("POST|PATCH|DELETE|PUT", r"/(experiments|runs|logged-models|traces|fs)\b|credentials-for-write", _EDIT),
    (".*", r"", _READ),
)

# What the workspace lacks or takes no more of, whoever asks; told by 400, 403 or 404 (databricks/cli,
# experimental/air/cmd/logs_test.go and image_credentials_test.go, libs/template/helpers.go).
_LACKING = frozenset({"FEATURE_DISABLED", "METASTORE_DOES_NOT_EXIST", "RESOURCE_LIMIT_EXCEEDED"})
_SIGNED_OUT = re.compile(r"invalid access token|token (is |has )?(expired|been revoked)|expired token", re.I)


def permission_for(method: str, path: str) -> Permission:
    """Return what a call of the service needs."""
    return next(
        p for methods, where, p in PERMISSIONS if re.fullmatch(methods, method) and re.search(where, path)
    )


def is_signed_out(status: int, said: str) -> bool:
    """Tell whether a refusal is about the sign-in as a whole: Databricks answers 403 to tokens it ended."""
    return status == 401 or (status == 403 and _SIGNED_OUT.search(said) is not None)


def judge(uri: str, response: requests.Response, method: str, endpoint: str) -> Exception | None:
    """Return why a request was not permitted, with what to do, or None where the status says it all.

    MLflow's refusal is returned for what the workspace lacks: no permission gives it, and no thing of that
    name is missing there.
    """
    if (lacking := _lacking(response)) is not None:
        return lacking
    if response.status_code not in (401, 403):
        return None
    return not_permitted(uri, response.status_code, _message(response.text), method, endpoint)


def not_permitted(uri: str, status: int, said: str, method: str, endpoint: str) -> Unavailable:
    """Return what a 401 or 403 means for the workspace at ``uri``."""
    if is_signed_out(status, said):
        return Unavailable(
            f"the sign-in is over ({status}{': ' + said if said else ''})",
            sent=False,
            denied=True,
            remedies=signing_in(uri),
        )
    if "ip access list" in said.lower() or "public network" in said.lower():
        return Unavailable(
            f"refused from this network ({status}: {said})",
            sent=False,
            denied=True,
            remedies=((Remedy("link", again=True), "from a network that the workspace's access list names"),),
        )
    needed = permission_for(method, endpoint)
    return Unavailable(
        f"not permitted ({status}{': ' + said if said else ''}): it needs {needed}",
        sent=False,
        denied=True,
        remedies=(
            (f"Permissions, {needed.level}", f"on the page of {needed.on}, by its owner or an administrator"),
            (Remedy("sync"), "what waits is tried again by itself, and goes out once it is given"),
        ),
    )


def no_token(uri: str, said: str) -> Unavailable:
    """Return what it means that the SDK finds no sign-in, or gets no token for it."""
    refused = re.search(r"invalid_client|invalid_grant|unauthorized|credential", said, re.I) is not None
    return Unavailable(
        f"no token to be had ({said})",
        sent=False,
        denied=refused,
        remedies=signing_in(uri) if refused else (),
    )


def signing_in(uri: str) -> tuple[tuple[str, str], ...]:
    """Return how to sign in again to the workspace at ``uri``."""
    profile = uri.removeprefix("databricks").removeprefix("://")
    option = f" --profile {profile}" if profile else ""
    return (
        (
            f"databricks auth login{option}",
            "in a terminal; or put a new token (secret) into the profile or the environment, then",
        ),
        (Remedy("link", again=True), "signs in anew; what waits goes out"),
    )


def _lacking(response: requests.Response) -> Exception | None:
    content = _content(response.text) if response.status_code in (400, 403, 404) else {}
    code = str(content.get("error_code"))
    if code not in _LACKING:
        return None
    if code == "METASTORE_DOES_NOT_EXIST":  # no code of MLflow's, which looks for the word in the message
        content = {"error_code": "FEATURE_DISABLED", "message": f"{code}: {content.get('message', '')}"}
    refused: Exception = RestException(content)
    return refused


def _message(body: str) -> str:
    content = _content(body)
    said = content.get("message") or content.get("error_description")
    return " ".join(str(said or "").split())[:200]


def _content(body: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
