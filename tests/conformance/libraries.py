"""Training with other libraries, as they log by themselves, from threads and from other processes.

Each is a story whose library may be missing: :data:`NEEDS` says which packages it wants.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import mlflow
import numpy as np

from tests.conformance.player import Player, Table

table = Table("libraries")
NEEDS: dict[str, tuple[str, ...]] = {}
TREES = {"n_estimators": 3, "random_state": 0}


def rows() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the data that all train on."""
    random = np.random.default_rng(0)
    given = random.normal(size=(40, 3))
    return given, (given[:, 0] > 0).astype(int)


def begin(p: Player) -> None:
    """Set the experiment."""
    p.mlflow.set_experiment(p.name("a"))


def see_runs(p: Player, *, by: str = "attributes.run_name") -> None:
    """Read all runs of the experiment and its models; ``by`` tells apart the runs that MLflow names."""
    # Models first: an answer with two new ones of a run has them in no order.
    p.mlflow.search_logged_models(output_format="list", order_by=[{"field_name": "name"}])
    p.mlflow.search_runs(experiment_names=[p.name("a")], output_format="list", order_by=[by])


def add(name: str, *packages: str) -> Callable[[Callable[[Player], None]], Callable[[Player], None]]:
    """Add a story that wants packages."""
    NEEDS[f"{table.group}/{name}"] = packages
    return table.story(name)


@add("scikit-learn", "sklearn")
def _(p: Player) -> None:
    from sklearn.ensemble import RandomForestClassifier

    begin(p)
    mlflow.sklearn.autolog(log_input_examples=True)
    try:
        with p.mlflow.start_run(run_name="fit"):
            model = RandomForestClassifier(**TREES).fit(*rows())
            model.score(*rows())
    finally:
        mlflow.sklearn.autolog(disable=True)
    see_runs(p)


@add("a search over parameters", "sklearn")
def _(p: Player) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, _search, _validation

    begin(p)
    mlflow.sklearn.autolog(max_tuning_runs=2)
    # The durations of its fits are pickled with the search: without them its bytes are the same each time.
    stopped = types.SimpleNamespace(time=lambda: 0.0)
    try:
        with (
            mock.patch.object(_search, "time", stopped),
            mock.patch.object(_validation, "time", stopped),
            p.mlflow.start_run(run_name="search"),
        ):
            GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(*rows())
    finally:
        mlflow.sklearn.autolog(disable=True)
    see_runs(p, by="params.C")


@add("LightGBM", "lightgbm")
def _(p: Player) -> None:
    import lightgbm

    begin(p)
    mlflow.lightgbm.autolog()
    try:
        with p.mlflow.start_run(run_name="train"):
            data = lightgbm.Dataset(*rows())
            given = {"objective": "binary", "verbose": -1, "num_threads": 1, "deterministic": True}
            lightgbm.train(given, data, 3, valid_sets=[data], valid_names=["train"])
    finally:
        mlflow.lightgbm.autolog(disable=True)
    see_runs(p)


@add("XGBoost", "xgboost")
def _(p: Player) -> None:
    import xgboost

    begin(p)
    mlflow.xgboost.autolog()
    try:
        with p.mlflow.start_run(run_name="train"):
            given, wanted = rows()
            data = xgboost.DMatrix(given, wanted)
            xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 3, evals=[(data, "train")])
    finally:
        mlflow.xgboost.autolog(disable=True)
    see_runs(p)


@add("Lightning", "lightning", "torch")
def _(p: Player) -> None:
    import lightning
    import torch

    class Net(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            given, wanted = batch
            loss = torch.nn.functional.mse_loss(self.layer(given).squeeze(), wanted)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    begin(p)
    torch.manual_seed(0)
    given, wanted = (torch.tensor(each, dtype=torch.float32) for each in rows())
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(given, wanted), batch_size=20)
    mlflow.pytorch.autolog(checkpoint=False)
    try:
        with p.mlflow.start_run(run_name="fit"):
            lightning.Trainer(
                max_epochs=2,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                log_every_n_steps=1,
            ).fit(Net(), batches)
    finally:
        mlflow.pytorch.autolog(disable=True)
    see_runs(p)


