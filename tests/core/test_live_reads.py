"""What a run's reads answer while it is on its way: as after its delivery, and as a server does."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from dbml_magics.core import session
from tests.conftest import Proxies, Servers
from tests.core.linking import link, sync

POINTS = [  # value, time, step
    *((1.0, 5, 1), (2.0, 6, 2), (2.0, 6, 2), (1.0, 5, 1), (math.inf, 7, 3), (-math.inf, 8, 4)),
    *((math.nan, 9, 5), (0.5, 1, 0), (0.5, 2, 0), (7.0, 10, 2), (math.inf, 7, 3)),
]

TIES = {  # of one step and time
    "NaN and zero": (math.nan, 0.0),
    "zero and NaN": (0.0, math.nan),
    "NaN and less": (math.nan, -1.0),
    "less and NaN": (-1.0, math.nan),
    "NaN and more": (math.nan, 1.0),
}


def outcome_of(ask: Callable[[], Any]) -> Any:
    """Return an answer in words (NaN is not equal to itself), or the code of a refusal."""
    try:
        return str(ask())
    except MlflowException as error:
        return error.error_code


def histories(run_id: str) -> dict[str, Any]:
    """Return what each read of a run's metrics answers."""
    client = MlflowClient()
    store = client._tracking_client.store

    def plainly(points: Any) -> list[tuple[float, int, int]]:
        return [(point.value, point.timestamp, point.step) for point in points]

    def page(key: str, size: int | None, token: str | None = None) -> tuple[Any, str | None]:
        found = store.get_metric_history(run_id, key, max_results=size, page_token=token)
        return plainly(found), found.token or None

    def pages(key: str, size: int) -> list[Any]:
        found, token = page(key, size)
        read = [found]
        while token is not None:
            found, token = page(key, size, token)
            read.append(found)
        return read

    def whole(key: str) -> Any:
        return plainly(client.get_metric_history(run_id, key))

    def thinned(key: str) -> Any:
        return plainly(store.get_metric_history_bulk_interval([run_id], key, 5, 0, 10))

    def of_some_steps(key: str) -> Any:
        return plainly(store.get_metric_history_bulk_interval_from_steps(run_id, key, [1, 2, 3], 3))

    answers: dict[str, Any] = {
        "latest": outcome_of(lambda: sorted(client.get_run(run_id).data.metrics.items()))
    }
    for key in ("many", "nan", "none"):
        asked: dict[str, Callable[[], Any]] = {
            "whole": partial(whole, key),
            "in pages of two": partial(pages, key, 2),
            "in one page": partial(page, key, 100),
            "without a size": partial(page, key, None),
            "in pages of none": partial(page, key, 0),
            "by a token of nobody's": partial(page, key, 2, "nonsense"),
            "thinned": partial(thinned, key),
            "of some steps": partial(of_some_steps, key),
        }
        answers |= {f"{key} {what}": outcome_of(ask) for what, ask in asked.items()}
    return answers


def logged(experiment: str) -> str:
    """Log points of every kind; returns the run's id."""
    client = MlflowClient()
    run_id = client.create_run(client.create_experiment(experiment), run_name="named").info.run_id
    client.log_batch(run_id, [Metric("many", *point) for point in POINTS])
    client.log_metric(run_id, "many", 2.0, timestamp=6, step=2)
    client.log_batch(run_id, [Metric("nan", math.nan, 1, 1), Metric("nan", 3.0, 1, 1)])
    for key, values in TIES.items():
        client.log_batch(run_id, [Metric(f"{key} at once", value, 1, 1) for value in values])
        for value in values:
            client.log_metric(run_id, key, value, 1, 1)
    client.log_metric(run_id, "infinite", math.inf, timestamp=1)
    return str(run_id)


def names(run_id: str) -> list[Any]:
    """Delete and set the tag of a run's name; returns its name and the tag after each step.

    An empty name is set in every way: a server passes it over.
    """
    client = MlflowClient()
    empty: list[Callable[[], Any]] = [
        lambda: client.set_tag(run_id, "mlflow.runName", ""),
        lambda: client.update_run(run_id, name=""),
        lambda: client.log_batch(run_id, tags=[RunTag("mlflow.runName", ""), RunTag("beside", "")]),
    ]
    steps: list[Callable[[], Any]] = [
        lambda: client.delete_tag(run_id, "mlflow.runName"),
        lambda: client.delete_tag(run_id, "mlflow.runName"),
        lambda: client.set_tag(run_id, "mlflow.runName", "second"),
        lambda: client.update_run(run_id, name="third"),
        *empty,
        lambda: client.delete_tag(run_id, "mlflow.runName"),
        *empty,
    ]
    found = []
    for step in steps:
        answer = outcome_of(step)
        run = client.get_run(run_id)
        found.append((answer, run.info.run_name, run.data.tags.get("mlflow.runName")))
    return found


@pytest.mark.full
def test_a_run_on_its_way_answers_as_after_its_delivery_and_as_at_a_server(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    at_a_server = logged(f"{experiment_name}-plain")
    reference, renamed = histories(at_a_server), names(at_a_server)
    link(proxies)
    with proxies.databricks.away(), proxies.azureml.away():
        run_id = logged(experiment_name)
        found = histories(run_id)
        for what, answer in reference.items():
            assert found[what] == answer, f"{what}, on its way"
        assert names(run_id) == renamed
    MlflowClient().set_terminated(run_id)
    sync()
    session.current().engine("this test").retention.tidy(run_id)
    found = histories(run_id)
    for what, answer in reference.items():
        assert found[what] == answer, f"{what}, delivered"
    assert MlflowClient().get_run(run_id).info.run_name == "third"


def test_a_model_tells_its_end_while_that_is_on_its_way_though_its_creation_is_delivered(
    home: Path, proxies: Proxies, experiment_name: str
) -> None:
    link(proxies)
    mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        model = mlflow.initialize_logged_model("forest", source_run_id=run.info.run_id)
    sync()
    link(proxies)  # as another process does: no creation is in memory any more
    client = MlflowClient()
    with proxies.databricks.delay(5, path="logged-models/[^/]+$", method="PATCH"):
        assert client.finalize_logged_model(model.model_id, "READY").status == "READY"
        assert client.get_logged_model(model.model_id).status == "READY"
    sync()
    assert client.get_logged_model(model.model_id).status == "READY"
