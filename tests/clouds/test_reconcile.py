"""Comparing and repairing at both clouds: where files are written once, and a run takes only so much."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import ExperimentTag, LoggedModelTag, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.models import infer_signature

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.errors import NotConfirmed
from dbml_magics.results.reconcile import RepairResult, VerifyResult
from tests.clouds.conftest import Clouds
from tests.core.modelling import log_linear
from tests.core.test_histories import profile
from tests.databricks.conftest import ADA


@pytest.fixture
def linked(both: Clouds, experiment_name: str) -> str:
    dbml.link(**both.wishes("both", "databricks"))
    dbml.experiment(experiment_name)
    return experiment_name


def verified(experiment: str, **options: Any) -> VerifyResult:
    return dbml.verify(experiment=experiment, **options)


def repaired(experiment: str, **options: Any) -> RepairResult:
    return dbml.repair(experiment=experiment, **options)


def side(role: str) -> WorkspaceReader:
    return WorkspaceReader(sessions.current().engine("this test"), role)


def files_at(role: str, run_id: str) -> dict[str, str]:
    """Return {path: content} of a run's files at one workspace, without those that the package keeps."""
    there = side(role)
    run = there.get_run(there.side.ids.run_at(run_id))
    repository = there.side.destination.artifacts(run.info.artifact_uri)
    return {
        path: Path(repository.download_artifacts(path)).read_text()
        for path in there.files(repository, ["dbml"])
    }


def edit_file(tmp_path: Path, role: str, run_id: str, name: str, content: str) -> None:
    """Put a file into a run in one of the portals."""
    there = side(role)
    (tmp_path / name).write_text(content)
    root = there.get_run(there.side.ids.run_at(run_id)).info.artifact_uri
    there.side.destination.artifacts(root).log_artifact(str(tmp_path / name))


@pytest.mark.full
def test_a_file_that_was_logged_twice_is_the_same_where_files_are_written_once(
    linked: str, tmp_path: Path
) -> None:
    with mlflow.start_run(run_name="twice") as run:
        mlflow.log_text("one", "notes.txt")
        mlflow.log_text("its own", "list~2.txt")
        mlflow.log_text("a list", "list.txt")
        dbml.sync(timeout=60)
        mlflow.log_text("second content", "notes.txt")
    dbml.sync(timeout=60)
    run_id = run.info.run_id
    assert files_at("azureml", run_id)["notes~2.txt"] == "second content"
    same = verified(linked)
    assert same.equal, str(same)
    assert not repaired(linked).repaired

    # Edited in the portal, once to a new content and once back to the first one.
    for content in ("edited in a portal", "one"):
        edit_file(tmp_path, "databricks", run_id, "notes.txt", content)
        assert [d.what for d in verified(linked).differences] == ["artifact notes.txt"]
        done = repaired(linked)
        assert [r.difference.what for r in done.repaired] == ["artifact notes.txt"], str(done)
        assert not done.remaining, str(done)
        again = repaired(linked, prune=True)
        assert not again.repaired, str(again)
    there = files_at("azureml", run_id)
    assert there["notes~3.txt"] == "edited in a portal"
    assert there["notes~4.txt"] == "one"
    assert verified(linked, deep=True).equal


def test_files_come_back_from_azure_ml_as_they_were_last(linked: str, tmp_path: Path) -> None:
    with mlflow.start_run(run_name="twice") as run:
        mlflow.log_text("one", "notes.txt")
        dbml.sync(timeout=60)
        mlflow.log_text("second content", "notes.txt")
    dbml.sync(timeout=60)
    edit_file(tmp_path, "databricks", run.info.run_id, "notes.txt", "edited in a portal")
    done = repaired(linked, source="azureml")
    assert [r.difference.what for r in done.repaired] == ["artifact notes.txt"]
    assert not done.remaining, str(done)
    assert files_at("databricks", run.info.run_id) == {"notes.txt": "second content"}
    assert verified(linked).equal


def test_a_file_in_azure_ml_alone_is_not_said_to_be_deleted(linked: str, tmp_path: Path) -> None:
    with mlflow.start_run(run_name="alone") as run:
        mlflow.log_metric("m", 1.0)
    dbml.sync(timeout=60)
    edit_file(tmp_path, "azureml", run.info.run_id, "notes.txt", "put there in the studio")
    done = repaired(linked, prune=True)  # nothing can be deleted, so nothing is asked
    assert [r.done for r in done.remaining] == ["in azureml alone, where files cannot be deleted one by one"]


