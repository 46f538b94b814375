"""What every destination answers and refuses: a real MLflow server, and the one in memory."""

from __future__ import annotations

import itertools
import math
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelStatus,
    RunStatus,
    ViewType,
)
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import Model

from dbml_magics.core.destinations.base import HttpWorkspace
from dbml_magics.core.destinations.errors import Unavailable
from dbml_magics.core.destinations.protocol import Destination
from dbml_magics.core.link import WorkspaceSpec
from dbml_magics.core.paging import entries
from tests.infra.memory_destination import MemoryDestination
from tests.infra.mlflow_version import NEW_ANSWERS

NOBODY = "0" * 32
NO_MODEL = "m-" + "0" * 32
_numbers = itertools.count()


@pytest.fixture(params=["server", "memory"])
def destination(request: pytest.FixtureRequest) -> Destination:
    """Return a destination to write to."""
    if request.param == "memory":
        return MemoryDestination()
    uri = request.getfixturevalue("servers").databricks.uri
    return HttpWorkspace(WorkspaceSpec("databricks", uri))


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect the refusal that MLflow's REST client raises, with its error code."""
    with pytest.raises(RestException) as error:
        yield
    assert error.value.error_code == code, error.value


def named(what: str) -> str:
    """Return a name that nobody else uses: the server is shared."""
    return f"{what}-{uuid.uuid4().hex[:8]}-{next(_numbers)}"


def an_experiment(there: Destination, **tags: str) -> str:
    return there.create_experiment(named("experiment"), tags)


def a_run(there: Destination, experiment: str | None = None, **tags: str) -> str:
    made = there.create_run(experiment or an_experiment(there), "me", 1000, tags, None)
    return str(made.info.run_id)


def points_of(there: Destination, run: str, key: str) -> list[tuple[Any, ...]]:
    return [(m.value, m.timestamp, m.step) for m in there.get_metric_history(run, key)]


# --- experiments


def test_an_experiment_is_found_by_its_id_and_its_name(destination: Destination) -> None:
    name = named("experiment")
    made = destination.create_experiment(name, {"team": "a"}, "s3://bucket/here")
    for found in (destination.get_experiment(made), destination.get_experiment_by_name(name)):
        assert found is not None
        assert (found.experiment_id, found.name, found.lifecycle_stage) == (made, name, "active")
        assert (found.tags, found.artifact_location) == ({"team": "a"}, "s3://bucket/here")
        assert found.creation_time == found.last_update_time
    assert destination.get_experiment_by_name(named("nobody")) is None
    assert made in [e.experiment_id for e in destination.search_experiments()]


def test_experiments_come_in_pages(destination: Destination) -> None:
    made = {an_experiment(destination) for _ in range(3)}
    found = list(entries(lambda token: destination.search_experiments(ViewType.ALL, 2, token)))
    ids = [e.experiment_id for e in found]
    assert made < set(ids)
    assert len(ids) == len(set(ids))


def test_an_experiments_name_is_taken_as_long_as_it_is_there(destination: Destination) -> None:
    name = named("experiment")
    made = destination.create_experiment(name, {})
    with refused("RESOURCE_ALREADY_EXISTS"):
        destination.create_experiment(name, {})
    destination.delete_experiment(made)
    with refused("RESOURCE_ALREADY_EXISTS"):
        destination.create_experiment(name, {})
    with refused("BAD_REQUEST"):
        destination.rename_experiment(an_experiment(destination), name)


@pytest.mark.parametrize("name", ["", "x" * 501])
def test_a_name_that_is_none_is_refused(destination: Destination, name: str) -> None:
    with refused("INVALID_PARAMETER_VALUE"):
        destination.create_experiment(name, {})


@pytest.mark.parametrize(
    "change",
    [
        lambda d, e: d.get_experiment(e),
        lambda d, e: d.delete_experiment(e),
        lambda d, e: d.restore_experiment(e),
        lambda d, e: d.rename_experiment(e, named("new")),
        lambda d, e: d.set_experiment_tag(e, "k", "v"),
        lambda d, e: d.delete_experiment_tag(e, "k"),
        lambda d, e: d.create_run(e, "", 1, {}, None),
        lambda d, e: d.create_logged_model(e, "m", None, {}, {}, None),
    ],
)
def test_an_experiment_that_is_not_there(
    destination: Destination, change: Callable[[Destination, str], Any]
) -> None:
    with refused("RESOURCE_DOES_NOT_EXIST"):
        change(destination, "123456789")
    with refused("INVALID_PARAMETER_VALUE"):
        change(destination, "no-number")