@add("Keras", "keras", "torch")
def _(p: Player) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    begin(p)
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    mlflow.keras.autolog()
    try:
        with p.mlflow.start_run(run_name="fit"):
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
            model.compile("sgd", "binary_crossentropy")
            model.fit(*rows(), epochs=2, verbose=0)
    finally:
        mlflow.keras.autolog(disable=True)
    see_runs(p)


@add("transformers", "transformers", "torch", "accelerate")
def _(p: Player) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

    begin(p)
    set_seed(0)
    small = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    data = [{"input_ids": torch.tensor([n % 20, 1, 2]), "labels": torch.tensor(n % 2)} for n in range(8)]
    with p.mlflow.start_run(run_name="train"):
        Trainer(
            BertForSequenceClassification(small),
            TrainingArguments(
                output_dir="out",
                num_train_epochs=2,
                logging_steps=1,
                save_strategy="no",
                report_to=["mlflow"],
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=data,
        ).train()
    see_runs(p)


@add("Optuna", "optuna")
def _(p: Player) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    begin(p)

    def trial(given: Any) -> float:
        with mlflow.start_run(run_name=f"trial {given.number}", nested=True):
            x = given.suggest_float("x", -1, 1)
            mlflow.log_params(given.params)
            mlflow.log_metric("y", x * x, step=1)
            return float(x * x)

    with p.mlflow.start_run(run_name="study"):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(trial, n_trials=3)
        p.mlflow.log_metric("best", study.best_value, step=1)
    see_runs(p)


def log_one(run_id: str, number: int) -> int:
    """Log to a run from wherever this is called; returns the number."""
    mlflow.MlflowClient().log_metric(run_id, "m", float(number), timestamp=number, step=number)
    mlflow.MlflowClient().log_param(run_id, f"p{number}", number)
    with mlflow.start_run(run_id=None, run_name=f"of {number}", nested=True):
        mlflow.log_metric("n", number, step=1)
    mlflow.flush_async_logging()
    return number


def log_there(
    tracking: str, registry: str, experiment: str, run_id: str, number: int, path: list[str]
) -> None:
    """Log as a process that was spawned does: it has what MLflow hands down, and nothing else."""
    sys.path[:] = path
    mlflow.set_tracking_uri(tracking)
    mlflow.set_registry_uri(registry)
    mlflow.set_experiment(experiment)
    log_one(run_id, number)


@add("joblib", "joblib")
def _(p: Player) -> None:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    begin(p)
    with p.mlflow.start_run(run_name="parent") as run:
        own = run.info.run_id
        where = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), p.name("a"), own)
        joblib.Parallel(n_jobs=2)(joblib.delayed(log_there)(*where, n, sys.path) for n in range(4))
        # The workers would stay, with the environment that they began with, for the story's next place.
        get_reusable_executor().shutdown()
        joblib.Parallel(n_jobs=2, prefer="threads")(
            joblib.delayed(mlflow.log_metric)("t", n, step=n, timestamp=n, run_id=own) for n in range(4)
        )
    see_runs(p)


def processes(p: Player, method: str) -> None:
    """Log to one run from three processes."""
    begin(p)
    with p.mlflow.start_run(run_name="parent") as run:
        p.mlflow.log_metric("before", 1, step=1)
        where = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), p.name("a"), run.info.run_id)
        context: Any = multiprocessing.get_context(method)
        children = [context.Process(target=log_there, args=(*where, n, sys.path)) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
        p.see("how they ended", [child.exitcode for child in children])
        p.mlflow.log_metric("after", 1, step=1)
    see_runs(p)


@add("processes that are forked")
def _(p: Player) -> None:
    processes(p, "fork")


@add("processes that are spawned")
def _(p: Player) -> None:
    processes(p, "spawn")
