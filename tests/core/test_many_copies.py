"""Many runs are paired and copied in little memory, with what is left in words, and gone on with later."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Run, RunData, RunInfo

import dbml_magics as dbml
from dbml_magics.core import parallel, session
from dbml_magics.core.reconcile import copying, pairs, readers
from dbml_magics.core.reconcile.pace import Pace
from dbml_magics.core.reconcile.pairs import Lone, RunPair, run_pairs
from dbml_magics.core.reconcile.readers import WorkspaceReader
from dbml_magics.core.reconcile.survey import Survey
from tests.conftest import Proxies, Servers
from tests.core import linking
from tests.infra.clock import FakeClock


class Listed:
    """A workspace that lists runs, each made as it is listed; it knows how many of them are held."""

    def __init__(self, starts: dict[str, int]) -> None:
        self.starts = starts  # key -> start time, the newest first
        self.listings = 0
        self.unlisted: set[str] = set()
        self.asked: list[str] = []
        self._alive: weakref.WeakSet[Run] = weakref.WeakSet()
        self.most = 0

    def runs(self, oldest_first: bool) -> Iterator[Run]:
        self.listings += 1
        for key in reversed(self.starts) if oldest_first else self.starts:
            if key not in self.unlisted:
                yield self._run(key)

    def _run(self, key: str) -> Run:
        info = RunInfo(
            run_id=f"{key}-own",
            experiment_id="1",
            user_id="us",
            status="FINISHED",
            start_time=self.starts[key],
            end_time=self.starts[key] + 1,
            lifecycle_stage=LifecycleStage.ACTIVE,
        )
        run = Run(info, RunData())
        self._alive.add(run)
        self.most = max(self.most, len(self._alive))
        return run

    def key(self, run: Run) -> str:
        return str(run.info.run_id.removesuffix("-own"))

    def is_stray(self, _key: str, _run: Run) -> bool:
        return False

    def get_run(self, run_id: str) -> Run:
        self.asked.append(run_id)
        return self._run(run_id.removesuffix("-own"))


def paired(ours: Listed, theirs: Listed) -> tuple[Iterator[RunPair], list[str]]:
    """Return the pairs of two workspaces' runs, and the keys of those without one once all are listed."""
    lone: list[str] = []

    def note(found: Iterator[tuple[str, Lone]]) -> None:
        lone.extend(key for key, _ in found)

    first, second = (cast(WorkspaceReader, each) for each in (ours, theirs))
    return run_pairs(first, ours.runs, second, theirs.runs, note), lone


def test_runs_that_one_workspace_lacks_are_held_a_page_at_a_time_and_asked_for_by_pages() -> None:
    every = {f"r{n}": 10_000 - n for n in range(6000)}
    ours, theirs = (
        Listed(every),
        Listed({key: start for key, start in every.items() if int(key[1:]) % 3 == 0}),
    )
    found, lone = paired(ours, theirs)
    seen = [(pair.key, pair.second is None) for pair in found]
    assert len(seen) == len({key for key, _ in seen}) == 6000
    assert {key for key, without in seen if without} == set(lone) == every.keys() - theirs.starts.keys()
    assert ours.most + theirs.most <= 2 * pairs._LET_GO_EVERY, "no more is held than between two looks"
    assert ours.listings == 2
    assert theirs.listings == 1
    assert not ours.asked + theirs.asked


def test_a_few_runs_that_one_workspace_lacks_are_asked_for_by_themselves() -> None:
    every = {f"r{n}": 10_000 - n for n in range(4000)}
    ours, theirs = (
        Listed(every),
        Listed({key: start for key, start in every.items() if key not in ("r7", "r9")}),
    )
    found, lone = paired(ours, theirs)
    assert [pair.key for pair in found if pair.second is None] == ["r9", "r7"], "the oldest first"
    assert lone == ["r7", "r9"]
    assert ours.asked == ["r9-own", "r7-own"]
    assert ours.listings == theirs.listings == 1


def test_a_run_that_is_listed_no_more_is_asked_for_by_itself() -> None:
    ours, theirs = Listed({f"r{n}": 10_000 - n for n in range(1500)}), Listed({})
    found, lone = paired(ours, theirs)
    seen = [next(found).key]
    assert len(lone) == 1500
    ours.unlisted.add("r3")
    seen += [pair.key for pair in found]
    assert len(seen) == 1500
    assert seen[-1] == "r3"
    assert ours.asked == ["r3-own"]