def test_a_deleted_experiment_takes_nothing_until_it_is_restored(destination: Destination) -> None:
    experiment = an_experiment(destination)
    run, gone = a_run(destination, experiment), a_run(destination, experiment)
    destination.delete_run(gone)
    destination.delete_experiment(experiment)
    assert destination.get_experiment(experiment).lifecycle_stage == "deleted"
    assert destination.get_run(run).info.lifecycle_stage == "deleted"
    assert experiment not in [e.experiment_id for e in destination.search_experiments()]
    assert experiment in [e.experiment_id for e in destination.search_experiments(ViewType.DELETED_ONLY)]
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.delete_experiment(experiment)
    with pytest.raises(Unavailable, match="answers 500: Cannot rename a non-active experiment"):
        destination.rename_experiment(experiment, named("new"))
    for change in (
        lambda: destination.create_run(experiment, "me", 1, {}, None),
        lambda: destination.create_logged_model(experiment, "m", None, {}, {}, None),
        lambda: destination.set_experiment_tag(experiment, "k", "v"),
    ):
        with refused("INVALID_PARAMETER_VALUE"):
            change()
    destination.restore_experiment(experiment)
    stages = {destination.get_run(each).info.lifecycle_stage for each in (run, gone)}
    assert stages == {"active"}, "its runs come back with it, those too that were deleted before"
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.restore_experiment(experiment)


def test_an_experiments_name_and_tags_change(destination: Destination) -> None:
    experiment, name = an_experiment(destination, old="1"), named("new")
    destination.rename_experiment(experiment, name)
    destination.set_experiment_tag(experiment, "new", "2")
    destination.delete_experiment_tag(experiment, "old")
    found = destination.get_experiment(experiment)
    assert (found.name, found.tags) == (name, {"new": "2"})
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.delete_experiment_tag(experiment, "old")
    with refused("INVALID_PARAMETER_VALUE"):
        destination.set_experiment_tag(experiment, "k" * 251, "v")


# --- runs


def test_a_run_is_made_as_it_is_asked_for(destination: Destination) -> None:
    experiment = an_experiment(destination)
    made = destination.create_run(experiment, "me", 1234, {"a": "1"}, "first")
    found = destination.get_run(made.info.run_id)
    for run in (made, found):
        info = run.info
        assert (info.experiment_id, info.user_id, info.start_time) == (experiment, "me", 1234)
        assert (info.run_name, info.status, info.lifecycle_stage) == ("first", "RUNNING", "active")
        assert info.end_time is None
        assert run.data.tags == {"a": "1", "mlflow.runName": "first"}
    place = destination.get_experiment(experiment).artifact_location
    assert found.info.artifact_uri == f"{place}/{made.info.run_id}/artifacts"
    assert destination.make_run_as(NOBODY, experiment, 1, {}) is None


def test_a_runs_name_is_its_tag(destination: Destination) -> None:
    experiment = an_experiment(destination)
    run = destination.create_run(experiment, "me", 1, {"mlflow.runName": "first"}, "first").info.run_id
    destination.log_batch(run, [], {}, {"mlflow.runName": "second"})
    assert destination.get_run(run).info.run_name == "second"
    destination.update_run_info(run, None, None, "third")
    assert destination.get_run(run).data.tags == {"mlflow.runName": "third"}
    unnamed = destination.create_run(experiment, "me", 1, {}, None)
    assert unnamed.info.run_name
    assert unnamed.data.tags == {"mlflow.runName": unnamed.info.run_name}
    with refused("INVALID_PARAMETER_VALUE"):
        destination.create_run(experiment, "me", 1, {"mlflow.runName": "one"}, "another")


def test_a_run_ends(destination: Destination) -> None:
    run = a_run(destination)
    destination.update_run_info(run, RunStatus.FAILED, 2000, None)
    destination.update_run_info(run, None, None, "renamed")
    info = destination.get_run(run).info
    assert (info.status, info.end_time, info.run_name) == ("FAILED", 2000, "renamed")


