"""Options of a deployment: the keys of a config file, and which of them each target takes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path

from dbml_magics.common.foreign_text import kind_of
from dbml_magics.common.hints import Remedy, corrected
from dbml_magics.common.secrecy import is_secret_option
from dbml_magics.core.endpoints.shapes import Settings
from dbml_magics.errors import BadCommand

__all__ = ["ACI", "AKS", "ENDPOINT_KEYS", "MANAGED", "ONLINE", "SECTIONS", "read_config"]

_MANAGED_DEPLOYMENT = {
    "type": "managed",
    "instance_type": "the machine, such as Standard_DS3_v2",
    "instance_count": "how many",
    "app_insights_enabled": "send requests and failures to Application Insights",
    "data_collector": "keep inputs and predictions, which drift detection needs",
    "environment_variables": "NAME: value",
    "request_settings": "request_timeout_ms, max_concurrent_requests_per_instance, max_queue_wait_ms",
    "scale_settings": "how the number of instances changes",
    "liveness_probe": "when an instance is started again",
    "readiness_probe": "when an instance gets requests",
}

ENDPOINT_KEYS = {
    "auth_mode": "key (the default), aml_token or aad_token; on local key or none",
    "identity": "the endpoint's managed identity",
    "location": "the region, where it is not the workspace's",
    "mirror_traffic": "deployment: percent of requests that it gets a copy of",
    "public_network_access": "enabled or disabled",
}
"""Keys of a managed endpoint, beside those of its deployments."""

MANAGED = {
    **_MANAGED_DEPLOYMENT,
    **ENDPOINT_KEYS,
    "description": "a few words",
    "tags": "NAME: value",
    "properties": "NAME: value",
}
"""Keys of a managed endpoint and its deployments; ``local`` takes the same, so that a notebook can move."""

ONLINE = {**MANAGED, "egress_public_network_access": "disabled lets the container reach nothing outside"}
"""Keys of a managed endpoint at Azure ML."""

_WEB_SERVICE = {
    "authEnabled": "true (the default) wants a key",
    "appInsightsEnabled": "send requests and failures to Application Insights",
    "containerResourceRequirements": "cpu, memoryInGB",
    "description": "a few words",
    "tags": "NAME: value",
    "properties": "NAME: value",
}

ACI = {
    **_WEB_SERVICE,
    "computeType": "aci",
    "sslEnabled": "answer by https",
    "sslCertificate": "a file",
    "sslKey": "a file",
    "cname": "the name in the certificate",
    "dnsNameLabel": "the first part of the address",
    "vnetName": "a virtual network",
    "subnetName": "its subnet",
    "keys": "primaryKey, secondaryKey",
}
"""Keys of a container instance's web service."""

AKS = {
    **_WEB_SERVICE,
    "computeType": "aks",
    "computeTargetName": "the attached cluster (--compute)",
    "namespace": "the namespace in it",
    "numReplicas": "how many",
    "autoScaler": "autoscaleEnabled, minReplicas, maxReplicas, targetUtilization",
    "gpuCores": "how many",
    "tokenAuthEnabled": "true wants a token in the key's place",
    "scoringTimeoutMs": "how long a request may take",
    "maxConcurrentRequestsPerContainer": "how many",
    "maxQueueWaitMs": "how long a request may wait",
    "livenessProbeRequirements": "when a container is started again",
    "dataCollection": "storageEnabled: keep inputs and predictions, which drift detection needs",
}
"""Keys of a Kubernetes web service of the v1 kind."""


_PROBE = ("failure_threshold", "initial_delay", "period", "success_threshold", "timeout")

SECTIONS: dict[str, tuple[str, ...]] = {
    "request_settings": (
        "max_concurrent_requests_per_instance",
        "max_queue_wait_ms",
        "request_timeout_ms",
    ),
    "liveness_probe": _PROBE,
    "readiness_probe": _PROBE,
    "scale_settings": (
        "max_instances",
        "min_instances",
        "polling_interval",
        "target_utilization_percentage",
        "type",
    ),
    "data_collector": ("collections", "request_logging", "rolling_rate", "sampling_rate"),
    "data_collector.collections.*": ("client_id", "enabled", "sampling_rate"),
    "data_collector.request_logging": ("capture_headers",),
    "identity": ("type", "user_assigned_identities"),
    "containerResourceRequirements": ("cpu", "cpuLimit", "memoryInGB", "memoryInGBLimit"),
    "autoScaler": (
        "autoscaleEnabled",
        "maxReplicas",
        "minReplicas",
        "refreshPeriodInSeconds",
        "targetUtilization",
    ),
    "livenessProbeRequirements": (
        "failureThreshold",
        "initialDelaySeconds",
        "periodSeconds",
        "successThreshold",
        "timeoutSeconds",
    ),
    "dataCollection": ("eventHubEnabled", "storageEnabled"),
    "keys": ("primaryKey", "secondaryKey"),
}
"""The keys within a section of a config file, ``*`` for any name; what is not here takes any."""


def read_config(path: str | Path, legal: Mapping[str, str], target: str) -> Settings:
    """Return a config file's settings. Raises BadCommand for a file that cannot be read or an unknown key."""
    file = Path(path).expanduser()
    whole = Remedy("deploy", "wine/1", to=target, name="wine", config="deploy.yaml")
    example = [(corrected(whole, config="deploy.yaml"), "for example")]
    try:
        written = file.read_text()
    except OSError as error:
        raise BadCommand(
            f"--config {path}: {error.strerror or 'cannot be read'}.", remedies=example
        ) from None
    try:
        if file.suffix == ".json":
            settings = json.loads(written)
        else:
            import yaml

            settings = yaml.safe_load(written)
    except ValueError as error:
        raise BadCommand(f"--config {path} is not JSON: {error}.", remedies=example) from None
    except Exception as error:
        where = " ".join(str(error).split())[:160]
        raise BadCommand(f"--config {path} is not YAML: {where}.", remedies=example) from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise BadCommand(
            f"--config {path} holds {kind_of(settings)}; NAME: value is wanted.", remedies=example
        )
    settings.pop("$schema", None)
    for refused in ("model", "code_configuration", "environment", "endpoint_name", "name"):
        if refused in settings:
            raise BadCommand(
                f"--config {path}: {refused} is not taken from the file: the line says it, or MLflow does.",
                remedies=example,
            )
    for key in settings:
        if key not in legal:
            _refuse(path, str(key), legal, target)
        _look_into(path, str(key), str(key), settings[key])
    return settings


def _look_into(path: str | Path, place: str, rule: str, value: object) -> None:
    """Refuse keys that a section does not have: the service would drop them, and what they were meant for."""
    legal = SECTIONS.get(rule)
    any_name = f"{rule}.*" in SECTIONS
    if not isinstance(value, dict) or (legal is None and not any_name):
        return
    for key, inner in value.items():
        if legal is not None and key not in legal:
            _refuse(path, str(key), dict.fromkeys(legal, f"in {place}"), place)
        _look_into(path, f"{place}.{key}", f"{rule}.*" if any_name else f"{rule}.{key}", inner)


def _refuse(path: str | Path, key: str, legal: Mapping[str, str], target: str) -> None:
    shown = "a key that is not shown" if is_secret_option(key) else repr(key[:40])
    near = difflib.get_close_matches(key, list(legal), n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else ""
    remedies = [(f"{near[0]}: …", legal[near[0]])] if near else []
    raise BadCommand(
        f"--config {path}: {target} knows nothing of {shown}.{hint} It takes {', '.join(sorted(legal))}.",
        remedies=remedies or [(Remedy("help", "deploy"), "what it takes")],
    )
