"""Models registered through the link: here, there or in both, each version with its twin and its run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import dbml_magics as dbml
from dbml_magics.core import session
from dbml_magics.core.model.facts import RegistryChange
from dbml_magics.core.model.operations import ChangeRegistry
from dbml_magics.core.model.queues import LINK_QUEUE
from dbml_magics.core.registry import _paired
from dbml_magics.errors import BadLink, BadName, NoModel, Refused, RunNotFound
from dbml_magics.results.registry import ModelVersion
from tests.core.modelling import (
    ANSWERS,
    ROWS,
    dead,
    in_kernel,
    log_linear,
    mlmodel,
    model_files,
    no_trace_of_the_link,
    predicted,
    rounded,
    run_with_model,
    sync,
    twins,
)
from tests.infra import plain
from tests.infra.wait import eventually

pytestmark = pytest.mark.usefixtures("home")

CREATE = "model-versions/create"


def link(proxies: Any, **wish: Any) -> Any:
    """Link the two servers."""
    return dbml.link(databricks=proxies.databricks.uri, azureml=proxies.azureml.uri, **wish)


@pytest.fixture
def both(proxies: Any, experiment_name: str) -> Any:
    """Link the two servers, registering in both."""
    link(proxies, registry="both")
    mlflow.set_experiment(experiment_name)
    return proxies


def versions(proxy: Any, name: str) -> list[dict[str, Any]]:
    return plain.model_versions(proxy.uri, name)


def check_twins(proxies: Any, name: str, run_ids: list[str], experiment: str) -> None:
    """Check that each version at each registry names its twin and its run, in both directions."""
    held = {"databricks": versions(proxies.databricks, name), "azureml": versions(proxies.azureml, name)}
    for role, proxy, other in (
        ("databricks", proxies.databricks, "azureml"),
        ("azureml", proxies.azureml, "databricks"),
    ):
        found = [v for v in held[role] if "dbml_twin" in v["tags"]]
        assert [v["tags"]["dbml_run_id"] for v in found] == run_ids, held
        for version in found:
            assert version["run_id"] == plain.twin_id(proxy.uri, version["tags"]["dbml_run_id"], experiment)
            there, _, rest = version["tags"]["dbml_twin"].partition(":")
            number = rest.rpartition("/")[2]
            [twin] = [v for v in held[other] if v["version"] == number]
            assert (there, rest) == (other, f"{name}/{number}")
            assert twin["tags"]["dbml_twin"] == f"{role}:{name}/{version['version']}"
            assert twin["tags"]["dbml_run_id"] == version["tags"]["dbml_run_id"]


# --- every way to register


def test_every_way_to_register_makes_the_next_version_in_both_registries(
    both: Any, experiment_name: str
) -> None:
    name = experiment_name
    first = run_with_model(registered_model_name=name)
    second = run_with_model()
    [output] = MlflowClient().get_run(second).outputs.model_outputs
    assert mlflow.register_model(f"runs:/{second}/model", name).version == "2"
    made = mlflow.register_model(f"models:/{output.model_id}", name, tags={"by": "id"})
    assert (made.version, made.run_id, made.status) == ("3", second, "READY")
    third = run_with_model()
    registered = dbml.register(third[:10], name, aliases=["champion"], tags={"stage": "test"})
    assert [(v.workspace, v.version, v.status) for v in registered.versions] == [
        ("databricks", "4", "READY"),
        ("azureml", "4", "READY"),
    ]
    assert [v.twin for v in registered.versions] == [f"azureml:{name}/4", f"databricks:{name}/4"]
    assert (registered.new_model, registered.run_id) == (False, third)
    new = dbml.register("last", f"{name}-new")
    assert (new.new_model, {v.version for v in new.versions}) == (True, {"1"})
    sync()
    assert dead() == []
    of_model = {v.workspace: v for v in dbml.models(name).versions if v.version == "4"}
    for proxy in both:
        proxy.forget()
    listed = {v.workspace: v for v in dbml.models().versions if v.name == name}
    assert listed == of_model, "the list shows each model's newest version as the model's own page does"
    assert all(v.aliases == ("champion",) and v.tags == {"stage": "test"} for v in listed.values())
    pages = [proxy.count("registered-models/search") for proxy in both]
    assert [proxy.count() for proxy in both] == pages, "versions and aliases come with the models"
    for proxy in both:
        held = versions(proxy, name)
        assert [v["version"] for v in held] == ["1", "2", "3", "4"]
        assert held[2]["tags"]["by"] == "id"
        assert held[3]["tags"]["stage"] == "test"
        assert held[3]["aliases"] == ["champion"]
        assert all("dbml:" not in v["source"] and v["status"] == "READY" for v in held)
    check_twins(both, name, [first, second, second, third], experiment_name)

    shown = dbml.models(name)
    assert [(v.workspace, v.version, v.run_id) for v in shown.versions if v.version == "4"] == [
        ("databricks", "4", third),
        ("azureml", "4", third),
    ]
    assert {v.name for v in dbml.models().versions} >= {name, f"{name}-new"}
    found = MlflowClient().search_model_versions(f"run_id='{second}'")
    assert sorted(v.version for v in found) == ["2", "3"]
    assert {v.run_id for v in found} == {second}


@pytest.mark.parametrize("registry", ["databricks", "azureml"])
def test_a_link_with_one_registry_registers_there_alone(
    proxies: Any, experiment_name: str, registry: str
) -> None:
    link(proxies, registry=registry)
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model(registered_model_name=experiment_name)
    made = MlflowClient().get_model_version(experiment_name, "1")
    assert (made.run_id, made.status) == (run_id, "READY")
    assert predicted(f"models:/{experiment_name}/1") == ANSWERS
    [found] = MlflowClient().search_model_versions(f"run_id='{run_id}'")
    assert (found.version, found.run_id) == ("1", run_id)
    assert MlflowClient().get_registered_model(experiment_name).latest_versions[0].run_id == run_id
    sync()
    other = "azureml" if registry == "databricks" else "databricks"
    [held] = versions(getattr(proxies, registry), experiment_name)
    assert held["run_id"] == twins(proxies, run_id, experiment_name)[getattr(proxies, registry).uri]
    assert "dbml_twin" not in held["tags"]
    assert versions(getattr(proxies, other), experiment_name) == []

    registered = dbml.register("last", experiment_name, to=other)
    assert [(v.workspace, v.version) for v in registered.versions] == [(other, "1")]
    sync()
    assert len(versions(getattr(proxies, other), experiment_name)) == 1
    assert len(versions(getattr(proxies, registry), experiment_name)) == 1
    assert dead() == []


def test_twins_know_each_other_when_their_numbers_differ(both: Any, experiment_name: str) -> None:
    name = experiment_name
    there = plain.client(both.azureml.uri)
    there.create_registered_model(name)
    for _ in range(2):
        there.create_model_version(name, "s3://bucket/some/other/model")
    run_id = run_with_model(registered_model_name=name)
    client = MlflowClient()
    client.set_registered_model_alias(name, "champion", "1")
    client.set_model_version_tag(name, "1", "checked", "yes")
    client.update_model_version(name, "1", "the first")
    sync()
    assert [v["version"] for v in versions(both.databricks, name)] == ["1"]
    held = versions(both.azureml, name)
    assert [v["version"] for v in held] == ["1", "2", "3"]
    assert [v["aliases"] for v in held] == [[], [], ["champion"]]
    assert held[2]["tags"]["checked"] == "yes"
    assert held[2]["description"] == "the first"
    check_twins(both, name, [run_id], experiment_name)
    logged = plain.logged_models(both.azureml.uri, twins(both, run_id, experiment_name)[both.azureml.uri])
    assert '"version": 3' in logged[0]["tags"]["mlflow.modelVersions"]
    client.delete_model_version(name, "1")
    sync()
    assert versions(both.databricks, name) == []
    assert [v["version"] for v in versions(both.azureml, name)] == ["1", "2"]
    assert dead() == []


@pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*get_latest_versions.*:FutureWarning")
def test_what_is_changed_of_a_registered_model_is_changed_in_both_registries(
    both: Any, experiment_name: str
) -> None:
    name, client = experiment_name, MlflowClient()
    client.create_registered_model(name, tags={"team": "wine"}, description="all wines")
    run_id = run_with_model(registered_model_name=name)
    run_with_model(registered_model_name=name)
    client.set_registered_model_alias(name, "old", "1")
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "champion", "2")
    client.delete_registered_model_alias(name, "old")
    client.set_registered_model_tag(name, "a", "1")
    client.delete_registered_model_tag(name, "a")
    client.update_registered_model(name, "all red wines")
    client.set_model_version_tag(name, "1", "b", "2")
    client.delete_model_version_tag(name, "1", "b")
    client.set_model_version_tag(name, "1", "c", "3")
    client.transition_model_version_stage(name, "2", "Production")
    assert client.get_model_version_by_alias(name, "champion").version == "2"
    copied = client.copy_model_version(f"models:/{name}/1", f"{name}-copy")
    assert copied.version == "1"
    new_name = f"{name}-renamed"
    client.rename_registered_model(name, new_name)
    client.set_model_version_tag(new_name, "1", "after", "the new name")
    sync()
    assert dead() == []
    for proxy in both:
        assert plain.registered_model(proxy.uri, name) is None
        model = plain.registered_model(proxy.uri, new_name)
        assert model is not None
        assert model["description"] == "all red wines"
        assert model["tags"] == {"team": "wine"}
        assert model["aliases"] == {"champion": "2"}
        one, two = versions(proxy, new_name)
        assert {k: v for k, v in one["tags"].items() if not k.startswith("dbml_")} == {
            "after": "the new name",
            "c": "3",
        }
        assert plain.client(proxy.uri).get_model_version(new_name, "2").current_stage == "Production"
        [copy] = versions(proxy, f"{name}-copy")
        assert copy["tags"]["c"] == "3"
        assert copy["run_id"] == twins(both, run_id, experiment_name)[proxy.uri]
        assert f"{name}-copy/1" in copy["tags"]["dbml_twin"]
        assert f"{new_name}/1" in one["tags"]["dbml_twin"]
        assert f"{new_name}/2" in two["tags"]["dbml_twin"]
    assert predicted(f"models:/{new_name}@champion") == ANSWERS
    assert predicted(f"models:/{name}-copy/1") == ANSWERS
    client.delete_registered_model(new_name)
    sync()
    assert [plain.registered_model(p.uri, new_name) for p in both] == [None, None]


def test_what_a_change_answers_shows_the_ids_that_the_user_knows(both: Any, experiment_name: str) -> None:
    """The first registry answers itself once it has all that came before; nothing of its own is shown."""
    name, client = f"answered-{experiment_name}", MlflowClient()
    run_id = run_with_model()
    mlflow.register_model(f"runs:/{run_id}/model", name)
    dbml.sync(60)
    (latest,) = client.update_registered_model(name, "words").latest_versions
    assert (latest.run_id, latest.tags.get("dbml_key")) == (run_id, None)
    dbml.sync(60)
    version = client.update_model_version(name, "1", "words")
    assert (version.run_id, version.tags.get("dbml_key")) == (run_id, None)


def test_a_registration_waits_for_the_runs_files(both: Any, experiment_name: str) -> None:
    with mlflow.start_run() as run:
        log_linear()
        mlflow.log_text("x" * 1000, "notes.txt")
    mlflow.register_model(f"runs:/{run.info.run_id}/model", experiment_name)
    sync()
    for proxy in both:
        seen = proxy.requests()
        created = next(r.number for r in seen if r.path.endswith(CREATE))
        uploads = [r.number for r in seen if r.method == "PUT" and "mlflow-artifacts" in r.path]
        assert uploads
        assert max(uploads) < created


# --- runs that the link has not seen, or not everywhere


@pytest.mark.full
def test_the_model_of_a_run_that_is_older_than_the_link_is_registered_in_both(
    proxies: Any, experiment_name: str
) -> None:
    mlflow.set_tracking_uri(proxies.databricks.uri)
    mlflow.set_registry_uri(proxies.databricks.uri)
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model()
    link(proxies, registry="both")
    mlflow.set_experiment(experiment_name)
    registered = dbml.register(run_id, experiment_name)
    assert [(v.workspace, v.version) for v in registered.versions] == [("databricks", "1"), ("azureml", "1")]
    sync()
    assert dead() == []
    _carried_over(proxies, run_id, experiment_name)


def _carried_over(proxies: Any, run_id: str, experiment: str) -> None:
    check_twins(proxies, experiment, [run_id], experiment)
    there = twins(proxies, run_id, experiment)[proxies.azureml.uri]
    held = plain.run(proxies.azureml.uri, there)
    assert held["last"] == {"loss": 0.5}
    assert held["status"] == "FINISHED"
    [model] = plain.logged_models(proxies.azureml.uri, there)
    assert (model["name"], model["status"], model["source_run_id"]) == ("model", "READY", there)
    files = model_files(proxies.azureml.uri, model["model_id"])
    assert (mlmodel(files)["run_id"], mlmodel(files)["model_id"]) == (there, model["model_id"])
    assert no_trace_of_the_link(files)
    places = [[p.uri, p.uri, f"models:/{experiment}/1"] for p in proxies]
    assert rounded(plain.in_child("predictions_at", places, ROWS)) == [ANSWERS] * 2


@pytest.mark.full
def test_a_run_tracked_in_one_workspace_only_is_registered_in_both(
    proxies: Any, experiment_name: str
) -> None:
    link(proxies, track="databricks", registry="both")
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model(registered_model_name=experiment_name)
    run_with_model()
    sync()
    assert dead() == []
    _carried_over(proxies, run_id, experiment_name)
    assert len(plain.runs(proxies.azureml.uri, experiment_name, files=False)) == 1


# --- a registry that is away


def test_while_the_first_registry_is_away_a_version_is_provisional_and_gets_its_number_later(
    both: Any, experiment_name: str
) -> None:
    name, client = experiment_name, MlflowClient()
    run_with_model(registered_model_name=name)
    sync()
    run_id = run_with_model()
    sync()
    both.databricks.refuse()
    began = time.monotonic()
    made = mlflow.register_model(f"runs:/{run_id}/model", name)
    assert time.monotonic() - began < 12
    assert (made.version, made.status) == ("0", "READY")
    client.set_registered_model_alias(name, "champion", "0")
    client.set_model_version_tag(name, "0", "checked", "yes")
    shown = client.get_model_version(name, "0")
    assert (shown.version, shown.run_id, shown.status) == ("0", run_id, "READY")
    began = time.monotonic()
    registered = dbml.register(run_id, f"{name}-too", aliases=["champion"])
    assert time.monotonic() - began < 5
    assert [(v.workspace, v.version, v.status) for v in registered.versions] == [
        ("databricks", "0", "PROVISIONAL"),
        ("azureml", "1", "READY"),
    ]
    assert any(name in note for note in session.current().status().notes)
    # What the second registry has already is read there.
    eventually(lambda: "champion" in versions(both.azureml, f"{name}-too")[0]["aliases"], "it has the alias")
    for uri in (f"models:/{name}/1", f"models:/{name}/latest", f"models:/{name}-too@champion"):
        assert predicted(uri) == ANSWERS
    assert client.get_model_version(name, "1").version == "1"
    eventually(lambda: len(versions(both.azureml, name)) == 2, "the second registry has its version already")
    both.databricks.accept()
    sync()
    assert dead() == []
    for proxy in both:
        held = versions(proxy, name)
        assert [v["version"] for v in held] == ["1", "2"]
        assert [v["aliases"] for v in held] == [[], ["champion"]]
        assert held[1]["tags"]["checked"] == "yes"
        assert [v["aliases"] for v in versions(proxy, f"{name}-too")] == [["champion"]]
    assert f"{name} version 0 (provisional) is version 2 in databricks" in session.current().status().notes
    assert client.get_model_version(name, "0").version == "2"
    check_twins(both, f"{name}-too", [run_id], experiment_name)


@pytest.mark.full
def test_a_model_logged_and_registered_while_the_first_workspace_is_away_loads_and_arrives(
    both: Any, experiment_name: str
) -> None:
    run_with_model()  # the experiment is known
    sync()
    both.databricks.refuse()
    with mlflow.start_run() as run:
        info = log_linear(registered_model_name=experiment_name)
        assert predicted(info.model_uri) == ANSWERS
        assert predicted(f"models:/{experiment_name}/0") == ANSWERS
    both.databricks.accept()
    sync()
    assert dead() == []
    check_twins(both, experiment_name, [run.info.run_id], experiment_name)
    there = twins(both, run.info.run_id, experiment_name)
    for proxy in both:
        [model] = plain.logged_models(proxy.uri, there[proxy.uri])
        assert model["status"] == "READY"
        assert '"version": "0"' not in model["tags"].get("mlflow.modelVersions", "")
        assert mlmodel(model_files(proxy.uri, model["model_id"]))["run_id"] == there[proxy.uri]
    assert predicted(info.model_uri) == ANSWERS
    assert predicted(f"models:/{experiment_name}/1") == ANSWERS


def test_the_second_registry_being_away_holds_up_nothing_and_what_was_done_meanwhile_follows(
    both: Any, experiment_name: str
) -> None:
    name, client = experiment_name, MlflowClient()
    both.azureml.refuse()
    runs = []
    for number in ("1", "2"):
        runs.append(run_with_model())
        began = time.monotonic()
        assert mlflow.register_model(f"runs:/{runs[-1]}/model", name).version == number
        assert time.monotonic() - began < 5
        client.set_registered_model_alias(name, "champion", number)
    client.set_registered_model_tag(name, "team", "wine")
    client.set_registered_model_alias(name, "old", "1")
    client.create_registered_model(f"{name}-gone")
    client.delete_registered_model(f"{name}-gone")
    client.rename_registered_model(name, f"{name}-new")
    client.set_model_version_tag(f"{name}-new", "1", "late", "yes")
    both.azureml.accept()
    sync()
    assert dead() == []
    for proxy in both:
        held = versions(proxy, f"{name}-new")
        assert [v["aliases"] for v in held] == [["old"], ["champion"]]
        assert held[0]["tags"]["late"] == "yes"
        model = plain.registered_model(proxy.uri, f"{name}-new")
        assert model is not None
        assert model["tags"] == {"team": "wine"}
        assert plain.registered_model(proxy.uri, f"{name}-gone") is None
        assert plain.registered_model(proxy.uri, name) is None
    check_twins(both, f"{name}-new", runs, experiment_name)


def test_a_lost_answer_makes_no_second_version(both: Any, experiment_name: str) -> None:
    faults = [proxy.drop(path=CREATE, times=1) for proxy in both]
    models = [proxy.drop(path="registered-models/create", times=1) for proxy in both]
    run_id = run_with_model(registered_model_name=experiment_name)
    sync()
    assert [f.hits for f in [*faults, *models]] == [1, 1, 1, 1]
    for proxy in both:
        assert [v["version"] for v in versions(proxy, experiment_name)] == ["1"]
    check_twins(both, experiment_name, [run_id], experiment_name)
    with both.databricks.drop(path="registered-models/create", times=1):
        assert MlflowClient().create_registered_model(f"{experiment_name}-a").name == f"{experiment_name}-a"
    with both.databricks.drop(path="registered-models/rename", times=1):
        MlflowClient().rename_registered_model(f"{experiment_name}-a", f"{experiment_name}-b")
    sync()
    assert [plain.registered_model(p.uri, f"{experiment_name}-b") is not None for p in both] == [True, True]
    assert dead() == []


BAD_REQUEST = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "models need a signature here"}'


WANTS_ID = json.dumps(
    {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "Invalid model version source: 'models:/m-1'. The model_id request parameter must "
        "identify the resource that contains the source.",
    }
)
"""As a server of MLflow 3.17 refuses a logged model that is named by its source alone."""


def test_what_the_first_registry_refuses_is_an_error_at_once(both: Any, experiment_name: str) -> None:
    run_id = run_with_model()
    sync()
    with both.databricks.status(400, body=BAD_REQUEST, path=CREATE):
        with pytest.raises(Refused, match="models need a signature here"):
            dbml.register(run_id, experiment_name)
        with pytest.raises(MlflowException, match="models need a signature here"):
            mlflow.register_model(f"runs:/{run_id}/model", experiment_name)
    assert mlflow.register_model(f"runs:/{run_id}/model", experiment_name).version == "1"
    with pytest.raises(MlflowException, match="not found"):
        MlflowClient().set_registered_model_alias(f"{experiment_name}-none", "a", "1")


def test_a_version_that_cannot_be_read_back_is_returned_with_its_number(
    both: Any, experiment_name: str
) -> None:
    run_id, client = run_with_model(), MlflowClient()
    client.create_registered_model(experiment_name)
    with both.databricks.status(400, body=BAD_REQUEST, path="model-versions/get$", method="GET") as fault:
        made = client.create_model_version(experiment_name, f"runs:/{run_id}/model")
        assert fault.hits
    assert (made.name, made.version, made.status) == (experiment_name, "1", "READY")
    sync()
    assert dead() == []


def test_a_registry_that_wants_the_logged_models_id_is_given_it(both: Any, experiment_name: str) -> None:
    run_id, client = run_with_model(), MlflowClient()
    client.create_registered_model(experiment_name)
    with both.databricks.status(400, body=WANTS_ID, path=CREATE, times=1) as fault:
        made = client.create_model_version(experiment_name, f"runs:/{run_id}/model")
        assert fault.hits == 1
    assert made.version == "1"
    there = plain.client(both.databricks.uri)
    (held,) = there.search_model_versions(f"name = '{experiment_name}'")
    model = there.get_logged_model(held.source.removeprefix("models:/"))
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": experiment_name, "version": 1}]
    sync()
    assert dead() == []


def test_what_the_second_registry_refuses_is_told_and_holds_up_nothing(
    both: Any, experiment_name: str
) -> None:
    run_id = run_with_model()
    sync()
    with both.azureml.status(400, body=BAD_REQUEST, path=CREATE):
        made = mlflow.register_model(f"runs:/{run_id}/model", experiment_name)
        assert made.version == "1"
        MlflowClient().set_registered_model_alias(experiment_name, "champion", "1")
        sync()
        assert [d.dead for d in session.current().status().destinations] == [0, 1]
        assert "models need a signature here" in dead()[0][4]
        with pytest.raises(Refused, match=r"azureml refused .*models need a signature here"):
            dbml.register(run_id, experiment_name)
    third = mlflow.register_model(f"runs:/{run_id}/model", experiment_name)
    sync()
    assert third.version == "3"
    held = versions(both.azureml, experiment_name)
    assert [v["tags"]["dbml_twin"] for v in held] == [f"databricks:{experiment_name}/3"]
    assert "dbml_twin" not in versions(both.databricks, experiment_name)[0]["tags"]

    assert dbml.retry_dead_letters().arrived == {"azureml": 2}
    sync()
    assert [len(versions(proxy, experiment_name)) for proxy in both] == [3, 3]
    check_twins(both, experiment_name, [run_id] * 3, experiment_name)


# --- from elsewhere


@pytest.mark.full
def test_another_machine_changes_what_this_one_registered(
    both: Any, experiment_name: str, tmp_path: Path
) -> None:
    there = plain.client(both.azureml.uri)
    there.create_registered_model(experiment_name)
    there.create_model_version(experiment_name, "s3://bucket/some/other/model")
    run_with_model(registered_model_name=experiment_name)
    sync()
    in_kernel(
        f"""
        client = mlflow.MlflowClient()
        client.set_registered_model_alias("{experiment_name}", "champion", "1")
        from dbml_magics.core.runtime.engines import engine_for
        engine = engine_for(mlflow.get_tracking_uri())
        assert all(engine.waiting.wait(role, None, 30) for role in engine.link.used)
        """,
        MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
        MLFLOW_REGISTRY_URI=mlflow.get_tracking_uri(),
        DBML_HOME=str(tmp_path / "elsewhere"),
    )
    assert [v["aliases"] for v in versions(both.databricks, experiment_name)] == [["champion"]]
    assert [v["aliases"] for v in versions(both.azureml, experiment_name)] == [[], ["champion"]]


# --- bad input


def test_bad_input_is_refused_with_the_remedy(both: Any, experiment_name: str) -> None:
    name = experiment_name
    with mlflow.start_run() as empty:
        mlflow.log_text("no model", "notes.txt")
    with mlflow.start_run() as several:
        log_linear("one")
        log_linear("two")
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (NoModel, "no model to register", {"run": empty.info.run_id}),
        (NoModel, "has 2 models: which one", {"run": several.info.run_id}),
        (NoModel, "no model 'three'; its models: one, two", {"run": several.info.run_id, "path": "three"}),
        (NoModel, "its models: none", {"run": empty.info.run_id, "path": "notes.txt"}),
        (RunNotFound, "no run has the name 'zzz'", {"run": "zzz"}),
        (RunNotFound, "no run has the name", {"run": "0" * 32}),
        (BadName, "'a/b' is not a name", {"name": "a/b"}),
        (BadName, "'' is not a name", {"name": ""}),
        (BadName, "'v1' is not an alias", {"aliases": ["v1"]}),
        (BadName, "'latest' is not an alias", {"aliases": ["latest"]}),
    ]
    for kind, said, wish in cases:
        with pytest.raises(kind, match=said) as caught:
            dbml.register(**{"run": several.info.run_id, "name": name, "path": "one", **_bare(wish), **wish})
        assert caught.value.remedies, said  # type: ignore[attr-defined]
    assert [v.version for v in dbml.register(several.info.run_id, name, path="two").versions] == ["1", "1"]
    sync()
    assert [len(versions(p, name)) for p in both] == [1, 1]


def _bare(wish: dict[str, Any]) -> dict[str, Any]:
    return {"path": None} if "run" in wish and "path" not in wish else {}


def test_a_registry_that_the_link_does_not_have_is_refused(proxies: Any, experiment_name: str) -> None:
    dbml.link(databricks=proxies.databricks.uri, track="databricks", registry="databricks")
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model()
    for to in ("azureml", "both"):
        with pytest.raises(BadLink, match="no azureml workspace to register in"):
            dbml.register(run_id, experiment_name, to=to)


# --- what is asked of a registry that does not answer


@pytest.mark.full
@pytest.mark.parametrize("how", ["the first answer is lost", "no answer comes for a while"])
def test_a_registry_write_whose_answer_is_lost_is_done_once(
    both: Any, experiment_name: str, how: str
) -> None:
    """A model that was made, renamed or deleted although nobody said so is not an error of the user's."""
    client, name = MlflowClient(), experiment_name
    client.create_registered_model(f"{name}-goes")
    client.create_registered_model(f"{name}-old")
    sync()
    times = 1 if how.startswith("the first") else None
    for path, method in (("create", "POST"), ("rename", "POST"), ("delete", "DELETE")):
        both.databricks.drop(path=f"registered-models/{path}", method=method, times=times)
    client.create_registered_model(name, tags={"team": "a"}, description="fine")
    client.rename_registered_model(f"{name}-old", f"{name}-new")
    client.delete_registered_model(f"{name}-goes")
    both.databricks.clear()
    sync()
    assert dead() == []
    for proxy in both:
        reader = plain.client(proxy.uri)
        there = {m.name: m for m in reader.search_registered_models(f"name LIKE '{name}%'")}
        assert set(there) == {name, f"{name}-new"}
        assert (there[name].tags, there[name].description) == ({"team": "a"}, "fine")