RUN_CALLS: list[Callable[[Destination, str], Any]] = [
    lambda d, r: d.log_batch(r, [("m", 1.0, 1, 1)], {}, {}),
    lambda d, r: d.log_batch(r, [], {"p": "1"}, {}),
    lambda d, r: d.log_batch(r, [], {}, {"t": "1"}),
    lambda d, r: d.set_tag(r, "t", "1"),
    lambda d, r: d.delete_tag(r, "mlflow.runName"),
    lambda d, r: d.update_run_info(r, RunStatus.FINISHED, 1, None),
    lambda d, r: d.log_inputs(r, [a_dataset()], []),
    lambda d, r: d.log_outputs(r, {NO_MODEL: 1}),
    lambda d, r: d.record_logged_model(r, a_flavour(r)),
]


@pytest.mark.parametrize("call", [lambda d, r: d.get_run(r), lambda d, r: d.delete_run(r), *RUN_CALLS])
def test_a_run_that_is_not_there(destination: Destination, call: Callable[[Destination, str], Any]) -> None:
    with refused("RESOURCE_DOES_NOT_EXIST"):
        call(destination, NOBODY)


@pytest.mark.parametrize("call", RUN_CALLS)
def test_a_deleted_run_takes_nothing(
    destination: Destination, call: Callable[[Destination, str], Any]
) -> None:
    run = a_run(destination)
    destination.delete_run(run)
    destination.delete_run(run)  # once more is nothing
    with refused("INVALID_PARAMETER_VALUE"):
        call(destination, run)
    destination.restore_run(run)
    destination.restore_run(run)
    call(destination, run)


def test_a_runs_tag_is_deleted_once(destination: Destination) -> None:
    run = a_run(destination, a="1")
    destination.delete_tag(run, "a")
    assert "a" not in destination.get_run(run).data.tags
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.delete_tag(run, "a")


def test_runs_are_searched_page_by_page_the_latest_first(destination: Destination) -> None:
    experiment = an_experiment(destination)
    runs = [
        destination.create_run(experiment, "me", start, {"k": f"it's {start % 2}"}, None).info.run_id
        for start in (10, 30, 20, 40)
    ]
    destination.delete_run(runs[3])
    first = destination.search_runs([experiment], "", most=2)
    second = destination.search_runs([experiment], "", most=2, page_token=first.token)
    assert [r.info.run_id for r in (*first, *second)] == [runs[1], runs[2], runs[0]]
    assert not second.token
    oldest = destination.search_runs([experiment], "", most=1, order_by=["attributes.start_time ASC"])
    assert [r.info.run_id for r in oldest] == [runs[0]]
    everything = destination.search_runs([experiment], "tags.`k` != ''", ViewType.ALL)
    assert {r.info.run_id for r in everything} == set(runs)
    gone = destination.search_runs([experiment], "", ViewType.DELETED_ONLY)
    assert [r.info.run_id for r in gone] == [runs[3]]
    assert not destination.search_runs([experiment], "tags.`dbml_run_id` = 'x'", ViewType.ALL, 2)
    assert not destination.search_runs([an_experiment(destination)], "")
    with refused("INVALID_PARAMETER_VALUE"):
        destination.search_runs([experiment], "nothing like a filter")


# --- what a run is logged


def test_a_batch_arrives_whole(destination: Destination) -> None:
    run = a_run(destination)
    points = [("m", 0.5, 10, 1), ("m", 0.25, 20, 2, None), ("n", 3, 10, 0, (None, None, None))]
    destination.log_batch(run, points, {"p": "1"}, {"t": "2"})
    data = destination.get_run(run).data
    assert data.metrics == {"m": 0.25, "n": 3.0}
    assert data.params == {"p": "1"}
    assert data.tags["t"] == "2"
    assert points_of(destination, run, "m") == [(0.5, 10, 1), (0.25, 20, 2)]
    assert points_of(destination, run, "nothing") == []


def test_the_latest_point_is_that_of_the_last_step(destination: Destination) -> None:
    run = a_run(destination)
    for point in ((1.0, 5, 3), (9.0, 9, 2), (2.0, 4, 3), (0.5, 5, 3)):
        destination.log_batch(run, [("m", *point)], {}, {})
    assert destination.get_run(run).data.metrics == {"m": 1.0}
    assert points_of(destination, run, "m") == [(2.0, 4, 3), (0.5, 5, 3), (1.0, 5, 3), (9.0, 9, 2)]


