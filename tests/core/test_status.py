"""``%dbml status``: queues and their rates, what a workspace lacks, what goes on, what is nearly full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dbml_magics as dbml
from dbml_magics.core import session as sessions
from dbml_magics.results.link import Destination
from dbml_magics.results.text import number
from tests.conftest import Proxies
from tests.core.linking import link, sync
from tests.infra.wait import eventually


def test_a_run_that_goes_on_is_named_until_it_has_ended(
    proxies: Proxies, home: Path, experiment_name: str
) -> None:
    import mlflow

    link(proxies)
    dbml.experiment(experiment_name)
    with mlflow.start_run(run_name="forest"):
        assert "running     forest" in sessions.current().status().notes
        assert "  running     forest" in str(sessions.current().status())
    assert not any("forest" in note for note in sessions.current().status().notes)


def test_the_queue_its_age_and_its_rate_are_said(proxies: Proxies, home: Path, experiment_name: str) -> None:
    import mlflow

    link(proxies)
    dbml.experiment(experiment_name)
    with mlflow.start_run():
        mlflow.log_metric("before", 1.0)
        sync()
        with proxies.azureml.away():
            for step in range(40):
                mlflow.log_metric("m", 1.0, step=step)
            mirror = eventually(
                lambda: next(
                    (
                        d
                        for d in sessions.current().status().destinations
                        if d.name == "azureml" and d.last_error and d.pending >= 40 and d.lag_seconds >= 1
                    ),
                    None,
                ),
                "the mirror's queue",
            )
    assert mirror.rate > 0
    said = mirror.state()
    assert f"{mirror.pending:,} writes waiting: " in said
    assert "the oldest " in said
    assert said.endswith(" a second go out")
    primary = sessions.current().status().destinations[0]
    assert primary.rate > 0


def test_what_a_workspace_lacks_is_said(proxies: Proxies, home: Path, experiment_name: str) -> None:
    import mlflow
    from mlflow.pyfunc import PythonModel

    class Same(PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: list[float], params: Any = None) -> list[float]:
            return model_input

    with proxies.azureml.without_logged_models():
        link(proxies)
        dbml.experiment(experiment_name)
        with mlflow.start_run():
            mlflow.pyfunc.log_model(name="model", python_model=Same(), pip_requirements=["mlflow"])
        sync()
        status = sessions.current().status()
    assert status.destinations[0].lacks == ()
    assert "  azureml has no logged models: their files are artifacts of their run" in str(status)


def test_a_spool_that_is_nearly_full_is_said(
    proxies: Proxies, home: Path, monkeypatch: pytest.MonkeyPatch, experiment_name: str
) -> None:
    import mlflow

    monkeypatch.setenv("DBML_SPOOL_LIMIT", "10000")
    link(proxies)
    dbml.experiment(experiment_name)
    with proxies.azureml.away(), mlflow.start_run():
        mlflow.log_text("x" * 9000, "long.txt")
        notes = [note for note in sessions.current().status().notes if "spool" in note]
    assert notes == [
        "files that wait take 9 kB of the 10 kB that the spool may have: %dbml sync makes room; "
        "DBML_SPOOL_LIMIT is the limit"
    ]


def test_a_slow_rate_keeps_its_fraction() -> None:
    slow = Destination("azureml", "mlflow", "x", "y", pending=3, rate=2.5)
    assert slow.state() == f"3 writes on their way, {number(2.5)} a second go out"