def test_what_was_said_of_a_version_that_was_refused_is_made_up_when_it_is_registered(
    both: Any, experiment_name: str
) -> None:
    client, name = MlflowClient(), experiment_name
    run_id = run_with_model()
    sync()
    refusal = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "not on a Monday"}'
    with both.azureml.status(400, path=CREATE, body=refusal):
        mlflow.register_model(f"runs:/{run_id}/model", name)
        dbml.sync(60)
    client.set_registered_model_alias(name, "champion", "1")
    client.set_model_version_tag(name, "1", "checked", "no")
    client.set_model_version_tag(name, "1", "checked", "yes")
    dbml.sync(60)
    assert dbml.retry_dead_letters().arrived == {"azureml": 1}
    sync()
    (found,) = versions(both.azureml, name)
    assert (found["aliases"], found["tags"]["checked"]) == (["champion"], "yes")
    tables = session.current().engine("this test").state.dump()["tables"]
    assert [key for key, _ in tables["answers"] if key.startswith("owed/")] == []


@pytest.mark.full
def test_an_alias_that_was_acknowledged_is_read_whoever_is_away(proxies: Any, experiment_name: str) -> None:
    """One registry alone: nobody else could be asked for it."""
    link(proxies, registry="databricks")
    mlflow.set_experiment(experiment_name)
    client, name = MlflowClient(), experiment_name
    run_id = run_with_model()
    for _ in range(2):
        mlflow.register_model(f"runs:/{run_id}/model", name)
    sync()
    client.set_registered_model_alias(name, "champion", "1")
    with proxies.databricks.away():
        assert client.get_model_version_by_alias(name, "champion").version == "1"
        client.set_registered_model_alias(name, "champion", "2")
        assert client.get_model_version_by_alias(name, "champion").version == "2"
        client.set_registered_model_alias(name, "other", "1")
        client.delete_registered_model_alias(name, "other")
        with pytest.raises(MlflowException):
            client.get_model_version_by_alias(name, "other")
    sync()
    assert client.get_model_version_by_alias(name, "champion").version == "2"
    plain.client(proxies.databricks.uri).set_registered_model_alias(name, "champion", "1")
    assert client.get_model_version_by_alias(name, "champion").version == "1", "somebody else has moved it"