def test_a_history_comes_in_pages(destination: Destination) -> None:
    run = a_run(destination)
    destination.log_batch(run, [("m", float(n), n, n) for n in range(5)], {}, {})
    first = destination.get_metric_history(run, "m", 2)
    second = destination.get_metric_history(run, "m", 3, first.token)
    assert [m.step for m in (*first, *second)] == [0, 1, 2, 3, 4]
    assert not second.token
    assert list(destination.get_metric_history(NOBODY, "m")) == []


def test_a_point_that_is_there_is_not_there_twice(destination: Destination) -> None:
    run = a_run(destination)
    for points in ([("m", 1.0, 1, 1)], [("m", 1.0, 1, 1), ("m", 1.0, 1, 1), ("m", 2.0, 2, 2)]):
        destination.log_batch(run, points, {}, {})
    assert points_of(destination, run, "m") == [(1.0, 1, 1), (2.0, 2, 2)]


def test_values_that_are_no_numbers(destination: Destination) -> None:
    run = a_run(destination)
    destination.log_batch(run, [("inf", math.inf, 1, 1), ("least", -math.inf, 1, 1)], {}, {})
    destination.log_batch(run, [("nan", math.nan, 1, 1)], {}, {})
    metrics = destination.get_run(run).data.metrics
    assert (metrics["inf"], metrics["least"]) == (1.7976931348623157e308, -1.7976931348623157e308)
    assert math.isnan(metrics["nan"])
    assert math.isnan(points_of(destination, run, "nan")[0][0])


def test_a_batch_with_a_nan_that_is_there_is_applied_in_part_by_older_servers(
    destination: Destination,
) -> None:
    run = a_run(destination)
    destination.log_batch(run, [("nan", math.nan, 1, 1)], {}, {})
    with nullcontext() if NEW_ANSWERS else refused("BAD_REQUEST"):
        destination.log_batch(run, [("nan", math.nan, 1, 1), ("m", 1.0, 1, 1)], {"p": "1"}, {"t": "1"})
    data = destination.get_run(run).data
    metrics = {"nan", "m"} if NEW_ANSWERS else {"nan"}
    assert (data.params, set(data.metrics), "t" in data.tags) == ({"p": "1"}, metrics, NEW_ANSWERS)
    assert len(points_of(destination, run, "nan")) == 1


def test_a_param_is_logged_once(destination: Destination) -> None:
    run = a_run(destination)
    destination.log_batch(run, [], {"p": "1"}, {})
    destination.log_batch(run, [], {"p": "1", "q": "2"}, {})
    with refused("INVALID_PARAMETER_VALUE"):
        destination.log_batch(run, [("m", 1.0, 1, 1)], {"p": "2", "r": "3"}, {"t": "1"})
    data = destination.get_run(run).data
    assert (data.params, data.metrics, "t" in data.tags) == ({"p": "1", "q": "2"}, {}, False)


def test_a_tag_has_its_last_value(destination: Destination) -> None:
    run = a_run(destination, t="1")
    destination.log_batch(run, [], {}, {"t": "2"})
    assert destination.get_run(run).data.tags["t"] == "2"
    destination.set_tag(run, "t", "x" * 8001)
    assert len(destination.get_run(run).data.tags["t"]) == 8000
    with refused("INVALID_PARAMETER_VALUE"):
        destination.set_tag(run, "k" * 251, "1")


def test_long_values_are_cut(destination: Destination) -> None:
    run = a_run(destination)
    destination.log_batch(run, [], {"p": "x" * 6001}, {"t": "x" * 8001})
    data = destination.get_run(run).data
    assert (len(data.params["p"]), len(data.tags["t"])) == (6000, 8000)