def a_wide_run() -> str:
    with mlflow.start_run(run_name="wide") as run:
        for start in range(0, 220, 100):
            mlflow.log_params({f"p{n}": n for n in range(start, min(start + 100, 220))})
        for step in range(2):
            mlflow.log_metrics({f"m{n:02}": n + step for n in range(60)}, step=step)
        mlflow.set_tags({f"t{n}": n for n in range(60)})
        mlflow.set_tag("long", "x" * 3000)
    return str(run.info.run_id)


@pytest.mark.full
def test_what_azure_ml_does_not_take_is_no_difference_in_its_histories_either(linked: str) -> None:
    run_id = a_wide_run()
    dbml.sync(timeout=60)
    same = verified(linked, deep=True)
    assert same.equal, str(same)
    assert same.least > 100, "each history had to be read"
    assert same.requests >= same.least
    # What was edited since is one, also where the file has it.
    store = side("databricks").engine.workspaces["databricks"].tracking
    store.set_tag(run_id, RunTag("long", "y" * 3000))
    store.log_param(run_id, Param("p999", "late"))
    found = verified(linked)
    assert {d.what for d in found.differences} == {"tag long", "param p999"}, str(found)
    done = repaired(linked)
    assert not done.remaining, str(done)
    assert verified(linked, deep=True).equal
    assert not repaired(linked, deep=True).repaired


@pytest.mark.full
def test_an_older_run_with_more_than_azure_ml_takes_comes_over_whole_at_once(
    both: Clouds, experiment_name: str
) -> None:
    mlflow.set_tracking_uri("databricks")
    mlflow.set_experiment(f"/Users/{ADA}/{experiment_name}")
    with mlflow.start_run(run_name="with a child"):
        a_child = {"nested": True, "run_name": "child"}
        with mlflow.start_run(**a_child):
            log_linear("model")
            mlflow.log_text("one", "a/notes.txt")
    a_wide_run()
    mlflow.set_tracking_uri(None)
    time.sleep(0.05)
    dbml.link(**both.wishes("both", "databricks"))
    done = repaired(f"/Users/{ADA}/{experiment_name}")
    assert done.copied == 3
    assert not done.remaining, str(done)
    same = verified(f"/Users/{ADA}/{experiment_name}", deep=True)
    assert same.equal, str(same)
    again = repaired(f"/Users/{ADA}/{experiment_name}", deep=True)
    assert not again.repaired, str(again)


@pytest.mark.full
def test_edits_in_azure_mls_registry_alone_reach_databricks(both: Clouds, experiment_name: str) -> None:
    dbml.link(**both.wishes("both", "both"))
    dbml.experiment(experiment_name)
    rows = np.array([[0.0], [1.0]])
    with mlflow.start_run() as run:
        log_linear("model", signature=infer_signature(rows, rows[:, 0]))
    dbml.sync(timeout=60)
    name = f"main.ml.wine{experiment_name[-1]}"
    dbml.register(run.info.run_id, name)
    dbml.sync(timeout=60)
    assert verified(experiment_name).equal, str(verified(experiment_name))
    here, there = (side(role).engine.workspaces[role].registry for role in ("databricks", "azureml"))
    there.update_model_version(name, "1", "said in the studio")
    there.update_registered_model(name, "a model of wine")
    there.set_registered_model_alias(name, "champion", "1")
    found = {d.what for d in verified(experiment_name).differences}
    assert found == {"version description", "registered model description", "alias champion"}
    done = repaired(experiment_name)
    assert not done.remaining, str(done)
    assert here.get_model_version(name, "1").description == "said in the studio"
    assert here.get_registered_model(name).description == "a model of wine"
    assert here.get_model_version_by_alias(name, "champion").version in ("1", 1)
    assert verified(experiment_name).equal
    # Deleted in Databricks since, it goes from Azure ML only when that is confirmed.
    here.delete_registered_model_alias(name, "champion")
    with pytest.raises(NotConfirmed, match="alias champion"):
        repaired(experiment_name, prune=True)
    assert not repaired(experiment_name, prune=True, confirm=True).remaining
    assert verified(experiment_name).equal


KINDS = (
    *("tag", "long tag", "note", "param", "metric", "name", "file", "changed file", "experiment tag"),
    *("model tag", "version", "version tag", "registered model", "alias"),
)
EDITS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(["databricks", "azureml"])), max_size=6)


