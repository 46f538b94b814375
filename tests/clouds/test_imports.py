"""MLflow's import hooks and what is delivered meanwhile: neither waits for the other for good."""

from __future__ import annotations

import pytest

import dbml_magics as dbml
from tests.clouds.conftest import Clouds
from tests.conftest import Proxies
from tests.core.linking import child, finish, link

HOOKED = """
    import faulthandler, importlib, sys, threading
    faulthandler.dump_traceback_later(30, exit=True)
    import mlflow
    from mlflow.utils import import_hooks
    import dbml_magics.core.session

    {before}

    def hook(module):
        def try_one():
            try:
                importlib.import_module("no_such_module_anywhere")
            except ImportError:
                pass
        thread = threading.Thread(target=try_one, daemon=True)
        thread.start()
        thread.join(2)
        fired.append(thread.is_alive())
        if not thread.is_alive():
            import wave  # below the hook, as autolog() does

    fired = []
    import_hooks.register_post_import_hook(hook, "json")
    print("waits" if fired[0] else "goes on")
    def twice(module):
        fired.append(module.__name__)
    for _ in range(2):
        import_hooks.register_post_import_hook(twice, "sndhdr")
    import sndhdr
    print(fired[1:])
    import sys
    try:
        from dbruntime.databricks_repl_context import get_context
    except ImportError:
        print("absent", importlib.util.find_spec("dbruntime"))
    """
TRAINING = """
    import faulthandler, threading, time
    faulthandler.dump_traceback_later(100, exit=True)
    import lightgbm, mlflow, sklearn.linear_model
    import numpy as np
    import pandas as pd

    with mlflow.start_run() as run:
        over = threading.Event()
        def busy():
            client, step = mlflow.MlflowClient(), 0
            while not over.wait(0.002):
                client.log_metric(run.info.run_id, "m", float(step), step=step)
                step += 1
        thread = threading.Thread(target=busy, daemon=True)
        thread.start()
        time.sleep(0.5)
        for _ in range(3):
            mlflow.autolog(silent=True)
            mlflow.autolog(disable=True, silent=True)
        data = pd.DataFrame({"x": np.linspace(0.0, 1.0, 20)})
        target = pd.Series([0, 1] * 10)
        model = sklearn.linear_model.LogisticRegression().fit(data, target)
        logged = mlflow.sklearn.log_model(model, name="m", pip_requirements=["scikit-learn"])
        for _ in range(2):
            found = mlflow.models.evaluate(
                logged.model_uri, data.assign(target=target), targets="target", model_type="classifier",
                evaluator_config={"log_model_explainability": False, "log_explainer": False},
            )
        over.set()
        thread.join()
    print("done", len(found.metrics) > 3, run.info.run_id)
    """


@pytest.mark.full
@pytest.mark.parametrize(
    ("before", "printed_there"),
    [
        ("", "waits"),
        (
            "from dbml_magics.core.destinations.imports import let_threads_import; let_threads_import()",
            "goes on",
        ),
    ],
    ids=["MLflow by itself", "as linked"],
)
def test_another_thread_imports_while_a_hook_of_mlflows_runs(before: str, printed_there: str) -> None:
    printed = finish(child(HOOKED.format(before=before)), timeout=60).splitlines()
    assert printed[0] == printed_there, "MLflow holds its lock no more: the module imports.py may go"
    assert printed[1] == "['sndhdr']", "a hook registered twice fires once"
    assert printed[2:] == ["absent None"]


@pytest.mark.full
def test_autolog_and_evaluate_end_while_a_worker_delivers(home: None, proxies: Proxies) -> None:
    link(proxies)
    assert finish(child(TRAINING), timeout=120).split()[-3:-1] == ["done", "True"]


@pytest.mark.full
def test_autolog_and_evaluate_end_while_azure_ml_takes_what_is_logged(both: Clouds, home: None) -> None:
    dbml.link(**both.wishes("azureml", "azureml"))
    assert finish(child(TRAINING), timeout=120).split()[-3:-1] == ["done", "True"]
