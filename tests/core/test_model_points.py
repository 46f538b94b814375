"""Points of logged models: taken, refused and read as at a server, and all kept where calls come at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, dead_letters, link, sync
from tests.infra import plain

TRAIN = {"dataset_name": "train", "dataset_digest": "1"}
TEST = {"dataset_name": "test", "dataset_digest": "2"}
Place = tuple[str, str, str]


def made(client: MlflowClient, experiment: str) -> Place:
    """Return a new experiment's id, a run's and a logged model's of it."""
    own = client.create_experiment(experiment)
    run = client.create_run(own).info.run_id
    return str(own), str(run), str(client.create_logged_model(own, "model", run).model_id)


def logged(client: MlflowClient, place: Place) -> dict[str, str]:
    """Log points of each kind; return how each call was answered."""
    _, run, model = place

    def point(key: str, value: float, at: int, step: int = 1, **data: str) -> Callable[[], Any]:
        return partial(client.log_metric, run, key, value, at, step, model_id=model, **data)

    calls: dict[str, Callable[[], Any]] = {
        "a point": point("m", 1.0, 1),
        "a later one": point("m", 2.0, 2, 2),
        "the same again": point("m", 2.0, 2, 2),
        "with a dataset, in its place": point("m", 2.0, 2, 2, **TRAIN),
        "another value in its place": point("m", 3.0, 2, 2),
        "with a dataset, elsewhere": point("m", 2.0, 3, 2, **TRAIN),
        "with another dataset, elsewhere": point("m", 2.0, 4, 2, **TEST),
        "infinity": point("infinite", math.inf, 1),
        "no number": point("none", math.nan, 1),
        "a batch": partial(client.log_batch, run, [Metric("b", float(n), n, n, model) for n in range(3)]),
        "a batch, one in the place of another": partial(
            client.log_batch, run, [Metric("c", 1.0, 1, 1, model), Metric("c", 2.0, 1, 1, model)]
        ),
    }
    answers = {}
    for what, call in calls.items():
        try:
            call()
            answers[what] = "taken"
        except MlflowException as error:
            answers[what] = error.error_code
    return answers


def points(client: MlflowClient, model: str) -> list[str]:
    """Return a logged model's points, each in words: NaN is not equal to itself."""
    found = client.get_logged_model(model).metrics or []
    points_there = [(m.key, m.value, m.timestamp, m.step, m.dataset_name, m.dataset_digest) for m in found]
    return sorted(str(point) for point in points_there)


def test_a_models_points_are_taken_and_read_as_at_a_server_also_on_their_way(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    client = plain.client(servers.databricks.uri)
    place = made(client, f"{experiment_name}-plain")
    reference = logged(client, place)
    expected = points(client, place[2])
    link(proxies)
    own = MlflowClient()
    place = made(own, experiment_name)
    with proxies.databricks.away(), proxies.azureml.away():
        assert logged(own, place) == reference
        assert points(own, place[2]) == expected
    own.set_terminated(place[1])
    sync()
    assert points(own, place[2]) == expected
    arrived(servers, place[1], experiment_name)


def test_points_of_one_moment_with_other_values_and_datasets_are_all_kept(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    client = MlflowClient()
    _, run, model = made(client, experiment_name)
    now = plain.client(servers.databricks.uri).get_run(run).info.start_time
    for number in range(50):
        client.log_metric(run, "loss", float(number), now, 0, model_id=model)
        client.log_metric(run, "accuracy", 0.5, now, number, model_id=model, **TRAIN)
        client.log_metric(run, "accuracy", 0.5, now, number, model_id=model, **TEST)
    client.set_terminated(run)
    sync()
    held = plain.client(servers.databricks.uri).get_logged_model(model).metrics
    assert [m.value for m in sorted(held, key=lambda m: m.timestamp) if m.key == "loss"] == [*range(50)]
    for data in (TRAIN, TEST):
        kept = [m.step for m in held if m.key == "accuracy" and m.dataset_name == data["dataset_name"]]
        assert sorted(kept) == [*range(50)]
    assert client.get_run(run).data.metrics["loss"] == 49.0
    assert dbml.verify(experiment=experiment_name, deep=True).differences == ()


def test_a_point_that_log_model_repeats_without_its_dataset_is_there_once(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    client = MlflowClient()
    _, run, model = made(client, experiment_name)
    client.log_metric(run, "m", 1.0, step=1, model_id=model, **TRAIN)
    points = client.get_metric_history(run, "m")[0]
    client.log_batch(run, [Metric("m", points.value, points.timestamp, points.step, model)])
    client.set_terminated(run)
    sync()
    assert len(client.get_metric_history(run, "m")) == 1
    assert [m.dataset_name for m in client.get_logged_model(model).metrics] == ["train"]


def test_a_point_that_a_server_refuses_for_one_of_another_process_is_put_aside(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    client = MlflowClient()
    _, run, model = made(client, experiment_name)
    plain.client(servers.databricks.uri).log_metric(run, "m", 1.0, 1, 1, model_id=model)
    client.log_metric(run, "m", 1.0, 1, 1, model_id=model, **TRAIN)
    client.set_terminated(run)
    dbml.sync(timeout=60)
    (letter,) = dead_letters()
    assert letter[0] == "databricks"
    assert letter[1][1:] == ["m", "m", 1.0, 1, 1, [model, "train", "1"]]