@pytest.mark.full
def test_a_model_that_is_read_at_the_mirror_names_the_run_that_the_user_knows(
    both: Any, experiment_name: str
) -> None:
    run_id = run_with_model()
    mlflow.register_model(f"runs:/{run_id}/model", experiment_name)
    sync()
    twin = plain.twin_id(both.azureml.uri, run_id, experiment_name)
    assert twin != run_id
    model_id = mlflow.get_run(run_id).outputs.model_outputs[0].model_id
    with both.databricks.away():
        for uri in (f"runs:/{run_id}/model", f"models:/{experiment_name}/1", f"models:/{model_id}"):
            loaded = mlflow.pyfunc.load_model(uri)
            assert (loaded.metadata.run_id, loaded.metadata.model_id) == (run_id, model_id), uri


def test_a_twins_tag_that_is_refused_amid_a_rename_is_tried_again(both: Any, experiment_name: str) -> None:
    run_id = run_with_model()
    mlflow.register_model(f"runs:/{run_id}/model", experiment_name)
    sync()
    plain.client(both.databricks.uri).rename_registered_model(experiment_name, f"{experiment_name}-new")
    refused = '{"error_code": "BAD_REQUEST", "message": "FOREIGN KEY constraint failed"}'
    fault = both.databricks.status(400, body=refused, path="model-versions/set-tag", times=1)
    tag: RegistryChange = {
        "do": "version_tag",
        "own": True,
        "key": "dbml_twin",
        "value": f"azureml:{experiment_name}/1",
    }
    change: RegistryChange = {**tag, "name": experiment_name, "version": "1", "to": ["databricks"]}
    session.current().engine("this test").recorder.write(LINK_QUEUE, ChangeRegistry(change))
    sync()
    assert fault.hits == 1
    assert dead() == []


def test_a_versions_number_has_the_type_that_the_registry_gives_it(experiment_name: str) -> None:
    dbml.link(local=True)
    mlflow.set_experiment(experiment_name)
    run_id = run_with_model()
    made = mlflow.register_model(f"runs:/{run_id}/model", experiment_name)
    read = MlflowClient().get_model_version(experiment_name, "1")
    assert (made.version, type(made.version)) == (read.version, type(read.version))


def test_a_version_names_its_twin_though_its_own_tag_is_still_on_its_way() -> None:
    own = ModelVersion("databricks", "wine", "1")
    twin = ModelVersion("azureml", "wine", "3", twin="databricks:wine/1")
    lone = ModelVersion("azureml", "wine", "2")
    assert [v.twin for v in _paired([own, twin, lone])] == ["azureml:wine/3", "databricks:wine/1", None]
