"""Read what a workspace holds as anybody with plain MLflow would, knowing nothing of our package.

Functions return plain dictionaries that compare with ``==`` and go through JSON. They run in the test's
process, with clients of explicit URIs, or (:func:`in_child`) in a fresh process in which our package cannot
even be imported.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "artifacts",
    "comparable",
    "history",
    "in_child",
    "load_model_natively",
    "logged_model",
    "logged_models",
    "model_version",
    "model_versions",
    "predictions_at",
    "registered_model",
    "run",
    "runs",
    "twin_id",
]

# Tags that differ between two workspaces by nature: ours, and those that name ids of the workspace.
PRIVATE_TAGS = ("dbml_", "mlflow.modelVersions", "mlflow.log-model.history")


def client(uri: str, registry_uri: str | None = None) -> Any:
    """Return an MLflow client of explicit URIs."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=registry_uri or uri)


def _number(value: float) -> float | str:
    # NaN is not equal to itself and infinity is not JSON: both are named.
    return value if math.isfinite(value) else str(value)


def history(uri: str, run_id: str, key: str) -> list[list[Any]]:
    """Return every point of a metric as [step, timestamp, value], sorted."""
    points = client(uri).get_metric_history(run_id, key)
    return sorted(
        ([m.step, m.timestamp, _number(m.value)] for m in points), key=lambda p: (p[0], p[1], str(p[2]))
    )


