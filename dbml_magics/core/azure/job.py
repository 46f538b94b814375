"""Inside an Azure ML job: its workspace, and the token that the service gives every job for it.

The token opens the job's own workspace (its runs, artifacts and models), never Azure Resource Manager
(azureml-core, ``AzureMLTokenAuthentication``), and is renewed by itself, as azureml-core does.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dbml_magics.common.redaction import remember_secrets
from dbml_magics.core.azure.names import WorkspaceId

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

TOKEN = "AZUREML_RUN_TOKEN"
_PLACE = ("AZUREML_ARM_SUBSCRIPTION", "AZUREML_ARM_RESOURCEGROUP", "AZUREML_ARM_WORKSPACE_NAME")
_RENEW_BEFORE_S = 600.0
_TIMEOUT_S = 10.0


def has_token() -> bool:
    """Tell whether the code runs in a job that was given a token."""
    return bool(os.environ.get("AZUREML_RUN_ID") and os.environ.get(TOKEN))


def workspace() -> tuple[str, WorkspaceId] | None:
    """Return the host and the workspace of the job that this is, or None where it does not say."""
    host = urlsplit(os.environ.get("AZUREML_SERVICE_ENDPOINT", "")).netloc
    parts = [os.environ.get(name, "") for name in _PLACE]
    return (host, WorkspaceId(*parts)) if host and all(parts) else None


class JobToken:
    """The job's token as a credential; renewed at run history while the last one still counts."""

    def __init__(self) -> None:
        self._token = os.environ.get(TOKEN, "")

    def get_token(self, *_scopes: str, **_: object) -> AccessToken:
        """Return the token. Raises CredentialUnavailableError."""
        import jwt
        from azure.core.credentials import AccessToken
        from azure.identity import CredentialUnavailableError

        try:
            expiry = _expiry(self._token)
            if expiry - time.time() < _RENEW_BEFORE_S:
                self._token = self._renewed() or self._token
                expiry = _expiry(self._token)
        except (jwt.PyJWTError, KeyError, ValueError) as error:
            raise CredentialUnavailableError(message=f"{TOKEN} is not set to a token") from error
        if expiry <= time.time():
            raise CredentialUnavailableError(message="the job's token has run out and was not renewed")
        remember_secrets(self._token)
        return AccessToken(self._token, expiry)

    def _renewed(self) -> str | None:
        """Request the job's next token from run history; None where it issues none now."""
        import requests

        from dbml_magics.core import hosts

        place, run = workspace(), os.environ.get("AZUREML_RUN_ID")
        experiment = os.environ.get("AZUREML_EXPERIMENT_ID")
        if place is None or not run or not experiment:
            return None
        host, own = place
        url = f"https://{host}/history/v1.0{own.path}/experimentids/{experiment}/runs/{run}/token"
        try:
            answer = hosts.session().get(
                url, headers={"Authorization": f"Bearer {self._token}"}, timeout=_TIMEOUT_S
            )
            reply = answer.json() if answer.status_code == 200 else {}
        except (requests.RequestException, ValueError):
            return None
        return str(reply["token"]) if isinstance(reply, dict) and reply.get("token") else None


def _expiry(token: str) -> int:
    import jwt

    claims = jwt.decode(token, options={"verify_signature": False, "verify_aud": False})
    return int(claims["exp"])
