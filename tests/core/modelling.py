"""Small models, and what the tests of models and registrations ask of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

import dbml_magics as dbml
from dbml_magics.core import session
from tests.infra import plain

ROWS = [[2.0], [3.0]]
ANSWERS = [5.0, 7.0]  # y = 2 x + 1
PLAIN_REQUIREMENTS = ["scikit-learn"]  # finding them out costs 25 s


def linear() -> Any:
    """Return a fitted model of y = 2 x + 1."""
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]))


def log_linear(name: str = "model", **options: Any) -> Any:
    """Log the model as a user does."""
    return mlflow.sklearn.log_model(linear(), name=name, pip_requirements=PLAIN_REQUIREMENTS, **options)


def predicted(model_uri: str) -> list[float]:
    """Return the answers of a model loaded in this process."""
    return [round(float(v), 6) for v in mlflow.pyfunc.load_model(model_uri).predict(np.array(ROWS))]


def rounded(answers: list[list[float]]) -> list[list[float]]:
    """Return answers that can be compared."""
    return [[round(v, 6) for v in found] for found in answers]


def run_with_model(name: str = "model", **options: Any) -> str:
    """Log a run with one model; return its id."""
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        log_linear(name, **options)
    return str(run.info.run_id)


def twins(proxies: Any, run_id: str, experiment: str) -> dict[str, str]:
    """Return each workspace's own id of a run."""
    found = {uri: plain.twin_id(uri, run_id, experiment) for uri in (p.uri for p in proxies)}
    assert all(found.values()), found
    return {uri: str(run) for uri, run in found.items()}


def model_files(uri: str, model_id: str) -> dict[str, bytes]:
    """Return the files of a logged model, read at the workspace itself."""
    where = MlflowClient(tracking_uri=uri, registry_uri=uri).get_logged_model(model_id).artifact_location
    return files_at(uri, where)


def files_at(uri: str, where: str) -> dict[str, bytes]:
    """Return the files below an artifact URI of a workspace."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(download_artifacts(artifact_uri=where, dst_path=folder, tracking_uri=uri))
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def mlmodel(files: dict[str, bytes]) -> dict[str, Any]:
    """Return a model's description."""
    written: dict[str, Any] = yaml.safe_load(files["MLmodel"])
    return written


def no_trace_of_the_link(files: dict[str, bytes]) -> bool:
    """Tell whether nothing in the files names the link."""
    return not any(b"dbml:" in content for content in files.values())


def in_kernel(code: str, **environment: str | None) -> Any:
    """Run a script as another process that has MLFLOW_TRACKING_URI and no more; return what it says."""
    kept = {**os.environ, **{k: v for k, v in environment.items() if v is not None}}
    for name, value in environment.items():
        if value is None:
            kept.pop(name, None)
    script = "import json, mlflow, numpy as np\nanswer = None\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script + "\nprint('\\n' + json.dumps(answer))"],
        capture_output=True,
        text=True,
        env=kept,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def sync() -> None:
    """Deliver everything."""
    dbml.sync(timeout=60)


def dead() -> list[Any]:
    """Return the writes that a workspace refused."""
    return list(session.current().engine("the test").state.dead())