def _hashed(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def artifacts(uri: str, run_id: str) -> dict[str, str]:
    """Return the hash of each of a run's artifacts by path, downloaded from the workspace."""
    with tempfile.TemporaryDirectory() as folder:
        reader = client(uri)
        if not reader.list_artifacts(run_id):
            return {}
        return _hashed(Path(reader.download_artifacts(run_id, "", folder)))


def logged_model(uri: str, model_id: str, *, files: bool = False) -> dict[str, Any]:
    """Return what a workspace holds of a logged model; ``files`` adds the hashes of its files."""
    from mlflow.artifacts import download_artifacts

    model = client(uri).get_logged_model(model_id)
    held = {
        "model_id": model.model_id,
        "name": model.name,
        "type": model.model_type,
        "status": str(model.status.value),
        "source_run_id": model.source_run_id,
        "tags": dict(model.tags),
        "params": dict(model.params),
        "metrics": sorted(
            [m.key, m.step, _number(m.value), m.dataset_name, m.dataset_digest] for m in model.metrics or []
        ),
        "artifact_location": model.artifact_location,
    }
    if files:
        with tempfile.TemporaryDirectory() as folder:
            where = download_artifacts(
                artifact_uri=model.artifact_location, dst_path=folder, tracking_uri=uri
            )
            held["files"] = _hashed(Path(where))
    return held


def logged_models(uri: str, run_id: str) -> list[dict[str, Any]]:
    """Return the logged models that the run made, by name."""
    found = client(uri).get_run(run_id).outputs
    models = [logged_model(uri, output.model_id) for output in (found.model_outputs if found else [])]
    return sorted(models, key=lambda model: (model["name"], model["model_id"]))


def run(uri: str, run_id: str, *, files: bool = True) -> dict[str, Any]:
    """Return everything that a workspace holds of a run; ``files=False`` leaves the artifacts out."""
    found = client(uri).get_run(run_id)
    info, data = found.info, found.data
    experiment = client(uri).get_experiment(info.experiment_id)
    datasets = found.inputs.dataset_inputs if found.inputs else []
    model_inputs = (found.inputs.model_inputs if found.inputs else None) or []
    outputs = (found.outputs.model_outputs if found.outputs else None) or []
    return {
        "run_id": info.run_id,
        "name": info.run_name,
        "experiment": experiment.name,
        "status": info.status,
        "start_time": info.start_time,
        "end_time": info.end_time,
        "lifecycle_stage": info.lifecycle_stage,
        "parent": data.tags.get("mlflow.parentRunId"),
        "params": dict(data.params),
        "tags": dict(data.tags),
        "last": {key: _number(value) for key, value in data.metrics.items()},
        "metrics": {key: history(uri, run_id, key) for key in sorted(data.metrics)},
        "inputs": sorted(
            (
                {
                    "name": i.dataset.name,
                    "digest": i.dataset.digest,
                    "source": i.dataset.source,
                    "schema": i.dataset.schema,
                    "profile": i.dataset.profile,
                    "tags": {tag.key: tag.value for tag in i.tags},
                }
                for i in datasets
            ),
            key=lambda i: (i["name"], i["digest"]),
        ),
        "model_inputs": sorted(i.model_id for i in model_inputs),
        "outputs": sorted([o.model_id, o.step] for o in outputs),
        "artifacts": artifacts(uri, run_id) if files else {},
    }


def runs(
    uri: str, experiment: str, *, files: bool = True, deleted: bool = False
) -> dict[str, dict[str, Any]]:
    """Return every run of an experiment by id, oldest first; ``deleted`` includes deleted ones."""
    from mlflow.entities import ViewType

    reader = client(uri)
    found = reader.get_experiment_by_name(experiment)
    if found is None:
        return {}
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    held: dict[str, dict[str, Any]] = {}
    page = None
    while True:
        page = reader.search_runs(
            [found.experiment_id],
            run_view_type=view,
            order_by=["attributes.start_time ASC"],
            page_token=page.token if page else None,
        )
        for each in page:
            held[each.info.run_id] = run(uri, each.info.run_id, files=files)
        if not page.token:
            return held


def twin_id(uri: str, run_id: str, experiment: str) -> str | None:
    """Return this workspace's id of the run that the user knows as ``run_id``; None where it is not."""
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    reader = client(uri)
    try:
        return str(reader.get_run(run_id).info.run_id)
    except MlflowException:
        found = reader.get_experiment_by_name(experiment)
        if found is None:
            return None
        tagged = reader.search_runs(
            [found.experiment_id], f"tags.dbml_run_id = '{run_id}'", run_view_type=ViewType.ALL
        )
        if len(tagged) > 1:
            raise AssertionError(f"{uri} has {len(tagged)} runs for {run_id}") from None
        return str(tagged[0].info.run_id) if tagged else None


def comparable(held: Mapping[str, Any], *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return a run without what differs between workspaces by nature: ids, and tags that hold them."""
    left_out = {"run_id", "parent", "outputs", "model_inputs", *without}
    kept = {key: value for key, value in held.items() if key not in left_out}
    kept["tags"] = {
        key: value
        for key, value in held["tags"].items()
        if not key.startswith(PRIVATE_TAGS) and key != "mlflow.parentRunId"
    }
    kept["outputs"] = len(held["outputs"])
    kept["model_inputs"] = len(held["model_inputs"])
    kept["nested"] = held["parent"] is not None
    return {key: value for key, value in kept.items() if key not in set(without)}


def model_version(uri: str, name: str, version: str) -> dict[str, Any]:
    """Return a version of a registered model."""
    reader = client(uri)
    found = reader.get_model_version(name, version)
    return {
        "name": found.name,
        "version": str(found.version),
        "run_id": found.run_id or None,
        "source": found.source,
        "status": found.status,
        "description": found.description or "",
        "tags": dict(found.tags),
        "aliases": sorted(found.aliases),
    }


def model_versions(uri: str, name: str) -> list[dict[str, Any]]:
    """Return every version of a registered model, oldest first; none where the registry lacks the model."""
    versions = [v.version for v in client(uri).search_model_versions(f"name='{name}'")]
    return [model_version(uri, name, version) for version in sorted(versions, key=int)]


def registered_model(uri: str, name: str) -> dict[str, Any] | None:
    """Return a registered model with its aliases and tags; None where the registry lacks it."""
    from mlflow.exceptions import MlflowException

    try:
        found = client(uri).get_registered_model(name)
    except MlflowException:
        return None
    return {
        "name": found.name,
        "description": found.description or "",
        "tags": dict(found.tags),
        "aliases": {alias: str(version) for alias, version in found.aliases.items()},
    }


def predictions(model_uri: str, rows: list[list[float]], columns: list[str] | None = None) -> list[Any]:
    """Load a model with plain MLflow and return its predictions; the tracking URI is the process's."""
    import mlflow
    import numpy as np
    import pandas as pd

    data = np.array(rows) if columns is None else pd.DataFrame(rows, columns=columns)
    found = mlflow.pyfunc.load_model(model_uri).predict(data)
    return list(np.asarray(found).tolist())


def predictions_at(places: list[list[str]], rows: list[list[float]]) -> list[list[Any]]:
    """Load several models, each [tracking URI, registry URI, model URI], and return their predictions."""
    import mlflow

    found = []
    for tracking_uri, registry_uri, model_uri in places:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(registry_uri)
        found.append(predictions(model_uri, rows))
    return found


# A fresh process

_PRELUDE = """
import importlib.abc, importlib.metadata, importlib.util, json, sys, warnings

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "dbml_magics":
            raise ImportError("this process does not have dbml_magics")
        return None

sys.meta_path.insert(0, Refuse())
every = importlib.metadata.entry_points
def entry_points(**selection):
    found = every(**selection)
    if str(selection.get("group", "")).startswith("mlflow."):
        return importlib.metadata.EntryPoints(e for e in found if not e.value.startswith("dbml_magics"))
    return found
importlib.metadata.entry_points = entry_points
warnings.simplefilter("ignore")
asked = json.load(sys.stdin)
# Loaded by its file: nothing else of the checkout can be imported.
spec = importlib.util.spec_from_file_location("plain", sys.argv[1])
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
answer = getattr(plain, asked["function"])(*asked["args"], **asked["kwargs"])
assert "dbml_magics" not in sys.modules
print("\\n" + json.dumps(answer))
"""


def in_child(
    function: str,
    *args: Any,
    environment: Mapping[str, str] | None = None,
    deadline: float = 180,
    **kwargs: Any,
) -> Any:
    """Call one of these functions by name in a fresh process without our package or our environment."""
    from tests.infra.servers import clean_environment

    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PRELUDE, __file__],
            input=json.dumps({"function": function, "args": args, "kwargs": kwargs}),
            capture_output=True,
            text=True,
            cwd=home,
            env=clean_environment(Path(home), environment),
            timeout=deadline,
        )
    if done.returncode != 0:
        raise AssertionError(f"plain.{function} failed in a fresh process:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def load_model_natively(
    model_uri: str,
    tracking_uri: str,
    rows: list[list[float]],
    *,
    registry_uri: str | None = None,
    columns: list[str] | None = None,
) -> list[Any]:
    """Return the predictions of a model that a fresh process without our package loads from a workspace."""
    environment = {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_REGISTRY_URI": registry_uri or tracking_uri}
    answer = in_child("predictions", model_uri, rows, columns, environment=environment)
    assert isinstance(answer, list)
    return answer
