"""What a server may refuse is asked of the primary: its error comes at the call, and both sides agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.delivery import scheduler
from tests.conftest import Proxies, Servers
from tests.core.linking import arrived, dead_letters, link, sync
from tests.infra import plain
from tests.infra.wait import eventually

Step = Callable[[MlflowClient, str, list[str]], Any]


def _make(client: MlflowClient, name: str, made: list[str]) -> None:
    made.append(client.create_experiment(name))


def _run(client: MlflowClient, _name: str, made: list[str]) -> None:
    run = client.create_run(made[0], run_name="r")
    client.log_metric(run.info.run_id, "m", 1.0)
    client.set_terminated(run.info.run_id)
    made.append(run.info.run_id)


def _model(client: MlflowClient, _name: str, made: list[str]) -> None:
    made.append(client.create_logged_model(made[0], name="model", params={"p": "1"}).model_id)


# Each story is a list of steps; the last of them is compared, and then what stands at both sides.
STORIES: dict[str, list[Step]] = {
    "rename an experiment": [_make, lambda c, n, m: c.rename_experiment(m[0], f"{n}-new")],
    "rename to a taken name": [
        _make,
        lambda c, n, m: c.create_experiment(f"{n}-taken"),
        lambda c, n, m: c.rename_experiment(m[0], f"{n}-taken"),
    ],
    "rename a deleted experiment": [
        _make,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.rename_experiment(m[0], f"{n}-new"),
    ],
    "give a deleted experiment the name that it has": [
        _make,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.rename_experiment(m[0], n),
    ],
    "give an experiment the name that it has": [_make, lambda c, n, m: c.rename_experiment(m[0], n)],
    "tag a deleted experiment": [
        _make,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.set_experiment_tag(m[0], "k", "v"),
    ],
    "tag an experiment that is not there": [lambda c, n, m: c.set_experiment_tag("987654321", "k", "v")],
    "delete a tag that is not there": [_make, lambda c, n, m: c.delete_experiment_tag(m[0], "k")],
    "delete a deleted experiment": [
        _make,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.delete_experiment(m[0]),
    ],
    "restore an active experiment": [_make, lambda c, n, m: c.restore_experiment(m[0])],
    "delete with its runs": [_make, _run, lambda c, n, m: c.delete_experiment(m[0])],
    "delete with a model of another experiment's run": [
        _make,
        _run,
        lambda c, n, m: m.append(c.create_experiment(f"{n}-other")),
        lambda c, n, m: c.create_logged_model(m[-1], "m", m[1]),
        lambda c, n, m: c.delete_experiment(m[-1]),
    ],
    "delete and restore with its runs": [
        _make,
        _run,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.restore_experiment(m[0]),
    ],
    "log to a run of a deleted experiment": [
        _make,
        _run,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.log_param(m[1], "p", "1"),
    ],
    "begin a run in a deleted experiment": [
        _make,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.create_run(m[0]),
    ],
    "a restored name is free for nobody else": [
        _make,
        lambda c, n, m: c.delete_experiment(m[0]),
        lambda c, n, m: c.create_experiment(n),
    ],
    "the old name of an experiment is free": [
        _make,
        lambda c, n, m: c.rename_experiment(m[0], f"{n}-new"),
        lambda c, n, m: c.create_experiment(n) and None,
    ],
    "delete a run": [_make, _run, lambda c, n, m: c.delete_run(m[1])],
    "delete a deleted run": [
        _make,
        _run,
        lambda c, n, m: c.delete_run(m[1]),
        lambda c, n, m: c.delete_run(m[1]),
    ],
    "delete a run that is not there": [lambda c, n, m: c.delete_run("0" * 32)],
    "restore a deleted run": [
        _make,
        _run,
        lambda c, n, m: c.delete_run(m[1]),
        lambda c, n, m: c.restore_run(m[1]),
    ],
    "restore an active run": [_make, _run, lambda c, n, m: c.restore_run(m[1])],
    "log to a deleted run": [
        _make,
        _run,
        lambda c, n, m: c.delete_run(m[1]),
        lambda c, n, m: c.log_metric(m[1], "m", 1.0),
    ],
    "tag a model": [_make, _model, lambda c, n, m: c.set_logged_model_tags(m[1], {"k": "v"})],
    "tag a deleted model": [
        _make,
        _model,
        lambda c, n, m: c.delete_logged_model(m[1]),
        lambda c, n, m: c.set_logged_model_tags(m[1], {"k": "v"}),
    ],
    "tag a model that is not there": [
        lambda c, n, m: c.set_logged_model_tags("m-" + "0" * 32, {"k": "v"}),
    ],
    "delete a model's tag that is not there": [
        _make,
        _model,
        lambda c, n, m: c.delete_logged_model_tag(m[1], "k"),
    ],
    "params of a model": [_make, _model, lambda c, n, m: c.log_model_params(m[1], {"q": "2"})],
    "params of a model that is not there": [
        lambda c, n, m: c.log_model_params("m-" + "0" * 32, {"q": "2"}),
    ],
    "finalize a model": [_make, _model, lambda c, n, m: _status(c.finalize_logged_model(m[1], "READY"))],
    "finalize a deleted model": [
        _make,
        _model,
        lambda c, n, m: c.delete_logged_model(m[1]),
        lambda c, n, m: _status(c.finalize_logged_model(m[1], "READY")),
    ],
    "finalize a model that is not there": [
        lambda c, n, m: _status(c.finalize_logged_model("m-" + "0" * 32, "READY")),
    ],
    "delete a model twice": [
        _make,
        _model,
        lambda c, n, m: c.delete_logged_model(m[1]),
        lambda c, n, m: c.delete_logged_model(m[1]),
    ],
    "delete a model that is not there": [lambda c, n, m: c.delete_logged_model("m-" + "0" * 32)],
    "a model's metrics": [
        _make,
        _model,
        _run,
        lambda c, n, m: c.log_metric(c.create_run(m[0]).info.run_id, "acc", 0.5, 1, 1, model_id=m[1]),
        lambda c, n, m: [(x.key, x.value, x.step) for x in c.get_logged_model(m[1]).metrics],
    ],
}


def _status(model: Any) -> str:
    return str(model.status)


def _played(client: MlflowClient, name: str, steps: list[Step]) -> Any:
    """Return what the last step of a story gives: a value, or the class and code of an error."""
    made: list[str] = []
    for step in steps[:-1]:
        step(client, name, made)
    try:
        return steps[-1](client, name, made)
    except MlflowException as error:
        return f"{error.error_code}"


def _standing(uri: str, name: str) -> list[dict[str, Any]]:
    """Return what a server holds of a story: its experiments, and the runs and models in them."""
    client = plain.client(uri)
    found = [
        e
        for e in client.search_experiments(ViewType.ALL, filter_string=f"name LIKE '{name}%'")
        if e.name == name or e.name.startswith(f"{name}-")
    ]
    return sorted(
        (
            {
                "name": e.name.removeprefix(name),
                "stage": e.lifecycle_stage,
                "tags": {k: v for k, v in e.tags.items() if not k.startswith(("mlflow.", "dbml_"))},
                "runs": sorted(
                    (r.info.status, r.info.lifecycle_stage, tuple(r.data.metrics.items()))
                    for r in client.search_runs([e.experiment_id], run_view_type=ViewType.ALL)
                ),
                "models": sorted(
                    json.dumps(
                        [
                            str(model.status),
                            model.params,
                            {k: v for k, v in model.tags.items() if "_" not in k},
                        ]
                    )
                    for model in client.search_logged_models([e.experiment_id])
                ),
            }
            for e in found
        ),
        key=lambda held: str(held["name"]),
    )


def test_changes_are_answered_as_a_server_answers_and_stand_at_both_sides(
    home: Path, proxies: Proxies, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # plain MLflow asks for minutes after a 500
    direct = plain.client(servers.databricks.uri)
    expected = {
        story: (_played(direct, f"plain {n}", steps), _standing(servers.databricks.uri, f"plain {n}"))
        for n, (story, steps) in enumerate(STORIES.items())
    }
    link(proxies)
    through = MlflowClient()
    answers = {
        story: _played(through, f"linked {n}", steps) for n, (story, steps) in enumerate(STORIES.items())
    }
    assert answers == {story: answer for story, (answer, _) in expected.items()}
    sync()
    for n, (story, (_, standing)) in enumerate(expected.items()):
        for server in servers:
            assert _standing(server.uri, f"linked {n}") == standing, f"{story}, at {server.name}"


@pytest.mark.full
def test_while_the_primary_is_away_changes_are_kept_and_said_once(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    link(proxies)
    client = MlflowClient()
    made = [client.create_experiment(experiment_name)]
    _run(client, "", made)
    _model(client, "", made)
    sync()
    with proxies.databricks.away():
        client.set_experiment_tag(made[0], "k", "v")
        client.rename_experiment(made[0], f"{experiment_name}-new")
        client.delete_run(made[1])
        client.set_logged_model_tags(made[2], {"k": "v"})
    said = [record.message for record in caplog.records if "kept and goes there later" in record.message]
    assert len(said) == 1, said
    sync()
    held = [_standing(server.uri, experiment_name) for server in servers]
    assert held[0] == held[1]
    assert (held[0][0]["name"], held[0][0]["tags"]) == ("-new", {"k": "v"})
    assert held[0][0]["runs"] == [("FINISHED", "deleted", (("m", 1.0),))]
    assert '{"k": "v"}' in held[0][0]["models"][0]


@pytest.mark.full
def test_a_container_waits_for_its_contents_and_they_for_it(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror gets runs late: deletion and restoration go between what came before and after them."""
    # A run that a workspace refuses for a minute is put aside, and a busy machine takes as long for the rest.
    monkeypatch.setattr(scheduler, "_ALONE_S", 3600.0)
    link(proxies)
    client = MlflowClient()
    made = [client.create_experiment(experiment_name)]
    sync()
    slow = proxies.azureml.status(503, path="/runs/create")
    _run(client, "", made)
    client.delete_experiment(made[0])
    client.restore_experiment(made[0])
    after = client.create_run(made[0], run_name="after")
    client.log_metric(after.info.run_id, "m", 2.0)
    client.delete_experiment(made[0])
    engine = session.current().engine("this test")
    eventually(lambda: slow.hits > 0, "the run's creation was tried at the mirror")
    assert engine.backlog.is_waiting("azureml", "link"), "the deletion waits for the runs"
    slow.clear()
    sync()
    for server in servers:
        (held,) = _standing(server.uri, experiment_name)
        assert held["stage"] == "deleted", server.name
        assert held["runs"] == [
            ("FINISHED", "deleted", (("m", 1.0),)),
            ("RUNNING", "deleted", (("m", 2.0),)),
        ], server.name
    assert dbml.verify(experiment=experiment_name).differences == ()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a write that fails time and again be put aside after two seconds."""
    monkeypatch.setattr(scheduler, "_ISOLATED_S", 1.0)
    monkeypatch.setattr(scheduler, "_ISOLATED_PAUSE_S", 0.2)
    monkeypatch.setattr(scheduler, "_ALONE_S", 2.0)


@pytest.mark.full
def test_a_poisonous_write_in_any_queue_is_put_aside(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str, impatient: None
) -> None:
    """A run's creation, an experiment's tag, a registration, a tag in the registry, each without its like."""
    for proxy in proxies:
        proxy.keep_bodies()
    link(proxies, registry="both")
    client = MlflowClient()
    made = [client.create_experiment(experiment_name)]
    sync()
    poisons = [
        proxies.azureml.status(500, path=path, content="venom")
        for path in (
            "runs/create",
            "experiments/set-experiment-tag",
            "model-versions/create",
            "registered-models",
        )
    ]
    client.set_experiment_tag(made[0], "venom", "1")
    bad = client.create_run(made[0], run_name="venom")
    client.log_metric(bad.info.run_id, "m", 1.0)
    client.log_text(bad.info.run_id, "t", "t.txt")
    client.set_terminated(bad.info.run_id)
    good = client.create_run(made[0], run_name="good")
    client.log_text(good.info.run_id, "flavors: {}", "model/MLmodel")
    name = f"{experiment_name}-model"
    client.create_registered_model(name)
    client.create_model_version(
        name, f"runs:/{good.info.run_id}/model", good.info.run_id, description="venom"
    )
    client.set_registered_model_tag(name, "venom", "1")
    client.log_metric(good.info.run_id, "after", 1.0)
    client.set_terminated(good.info.run_id)
    dbml.sync(timeout=120)
    put_aside = sorted((role, op[1]) for role, op, _ in dead_letters())
    assert put_aside == [("azureml", code) for code in sorted("abceuVW")], dead_letters()
    assert arrived(servers, good.info.run_id, experiment_name)["metrics"]["after"]
    for poison in poisons:
        poison.clear()
    retried = dbml.retry_dead_letters()
    assert (retried.refused, retried.waiting) == ((), ())
    sync()
    arrived(servers, bad.info.run_id, experiment_name)
    for server in servers:
        assert len(plain.client(server.uri).search_model_versions(f"name='{name}'")) == 1
        assert plain.client(server.uri).get_registered_model(name).tags["venom"] == "1"
        assert _standing(server.uri, experiment_name)[0]["tags"] == {"venom": "1"}


def test_a_copy_outlives_its_source(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies, registry="both")
    client = MlflowClient()
    run = client.create_run(client.create_experiment(experiment_name))
    client.log_text(run.info.run_id, "flavors: {}", "model/MLmodel")
    source, copy = f"{experiment_name}-source", f"{experiment_name}-copy"
    client.create_registered_model(source)
    version = client.create_model_version(source, f"runs:/{run.info.run_id}/model", run.info.run_id)
    sync()
    with proxies.azureml.away():
        copied = client.copy_model_version(f"models:/{source}/{version.version}", copy)
        client.delete_model_version(source, version.version)
        client.delete_registered_model(source)
        client.set_model_version_tag(copy, copied.version, "k", "v")
    sync()
    for server in servers:
        (found,) = plain.client(server.uri).search_model_versions(f"name='{copy}'")
        assert found.tags["k"] == "v", server.name
        assert plain.client(server.uri).search_registered_models(f"name='{source}'") == [], server.name


@pytest.mark.full
def test_a_point_of_an_unknown_model_costs_nothing_else(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """It is refused at the call; where nobody can say whether it exists, it is put aside alone."""
    link(proxies)
    client = MlflowClient()
    run = client.create_run(client.create_experiment(experiment_name))
    sync()
    with pytest.raises(MlflowException, match="m-1111"):
        client.log_metric(run.info.run_id, "refused", 1.0, model_id="m-" + "1" * 32)
    with proxies.databricks.away(), proxies.azureml.away():
        for step in range(6):
            client.log_metric(run.info.run_id, "m", step, step=step)
        client.log_metric(run.info.run_id, "lost", 1.0, model_id="m-" + "0" * 32)
        client.log_param(run.info.run_id, "p", "1")
        client.set_terminated(run.info.run_id)
    dbml.sync(timeout=60)
    refused = [(role, op[1], op[2]) for role, op, _ in dead_letters()]
    assert refused == [(role, "m", "lost") for role in ("databricks", "azureml")], dead_letters()
    for server in servers:
        held = plain.run(server.uri, plain.twin_id(server.uri, run.info.run_id, experiment_name) or "")
        assert (len(held["metrics"]["m"]), held["params"]) == (6, {"p": "1"}), server.name
        assert held["tags"]["dbml_run_id"] == run.info.run_id, server.name


def test_models_tell_the_metrics_that_are_on_their_way(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies)
    client = MlflowClient()
    experiment = client.create_experiment(experiment_name)
    first, second = client.create_run(experiment), client.create_run(experiment)
    model = client.create_logged_model(experiment, name="model", source_run_id=first.info.run_id)
    sync()
    with proxies.databricks.hang(), proxies.azureml.hang():
        client.log_metric(second.info.run_id, "acc", 0.5, step=1, model_id=model.model_id)
        engine = session.current().engine("this test")
        assert engine.backlog.is_waiting("databricks", second.info.run_id)
    metrics = client.get_logged_model(model.model_id).metrics
    assert [(m.key, m.value, m.step, m.run_id) for m in metrics] == [("acc", 0.5, 1, second.info.run_id)]
    sync()
    metrics = client.get_logged_model(model.model_id).metrics
    assert [(m.key, m.value, m.step) for m in metrics] == [("acc", 0.5, 1)]


@pytest.mark.full
def test_the_registry_is_read_at_the_mirror_while_the_primary_is_away(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    link(proxies, registry="both")
    client = MlflowClient()
    run = client.create_run(client.create_experiment(experiment_name))
    client.log_text(run.info.run_id, "flavors: {}", "model/MLmodel")
    name, source = f"{experiment_name}-model", f"runs:/{run.info.run_id}/model"
    there = plain.client(servers.azureml.uri)
    other = there.create_run(there.create_experiment(f"{experiment_name}-other"))
    there.create_registered_model(name)
    there.create_model_version(name, f"{other.info.artifact_uri}/model", other.info.run_id)  # numbers differ
    client.create_registered_model(name, tags={"k": "v"})
    for _ in range(2):
        client.create_model_version(name, source, run.info.run_id)
    client.set_registered_model_alias(name, "champion", "1")
    client.set_model_version_tag(name, "2", "quality", "good")
    sync()
    expected = _registry(client, name)
    with proxies.databricks.away():
        assert _registry(client, name) == expected
        client.set_registered_model_alias(name, "challenger", "2")
        assert client.get_registered_model(name).aliases == {"champion": "1", "challenger": "2"}
    sync()


def _registry(client: MlflowClient, name: str) -> dict[str, Any]:
    """Return what a registry says of a model, by every way of asking."""
    model = client.get_registered_model(name)
    listed = client.search_model_versions(f"name='{name}'")
    return {
        "aliases": dict(model.aliases),
        "tags": {k: v for k, v in model.tags.items() if not k.startswith("dbml_")},
        "found": [m.name for m in client.search_registered_models(f"name='{name}'")],
        "versions": sorted((str(v.version), v.run_id) for v in listed),
        "of number": [
            str(v.version) for v in client.search_model_versions(f"name='{name}'") if v.tags.get("quality")
        ],
        "by alias": str(client.get_model_version_by_alias(name, "champion").version),
        "by number": client.get_model_version(name, "2").tags["quality"],
    }


def test_an_id_that_is_no_models_says_nothing_of_the_service(
    home: Path, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    """It makes a path that no server knows, which is no sign that the server has no logged models."""
    link(proxies)
    client = MlflowClient()
    for wrong in ("m-x/y", "", "m-x?y", "../runs"):
        with pytest.raises(MlflowException) as refused:
            client.get_logged_model(wrong)
        assert refused.value.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"), wrong
    experiment = client.create_experiment(experiment_name)
    model = client.create_logged_model(experiment, name="model")
    sync()
    assert plain.client(servers.databricks.uri).get_logged_model(model.model_id).name == "model"
    assert _standing(servers.azureml.uri, experiment_name)[0]["models"]
