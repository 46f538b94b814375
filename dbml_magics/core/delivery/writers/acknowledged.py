"""What a workspace has acknowledged of a run, kept until the run ends and then compared with what it has.

A server may answer that it took a batch, and have dropped a part of it. Metrics are compared by their latest
point, params by their keys, tags by their values; tags that MLflow itself writes are left out, since services
change them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow.entities import Run

from dbml_magics.core.delivery.batching import Batch
from dbml_magics.core.run_view import Mark

_MOST_RUNS = 1000  # runs that were begun and never ended by this process are forgotten, the oldest first


@dataclass
class OfRun:
    """What was acknowledged of one run."""

    newest: dict[str, Mark] = field(default_factory=dict)
    last: dict[str, Mark] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)  # key -> the values in their order
    status: str | None = None


@dataclass(frozen=True)
class Missing:
    """What a workspace acknowledged and does not have."""

    metrics: frozenset[str]
    params: dict[str, str]
    tags: dict[str, str]
    status: str | None

    def __bool__(self) -> bool:
        return bool(self.metrics or self.params or self.tags or self.status)

    def __str__(self) -> str:
        named = [f"metric {key}" for key in sorted(self.metrics)]
        named += [f"param {key}" for key in self.params] + [f"tag {key}" for key in self.tags]
        named += [f"status {self.status}"] if self.status else []
        return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")


class Acknowledged:
    """What one workspace has acknowledged, run by run; runs are named by the workspace's own ids."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, OfRun] = OrderedDict()

    def _of(self, run_id: str) -> OfRun:
        found = self._runs.get(run_id)
        if found is None:
            found = self._runs[run_id] = OfRun()
            if len(self._runs) > _MOST_RUNS:
                self._runs.popitem(last=False)
        return found

    def batch(self, run_id: str, batch: Batch, marks: Mapping[str, list[Mark]]) -> None:
        """Note a batch; ``marks`` are its points by metric, in their order."""
        run = self._of(run_id)
        run.params.update(batch.params)
        for key, value in batch.tags.items():
            if not key.startswith("mlflow."):
                run.tags.setdefault(key, []).append(value)
        for key, points in marks.items():
            run.last[key] = points[-1]
            newest = max([*points, *([run.newest[key]] if key in run.newest else [])], key=_rank)
            run.newest[key] = newest

    def untagged(self, run_id: str, key: str) -> None:
        """Note that a tag was removed."""
        if run_id in self._runs:
            self._runs[run_id].tags.pop(key, None)

    def status(self, run_id: str, status: str) -> None:
        """Note a run's new status."""
        self._of(run_id).status = status

    def forget(self, run_id: str) -> None:
        """Forget a run: it was compared."""
        self._runs.pop(run_id, None)

    def missing(self, found: Run, latest: Mapping[str, Mark]) -> Missing:
        """Return what a run as its workspace has it lacks; ``latest`` are its metrics' latest points.

        A tag with a value that was never sent is somebody's edit, and a newer point somebody's own.
        """
        run, data = self._of(found.info.run_id), found.data
        return Missing(
            frozenset(
                key for key, mark in run.newest.items() if _is_older(latest.get(key), mark, run.last[key])
            ),
            {key: value for key, value in run.params.items() if key not in data.params},
            {
                key: values[-1]
                for key, values in run.tags.items()
                if key not in data.tags or (data.tags[key] != values[-1] and data.tags[key] in values)
            },
            run.status if run.status not in (None, "RUNNING") and found.info.status == "RUNNING" else None,
        )


def _rank(mark: Mark) -> tuple[int, int, float]:
    step, time, value = mark
    return step, time, float("-inf") if value == "nan" else float(value)


def _is_older(there: Mark | None, newest: Mark, last: Mark) -> bool:
    """Tell whether a metric's latest point at a workspace is older than the newest one that it was sent.

    Of points with the same step and time workspaces choose differently; some call the last one the latest.
    """
    return there is None or (there[:2] != last[:2] and there[:2] < newest[:2])
