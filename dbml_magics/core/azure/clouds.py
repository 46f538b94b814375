"""Azure's clouds: public, sovereign and private ones, by the name that ``--cloud`` takes.

The Azure ML libraries read ARM_CLOUD_METADATA_URL while they are imported, and MLflow imports them. A cloud
that is named later is looked up here, and made known to them, so ``--cloud`` works after ``import mlflow``.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from dbml_magics.common.fork_locks import ForkLock
from dbml_magics.common.hints import Remedy
from dbml_magics.core import hosts
from dbml_magics.core.destinations.errors import Unavailable, classify_error
from dbml_magics.errors import BadLink

if TYPE_CHECKING:
    from dbml_magics.core.azure.azureml_mlflow_private import SdkCloud

CLOUD_VARIABLE = "AZUREML_CURRENT_CLOUD"
METADATA_VARIABLE = "ARM_CLOUD_METADATA_URL"
AUTHORITY_VARIABLE = "AZURE_AUTHORITY_HOST"
PUBLIC = "AzureCloud"

# Hosts of Azure ML's services end so in each cloud (azureml-core, service discovery).
_BY_HOST = {
    "azureml.ms": PUBLIC,
    "azure.com": PUBLIC,
    "azureml.us": "AzureUSGovernment",
    "azure.us": "AzureUSGovernment",
    "azure.cn": "AzureChinaCloud",
}
# learn.microsoft.com, azure/machine-learning: the studio of each cloud.
_STUDIOS = {
    PUBLIC: "https://ml.azure.com",
    "AzureUSGovernment": "https://ml.azure.us",
    "AzureChinaCloud": "https://studio.ml.azure.cn",
}
# learn.microsoft.com, entra/identity-platform/authentication-national-cloud; the last two are Germany's
# former cloud and the public cloud's older name.
PUBLIC_AUTHORITIES = frozenset(
    {
        "login.microsoftonline.com",
        "login.microsoftonline.us",
        "login.partner.microsoftonline.cn",
        "login.chinacloudapi.cn",
        "login.microsoftonline.de",
        "login.windows.net",
    }
)
_METADATA_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Cloud:
    """One cloud: where its resource manager, its sign-in and its portal are."""

    name: str
    resource_manager: str
    login: str
    storage_suffix: str
    portal: str
    sdk: SdkCloud | None = None  # azureml-mlflow's own object of it

    @property
    def scope(self) -> str:
        """Return the scope that a token for the resource manager and Azure ML has."""
        return f"{self.resource_manager.rstrip('/')}/.default"

    @property
    def authority(self) -> str:
        """Return the sign-in authority (AZURE_AUTHORITY_HOST overrides the cloud's own)."""
        chosen = os.environ.get(AUTHORITY_VARIABLE) or self.login
        return chosen if "://" in chosen else f"https://{chosen}"

    @property
    def authority_is_public(self) -> bool:
        """Tell whether Microsoft's public instance discovery knows the authority."""
        return urlsplit(self.authority).hostname in PUBLIC_AUTHORITIES

    @property
    def studio(self) -> str | None:
        """Return Azure ML studio's address where it is known without asking the workspace."""
        return _STUDIOS.get(self.name)


_lock = ForkLock()
_read: dict[str | None, dict[str, Cloud]] = {}  # a list is read once a process: an outage shall not hide it


def named(name: str | None, host: str | None = None) -> Cloud:
    """Return the cloud of that name, else the one that the environment or a workspace's host says.

    Raises BadLink for a name that no list has, Unavailable when the list cannot be read.
    """
    known = _known()
    if name is None:
        name = os.environ.get(CLOUD_VARIABLE) or _by_host(host)
        if name not in known:  # a private cloud's list has but its own
            name = next(iter(known)) if os.environ.get(METADATA_VARIABLE) else PUBLIC
    found = known.get(name) or next((c for n, c in known.items() if n.lower() == str(name).lower()), None)
    if found is None:
        near = difflib.get_close_matches(str(name), known, n=1)
        listed = ", ".join(known)
        raise BadLink(
            f"no Azure cloud is called {name!r}; known are {listed}.",
            remedies=[
                Remedy("link", "…", cloud=near[0] if near else next(iter(known))),
                (
                    f"{METADATA_VARIABLE}=https://…/metadata/endpoints",
                    "in the environment: a private cloud's",
                ),
            ],
        )
    return found


def _by_host(host: str | None) -> str:
    ends = ".".join((host or "").partition(":")[0].split(".")[-2:])
    return _BY_HOST.get(ends, PUBLIC)


def _known() -> dict[str, Cloud]:
    """Return the SDK's clouds, or those of ARM_CLOUD_METADATA_URL, which the SDK then knows too."""
    from dbml_magics.core.azure import azureml_mlflow_private

    with _lock:
        url = os.environ.get(METADATA_VARIABLE)
        if url in _read:
            return _read[url]
        if not url:
            listed = azureml_mlflow_private.known_clouds()
        else:
            try:
                answer = hosts.session().get(url, timeout=_METADATA_TIMEOUT_S)
                answer.raise_for_status()
                listed = azureml_mlflow_private.add_clouds(answer.json())
            except (requests.RequestException, ValueError, KeyError, TypeError) as error:
                classified = classify_error(error)
                reason = (
                    classified.reason if isinstance(classified, Unavailable) else f"cannot be read ({error})"
                )
                raise Unavailable(
                    f"not known: the list of clouds at {url} is {reason}", sent=False
                ) from error
        _read[url] = {name: _cloud(found) for name, found in listed.items()}
        return _read[url]


def _cloud(sdk: SdkCloud) -> Cloud:
    return Cloud(
        name=sdk.name,
        resource_manager=sdk.endpoints.resource_manager.rstrip("/"),
        login=sdk.endpoints.active_directory.rstrip("/"),
        storage_suffix=sdk.suffixes.storage_endpoint,
        portal=sdk.endpoints.portal.rstrip("/"),
        sdk=sdk,
    )