class Edits:
    """Edits in one portal or the other, and how each should be shown."""

    def __init__(self, run_id: str, name: str, tmp_path: Path) -> None:
        self.run_id, self.name, self.tmp_path = run_id, name, tmp_path
        self.found: set[str] = set()
        self.may_stay: set[str] = set()
        self.done: set[str] = set()

    def apply(self, kind: str, role: str) -> None:
        if kind in self.done or (kind == "model tag" and role == "azureml"):
            return  # Azure ML shows no logged models that somebody could edit
        self.done.add(kind)
        there = side(role)
        own, store = there.side.ids.run_at(self.run_id), there.engine.workspaces[role].tracking
        registry = there.engine.workspaces[role].registry
        stays, difference = False, f"{kind} {kind}"
        if kind in ("tag", "long tag"):
            store.set_tag(own, RunTag(kind.replace(" ", "_"), kind if kind == "tag" else "x" * 900))
            difference = f"tag {kind.replace(' ', '_')}"
        elif kind == "note":
            store.set_tag(own, RunTag("mlflow.note.content", "a note"))
            difference = "note"
        elif kind == "param":
            store.log_param(own, Param("param", "1"))
            stays = role == "azureml"
        elif kind == "metric":
            store.log_metric(own, Metric("m", 7.0, int(time.time() * 1000), 7))
            difference, stays = "metric m", role == "azureml"
        elif kind == "name":
            store.update_run_info(own, None, None, "renamed")
            difference = "name"
        elif kind == "file":
            edit_file(self.tmp_path, role, self.run_id, "late.txt", "late")
            difference, stays = "artifact late.txt", role == "azureml"
        elif kind == "changed file":
            if role == "azureml":
                return  # a file that is there stays as it is
            edit_file(self.tmp_path, role, self.run_id, "notes.txt", "changed in a portal")
            difference = "artifact notes.txt"
        elif kind == "experiment tag":
            store.set_experiment_tag(there.get_run(own).info.experiment_id, ExperimentTag("late", "1"))
            difference = "experiment tag late"
        elif kind == "model tag":
            (model,) = side("databricks").get_run(self.run_id).outputs.model_outputs
            store.set_logged_model_tags(model.model_id, [LoggedModelTag("late", "1")])
            difference = f"model {model.model_id} tag late"
        elif kind == "version":
            registry.update_model_version(self.name, "1", "late")
            difference = "version description"
        elif kind == "version tag":
            registry.set_model_version_tag(self.name, "1", ModelVersionTag("late", "1"))
            difference = "version tag late"
        elif kind == "registered model":
            registry.update_registered_model(self.name, "late")
            difference = "registered model description"
        else:
            registry.set_registered_model_alias(self.name, "late", "1")
            difference = "alias late"
        self.found.add(difference)
        if stays:
            self.may_stay.add(difference)


@pytest.mark.full
def test_edits_at_the_clouds_are_found_exactly_and_repair_ends_equal(
    both: Clouds, experiment_name: str, tmp_path: Path
) -> None:
    dbml.link(**both.wishes("both", "both"))
    numbers = itertools.count(1)
    rows = np.array([[0.0], [1.0]])

    @profile(4, 1)
    @given(EDITS, st.booleans())
    def example(edits: list[tuple[str, str]], deep: bool) -> None:
        number = next(numbers)
        experiment, name = f"{experiment_name}-{number}", f"main.ml.edited{number}"
        dbml.experiment(experiment)
        with mlflow.start_run(run_name="edited") as run:
            mlflow.log_metrics({"m": 1.0, "n": 2.0})
            mlflow.log_text("one", "notes.txt")
            log_linear("model", signature=infer_signature(rows, rows[:, 0]))
        dbml.sync(timeout=60)
        dbml.register(run.info.run_id, name)
        dbml.sync(timeout=60)
        same = verified(experiment, deep=deep)
        assert same.equal, f"just delivered, and yet: {same}"
        edited = Edits(run.info.run_id, name, tmp_path)
        for edit in edits:
            edited.apply(*edit)
        found = verified(experiment, deep=deep)
        assert {d.what for d in found.differences} == edited.found, f"{edits}: {found}"
        done = repaired(experiment, deep=deep)
        left = {r.difference.what for r in done.remaining}
        assert left <= edited.may_stay, f"{edits}: {done}"
        again = repaired(experiment, deep=True)
        assert not again.repaired, f"{edits}: a second time there is nothing to do, but {again}"
        assert {d.what for d in verified(experiment, deep=True).differences} == left

    example()