@pytest.mark.parametrize(
    ("points", "params", "tags"),
    [
        ([("m", 1.0, n, n) for n in range(1001)], {}, {}),
        ([], {f"p{n}": "1" for n in range(101)}, {}),
        ([], {}, {f"t{n}": "1" for n in range(101)}),
        ([("m", 1.0, n, n) for n in range(950)], {f"p{n}": "1" for n in range(51)}, {}),
        ([("m", 1.0, 1, 1), ("a" * 251, 1.0, 1, 1)], {"p": "1"}, {}),
        ([("../m", 1.0, 1, 1)], {"p": "1"}, {}),
        ([("a,b", 1.0, 1, 1)], {"p": "1"}, {}),
        ([], {"p": "1", "k" * 251: "1"}, {}),
        ([], {"p": "1"}, {"k" * 251: "1"}),
    ],
    ids=[
        "points",
        "params",
        "tags",
        "items",
        "metric-key",
        "metric-path",
        "metric-name",
        "param-key",
        "tag-key",
    ],
)
def test_a_batch_beyond_the_limits_is_refused_whole(
    destination: Destination, points: list[Any], params: dict[str, str], tags: dict[str, str]
) -> None:
    run = a_run(destination)
    with refused("INVALID_PARAMETER_VALUE"):
        destination.log_batch(run, points, params, tags)
    data = destination.get_run(run).data
    assert (data.params, data.metrics, set(data.tags)) == ({}, {}, {"mlflow.runName"})


def a_dataset(name: str = "rows", **tags: str) -> DatasetInput:
    dataset = Dataset(name=name, digest="d", source_type="local", source="{}", schema="{}", profile="{}")
    return DatasetInput(dataset, [InputTag(k, v) for k, v in tags.items()])


def test_a_runs_inputs_are_there_once(destination: Destination) -> None:
    experiment = an_experiment(destination)
    run, model = a_run(destination, experiment), a_model(destination, experiment)
    for _ in range(2):
        destination.log_inputs(run, [a_dataset("a", use="train"), a_dataset("b")], [model])
    found = destination.get_run(run).inputs
    assert sorted((d.dataset.name, [t.key for t in d.tags]) for d in found.dataset_inputs) == [
        ("a", ["use"]),
        ("b", []),
    ]
    assert [m.model_id for m in found.model_inputs] == [model]


def test_a_runs_outputs(destination: Destination) -> None:
    experiment = an_experiment(destination)
    run, one, two = a_run(destination, experiment), a_model(destination), a_model(destination)
    destination.log_outputs(run, {one: 3})
    destination.log_outputs(run, {two: 0})
    found = destination.get_run(run).outputs.model_outputs
    assert {m.model_id: m.step for m in found} == {one: 3, two: 0}
    with refused("BAD_REQUEST"):
        destination.log_outputs(run, {one: 4})


def a_flavour(run: str) -> Model:
    return Model(artifact_path="model", run_id=run, utc_time_created="2026-01-01 00:00:00", flavors={"f": {}})


def test_a_recorded_model_is_in_the_history_tag(destination: Destination) -> None:
    run = a_run(destination)
    for _ in range(2):
        destination.record_logged_model(run, a_flavour(run))
    assert destination.get_run(run).data.tags["mlflow.log-model.history"].count('"artifact_path"') == 2


# --- logged models


def a_model(there: Destination, experiment: str | None = None, run: str | None = None, **tags: str) -> str:
    made = there.create_logged_model(experiment or an_experiment(there), "model", run, tags, {}, None)
    return str(made.model_id)


def test_a_logged_model_is_made_as_it_is_asked_for(destination: Destination) -> None:
    experiment = an_experiment(destination)
    run = a_run(destination, experiment)
    made = destination.create_logged_model(experiment, "net", run, {"t": "1"}, {"p": "2"}, "Agent")
    for found in (made, destination.get_logged_model(made.model_id)):
        assert (found.name, found.source_run_id, found.model_type) == ("net", run, "Agent")
        assert (found.tags, found.params, found.experiment_id) == ({"t": "1"}, {"p": "2"}, experiment)
        assert found.status == LoggedModelStatus.PENDING
    place = destination.get_experiment(experiment).artifact_location
    assert made.artifact_location == f"{place}/models/{made.model_id}/artifacts"
    destination.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    assert destination.get_logged_model(made.model_id).status == LoggedModelStatus.READY
    with refused("INVALID_PARAMETER_VALUE"):
        destination.create_logged_model(experiment, "a/b", None, {}, {}, None)


def test_a_logged_models_tags_and_params(destination: Destination) -> None:
    model = a_model(destination, a="1", b="2")
    destination.set_logged_model_tags(model, {"a": "3", "c": "4"})
    destination.delete_logged_model_tag(model, "b")
    destination.log_logged_model_params(model, {"p": "1"})
    found = destination.get_logged_model(model)
    assert (found.tags, found.params) == ({"a": "3", "c": "4"}, {"p": "1"})
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.delete_logged_model_tag(model, "b")
    with refused("BAD_REQUEST"):
        destination.log_logged_model_params(model, {"p": "2", "q": "1"})
    assert destination.get_logged_model(model).params == {"p": "1"}


