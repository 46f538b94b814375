"""What the tests of endpoints at Azure ML share: two models that are registered there, and their data."""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd
from mlflow.models import infer_signature

import dbml_magics as dbml

MODEL = "served-wine"
X = pd.DataFrame({"depth": [0.1, 0.25, 0.5], "rate": [1.0, 2.0, 3.5]}, index=list("xyz"))


def fitted() -> list[Any]:
    """Return two models that differ by ten."""
    from sklearn.linear_model import LinearRegression

    y = 2 * X.depth + 3 * X.rate
    return [LinearRegression().fit(X, y), LinearRegression().fit(X, y + 10)]


NEEDED = ["azureml-inference-server-http", "azureml-contrib-services", "azureml-ai-monitoring"]


def log(model: Any, *, needed: bool = True, **options: Any) -> Any:
    """Log a model with its signature, in a run of its own.

    ``needed``: with the packages that a managed endpoint's container needs.
    """
    with mlflow.start_run():
        return mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(X, model.predict(X)),
            pip_requirements=["scikit-learn", *(NEEDED if needed else [])],
            **options,
        )


def register(models: list[Any]) -> None:
    """Make the models versions 1 and 2 of ``served-wine``, once for all tests."""
    if not mlflow.MlflowClient().search_model_versions(f"name='{MODEL}'"):
        mlflow.set_experiment("served")
        for model in models:
            log(model, registered_model_name=MODEL)
        dbml.sync(60)
