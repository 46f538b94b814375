"""``%dbml compare``: runs side by side, on real servers."""

from __future__ import annotations

import math
import re

import mlflow
import pytest

import dbml_magics as dbml
from dbml_magics.results.compare import CompareResult
from tests.conftest import Proxies
from tests.infra import plain


@pytest.fixture
def experiment(linked: Proxies, experiment_name: str) -> str:
    """Return the experiment that a link of two workspaces is on."""
    return experiment_name


def log(name: str, params: dict[str, object], curves: dict[str, dict[int, float]]) -> str:
    """Log a finished run; returns its id."""
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params(params)
        for key, points in curves.items():
            for step, value in points.items():
                mlflow.log_metric(key, value, step=step)
    return str(run.info.run_id)


def values(result: CompareResult, key: str) -> tuple[float | None, ...]:
    return next(metric.last for metric in result.metrics if metric.key == key)


def test_runs_of_different_length_and_range_share_their_axes(experiment: str) -> None:
    first = log("short", {"depth": 4, "seed": 1}, {"loss": {0: 1.0, 1: 0.5, 2: 0.25}, "only": {0: 1.0}})
    second = log(
        "long", {"depth": 8, "seed": 1}, {"loss": {n: 2.0 / (n + 1) for n in range(10, 400)}, "f1": {0: 0.9}}
    )
    dbml.sync(60)
    found = dbml.compare(first[:12], "last")
    assert found.runs[1].run_id == second
    assert [run.name for run in found.runs] == ["short", "long"]
    assert [(p.key, p.values, p.differs) for p in found.params] == [
        ("depth", ("4", "8"), True),
        ("seed", ("1", "1"), False),
    ]
    assert found.shown[0] == "loss", "what has a curve comes first"
    assert values(found, "only") == (1.0, None)
    short, long = found.curves["loss"]
    assert (short.steps, short.values) == ((0.0, 1.0, 2.0), (1.0, 0.5, 0.25))
    assert (long.count, long.steps[0], long.steps[-1]) == (390, 10.0, 399.0)
    assert len(long.steps) < 300, "a long curve is thinned"
    assert all(0 <= seconds < 60 for seconds in long.times), "since the run began"
    shown = str(found)
    assert f"Compared 2 runs of {experiment}" in shown
    assert "params: 1 differs (≠), 1 equal" in shown
    assert re.search(r"≠ depth +4 +8", shown)
    assert re.search(r"only +1 +—", shown)
    html = found.html()
    assert (
        "1 short: from 1 to 0.25 over steps 0 to 2; 2 long: from 0.182 to 0.005 over steps 10 to 399" in html
    )
    assert found.to_pandas()["metrics.loss"].tolist() == pytest.approx([0.25, 0.005])


def test_values_that_are_not_finite_are_gaps_and_are_told(experiment: str) -> None:
    first = log("odd", {}, {"loss": {0: 1.0, 1: math.nan, 2: 0.5, 3: math.inf}})
    second = log("even", {}, {"loss": {0: 1.0, 3: 0.25}})
    for delivered in (False, True):  # a database keeps infinity as the largest float
        found = dbml.compare(first, second)
        assert values(found, "loss") == (math.inf, 0.25)
        curve = found.curves["loss"][0]
        assert (curve.count, curve.odd) == (4, 2)
        assert "loss of odd diverged: infinite since step 3 (2 points of 4 not finite)" in str(found)
        assert "1.79" not in str(found), delivered
        dbml.sync(60)


def test_a_live_run_is_compared_as_it_stands_with_one_of_another_experiment(experiment: str) -> None:
    first = log("done", {"depth": 4}, {"loss": {0: 1.0, 1: 0.5}})
    with mlflow.start_run(run_name="live", experiment_id=mlflow.create_experiment(f"{experiment}-b")) as run:
        mlflow.log_metric("loss", 3.0, step=0)
        mlflow.log_metric("loss", 2.0, step=1)
        found = dbml.compare(first, run.info.run_id)
    assert [row.status for row in found.runs] == ["FINISHED", "RUNNING"]
    assert [row.experiment for row in found.runs] == [experiment, f"{experiment}-b"]
    assert found.curves["loss"][1].values == (3.0, 2.0)
    assert "live is still running" in str(found)
    assert f"runs of {experiment} and {experiment}-b" in str(found)


def test_many_metrics_are_left_out_and_each_can_be_asked_for(experiment: str) -> None:
    ids = [
        log(f"run{n}", {}, {"loss": {0: 1.0, 1: n}, **{f"m{k:02}": {0: k + n} for k in range(50)}})
        for n in range(3)
    ]
    found = dbml.compare(*ids)
    assert len(found.metrics) == 51
    assert len(found.shown) == 8
    assert found.shown[0] == "loss"
    shown = str(found)
    assert "43 metrics left out (m07, m08, m09, … 40 more): %dbml compare " in shown
    assert max(len(line) for line in shown.splitlines()[:-1]) < 100
    chosen = dbml.compare(*ids, metrics=["m41", "m41", "loss"])
    assert chosen.shown == ("m41", "loss")
    with pytest.raises(dbml.BadCommand, match=r"none .* metric 'los'\. Did you mean 'loss'") as refused:
        dbml.compare(*ids, metrics=["los"])
    assert refused.value.remedies[0][0].endswith("--metric loss")