@pytest.mark.parametrize(
    "call",
    [
        lambda d, m: d.get_logged_model(m),
        lambda d, m: d.finalize_logged_model(m, LoggedModelStatus.READY),
        lambda d, m: d.set_logged_model_tags(m, {"a": "1"}),
        lambda d, m: d.delete_logged_model_tag(m, "a"),
        lambda d, m: d.log_logged_model_params(m, {"p": "1"}),
        lambda d, m: d.delete_logged_model(m),
    ],
)
def test_a_logged_model_that_is_not_there(
    destination: Destination, call: Callable[[Destination, str], Any]
) -> None:
    with refused("RESOURCE_DOES_NOT_EXIST"):
        call(destination, NO_MODEL)


def test_a_deleted_logged_model_is_gone(destination: Destination) -> None:
    experiment = an_experiment(destination)
    model = a_model(destination, experiment)
    destination.delete_logged_model(model)
    destination.delete_logged_model(model)
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.get_logged_model(model)
    assert not destination.search_logged_models([experiment])
    destination.set_logged_model_tags(model, {"a": "1"})  # which nobody will see


def test_logged_models_are_searched_page_by_page(destination: Destination) -> None:
    experiment = an_experiment(destination)
    run = a_run(destination, experiment)
    made = [a_model(destination, experiment, run) for _ in range(3)]
    first = destination.search_logged_models([experiment], most=2)
    second = destination.search_logged_models([experiment], most=2, page_token=first.token)
    assert sorted(m.model_id for m in (*first, *second)) == sorted(made)
    assert not second.token
    assert len(destination.search_logged_models([experiment], f"source_run_id = '{run}'")) == 3
    assert not destination.search_logged_models([experiment], "name = 'another'")
    assert not destination.search_logged_models(["0"], f"source_run_id = '{NOBODY}'", 1)


def test_points_of_a_logged_model_are_its_runs_too(destination: Destination) -> None:
    experiment = an_experiment(destination)
    run, model = a_run(destination, experiment), a_model(destination, experiment)
    destination.log_batch(run, [("m", 0.5, 1, 1, (model, "rows", "d")), ("n", 1.0, 1, 1)], {}, {})
    assert points_of(destination, run, "m") == [(0.5, 1, 1)]
    metrics = destination.get_logged_model(model).metrics
    assert [(m.key, m.value, m.dataset_name, m.dataset_digest, m.run_id) for m in metrics] == [
        ("m", 0.5, "rows", "d", run)
    ]


def test_a_point_of_a_logged_model_that_is_not_there(destination: Destination) -> None:
    run = a_run(destination)
    with refused("BAD_REQUEST"):
        destination.log_batch(run, [("m", 0.5, 1, 1, (NO_MODEL, None, None))], {"p": "1"}, {"t": "1"})
    data = destination.get_run(run).data
    assert (data.params, data.metrics, "t" in data.tags) == ({"p": "1"}, {"m": 0.5}, False)


# --- registered models


def a_registered_model(there: Destination, **tags: str) -> str:
    return str(there.create_registered_model(named("model"), tags).name)


def a_version(there: Destination, name: str, **tags: str) -> str:
    source = "s3://bucket/model"
    return str(there.create_model_version(name, source, NOBODY, tags, None, None, None).version)


def test_a_registered_model(destination: Destination) -> None:
    name = named("model")
    made = destination.create_registered_model(name, {"a": "1", "b": "2"}, "about")
    assert (made.name, made.tags, made.description) == (name, {"a": "1", "b": "2"}, "about")
    with refused("RESOURCE_ALREADY_EXISTS"):
        destination.create_registered_model(name, {})
    destination.set_registered_model_tag(name, "a", "3")
    destination.delete_registered_model_tag(name, "b")
    destination.delete_registered_model_tag(name, "b")
    assert destination.update_registered_model(name, "new").description == "new"
    found = destination.get_registered_model(name)
    assert (found.tags, found.description, found.aliases) == ({"a": "3"}, "new", {})
    destination.delete_registered_model(name)
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.get_registered_model(name)


