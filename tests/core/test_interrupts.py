"""Ctrl-C at any step: nothing acknowledged is lost or doubled, no run goes on for ever, all still works."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.core import track
from tests.core.interrupted import Story
from tests.infra.interrupts import Interrupter, Storm

PACKAGE = Path(track.__file__).parents[1]

# What the standard library was about to close when an interrupt came is closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def experiment(home: Path, experiment_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Link two local folders, set an experiment, and return its name."""
    monkeypatch.setattr(track, "_SUMMARY_WAIT_S", 0.0)
    dbml.link(local=str(home.parent / "two"))
    mlflow.set_experiment(experiment_name)
    dbml.sync(60)
    yield experiment_name
    while mlflow.active_run() is not None:
        mlflow.end_run()


@pytest.mark.full
@pytest.mark.parametrize("goes_on", [False, True], ids=["the block ends", "the block goes on"])
def test_an_interrupt_at_any_step_of_a_tracked_run_loses_nothing_and_leaves_no_run(
    experiment: str, goes_on: bool
) -> None:
    """Each n-th step of a whole run; ``python -m tests.interrupts`` takes them all."""
    story, interrupter = Story(experiment, goes_on=goes_on), Interrupter(PACKAGE)
    story.tell()
    interrupter.run(story.tell)
    steps, stride = interrupter.steps, 47
    assert steps > 1000, "a run takes some thousand steps of the package"
    for at in range(random.randint(1, stride), steps, stride):
        came = interrupter.run(story.tell, at)
        assert mlflow.active_run() is None, f"a run is active after an interrupt at {interrupter.where}"
        assert came or goes_on or interrupter.steps < at, f"the interrupt at {interrupter.where} was lost"
    story.tell()
    story.check()


@pytest.mark.full
def test_a_storm_of_interrupts_loses_nothing_and_leaves_no_run(experiment: str) -> None:
    for seed, goes_on in enumerate((False, True)):
        story = Story(experiment, goes_on=goes_on)
        with Storm(seed, 0.1) as storm:
            while storm.sent < 100:
                storm.during(story.tell)
        story.tell()
        story.check()