@pytest.mark.parametrize(
    ("total", "done", "seconds", "words"),
    [
        (None, 1, 0, "1 run compared"),
        (None, 1200, 60, "1,200 runs compared"),
        (10_000, 1200, 3, "1,200 of 10,000 runs"),
        (10_000, 1201, 60, "1,201 of 10,000 runs, about 7 min left"),
        (10_000, 9_900, 100, "9,900 of 10,000 runs, less than a minute left"),
        (10_000, 1001, 3600, "1,001 of 10,000 runs, about 9 h 0 min left"),
        (10_000, 10_000, 60, "10,000 of 10,000 runs"),
    ],
)
def test_how_far_it_is_and_how_long_the_rest_takes_is_told_in_words(
    total: int | None, done: int, seconds: float, words: str
) -> None:
    clock = FakeClock()
    survey = SimpleNamespace(total=total)
    said: list[str] = []
    told = Pace(cast(Survey, survey), lambda amount, what: said.append(f"{amount:,} {what}"), clock)
    for _ in range(done):
        told.done()
    clock.now += seconds
    told.tell()
    told.tell("3 differences repaired")
    assert said == [words, f"{words} · 3 differences repaired"]


def many_runs(uri: str, experiment: str, count: int, *, models: int = 0) -> None:
    """Make ended runs with points, the first ones with a logged model each."""
    client = MlflowClient(uri)
    at = client.create_experiment(experiment)
    for number in range(count):
        run = client.create_run(at, run_name=f"run {number}").info.run_id
        client.log_batch(run, [Metric("loss", 1.0, step + 1, step) for step in range(3)])
        if number < models:
            model = client.create_logged_model(at, f"model-{number}", run)
            client.finalize_logged_model(model.model_id, "READY")
        client.set_terminated(run)


def test_copying_holds_no_more_for_more_runs(
    home: object,
    proxies: Proxies,
    servers: Servers,
    experiment_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, name, value in (
        (pairs, "_LET_GO_EVERY", 4),
        (pairs, "PAGE", 4),
        (readers, "PAGE", 4),
        (parallel, "AT_ONCE", 1),
        (copying, "_MODELS_HELD", 2),
    ):
        monkeypatch.setattr(module, name, value)
    many_runs(servers.databricks.uri, experiment_name, 40, models=5)
    linking.link(proxies)
    held: list[int] = []
    said: list[str] = []
    gc.collect()
    before = sum(isinstance(each, Run) for each in gc.get_objects())

    def look(amount: int, what: str) -> None:
        said.append(f"{amount} {what}")
        held.append(sum(isinstance(each, Run) for each in gc.get_objects()) - before)

    done = dbml.repair(experiment=experiment_name, progress=look)
    assert done.copied == 40
    assert not done.remaining, str(done)
    assert max(held) <= 25, f"some pages of four and what is copied just now, but {held}"
    assert "40 of 40 runs · 40 differences repaired" in said
    assert dbml.verify(experiment=experiment_name).equal


def test_copying_that_was_interrupted_goes_on_and_copies_nothing_again(
    home: object, proxies: Proxies, servers: Servers, experiment_name: str
) -> None:
    many_runs(servers.databricks.uri, experiment_name, 40)
    linking.link(proxies)

    def interrupt(amount: int, _what: str) -> None:
        if amount == 8:
            raise KeyboardInterrupt

    for proxy in proxies:
        proxy.forget()
    with pytest.raises(KeyboardInterrupt):
        dbml.repair(experiment=experiment_name, progress=interrupt)
    there = linking.runs_at(servers, experiment_name)[1]
    assert 8 <= there < 40
    assert proxies.azureml.count("runs/create$") == there
    for proxy in proxies:
        proxy.forget()
    done = dbml.repair(experiment=experiment_name)
    assert done.copied == 40 - there
    assert not done.remaining, str(done)
    assert proxies.azureml.count("runs/create$") == 40 - there
    assert proxies.databricks.count("metrics/get-history") == 40 - there
    assert linking.runs_at(servers, experiment_name) == [40, 40]
    assert not session.current().engine("this test").state.repairs.restored_experiments("azureml")
