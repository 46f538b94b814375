"""What a test may switch, and how the service words a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.infra.service_limits import RateEnforcer
from tests.standins.service import Refusal

ORGANIZATION = "7405605512345678"  # the workspace's id, as in ``?o=``


@dataclass
class Switches:
    """What this workspace can do and how it behaves."""

    token_lifetime: float = 3600.0
    """Seconds that a token lives which is given out from now on."""
    token_delay: float = 0.0
    """Seconds before the token endpoint answers."""
    files_api: bool = True
    """Run artifacts through the Files API; else signed URLs alone."""
    download_urls: bool = True
    """``fs/create-download-url`` exists."""
    workspace_registry: bool = True
    unity_catalog: bool = True
    catalog_files_api: bool = False
    """Files of Unity Catalog's versions through the Files API; else signed URLs (default storage)."""
    signed_lifetime: float = 3600.0
    rates: RateEnforcer = field(default_factory=lambda: RateEnforcer({}))
    """What counts requests a second; RateEnforcer(DATABRICKS_RATES) is the service's own."""
    pending_versions: int = 0
    """So many of the workspace's model versions are being registered by others."""
    half_batches: int = 0
    """So many of the next log-batch requests are written in part and then fail."""


def refuse(status: int, code: str, message: str, **headers: str) -> Refusal:
    """Return a refusal in the service's words."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refusal(status, {"error_code": code, "message": message}, named)


def invalid(message: str) -> Refusal:
    """Return INVALID_PARAMETER_VALUE."""
    return refuse(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> Refusal:
    """Return RESOURCE_DOES_NOT_EXIST."""
    return refuse(404, "RESOURCE_DOES_NOT_EXIST", message)
