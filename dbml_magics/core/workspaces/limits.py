"""What each kind of workspace takes, with the source of each figure. One table; delivery obeys it.

A service that turns out to take less (a refusal that names a smaller number) lowers its own batch size for
the life of the process: see :meth:`Limits.lowered`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_LEAST = 10  # a smaller number is hardly the size of a batch, and would make delivery crawl
# Whole numbers alone: Azure ML says "over the size limit. FieldName=MetricV2Dto.Value/Count, Limit=200".
_NAMED = re.compile(
    r"(?:limit|maximum|at most|no more than|exceed\w*)\b.{0,60}?(?<![\w.])(\d{1,6})(?![\w.]*\w)", re.I
)
_SIZE = re.compile(r"(?:\bsize\s*[=:]|\bgot)\s*(\d+)", re.I)


@dataclass(frozen=True)
class Limits:
    """What one log-batch request may hold, and how long keys and values may be (characters)."""

    metrics: int
    params: int
    tags: int
    items: int
    body_bytes: int = 1_000_000

    def lowered(self, refusal: str, size: int) -> Limits | None:
        """Return the limits that the refusal of a batch of ``size`` metrics teaches, or None."""
        found = _NAMED.search(refusal)
        if found is None:
            return None
        number, said = int(found.group(1)), _SIZE.search(refusal)
        # Another size than the batch's is another limit: of the names that a run may have, of a tag's length.
        about_batch = int(said.group(1)) == size if said else "metric" in refusal.lower()
        if not about_batch or not _LEAST <= number < size:
            return None
        return replace(self, metrics=number, items=min(self.items, number + self.params + self.tags))


# MLflow's own server and Databricks: docs.databricks.com, log-batch: 1 MB, 1,000 items, of which 1,000
# metrics, 100 params and 100 tags. mlflow/utils/validation.py enforces the same.
MLFLOW = Limits(metrics=1000, params=100, tags=100, items=1000)
# Azure ML: 250 rows documented (azure-ai-docs resource-limits-capacity.md), failures above 200 seen
# (mlflow#11462, mlflow#2441).
AZUREML = Limits(metrics=200, params=100, tags=50, items=200)

BY_KIND = {"mlflow": MLFLOW, "databricks": MLFLOW, "azureml": AZUREML}
