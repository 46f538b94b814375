"""What Azure ML and Databricks refuse, in their own words: for every server that stands for one of them.

    enforcer = Enforcer(AZUREML_LIMITS, "azureml")
    complaint = enforcer.complaint(path, body)         # None, or the text of the service's 400
    enforcer.note_created(body, answer)                # after runs/create: the tags it was made with count
    rates = RateEnforcer(DATABRICKS_RATES)
    seconds = rates.retry_after(method, path)          # None, or the Retry-After of the service's 429

Standard library only: the proxy's process and the stand-ins load it. It knows nothing of the package: what
delivery obeys stands in its own table, and a figure that is wrong there is found here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

__all__ = [
    "AZUREML_FIELDS",
    "AZUREML_LIMITS",
    "DATABRICKS_DOCUMENTED",
    "DATABRICKS_LIMITS",
    "DATABRICKS_RATES",
    "LIMIT_NAMES",
    "Enforcer",
    "RateEnforcer",
    "code_of",
]

# learn.microsoft.com azure/machine-learning/resource-limits-capacity (rows a batch, names, rows, tags),
# mlflow#11462 (the wording), azure-sdk-for-python#35685 (params), mlflow#10694 (pages of a history).
AZUREML_LIMITS: dict[str, int] = {
    "metrics": 250,
    "metric_names": 50,
    "metric_rows": 1_000_000,
    "metric_key": 255,
    "run_params": 200,
    "run_tags": 50,
    "tag_key": 100,
    "tag_value": 1000,
    "run_name": 256,
    "run_description": 5000,
    "run_inputs": 200,
    "artifact_path": 5000,
    "artifacts_batch": 100,
    "experiment_tags": 50,
    "experiment_tag_key": 250,
    "experiment_tag_value": 1000,
    "history_page": 999,
    "model_files": 1500,
}
# Tags that Azure ML keeps as a run's fields -> their limit.
AZUREML_FIELDS = {"mlflow.runName": "run_name", "mlflow.note.content": "run_description"}
# docs.databricks.com log-batch; learn.microsoft.com azure/databricks/resources/limits (a run, versions).
DATABRICKS_LIMITS: dict[str, int] = {
    "metrics": 1000,
    "params": 100,
    "tags": 100,
    "items": 1000,
    "body": 1_000_000,
    "run_rows": 1_000_000,
    "run_params": 1600,
    "run_tags": 1600,
    "metric_key": 250,
    "param_key": 250,
    "param_value": 6000,
    "tag_key": 250,
    "tag_value": 8000,
    "model_metrics": 1000,
    "pending_versions": 20,
}
# As docs.databricks.com has them (log-batch, set-tag); nobody has seen such a refusal.
DATABRICKS_DOCUMENTED = {
    **DATABRICKS_LIMITS,
    "param_value": 250,
    "tag_value": 250,
    "set_tag_key": 250,
    "set_tag_value": 65_536,
}
LIMIT_NAMES = {
    *("metrics", "params", "tags", "items", "body"),  # a batch; body in bytes
    *("metric_names", "metric_rows", "run_rows", "run_params", "run_tags"),  # a run; rows of a name, of all
    *("metric_key", "param_key", "param_value", "tag_key", "tag_value"),  # characters
    *("set_tag_key", "set_tag_value"),  # bytes; runs/set-tag alone
    *("history_page", "model_files"),  # points a page; files of a version: for who serves them
    *("run_name", "run_description"),  # characters of the tags that Azure ML keeps as a run's fields
    *("run_inputs", "artifact_path", "artifacts_batch"),  # for who serves them
    *("experiment_tags", "experiment_tag_key", "experiment_tag_value"),  # for who serves them
    "model_metrics",  # of a logged model (mlflow#20715)
    "pending_versions",  # model versions of a workspace that are being registered: for who serves them
}
# learn.microsoft.com azure/databricks/resources/limits, API rate limits: requests a second and workspace.
DATABRICKS_RATES: dict[str, float] = {"search": 7, "log-batch": 47, "registry": 40, "other": 127}

_MLFLOW_CALL = re.compile(r"/mlflow/(.+)$")
_SEARCHES = ("runs/search", "experiments/search", "experiments/list", "logged-models/search")
_REGISTRY = ("registered-models", "model-versions", "unity-catalog")


_MODEL_IS_FULL = "Unable to log new or update existing logged model metrics"


def code_of(complaint: str) -> str:
    """Return the error code that a complaint comes with."""
    return "BAD_REQUEST" if complaint.startswith(_MODEL_IS_FULL) else "INVALID_PARAMETER_VALUE"


class Enforcer:
    """Counts what each run has been given and says what the service would refuse."""

    def __init__(self, limits: Mapping[str, int], wording: str = "databricks") -> None:
        if unknown := set(limits) - LIMIT_NAMES:
            raise ValueError(f"no such limits: {sorted(unknown)}")
        if wording not in ("azureml", "databricks", "silent"):
            raise ValueError(f"no such wording: {wording}")
        self.silent = wording == "silent"
        self.limits = dict(limits)
        self.azure = wording == "azureml"
        self.runs: dict[str, _Run] = {}
        self.models: dict[str, set[str]] = {}
        """Logged model -> names of its metrics."""
        self.full_models: set[str] = set()

    def complaint(self, path: str, body: bytes | Mapping[str, Any]) -> str | None:
        """Return what the service says of the first limit that a POST breaks; None, and count it, if none."""
        size = len(body) if isinstance(body, bytes) else len(json.dumps(dict(body)))
        call = _call(path)
        if "body" in self.limits and call == "runs/log-batch" and size > self.limits["body"]:
            limit = self.limits["body"]
            return (
                f"Batched logging API requests must be at most {limit} bytes, got a request of size {size}."
            )
        try:
            asked = json.loads(body or b"{}") if isinstance(body, bytes) else dict(body)
        except ValueError:
            return None
        if not isinstance(asked, dict):
            return None
        metrics, params, tags = _items(call, asked)
        said = self._batch(call, metrics, params, tags) or self._lengths(call, metrics, params, tags)
        if said is not None:
            return said
        if call == "runs/create":  # the run is not named yet
            return self._over("run_tags", "Tags", len({_name(tag) for tag in tags}))
        run = self.runs.setdefault(str(asked.get("run_id") or asked.get("run_uuid") or ""), _Run())
        if call == "runs/delete-tag":
            run.tags.discard(str(asked.get("key")))
            return None
        return self._of_run(run, metrics, params, tags)

    def page_complaint(self, max_results: int) -> str | None:
        """Return what the service says of a page of a metric's history that is too large."""
        limit = self.limits.get("history_page")
        if limit is None or max_results <= limit:
            return None
        return f"MaxResults = {max_results} is invalid: MaxResults must be less than {limit + 1}."

    def pending_complaint(self, pending: int) -> str | None:
        """Return what the service says of one more version while so many are being registered.

        The words are a guess: the limit is documented, its refusal is not.
        """
        limit = self.limits.get("pending_versions")
        if limit is None or pending < limit:
            return None
        return f"Number of pending model versions exceeds the limit of {limit}: try again later."

    def note_created(self, body: bytes, answer: bytes) -> None:
        """Count the tags that a run was created with; ``answer`` is the service's own to runs/create."""
        try:
            made, asked = json.loads(answer), json.loads(body or b"{}")
            run_id = made["run"]["info"]["run_id"]
        except (ValueError, KeyError, TypeError):
            return
        given = made["run"].get("data", {}).get("tags") or asked.get("tags") or []
        self.runs.setdefault(run_id, _Run()).tags |= {_name(tag) for tag in given}

    def _batch(self, call: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> str | None:
        if call != "runs/log-batch":
            return None
        total = len(metrics) + len(params) + len(tags)
        return (
            self._over("metrics", "MetricV2Dto.Value/Count", len(metrics))
            or self._over("params", "Parameters", len(params))
            or self._over("tags", "Tags", len(tags))
            or self._over("items", "Items", total)
        )

    def _lengths(self, call: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> str | None:
        if call == "runs/set-tag" and "set_tag_key" in self.limits:
            for what in ("key", "value"):
                most, size = self.limits[f"set_tag_{what}"], len(str(tags[0].get(what)).encode())
                if size > most:
                    return f"Tag {what} of {size} bytes exceeds the limit of {most} bytes: size={size}"
            return None
        for kind, items in (("metric", metrics), ("param", params), ("tag", tags)):
            for item in items:
                for what in ("key", "value"):
                    name = f"{kind}_{what}"
                    if self.azure and kind == "tag" and what == "value":
                        name = AZUREML_FIELDS.get(_name(item), name)
                    limit = self.limits.get(name)
                    text = item.get(what)
                    if limit is not None and isinstance(text, str) and len(text) > limit:
                        if not self.azure:
                            return (
                                f"{kind.title()} {what} '{text[:20]}' had length {len(text)}, which exceeded "
                                f"length limit of {limit}"
                            )
                        field = {"metric": "Metrics", "param": "Parameters", "tag": "Tags"}[kind]
                        return self._words(
                            f"characters of a {kind}'s {what}", f"{field}.{what.title()}", limit, len(text)
                        )
        return None

    def _of_run(self, run: _Run, metrics: list[Any], params: list[Any], tags: list[Any]) -> str | None:
        rows = {key: set(marks) for key, marks in run.rows.items() if key in {_name(m) for m in metrics}}
        for metric in metrics:
            mark = (metric.get("step"), metric.get("timestamp"), str(metric.get("value")))
            rows.setdefault(_name(metric), set()).add(mark)
        names = set(run.rows) | set(rows)
        most = max((len(marks) for marks in rows.values()), default=0)
        total = sum(len(rows.get(key, run.rows.get(key, ()))) for key in names)
        new_params = run.params | {_name(param) for param in params}
        new_tags = run.tags | {_name(tag) for tag in tags}
        said = (
            (self._over("metric_names", "Metrics", len(names)) if metrics else None)
            or (self._over("metric_rows", "MetricV2Dto.Rows", most) if metrics else None)
            or (self._over("run_rows", "Metrics.Rows", total) if metrics else None)
            or self._of_models(metrics)
            or (self._over("run_params", "Parameters", len(new_params)) if params else None)
            or (self._over("run_tags", "Tags", len(new_tags)) if tags else None)
        )
        if said is None:
            run.rows.update(rows)
            run.params, run.tags = new_params, new_tags
        return said

    def _of_models(self, metrics: list[Any]) -> str | None:
        """Refuse in the words of mlflow#20715: new metrics of a full model, and more of those it has."""
        limit = self.limits.get("model_metrics")
        for model in sorted({str(metric["model_id"]) for metric in metrics if metric.get("model_id")}):
            new = {f"{_name(m)} {m.get('dataset_digest')}" for m in metrics if m.get("model_id") == model}
            known = self.models.get(model, set())
            names = known | new
            if limit is not None and (model in self.full_models or len(names) > limit):
                if len(known) >= limit:
                    self.full_models.add(model)
                return (
                    f"{_MODEL_IS_FULL} for model {model}, exceeded maximum allowed number of logged model "
                    f"metrics per logged model: {limit}. To raise this quota please contact the Databricks "
                    "support team."
                )
            self.models[model] = names
        return None

    def _over(self, name: str, field: str, size: int) -> str | None:
        limit = self.limits.get(name)
        return None if limit is None or size <= limit else self._words(_PLAIN[name], field, limit, size)

    def _words(self, name: str, field: str, limit: int, size: int) -> str:
        if self.silent:
            return "The request is invalid."
        if self.azure:
            return (
                "Response: {'Error': {'Code': 'ValidationError', 'Message': 'A field of the entity is over "
                f"the size limit. FieldName={field}, Limit={limit}, Size={size}. See "
                "https://aka.ms/azure-machine-learning-limits for service limits documentation.'}, "
                "'statusCode': 400}"
            )
        if " of a run" in name:
            return f"Number of {name} exceeds the limit of {limit}: the run would have {size}."
        return (
            f"A batch logging request can contain at most {limit} {name}. Got {size} {name}. Please split up "
            f"{name} across multiple requests and try again."
        )


_PLAIN = {
    "metrics": "metrics",
    "params": "params",
    "tags": "tags",
    "items": "metrics, params and tags",
    "metric_names": "metric names of a run",
    "metric_rows": "steps of a metric of a run",
    "run_rows": "metric steps of a run",
    "run_params": "params of a run",
    "run_tags": "tags of a run",
}


class _Run:
    """What a run has been given."""

    def __init__(self) -> None:
        self.rows: dict[str, set[Any]] = {}  # metric -> its points, as marks
        self.params: set[str] = set()
        self.tags: set[str] = set()


class RateEnforcer:
    """Counts requests a second by kind, as Databricks does for a workspace."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self.rates = dict(rates)
        self.recent: dict[str, list[float]] = {}

    def retry_after(self, method: str, path: str, now: float | None = None) -> float | None:
        """Return how long the client is told to wait (s), or None for a request that is taken."""
        kind = kind_of(path)
        rate = self.rates.get(kind)
        if rate is None or method == "OPTIONS":
            return None
        now = time.monotonic() if now is None else now
        recent = self.recent[kind] = [moment for moment in self.recent.get(kind, []) if moment > now - 1]
        if len(recent) >= rate:
            return 1.0
        recent.append(now)
        return None


def kind_of(path: str) -> str:
    """Return which of Databricks' rates a request counts for: search, log-batch, registry, other, or ''."""
    call = _call(path)
    if not call:
        return ""
    if any(call.startswith(part) for part in _REGISTRY):
        return "registry"
    if call in _SEARCHES:
        return "search"
    return "log-batch" if call == "runs/log-batch" else "other"


def _call(path: str) -> str:
    found = _MLFLOW_CALL.search(path)
    return found.group(1) if found else ""


def _items(call: str, asked: Mapping[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the metrics, params and tags that a request brings."""
    if call == "runs/log-batch":
        return asked.get("metrics") or [], asked.get("params") or [], asked.get("tags") or []
    if call == "runs/create":
        return [], [], asked.get("tags") or []
    one = [asked]
    if call == "runs/log-metric":
        return one, [], []
    if call == "runs/log-parameter":
        return [], one, []
    return [], [], one if call == "runs/set-tag" else []


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("key"))
