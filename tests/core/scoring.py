"""Models for the tests of scoring, and the models themselves in memory."""

from __future__ import annotations

import sys
import warnings
from functools import cache
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd

import dbml_magics as dbml

# A user's class stands in a notebook: its code travels with the model, to workers that have no such module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

X = pd.DataFrame({"depth": [0.1, 0.25, 1 / 3, 1e-17], "rate": [1.0, 2.0, 3.5, 1e9]}, index=list("wxyz"))


@cache
def linear() -> Any:
    """Return a fitted model of depth and rate."""
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(X, 2 * X.depth + 3 * X.rate)


def exact(frame: pd.DataFrame) -> Any:
    """Return what :class:`Exact` says, which is the same of a row whatever rows are beside it.

    A linear model's last bit hangs on where a row stands in its batch: that is the processor's business.
    """
    return (frame.depth * 2 + frame.rate * 3).to_numpy()


class Exact(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Multiplies and adds two columns."""

    def predict(self, context, model_input, params=None):  # MLflow would read types from hints
        return (model_input["depth"] * 2 + model_input["rate"] * 3).to_numpy()


class Picky(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Adds two columns, refuses NaN and negative numbers, and answers in the shape that is wanted."""

    def __init__(self, column: str = "", answer: str = "", *, always: bool = False) -> None:
        self.column, self.answer, self.always = column, answer, always

    def predict(self, context, model_input, params=None):  # MLflow would read types from hints
        if self.always:
            raise ValueError("never")
        if self.answer:
            return getattr(self, f"_{self.answer}")(model_input)
        if self.column:
            return model_input[self.column].to_numpy()
        if model_input["a"].isna().any():
            raise ValueError("nan is refused")
        if (model_input["a"] < 0).any():
            raise ValueError("negative numbers are refused")
        return (model_input["a"] + model_input["n"]).to_numpy(dtype="float64")

    def _class(self, data: Any) -> Any:
        return np.where(data["a"] < 0.5, "low", "high")

    def _pair(self, data: Any) -> Any:
        return np.column_stack([data["a"], data["a"] * 2])

    def _frame(self, data: Any) -> Any:
        return pd.DataFrame({"word": self._class(data), "one": data["a"].to_numpy()})

    def _sum(self, data: Any) -> Any:
        return data.sum(axis=1)

    def _columns(self, data: Any) -> Any:
        return [",".join(data.columns)] * len(data)

    def _text(self, data: Any) -> Any:
        return ["|".join(map(str, row)) for row in zip(*(data[c] for c in data.columns), strict=True)]

    def _uri(self, data: Any) -> Any:
        return [mlflow.get_tracking_uri()] * len(data)


def log(model: Any, signature: Any, **options: Any) -> str:
    """Log a model in a run of its own; returns its URI."""
    with warnings.catch_warnings(), mlflow.start_run():
        warnings.simplefilter("ignore")
        if isinstance(model, mlflow.pyfunc.PythonModel):
            found = mlflow.pyfunc.log_model(
                name="model", python_model=model, signature=signature, pip_requirements=["mlflow"], **options
            )
        else:
            found = mlflow.sklearn.log_model(
                model, name="model", signature=signature, pip_requirements=["scikit-learn"], **options
            )
    if options:
        dbml.sync(60)
    return str(found.model_uri)


def loaded(model: str) -> Any:
    """Return the model in memory."""
    return mlflow.pyfunc.load_model(f"models:/{model}" if ":" not in model else model)
