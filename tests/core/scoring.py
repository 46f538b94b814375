"""Models for the tests of scoring, and the models themselves in memory."""

from __future__ import annotations

import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

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


# MLflow would read the types of a predict from its hints: these have none.


class Exact(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Multiplies and adds two columns."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return (model_input["depth"] * 2 + model_input["rate"] * 3).to_numpy()


def _bare(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


class Picky(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Adds two columns, refuses NaN and negative numbers, and answers in the shape that is wanted."""

    def __init__(self, column: str = "", answer: str = "", *, always: bool = False) -> None:
        self.column, self.answer, self.always = column, answer, always

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if self.answer == "params":
            return [repr(params)] * len(model_input)
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

    def _repr(self, data: Any) -> Any:
        rows = zip(*(data[c].astype(object) for c in data.columns), strict=True)
        return ["|".join(map(_bare, row)) for row in rows]

    def _uri(self, data: Any) -> Any:
        return [mlflow.get_tracking_uri()] * len(data)


class Deaf(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Has a predict without params."""

    def predict(self, context, model_input):  # type: ignore[no-untyped-def]
        return ["deaf"] * len(model_input)


def log_telling(folder: Path, said: str) -> str:
    """Log a model that says what its own module says (``code_paths``); all have modules of the same names."""
    folder.mkdir()
    (folder / "dbml_told.py").write_text(
        f"def said():\n    import dbml_late\n    return {said!r} + dbml_late.END\n"
    )
    (folder / "dbml_late.py").write_text(f"END = {said.upper()!r}\n")
    (folder / "model.py").write_text(
        "import mlflow\nimport dbml_told\n\nclass Telling(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return [dbml_told.said()] * len(model_input)\n\nmlflow.models.set_model(Telling())\n"
    )
    signature = ModelSignature(Schema([ColSpec("long", "id")]), Schema([ColSpec("string")]))
    sys.path.insert(0, str(folder))  # MLflow imports the modules as it logs the model
    with warnings.catch_warnings(), mlflow.start_run():
        warnings.simplefilter("ignore")
        found = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(folder / "model.py"),
            code_paths=[str(folder / "dbml_told.py"), str(folder / "dbml_late.py")],
            signature=signature,
            pip_requirements=["mlflow"],
        )
    sys.path.remove(str(folder))
    for name in ("dbml_told", "dbml_late"):
        sys.modules.pop(name, None)
    return str(found.model_uri)


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


def save(model: Any, folder: Path, signature: Any = None) -> str:
    """Save a model in a folder, without a run; returns the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            str(folder), python_model=model, signature=signature, pip_requirements=["mlflow"]
        )
    return str(folder)


def loaded(model: str) -> Any:
    """Return the model in memory."""
    return mlflow.pyfunc.load_model(f"models:/{model}" if ":" not in model else model)
