"""Models with a flavour: logged, registered, loaded by every address, and described."""

from __future__ import annotations

from typing import Any

import mlflow
import mlflow.models
import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature, infer_signature

from tests.conformance.player import Player, Table

table = Table("models")


class Twice(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model that doubles."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return twice what is given."""
        return model_input * 2


def rows() -> pd.DataFrame:
    """Return what the model is asked."""
    return pd.DataFrame({"a": [1.0, 2.0]})


def log(p: Player, name: str | None = "model", **given: object) -> Any:
    """Log the model, to the active run or to one of its own."""
    signature: ModelSignature = infer_signature(rows(), rows())
    return p.call(
        "mlflow.pyfunc.log_model",
        mlflow.pyfunc.log_model,
        name=name,
        python_model=Twice(),
        pip_requirements=["mlflow"],
        signature=signature,
        **given,
    )


def ask(p: Player, uri: str) -> None:
    """Load a model and ask it."""
    p.call("mlflow.pyfunc.load_model", lambda where: mlflow.pyfunc.load_model(where).predict(rows()), uri)


@table.story("logged and loaded")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run() as run:
        p.mlflow.log_metric("m", 0.5, step=1)
        info = log(p, input_example=rows(), metadata={"k": "v"})
        p.mlflow.log_metric("n", 0.5, step=2)
    own = info.model_id
    p.mlflow.get_logged_model(own)
    p.mlflow.get_run(run.info.run_id)
    for uri in (
        f"models:/{own}",
        info.model_uri,
        info.artifact_path,
        f"runs:/{run.info.run_id}/model",
        p.raw.get_logged_model(own).artifact_location,
        f"runs:/{run.info.run_id}/none",
        "models:/m-" + "0" * 32,
    ):
        ask(p, uri)
        p.call("mlflow.models.get_model_info", mlflow.models.get_model_info, uri)
    p.client.list_logged_model_artifacts(own)
    p.mlflow.last_logged_model()


@table.story("registered as it is logged")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    name = p.name("m")
    with p.mlflow.start_run():
        log(p, registered_model_name=name)
        info = log(p, registered_model_name=name)
    p.client.set_registered_model_alias(name, "best", "2")
    for uri in (
        f"models:/{name}/1",
        f"models:/{name}@best",
        f"models:/{name}/latest",
        f"models:/{name}/9",
        f"models:/{name}@none",
        f"models:/{name}",
    ):
        ask(p, uri)
    p.client.get_model_version(name, "2")
    p.client.get_model_version_download_uri(name, "2")
    p.mlflow.artifacts.download_artifacts(f"models:/{name}/1")
    p.mlflow.artifacts.list_artifacts(f"models:/{name}/1")
    p.mlflow.get_logged_model(info.model_id)
    p.mlflow.register_model(f"models:/{info.model_id}", name)
    p.client.get_registered_model(name)


@table.story("without a run")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    info = log(p)
    p.mlflow.get_logged_model(info.model_id)
    ask(p, info.model_uri)
    p.mlflow.active_run()
    p.mlflow.end_run()


@table.story("steps of one run")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run() as run:
        for step in range(2):
            info = log(
                p, name=f"ck-{step}", step=step, params={"depth": str(step)}, tags={"k": "v"}, model_type="x"
            )
            p.mlflow.log_metric("m", step, step=step, model_id=info.model_id)
    p.mlflow.search_logged_models(output_format="list", order_by=[{"field_name": "name"}])
    p.mlflow.get_run(run.info.run_id)


@table.story("by the old name of the argument")
def _(p: Player) -> None:
    p.mlflow.set_experiment(p.name("a"))
    with p.mlflow.start_run() as run:
        info = log(p, name=None, artifact_path="old/place")
    ask(p, f"runs:/{run.info.run_id}/old/place")
    p.client.list_artifacts(run.info.run_id)
    p.client.download_artifacts(run.info.run_id, "old/place")
    p.see("address", info.model_uri)
