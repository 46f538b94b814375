"""Points of logged models: MLflow's servers keep one of a metric for each run, step and time.

They refuse a second one with another value or dataset. Calls of the link take microseconds, so two that a
server would be asked milliseconds apart come in the same one: the second is dated to the next free
millisecond. Points with times of the caller's own are refused as a server refuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.utils.time import get_current_time_millis

from dbml_magics.core.run_view import Extra, RunView, as_kept

LoggedPoint = list[Any]
"""A metric's key, value, time and step; of a logged model's point [model, dataset name, digest], too."""

_NOW_MS = 60_000  # a time that differs from the clock's by less is the clock's, not the caller's own


def placed(run: RunView, points: list[LoggedPoint], one_each: Callable[[str], bool]) -> list[LoggedPoint]:
    """Return points as they are to be logged: dated apart, without those that tell less than others.

    Raises MLflow's refusal of a second point with a time of the caller's own, for a model of which the server
    keeps ``one_each``.
    """
    now, given, kept = get_current_time_millis(), dict[tuple[str, str, int, int], tuple[float, Extra]](), []
    for point in points:
        model = point[4][0] if len(point) > 4 else None
        if not model:
            kept.append(point)
            continue
        key, value, time, step, extra = point
        own = as_kept(value), tuple(extra)
        while True:
            there = run.told_of(model, key, time, step)
            if (just := given.get((model, key, time, step))) is not None:
                there.append(just)
            if not there or own in there:
                kept.append([key, value, time, step, extra])
                given[model, key, time, step] = own
                break
            if own[1][1:] == (None, None) and any(each[0] == own[0] for each in there):
                break  # log_model logs a run's point once more, for the model that has it with its dataset
            if abs(time - now) <= _NOW_MS or time > point[2]:
                time = run.time_after(key, time, step)
            elif one_each(model):
                raise MlflowException(
                    f"Metric '{key}' of the logged model {model} has another point at step {step} and "
                    f"timestamp {time} already, and a server keeps one: log this one with another timestamp.",
                    BAD_REQUEST,
                )
            else:
                kept.append(point)
                break
    return kept


def each_once(points: Iterable[Metric]) -> list[Metric]:
    """Return a model's points without those that are there twice: delivered, and on their way yet."""
    unique = {
        (m.key, m.run_id, m.step, m.timestamp, m.dataset_name, m.dataset_digest, as_kept(m.value)): m
        for m in points
    }
    return list(unique.values())


def as_a_server_keeps(points: Iterable[Metric]) -> list[Metric]:
    """Return a model's points as MLflow's servers tell them: NaN as 0, infinity as the largest float."""
    return [
        Metric(
            m.key,
            as_kept(m.value),
            m.timestamp,
            m.step,
            model_id=m.model_id,
            dataset_name=m.dataset_name,
            dataset_digest=m.dataset_digest,
            run_id=m.run_id,
        )
        for m in points
    ]
