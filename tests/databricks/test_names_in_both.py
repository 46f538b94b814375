"""One name in two workspaces: Unity Catalog's models, and two people's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.destinations.naming import azureml_model_name, model_name_behind
from dbml_magics.errors import Refused
from tests.azure.test_main_job import natively as natively_at_azure_ml
from tests.databricks.conftest import ADA
from tests.databricks.test_main_job import natively as natively_at_databricks
from tests.standins.azure import AzureStandIn
from tests.standins.azure.tracking import MODEL_NAME
from tests.standins.databricks import Databricks


@given(st.one_of(st.text(alphabet="abu2d0_-.é ", min_size=1, max_size=12), st.text(min_size=1, max_size=12)))
def test_every_model_has_a_legal_name_at_azure_ml_which_leads_back_to_it(name: str) -> None:
    there = azureml_model_name(name)
    assert MODEL_NAME.fullmatch(there), f"{name!r} is {there!r} there, which Azure ML refuses"
    assert model_name_behind(there) == name
    assert azureml_model_name(model_name_behind(there)) == there


def test_the_usual_names_can_be_read_by_people() -> None:
    assert azureml_model_name("main.ml.iris") == "main--ml--iris"
    assert azureml_model_name("wine-2") == "wine-2"
    assert azureml_model_name("iris.v2") == "iris-u2e-v2"


def model(signature: bool = True) -> dict[str, Any]:
    """Return what log_model takes for a model that doubles."""
    import numpy as np
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    fitted = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    signature_given = infer_signature(np.array([[0.0]]), fitted.predict([[0.0]])) if signature else None
    return {
        "sk_model": fitted,
        "name": "model",
        "pip_requirements": ["scikit-learn"],
        "signature": signature_given,
    }


@pytest.mark.full
def test_a_model_of_unity_catalog_is_registered_at_azure_ml_too_with_alias_tag_and_twin(
    both: dict[str, Any], adb: Databricks, azure: AzureStandIn, experiment_name: str, tmp_path: Path
) -> None:
    import mlflow
    import numpy as np

    session = sessions.current()
    dbml.link(databricks="databricks", **both["azure"], registry="both")
    dbml.experiment(experiment_name)
    name = f"main.ml.{experiment_name.replace('-', '_')[:30]}"
    there = name.replace(".", "--")
    tracked = session.begin_track("forest")
    mlflow.log_metric("loss", 0.2, step=1)
    mlflow.log_text("hello", "notes/hello.txt")
    mlflow.sklearn.log_model(**model())
    summary = tracked.end()
    made = dbml.register("last", name, aliases=["champion"], tags={"team": "wine"})
    assert {v.workspace: (v.name, v.version) for v in made.versions} == {
        "databricks": (name, "1"),
        "azureml": (there, "1"),
    }
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, "candidate", "1")
    client.set_model_version_tag(name, "1", "stage_of", "life")
    assert not any(dbml.sync(timeout=90).dead.values())

    shown = {v.workspace: v for v in dbml.models(name).versions}
    assert shown["azureml"].twin == f"databricks:{name}/1"
    assert shown["databricks"].twin == f"azureml:{there}/1"
    for version in shown.values():
        assert set(version.aliases) == {"candidate", "champion"}
        assert version.tags == {"team": "wine", "stage_of": "life"}
        assert version.run_id == summary.run_id
    assert [v.name for v in dbml.models(there).versions] == [name, there], "found by the studio's name too"
    assert dbml.verify(experiment=experiment_name).differences == ()

    run_there = session.engine("the test").state.identity("azureml", "run", summary.run_id)
    assert run_there is not None
    held = natively_at_azure_ml(azure, tmp_path / "native", run_there.actual, there)
    assert held["registered"] == pytest.approx([6.0])
    own = summary.links["databricks"].rpartition("/")[2]
    tags = natively_at_databricks(adb, own, name, "databricks-uc")["tags"]
    assert tags["dbml_twin"] == f"azureml:{there}/1"
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    assert float(loaded.predict(np.array([[3.0]]))[0]) == pytest.approx(6.0)


def test_names_are_translated_where_azure_ml_is_the_only_registry(
    both: dict[str, Any], experiment_name: str
) -> None:
    import mlflow
    import numpy as np

    dbml.link(**both["azure"], track="azureml")
    dbml.experiment(experiment_name)
    with mlflow.start_run():
        mlflow.sklearn.log_model(**model())
    name = f"main.ml.{experiment_name.replace('-', '_')[:30]}"
    there = name.replace(".", "--")
    assert dbml.register("last", name).versions[0].name == there
    dbml.sync(timeout=60)
    for known in (name, there):
        loaded = mlflow.pyfunc.load_model(f"models:/{known}/1")
        assert float(loaded.predict(np.array([[3.0]]))[0]) == pytest.approx(6.0)
    assert any(m.name == name for m in mlflow.MlflowClient().search_registered_models())


def test_two_peoples_experiments_of_one_name_are_two_at_azure_ml(
    both: dict[str, Any],
    adb: Databricks,
    home: Path,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    session = sessions.current()
    there = {}
    for person in (ADA, "bob@example.com"):
        monkeypatch.setenv("DATABRICKS_TOKEN", adb.token(person))
        (home / person).mkdir()
        monkeypatch.chdir(home / person)  # each at a machine of their own
        dbml.link(databricks="databricks", **both["azure"])
        made = dbml.experiment(experiment_name)
        assert made.names["databricks"] == f"/Users/{person}/{experiment_name}"
        with mlflow.start_run(run_name=person):
            mlflow.log_metric("m", 1.0)
        mlflow.set_experiment_tag("team.name", "wine: red/white")
        assert not any(dbml.sync(timeout=60).dead.values())
        there[person] = dbml.experiment(experiment_name).names["azureml"]
        assert [row.name for row in dbml.runs().rows] == [person]
        assert dbml.verify(experiment=experiment_name).differences == ()
        session.unlink()
    assert there[ADA] == experiment_name
    assert there["bob@example.com"].startswith(f"{experiment_name}-"), f"two people in one: {there}"


def test_databricks_keeps_an_experiment_without_workspace_and_finds_none_by_the_name_with_it(
    both: dict[str, Any], adb: Databricks, azure: AzureStandIn, experiment_name: str
) -> None:
    """A notebook names its experiment as the file browser shows it; it is one experiment all the same."""
    import mlflow

    session = sessions.current()
    shown, kept = (f"{lead}/Users/{ADA}/{experiment_name}" for lead in ("/Workspace", ""))
    dbml.link(databricks="databricks", **both["azure"])
    made = dbml.experiment(shown)
    assert (made.name, made.created) == (kept, True)
    assert made.names == {"databricks": kept, "azureml": experiment_name}
    with mlflow.start_run(run_name="first"):
        mlflow.log_metric("m", 1.0)
    client = mlflow.MlflowClient()
    for name in (shown, kept):
        assert mlflow.set_experiment(name).experiment_id == made.experiment_id
        assert [e.name for e in client.search_experiments(filter_string=f"name = '{name}'")] == [kept]
        with pytest.raises(mlflow.MlflowException, match="already exists"):
            client.create_experiment(name)
    with dbml.track("second", experiment=shown) as run:
        mlflow.log_metric("m", 2.0)
    assert not any(dbml.sync(timeout=60).dead.values())
    session.unlink()
    dbml.link(databricks="databricks", **both["azure"])
    assert dbml.experiment(shown).created is False
    assert client.get_run(run.run_id).info.experiment_id == made.experiment_id
    verified = dbml.verify(experiment=shown)
    assert (verified.runs_compared, verified.differences) == (2, ())
    client.rename_experiment(made.experiment_id, f"{shown}-2")
    assert client.get_experiment(made.experiment_id).name == f"{kept}-2"
    assert not any(dbml.sync(timeout=60).dead.values())
    assert dbml.verify(experiment=f"{shown}-2").differences == ()
    assert dbml.experiment(f"{shown}-2").names == {
        "databricks": f"{kept}-2",
        "azureml": f"{experiment_name}-2",
    }


def test_what_unity_catalog_would_refuse_is_said_before_anything_is_made(
    both: dict[str, Any], adb: Databricks, experiment_name: str
) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    dbml.link(databricks="databricks", **both["azure"], registry="both")
    dbml.experiment(experiment_name)
    plain = experiment_name.replace("-", "_")[:30]
    with mlflow.start_run() as run:
        mlflow.sklearn.log_model(**model(signature=False))
    with pytest.raises(Refused, match="has no signature") as caught:
        dbml.register("last", f"main.ml.{plain}")
    assert any("input_example" in command for command, _ in caught.value.remedies)
    with pytest.raises(MlflowException, match="has no signature"):
        mlflow.MlflowClient().create_model_version(
            f"main.ml.{plain}", f"runs:/{run.info.run_id}/model", run.info.run_id
        )
    with mlflow.start_run():
        mlflow.sklearn.log_model(**model())
    with pytest.raises(Refused, match=r"'team\.name' is no key") as caught:
        dbml.register("last", f"main.ml.{plain}", tags={"team.name": "wine"})
    assert any("--tag team_name=" in command for command, _ in caught.value.remedies)
    dbml.sync(timeout=60)
    assert f"main.ml.{plain}" not in adb.catalog
    assert not adb.requests("unity-catalog/(registered-models|model-versions)/create")
    assert dbml.register("last", plain, tags={"team.name": "wine"}).versions[0].version == "1"


def test_the_workspaces_own_registry_has_aliases_through_the_link(
    signed_in: Databricks, home: Path, experiment_name: str
) -> None:
    import mlflow

    dbml.link(databricks="databricks", track="databricks")
    dbml.experiment(experiment_name)
    name = experiment_name
    for _ in range(2):
        with mlflow.start_run():
            mlflow.sklearn.log_model(**model())
        dbml.register("last", name, aliases=["champion"])
    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias(name, "champion").version == "2"
    client.set_registered_model_alias(name, "former", "1")
    assert client.get_registered_model(name).aliases == {"champion": "2", "former": "1"}
    assert not client.get_registered_model(name).tags
    client.delete_registered_model_alias(name, "champion")
    assert client.get_registered_model(name).aliases == {"former": "1"}
    assert {v.version: v.aliases for v in dbml.models(name).versions} == {"1": ("former",), "2": ()}
    assert not dbml.sync(timeout=60).dead["databricks"]
