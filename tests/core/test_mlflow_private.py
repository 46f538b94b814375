"""What is relied on of each private part of MLflow; and nobody else touches any."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import (
    Experiment,
    FileInfo,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.types import DataType

from dbml_magics.core import mlflow_private
from dbml_magics.core.mlflow_private import FUNCTIONS, with_fields
from tests.arrows import MODULES, imported, named

ID = "0" * 32

ENTITIES: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (
        lambda: RunInfo(ID, "1", "u", "RUNNING", 1, None, "active", "a"),
        {"run_id": "r", "experiment_id": "2", "artifact_uri": "b"},
    ),
    (lambda: Experiment("1", "n", "a", "active"), {"experiment_id": "2", "name": "m"}),
    (lambda: Metric("k", 1.0, 1, 1, model_id="m"), {"model_id": "n", "run_id": "r"}),
    (lambda: Param.__new__(Param), {"key": "k", "value": "v"}),
    (lambda: LoggedModelInput("m"), {"model_id": "n"}),
    (lambda: LoggedModelOutput("m", 1), {"model_id": "n"}),
    (
        lambda: LoggedModel("1", "m", "n", "a", 1, 1),
        {
            "model_type": "t",
            "source_run_id": "r",
            "status": LoggedModelStatus.READY,
            "status_message": "s",
            "model_uri": "models:/n",
            "metrics": [Metric("k", 1.0, 1, 1)],
        },
    ),
    (
        lambda: RegisteredModel("n", 1, 1),
        {"name": "m", "description": "d", "last_updated_timestamp": 2, "aliases": {"a": "1"}},
    ),
    (
        lambda: ModelVersion("n", "1", 1),
        {
            "name": "m",
            "version": "2",
            "run_id": "r",
            "model_id": "m",
            "source": "s",
            "description": "d",
            "current_stage": "Staging",
            "last_updated_timestamp": 2,
            "aliases": ["a"],
        },
    ),
]

CALLS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "enforce_type": ((1, DataType.long, True), ("x", DataType.long, True)),
    "jsonable": ((1,), ()),
    "validate_batch_log_data": (([], [], []), ([Metric("k", "x", 1, 1)], [], [])),
    "validate_batch_log_limits": (([], [], []), ([Metric("k", 1.0, 1, 1)] * 2000, [], [])),
    "validate_experiment_name": (("n",), ("",)),
    "validate_experiment_tag": (("k", "v"), (None, "v")),
    "validate_logged_model_name": (("n",), ("a/b",)),
    "validate_metric": (("k", 1.0, 1, 1), ("k", "x", 1, 1)),
    "validate_model_alias_name": (("best",), ("a/b",)),
    "validate_model_alias_name_reserved": (("best",), ("latest",)),
    "validate_model_name": (("n",), ("",)),
    "validate_model_version": (("1",), ("x",)),
    "validate_model_version_tag": (("k", "v"), (None, "v")),
    "validate_param": (("k", "v"), ("..", "v")),
    "validate_param_keys_unique": (([Param("k", "v")],), ([Param("k", "v"), Param("k", "w")],)),
    "validate_registered_model_tag": (("k", "v"), (None, "v")),
    "validate_run_id": ((ID,), ("..",)),
    "validate_tag": (("k", "v"), (None, "v")),
}
"""Function -> arguments that it takes, and arguments that it refuses."""


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_each_function_takes_what_is_good_and_refuses_what_is_not(name: str) -> None:
    function = getattr(mlflow_private, name)
    if name == "random_name":
        assert len({function() for _ in range(20)}) > 1
    elif name == "validate_dataset_inputs":
        function([])
    else:
        good, bad = CALLS[name]
        function(*good)
        if bad:
            with pytest.raises(MlflowException):
                function(*bad)


@pytest.mark.parametrize(("make", "fields"), ENTITIES, ids=lambda each: getattr(each, "__name__", ""))
def test_fields_of_entities_are_told_by_their_properties(
    make: Callable[[], Any], fields: dict[str, Any]
) -> None:
    entity = with_fields(make(), **fields)
    assert {name: getattr(entity, name) for name in fields} == fields


def test_tags_that_are_set_are_told() -> None:
    for entity in (
        RunData(tags=[RunTag("k", "v")]),
        RegisteredModel("n", 1, 1, tags=[RegisteredModelTag("k", "v")]),
        ModelVersion("n", "1", 1, tags=[ModelVersionTag("k", "v")]),
    ):
        mlflow_private.own_tags(entity)["more"] = "w"
        assert entity.tags == {"k": "v", "more": "w"}


def test_points_of_a_run_have_step_and_time() -> None:
    point = Metric("k", 1.0, 2, 3)
    info = RunInfo(ID, "1", "u", "RUNNING", 1, None, "active", "a")
    (found,) = mlflow_private.metric_points(Run(info, RunData(metrics=[point])))
    assert mlflow_private.raw_point(found) == ("k", 1.0, 2, 3)


def test_the_fluent_interface_keeps_runs_by_thread_and_the_experiment(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    before = mlflow_private.global_uris()[0]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/own.db")
    try:
        assert mlflow_private.global_uris()[0] == mlflow_private.tracking_uri_if_imported()
        made = mlflow.set_experiment("own").experiment_id
        assert mlflow_private.active_experiment_id() == made == mlflow_private.experiment_id_of_runs()
        with mlflow.start_run() as run:
            here = mlflow_private.active_runs()[threading.get_ident()]
            assert [each.info.run_id for each in here] == [run.info.run_id]
            assert mlflow_private.active_runs_here() == here
        assert not mlflow_private.active_runs_here()
        assert mlflow.last_active_run() is not None
        mlflow_private.forget_ids()
        assert mlflow_private.active_experiment_id() is None
        assert mlflow.last_active_run() is None
        mlflow_private.set_active_experiment_id(made)
        assert mlflow_private.experiment_id_of_runs() == made
    finally:
        mlflow_private.forget_ids()
        mlflow.set_tracking_uri(before)


class _Shelf(ArtifactRepository):  # type: ignore[misc]
    """A repository as MLflow's own are: a download asks for a listing, but for one file."""

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        raise AssertionError(f"expected no listing of {path}")

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        raise NotImplementedError

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        raise NotImplementedError

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        Path(local_path).write_text(remote_file_path)


