"""A config file's settings in the words of Resource Manager: endpoints and their deployments."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dbml_magics.core.endpoints.settings import ENDPOINT_KEYS
from dbml_magics.core.endpoints.shapes import ArmResource, Settings
from dbml_magics.errors import BadCommand

__all__ = [
    "AUTH",
    "CREATE_ONLY",
    "DEFAULT_SIZE",
    "changed_endpoint",
    "deployment_properties",
    "endpoint_body",
    "includes",
    "merged",
    "only_of_endpoint",
    "refuse_incomplete",
]

DEFAULT_SIZE = "Standard_DS3_v2"
"""The machine where nobody names one: the smallest that Microsoft's own examples deploy MLflow models to."""

AUTH = {"key": "Key", "aml_token": "AMLToken", "aad_token": "AADToken"}

CREATE_ONLY = {"instanceType": "instance_type"}
"""Properties of a deployment that the service takes once and then leaves as they are, without a word.

It marks them x-ms-mutability create, read (mfe.json, 2024-10-01 and 2025-12-01; AML-Kubernetes#247).
"""

_PLAIN = {
    "app_insights_enabled": "appInsightsEnabled",
    "description": "description",
    "instance_type": "instanceType",
    "properties": "properties",
}
_PROBE = {"failure_threshold": "failureThreshold", "success_threshold": "successThreshold"}
_PROBE_SECONDS = {"initial_delay": "initialDelay", "period": "period", "timeout": "timeout"}
_EXAMPLES = {
    "request_settings": "request_settings: {request_timeout_ms: 5000}",
    "liveness_probe": "liveness_probe: {initial_delay: 30, period: 10}",
    "readiness_probe": "readiness_probe: {initial_delay: 30, period: 10}",
    "scale_settings": "scale_settings: {type: target_utilization, min_instances: 1, max_instances: 3}",
    "data_collector": "data_collector: {collections: {model_inputs: {enabled: true}}}",
    "environment_variables": "environment_variables: {OMP_NUM_THREADS: 1}",
}


def endpoint_body(given: Settings, location: str) -> dict[str, object]:
    """Return the body that creates an endpoint; by default with a key and a system-assigned identity."""
    auth = str(given.get("auth_mode") or "key").lower()
    if auth not in AUTH:
        raise BadCommand(
            f"auth_mode {auth[:30]!r}: a managed endpoint asks for a key, an aml_token or an aad_token.",
            remedies=[("auth_mode: key", "in the config file")],
        )
    properties: dict[str, object] = {
        "authMode": AUTH[auth],
        # As azureml-mlflow marks them, whose client then shows and asks them like its own.
        "properties": {"azureml.mlflow_client_endpoint": "True"},
    }
    if given.get("description"):
        properties["description"] = str(given["description"])
    if given.get("public_network_access"):
        properties["publicNetworkAccess"] = str(given["public_network_access"]).capitalize()
    return {
        "location": str(given.get("location") or location),
        "identity": _identity(given.get("identity")),
        "tags": dict(given.get("tags") or {}),
        "properties": properties,
    }


def _identity(given: object) -> dict[str, object]:
    if given is None or (isinstance(given, dict) and given.get("type") in (None, "system_assigned")):
        return {"type": "SystemAssigned"}
    named = given.get("user_assigned_identities") if isinstance(given, dict) else None
    ids = [each.get("resource_id") if isinstance(each, dict) else each for each in named or []]
    if not ids:
        raise BadCommand(
            "identity is system_assigned, or user_assigned with user_assigned_identities.",
            remedies=[("identity: {type: system_assigned}", "in the config file")],
        )
    return {"type": "UserAssigned", "userAssignedIdentities": {str(each): {} for each in ids}}


def changed_endpoint(shown: ArmResource, **properties: object) -> dict[str, object]:
    """Return an endpoint as it is, with other properties: PATCH takes its tags alone, traffic goes by PUT."""
    own: Mapping[str, object] = shown.get("properties") or {}
    kept = ("authMode", "description", "properties", "publicNetworkAccess", "traffic", "mirrorTraffic")
    identity = dict(shown.get("identity") or {"type": "SystemAssigned"})
    for key in ("principalId", "tenantId"):
        identity.pop(key, None)
    return {
        "location": shown.get("location"),
        "identity": identity,
        "tags": shown.get("tags") or {},
        "properties": {**{key: own[key] for key in kept if own.get(key) is not None}, **properties},
    }


def deployment_properties(given: Settings) -> dict[str, object]:
    """Return the properties of a deployment for Resource Manager, which writes times as ISO 8601."""
    properties: dict[str, object] = {}
    for key, value in given.items():
        if key in _PLAIN:
            properties[_PLAIN[key]] = value
        elif key in _EXAMPLES:
            if not isinstance(value, dict):
                raise BadCommand(
                    f"{key} wants NAME: value.", remedies=[(_EXAMPLES[key], "in the config file")]
                )
            properties.update(_SECTIONS[key](value))
        elif key == "egress_public_network_access":
            properties["egressPublicNetworkAccess"] = str(value).capitalize()
    return properties


