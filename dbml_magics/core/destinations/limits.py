"""What each kind of workspace takes, with the source of each figure. One table; delivery obeys it.

A figure that is None is not known for that kind: the service says so itself, and what a refusal teaches
holds for the life of the process (:meth:`Limits.lowered` and :meth:`Limits.halved` for batches,
:func:`cut_to` for lengths, the run's book in ``writers/overflow.py`` for what a run may hold).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = [
    "AZUREML",
    "BY_KIND",
    "DATABRICKS",
    "MLFLOW",
    "SOURCES",
    "Limits",
    "cut_to",
    "is_of_a_model",
    "names_a_limit",
    "number_named",
]

_LEAST = 10  # a smaller number is hardly the size of a batch, and would make delivery crawl
_LEAST_BODY = 20_000  # bytes: one item may be that large
_LITTLE = 1000  # bytes
# Whole numbers alone: Azure ML says "over the size limit. FieldName=MetricV2Dto.Value/Count, Limit=200".
_NAMED = re.compile(
    r"(?:limit|maximum|at most|no more than|exceed\w*)\b.{0,60}?(?<![\w.])(\d{1,7})(?![\w.]*\w)", re.I
)
_SIZE = re.compile(r"(?:\bsize\s*[=:]|\bgot|\blength)\s*(\d+)", re.I)
_LENGTH = re.compile(r"\b(?:length|characters|bytes|longer)\b", re.I)
_UNIT = re.compile(r"(?<![\w.])(\d+)\s*([KM])i?B\b", re.I)
_OF_A_MODEL = re.compile(r"\blogged[ -]models?\b", re.I)
_BYTES = re.compile(r"\b(?:bytes|request of size|too large|entity too large|answers 413)\b", re.I)
_PAGE = re.compile(r"max_?results\b.{0,60}?less than (\d+)", re.I)
_LIMITED = re.compile(
    r"\b(?:limit|maximum|at most|no more than|exceed\w*|too (?:long|large|many)|quota)\b", re.I
)
_A_RATE = re.compile(
    r"\b(?:rate limit|token bucket|too many requests|requests? per (?:second|minute))\b", re.I
)
_LIMIT_CODES = ("RESOURCE_LIMIT_EXCEEDED", "QUOTA_EXCEEDED")


@dataclass(frozen=True)
class Limits:
    """What a request may hold, a run may hold, and how long keys and values may be (characters)."""

    metrics: int
    params: int
    tags: int
    items: int
    body_bytes: int = 1_000_000
    metric_names: int | None = None
    """Names of metrics a run."""
    metric_rows: int | None = None
    """Points of one metric of a run."""
    run_rows: int | None = None
    """Points of all metrics of a run."""
    run_params: int | None = None
    run_tags: int | None = None
    metric_key: int | None = None
    param_key: int | None = None
    param_value: int | None = None
    tag_key: int | None = None
    tag_value: int | None = None
    run_name: int | None = None
    """A longer name is cut, everywhere."""
    run_description: int | None = None
    run_inputs: int | None = None
    """Input datasets a run."""
    artifact_path: int | None = None
    artifacts_batch: int | None = None
    """Files that one request may name."""
    experiment_tags: int | None = None
    experiment_tag_key: int | None = None
    experiment_tag_value: int | None = None
    cuts_values: bool = False
    """A value that is too long is cut there, as MLflow's servers do; elsewhere it is left out."""
    model_files: int | None = None
    """Files a registered version."""
    model_metrics: int | None = None
    """Metrics a logged model."""
    pending_versions: int | None = None
    """Model versions of the whole workspace that may be in registration at a time."""
    history_page: int = 25_000
    """Points a page of a metric's history."""
    artifacts_once: bool = False
    """A file that is there cannot be written again."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Requests a second by kind (search, log-batch, registry, other), for the whole workspace."""

    def lowered(self, refusal: str, size: int) -> Limits | None:
        """Return the limits that the refusal of a batch of ``size`` metrics teaches, or None."""
        found = _NAMED.search(refusal)
        if found is None or is_of_a_model(refusal):
            return None
        number, said = int(found.group(1)), _SIZE.search(refusal)
        # Another size than the batch's is another limit: of the names that a run may have, of a tag's length.
        about_batch = int(said.group(1)) == size if said else "metric" in refusal.lower()
        return self._of_batches(number) if about_batch and number < size else None

    def halved(self, size: int) -> Limits | None:
        """Return the limits that a refused batch of ``size`` metrics teaches whose two halves were taken."""
        return self._of_batches(size - size // 2)

    def _of_batches(self, metrics: int) -> Limits | None:
        if not _LEAST <= metrics < self.metrics:
            return None
        return replace(self, metrics=metrics, items=min(self.items, metrics + self.params + self.tags))

    def lowered_body(self, refusal: str, size: int) -> Limits | None:
        """Return the limits that the refusal of a body of ``size`` bytes teaches, or None."""
        if not _BYTES.search(refusal) or size <= _LEAST_BODY:
            return None
        found = _NAMED.search(refusal)
        named = int(found.group(1)) if found else 0
        most = named if _LEAST_BODY <= named < size else size // 2
        return replace(self, body_bytes=min(self.body_bytes, most))

    def lowered_page(self, refusal: str) -> Limits | None:
        """Return the limits that the refusal of a page of a history teaches, or None (mlflow#10694)."""
        found = _PAGE.search(refusal)
        most = int(found.group(1)) - 1 if found else 0
        return replace(self, history_page=most) if _LEAST <= most < self.history_page else None


def names_a_limit(refusal: str, code: str | None = None, size: int | None = None) -> bool:
    """Tell whether a refusal says that something is more than the service takes, now and always.

    ``size`` are the bytes of what was refused: a little thing is not too large, whatever a gateway says.
    """
    if _A_RATE.search(refusal):
        return False
    if _BYTES.search(refusal) and size is not None and size < _LITTLE:
        return False
    return code in _LIMIT_CODES or _LIMITED.search(refusal) is not None


def number_named(refusal: str) -> int | None:
    """Return the limit that a refusal names, or None."""
    found = _NAMED.search(refusal)
    return int(found.group(1)) if found else None


def is_of_a_model(refusal: str) -> bool:
    """Tell whether a refusal is about what a logged model holds, not about the batch or the run."""
    return _OF_A_MODEL.search(refusal) is not None


def cut_to(refusal: str, value: str) -> str | None:
    """Return as much of a value as its refusal for its length admits; None for a refusal of another cause.

    Some services count characters, some bytes: the size that the refusal names tells which.
    """
    most = number_named(refusal)
    if most is None:
        return None
    unit = next((each for each in _UNIT.finditer(refusal) if int(each[1]) == most), None)
    most *= 1 if unit is None else 1024 if unit[2] in "Kk" else 1024**2
    wide, sizes = value.encode(), [int(size) for size in _SIZE.findall(refusal)]
    in_bytes = len(value) not in sizes if sizes else re.search(r"\bbytes\b", refusal) is not None or unit
    fits = len(wide if in_bytes else value) <= most
    if fits or not (len(value) in sizes or len(wide) in sizes if sizes else _LENGTH.search(refusal)):
        return None
    return wide[:most].decode(errors="ignore") if in_bytes else value[:most]


# mlflow/utils/validation.py: what any MLflow server enforces; names' lengths are checked before the journal.
MLFLOW = Limits(
    metrics=1000,
    params=100,
    tags=100,
    items=1000,
    param_value=6000,
    tag_value=8000,
    cuts_values=True,
)
DATABRICKS = Limits(
    metrics=1000,
    params=100,
    tags=100,
    items=1000,
    run_rows=1_000_000,
    run_params=1600,
    run_tags=1600,
    metric_key=250,
    param_key=250,
    param_value=6000,
    tag_key=250,
    tag_value=8000,
    cuts_values=True,
    model_metrics=1000,
    pending_versions=20,
    rates={"search": 7.0, "log-batch": 47.0, "registry": 40.0, "other": 127.0},
)
AZUREML = Limits(
    metrics=250,
    params=100,
    tags=50,
    items=250,
    metric_names=50,
    metric_rows=1_000_000,
    metric_key=255,
    run_params=200,
    run_tags=50,
    tag_key=100,
    tag_value=1000,
    run_name=256,
    run_description=5000,
    run_inputs=200,
    artifact_path=5000,
    artifacts_batch=100,
    experiment_tags=50,
    experiment_tag_key=250,
    experiment_tag_value=1000,
    model_files=1500,
    history_page=999,
    artifacts_once=True,
)

BY_KIND = {"mlflow": MLFLOW, "databricks": DATABRICKS, "azureml": AZUREML}

_AML_PAGE = "learn.microsoft.com azure/machine-learning/resource-limits-capacity"
_ADB_PAGE = "learn.microsoft.com azure/databricks/resources/limits"
_LOG_BATCH = "docs.databricks.com log-batch"
_VALIDATION = "mlflow/utils/validation.py"
_ITEMS = ("metrics", "params", "tags", "items", "body_bytes")
SOURCES: dict[str, dict[str, str]] = {
    "mlflow": dict.fromkeys(
        (*_ITEMS, "history_page", "param_value", "tag_value", "cuts_values"), _VALIDATION
    ),
    "databricks": {
        **dict.fromkeys(_ITEMS, _LOG_BATCH),
        "model_metrics": "mlflow#20715",
        **dict.fromkeys(("run_rows", "run_params", "run_tags", "pending_versions", "rates"), _ADB_PAGE),
        **dict.fromkeys(("metric_key", "param_key", "tag_key", "cuts_values", "history_page"), _VALIDATION),
        **dict.fromkeys(
            ("param_value", "tag_value"),
            f"{_VALIDATION}; {_LOG_BATCH} says 250, set-tag 64 KB: a refusal of less is learnt",
        ),
    },
    "azureml": {
        "metrics": f"{_AML_PAGE}; mlflow#11462: Limit=250 (a refusal of less, as in mlflow#2441, is learnt)",
        "items": "as metrics",
        "params": _VALIDATION,
        "tags": "as run_tags",
        "body_bytes": _VALIDATION,
        **dict.fromkeys(
            (
                *("metric_names", "metric_rows", "metric_key", "run_tags", "tag_key", "tag_value"),
                *("run_name", "run_description", "run_inputs", "artifact_path", "model_files"),
                *("experiment_tags", "experiment_tag_key", "experiment_tag_value"),
            ),
            _AML_PAGE,
        ),
        "run_params": "azure-sdk-for-python#35685",
        "history_page": "mlflow#10694: less than 1,000",
        "artifacts_batch": "ultralytics#3223",
        "artifacts_once": "azureml-mlflow: Resource Conflict on a second upload of a path",
    },
}
"""Where each figure that differs from None comes from, by kind of workspace."""