def test_what_is_known_to_be_a_file_is_downloaded_without_a_listing(tmp_path: Path) -> None:
    found = mlflow_private.download_file(_Shelf("shelf:/1"), "notes/a.txt", str(tmp_path))
    assert (found, found.read_text()) == (tmp_path / "a.txt", "notes/a.txt")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "b.txt").write_text("b")
    local = LocalArtifactRepository(str(tmp_path / "here"))
    assert mlflow_private.download_file(local, "b.txt", str(tmp_path)).read_text() == "b"


def test_only_one_module_and_destinations_touch_what_is_private_of_mlflow() -> None:
    """By import, and by attributes of ``fluent`` and of entities that the package itself does not have."""
    allowed = ("dbml_magics.core.mlflow_private", "dbml_magics.core.destinations.")
    fields = {f"_{name}" for _, given in ENTITIES for name in given} | {"_metric_objs", "_tags", "_timestamp"}
    found = []
    for path in MODULES:
        if named(path).startswith(allowed):
            continue
        found += [f"{named(path)} imports {module}" for module in imported(path) if private(module)]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlflow"):
                found += [f"{named(path)} imports {a.name}" for a in node.names if a.name.startswith("_")]
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
                of_fluent = node.attr.startswith("_") and ast.unparse(node.value).endswith("fluent")
                set_there = node.attr in fields and isinstance(node.ctx, ast.Store)
                if of_fluent or set_there or node.attr == "_metric_objs":
                    found.append(f"{named(path)}:{node.lineno} {ast.unparse(node)}")
    assert not found


def private(module: str) -> bool:
    """Tell whether a module of MLflow's is a private one."""
    parts = module.split(".")
    return parts[0] == "mlflow" and any(part.startswith("_") for part in parts)


def test_own_downloads_show_no_bars_and_the_users_keep_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow.utils.file_utils import ArtifactProgressBar

    def download() -> str:
        with ArtifactProgressBar.files("Downloading artifacts", 2) as bar:
            bar.update()
        return capsys.readouterr().err

    with mlflow_private.without_bars():
        assert download() == ""
    assert "Downloading artifacts" in download()
    with mlflow_private.without_bars(), mlflow_private.without_bars():
        assert download() == ""