def _number(value: object, key: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadCommand(
            f"{key} wants a whole number from {least} on.",
            remedies=[(f"{key}: {max(least, 10)}", "in the config file")],
        )
    return int(value)


def _probe(value: Settings) -> dict[str, object]:
    counts: dict[str, object] = {_PROBE[key]: _number(value[key], key, 1) for key in _PROBE if key in value}
    seconds = {name: f"PT{_number(value[key], key)}S" for key, name in _PROBE_SECONDS.items() if key in value}
    return {**counts, **seconds}


def _requests(value: Settings) -> dict[str, object]:
    properties: dict[str, object] = {}
    key = "max_concurrent_requests_per_instance"
    if key in value:
        properties["maxConcurrentRequestsPerInstance"] = _number(value[key], key, 1)
    for key, name in (("request_timeout_ms", "requestTimeout"), ("max_queue_wait_ms", "maxQueueWait")):
        if key in value:
            properties[name] = f"PT{_number(value[key], key) / 1000:g}S"
    return properties


def _scale(value: Settings) -> dict[str, object]:
    kind = str(value.get("type") or ("default" if not value else "target_utilization")).lower()
    if kind not in ("default", "target_utilization"):
        raise BadCommand(
            "scale_settings: type is default or target_utilization.",
            remedies=[(_EXAMPLES["scale_settings"], "in the config file")],
        )
    if kind == "default":
        return {"scaleType": "Default"}
    properties: dict[str, object] = {"scaleType": "TargetUtilization"}
    for key, name in (
        ("min_instances", "minInstances"),
        ("max_instances", "maxInstances"),
        ("target_utilization_percentage", "targetUtilizationPercentage"),
    ):
        if key in value:
            properties[name] = _number(value[key], key, 1)
    if "polling_interval" in value:
        properties["pollingInterval"] = f"PT{_number(value['polling_interval'], 'polling_interval', 1)}S"
    return properties


def _collector(value: Settings) -> dict[str, object]:
    given = value.get("collections") or {}
    if not isinstance(given, dict) or ("sampling_rate" in value and not given):
        raise BadCommand(
            "data_collector: collections wants NAME: {enabled: true}; sampling_rate is of those named.",
            remedies=[(_EXAMPLES["data_collector"], "in the config file")],
        )
    properties: dict[str, object] = {}
    collections: dict[str, object] = {}
    for name, each in given.items():
        each = each if isinstance(each, dict) else {"enabled": each}
        on = str(each.get("enabled", True)).lower() in ("true", "enabled", "1")
        rate = each.get("sampling_rate", value.get("sampling_rate"))
        made: dict[str, object] = {"dataCollectionMode": "Enabled" if on else "Disabled"}
        made |= {} if rate is None else {"samplingRate": _rate(rate)}
        made |= {"clientId": str(each["client_id"])} if each.get("client_id") else {}
        collections[str(name)] = made
    if collections:
        properties["collections"] = collections
    if value.get("rolling_rate"):
        properties["rollingRate"] = str(value["rolling_rate"]).capitalize()
    logged = value.get("request_logging")
    if isinstance(logged, dict) and "capture_headers" in logged:
        properties["requestLogging"] = {
            "captureHeaders": [str(each) for each in logged["capture_headers"] or []]
        }
    return properties


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise BadCommand(
            "sampling_rate wants a number above 0, at most 1.",
            remedies=[("sampling_rate: 0.5", "in the config file")],
        )
    return float(value)


def merged(kept: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """Merge wanted properties into a deployment's own; keys that are not named stay, in sections too."""
    found = dict(kept)
    for key, value in wanted.items():
        before = found.get(key)
        if (
            isinstance(before, dict)
            and isinstance(value, dict)
            and (key != "scaleSettings" or before.get("scaleType") == value.get("scaleType"))
        ):
            value = merged(before, value)
        found[key] = value
    return found


_SECTIONS: dict[str, Callable[[Settings], dict[str, object]]] = {
    "request_settings": lambda v: {"requestSettings": _requests(v)},
    "liveness_probe": lambda v: {"livenessProbe": _probe(v)},
    "readiness_probe": lambda v: {"readinessProbe": _probe(v)},
    "scale_settings": lambda v: {"scaleSettings": _scale(v)},
    "data_collector": lambda v: {"dataCollector": _collector(v)},
    "environment_variables": lambda v: {"environmentVariables": {str(k): str(x) for k, x in v.items()}},
}


def includes(shown: object, wanted: object) -> bool:
    """Tell whether a deployment already has every wanted property."""
    if isinstance(wanted, dict):
        return isinstance(shown, dict) and all(includes(shown.get(key), wanted[key]) for key in wanted)
    return bool(shown == wanted)


def refuse_incomplete(properties: Mapping[str, object]) -> None:
    """Raise BadCommand for a deployment's properties that the service refuses as a whole."""
    collector = properties.get("dataCollector")
    if isinstance(collector, dict) and not collector.get("collections"):
        raise BadCommand(
            "data_collector names no collections, and Azure ML takes none without.",
            remedies=[(_EXAMPLES["data_collector"], "in the config file")],
        )


def only_of_endpoint(given: Settings) -> list[str]:
    """Return the settings that an endpoint takes when it is made, and not afterwards."""
    return sorted(key for key in ENDPOINT_KEYS if key in given and key != "mirror_traffic")
