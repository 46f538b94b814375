"""What each kind of workspace takes, with the source of each figure. One table; delivery obeys it.

A service that turns out to take less (a refusal that names a smaller number) lowers its own batch size for
the life of the process: see :meth:`Limits.lowered`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


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
        found = re.search(
            r"(?:limit|maximum|at most|no more than|exceed\w*)\D{0,60}?(\d{1,5})", refusal, re.I
        )
        if found is None:
            return None
        number = int(found.group(1))
        if not 1 < number < size:
            return None
        return replace(self, metrics=number, items=min(self.items, number + self.params + self.tags))


# MLflow's own server and Databricks: docs.databricks.com, log-batch: 1 MB, 1,000 items, of which 1,000
# metrics, 100 params and 100 tags. mlflow/utils/validation.py enforces the same.
MLFLOW = Limits(metrics=1000, params=100, tags=100, items=1000)
# Azure ML: 250 rows documented (azure-ai-docs resource-limits-capacity.md), failures above 200 seen
# (mlflow#11462, mlflow#2441).
AZUREML = Limits(metrics=200, params=100, tags=50, items=200)

BY_KIND = {"mlflow": MLFLOW, "databricks": MLFLOW, "azureml": AZUREML}