def test_registered_models_come_in_pages_by_their_names(destination: Destination) -> None:
    made = {a_registered_model(destination) for _ in range(3)}
    found = [m.name for m in entries(lambda token: destination.search_registered_models(2, token))]
    assert made < {*found, "none"}
    assert found == sorted(found)


def test_a_renamed_model_takes_its_versions_along(destination: Destination) -> None:
    name, new = a_registered_model(destination), named("model")
    version = a_version(destination, name, a="1")
    destination.set_registered_model_alias(name, "best", version)
    assert destination.rename_registered_model(name, new).name == new
    found = destination.get_model_version(new, version)
    assert (found.name, found.tags, found.aliases) == (new, {"a": "1"}, ["best"])
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.get_model_version(name, version)
    with refused("RESOURCE_ALREADY_EXISTS"):
        destination.rename_registered_model(new, a_registered_model(destination))


@pytest.mark.parametrize(
    "call",
    [
        lambda d, n: d.get_registered_model(n),
        lambda d, n: d.update_registered_model(n, "x"),
        lambda d, n: d.rename_registered_model(n, named("new")),
        lambda d, n: d.delete_registered_model(n),
        lambda d, n: d.set_registered_model_tag(n, "k", "v"),
        lambda d, n: d.delete_registered_model_tag(n, "k"),
        lambda d, n: d.set_registered_model_alias(n, "a", "1"),
        lambda d, n: d.delete_registered_model_alias(n, "a"),
        lambda d, n: d.create_model_version(n, "s3://b/m", None, {}, None, None, None),
        lambda d, n: d.get_model_version(n, "1"),
        lambda d, n: d.update_model_version(n, "1", "x"),
        lambda d, n: d.delete_model_version(n, "1"),
        lambda d, n: d.set_model_version_tag(n, "1", "k", "v"),
        lambda d, n: d.delete_model_version_tag(n, "1", "k"),
        lambda d, n: d.transition_model_version_stage(n, "1", "Staging", False),
    ],
)
def test_a_registered_model_that_is_not_there(
    destination: Destination, call: Callable[[Destination, str], Any]
) -> None:
    with refused("RESOURCE_DOES_NOT_EXIST"):
        call(destination, named("nobody"))
    assert not destination.search_model_versions(f"name='{named('nobody')}'")


def test_versions_are_numbered_and_no_number_is_given_twice(destination: Destination) -> None:
    name = a_registered_model(destination)
    assert [a_version(destination, name) for _ in range(3)] == ["1", "2", "3"]
    destination.delete_model_version(name, "3")
    assert a_version(destination, name) == "4"
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.delete_model_version(name, "3")
    where = f"name='{name}'"
    found = list(entries(lambda token: destination.search_model_versions(where, 2, token)))
    assert [str(v.version) for v in found] == ["4", "2", "1"]


def test_a_version_is_made_as_it_is_asked_for(destination: Destination) -> None:
    name, run = a_registered_model(destination), a_run(destination)
    made = destination.create_model_version(name, "s3://b/m", run, {"a": "1"}, "https://run", "about", None)
    found = destination.get_model_version(name, "1")
    for version in (made, found):
        assert (version.name, str(version.version), version.status) == (name, "1", "READY")
        assert (version.source, version.run_id, version.run_link) == ("s3://b/m", run, "https://run")
        assert (version.tags, version.description, version.current_stage) == ({"a": "1"}, "about", "None")
    destination.set_model_version_tag(name, "1", "b", "2")
    destination.delete_model_version_tag(name, "1", "a")
    destination.delete_model_version_tag(name, "1", "a")
    destination.update_model_version(name, "1", "new")
    found = destination.get_model_version(name, "1")
    assert (found.tags, found.description) == ({"b": "2"}, "new")


def test_a_version_of_a_logged_model_is_noted_at_the_model(destination: Destination) -> None:
    name, experiment = a_registered_model(destination), an_experiment(destination)
    run = a_run(destination, experiment)
    model = a_model(destination, experiment, run)
    destination.create_model_version(name, f"s3://b/{model}", run, {}, None, None, model)
    tag = destination.get_logged_model(model).tags["mlflow.modelVersions"]
    assert re.sub(r"\s", "", tag) == f'[{{"name":"{name}","version":1}}]'
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.create_model_version(name, "s3://b/m", run, {}, None, None, NO_MODEL)
    assert destination.get_model_version(name, "2").source == "s3://b/m", "it was made all the same"