def test_metrics_without_steps_are_drawn_in_the_order_of_logging(experiment: str) -> None:
    ids = []
    for name in ("a", "b"):
        with mlflow.start_run(run_name=name) as run:
            for n in range(3):
                mlflow.log_metric("loss", 1.0 / (n + 1))
        ids.append(run.info.run_id)
    curve = dbml.compare(*ids).curves["loss"][0]
    assert (curve.axis, curve.steps) == ("point", (0.0, 1.0, 2.0))


def test_what_cannot_be_compared_is_named_with_what_to_type(experiment: str) -> None:
    first = log("first", {}, {})
    with pytest.raises(dbml.BadCommand, match="two runs or more"):
        dbml.compare(first)
    with pytest.raises(dbml.BadCommand, match=f"run {first[:8]} is given twice") as alone:
        dbml.compare(first, first[:10])
    assert [line for line, _ in alone.value.remedies] == ["%dbml runs"], "there is no other run"
    with pytest.raises(dbml.AmbiguousRun) as ambiguous:
        dbml.compare(first, _shared_beginning())
    assert ambiguous.value.remedies[0][0].startswith("%dbml compare ")


def test_a_run_is_given_by_its_name_where_one_run_has_it(experiment: str) -> None:
    first, second = log("one", {}, {}), log("my second", {}, {})
    assert [run.run_id for run in dbml.compare("one", "my second").runs] == [first, second]
    assert dbml.receipt("one").run_id == first
    third = log("one", {}, {})
    with pytest.raises(dbml.AmbiguousRun, match="'one' is the name of 2 runs") as ambiguous:
        dbml.compare("one", "my second")
    lines = [line for line, _ in ambiguous.value.remedies]
    assert lines == [f"%dbml compare {run[:8]} 'my second'" for run in (third, first)]
    assert all(", started 20" in said for _, said in ambiguous.value.remedies)


def test_a_name_that_is_the_beginning_of_another_runs_id_chooses_neither(experiment: str) -> None:
    first = log("one", {}, {})
    named = log(first[:6], {}, {})
    with pytest.raises(dbml.AmbiguousRun, match="begins a run's id and is a run's name") as ambiguous:
        dbml.receipt(first[:6])
    assert {line.split()[-1] for line, _ in ambiguous.value.remedies} == {first[:8], named[:8]}


def test_a_run_of_another_machine_is_given_by_its_name(experiment: str, proxies: Proxies) -> None:
    first = log("one", {}, {})
    dbml.sync(60)
    elsewhere = plain.client(proxies.databricks.uri)
    there = elsewhere.get_run(first).info.experiment_id
    other = elsewhere.create_run(there, run_name="a name that is longer than any id of a run").info.run_id
    found = dbml.compare("one", "a name that is longer than any id of a run")
    assert [run.run_id for run in found.runs] == [first, other]


def test_a_name_that_no_run_has_is_answered_with_a_line_that_runs(experiment: str) -> None:
    first, second = log("first", {}, {}), log("second", {}, {})
    for given, meant in (
        (("last", "fist"), f"%dbml compare last {first[:8]}"),
        (("last", "second"), f"%dbml compare last {first[:8]}"),
        (("last", "{}"), f"%dbml compare last {first[:8]}"),
        (("last", second), f"%dbml compare last {first[:8]}"),
    ):
        with pytest.raises((dbml.RunNotFound, dbml.BadCommand)) as refused:
            dbml.compare(*given)
        assert refused.value.remedies[0][0] == meant, given
        assert len(dbml.compare(*meant.split()[2:]).runs) == 2


def _shared_beginning() -> str:
    """Return the beginning of an id that two runs share, making runs until there are two."""
    seen: set[str] = set()
    while len(seen) < 17:
        begins = log("other", {}, {})[0]
        if begins in seen:
            return begins
        seen.add(begins)
    raise AssertionError("sixteen digits, and no two of seventeen ids begin alike")


@pytest.mark.full
def test_while_a_workspace_is_away_the_other_one_answers(experiment: str, proxies: Proxies) -> None:
    first, second = log("one", {}, {"loss": {0: 1.0, 1: 0.5}}), log("two", {}, {"loss": {0: 1.0, 1: 0.25}})
    dbml.sync(60)
    proxies.databricks.refuse()
    found = dbml.compare(first, second)
    assert values(found, "loss") == (0.5, 0.25)
    assert found.curves["loss"][1].values == (1.0, 0.25)
