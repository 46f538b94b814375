"""A run's inputs and outputs, and its logged models: taken and refused as by MLflow over http."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, link, sync

UNKNOWN, OTHER = f"m-{'0' * 32}", f"m-{'1' * 32}"


def dataset(name: str, source: str = "{}", tag: str = "k") -> DatasetInput:
    """Return a dataset as a run's input."""
    return DatasetInput(Dataset(name, "digest", "local", source), [InputTag(tag, "v")])


def answers(experiment: str) -> tuple[str, dict[str, str | None]]:
    """Make each call; returns the run's id, and the code of each refusal."""
    client = MlflowClient()
    experiment_id = client.create_experiment(experiment)
    run_id, deleted = (client.create_run(experiment_id).info.run_id for _ in range(2))
    client.delete_run(deleted)
    model = client.create_logged_model(experiment_id, "mine", source_run_id=run_id).model_id

    twice = DatasetInput(Dataset("twice", "digest", "local", "{}"), [InputTag("k", "1"), InputTag("k", "2")])

    def outputs(*models: str | None, run: str = run_id, step: int = 0) -> Callable[[], Any]:
        return lambda: client.log_outputs(run, [LoggedModelOutput(each, step) for each in models])

    def inputs(
        *models: str | None, datasets: list[DatasetInput] | None = None, run: str = run_id
    ) -> Callable[[], Any]:
        return lambda: client.log_inputs(run, datasets, [LoggedModelInput(each) for each in models])

    def made(name: str, run: str | None = None, where: str = experiment_id) -> Callable[[], Any]:
        return lambda: client.create_logged_model(where, name, source_run_id=run)

    calls = {
        "an output": outputs(model, step=1),
        "the output again": outputs(model, step=1),
        "the output again at another step": outputs(model, step=2),
        "an output twice in one call": outputs(OTHER, OTHER),
        "an output that is no model": outputs(UNKNOWN, step=-5),
        "an output without an id": outputs(None, step=3),
        "an output without an id again": outputs("", step=3),
        "an output whose id is a path": outputs("m-x/y", step=4),
        "no output": outputs(),
        "an output of a deleted run": outputs(model, run=deleted),
        "an output of no run": outputs(model, run="0" * 32),
        "an input": inputs(model, datasets=[dataset("d")]),
        "the input again, otherwise": inputs(model, datasets=[dataset("d", "[]", "k2")]),
        "an input that is no model": inputs(UNKNOWN),
        "an input twice in one call": inputs(OTHER, OTHER),
        "an input without an id": inputs(None),
        "an input whose id is a path": inputs("m-x/y"),
        "no input": inputs(),
        "a dataset with a long name": inputs(datasets=[dataset("d" * 501)]),
        "a dataset's tag twice": inputs(datasets=[twice]),
        "an input of a deleted run": inputs(model, run=deleted),
        "an input of no run": inputs(model, run="0" * 32),
        "a model of a deleted run": made("of a deleted run", deleted),
        "a model of a run that nobody has": made("of no run", "0" * 32),
        "a model of what is no run's id": made("of none", "none"),
        "a model with a bad name": made("a/b", run_id),
        "a model of no experiment": made("nowhere", run_id, "987654321"),
        "a model of a run and no experiment": made("nowhere", "0" * 32, "987654321"),
    }
    found: dict[str, str | None] = {}
    for what, call in calls.items():
        try:
            call()
            found[what] = None
        except MlflowException as error:
            found[what] = error.error_code
    return run_id, found


NEEDS_RUN: dict[str, Callable[[MlflowClient, Any], Any]] = {
    "metric": lambda c, run: c.log_metric(run, "m", 1.0),
    "param": lambda c, run: c.log_param(run, "p", 1),
    "tag": lambda c, run: c.set_tag(run, "t", 1),
    "no tag": lambda c, run: c.delete_tag(run, "t"),
    "batch": lambda c, run: c.log_batch(run, [Metric("m", 1.0, 1, 1)]),
    "end": lambda c, run: c.set_terminated(run),
    "deletion": lambda c, run: c.delete_run(run),
    "restoration": lambda c, run: c.restore_run(run),
    "history": lambda c, run: c.get_metric_history(run, "m"),
    "inputs": lambda c, run: c.log_inputs(run, models=[LoggedModelInput(UNKNOWN)]),
    "outputs": lambda c, run: c.log_outputs(run, [LoggedModelOutput(UNKNOWN, 0)]),
}
NEEDS_EXPERIMENT: dict[str, Callable[[MlflowClient, Any], Any]] = {
    "logged model": lambda c, experiment: c.create_logged_model(experiment, "m"),
    "tag of an experiment": lambda c, experiment: c.set_experiment_tag(experiment, "k", "v"),
    "no tag of an experiment": lambda c, experiment: c.delete_experiment_tag(experiment, "k"),
    "deletion of an experiment": lambda c, experiment: c.delete_experiment(experiment),
    "restoration of an experiment": lambda c, experiment: c.restore_experiment(experiment),
}


def refusals(experiment: str) -> dict[str, str]:
    """Make calls without what they need; returns what each was answered."""
    client, found = MlflowClient(), {}
    run_id = client.create_run(client.create_experiment(experiment)).info.run_id
    calls: dict[str, Callable[[], Any]] = {
        f"{what} of {given!r}": partial(call, client, given)
        for calls, without in ((NEEDS_RUN, (None, "")), (NEEDS_EXPERIMENT, ("",)))
        for what, call in calls.items()
        for given in without
    }
    calls |= {f"no tag {key!r}": partial(client.delete_tag, run_id, key) for key in (None, "")}
    calls["files of no model"] = partial(client.list_logged_model_artifacts, None)
    calls["a file of no model"] = partial(client.log_model_artifact, None, __file__)
    for what, call in calls.items():
        try:
            found[what] = f"answered {call()}"
        except MlflowException as error:
            found[what] = error.error_code
    return found


def test_a_call_without_what_it_needs_is_refused_as_by_a_server(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    mlflow.set_tracking_uri(servers.databricks.uri)
    reference = refusals(f"{experiment_name}-plain")
    link(proxies)
    assert refusals(experiment_name) == reference
    sync()


def models_at(uri: str, experiment: str) -> list[tuple[str, bool]]:
    """Return the name of each logged model at a server, and whether it names a run."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.search_logged_models([client.get_experiment_by_name(experiment).experiment_id])
    return sorted((model.name, bool(model.source_run_id)) for model in found)


def test_inputs_outputs_and_models_are_taken_and_refused_as_by_a_server(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    plainly = f"{experiment_name}-plain"
    mlflow.set_tracking_uri(servers.databricks.uri)
    _, reference = answers(plainly)
    assert reference["the output again"] == "BAD_REQUEST"
    link(proxies)
    run_id, found = answers(experiment_name)
    assert found == reference
    sync()
    held = arrived(servers, run_id, experiment_name)
    assert sorted(step for _, step in held["outputs"]) == [-5, 1, 3, 4]
    assert len(held["model_inputs"]) == 5
    assert [each["tags"] for each in held["inputs"]] == [{"k": "v"}]
    assert dbml.verify(experiment=experiment_name, deep=True).differences == ()
    for server in servers:  # what was refused is nowhere, and nothing else is missing
        assert models_at(server.uri, experiment_name) == models_at(servers.databricks.uri, plainly)