def test_a_version_of_a_version_or_model_that_is_not_there(destination: Destination) -> None:
    name = a_registered_model(destination)
    assert a_version(destination, name) == "1"
    made = destination.create_model_version(name, f"models:/{name}/1", None, {}, None, None, None)
    assert (str(made.version), made.source) == ("2", f"models:/{name}/1")
    for source, told in ((f"models:/{name}/9", NEW_ANSWERS), (f"models:/{NO_MODEL}", False)):
        with (
            refused("RESOURCE_DOES_NOT_EXIST")
            if told
            else pytest.raises(Unavailable, match="answers 500: Unable to fetch model")
        ):
            destination.create_model_version(name, source, None, {}, None, None, None)


@pytest.mark.parametrize("source", ["/etc", "file:///etc", "s3://b/../m"])
def test_a_version_of_files_elsewhere_is_refused(destination: Destination, source: str) -> None:
    with refused("INVALID_PARAMETER_VALUE"):
        destination.create_model_version(a_registered_model(destination), source, None, {}, None, None, None)


def test_aliases_point_at_versions(destination: Destination) -> None:
    name = a_registered_model(destination)
    one, two = a_version(destination, name), a_version(destination, name)
    destination.set_registered_model_alias(name, "best", one)
    destination.set_registered_model_alias(name, "best", two)
    destination.set_registered_model_alias(name, "old", one)
    assert destination.get_registered_model(name).aliases == {"best": two, "old": one}
    assert destination.get_model_version(name, two).aliases == ["best"]
    destination.delete_registered_model_alias(name, "best")
    destination.delete_registered_model_alias(name, "best")
    assert destination.get_registered_model(name).aliases == {"old": one}
    destination.delete_model_version(name, one)
    left = {} if NEW_ANSWERS else {"old": one}  # at older servers an alias outlives its version
    assert destination.get_registered_model(name).aliases == left
    with refused("RESOURCE_DOES_NOT_EXIST"):
        destination.set_registered_model_alias(name, "best", "9")
    for alias in ("latest", "v1", "a b"):
        with refused("INVALID_PARAMETER_VALUE"):
            destination.set_registered_model_alias(name, alias, two)


def test_stages(destination: Destination) -> None:
    name = a_registered_model(destination)
    one, two = a_version(destination, name), a_version(destination, name)
    destination.transition_model_version_stage(name, one, "staging", False)
    destination.transition_model_version_stage(name, two, "Staging", True)
    stages = [destination.get_model_version(name, version).current_stage for version in (one, two)]
    assert stages == ["Archived", "Staging"]
    with refused("INVALID_PARAMETER_VALUE"):
        destination.transition_model_version_stage(name, one, "nowhere", False)


# --- files


def test_files_go_up_and_come_back(destination: Destination, tmp_path: Path) -> None:
    repository = destination.artifacts(destination.get_run(a_run(destination)).info.artifact_uri)
    file = tmp_path / "a.txt"
    for content in ("one", "two!"):  # a file that is there is written again
        file.write_text(content)
        assert destination.upload(repository, file, "deep/folder") is None
    assert destination.upload(repository, file, None) is None
    assert [(f.path, f.is_dir) for f in repository.list_artifacts()] == [("a.txt", False), ("deep", True)]
    assert [(f.path, f.file_size) for f in repository.list_artifacts("deep/folder")] == [
        ("deep/folder/a.txt", 4)
    ]
    assert repository.list_artifacts("deep/folder/a.txt") == []
    assert repository.list_artifacts("nothing") == []
    assert Path(repository.download_artifacts("deep/folder/a.txt", str(tmp_path))).read_text() == "two!"
    (tmp_path / "all").mkdir()
    whole = Path(repository.download_artifacts("", str(tmp_path / "all")))
    assert sorted(p.relative_to(whole).as_posix() for p in whole.rglob("*.txt")) == [
        "a.txt",
        "deep/folder/a.txt",
    ]
    with pytest.raises(MlflowException) as error:
        repository.download_artifacts("nothing.txt", str(tmp_path))
    assert error.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_a_destination_that_answers(destination: Destination) -> None:
    destination.ping()
    assert destination.capabilities.answers_by_rest
    assert destination.limits.metrics == 1000
    assert destination.experiment_name("iris") == "iris"
